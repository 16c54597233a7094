"""Images that are there twice: a sketch of each that is small enough to keep, and a search among all sketches."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from multilabelkit.checks import Interval, check_parameters, shorten
from multilabelkit.errors import InputError

__all__ = ["HASH_RADIUS", "Sketch", "find_near_duplicates", "group_duplicates", "hash_image", "sketch_image"]

# Of 1,600 photographs, 99.9 % keep within this many of 64 bits when they are compressed, scaled or brightened, and no
# two that show different things come as near.
HASH_RADIUS = 7

_MAX_ROWS = 512  # above, rows are averaged in groups before anything else
_GRID = 32  # cells a side of the picture that is hashed
_THUMBNAIL = 16  # cells a side of the picture that is kept
_N_BANDS = 4  # parts of a hash, 16 bits each
_GREY = np.array([0.299, 0.587, 0.114], dtype=np.float32)

# Two thumbnails agree if their details, which is what a slope of brightness leaves over, are alike in all but contrast,
# or if they are the same, grey level by grey level: where there are no details, likeness means nothing.
_MIN_CORRELATION = 0.9
_MIN_DETAIL = 2.0  # grey levels, root mean square
_SAME_LEVELS = 1.5  # grey levels, root mean square; also of the mean colour

_HASH = Interval(int, 0, 2**64 - 1)
_PAIRS_PER_BLOCK = 2**20
_COMPARED_AT_ONCE = 2**13


class Sketch(NamedTuple):
    """What is kept of an image to find its duplicates: less than a kilobyte.

    Parameters
    ----------
    digest : bytes
        Of all pixels: two images have the same digest only if they have the same pixels.
    hash : int
        64 bits, see `hash_image`.
    thumbnail : ndarray of shape (16, 16), uint8
        Mean grey levels.
    color : ndarray of shape (3,), uint8
        Mean colour.
    """

    digest: bytes
    hash: int
    thumbnail: np.ndarray
    color: np.ndarray


def sketch_image(pixels: np.ndarray, *, size: tuple[int, int] | None = None) -> Sketch:
    """Reduce an image to what finds its duplicates.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3) or (H, W, 1), uint8
    size : (int, int), optional
        Width and height of the image if `pixels` are a reduced version; part of the digest, as different sizes are
        different images.

    Returns
    -------
    sketch : Sketch

    Examples
    --------
    >>> sketch = sketch_image(np.full((40, 60, 3), 200, dtype=np.uint8))
    >>> sketch.hash, sketch.thumbnail[0, 0], sketch.thumbnail.shape
    (0, np.uint8(200), (16, 16))
    """
    cells = _average_cells(pixels)  # (32, 32, 3)
    half = _GRID // _THUMBNAIL
    grey = cells @ _GREY  # (32, 32)
    thumbnail = grey.reshape(_THUMBNAIL, half, _THUMBNAIL, half).mean(axis=(1, 3))
    digest = hashlib.blake2b(repr((size, pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return Sketch(digest.digest(), _hash_cells(grey), _round_levels(thumbnail), _round_levels(cells.mean(axis=(0, 1))))


def hash_image(pixels: np.ndarray) -> int:
    """Return 64 bits that hardly change when an image is scaled, brightened or compressed again.

    Each bit is the sign of one of the 64 lowest frequencies (discrete cosine transform) of the grey image, averaged
    to 32 x 32 cells; the mean is not among them. An image of one colour has the hash 0. Turned, mirrored and visibly
    cropped images have another hash.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, 3) or (H, W, 1), uint8

    Returns
    -------
    hash : int
        From 0 to 2**64 - 1.

    Examples
    --------
    >>> rows, columns = np.mgrid[:40, :60]
    >>> image = (rows * columns % 200).astype(np.uint8)[:, :, None]
    >>> brighter = (image * 1.2).astype(np.uint8)
    >>> (hash_image(image) ^ hash_image(brighter)).bit_count() <= 2
    True
    """
    return _hash_cells(_average_cells(pixels) @ _GREY)


def _average_cells(pixels: np.ndarray) -> np.ndarray:
    """Return the mean of each of 32 x 32 equal cells, colour by colour."""
    pixels = _shrink(_shrink(pixels).swapaxes(0, 1)).swapaxes(0, 1)
    height, width, n_colors = pixels.shape
    rows = _create_cells(height) @ pixels.reshape(height, -1).astype(np.float32)  # (32, W * C)
    cells = np.einsum("yxc,kx->ykc", rows.reshape(_GRID, width, n_colors), _create_cells(width), optimize=True)
    return np.broadcast_to(cells, (_GRID, _GRID, 3)) if n_colors == 1 else cells


def _shrink(pixels: np.ndarray) -> np.ndarray:
    """Average whole rows first where there are very many: a large image need not be copied as floats."""
    edges = np.arange(_MAX_ROWS + 1) * len(pixels) // _MAX_ROWS
    if len(pixels) <= _MAX_ROWS:
        return pixels
    return np.stack([pixels[start:stop].mean(axis=0, dtype=np.float32) for start, stop in pairwise(edges)])


@lru_cache(maxsize=512)
def _create_cells(side: int) -> np.ndarray:
    """Return the share that each of `side` pixels has in the mean of each cell, of shape (32, side)."""
    edges = np.linspace(0, side, _GRID + 1)[:, None]
    starts = np.arange(side)
    overlap = np.minimum(edges[1:], starts + 1) - np.maximum(edges[:-1], starts)
    return (np.clip(overlap, 0, None) * (_GRID / side)).astype(np.float32)


def _create_frequencies() -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Return the cosines of the lowest frequencies, and which products of two of them make the hash."""
    places = [(row, column) for row in range(11) for column in range(11) if row + column > 0]
    chosen = np.array(sorted(places, key=lambda place: (sum(place), place))[:64])
    # Neighbours in frequency go to different bands, so that every band has its share of the informative ones.
    dealt = chosen.reshape(-1, _N_BANDS, 2).transpose(1, 0, 2).reshape(-1, 2)
    cosines = np.cos(np.pi * (2 * np.arange(_GRID) + 1) * np.arange(11)[:, None] / (2 * _GRID))
    return cosines.astype(np.float32), (dealt[:, 0], dealt[:, 1])


