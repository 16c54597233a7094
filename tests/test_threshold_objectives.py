"""Each objective against an exhaustive search in plain Python."""

import itertools
import re
import warnings

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, logit

from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.metrics import f1_score
from multilabelkit.threshold_objectives import OBJECTIVES
from multilabelkit.threshold_sweeps import cut_above, sweep_gains
from multilabelkit.thresholds import tune_thresholds

NEEDED = {"fbeta": {"beta": 2}, "precision": {"target": 0.6}, "recall": {"target": 0.6}}
EXACT = {"n_bootstraps": 0, "shrink": 0}
SCORES = st.one_of(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.7, 1.0]), st.floats(0, 1, width=32))


def draw_table(*, max_samples=9, max_classes=3, scores=SCORES):
    """Return (y_true, proba) with few positives, ties and unknown labels."""
    shapes = st.tuples(st.integers(1, max_samples), st.integers(1, max_classes))
    labels = st.sampled_from([0.0, 0.0, 1.0, np.nan])
    return shapes.flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=labels), hnp.arrays(np.float64, shape, elements=scores)
        )
    )


def tune_quietly(y_true, proba, objective, **params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        return tune_thresholds(y_true, proba, objective=objective, **params)


def list_known(truth, scores):
    return [(int(t), float(s)) for t, s in zip(truth, scores, strict=True) if t == t]


def count(known, threshold):
    """Return hits, false alarms, positives and negatives."""
    hits = sum(t for t, s in known if s >= threshold)
    n_positive = sum(t for t, _ in known)
    predicted = sum(s >= threshold for _, s in known)
    return hits, predicted - hits, n_positive, len(known) - n_positive


def list_cuts(known):
    """Return a threshold for each set of samples that some threshold predicts; one above 1 stands for none."""
    return [*sorted({s for _, s in known}), 2.0]


def measure_f2(hits, false_alarms, n_positive, n_negative):
    precision, recall = hits / max(hits + false_alarms, 1), hits / n_positive
    return 5 * precision * recall / (4 * precision + recall) if hits else 0.0


def measure_youden(hits, false_alarms, n_positive, n_negative):
    return hits / n_positive + (1 - false_alarms / n_negative if n_negative else 1)


def measure_saving(hits, false_alarms, n_positive, n_negative):
    return -(0.7 * false_alarms + 1.9 * (n_positive - hits))


def measure_nearness(hits, false_alarms, n_positive, n_negative):
    return -abs(hits + false_alarms - n_positive)


@pytest.mark.parametrize(
    ("objective", "options", "measure"),
    [
        ("fbeta", {"beta": 2}, measure_f2),
        ("youden", {}, measure_youden),
        ("cost", {"cost_fp": 0.7, "cost_fn": 1.9}, measure_saving),
        ("prior", {}, measure_nearness),
    ],
)
def test_objectives_of_one_class_find_the_best_of_all_cuts(objective, options, measure):
    @settings(max_examples=500, deadline=None)
    @given(draw_table(max_classes=2))
    def check(table):
        y_true, proba = table
        thresholds = tune_quietly(y_true, proba, objective, **options, **EXACT)
        for truth, scores, threshold in zip(y_true.T, proba.T, thresholds, strict=True):
            known = list_known(truth, scores)
            if not any(t for t, _ in known):
                continue
            free = max(s for _, s in known) < 1  # no threshold lies above a score of 1
            best = max(measure(*count(known, cut)) for cut in list_cuts(known)[: None if free else -1])
            assert measure(*count(known, threshold)) == pytest.approx(best, abs=1e-12)

    check()


@settings(max_examples=2000, deadline=None)
@given(draw_table(max_samples=30, max_classes=1), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.5, 0.9]))
def test_precision_takes_the_most_recall_that_its_lower_bound_allows(table, target, confidence):
    y_true, proba = table
    known = list_known(y_true[:, 0], proba[:, 0])
    if not any(t for t, _ in known):
        return
    allowed = []
    for cut in list_cuts(known)[:-1]:
        hits, false_alarms, *_ = count(known, cut)
        lower = scipy.stats.beta.ppf(1 - confidence, hits, false_alarms + 1) if hits else 0.0
        allowed += [hits] if lower >= target else []
    threshold = tune_quietly(y_true, proba, "precision", target=target, confidence=confidence)[0]
    hits, false_alarms, *_ = count(known, threshold)
    if allowed:
        assert hits == max(allowed)
        assert scipy.stats.beta.ppf(1 - confidence, hits, false_alarms + 1) >= target - 1e-9
    else:
        assert threshold == 1


