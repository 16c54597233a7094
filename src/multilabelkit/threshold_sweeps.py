"""The best cut of one class's scores: over all midpoints, exactly, and sorting no more of them than it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# (hits, false_alarms, n_positive, n_negative) of each cut -> what it is worth, higher being better. It must not fall
# with hits nor rise with false alarms.
Measure = Callable[[Any, Any, Any, Any], Any]

_N_BINS = 1024  # of the histogram that finds the stretch of scores to sort


def sweep_cuts(kind: np.ndarray, scores: np.ndarray, measure: Measure, *, may_be_none: bool = False) -> float:
    """Return the threshold that is worth most for one class: a midpoint of two neighbouring scores.

    The best cut lies just below a positive, and most scores lie far from it. A histogram bounds the worth of every cut
    within a bin, so that only the bins that can hold the best one are sorted.

    Parameters
    ----------
    kind : ndarray of shape (n_samples,)
        int16: 0 absent, 1 present, 2 unknown (left out). At least one must be present.
    scores : ndarray of shape (n_samples,)
        Probabilities in [0, 1].
    measure : callable
        What cuts are worth, from their counts.
    may_be_none : bool, default=False
        Whether to predict nothing may be worth most, as it may be where errors cost, and never is by F1.

    Returns
    -------
    threshold : float
        Of equally good ones the one nearest to 0.5, then the lower.

    Examples
    --------
    >>> def measure_f1(hits, false_alarms, n_positive, n_negative):
    ...     return 2 * hits / (n_positive + hits + false_alarms)
    >>> float(sweep_cuts(np.array([1, 0, 1], dtype=np.int16), np.array([0.40, 0.20, 0.35]), measure_f1))
    0.275
    """
    bins = (scores * _N_BINS).astype(np.int16)
    counts = np.bincount(kind * (_N_BINS + 1) + bins, minlength=3 * (_N_BINS + 1)).reshape(3, -1)[:2]
    above = np.zeros((2, _N_BINS + 2), dtype=np.int64)  # absent, present; from the bin upwards
    above[:, :-1] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    n_negative, n_positive = above[:, 0]
    reached = measure(above[1, :-1], above[0, :-1], n_positive, n_negative)  # cutting at the foot of the bin
    bound = measure(above[1, :-1], above[0, 1:], n_positive, n_negative)  # all its positives, none of its negatives
    own = counts[1] > 0
    hopeful = np.flatnonzero(own & (bound >= reached[own].max()))
    low, high = hopeful[0], hopeful[-1]
    # The midpoint also needs the next lower score, wherever it is.
    lower = np.flatnonzero(counts[:, :low].any(axis=0))
    rows = (bins >= (lower[-1] if len(lower) else low)) & (bins <= high)
    positives, negatives = np.sort(scores[rows & (kind == 1)]), np.sort(scores[rows & (kind == 0)])
    first = np.flatnonzero(np.diff(positives, prepend=-1.0))  # of each run of equal scores
    n_below = np.searchsorted(negatives, positives[first])
    hits = above[1, high + 1] + len(positives) - first
    worth = measure(hits, above[0, high + 1] + len(negatives) - n_below, n_positive, n_negative)
    if may_be_none:
        top = cut_above(scores[kind < 2].max())
        hits, false_alarms = (np.count_nonzero((kind == one) & (scores >= top)) for one in (1, 0))
        if measure(hits, false_alarms, n_positive, n_negative) > worth.max():
            return top
    best = worth == worth.max()
    next_lower = np.maximum(_take_lower(positives, first[best]), _take_lower(negatives, n_below[best]))
    return choose_nearest(split_scores(next_lower, positives[first[best]]))


def sweep_gains(scores: np.ndarray, gains: np.ndarray) -> float:
    """Return the threshold above which known samples gain most, all together, from being predicted.

    Parameters
    ----------
    scores : ndarray of shape (n_samples,)
        Probabilities in [0, 1].
    gains : ndarray of shape (n_samples,)
        What each sample gains, or loses, if the class is predicted for it.

    Returns
    -------
    threshold : float
        A midpoint of two neighbouring scores; of equally good ones the one nearest to 0.5, then the lower.

    Examples
    --------
    >>> float(sweep_gains(np.array([0.9, 0.6, 0.2]), np.array([0.5, 0.1, -0.3])))
    0.4
    """
    order = np.argsort(scores)
    scores = scores[order]
    first = np.flatnonzero(np.diff(scores, prepend=-1.0))
    worth = gains[order][::-1].cumsum()[::-1][first]
    worth = np.where(np.abs(worth) > 1e-9, worth, 0.0)  # sums that differ by rounding alone are equal
    if worth.max() <= 0 and scores[-1] < 1:
        return cut_above(scores[-1])
    best = first[worth >= worth.max() - 1e-9]
    return choose_nearest(split_scores(_take_lower(scores, best), scores[best]))


def cut_above(score: float) -> float:
    """Return the threshold halfway from the highest score to 1, which is as high as thresholds go."""
    return float(split_scores(np.array([score]), np.array([1.0]))[0]) if score < 1 else 1.0


def split_scores(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Return the midpoints, or `upper` where two scores are so near that a midpoint would not keep them apart."""
    middle = lower + (upper - lower) / 2
    # Note: thresholds meet scores in float32 too (torch, exported models), where a midpoint may round onto a score.
    rounded = middle.astype(np.float32)
    return np.where((rounded > lower) & (rounded <= upper), middle, upper)


def choose_nearest(thresholds: np.ndarray) -> float:
    """Return the threshold nearest to 0.5; they ascend, so that the lower of two as near comes first."""
    return thresholds[np.argmin(np.abs(thresholds - 0.5))]


def _take_lower(ascending: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the score before each place, 0 before the first."""
    return np.concatenate([[0.0], ascending])[places]
