"""Features of images, kept in memory or in a folder and found again by content."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import shutil
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from multilabelkit.data.disk_cache import remove_abandoned
from multilabelkit.data.pixel_cache import DISK_BYTES, find_cache_folder, prepare_folder
from multilabelkit.errors import warn

# Features in memory, of all fits of the process, take no more than this.
MEMORY_BYTES = 2**30

_FORMAT = "features-1"  # another number whenever the same image would get other features
_HEADER = struct.Struct("<8sQQQ")  # a mark, and how many images, tokens of each (0 if they are pooled) and features
_MARK = b"features"
_DIGEST_BYTES = 16  # of an image, and of the row that checks it
_SMALL_BYTES, _MAX_SMALL = 2**20, 64  # more small files than that become one


class FeatureStore(Protocol):
    """Features that the same network, in the same way, computed of whatever images."""

    def find(self, digests: list[bytes]) -> Iterable[tuple[bytes, np.ndarray]]:
        """Yield the features of those images that are held."""

    def put(self, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep features; whatever stands in the way is no reason to lose a fit."""


def open_feature_store(feature_cache: str | os.PathLike, address: str) -> FeatureStore | None:
    """Turn the `feature_cache` parameter into a store.

    Parameters
    ----------
    feature_cache : {"auto", "memory"} or path
        "auto" takes the user's cache folder, if it can be written.
    address : str
        Stands for whatever decides the features of an image; stores of different addresses share nothing.

    Raises
    ------
    InputError
        If the folder of a path cannot be made or written.
    """
    if feature_cache == "memory":
        return MemoryStore(address)
    if feature_cache != "auto":
        return FolderStore(prepare_folder(feature_cache, parameter="feature_cache"), address)
    with contextlib.suppress(OSError, RuntimeError):  # where nothing may be written, or nobody is at home
        folder = find_cache_folder() / "features"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return FolderStore(folder, address, max_bytes=DISK_BYTES)
    return None