@settings(max_examples=2000, deadline=None)
@given(draw_table(max_samples=30, max_classes=1), st.sampled_from([0.3, 0.5, 0.8]), st.sampled_from([0.5, 0.9]))
def test_recall_predicts_as_little_as_its_lower_bound_allows(table, target, confidence):
    y_true, proba = table
    known = list_known(y_true[:, 0], proba[:, 0])
    if not any(t for t, _ in known):
        return
    allowed = []
    for cut in list_cuts(known)[:-1]:
        hits, false_alarms, n_positive, _ = count(known, cut)
        lower = scipy.stats.beta.ppf(1 - confidence, hits, n_positive - hits + 1) if hits else 0.0
        allowed += [(hits + false_alarms, hits)] if lower >= target else []
    threshold = tune_quietly(y_true, proba, "recall", target=target, confidence=confidence)[0]
    hits, false_alarms, *_ = count(known, threshold)
    if allowed:
        assert (hits + false_alarms, hits) == min(allowed)
    else:
        assert threshold == 0


def measure_all(y_true, proba, thresholds, average):
    return f1_score(y_true, (proba >= thresholds).astype(int), average=average)


@pytest.mark.parametrize("objective", ["micro_f1", "samples_f1"])
def test_coordinate_ascent_ends_where_no_class_alone_can_gain(objective):
    average = objective.removesuffix("_f1")

    @settings(max_examples=1000, deadline=None)
    @given(draw_table(scores=st.floats(0, 0.984375, width=32)))
    def check(table):
        y_true, proba = table
        if not (y_true == 1).any(axis=0).all():
            return
        thresholds = tune_quietly(y_true, proba, objective, **EXACT)
        reached = measure_all(y_true, proba, thresholds, average)
        together = tune_quietly(y_true, proba, "global")
        assert reached >= measure_all(y_true, proba, together, average) - 1e-12
        for place in range(y_true.shape[1]):
            for cut in list_cuts(list_known(y_true[:, place], proba[:, place])):
                moved = thresholds.copy()
                moved[place] = cut
                assert measure_all(y_true, proba, moved, average) <= reached + 1e-9

    check()


@pytest.mark.parametrize("objective", ["micro_f1", "samples_f1"])
def test_coordinate_ascent_finds_the_best_of_all_thresholds_on_most_small_tables(objective):
    """It may stop short of the best in principle; on these it must not stop short often, nor by much."""
    average, short = objective.removesuffix("_f1"), []
    for seed in range(40):
        random = np.random.default_rng(seed)
        y_true = (random.random((8, 2)) < 0.4).astype(float)
        y_true[0] = 1
        proba = expit(2 * y_true - 1 + random.normal(size=y_true.shape))
        cuts = [sorted({*column, 1.0}) for column in proba.T]
        best = max(measure_all(y_true, proba, np.array(pair), average) for pair in itertools.product(*cuts))
        short.append(best - measure_all(y_true, proba, tune_quietly(y_true, proba, objective, **EXACT), average))
    assert np.mean(np.array(short) > 1e-9) <= 0.15, short
    assert np.mean(short) < 0.005


def draw_scores(seed, *, n_samples=400):
    random = np.random.default_rng(seed)
    y_true = (random.random((n_samples, 4)) < [0.4, 0.2, 0.1, 0.06]).astype(float)
    proba = expit(
        2.5 * y_true + logit([0.4, 0.2, 0.1, 0.06]) - 2.5**2 / 2 + 2.5 * random.normal(size=y_true.shape) / 2.5
    )
    y_true[random.random(y_true.shape) < 0.1] = np.nan
    return y_true, proba


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_objective_depends_on_the_order_of_samples(objective):
    y_true, proba = draw_scores(0)
    rows = np.random.default_rng(1).permutation(len(y_true))
    options = NEEDED.get(objective, {})
    moved = tune_quietly(y_true[rows], proba[rows], objective, **options)
    np.testing.assert_allclose(moved, tune_quietly(y_true, proba, objective, **options), rtol=1e-9)


@pytest.mark.parametrize("objective", OBJECTIVES)
@settings(max_examples=200, deadline=None)
@given(table=draw_table())
def test_thresholds_of_every_objective_lie_between_0_and_1(objective, table):
    thresholds = tune_quietly(*table, objective, n_bootstraps=3, **NEEDED.get(objective, {}))
    assert ((thresholds >= 0) & (thresholds <= 1)).all()


