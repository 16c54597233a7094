"""One class name per image in, one table of 0, 1 and NaN out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.checks import shorten, suggest
from multilabelkit.data.labels import Classes, Label, encode_labels
from multilabelkit.errors import InputError

__all__ = ["ClassEncoder", "create_encoder", "encode_classes"]

_ARRAYS = (np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)
_OTHER_CLASSIFIER = "MultiLabelImageClassifier takes several labels an image."


@dataclass(frozen=True, eq=False)
class ClassEncoder:
    """What holds the classes of a table of targets.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        They name the columns: object for strings, int64 for integers.
    """

    classes_: np.ndarray


def create_encoder(classes: Classes) -> ClassEncoder:
    """Check the names of classes that exclude each other, and keep their order.

    Parameters
    ----------
    classes : sequence of str or int of shape (n_classes,)

    Returns
    -------
    encoder : ClassEncoder

    Raises
    ------
    InputError
        If these are not two or more different names, all strings or all integers.

    Examples
    --------
    >>> create_encoder(["sea", "trees"]).classes_
    array(['sea', 'trees'], dtype=object)
    """
    # Labels that do not exclude each other have the same rules for names; a row without labels brings them to bear.
    _, binarizer = encode_labels([()], classes=classes)
    if len(binarizer.classes_) < 2:
        (name,) = binarizer.classes_.tolist()
        raise InputError(f"There is only the class {name!r} in classes, and telling classes apart takes at least two.")
    return ClassEncoder(binarizer.classes_)


def encode_classes(y: Any, *, classes: Classes = None, name: str = "y") -> tuple[np.ndarray, ClassEncoder]:
    """Turn one class name per image into the table that losses, metrics and splits work on.

    A name is taken as it is, whatever separators it holds.

    Parameters
    ----------
    y : list, tuple, array, Series, Categorical or tensor of shape (n_samples,)
        Strings or integers; None or NaN where the class is unknown. Whole floats count as integers, since NaN turns a
        column of integers into floats. Truth values are refused: write names, or 0 and 1.
    classes : sequence of str or int of shape (n_classes,), default=None
        The classes in the wanted order, at least two. None learns them from `y`, sorted.
    name : str, default="y"
        What error messages call `y`.

    Returns
    -------
    targets : ndarray of shape (n_samples, n_classes)
        float32; 1 in the column of the image's class, else 0, and a row of NaN where it is unknown.
    encoder : ClassEncoder
        Its `classes_` name the columns.

    Raises
    ------
    InputError
        If `y` is no sequence of names, holds a class that is not in `classes`, no known class, or fewer than two.

    Examples
    --------
    >>> targets, encoder = encode_classes(["sea", "trees", None])
    >>> targets
    array([[ 1.,  0.],
           [ 0.,  1.],
           [nan, nan]], dtype=float32)
    >>> encoder.classes_
    array(['sea', 'trees'], dtype=object)
    """
    names = [_read_name(value, row, name) for row, value in enumerate(_list_values(y, name))]
    first_rows: dict[Label, int] = {}
    for row, label in enumerate(names):
        if label is not None:
            first_rows.setdefault(label, row)
    if not first_rows:
        raise InputError(f"{name} holds no known class: every row is None or NaN. Pass the class of one image or more.")
    _refuse_mixture(first_rows, name)
    encoder = create_encoder(_learn_classes(first_rows, name) if classes is None else classes)
    place_of = {label: place for place, label in enumerate(encoder.classes_.tolist())}
    _refuse_unseen(first_rows, list(place_of), name)
    targets = np.full((len(names), len(place_of)), np.nan, dtype=np.float32)
    known = [row for row, label in enumerate(names) if label is not None]
    targets[known] = 0
    targets[known, [place_of[names[row]] for row in known]] = 1
    return targets, encoder


def _list_values(y: Any, name: str) -> Iterable[Any]:
    """Return one value per image, or refuse what is no sequence of these."""
    if isinstance(y, str):
        raise InputError(f"{name} is the single string {shorten(y)}. Pass one class per image, such as [{shorten(y)}].")
    shape = tuple(getattr(y, "shape", (0,)))
    if len(shape) != 1:
        raise InputError(
            f"{name} must be one-dimensional, with one class name per image. Got the shape {shape}; pass one column as "
            f"y.ravel() of an array or y['class'] of a table. {_OTHER_CLASSIFIER}"
        )
    values = y.tolist() if isinstance(y, _ARRAYS) or hasattr(y, "detach") else y
    if not isinstance(values, Sequence) or isinstance(values, (bytes, bytearray)):
        raise InputError(f"{name} must be a list with one class name per image. Got {shorten(y)} instead.")
    if len(values) == 0:
        raise InputError(f"{name} is empty. Pass the class of at least one image.")
    return values


def _read_name(value: Any, row: int, name: str) -> Label | None:
    """Return a class name as a plain str or int, None for an unknown one, or refuse it."""
    if getattr(value, "ndim", None) == 0:  # numpy's scalars, and what a tensor is made of
        value = value.tolist()
    if isinstance(value, str) and value.strip():
        return str.__str__(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, Collection) and not isinstance(value, (str, bytes)):
        raise InputError(
            f"Row {row} of {name} is {shorten(value)}, but where classes exclude each other each image has one. Pass "
            f"its name alone. {_OTHER_CLASSIFIER}"
        )
    raise InputError(
        f"{shorten(value)} in row {row} of {name} is no class name: that is a non-empty string or an integer, and None "
        "where it is unknown."
    )


def _refuse_mixture(first_rows: dict[Label, int], name: str) -> None:
    first = next(iter(first_rows))
    other = next((label for label in first_rows if type(label) is not type(first)), None)
    if other is not None:
        raise InputError(
            f"{name} holds {first!r}, but {other!r} in row {first_rows[other]}. Use only strings or only integers."
        )


def _learn_classes(first_rows: dict[Label, int], name: str) -> list:
    if len(first_rows) == 1:
        raise InputError(
            f"{name} holds only the class {next(iter(first_rows))!r}, and telling classes apart takes at least two. "
            "Add images of another, or name all classes with classes=[...]."
        )
    return sorted(first_rows)


def _refuse_unseen(first_rows: dict[Label, int], known: list[Label], name: str) -> None:
    """A class outside the known ones is a typing error or another data set."""
    unseen = [label for label in first_rows if label not in set(known)]
    if unseen:
        texts = [label for label in known if isinstance(label, str)]
        hints = [f"{label!r} in row {first_rows[label]}.{suggest(str(label), texts)}" for label in unseen[:5]]
        raise InputError(
            f"{name} holds {len(unseen)} name(s) that are not among the {len(known)} classes: {' '.join(hints)} "
            "Correct them, or name every class with classes=[...]."
        )
