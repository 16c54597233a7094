"""What thresholds, calibration, rules, reports and linear models reach and cost, beside scikit-learn.

    python benchmarks/decisions.py simulation    macro-F1 of each way to tune thresholds where the truth is known
    python benchmarks/decisions.py speed         thresholds, calibration, rules and the report on 200,000 x 40 cells
    python benchmarks/decisions.py linear        MultiLabelLogisticRegression against one-vs-rest
    python benchmarks/decisions.py embedding     a grid search over features of photographs against one pass over them
    python benchmarks/decisions.py scenes        tuned thresholds against 0.5, and how far to shrink, on photographs

The photographs and the pretrained backbone of the last two are not part of the repository; MULTILABELKIT_DATA names
their folder. What is compared is timed in turn, in one process, and figures are medians over rounds; speed, linear and
simulation compute on one thread. Run on a quiet machine.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import sklearn
import torch
from scenes import create_classifier, read_scenes
from scipy.special import expit, logit, ndtr
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve
from sklearn.exceptions import ConvergenceWarning
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from multilabelkit.calibration import Calibrator
from multilabelkit.embedder import ImageEmbedder
from multilabelkit.errors import MultiLabelKitWarning
from multilabelkit.linear import MultiLabelLogisticRegression
from multilabelkit.metrics import f1_score
from multilabelkit.model_selection import MultiLabelStratifiedKFold, MultiLabelStratifiedShuffleSplit
from multilabelkit.report import compare, multilabel_report
from multilabelkit.rules import create_rules
from multilabelkit.thresholds import apply_thresholds, threshold_report, tune_thresholds


def time_in_turn(functions: dict[str, Callable[[], object]], n_rounds: int) -> dict[str, float]:
    """Return the median seconds of each function, run in turn, so that a drifting machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(n_rounds):
        for name, function in functions.items():
            seconds[name].append(time_call(function)[0])
    return {name: statistics.median(taken) for name, taken in seconds.items()}


