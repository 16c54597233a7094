import copy
import itertools
import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.rules import create_rules, tune_abstention
from multilabelkit.thresholds import apply_thresholds


def raise_message(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def obeys(labels, spec):
    """Tell whether a set of labels obeys implications, exclusions and numbers, from their plain meaning."""
    if any(special in labels and general not in labels for special, general in spec.get("implies", [])):
        return False
    if any(len(labels & set(group)) > 1 for group in spec.get("excludes", [])):
        return False
    high = spec.get("max_labels")
    return len(labels) >= (spec.get("min_labels") or 0) and (high is None or len(labels) <= high)


def list_allowed(spec, n_classes):
    """Return all sets of labels that obey the rules, each as a tuple of booleans."""
    every = itertools.product([False, True], repeat=n_classes)
    return [flags for flags in every if obeys({c for c, flag in enumerate(flags) if flag}, spec)]


def draw_specs(*, max_classes=6, numbers=True):
    """Draw (spec, n_classes) over classes 0, 1, ...; some contradict themselves."""

    def draw_for(n_classes):
        pairs = st.lists(st.integers(0, n_classes - 1), min_size=2, max_size=2, unique=True).map(tuple)
        groups = st.lists(st.integers(0, n_classes - 1), min_size=2, max_size=3, unique=True).map(tuple)
        keys = {"implies": st.lists(pairs, max_size=4), "excludes": st.lists(groups, max_size=3)}
        if numbers:
            keys["min_labels"] = st.none() | st.integers(0, 3)
            keys["max_labels"] = st.none() | st.integers(1, n_classes)
        return st.fixed_dictionaries({}, optional=keys).map(lambda spec: (spec, n_classes))

    return st.integers(2, max_classes).flatmap(draw_for)


def choose_slowly(allowed, margins, order):
    """Return the allowed set with the largest sum of margins; of equal ones, the one with the first class in order."""
    return max(allowed, key=lambda flags: (sum(margins[c] for c in order if flags[c]), [flags[c] for c in order]))


def can_be_obeyed(spec, n_classes):
    allowed = list_allowed(spec, n_classes)
    return bool(allowed) and all(map(any, zip(*allowed, strict=True)))


@settings(max_examples=600, deadline=None)
@given(draw_specs(), st.integers(0, 2**32 - 1))
def test_decisions_are_the_best_set_of_all_that_obey_the_rules(drawn, seed):
    spec, n_classes = drawn
    if not can_be_obeyed(spec, n_classes):
        with pytest.raises(InputError):
            create_rules(spec, classes=range(n_classes))
        return
    rules = create_rules(spec, classes=range(n_classes))
    random = np.random.default_rng(seed)
    proba, thresholds = random.random((12, n_classes)), random.uniform(0.1, 0.9, n_classes)
    decisions = rules.apply(proba, thresholds)
    assert decisions.dtype == np.int64
    allowed = list_allowed(spec, n_classes)
    for row, margins in zip(decisions, logit(proba) - logit(thresholds), strict=True):
        assert tuple(row) == choose_slowly(allowed, margins, rules.order)


@settings(max_examples=300, deadline=None)
@given(draw_specs(), st.integers(0, 2**32 - 1))
def test_ties_are_settled_by_the_order_of_the_rules(drawn, seed):
    spec, n_classes = drawn
    if not can_be_obeyed(spec, n_classes):
        return
    rules = create_rules(spec, classes=range(n_classes))
    steps = np.random.default_rng(seed).integers(-1, 2, (12, n_classes))
    decisions = rules.apply(np.array([0.25, 0.5, 0.75])[steps + 1], 0.5)
    allowed = list_allowed(spec, n_classes)
    for row, margins in zip(decisions, np.where(steps == 0, 1, 1000 * steps), strict=True):
        assert tuple(row) == choose_slowly(allowed, margins.tolist(), rules.order)


@settings(max_examples=300, deadline=None)
@given(draw_specs(), st.integers(0, 2**32 - 1))
def test_cells_within_their_width_stay_open_unless_the_settled_ones_leave_one_answer(drawn, seed):
    spec, n_classes = drawn
    if not can_be_obeyed(spec, n_classes):
        return
    random = np.random.default_rng(seed)
    widths = random.uniform(0, 2, n_classes)
    rules = create_rules(spec | {"abstain": list(enumerate(widths))}, classes=range(n_classes))
    proba = random.random((12, n_classes))
    decided = create_rules(spec, classes=range(n_classes)).apply(proba, 0.5)
    result = rules.apply(proba, 0.5)
    unsure = np.abs(logit(proba)) < widths
    allowed = list_allowed(spec, n_classes)
    for row in range(len(proba)):
        settled = np.flatnonzero(~unsure[row])
        agreeing = [flags for flags in allowed if all(flags[c] == decided[row, c] for c in settled)]
        for c in range(n_classes):
            is_open = unsure[row, c] and len({flags[c] for flags in agreeing}) == 2
            np.testing.assert_equal(result[row, c], np.nan if is_open else decided[row, c])


@settings(max_examples=200, deadline=None)
@given(draw_specs(), st.integers(0, 2**32 - 1))
def test_applying_the_rules_to_decisions_changes_nothing(drawn, seed):
    spec, n_classes = drawn
    if can_be_obeyed(spec, n_classes):
        rules = create_rules(spec, classes=range(n_classes))
        decisions = rules.apply(np.random.default_rng(seed).random((12, n_classes)), 0.4)
        np.testing.assert_array_equal(rules.apply(decisions, 0.5), decisions)


CLASSES = ["day", "night", "dog", "poodle", "cat"]


def decide(spec, margins, **params):
    """Return the names that the rules predict for margins by class; those not named have -5."""
    rules = create_rules(spec, classes=CLASSES)
    row = rules.apply([[expit(margins.get(name, -5)) for name in CLASSES]], 0.5, **params)[0]
    return {name for name, decided in zip(CLASSES, row, strict=True) if decided == 1}


def test_the_larger_margin_wins_an_exclusion():
    spec = {"excludes": [("day", "night")]}
    assert decide(spec, {"day": 1, "night": 2}) == {"night"}
    assert decide(spec, {"day": 1, "night": -2}) == {"day"}
    assert decide(spec, {}) == set()


def test_the_margin_counts_and_not_the_probability():
    rules = create_rules({"excludes": [("day", "night")]}, classes=["day", "night"])
    np.testing.assert_array_equal(rules.apply([[0.8, 0.4]], [0.7, 0.1]), [[0, 1]])


def test_an_implied_class_comes_along_or_the_implying_one_goes():
    spec = {"implies": {"poodle": "dog"}}
    assert decide(spec, {"poodle": 2, "dog": -1}) == {"dog", "poodle"}
    assert decide(spec, {"poodle": 1, "dog": -2}) == set()
    assert decide(spec, {"poodle": -1, "dog": 2}) == {"dog"}


def test_implications_add_up_and_both_ways_mean_the_same():
    spec = {"implies": {"poodle": ["dog"], "dog": ["day", "cat"]}}
    assert decide(spec, {"poodle": 9, "dog": -1, "day": -1, "cat": -1}) == {"poodle", "dog", "day", "cat"}
    both = {"implies": [("dog", "poodle"), ("poodle", "dog")]}
    assert decide(both, {"poodle": 2, "dog": -1}) == {"dog", "poodle"}
    assert decide(both, {"poodle": 1, "dog": -2}) == set()


def test_too_few_labels_are_filled_with_the_largest_margins_and_what_they_imply():
    spec = {"min_labels": 2, "implies": {"poodle": "dog"}, "excludes": [("day", "night")]}
    assert decide(spec, {"poodle": -1, "dog": -2, "cat": -4}) == {"poodle", "dog"}
    assert decide(spec, {"day": -1, "night": -2, "cat": -3}) == {"day", "cat"}
    assert decide(spec, {"day": 1, "night": 1, "cat": 1, "dog": 1}) == {"day", "cat", "dog"}


def test_too_many_labels_are_cut_without_losing_what_is_implied():
    spec = {"max_labels": 2, "implies": {"poodle": "dog"}}
    assert decide(spec, {"poodle": 5, "dog": 0.1, "cat": 2, "day": 3}) == {"poodle", "dog"}
    assert decide(spec, {"poodle": 2, "dog": 0.1, "cat": 2, "day": 3}) == {"cat", "day"}


def test_without_rules_thresholds_decide():
    random = np.random.default_rng(0)
    proba = random.choice([0, 1e-12, 1e-9, 0.3, 0.5, 1 - 1e-12, 1], (200, 4))
    for thresholds in ([0, 1e-10, 0.3, 1], [1e-12, 1e-8, 0.5, 1 - 1e-9]):
        decisions = create_rules(None, classes="abcd").apply(proba, thresholds)
        np.testing.assert_array_equal(decisions, apply_thresholds(proba, thresholds))
        assert decisions.dtype == np.int64


def test_thresholds_come_in_every_form():
    rules = create_rules({}, classes=["sea", "sun"])
    for thresholds in (0.5, [0.5, 0.5], {"sun": 0.5, "sea": 0.5}, pd.Series({"sun": 0.5, "sea": 0.5})):
        np.testing.assert_array_equal(rules.apply([[0.4, 0.6]], thresholds), [[0, 1]])


def test_abstention_leaves_cells_near_their_threshold_open():
    rules = create_rules({"abstain": {"sea": 0.5}}, classes=["sea", "sun"])
    proba = expit(np.array([[0.4, 0.4], [-0.4, -0.4], [0.6, 0.1], [0.5, 0.0]]))
    np.testing.assert_array_equal(rules.apply(proba, 0.5), [[np.nan, 1], [np.nan, 0], [1, 1], [1, 1]])
    assert rules.apply(proba[2:], 0.5).dtype == np.int64
    everywhere = create_rules({"abstain": 0.2}, classes=["sea", "sun"])
    np.testing.assert_array_equal(everywhere.apply(proba[2:], 0.5), [[1, np.nan], [1, np.nan]])


def test_a_rule_decides_an_open_cell():
    spec = {"implies": {"poodle": "dog"}, "excludes": [("day", "night")], "abstain": 1}
    assert "dog" in decide(spec, {"poodle": 3, "dog": 0.1})
    rules = create_rules(spec, classes=CLASSES)
    margins = np.array([[3, 0.1, -5, 0.1, -5], [0.3, 0.2, 0.1, 0.1, -5]])
    # The day is sure, so there is no night; without a dog there is no poodle. In the second row nothing is sure.
    expected = [[1, 0, 0, 0, 0], [np.nan, np.nan, np.nan, np.nan, 0]]
    np.testing.assert_array_equal(rules.apply(expit(margins), 0.5), expected)


def test_rows_of_nan_stay_so():
    rules = create_rules({"min_labels": 1, "abstain": 0.1}, classes=["sea", "sun"])
    proba = np.array([[np.nan, np.nan], [0.2, 0.1]])
    for dtype in (np.float64, np.float32):
        np.testing.assert_array_equal(rules.apply(proba.astype(dtype), 0.5), [[np.nan, np.nan], [1, 0]])
    assert rules.apply(proba[1:], 0.5).dtype == np.int64
    assert rules.apply(np.empty((0, 2)), 0.5).shape == (0, 2)


def test_the_order_of_samples_and_their_number_do_not_matter(monkeypatch):
    random = np.random.default_rng(1)
    rules = create_rules({"implies": {3: 2}, "excludes": [(0, 1)], "max_labels": 2, "abstain": 0.3}, classes=range(5))
    proba = random.random((500, 5))
    whole = rules.apply(proba, 0.4)
    np.testing.assert_array_equal(rules.apply(proba[::-1], 0.4), whole[::-1])
    monkeypatch.setattr("multilabelkit.rules._ROOM", 1000)
    np.testing.assert_array_equal(rules.apply(proba, 0.4), whole)


def test_large_trees_groups_and_chains_are_searched_exactly():
    n_kinds, n_breeds = 12, 15
    kinds = [f"kind{kind}" for kind in range(n_kinds)]
    breeds = {f"kind{kind}-{breed}": f"kind{kind}" for kind in range(n_kinds) for breed in range(n_breeds)}
    classes = ["animal", *kinds, *breeds]
    excludes = [kinds, *([b for b in breeds if breeds[b] == kind] for kind in kinds)]
    rules = create_rules(
        {"implies": breeds | dict.fromkeys(kinds, "animal"), "excludes": excludes, "min_labels": 1}, classes=classes
    )
    margins = pd.DataFrame(np.random.default_rng(2).normal(-1, 1.5, (50, len(classes))), columns=classes)
    decisions = pd.DataFrame(rules.apply(expit(margins), 0.5), columns=classes)
    # One animal at most, of one kind, of one breed: so there are few sets, and a plain loop finds the best.
    paths = [["animal"], *(["animal", kind] for kind in kinds), *(["animal", k, b] for b, k in breeds.items())]
    for (_, row), (_, decided) in zip(margins.iterrows(), decisions.iterrows(), strict=True):
        assert set(decided.index[decided == 1]) == set(max(paths, key=lambda path: row[path].sum()))


@settings(max_examples=200, deadline=None)
@given(draw_specs(), st.none() | st.just(0.25) | st.dictionaries(st.integers(0, 1), st.floats(0, 5)))
def test_rules_come_back_from_json(drawn, abstain):
    spec, n_classes = drawn
    if can_be_obeyed(spec, n_classes):
        rules = create_rules(spec | {"abstain": abstain}, classes=range(n_classes))
        assert create_rules(json.loads(json.dumps(rules.to_dict())), classes=range(n_classes)) == rules


def test_to_dict_holds_what_was_given():
    spec = {
        "implies": [["poodle", "dog"]],
        "excludes": [["day", "night"]],
        "min_labels": 1,
        "max_labels": 3,
        "abstain": [["cat", 0.5]],
    }
    rules = create_rules(spec, classes=np.array(CLASSES))
    assert rules.to_dict() == spec
    assert create_rules({}, classes=CLASSES).to_dict() == {}
    same = create_rules(spec | {"implies": {np.str_("poodle"): "dog"}, "abstain": {"cat": 0.5}}, classes=CLASSES)
    assert same == rules == copy.deepcopy(rules) == pickle.loads(pickle.dumps(rules))


PAIRS = "a dict like {'poodle': 'dog'} or a list of pairs like [('poodle', 'dog')]"
GROUPS = "a list of groups of two or more different classes like [('day', 'night')]"
WIDTHS = "a width (a number >= 0, in logits) or widths by class like {'sea': 0.5}"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (["implies"], "rules must be a dict with some of the keys {keys}. Got ['implies']."),
        ({"imply": []}, "rules has the unknown key 'imply'; it may have {keys}. Did you mean 'implies'?"),
        ({3: []}, "rules has the unknown key 3; it may have {keys}."),
        ({"implies": "poodle"}, f"rules['implies'] must be {PAIRS}. Got 'poodle'."),
        ({"implies": ["poodle"]}, f"rules['implies'] must be {PAIRS}. Got the entry 'poodle'."),
        ({"implies": [("a", "b", "c")]}, f"rules['implies'] must be {PAIRS}. Got the entry ('a', 'b', 'c')."),
        (
            {"implies": {"poodle": "dogs"}},
            "rules['implies'] names the unknown class 'dogs'. Did you mean 'dog'?",
        ),
        ({"implies": {3: "dog"}}, "rules['implies'] names the unknown class 3."),
        ({"implies": [(["cat"], "dog")]}, "rules['implies'] names the unknown class ['cat']. Did you mean 'cat'?"),
        ({"excludes": {"day": "night"}}, f"rules['excludes'] must be {GROUPS}. Got {{'day': 'night'}}."),
        ({"excludes": ["day"]}, f"rules['excludes'] must be {GROUPS}. Got the entry 'day'."),
        ({"excludes": [("day",)]}, f"rules['excludes'] must be {GROUPS}. Got the entry ('day',)."),
        (
            {"excludes": [("day", "day")]},
            f"rules['excludes'] must be {GROUPS}. A class excludes itself in ('day', 'day').",
        ),
        ({"excludes": [("day", "nigth")]}, "rules['excludes'] names the unknown class 'nigth'. Did you mean 'night'?"),
        (
            {"min_labels": -1},
            "The 'min_labels' parameter of rules must be an integer >= 0, or None. Got -1 instead.",
        ),
        (
            {"max_labels": 0},
            "The 'max_labels' parameter of rules must be an integer >= 1, or None. Got 0 instead.",
        ),
        ({"abstain": -0.1}, f"rules['abstain'] must be {WIDTHS}. Got -0.1."),
        ({"abstain": {"cat": np.inf}}, f"rules['abstain'] must be {WIDTHS}. Got the entry ('cat', inf)."),
        ({"abstain": ["cat"]}, f"rules['abstain'] must be {WIDTHS}. Got the entry 'cat'."),
        ({"abstain": {"sea": 0.1}}, "rules['abstain'] names the unknown class 'sea'."),
        (
            {"implies": {"poodle": ["dog", "cat"]}, "excludes": [("cat", "dog")]},
            "The rules contradict each other: 'poodle' with what it implies includes 'cat' and 'dog', which exclude "
            "each other, so that it could never be predicted. Drop one of these rules.",
        ),
        (
            {"implies": {"poodle": "dog"}, "excludes": [("poodle", "dog")]},
            "The rules contradict each other: 'poodle' with what it implies includes 'poodle' and 'dog', which exclude "
            "each other, so that it could never be predicted. Drop one of these rules.",
        ),
        (
            {"min_labels": 3, "max_labels": 2},
            "The rules ask for at least 3 and at most 2 labels. Lower min_labels.",
        ),
        (
            {"min_labels": 6},
            "No set of labels obeys the rules: of those that 'implies' and 'excludes' allow, the largest with 5 "
            "labels, none has at least 6. Change min_labels or max_labels, or drop a rule.",
        ),
        (
            {"min_labels": 4, "max_labels": 4, "excludes": [("day", "night"), ("cat", "dog")]},
            "No set of labels obeys the rules: of those that 'implies' and 'excludes' allow, the largest with 3 "
            "labels, none has 4 to 4. Change min_labels or max_labels, or drop a rule.",
        ),
        (
            {"max_labels": 1, "implies": {"poodle": "dog", "cat": ["day"]}},
            "With 0 to 1 labels an image, 'implies' and 'excludes' leave 2 of 5 classes no set of labels: 'poodle', "
            "'cat'. Change min_labels or max_labels, or drop a rule.",
        ),
        (
            {"min_labels": 2, "excludes": [("cat", other) for other in CLASSES[:4]]},
            "With at least 2 labels an image, 'implies' and 'excludes' leave 1 of 5 classes no set of labels: 'cat'. "
            "Change min_labels or max_labels, or drop a rule.",
        ),
    ],
)
def test_create_rules_says_what_is_wrong(spec, message):
    with raise_message(message.replace("{keys}", "implies, excludes, min_labels, max_labels, abstain")):
        create_rules(spec, classes=CLASSES)


