"""Labels as scikit-learn's estimators take them: those of `data.labels`, and two values in one dimension."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from multilabelkit.checks import shorten
from multilabelkit.data.label_kinds import find_names, unnest
from multilabelkit.data.labels import encode_labels
from multilabelkit.errors import InputError


class Targets(NamedTuple):
    """Labels as a table of 0, 1 and NaN, the names of its columns, and all classes.

    A y of one dimension has a column for the second of its two classes.
    """

    table: np.ndarray
    names: np.ndarray
    classes: np.ndarray

    @property
    def is_flat(self) -> bool:
        """Whether y had one dimension."""
        return len(self.classes) > len(self.names)


def read_targets(owner: str, y: Any, *, label_sep: str | None = None, known: np.ndarray | None = None) -> Targets:
    """Read labels of any format, or two values in one dimension.

    Parameters
    ----------
    owner : str
        Name of the estimator, for the message where y is missing.
    y : labels
        What :func:`multilabelkit.as_indicator` takes, a nested list of 0 and 1 that is a table to scikit-learn, or one
        of two numbers or strings per row.
    label_sep : str, default=None
        Separator of the labels in a string; with it, strings are never taken for two values.
    known : ndarray of shape (n_classes,), default=None
        The names of the columns in order, where they are known. A table that cannot have them is taken as it is.

    Returns
    -------
    targets : Targets

    Raises
    ------
    InputError
        If y is missing or cannot be read, or has one dimension and not exactly two values.

    Examples
    --------
    >>> read_targets("Net", ["no", "yes", "no"])
    Targets(table=array([[0.], [1.], [0.]], dtype=float32), names=array(['yes'], dtype=object),
            classes=array(['no', 'yes'], dtype=object))
    >>> read_targets("Net", [["sea"], [], ["sea", "sun"]]).names.tolist()
    ['sea', 'sun']
    """
    if y is None:
        raise InputError(f"{owner} requires y to be passed, but the target y is None.")
    values = find_names(y, label_sep=label_sep)
    if values is not None:
        classes = _check_binary(values)
        if known is not None and known.tolist() != classes.tolist():
            raise InputError(
                f"The estimator was fitted on the classes {shorten(known.tolist())}, and y holds "
                f"{shorten(classes.tolist())}. Pass labels of the classes that it knows."
            )
        return Targets((values == classes[1]).astype(np.float32)[:, None], classes[1:], classes)
    y = unnest(y)
    known = None if known is None or not _may_have(y, known.tolist()) else known
    table, binarizer = encode_labels(y, classes=known, label_sep=label_sep)
    return Targets(table, binarizer.classes_, binarizer.classes_)


def _may_have(y, names):
    """Tell whether the columns of a table may have these names; rows of labels always may."""
    if isinstance(y, pd.DataFrame):
        return set(y.columns) == set(names)
    return getattr(y, "ndim", 1) != 2 or y.shape[1] == len(names)


def _check_binary(values):
    """Return the two classes of a y of one dimension, in order, or refuse it."""
    if values.dtype.kind == "c":
        raise InputError(f"Complex data not supported: y holds {shorten(values.tolist())}. Pass labels.")
    missing = np.flatnonzero(pd.isna(values) | np.isin(values, (np.inf, -np.inf)))
    if len(missing):
        raise InputError(
            f"Row {missing[0]} of y is {shorten(values.tolist()[missing[0]])}. Pass y with one dimension only where "
            "every value is known, and unknown labels as NaN in a table."
        )
    classes = np.unique(values)
    if len(classes) == 1:
        raise InputError(f"y holds one class alone, {classes.tolist()[0]!r}. Pass rows of another class, too.")
    if len(classes) > 2:
        raise InputError(
            "Only binary classification is supported where y has one dimension. The type of the target is multiclass: "
            f"{len(classes)} values, {shorten(classes.tolist())}. Write [[label] for label in y] if a row may have "
            "several labels, and label_sep if a string holds several."
        )
    return classes
