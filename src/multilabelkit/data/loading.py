"""Batches of pixels, decoded ahead in threads while the network computes.

Threads, not processes: decoders and the resize kernel release the interpreter lock, so nothing is pickled, no script
needs a ``__main__`` guard, and a notebook behaves as a script does.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch

from multilabelkit.data.images import COLOR_MODES, decode_image
from multilabelkit.data.transforms import Augmentation, augment_pixels, resize_pixels

# The pixel cache takes no more than this, nor more than half of the memory that is free when it is made.
CACHE_BYTES = 4 * 2**30


class Batch(NamedTuple):
    """Some images on their way to the network."""

    rows: np.ndarray  # (B,) their positions in X
    pixels: torch.Tensor  # (B, S, S, C) uint8
    factors: torch.Tensor | None  # (B, 3) colour factors, or None where nothing is augmented


class PixelReader:
    """Gives the pixels of each source at the working size, decoding each image once if memory allows.

    Parameters
    ----------
    sources : sequence of str, Path, PIL image or array
    size : int
        Side of the square that every image is squished to.
    color_mode : {"rgb", "grey"}
    cache : bool
        Keep decoded pixels in memory: as many images, from the first on, as fit in half of the free memory and in
        `CACHE_BYTES`.
    reserved_bytes : int, default=0
        Of that room, how much the caches of other readers will take.

    Attributes
    ----------
    n_decoded : int
        How many images were decoded so far.
    """

    @property
    def cache_bytes(self) -> int:
        """How much memory the cache takes once it is full."""
        return self._cached.nbytes

    def __init__(
        self, sources: Sequence[Any], *, size: int, color_mode: str, cache: bool, reserved_bytes: int = 0
    ) -> None:
        self.sources = sources
        self.size = size
        self.color_mode = color_mode
        self.n_decoded = 0
        self._lock = threading.Lock()
        shape = (size, size, COLOR_MODES[color_mode])
        budget = max(0, min(CACHE_BYTES, _measure_free_memory() // 2) - reserved_bytes) if cache else 0
        n_cached = min(len(sources), budget // math.prod(shape))
        self._cached = np.empty((n_cached, *shape), dtype=np.uint8)  # memory is taken only as rows are filled
        self._filled = np.zeros(n_cached, dtype=bool)

    def read(self, row: int) -> np.ndarray:
        """Return the pixels of one source, (size, size, C) uint8, from the cache or freshly decoded."""
        if row < len(self._filled) and self._filled[row]:
            return self._cached[row]
        pixels = resize_pixels(self.decode(self.sources[row]), self.size)
        with self._lock:
            self.n_decoded += 1
        if row < len(self._filled):
            self._cached[row] = pixels
            self._filled[row] = True  # only now: another thread may look at any moment
        return pixels

    def decode(self, source: Any) -> np.ndarray:
        """Decode one source at whatever size is cheapest above the working size."""
        return decode_image(source, color_mode=self.color_mode, min_size=self.size)


def _measure_free_memory() -> int:
    """Return the bytes that are free, in the machine and in the container if there is one."""
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        return free if limit.strip() == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free


def count_workers(num_workers: int | None) -> int:
    """Turn the `num_workers` parameter into a number of decoding threads; None means one per processor, at most 8."""
    return min(8, os.cpu_count() or 1) if num_workers is None else num_workers


def count_batches(n_images: int, batch_size: int) -> int:
    """Return how many batches of nearly equal size a training epoch has.

    No batch holds a single image unless `batch_size` says so: with an odd number of images and batches of two, one
    batch holds three.
    """
    n_batches = math.ceil(n_images / batch_size)
    return max(1, n_images // 2) if batch_size == 2 else n_batches


def iterate_evaluation(reader: PixelReader, *, batch_size: int, num_workers: int) -> Generator[Batch, None, None]:
    """Yield all images in order, without augmentation."""
    rows = np.arange(len(reader.sources))
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return _run_ahead(lambda part: _load_evaluation(reader, part), parts, num_workers=num_workers)


def iterate_training(
    reader: PixelReader,
    *,
    size: int,
    batch_size: int,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int,
    num_workers: int,
) -> Generator[Batch, None, None]:
    """Yield all images in a random order, augmented.

    The order depends on (seed, epoch) and each image's augmentation on (seed, epoch, row): the number of workers
    changes nothing. Batches differ in size by one image at most, because a last batch of one would upset batch norm.
    """
    order = np.random.default_rng((seed, epoch)).permutation(len(reader.sources))
    parts = np.array_split(order, count_batches(len(order), batch_size))

    def load(rows: np.ndarray) -> Batch:
        if augmentation is None:
            return _load_evaluation(reader, rows)
        pixels, factors = [], []
        for row in rows:
            random = np.random.default_rng((seed, epoch, int(row)))
            image, factor = augment_pixels(reader.read(row), size, augmentation, random)
            pixels.append(image)
            factors.append(factor)
        changed = torch.from_numpy(np.stack(factors)) if augmentation.jitter else None
        return Batch(rows, torch.from_numpy(np.stack(pixels)), changed)

    return _run_ahead(load, parts, num_workers=num_workers)


def _load_evaluation(reader: PixelReader, rows: np.ndarray) -> Batch:
    return Batch(rows, torch.from_numpy(np.stack([reader.read(row) for row in rows])), None)


def _run_ahead(load, parts: Sequence[np.ndarray], *, num_workers: int) -> Generator[Batch, None, None]:
    """Load each part in order, a few of them ahead of the consumer."""
    if num_workers == 0 or len(parts) == 1:
        yield from map(load, parts)
        return
    pool = ThreadPoolExecutor(num_workers, thread_name_prefix="multilabelkit-decode")
    pending: deque[Future[Batch]] = deque()
    try:
        for part in parts:
            pending.append(pool.submit(load, part))
            if len(pending) > num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also on an error, on Ctrl-C and when the consumer stops early: no thread outlives the loop.
        pool.shutdown(wait=True, cancel_futures=True)
