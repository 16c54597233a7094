"""Any label format in, one table of 0, 1 and NaN out, and back to names."""

from __future__ import annotations

import math
import numbers
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.preprocessing import MultiLabelBinarizer

from multilabelkit.checks import NON_EMPTY, Choice, Constraint, check_parameters, shorten, suggest
from multilabelkit.data.label_kinds import refuse_numbers, suggest_out_of_fold
from multilabelkit.errors import InputError

__all__ = ["as_indicator", "as_labels", "encode_labels"]

Label = str | int
Classes = Sequence[Label] | np.ndarray | None
Cells = tuple[np.ndarray, list[Label]]  # float32 of shape (n_samples, n_classes), and the names of the columns

_ARRAYS = (np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)
_ROW_ADVICE = " Write [] for an image without labels, and a dict such as {'cat': None} where one is unknown."
_UNCERTAIN = {"missing": math.nan, "positive": 1.0, "negative": 0.0}
_PARAMETERS: dict[str, list[Constraint]] = {
    "label_sep": [Choice((None,)), NON_EMPTY],
    "uncertain": [Choice((None, *_UNCERTAIN))],
}


def encode_labels(
    y: Any, *, classes: Classes = None, label_sep: str | None = None
) -> tuple[np.ndarray, MultiLabelBinarizer]:
    """Turn labels of any format into the array that losses, metrics and splits work on.

    Parameters
    ----------
    y, classes, label_sep
        As for `as_indicator`. Pass the classes of a fitted model to encode labels it is scored on.

    Returns
    -------
    Y : ndarray of shape (n_samples, n_classes)
        float32; 1 present, 0 absent, NaN unknown.
    binarizer : MultiLabelBinarizer
        Fitted; its `classes_` name the columns of `Y`.

    Raises
    ------
    InputError
        If `y` is ambiguous, holds a label that is not in `classes`, or holds no known label.

    Examples
    --------
    >>> Y, binarizer = encode_labels([["sea", "sunset"], [], ["trees"]])
    >>> Y
    array([[1., 1., 0.],
           [0., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    >>> binarizer.classes_
    array(['sea', 'sunset', 'trees'], dtype=object)
    """
    indicator = as_indicator(y, classes=classes, label_sep=label_sep)
    return indicator.to_numpy(np.float32, copy=True), MultiLabelBinarizer(classes=list(indicator.columns)).fit([])


def as_indicator(
    y: Any, *, classes: Classes = None, label_sep: str | None = None, uncertain: str | None = None
) -> pd.DataFrame:
    """Turn labels of any format into a table with one column per class.

    scikit-learn's splitters, scorers and searches understand this table; `as_labels` turns it back into names.

    Parameters
    ----------
    y : list, Series, array, sparse matrix, tensor or DataFrame
        One row of labels per image: a list, tuple, set or 1-D array of names (strings or integers); a string (one
        label, or several with `label_sep`); or a dict such as ``{"sea": 1, "sunset": None}``, where None or NaN marks
        an unknown label and a label left out is absent. Or a table with one column per class: a 2-D array, sparse
        matrix, tensor or DataFrame (never a nested list) of 0, 1 and NaN (unknown), or of -1 (absent) and 1.
    classes : sequence of str or int of shape (n_classes,), default=None
        The classes in the wanted order. None learns them: sorted for rows of labels, the columns of a DataFrame, and
        0, 1, ... for the other tables.
    label_sep : str, default=None
        Separator of the labels in a string that holds several, such as ``"|"``. Blanks around a label are removed;
        an empty string means no labels.
    uncertain : {None, "missing", "positive", "negative"}, default=None
        What -1 stands for in data such as CheXpert's, where it marks an uncertain label: NaN, 1 or 0. If given, it
        holds for every -1, also where no 0 or NaN is beside it.

    Returns
    -------
    indicator : DataFrame of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown; int64, or float32 if anything is unknown. It keeps the index of `y`, if any.

    Raises
    ------
    InputError
        If `y` is ambiguous, holds a label that is not in `classes`, or holds no known label.

    Examples
    --------
    >>> as_indicator(["sea|sunset", "", "trees"], label_sep="|")
       sea  sunset  trees
    0    1       1      0
    1    0       0      0
    2    0       0      1
    >>> as_indicator(np.array([[1, 0], [-1, 1]]), classes=["edema", "fracture"], uncertain="missing")
       edema  fracture
    0    1.0       0.0
    1    NaN       1.0
    """
    cells, names = _read_labels("as_indicator", y, classes, label_sep, uncertain)
    if np.isnan(cells).all():
        raise InputError("y holds no known label: every cell is NaN. Pass at least one 0 or 1.")
    index = y.index if isinstance(y, (pd.DataFrame, pd.Series)) else None
    whole = cells if np.isnan(cells).any() else cells.astype(np.int64)
    return pd.DataFrame(whole, columns=pd.Index(names), index=index)


