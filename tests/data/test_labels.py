import re
import subprocess
import sys
from collections import deque
from enum import IntEnum, StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from scipy import sparse
from sklearn.model_selection import KFold, cross_val_predict, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import MultiLabelBinarizer

from multilabelkit.data.labels import as_indicator, as_labels, encode_labels
from multilabelkit.errors import InputError

NAN = np.nan
NAMES = ["sea", "sunset", "trees"]
LISTS = [["sunset", "sea"], [], ["trees"], ["sea", "trees"]]
TABLE = np.array([[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1]])
UNKNOWN = np.array([[1, NAN, 0], [NAN, NAN, NAN], [0, 1, NAN]])
NUMBER = (
    "Row 0 of y is the number {}, which may be a label or a cell of a table. Write np.asarray(y).reshape(-1, 1) for a "
    "table of one class, or [[3], [7]] for one label per image."
)
NESTED = (
    "y is a nested list of 0 and 1 with rows of equal length, which may be a table or integer labels. Pass np.array(y) "
    "for a table with one column per class, or sets such as {0, 1} for labels."
)
NO_LABEL = (
    "{} in row {} of y is no label: a label is a non-empty string or an integer. Write [] for an image without labels, "
    "and a dict such as {{'cat': None}} where one is unknown."
)
NO_ROW = (
    "Row 1 of y is {}. A row is a list, tuple, set or 1-D array of names, a string or a dict. Write [] if the image "
    "has no labels; if they are unknown, pass a table with a row of NaN."
)
CELL = (
    "A table of labels must hold only 0, 1 and NaN (unknown), or only -1 and 1. Got {} at row {}, column {}. If the "
    "rows hold names, pass them as lists or as one column: y.tolist() of an array, y['labels'] of a DataFrame."
)
OUT_OF_FOLD = (
    " If cross_val_predict made it, which numbers labels anew, use multilabelkit.model_selection.out_of_fold_proba "
    "instead."
)
MINUS_ONE = (
    "y holds -1 (first at row {}, column {}) beside 0 or NaN, so -1 may mean absent or uncertain. "
    'Say which with as_indicator(y, uncertain="missing"|"positive"|"negative").'
)
JOINED = (
    "{} in row {} of y looks like several labels in one string. Pass each row as one string with label_sep={} to "
    "split it, or name the classes with classes=[...]."
)
LETTERS = (
    "Every label of y is a single letter, as if strings had been split: row {} is {}. "
    "Pass the strings themselves, or classes=[...] if the letters are the classes."
)

names = st.text("abcdefgh", min_size=2, max_size=5)
label_lists = st.lists(st.lists(names | st.just("red car"), max_size=4), min_size=1, max_size=8).filter(any)


def whole(message):
    return f"^{re.escape(message)}$"


def object_array(rows):
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    return array


