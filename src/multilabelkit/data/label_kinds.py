"""Which kind of y is meant: one name per row, of classes that exclude each other, or labels that do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils.validation import column_or_1d

from multilabelkit.checks import shorten
from multilabelkit.errors import InputError

__all__ = ["find_names", "read_table"]


def find_names(y: Any, *, label_sep: str | None = None, classes: Any = None) -> np.ndarray | None:
    """Return one class name per row where `y` holds that, and None where it holds labels.

    Parameters
    ----------
    y : list, array, Series, tensor or any format of `as_indicator`
        Names are strings or numbers in one dimension. A column, an array of shape (n_samples, 1), holds them unless
        all of it is 0, 1, -1 or NaN, which is the table of one label.
    label_sep : str, default=None
        If given, strings are rows of labels.
    classes : sequence, default=None
        If given, names may hold any sign; if not, one that is likely to separate labels is refused.

    Returns
    -------
    names : ndarray of shape (n_samples,) or None
        Truth values become 0 and 1; None and NaN stay.

    Raises
    ------
    InputError
        If the numbers are not whole, or a string looks like several labels.

    Examples
    --------
    >>> find_names(["sea", "trees"])
    array(['sea', 'trees'], dtype=object)
    >>> find_names([["sea"], ["trees"]]) is None
    True
    """
    values = _to_array(y)
    if values is None:
        return None
    if values.shape[1:] == (1,) and not _holds_cells(values):
        values = column_or_1d(values, warn=True)
    if values.ndim != 1 or not len(values) or not _holds_scalars(values):
        return None
    if label_sep is not None and any(isinstance(value, str) for value in values):
        return None
    _refuse_continuous(values)
    if classes is None:
        _refuse_joined(values)
    return values.astype(np.int64) if values.dtype == bool else values


def read_table(y: Any) -> Any:
    """Return a nested list of 0 and 1 as a table, which it is to scikit-learn, and anything else as it is.

    Parameters
    ----------
    y : labels in any format
        A list of lists, tuples or arrays of equal length above 1 that hold only 0 and 1 is a table; `as_indicator`
        refuses it, as the rows may be integer labels too.

    Returns
    -------
    y : ndarray of shape (n_samples, n_classes), or what was given

    Examples
    --------
    >>> read_table([[1, 0], [0, 1]])
    array([[1, 0],
           [0, 1]])
    >>> read_table([[1], [0, 1]])
    [[1], [0, 1]]
    """
    if not isinstance(y, (list, tuple)) or not all(isinstance(row, (list, tuple, np.ndarray)) for row in y):
        return y
    if len({len(row) for row in y}) != 1 or len(y[0]) < 2:
        return y
    table = np.array(y)
    return table if table.dtype.kind in "biuf" and np.isin(table, (0, 1)).all() else y


def _to_array(y: Any) -> np.ndarray | None:
    """Return an array, or None for what cannot hold one name per row."""
    if isinstance(y, (str, pd.DataFrame)) or sparse.issparse(y):
        return None
    if not isinstance(y, (list, tuple)):
        return np.asarray(y)
    if not _holds_scalars(y):
        return None
    # numpy would turn numbers beside strings into strings.
    return np.array(y, dtype=object if any(isinstance(value, str) for value in y) else None)


def _holds_scalars(values: Any) -> bool:
    is_plain = isinstance(values, np.ndarray) and values.dtype != object
    return is_plain or all(map(pd.api.types.is_scalar, values))


def _holds_cells(column: np.ndarray) -> bool:
    """Tell whether a column holds 0, 1, -1 and NaN alone, and so labels rather than names."""
    return all(pd.isna(value) or (not isinstance(value, str) and value in (-1, 0, 1)) for value in column.ravel())


def _refuse_continuous(values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    wrong = np.flatnonzero(np.isfinite(values) & (values != np.floor(values)))
    if len(wrong):
        raise InputError(
            f"Unknown label type: continuous. Row {wrong[0]} of y is {values[wrong[0]]:g}, which names no class. Pass "
            "strings or whole numbers, or labels in a format of as_indicator."
        )


def _refuse_joined(names: np.ndarray) -> None:
    """A separator in a name means that the rows are labels which were not split."""
    for row, name in enumerate(names if names.dtype.kind in "OUT" else []):
        mark = next((mark for mark in "|;," if isinstance(name, str) and mark in name), None)
        if mark is not None:
            raise InputError(
                f"{shorten(name)} in row {row} of y looks like several labels in one string. Split it with "
                f"label_sep={mark!r}, or name all classes with classes=[...] if it is one class."
            )
