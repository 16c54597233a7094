import re

import numpy as np
import pytest
from sklearn import metrics as reference
from sklearn.calibration import calibration_curve

from multilabelkit import metrics
from multilabelkit.errors import InputError

EXACT = {"rtol": 0, "atol": 1e-12}
N_MATRICES = 1000


def draw(seed):
    """Return a table of labels, probabilities with ties, 0 and 1 among them, and weights."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 30), rng.integers(2, 7)
    y_true = (rng.random(shape) < rng.choice([0.0, 0.1, 0.4, 1.0], shape[1])).astype(float)
    return y_true, np.round(rng.random(shape), rng.integers(1, 4)), rng.integers(0, 4, shape[0]) + 0.5


def hide(y_true, seed, share=0.3):
    return np.where(np.random.default_rng(seed).random(y_true.shape) < share, np.nan, y_true)


def test_cross_entropy_equals_sklearn_with_unknown_labels():
    for seed in range(N_MATRICES):
        y_true, proba, weight = draw(seed)
        y_true = hide(y_true, seed) if seed % 3 else y_true
        known = ~np.isnan(y_true)
        if not known.any():
            continue
        cells = {"sample_weight": np.broadcast_to(weight[:, None], y_true.shape)[known]} if seed % 2 else {}
        expected = reference.log_loss(y_true[known], proba[known], labels=[0, 1], **cells)
        found = metrics.binary_cross_entropy(y_true, proba, sample_weight=weight if seed % 2 else None)
        assert found == pytest.approx(expected, rel=0, abs=1e-12)


def test_cross_entropy_stays_finite_and_clips_as_sklearn_does():
    y_true = np.array([[1.0, 0.0], [0.0, 1.0]])
    for dtype in (np.float32, np.float64):
        wrong = (1 - y_true).astype(dtype)
        expected = reference.log_loss(y_true.ravel(), wrong.ravel(), labels=[0, 1])
        assert metrics.binary_cross_entropy(y_true, wrong) == pytest.approx(expected, rel=1e-6)


def test_brier_score_equals_sklearn_with_unknown_labels():
    for seed in range(N_MATRICES):
        y_true, proba, weight = draw(seed)
        y_true = hide(y_true, seed) if seed % 3 else y_true
        by_class = metrics.brier_score(y_true, proba, average=None, sample_weight=weight if seed % 2 else None)
        for place, (truth, guess) in enumerate(zip(y_true.T, proba.T, strict=True)):
            known = ~np.isnan(truth)
            if not known.any():
                assert np.isnan(by_class[place])
                continue
            params = {"sample_weight": weight[known]} if seed % 2 else {}
            expected = reference.brier_score_loss(truth[known], guess[known], pos_label=1, **params)
            assert by_class[place] == pytest.approx(expected, rel=0, abs=1e-12)


def test_brier_score_of_all_cells_and_of_all_classes():
    y_true, proba = [[1, 0], [0, np.nan]], [[0.5, 0.1], [0.3, 0.9]]
    assert metrics.brier_score(y_true, proba) == pytest.approx((0.17 + 0.01) / 2)
    assert metrics.brier_score(y_true, proba, average="micro") == pytest.approx((0.25 + 0.01 + 0.09) / 3)


def test_calibration_error_in_bins_of_equal_width_equals_the_curve_of_sklearn():
    for seed in range(N_MATRICES):
        y_true, proba, _ = draw(seed)
        n_bins = 1 + seed % 12
        found = metrics.expected_calibration_error(y_true, proba, average=None, n_bins=n_bins, strategy="uniform")
        for place, (truth, guess) in enumerate(zip(y_true.T, proba.T, strict=True)):
            share, mean = calibration_curve(truth, guess, n_bins=n_bins, pos_label=1)
            _, sizes = np.unique(np.searchsorted(np.linspace(0, 1, n_bins + 1)[1:-1], guess), return_counts=True)
            assert found[place] == pytest.approx(np.average(abs(share - mean), weights=sizes), rel=0, abs=1e-12)


def test_calibration_error_in_bins_of_equal_mass_equals_a_split_of_the_sorted_samples():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        n_bins, proba = int(rng.integers(1, 8)), rng.random(int(rng.integers(1, 60)))
        truth = (rng.random(len(proba)) < proba).astype(float)
        bins = {}
        for place, row in enumerate(np.argsort(proba)):
            bins.setdefault(n_bins * place // len(proba), []).append(proba[row] - truth[row])
        expected = sum(abs(sum(gaps)) for gaps in bins.values()) / len(proba)
        found = metrics.expected_calibration_error(truth[:, None], proba[:, None], n_bins=n_bins)
        assert found == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_calibration_error_of_a_worked_example(strategy):
    # at 0.6 half are present, at 0.9 all: (2 * 0.1 + 2 * 0.1) / 4
    y_true, proba = [[1], [0], [1], [1]], [[0.6], [0.6], [0.9], [0.9]]
    assert metrics.expected_calibration_error(y_true, proba, strategy=strategy) == pytest.approx(0.1)
    # in one bin the mean probability is the share of positives
    assert metrics.expected_calibration_error(y_true, proba, strategy=strategy, n_bins=1) == pytest.approx(0)


@pytest.mark.parametrize("strategy", ["quantile", "uniform"])
def test_calibration_error_leaves_unknown_labels_out(strategy):
    for seed in range(100):
        y_true, proba, weight = draw(seed)
        y_true = hide(y_true, seed)
        found = metrics.expected_calibration_error(y_true, proba, average=None, strategy=strategy, sample_weight=weight)
        for place, truth in enumerate(y_true.T):
            rows = ~np.isnan(truth)
            if not rows.any():
                assert np.isnan(found[place])
                continue
            column = truth[rows, None], proba[rows, place, None]
            alone = metrics.expected_calibration_error(*column, strategy=strategy, sample_weight=weight[rows])
            assert found[place] == pytest.approx(alone, rel=0, abs=1e-12)


def test_calibration_error_of_all_cells_puts_them_in_the_same_bins():
    y_true, proba = np.array([[1, 0], [1, 0]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    assert metrics.expected_calibration_error(y_true, proba) == 0.5
    assert metrics.expected_calibration_error(y_true, proba, average="micro") == 0  # the errors of the classes cancel
    hidden, weight = np.array([[1, np.nan], [np.nan, 0], [0, 1]]), [1, 2, 0]
    found = metrics.expected_calibration_error(hidden, np.full((3, 2), 0.5), average="micro", sample_weight=weight)
    assert found == pytest.approx((1 * -0.5 + 2 * 0.5) / 3)


def test_calibrated_probabilities_have_a_small_error_and_shifted_ones_their_shift():
    rng = np.random.default_rng(0)
    proba = rng.random((20_000, 1)) * 0.5
    y_true = (rng.random(proba.shape) < proba).astype(float)
    for strategy in ("quantile", "uniform"):
        assert metrics.expected_calibration_error(y_true, proba, strategy=strategy) < 0.015
        assert metrics.expected_calibration_error(y_true, proba + 0.3, strategy=strategy) == pytest.approx(
            0.3, abs=0.01
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.binary_cross_entropy([[1], [0]], [[0.1], [1.5]]),
            "proba must be in [0, 1]. Got 1.5 at row 1, column 0.",
        ),
        (
            lambda: metrics.brier_score([[1]], [[0.5]], average="samples"),
            "The 'average' parameter of brier_score must be 'macro', 'micro' or None. Got 'samples' instead.",
        ),
        (
            lambda: metrics.expected_calibration_error([[1]], [[0.5]], strategy="equal"),
            "The 'strategy' parameter of expected_calibration_error must be 'quantile' or 'uniform'. "
            "Got 'equal' instead.",
        ),
        (
            lambda: metrics.expected_calibration_error([[1]], [[0.5]], n_bins=0),
            "The 'n_bins' parameter of expected_calibration_error must be an integer >= 1. Got 0 instead.",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()
