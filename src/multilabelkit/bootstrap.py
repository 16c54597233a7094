"""How sure a number is: its spread over resamples of the samples it was measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state

from multilabelkit.checks import RANDOM_STATE, Check, Interval, check_indicator, check_parameters, check_scores
from multilabelkit.decision_metrics import list_counted, rate_counts
from multilabelkit.errors import InputError
from multilabelkit.known_labels import average_known, check_decisions
from multilabelkit.ranking_metrics import rank_classes

_CONSTRAINTS: dict[str, Any] = {
    "measure": [Check(callable, "a function such as metrics.f1_score")],
    "n_bootstraps": [Interval(int, 1)],
    "confidence": [Interval(float, 0, 1, open_low=True, open_high=True)],
    "random_state": RANDOM_STATE,
}
_BLOCK = 2**24  # weights that are drawn at a time
_EXACT = 2**23  # samples up to which float32 counts without error, twice over


class ConfidenceInterval(NamedTuple):
    """The ends of an interval (arrays where the measure gives an array)."""

    low: Any
    high: Any


def bootstrap_interval(
    measure: Callable[..., Any],
    y_true: Any,
    predicted: Any,
    *,
    n_bootstraps: int = 1000,
    confidence: float = 0.95,
    random_state: int | np.random.RandomState | None = 0,
) -> ConfidenceInterval:
    """Find the range in which a metric would probably lie, had other samples of the same kind been drawn.

    The samples are drawn again with replacement, by giving each the number of its draws as weight, and the metric is
    measured anew; the interval holds the middle share of the results (the percentile bootstrap). It tells how sure the
    number is for this classifier, not how much another training run would change it. A resample in which the metric
    is NaN is left out. For macro-F1, micro-F1 and mAP ``multilabel_report(..., n_bootstraps=1000)`` finds the same
    intervals several times as fast.

    Parameters
    ----------
    measure : callable
        ``measure(y_true, predicted, sample_weight=weight)`` returning a number or an array: any metric of this module,
        also through ``functools.partial(f1_score, average="micro")``.
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown.
    predicted : array-like of shape (n_samples, n_classes)
        The decisions, probabilities or scores that `measure` takes.
    n_bootstraps : int, default=1000
        Resamples, and so calls of `measure`.
    confidence : float, default=0.95
        Share of the resamples inside the interval, between 0 and 1.
    random_state : int, RandomState instance or None, default=0
        Seed of the resamples.

    Returns
    -------
    interval : ConfidenceInterval
        A named tuple of `low` and `high`, floats or arrays of the shape of the metric; NaN where it always was NaN.

    Raises
    ------
    InputError
        If a parameter is out of range, `y_true` is no table of 0, 1 and NaN, or there is no sample.

    References
    ----------
    B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Examples
    --------
    >>> from multilabelkit.decision_metrics import f1_score
    >>> y_true, y_pred = [[1, 0], [0, 1], [1, 1]] * 20, [[1, 0], [1, 1], [1, 1]] * 20
    >>> bootstrap_interval(f1_score, y_true, y_pred)
    ConfidenceInterval(low=0.855, high=0.939)
    """
    given = {"n_bootstraps": n_bootstraps, "confidence": confidence, "random_state": random_state}
    check_parameters("bootstrap_interval", {"measure": measure, **given}, _CONSTRAINTS)
    y_true, predicted = check_indicator(y_true), np.asarray(predicted)
    blocks = draw_weights(len(y_true), n_bootstraps=n_bootstraps, random_state=random_state)
    scores = [measure(y_true, predicted, sample_weight=weight) for block in blocks for weight in block]
    return find_interval(np.array(scores, dtype=np.float64), confidence=confidence)


def draw_weights(
    n_samples: int, *, n_bootstraps: int, random_state: int | np.random.RandomState | None
) -> Iterator[np.ndarray]:
    """Yield blocks (n, n_samples) of how often each sample is drawn in each of, in all, `n_bootstraps` resamples."""
    if not n_samples:
        raise InputError("There is no sample to draw from: y_true has no rows. Pass at least one.")
    generator = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    dtype = np.float32 if n_samples < _EXACT else np.float64
    n_rows = max(1, _BLOCK // n_samples)
    for start in range(0, n_bootstraps, n_rows):
        weights = np.empty((min(n_rows, n_bootstraps - start), n_samples), dtype=dtype)
        for row in weights:
            row[:] = np.bincount(generator.integers(n_samples, size=n_samples), minlength=n_samples)
        yield weights


def find_interval(scores: np.ndarray, *, confidence: float = 0.95) -> ConfidenceInterval:
    """Return the percentiles of resampled scores (n_bootstraps, ...) that are not NaN."""
    shares = (1 - confidence) / 2, (1 + confidence) / 2
    columns = scores.reshape(len(scores), -1).T
    ends = [
        np.quantile(column[~np.isnan(column)], shares) if not np.isnan(column).all() else (np.nan, np.nan)
        for column in columns
    ]
    low, high = np.array(ends, dtype=np.float64).reshape(-1, 2).T.reshape(2, *scores.shape[1:])
    return ConfidenceInterval(float(low), float(high)) if low.ndim == 0 else ConfidenceInterval(low, high)


def resample_headline(
    y_true: Any, y_pred: Any, proba: Any, *, zero_division: float, n_bootstraps: int, random_state: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Return macro-F1, micro-F1 and mAP (n_bootstraps, 3) and the F1 of each class (n_bootstraps, c) of resamples.

    It is what the metrics give for each row of weights, all at once.
    """
    truth, decided, known, _ = check_decisions(y_true, y_pred, None)
    proba = check_scores(truth, proba)
    tables = np.concatenate([table.T for table in list_counted(truth, decided, known)]).astype(np.float32)
    ranked = rank_classes(truth, proba, known)
    headlines, by_class = [], []
    for weights in draw_weights(len(truth), n_bootstraps=n_bootstraps, random_state=random_state):
        weights = np.ascontiguousarray(weights.T)  # (n, n_resamples)
        counts = (tables @ weights).astype(np.float64).reshape(4, -1, weights.shape[1])  # (4, c, n_resamples)
        f1 = rate_counts(counts, zero_division).f1
        micro_f1 = rate_counts(counts.sum(axis=1), zero_division).f1
        precisions = np.stack([column.weigh(weights) for column in ranked])  # (c, n_resamples)
        headlines.append(np.stack([average_known(f1, axis=0), micro_f1, average_known(precisions, axis=0)]))
        by_class.append(f1)
    return np.concatenate(headlines, axis=1).T, np.concatenate(by_class, axis=1).T
