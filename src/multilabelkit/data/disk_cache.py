"""Decoded images in a folder that later fits and other processes share."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import math
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import psutil

from multilabelkit.errors import warn

_DIGEST_BYTES = 16
_STALE_SECONDS = 2 * 24 * 3600
_MAX_OPEN = 64  # files; of more segments, each is opened and closed for each image
_HEADER_BYTES = 512  # no less than those of the two files of a segment
_ROOM_STEP = 64  # images; for so many at a time the folder is measured
_FORMAT = "pixels-1"  # another number whenever the same image would be decoded or resized to other pixels


class DiskCache:
    """Pixels in files, found again by the content of the image they were decoded from.

    A folder holds one folder for each size and kind of pixels, and that one *segments*: a file of pixels and a file of
    the digests of the images they come from. A segment is written under a temporary name, by one process, and is
    renamed when it is whole; from then on nobody changes it. So nothing is locked, two processes that decode the same
    images at the same time merely do it twice, and a process that is killed leaves a temporary file, which the next
    one removes. Whatever fails in the folder is a missing image, which is decoded again.

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
        The segments of the folder, of any kind, that were used longest ago are removed to stay below it.
    """

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
        paths = sorted(self.folder.glob("*.digests.npy"))
        segments = [_Segment(path, shape, keep_open=place < _MAX_OPEN) for place, path in enumerate(paths)]
        self._place_of = {digest: place for segment in segments for digest, place in segment.list_places()}
        self._places: list[_Place | None] = [None] * n_images
        self._used: set[_Segment] = set()
        self._written: list[_OwnSegment] = []
        self._room, self._n_placed, self._is_full = 0, 0, False

    def get(self, row: int) -> np.ndarray | None:
        """Return the pixels of a row that was found or put before, or None."""
        place = self._places[row]
        return None if place is None else place.segment.read(place.number)

    def find(self, row: int, digest: bytes) -> np.ndarray | None:
        """Return the pixels of a row whose image has this content, from whichever fit decoded it, or None."""
        place = self._place_of.get(digest)
        pixels = None if place is None else place.segment.read(place.number)
        if place is None or pixels is None:
            return None
        if place.segment not in self._used and isinstance(place.segment, _Segment):
            self._used.add(place.segment)
            place.segment.touch()
        self._set_place(row, place)
        return pixels

    def put(self, row: int, pixels: np.ndarray, digest: bytes | None = None) -> None:
        """Keep the pixels of a row; without a digest they are of no use to another fit."""
        with self._lock:
            if self._is_full:
                return
            try:
                self._take_room()
                if not self._written or self._written[-1].is_published:
                    self._written.append(_OwnSegment(self.folder, self._shape))
                place = _Place(self._written[-1], self._written[-1].write(pixels, digest))
            except OSError as error:
                self._is_full = True
                warn(
                    f"The pixel cache '{self.root}' takes no more images: {error}. The others are decoded anew in "
                    "each epoch."
                )
                return
        if digest is not None:
            self._place_of[digest] = place
        self._set_place(row, place)

    def _set_place(self, row: int, place: _Place) -> None:
        with self._lock:
            self._n_placed += self._places[row] is None
            self._places[row] = place
            if self._n_placed == self._n_images and self._written:
                self._written[-1].publish()  # now: a long training may yet be killed

    def close(self) -> None:
        """Leave what was decoded to later fits; nothing can be read afterwards."""
        self._places, self._is_full = [None] * self._n_images, True
        for segment in {*self._written, *(place.segment for place in self._place_of.values())}:
            segment.close()
        self._place_of = {}

    def _take_room(self) -> None:
        """Make sure that one more image fits."""
        needed = self._slot_bytes + _DIGEST_BYTES
        if self._room < needed:
            wanted = min(_ROOM_STEP, max(1, self._n_images - self._n_placed)) * needed
            used = {segment.path for segment in self._used}
            self._room = _make_room(self.root, wanted, max_bytes=self._max_bytes - _HEADER_BYTES, keep=used)
        if self._room < needed:
            raise OSError(f"its {self._max_bytes / 2**30:.1f} GiB, or half of the free disk, are used up")
        self._room -= needed


class _Place(NamedTuple):
    """Where the pixels of an image are."""

    segment: _Segment | _OwnSegment
    number: int


class _Segment:
    """Pixels that a fit has left; its file is opened when it is first needed."""

    def __init__(self, digests: Path, shape: tuple[int, ...], *, keep_open: bool) -> None:
        self.path = digests
        self._pixels = digests.with_name(digests.name.replace(".digests.", ".pixels."))
        self._shape, self._slot_bytes = shape, math.prod(shape)
        self._keep_open = keep_open
        self._file: io.FileIO | None = None
        self._start = 0
        self._lock = threading.Lock()

    def list_places(self) -> list[tuple[bytes, _Place]]:
        """Return the digests with their places; nothing if the segment is damaged or was just removed."""
        try:
            digests = np.load(self.path, allow_pickle=False)
            with open(self._pixels, "rb") as file:
                self._start, n_slots = _read_header(file, self._shape)
                is_whole = os.fstat(file.fileno()).st_size == self._start + n_slots * self._slot_bytes
        except Exception as error:  # of any kind: what damaged bytes make of numpy's parser is boundless
            logging.getLogger(__name__).debug("passed over '%s': %s", self.path, error)
            return []
        fits = digests.dtype == np.uint8 and digests.ndim == 2 and digests.shape[1] == _DIGEST_BYTES
        if not (fits and is_whole and len(digests) <= n_slots):
            return []
        return [(digest, _Place(self, number)) for number, digest in enumerate(map(bytes, digests))]

    def read(self, number: int) -> np.ndarray | None:
        """Return the pixels at a place, or None if the file is gone."""
        try:
            if not self._keep_open:
                with open(self._pixels, "rb", buffering=0) as file:
                    return self._read(file, number)
            with self._lock:
                self._file = self._file or open(self._pixels, "rb", buffering=0)  # noqa: SIM115
            return self._read(self._file, number)
        except (OSError, ValueError):  # removed, on a drive that went away, or closed in this moment
            return None

    def _read(self, file: io.FileIO, number: int) -> np.ndarray:
        return _read_slot(file, self._start + number * self._slot_bytes, self._shape, self._lock)

    def touch(self) -> None:
        """Note that the segment is of use: the one that was used longest ago is removed first."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