ROW_FORMATS = {
    "lists": LISTS,
    "tuples": tuple(map(tuple, LISTS)),
    "sets": [set(row) for row in LISTS],
    "frozensets": [frozenset(row) for row in LISTS],
    "dict keys": [dict.fromkeys(row).keys() for row in LISTS],
    "arrays": [np.array(row, dtype=str) for row in LISTS],
    "series of lists": pd.Series(LISTS),
    "object array of lists": object_array(LISTS),
    "list of series": [pd.Series(row, dtype=str) for row in LISTS],
    "deque of lists": deque(LISTS),
    "index of tuples": pd.Index(list(map(tuple, LISTS)), tupleize_cols=False),
    "dicts of 1": [dict.fromkeys(row, 1) for row in LISTS],
    "dicts of 0 and 1": [dict(zip(NAMES, row, strict=True)) for row in TABLE.tolist()],
    "dicts of bools": [dict(zip(NAMES, row, strict=True)) for row in TABLE.astype(bool)],
    "repeated labels": [row * 2 for row in LISTS],
    "numpy strings": [[np.str_(name) for name in row] for row in LISTS],
}
TABLE_FORMATS = {
    "int array": TABLE,
    "uint8 array": TABLE.astype(np.uint8),
    "bool array": TABLE.astype(bool),
    "float array": TABLE.astype(np.float64),
    "object array": TABLE.astype(object),
    "signed array": TABLE * 2 - 1,
    "masked array": np.ma.masked_array(TABLE),
    "csr matrix": sparse.csr_matrix(TABLE),
    "coo array": sparse.coo_array(TABLE.astype(bool)),
    "int tensor": torch.tensor(TABLE),
    "bfloat16 tensor": torch.tensor(TABLE, dtype=torch.bfloat16, requires_grad=True),
    "frame": pd.DataFrame(TABLE, columns=NAMES),
    "signed frame": pd.DataFrame(TABLE * 2 - 1, columns=NAMES),
    "bool frame": pd.DataFrame(TABLE.astype(bool), columns=NAMES),
    "nullable frame": pd.DataFrame(TABLE, columns=NAMES).astype({"sea": "boolean", "sunset": "Int64"}),
    "object frame": pd.DataFrame(TABLE.astype(object), columns=NAMES),
    "categorical frame": pd.DataFrame(TABLE, columns=NAMES).astype("category"),
    "sparse frame": pd.DataFrame(TABLE, columns=NAMES).astype(pd.SparseDtype("int64", 0)),
}
UNKNOWN_FORMATS = {
    "float array": UNKNOWN,
    "float16 array": UNKNOWN.astype(np.float16),
    "object array": np.where(np.isnan(UNKNOWN), None, UNKNOWN),
    "masked array": np.ma.masked_invalid(UNKNOWN),
    "tensor": torch.tensor(UNKNOWN),
    "csr matrix": sparse.csr_matrix(UNKNOWN),
    "frame": pd.DataFrame(UNKNOWN, columns=NAMES),
    "nullable frame": pd.DataFrame(UNKNOWN, columns=NAMES).astype("Int64"),
    "boolean frame": pd.DataFrame(UNKNOWN, columns=NAMES).astype("boolean"),
    "object frame": pd.DataFrame(UNKNOWN, columns=NAMES).astype(object).where(~np.isnan(UNKNOWN), pd.NA),
    "dicts of None": [
        {"sea": 1, "sunset": None},
        {"sea": None, "sunset": None, "trees": None},
        {"sunset": True, "trees": None},
    ],
    "dicts of NaN": [
        {"sea": 1.0, "sunset": NAN, "trees": 0.0},
        {"sea": NAN, "sunset": np.float32(NAN), "trees": pd.NA},
        {"sea": False, "sunset": np.int64(1), "trees": NAN},
    ],
}


def by_format(formats):
    return pytest.mark.parametrize("y", formats.values(), ids=formats.keys())


@by_format(ROW_FORMATS)
def test_encode_labels_of_every_row_format_is_what_sklearn_makes(y):
    Y, binarizer = encode_labels(y)
    oracle = MultiLabelBinarizer().fit(LISTS)
    np.testing.assert_array_equal(Y, oracle.transform(LISTS))
    assert Y.dtype == np.float32
    assert binarizer.classes_.dtype == oracle.classes_.dtype
    assert binarizer.classes_.tolist() == oracle.classes_.tolist() == NAMES
    assert {type(name) for name in binarizer.classes_} == {str}


@by_format(TABLE_FORMATS)
def test_encode_labels_of_every_table_format_keeps_cells_and_columns(y):
    Y, binarizer = encode_labels(y)
    np.testing.assert_array_equal(Y, TABLE)
    assert Y.dtype == np.float32
    assert binarizer.classes_.tolist() == (NAMES if isinstance(y, pd.DataFrame) else [0, 1, 2])


@by_format(ROW_FORMATS | TABLE_FORMATS)
def test_as_indicator_of_every_format_is_the_same_table(y):
    assert_frame_equal(as_indicator(y, classes=NAMES), pd.DataFrame(TABLE, columns=NAMES), check_index_type=False)


@by_format(UNKNOWN_FORMATS)
def test_unknown_labels_of_every_format_become_nan(y):
    Y, _ = encode_labels(y, classes=NAMES)
    np.testing.assert_array_equal(Y, UNKNOWN)
    assert Y.dtype == np.float32
    assert_frame_equal(as_indicator(y, classes=NAMES), pd.DataFrame(UNKNOWN.astype(np.float32), columns=NAMES))


@by_format(ROW_FORMATS | TABLE_FORMATS)
def test_as_labels_of_every_format_is_the_same_list(y):
    assert as_labels(y, classes=NAMES) == [("sea", "sunset"), (), ("trees",), ("sea", "trees")]


