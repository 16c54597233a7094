"""The feature cache: what a frozen backbone makes of an image, computed once and found again by content.

The address of features has two halves: a fingerprint of whatever computes them (weights, code, settings, versions), and
a digest of the encoded image. Dates, names and order have no part in it, so none of them can deceive it. Only what this
process has digested once is not read again, as long as the system says that the file was not touched.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import os
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import torch
from torch import nn

from multilabelkit.data.disk_cache import digest_content
from multilabelkit.data.feature_store import FeatureStore, open_feature_store
from multilabelkit.data.file_digests import identify_file, recall_digest, remember_digest
from multilabelkit.data.images import InputSpec, find_local_path, read_encoded
from multilabelkit.data.loading import Batch, PixelReader, iterate_evaluation
from multilabelkit.data.threads import map_in_threads
from multilabelkit.inference import extract_features
from multilabelkit.nn.fingerprint import compute_fingerprint, fingerprint_network
from multilabelkit.nn.network import Network

_PART_IMAGES = 2048  # are computed, then kept, so that a long computation that is stopped is not lost


def compute_features(
    get_network: Callable[[], Network],
    reader: PixelReader,
    *,
    get_fingerprint: Callable[[], str] | None = None,
    spec: InputSpec,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int,
    feature_cache: str | os.PathLike | None,
    flip: bool = False,
) -> np.ndarray:
    """Return the features of all images, computing those that the cache does not hold.

    Parameters
    ----------
    get_network : callable
        Returns the network, on the device already. Its backbone computes the features, in eval mode. Not called where
        nothing need be computed and `get_fingerprint` is given.
    reader : PixelReader
        May give its images larger than the network sees them.
    get_fingerprint : callable, optional
        Returns what `fingerprint_network` does for the network.
    spec : InputSpec
    device : torch.device
    dtype : torch.dtype
        What autocast computes in.
    batch_size : int
        Of every batch: the last one is filled up with black images, since batches of another size are computed
        with other rounding errors.
    num_workers : int
        Threads that read and decode; 0 decodes between the batches.
    feature_cache : {"auto", "memory"}, path or None
        "auto" keeps features in the user's cache folder, "memory" in this process, a path in that folder, None
        nowhere.
    flip : bool
        Compute the features of the left-right mirror images.

    Returns
    -------
    features : ndarray of shape (n_images, F) or (n_images, N, F), float32
        Bit for bit the same, whether they were computed now or before and with whichever other images.

    Raises
    ------
    ImageDecodeError
        If an image that must be computed cannot be read.
    InputError
        If the folder of a path cannot be made or written.

    Notes
    -----
    Of a backbone of the caller's own, the code of its classes belongs to the fingerprint, with the functions and
    constants that they name. What they reach in another way, such as a file they read in `forward`, does not.

    Examples
    --------
    >>> images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 255)]
    >>> reader = PixelReader(images, size=8, color_mode="rgb")
    >>> network = Network(nn.AvgPool2d(8), None)
    >>> spec = InputSpec(8, 3, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> compute_features(lambda: network, reader, spec=spec, device=torch.device("cpu"), dtype=torch.float32,
    ...                  batch_size=2, num_workers=0, feature_cache=None)
    array([[-1., -1., -1.], [ 1.,  1.,  1.]], dtype=float32)
    """

    def compute(images: Any) -> np.ndarray:
        batches = iterate_evaluation(images, batch_size=batch_size, num_workers=num_workers)
        batches = _complete_batches(_resize_batches(batches, spec), batch_size=batch_size, flip=flip)
        return extract_features(get_network(), batches, spec=spec, device=device, dtype=dtype)[: len(images.sources)]

    keys: list[bytes | int] = list(range(len(reader.sources)))
    store = None
    if feature_cache is not None:
        how = (repr(spec), str(dtype), _describe_device(device), batch_size, flip)
        get_fingerprint = get_fingerprint or (lambda: fingerprint_network(get_network()))
        store = _open_store(feature_cache, get_fingerprint, (*how, *_list_settings(reader)))
    if store is not None:
        keys = _digest_sources(reader, num_workers=num_workers)
    return _collect(reader, keys, compute, store, part_size=max(1, _PART_IMAGES // batch_size) * batch_size)


def _open_store(
    feature_cache: str | os.PathLike, get_fingerprint: Callable[[], str], how: tuple
) -> FeatureStore | None:
    try:
        address = compute_fingerprint((get_fingerprint(), _find_versions(), how))[:40]
    except Exception as error:  # of any kind: what a module of the caller's own holds is boundless
        logging.getLogger(__name__).debug("what computes the features has no fingerprint: %r", error)
        return None
    return open_feature_store(feature_cache, address)


@functools.cache
def _find_versions() -> tuple[str, ...]:
    """Return the versions of what decodes images and computes features."""
    return tuple(map(importlib.metadata.version, ("multilabelkit", "torch", "pillow", "simplejpeg")))


def _describe_device(device: torch.device) -> tuple[Any, ...]:
    """Name what decides the rounding errors; on a processor, the number of threads does, too."""
    if device.type == "cpu":
        return "cpu", torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return device.type, torch.cuda.get_device_name(device) if device.type == "cuda" else ""


def _list_settings(reader: PixelReader) -> tuple[Any, ...]:
    return reader.size, reader.color_mode, reader.resize, reader.max_pixels, reader.decoder


def _digest_sources(reader: PixelReader, *, num_workers: int) -> list[bytes | int]:
    """Return what stands for the content of each image; where nothing does, its row."""
    sources = reader.sources
    identities = [identify_file(find_local_path(source)) for source in sources]
    digests = [recall_digest(identity) for identity in identities]
    missing = [row for row, digest in enumerate(digests) if digest is None]
    digest_source = functools.partial(_digest_source, reader)
    found = map_in_threads(digest_source, [sources[row] for row in missing], num_workers=num_workers)
    for row, digest in zip(missing, found, strict=True):
        digests[row] = digest
        remember_digest(identities[row], digest)
    return [row if digest is None else digest for row, digest in enumerate(digests)]


def _digest_source(reader: PixelReader, source: Any) -> bytes | None:
    """Digest the encoded bytes of an image, or its pixels if it has none; None if it cannot be read."""
    with contextlib.suppress(Exception):  # of any kind, from any file system: whoever decodes it meets and explains it
        if isinstance(source, (str, os.PathLike, bytes, bytearray, memoryview)):
            return digest_content(read_encoded(source))
        pixels = reader.decode(source)
        return digest_content(repr(pixels.shape).encode() + pixels.tobytes())
    return None


def _collect(
    reader: PixelReader,
    keys: list[bytes | int],
    compute: Callable[[_Images], np.ndarray],
    store: FeatureStore | None,
    *,
    part_size: int,
) -> np.ndarray:
    """Put together what is found and what is computed, and keep the latter. Images with one key are computed once."""
    rows_of: dict[bytes | int, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    result = _Result(len(keys))
    digests = [key for key in rows_of if isinstance(key, bytes)]
    found = set()
    for digest, features in store.find(digests) if store is not None else ():
        result.put(rows_of[digest], features)
        found.add(digest)
    missing = [key for key in rows_of if key not in found]
    for start in range(0, len(missing), part_size):
        part = missing[start : start + part_size]
        images = _Images(reader, part, [rows_of[key] for key in part])
        computed = dict(zip(part, compute(images), strict=True))
        for key, features in computed.items():
            result.put(rows_of[key], features)
        if store is not None:
            store.put({key: computed[key] for key in images.list_storable()})
    return result.features


class _Result:
    """The features of all rows; the first ones tell their shape."""

    def __init__(self, n_images: int) -> None:
        self.features = np.empty(0, dtype=np.float32)
        self._n_images = n_images

    def put(self, rows: list[int], features: np.ndarray) -> None:
        """Set the features of the rows that show the same image."""
        if not self.features.size:
            self.features = np.empty((self._n_images, *features.shape), dtype=np.float32)
        self.features[rows] = features


class _Images:
    """The images to compute, each of one or more rows, as `iterate_evaluation` reads those of a reader."""

    def __init__(self, reader: PixelReader, keys: list[bytes | int], sources: list[list[int]]) -> None:
        self.sources = sources
        self._reader, self._keys = reader, keys
        self._unsure: set[int] = set()

    def read(self, place: int) -> np.ndarray:
        """Return the pixels of an image."""
        key, rows = self._keys[place], self.sources[place]
        pixels = self._reader.read(rows[0])
        if rows[0] in self._reader.failures:
            self._unsure.add(place)
            for row in rows[1:]:
                self._reader.read(row)  # which notes that it cannot be read either
        source = self._reader.sources[rows[0]]
        # A file may have changed between the look at its content and its decoding.
        is_file = isinstance(key, bytes) and find_local_path(source) is not None
        if is_file and _digest_source(self._reader, source) != key:
            self._unsure.add(place)
        return pixels

    def list_storable(self) -> list[bytes]:
        """Return the keys of those images whose features are known to belong to them."""
        return [key for place, key in enumerate(self._keys) if isinstance(key, bytes) and place not in self._unsure]


def _resize_batches(batches: Generator[Batch, None, None], spec: InputSpec) -> Generator[Batch, None, None]:
    """Bring batches that were read with a crop margin to the size the network sees."""
    with contextlib.closing(batches):
        for batch in batches:
            pixels = batch.pixels
            if pixels.shape[1] != spec.size:
                images = pixels.permute(0, 3, 1, 2)
                images = nn.functional.interpolate(images, (spec.size, spec.size), mode="bilinear", antialias=True)
                pixels = images.permute(0, 2, 3, 1)
            yield batch._replace(pixels=pixels)


def _complete_batches(
    batches: Generator[Batch, None, None], *, batch_size: int, flip: bool
) -> Generator[Batch, None, None]:
    """Mirror the images if wanted, and fill up the last batch with black ones."""
    with contextlib.closing(batches):
        for batch in batches:
            pixels = batch.pixels.flip(2) if flip else batch.pixels
            n_absent = batch_size - len(pixels)
            if n_absent:
                pixels = torch.cat([pixels, pixels.new_zeros(n_absent, *pixels.shape[1:])])
            yield batch._replace(pixels=pixels)
