"""Which kind of y is meant: one name per row, of classes that exclude each other, or labels that do not."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.utils.validation import column_or_1d

from multilabelkit.checks import shorten
from multilabelkit.errors import InputError

__all__ = ["find_names", "refuse_numbers", "suggest_out_of_fold", "unnest"]

_OUT_OF_FOLD = (
    " If cross_val_predict made it, which numbers labels anew, use multilabelkit.model_selection.out_of_fold_proba "
    "instead."
)


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


def unnest(y: Any) -> Any:
    """Return a nested list of 0 and 1 as a table, which it is to scikit-learn, and anything else as it is.

    Parameters
    ----------
    y : labels in any format
        A list of lists, tuples or arrays of equal length above 1 that hold only 0 and 1 is a table; `as_indicator`
        refuses it, as the rows may be integer labels too. So may rows of length 1, which are left as they are.

    Returns
    -------
    y : ndarray of shape (n_samples, n_classes), or what was given

    Examples
    --------
    >>> unnest([[1, 0], [0, 1]])
    array([[1, 0],
           [0, 1]])
    >>> unnest([[1], [0, 1]])
    [[1], [0, 1]]
    """
    if not isinstance(y, (list, tuple)) or not all(map(_is_row, y)):
        return y
    if len({len(row) for row in y}) != 1 or len(y[0]) < 2 or not all(map(_holds_scalars, y)):
        return y
    table = np.array(y)
    return table if table.dtype.kind in "biuf" and np.isin(table, (0, 1)).all() else y


def refuse_numbers(rows: list[Any]) -> None:
    """Refuse rows of labels of which one is a number: it may be a label or a cell."""
    kinds = {kind for kind in set(map(type, rows)) if issubclass(kind, (numbers.Real, np.bool_))}
    found = next((place for place, row in enumerate(rows) if type(row) in kinds and row == row), None)
    if found is not None:
        hint = suggest_out_of_fold(np.array(rows)) if all(isinstance(row, np.integer) for row in rows) else ""
        raise InputError(
            f"Row {found} of y is the number {rows[found]}, which may be a label or a cell of a table. Write "
            f"np.asarray(y).reshape(-1, 1) for a table of one class, or [[3], [7]] for one label per image.{hint}"
        )


def suggest_out_of_fold(values: np.ndarray) -> str:
    """Return a hint where numbers from 0 up may come from `cross_val_predict`."""
    # It numbers what differs between rows, of which a training part holds half or more.
    is_numbered = values.dtype == int and values.min() == 0 and values.max() < 2 * len(values)
    return _OUT_OF_FOLD if is_numbered else ""


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


def _is_row(row: Any) -> bool:
    return isinstance(row, (list, tuple)) or (isinstance(row, np.ndarray) and row.ndim == 1)


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
