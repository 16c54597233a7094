"""Digests of files, remembered as long as nothing can have changed their content.

A cross-validation asks for the features of the same files dozens of times; reading them for their digests each time
would cost more than finding the features.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import OrderedDict

# A file that changed this lately may change again without another date: clocks tick in steps, on some drives of 2 s.
_SETTLED_NS = 3 * 10**9
_MAX_KEPT = 2**17  # digests; some 40 MB

FileIdentity = tuple[int, int, int, int, int]

_digests: OrderedDict[FileIdentity, bytes] = OrderedDict()  # of all fits
_lock = threading.Lock()


def identify_file(path: str | os.PathLike | None) -> FileIdentity | None:
    """Return what is another as soon as the content of a file is: drive, inode, size, and dates of content and inode.

    Parameters
    ----------
    path : path or None

    Returns
    -------
    identity : tuple of int, or None
        None if there is no such file, where nothing can vouch for its content (it has just changed), and on Windows:
        anybody can set the date of the content, and Windows does not tell that of the inode.

    Examples
    --------
    >>> identify_file("absent.jpg") is None
    True
    """
    if path is None or sys.platform == "win32":
        return None
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        changed = max(status.st_mtime_ns, status.st_ctime_ns)
        if time.time_ns() - changed > _SETTLED_NS:
            return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None


def recall_digest(identity: FileIdentity | None) -> bytes | None:
    """Return the digest of the content of a file that was digested before, if it is the same still."""
    return None if identity is None else _digests.get(identity)


def remember_digest(identity: FileIdentity | None, digest: bytes | None) -> None:
    """Remember a digest; `identity` must have been taken before the file was read."""
    if identity is None or digest is None:
        return
    with _lock:
        _digests[identity] = digest
        if len(_digests) > _MAX_KEPT:
            _digests.popitem(last=False)
