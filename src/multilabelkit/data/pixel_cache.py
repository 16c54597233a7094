"""Decoded images kept for the next epoch: in memory, or in a folder."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import psutil

from multilabelkit.data.disk_cache import DiskCache
from multilabelkit.errors import InputError

# A cache in memory takes no more than this, nor more than half of the memory that is free when it is made.
MEMORY_BYTES = 4 * 2**30

# The cache folder of the user takes no more than this, and no cache folder more than half of the disk that is free.
DISK_BYTES = 20 * 2**30


class MemoryCache:
    """Pixels of the first images, as many as there is room for.

    Parameters
    ----------
    n_images : int
    shape : tuple of int
        Of one image, (size, size, C).
    max_bytes : int
    """

    def __init__(self, n_images: int, shape: tuple[int, ...], *, max_bytes: int) -> None:
        n_cached = min(n_images, max(0, max_bytes) // math.prod(shape))
        self._pixels = np.empty((n_cached, *shape), dtype=np.uint8)  # memory is taken only as rows are filled
        self._filled = np.zeros(n_cached, dtype=bool)

    @property
    def n_bytes(self) -> int:
        """How much memory the cache takes once it is full."""
        return self._pixels.nbytes

    def get(self, row: int) -> np.ndarray | None:
        """Return the pixels of a row, or None."""
        return self._pixels[row] if row < len(self._filled) and self._filled[row] else None

    def put(self, row: int, pixels: np.ndarray) -> None:
        """Keep the pixels of a row."""
        if row < len(self._filled):
            self._pixels[row] = pixels
            self._filled[row] = True  # only now: another thread may look at any moment

    def close(self) -> None:
        """Do nothing: the memory goes with the object."""


def find_cache_folder() -> Path:
    """Return the folder of the user's caches: that of MULTILABELKIT_CACHE, or where the system keeps such things."""
    if chosen := os.environ.get("MULTILABELKIT_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "multilabelkit"


def create_pixel_cache(
    pixel_cache: str | os.PathLike | None, n_images: int, shape: tuple[int, ...], *, kind: str, reserved_bytes: int = 0
) -> MemoryCache | DiskCache | None:
    """Turn the `pixel_cache` parameter into a cache.

    Parameters
    ----------
    pixel_cache : {"auto", "memory"}, path or None
        "auto" takes memory if all images fit, else the user's cache folder if they fit there, else what memory there
        is. "memory" and a path take as many images as fit; None takes none.
    n_images : int
    shape : tuple of int
        Of one image, (size, size, C).
    kind : str
        Whatever else decides the pixels.
    reserved_bytes : int
        How much of the memory other caches will take.

    Raises
    ------
    InputError
        If the folder of a path cannot be made or written.
    """
    if pixel_cache is None:
        return None
    wanted = n_images * math.prod(shape)
    room = min(MEMORY_BYTES, _measure_free_memory() // 2) - reserved_bytes
    if pixel_cache == "memory" or (pixel_cache == "auto" and wanted <= room):
        return MemoryCache(n_images, shape, max_bytes=room)
    if pixel_cache != "auto":
        folder = prepare_folder(pixel_cache)
        return DiskCache(folder, n_images, shape, kind=kind, max_bytes=_measure_disk(folder))
    with contextlib.suppress(OSError, RuntimeError):  # where nothing may be written, or nobody is at home
        folder = find_cache_folder() / "pixels"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        limit = min(DISK_BYTES, _measure_disk(folder))
        if wanted <= limit:
            return DiskCache(folder, n_images, shape, kind=kind, max_bytes=limit)
    return MemoryCache(n_images, shape, max_bytes=room)


def prepare_folder(folder: str | os.PathLike, *, parameter: str = "pixel_cache") -> Path:
    """Make the folder of a cache, or raise InputError if it cannot be made or written."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, "writing there is not permitted")
    except OSError as error:
        raise InputError(
            f"The {parameter.replace('_', ' ')} cannot be kept in '{path}': {error.strerror or error}. "
            f"Set {parameter} to a folder that can be written, to 'auto', 'memory' or None."
        ) from error
    return path


def _measure_disk(folder: Path) -> int:
    """Return the bytes a folder may grow to: half of what is free, beside what it holds already."""
    held = 0
    for path in folder.glob("pixels-*/*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            held += path.stat().st_size
    return held + shutil.disk_usage(folder).free // 2


def _measure_free_memory() -> int:
    """Return the bytes that are free, in the machine and in the container if there is one."""
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            used = int(Path("/sys/fs/cgroup/memory.current").read_text())
            notes = Path("/sys/fs/cgroup/memory.stat").read_text().split()
            used -= int(notes[notes.index("inactive_file") + 1])  # files that were read: given back when needed
            free = min(free, int(limit) - used)
    return max(0, free)
