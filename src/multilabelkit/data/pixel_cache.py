"""Decoded images kept for the next epoch: in memory, or in a folder that later fits and other processes share."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from multilabelkit.errors import InputError, warn

# A cache in memory takes no more than this, nor more than half of the memory that is free when it is made.
MEMORY_BYTES = 4 * 2**30

# The cache folder of the user takes no more than this, and no cache folder more than half of the disk that is free.
DISK_BYTES = 20 * 2**30

_DIGEST_BYTES = 16
_STALE_SECONDS = 2 * 24 * 3600
_FORMAT = "pixels-1"  # another number whenever the same image would be decoded or resized to other pixels


class MemoryCache:
    """Pixels of the first images, as many as there is room for.

    Parameters
    ----------
    n_images : int
    shape : tuple of int
        Of one image, (size, size, C).
    max_bytes : int
    """

    keeps_contents = False  # the reader need not know what is in a file

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


class DiskCache:
    """Pixels in memory-mapped files, found again by the content of the image they were decoded from.

    A folder holds one folder for each size and kind of pixels, and that one *segments*: a file of pixels and a file of
    the digests of the images they come from. A segment is written under a temporary name, by one process, and is
    renamed when it is whole; from then on nobody changes it. So nothing is locked, two processes that decode the same
    images at the same time merely do it twice, and a process that is killed leaves a temporary file, which the next
    one removes.

    Parameters
    ----------
    folder : path
        Made if it is not there.
    n_images : int
    shape : tuple of int
        Of one image, (size, size, C).
    kind : str
        Names whatever else decides the pixels; caches of different kinds share nothing.
    max_bytes : int
        The oldest segments of the folder, of any kind, are removed to stay below it.
    """

    keeps_contents = True
    n_bytes = 0  # of memory: what the system keeps of the files it gives back when it must

    def __init__(
        self, folder: str | os.PathLike, n_images: int, shape: tuple[int, ...], *, kind: str, max_bytes: int
    ) -> None:
        self.root = Path(folder)
        self.folder = self.root / f"{_FORMAT}-{kind}-{'x'.join(map(str, shape))}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._shape, self._slot_bytes = shape, math.prod(shape)
        self._max_bytes, self._n_images = max_bytes, n_images
        self._lock = threading.Lock()
        _remove_stale(self.root)
        segments = [segment for path in self.folder.glob("*.digests.npy") if (segment := _open(path, shape))]
        self._place_of = {  # digest -> (pixels of its segment, position)
            digest: (pixels, place) for digests, pixels in segments for place, digest in enumerate(map(bytes, digests))
        }
        self._places: list[tuple[np.ndarray, int] | None] = [None] * n_images
        self._own: _OwnSegment | None = None
        self._is_full = False

    def get(self, row: int) -> np.ndarray | None:
        """Return the pixels of a row that was found or put before, or None."""
        place = self._places[row]
        return None if place is None else place[0][place[1]]

    def find(self, row: int, digest: bytes) -> np.ndarray | None:
        """Return the pixels of a row whose image has this content, from whichever fit decoded it, or None."""
        self._places[row] = self._place_of.get(digest)
        return self.get(row)

    def put(self, row: int, pixels: np.ndarray, digest: bytes | None = None) -> None:
        """Keep the pixels of a row; without a digest they are of no use to another fit."""
        with self._lock:
            if self._is_full:
                return
            try:
                own = self._own = self._own or self._start_segment()
                place = own.write(pixels, digest)
            except OSError as error:
                self._is_full = True
                warn(
                    f"The pixel cache '{self.root}' takes no more images: {error}. The others are decoded anew in "
                    "each epoch."
                )
                return
        self._places[row] = (own.pixels, place)
        if digest is not None:
            self._place_of[digest] = (own.pixels, place)
        if own.is_full:  # a long training may yet be killed
            own.publish()

    def close(self) -> None:
        """Leave what was decoded to later fits; nothing can be read afterwards."""
        self._places, self._place_of = [None] * self._n_images, {}
        self._is_full = True
        own, self._own = self._own, None
        if own is not None:
            own.close()

    def _start_segment(self) -> _OwnSegment:
        known = sum(place is not None for place in self._places)
        wanted = (self._n_images - known) * self._slot_bytes
        room = _make_room(self.root, wanted, max_bytes=self._max_bytes)
        if room < self._slot_bytes:
            raise OSError(f"its {self._max_bytes / 2**30:.1f} GiB, or half of the free disk, are used up")
        return _OwnSegment(self.folder, min(wanted, room) // self._slot_bytes, self._shape)


class _OwnSegment:
    """The segment that this process writes."""

    def __init__(self, folder: Path, n_slots: int, shape: tuple[int, ...]) -> None:
        self.name = secrets.token_hex(8)
        self._folder, self._n_slots = folder, n_slots
        self._temporary = folder / f"{self.name}.{socket.gethostname()}.{os.getpid()}.tmp"
        self._shape, self._slot_bytes = shape, math.prod(shape)
        self._digests: list[bytes] = []
        self._n_used = 0
        self._is_published = False
        # Written as a file and read as memory: where the disk is full, writing to mapped memory would kill the process.
        self._file = open(self._temporary, "xb", buffering=0)  # noqa: SIM115
        _write_header(self._file, n_slots, shape)
        self._start = self._file.tell()
        self._file.truncate(self._start + n_slots * self._slot_bytes)
        self.pixels = np.load(self._temporary, mmap_mode="c", allow_pickle=False)

    @property
    def is_full(self) -> bool:
        return self._n_used == self._n_slots

    def write(self, pixels: np.ndarray, digest: bytes | None) -> int:
        """Add one image and return its position."""
        if self.is_full:
            raise OSError("there is no more room")
        place = self._n_used
        self._file.seek(self._start + place * self._slot_bytes)
        _write_all(self._file, np.ascontiguousarray(pixels).data.cast("B"))
        self._digests.append(digest or secrets.token_bytes(_DIGEST_BYTES))
        self._n_used += 1
        return place

    def publish(self) -> None:
        """Give the segment its name; the digests come last, so that a reader sees both files or neither."""
        if self._is_published or not self._n_used:
            return
        with contextlib.suppress(OSError):  # Windows does not rename a mapped file; `close` tries again
            os.fsync(self._file.fileno())
            os.replace(self._temporary, self._folder / f"{self.name}.pixels.npy")
            temporary = self._temporary.with_suffix(".digests.tmp")
            digests = np.frombuffer(b"".join(self._digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)
            with open(temporary, "xb") as file:
                np.save(file, digests, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self._folder / f"{self.name}.digests.npy")
            self._is_published = True

    def close(self) -> None:
        """Publish what there is, without the room that was never used."""
        del self.pixels
        if not self._is_published:
            with contextlib.suppress(OSError):
                self._file.seek(0)
                _write_header(self._file, self._n_used, self._shape)
                self._file.truncate(self._start + self._n_used * self._slot_bytes)
        self._file.flush()
        self.publish()
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def _write_header(file, n_slots: int, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_slots, *shape)}
    np.lib.format.write_array_header_1_0(file, header)


def _write_all(file, view: memoryview) -> None:
    """Write all bytes; an unbuffered file may take only some of them at once."""
    while len(view):
        view = view[file.write(view) :]


def _open(path: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the digests and the mapped pixels of a segment; None if it is damaged or was just removed."""
    try:
        digests = np.load(path, allow_pickle=False)
        pixels = np.load(_name_pixels(path), mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    fits = digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == _DIGEST_BYTES
    if not (fits and pixels.dtype == np.uint8 and pixels.shape[1:] == shape and len(digests) <= len(pixels)):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the segment that was used last is removed last
    return digests, pixels


def _name_pixels(digests: Path) -> Path:
    return digests.with_name(digests.name.replace(".digests.", ".pixels."))


def _make_room(root: Path, wanted: int, *, max_bytes: int) -> int:
    """Remove the oldest segments until `wanted` bytes fit, and return how many bytes may be written."""
    segments = []
    for path in root.glob("pixels-*/*.digests.npy"):
        with contextlib.suppress(OSError):
            segments.append((path.stat().st_mtime, path, _name_pixels(path).stat().st_size))
    used = sum(size for _, _, size in segments)
    for _, path, size in sorted(segments):
        if used + wanted <= max_bytes:
            break
        # One that another process reads stays on the disk until that process ends; Windows refuses to remove it.
        with contextlib.suppress(OSError):
            path.unlink()
            _name_pixels(path).unlink()
            used -= size
    return max(0, min(wanted, max_bytes - used, shutil.disk_usage(root).free // 2))


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left: temporary files, and pixels without digests."""
    for path in root.glob("pixels-*/*.tmp"):
        with contextlib.suppress(OSError, ValueError):
            host, process = path.name.split(".", 1)[1].removesuffix(".tmp").removesuffix(".digests").rsplit(".", 1)
            is_old = time.time() - path.stat().st_mtime > _STALE_SECONDS
            is_dead = host == socket.gethostname() and not psutil.pid_exists(int(process))
            if is_dead or is_old:
                path.unlink()
    for path in root.glob("pixels-*/*.pixels.npy"):
        with contextlib.suppress(OSError):
            digests = path.with_name(path.name.replace(".pixels.", ".digests."))
            if not digests.exists() and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def digest_content(encoded: bytes) -> bytes:
    """Return what stands for the content of a file in the cache."""
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()


def find_cache_folder() -> Path:
    """Return the folder of the user's caches: that of MULTILABELKIT_CACHE, or where the system keeps such things."""
    if chosen := os.environ.get("MULTILABELKIT_CACHE"):
        return Path(chosen)
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
        return _open_folder(Path(pixel_cache), n_images, shape, kind)
    folder = find_cache_folder() / "pixels"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        if wanted <= min(DISK_BYTES, shutil.disk_usage(folder).free // 2):
            return DiskCache(folder, n_images, shape, kind=kind, max_bytes=DISK_BYTES)
    return MemoryCache(n_images, shape, max_bytes=room)


def _open_folder(folder: Path, n_images: int, shape: tuple[int, ...], kind: str) -> DiskCache:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError("writing there is not permitted")
        return DiskCache(folder, n_images, shape, kind=kind, max_bytes=_measure_disk(folder))
    except OSError as error:
        raise InputError(
            f"The pixel cache cannot be kept in '{folder}': {error.strerror or error}. "
            "Set pixel_cache to a folder that can be written, to 'auto', 'memory' or None."
        ) from error


def _measure_disk(folder: Path) -> int:
    """Return the bytes a chosen folder may grow to: half of what is free, beside what it holds already."""
    held = sum(path.stat().st_size for path in folder.glob("pixels-*/*.npy"))
    return held + shutil.disk_usage(folder).free // 2


def _measure_free_memory() -> int:
    """Return the bytes that are free, in the machine and in the container if there is one."""
    free = psutil.virtual_memory().available
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text()
        used = Path("/sys/fs/cgroup/memory.current").read_text()
        return free if limit.strip() == "max" else max(0, min(free, int(limit) - int(used)))
    except (OSError, ValueError):
        return free
