"""Which decisions are wrong, and how: a 2 x 2 matrix for each class, and what is predicted in place of what."""

from __future__ import annotations

from typing import Any

import numpy as np

from multilabelkit.checks import Choice, check_parameters
from multilabelkit.known_labels import check_decisions


def multilabel_confusion_matrix(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> np.ndarray:
    """Count for each class the samples that are rightly and wrongly without it and with it.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out).
    y_pred : array-like of shape (n_samples, n_classes)
        Decisions, 0 or 1.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights >= 0, which are added up.

    Returns
    -------
    matrices : ndarray of shape (n_classes, 2, 2)
        Of each class ``[[tn, fp], [fn, tp]]``: rows are the truth, columns the decision. int64 without weights.

    Raises
    ------
    InputError
        If the shapes differ, or something other than 0 and 1 (and NaN in `y_true`) is found.

    Examples
    --------
    >>> multilabel_confusion_matrix([[1, 0], [1, 1], [0, float("nan")]], [[1, 1], [0, 1], [0, 1]])
    array([[[1, 0], [1, 1]],
           [[0, 1], [0, 1]]])
    """
    truth, decided, known, weight = check_decisions(y_true, y_pred, sample_weight)
    cells = known & ~truth & ~decided, known & ~truth & decided, truth & ~decided, truth & decided
    counts = np.stack([weight @ table for table in cells], axis=1).reshape(-1, 2, 2)
    return counts.astype(np.int64) if sample_weight is None else counts


def predicted_instead_matrix(
    y_true: Any, y_pred: Any, *, normalize: bool = False, sample_weight: Any = None
) -> np.ndarray:
    """Count for each pair of classes the samples in which the one is missed and the other predicted by mistake.

    A sample may have many labels, so that a wrong one replaces no other for certain. But where class i is often missed
    in the very samples in which class j is wrongly predicted, j is probably taken for i.

    Parameters
    ----------
    y_true, y_pred, sample_weight
        As in `multilabel_confusion_matrix`.
    normalize : bool, default=False
        Give shares in place of numbers: of the samples in which class i is missed and class j is known.

    Returns
    -------
    matrix : ndarray of shape (n_classes, n_classes)
        Row i, column j: samples in which class i is present and not predicted, and class j is absent and predicted.
        int64 without weights; shares are float64, NaN where class i is missed in no such sample.

    Raises
    ------
    InputError
        If the shapes differ, or something other than 0 and 1 (and NaN in `y_true`) is found.

    Examples
    --------
    >>> y_true, y_pred = [[1, 0, 0], [1, 0, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [1, 1, 0]]
    >>> predicted_instead_matrix(y_true, y_pred)
    array([[0, 1, 0],
           [0, 0, 0],
           [0, 0, 0]])
    >>> predicted_instead_matrix(y_true, y_pred, normalize=True)[0]
    array([0. , 0.5, 0. ])
    """
    check_parameters("predicted_instead_matrix", {"normalize": normalize}, {"normalize": [Choice((True, False))]})
    truth, decided, known, weight = check_decisions(y_true, y_pred, sample_weight)
    missed = (weight[:, None] * (truth & ~decided)).T  # (n_classes, n_samples)
    counts = missed @ (known & ~truth & decided)
    if normalize:
        missed_and_known = missed @ known
        return np.divide(counts, missed_and_known, out=np.full(counts.shape, np.nan), where=missed_and_known > 0)
    return counts.astype(np.int64) if sample_weight is None else counts
