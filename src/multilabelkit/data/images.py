"""From whatever the caller calls an image to pixels: sources, decoding, encoding, and what a network wants to see."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from multilabelkit.checks import shorten
from multilabelkit.errors import ImageDecodeError, InputError

COLOR_MODES = {"rgb": 3, "grey": 1}

# Everything Pillow raises for a damaged file, warnings too where the caller made them errors. It is caught around
# decoding alone, and never hidden: each becomes an ImageDecodeError that names the image.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,
    Warning,
    struct.error,
    Image.DecompressionBombError,
)

_ORIENTATION_TAG = 0x0112
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class InputSpec:
    """What a network wants to see: the size, channels and scaling of its input.

    Parameters
    ----------
    size : int
        Side of the square input in pixels; images are squished to it, so that nothing labelled is cut away.
    channels : {1, 3}
        Greyscale or red, green and blue.
    mean, std : tuple of float
        One value per channel, in units of pixel / 255: the network sees ``(pixel / 255 - mean) / std``.
    """

    size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def color_mode(self) -> str:
        """The mode in which images must be decoded for this network."""
        return "rgb" if self.channels == 3 else "grey"


def check_images(X: Any) -> list[Any]:
    """Return `X` as a list of image sources, one per row.

    Parameters
    ----------
    X : sequence of str, Path, PIL image or array; ndarray; Series; DataFrame with one column
        An ndarray of shape (n_samples, H, W) or (n_samples, H, W, 1|3|4) holds n images; one of shape
        (n_samples,) holds paths.

    Returns
    -------
    sources : list of length n_samples
        Each a path, a PIL image or an array (H, W) or (H, W, 1|3|4). Nothing is read or decoded here.

    Raises
    ------
    InputError
        If X is a single path or image, is empty, or is no sequence.

    Examples
    --------
    >>> check_images(["a.jpg", "b.jpg"])
    ['a.jpg', 'b.jpg']
    """
    if isinstance(X, (str, os.PathLike)):
        raise InputError(
            f"X is a single path, {shorten(os.fspath(X))}; pass a list of paths: [{shorten(os.fspath(X))}]."
        )
    if isinstance(X, Image.Image):
        raise InputError(f"X is a single PIL image of size {X.size}; pass a list of images: [image].")
    sources = _as_list(X)
    if len(sources) == 0:
        raise InputError("X is empty; pass at least one image.")
    return sources


def _as_list(X: Any) -> list[Any]:
    if hasattr(X, "detach") and hasattr(X, "cpu"):
        X = X.detach().cpu().numpy()
    if hasattr(X, "iloc"):  # pandas
        if X.ndim == 2 and X.shape[1] != 1:
            raise InputError(
                f"X is a DataFrame of {X.shape[1]} columns, {shorten(list(X.columns))}; "
                "pass the one column that holds the paths: frame['path']."
            )
        return list(X.iloc[:, 0] if X.ndim == 2 else X)
    if isinstance(X, np.ndarray):
        return _split_array(X)
    if isinstance(X, (list, tuple)):
        return list(X)
    raise InputError(
        "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas column. "
        f"Got {type(X).__name__} instead."
    )


def _split_array(X: np.ndarray) -> list[Any]:
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


def decode_image(source: Any, *, color_mode: str = "rgb", min_size: int | None = None) -> np.ndarray:
    """Read one image as uint8 pixels.

    Parameters
    ----------
    source : str, Path, PIL image or array
        Arrays are (H, W) or (H, W, 1|3|4), uint8 or float in [0, 1]. Files may be anything Pillow reads; the
        orientation their camera noted is applied, transparency is dropped, and of 16 bits the upper 8 are kept.
    color_mode : {"rgb", "grey"}, default="rgb"
        Colours of the result, whatever those of the source.
    min_size : int, optional
        A JPEG may be decoded at a reduced size (much faster) as long as both sides stay at least this long.

    Returns
    -------
    pixels : ndarray of shape (H, W, 3) or (H, W, 1), uint8

    Raises
    ------
    ImageDecodeError
        If the image is missing, damaged or of an unknown format; it names the image and says why.

    Examples
    --------
    >>> decode_image(np.zeros((4, 6))).shape
    (4, 6, 3)
    """
    mode = "RGB" if color_mode == "rgb" else "L"
    try:
        if isinstance(source, Image.Image):
            return _to_pixels(source, mode)
        if isinstance(source, (str, os.PathLike)):
            with Image.open(source) as image:
                if min_size is not None:
                    image.draft(mode, (min_size, min_size))
                return _to_pixels(image, mode)
        return _to_pixels(_array_to_pil(source), mode)
    except _DECODER_ERRORS as error:
        name = describe_source(source)
        reason = _explain(source, error)
        raise ImageDecodeError(
            f"Cannot decode the image {name}: {reason}.", paths=[name], rows=[0], reasons=[reason]
        ) from error


def _to_pixels(image: Image.Image, mode: str) -> np.ndarray:
    image.load()
    orientation = _read_orientation(image)
    if orientation in _ORIENTATIONS:  # most images need no turn, and the copy costs
        image = image.transpose(_ORIENTATIONS[orientation])
    if image.mode != mode:
        image = _to_eight_bits(image).convert(mode)
    pixels = np.array(image, dtype=np.uint8)
    if pixels.size == 0:
        raise ValueError("it has no pixels")
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _read_orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation; an image whose pixels are sound is not refused for damaged notes beside them."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except _DECODER_ERRORS:
        return 1


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Bring the modes that Pillow itself converts wrongly, or only with a warning, to one of 8 bits."""
    if image.mode.startswith("I;16"):  # Pillow would clip all above 255 to white
        return Image.fromarray((np.array(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        return _array_to_pil(np.array(image))
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        return image.convert("RGBA")
    return image


def _array_to_pil(source: Any) -> Image.Image:
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        source = source.detach().cpu().numpy()
    if not isinstance(source, np.ndarray):
        raise ValueError(f"its type is {type(source).__name__}, not a path, PIL image or array")
    if source.ndim == 3 and source.shape[-1] == 1:
        source = source[:, :, 0]
    if not (source.ndim == 2 or (source.ndim == 3 and source.shape[-1] in (3, 4))) or 0 in source.shape:
        is_channels_first = source.ndim == 3 and source.shape[0] in (1, 3, 4) and source.shape[-1] > 4
        advice = "; put the channels last" if is_channels_first else ""
        raise ValueError(f"its shape is {source.shape}, not (H, W) or (H, W, 1|3|4){advice}")
    if source.dtype.kind == "f":
        if not (np.isfinite(source).all() and source.min() >= 0 and source.max() <= 1):
            raise ValueError("a float array must hold finite values in [0, 1]; divide by 255 if it holds 0 to 255")
        source = np.rint(source * 255).astype(np.uint8)
    if source.dtype != np.uint8:
        raise ValueError(f"its dtype is {source.dtype}, not uint8 or float in [0, 1]")
    return Image.fromarray(source)


def describe_source(source: Any) -> str:
    """Name an image in a message: its path, or what kind of object it is."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return f"<{type(source).__name__}>"


def _explain(source: Any, error: BaseException) -> str:
    """Say in words why decoding failed."""
    if not isinstance(source, (str, os.PathLike)):
        return str(error) or type(error).__name__
    try:
        status = os.stat(source)
    except (FileNotFoundError, NotADirectoryError):
        return "the file does not exist"
    except (OSError, ValueError):  # a name too long or with a null byte, a folder that may not be entered
        return "the path cannot be opened"
    if stat.S_ISDIR(status.st_mode):
        return "it is a folder, not a file"
    if status.st_size == 0:
        return "the file is empty"
    if isinstance(error, PermissionError):
        return "reading it is not permitted"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"it has too many pixels ({error})"
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is not an image file of a known format"
    return f"the file is damaged or unsupported ({error or type(error).__name__})"


def check_decodable(
    sources: Sequence[Any], decode: Callable[[Any], Any], *, num_workers: int, where: str = "X"
) -> None:
    """Try every image and raise one ImageDecodeError that lists all those that fail, with their rows."""

    def attempt(row: int) -> ImageDecodeError | None:
        try:
            decode(sources[row])
        except ImageDecodeError as error:
            return error
        return None

    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        failures = [(row, error) for row, error in enumerate(pool.map(attempt, range(len(sources)))) if error]
    if failures:
        raise describe_failures(failures, n_images=len(sources), where=where)


def check_files_exist(sources: Sequence[Any], *, where: str = "X") -> None:
    """Raise one ImageDecodeError that lists every path that is not there: cheap, so it runs before anything else."""
    failures = []
    for row, source in enumerate(sources):
        if isinstance(source, (str, os.PathLike)) and not os.path.isfile(source):
            name, reason = describe_source(source), _explain(source, FileNotFoundError())
            failures.append((row, ImageDecodeError(reason, paths=[name], rows=[row], reasons=[reason])))
    if failures:
        raise describe_failures(failures, n_images=len(sources), where=where)


def describe_failures(
    failures: Sequence[tuple[int, ImageDecodeError]], *, n_images: int, where: str = "X"
) -> ImageDecodeError:
    """Fold the errors of single images, each with its row in `where`, into the one error that a caller sees."""
    rows = [row for row, _ in failures]
    paths = [error.paths[0] for _, error in failures]
    reasons = [error.reasons[0] for _, error in failures]
    first = f"'{paths[0]}' at row {rows[0]}: {reasons[0]}"
    count = f"{len(failures)} of {n_images} images in {where}"
    if len(failures) == 1:
        message = f"Cannot decode {count}: {first}. Repair or remove it."
    else:
        message = (
            f"Cannot decode {count}; the first is {first}. "
            "Repair or remove them (all are listed in error.paths and error.rows)."
        )
    return ImageDecodeError(message, paths=paths, rows=rows, reasons=reasons)


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