def as_labels(y: Any, *, classes: Classes = None, label_sep: str | None = None) -> list[tuple[Label, ...]]:
    """Turn a table of 0 and 1, or labels of any other format, into one tuple of names per image.

    Parameters
    ----------
    y, classes, label_sep
        As for `as_indicator`; `classes` name the columns of an array.

    Returns
    -------
    labels : list of tuple
        The labels that are present, in class order; absent and unknown ones are left out.

    Raises
    ------
    InputError
        If `y` is ambiguous or does not fit `classes`.

    Examples
    --------
    >>> as_labels(np.array([[1, 1, 0], [0, 0, 0]]), classes=["sea", "sunset", "trees"])
    [('sea', 'sunset'), ()]
    """
    cells, names = _read_labels("as_labels", y, classes, label_sep)
    return [tuple(names[column] for column in np.flatnonzero(row)) for row in cells == 1]


def _read_labels(owner: str, y: Any, classes: Any, label_sep: str | None, uncertain: str | None = None) -> Cells:
    """Send each format to its reader."""
    check_parameters(owner, {"label_sep": label_sep, "uncertain": uncertain}, _PARAMETERS)
    known = None if classes is None else _check_names(classes, "classes")
    data = _check_container(y)
    if isinstance(data, pd.DataFrame):
        cells, names = _read_frame(data, known)
    elif isinstance(data, np.ndarray) and data.ndim == 2:
        cells, names = _read_array(data, known)
    else:
        cells, names = _read_rows(list(data), known, label_sep)
    return _resolve_minus_one(cells, names, uncertain), names


def _check_container(y: Any) -> Any:
    """Return a DataFrame, an array or a sequence of rows, or refuse what holds no rows."""
    if isinstance(y, str):
        raise InputError(f"y is the single string {shorten(y)}. Pass one entry per image, such as [{shorten(y)}].")
    data = _to_array(y)
    if not isinstance(data, (pd.DataFrame, *_ARRAYS, Sequence)) or isinstance(data, (bytes, bytearray)):
        raise InputError(f"y must be a list with one row of labels per image, or a table. Got {shorten(y)} instead.")
    if isinstance(data, np.ndarray) and data.ndim not in (1, 2):
        raise InputError(f"y must have the shape (n_samples, n_classes). Got an array of shape {data.shape}.")
    if len(data) == 0:
        raise InputError("y is empty. Pass the labels of at least one image.")
    return data


