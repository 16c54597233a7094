"""What the library reaches on 1,600 photographs of natural scenes with five labels, and what it costs.

    python benchmarks/scenes.py accuracy     one stratified 80/20 split, thresholds from inside the 80 %
    python benchmarks/scenes.py selection    scikit-learn's cross-validation and grid search, against a plain loop
    python benchmarks/scenes.py speed        images a second, beside the network alone, taken in turn

The photographs, the pretrained backbone and the script that measures the network alone are not part of the repository;
MULTILABELKIT_DATA names their folder. Run on a quiet machine. A fit sees nothing of the images
it is scored on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import re
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from multilabelkit import MultiLabelImageClassifier, as_indicator
from multilabelkit.model_selection import MultiLabelStratifiedKFold, multilabel_train_test_split

SHARED = Path(os.environ.get("MULTILABELKIT_DATA", Path(__file__).resolve().parents[2] / "shared"))


def read_scenes() -> tuple[list[str], pd.DataFrame]:
    """Return the paths and the table of labels."""
    table = pd.read_csv(SHARED / "data" / "miml" / "labels.csv")
    paths = [str(SHARED / "data" / "miml" / "images" / name) for name in table["image"]]
    return paths, table.drop(columns="image")


def create_classifier(**params) -> MultiLabelImageClassifier:
    """Return the classifier with the local weights, and defaults for everything else."""
    return MultiLabelImageClassifier(
        "mobilenetv2_100",
        pretrained=str(SHARED / "weights" / "mobilenetv2_100_in1k.safetensors"),
        backbone_params={"pad_type": "same"},
        normalization=((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        **params,
    )


def measure_accuracy(options: argparse.Namespace) -> None:
    """Fit on four fifths, report on the other fifth."""
    paths, labels = read_scenes()
    X_train, X_test, y_train, y_test = multilabel_train_test_split(
        paths, labels, test_size=0.2, random_state=options.seed
    )
    classifier = create_classifier(random_state=options.seed, max_epochs=options.epochs)
    start = time.perf_counter()
    classifier.fit(X_train, y_train)
    seconds = time.perf_counter() - start
    report = classifier.evaluate(X_test, y_test)
    print(report)
    print(classifier.threshold_report_.round(3).to_string())
    half = classifier.predict_proba(X_test) >= 0.5
    averages = report.averages
    print(
        f"accuracy: seed {options.seed}, {options.epochs} epochs, {len(X_train)} + {len(X_test)} images: "
        f"micro-F1 {averages['micro_f1']:.4f}, macro-F1 {averages['macro_f1']:.4f}, mAP {averages['mAP']:.4f}, "
        f"BCE {averages['bce']:.4f}; at threshold 0.5 micro-F1 {f1_score(y_test, half, average='micro'):.4f}, "
        f"macro-F1 {f1_score(y_test, half, average='macro'):.4f}; fit took {seconds / 60:.1f} minutes"
    )


def measure_selection(options: argparse.Namespace) -> None:
    """Run scikit-learn's tools as a user writes them, and check each number against a plain loop."""
    paths, labels = read_scenes()
    order = np.random.default_rng(options.seed).permutation(len(paths))[
        : options.images
    ]  # the rows are sorted by class
    paths, y = [paths[row] for row in order], as_indicator(labels.iloc[order])
    clf = create_classifier(random_state=options.seed, max_epochs=1, image_size=96, verbose=0)

    stratified = MultiLabelStratifiedKFold(3, random_state=options.seed)
    for name, cv, folds in (("cv=3", 3, KFold(3)), ("cv=MultiLabelStratifiedKFold(3)", stratified, stratified)):
        start = time.perf_counter()
        scores = cross_val_score(clf, paths, y, scoring="f1_macro", cv=cv)
        seconds = time.perf_counter() - start
        check_equal(scores, loop_over_folds(clf, paths, y, folds.split(paths, y)))
        print(f"cross_val_score, {name}: {scores.round(4)}, {seconds:.0f} s, equal to a plain loop", flush=True)

    grid = {"learning_rate": [1e-3, 3e-3], "dropout": [0.0, 0.2]}
    search = GridSearchCV(clf, grid, scoring="f1_macro", cv=stratified).fit(paths, y)
    best = clone(clf).set_params(**search.best_params_)
    splits = stratified.split(paths, y)
    expected = loop_over_folds(best, paths, y, splits).mean()
    check_equal(search.best_score_, expected)
    print(
        f"GridSearchCV over learning_rate and dropout: best {search.best_params_}, {search.best_score_:.4f}, "
        "equal to a plain loop"
    )


