"""How good decisions are: precision, recall and F1 by class, by sample and over all, and the accuracies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from multilabelkit.checks import Choice, Interval, check_parameters, check_scores
from multilabelkit.errors import InputError
from multilabelkit.known_labels import average_known, check_decisions, divide

_CONSTRAINTS: dict[str, Any] = {
    "average": [Choice(("macro", "micro", "samples", "weighted", None))],
    "zero_division": [Interval(float, 0, 1)],
}


class PrecisionRecallF1(NamedTuple):
    """Three numbers that belong together (arrays where there is one of each per class)."""

    precision: Any
    recall: Any
    f1: Any


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
    return _rate("f1_score", y_true, y_pred, average, sample_weight, zero_division).f1


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
    return _rate("precision_score", y_true, y_pred, average, sample_weight, zero_division).precision


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
    return _rate("recall_score", y_true, y_pred, average, sample_weight, zero_division).recall


def cp_cr_cf1(y_true: Any, y_pred: Any, *, sample_weight: Any = None, zero_division: float = 0.0) -> PrecisionRecallF1:
    """Measure CP, CR and CF1, the class-wise numbers of papers on multi-label images.

    CP and CR are the means over classes of precision and recall, and CF1 = 2 * CP * CR / (CP + CR) is the F1 of these
    two means. It is not the macro-F1, the mean of the F1 of each class, and is never below it.

    Parameters
    ----------
    y_true, y_pred, sample_weight, zero_division
        As in `f1_score`. Papers often decide by the 3 best labels: pass ``top_k_decisions(scores, k=3)``.

    Returns
    -------
    scores : PrecisionRecallF1
        A named tuple of CP, CR and CF1: `precision`, `recall`, `f1`.

    Examples
    --------
    >>> y_true, y_pred = [[1, 0], [1, 0], [1, 1], [0, 1]], [[1, 1], [0, 1], [0, 1], [0, 1]]
    >>> cp_cr_cf1(y_true, y_pred)
    PrecisionRecallF1(precision=0.75, recall=0.667, f1=0.706)
    >>> f1_score(y_true, y_pred)
    0.583
    """
    return average_rates(_rate("cp_cr_cf1", y_true, y_pred, None, sample_weight, zero_division))


def op_or_of1(y_true: Any, y_pred: Any, *, sample_weight: Any = None, zero_division: float = 0.0) -> PrecisionRecallF1:
    """Measure OP, OR and OF1, the overall numbers of papers: precision, recall and F1 of all cells in one pool.

    They are what `average="micro"` gives elsewhere: OF1 is the micro-F1.

    Parameters
    ----------
    y_true, y_pred, sample_weight, zero_division
        As in `cp_cr_cf1`.

    Returns
    -------
    scores : PrecisionRecallF1
        A named tuple of OP, OR and OF1: `precision`, `recall`, `f1`.

    Examples
    --------
    >>> op_or_of1([[1, 0], [1, 0], [1, 1]], [[1, 1], [0, 1], [1, 1]])
    PrecisionRecallF1(precision=0.6, recall=0.75, f1=0.667)
    """
    return _rate("op_or_of1", y_true, y_pred, "micro", sample_weight, zero_division)


def binary_accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    """Measure the share of known cells that are right.

    Papers on attributes of faces call it accuracy. It is never the headline: where a sample has 3 of 80 labels,
    predicting nothing scores 0.96.

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
    truth, decided, known, weight = check_decisions(y_true, y_pred, sample_weight)
    wrong = known & (truth != decided)
    return float(divide(weight * wrong.sum(axis=1), weight * known.sum(axis=1)))


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
    truth, decided, known, weight = check_decisions(y_true, y_pred, sample_weight)
    right = ~(known & (truth != decided)).any(axis=1)
    measured = weight * known.any(axis=1)
    return float(divide(right * measured, measured))


