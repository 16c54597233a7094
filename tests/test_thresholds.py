import re
import warnings
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.metrics import f1_score
from multilabelkit.threshold_prior import combine_with_anchors, compute_anchors
from multilabelkit.thresholds import apply_thresholds, fix_thresholds, threshold_report, tune_thresholds

SCORES = {
    "tied": st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]),
    "any": st.floats(0, 1),
    "float32": st.floats(0, 1, width=32),
    "neighbours": st.sampled_from([float(x) for x in np.float32(0.3) + np.arange(-2, 3) * np.spacing(np.float32(0.3))]),
    "closest": st.sampled_from([0.3, np.nextafter(0.3, 0), np.nextafter(0.3, 1), 5e-324, 1e-320, 0.0, 1.0]),
}


def draw_table(elements, *, max_classes=3):
    """Return (y_true, proba) with few positives and unknown labels."""
    shapes = st.tuples(st.integers(1, 9), st.integers(1, max_classes))
    labels = st.sampled_from([0.0, 0.0, 1.0, np.nan])
    return shapes.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=labels), hnp.arrays(np.float64, shape, elements=elements)
        )
    )


SWEEP = {"n_bootstraps": 0, "shrink": 0}  # the exact sweep alone


def tune_quietly(*args, **params):
    params = SWEEP | params
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        return tune_thresholds(*args, **params)


def measure_f1(truth, decided):
    """Return F1 as an exact fraction, from lists."""
    hits = sum(1 for t, d in zip(truth, decided, strict=True) if t and d)
    total = sum(truth) + sum(decided)
    return Fraction(2 * hits, total) if total else Fraction(0)


def tune_slowly(truth, scores):
    """Try every midpoint in plain Python, with exact fractions; return the best F1 and the thresholds that reach it."""
    known = [(int(t), float(s)) for t, s in zip(truth, scores, strict=True) if not np.isnan(t)]
    values = sorted({s for _, s in known})
    tried = []
    for lower, upper in zip([0.0, *values], values, strict=False):
        f1 = measure_f1([t for t, _ in known], [s >= upper for _, s in known])
        tried.append((f1, (Fraction(lower) + Fraction(upper)) / 2, Fraction(lower), Fraction(upper)))
    best = max(f1 for f1, *_ in tried)
    return best, [candidate[1:] for candidate in tried if candidate[0] == best]


def assert_is_best(threshold, truth, scores):
    best, candidates = tune_slowly(truth, scores)
    known = ~np.isnan(truth)
    assert measure_f1([int(t) for t in truth[known]], list(scores[known] >= threshold)) == best
    nearest = min(abs(middle - Fraction(1, 2)) for middle, _, _ in candidates)
    chosen = [(middle, lower, upper) for middle, lower, upper in candidates if lower <= Fraction(threshold) <= upper]
    middle = min((abs(middle - Fraction(1, 2)), middle) for middle, _, _ in chosen)[1]
    # A midpoint may move to the score above it where it would not survive rounding to float32.
    assert float(abs(abs(middle - Fraction(1, 2)) - nearest)) < 1e-6
    assert threshold == pytest.approx(float(middle), abs=1e-7)


@pytest.mark.parametrize("kind", SCORES)
def test_tune_thresholds_finds_the_best_of_all_cuts(kind):
    @settings(max_examples=400, deadline=None)
    @given(draw_table(SCORES[kind]))
    def check(table):
        y_true, proba = table
        thresholds = tune_quietly(y_true, proba)
        for place in np.flatnonzero((y_true == 1).any(axis=0)):
            assert_is_best(thresholds[place], y_true[:, place], proba[:, place])

    check()


@pytest.mark.parametrize("kind", SCORES)
def test_classes_without_positives_get_the_best_threshold_of_all_cells(kind):
    @settings(max_examples=200, deadline=None)
    @given(draw_table(SCORES[kind]))
    def check(table):
        y_true, proba = table
        thresholds = tune_quietly(y_true, proba)
        empty = ~(y_true == 1).any(axis=0)
        if empty.all():
            np.testing.assert_array_equal(thresholds, 0.5)
            return
        everywhere = tune_quietly(y_true, proba, objective="global")
        np.testing.assert_array_equal(everywhere, everywhere[0])
        assert_is_best(everywhere[0], y_true.ravel(), proba.ravel())
        np.testing.assert_array_equal(thresholds[empty], everywhere[empty])

    check()