def test_create_rules_refuses_a_search_that_is_too_large():
    random = np.random.default_rng(0)
    pairs = [tuple(map(int, random.choice(90, 2, replace=False))) for _ in range(400)]
    with raise_message(
        "The rules tie 90 classes so closely that the best labels cannot be found exactly: more than 4096 cases to "
        "tell apart. Drop some; trees, chains and groups are no trouble."
    ):
        create_rules({"excludes": pairs}, classes=range(90))


def test_apply_says_what_is_wrong():
    rules = create_rules({}, classes=["sea", "sun"])
    for proba, shape in (([0.1, 0.2], "(2,)"), ([[0.1]], "(1, 1)")):
        with raise_message(
            "proba must have the shape (n_samples, 2), a column for each class of the rules. Got the shape "
            + shape
            + "."
        ):
            rules.apply(proba, 0.5)
    with raise_message("proba must be in [0, 1]. Got nan at row 1, column 0."):
        rules.apply([[0.1, 0.2], [np.nan, 0.2]], 0.5)
    with raise_message("proba must be in [0, 1]. Got 2 at row 0, column 1."):
        rules.apply([[0, 2]], 0.5)
    with raise_message("thresholds must hold one number for each of 2 classes. Got the shape (1,)."):
        rules.apply([[0.1, 0.2]], [0.5])


