"""Pictures made by the computer, with labels that are right by construction: for demos, tests and benchmarks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from multilabelkit.checks import RANDOM_STATE, Choice, Interval, check_parameters

_CANVAS = 96
_MAX_TRIES = 60
_SHAPES = ("circle", "square", "triangle")
# Note: whole numbers and RandomState only. Its stream is frozen by numpy's compatibility policy and integer
# arithmetic rounds the same everywhere, so a seed gives the same bytes on every platform and in every release.

_DIGITS_DESCR = (
    "Handwritten digits on a grey, noisy canvas of 96 x 96 pixels: 0 to 4 an image, 20 to 36 pixels wide, overlapping "
    "by at most a quarter. The label set is the digits present. The digits are those of scikit-learn's load_digits "
    "(UCI, Optical Recognition of Handwritten Digits); split 'train' uses three of every four of them, split 'test' "
    "the others."
)
_SHAPES_DESCR = (
    "Filled circles, squares and triangles on a dark, noisy canvas, at most one of each an image. Every kind of shape "
    "has a typical colour, so that a network of two layers learns them in seconds."
)


class _Tile(NamedTuple):
    """A digit as it will lie on the canvas: its row in the digits, its corner and its width."""

    row: int
    top: int
    left: int
    size: int


def make_digits(n_samples: int, *, random_state: int | np.random.RandomState | None = 0, split: str = "train") -> Bunch:
    """Paste real handwritten digits on noisy images; the labels are the digits present.

    A small multi-label task that needs no download, is learnt from scratch in a minute on a laptop, and still
    has what real ones have: images without any label, classes that occur together, and objects of differing
    size and brightness that may overlap. The same arguments give the same bytes on every platform and in every
    release, and the first images of a longer set are those of a shorter one.

    Parameters
    ----------
    n_samples : int
        How many images to make.
    random_state : int, RandomState instance or None, default=0
        Seed of the layout. The same seed gives different layouts for the two splits.
    split : {"train", "test"}, default="train"
        Which handwritten digits to draw from. The two splits share none.

    Returns
    -------
    data : Bunch
        ``images`` : ndarray of shape (n_samples, 96, 96), uint8, grey;
        ``target`` : DataFrame of shape (n_samples, 10) of 0 and 1, columns "0" to "9";
        ``target_names`` : list of the ten column names;
        ``DESCR`` : str, what the images show.

    Raises
    ------
    InputError
        If `n_samples` is below 1, or `split` or `random_state` is none of the above.

    See Also
    --------
    make_shapes : An even simpler task in colour, for tests.

    Examples
    --------
    >>> data = make_digits(3)
    >>> data.images.shape
    (3, 96, 96)
    >>> from multilabelkit import as_labels
    >>> as_labels(data.target)
    [('1', '3', '6'), (), ('2', '5')]
    """
    check_parameters(
        "make_digits",
        {"n_samples": n_samples, "random_state": random_state, "split": split},
        {"n_samples": [Interval(int, 1)], "random_state": RANDOM_STATE, "split": [Choice(("train", "test"))]},
    )
    digits = load_digits()
    held_out = np.arange(len(digits.target)) % 4 == 3
    rows = np.flatnonzero(held_out if split == "test" else ~held_out)
    rng = _create_generator(random_state, stream=int(split == "test"))
    resizers = {size: _create_resizer(8, size) for size in range(20, 37)}

    images = np.empty((n_samples, _CANVAS, _CANVAS), dtype=np.uint8)
    target = np.zeros((n_samples, 10), dtype=np.int64)
    for index in range(n_samples):
        tiles = _place_tiles(rng, rows)
        canvas = _draw_noise(rng, _CANVAS)
        for tile in tiles:
            mask = _scale_digit(digits.images[tile.row], resizers[tile.size])
            _blend(canvas, mask, top=tile.top, left=tile.left, ink=int(rng.randint(150, 256, dtype=np.int64)))
            target[index, digits.target[tile.row]] = 1
        images[index] = canvas
    return _create_bunch(images, target, [str(digit) for digit in range(10)], _DIGITS_DESCR)


def make_shapes(n_samples: int, *, image_size: int = 32, random_state: int | np.random.RandomState | None = 0) -> Bunch:
    """Draw coloured circles, squares and triangles; the labels are the shapes present.

    Meant for tests and first steps: every label is right, each of the eight label sets is equally likely, and a
    network of two convolutions learns the task in seconds.

    Parameters
    ----------
    n_samples : int
        How many images to make.
    image_size : int, default=32
        Height and width in pixels, at least 16.
    random_state : int, RandomState instance or None, default=0
        Seed of labels and drawing. The same seed gives the same bytes on every platform, and the first images
        of a longer set are those of a shorter one.

    Returns
    -------
    data : Bunch
        ``images`` : ndarray of shape (n_samples, image_size, image_size, 3), uint8, RGB;
        ``target`` : DataFrame of shape (n_samples, 3) of 0 and 1, columns "circle", "square", "triangle";
        ``target_names`` : list of the three column names;
        ``DESCR`` : str, what the images show.

    Raises
    ------
    InputError
        If `n_samples` is below 1, `image_size` below 16, or `random_state` none of the above.

    See Also
    --------
    make_digits : Ten classes in grey, hard enough to compare models on.

    Examples
    --------
    >>> data = make_shapes(4)
    >>> data.images.shape
    (4, 32, 32, 3)
    >>> data.target_names
    ['circle', 'square', 'triangle']
    """
    check_parameters(
        "make_shapes",
        {"n_samples": n_samples, "image_size": image_size, "random_state": random_state},
        {"n_samples": [Interval(int, 1)], "image_size": [Interval(int, 16)], "random_state": RANDOM_STATE},
    )
    rng = _create_generator(random_state, stream=2)
    target = np.empty((n_samples, len(_SHAPES)), dtype=np.int64)
    images = np.empty((n_samples, image_size, image_size, 3), dtype=np.uint8)
    for index in range(n_samples):
        target[index] = rng.randint(0, 2, size=len(_SHAPES), dtype=np.int64)
        canvas = np.stack([_draw_noise(rng, image_size)] * 3, axis=-1)  # (S, S, 3)
        corners = rng.permutation(4)
        for kind in np.flatnonzero(target[index]).tolist():
            _draw_shape(canvas, rng, kind, corner=int(corners[kind]))
        images[index] = canvas
    return _create_bunch(images, target, list(_SHAPES), _SHAPES_DESCR)


def _create_generator(random_state: int | np.random.RandomState | None, *, stream: int) -> np.random.RandomState:
    """Return a generator whose draws differ between streams of one seed."""
    if random_state is None:
        return np.random.RandomState()
    if isinstance(random_state, np.random.RandomState):
        return random_state
    return np.random.RandomState([int(random_state), stream])


def _create_bunch(images: np.ndarray, target: np.ndarray, names: list[str], description: str) -> Bunch:
    """Put images and labels in the form that all datasets of this package have."""
    return Bunch(images=images, target=pd.DataFrame(target, columns=names), target_names=names, DESCR=description)


def _draw_noise(rng: np.random.RandomState, size: int) -> np.ndarray:
    """Return a dark grey canvas of shape (size, size), int64, its noise the sum of two dice."""
    level = rng.randint(28, 73, dtype=np.int64)
    dice = rng.randint(0, 25, size=(2, size, size), dtype=np.uint8)
    return level - 24 + dice.sum(axis=0, dtype=np.int64)


def _place_tiles(rng: np.random.RandomState, rows: np.ndarray) -> list[_Tile]:
    """Choose 0 to 4 digits (none in one image of nine) and where they lie; one that finds no room is left out."""
    tiles: list[_Tile] = []
    for _ in range((rng.randint(0, 9, dtype=np.int64) + 1) // 2):
        row = int(rows[rng.randint(0, len(rows), dtype=np.int64)])
        size = int(rng.randint(20, 37, dtype=np.int64))
        for top, left in rng.randint(0, _CANVAS - size + 1, size=(_MAX_TRIES, 2), dtype=np.int64).tolist():
            tile = _Tile(row, top, left, size)
            if not any(_overlap_too_much(tile, other) for other in tiles):
                tiles.append(tile)
                break
    return tiles


def _overlap_too_much(one: _Tile, other: _Tile) -> bool:
    """Tell whether two tiles share more than a quarter of the smaller one."""
    height = min(one.top + one.size, other.top + other.size) - max(one.top, other.top)
    width = min(one.left + one.size, other.left + other.size) - max(one.left, other.left)
    return 4 * max(height, 0) * max(width, 0) > min(one.size, other.size) ** 2


def _create_resizer(source: int, size: int) -> np.ndarray:
    """Return the matrix of a cubic (Catmull-Rom) resize from `source` to `size` pixels, in units of 1/4096.

    Beyond the edge lies nothing (not the edge repeated), so that strokes end round instead of cut.
    """
    centres = (np.arange(size) + 0.5) * source / size - 0.5
    gap = np.abs(centres[:, None] - np.arange(source))  # (size, source)
    near = 1 - 2.5 * gap * gap + 1.5 * gap * gap * gap
    far = 2 - 4 * gap + 2.5 * gap * gap - 0.5 * gap * gap * gap
    weights = np.where(gap < 1, near, np.where(gap < 2, far, 0.0))
    return np.rint(weights * 4096).astype(np.int64)


def _scale_digit(image: np.ndarray, resizer: np.ndarray) -> np.ndarray:
    """Return a digit of 8 x 8 pixels from 0 to 16 as a larger mask from 0 to 255, its strokes sharpened."""
    grey = resizer @ image.astype(np.int64) @ resizer.T  # 16 * 4096 * 4096 is full ink
    ink = np.clip(grey * 255 // (16 * 4096 * 4096), 0, 255)
    return np.clip((ink - 64) * 2, 0, 255)


def _blend(canvas: np.ndarray, mask: np.ndarray, *, top: int, left: int, ink: int | np.ndarray) -> None:
    """Lay `ink` (a grey value or a colour) over the canvas where the mask (0 to 255) says so."""
    region = canvas[top : top + mask.shape[0], left : left + mask.shape[1]]
    if canvas.ndim == 3:
        mask = mask[..., None]
    region += ((ink - region) * mask + 127) // 255


def _draw_shape(canvas: np.ndarray, rng: np.random.RandomState, kind: int, *, corner: int) -> None:
    """Draw one shape in one quarter of the canvas, in a shade of the colour of its kind."""
    half = canvas.shape[0] // 2
    size = int(rng.randint(5 * half // 8, half - 1, dtype=np.int64))
    top, left = (int(rng.randint(0, half - size + 1, dtype=np.int64)) for _ in range(2))
    colour = rng.randint(40, 100, size=3, dtype=np.int64)
    colour[kind] = rng.randint(190, 256, dtype=np.int64)
    top, left = top + half * (corner // 2), left + half * (corner % 2)
    _blend(canvas, _draw_mask(kind, size), top=top, left=left, ink=colour)


def _draw_mask(kind: int, size: int) -> np.ndarray:
    """Return a filled circle, square or triangle as a mask of 0 and 255."""
    down, right = np.mgrid[:size, :size] * 2 + 1 - size  # pixel centres, doubled, from the middle
    if kind == 0:
        inside = down * down + right * right <= size * size
    elif kind == 1:
        inside = np.ones((size, size), dtype=bool)
    else:
        inside = 2 * np.abs(right) <= down + size
    return np.where(inside, 255, 0)
