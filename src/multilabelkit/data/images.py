"""From whatever the caller calls an image to pixels: sources, decoding, encoding, and what a network wants to see."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import stat
import threading
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from multilabelkit.checks import import_extra, shorten
from multilabelkit.errors import ImageDecodeError, InputError, MissingExtraError

COLOR_MODES = {"rgb": 3, "grey": 1}

# What Pillow may try: formats that people train on and whose decoders are looked after. Most holes in Pillow were in
# the others, which an upload could otherwise choose.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

# More pixels than this are refused before they are decoded: a file of 250 KB can unfold to gigabytes. It is the number
# above which Pillow itself begins to warn.
MAX_PIXELS = 89_478_485

ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)")  # at least two letters: C:// is a drive
_ENCODED = (bytes, bytearray, memoryview)
_MAX_NAME = 1000  # letters of a name in a message

# Pillow's `load` is not made for two threads at once, and the caller may pass one image in several rows.
_LOADING = threading.Lock()

# The machine is at its limits, which is no fault of the image.
_MACHINE_TROUBLE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class _UnusableError(ValueError):
    """What is wrong with an image that is not damaged; the text is the whole reason."""


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see: the size, channels and scaling of its input.

    Parameters
    ----------
    size : int
        Side of the square input in pixels.
    channels : {1, 3}
        Greyscale or red, green and blue.
    mean, std : tuple of float
        One value per channel, in units of pixel / 255: the network sees ``(pixel / 255 - mean) / std``.
    resize : {"squish", "pad", "crop"}
        How an image becomes square, see `resize_pixels`.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: str = "squish"

    @property
    def color_mode(self) -> str:
        """The mode in which images must be decoded for this network."""
        return "rgb" if self.channels == 3 else "grey"


def check_images(X: Any) -> list[Any]:
    """Return `X` as a list of image sources, one per row.

    Parameters
    ----------
    X : sequence of str, Path, bytes, PIL image, array or tensor; ndarray; tensor; Series; DataFrame with one column
        An ndarray of shape (n_samples, H, W) or (n_samples, H, W, 1|3|4), or a tensor of shape
        (n_samples, 1|3|4, H, W), holds n images; one of shape (n_samples,) holds paths.

    Returns
    -------
    sources : list of length n_samples
        Each what `decode_image` takes. Nothing is read or decoded here.

    Raises
    ------
    InputError
        If X is a single path or image, is empty, or is no sequence.

    Examples
    --------
    >>> check_images(["a.jpg", "b.jpg"])
    ['a.jpg', 'b.jpg']
    """
    if isinstance(X, (str, os.PathLike)) and os.path.isdir(X):
        raise InputError(
            f"X is a folder, {shorten(os.fspath(X))}; pass the paths of its images, "
            "sorted(Path(folder).glob('*.jpg')), or the paths and labels that a reader such as datasets.read_folders "
            "returns."
        )
    if isinstance(X, (str, os.PathLike)):
        raise InputError(
            f"X is a single path, {shorten(os.fspath(X))}; pass a list of paths: [{shorten(os.fspath(X))}]."
        )
    if isinstance(X, _ENCODED):
        raise InputError(f"X is a single encoded image of {len(X)} bytes; pass a list of images: [data].")
    if isinstance(X, Image.Image):
        raise InputError(f"X is a single PIL image of size {X.size}; pass a list of images: [image].")
    sources = _as_list(X)
    if len(sources) == 0:
        raise InputError("X is empty; pass at least one image.")
    return sources


def _as_list(X: Any) -> list[Any]:
    if _is_tensor(X):
        return _split_tensor(X)
    if hasattr(X, "iloc"):  # pandas
        if X.ndim == 2 and X.shape[1] != 1:
            raise InputError(
                f"X is a DataFrame of {X.shape[1]} columns, {shorten(list(X.columns))}; "
                "pass the one column that holds the paths: frame['path']."
            )
        return list(X.iloc[:, 0] if X.ndim == 2 else X)
    if isinstance(X, np.ndarray):
        return _split_array(X)
    if isinstance(X, (list, tuple)) or (hasattr(X, "to_numpy") and hasattr(X, "dtype")):  # pandas' own arrays
        return list(X)
    raise InputError(
        "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas column. "
        f"Got {type(X).__name__} instead."
    )


def _split_array(X: np.ndarray) -> list[Any]:
    if X.dtype.kind == "S":
        try:
            X = np.char.decode(X, "utf-8")  # paths
        except UnicodeDecodeError:
            raise InputError(
                "X is an array of bytes that are no paths. numpy cuts trailing zeros off such bytes: pass encoded "
                "images as a list."
            ) from None
    if X.ndim == 1:
        return X.tolist()
    if X.ndim == 2 and X.dtype.kind in "OU" and X.shape[1] == 1:
        return X[:, 0].tolist()
    if X.ndim == 2 or (X.ndim == 3 and X.shape[-1] in (1, 3, 4)):
        raise InputError(
            f"X is a single image, an array of shape {X.shape}; pass a list of images: [image] or image[None]."
        )
    if X.ndim in (3, 4):
        return list(X)  # views: nothing is copied
    raise InputError(f"X must be an array of shape (n_samples, H, W) or (n_samples, H, W, 1|3|4). Got shape {X.shape}.")


def _split_tensor(X: Any) -> list[Any]:
    shape = tuple(X.shape)
    if X.ndim == 2 or (X.ndim == 3 and (shape[0] in (1, 3, 4) or shape[-1] in (1, 3, 4))):
        raise InputError(
            f"X is a single image, a tensor of shape {shape}; pass a list of images: [image] or image[None]. If it is "
            "several grey images, name their channel: X[:, None]."
        )
    if X.ndim in (3, 4):
        return list(X.detach().cpu())
    raise InputError(f"X must be a tensor of shape (n_samples, H, W) or (n_samples, 1|3|4, H, W). Got shape {shape}.")


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach") and hasattr(value, "cpu")


def decode_image(
    source: Any, *, color_mode: str = "rgb", min_size: int | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Read one image as uint8 pixels.

    Parameters
    ----------
    source : str, Path, bytes, PIL image, array or tensor
        Strings are paths or URLs: ``file://``, and with the package fsspec any other, such as ``s3://``. Bytes are an
        encoded image. Files and bytes are JPEG, PNG, WebP, GIF, BMP, TIFF or PPM; of several frames the first is
        taken, the orientation that a camera noted is applied, what is transparent is laid on white, and of 16 bits the
        upper 8 are kept. Arrays are (H, W) or (H, W, 1|3|4): uint8, uint16, bool, or float in [0, 1]. Tensors are
        the same, or (1|3|4, H, W).
    color_mode : {"rgb", "grey"}, default="rgb"
        Colours of the result, whatever those of the source.
    min_size : int, optional
        A JPEG may be decoded at a reduced size (much faster) as long as both sides stay at least this long.
    max_pixels : int, default=89478485
        A file of more pixels is refused before it is decoded.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3) or (H, W, 1), uint8

    Raises
    ------
    ImageDecodeError
        If the image is missing, damaged, too large or of another format; it names the image and says why.

    Examples
    --------
    >>> decode_image(np.zeros((4, 6))).shape
    (4, 6, 3)
    """
    mode = "RGB" if color_mode == "rgb" else "L"
    try:
        if isinstance(source, Image.Image):
            _check_pixels(source, max_pixels)
            with _LOADING:
                source.load()
            return _to_pixels(source, mode)
        if isinstance(source, (str, os.PathLike, *_ENCODED)):
            with Image.open(_open_source(source), formats=FORMATS) as image:
                _check_pixels(image, max_pixels)  # nothing is decoded yet
                if min_size is not None:
                    image.draft(mode, (min_size, min_size))
                return _to_pixels(image, mode)
        return _to_pixels(_array_to_pil(source), mode)
    except Exception as error:  # of any kind: what damaged bytes make of a decoder is boundless
        if isinstance(error, ImportError) or (isinstance(error, OSError) and error.errno in _MACHINE_TROUBLE):
            raise
        name, reason = describe_source(source), explain_failure(source, error)
        raise ImageDecodeError(
            f"Cannot decode the image {shorten_name(name)}: {reason}.", paths=[name], rows=[0], reasons=[reason]
        ) from error