@pytest.mark.parametrize("n_samples", [50, 1000, 20_000])
def test_tune_thresholds_finds_the_best_cut_of_many_samples(n_samples):
    rng = np.random.default_rng(n_samples)
    for prevalence in (0.002, 0.1, 0.9):
        y_true = (rng.random(n_samples) < prevalence).astype(float)
        y_true[:6] = 1
        proba = 1 / (1 + np.exp(3 - 2 * y_true - rng.normal(size=n_samples)))
        y_true[rng.random(n_samples) < 0.1] = np.nan
        threshold = tune_quietly(y_true[:, None], proba[:, None])[0]
        known = ~np.isnan(y_true)
        truth, scores = y_true[known], proba[known]
        order = np.argsort(-scores)
        f1 = 2 * np.cumsum(truth[order]) / (truth.sum() + np.arange(1, len(truth) + 1))
        assert f1_score(truth[:, None], scores[:, None] >= threshold) == f1.max()
        lower, upper = scores[order][f1.argmax() + 1], scores[order][f1.argmax()]
        assert lower < threshold <= upper
        assert threshold == pytest.approx((lower + upper) / 2, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(draw_table(SCORES["any"] | SCORES["tied"]), st.randoms(use_true_random=False))
def test_tune_thresholds_does_not_depend_on_the_order_of_samples(table, random):
    y_true, proba = table
    order = random.sample(range(len(y_true)), len(y_true))
    np.testing.assert_array_equal(tune_quietly(y_true, proba), tune_quietly(y_true[order], proba[order]))


@settings(max_examples=200, deadline=None)
@given(draw_table(SCORES["any"] | SCORES["tied"]))
def test_tuned_thresholds_are_never_worse_than_half_on_the_same_data(table):
    y_true, proba = table
    tuned = f1_score(y_true, proba >= tune_quietly(y_true, proba), average=None)
    half = f1_score(y_true, proba >= 0.5, average=None)
    assert (np.isnan(half) | (tuned >= half)).all()
    together = tune_quietly(y_true, proba, objective="global")
    if (y_true == 1).any():
        pooled = [f1_score(y_true, proba >= t, average="micro") for t in (together, 0.5)]
        assert pooled[0] >= pooled[1]


@settings(max_examples=200, deadline=None)
@given(draw_table(SCORES["float32"] | SCORES["neighbours"]))
def test_thresholds_keep_float32_scores_apart_in_float32_too(table):
    y_true, proba = table
    thresholds = tune_quietly(y_true, proba)
    narrow = proba.astype(np.float32) >= thresholds.astype(np.float32)
    tuned_on = ~np.isnan(y_true) & (y_true == 1).any(axis=0)
    np.testing.assert_array_equal(narrow[tuned_on], (proba >= thresholds)[tuned_on])


@settings(max_examples=200, deadline=None)
@given(draw_table(st.integers(0, 64).map(lambda k: k / 64)))
def test_a_monotone_transform_of_the_scores_reaches_the_same_f1(table):
    y_true, proba = table
    squeezed = proba**2 / 2 + proba / 4
    before = f1_score(y_true, proba >= tune_quietly(y_true, proba), average=None)
    after = f1_score(y_true, squeezed >= tune_quietly(y_true, squeezed), average=None)
    positive = (y_true == 1).any(axis=0)
    np.testing.assert_array_equal(before[positive], after[positive])


def test_tune_thresholds_of_a_worked_example():
    y_true = np.array([[1, 0], [0, 0], [1, 1]])
    proba = np.array([[0.40, 0.2], [0.20, 0.1], [0.35, 0.9]])
    np.testing.assert_allclose(tune_quietly(y_true, proba), [0.275, 0.55], rtol=1e-15)


def test_tune_thresholds_takes_float32_and_leaves_its_input_alone():
    y_true = np.array([[1, 0], [np.nan, 0], [1, 1]] * 5, dtype=np.float32)
    proba = np.array([[0.40, 0.2], [0.20, 0.1], [0.35, 0.9]] * 5, dtype=np.float32)
    before = y_true.copy(), proba.copy()
    thresholds = tune_thresholds(y_true, proba)
    assert thresholds.dtype == np.float64
    np.testing.assert_array_equal(y_true, before[0])
    np.testing.assert_array_equal(proba, before[1])


def test_predicting_everything_puts_the_threshold_halfway_to_zero():
    np.testing.assert_array_equal(tune_thresholds(np.ones((5, 1)), np.full((5, 1), 0.4), **SWEEP), [0.2])
    np.testing.assert_array_equal(tune_thresholds(np.ones((5, 1)), np.zeros((5, 1)), **SWEEP), [0.0])


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.5, 0.4, 0.3], 0.7),  # or 0.15
        ([0.999, 0.99, 0.98, 0.97], 0.485),  # or 0.9945
        ([0.875, 0.625, 0.5625, 0.5], 0.25),  # or 0.75, as near
    ],
)
def test_of_equally_good_cuts_the_one_nearest_to_half_is_taken(scores, expected):
    # One of two positives without a false alarm, or both with two: F1 is 2 / 3 either way.
    thresholds = tune_quietly([[1], [0], [0], [1]], np.reshape(scores, (4, 1)))
    np.testing.assert_allclose(thresholds, [expected], rtol=1e-12)


