"""JPEG files of one's own, decoded by libjpeg-turbo directly: the same pixels as Pillow's, in half the time.

Pillow is kept for whatever a stranger may have made: bytes, downloads, and every file that is not a plain JPEG.
"""

from __future__ import annotations

import contextlib
import struct

import numpy as np
import simplejpeg
from PIL import Image

from multilabelkit.data.images import ORIENTATION_TAG

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")

_COLORS = {"rgb": "RGB", "grey": "GRAY"}
_PLAIN = ("YCbCr", "RGB", "Gray")  # not the four inks of print, which Pillow knows how to mix
_EXIF = b"Exif\x00\x00"


def decode_plain_jpeg(
    encoded: bytes, *, color_mode: str = "rgb", min_size: int | None = None, max_pixels: int
) -> np.ndarray | None:
    """Decode a JPEG where simplejpeg is faster than Pillow and gives the same pixels.

    Parameters
    ----------
    encoded : bytes
        The file.
    color_mode, min_size, max_pixels
        As for `decode_image`.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3) or (H, W, 1), uint8; or None
        None leaves the file to `decode_image`: it is no plain JPEG, is turned, damaged or too large, or can be decoded
        at half its size or less, which Pillow does as fast.
    """
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(encoded)
        is_large = height * width > max_pixels or (min_size is not None and min(height, width) >= 2 * min_size)
        if colors not in _PLAIN or is_large or _is_turned(encoded):
            return None
        return simplejpeg.decode_jpeg(encoded, _COLORS[color_mode])
    except ValueError:
        return None


def _is_turned(encoded: bytes) -> bool:
    """Walk the segments before the pixels, and tell whether one of them may say that the camera was held sideways."""
    place = 2
    while place + 4 <= len(encoded):
        start, marker, length = struct.unpack_from(">BBH", encoded, place)
        if start != 0xFF or marker == 0xDA:  # the pixels begin
            return False
        if marker == 0xFF:  # padding: Pillow finds its way through it
            return True
        if marker == 0xE1:  # beside EXIF there is XMP, which can say the same in a text
            segment = encoded[place + 4 : place + 2 + length]
            if not segment.startswith(_EXIF) or _read_orientation(segment) != 1:
                return True
        place += 2 + length
    return False


def _read_orientation(segment: bytes) -> int:
    exif = Image.Exif()
    with contextlib.suppress(Exception):  # on damaged notes, Pillow's own way of reading the file decides
        exif.load(segment)
        return int(exif.get(ORIENTATION_TAG, 1))
    return 0
