"""How much each label counts, from the `class_weight` parameter of scikit-learn's classifiers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.checks import Interval, shorten, suggest
from multilabelkit.errors import InputError

__all__ = ["weigh_classes", "weigh_labels"]


def weigh_labels(positive: np.ndarray, weight: np.ndarray, class_weight: Any, *, classes: np.ndarray) -> np.ndarray:
    """Return how much each label of classes that do not exclude each other counts.

    Parameters
    ----------
    positive : ndarray of shape (n_classes, n_samples)
        1 present, 0 absent or unknown.
    weight : ndarray of shape (n_classes, n_samples)
        The weight of the sample, 0 where its label is unknown.
    class_weight : {"balanced"}, dict or Series by class, or None
        "balanced" makes the present labels of a class count as much as its absent ones, and leaves their sum. A dict
        gives factors above 0 for the present labels of the classes that it names.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    weight : ndarray of shape (n_classes, n_samples)

    Raises
    ------
    InputError
        If a dict names an unknown class or gives a number that is not above 0.

    Examples
    --------
    >>> weigh_labels(np.array([[1, 0, 0, 0]]), np.ones((1, 4)), "balanced", classes=np.array(["sea"]))
    array([[2.        , 0.66666667, 0.66666667, 0.66666667]])
    """
    if class_weight is None:
        return weight
    if isinstance(class_weight, str):
        present = (weight * positive).sum(axis=1)
        factors = _balance(np.stack([weight.sum(axis=1) - present, present]))
    else:
        given = _order_by_class(class_weight, classes)
        factors = np.stack([np.ones_like(given), given])
    return weight * np.where(positive > 0, factors[1][:, np.newaxis], factors[0][:, np.newaxis])


def weigh_classes(positive: np.ndarray, weight: np.ndarray, class_weight: Any, *, classes: np.ndarray) -> np.ndarray:
    """Return how much each sample counts whose classes exclude each other.

    Parameters
    ----------
    positive : ndarray of shape (n_classes, n_samples)
        1 for the class of a sample, else 0.
    weight : ndarray of shape (n_samples,)
    class_weight : {"balanced"}, dict or Series by class, or None
        "balanced" makes all classes count alike, and leaves their sum. A dict gives factors above 0 for the samples of
        the classes that it names.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    weight : ndarray of shape (n_samples,)

    Raises
    ------
    InputError
        If a dict names an unknown class or gives a number that is not above 0.

    Examples
    --------
    >>> weigh_classes(np.array([[1, 0, 0], [0, 1, 1]]), np.ones(3), {"sea": 3}, classes=np.array(["sea", "trees"]))
    array([3., 1., 1.])
    """
    if class_weight is None:
        return weight
    is_balanced = isinstance(class_weight, str)
    factors = _balance(positive @ weight) if is_balanced else _order_by_class(class_weight, classes)
    return weight * (factors @ positive)


def _balance(counts: np.ndarray) -> np.ndarray:
    """Return factors, along the first axis, by which all counts become alike and their sum stays."""
    return counts.sum(axis=0) / (len(counts) * np.where(counts > 0, counts, np.inf))


def _order_by_class(class_weight: Mapping | pd.Series, classes: np.ndarray) -> np.ndarray:
    """Return one factor per class, 1 for those left out."""
    names, given = classes.tolist(), dict(class_weight.items())
    unknown = [name for name in given if name not in names]
    if unknown:
        hint = suggest(str(unknown[0]), map(str, names))
        raise InputError(
            f"class_weight names {len(unknown)} unknown class(es), the first is {shorten(unknown[0])}.{hint}"
        )
    allowed = Interval(float, 0, open_low=True)
    for name, value in given.items():
        if not allowed.accepts(value):
            raise InputError(f"A class_weight must be {allowed.describe()}. Got {shorten(value)} for class {name!r}.")
    return np.array([given.get(name, 1) for name in names], dtype=np.float64)
