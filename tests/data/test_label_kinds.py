import numpy as np
import pandas as pd
import pytest

from multilabelkit.data.label_kinds import find_names, unnest


@pytest.mark.parametrize(
    "y", [["sea"], [1, 2], np.array(["a"]), pd.Series(["a", None]), np.array([[3], [4]]), (True, False)], ids=repr
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_scalars_are_names(y):
    assert find_names(y).tolist() == [int(v) if isinstance(v, bool) else v for v in np.ravel(np.array(y)).tolist()]


@pytest.mark.parametrize(
    "y",
    [[["sea"]], [{"sea"}], [("a", "b")], np.array([[0], [1]]), np.eye(2), {"a": 1}, "sea", [], [{"a": 1}]],
    ids=repr,
)
def test_collections_and_tables_are_no_names(y):
    assert find_names(y) is None


@pytest.mark.parametrize(
    "y",
    [[[1, 0], [0, 1]], ((1, 0), (0, 1)), [(1.0, 0.0), [False, True]], [np.array([1, 0]), np.array([0, 1])]],
    ids=["lists", "tuples", "mixed", "arrays"],
)
def test_rows_of_0_and_1_of_equal_length_are_a_table(y):
    np.testing.assert_array_equal(unnest(y), [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    "y",
    [
        [[1], [0]],
        [[], []],
        [[1, 2], [3, 4]],
        [[0, 1], [1]],
        [[0, [1]], [1, 0]],
        [{0, 1}],
        [["a", "b"]],
        [np.array(1), np.array(0)],
        [],
        np.eye(2),
    ],
    ids=repr,
)
def test_what_may_be_labels_is_no_table(y):
    assert unnest(y) is y
