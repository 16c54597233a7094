"""How good decisions and scores are; unknown labels (NaN in `y_true`) are left out of every number.

Where nothing is known, the answer is NaN. A sample of weight 0 is as good as absent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from multilabelkit.checks import Choice, Interval, check_indicator, check_parameters, check_scores, shorten, suggest
from multilabelkit.data.labels import encode_labels
from multilabelkit.errors import InputError

__all__ = [
    "average_precision",
    "binary_accuracy",
    "binary_cross_entropy",
    "f1_score",
    "hamming_loss",
    "make_multilabel_scorer",
    "mean_average_precision",
    "precision_score",
    "recall_score",
    "subset_accuracy",
]

_CONSTRAINTS: dict[str, Any] = {
    "average": [Choice(("macro", "micro", "samples", "weighted", None))],
    "zero_division": [Interval(float, 0, 1)],
}


def f1_score(
    y_true: Any, y_pred: Any, *, average: str | None = "macro", sample_weight: Any = None, zero_division: float = 0.0
) -> Any:
    """Measure F1 = 2 * hits / (predicted + present), the balance of precision and recall.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out).
    y_pred : array-like of shape (n_samples, n_classes)
        Decisions, 0 or 1.
    average : {"macro", "micro", "samples", "weighted", None}, default="macro"
        "macro" is the plain mean over classes, "weighted" the mean by number of known positives, "micro" pools all
        cells, "samples" is the mean over samples, and None gives one number per class. A class or a sample with
        nothing known is left out of the mean (NaN where `average` is None).
    sample_weight : array-like of shape (n_samples,), default=None
        Weights >= 0.
    zero_division : float, default=0.0
        In [0, 1]: what counts where a number is 0 / 0, such as a class that is neither present nor predicted. As in
        scikit-learn, a sample without labels that gets none counts as this too, so pass 1.0 to call it right.

    Returns
    -------
    score : float, or ndarray of shape (n_classes,) where `average` is None

    Raises
    ------
    InputError
        If the shapes differ, or something other than 0 and 1 (and NaN in `y_true`) is found.

    Examples
    --------
    >>> y_true, y_pred = [[1, 0], [0, 1], [1, float("nan")]], [[1, 0], [1, 1], [1, 1]]
    >>> f1_score(y_true, y_pred, average=None)
    array([0.8, 1. ])
    >>> f1_score(y_true, y_pred)
    0.9
    """
    return _rate("f1_score", y_true, y_pred, average, sample_weight, zero_division)


def precision_score(
    y_true: Any, y_pred: Any, *, average: str | None = "macro", sample_weight: Any = None, zero_division: float = 0.0
) -> Any:
    """Measure which share of the predicted labels is right.

    Parameters
    ----------
    y_true, y_pred, average, sample_weight, zero_division
        As in `f1_score`; 0 / 0 here means that nothing was predicted.

    Returns
    -------
    score : float, or ndarray of shape (n_classes,) where `average` is None

    Examples
    --------
    >>> precision_score([[1, 0], [0, 1]], [[1, 0], [1, 1]])
    0.75
    """
    return _rate("precision_score", y_true, y_pred, average, sample_weight, zero_division)


def recall_score(
    y_true: Any, y_pred: Any, *, average: str | None = "macro", sample_weight: Any = None, zero_division: float = 0.0
) -> Any:
    """Measure which share of the labels present is found.

    Parameters
    ----------
    y_true, y_pred, average, sample_weight, zero_division
        As in `f1_score`; 0 / 0 here means that nothing is present.

    Returns
    -------
    score : float, or ndarray of shape (n_classes,) where `average` is None

    Examples
    --------
    >>> recall_score([[1, 0], [1, 1]], [[1, 0], [0, 1]])
    0.75
    """
    return _rate("recall_score", y_true, y_pred, average, sample_weight, zero_division)


def average_precision(y_true: Any, scores: Any, *, sample_weight: Any = None) -> np.ndarray:
    """Measure how well each class ranks its positives above its negatives.

    It is the sum of (R_i - R_(i-1)) * P_i over the distinct scores, as scikit-learn computes it; it needs no threshold.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out).
    scores : array-like of shape (n_samples, n_classes)
        Probabilities or logits; higher means more likely present.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights >= 0.

    Returns
    -------
    precisions : ndarray of shape (n_classes,)
        In [0, 1]; NaN for a class without a known positive.

    Raises
    ------
    InputError
        If the shapes differ, `y_true` holds something other than 0, 1 and NaN, or a score is not finite.

    Examples
    --------
    >>> average_precision([[1, 0], [0, 0], [1, 0]], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    array([0.833, nan])
    """
    y_true = check_indicator(y_true)
    scores = check_scores(y_true, scores, name="scores", probabilities=False)
    known, weight = _weigh(y_true, sample_weight)
    columns = zip(*(np.ascontiguousarray(table.T) for table in (y_true, scores, known)), strict=True)
    return np.array([_rank_class(truth[rows] == 1, score[rows], weight[rows]) for truth, score, rows in columns])


def mean_average_precision(y_true: Any, scores: Any, *, sample_weight: Any = None) -> float:
    """Measure mAP: the mean of `average_precision` over the classes that have a known positive.

    Parameters
    ----------
    y_true, scores, sample_weight
        As in `average_precision`.

    Returns
    -------
    score : float
        NaN if no class has a known positive.

    Examples
    --------
    >>> mean_average_precision([[1, 0], [0, 0], [1, 0]], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    0.833
    """
    return _average(average_precision(y_true, scores, sample_weight=sample_weight))


def binary_accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Measure the share of known cells that are right.

    It is never the headline: where a sample has 3 of 80 labels, predicting nothing scores 0.96.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `f1_score`.

    Returns
    -------
    score : float

    Examples
    --------
    >>> binary_accuracy([[1, 0], [0, float("nan")]], [[1, 1], [0, 1]])
    0.667
    """
    return 1.0 - hamming_loss(y_true, y_pred, sample_weight=sample_weight)


def hamming_loss(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Measure the share of known cells that are wrong; lower is better.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `f1_score`.

    Returns
    -------
    loss : float

    Examples
    --------
    >>> hamming_loss([[1, 0], [0, float("nan")]], [[1, 1], [0, 1]])
    0.333
    """
    truth, decided, known, weight = _check_decisions(y_true, y_pred, sample_weight)
    return _average(np.where(known, truth != decided, np.nan), weight[:, None])


def subset_accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Measure the share of samples whose known labels are all right; samples with nothing known are left out.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `f1_score`.

    Returns
    -------
    score : float

    Examples
    --------
    >>> subset_accuracy([[1, 0], [0, float("nan")]], [[1, 1], [0, 1]])
    0.5
    """
    truth, decided, known, weight = _check_decisions(y_true, y_pred, sample_weight)
    right = ~(known & (truth != decided)).any(axis=1)
    return _average(np.where(known.any(axis=1), right, np.nan), weight)


def binary_cross_entropy(y_true: Any, proba: Any, *, sample_weight: Any = None) -> float:
    """Measure the mean negative log-likelihood of the known cells; lower is better.

    Parameters
    ----------
    y_true, sample_weight
        As in `average_precision`.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1]; clipped by the smallest step of their float type, so that the loss stays finite.

    Returns
    -------
    loss : float

    Examples
    --------
    >>> binary_cross_entropy([[1, 0], [0, float("nan")]], [[0.5, 0.5], [0.5, 0.9]])
    0.693
    """
    y_true = check_indicator(y_true)
    kind = np.asarray(proba).dtype
    step = np.finfo(kind if kind.kind == "f" else np.float64).eps
    proba = np.clip(check_scores(y_true, proba), step, 1 - step)
    known, weight = _weigh(y_true, sample_weight)
    loss = -np.log(np.where(y_true == 1, proba, 1 - proba))
    return _average(np.where(known, loss, np.nan), weight[:, None])


class MultiLabelScorer:
    """A scorer for `cross_val_score` and its kin that takes `y` in any label format; see `make_multilabel_scorer`."""

    def __init__(self, metric: str) -> None:
        self.metric = metric

    def __call__(self, estimator: Any, X: Any, y_true: Any, sample_weight: Any = None) -> float:
        """Return the metric of a fitted estimator on `X` and its labels; higher is better."""
        method, measure = _METRICS[self.metric]
        y_true, _ = encode_labels(y_true, classes=estimator.classes_, label_sep=_find_label_sep(estimator))
        return measure(y_true, getattr(estimator, method)(X), sample_weight=sample_weight)

    def __repr__(self) -> str:
        return f"make_multilabel_scorer({self.metric!r})"


def make_multilabel_scorer(metric: str = "f1_macro") -> MultiLabelScorer:
    """Create a scorer for `cross_val_score`, `cross_validate` and `GridSearchCV`.

    Unlike scikit-learn's own scorers it takes `y` in any label format, sorts the columns as the estimator does, and
    leaves unknown labels out.

    Parameters
    ----------
    metric : str, default="f1_macro"
        "f1", "precision" or "recall" with "_macro", "_micro", "_samples" or "_weighted"; "average_precision" (mAP),
        "binary_accuracy", "subset_accuracy", "neg_hamming_loss" or "neg_bce". Higher is always better.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y_true, sample_weight=None) -> float``; it can be pickled. The estimator must have
        `classes_`, and `predict` or, for "average_precision" and "neg_bce", `predict_proba`.

    Raises
    ------
    InputError
        If the metric is unknown; the message names the nearest ones.

    Examples
    --------
    >>> make_multilabel_scorer("average_precision")
    make_multilabel_scorer('average_precision')
    """
    if metric not in list(_METRICS):
        raise InputError(
            f"There is no metric {shorten(metric)}.{suggest(str(metric), _METRICS)} Known are: {', '.join(_METRICS)}."
        )
    return MultiLabelScorer(metric)


_METRICS: dict[str, tuple[str, Callable[..., float]]] = {
    f"{name}_{average}": ("predict", partial(measure, average=average))
    for name, measure in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))
    for average in ("macro", "micro", "samples", "weighted")
} | {
    "average_precision": ("predict_proba", mean_average_precision),
    "binary_accuracy": ("predict", binary_accuracy),
    "subset_accuracy": ("predict", subset_accuracy),
    "neg_hamming_loss": ("predict", lambda *args, **params: -hamming_loss(*args, **params)),
    "neg_bce": ("predict_proba", lambda *args, **params: -binary_cross_entropy(*args, **params)),
}


def _find_label_sep(estimator: Any) -> str | None:
    """Ask the classifier inside pipelines and searches how it splits strings."""
    while not hasattr(estimator, "label_sep"):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            return None
    return estimator.label_sep


def _rate(name, y_true, y_pred, average, sample_weight, zero_division):
    """Count per class, per sample or over all cells, divide, and average."""
    check_parameters(name, {"average": average, "zero_division": zero_division}, _CONSTRAINTS)
    truth, decided, known, weight = _check_decisions(y_true, y_pred, sample_weight)
    tables = truth & decided, decided & known, truth, known  # each (n, c)
    counts = [table.sum(axis=1) if average == "samples" else weight @ table for table in tables]
    if average == "micro":
        counts = [count.sum(keepdims=True) for count in counts]
    hits, predicted, present, n_known = counts
    numerator, denominator = {
        "f1_score": (2 * hits, predicted + present),
        "precision_score": (hits, predicted),
        "recall_score": (hits, present),
    }[name]
    scores = np.full(len(n_known), float(zero_division))
    np.divide(numerator, denominator, out=scores, where=denominator > 0)
    scores[n_known == 0] = np.nan
    return scores if average is None else _average(scores, {"weighted": present, "samples": weight}.get(average))


def _rank_class(present, scores, weight):
    """Return the average precision of one class from its known samples; NaN if none is present."""
    if not present.any():
        return np.nan
    order = np.argsort(-scores)
    ends = np.append(np.diff(scores[order]) != 0, True)  # the last sample of each run of equal scores
    seen = weight[order].cumsum()[ends]
    found = (weight * present)[order].cumsum()[ends]
    return np.sum(np.diff(found, prepend=0) * found / seen) / found[-1]


def _average(values, weight=None):
    """Return the weighted mean of what is not NaN (the plain mean if all weights are 0); NaN if nothing is left."""
    measured = ~np.isnan(values)
    if not measured.any():
        return np.nan
    weights = np.broadcast_to(1.0 if weight is None else weight, values.shape)[measured]
    return float(np.average(values[measured], weights=weights if weights.any() else None))


def _check_decisions(y_true, y_pred, sample_weight):
    """Return what is known and present, what is decided, what is known (each (n, c), boolean) and the weights (n,)."""
    y_true = check_indicator(y_true)
    y_pred = check_scores(y_true, y_pred, name="y_pred", probabilities=False)
    wrong = (y_pred != 0) & (y_pred != 1)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"y_pred must hold only 0 and 1. Got {y_pred[row, column]:g} at row {row}, column {column}; "
            "turn probabilities into decisions with apply_thresholds(proba, thresholds)."
        )
    known, weight = _weigh(y_true, sample_weight)
    return known & (y_true == 1), y_pred == 1, known, weight


def _weigh(y_true, sample_weight):
    """Return which cells are known (n, c), none in a sample of weight 0, and the weights (n,)."""
    weight = np.ones(len(y_true)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(y_true),):
        raise InputError(f"sample_weight must have the shape ({len(y_true)},) of the samples. Got {weight.shape}.")
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        raise InputError(f"sample_weight must be finite and >= 0. Got {weight[bad][0]:g} at row {np.argmax(bad)}.")
    return ~np.isnan(y_true) & (weight > 0)[:, None], weight