def test_as_labels_leaves_unknown_labels_out():
    assert as_labels(pd.DataFrame(UNKNOWN, columns=NAMES)) == [("sea",), (), ("sunset",)]
    assert as_labels(np.full((1, 2), NAN)) == [()]


def test_input_is_not_changed_and_result_is_a_writable_copy():
    frame = pd.DataFrame(TABLE.astype(np.float32) * 2 - 1, columns=NAMES)
    before = frame.copy()
    Y, _ = encode_labels(frame)
    Y[:] = 5
    assert_frame_equal(frame, before)
    array = before.to_numpy().copy()
    as_indicator(array, uncertain="missing")
    np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("y", "sep"),
    [
        (["sunset|sea", "", "trees", "sea|trees"], "|"),
        ([" sunset ; sea;", " ; ", "trees", "sea;;trees"], ";"),
        (pd.Series(["sunset sea", "", "trees", "sea trees"]), " "),
        (np.array(["sunset, sea", "", "trees", "sea, trees"]), ","),
        (["sunset|sea", [], {"trees": 1}, {"sea", "trees"}], "|"),
    ],
    ids=["bar", "semicolon with blanks", "space in a Series", "comma in an array", "beside other rows"],
)
def test_label_sep_splits_strings(y, sep):
    assert as_labels(as_indicator(y, label_sep=sep)) == as_labels(LISTS)
    assert as_labels(y, label_sep=sep) == as_labels(LISTS)
    np.testing.assert_array_equal(encode_labels(y, label_sep=sep)[0], TABLE)


def test_label_sep_leaves_other_formats_alone():
    assert_frame_equal(as_indicator(LISTS, label_sep="|"), as_indicator(LISTS))
    assert as_labels([["sea, deep"], ["trees"]], label_sep="|") == [("sea, deep",), ("trees",)]


@pytest.mark.parametrize(
    "y",
    [
        ["cat", "dog", "cat"],
        pd.Series(["cat", "dog", "cat"]),
        pd.Categorical(["cat", "dog", "cat"]),
        np.array(["cat", "dog", "cat"]),
    ],
    ids=["list", "series", "categorical", "array"],
)
def test_a_bare_string_is_one_label(y):
    assert as_labels(y) == [("cat",), ("dog",), ("cat",)]


@pytest.mark.parametrize(
    "y",
    [
        [[7], [3, 11], []],
        [{7}, {3, 11}, set()],
        [np.array([7]), np.array([3, 11]), []],
        [torch.tensor([7]), torch.tensor([3, 11]), []],
    ],
    ids=["lists", "sets", "arrays", "tensors"],
)
def test_integer_labels_are_sorted_as_numbers(y):
    Y, binarizer = encode_labels(y)
    np.testing.assert_array_equal(Y, [[0, 1, 0], [1, 0, 1], [0, 0, 0]])
    assert binarizer.classes_.dtype == MultiLabelBinarizer().fit([[3]]).classes_.dtype
    assert binarizer.classes_.tolist() == [3, 7, 11]
    assert as_labels(y) == [(7,), (3, 11), ()]
    assert all(type(label) is int for row in as_labels(y) for label in row)


def test_sets_of_0_and_1_and_uneven_lists_of_them_are_integer_labels():
    assert as_labels([{0, 1}, {1}]) == [(0, 1), (1,)]
    assert as_labels([[0, 1], [1]]) == [(0, 1), (1,)]
    assert as_labels([[0, 1], [0, 2]]) == [(0, 1), (0, 2)]


def test_enum_members_become_plain_labels():
    color = StrEnum("color", {"RED": "red", "BLUE": "blue"})
    size = IntEnum("size", {"BIG": 7, "SMALL": 3})
    assert encode_labels([[color.RED], [color.BLUE]])[1].classes_.tolist() == ["blue", "red"]
    assert list(map(type, as_labels([[color.RED]])[0])) == [str]
    assert as_labels([[size.BIG], [size.SMALL]]) == [(7,), (3,)]


def test_classes_fix_the_order_and_add_empty_columns():
    Y, binarizer = encode_labels(LISTS, classes=["trees", "snow", "sea", "sunset"])
    np.testing.assert_array_equal(Y, [[0, 0, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0]])
    assert binarizer.classes_.tolist() == ["trees", "snow", "sea", "sunset"]
    np.testing.assert_array_equal(encode_labels([[], []], classes=NAMES)[0], np.zeros((2, 3)))


