import re
from functools import partial

import numpy as np
import pytest

from multilabelkit import metrics
from multilabelkit.bootstrap import draw_weights, find_interval, resample_headline
from multilabelkit.errors import InputError
from multilabelkit.metrics import bootstrap_interval


def draw(seed, n_samples=60, n_classes=4, share_unknown=0.2):
    """Return labels with rare classes, decisions and scores with ties."""
    rng = np.random.default_rng(seed)
    y_true = (rng.random((n_samples, n_classes)) < np.linspace(0.02, 0.6, n_classes)).astype(float)
    proba = np.round(0.5 * rng.random(y_true.shape) + 0.4 * y_true, 2)
    y_true[rng.random(y_true.shape) < share_unknown] = np.nan
    return y_true, (proba >= 0.5).astype(int), proba


def draw_rows(n_samples, n_bootstraps, seed):
    """Return the rows of each resample, from the numbers that the weights are made of."""
    weights = np.concatenate(list(draw_weights(n_samples, n_bootstraps=n_bootstraps, random_state=seed)))
    assert weights.shape == (n_bootstraps, n_samples)
    return [np.repeat(np.arange(n_samples), row.astype(int)) for row in weights]


@pytest.mark.parametrize(
    ("measure", "kind"),
    [
        (metrics.f1_score, "y_pred"),
        (partial(metrics.f1_score, average="samples"), "y_pred"),
        (metrics.cp_cr_cf1, "y_pred"),
        (partial(metrics.recall_score, average=None), "y_pred"),
        (metrics.mean_average_precision, "proba"),
        (metrics.coverage_error, "proba"),
        (metrics.expected_calibration_error, "proba"),
    ],
)
def test_interval_equals_percentiles_of_copied_rows(measure, kind):
    y_true, y_pred, proba = draw(0)
    predicted = y_pred if kind == "y_pred" else proba
    copies = [measure(y_true[rows], predicted[rows]) for rows in draw_rows(60, 50, 3)]
    interval = bootstrap_interval(measure, y_true, predicted, n_bootstraps=50, confidence=0.8, random_state=3)
    np.testing.assert_allclose(interval.low, np.nanquantile(copies, 0.1, axis=0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(interval.high, np.nanquantile(copies, 0.9, axis=0), rtol=0, atol=1e-9)


def test_every_resample_has_as_many_samples_and_is_drawn_fairly():
    rows = draw_rows(20, 4000, 0)
    assert {len(row) for row in rows} == {20}
    counts = np.bincount(np.concatenate(rows), minlength=20) / 4000
    np.testing.assert_allclose(counts, 1, atol=0.08)  # five standard deviations
    distinct = np.mean([len(set(row)) for row in rows])
    assert distinct == pytest.approx(20 * (1 - 0.95**20), rel=0.01)


def test_interval_of_a_share_is_that_of_the_binomial():
    y_true = np.zeros((2000, 1))
    y_pred = (np.arange(2000) < 400)[:, None].astype(int)
    interval = bootstrap_interval(metrics.hamming_loss, y_true, y_pred, n_bootstraps=4000)
    half = 1.96 * np.sqrt(0.2 * 0.8 / 2000)
    assert interval.low == pytest.approx(0.2 - half, abs=0.1 * half)
    assert interval.high == pytest.approx(0.2 + half, abs=0.1 * half)
    assert all(type(end) is float for end in interval)


def test_interval_is_the_same_for_the_same_seed_and_wider_for_more_confidence():
    y_true, y_pred, _ = draw(1)
    measure = partial(bootstrap_interval, metrics.f1_score, y_true, y_pred, n_bootstraps=100)
    assert measure() == measure(random_state=0) != measure(random_state=1)
    assert measure(random_state=np.random.RandomState(0)) == measure()
    narrow, wide = measure(confidence=0.5), measure(confidence=0.99)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_interval_leaves_out_resamples_in_which_the_metric_is_unknown():
    y_true, scores = [[1], [0], [0]], [[0.9], [0.1], [0.2]]
    interval = bootstrap_interval(metrics.mean_average_precision, y_true, scores, n_bootstraps=50)
    assert interval == (1, 1)
    never = bootstrap_interval(metrics.average_precision, np.zeros((3, 2)), np.zeros((3, 2)), n_bootstraps=5)
    assert np.isnan(never).all()
    assert np.shape(never) == (2, 2)


def test_percentiles_are_taken_of_each_column():
    scores = np.array([[0.0, np.nan], [1.0, 5.0], [2.0, np.nan], [3.0, 7.0], [4.0, np.nan]])
    low, high = find_interval(scores, confidence=0.5)
    np.testing.assert_array_equal(low, [1, 5.5])
    np.testing.assert_array_equal(high, [3, 6.5])


@pytest.mark.parametrize("zero_division", [0.0, 1.0])
def test_headline_of_all_resamples_at_once_equals_the_metrics_one_by_one(zero_division):
    for seed in range(5):
        y_true, y_pred, proba = draw(seed)
        params = {"zero_division": zero_division}
        headline, by_class = resample_headline(y_true, y_pred, proba, n_bootstraps=30, random_state=seed, **params)
        assert headline.shape == (30, 3)
        assert by_class.shape == (30, 4)
        for row, f1, rows in zip(headline, by_class, draw_rows(60, 30, seed), strict=True):
            truth, decided, scores = y_true[rows], y_pred[rows], proba[rows]
            expected = [
                metrics.f1_score(truth, decided, **params),
                metrics.f1_score(truth, decided, average="micro", **params),
                metrics.mean_average_precision(truth, scores),
            ]
            np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
            np.testing.assert_allclose(f1, metrics.f1_score(truth, decided, average=None, **params), atol=1e-12)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"n_bootstraps": 0},
            "The 'n_bootstraps' parameter of bootstrap_interval must be an integer >= 1. Got 0 instead.",
        ),
        (
            {"confidence": 1},
            "The 'confidence' parameter of bootstrap_interval must be a number > 0 and < 1. Got 1 instead.",
        ),
        (
            {"measure": "f1"},
            "The 'measure' parameter of bootstrap_interval must be a function such as metrics.f1_score. Got 'f1' "
            "instead.",
        ),
        (
            {"y_true": np.zeros((0, 2)), "predicted": np.zeros((0, 2))},
            "There is no sample to draw from: y_true has no rows. Pass at least one.",
        ),
    ],
)
def test_errors_say_what_to_do(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        bootstrap_interval(**{"measure": metrics.f1_score, "y_true": [[1]], "predicted": [[1]]} | params)
