import re
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from multilabelkit import metrics
from multilabelkit.errors import InputError

EXACT = {"rtol": 0, "atol": 1e-12}
N_MATRICES = 1000
RATES = {
    metrics.precision_score: reference.precision_score,
    metrics.recall_score: reference.recall_score,
    metrics.f1_score: reference.f1_score,
}
AVERAGES = ["macro", "micro", "samples", "weighted", None]


def draw(seed):
    """Return a table of labels, decisions and weights, with absent and full classes among them."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 30), rng.integers(2, 7)  # sklearn wants two columns for a multi-label table
    y_true = (rng.random(shape) < rng.choice([0.0, 0.1, 0.4, 1.0], shape[1])).astype(float)
    return y_true, (rng.random(shape) < rng.random(shape[1])).astype(int), rng.integers(0, 4, shape[0]) + 0.5


def hide(y_true, seed, share=0.3):
    return np.where(np.random.default_rng(seed).random(y_true.shape) < share, np.nan, y_true)


@pytest.mark.parametrize("average", AVERAGES)
def test_rates_equal_sklearn_on_random_matrices(average):
    for seed in range(N_MATRICES):
        y_true, y_pred, weight = draw(seed)
        params = {"average": average, "zero_division": float(seed % 2), "sample_weight": weight if seed % 3 else None}
        expected = reference.precision_recall_fscore_support(y_true, y_pred, **params)
        for ours, theirs in zip(RATES, expected, strict=False):
            np.testing.assert_allclose(ours(y_true, y_pred, **params), theirs, **EXACT)
        params.pop("average")
        if average == "macro":
            cp, cr = expected[:2]
            cf1 = 2 * cp * cr / (cp + cr) if cp + cr else 0
            np.testing.assert_allclose(metrics.cp_cr_cf1(y_true, y_pred, **params), (cp, cr, cf1), **EXACT)
        if average == "micro":
            np.testing.assert_allclose(metrics.op_or_of1(y_true, y_pred, **params), expected[:3], **EXACT)


def test_cf1_of_a_worked_example_is_not_the_macro_f1():
    y_true, y_pred = [[1, 0], [1, 0], [0, 1], [0, 0]], [[1, 1], [0, 1], [0, 1], [0, 0]]
    # class 0: P 1, R 1/2, F1 2/3; class 1: P 1/3, R 1, F1 1/2
    found = metrics.cp_cr_cf1(y_true, y_pred)
    assert found == pytest.approx((2 / 3, 3 / 4, 12 / 17))
    assert (found.precision, found.recall, found.f1) == tuple(found)
    assert metrics.f1_score(y_true, y_pred) == pytest.approx(7 / 12)


def test_cf1_is_never_below_the_macro_f1():
    for seed in range(200):
        y_true, y_pred, _ = draw(seed)
        assert metrics.cp_cr_cf1(y_true, y_pred).f1 >= metrics.f1_score(y_true, y_pred) - 1e-12


def test_cf1_is_zero_where_precision_and_recall_are():
    assert metrics.cp_cr_cf1([[1], [0]], [[0], [1]]) == (0, 0, 0)


def test_overall_rates_of_a_worked_example():
    # 3 hits, 5 predicted, 4 present
    assert metrics.op_or_of1([[1, 0], [1, 0], [1, 1]], [[1, 1], [0, 1], [1, 1]]) == pytest.approx((3 / 5, 3 / 4, 2 / 3))


def test_cell_and_row_metrics_equal_sklearn_on_random_matrices():
    for seed in range(N_MATRICES):
        y_true, y_pred, weight = draw(seed)
        params = {"sample_weight": weight if seed % 2 else None}
        cells = {"sample_weight": np.repeat(weight, y_true.shape[1])} if seed % 2 else {}
        right = reference.accuracy_score(y_true.ravel(), y_pred.ravel(), **cells)
        found = [
            metrics.hamming_loss(y_true, y_pred, **params),
            metrics.binary_accuracy(y_true, y_pred, **params),
            metrics.subset_accuracy(y_true, y_pred, **params),
        ]
        expected = [
            reference.hamming_loss(y_true, y_pred, **params),
            right,
            reference.accuracy_score(y_true, y_pred, **params),
        ]
        np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("ours", RATES, ids=lambda ours: ours.__name__)
def test_unknown_labels_are_left_out_of_each_class(ours):
    for seed in range(100):
        y_true, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed)
        scores = ours(y_true, y_pred, average=None)
        for place, score in enumerate(scores):
            known = ~np.isnan(y_true[:, place])
            if not known.any():
                assert np.isnan(score)
                continue
            expected = RATES[ours](y_true[known, place], y_pred[known, place], zero_division=0.0)
            assert score == pytest.approx(expected, rel=0, abs=1e-12)
        if not np.isnan(scores).all():
            assert ours(y_true, y_pred) == pytest.approx(np.nanmean(scores), rel=0, abs=1e-12)


@pytest.mark.parametrize("ours", RATES, ids=lambda ours: ours.__name__)
def test_unknown_labels_are_left_out_of_each_sample(ours):
    for seed in range(25):
        y_true, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed, share=0.6)
        rows = [(truth[~np.isnan(truth)], pred[~np.isnan(truth)]) for truth, pred in zip(y_true, y_pred, strict=True)]
        expected = [RATES[ours](truth, pred, zero_division=0.0) for truth, pred in rows if len(truth)]
        assert ours(y_true, y_pred, average="samples") == pytest.approx(np.mean(expected), rel=0, abs=1e-12)


def test_unknown_labels_are_left_out_of_pooled_numbers():
    for seed in range(100):
        y_true, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed)
        known = ~np.isnan(y_true)
        if not known.any():
            continue
        truth, pred = y_true[known], y_pred[known]
        pairs = [
            (metrics.op_or_of1(y_true, y_pred).precision, reference.precision_score(truth, pred, zero_division=0.0)),
            (metrics.op_or_of1(y_true, y_pred).f1, reference.f1_score(truth, pred, zero_division=0.0)),
            (metrics.binary_accuracy(y_true, y_pred), np.mean(truth == pred)),
            (metrics.hamming_loss(y_true, y_pred), np.mean(truth != pred)),
        ]
        for ours, expected in pairs:
            assert ours == pytest.approx(expected, rel=0, abs=1e-12)


def test_subset_accuracy_asks_for_the_known_labels_and_skips_unknown_samples():
    y_true = [[1, np.nan], [np.nan, np.nan], [0, 1]]
    assert metrics.subset_accuracy(y_true, [[1, 1], [0, 0], [0, 0]]) == 0.5


def test_a_sample_without_labels_that_gets_none_counts_as_zero_division():
    y_true, y_pred = [[0, 0], [1, 0]], [[0, 0], [1, 0]]
    for measure in RATES:
        assert measure(y_true, y_pred, average="samples") == 0.5
        assert measure(y_true, y_pred, average="samples", zero_division=1.0) == 1.0


def test_a_class_that_is_neither_present_nor_predicted_counts_as_zero_division():
    y_true, y_pred = [[1, 0], [0, 0]], [[1, 0], [0, 0]]
    assert metrics.cp_cr_cf1(y_true, y_pred) == (0.5, 0.5, 0.5)
    assert metrics.cp_cr_cf1(y_true, y_pred, zero_division=1.0) == (1, 1, 1)
    assert metrics.op_or_of1([[0]], [[0]], zero_division=0.5) == (0.5, 0.5, 0.5)


def test_one_class_works_like_many():
    y_true, y_pred = [[1], [0], [1]], [[1], [1], [0]]
    for average in AVERAGES[:-1]:
        expected = 0.5 if average != "samples" else 1 / 3
        assert metrics.f1_score(y_true, y_pred, average=average) == pytest.approx(expected)


def test_metrics_take_data_frames():
    y_true, y_pred, _ = draw(0)
    expected = metrics.f1_score(y_true, y_pred)
    assert metrics.f1_score(pd.DataFrame(y_true), pd.DataFrame(y_pred)) == expected


def test_metrics_do_not_warn_about_absent_classes():
    y_true = np.zeros((4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.f1_score(y_true, y_true)
        metrics.cp_cr_cf1(y_true, y_true)


@pytest.mark.parametrize("k", [1, 2, 3, 9])
def test_top_k_decides_for_the_best_labels_of_each_sample_and_the_first_of_equal_ones(k):
    scores = np.round(np.random.default_rng(0).normal(size=(50, 5)), 1)
    y_pred = metrics.top_k_decisions(scores, k=k)
    assert y_pred.dtype == np.int64
    for row, decided in zip(scores, y_pred, strict=True):
        best = sorted(range(5), key=lambda place: (-row[place], place))[:k]
        assert np.flatnonzero(decided).tolist() == sorted(best)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.f1_score([[1]], [[1]], average="makro"),
            "The 'average' parameter of f1_score must be 'macro', 'micro', 'samples', 'weighted' or None. "
            "Got 'makro' instead.",
        ),
        (
            lambda: metrics.recall_score([[1]], [[1]], zero_division="warn"),
            "The 'zero_division' parameter of recall_score must be a number >= 0 and <= 1. Got 'warn' instead.",
        ),
        (
            lambda: metrics.cp_cr_cf1([[1]], [[1]], zero_division=2),
            "The 'zero_division' parameter of cp_cr_cf1 must be a number >= 0 and <= 1. Got 2 instead.",
        ),
        (
            lambda: metrics.top_k_decisions([[1.0]], k=0),
            "The 'k' parameter of top_k_decisions must be an integer >= 1. Got 0 instead.",
        ),
        (
            lambda: metrics.top_k_decisions([1.0, 2.0], k=1),
            "scores must have the shape (n_samples, n_classes). Got (2,).",
        ),
        (
            lambda: metrics.top_k_decisions([[1.0, np.nan]], k=1),
            "scores must be finite. Got nan at row 0, column 1.",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()
