import re
from enum import Enum

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from multilabelkit.data.exclusive_labels import create_encoder, encode_classes
from multilabelkit.errors import InputError

NAN = float("nan")
SEA, TREES, UNKNOWN = [1, 0], [0, 1], [NAN, NAN]


class Place(str, Enum):  # noqa: UP042  what older code has
    SEA = "sea"
    TREES = "trees"


def whole(message):
    return f"^{re.escape(message)}$"


def refuse(message):
    return pytest.raises(InputError, match=whole(message))


@pytest.mark.parametrize(
    "y",
    [
        ["sea", "trees", "sea"],
        ("sea", "trees", "sea"),
        np.array(["sea", "trees", "sea"]),
        np.array(["sea", "trees", "sea"], dtype=object),
        pd.Series(["sea", "trees", "sea"], index=[7, 7, 9]),
        pd.Series(["sea", "trees", "sea"], dtype="category"),
        pd.Categorical(["sea", "trees", "sea"], categories=["trees", "sea", "sky"]),
        pd.Index(["sea", "trees", "sea"]),
        pd.array(["sea", "trees", "sea"], dtype="string"),
        [Place.SEA, Place.TREES, Place.SEA],
    ],
    ids=["list", "tuple", "strings", "objects", "series", "category", "categorical", "index", "string-array", "enum"],
)
def test_names_in_any_sequence_become_a_table(y):
    targets, encoder = encode_classes(y)
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [SEA, TREES, SEA])
    assert encoder.classes_.tolist() == ["sea", "trees"]
    assert encoder.classes_.dtype == object
    assert {type(name) for name in encoder.classes_} == {str}


@pytest.mark.parametrize(
    "y",
    [
        [3, 11, 3],
        np.array([3, 11, 3], dtype=np.uint8),
        list(np.array([3, 11, 3])),
        [3.0, 11.0, 3.0],
        pd.Series([3, 11, 3], dtype="Int64"),
        torch.tensor([3, 11, 3]),
        list(torch.tensor([3, 11, 3])),
        range(3, 20, 8),
    ],
    ids=["list", "array", "scalars", "floats", "nullable", "tensor", "tensors", "range"],
)
def test_integers_are_names_too(y):
    targets, encoder = encode_classes(y)
    expected = [[1, 0], [0, 1], [1, 0]] if not isinstance(y, range) else np.eye(3)
    np.testing.assert_array_equal(targets, expected)
    assert encoder.classes_.tolist() == ([3, 11, 19] if isinstance(y, range) else [3, 11])
    assert encoder.classes_.dtype == np.int64


def test_integers_are_sorted_as_numbers():
    assert encode_classes([10, 9, -1])[1].classes_.tolist() == [-1, 9, 10]


@pytest.mark.parametrize(
    "y",
    [
        ["sea", None, "trees"],
        ["sea", NAN, "trees"],
        ["sea", pd.NA, "trees"],
        pd.Series(["sea", None, "trees"]),
        pd.Categorical(["sea", None, "trees"]),
        np.array(["sea", None, "trees"], dtype=object),
    ],
    ids=["none", "nan", "na", "series", "categorical", "array"],
)
def test_an_unknown_class_is_a_row_of_nan(y):
    np.testing.assert_array_equal(encode_classes(y)[0], [SEA, UNKNOWN, TREES])


@pytest.mark.parametrize(
    "y",
    [
        pd.Series([3, None, 7]),
        np.array([3, NAN, 7]),
        pd.Series([3, None, 7], dtype="Int64"),
        np.ma.masked_array([3, 5, 7], mask=[False, True, False]),
        torch.tensor([3, NAN, 7]),
    ],
    ids=["series", "array", "nullable", "masked", "tensor"],
)
def test_integers_beside_unknown_ones_stay_integers(y):
    targets, encoder = encode_classes(y)
    np.testing.assert_array_equal(targets, [SEA, UNKNOWN, TREES])
    assert encoder.classes_.dtype == np.int64


@pytest.mark.parametrize("classes", [["trees", "sky", "sea"], np.array(["trees", "sky", "sea"])], ids=["list", "array"])
def test_given_classes_keep_their_order(classes):
    targets, encoder = encode_classes(["sea", "sea"], classes=classes)
    assert encoder.classes_.tolist() == ["trees", "sky", "sea"]
    np.testing.assert_array_equal(targets, [[0, 0, 1], [0, 0, 1]])


def test_separators_are_letters_like_others():
    y = ["sea|sky", "a;b", "sea, far", "sea|sky"]
    assert encode_classes(y)[1].classes_.tolist() == ["a;b", "sea, far", "sea|sky"]


def test_names_of_one_letter_are_names():
    assert encode_classes(list("sea"))[1].classes_.tolist() == ["a", "e", "s"]


def test_y_is_left_as_it_is():
    y = np.array(["sea", None, "trees"], dtype=object)
    encode_classes(y)
    assert y.tolist() == ["sea", None, "trees"]


