import re

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from multilabelkit.errors import InputError
from multilabelkit.targets import read_targets

TABLE = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize(
    ("y", "names"),
    [
        ([["a", "c"], [], ["a", "b"]], ["a", "b", "c"]),
        ([{"a": 1, "c": 1}, {}, {"a": 1, "b": 1}], ["a", "b", "c"]),
        (pd.DataFrame(TABLE, columns=["z", "y", "x"]), ["z", "y", "x"]),
        (TABLE, [0, 1, 2]),
        (TABLE.tolist(), [0, 1, 2]),
        (list(map(tuple, TABLE.tolist())), [0, 1, 2]),
        (list(TABLE), [0, 1, 2]),
        (sparse.csr_array(TABLE), [0, 1, 2]),
        (torch.tensor(TABLE), [0, 1, 2]),
    ],
    ids=["lists", "dicts", "DataFrame", "array", "nested-list", "tuples", "list-of-arrays", "sparse", "tensor"],
)
def test_labels_of_every_format_are_read(y, names):
    targets = read_targets("Net", y)
    np.testing.assert_array_equal(targets.table, TABLE)
    assert targets.names.tolist() == targets.classes.tolist() == names


def test_separated_strings_are_labels():
    targets = read_targets("Net", ["a|c", "", "a|b"], label_sep="|")
    np.testing.assert_array_equal(targets.table, TABLE)


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        ([0, 1, 1], [0, 1]),
        (np.array([-1.0, 1.0, 1.0]), [-1, 1]),
        (np.array([False, True, True]), [0, 1]),
        (["no", "yes", "yes"], ["no", "yes"]),
        (pd.Series(["no", "yes", "yes"], index=[7, 8, 9]), ["no", "yes"]),
        (np.array(["no", "yes", "yes"], dtype=object), ["no", "yes"]),
    ],
    ids=["list", "floats", "bool", "strings", "Series", "object"],
)
def test_two_values_in_one_dimension_are_one_label(y, classes):
    targets = read_targets("Net", y)
    assert targets.table.tolist() == [[0], [1], [1]]
    assert targets.classes.tolist() == classes
    assert targets.names.tolist() == classes[1:]


def test_known_names_order_the_columns():
    known = np.array(["b", "c", "a"])
    for y in ([["a", "c"], [], ["a", "b"]], pd.DataFrame(TABLE, columns=list("abc"))):
        targets = read_targets("Net", y, known=known)
        assert targets.names.tolist() == ["b", "c", "a"]
        np.testing.assert_array_equal(targets.table, TABLE[:, [1, 2, 0]])


def test_tables_that_cannot_have_the_known_names_are_taken_as_they_are():
    known = np.array([0, 1, 2])
    assert read_targets("Net", pd.DataFrame(TABLE, columns=list("zyx")), known=known).names.tolist() == ["z", "y", "x"]
    assert read_targets("Net", TABLE[:, :1], known=known).names.tolist() == [0]
    assert read_targets("Net", TABLE, known=np.array(list("abc"))).names.tolist() == ["a", "b", "c"]


MESSAGES = [
    (None, "Net requires y to be passed, but the target y is None."),
    (
        [0, 1, 2],
        "Only binary classification is supported where y has one dimension. The type of the target is multiclass: "
        "3 values, [0, 1, 2]. Write [[label] for label in y] if a row may have several labels, and label_sep if a "
        "string holds several.",
    ),
    (np.ones(3), "y holds one class alone, 1.0. Pass rows of another class, too."),
    (
        [0.0, np.nan],
        "Row 1 of y is nan. Pass y with one dimension only where every value is known, and unknown labels as NaN in a "
        "table.",
    ),
    (
        ["no", None, "yes"],
        "Row 1 of y is None. Pass y with one dimension only where every value is known, and unknown labels as NaN in a "
        "table.",
    ),
    (
        [0.0, np.inf],
        "Row 1 of y is inf. Pass y with one dimension only where every value is known, and unknown labels as NaN in a "
        "table.",
    ),
    ([1j, 1.0], "Complex data not supported: y holds [1j, (1+0j)]. Pass labels."),
]


@pytest.mark.parametrize(("y", "message"), MESSAGES)
def test_other_labels_of_one_dimension_are_refused(y, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_targets("Net", y)
