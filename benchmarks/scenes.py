"""What the library reaches on 1,600 photographs of natural scenes with five labels, and what it costs.

    python benchmarks/scenes.py accuracy     stratified 80/20 splits, thresholds from inside the 80 %
    python benchmarks/scenes.py recipe       the same at 128 px and 5 epochs, with and without each part of the recipe
    python benchmarks/scenes.py digits       5,000 images of digits, from scratch
    python benchmarks/scenes.py selection    scikit-learn's cross-validation and grid search, against a plain loop

The photographs and the pretrained backbone are not part of the repository; MULTILABELKIT_DATA names their folder. A fit
sees nothing of the images it is scored on. Speeds are measured by throughput.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.base import clone
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score

from multilabelkit import MultiLabelImageClassifier, as_indicator
from multilabelkit.datasets import make_digits
from multilabelkit.model_selection import MultiLabelStratifiedKFold, multilabel_train_test_split
from multilabelkit.report import multilabel_report
from multilabelkit.thresholds import apply_thresholds, tune_thresholds
from multilabelkit.training import Callback

# Digits have no mirror image; what is left of the augmentation is their place, which the images vary themselves.
DIGITS = {"color_mode": "grey", "image_size": 96, "augment": None, "learning_rate": 3e-3, "backbone_lr_factor": 1.0}
SHARED = Path(os.environ.get("MULTILABELKIT_DATA", Path(__file__).resolve().parents[2] / "shared"))


def read_scenes() -> tuple[list[str], pd.DataFrame]:
    """Return the paths and the table of labels."""
    table = pd.read_csv(SHARED / "data" / "miml" / "labels.csv")
    paths = [str(SHARED / "data" / "miml" / "images" / name) for name in table["image"]]
    return paths, table.drop(columns="image")


def create_classifier(**params) -> MultiLabelImageClassifier:
    """Return the classifier with the local weights, and defaults for everything else."""
    weights = {
        "pretrained": str(SHARED / "weights" / "mobilenetv2_100_in1k.safetensors"),
        "backbone_params": {"pad_type": "same"},
        "normalization": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    }
    return MultiLabelImageClassifier("mobilenetv2_100", **weights | params)


def fit_and_score(seed: int, **params) -> dict[str, float]:
    """Fit on four fifths of the photographs, score on the other fifth."""
    X_train, X_test, y_train, y_test = split_scenes(seed)
    classifier = create_classifier(random_state=seed, verbose=0, **params)
    start = time.perf_counter()
    classifier.fit(X_train, y_train)
    minutes = (time.perf_counter() - start) / 60
    return score(classifier, X_test, y_test) | {"minutes": minutes}


def split_scenes(seed: int):
    """Return paths and labels to fit on, and those to score on."""
    return multilabel_train_test_split(*read_scenes(), test_size=0.2, random_state=seed)


def score(classifier, X_test, y_test) -> dict[str, float]:
    """Score probabilities, and labels by the tuned thresholds and by 0.5."""
    proba = classifier.predict_proba(X_test)
    y_pred = apply_thresholds(proba, classifier.thresholds_)
    averages = multilabel_report(y_test, y_pred, proba, classes=classifier.classes_).averages
    scores = {name: averages[name] for name in ("micro_f1", "macro_f1", "mAP", "bce")}
    for average in ("micro", "macro"):
        scores[f"{average}_f1 at 0.5"] = f1_score(y_test, proba >= 0.5, average=average)
    return scores


class ScoreBeforeRefit(Callback):
    """Takes both lines of a seed from one fit: what it is before it trains again is what a fit with the defaults is.

    The second line is that of a fit with ``refit=True, tta="hflip"``, but for the choice of the best epoch, which such
    a fit makes on mirrored images too.
    """

    def __init__(self, X_train, y_train, X_test, y_test) -> None:
        self.train, self.test = (X_train, y_train), (X_test, y_test)
        self.classifier: MultiLabelImageClassifier | None = None
        self.scores: dict[str, float] = {}
        self.start, self.minutes, self.pause = time.perf_counter(), 0.0, 0.0

    def on_train_begin(self, state) -> None:
        """Score the first network, then choose thresholds on mirrored images too, as fit does with tta="hflip"."""
        if state.phase != "refit":
            return
        now = time.perf_counter()
        self.scores = score(self.classifier, *self.test) | {"minutes": self.minutes}
        (paths, labels), rows = self.train, self.classifier.validation_rows_
        self.classifier.set_params(tta="hflip")
        proba = self.classifier.predict_proba([paths[row] for row in rows])
        classes = self.classifier.classes_
        self.classifier.thresholds_ = tune_thresholds(labels.iloc[rows], proba, classes=classes)
        self.pause = time.perf_counter() - now

    def on_train_end(self, state) -> None:
        """Take the time of the first training."""
        self.minutes = self.minutes or (time.perf_counter() - self.start) / 60


def measure_accuracy(options: argparse.Namespace) -> None:
    """Fit and score on the splits of several seeds; everything but the seed is a default, and then refit and tta."""
    params = {} if options.epochs is None else {"max_epochs": options.epochs}
    rows: dict[str, dict[int, dict[str, float]]] = {"defaults": {}, "refit, tta": {}}
    for seed in options.seeds:
        if options.refit:
            X_train, X_test, y_train, y_test = split_scenes(seed)
            before = ScoreBeforeRefit(X_train, y_train, X_test, y_test)
            classifier = create_classifier(random_state=seed, verbose=0, refit=True, callbacks=[before], **params)
            before.classifier = classifier
            classifier.fit(X_train, y_train)
            minutes = (time.perf_counter() - before.start - before.pause) / 60
            rows["defaults"][seed] = before.scores
            rows["refit, tta"][seed] = score(classifier, X_test, y_test) | {"minutes": minutes}
        else:
            rows["defaults"][seed] = fit_and_score(seed, **params)
        for name, scores in rows.items():
            if seed in scores:
                print(f"seed {seed}, {name}: {list_scores(scores[seed])}", flush=True)
    for name, scores in rows.items():
        if scores:
            table = pd.DataFrame(scores).T
            table.loc["mean"] = table.mean()
            print(f"accuracy: {name}\n{table.round(4).to_string()}")


# What stands beside the defaults: each row changes one thing.
RECIPES: dict[str, dict] = {
    "defaults": {},
    "head only": {"trainable": "head"},
    "60 % open": {"trainable": 0.6},
    "60 %, then 70 % open": {"trainable": {0: 0.6, 2: 0.7}},
    "no head first": {"head_first": False},
    "no EMA": {"ema": None, "start_share": 0.0},
    "no share of the starting weights": {"start_share": 0.0},
    "no groups (one rate for all)": {"backbone_lr_factor": 1.0},
    "stem, body, head at 1/9, 1/3, 1": {"backbone_lr_factor": (1 / 9, 1 / 3)},
    "no augmentation": {"augment": None},
    "light augmentation": {"augment": "light"},
    "strong augmentation": {"augment": "strong"},
    "drop path 0.1": {"backbone_params": {"pad_type": "same", "drop_path_rate": 0.1}},
    "mixup": {"mixup": "mixup"},
    "cutmix": {"mixup": "cutmix"},
    "MLP head": {"head": "mlp"},
    "attention head": {"head": "attention"},
    "ML-Decoder": {"head": "ml_decoder"},
    "focal loss": {"loss": "focal"},
    "asymmetric loss": {"loss": "asymmetric"},
    "label smoothing 0.1": {"loss_params": {"label_smoothing": 0.1}},
    "batches of 16": {"batch_size": 16},
    "twice the learning rate": {"learning_rate": 2e-3},
    "constant learning rate": {"schedule": "constant"},
    "class_weight balanced": {"class_weight": "balanced"},
    "repeat-factor sampling": {"sampler": "repeat_factor"},
    "SGD": {"optimizer": "sgd", "learning_rate": 1e-2},
}


def measure_recipe(options: argparse.Namespace) -> None:
    """Change one part of the recipe at a time, on seeds that no headline figure comes from.

    Each line is a mean over seeds and its spread; beside the defaults, of the differences to them on the same splits.
    """
    params = {"max_epochs": options.epochs or 5, "image_size": options.size}
    names = sorted(options.only or RECIPES, key=lambda name: name != "defaults")  # first, as all are compared with them
    results: dict[str, pd.DataFrame] = {}
    for name in names:
        rows = {}
        for seed in options.seeds:
            rows[seed] = fit_and_score(seed, **{**params, **RECIPES[name]})
            print(f"  {name}, seed {seed}: {list_scores(rows[seed])}", flush=True)
        results[name] = pd.DataFrame(rows).T
        less = " minus defaults" if "defaults" in results and name != "defaults" else ""
        row = results[name] - results["defaults"] if less else results[name]
        spread = row.std(ddof=0)
        line = ", ".join(
            f"{key} {value:{'+' if less else ''}.4f} ± {spread[key]:.4f}" for key, value in row.mean().items()
        )
        print(f"{name}{less}: {line}", flush=True)
    print(f"recipe: {params}, seeds {options.seeds}")


def list_scores(scores) -> str:
    """Write scores in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def measure_digits(options: argparse.Namespace) -> None:
    """Train a small network from scratch on digits that lie anywhere in the image."""
    train, test = make_digits(5000, random_state=0), make_digits(1000, random_state=0, split="test")
    classifier = MultiLabelImageClassifier(
        "plain_cnn", **DIGITS, max_epochs=options.epochs or 8, random_state=0, verbose=0
    )
    start = time.perf_counter()
    classifier.fit(train.images, train.target)
    seconds = time.perf_counter() - start
    averages = classifier.evaluate(test.images, test.target).averages
    print(
        f"digits: {DIGITS}, {options.epochs or 8} epochs, 5000 + 1000 images: macro-F1 {averages['macro_f1']:.4f}, "
        f"mAP {averages['mAP']:.4f}; fit took {seconds:.0f} s"
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


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {
        "accuracy": measure_accuracy,
        "recipe": measure_recipe,
        "digits": measure_digits,
        "selection": measure_selection,
    }
    parser.add_argument("part", choices=parts)
    parser.add_argument("--seed", type=int, default=0, help="seed of the selection part")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the accuracy and recipe parts")
    parser.add_argument("--epochs", type=int, help="by default 5 for recipe, 8 for digits")
    parser.add_argument("--size", type=int, default=128, help="image size of the recipe part")
    parser.add_argument("--only", nargs="+", choices=RECIPES, metavar="ROW", help="rows of the recipe part")
    parser.add_argument(
        "--refit",
        action="store_true",
        help="in the accuracy part, score a second time after refit=True, with tta='hflip'",
    )
    parser.add_argument("--images", type=int, default=480, help="images in the selection part")
    options = parser.parse_args()
    print(f"{os.cpu_count()} processors ({platform.machine()}), torch {torch.__version__}")
    parts[options.part](options)


if __name__ == "__main__":
    main()