def find_width_slowly(truth, margins, max_error, confidence):
    """Try a width below each distance in plain Python."""
    distances = sorted({abs(margin) for margin in margins})
    for lower, upper in zip([-distances[0], *distances], distances, strict=False):
        right = [(m > 0) == t for t, m in zip(truth, margins, strict=True) if abs(m) >= upper]
        test = scipy.stats.binomtest(right.count(False), len(right), alternative="less")
        if test.proportion_ci(confidence, method="exact").high <= max_error:
            return (lower + upper) / 2
    return 33.0


@pytest.mark.filterwarnings("ignore:An error of")
@pytest.mark.parametrize(("max_error", "confidence"), [(0.02, 0.6), (0.1, 0.95), (0.3, 0.8), (0.3, 0.95)])
def test_tune_abstention_finds_the_smallest_width(max_error, confidence):
    for seed in range(40):
        random = np.random.default_rng(seed)
        margins = random.normal(0, 2, (60, 2)).round(1) + 0.05
        y_true = (random.random(margins.shape) < expit(margins)).astype(float)
        y_true[::5, 1] = np.nan
        widths = tune_abstention(y_true, expit(margins + 1), expit(1.0), max_error=max_error, confidence=confidence)
        for truth, column, width in zip(y_true.T, margins.round(2).T, widths, strict=True):
            known = ~np.isnan(truth)
            expected = find_width_slowly(truth[known], column[known], max_error, confidence)
            assert width == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:An error of")
