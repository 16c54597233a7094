import math
import re
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from multilabelkit.checks import (
    RANDOM_STATE,
    Check,
    Choice,
    Interval,
    check_indicator,
    check_parameters,
    check_sample_weight,
    check_scores,
    import_extra,
    shorten,
    suggest,
)
from multilabelkit.errors import InputError, MissingExtraError


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    ("constraint", "value", "accepted"),
    [
        (Choice(("a", "b")), "a", True),
        (Choice(("a", "b")), np.str_("b"), True),
        (Choice(("a", "b")), "A", False),
        (Choice(("a", "b")), None, False),
        (Choice(("a", "b")), ["a"], False),
        (Choice(("a", "b")), np.array(["a", "b"]), False),
        (Choice((True, False)), True, True),
        (Choice((True, False)), 1, False),
        (Choice((True, False)), 0.0, False),
        (Choice((True, False)), "True", False),
        (Choice((None,)), None, True),
        (Choice((None,)), False, False),
        (Interval(int, 1), 1, True),
        (Interval(int, 1), np.int8(3), True),
        (Interval(int, 1), 10**400, True),
        (Interval(int, 1), 0, False),
        (Interval(int, 1), 1.0, False),
        (Interval(int, 1), True, False),
        (Interval(int, 1), np.True_, False),
        (Interval(int, 1), "1", False),
        (Interval(int, 1), None, False),
        (Interval(int, 0, 9), -(10**400), False),
        (Interval(float, 0, 1), 0, True),
        (Interval(float, 0, 1), 1, True),
        (Interval(float, 0, 1), np.float32(0.5), True),
        (Interval(float, 0, 1), Fraction(1, 3), True),
        (Interval(float, 0, 1), 1.0000001, False),
        (Interval(float, 0, 1), -1e-9, False),
        (Interval(float, 0, 1), math.nan, False),
        (Interval(float, 0, 1), np.array(0.5), False),
        (Interval(float, 0, 1, open_low=True), 0, False),
        (Interval(float, 0, 1, open_low=True), 1, True),
        (Interval(float, 0, 1, open_high=True), 0, True),
        (Interval(float, 0, 1, open_high=True), 1, False),
        (Interval(float), 1e300, True),
        (Interval(float), -1, True),
        (Interval(float), math.inf, False),
        (Interval(float), -math.inf, False),
        (Interval(float), 1j, False),
        (Check(callable, "a function"), len, True),
        (Check(callable, "a function"), 3, False),
    ],
)
def test_constraint_accepts_what_it_describes(constraint, value, accepted):
    assert constraint.accepts(value) is accepted


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Choice((None,)), "None"),
        (Choice(("memory",)), "'memory'"),
        (Choice(("memory", None)), "'memory' or None"),
        (Choice((True, False)), "True or False"),
        (Choice(("auto", "bf16", "fp32")), "'auto', 'bf16' or 'fp32'"),
        (Interval(int), "an integer"),
        (Interval(float), "a number"),
        (Interval(int, 1), "an integer >= 1"),
        (Interval(int, 0, 2**32 - 1), "an integer >= 0 and <= 4294967295"),
        (Interval(float, 0, 1), "a number >= 0 and <= 1"),
        (Interval(float, 0, 1, open_low=True, open_high=True), "a number > 0 and < 1"),
        (Interval(float, high=0.25), "a number <= 0.25"),
        (Check(callable, "a function"), "a function"),
    ],
)
def test_constraint_describes_itself_in_words(constraint, words):
    assert constraint.describe() == words


def test_random_state_takes_what_scikit_learn_takes():
    accepted = [0, 2**32 - 1, np.int64(3), None, np.random.RandomState(0)]
    refused = [-1, 2**32, 1.5, "0", True, np.random.default_rng(0)]
    assert all(any(part.accepts(value) for part in RANDOM_STATE) for value in accepted)
    assert not any(any(part.accepts(value) for part in RANDOM_STATE) for value in refused)


def test_check_parameters_names_parameter_owner_range_and_value():
    message = "The 'seed' parameter of Net must be an integer >= 0 and <= 4294967295, or None, or a numpy RandomState. "
    with pytest.raises(InputError, match=whole(f"{message}Got 'one' instead.")):
        check_parameters("Net", {"size": 3, "seed": "one"}, {"size": [Interval(int, 1)], "seed": RANDOM_STATE})


def test_check_parameters_refuses_the_first_wrong_one_in_table_order():
    table = {"a": [Interval(int)], "b": [Interval(int)], "c": [Interval(int)]}
    with pytest.raises(InputError, match=whole("The 'b' parameter of f must be an integer. Got None instead.")):
        check_parameters("f", {"c": None, "b": None, "a": 1}, table)


def test_check_parameters_takes_any_iterable_of_constraints():
    check_parameters("f", {"a": "x"}, {"a": iter([Interval(int), Choice(("x",))])})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "'a'"),
        ("x" * 78, "'" + "x" * 78 + "'"),
        ("x" * 79, "'" + "x" * 76 + "..."),
        (10**5000, "<int too long to print>"),
        ([10**5000], "<list too long to print>"),
        (np.eye(2), "array([[1., 0.], [0., 1.]])"),
    ],
    ids=["short", "just fits", "too long", "endless integer", "endless integer inside", "several lines"],
)
def test_shorten_shows_one_line_of_at_most_eighty_characters(value, text):
    assert shorten(value) == text


