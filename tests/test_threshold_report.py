"""What the report of thresholds foresees, against what endless new samples show."""

import numpy as np
import pytest
from scipy.special import expit, logit, ndtr

from multilabelkit.errors import InputError
from multilabelkit.thresholds import threshold_report, tune_thresholds

PREVALENCE, DISTANCE = np.array([0.05, 0.1, 0.2, 0.4]), np.array([2.0, 3.0, 1.5, 2.5])


def draw_scores(seed, *, n_samples, shift=0.0):
    """Return labels and scores, each class two normal distributions some distance apart, miscalibrated by a shift."""
    random = np.random.default_rng(seed)
    offset = logit(PREVALENCE) - DISTANCE**2 / 2 + shift * random.normal(size=4)
    y_true = (random.random((n_samples, 4)) < PREVALENCE).astype(float)
    return y_true, expit(DISTANCE * (DISTANCE * y_true + random.normal(size=y_true.shape)) + offset), offset


def measure_true_f1(thresholds, offset):
    """Return the F1 of endless new samples."""
    cut = (logit(np.clip(thresholds, 1e-12, 1 - 1e-12)) - offset) / DISTANCE
    hits, false_alarms = ndtr(DISTANCE - cut), ndtr(-cut)
    return 2 * PREVALENCE * hits / (PREVALENCE + PREVALENCE * hits + (1 - PREVALENCE) * false_alarms)


@pytest.mark.filterwarnings("ignore:Fewer than 5 known positives")
@pytest.mark.parametrize("shift", [0, 1.5])
@pytest.mark.parametrize("n_samples", [100, 600])
def test_expected_f1_and_gain_are_those_of_new_samples(n_samples, shift):
    off, gained = [], []
    for seed in range(12):
        y_true, proba, offset = draw_scores(seed, n_samples=n_samples, shift=shift)
        thresholds = tune_thresholds(y_true, proba)
        report = threshold_report(y_true, proba, thresholds, classes=range(4), tuned_by={})
        true, at_half = measure_true_f1(thresholds, offset), measure_true_f1(np.full(4, 0.5), offset)
        off.append(report["expected_f1"].mean() - true.mean())
        gained.append(report["expected_gain"].mean() - (true - at_half).mean())
    assert abs(np.mean(off)) < 0.025
    assert abs(np.mean(gained)) < 0.025


def test_intervals_hold_the_best_threshold_and_shrink_with_samples():
    held, width = [], {200: [], 3000: []}
    for n_samples, widths in width.items():
        for seed in range(8):
            y_true, proba, offset = draw_scores(seed, n_samples=n_samples)
            report = threshold_report(y_true, proba, tune_thresholds(y_true, proba), classes=range(4), tuned_by={})
            tried = np.linspace(0.01, 0.99, 99)
            best = tried[np.argmax([measure_true_f1(np.full(4, t), offset) for t in tried], axis=0)]
            held += list((report["low"] <= best) & (best <= report["high"]))
            widths += list(report["high"] - report["low"])
    assert np.mean(held) >= 0.85
    assert np.mean(width[3000]) < 0.5 * np.mean(width[200])


def test_the_report_of_other_objectives_is_tuned_by_them():
    y_true, proba, _ = draw_scores(0, n_samples=400)
    options = {"objective": "fbeta", "beta": 3}
    report = threshold_report(
        y_true, proba, tune_thresholds(y_true, proba, **options), classes=range(4), tuned_by=options
    )
    by_f1 = threshold_report(y_true, proba, tune_thresholds(y_true, proba), classes=range(4), tuned_by={})
    assert (report["expected_f1"] < by_f1["expected_f1"]).all()
    assert (report["high"] < by_f1["high"]).all()


def test_the_report_does_not_depend_on_the_order_of_samples_and_leaves_unknown_labels_out():
    y_true, proba, _ = draw_scores(1, n_samples=200)
    y_true[np.random.default_rng(0).random(y_true.shape) < 0.2] = np.nan
    y_true[:, 3] = 0
    thresholds = [0.3, 0.3, 0.4, 0.5]
    report = threshold_report(y_true, proba, thresholds, classes=list("abcd"), tuned_by={})
    assert report.columns.tolist() == [
        "threshold", "n_known", "n_positive", "f1_at_half", "f1", "low", "high", "expected_f1", "expected_gain",
    ]  # fmt: skip
    assert report.loc["d", ["low", "high"]].isna().all()  # no positive: nothing to tell
    proba[np.isnan(y_true)] = 0.987
    again = threshold_report(y_true, proba, thresholds, classes=list("abcd"), tuned_by={})
    np.testing.assert_allclose(again[["low", "high"]], report[["low", "high"]], rtol=1e-6)


def test_one_sample_and_no_positive_are_no_error():
    for y_true in ([[1.0]], [[0.0]], [[np.nan]]):
        report = threshold_report(y_true, [[0.7]], 0.5, classes=["sea"], tuned_by={})
        assert len(report) == 1


def test_of_a_class_without_positives_nothing_is_expected():
    y_true, proba, _ = draw_scores(3, n_samples=300)
    y_true[:, 2] = 0
    report = threshold_report(y_true, proba, 0.4, classes=list("abcd"), tuned_by={})
    assert report.loc["c", ["low", "high", "expected_f1", "expected_gain"]].isna().all()
    assert report.drop(index="c").notna().all(axis=None)


def test_an_end_of_the_scale_has_no_interval():
    y_true, proba, _ = draw_scores(3, n_samples=300)
    report = threshold_report(y_true, proba, [0.0, 1.0, 0.4, 0.5], classes=list("abcd"), tuned_by={})
    assert report[["low", "high"]].isna().all(axis=1).tolist() == [True, True, False, False]


def test_a_rare_class_among_many_samples_is_judged_by_its_labels():
    random = np.random.default_rng(0)
    y_true = (random.random((30_000, 1)) < 0.002).astype(float)
    proba = expit(3 * (3 * y_true + random.normal(size=y_true.shape)) - 4.5 + logit(0.002))
    thresholds = tune_thresholds(y_true, proba)
    report = threshold_report(y_true, proba, thresholds, classes=["sea"], tuned_by={})
    assert abs(report["expected_f1"].item() - report["f1"].item()) < 0.1


def test_no_rows_are_refused():
    message = "y_true and proba have no rows, so that nothing can be foreseen of these thresholds."
    with pytest.raises(InputError, match=f"^{message}$"):
        threshold_report(np.empty((0, 2)), np.empty((0, 2)), 0.5, classes=["a", "b"], tuned_by={})


@pytest.mark.parametrize("tuned_by", ["f1", 3])
def test_what_is_no_dict_of_keywords_is_refused(tuned_by):
    message = (
        "The 'tuned_by' parameter of threshold_report must be None or a dict of keywords of tune_thresholds. Got "
        f"{tuned_by!r} instead."
    )
    with pytest.raises(InputError, match=f"^{message}$"):
        threshold_report([[1], [0]], [[0.6], [0.4]], 0.5, classes=["sea"], tuned_by=tuned_by)


def test_wrong_keywords_are_refused():
    message = "beta=2 has no effect with objective='f1'; it belongs to 'fbeta'. Leave it out."
    with pytest.raises(InputError, match=f"^{message}$"):
        threshold_report([[1], [0]], [[0.6], [0.4]], 0.5, classes=["sea"], tuned_by={"beta": 2})