def time_call(function: Callable[[], object]) -> tuple[float, object]:
    """Return the seconds of one call, and its result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


class Population(NamedTuple):
    """Classes whose scores are normal, apart by `distance`, with logits moved by what calibration got wrong."""

    prevalence: np.ndarray
    distance: np.ndarray
    offset: np.ndarray

    def measure_f1(self, cuts: np.ndarray) -> np.ndarray:
        """Return the F1 of each class if it is predicted for all scores above a cut."""
        hits, false_alarms = ndtr(self.distance - cuts), ndtr(-cuts)
        predicted = self.prevalence * hits + (1 - self.prevalence) * false_alarms
        return 2 * self.prevalence * hits / (self.prevalence + predicted)

    def measure_thresholds(self, thresholds: np.ndarray) -> np.ndarray:
        """Return the F1 of each class at its threshold, on all samples there could be."""
        logits = logit(np.clip(thresholds, 1e-12, 1 - 1e-12))
        return self.measure_f1((logits - self.offset) / self.distance)

    def find_best_f1(self) -> float:
        """Return the macro-F1 of the best thresholds there are."""
        return float(self.measure_f1(np.linspace(-4, 8, 6001)[:, None]).max(axis=0).mean())


def draw_samples(seed: int, n_samples: int, shift: float, n_classes: int = 20):
    """Return a population, the labels of some samples, and their probabilities as a network would give them."""
    random = np.random.default_rng(seed)
    prevalence = np.exp(random.uniform(np.log(0.01), np.log(0.3), n_classes))
    distance = random.uniform(1.5, 3.5, n_classes)
    offset = logit(prevalence) - distance**2 / 2 + random.normal(0, shift, n_classes)
    y_true = (random.random((n_samples, n_classes)) < prevalence).astype(float)
    scores = distance * y_true + random.normal(size=y_true.shape)
    return Population(prevalence, distance, offset), y_true, expit(distance * scores + offset)


TUNED: dict[str, dict] = {
    "global": {"objective": "global"},
    "sweep": {"n_bootstraps": 0, "shrink": 0},
    "k=5": {"n_bootstraps": 0, "shrink": 5},
    "k=20": {"n_bootstraps": 0, "shrink": 20},
    "boot": {"shrink": 0},
    "boot k=5": {"shrink": 5},
    "default": {},
}


def run_replicate(cell: tuple[int, float, int]) -> dict[str, float]:
    """Tune on the samples of one seed, and return what each way reaches and what the report expects of the default."""
    n_samples, shift, seed = cell
    population, y_true, proba = draw_samples(seed, n_samples, shift)
    warnings.simplefilter("ignore", MultiLabelKitWarning)  # too few positives are the point
    thresholds = {name: tune_thresholds(y_true, proba, **params) for name, params in TUNED.items()}
    report = threshold_report(y_true, proba, thresholds["default"], classes=range(proba.shape[1]), tuned_by={})
    limits = {"0.5": np.full(proba.shape[1], 0.5)} | thresholds
    reached = {name: population.measure_thresholds(values) for name, values in limits.items()}
    found = {name: float(values.mean()) for name, values in reached.items()}
    found |= {"oracle": population.find_best_f1(), "positives": np.median(y_true.sum(axis=0))}
    excess = report["expected_f1"].to_numpy() - reached["default"]  # NaN for a class without a positive
    return found | {"gain": found["default"] - found["sweep"], "excess": float(np.nanmean(excess))}


def measure_simulation(options: argparse.Namespace) -> None:
    """Compare ways to tune, for numbers of samples and for how far off the calibration of each class is."""
    names = ["0.5", *TUNED, "oracle"]
    print(
        "simulation: macro-F1 on all samples there could be; shift: spread of the errors of logits; pos: median\n"
        "positives of a class; k: shrink; boot: 20 bootstraps; gain: default less sweep; excess: what threshold_report "
        "expects\nof the default less what it reaches; ± standard error"
    )
    print("   n shift pos", " ".join(f"{name:>8}" for name in names), " gain, excess")
    start, verdicts = time.perf_counter(), []
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(options.jobs, initializer=threadpool_limits, initargs=(1,)) as pool:
        for n_samples, shift in itertools.product(options.samples, options.shifts):
            cells = [(n_samples, shift, seed) for seed in range(options.replicates)]
            table = pd.DataFrame(pool.map(run_replicate, cells, chunksize=1))
            mean, error = table.mean(), table.sem()
            verdicts.append(judge_cell(n_samples, shift, mean))
            values = " ".join(f"{mean[name]:8.4f}" for name in names)
            noted = ", ".join(f"{mean[name]:+.4f} ± {error[name]:.4f}" for name in ("gain", "excess"))
            missed = ", ".join(what for what, met in verdicts[-1].items() if not met)
            said = f"MISSED: {missed}" if missed else "ok"
            print(f"{n_samples:4} {shift:5g} {mean['positives']:3.0f} {values}  {noted}  {said}", flush=True)
    for what in dict.fromkeys(itertools.chain(*verdicts)):
        met = [cell[what] for cell in verdicts if what in cell]
        print(f"simulation: {what} in {sum(met)} of {len(met)} cells")
    seconds = time.perf_counter() - start
    print(
        f"simulation: {options.replicates} replicates a cell, {seconds:.0f} s in {options.jobs} processes", flush=True
    )


def judge_cell(n_samples: int, shift: float, mean: pd.Series) -> dict[str, bool]:
    """Return whether each bar is met that applies to a cell."""
    met = {
        "gain >= -0.02": mean["gain"] >= -0.02,
        "|excess| <= 0.02": abs(mean["excess"]) <= 0.02,
    }
    if n_samples == 100 and shift <= 0.5:
        met["gain >= +0.02"] = mean["gain"] >= 0.02
    return met


def measure_speed(options: argparse.Namespace) -> None:
    """Time everything that turns probabilities into decisions and decisions into numbers."""
    n_samples = options.rows or 200_000
    _, y_true, proba = draw_samples(0, n_samples, 1.0, n_classes=40)
    print(f"speed: {n_samples:,} x 40, one thread, medians of {options.rounds} rounds")
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of samples without labels
        check_sweeps(y_true, proba)
        for functions in (
            list_tuning(y_true, proba),
            list_calibration(y_true, logit(proba)),
            list_rules(proba),
            list_reports(y_true, proba),
        ):
            for name, seconds in time_in_turn(functions, options.rounds).items():
                print(f"  {name:72} {seconds:8.3f} s", flush=True)


def list_tuning(y_true: np.ndarray, proba: np.ndarray) -> dict[str, Callable[[], object]]:
    return {
        "tune_thresholds, one sweep (asked: 0.4)": lambda: tune_thresholds(y_true, proba, n_bootstraps=0, shrink=0),
        "tune_thresholds, default, 20 bootstraps (asked: 3)": lambda: tune_thresholds(y_true, proba),
        "scikit-learn: precision_recall_curve of each class, no bootstrap": lambda: sweep_with_sklearn(y_true, proba),
    }


def sweep_with_sklearn(y_true: np.ndarray, proba: np.ndarray) -> np.ndarray:
    """Return the score of each class that is best to cut at by F1."""
    thresholds = []
    for truth, scores in zip(y_true.T, proba.T, strict=True):
        precision, recall, cuts = reference.precision_recall_curve(truth, scores)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        thresholds.append(cuts[f1[:-1].argmax()])
    return np.array(thresholds)


def check_sweeps(y_true: np.ndarray, proba: np.ndarray) -> None:
    """Stop the benchmark where our sweep and scikit-learn's do not reach the same F1."""
    sweeps = tune_thresholds(y_true, proba, n_bootstraps=0, shrink=0), sweep_with_sklearn(y_true, proba)
    ours, theirs = (f1_score(y_true, proba >= limits, average=None) for limits in sweeps)
    if not np.allclose(ours, theirs, rtol=0, atol=1e-12):
        raise SystemExit(f"Our sweep reaches an F1 of {ours}, scikit-learn's {theirs}")