@pytest.mark.parametrize(
    ("name", "known", "text"),
    [
        ("resnet_50", ["vgg16", "resnet50"], " Did you mean 'resnet50'?"),
        ("cat", ["cats", "cut", "dog"], " Did you mean 'cats' or 'cut'?"),
        ("zebra", ["cats"], ""),
        ("zebra", [], ""),
    ],
)
def test_suggest_names_what_is_near(name, known, text):
    assert suggest(name, known) == text


def test_check_indicator_returns_float64_of_zero_one_and_nan():
    checked = check_indicator(pd.DataFrame({"a": [1, None], "b": [True, False]}).astype(float))
    assert checked.dtype == np.float64
    np.testing.assert_array_equal(checked, [[1, 1], [np.nan, 0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            [1, 0],
            "y_true must have the shape (n_samples, n_classes). Got 1 dimension(s) of shape (2,); "
            "turn other label formats into such a table with as_indicator(labels).",
        ),
        ([[0, 1], [1, 2]], "y_true must hold only 0, 1 and NaN (unknown). Got 2 at row 1, column 1."),
        ([[0, -1]], "y_true must hold only 0, 1 and NaN (unknown). Got -1 at row 0, column 1."),
        ([[np.inf]], "y_true must hold only 0, 1 and NaN (unknown). Got inf at row 0, column 0."),
        (
            [["sea"], ["sun"]],
            "y_true must be an array of numbers. Got [['sea'], ['sun']] instead; "
            "turn labels of other formats into one with as_indicator(labels).",
        ),
        (
            [["sea"], []],
            "y_true must be an array of numbers. Got [['sea'], []] instead; "
            "turn labels of other formats into one with as_indicator(labels).",
        ),
    ],
    ids=["one dimension", "two", "minus one", "infinity", "names", "ragged"],
)
def test_check_indicator_refuses_what_is_no_label_table(values, message):
    with pytest.raises(InputError, match=whole(message)):
        check_indicator(values)


def test_check_indicator_refuses_a_sparse_matrix_in_words():
    with pytest.raises(InputError, match=r"^y_true must be an array of numbers\. Got <.*as_indicator\(labels\)\.$"):
        check_indicator(sparse.csr_matrix([[1.0, 0.0]]))


def test_check_scores_takes_logits_where_probabilities_are_not_asked_for():
    np.testing.assert_array_equal(check_scores(np.zeros((1, 2)), [[-3, 7]], probabilities=False), [[-3, 7]])


@pytest.mark.parametrize(
    ("scores", "probabilities", "message"),
    [
        ([[0.5]], True, "y_true and proba must have the same shape. Got (1, 2) and (1, 1)."),
        ([[0.5, 1.5]], True, "proba must be in [0, 1]. Got 1.5 at row 0, column 1."),
        ([[-0.5, 1]], True, "proba must be in [0, 1]. Got -0.5 at row 0, column 0."),
        ([[0.5, np.nan]], True, "proba must be in [0, 1]. Got nan at row 0, column 1."),
        ([[0.5, np.inf]], False, "proba must be finite. Got inf at row 0, column 1."),
        (
            [["a", "b"]],
            True,
            "proba must be an array of numbers. Got [['a', 'b']] instead; "
            "turn labels of other formats into one with as_indicator(labels).",
        ),
    ],
    ids=["shape", "above 1", "below 0", "nan", "infinite", "text"],
)
def test_check_scores_refuses_what_is_no_score(scores, probabilities, message):
    with pytest.raises(InputError, match=whole(message)):
        check_scores(np.zeros((1, 2)), scores, probabilities=probabilities)


def test_check_sample_weight_returns_float32_or_none():
    assert check_sample_weight(None, 3) is None
    weight = check_sample_weight([1, 0, 2.5], 3)
    assert weight.dtype == np.float32
    assert weight.tolist() == [1, 0, 2.5]


@pytest.mark.parametrize(
    ("weight", "found"),
    [
        ([1, 2], "an array of shape (2,)"),
        ([[1], [2], [3]], "an array of shape (3, 1)"),
        (1.0, "an array of shape ()"),
        ([1, -2, 3], "-2 at row 1"),
        ([1, 2, np.nan], "nan at row 2"),
        ([np.inf, 2, 3], "inf at row 0"),
        (["a", "b", "c"], "['a', 'b', 'c']"),
        ([[1], [1, 2]], "[[1], [1, 2]]"),
    ],
    ids=["short", "two columns", "one number", "negative", "nan", "infinite", "text", "ragged"],
)
def test_check_sample_weight_says_what_is_wrong(weight, found):
    message = "sample_weight must hold one finite weight >= 0 for each of the 3 rows of X. "
    with pytest.raises(InputError, match=whole(f"{message}Got {found}.")):
        check_sample_weight(weight, 3)


def test_check_sample_weight_wants_a_row_that_counts():
    message = "sample_weight is zero for all 3 rows. Give some of them a weight above 0."
    with pytest.raises(InputError, match=whole(message)):
        check_sample_weight([0, 0, 0], 3)


def test_import_extra_returns_the_module_that_was_named():
    assert import_extra("xml.dom", extra="none") is sys.modules["xml.dom"]


@pytest.mark.parametrize("module", ["nothing_of_this_name", "nothing_of_this_name.below"])
def test_import_extra_gives_the_pip_line(module):
    message = f"This needs the package '{module}', which is not installed. Run: pip install 'multilabelkit[export]'"
    with pytest.raises(MissingExtraError, match=whole(message)):
        import_extra(module, extra="export")


def test_import_extra_does_not_blame_a_package_that_is_there_for_what_it_lacks(tmp_path, monkeypatch):
    (tmp_path / "half_installed_package.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'nothing_of_this_name'$") as caught:
        import_extra("half_installed_package", extra="export")
    assert not isinstance(caught.value, MissingExtraError)
