"""How far probabilities are to be believed: likelihood (BCE), squared error (Brier) and calibration (ECE)."""

from __future__ import annotations

from typing import Any

import numpy as np

from multilabelkit.checks import Choice, Interval, check_indicator, check_parameters, check_scores
from multilabelkit.known_labels import average_known, divide, weigh_known

_AVERAGE = [Choice(("macro", "micro", None))]
_CONSTRAINTS: dict[str, Any] = {
    "average": _AVERAGE,
    "n_bins": [Interval(int, 1)],
    "strategy": [Choice(("quantile", "uniform"))],
}


def binary_cross_entropy(y_true: Any, proba: Any, *, sample_weight: Any = None) -> float:
    """Measure the mean negative log-likelihood of the known cells; lower is better.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out).
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1]; clipped by the smallest step of their float type, so that the loss stays finite.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights >= 0.

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
    known, weight = weigh_known(y_true, sample_weight)
    loss = -np.log(np.where(y_true == 1, proba, 1 - proba))
    return _average_cells(loss, known, weight, "micro")


def brier_score(y_true: Any, proba: Any, *, average: str | None = "macro", sample_weight: Any = None) -> Any:
    """Measure the mean squared difference of probability and truth; lower is better.

    Both poor ranking and poor calibration raise it. Predicting for every sample the share p of positives scores
    p * (1 - p), so that numbers of common and of rare classes are not alike.

    Parameters
    ----------
    y_true, sample_weight
        As in `binary_cross_entropy`.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    average : {"macro", "micro", None}, default="macro"
        "macro" is the plain mean over classes, "micro" the mean over known cells, and None gives one number per class.

    Returns
    -------
    loss : float, or ndarray of shape (n_classes,) where `average` is None
        NaN where nothing is known.

    Examples
    --------
    >>> brier_score([[1, 0], [0, float("nan")]], [[0.5, 0.1], [0.3, 0.9]], average=None)
    array([0.17, 0.01])
    """
    check_parameters("brier_score", {"average": average}, {"average": _AVERAGE})
    y_true = check_indicator(y_true)
    proba = check_scores(y_true, proba)
    known, weight = weigh_known(y_true, sample_weight)
    return _average_cells((proba - y_true) ** 2, known, weight, average)


def expected_calibration_error(
    y_true: Any,
    proba: Any,
    *,
    average: str | None = "macro",
    n_bins: int = 15,
    strategy: str = "quantile",
    sample_weight: Any = None,
) -> Any:
    """Measure ECE: by how much probabilities miss the share of positives, in bins of like probability.

    0.02 says that of the samples that get about 30 %, some 28 or 32 % truly have the label; lower is better. Few
    samples raise it, as the share of positives in a small bin is partly chance: compare numbers of the same samples.

    Parameters
    ----------
    y_true, sample_weight
        As in `binary_cross_entropy`.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    average : {"macro", "micro", None}, default="macro"
        "macro" is the plain mean over classes, "micro" puts all known cells in the same bins, where errors of different
        classes may cancel, and None gives one number per class.
    n_bins : int, default=15
        Bins, >= 1; a class with fewer samples has fewer.
    strategy : {"quantile", "uniform"}, default="quantile"
        "quantile" puts as many samples in each bin, but for equal probabilities, which share one. "uniform" makes bins
        of equal width, as the first papers did: most labels are rare, and nearly all their samples fall into the bin
        next to 0.

    Returns
    -------
    error : float, or ndarray of shape (n_classes,) where `average` is None
        In [0, 1]; NaN where nothing is known.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017 (equal width).
    K. Nguyen and B. O'Connor, "Posterior Calibration and Exploratory Analysis for Natural Language Processing Models",
    2015 (equal mass).

    Examples
    --------
    >>> y_true, proba = [[1], [0], [1], [1]], [[0.6], [0.6], [0.9], [0.9]]
    >>> expected_calibration_error(y_true, proba)
    0.1
    """
    given = {"average": average, "n_bins": n_bins, "strategy": strategy}
    check_parameters("expected_calibration_error", given, _CONSTRAINTS)
    y_true = check_indicator(y_true)
    proba = check_scores(y_true, proba)
    known, weight = weigh_known(y_true, sample_weight)
    weights = np.where(known, weight[:, None], 0.0)
    tables = [table.reshape(1, -1) if average == "micro" else table.T for table in (y_true, proba, weights)]
    errors = np.array([_measure_gaps(*cells, n_bins=n_bins, strategy=strategy) for cells in zip(*tables, strict=True)])
    return errors if average is None else average_known(errors)


def _measure_gaps(truth, proba, weight, *, n_bins, strategy):
    """Return the ECE of one pool of probabilities, NaN if none has a weight."""
    rows = weight > 0
    truth, proba, weight = truth[rows], proba[rows], weight[rows]
    if not len(proba):
        return np.nan
    bins = _bin_by_mass(proba, weight, n_bins) if strategy == "quantile" else _bin_by_width(proba, n_bins)
    return np.abs(np.bincount(bins, weights=weight * (proba - truth))).sum() / weight.sum()


def _bin_by_width(proba, n_bins):
    """Return the number of each bin; its upper edge belongs to a bin, as in scikit-learn's `calibration_curve`."""
    return np.searchsorted(np.linspace(0.0, 1.0, n_bins + 1)[1:-1], proba)


def _bin_by_mass(proba, weight, n_bins):
    """Return the number of each bin, by the share of the weight that lies below; equal probabilities share a bin."""
    order = np.argsort(proba)
    values = proba[order]
    starts = np.flatnonzero(np.append(True, values[1:] != values[:-1]))  # of runs of equal probabilities
    below = np.append(0.0, weight[order].cumsum())[starts]
    bins = np.empty(len(proba), dtype=np.int64)
    bins[order] = np.repeat(np.floor(below * n_bins / weight.sum()), np.diff(starts, append=len(proba)))
    return bins


def _average_cells(losses, known, weight, average):
    """Return the mean loss of the known cells, of each class or over them."""
    sums, totals = weight @ np.where(known, losses, 0.0), weight @ known  # (n_classes,) each
    if average == "micro":
        return float(divide(sums, totals))
    means = np.divide(sums, totals, out=np.full(totals.shape, np.nan), where=totals > 0)
    return means if average is None else average_known(means)