@pytest.mark.parametrize(
    "classes", [MultiLabelBinarizer().fit(LISTS).classes_, np.array(NAMES), pd.Index(NAMES), tuple(NAMES)]
)
def test_classes_may_be_what_a_fitted_model_holds(classes):
    np.testing.assert_array_equal(encode_labels(LISTS, classes=classes)[0], TABLE)
    np.testing.assert_array_equal(encode_labels(TABLE, classes=classes)[0], TABLE)


def test_frame_is_reordered_to_classes():
    frame = pd.DataFrame(TABLE, columns=NAMES)
    assert_frame_equal(as_indicator(frame[["trees", "sea", "sunset"]], classes=NAMES), frame)
    assert list(as_indicator(frame[["trees", "sea", "sunset"]]).columns) == ["trees", "sea", "sunset"]
    assert encode_labels(pd.DataFrame(TABLE, columns=[30, 10, 20]), classes=[10, 20, 30])[0].tolist()[0] == [1, 0, 1]


def test_declared_names_may_hold_separators_and_be_letters():
    assert as_labels([["Bags, Purses"], []], classes=["Bags, Purses"]) == [("Bags, Purses",), ()]
    assert as_labels(pd.DataFrame({"Bags, Purses": [1, 0]})) == [("Bags, Purses",), ()]
    assert as_labels([["a", "b", "c"]], classes=["c", "b", "a"]) == [("c", "b", "a")]
    assert as_labels([["a", "b"], ["c"]]) == [("a", "b"), ("c",)]
    assert as_labels(["a", "b"]) == [("a",), ("b",)]
    assert as_labels(["a|b|c|d"], label_sep="|") == [("a", "b", "c", "d")]
    assert as_labels([["1", "2", "3"]]) == [("1", "2", "3")]


@pytest.mark.parametrize("n_classes", [1, 2])
def test_one_and_two_classes_work_like_many(n_classes):
    labels = [NAMES[:n_classes], [], NAMES[:1]]
    expected = [[1] * n_classes, [0] * n_classes, [1] + [0] * (n_classes - 1)]
    np.testing.assert_array_equal(encode_labels(labels)[0], expected)
    assert as_labels(np.array(expected), classes=NAMES[:n_classes]) == [tuple(row) for row in labels]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ([[1, -1], [-1, -1]], [[1, 0], [0, 0]]),
        ([[-1, -1]], [[0, 0]]),
        ([[1, 1]], [[1, 1]]),
        ([[1, NAN]], [[1, NAN]]),
    ],
    ids=["both", "all absent", "all present", "present or unknown"],
)
def test_signed_tables(table, expected):
    np.testing.assert_array_equal(encode_labels(np.array(table))[0], expected)


@pytest.mark.parametrize(("uncertain", "value"), [("missing", NAN), ("positive", 1), ("negative", 0)])
def test_uncertain_says_what_minus_one_means(uncertain, value):
    table = np.array([[1, -1], [-1, 0], [NAN, 1]])
    expected = np.array([[1, value], [value, 0], [NAN, 1]])
    np.testing.assert_array_equal(as_indicator(table, uncertain=uncertain), expected)
    np.testing.assert_array_equal(as_indicator(np.array([[1, -1]]), uncertain=uncertain), [[1, value]])
    np.testing.assert_array_equal(as_indicator([{"sea": 1, "sun": -1}], uncertain=uncertain), [[1, value]])


def test_as_indicator_keeps_the_index_and_picks_the_dtype():
    frame = as_indicator(pd.Series(LISTS, index=list("wxyz"), name="labels"))
    assert list(frame.index) == list("wxyz")
    assert list(frame.columns) == NAMES
    assert set(frame.dtypes) == {np.dtype(np.int64)}
    unknown = as_indicator(pd.DataFrame(UNKNOWN, columns=NAMES, index=[5, 3, 9]))
    assert list(unknown.index) == [5, 3, 9]
    assert set(unknown.dtypes) == {np.dtype(np.float32)}
    assert_frame_equal(as_indicator(frame), frame)


