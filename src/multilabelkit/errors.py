"""What can go wrong, sorted by who can mend it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from types import FrameType

_PACKAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")


class MultiLabelKitError(Exception):
    """Base of every error that multilabelkit raises on purpose."""


class InputError(MultiLabelKitError, ValueError):
    """Something the caller passed cannot be used; the message says what to pass instead.

    A server may show this message to its client: it speaks of the input alone.
    """


class ImageDecodeError(InputError):
    """One or more images cannot be read.

    Attributes
    ----------
    paths : tuple of str
        Every image that failed, as a path or as a description such as ``"<array>"``.
    rows : tuple of int
        Their positions in X, in the same order.
    reasons : tuple of str
        Why each of them failed, in the same order.
    """

    def __init__(
        self,
        message: str,
        *,
        paths: Sequence[str] = (),
        rows: Sequence[int] = (),
        reasons: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.paths = tuple(paths)
        self.rows = tuple(rows)
        self.reasons = tuple(reasons)

    def __reduce__(self):
        # Errors travel between the processes of a parallel grid search by pickling; the
        # default would call the class with the message alone and lose the three lists.
        return _restore_decode_error, (type(self), self.args[0], self.paths, self.rows, self.reasons)


def _restore_decode_error(kind, message, paths, rows, reasons):
    return kind(message, paths=paths, rows=rows, reasons=reasons)


class ModelFileError(MultiLabelKitError):
    """A model folder is missing, damaged, unsafe or made by a newer version."""


class MissingExtraError(MultiLabelKitError, ImportError):
    """An optional package is needed; the message holds the pip line that brings it."""


class MultiLabelKitWarning(UserWarning):
    """Something suspicious that does not stop the work, such as a class without a positive."""


def warn(message: str) -> None:
    """Warn with a MultiLabelKitWarning that points at the first line outside this package: the caller's own."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, MultiLabelKitWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    """Tell whether a frame is in this package, or in the decorator that scikit-learn's callbacks need around fit."""
    module = str(frame.f_globals.get("__name__", ""))
    return frame.f_code.co_filename.startswith(_PACKAGE) or module.startswith("sklearn.callback.")