def _to_array(value: Any) -> Any:
    """Turn tensors, sparse and masked arrays into plain arrays; leave anything else alone."""
    if sparse.issparse(value):
        return value.toarray()
    if all(hasattr(value, method) for method in ("detach", "cpu", "numpy")):
        tensor = value.detach().cpu()
        return (tensor.double() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    return np.ma.filled(value.astype(np.float64), np.nan) if isinstance(value, np.ma.MaskedArray) else value


def _to_list(row: Any) -> Any:
    """Turn an array or tensor into a list of Python values; leave anything else alone."""
    array = _to_array(row)
    return array.tolist() if hasattr(array, "tolist") else array


def _to_cell(value: Any) -> float:
    """Return 0, 1, -1 or NaN, and infinity for anything that is no cell of a label table."""
    if value is None or value is pd.NA:
        return math.nan
    valid = isinstance(value, (numbers.Real, np.bool_)) and (value in (-1, 0, 1) or value != value)
    return float(value) if valid else math.inf


def _check_names(names: Any, where: str) -> list[Label]:
    """Return unique class names, all strings or all integers, or say what is wrong with them."""
    if not isinstance(names, (*_ARRAYS, Sequence)) or isinstance(names, (str, bytes)):
        raise InputError(f"{where} must be a list of names. Got {shorten(names)} instead.")
    labels = [_check_label(name, where) for name in names]
    if not labels:
        raise InputError(f"There is no name in {where}. Pass at least one class.")
    if len(set(map(type, labels))) > 1:
        raise InputError(f"The names in {where} must be all strings or all integers. Got {shorten(labels)}.")
    label, count = Counter(labels).most_common(1)[0]
    if count > 1:
        raise InputError(f"The name {label!r} is {count} times in {where}. Give each class one name of its own.")
    return labels


def _check_label(label: Any, where: str, advice: str = "") -> Label:
    """Return one label as a plain str or int, or refuse it."""
    if isinstance(label, str) and label.strip():
        return str.__str__(label)
    if isinstance(label, (int, np.integer)) and not isinstance(label, bool):
        return int(label)
    raise InputError(f"{shorten(label)} in {where} is no label: a label is a non-empty string or an integer.{advice}")


def _read_frame(frame: pd.DataFrame, known: list[Label] | None) -> Cells:
    """Read a table whose columns have names; known classes fix their order."""
    names = _check_names(frame.columns, "the columns of y")
    if known is not None:
        place_of = {name: place for place, name in enumerate(names)}
        _refuse_unseen(place_of, known, "column")
        missing = [name for name in known if name not in place_of]
        if missing:
            raise InputError(f"y lacks the columns {shorten(missing)}. Add them, with NaN where a label is unknown.")
        frame, names = frame.iloc[:, [place_of[name] for name in known]], known
    numeric = all(dtype.kind in "biuf" for dtype in frame.dtypes)
    values = frame.to_numpy(np.float64, na_value=np.nan) if numeric else frame.to_numpy(object)
    return _check_cells(values, names), names


def _read_array(array: np.ndarray, known: list[Label] | None) -> Cells:
    """Read a table without names; its columns are the known classes, or numbered."""
    names: list[Label] = list(range(array.shape[1])) if known is None else known
    if not names or len(names) != array.shape[1]:
        raise InputError(f"y must have one column per class ({len(names) or '1 or more'}). Got {array.shape[1]}.")
    return _check_cells(array, names), names


def _check_cells(values: np.ndarray, names: list[Label]) -> np.ndarray:
    """Return a float32 copy of 0, 1, -1 and NaN, or name the first cell that is something else."""
    numeric = values.dtype.kind in "biuf"
    cells = values if numeric else np.frompyfunc(_to_cell, 1, 1)(values.astype(object)).astype(np.float64)
    wrong = ~((cells == 0) | (cells == 1) | (cells == -1) | np.isnan(cells))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            "A table of labels must hold only 0, 1 and NaN (unknown), or only -1 and 1. "
            f"Got {shorten(values.item(row, column))} at row {row}, column {names[column]!r}. If the rows hold names, "
            "pass them as lists or as one column: y.tolist() of an array, y['labels'] of a DataFrame."
            f"{suggest_out_of_fold(values)}"
        )
    return cells.astype(np.float32)


def _resolve_minus_one(cells: np.ndarray, names: list[Label], uncertain: str | None) -> np.ndarray:
    """Replace -1 by what it means: absent if all else is 1, or what the caller says."""
    minus = cells == -1
    if uncertain is None and minus.any() and not (minus | (cells == 1)).all():
        row, column = np.argwhere(minus)[0]
        raise InputError(
            f"y holds -1 (first at row {row}, column {names[column]!r}) beside 0 or NaN, so -1 may mean absent or "
            'uncertain. Say which with as_indicator(y, uncertain="missing"|"positive"|"negative").'
        )
    cells[minus] = _UNCERTAIN[uncertain or "negative"]
    return cells


def _read_rows(rows: list[Any], known: list[Label] | None, label_sep: str | None) -> Cells:
    """Read one collection, string or dict of labels per image."""
    refuse_numbers(rows)
    _refuse_nested_table(rows)
    cells = [_read_row(row, place, label_sep) for place, row in enumerate(rows)]
    first_rows: dict[Any, int] = {}
    for place, row in enumerate(cells):
        for label in row:
            first_rows.setdefault(label, place)
    if known is None:
        _refuse_letters(rows, cells, first_rows)
    texts = [row for row in rows if isinstance(row, str)]
    is_mistaken = label_sep is not None and bool(texts) and not any(label_sep in text for text in texts)
    _refuse_joined(first_rows, known or [], None if is_mistaken else label_sep)
    names = _learn_names(first_rows) if known is None else known
    _refuse_unseen(first_rows, names, "row")
    place_of = {name: place for place, name in enumerate(names)}
    values = np.zeros((len(rows), len(names)), dtype=np.float32)
    row_of = np.repeat(np.arange(len(rows)), [len(row) for row in cells])
    column_of = np.array([place_of[label] for label in chain.from_iterable(cells)], dtype=np.intp)
    values[row_of, column_of] = [value for row in cells for value in row.values()]
    return values, names