def check_equal(scores, expected) -> None:
    """Stop the benchmark where scikit-learn's number is not that of the plain loop, to the last bit."""
    if not np.array_equal(scores, expected):
        raise SystemExit(f"scikit-learn scores {scores}, a plain loop {expected}")


def loop_over_folds(classifier, paths, y, splits) -> np.ndarray:
    """Do by hand what cross_val_score does."""
    scores = []
    for train, test in splits:
        fold = clone(classifier).fit([paths[row] for row in train], y.iloc[train])
        predicted = fold.predict([paths[row] for row in test])
        scores.append(f1_score(y.iloc[test], predicted, average="macro"))
    return np.array(scores)


def measure_speed(options: argparse.Namespace) -> None:
    """Take the library and the network alone in turn, so that a machine whose speed drifts treats both alike."""
    sys.path.insert(0, str(SHARED / "bench"))
    sys.dont_write_bytecode = True
    import floor  # the network alone, on a batch that is in memory already

    paths, labels = read_scenes()
    rows = np.random.default_rng(0).permutation(len(paths))[: options.images]
    paths, labels = [paths[row] for row in rows], labels.iloc[rows]
    floors, ours = [read_floor(floor)], []
    for _ in range(options.rounds):
        classifier = create_classifier(random_state=0, max_epochs=3, validation_fraction=None, verbose=0)
        start = time.perf_counter()
        classifier.fit(paths, labels)
        fit = 3 * len(paths) / (time.perf_counter() - start)
        first, second = (len(paths) / row["seconds"] for row in classifier.history_[:2])
        floors.append(read_floor(floor))
        start = time.perf_counter()
        classifier.predict_proba(paths)
        predict = len(paths) / (time.perf_counter() - start)
        floors.append(read_floor(floor))
        ours.append({"fit": fit, "first epoch": first, "second epoch": second, "predict": predict})
        around_fit, around_predict = np.mean(floors[-3:-1], axis=0)[0], np.mean(floors[-2:], axis=0)[1]
        ours[-1]["ratios"] = [fit / around_fit, first / around_fit, second / around_fit, predict / around_predict]
        print(f"  network alone {floors[-3:]}, library {ours[-1]}", flush=True)
    ratios = [statistics.median(values) for values in zip(*(row["ratios"] for row in ours), strict=True)]
    fit, first, second, predict = ratios
    print(
        f"speed: {len(paths)} images from files, batch 32, 224 px, bf16, channels_last, median of {options.rounds}; "
        f"as a share of the network alone: fit of 3 epochs, head first {fit:.3f}, its first epoch {first:.3f}, "
        f"its second {second:.3f}, predict {predict:.3f}"
    )


def read_floor(floor) -> tuple[float, float]:
    """Return the images a second of the network alone, in training and in prediction."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        floor.measure(True, True)
    train, infer = re.search(r"train\s+([\d.]+) img/s\s+infer\s+([\d.]+)", output.getvalue()).groups()
    return float(train), float(infer)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"accuracy": measure_accuracy, "selection": measure_selection, "speed": measure_speed}
    parser.add_argument("part", choices=parts)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the accuracy part")
    parser.add_argument("--images", type=int, default=480, help="images in the selection and speed parts")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of the speed part")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors ({platform.machine()}), torch {torch.__version__}")
    parts[options.part](options)


if __name__ == "__main__":
    main()
