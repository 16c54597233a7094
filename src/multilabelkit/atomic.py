"""Writing that is whole or not there: temporary name, fsync, rename."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def write_folder(path: str | os.PathLike, files: Mapping[str, bytes]) -> None:
    """Write a folder of files so that a reader sees the old folder or the new one, never a mixture.

    Parameters
    ----------
    path : path
        Its parent must exist. A folder that is there already is replaced whole.
    files : mapping of str to bytes
        Names and contents.

    Notes
    -----
    Where the system can exchange two names in one step (Linux, most file systems), a crash at any moment leaves the old
    or the new folder. Elsewhere the old folder is first moved to ``.NAME.previous``; between two renames nothing stands
    under the name, and :func:`find_folder` falls back to that copy.
    """
    path = Path(path)
    temporary, previous = _name_temporary(path), name_previous(path)
    try:
        temporary.mkdir()
        for name, content in files.items():
            _write_synced(temporary / name, content)
        _sync_folder(temporary)
        if not path.exists():
            os.rename(temporary, path)
        elif not _exchange(temporary, path):
            _move_in(temporary, path, previous)
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # after an exchange, this is the old folder
    shutil.rmtree(previous, ignore_errors=True)


def _move_in(temporary: Path, path: Path, previous: Path) -> None:
    """Replace a folder in two renames; if the second fails, take back the first."""
    shutil.rmtree(previous, ignore_errors=True)
    os.rename(path, previous)
    try:
        os.rename(temporary, path)
    except BaseException:
        os.rename(previous, path)
        raise


def name_previous(path: Path) -> Path:
    """Return where `write_folder` keeps the old folder while it moves the new one in."""
    return path.with_name(f".{path.name}.previous")


def find_folder(path: str | os.PathLike) -> Path:
    """Return the folder, or the copy that an interrupted `write_folder` left of it."""
    path = Path(path)
    return path if path.exists() or not name_previous(path).is_dir() else name_previous(path)


def _name_temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")


def _write_synced(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the renames in a folder last; Windows has no such call and needs none, nor have some network drives."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, or return False where the system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    # Whatever the reason of a failure, plain renames come next and say what is wrong, if anything is.
    return rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
