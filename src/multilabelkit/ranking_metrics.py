"""How well scores rank, no threshold needed: samples within a class (AP, mAP) and labels within a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from multilabelkit.checks import check_indicator, check_scores
from multilabelkit.known_labels import average_known, divide, weigh_known

_BLOCK = 2**18  # cells ranked at a time, which stay in the processor's cache


class LabelRanking(NamedTuple):
    """How well labels are ranked within samples, three ways."""

    average_precision: float
    loss: float
    coverage_error: float


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
    y_true, scores, known, weight = _check_scored(y_true, scores, sample_weight)
    return np.array([ranked.weigh(weight) for ranked in rank_classes(y_true == 1, scores, known)])


def mean_average_precision(y_true: Any, scores: Any, *, sample_weight: Any = None) -> float:
    """Measure mAP: the mean of `average_precision` over the classes that have a known positive.

    The other classes are skipped, where some papers' programs count them as 0. `average_precision` is NaN for them, and
    a report counts them. Papers on VOC 2007 may use the average of 11 points, which is another number.

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
    >>> y_true, scores = [[1, 0], [0, 0], [1, 0]], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]
    >>> mean_average_precision(y_true, scores)
    0.833
    >>> int(np.isnan(average_precision(y_true, scores)).sum())  # classes skipped
    1
    """
    return average_known(average_precision(y_true, scores, sample_weight=sample_weight))


def label_ranking_average_precision(y_true: Any, scores: Any, *, sample_weight: Any = None) -> float:
    """Measure LRAP: of the labels ranked as high as a label present or higher, the share that is present.

    The mean is taken over the labels present in a sample, then over samples; 1 is best. Unknown labels are left out of
    the ranking of their sample, as if their columns were not there. A sample all of whose known labels are present, or
    none, counts as 1, as in scikit-learn; one with nothing known is left out.

    Parameters
    ----------
    y_true, scores, sample_weight
        As in `average_precision`; scores must be comparable between classes.

    Returns
    -------
    score : float
        In (0, 1]; NaN if nothing is known.

    Examples
    --------
    >>> label_ranking_average_precision([[1, 0, 0], [0, 0, 1]], [[0.7, 0.5, 0.9], [0.9, 0.2, 0.1]])
    0.417
    """
    return rank_labels(y_true, scores, sample_weight=sample_weight).average_precision


def label_ranking_loss(y_true: Any, scores: Any, *, sample_weight: Any = None) -> float:
    """Measure the share of pairs of a label present and one absent that a sample ranks wrongly; lower is better.

    Equal scores are wrong. Unknown labels are left out of the pairs of their sample. A sample without a pair counts as
    0, as in scikit-learn; one with nothing known is left out.

    Parameters
    ----------
    y_true, scores, sample_weight
        As in `label_ranking_average_precision`.

    Returns
    -------
    loss : float
        In [0, 1]; NaN if nothing is known.

    Examples
    --------
    >>> label_ranking_loss([[1, 0, 0], [0, 0, 1]], [[0.7, 0.5, 0.9], [0.9, 0.2, 0.1]])
    0.75
    """
    return rank_labels(y_true, scores, sample_weight=sample_weight).loss


def coverage_error(y_true: Any, scores: Any, *, sample_weight: Any = None) -> float:
    """Measure how many of its best-ranked labels a sample needs, on average, to cover all that are present.

    The best value is the mean number of labels present. Unknown labels are left out of the ranking of their sample. A
    sample without a label present counts as 0, as in scikit-learn; one with nothing known is left out.

    Parameters
    ----------
    y_true, scores, sample_weight
        As in `label_ranking_average_precision`.

    Returns
    -------
    error : float
        In [0, n_classes]; NaN if nothing is known.

    Examples
    --------
    >>> coverage_error([[1, 0, 0], [0, 0, 1]], [[0.7, 0.5, 0.9], [0.9, 0.2, 0.1]])
    2.5
    """
    return rank_labels(y_true, scores, sample_weight=sample_weight).coverage_error


def rank_labels(y_true: Any, scores: Any, *, sample_weight: Any = None) -> LabelRanking:
    """Return LRAP, ranking loss and coverage error from one sorting."""
    y_true, scores, known, weight = _check_scored(y_true, scores, sample_weight)
    n_rows = max(1, _BLOCK // max(1, y_true.shape[1]))
    blocks = [slice(start, start + n_rows) for start in range(0, len(y_true), n_rows)]
    rows = [_rank_within_samples(y_true[block] == 1, scores[block], known[block]) for block in blocks]
    measured = np.concatenate(rows, axis=1) if rows else np.empty((3, 0))
    return LabelRanking(*(average_known(values, weight) for values in measured))


def _rank_within_samples(truth, scores, known):
    """Return what `LabelRanking` averages, (3, n_samples), NaN for a sample of which nothing is known."""
    falling = np.where(known, -scores, np.inf)  # unknown labels come last, where they change no rank
    order = np.argsort(falling, axis=1)
    falling, present = (np.take_along_axis(table, order, axis=1) for table in (falling, truth & known))
    last = _find_run_ends(falling)
    rank, hits = last + 1, np.take_along_axis(present.cumsum(axis=1), last, axis=1)  # as high or higher, and present
    n_present, n_known = present.sum(axis=1), known.sum(axis=1)
    has_pairs = (n_present > 0) & (n_present < n_known)
    precision, loss = np.ones(len(truth)), np.zeros(len(truth))
    np.divide((present * hits / rank).sum(axis=1), n_present, out=precision, where=has_pairs)
    np.divide((present * (rank - hits)).sum(axis=1), n_present * (n_known - n_present), out=loss, where=has_pairs)
    coverage = (present * rank).max(axis=1, initial=0)
    return np.where(n_known > 0, np.stack([precision, loss, coverage]), np.nan)


def _find_run_ends(values):
    """Return for each place of each row where the run of equal values ends that it belongs to."""
    n_columns = values.shape[1]
    ends = np.tile(np.arange(n_columns), (len(values), 1))
    ends[:, :-1][values[:, :-1] == values[:, 1:]] = n_columns
    return np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]


def rank_classes(truth: np.ndarray, scores: np.ndarray, known: np.ndarray) -> list[RankedClass]:
    """Return each column of the tables (n, c) in order."""
    columns = zip(*(np.ascontiguousarray(table.T) for table in (truth, scores, known)), strict=True)
    return [RankedClass(*column) for column in columns]


class RankedClass:
    """The known samples of one class by falling score, ready to be weighed in many ways.

    Where no sample is present the recall does not grow, so that it is enough to add up the weights from one run of
    equal scores that holds a present sample to the next: a product with a sparse matrix.
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray, known: np.ndarray) -> None:
        rows = np.flatnonzero(known)
        order = rows[np.argsort(-scores[rows])]
        hits = np.flatnonzero(truth[order])
        ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True)) + 1
        steps = np.unique(ends[np.searchsorted(ends, hits, side="right")]) if len(hits) else np.empty(0, dtype=np.int64)
        self._seen = _create_sums(order[: steps[-1] if len(steps) else 0], steps, len(truth))
        self._found = _create_sums(order[hits], np.searchsorted(hits, steps), len(truth))

    def weigh(self, weight: np.ndarray) -> np.ndarray:
        """Return the average precision for weights (n,), or for each column of (n, n_resamples); NaN without a hit."""
        gained = (self._found @ weight).astype(np.float64)
        seen, found = (self._seen @ weight).cumsum(axis=0), gained.cumsum(axis=0)
        precision = np.divide(found, seen, out=np.zeros(found.shape), where=seen > 0)
        return divide(gained * precision, gained, axis=0)


def _create_sums(places: np.ndarray, ends: np.ndarray, n_samples: int) -> csr_matrix:
    """Return the matrix that adds up what stands at the places, from the end of one run to the next."""
    ones = np.ones(len(places), dtype=np.float32)
    return csr_matrix((ones, places, np.append(0, ends)), shape=(len(ends), n_samples))


def _check_scored(y_true, scores, sample_weight):
    """Return truth, scores, what is known (each (n, c)) and the weights (n,)."""
    y_true = check_indicator(y_true)
    scores = check_scores(y_true, scores, name="scores", probabilities=False)
    return y_true, scores, *weigh_known(y_true, sample_weight)