OTHER = "MultiLabelImageClassifier takes several labels an image."
ONE_EACH = f"but where classes exclude each other each image has one. Pass its name alone. {OTHER}"
NO_NAME = "is no class name: that is a non-empty string or an integer, and None where it is unknown."
TABLE = f"pass one column as y.ravel() of an array or y['class'] of a table. {OTHER}"
NO_LIST = "y must be a list with one class name per image. Got {} instead."


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ("sea", "y is the single string 'sea'. Pass one class per image, such as ['sea']."),
        (b"sea", NO_LIST.format("b'sea'")),
        (3, NO_LIST.format("3")),
        (None, NO_LIST.format("None")),
        ({"sea": 1}, NO_LIST.format("{'sea': 1}")),
        ({"sea"}, NO_LIST.format("{'sea'}")),
        ([], "y is empty. Pass the class of at least one image."),
        (np.array([]), "y is empty. Pass the class of at least one image."),
        (np.eye(3), f"y must be one-dimensional, with one class name per image. Got the shape (3, 3); {TABLE}"),
        (np.array(3), f"y must be one-dimensional, with one class name per image. Got the shape (); {TABLE}"),
        (
            pd.DataFrame({"class": ["sea", "trees"]}),
            f"y must be one-dimensional, with one class name per image. Got the shape (2, 1); {TABLE}",
        ),
        (
            sparse.csr_matrix(np.eye(2)),
            f"y must be one-dimensional, with one class name per image. Got the shape (2, 2); {TABLE}",
        ),
        (torch.eye(2), f"y must be one-dimensional, with one class name per image. Got the shape (2, 2); {TABLE}"),
        ([["sea", "sky"], ["sea"]], f"Row 0 of y is ['sea', 'sky'], {ONE_EACH}"),
        (["sea", {"trees"}], f"Row 1 of y is {{'trees'}}, {ONE_EACH}"),
        (["sea", {"trees": 1}], f"Row 1 of y is {{'trees': 1}}, {ONE_EACH}"),
        (["sea", []], f"Row 1 of y is [], {ONE_EACH}"),
        (["sea", np.array(["sky"])], f"Row 1 of y is array(['sky'], dtype='<U3'), {ONE_EACH}"),
        (["sea", ""], f"'' in row 1 of y {NO_NAME}"),
        (["sea", " "], f"' ' in row 1 of y {NO_NAME}"),
        (["sea", b"sky"], f"b'sky' in row 1 of y {NO_NAME}"),
        ([0, 0.5], f"0.5 in row 1 of y {NO_NAME}"),
        ([0, float("inf")], f"inf in row 1 of y {NO_NAME}"),
        ([True, False], f"True in row 0 of y {NO_NAME}"),
        (np.array([False, True]), f"False in row 0 of y {NO_NAME}"),
        (["sea", object], f"<class 'object'> in row 1 of y {NO_NAME}"),
        (["sea", None, 3], "y holds 'sea', but 3 in row 2. Use only strings or only integers."),
        (
            [None, NAN],
            "y holds no known class: every row is None or NaN. Pass the class of one image or more.",
        ),
        (
            ["sea", "sea", None],
            "y holds only the class 'sea', and telling classes apart takes at least two. Add images of another, or "
            "name all classes with classes=[...].",
        ),
    ],
    ids=str,
)
def test_what_is_no_list_of_names_is_refused(y, message):
    with refuse(message):
        encode_classes(y)


@pytest.mark.parametrize(
    ("y", "classes", "message"),
    [
        (
            ["sea", "tres", "tres", "moon"],
            ["sea", "trees"],
            "y holds 2 name(s) that are not among the 2 classes: 'tres' in row 1. Did you mean 'trees'? "
            "'moon' in row 3. Correct them, or name every class with classes=[...].",
        ),
        (
            [3, 5],
            [3, 4],
            "y holds 1 name(s) that are not among the 2 classes: 5 in row 1. Correct them, or name every class with "
            "classes=[...].",
        ),
        (
            ["3", "4"],
            [3, 4],
            "y holds 2 name(s) that are not among the 2 classes: '3' in row 0. '4' in row 1. Correct them, or name "
            "every class with classes=[...].",
        ),
        (["sea"], ["sea"], "There is only the class 'sea' in classes, and telling classes apart takes at least two."),
        (["sea"], ["sea", "sea"], "The name 'sea' is 2 times in classes. Give each class one name of its own."),
        (["sea"], "sea", "classes must be a list of names. Got 'sea' instead."),
        (["sea"], [], "There is no name in classes. Pass at least one class."),
        (["sea"], ["sea", 3], "The names in classes must be all strings or all integers. Got ['sea', 3]."),
    ],
    ids=["unseen", "unseen-integer", "other-type", "one", "twice", "string", "none", "mixed"],
)
def test_classes_that_do_not_fit_are_refused(y, classes, message):
    with refuse(message):
        encode_classes(y, classes=classes)


def test_messages_call_y_by_the_name_it_has_where_it_comes_from():
    with refuse("y_true is empty. Pass the class of at least one image."):
        encode_classes([], name="y_true")


def test_an_encoder_holds_its_classes_in_the_given_order():
    assert create_encoder(("b", "a")).classes_.tolist() == ["b", "a"]
    assert create_encoder([7, 3]).classes_.dtype == np.int64