@pytest.mark.parametrize(
    ("objective", "options", "expected"),
    [
        ("cost", {"cost_fp": 1, "cost_fn": 4}, 0.2),
        ("cost", {}, 0.5),
        ("youden", {}, 0.3),
    ],
)
def test_calibrated_scores_get_the_threshold_that_theory_knows(objective, options, expected):
    random = np.random.default_rng(0)
    y_true = (random.random((200_000, 1)) < 0.3).astype(float)
    proba = expit(2 * (2 * y_true - 1) + logit(0.3) + 2 * random.normal(size=y_true.shape))
    assert tune_thresholds(y_true, proba, objective=objective, **options) == pytest.approx(expected, abs=0.02)


def test_fbeta_moves_from_precision_to_recall():
    y_true, proba = draw_scores(2, n_samples=4000)
    low, middle, high = (tune_quietly(y_true, proba, "fbeta", beta=beta) for beta in (0.5, 1, 2))
    assert (low > middle).all()
    assert (middle > high).all()
    np.testing.assert_array_equal(middle, tune_quietly(y_true, proba, "f1"))


def test_few_samples_are_drawn_to_what_theory_expects_of_costs():
    distances = {0: [], 20: []}
    for seed in range(20):
        random = np.random.default_rng(seed)
        y_true = (random.random((60, 5)) < 0.3).astype(float)
        proba = expit(2 * (2 * y_true - 1) + logit(0.3) + 2 * random.normal(size=y_true.shape))
        for n_bootstraps, found in distances.items():
            thresholds = tune_quietly(y_true, proba, "cost", cost_fn=4, n_bootstraps=n_bootstraps)
            found += list(np.abs(logit(thresholds.clip(0.001, 0.999)) - logit(0.2)))
    assert np.mean(distances[20]) < 0.5 * np.mean(distances[0])


def test_a_target_out_of_reach_is_said():
    y_true = np.array([[1, 1]] * 6 + [[0, 0]] * 54)
    proba = np.linspace(1, 0, 120).reshape(60, 2)
    proba[:, 1] = proba[::-1, 1]
    message = (
        "A precision of 0.5 is not attainable with a confidence of 0.95 in 1 of 2 classes; their thresholds are 1, "
        "which predicts nearly nothing: 'rare'. Lower the target or the confidence, or tune on more samples."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        thresholds = tune_thresholds(y_true, proba, objective="precision", target=0.5, classes=["common", "rare"])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert thresholds[1] == 1
    message = (
        "A recall of 0.9 is not attainable with a confidence of 0.95 in 2 of 2 classes; their thresholds are 0, which "
        "predicts all: 0, 1. Lower the target or the confidence, or tune on more samples."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        assert tune_thresholds(y_true, proba, objective="recall", target=0.9).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"objective": "fbeta"}, "objective='fbeta' needs beta, a number > 0. Got none."),
        ({"objective": "precision"}, "objective='precision' needs target, a number > 0 and < 1. Got none."),
        (
            {"objective": "precision", "target": 1},
            "The 'target' parameter of tune_thresholds must be a number > 0 and < 1. Got 1 instead.",
        ),
        (
            {"beta": 2},
            "beta=2 has no effect with objective='f1'; it belongs to 'fbeta'. Leave it out.",
        ),
        (
            {"objective": "cost", "target": 0.5},
            "target=0.5 has no effect with objective='cost'; it belongs to 'precision' and 'recall'. Leave it out.",
        ),
        (
            {"objective": "cost", "cost_fp": 0},
            "The 'cost_fp' parameter of tune_thresholds must be a number > 0. Got 0 instead.",
        ),
    ],
)
def test_options_that_do_not_fit_the_objective_are_refused(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        tune_thresholds([[1], [0]], [[0.6], [0.4]], **params)


def test_where_errors_cost_more_than_hits_nothing_is_predicted():
    y_true, proba = np.array([[0], [1], [0], [0]]), np.array([[0.8], [0.6], [0.4], [0.2]])
    threshold = tune_quietly(y_true, proba, "cost", cost_fp=10, **EXACT)
    assert threshold == [pytest.approx(0.9)]
    assert tune_quietly(y_true, proba / 0.8, "cost", cost_fp=10, **EXACT) == [0.625]  # one score is 1: no way around it
    assert tune_quietly(y_true, np.array([[1], [0.1], [0.4], [0.2]]), "cost", cost_fp=10, **EXACT) == [1]


def test_sweep_gains_of_a_worked_example():
    scores, gains = np.array([0.2, 0.9, 0.6, 0.9]), np.array([0.4, -0.5, 0.3, 0.1])
    assert sweep_gains(scores, gains) == 0.1  # 0.3 for all; -0.1 for three, -0.4 for two
    assert sweep_gains(scores, -gains) == 0.75
    assert sweep_gains(scores, np.full(4, -0.1)) == pytest.approx(0.95)
    assert cut_above(1.0) == 1
