import re

import numpy as np
import pytest

from multilabelkit.errors import InputError
from multilabelkit.known_labels import average_known, check_decisions, divide, weigh_known


def test_a_sample_of_weight_zero_has_no_known_label():
    known, weight = weigh_known(np.array([[1, np.nan], [0, 1]]), [2, 0])
    np.testing.assert_array_equal(known, [[True, False], [False, False]])
    np.testing.assert_array_equal(weight, [2, 0])


def test_average_leaves_unknown_values_out():
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    assert average_known(values) == 2
    assert average_known(values[:, 0], np.array([3, 1])) == 1.5
    np.testing.assert_array_equal(average_known(values, axis=0), [2, np.nan])
    assert np.isnan(average_known(values[:, 1]))


def test_average_is_plain_where_all_weights_are_zero():
    assert average_known(np.array([1.0, 2.0]), np.zeros(2)) == 1.5


def test_nothing_divided_by_nothing_is_unknown():
    np.testing.assert_array_equal(divide(np.zeros((1, 2)), np.array([[0, 4]]), axis=0), [np.nan, 0])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            ([[1, 0]], [[1, 0.7]], None),
            "y_pred must hold only 0 and 1. Got 0.7 at row 0, column 1; "
            "turn probabilities into decisions with apply_thresholds(proba, thresholds).",
        ),
        (([[1, 0]], [[1]], None), "y_true and y_pred must have the same shape. Got (1, 2) and (1, 1)."),
        (([[1], [0]], [[1], [0]], [1]), "sample_weight must have the shape (2,) of the samples. Got (1,)."),
        (([[1], [0]], [[1], [0]], [1, -2]), "sample_weight must be finite and >= 0. Got -2 at row 1."),
    ],
)
def test_errors_say_what_to_do(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_decisions(*params)