def list_calibration(y_true: np.ndarray, logits: np.ndarray) -> dict[str, Callable[[], object]]:
    ours = {method: Calibrator(method=method) for method in ("platt", "isotonic", "auto")}
    columns = list(zip(logits.T, y_true.T, strict=True))
    return {
        **{f"Calibrator({method!r}).fit": lambda c=c: c.fit(y_true, logits) for method, c in ours.items()},
        "Calibrator('auto').predict_proba": lambda: ours["auto"].predict_proba(logits),
        "scikit-learn: LogisticRegression of each class": lambda: [
            LogisticRegression(C=np.inf).fit(z[:, None], truth) for z, truth in columns
        ],
        "scikit-learn: IsotonicRegression of each class": lambda: [
            IsotonicRegression().fit(z, truth) for z, truth in columns
        ],
    }


def list_rules(proba: np.ndarray) -> dict[str, Callable[[], object]]:
    groups = {"implies": {i: i // 4 * 4 for i in range(20) if i % 4}, "excludes": [tuple(range(0, 20, 4)), (30, 31)]}
    numbers = {"min_labels": 1, "max_labels": 3}
    specs: dict[str, dict] = {
        "implies, excludes": groups,
        "1 to 3 labels": numbers,
        "all": groups | numbers,
        "all, abstain": groups | numbers | {"abstain": 0.2},
    }
    rules = {name: create_rules(spec, classes=range(proba.shape[1])) for name, spec in specs.items()}
    return {
        **{f"rules.apply, {name}": lambda rule=rule: rule.apply(proba, 0.4) for name, rule in rules.items()},
        "thresholds alone: apply_thresholds": lambda: apply_thresholds(proba, 0.4),
    }


def list_reports(y_true: np.ndarray, proba: np.ndarray) -> dict[str, Callable[[], object]]:
    y_pred, labels = apply_thresholds(proba, 0.4), y_true.astype(int)
    return {
        "multilabel_report": lambda: multilabel_report(y_true, y_pred, proba, classes=range(proba.shape[1])),
        "scikit-learn: the numbers of it that it has, each by its function": lambda: report_with_sklearn(
            labels, y_pred, proba
        ),
    }


def report_with_sklearn(y_true: np.ndarray, y_pred: np.ndarray, proba: np.ndarray) -> None:
    """Compute what our report holds and scikit-learn has."""
    for average in (None, "macro", "micro", "weighted", "samples"):
        reference.precision_recall_fscore_support(y_true, y_pred, average=average, zero_division=0.0)
    reference.average_precision_score(y_true, proba, average=None)
    reference.accuracy_score(y_true, y_pred)
    reference.hamming_loss(y_true, y_pred)
    reference.label_ranking_average_precision_score(y_true, proba)
    reference.label_ranking_loss(y_true, proba)
    reference.coverage_error(y_true, proba)
    reference.log_loss(y_true.ravel(), proba.ravel())
    for truth, scores in zip(y_true.T, proba.T, strict=True):
        reference.brier_score_loss(truth, scores)
        calibration_curve(truth, scores, n_bins=15, strategy="quantile")


def make_features(n_samples: int, n_features: int = 512, n_classes: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return features as networks give them, correlated, of uneven spread and none below 0, and rare labels."""
    random = np.random.default_rng(0)
    spread = np.arange(1, n_features + 1) ** -0.7
    rotation = np.linalg.qr(random.standard_normal((n_features, n_features)))[0]
    X = random.standard_normal((n_samples, n_features)) * spread @ rotation * np.sqrt(n_features) / 2
    X = np.maximum(X + 0.3, 0)
    logits = (X - X.mean(axis=0)) @ random.standard_normal((n_features, n_classes))
    logits *= 4 / logits.std(axis=0)
    prevalence = np.exp(random.uniform(np.log(0.01), np.log(0.3), n_classes))
    logits -= [np.quantile(column, 1 - share) for column, share in zip(logits.T, prevalence, strict=True)]
    return X, (random.random(logits.shape) < expit(logits)).astype(int)


def measure_linear(options: argparse.Namespace) -> None:
    """Fit the same one-vs-rest problem with ours and with scikit-learn, in both precisions."""
    X, y = make_features(options.rows or 20_000)
    models = {
        "ours, thresholds=0.5": MultiLabelLogisticRegression(thresholds=0.5),
        "ours, thresholds tuned by 5 folds": MultiLabelLogisticRegression(),
        "scikit-learn": OneVsRestClassifier(LogisticRegression(max_iter=1000)),
    }
    *ours, peer = models
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the gradients tell
        exact = stack_coefficients(OneVsRestClassifier(LogisticRegression(max_iter=10_000, tol=1e-8)).fit(X, y))
        print(
            f"linear: {X.shape[0]:,} x {X.shape[1]}, {y.shape[1]} classes, C=1, one thread, {options.rounds} rounds; "
            f"scikit-learn with tol=1e-8: largest coefficient {np.abs(exact).max():.3g}, gradient "
            f"{measure_gradient(X, y, exact):.0e}\n{'':43}  seconds, gradient, largest difference to scikit-learn, to "
            "the same with tol=1e-8"
        )
        for dtype in ("float64", "float32"):
            data = X.astype(dtype)
            fits = {name: lambda m=model, data=data: m.fit(data, y) for name, model in models.items()}
            seconds = time_in_turn(fits, options.rounds)
            found = {name: stack_coefficients(model) for name, model in models.items()}
            for name, coef in found.items():
                apart = [np.abs(coef - other).max() for other in (found[peer], exact)]
                figures = [measure_gradient(X, y, coef), *apart]
                print(f"  {dtype}, {name:33} {seconds[name]:8.2f}, {', '.join(f'{value:.0e}' for value in figures)}")
            ratios = ", ".join(f"{name} {seconds[peer] / seconds[name]:.1f}" for name in ours)
            print(f"linear: {dtype}, how many times as fast (asked: 3): {ratios}", flush=True)


def stack_coefficients(model) -> np.ndarray:
    """Return coefficients and, in the last column, intercepts, (n_classes, n_features + 1) in float64."""
    parts = getattr(model, "estimators_", [model])
    return np.vstack([np.column_stack([part.coef_, part.intercept_]) for part in parts]).astype(np.float64)


def measure_gradient(X: np.ndarray, y: np.ndarray, coef: np.ndarray) -> float:
    """Return the largest entry of the gradient of the mean loss, which is what scikit-learn's tol bounds."""
    residual = expit(X @ coef[:, :-1].T + coef[:, -1]) - y
    gradient = np.column_stack([residual.T @ X + coef[:, :-1], residual.sum(axis=0)])
    return np.abs(gradient).max() / len(X)


def create_embedder(**params) -> ImageEmbedder:
    """Return the embedder with the network that the fine-tuned classifier of the scenes starts from."""
    start = create_classifier().get_params(deep=False)
    names = ("backbone", "pretrained", "backbone_params", "normalization")
    return ImageEmbedder(image_size=224, **{name: start[name] for name in names} | params)


def take_scenes(n_photographs: int | None) -> tuple[list[str], pd.DataFrame]:
    """Return all photographs, or some drawn by chance, as the rows are sorted by class."""
    paths, labels = read_scenes()
    rows = np.random.default_rng(0).permutation(len(paths))[:n_photographs]
    return [paths[row] for row in rows], labels.iloc[rows].reset_index(drop=True)


def measure_embedding(options: argparse.Namespace) -> None:
    """Divide the time of a whole search by that of one pass over the photographs, and count what passed the network."""
    paths, labels = take_scenes(options.rows)
    plain = create_embedder(feature_cache=None)
    features = plain.fit(paths).transform(paths)  # libraries are loaded, files are in memory
    alone, peer = (create_search(linear, None) for linear in (MultiLabelLogisticRegression(), None))
    rounds, counts = [], []
    for _ in range(options.rounds):
        before, _ = time_call(lambda: plain.fit(paths).transform(paths))
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"MULTILABELKIT_CACHE": folder}):
            search = create_search(MultiLabelLogisticRegression(), create_embedder())
            with CountImages() as count:
                searching, _ = time_call(lambda search=search: search.fit(paths, labels))
            cached, _ = time_call(lambda search=search: search.best_estimator_[0].transform(paths))
        one_pass = statistics.mean([before, time_call(lambda: plain.fit(paths).transform(paths))[0]])
        fitting = [time_call(lambda model=model: model.fit(features, labels))[0] for model in (alone, peer)]
        rounds.append([searching / one_pass, one_pass, searching, cached, *fitting])
        counts.append(count.n_images)
        print(f"  one pass {one_pass:.2f} s, search {searching:.2f} s, {count.n_images} images passed", flush=True)
    ratio, *seconds = (statistics.median(values) for values in zip(*rounds, strict=True))
    print(
        f"embedding: {len(paths)} photographs at 224 px, {options.rounds} rounds: one pass {seconds[0]:.2f} s; "
        f"GridSearchCV over 6 values of C, 5 folds, {seconds[1]:.2f} s: {ratio:.2f} passes (asked: 2); images through "
        f"the network in a search: {sorted(set(counts))}; a pass from the cache {seconds[2]:.2f} s; the search on "
        f"features at hand {seconds[3]:.2f} s, with scikit-learn's one-vs-rest {seconds[4]:.2f} s"
    )


def create_search(linear: MultiLabelLogisticRegression | None, embedder: ImageEmbedder | None) -> GridSearchCV:
    """Return the search, with scikit-learn's one-vs-rest where there is no model, on features if no embedder."""
    values = np.logspace(-3, 2, 6)
    if linear is None:
        model, name = OneVsRestClassifier(LogisticRegression(max_iter=1000)), "onevsrestclassifier__estimator__C"
    else:
        model, name = linear, "multilabellogisticregression__C"
    steps = [model] if embedder is None else [embedder, model]
    folds = MultiLabelStratifiedKFold(5, random_state=0)
    return GridSearchCV(make_pipeline(*steps), {name: values}, scoring="f1_macro", cv=folds, error_score="raise")


class CountImages:
    """Counts the images that any backbone of timm is given, but for the black ones that fill batches up."""

    def __enter__(self) -> CountImages:
        self.n_images = 0
        self.handle = torch.nn.modules.module.register_module_forward_hook(self.count)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def count(self, module, inputs, output) -> None:
        if hasattr(module, "pretrained_cfg"):
            self.n_images += int((inputs[0].flatten(1).std(dim=1) > 0).sum())


def measure_scenes(options: argparse.Namespace) -> None:
    """Compare thresholds that were tuned inside the training part with 0.5, and ways to tune on few samples."""
    paths, labels = take_scenes(options.rows)
    what, proba, y_pred = read_scores(options.scores) or judge_unseen(paths, labels, options)
    if options.scores is not None:
        with open(options.scores, "wb") as file:
            np.savez(file, what=what, proba=proba, y_pred=y_pred)
    y_true, classes = labels.to_numpy(dtype=float), labels.columns
    reports = [multilabel_report(y_true, decided, proba, classes=classes) for decided in (proba >= 0.5, y_pred)]
    print(f"scenes: {len(y_true)} photographs, judged by {what} of other folds; a: 0.5, b: tuned in these folds")
    print(compare(*reports), flush=True)
    for n_tuned in options.tune:
        compare_ways(y_true, proba, n_tuned, options)


def read_scores(file: Path | None) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Return what an earlier run kept."""
    if file is None or not file.exists():
        return None
    with np.load(file) as kept:
        return f"{kept['what']} in an earlier run,", kept["proba"], kept["y_pred"]


def judge_unseen(paths: list[str], labels: pd.DataFrame, options: argparse.Namespace):
    """Return what judged, and probabilities and decisions of each photograph by a model and thresholds without it."""
    X = np.array(paths) if options.fits else create_embedder().fit_transform(paths)
    proba, y_pred = np.empty(labels.shape), np.empty(labels.shape, dtype=int)
    folds = MultiLabelStratifiedKFold(options.fits or 5, random_state=options.seed)
    for fold, (train, test) in enumerate(folds.split(X, labels)):
        model = MultiLabelLogisticRegression()
        if options.fits:
            params = {"max_epochs": options.epochs, "image_size": options.size, "random_state": options.seed + fold}
            model = create_classifier(verbose=0, **params)
        seconds, _ = time_call(lambda model=model, train=train: model.fit(X[train], labels.iloc[train]))
        proba[test] = model.predict_proba(X[test])
        y_pred[test] = apply_thresholds(proba[test], model.thresholds_)
        print(f"  fold {fold}: {seconds:.1f} s, thresholds {np.round(model.thresholds_, 3)}", flush=True)
    fits = f"fits ({options.epochs} epochs at {options.size} px)"
    return fits if options.fits else "linear models of features", proba, y_pred


WAYS: dict[str, dict] = {
    "plain sweep": {"n_bootstraps": 0, "shrink": 0},
    **{f"shrink={shrink!r}": {"shrink": shrink} for shrink in (0, 5, 20, 100, "auto")},
    "global": {"objective": "global"},
}


def compare_ways(y_true: np.ndarray, proba: np.ndarray, n_tuned: int, options: argparse.Namespace) -> None:
    """Tune on some photographs and judge on the others, split after split, all with the same scores."""
    splitter = MultiLabelStratifiedShuffleSplit(
        options.splits, test_size=len(proba) - n_tuned, random_state=options.seed
    )
    scores: dict[str, list[list[float]]] = {name: [] for name in ("0.5", *WAYS)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)  # of few positives
        for tune, judge in splitter.split(proba, y_true):
            tuned = {name: tune_thresholds(y_true[tune], proba[tune], **params) for name, params in WAYS.items()}
            for name, thresholds in ({"0.5": 0.5} | tuned).items():
                decided = proba[judge] >= thresholds
                scores[name].append([f1_score(y_true[judge], decided, average=how) for how in ("macro", "micro")])
    print(
        f"scenes: {n_tuned} photographs tune, {len(proba) - n_tuned} judge, {options.splits} splits; in brackets: "
        "points\nmore than at 0.5 ± standard error over splits, which share photographs: others would differ by more"
    )
    for name, found in scores.items():
        less = 100 * (np.array(found) - scores["0.5"])
        columns = zip(
            ("macro", "micro"), np.mean(found, axis=0), less.mean(axis=0), pd.DataFrame(less).sem(), strict=True
        )
        print(
            f"  {name:13}",
            ", ".join(f"{how}-F1 {f1:.4f} ({d:+.2f} ± {e:.2f})" for how, f1, d, e in columns),
            flush=True,
        )


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "simulation": measure_simulation,
    "speed": measure_speed,
    "linear": measure_linear,
    "embedding": measure_embedding,
    "scenes": measure_scenes,
}


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3, help="of speed, linear and embedding")
    parser.add_argument(
        "--rows", type=int, help="default: speed 200000, linear 20000, embedding and scenes all photographs"
    )
    simulation = parser.add_argument_group("simulation")
    simulation.add_argument("--replicates", type=int, default=200)
    simulation.add_argument("--jobs", type=int, default=2, help="processes, of one thread each")
    simulation.add_argument("--samples", type=int, nargs="+", default=[100, 200, 500, 2000])
    simulation.add_argument("--shifts", type=float, nargs="+", default=[0.0, 0.5, 1.0, 2.0])
    scenes = parser.add_argument_group("scenes")
    scenes.add_argument("--fits", type=int, default=0, help="fits of the network, a fold each; 0: features, 5 folds")
    scenes.add_argument("--epochs", type=int, default=5, help="of the fits")
    scenes.add_argument("--size", type=int, default=128, help="image size of the fits")
    scenes.add_argument("--scores", type=Path, metavar="NPZ", help="file to keep the scores in, or to take them from")
    scenes.add_argument("--tune", type=int, nargs="+", default=[192], help="photographs that tune")
    scenes.add_argument("--splits", type=int, default=100)
    scenes.add_argument("--seed", type=int, default=0, help="of folds, fits and splits")
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} processors ({platform.machine()}), numpy {np.__version__}, scikit-learn "
        f"{sklearn.__version__}, torch {torch.__version__}"
    )
    for name in options.parts:
        PARTS[name](options)


if __name__ == "__main__":
    main()