def test_tune_abstention_keeps_its_promise_on_other_samples():
    errors, shares = [], []
    for seed in range(30):
        random = np.random.default_rng(seed)
        logits = random.normal(-0.5, 2, (4000, 4))
        y_true = (random.random(logits.shape) < expit(logits)).astype(float)
        widths = tune_abstention(y_true[:400], expit(logits[:400]), 0.5, max_error=0.1)
        rules = create_rules({"abstain": dict(enumerate(widths.tolist()))}, classes=range(4))
        decided = ~np.isnan(rules.apply(expit(logits), 0.5))
        for column, kept in zip(logits.T, decided.T, strict=True):
            errors.append(expit(-np.abs(column[kept])).mean() if kept.any() else 0.0)
        shares.append(decided.mean())
    assert len(errors) == 120
    assert sum(error > 0.1 for error in errors) <= 12  # of which 6 are expected
    assert np.mean(shares) > 0.3


def test_tune_abstention_says_where_an_error_is_not_attainable():
    y_true, proba = np.array([[0, 0, np.nan], [1, 1, np.nan]] * 30), np.array([[0.2, 0.9, 0.3], [0.8, 0.1, 0.6]] * 30)
    message = (
        "An error of 0.05 is not attainable with a confidence of 0.9 in 2 of 3 classes, of which every cell is left "
        "open: 'sun', 'fog'."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        widths = tune_abstention(y_true, proba, 0.5, max_error=0.05, confidence=0.9, classes=["sea", "sun", "fog"])
    np.testing.assert_array_equal(widths, [0, 33, 33])
    rules = create_rules({"abstain": widths[1]}, classes=["sea"])
    assert np.isnan(rules.apply([[0.0], [1.0]], 0.5)).all()


def test_tune_abstention_says_what_is_wrong():
    for max_error in (0, 1, "low"):
        with raise_message(
            f"The 'max_error' parameter of tune_abstention must be a number > 0 and < 1. Got {max_error!r} instead."
        ):
            tune_abstention([[1]], [[0.2]], 0.5, max_error=max_error)
    with raise_message("The 'confidence' parameter of tune_abstention must be a number > 0 and < 1. Got 1.0 instead."):
        tune_abstention([[1]], [[0.2]], 0.5, max_error=0.1, confidence=1.0)
