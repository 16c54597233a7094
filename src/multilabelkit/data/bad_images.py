"""Images that cannot be read: finding all of them, and one error or warning that lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from multilabelkit.data.images import describe_source, explain_failure, find_local_path, shorten_name
from multilabelkit.data.threads import map_in_threads
from multilabelkit.errors import ImageDecodeError, warn

Failures = Sequence[tuple[int, ImageDecodeError]]  # the row of each bad image, and what is wrong with it


def find_undecodable(
    sources: Sequence[Any], decode: Callable[[Any], Any], *, num_workers: int
) -> list[tuple[int, ImageDecodeError]]:
    """Try every image, and return the rows and errors of those that fail.

    Parameters
    ----------
    sources : sequence of n_samples images
    decode : callable
        Called with each source; it raises ImageDecodeError for a bad one.
    num_workers : int
        Threads; 0 is one.
    """

    def attempt(source: Any) -> ImageDecodeError | None:
        try:
            decode(source)
        except ImageDecodeError as error:
            return forget_frames(error)
        return None

    errors = map_in_threads(attempt, sources, num_workers=num_workers)
    return [(row, error) for row, error in enumerate(errors) if error]


def forget_frames(error: ImageDecodeError) -> ImageDecodeError:
    """Return an error that is to be kept without what it was raised from: frames hold the bytes of the image."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def check_decodable(sources: Sequence[Any], decode: Callable[[Any], Any], *, num_workers: int) -> None:
    """Try every image and raise one ImageDecodeError that lists all those that fail, with their rows."""
    failures = find_undecodable(sources, decode, num_workers=num_workers)
    if failures:
        raise describe_failures(failures, n_images=len(sources))


def check_files_exist(sources: Sequence[Any], *, where: str = "X") -> None:
    """Raise one ImageDecodeError that lists every local path that is not there: cheap, so it runs first."""
    failures = []
    for row, source in enumerate(sources):
        path = find_local_path(source)
        if path is not None and not os.path.isfile(path):
            name, reason = describe_source(source), explain_failure(source, FileNotFoundError())
            failures.append((row, ImageDecodeError(reason, paths=[name], rows=[row], reasons=[reason])))
    if failures:
        raise describe_failures(failures, n_images=len(sources), where=where)


def describe_failures(failures: Failures, *, n_images: int, where: str = "X", advice: str = "") -> ImageDecodeError:
    """Fold the errors of single images, each with its row in `where`, into the one error that a caller sees."""
    rows = [row for row, _ in failures]
    paths = [error.paths[0] for _, error in failures]
    reasons = [error.reasons[0] for _, error in failures]
    message = f"Cannot decode {_count_failures(failures, n_images, where)}."
    if len(failures) == 1:
        message += f" Repair or remove it{advice}."
    else:
        message += f" Repair or remove them (all are listed in error.paths and error.rows){advice}."
    return ImageDecodeError(message, paths=paths, rows=rows, reasons=reasons)


def _count_failures(failures: Failures, n_images: int, where: str) -> str:
    row, error = failures[0]
    first = f"'{shorten_name(error.paths[0])}' at row {row}: {error.reasons[0]}"
    count = f"{len(failures)} of {n_images} images in {where}"
    return f"{count}: {first}" if len(failures) == 1 else f"{count}; the first is {first}"


def locate_error(error: ImageDecodeError, sources: Sequence[Any]) -> ImageDecodeError:
    """Return an error about some of the sources with their rows among all of them, as far as names tell."""
    row_of: dict[str, int] = {}
    for row, source in enumerate(sources):
        if isinstance(source, (str, os.PathLike)):  # others share a name, such as "<ndarray>"
            row_of.setdefault(describe_source(source), row)
    found = [
        (row_of[path], ImageDecodeError(reason, paths=[path], rows=[row_of[path]], reasons=[reason]))
        for path, reason in zip(error.paths, error.reasons, strict=True)
        if path in row_of
    ]
    return describe_failures(found, n_images=len(sources)) if found else error


def warn_of_failures(failures: Failures, *, n_images: int, where: str = "X", consequence: str) -> None:
    """Warn once of images that cannot be decoded: how many, the first ones by name, and what becomes of them."""
    others = [f"'{shorten_name(error.paths[0])}'" for _, error in failures[1:4]]
    more = len(failures) - 1 - len(others)
    names = f" Others: {', '.join(others)}{f' and {more} more' if more else ''}." if others else ""
    warn(f"Cannot decode {_count_failures(failures, n_images, where)}. {consequence}{names}")