def test_tune_thresholds_warns_of_classes_without_positives():
    y_true = np.array([[1, 0, np.nan]] * 5 + [[0, 0, 0]] * 5)
    proba = np.array([[0.8, 0.1, 0.1]] * 5 + [[0.2, 0.3, 0.4]] * 5)
    message = (
        "No known positive in 2 of 3 classes; they get the threshold that is best for all classes together, 0.6: "
        "'sunset', 'trees'."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        thresholds = tune_thresholds(y_true, proba, classes=np.array(["sea", "sunset", "trees"]), **SWEEP)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_allclose(thresholds, [0.5, 0.6, 0.6])


def test_tune_thresholds_warns_of_classes_with_few_positives():
    y_true = np.zeros((20, 4))
    y_true[:1, 0] = y_true[:4, 1] = y_true[:5, 2] = y_true[:5, 3] = 1
    y_true[0, 3] = np.nan
    message = (
        "Fewer than 5 known positives make the thresholds of 3 of 4 classes uncertain: 0 (1), 1 (4), 3 (4). "
        "Tune on more samples, or choose 'global', one threshold for all classes."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        tune_thresholds(y_true, np.linspace(0, 1, 80).reshape(20, 4))
    assert len(caught) == 1


@pytest.mark.parametrize("y_true", [np.zeros((3, 2)), np.full((3, 2), np.nan)], ids=["absent", "unknown"])
@pytest.mark.parametrize("objective", ["f1", "global"])
def test_tune_thresholds_keeps_half_where_no_class_has_a_positive(y_true, objective):
    message = "No class has a known positive, so nothing can be tuned: all 2 thresholds stay at 0.5."
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        thresholds = tune_thresholds(y_true, np.full((3, 2), 0.2), objective=objective)
    assert len(caught) == 1
    np.testing.assert_array_equal(thresholds, [0.5, 0.5])


def test_a_warning_lists_twenty_classes_and_counts_the_rest():
    y_true = np.zeros((5, 31))
    y_true[:, 0] = 1
    with pytest.warns(MultiLabelKitWarning, match=r"No known positive in 30 of 31 classes; .* 19, 20 and 10 more\.$"):
        tune_thresholds(y_true, np.full((5, 31), 0.2))


def draw_scores(seed, *, n_samples=80, n_classes=4):
    random = np.random.default_rng(seed)
    y_true = (random.random((n_samples, n_classes)) < [0.4, 0.2, 0.1, 0.06]).astype(float)
    proba = 1 / (1 + np.exp(-(2.5 * y_true - 1.5 + random.normal(size=y_true.shape))))
    y_true[random.random(y_true.shape) < 0.1] = np.nan
    return y_true, proba


def sweep_resamples(y_true, proba, *, n_bootstraps, random_state):
    """Return for each class its known positives and the logits of the thresholds of its resamples, in plain steps."""
    seed = np.random.RandomState(random_state).randint(2**31 - 1)
    for truth, scores in zip(y_true.T, proba.T, strict=True):
        known = sorted((score, label) for score, label in zip(scores, truth, strict=True) if label == label)
        random = np.random.default_rng(seed)
        logits = []
        for _ in range(n_bootstraps):
            drawn = [known[row] for row in random.integers(len(known), size=len(known))]
            if any(label for _, label in drawn):
                cut = tune_quietly([[label] for _, label in drawn], [[score] for score, _ in drawn])
                logits.append(scipy.special.logit(cut[0]))
        plain = scipy.special.logit(tune_quietly(truth[:, None], scores[:, None])[0])
        yield sum(label for _, label in known), logits or [plain]


def tune_by_the_formula(y_true, proba, *, n_bootstraps, shrink, random_state=0):
    """Average the sweeps of resamples in logits, then shrink towards the global threshold."""
    target = scipy.special.logit(tune_quietly(y_true, proba, objective="global")[0])
    resampled = sweep_resamples(y_true, proba, n_bootstraps=n_bootstraps, random_state=random_state)
    moved = [(n * np.mean(logits) + shrink * target) / (n + shrink) for n, logits in resampled]
    return scipy.special.expit(moved)


@pytest.mark.parametrize("shrink", [0, 5, 20])
@pytest.mark.parametrize("n_bootstraps", [1, 20])
def test_a_number_for_shrink_averages_resampled_sweeps_and_shrinks_rare_classes(n_bootstraps, shrink):
    for seed in range(3):
        y_true, proba = draw_scores(seed)
        params = {"n_bootstraps": n_bootstraps, "shrink": shrink, "random_state": seed}
        np.testing.assert_allclose(tune_quietly(y_true, proba, **params), tune_by_the_formula(y_true, proba, **params))


@pytest.mark.parametrize("n_bootstraps", [2, 20])
def test_default_rule_weighs_resampled_sweeps_against_anchors(n_bootstraps):
    for seed in range(3):
        y_true, proba = draw_scores(seed)
        params = {"n_bootstraps": n_bootstraps, "random_state": seed}
        n_positive, logits = zip(*sweep_resamples(y_true, proba, **params), strict=True)
        kind = np.nan_to_num(y_true, nan=2).astype(np.int16)
        combined = combine_with_anchors(
            np.array([np.mean(of_class) for of_class in logits]),
            compute_anchors(kind.T, proba.T),
            np.array([np.var(of_class) / 2 + 2 / n for n, of_class in zip(n_positive, logits, strict=True)]),
        )
        thresholds = tune_quietly(y_true, proba, shrink="auto", **params)
        np.testing.assert_allclose(thresholds, scipy.special.expit(combined), rtol=1e-9)


def test_auto_is_the_default_and_counts_as_0_without_two_resamples():
    y_true, proba = draw_scores(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        default = tune_thresholds(y_true, proba)
        np.testing.assert_array_equal(default, tune_thresholds(y_true, proba, shrink="auto", n_bootstraps=20))
    for few in (0, 1):
        unmoved = tune_quietly(y_true, proba, n_bootstraps=few, shrink=0)
        np.testing.assert_array_equal(tune_quietly(y_true, proba, n_bootstraps=few, shrink="auto"), unmoved)


def test_default_rule_does_not_see_classes_without_positives_or_known_samples():
    y_true, proba = draw_scores(1)
    default = {"n_bootstraps": 20, "shrink": "auto"}
    thresholds = tune_quietly(y_true, proba, **default)
    unknown = np.full((80, 1), np.nan)
    more = tune_quietly(np.hstack([unknown, y_true]), np.hstack([proba[:, :1], proba]), **default)
    np.testing.assert_allclose(more[1:], thresholds, rtol=1e-6)
    y_true[:, 2] = 0
    everywhere = tune_quietly(y_true, proba, objective="global")
    assert tune_quietly(y_true, proba, **default)[2] == everywhere[2]


@settings(max_examples=100, deadline=None)
@given(draw_table(SCORES["any"] | SCORES["tied"] | SCORES["closest"]))
def test_default_rule_stays_between_0_and_1_and_repeats_itself(table):
    thresholds = tune_quietly(*table, n_bootstraps=3, shrink="auto")
    assert ((thresholds >= 0) & (thresholds <= 1)).all()
    np.testing.assert_array_equal(tune_quietly(*table, n_bootstraps=3, shrink="auto"), thresholds)


def test_default_rule_of_one_class_of_positives_predicts_all():
    y_true, proba = np.ones((20, 1)), np.linspace(0.3, 0.9, 20)[:, None]
    assert 0 < tune_thresholds(y_true, proba)[0] < 0.3


@pytest.mark.parametrize("shrink", [5, "auto"])
def test_resampling_rules_do_not_depend_on_the_order_of_samples_or_classes(shrink):
    y_true, proba = draw_scores(0)
    rows, columns = np.random.default_rng(1).permutation(80), [2, 0, 3, 1]
    thresholds = tune_quietly(y_true, proba, n_bootstraps=20, shrink=shrink)
    moved = tune_quietly(y_true[rows][:, columns], proba[rows][:, columns], n_bootstraps=20, shrink=shrink)
    np.testing.assert_allclose(moved, thresholds[columns], rtol=1e-6)


def test_strong_shrinking_gives_all_classes_the_global_threshold():
    y_true, proba = draw_scores(0)
    thresholds = tune_quietly(y_true, proba, n_bootstraps=20, shrink=1e12)
    np.testing.assert_allclose(thresholds, tune_quietly(y_true, proba, objective="global"), rtol=1e-6)


def measure_true_macro_f1(n_samples, miscalibration):
    """Return the mean macro-F1, on endless new samples, of each rule tuned on a few: 20 classes, 16 repetitions.

    The scores of a class are two normal distributions some distance apart, as calibrated probabilities whose logits
    are then shifted by a number drawn for each class, `miscalibration` large.
    """
    rules = {"sweep": SWEEP, "old": {"n_bootstraps": 20, "shrink": 5}, "auto": {"n_bootstraps": 20, "shrink": "auto"}}
    found = {name: [] for name in rules}
    for seed in range(16):
        random = np.random.default_rng(seed)
        prevalence, distance = np.exp(random.uniform(np.log(0.01), np.log(0.3), 20)), random.uniform(1.5, 3.5, 20)
        offset = scipy.special.logit(prevalence) - distance**2 / 2 + random.normal(0, miscalibration, 20)
        y_true = (random.random((n_samples, 20)) < prevalence).astype(float)
        seen = distance * y_true + random.normal(size=y_true.shape)
        for name, rule in rules.items():
            thresholds = tune_quietly(y_true, scipy.special.expit(distance * seen + offset), **rule)
            cut = (scipy.special.logit(thresholds) - offset) / distance
            hits, false_alarms = scipy.special.ndtr(distance - cut), scipy.special.ndtr(-cut)
            predicted = prevalence * hits + (1 - prevalence) * false_alarms
            found[name].append(np.mean(2 * prevalence * hits / (prevalence + predicted)))
    return {name: np.mean(values) for name, values in found.items()}


@pytest.mark.parametrize(
    ("miscalibration", "over_sweep", "over_old"), [(0, 0.02, 0.001), (2, 0.001, 0.008)], ids=["calibrated", "shifted"]
)
def test_default_rule_beats_the_plain_sweep_and_a_fixed_shrink_on_new_samples(miscalibration, over_sweep, over_old):
    f1 = measure_true_macro_f1(100, miscalibration)
    assert f1["auto"] - f1["sweep"] > over_sweep, f1
    assert f1["auto"] - f1["old"] > over_old, f1


def test_the_global_objective_does_not_warn_of_rare_classes():
    y_true, proba = np.array([[1, 0], [0, 0]]), np.array([[0.8, 0.4], [0.2, 0.4]])
    np.testing.assert_allclose(tune_thresholds(y_true, proba, objective="global"), [0.6, 0.6])


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (0.3, [0.3, 0.3]),
        (1, [1.0, 1.0]),
        (np.float32(0.25), [0.25, 0.25]),
        ([0.1, 0.9], [0.1, 0.9]),
        (np.array([0, 1]), [0.0, 1.0]),
        ({"trees": 0.9, "sea": 0.1}, [0.1, 0.9]),
        (pd.Series({"trees": 0.9, "sea": 0.1}), [0.1, 0.9]),
    ],
    ids=["float", "int", "float32", "list", "array", "dict", "Series"],
)
def test_fix_thresholds_takes_each_form(thresholds, expected):
    fixed = fix_thresholds(thresholds, classes=["sea", "trees"])
    assert fixed.dtype == np.float64
    np.testing.assert_array_equal(fixed, expected)


def test_fix_thresholds_takes_integer_class_names():
    np.testing.assert_array_equal(fix_thresholds({np.int64(7): 0.1, 3: 0.2}, classes=np.array([3, 7])), [0.2, 0.1])


def test_fix_thresholds_takes_the_column_of_a_report():
    report = threshold_report([[1, 0], [0, 1]], [[0.9, 0.2], [0.1, 0.6]], [0.3, 0.4], classes=["sea", "trees"])
    np.testing.assert_array_equal(fix_thresholds(report["threshold"], classes=["trees", "sea"]), [0.4, 0.3])


def test_apply_thresholds_predicts_at_and_above_the_threshold():
    y_pred = apply_thresholds(np.array([[0.3, 0.29], [0.31, 0.6]]), [0.3, 0.6])
    assert y_pred.dtype == np.int64
    np.testing.assert_array_equal(y_pred, [[1, 0], [1, 1]])


def test_threshold_report_counts_and_measures_each_class():
    y_true = np.array([[1, 0, np.nan], [0, np.nan, np.nan], [1, 0, np.nan]])
    proba = np.array([[0.40, 0.2, 0.5], [0.20, 0.1, 0.5], [0.35, 0.9, 0.5]])
    report = threshold_report(y_true, proba, [0.275, 0.5, 0.5], classes=np.array(["sea", "trees", "sky"]))
    expected = pd.DataFrame(
        {
            "threshold": [0.275, 0.5, 0.5],
            "n_known": [3, 2, 0],
            "n_positive": [2, 0, 0],
            "f1_at_half": [0.0, 0.0, np.nan],
            "f1": [1.0, 0.0, np.nan],
        },
        index=pd.Index(["sea", "trees", "sky"], name="class"),
    )
    pd.testing.assert_frame_equal(report, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: tune_thresholds([[1]], [[0.5]], objective="f2"),
            "The 'objective' parameter of tune_thresholds must be 'f1', 'fbeta', 'micro_f1', "
            "'samples_f1', 'global', 'precision', 'recall', 'cost', 'youden' or 'prior'. Got 'f2' instead.",
        ),
        (
            lambda: tune_thresholds([[1]], [[0.5]], shrink="none"),
            "The 'shrink' parameter of tune_thresholds must be 'auto', or a number >= 0. Got 'none' instead.",
        ),
        (
            lambda: tune_thresholds([[1, 0]], [[0.5]]),
            "y_true and proba must have the same shape. Got (1, 2) and (1, 1).",
        ),
        (
            lambda: tune_thresholds([[1, 0]], [[0.5, np.nan]]),
            "proba must be in [0, 1]. Got nan at row 0, column 1.",
        ),
        (
            lambda: tune_thresholds([[1, 0]], [[0.5, 0.1]], classes=["sea"]),
            "classes must name each of 2 columns. Got 1 names: ['sea'].",
        ),
        (
            lambda: fix_thresholds([0.1, 0.2, 0.3], classes=["sea", "trees"]),
            "thresholds must hold one number for each of 2 classes. Got the shape (3,).",
        ),
        (
            lambda: fix_thresholds(1.5, classes=["sea", "trees"]),
            "A threshold must be a number >= 0 and <= 1. Got 1.5 for class 'sea'.",
        ),
        (
            lambda: fix_thresholds([0.1, np.nan], classes=["sea", "trees"]),
            "A threshold must be a number >= 0 and <= 1. Got nan for class 'trees'.",
        ),
        (
            lambda: fix_thresholds("f2", classes=["sea", "trees"]),
            "A threshold must be a number >= 0 and <= 1. Got 'f2' for class 'sea'.",
        ),
        (
            lambda: fix_thresholds({"see": 0.1, "trees": 0.5}, classes=np.array(["sea", "trees"])),
            "thresholds names unknown classes: 'see'. Did you mean 'sea' or 'trees'?",
        ),
        (
            lambda: fix_thresholds({"trees": 0.5}, classes=["sea", "trees"]),
            "thresholds must name every class. It lacks 1 of 2: 'sea'.",
        ),
        (
            lambda: apply_thresholds([0.1, 0.2], [0.5, 0.5]),
            "proba must have the shape (n_samples, n_classes). Got the shape (2,).",
        ),
        (
            lambda: apply_thresholds([[0.1, 0.2]], [0.5]),
            "thresholds must hold one number for each of 2 classes. Got the shape (1,).",
        ),
        (
            lambda: apply_thresholds([[0.1, np.nan]], 0.5),
            "proba must be in [0, 1]. Got nan at row 0, column 1.",
        ),
        (
            lambda: threshold_report([[1]], [[0.5]], 0.5, classes=["sea", "trees"]),
            "classes must name each of 1 columns. Got 2 names: ['sea', 'trees'].",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()