class _OwnSegment:
    """The segment that this process writes."""

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self._name = secrets.token_hex(8)
        self._folder = folder
        self._temporary = folder / f"{self._name}.{socket.gethostname()}.{os.getpid()}.tmp"
        self._shape, self._slot_bytes = shape, math.prod(shape)
        self._digests: list[bytes] = []
        self._is_useful = self.is_published = False
        self._lock = threading.Lock()
        self._file = open(self._temporary, "x+b", buffering=0)  # noqa: SIM115
        _write_header(self._file, 0, shape)
        self._start = self._file.tell()

    def write(self, pixels: np.ndarray, digest: bytes | None) -> int:
        """Add one image and return its place."""
        number = len(self._digests)
        with self._lock:
            self._file.seek(self._start + number * self._slot_bytes)
            _write_all(self._file, np.ascontiguousarray(pixels).data.cast("B"))
        self._is_useful |= digest is not None
        self._digests.append(digest or secrets.token_bytes(_DIGEST_BYTES))
        return number

    def read(self, number: int) -> np.ndarray | None:
        """Return the pixels at a place, or None if they cannot be read."""
        try:
            return _read_slot(self._file, self._start + number * self._slot_bytes, self._shape, self._lock)
        except (OSError, ValueError):
            return None

    def publish(self) -> None:
        """Give the segment its name; the digests come last, so that a reader sees both files or neither."""
        if self.is_published or not self._is_useful:
            return
        with contextlib.suppress(OSError):  # Windows does not rename an open file; `close` tries again
            with self._lock:
                self._file.seek(0)
                _write_header(self._file, len(self._digests), self._shape)
                assert self._file.tell() == self._start
                self._file.truncate(self._start + len(self._digests) * self._slot_bytes)  # a last image may be cut
            os.fsync(self._file.fileno())
            self._rename()

    def _rename(self) -> None:
        os.replace(self._temporary, self._folder / f"{self._name}.pixels.npy")
        temporary = self._temporary.with_suffix(".digests.tmp")
        digests = np.frombuffer(b"".join(self._digests), dtype=np.uint8).reshape(-1, _DIGEST_BYTES)
        with open(temporary, "xb") as file:
            np.save(file, digests, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._folder / f"{self._name}.digests.npy")
        self.is_published = True

    def close(self) -> None:
        """Publish what there is; a folder that takes nothing any more is no reason to lose a training."""
        if self._file.closed:
            return
        self.publish()
        with contextlib.suppress(OSError):
            self._file.close()
            if self._is_useful and not self.is_published:
                self._rename()
        with contextlib.suppress(OSError):
            self._temporary.unlink(missing_ok=True)