def test_as_indicator_makes_labels_that_sklearn_can_score():
    y = as_indicator(LISTS * 5)
    scores = cross_val_score(KNeighborsClassifier(1), TABLE.repeat(5, axis=0) * 1.0, y, scoring="f1_micro", cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()


@given(label_lists)
def test_labels_survive_the_round_trip(labels):
    expected = [tuple(sorted(set(row))) for row in labels]
    frame = as_indicator(labels)
    assert as_labels(frame) == as_labels(labels) == expected
    assert as_labels(as_labels(frame)) == expected
    oracle = MultiLabelBinarizer().fit(labels)
    np.testing.assert_array_equal(encode_labels(labels)[0], oracle.transform(labels))


@given(label_lists)
def test_formats_of_the_same_labels_agree(labels):
    frame = as_indicator(labels)
    assert_frame_equal(as_indicator(["|".join(row) for row in labels], label_sep="|"), frame)
    assert_frame_equal(as_indicator([dict.fromkeys(row, True) for row in labels]), frame)
    assert_frame_equal(as_indicator(frame.to_numpy() * 2 - 1, classes=list(frame.columns)), frame)


@given(st.lists(st.lists(st.sampled_from([0, 1, NAN]), min_size=3, max_size=3), min_size=1, max_size=6))
def test_tables_with_unknown_cells_survive_the_round_trip(rows):
    table = np.array([*rows, [0, 1, 0]])
    np.testing.assert_array_equal(as_indicator(as_indicator(table)), table)
    np.testing.assert_array_equal(encode_labels(table)[0], table)


def test_module_does_not_import_torch():
    code = "import sys, multilabelkit.data.labels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("y", "message"),
    [
        pytest.param("cat", "y is the single string 'cat'. Pass one entry per image, such as ['cat'].", id="string"),
        *(
            pytest.param(
                y,
                f"y must be a list with one row of labels per image, or a table. Got {text} instead.",
                id=f"container {text[:8]}",
            )
            for y, text in [
                (None, "None"),
                (3, "3"),
                (b"cat", "b'cat'"),
                ({"cat": 1}, "{'cat': 1}"),
                ({"cat"}, "{'cat'}"),
            ]
        ),
        pytest.param(
            np.zeros((2, 2, 2)),
            "y must have the shape (n_samples, n_classes). Got an array of shape (2, 2, 2).",
            id="3-D array",
        ),
        pytest.param(
            torch.tensor(1), "y must have the shape (n_samples, n_classes). Got an array of shape ().", id="0-D tensor"
        ),
        *(
            pytest.param(y, "y is empty. Pass the labels of at least one image.", id=f"empty {type(y).__name__}")
            for y in ([], np.zeros((0, 3)), pd.DataFrame({"cat": []}), pd.Series([], dtype=object))
        ),
        pytest.param(np.zeros((2, 0)), "y must have one column per class (1 or more). Got 0.", id="no columns"),
        pytest.param(
            pd.DataFrame(index=[0, 1]),
            "There is no name in the columns of y. Pass at least one class.",
            id="frame without columns",
        ),
        pytest.param(
            [[], []],
            "No row of y has a label, so there are no classes to learn. Name them with classes=[...].",
            id="no labels",
        ),
        *(
            pytest.param(
                y, "y holds no known label: every cell is NaN. Pass at least one 0 or 1.", id=f"all NaN {name}"
            )
            for name, y in {
                "array": np.full((2, 2), NAN),
                "frame": pd.DataFrame({"cat": [pd.NA, None]}),
                "dicts": [{"cat": None}],
            }.items()
        ),
    ],
)
def test_encode_labels_refuses_what_has_no_rows_or_no_labels(y, message):
    with pytest.raises(InputError, match=whole(message)):
        encode_labels(y)


