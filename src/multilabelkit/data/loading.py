"""Batches of pixels, decoded ahead in threads while the network computes.

Threads, not processes: decoders and the resize kernel release the interpreter lock, so nothing is pickled, no script
needs a ``__main__`` guard, and a notebook behaves as a script does.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from multilabelkit.data.bad_images import forget_frames
from multilabelkit.data.disk_cache import DiskCache, digest_content
from multilabelkit.data.images import COLOR_MODES, MAX_PIXELS, decode_image, find_local_path, read_encoded
from multilabelkit.data.jpeg import JPEG_SUFFIXES, decode_plain_jpeg
from multilabelkit.data.pixel_cache import create_pixel_cache
from multilabelkit.data.threads import map_in_threads
from multilabelkit.data.transforms import Augmentation, augment_pixels, resize_pixels
from multilabelkit.errors import ImageDecodeError

_PURPOSES = ("order", "augmentation", "mixing")  # what random numbers are drawn for


class Batch(NamedTuple):
    """Some images on their way to the network."""

    rows: np.ndarray  # (B,) their positions in X
    pixels: torch.Tensor  # (B, S, S, C) uint8
    factors: torch.Tensor | None  # (B, 3) colour factors, or None where nothing is augmented


class PixelReader:
    """Gives the pixels of each source at the working size, decoding each image once if there is room to keep it.

    Parameters
    ----------
    sources : sequence of what `decode_image` takes
    size : int
        Side of the square that every image becomes.
    color_mode : {"rgb", "grey"}
    resize : {"squish", "pad", "crop"}
    max_pixels : int
        A file of more pixels is refused.
    decoder : {"auto", "pillow"}
        "auto" leaves plain JPEG files on this machine to simplejpeg, see `decode_plain_jpeg`.
    pixel_cache : {"auto", "memory"}, path or None
        Where decoded pixels are kept, see `create_pixel_cache`.
    reserved_bytes : int
        How much memory the caches of other readers will take.
    keep_bad : bool
        Read an image that cannot be decoded as black, and note its error.

    Attributes
    ----------
    n_decoded : int
        How many images were decoded so far.
    failures : dict of int to ImageDecodeError
        With `keep_bad`, the rows that could not be decoded.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        *,
        size: int,
        color_mode: str,
        resize: str = "squish",
        max_pixels: int = MAX_PIXELS,
        decoder: str = "auto",
        pixel_cache: str | os.PathLike | None = None,
        reserved_bytes: int = 0,
        keep_bad: bool = False,
    ) -> None:
        self.sources = sources
        self.size = size
        self.color_mode = color_mode
        self.resize = resize
        self.max_pixels = max_pixels
        self.decoder = decoder
        self.keep_bad = keep_bad
        self.n_decoded = 0
        self.failures: dict[int, ImageDecodeError] = {}
        self._lock = threading.Lock()
        self._shape = (size, size, COLOR_MODES[color_mode])
        self._cache = create_pixel_cache(
            pixel_cache,
            len(sources),
            self._shape,
            kind=f"{color_mode}-{resize}-{decoder}-{max_pixels}",
            reserved_bytes=reserved_bytes,
        )

    @property
    def cache_folder(self) -> Path | None:
        """The folder of the cache, if it is in one."""
        return self._cache.root if isinstance(self._cache, DiskCache) else None

    @property
    def cache_bytes(self) -> int:
        """How much memory the cache takes once it is full."""
        return 0 if self._cache is None else self._cache.n_bytes

    def read(self, row: int) -> np.ndarray:
        """Return the pixels of one source, (size, size, C) uint8, from the cache or freshly decoded."""
        pixels = None if self._cache is None else self._cache.get(row)
        if pixels is not None:
            return pixels
        try:
            return self._read_source(row)
        except ImageDecodeError as error:
            if not self.keep_bad:
                raise
            self.failures[row] = forget_frames(error)
            return np.zeros(self._shape, dtype=np.uint8)

    def _read_source(self, row: int) -> np.ndarray:
        source = self.sources[row]
        if not isinstance(self._cache, DiskCache):
            pixels = self._decode_resized(source)
            if self._cache is not None:
                self._cache.put(row, pixels)
            return pixels
        encoded = _read_content(source)
        digest = None if encoded is None else digest_content(encoded)
        found = None if digest is None else self._cache.find(row, digest)
        if found is not None:
            return found
        pixels = self._decode_resized(source, encoded)
        self._cache.put(row, pixels, digest)
        return pixels

    def _decode_resized(self, source: Any, encoded: bytes | None = None) -> np.ndarray:
        pixels = resize_pixels(self.decode(source, encoded), self.size, resize=self.resize)
        with self._lock:
            self.n_decoded += 1
        return pixels

    def decode(self, source: Any, encoded: bytes | None = None) -> np.ndarray:
        """Decode one source at whatever size is cheapest above the working size; its bytes may be at hand already."""
        path = find_local_path(source)
        if self.decoder == "auto" and path is not None and path.lower().endswith(JPEG_SUFFIXES):
            encoded = _read_content(source) if encoded is None else encoded
            if encoded is not None:
                pixels = decode_plain_jpeg(
                    encoded, color_mode=self.color_mode, min_size=self.size, max_pixels=self.max_pixels
                )
                if pixels is not None:
                    return pixels
        limits: dict[str, Any] = {"color_mode": self.color_mode, "min_size": self.size, "max_pixels": self.max_pixels}
        if encoded is not None:
            with contextlib.suppress(ImageDecodeError):  # the source itself has a name, and can say what is wrong
                return decode_image(encoded, **limits)
        return decode_image(source, **limits)

    def close(self) -> None:
        """Give back what the cache holds; a cache in a folder is left to later fits."""
        if self._cache is not None:
            self._cache.close()
            self._cache = None