def top_k_decisions(scores: Any, *, k: int) -> np.ndarray:
    """Decide for the `k` best labels of every sample, as papers do that report "top-3" numbers.

    Parameters
    ----------
    scores : array-like of shape (n_samples, n_classes)
        Probabilities or logits; of equal ones the first wins.
    k : int
        Labels per sample, >= 1; all where there are fewer classes. Some papers also want them above a threshold:
        ``top_k_decisions(proba, k=3) & (proba >= 0.5)``.

    Returns
    -------
    y_pred : ndarray of shape (n_samples, n_classes)
        int64 of 0 and 1.

    Raises
    ------
    InputError
        If `scores` is no table of finite numbers, or `k` no integer >= 1.

    Examples
    --------
    >>> top_k_decisions([[0.9, 0.2, 0.8], [0.1, 0.3, 0.2]], k=2)
    array([[1, 0, 1],
           [0, 1, 1]])
    """
    check_parameters("top_k_decisions", {"k": k}, {"k": [Interval(int, 1)]})
    table = np.asarray(scores)
    if table.ndim != 2:
        raise InputError(f"scores must have the shape (n_samples, n_classes). Got {table.shape}.")
    table = check_scores(table, table, name="scores", probabilities=False)
    best = np.argsort(-table, axis=1, kind="stable")[:, :k]
    y_pred = np.zeros(table.shape, dtype=np.int64)
    np.put_along_axis(y_pred, best, 1, axis=1)
    return y_pred


def _rate(owner, y_true, y_pred, average, sample_weight, zero_division):
    """Count per class, per sample or over all cells, divide, and average."""
    check_parameters(owner, {"average": average, "zero_division": zero_division}, _CONSTRAINTS)
    truth, decided, known, weight = check_decisions(y_true, y_pred, sample_weight)
    if average == "samples":
        counts = np.stack([table.sum(axis=1) for table in list_counted(truth, decided, known)])
        return _average_each(rate_counts(counts, zero_division), weight)
    counts = count_classes(truth, decided, known, weight)
    if average == "micro":
        return rate_pooled(counts, zero_division)
    rates = rate_counts(counts, zero_division)
    return rates if average is None else _average_each(rates, counts[2] if average == "weighted" else None)


def list_counted(truth: np.ndarray, decided: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the tables (n, c) of hits, labels predicted, labels present and labels known."""
    return truth & decided, decided & known, truth, known


def count_classes(truth: np.ndarray, decided: np.ndarray, known: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return hits, labels predicted, labels present and labels known of each class, (4, n_classes)."""
    return np.stack([weight @ table for table in list_counted(truth, decided, known)])


def rate_counts(counts: np.ndarray, zero_division: float) -> PrecisionRecallF1:
    """Return precision, recall and F1 (...) from hits, predicted, present and known (4, ...); NaN where none is known.

    The counts may be those of classes, samples or resamples: each is taken for itself.
    """
    hits, predicted, present, known = counts

    def share(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
        shares = np.full(wholes.shape, float(zero_division))
        np.divide(parts, wholes, out=shares, where=wholes > 0)
        return np.where(known > 0, shares, np.nan)

    return PrecisionRecallF1(share(hits, predicted), share(hits, present), share(2 * hits, predicted + present))


def rate_pooled(counts: np.ndarray, zero_division: float) -> PrecisionRecallF1:
    """Return the micro averages, which are OP, OR and OF1."""
    return PrecisionRecallF1(*map(float, rate_counts(counts.sum(axis=1), zero_division)))


def average_rates(rates: PrecisionRecallF1) -> PrecisionRecallF1:
    """Return CP, CR and CF1 from the rates of all classes."""
    cp, cr = average_known(rates.precision), average_known(rates.recall)
    return PrecisionRecallF1(cp, cr, 2 * cp * cr / (cp + cr) if cp + cr else 0.0)


def _average_each(rates, weight):
    return PrecisionRecallF1(*(average_known(scores, weight) for scores in rates))
