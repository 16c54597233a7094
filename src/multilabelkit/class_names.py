"""Names of classes as plain Python values, and lists of them in messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from multilabelkit.checks import shorten
from multilabelkit.errors import InputError

_N_NAMES = 20  # classes that a message lists before it gives a count


def list_names(classes: Sequence[Any] | np.ndarray, *, n_classes: int | None = None) -> list[Any]:
    """Return class names as plain Python values, or raise InputError if there are not `n_classes` of them."""
    names = [to_plain_name(name) for name in classes]
    if n_classes is not None and len(names) != n_classes:
        raise InputError(f"classes must name each of {n_classes} columns. Got {len(names)} names: {shorten(names)}.")
    return names


def join_first(texts: Sequence[str]) -> str:
    """List a few of many things in a message, then how many more there are."""
    rest = f" and {len(texts) - _N_NAMES} more" if len(texts) > _N_NAMES else ""
    return ", ".join(texts[:_N_NAMES]) + rest


def to_plain_name(value: Any) -> Any:
    """Return the plain Python value of a numpy scalar; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value
