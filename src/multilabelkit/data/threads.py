"""Work shared out to threads: decoders release the interpreter lock, so nothing need be pickled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

Result = TypeVar("Result")

# Items are handed out so many at a time: a million waiting tasks would cost more memory than what they work on.
_SLICE = 1024


def count_workers(num_workers: int | None) -> int:
    """Turn the `num_workers` parameter into a number of threads; None means one per processor, at most 8."""
    return min(8, os.cpu_count() or 1) if num_workers is None else num_workers


def map_in_threads(
    function: Callable[[Any], Result], items: Sequence[Any] | np.ndarray, *, num_workers: int | None
) -> Iterator[Result]:
    """Yield ``function(item)`` for each item in order; after an error or Ctrl-C only what has begun is finished."""
    pool = ThreadPoolExecutor(max(1, count_workers(num_workers)), thread_name_prefix="multilabelkit")
    try:
        for start in range(0, len(items), _SLICE):
            yield from pool.map(function, items[start : start + _SLICE])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
