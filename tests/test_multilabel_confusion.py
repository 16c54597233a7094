import re

import numpy as np
import pytest
from sklearn import metrics as reference

from multilabelkit import metrics
from multilabelkit.errors import InputError


def draw(seed):
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 30), rng.integers(2, 7)
    y_true, y_pred = (rng.random((2, *shape)) < 0.4).astype(float)
    return y_true, y_pred, rng.integers(1, 5, shape[0])


def hide(y_true, seed):
    return np.where(np.random.default_rng(seed).random(y_true.shape) < 0.3, np.nan, y_true)


def test_matrices_equal_sklearn_on_random_matrices():
    for seed in range(1000):
        y_true, y_pred, weight = draw(seed)
        found = metrics.multilabel_confusion_matrix(y_true, y_pred)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, reference.multilabel_confusion_matrix(y_true, y_pred))
        if seed % 4 == 0:
            expected = reference.multilabel_confusion_matrix(y_true, y_pred, sample_weight=weight)
            found = metrics.multilabel_confusion_matrix(y_true, y_pred, sample_weight=weight)
            np.testing.assert_array_equal(found, expected)


def test_matrices_leave_unknown_labels_out():
    for seed in range(100):
        y_true, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed)
        for truth, guess, matrix in zip(
            y_true.T, y_pred.T, metrics.multilabel_confusion_matrix(y_true, y_pred), strict=True
        ):
            known = ~np.isnan(truth)
            expected = [[sum((truth[known] == row) & (guess[known] == column)) for column in (0, 1)] for row in (0, 1)]
            np.testing.assert_array_equal(matrix, expected)


def count_by_hand(y_true, y_pred, weight):
    n_classes = y_true.shape[1]
    counts, missed_and_known = np.zeros((2, n_classes, n_classes))
    for truth, guess, times in zip(y_true, y_pred, weight, strict=True):
        for i in range(n_classes):
            for j in range(n_classes):
                missed = truth[i] == 1 and guess[i] == 0
                missed_and_known[i, j] += times * (missed and not np.isnan(truth[j]))
                counts[i, j] += times * (missed and truth[j] == 0 and guess[j] == 1)
    return counts, missed_and_known


def test_predicted_instead_equals_loops_over_pairs():
    for seed in range(60):
        y_true, y_pred, weight = draw(seed)
        y_true = hide(y_true, seed) if seed % 2 else y_true
        counts, missed_and_known = count_by_hand(y_true, y_pred, weight)
        params = {"sample_weight": weight}
        np.testing.assert_array_equal(metrics.predicted_instead_matrix(y_true, y_pred, **params), counts)
        with np.errstate(invalid="ignore"):
            expected = counts / missed_and_known
        found = metrics.predicted_instead_matrix(y_true, y_pred, normalize=True, **params)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_predicted_instead_of_a_worked_example():
    # class 0 is missed in rows 0, 1 and 2; class 1 is wrongly predicted in rows 0 and 2, and unknown in row 1
    y_true, y_pred = [[1, 0], [1, np.nan], [1, 0], [0, 1]], [[0, 1], [0, 1], [0, 1], [1, 1]]
    found = metrics.predicted_instead_matrix(y_true, y_pred)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, [[0, 2], [0, 0]])
    shares = metrics.predicted_instead_matrix(y_true, y_pred, normalize=True)
    np.testing.assert_array_equal(shares, [[0, 1], [np.nan, np.nan]])  # class 1 is never missed


def test_normalize_must_be_a_flag():
    message = "The 'normalize' parameter of predicted_instead_matrix must be True or False. Got 'true' instead."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        metrics.predicted_instead_matrix([[1]], [[1]], normalize="true")