def _write_header(file: io.FileIO, n_slots: int, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (n_slots, *shape)}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    _write_all(file, buffer.getbuffer())  # always as long: numpy leaves room for the number of rows to grow


def _read_header(file: BinaryIO, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return where the pixels begin and how many images there are, or raise ValueError."""
    np.lib.format.read_magic(file)
    (n_slots, *found), is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if tuple(found) != shape or is_fortran or dtype != np.uint8:
        raise ValueError("the file holds something else")
    return file.tell(), n_slots


def _write_all(file: io.FileIO, view: memoryview) -> None:
    """Write all bytes; an unbuffered file may take only some of them at once."""
    while len(view):
        view = view[file.write(view) :]


def _read_slot(file: io.FileIO, place: int, shape: tuple[int, ...], lock: threading.Lock) -> np.ndarray:
    """Read one image. Not from mapped memory: where a file was cut or its drive went away, that kills the process."""
    pixels = np.empty(shape, dtype=np.uint8)
    view = pixels.data.cast("B")
    while len(view):
        if hasattr(os, "preadv"):
            n_read = os.preadv(file.fileno(), [view], place)
        else:
            with lock:
                file.seek(place)
                n_read = file.readinto(view) or 0
        if not n_read:
            raise OSError("the file is too short")
        view, place = view[n_read:], place + n_read
    return pixels


def _make_room(root: Path, wanted: int, *, max_bytes: int, keep: Collection[Path]) -> int:
    """Remove the segments that were used longest ago until `wanted` bytes fit; return how many may be written."""
    segments, used = [], 0
    for path in root.glob("pixels-*/*"):
        with contextlib.suppress(OSError):
            status = path.stat()
            used += status.st_size  # of files that others are writing, too
            if path.name.endswith(".digests.npy") and path not in keep:
                segments.append((status.st_mtime, path))
    for _, path in sorted(segments):
        if used + wanted <= max_bytes:
            break
        # One that another process reads stays on the disk until that process ends; Windows refuses to remove it.
        with contextlib.suppress(OSError):
            pixels = path.with_name(path.name.replace(".digests.", ".pixels."))
            size = path.stat().st_size + pixels.stat().st_size
            path.unlink()
            pixels.unlink()
            used -= size
    return max(0, min(wanted, max_bytes - used, shutil.disk_usage(root).free // 2))


def _remove_stale(root: Path) -> None:
    """Remove what killed processes left: temporary files, and pixels without digests."""
    remove_abandoned(root.glob("pixels-*/*.tmp"))
    for path in root.glob("pixels-*/*.pixels.npy"):
        with contextlib.suppress(OSError):
            digests = path.with_name(path.name.replace(".pixels.", ".digests."))
            if not digests.exists() and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()


def remove_abandoned(temporaries: Iterable[Path]) -> None:
    """Remove temporary files, NAME.HOST.PROCESS.tmp, of processes that are no more."""
    for path in temporaries:
        with contextlib.suppress(OSError, ValueError):
            host, process = path.name.split(".", 1)[1].removesuffix(".tmp").removesuffix(".digests").rsplit(".", 1)
            is_old = time.time() - path.stat().st_mtime > _STALE_SECONDS
            is_dead = not psutil.pid_exists(int(process)) if host == socket.gethostname() else is_old
            if is_dead:
                path.unlink()


def digest_content(encoded: bytes) -> bytes:
    """Return what stands for the content of a file in the cache."""
    return hashlib.blake2b(encoded, digest_size=_DIGEST_BYTES).digest()