class MemoryStore:
    """Features in the memory of this process; those that were used longest ago make room."""

    _kept: OrderedDict[tuple[str, bytes], np.ndarray] = OrderedDict()  # noqa: RUF012  # of all fits
    _lock = threading.Lock()
    _n_bytes = 0

    def __init__(self, address: str) -> None:
        self._address = address

    def find(self, digests: list[bytes]) -> list[tuple[bytes, np.ndarray]]:
        """Return the features of those images that are held."""
        with self._lock:
            found = [digest for digest in digests if (self._address, digest) in self._kept]
            for digest in found:
                self._kept.move_to_end((self._address, digest))
            return [(digest, self._kept[self._address, digest]) for digest in found]

    def put(self, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep features, in place of those that were used longest ago."""
        with self._lock:
            for digest, row in features.items():
                if (self._address, digest) not in self._kept:
                    self._kept[self._address, digest] = row.copy()  # a view would hold all rows
                    MemoryStore._n_bytes += row.nbytes
                while self._n_bytes > MEMORY_BYTES:
                    MemoryStore._n_bytes -= self._kept.popitem(last=False)[1].nbytes

    @classmethod
    def clear(cls) -> None:
        """Forget everything."""
        with cls._lock:
            cls._kept.clear()
            cls._n_bytes = 0


class FolderStore:
    """Features in files that nobody changes once they are whole.

    A file holds a header, for each image the digest of its content and that of digest and features, and the features.
    It is written under a temporary name and renamed, so that nothing is locked: two processes that compute the same
    features merely do it twice. A file, or a row, that is not what it says is passed over.
    """

    def __init__(self, root: Path, address: str, *, max_bytes: int | None = None) -> None:
        self._root, self._folder = root, root / f"{_FORMAT}-{address}"
        self._max_bytes = max_bytes
        self._takes_more = True
        remove_abandoned(root.glob("features-*/*.tmp"))

    def find(self, digests: list[bytes]) -> Iterator[tuple[bytes, np.ndarray]]:
        """Yield the features of those images that are held."""
        wanted = set(digests)
        for path in sorted(self._folder.glob("*.features")):
            n_wanted = len(wanted)
            for digest, row in _read_file(path, wanted):
                if digest in wanted:
                    wanted.discard(digest)
                    yield digest, row
            if len(wanted) < n_wanted:
                with contextlib.suppress(OSError):
                    os.utime(path)  # the file that was used longest ago is removed first
            if not wanted:
                return

    def put(self, features: Mapping[bytes, np.ndarray]) -> None:
        """Keep features in a new file; once many files are small, it takes them in."""
        if not features or not self._takes_more:
            return
        small = self._list_small()
        together = {digest: row for path in small for digest, row in _read_file(path, None)}
        try:
            self._write({**together, **features})
        except OSError as error:
            self._takes_more = False
            if self._max_bytes is None:
                warn(
                    f"The feature cache '{self._root}' takes no more features: {error}. They are computed anew in "
                    "each fit."
                )
            return
        for path in small:
            with contextlib.suppress(OSError):  # another process reads it, or was faster
                path.unlink()

    def _list_small(self) -> list[Path]:
        """Return the small files once there are too many of them to open one by one."""
        small = []
        for path in self._folder.glob("*.features"):
            with contextlib.suppress(OSError):
                small += [path] * (path.stat().st_size < _SMALL_BYTES)
        return small if len(small) >= _MAX_SMALL else []

    def _write(self, features: dict[bytes, np.ndarray]) -> None:
        rows = [np.ascontiguousarray(row, dtype="<f4") for row in features.values()]
        shape = rows[0].shape
        n_bytes = _HEADER.size + len(rows) * (2 * _DIGEST_BYTES + rows[0].nbytes)
        _make_room(self._root, n_bytes, max_bytes=self._max_bytes)
        self._folder.mkdir(parents=True, exist_ok=True)
        name = secrets.token_hex(8)
        temporary = self._folder / f"{name}.{socket.gethostname()}.{os.getpid()}.tmp"
        try:
            with open(temporary, "xb") as file:
                file.write(_HEADER.pack(_MARK, len(rows), shape[0] if len(shape) == 2 else 0, shape[-1]))
                for digest, row in zip(features, rows, strict=True):
                    file.write(digest + _check_row(digest, row))
                for row in rows:
                    file.write(row.data)
            os.replace(temporary, self._folder / f"{name}.features")
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _read_file(path: Path, wanted: Collection[bytes] | None) -> Iterator[tuple[bytes, np.ndarray]]:
    """Yield the features of the wanted images, or of all, that a file holds undamaged."""
    with contextlib.suppress(OSError, struct.error), open(path, "rb") as file:
        mark, n_rows, n_tokens, n_features = _HEADER.unpack(file.read(_HEADER.size))
        shape = (n_tokens, n_features) if n_tokens else (n_features,)
        start, row_bytes = _HEADER.size + n_rows * 2 * _DIGEST_BYTES, 4 * math.prod(shape)
        # No number of a damaged header is believed before the file is known to be as large as it says.
        if mark != _MARK or not row_bytes or os.fstat(file.fileno()).st_size != start + n_rows * row_bytes:
            return
        table = file.read(start - _HEADER.size)
        for number in range(n_rows):
            digest, check = struct.unpack_from(f"{_DIGEST_BYTES}s{_DIGEST_BYTES}s", table, number * 2 * _DIGEST_BYTES)
            if wanted is None or digest in wanted:
                row = np.empty(shape, dtype="<f4")
                file.seek(start + number * row_bytes)
                if file.readinto(row.data.cast("B")) == row_bytes and _check_row(digest, row) == check:
                    yield digest, row.astype(np.float32, copy=False)


def _check_row(digest: bytes, row: np.ndarray) -> bytes:
    """Digest the features of an image together with the digest of its content."""
    check = hashlib.sha256(digest)
    check.update(row.data)
    return check.digest()[:_DIGEST_BYTES]


def _make_room(root: Path, wanted: int, *, max_bytes: int | None) -> None:
    """Remove the files that were used longest ago until `wanted` bytes fit, or raise OSError if they never will."""
    files = []
    for path in root.glob("features-*/*"):
        with contextlib.suppress(OSError):  # another process may have removed it
            status = path.stat()
            files.append((status.st_mtime, status.st_size, path))
    used = sum(size for _, size, _ in files)
    limit = used + shutil.disk_usage(root).free // 2
    limit = limit if max_bytes is None else min(limit, max_bytes)
    if wanted > limit:
        raise OSError(f"they take {wanted / 2**30:.1f} GiB, and {limit / 2**30:.1f} GiB may be used")
    for _, size, path in sorted(files):
        if used + wanted <= limit:
            return
        with contextlib.suppress(OSError):  # Windows does not remove what another process reads
            path.unlink()
            used -= size
            path.parent.rmdir()  # unless it holds others
    if used + wanted > limit:
        raise OSError("the files there cannot be removed")