def _read_content(source: Any) -> bytes | None:
    """Return the encoded bytes of a source that has some and can be read."""
    if not isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
        return None
    with contextlib.suppress(Exception):  # of any kind, from any file system: decode_image meets and explains it
        return read_encoded(source)
    return None


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
    n_threads = num_workers if len(parts) == 1 else 1  # of a single batch nothing can be ahead, but much at once
    return _run_ahead(lambda part: _load_evaluation(reader, part, n_threads), parts, num_workers=num_workers)


def iterate_training(
    reader: PixelReader,
    *,
    size: int,
    batch_size: int,
    augmentation: Augmentation | None,
    seed: int,
    epoch: int,
    num_workers: int,
    rows: np.ndarray | None = None,
) -> Generator[Batch, None, None]:
    """Yield all images in a random order, augmented.

    The order depends on (seed, epoch) and each image's augmentation on (seed, epoch, row): the number of workers
    changes nothing. Batches differ in size by one image at most, because a last batch of one would upset batch norm.
    `rows` are the images of the epoch if they are not all, each once; one that stands there twice is augmented twice.
    """
    chosen = np.arange(len(reader.sources)) if rows is None else rows
    order = create_generator("order", seed, epoch).permutation(len(chosen))
    parts = np.array_split(order, count_batches(len(order), batch_size))
    turns = _count_turns(chosen)

    def load(places: np.ndarray) -> Batch:
        if augmentation is None:
            return _load_evaluation(reader, chosen[places])
        pixels, factors = [], []
        for row, turn in zip(chosen[places].tolist(), turns[places].tolist(), strict=True):
            random = create_generator("augmentation", seed, epoch, row, turn)
            image, factor = augment_pixels(reader.read(row), size, augmentation, random)
            pixels.append(image)
            factors.append(factor)
        changed = torch.from_numpy(np.stack(factors)) if augmentation.jitter else None
        return Batch(chosen[places], torch.from_numpy(np.stack(pixels)), changed)

    return _run_ahead(load, parts, num_workers=num_workers)


def create_generator(purpose: str, *numbers: int) -> np.random.Generator:
    """Create the random numbers of one purpose; those of another are others, whatever the numbers."""
    return np.random.default_rng((_PURPOSES.index(purpose), *numbers))


def _count_turns(rows: np.ndarray) -> np.ndarray:
    """Number the times that each row stands there: 0 for the first, 1 for the second."""
    order = np.argsort(rows, kind="stable")
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = rows[order][1:] != rows[order][:-1]
    start = np.maximum.accumulate(np.where(is_first, np.arange(len(rows)), 0))
    turns = np.empty(len(rows), dtype=np.int64)
    turns[order] = np.arange(len(rows)) - start
    return turns


def _load_evaluation(reader: PixelReader, rows: np.ndarray, n_threads: int = 1) -> Batch:
    several = n_threads > 1 and len(rows) > 1
    pixels = map_in_threads(reader.read, rows, num_workers=n_threads) if several else map(reader.read, rows)
    return Batch(rows, torch.from_numpy(np.stack(list(pixels))), None)


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