@pytest.mark.parametrize(
    ("y", "number"),
    [
        ([3, 7, 3], "3"),
        ([0, 1, 2], "0"),
        (np.array([3, 7, 3]), "3"),
        (pd.Series([1.0, NAN]), "1.0"),
        ((True, False), "True"),
        (np.array([True, False]), "True"),
        ([1, ["cat"]], "1"),
        ([np.int64(1), ["cat", "dog"]], "1"),
    ],
    ids=["list", "numbered list", "array", "series", "bools", "bool array", "mixed", "mixed with numpy's"],
)
def test_numbers_in_one_dimension_are_ambiguous(y, number):
    with pytest.raises(InputError, match=whole(NUMBER.format(number))):
        as_indicator(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.array([2, 0, 1, 1]), NUMBER.format(2) + OUT_OF_FOLD),
        (np.array([[0, 1], [2, 0]]), CELL.format(2, 1, 0) + OUT_OF_FOLD),
        (np.array([[0, 1], [4, 0]]), CELL.format(4, 1, 0)),
        (np.array([[1, 1], [2, 1]]), CELL.format(2, 1, 0)),
        (np.array([[-1, 0], [2, 1]]), CELL.format(2, 1, 0)),
        (np.array([[0, 1], [2, 0]], dtype=np.uint8), CELL.format(2, 1, 0)),
        (np.array([[0, 1], [2, 0]], dtype=float), CELL.format(2.0, 1, 0)),
    ],
    ids=["numbers", "cells", "large", "without 0", "negative", "uint8", "floats"],
)
def test_what_cross_val_predict_may_have_numbered_is_refused_with_a_hint(y, message):
    with pytest.raises(InputError, match=whole(message)):
        as_indicator(y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["sea|sun", "sea", "", "sun"] * 6, NUMBER.format(2)),
        ([["sea", "sun"], ["sea", "sea"], ["sun", "sun"], ["moon", "sea"]] * 6, CELL.format(2, 2, 0)),
    ],
    ids=["strings", "lists"],
)
def test_labels_that_cross_val_predict_numbers_are_refused_with_the_hint(y, message):
    class Reader(KNeighborsClassifier):
        def fit(self, X, y):
            as_indicator(y)

    with pytest.raises(InputError, match=whole(message + OUT_OF_FOLD)):
        cross_val_predict(Reader(), np.zeros((24, 1)), y, cv=KFold(2), method="predict_proba")


def test_the_first_number_after_missing_ones_is_named():
    message = NUMBER.format(1.0).replace("Row 0", "Row 2")
    with pytest.raises(InputError, match=whole(message)):
        as_indicator(pd.Series([NAN, NAN, 1.0]))


@pytest.mark.parametrize(
    "y",
    [
        [[0, 1], [1, 0]],
        [[1], [0]],
        ((1, -1), (-1, 1)),
        [[1, None], [0, NAN]],
        [[True, False], (False, True)],
        [np.array([0.0, 1.0]), np.array([1.0, 0.0])],
        [torch.tensor([0, 1]), torch.tensor([1, 1])],
        pd.Series([[0, 1], [1, 1]]),
    ],
    ids=["0 and 1", "one column", "signed", "unknown", "bools", "arrays", "tensors", "series"],
)
@pytest.mark.parametrize("classes", [None, [0, 1]])
def test_nested_lists_of_0_and_1_are_refused(y, classes):
    with pytest.raises(InputError, match=whole(NESTED)):
        as_indicator(y, classes=classes)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (["cat", None], "None"),
        (["cat", NAN], "nan"),
        ([pd.NA], "<NA>"),
        (["cat", ""], "''"),
        ("  ", "'  '"),
        ([b"cat"], "b'cat'"),
        ([True, 3], "True"),
        ([3.0], "3.0"),
        ([["cat"]], "['cat']"),
        (np.array([0.5]), "0.5"),
        ({None: 1}, "None"),
    ],
    ids=repr,
)
def test_what_cannot_be_a_label_is_refused_with_its_row(row, text):
    with pytest.raises(InputError, match=whole(NO_LABEL.format(text, 1))):
        as_indicator([["dog"], row])


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (None, "None"),
        (NAN, "nan"),
        (pd.NA, "<NA>"),
        (b"cat", "b'cat'"),
        (Path, "<class 'pathlib.Path'>"),
        (np.array("cat"), "array('cat', dtype='<U3')"),
    ],
    ids=["None", "NaN", "NA", "bytes", "object", "0-D array"],
)
def test_what_cannot_be_a_row_is_refused(row, text):
    with pytest.raises(InputError, match=whole(NO_ROW.format(text))):
        as_indicator([["cat"], row])


def test_missing_row_of_a_series_is_refused():
    with pytest.raises(InputError, match=whole(NO_ROW.format("nan"))):
        as_indicator(pd.Series(["cat", None]))


@pytest.mark.parametrize(
    ("value", "text"), [(2, "2"), (0.5, "0.5"), ("yes", "'yes'"), ([1], "[1]")], ids=["2", "0.5", "text", "list"]
)
def test_dict_values_must_be_cells(value, text):
    with pytest.raises(InputError, match=whole(f"Row 1 of y gives 'cat' as {text}. Write 1, 0 or None (unknown).")):
        as_indicator([{"cat": 1}, {"dog": 1, "cat": value}])


