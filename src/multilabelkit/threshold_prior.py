"""What to expect of a class's threshold before looking at the class, and how far to trust that (empirical Bayes)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logit

# (calibrated probabilities in ascending order, how many samples have each) -> the threshold that theory finds best.
Expectation = Callable[[np.ndarray, np.ndarray], float]

_TINY = 1e-7  # nearest to 0 and 1 that a number counts as when it becomes a logit
_REACH = np.log1p(-_TINY) - np.log(_TINY)  # the largest logit there is
_N_BINS = 2048  # of the histogram of logits, each less than 0.016 wide
_MIN_SLOPE = 0.05  # of the calibration: it must keep the order of the probabilities
# Equally likely spreads of the best thresholds around what theory expects, in logits: half-Cauchy, half of them below
# 2, which rules out little.
_SPREADS = 2 * np.tan(np.pi / 2 * (np.arange(256) + 0.5) / 256)


def to_logit(proba):
    """Return the logits of probabilities, those of 0 and 1 as if they lay a little inside."""
    proba = np.clip(proba, _TINY, 1 - _TINY)
    return np.log(proba) - np.log1p(-proba)


def to_proba(logits):
    """Return the probabilities of logits."""
    return 1 / (1 + np.exp(-logits))


def move_towards(thresholds, target, weight):
    """Move thresholds towards a target by a share of the way, measured in logits; a share of 0 changes nothing."""
    moved = to_proba((1 - weight) * to_logit(thresholds) + weight * to_logit(target))
    return np.where(weight > 0, moved, thresholds)


def expect_fbeta(proba: np.ndarray, count: np.ndarray, *, beta: float = 1.0) -> float:
    """Return the best threshold for F-beta under calibrated probabilities: the best F-beta over 1 + beta ** 2.

    Parameters
    ----------
    proba, count : ndarray of shape (n_bins,)
        Calibrated probabilities in ascending order, and how many samples have each.
    beta : float, default=1.0
        How many times as much recall counts as precision.

    Examples
    --------
    >>> expect_fbeta(np.array([0.2, 0.8]), np.array([1, 1]))  # F1 is 1.6 / 2 for one of them, 2 / 3 for both
    0.4
    """
    hits, predicted = np.cumsum((proba * count)[::-1]), np.cumsum(count[::-1])
    return float(np.max(hits / (beta**2 * hits[-1] + predicted)))


def expect_prevalence(proba: np.ndarray, count: np.ndarray) -> float:
    """Return the best threshold for Youden's index under calibrated probabilities: their mean.

    Examples
    --------
    >>> expect_prevalence(np.array([0.2, 0.8]), np.array([3, 1]))
    0.35
    """
    return float(proba @ count / count.sum())


def compute_anchors(
    kind: np.ndarray, scores: np.ndarray, expect: Expectation = expect_fbeta, *, pooled: bool = False
) -> np.ndarray:
    """Guess the best threshold of each class from the probabilities of the class and the labels of all classes.

    One sigmoid(a * logit + b), fitted to all known cells at once, calibrates the probabilities. Under calibrated
    probabilities theory knows the best threshold, for F1 half the best F1, and takes no label of the class itself.

    Parameters
    ----------
    kind : ndarray of shape (n_classes, n_samples)
        int16: 0 absent, 1 present, 2 unknown (left out).
    scores : ndarray of shape (n_classes, n_samples)
        Probabilities in [0, 1].
    expect : callable, default=expect_fbeta
        What theory knows.
    pooled : bool, default=False
        Whether to expect it of all classes together, as measures that pool their cells want.

    Returns
    -------
    anchors : ndarray of shape (n_classes,)
        Logits on the scale of `scores`; NaN for a class without a known sample.

    References
    ----------
    J. Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
    1999. Z. Lipton, C. Elkan and B. Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014.

    Examples
    --------
    >>> kind = np.array([[0, 0, 1, 1], [0, 0, 0, 1]], dtype=np.int16)
    >>> to_proba(compute_anchors(kind, np.array([[0.1, 0.3, 0.6, 0.8], [0.05, 0.1, 0.1, 0.3]]))).round(2)
    array([0.36, 0.23])
    """
    everything = sum(_bin_logits(*column) for column in zip(kind, scores, strict=True))
    slope, offset = fit_sigmoid(_average_bins(everything), min_slope=_MIN_SLOPE)

    def compute_anchor(binned):
        logits, absent, present = _average_bins(binned)
        if not len(logits):
            return np.nan
        return (logit(expect(expit(slope * logits + offset), absent + present)) - offset) / slope

    if pooled:
        anchors = np.full(len(kind), compute_anchor(everything))
    else:  # Note: the bins are counted twice because those of all classes together may not fit in memory.
        anchors = np.array([compute_anchor(_bin_logits(*column)) for column in zip(kind, scores, strict=True)])
    return np.clip(anchors, -_REACH, _REACH)


def combine_with_anchors(own: np.ndarray, anchors: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Weigh each class's own threshold against its anchor, by how much more the two differ than noise explains.

    The best thresholds are taken to scatter normally around the anchors. How widely, the differences of all classes
    tell; as those of few classes tell it only roughly, the answer is the mean over all spreads that are plausible.

    Parameters
    ----------
    own : ndarray of shape (n_classes,)
        Logit of the threshold that each class's own samples favour.
    anchors : ndarray of shape (n_classes,)
        Logit expected without them.
    noise : ndarray of shape (n_classes,)
        Variance of `own` that is due to chance, > 0.

    Returns
    -------
    combined : ndarray of shape (n_classes,)
        Logits: near the anchors where chance explains the differences of many classes, nearly `own` where they are far
        larger. One or two classes cannot tell the two cases apart, and lie between.

    References
    ----------
    B. Efron and C. Morris, "Data Analysis Using Stein's Estimator and its Generalizations", 1975.
    A. Gelman, "Prior Distributions for Variance Parameters in Hierarchical Models", 2006 (the half-Cauchy prior).

    Examples
    --------
    >>> combine_with_anchors(np.tile([2.0, -2.0], 10), np.zeros(20), np.ones(20))[:2].round(1)  # spread**2 about 4 - 1
    array([ 1.5, -1.5])
    >>> combine_with_anchors(np.tile([0.9, -0.9], 10), np.zeros(20), np.ones(20))[:2].round(1)
    array([ 0.1, -0.1])
    """
    difference = own - anchors
    variance = _SPREADS[:, None] ** 2 + noise  # (n_spreads, n_classes), of the difference
    fit = -0.5 * np.sum(np.log(variance) + difference**2 / variance, axis=1)
    plausible = np.exp(fit - fit.max())
    trust = np.average(1 - noise / variance, axis=0, weights=plausible)
    return anchors + trust * difference