_COSINES, _CHOSEN = _create_frequencies()


def _hash_cells(grey: np.ndarray) -> int:
    # Note: an image of one colour has rounding errors for frequencies, far below 1 (1/512 of a grey level).
    bits = (_COSINES @ grey @ _COSINES.T)[_CHOSEN] > 1
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _round_levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values).astype(np.uint8)


def find_near_duplicates(hashes: Sequence[int] | np.ndarray, *, radius: int = HASH_RADIUS) -> np.ndarray:
    """Find every pair of hashes that differ in at most `radius` of their 64 bits.

    The search is exact. Of the four quarters of two such hashes one differs in at most radius / 4 bits, so each hash
    is compared only with those that share a quarter, give or take these bits, and not with all others.

    Parameters
    ----------
    hashes : sequence of int or ndarray of shape (n_samples,)
        From `hash_image`.
    radius : int, default=7
        From 0 to 15. The search takes much longer above 7, and again above 11.

    Returns
    -------
    pairs : ndarray of shape (n_pairs, 2)
        Positions in `hashes`, the lower first, sorted.

    Raises
    ------
    InputError
        If a hash does not fit into 64 bits.

    Examples
    --------
    >>> find_near_duplicates([0b1111, 0b1110, 2**40 - 1, 0b1111], radius=1)
    array([[0, 1],
           [0, 3],
           [1, 3]])
    """
    check_parameters("find_near_duplicates", {"radius": radius}, {"radius": [Interval(int, 0, 15)]})
    blocks = [np.stack(pair, axis=1) for pair in _iterate_pairs(_check_hashes(hashes), radius)]
    pairs = np.sort(np.concatenate([np.empty((0, 2), dtype=np.int64), *blocks]), axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _check_hashes(hashes: Sequence[int] | np.ndarray) -> np.ndarray:
    for place, number in enumerate(hashes):
        if not _HASH.accepts(number):
            raise InputError(
                "hashes must be whole numbers from 0 to 2**64 - 1, as hash_image makes them. "
                f"Got {shorten(number)} at position {place}."
            )
    return np.array(hashes, dtype=np.uint64)


def _iterate_pairs(hashes: np.ndarray, radius: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs within the radius, each once, in blocks: there may be too many to keep."""
    bands = hashes.view(np.uint16).reshape(len(hashes), _N_BANDS)
    reach = radius // _N_BANDS
    for band in range(_N_BANDS):
        order = np.argsort(bands[:, band], kind="stable")
        keys = bands[order, band].astype(np.int64)
        starts = np.searchsorted(keys, np.arange(2**16 + 1))
        for mask in _list_masks(reach):
            partners = keys ^ mask
            ends = starts[partners + 1]
            # Each pair is met from its lower side alone; where both sides are equal, from the earlier one.
            begins = np.arange(1, len(keys) + 1) if mask == 0 else np.where(keys < partners, starts[partners], ends)
            for first, second in _expand_ranges(begins, ends):
                one, other = order[first], order[second]
                near = _count_bits(hashes[one] ^ hashes[other]) <= radius
                one, other = one[near], other[near]
                seen = (_count_bits(bands[one, :band] ^ bands[other, :band]) <= reach).any(axis=1)
                yield one[~seen], other[~seen]


def _list_masks(reach: int) -> list[int]:
    """Return every pattern of at most `reach` of 16 bits."""
    return [sum(1 << bit for bit in bits) for size in range(reach + 1) for bits in combinations(range(16), size)]


def _expand_ranges(begins: np.ndarray, ends: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (position, each number of its range) in blocks of about a million."""
    counts = ends - begins
    totals = np.cumsum(counts)
    start = 0
    while start < len(counts) and totals[-1] > (done := totals[start] - counts[start]):
        stop = max(start + 1, int(np.searchsorted(totals, done + _PAIRS_PER_BLOCK, side="right")))
        part = counts[start:stop]
        offsets = np.arange(part.sum()) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(np.arange(start, stop), part), np.repeat(begins[start:stop], part) + offsets
        start = stop


def _count_bits(numbers: np.ndarray) -> np.ndarray:
    if hasattr(np, "bitwise_count"):  # numpy 2
        return np.bitwise_count(numbers)
    parts = np.ascontiguousarray(numbers).view(np.uint16).reshape(*numbers.shape, numbers.itemsize // 2)
    return _BIT_COUNTS[parts].sum(axis=-1)


_BIT_COUNTS = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1).sum(
    axis=1, dtype=np.uint8
)


def group_duplicates(sketches: Sequence[Sketch]) -> tuple[np.ndarray, np.ndarray]:
    """Group the images that are the same, and those that look the same.

    Images look the same if their hashes differ in at most 7 bits and their thumbnails agree as well: hashes alone
    would take two photographs of an empty sky for one. If a is like b and b like c, all three are one group.

    Parameters
    ----------
    sketches : sequence of n_samples Sketch

    Returns
    -------
    exact, near : ndarray of shape (n_samples,)
        The group of each image, called by the position of its first member: images without a duplicate have a group
        of their own. Every group of `exact` lies in one of `near`.

    Examples
    --------
    >>> image = np.random.default_rng(0).integers(0, 200, (48, 48, 1), dtype=np.uint8)
    >>> images = [image, image[:, ::-1], image + np.uint8(20), image]
    >>> exact, near = group_duplicates([sketch_image(pixels) for pixels in images])
    >>> exact, near
    (array([0, 1, 2, 0]), array([0, 1, 0, 0]))
    """
    exact = _number_groups(sketch.digest for sketch in sketches)
    # Thousands of equal images would be millions of pairs: one stands for all that are equal in what is compared.
    alike = _number_groups((s.hash, s.thumbnail.tobytes(), s.color.tobytes()) for s in sketches)
    leaders, members = np.unique(alike, return_inverse=True)
    chosen = [sketches[leader] for leader in leaders]
    near = _link_pairs(chosen)[members] if chosen else alike
    return exact, _number_groups(near.tolist())


def _number_groups(keys: Iterable[Hashable]) -> np.ndarray:
    """Return for each key the position where it is first."""
    first: dict[Hashable, int] = {}
    return np.array([first.setdefault(key, place) for place, key in enumerate(keys)], dtype=np.int64)


class _Pictures(NamedTuple):
    """What is compared of many images."""

    thumbnails: np.ndarray  # (n, 256) uint8
    colors: np.ndarray  # (n, 3) uint8
    details: np.ndarray  # (n, 256) int8, of any scale
    lengths: np.ndarray  # (n,) of the details as vectors; infinite where there are no details to compare


def _link_pairs(sketches: Sequence[Sketch]) -> np.ndarray:
    """Return a number per sketch, equal for those that agreeing pairs connect."""
    hashes = np.array([sketch.hash for sketch in sketches], dtype=np.uint64)
    thumbnails = np.stack([sketch.thumbnail.ravel() for sketch in sketches])
    starts = range(0, len(sketches), _COMPARED_AT_ONCE)
    details = np.concatenate([_extract_details(thumbnails[start : start + _COMPARED_AT_ONCE]) for start in starts])
    lengths = np.sqrt(np.einsum("nk,nk->n", details, details, dtype=np.int32))
    lengths[lengths == 0] = np.inf
    pictures = _Pictures(thumbnails, np.stack([sketch.color for sketch in sketches]), details, lengths)
    groups = np.arange(len(sketches))
    for one, other in _iterate_pairs(hashes, HASH_RADIUS):
        for start in range(0, len(one), _COMPARED_AT_ONCE):
            i, j = one[start : start + _COMPARED_AT_ONCE], other[start : start + _COMPARED_AT_ONCE]
            apart = groups[i] != groups[j]
            groups = _merge_groups(groups, i[apart], j[apart], pictures)
    return groups


def _merge_groups(groups: np.ndarray, one: np.ndarray, other: np.ndarray, pictures: _Pictures) -> np.ndarray:
    agree = _agree(one, other, pictures)
    if not agree.any():
        return groups
    links = (np.ones(np.count_nonzero(agree)), (groups[one[agree]], groups[other[agree]]))
    graph = coo_matrix(links, shape=(len(groups), len(groups)))
    return connected_components(graph, directed=False)[1][groups]


def _agree(one: np.ndarray, other: np.ndarray, pictures: _Pictures) -> np.ndarray:
    """Tell for each pair of images whether they show the same."""
    thumbnails, colors, details, lengths = pictures
    products = np.einsum("nk,nk->n", details[one], details[other], dtype=np.int32)
    agree = products >= _MIN_CORRELATION * lengths[one] * lengths[other]
    shift = np.abs(colors[one].astype(np.float32) - colors[other]).max(axis=1, initial=0)
    rest = np.flatnonzero(~agree & (shift <= _SAME_LEVELS))
    agree[rest] = _measure(thumbnails[one[rest]].astype(np.float32) - thumbnails[other[rest]]) <= _SAME_LEVELS
    return agree


def _measure(rows: np.ndarray) -> np.ndarray:
    return np.sqrt((rows**2).mean(axis=1))


def _extract_details(thumbnails: np.ndarray) -> np.ndarray:
    """Take away the mean and the slope of brightness, which different photographs of a sky have in common."""
    levels = thumbnails.astype(np.float32)
    details = levels - (levels @ _PLANE.T) @ _PLANE
    details[_measure(details) < _MIN_DETAIL] = 0
    largest = np.abs(details).max(axis=1, keepdims=True)
    return np.rint(details * (127 / np.maximum(largest, 1))).astype(np.int8)


def _create_plane() -> np.ndarray:
    rows, columns = np.mgrid[-1 : 1 : _THUMBNAIL * 1j, -1 : 1 : _THUMBNAIL * 1j]
    plane = np.stack([np.ones(_THUMBNAIL**2), rows.ravel(), columns.ravel()])
    return (plane / np.linalg.norm(plane, axis=1, keepdims=True)).astype(np.float32)


_PLANE = _create_plane()