@pytest.mark.parametrize(
    ("y", "words"),
    [([["cat"], ["dog", 3]], "'cat', but 3 in row 1"), ([{3: 1}, "cat"], "3, but 'cat' in row 1")],
    ids=["lists", "dict and string"],
)
def test_strings_and_integers_are_not_mixed(y, words):
    with pytest.raises(InputError, match=whole(f"y holds {words}. Use only strings or only integers.")):
        as_indicator(y)


@pytest.mark.parametrize(
    ("y", "text", "row", "column"),
    [
        (np.array([[0, 1], [7, 0]]), "7", 1, "0"),
        (np.array([[0.5, 1]]), "0.5", 0, "0"),
        (np.array([[np.inf]]), "inf", 0, "0"),
        (pd.DataFrame({"cat": [0, 3]}), "3.0", 1, "'cat'"),
        (pd.DataFrame({"cat": [0, None], "dog": [1, "x"]}, dtype=object), "'x'", 1, "'dog'"),
        (pd.DataFrame({"labels": ["cat", "dog"]}), "'cat'", 0, "'labels'"),
        (pd.DataFrame({"labels": [["cat"], ["dog"]]}), "['cat']", 0, "'labels'"),
        (np.array([["cat", "dog"]]), "'cat'", 0, "0"),
        (np.array([["1", "0"]]), "'1'", 0, "0"),
        (np.array([[1 + 0j]]), "(1+0j)", 0, "0"),
    ],
    ids=["int", "float", "inf", "frame", "object frame", "names", "lists", "text", "digits", "complex"],
)
def test_cells_of_a_table_must_be_0_1_or_unknown(y, text, row, column):
    with pytest.raises(InputError, match=whole(CELL.format(text, row, column))):
        as_indicator(y)


@pytest.mark.parametrize(
    ("y", "row", "column"),
    [
        (np.array([[1, 0], [1, -1]]), 1, "1"),
        (np.array([[NAN, -1]]), 0, "1"),
        (sparse.csr_array([[-1, 0]]), 0, "0"),
        (pd.DataFrame({"cat": [1, -1], "dog": [0, 1]}), 1, "'cat'"),
        ([{"cat": 1}, {"dog": -1}], 1, "'dog'"),
    ],
    ids=["beside 0", "beside NaN", "sparse", "frame", "dicts"],
)
@pytest.mark.parametrize("function", [encode_labels, as_indicator, as_labels])
def test_minus_one_beside_0_or_nan_is_refused(function, y, row, column):
    with pytest.raises(InputError, match=whole(MINUS_ONE.format(row, column))):
        function(y)


@pytest.mark.parametrize(
    ("y", "sep", "text", "row", "mark"),
    [
        (["cat", "cat|dog"], None, "'cat|dog'", 1, "'|'"),
        (["cat;dog"], None, "'cat;dog'", 0, "';'"),
        ([["cat", "a, b"]], None, "'a, b'", 0, "','"),
        ([{"cat|dog": 1}], None, "'cat|dog'", 0, "'|'"),
        ([["cat"], ["cat|dog"]], "|", "'cat|dog'", 1, "'|'"),
    ],
    ids=["bar", "semicolon", "comma in a list", "dict", "list in spite of label_sep"],
)
@pytest.mark.parametrize("classes", [None, ["cat", "dog"]])
def test_strings_that_hold_a_separator_are_refused(y, sep, text, row, mark, classes):
    with pytest.raises(InputError, match=whole(JOINED.format(text, row, mark))):
        as_indicator(y, classes=classes, label_sep=sep)