def fit_sigmoid(cells: np.ndarray, *, min_slope: float, with_offset: bool = True) -> np.ndarray:
    """Return slope and offset of the sigmoid of least log-loss, held near 1 and 0 by a ridge where labels are few.

    Parameters
    ----------
    cells : ndarray of shape (3, n_logits)
        Logits, and how many samples with each are absent and present.
    min_slope : float
        Above 0, so that the order of the logits is kept.
    with_offset : bool, default=True
        Whether the offset may be other than 0.

    References
    ----------
    J. Platt, "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods",
    1999.

    Examples
    --------
    >>> fit_sigmoid(np.array([[-2, 2], [900, 200], [100, 800]]), min_slope=0.1).round(1)  # to logits -2.2 and 1.4
    array([ 0.9, -0.4])
    """
    logits, absent, present = cells
    scale = max(1.0, cells[1:].sum())

    def compute_loss(params):
        margin = params[0] * logits + params[1]
        away = params - [1, 0]
        error = (absent + present) * expit(margin) - present
        loss = measure_log_loss(margin, absent, present) + away @ away / 2
        return loss / scale, (np.array([error @ logits, error.sum()]) + away) / scale

    limits = [(min_slope, None), (None, None) if with_offset else (0, 0)]
    options = {"ftol": 1e-15, "gtol": 1e-10}
    return minimize(compute_loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=limits, options=options).x


def measure_log_loss(margin: np.ndarray, absent: np.ndarray, present: np.ndarray) -> float:
    """Return the log-loss of logits, summed over the samples that are absent and present at each."""
    return -(absent @ log_expit(-margin) + present @ log_expit(margin))


def _bin_logits(kind, scores):
    """Return for each bin how many logits are absent and present, and their sum; shape (3, n_bins)."""
    logits = to_logit(scores)
    bins = ((logits + _REACH) * (_N_BINS / (2 * _REACH))).astype(np.int16)
    place, size = kind * (_N_BINS + 1) + bins, 3 * (_N_BINS + 1)
    absent, present, _ = np.bincount(place, minlength=size).reshape(3, -1)
    total = np.bincount(place, weights=logits, minlength=size).reshape(3, -1)[:2].sum(axis=0)
    return np.stack([absent, present, total])


def _average_bins(binned):
    """Return for each bin that holds any the mean of its logits, how many are absent and present; (3, n_bins)."""
    absent, present, total = binned[:, binned[0] + binned[1] > 0]
    return np.stack([total / (absent + present), absent, present])