def _open_source(source: Any) -> Any:
    """Return what Pillow opens: a path, or a file in memory."""
    if isinstance(source, _ENCODED):
        return io.BytesIO(source)
    path = find_local_path(source)
    return io.BytesIO(read_encoded(source)) if path is None else path


def find_local_path(source: Any) -> str | None:
    """Return the path of a source that is a file on this machine, and None for every other source."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    path = os.fspath(source)
    if not _URL.match(path):
        return path
    try:
        parts = urllib.parse.urlsplit(path)
    except ValueError:  # brackets where an address should be
        return None
    if parts.scheme.lower() != "file":
        return None
    host = "" if parts.netloc in ("", "localhost") else f"//{parts.netloc}"
    return host + urllib.request.url2pathname(parts.path)


def read_encoded(source: Any) -> bytes:
    """Return the encoded bytes of a path, a URL or bytes themselves."""
    if isinstance(source, _ENCODED):
        return bytes(source)
    path = find_local_path(source)
    if path is None:
        return _fetch(os.fspath(source))
    with open(path, "rb") as file:
        return file.read()


def _fetch(url: str) -> bytes:
    fsspec = import_extra("fsspec", extra="remote")
    try:
        with fsspec.open(url, "rb") as file:
            return file.read()
    except ImportError as error:  # fsspec names the package that knows this kind of URL
        raise MissingExtraError(f"Reading {shorten_name(url)} needs another package: {error}") from error


def _check_pixels(image: Image.Image, max_pixels: int) -> None:
    n_pixels = image.size[0] * image.size[1]
    if n_pixels > max_pixels:
        raise _UnusableError(f"it has {n_pixels:,} pixels, more than max_pixels={max_pixels:,}")


def _to_pixels(image: Image.Image, mode: str) -> np.ndarray:
    image.load()
    orientation = read_orientation(image)
    if orientation in _ORIENTATIONS:  # most images need no turn, and the copy costs
        image = image.transpose(_ORIENTATIONS[orientation])
    if image.mode != mode or "transparency" in image.info:
        image = _lay_on_white(_to_eight_bits(image)).convert(mode)
    pixels = np.array(image, dtype=np.uint8)
    if pixels.size == 0:
        raise _UnusableError("it has no pixels")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def read_orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation; an image whose pixels are sound is not refused for damaged notes beside them."""
    with contextlib.suppress(Exception):
        return image.getexif().get(ORIENTATION_TAG, 1)
    return 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Bring the modes of more than 8 bits, which Pillow itself converts wrongly, to one of 8 bits."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PPM", "PNG")):
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8))  # Pillow would clip all above 255 to white
    if image.mode in ("I", "F"):
        return _array_to_pil(np.array(image))
    return image