@pytest.mark.parametrize(
    ("y", "row", "text"),
    [
        ([list("trees")], 0, "['t', 'r', 'e', 'e', 's']"),
        ([list("ox"), tuple("egg")], 1, "('e', 'g', 'g')"),
        ([list("cat"), list("dog")], 0, "['c', 'a', 't']"),
        ([list("red car"), list("a,b")], 0, "['r', 'e', 'd', ' ', 'c', 'a', 'r']"),
    ],
    ids=["repeated letter", "repeated in a tuple", "three per row", "blank and comma"],
)
def test_strings_split_into_letters_are_refused(y, row, text):
    with pytest.raises(InputError, match=whole(LETTERS.format(row, text))):
        as_indicator(y)


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (
            [["cat"], ["dgo", "lion"], ["lion"]],
            ["cat", "dog"],
            "y holds 2 label(s) that are not among the 2 classes: 'dgo' in row 1. Did you mean 'dog'? 'lion' in row 1. "
            "Correct them, or name every class with classes=[...].",
        ),
        (
            [np.array([3]), np.array([9])],
            np.array([3, 7]),
            "y holds 1 label(s) that are not among the 2 classes: 9 in row 1. "
            "Correct them, or name every class with classes=[...].",
        ),
        (
            [[f"x{i}"] for i in range(7)],
            ["cat"],
            "y holds 7 label(s) that are not among the 1 classes: 'x0' in row 0. 'x1' in row 1. 'x2' in row 2. "
            "'x3' in row 3. 'x4' in row 4. Correct them, or name every class with classes=[...].",
        ),
        (
            pd.DataFrame({"cat": [1], "dgo": [0]}),
            ["cat", "dog"],
            "y holds 1 label(s) that are not among the 2 classes: 'dgo' in column 1. Did you mean 'dog'? "
            "Correct them, or name every class with classes=[...].",
        ),
        (
            pd.DataFrame({"cat": [1]}),
            ["cat", "dog", "fox"],
            "y lacks the columns ['dog', 'fox']. Add them, with NaN where a label is unknown.",
        ),
        (np.eye(2), ["cat", "dog", "fox"], "y must have one column per class (3). Got 2."),
    ],
    ids=["rows", "integers", "many", "extra column", "missing column", "matrix"],
)
def test_labels_that_do_not_fit_the_classes_are_refused(y, classes, message):
    with pytest.raises(InputError, match=whole(message)):
        encode_labels(y, classes=classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cat", "classes must be a list of names. Got 'cat' instead."),
        ({"cat"}, "classes must be a list of names. Got {'cat'} instead."),
        ([], "There is no name in classes. Pass at least one class."),
        (["cat", "cat"], "The name 'cat' is 2 times in classes. Give each class one name of its own."),
        (["cat", 3], "The names in classes must be all strings or all integers. Got ['cat', 3]."),
        (["cat", None], "None in classes is no label: a label is a non-empty string or an integer."),
        ([" "], "' ' in classes is no label: a label is a non-empty string or an integer."),
    ],
    ids=["string", "set", "empty", "repeated", "mixed", "None", "blank"],
)
def test_classes_must_be_unique_names(classes, message):
    with pytest.raises(InputError, match=whole(message)):
        as_indicator([["cat"]], classes=classes)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["cat", "cat"], "The name 'cat' is 2 times in the columns of y. Give each class one name of its own."),
        (["cat", 3], "The names in the columns of y must be all strings or all integers. Got ['cat', 3]."),
        ([0.5, 1.5], "0.5 in the columns of y is no label: a label is a non-empty string or an integer."),
    ],
    ids=["repeated", "mixed", "floats"],
)
def test_columns_must_be_unique_names(columns, message):
    with pytest.raises(InputError, match=whole(message)):
        as_indicator(pd.DataFrame(np.eye(2), columns=columns))


@pytest.mark.parametrize("function", [as_indicator, as_labels])
@pytest.mark.parametrize("label_sep", ["", 3])
def test_label_sep_must_be_a_string(function, label_sep):
    owner = f"The 'label_sep' parameter of {function.__name__}"
    message = f"{owner} must be None, or a non-empty string. Got {label_sep!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        function(["cat"], label_sep=label_sep)


def test_uncertain_must_be_a_known_word():
    message = (
        "The 'uncertain' parameter of as_indicator must be None, 'missing', 'positive' or 'negative'. "
        "Got 'ignore' instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        as_indicator(TABLE, uncertain="ignore")


@pytest.mark.parametrize(("label_sep", "mark"), [(",", "|"), (";", "|"), ("|", ",")])
def test_a_separator_that_is_nowhere_while_another_is_was_mistaken(label_sep, mark):
    y = [f"sea{mark}sunset", "trees"]
    message = (
        f"'sea{mark}sunset' in row 0 of y looks like several labels in one string. Pass each row as one string with "
        f"label_sep={mark!r} to split it, or name the classes with classes=[...]."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        as_indicator(y, label_sep=label_sep)
    assert as_indicator(["a,b|c", "c"], label_sep="|").columns.tolist() == ["a,b", "c"]
    assert as_indicator(y, label_sep=label_sep, classes=[f"sea{mark}sunset", "trees"]).shape == (2, 2)
