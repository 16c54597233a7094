"""Thresholds as they are: given by hand, and applied to probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.checks import Interval, check_scores, shorten, suggest
from multilabelkit.class_names import join_first, list_names, to_plain_name
from multilabelkit.errors import InputError


def fix_thresholds(thresholds: Any, *, classes: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Turn thresholds chosen by hand into one number per class.

    Parameters
    ----------
    thresholds : float, array-like of shape (n_classes,), dict or Series by class
        One number for all classes, one per class in the order of `classes`, or one for each class by name. In [0, 1].
    classes : sequence of shape (n_classes,)
        The names of the classes, in order.

    Returns
    -------
    thresholds : ndarray of shape (n_classes,)
        In [0, 1].

    Raises
    ------
    InputError
        If a class is missing or unknown, the length differs, or a number is not in [0, 1].

    Examples
    --------
    >>> fix_thresholds({"sea": 0.3, "trees": 0.6}, classes=["trees", "sea"])
    array([0.6, 0.3])
    >>> fix_thresholds(0.5, classes=["trees", "sea"])
    array([0.5, 0.5])
    """
    names = list_names(classes)
    if isinstance(thresholds, (Mapping, pd.Series)):
        thresholds = _order_by_class(dict(thresholds.items()), names)
    elif np.ndim(thresholds) == 0:
        thresholds = [thresholds] * len(names)
    elif np.shape(thresholds) != (len(names),):
        raise InputError(
            f"thresholds must hold one number for each of {len(names)} classes. Got the shape {np.shape(thresholds)}."
        )
    allowed = Interval(float, 0, 1)
    for name, value in zip(names, thresholds, strict=True):
        if not allowed.accepts(value):
            raise InputError(
                f"A threshold must be {allowed.describe()}. Got {shorten(to_plain_name(value))} for class {name!r}."
            )
    return np.array(thresholds, dtype=np.float64)


def apply_thresholds(proba: Any, thresholds: Any) -> np.ndarray:
    """Decide which classes are present: those whose probability is >= their threshold.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    thresholds : array-like of shape (n_classes,)
        One threshold per class in [0, 1].

    Returns
    -------
    y_pred : ndarray of shape (n_samples, n_classes)
        int64, 0 or 1.

    Raises
    ------
    InputError
        If the shapes do not fit or a number leaves [0, 1].

    Examples
    --------
    >>> apply_thresholds([[0.4, 0.2], [0.2, 0.6]], [0.275, 0.55])
    array([[1, 0],
           [0, 1]])
    """
    proba = np.asarray(proba)
    if proba.ndim != 2:
        raise InputError(f"proba must have the shape (n_samples, n_classes). Got the shape {proba.shape}.")
    limits = fix_thresholds(thresholds, classes=range(proba.shape[1]))
    return (check_scores(proba, proba) >= limits).astype(np.int64)


def _order_by_class(thresholds, names):
    """Return the values of a dict in the order of the classes; every class must be there, and nothing else."""
    thresholds = {to_plain_name(name): value for name, value in thresholds.items()}
    unknown = [name for name in thresholds if name not in set(names)]
    if unknown:
        hint = suggest(str(unknown[0]), map(str, names))
        raise InputError(f"thresholds names unknown classes: {join_first([*map(repr, unknown)])}.{hint}")
    missing = [repr(name) for name in names if name not in thresholds]
    if missing:
        raise InputError(
            f"thresholds must name every class. It lacks {len(missing)} of {len(names)}: {join_first(missing)}."
        )
    return [thresholds[name] for name in names]
