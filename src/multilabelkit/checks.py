"""One wording for every complaint about a parameter, an array or a missing package."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from multilabelkit.errors import InputError, MissingExtraError


@dataclass(frozen=True)
class Choice:
    """The value is one of a few names (or None, True, False)."""

    options: tuple[Any, ...]

    def accepts(self, value: Any) -> bool:
        """Tell whether `value` is one of the options; True is not 1 here, but numpy's strings are strings."""
        kind = str if isinstance(value, str) else type(value)
        return any(kind is type(option) and value == option for option in self.options)

    def describe(self) -> str:
        """Name the allowed values, for the error message."""
        return " or ".join(filter(None, [", ".join(map(repr, self.options[:-1])), repr(self.options[-1])]))


@dataclass(frozen=True)
class Interval:
    """The value is a finite number between `low` and `high`, both ends included unless said otherwise."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def accepts(self, value: Any) -> bool:
        """Tell whether `value` is a number of the right kind inside the interval."""
        kind = numbers.Integral if self.kind is int else numbers.Real
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, kind):
            return False
        number: Any = value
        # Note: math.isfinite turns an integer of 400 digits into a float, which raises; comparing does not.
        if number != number or abs(number) == math.inf:
            return False
        above = number > self.low if self.open_low else number >= self.low
        below = number < self.high if self.open_high else number <= self.high
        return bool(above and below)

    def describe(self) -> str:
        """Name the allowed range, for the error message."""
        kind = "an integer" if self.kind is int else "a number"
        low = None if self.low == -math.inf else f"{'>' if self.open_low else '>='} {self.low}"
        high = None if self.high == math.inf else f"{'<' if self.open_high else '<='} {self.high}"
        return " ".join([kind, " and ".join(filter(None, [low, high]))]).strip()


@dataclass(frozen=True)
class Check:
    """The value passes a test of its own, described in words."""

    test: Callable[[Any], bool]
    words: str

    def accepts(self, value: Any) -> bool:
        """Tell whether `value` passes the test."""
        return bool(self.test(value))

    def describe(self) -> str:
        """Say what the test wants, for the error message."""
        return self.words


Constraint = Choice | Interval | Check

# A separator, a name, a key.
NON_EMPTY = Check(lambda value: isinstance(value, str) and value != "", "a non-empty string")

RANDOM_STATE: list[Constraint] = [
    Interval(int, 0, 2**32 - 1),
    Choice((None,)),
    Check(lambda value: isinstance(value, np.random.RandomState), "a numpy RandomState"),
]


def check_parameters(owner: str, parameters: Mapping[str, Any], table: Mapping[str, Iterable[Constraint]]) -> None:
    """Refuse the first parameter whose value fits none of its constraints.

    Parameters
    ----------
    owner : str
        Name of the class or function whose parameters these are.
    parameters : mapping of str to object
        The values as the caller gave them.
    table : mapping of str to list of Choice, Interval or Check
        What each parameter may be; a value must satisfy one entry of its list.

    Raises
    ------
    InputError
        Names the parameter, what it may be and what was given.

    Examples
    --------
    >>> check_parameters("Net", {"dropout": 2}, {"dropout": [Interval(float, 0, 1)]})
    Traceback (most recent call last):
    multilabelkit.errors.InputError: The 'dropout' parameter of Net must be a number >= 0 and <= 1. Got 2 instead.
    """
    for name, constraints in table.items():
        value = parameters[name]
        choices = list(constraints)
        if not any(constraint.accepts(value) for constraint in choices):
            allowed = ", or ".join(constraint.describe() for constraint in choices)
            raise InputError(f"The {name!r} parameter of {owner} must be {allowed}. Got {shorten(value)} instead.")


def shorten(value: Any, *, limit: int = 80) -> str:
    """Show a value in an error message, in one line and without flooding it."""
    try:
        text = re.sub(r"\s*\n\s*", " ", repr(value))
    except ValueError:  # an integer of more digits than Python prints
        text = f"<{type(value).__name__} too long to print>"
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def suggest(name: str, known: Iterable[str], *, n: int = 3) -> str:
    """Return ' Did you mean ...?' with the nearest known names, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=n, cutoff=0.5)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def check_indicator(values: Any, *, name: str = "y_true") -> np.ndarray:
    """Return `values` as a float64 array of shape (n_samples, n_classes) of 0, 1 and NaN, or raise InputError."""
    array = _to_floats(values, name)
    if array.ndim != 2:
        raise InputError(
            f"{name} must have the shape (n_samples, n_classes). Got {array.ndim} dimension(s) of shape {array.shape}; "
            "turn other label formats into such a table with as_indicator(labels)."
        )
    wrong = ~(np.isnan(array) | (array == 0) | (array == 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"{name} must hold only 0, 1 and NaN (unknown). Got {array[row, column]:g} at row {row}, column {column}."
        )
    return array


def check_scores(y_true: np.ndarray, scores: Any, *, name: str = "proba", probabilities: bool = True) -> np.ndarray:
    """Return `scores` as float64 of the shape of `y_true`, finite and (if asked) in [0, 1], or raise InputError."""
    array = _to_floats(scores, name)
    if array.shape != y_true.shape:
        raise InputError(f"y_true and {name} must have the same shape. Got {y_true.shape} and {array.shape}.")
    bad = ~np.isfinite(array)
    if probabilities:
        bad |= (array < 0) | (array > 1)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        wanted = "in [0, 1]" if probabilities else "finite"
        raise InputError(f"{name} must be {wanted}. Got {array[row, column]:g} at row {row}, column {column}.")
    return array


def _to_floats(values: Any, name: str) -> np.ndarray:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be an array of numbers. Got {shorten(values)} instead; "
            "turn labels of other formats into one with as_indicator(labels)."
        ) from error


def check_sample_weight(sample_weight: Any, n_samples: int) -> np.ndarray | None:
    """Return the weights as float32 of shape (n_samples,), None where all rows count alike, or raise InputError."""
    if sample_weight is None:
        return None
    try:
        weight = np.asarray(sample_weight, dtype=np.float32)
    except (TypeError, ValueError):
        found = shorten(sample_weight)
    else:
        wrong = np.flatnonzero(~(np.isfinite(weight) & (weight >= 0)))
        if weight.shape != (n_samples,):
            found = f"an array of shape {weight.shape}"
        elif len(wrong):
            found = f"{weight[wrong[0]]:g} at row {wrong[0]}"
        elif not weight.any():
            raise InputError(f"sample_weight is zero for all {n_samples} rows. Give some of them a weight above 0.")
        else:
            return weight
    raise InputError(
        f"sample_weight must hold one finite weight >= 0 for each of the {n_samples} rows of X. Got {found}."
    )


def import_extra(module: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which pip line brings it.

    Parameters
    ----------
    module : str
        Name to import, such as ``"onnx"``.
    extra : str
        The extra of multilabelkit that installs it.

    Raises
    ------
    MissingExtraError
        If the package is not installed.

    Examples
    --------
    >>> import_extra("json", extra="none").loads("[1]")
    [1]
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A package that is there but lacks a dependency of its own has another remedy.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package {module!r}, which is not installed. Run: pip install 'multilabelkit[{extra}]'"
        ) from None