def _read_row(row: Any, place: int, label_sep: str | None) -> dict[Any, float]:
    """Return what one row says of each label it mentions: 0, 1, -1 or NaN."""
    labels = _list_labels(row, place, label_sep)
    if not {str, int}.issuperset(map(type, labels)):
        labels = [_check_label(label, f"row {place} of y", _ROW_ADVICE) for label in labels]
    if not isinstance(row, Mapping):
        return dict.fromkeys(labels, 1.0)
    for label, value in row.items():
        if _to_cell(value) == math.inf:
            raise InputError(f"Row {place} of y gives {label!r} as {shorten(value)}. Write 1, 0 or None (unknown).")
    return dict(zip(labels, map(_to_cell, row.values()), strict=True))


def _list_labels(row: Any, place: int, label_sep: str | None) -> Collection[Any]:
    """Return every label that a row mentions, as it is written there."""
    if isinstance(row, str):
        return [row] if label_sep is None else [part for part in map(str.strip, row.split(label_sep)) if part]
    labels = row if isinstance(row, (list, tuple, Set, Mapping)) else _to_list(row)
    if not isinstance(labels, (Sequence, Set, Mapping)) or isinstance(labels, (str, bytes, bytearray)):
        raise InputError(
            f"Row {place} of y is {shorten(row)}. A row is a list, tuple, set or 1-D array of names, a string or a "
            "dict. Write [] if the image has no labels; if they are unknown, pass a table with a row of NaN."
        )
    return labels


def _learn_names(first_rows: dict[Any, int]) -> list[Label]:
    """Return the sorted labels, if they are all strings or all integers."""
    names = [_check_label(label, f"row {row} of y", _ROW_ADVICE) for label, row in first_rows.items()]
    if not names:
        raise InputError("No row of y has a label, so there are no classes to learn. Name them with classes=[...].")
    other = next((name for name in names if type(name) is not type(names[0])), None)
    if other is not None:
        place = first_rows[other]
        raise InputError(f"y holds {names[0]!r}, but {other!r} in row {place}. Use only strings or only integers.")
    return sorted(names)


def _refuse_nested_table(rows: list[Any]) -> None:
    """Rows of equal length that hold only cells are hardly labels."""
    first = _to_list(rows[0])
    if not isinstance(first, (list, tuple)) or not first or math.inf in map(_to_cell, first):
        return
    lists = [row for row in map(_to_list, rows) if isinstance(row, (list, tuple)) and len(row) == len(first)]
    if len(lists) == len(rows) and math.inf not in map(_to_cell, chain.from_iterable(lists)):
        raise InputError(
            "y is a nested list of 0 and 1 with rows of equal length, which may be a table or integer labels. "
            "Pass np.array(y) for a table with one column per class, or sets such as {0, 1} for labels."
        )


def _refuse_letters(rows: list[Any], cells: list[dict[Any, float]], vocabulary: Iterable[Any]) -> None:
    """Labels of one letter, many or repeated in a row, are strings that were split by accident."""
    letters = all(isinstance(label, str) and len(label) == 1 for label in vocabulary)
    sizes = {place: len(row) for place, row in enumerate(rows) if not isinstance(row, (str, Mapping))}
    repeated = any(size > len(cells[place]) for place, size in sizes.items())
    if letters and any(map(str.isalpha, vocabulary)) and sizes and (repeated or sum(sizes.values()) >= 3 * len(sizes)):
        longest = max(sizes, key=sizes.__getitem__)
        raise InputError(
            f"Every label of y is a single letter, as if strings had been split: row {longest} is "
            f"{shorten(rows[longest])}. Pass the strings themselves, or classes=[...] if the letters are the classes."
        )


def _refuse_joined(first_rows: dict[Any, int], known: list[Label], label_sep: str | None) -> None:
    """A separator inside an undeclared label means that a string was not split."""
    marks = ("|", ";", ",") if label_sep is None else (label_sep,)
    for label, row in first_rows.items():
        mark = next((mark for mark in marks if mark in str(label)), None)
        if mark is not None and label not in known:
            raise InputError(
                f"{shorten(label)} in row {row} of y looks like several labels in one string. Pass each row as one "
                f"string with label_sep={mark!r} to split it, or name the classes with classes=[...]."
            )


def _refuse_unseen(place_of: Mapping[Any, int], known: list[Label], unit: str) -> None:
    """A label outside the known classes is a typing error or another data set."""
    names = set(known)
    unseen = [label for label in place_of if label not in names]
    if unseen:
        texts = [name for name in known if isinstance(name, str)]
        hints = [f"{label!r} in {unit} {place_of[label]}.{suggest(str(label), texts)}" for label in unseen[:5]]
        raise InputError(
            f"y holds {len(unseen)} label(s) that are not among the {len(known)} classes: {' '.join(hints)} "
            "Correct them, or name every class with classes=[...]."
        )
