"""The mean and standard deviation of a data set's colours."""

from __future__ import annotations

from typing import Any

import numpy as np

from multilabelkit.checks import Choice, Interval, check_parameters
from multilabelkit.data.bad_images import describe_failures, forget_frames
from multilabelkit.data.images import COLOR_MODES, MAX_PIXELS, check_images, decode_image
from multilabelkit.data.threads import map_in_threads
from multilabelkit.errors import ImageDecodeError

_SIZE = 256  # large JPEGs are read at a reduced size of at least this: it blurs away what resizing would anyway

Moments = tuple[np.ndarray, np.ndarray]


def compute_normalization(
    X: Any, *, color_mode: str = "rgb", max_pixels: int = MAX_PIXELS, num_workers: int | None = None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute the mean and standard deviation of the colours of many images, for ``normalization=(mean, std)``.

    Use it for networks that train from scratch on pictures unlike photographs, such as slides or scans; pretrained
    weights want the numbers they were trained with.

    Parameters
    ----------
    X : sequence of n_samples images
        Paths or anything else that ``fit`` takes. Use training images only.
    color_mode : {"rgb", "grey"}, default="rgb"
        What images are converted to.
    max_pixels : int, default=89478485
        A file of more pixels is refused.
    num_workers : int, default=None
        Threads that decode; None takes one per processor, at most 8.

    Returns
    -------
    mean, std : tuple of float
        One value per channel, in units of pixel / 255. Every image counts the same, whatever its size.

    Raises
    ------
    ImageDecodeError
        If images cannot be decoded; it lists all of them.

    Examples
    --------
    >>> images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    >>> images[1, :, :, 0] = 255
    >>> compute_normalization(images)
    ((0.5, 0.0, 0.0), (0.5, 0.0, 0.0))
    """
    check_parameters(
        "compute_normalization",
        {"color_mode": color_mode, "max_pixels": max_pixels, "num_workers": num_workers},
        {
            "color_mode": [Choice(tuple(COLOR_MODES))],
            "max_pixels": [Interval(int, 1)],
            "num_workers": [Interval(int, 0), Choice((None,))],
        },
    )
    sources = check_images(X)

    def measure(source: Any) -> Moments | ImageDecodeError:
        try:
            pixels = decode_image(source, color_mode=color_mode, min_size=_SIZE, max_pixels=max_pixels)
        except ImageDecodeError as error:
            return forget_frames(error)
        return _compute_moments(pixels)

    total, squares = np.zeros(COLOR_MODES[color_mode]), np.zeros(COLOR_MODES[color_mode])
    failures = []
    for row, result in enumerate(map_in_threads(measure, sources, num_workers=num_workers)):
        if isinstance(result, ImageDecodeError):
            failures.append((row, result))
        else:
            total, squares = total + result[0], squares + result[1]
    if failures:
        raise describe_failures(failures, n_images=len(sources))
    mean = total / len(sources)
    std = np.sqrt(np.maximum(squares / len(sources) - mean**2, 0))
    return tuple(mean.tolist()), tuple(std.tolist())


def _compute_moments(pixels: np.ndarray) -> Moments:
    """Return the mean and the mean square of each channel, in units of pixel / 255, from exact counts of the values."""
    values = np.arange(256) / 255
    counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(pixels, -1, 0)])
    shares = counts / counts.sum(axis=1, keepdims=True)  # (C, 256)
    return shares @ values, shares @ values**2