def _lay_on_white(image: Image.Image) -> Image.Image:
    """Show what is transparent as a page would: colours that nobody ever saw often lie beneath, mostly black."""
    if "transparency" not in image.info and not image.mode.endswith(("A", "a")):
        return image
    image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    if image.getchannel("A").getextrema()[0] == 255:
        return image
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    return page


def _array_to_pil(source: Any) -> Image.Image:
    if _is_tensor(source):
        source = source.detach().cpu().numpy()
        if source.ndim == 3 and source.shape[0] in (1, 3, 4):
            source = np.moveaxis(source, 0, -1)
    if not isinstance(source, np.ndarray):
        raise _UnusableError(f"its type is {type(source).__name__}, not a path, bytes, PIL image, array or tensor")
    if source.ndim == 3 and source.shape[-1] == 1:
        source = source[:, :, 0]
    if not (source.ndim == 2 or (source.ndim == 3 and source.shape[-1] in (3, 4))) or 0 in source.shape:
        is_channels_first = source.ndim == 3 and source.shape[0] in (1, 3, 4) and source.shape[-1] > 4
        advice = "; put the channels last" if is_channels_first else ""
        raise _UnusableError(f"its shape is {source.shape}, not (H, W) or (H, W, 1|3|4){advice}")
    return Image.fromarray(np.ascontiguousarray(_scale_to_eight_bits(source)))


def _scale_to_eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise _UnusableError("a float array must hold finite values in [0, 1]; divide by 255 if it holds 0 to 255")
        return np.rint(array * 255).astype(np.uint8)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return (array >> 8).astype(np.uint8)
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype != np.uint8:
        raise _UnusableError(f"its dtype is {array.dtype}, not uint8, uint16, bool or float in [0, 1]")
    return array


def describe_source(source: Any) -> str:
    """Name an image in a message: its path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{type(source).__name__}>"


def shorten_name(name: str) -> str:
    """Cut a name that would flood a message, such as that of an image given as text."""
    return name if len(name) <= _MAX_NAME else f"{name[:_MAX_NAME]}..."


def explain_failure(source: Any, error: BaseException) -> str:
    """Say in words why decoding failed."""
    if isinstance(error, _UnusableError):
        return str(error)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has too many pixels ({error})"
    path = find_local_path(source)
    trouble = None if path is None else _find_file_trouble(path, error)
    if trouble is not None:
        return trouble
    if isinstance(source, _ENCODED) and len(source) == 0:
        return "it is empty"
    if isinstance(error, Image.UnidentifiedImageError):
        return f"it is not an image of a format that is read ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    words = str(error) or type(error).__name__
    if path is not None or isinstance(source, _ENCODED):
        return f"the {'file is' if path is not None else 'bytes are'} damaged or unsupported ({words})"
    return f"it cannot be read ({type(error).__name__}: {words})" if isinstance(source, str) else words


def _find_file_trouble(path: str, error: BaseException) -> str | None:
    """Say what is wrong with a file before its contents matter."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "the file does not exist"
    except (OSError, ValueError):  # a name too long or with a null byte, a folder that may not be entered
        return "the path cannot be opened"
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder, not a file"
    if status.st_size == 0:
        return "the file is empty"
    return "reading it is not permitted" if isinstance(error, PermissionError) else None


def encode_png(pixels: np.ndarray) -> bytes:
    """Return uint8 pixels of shape (H, W), (H, W, 1) or (H, W, 3) as the bytes of a PNG file.

    Examples
    --------
    >>> encode_png(np.zeros((2, 2), dtype=np.uint8))[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()
