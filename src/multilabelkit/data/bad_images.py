"""Images that cannot be read: finding all of them, and one error or warning that lists them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from multilabelkit.data.images import describe_source, explain_failure, find_local_path
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

    def attempt(row: int) -> ImageDecodeError | None:
        try:
            decode(sources[row])
        except ImageDecodeError as error:
            return error
        return None

    pool = ThreadPoolExecutor(max(1, num_workers))
    try:
        # Rows are handed out in slices: a million waiting tasks would cost more memory than the paths.
        failures: list[tuple[int, ImageDecodeError]] = []
        for start in range(0, len(sources), _SLICE):
            rows = range(start, min(start + _SLICE, len(sources)))
            failures.extend((row, error) for row, error in zip(rows, pool.map(attempt, rows), strict=True) if error)
        return failures
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_SLICE = 1024


def check_decodable(
    sources: Sequence[Any], decode: Callable[[Any], Any], *, num_workers: int, where: str = "X", advice: str = ""
) -> None:
    """Try every image and raise one ImageDecodeError that lists all those that fail, with their rows."""
    failures = find_undecodable(sources, decode, num_workers=num_workers)
    if failures:
        raise describe_failures(failures, n_images=len(sources), where=where, advice=advice)


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
    first = f"'{error.paths[0]}' at row {row}: {error.reasons[0]}"
    count = f"{len(failures)} of {n_images} images in {where}"
    return f"{count}: {first}" if len(failures) == 1 else f"{count}; the first is {first}"


def warn_of_failures(failures: Failures, *, n_images: int, where: str = "X", consequence: str) -> None:
    """Warn once of images that cannot be decoded: how many, the first ones by name, and what becomes of them."""
    others = [f"'{error.paths[0]}'" for _, error in failures[1:4]]
    more = len(failures) - 1 - len(others)
    names = f" Others: {', '.join(others)}{f' and {more} more' if more else ''}." if others else ""
    warn(f"Cannot decode {_count_failures(failures, n_images, where)}. {consequence}{names}")
