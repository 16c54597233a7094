import errno
import io
import os
import pickle
import re
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from multilabelkit.data.images import (
    InputSpec,
    check_images,
    decode_image,
    describe_source,
    encode_png,
    find_local_path,
)
from multilabelkit.errors import ImageDecodeError, InputError, MissingExtraError

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
ORIENTATION = 0x0112
UNKNOWN_FORMAT = "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"


def whole(message):
    return f"^{re.escape(message)}$"


def smooth_photo(height, width):
    rows, columns = np.mgrid[:height, :width]
    colours = [rows * 255 / height, columns * 255 / width, (rows + columns) % 256]
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))


def save(path, image, **params):
    image.save(path, **params)
    return path


@pytest.mark.parametrize(
    ("X", "sources"),
    [
        pytest.param(["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], id="list of str"),
        pytest.param((Path("a.jpg"), "b.jpg"), [Path("a.jpg"), "b.jpg"], id="tuple with Path"),
        pytest.param(np.array(["a.jpg", "b.jpg"]), ["a.jpg", "b.jpg"], id="array of str"),
        pytest.param(np.array(["a.jpg", Path("b")], dtype=object), ["a.jpg", Path("b")], id="array of objects"),
        pytest.param(np.array([["a.jpg"], ["b.jpg"]]), ["a.jpg", "b.jpg"], id="one column of str"),
        pytest.param(pd.Series(["a.jpg", "b.jpg"], index=[7, 3]), ["a.jpg", "b.jpg"], id="Series"),
        pytest.param(pd.DataFrame({"path": ["a.jpg", "b.jpg"]}), ["a.jpg", "b.jpg"], id="DataFrame"),
    ],
)
def test_check_images_lists_paths_of_every_container(X, sources):
    assert check_images(X) == sources
    assert all(type(source) in (str, type(Path())) for source in check_images(X))


@pytest.mark.parametrize("shape", [(2, 5, 6), (2, 5, 6, 1), (2, 5, 6, 3), (2, 5, 6, 4), (1, 5, 6, 3)])
@pytest.mark.parametrize("kind", ["array", "tensor", "list"])
def test_check_images_splits_arrays_into_images_without_copying(shape, kind):
    array = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    sources = check_images({"array": array, "tensor": torch.from_numpy(array), "list": list(array)}[kind])
    assert len(sources) == shape[0]
    np.testing.assert_array_equal(np.stack(sources), array)
    assert all(np.shares_memory(source, array) for source in sources)


def test_check_images_splits_tensors_into_images():
    batch = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).reshape(2, 3, 4, 5)
    for images in (batch, batch.permute(0, 2, 3, 1), batch.reshape(6, 4, 5)):
        sources = check_images(images)
        assert len(sources) == len(images)
        assert all(torch.equal(one, other) for one, other in zip(sources, images, strict=True))


def test_check_images_reads_byte_strings_of_an_array_as_paths():
    assert check_images(np.array([b"a.jpg", "ä.jpg".encode()])) == ["a.jpg", "ä.jpg"]


def test_check_images_takes_encoded_bytes_of_every_container():
    data = [b"one\0\0", b"two"]
    for X in (data, tuple(data), pd.Series(data), np.array(data, dtype=object)):
        assert check_images(X) == data


def test_check_images_reads_nothing():
    assert check_images([Path("absent.jpg"), None, 3]) == [Path("absent.jpg"), None, 3]


NO_SEQUENCE = (
    "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas column. "
    "Got {} instead."
)
ONE_TENSOR = (
    "X is a single image, a tensor of shape {}; pass a list of images: [image] or image[None]. If it is several grey "
    "images, name their channel: X[:, None]."
)
ONE_IMAGE = "X is a single image, an array of shape {}; pass a list of images: [image] or image[None]."


@pytest.mark.parametrize(
    ("X", "message"),
    [
        pytest.param("a.jpg", "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg'].", id="str"),
        pytest.param(Path("a.jpg"), "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg'].", id="Path"),
        pytest.param(
            os.curdir,
            "X is a folder, '.'; pass the paths of its images, sorted(Path(folder).glob('*.jpg')), or the paths and "
            "labels that a reader such as datasets.read_folders returns.",
            id="folder",
        ),
        pytest.param(
            Image.new("RGB", (4, 3)),
            "X is a single PIL image of size (4, 3); pass a list of images: [image].",
            id="PIL image",
        ),
        pytest.param(GREY, ONE_IMAGE.format("(12, 17)"), id="grey array"),
        pytest.param(COLOURS, ONE_IMAGE.format("(12, 17, 3)"), id="colour array"),
        pytest.param(torch.zeros(5, 6), ONE_TENSOR.format("(5, 6)"), id="grey tensor"),
        pytest.param(torch.zeros(3, 5, 6), ONE_TENSOR.format("(3, 5, 6)"), id="colour tensor"),
        pytest.param(torch.zeros(5, 6, 3), ONE_TENSOR.format("(5, 6, 3)"), id="colour tensor, channels last"),
        pytest.param(
            torch.zeros(1, 2, 3, 3, 3),
            "X must be a tensor of shape (n_samples, H, W) or (n_samples, 1|3|4, H, W). Got shape (1, 2, 3, 3, 3).",
            id="5-D tensor",
        ),
        pytest.param([], "X is empty; pass at least one image.", id="empty list"),
        pytest.param(np.zeros((0, 5, 5)), "X is empty; pass at least one image.", id="empty array"),
        pytest.param(pd.Series([], dtype=object), "X is empty; pass at least one image.", id="empty Series"),
        pytest.param(
            pd.DataFrame({"path": ["a"], "label": ["b"]}),
            "X is a DataFrame of 2 columns, ['path', 'label']; pass the one column that holds the paths: "
            "frame['path'].",
            id="DataFrame",
        ),
        pytest.param(
            np.zeros((1, 2, 3, 3, 3)),
            "X must be an array of shape (n_samples, H, W) or (n_samples, H, W, 1|3|4). Got shape (1, 2, 3, 3, 3).",
            id="5-D array",
        ),
        pytest.param(
            np.array(3),
            "X must be an array of shape (n_samples, H, W) or (n_samples, H, W, 1|3|4). Got shape ().",
            id="0-D array",
        ),
        pytest.param(None, NO_SEQUENCE.format("NoneType"), id="None"),
        pytest.param({"a.jpg"}, NO_SEQUENCE.format("set"), id="set"),
        pytest.param(iter(["a.jpg"]), NO_SEQUENCE.format("list_iterator"), id="iterator"),
        pytest.param(
            b"\x89PNG", "X is a single encoded image of 4 bytes; pass a list of images: [data].", id="encoded bytes"
        ),
    ],
)
def test_check_images_refuses(X, message):
    with pytest.raises(InputError, match=whole(message)):
        check_images(X)


@pytest.mark.parametrize(("channels", "mode"), [(3, "rgb"), (1, "grey")])
def test_input_spec_names_the_mode_to_decode_in(channels, mode):
    assert InputSpec(8, channels, (0.0,) * channels, (1.0,) * channels).color_mode == mode


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "1", "P"])
def test_decode_image_equals_pillow_for_lossless_files(tmp_path, mode, suffix):
    image = Image.fromarray(COLOURS).convert(mode)
    path = save(tmp_path / f"a.{suffix}", image, **({"lossless": True} if suffix == "webp" else {}))
    np.testing.assert_array_equal(decode_image(path), np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(decode_image(path, color_mode="grey")[..., 0], np.asarray(image.convert("L")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_decode_image_equals_pillow_for_jpegs(tmp_path, mode):
    path = save(tmp_path / "a.jpg", Image.fromarray(COLOURS).convert(mode))
    with Image.open(path) as image:
        assert image.mode == mode
        np.testing.assert_array_equal(decode_image(os.fspath(path)), np.asarray(image.convert("RGB")))
        np.testing.assert_array_equal(decode_image(path, color_mode="grey")[..., 0], np.asarray(image.convert("L")))


def lay_on_white(colours, alpha):
    """Blend colours (H, W, 3) with white by alpha (H, W) in 0 to 255, in floating point."""
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("transparency", [3, bytes([0, 128] + [255] * 14)], ids=["one colour", "a table"])
def test_decode_image_lays_transparent_palettes_on_white(tmp_path, transparency):
    palette = Image.fromarray(COLOURS).quantize(16)
    path = save(tmp_path / "a.png", palette, transparency=transparency)
    places = np.asarray(palette)
    alpha = np.full(16, 255)
    if transparency == 3:
        alpha[3] = 0
    else:
        alpha[:2] = 0, 128
    expected = lay_on_white(np.asarray(palette.convert("RGB")), alpha[places])
    np.testing.assert_allclose(decode_image(path), expected, atol=1)
    assert decode_image(path, color_mode="grey").shape == (12, 17, 1)


@pytest.mark.parametrize("kind", ["file", "array", "PIL image", "tensor"])
def test_decode_image_lays_what_is_transparent_on_white(tmp_path, kind):
    colours = np.dstack([COLOURS, GREY])
    source = {
        "file": save(tmp_path / "a.png", Image.fromarray(colours)),
        "array": colours,
        "PIL image": Image.fromarray(colours),
        "tensor": torch.from_numpy(colours).permute(2, 0, 1),
    }[kind]
    np.testing.assert_allclose(decode_image(source), lay_on_white(COLOURS, GREY), atol=1)


def test_decode_image_lays_grey_with_alpha_on_white():
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(GREY.T.reshape(GREY.shape).copy())])
    expected = lay_on_white(GREY[:, :, None], np.asarray(image)[..., 1])
    np.testing.assert_allclose(decode_image(image, color_mode="grey"), expected, atol=1)


def test_decode_image_reads_a_colour_named_transparent_as_white(tmp_path):
    colours = COLOURS.copy()
    colours[2:5] = (7, 8, 9)
    path = save(tmp_path / "a.png", Image.fromarray(colours), transparency=(7, 8, 9))
    colours[2:5] = 255
    np.testing.assert_array_equal(decode_image(path), colours)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_decode_image_keeps_the_upper_bits_of_sixteen(tmp_path, suffix):
    sixteen = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)  # 0x0000, 0x0101, ... 0xffff
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(sixteen))
    expected = np.arange(256).reshape(16, 16)
    np.testing.assert_array_equal(decode_image(path, color_mode="grey")[..., 0], expected)
    np.testing.assert_array_equal(decode_image(path), np.stack([expected] * 3, axis=-1))


def test_decode_image_takes_pixels_of_floats_as_it_takes_arrays_of_them(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray((GREY / 255).astype(np.float32)))
    np.testing.assert_array_equal(decode_image(path, color_mode="grey")[..., 0], GREY)


def test_decode_image_refuses_integers_of_unknown_scale():
    message = "Cannot decode the image <Image>: its dtype is int32, not uint8, uint16, bool or float in [0, 1]."
    with pytest.raises(ImageDecodeError, match=whole(message)):
        decode_image(Image.fromarray(GREY.astype(np.int32)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
def test_decode_image_turns_the_image_as_the_camera_was_held(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = save(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS), exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
        np.testing.assert_array_equal(decode_image(path), expected)
    assert expected.shape == ((17, 12, 3) if orientation > 4 else (12, 17, 3))


def test_decode_image_turns_pil_images_and_leaves_them_unchanged():
    image = Image.fromarray(COLOURS)
    image.getexif()[ORIENTATION] = 6
    assert decode_image(image).shape == (17, 12, 3)
    assert image.size == (17, 12)
    assert image.getexif()[ORIENTATION] == 6


@pytest.mark.parametrize("orientation", [0, 9, "6"])
def test_decode_image_ignores_unknown_orientations(orientation):
    image = Image.fromarray(COLOURS)
    image.getexif()[ORIENTATION] = orientation
    np.testing.assert_array_equal(decode_image(image), COLOURS)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0MM", b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_decode_image_reads_sound_pixels_beside_damaged_notes(tmp_path, exif):
    path = save(tmp_path / "a.jpg", Image.fromarray(COLOURS), exif=exif)
    clean = save(tmp_path / "b.jpg", Image.fromarray(COLOURS))
    np.testing.assert_array_equal(decode_image(path), decode_image(clean))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param(COLOURS, COLOURS, id="uint8 colours"),
        pytest.param(np.asfortranarray(COLOURS[::-1]), COLOURS[::-1], id="uint8 in another order"),
        pytest.param(GREY, np.stack([GREY] * 3, -1), id="uint8 grey"),
        pytest.param(GREY[:, :, None], np.stack([GREY] * 3, -1), id="uint8 one channel"),
        pytest.param(np.dstack([COLOURS, np.full_like(GREY, 255)]), COLOURS, id="uint8 four channels"),
        pytest.param(COLOURS.astype(np.uint16) * 257, COLOURS, id="uint16"),
        pytest.param(GREY > 99, np.where(GREY > 99, 255, 0)[:, :, None].repeat(3, axis=2), id="bool"),
        pytest.param(torch.from_numpy(COLOURS).permute(2, 0, 1), COLOURS, id="tensor, channels first"),
        pytest.param(torch.from_numpy(GREY)[None], np.stack([GREY] * 3, -1), id="tensor of one channel"),
        pytest.param(COLOURS / 255, COLOURS, id="float64"),
        pytest.param((COLOURS / 255).astype(np.float32), COLOURS, id="float32"),
        pytest.param(np.array([[0.0, 0.5, 1.0]]), np.array([[[0] * 3, [128] * 3, [255] * 3]]), id="rounding"),
        pytest.param(torch.from_numpy(COLOURS), COLOURS, id="tensor"),
        pytest.param(torch.from_numpy(COLOURS / 255).requires_grad_(), COLOURS, id="float tensor"),
        pytest.param(Image.fromarray(COLOURS), COLOURS, id="PIL image"),
    ],
)
def test_decode_image_reads_arrays_and_tensors(source, expected):
    pixels = decode_image(source)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, expected)


def test_decode_image_reads_read_only_arrays():
    frozen = COLOURS.copy()
    frozen.flags.writeable = False
    pixels = decode_image(frozen)
    np.testing.assert_array_equal(pixels, COLOURS)
    assert not np.shares_memory(pixels, frozen)


@pytest.mark.parametrize(
    ("source", "kind", "reason"),
    [
        pytest.param(
            GREY.astype(np.int64),
            "ndarray",
            "its dtype is int64, not uint8, uint16, bool or float in [0, 1]",
            id="int64",
        ),
        pytest.param(
            GREY.astype(float),
            "ndarray",
            "a float array must hold finite values in [0, 1]; divide by 255 if it holds 0 to 255",
            id="float to 255",
        ),
        pytest.param(
            np.full((2, 2), np.nan),
            "ndarray",
            "a float array must hold finite values in [0, 1]; divide by 255 if it holds 0 to 255",
            id="NaN",
        ),
        pytest.param(
            np.zeros((4, 4, 2)), "ndarray", "its shape is (4, 4, 2), not (H, W) or (H, W, 1|3|4)", id="two channels"
        ),
        pytest.param(
            np.zeros((3, 8, 8)),
            "ndarray",
            "its shape is (3, 8, 8), not (H, W) or (H, W, 1|3|4); put the channels last",
            id="channels first",
        ),
        pytest.param(np.zeros((0, 4)), "ndarray", "its shape is (0, 4), not (H, W) or (H, W, 1|3|4)", id="empty array"),
        pytest.param(Image.new("RGB", (0, 5)), "Image", "it has no pixels", id="empty PIL image"),
        pytest.param(
            None, "NoneType", "its type is NoneType, not a path, bytes, PIL image, array or tensor", id="None"
        ),
        pytest.param(
            float("nan"),
            "float",
            "its type is float, not a path, bytes, PIL image, array or tensor",
            id="NaN for a path",
        ),
    ],
)
def test_decode_image_refuses_what_is_no_image(source, kind, reason):
    with pytest.raises(ImageDecodeError, match=whole(f"Cannot decode the image <{kind}>: {reason}.")) as caught:
        decode_image(source)
    assert (caught.value.paths, caught.value.rows, caught.value.reasons) == ((f"<{kind}>",), (0,), (reason,))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_image_reduces_jpegs_only_while_both_sides_stay_long_enough(tmp_path, mode):
    path = save(tmp_path / "a.jpg", smooth_photo(160, 240).convert(mode))
    color_mode = "rgb" if mode == "RGB" else "grey"
    full = decode_image(path, color_mode=color_mode)
    for min_size in (1, 20, 21, 40, 79, 80, 81, 160, 161, 500):
        pixels = decode_image(path, color_mode=color_mode, min_size=min_size)
        step = full.shape[0] // pixels.shape[0]
        assert pixels.shape[:2] == (160 // step, 240 // step)
        assert step == max([1, *(s for s in (2, 4, 8) if 160 // s >= min_size)])
        blocks = full.reshape(160 // step, step, 240 // step, step, -1).mean(axis=(1, 3))
        assert np.abs(blocks - pixels).mean() < 6


def test_decode_image_reduces_only_jpegs(tmp_path):
    path = save(tmp_path / "a.png", smooth_photo(160, 240))
    assert decode_image(path, min_size=10).shape == (160, 240, 3)


def make_broken(folder, kind):
    """Return the path of a file that is no image, and the reason that must be given."""
    path = folder / f"{kind}.jpg"
    if kind == "folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("This is not an image. " * 20)
    elif kind == "truncated":
        smooth_photo(160, 240).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    elif kind == "null byte":
        path = f"{folder}/null\0byte.jpg"
    elif kind == "long name":
        path = folder / ("x" * 256)
    return path, {
        "missing": "the file does not exist",
        "folder": "it is a folder, not a file",
        "empty": "the file is empty",
        "text": UNKNOWN_FORMAT,
        "truncated": "the file is damaged or unsupported (broken data stream when reading image file)",
        "null byte": "the path cannot be opened",
        "long name": "the path cannot be opened",
    }[kind]


@pytest.mark.parametrize("kind", ["missing", "folder", "empty", "text", "truncated", "null byte", "long name"])
def test_decode_image_names_the_broken_file_and_says_why(tmp_path, kind):
    path, reason = make_broken(tmp_path, kind)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(path)
    error = caught.value
    if kind == "truncated":  # in Pillow's words, which change
        assert error.reasons[0].startswith("the file is damaged or unsupported (")
    else:
        assert error.reasons == (reason,)
    assert str(error) == f"Cannot decode the image {path}: {error.reasons[0]}."
    assert (error.paths, error.rows) == ((str(path),), (0,))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_decode_image_says_when_reading_is_not_permitted(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(COLOURS))
    path.chmod(0)
    with pytest.raises(ImageDecodeError, match=whole(f"Cannot decode the image {path}: reading it is not permitted.")):
        decode_image(path)


@pytest.mark.parametrize(("limit", "action"), [(40, "ignore"), (150, "error")], ids=["error", "warning as error"])
def test_decode_image_says_when_an_image_has_too_many_pixels(tmp_path, monkeypatch, limit, action):
    path = save(tmp_path / "a.png", Image.fromarray(COLOURS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageDecodeError) as caught:
            decode_image(path)
    assert re.match(r"it has too many pixels \(Image size \(204 pixels\) exceeds limit of", caught.value.reasons[0])


@pytest.mark.parametrize("action", ["ignore", "error"])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_decode_image_gives_pixels_or_its_own_error_for_damaged_bytes(tmp_path, suffix, action):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    sound = save(tmp_path / f"sound.{suffix}", Image.fromarray(COLOURS), exif=exif).read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / f"a.{suffix}"
    n_failed = 0
    for trial in range(300):
        damaged = bytearray(sound)
        if trial % 3 == 0:
            del damaged[random.integers(len(sound)) :]
        else:
            for _ in range(random.integers(1, 6)):  # half of them in the headers, where most can break
                end = len(sound) if trial % 3 == 1 else min(200, len(sound))
                damaged[random.integers(end)] = random.integers(256)
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            try:
                pixels = decode_image(path, min_size=(None, 4)[trial % 2], color_mode=("rgb", "grey")[trial // 2 % 2])
            except ImageDecodeError as error:
                n_failed += error.paths == (str(path),)
                continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == (3, 1)[trial // 2 % 2]
        assert pixels.size
    assert 50 < n_failed < 300


def test_decode_image_turns_every_error_of_a_decoder_into_its_own(tmp_path):
    image = Image.fromarray(COLOURS)

    def load():
        raise RuntimeError("Failed to decode image: Not implemented")  # as Pillow's AVIF decoder does

    image.load = load
    with pytest.raises(
        ImageDecodeError, match=whole("Cannot decode the image <Image>: Failed to decode image: Not implemented.")
    ):
        decode_image(image)


def test_image_decode_error_survives_pickling():
    error = ImageDecodeError("no", paths=["a", "b"], rows=[1, 5], reasons=["x", "y"])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is ImageDecodeError
    assert (str(copy), copy.paths, copy.rows, copy.reasons) == ("no", ("a", "b"), (1, 5), ("x", "y"))


def encode(image, kind, **params):
    buffer = io.BytesIO()
    image.save(buffer, kind, **params)
    return buffer.getvalue()


@pytest.mark.parametrize("container", [bytes, bytearray, memoryview])
def test_decode_image_reads_encoded_bytes(container):
    np.testing.assert_array_equal(decode_image(container(encode(Image.fromarray(COLOURS), "PNG"))), COLOURS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"This is not an image.", UNKNOWN_FORMAT),
        (encode(smooth_photo(160, 240), "JPEG")[:2000], "the bytes are damaged or unsupported ("),
    ],
    ids=["empty", "text", "truncated"],
)
def test_decode_image_says_what_is_wrong_with_bytes(data, reason):
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data)
    assert caught.value.paths == ("<bytes>",)
    assert caught.value.reasons[0].startswith(reason)


@pytest.mark.parametrize("kind", ["ICO", "TGA", "PCX", "JPEG2000", "DDS"])
def test_decode_image_tries_only_the_formats_it_names(kind):
    data = encode(Image.fromarray(COLOURS), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == kind  # Pillow itself would read it
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(data)
    assert caught.value.reasons == (UNKNOWN_FORMAT,)


def test_decode_image_reads_the_upper_bits_of_a_portable_greymap():
    sixteen = np.arange(0, 65536, 257, dtype=">u2").reshape(16, 16)
    data = b"P5 16 16 65535\n" + sixteen.tobytes()
    np.testing.assert_array_equal(decode_image(data, color_mode="grey")[..., 0], np.arange(256).reshape(16, 16))


def test_decode_image_refuses_too_many_pixels_before_it_decodes(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", Image.fromarray(COLOURS))
    assert decode_image(path, max_pixels=204).shape == (12, 17, 3)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    message = f"Cannot decode the image {path}: it has 204 pixels, more than max_pixels=203."
    with pytest.raises(ImageDecodeError, match=whole(message)):
        decode_image(path, max_pixels=203)


def test_decode_image_reads_file_urls(tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    path = save(folder / "ä b.png", Image.fromarray(COLOURS))
    assert "%20" in path.as_uri()
    np.testing.assert_array_equal(decode_image(path.as_uri()), COLOURS)
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(path.as_uri() + "x")
    assert caught.value.reasons == ("the file does not exist",)


def test_decode_image_reads_urls_of_any_file_system():
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://photos/a.png", "wb") as file:
        file.write(encode(Image.fromarray(COLOURS), "PNG"))
    np.testing.assert_array_equal(decode_image("memory://photos/a.png"), COLOURS)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("memory://photos/absent.png", r"it cannot be read \(FileNotFoundError: .*absent\.png.*\)"),
        ("nosuch://a.png", r"it cannot be read \(ValueError: Protocol not known: nosuch\)"),
    ],
)
def test_decode_image_says_when_a_url_cannot_be_read(url, reason):
    pytest.importorskip("fsspec")
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(url)
    assert caught.value.paths == (url,)
    assert re.fullmatch(reason, caught.value.reasons[0])


def test_decode_image_names_the_package_that_reads_urls(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'multilabelkit\[remote\]'"):
        decode_image("s3://bucket/a.png")


@pytest.mark.parametrize(
    ("source", "path"),
    [("a/b.jpg", "a/b.jpg"), (Path("b.jpg"), "b.jpg"), ("s3://a/b.jpg", None), (b"a", None), (GREY, None), (3, None)],
)
def test_find_local_path_knows_files_of_this_machine(source, path):
    assert find_local_path(source) == path


def test_decode_image_takes_the_first_frame(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), value, dtype=np.uint8)) for value in (10, 200, 90)]
    for name in ("a.gif", "a.tif", "a.webp", "a.png"):
        params = {"lossless": True} if name == "a.webp" else {}
        path = save(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **params)
        assert np.unique(decode_image(path)).tolist() == [10], name


@pytest.mark.parametrize(
    ("source", "name"), [("a/b.jpg", "a/b.jpg"), (Path("b.jpg"), "b.jpg"), (GREY, "<ndarray>"), (3, "<int>")]
)
def test_describe_source_names_paths_and_kinds(source, name):
    assert describe_source(source) == name


@pytest.mark.parametrize("pixels", [COLOURS, GREY, GREY[:, :, None]], ids=["colours", "grey", "one channel"])
def test_encode_png_comes_back_unchanged(pixels):
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.format == "PNG"
        decoded = decode_image(image, color_mode="rgb" if pixels.shape[-1] == 3 else "grey")
    np.testing.assert_array_equal(decoded, pixels if pixels.ndim == 3 else pixels[:, :, None])


def test_one_lazy_image_in_many_rows_is_read_in_many_threads(tmp_path):
    path = save(tmp_path / "a.png", smooth_photo(400, 600))
    expected = decode_image(path)
    for _ in range(5):
        image = Image.open(path)
        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(decode_image, [image] * 12))
        image.close()
        assert all(np.array_equal(pixels, expected) for pixels in found)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_trouble_of_the_machine_is_no_fault_of_the_image(tmp_path, monkeypatch, number):
    path = save(tmp_path / "a.png", Image.fromarray(COLOURS))

    def fail(*arguments, **options):
        raise OSError(number, "enough")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OSError, match="enough") as caught:
        decode_image(path)
    assert not isinstance(caught.value, ImageDecodeError)


def test_too_little_memory_is_named(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageDecodeError, match=r"there is not enough memory to decode it\.$"):
        decode_image(save(tmp_path / "a.png", Image.fromarray(COLOURS)))


@pytest.mark.parametrize("url", ["file://[x", "memory://[x/a.jpg"])
def test_a_url_that_is_none_is_an_image_that_cannot_be_read(url):
    pytest.importorskip("fsspec")
    with pytest.raises(ImageDecodeError) as caught:
        decode_image(url)
    assert caught.value.paths == (url,)


def test_decode_image_reads_chained_urls():
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://chained/a.png", "wb") as file:
        file.write(encode(Image.fromarray(COLOURS), "PNG"))
    np.testing.assert_array_equal(decode_image("simplecache::memory://chained/a.png"), COLOURS)


def test_a_share_in_a_file_url_keeps_its_server():
    assert find_local_path("file://server/share/a.png") == "//server/share/a.png"
    assert find_local_path("file://localhost/share/a.png") == "/share/a.png"


def test_decode_image_names_the_package_of_a_protocol():
    fsspec = pytest.importorskip("fsspec")
    try:
        fsspec.filesystem("s3")
    except ImportError:
        with pytest.raises(MissingExtraError, match=r"^Reading s3://bucket/a\.png needs another package: Install s3fs"):
            decode_image("s3://bucket/a.png")


def test_a_name_that_would_flood_the_message_is_cut():
    with pytest.raises(ImageDecodeError) as caught:
        decode_image("x" * 5000)
    assert len(str(caught.value)) < 1100
    assert caught.value.paths == ("x" * 5000,)


def test_check_images_refuses_encoded_images_in_an_array():
    message = (
        "X is an array of bytes that are no paths. numpy cuts trailing zeros off such bytes: pass encoded images as a "
        "list."
    )
    with pytest.raises(InputError, match=whole(message)):
        check_images(np.array([encode(Image.fromarray(COLOURS), "PNG")] * 2))


@pytest.mark.parametrize("X", [pd.Index(["a", "b"]), pd.array(["a", "b"], dtype="string")], ids=["Index", "array"])
def test_check_images_takes_arrays_of_pandas(X):
    assert check_images(X) == ["a", "b"]


def test_decode_image_reads_sixteen_bits_of_either_byte_order():
    for order in "<>":
        np.testing.assert_array_equal(decode_image((COLOURS.astype(np.uint16) * 257).astype(f"{order}u2")), COLOURS)


def test_decode_image_reads_premultiplied_alpha():
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(np.full_like(GREY, 128))])
    expected = decode_image(image, color_mode="grey").astype(int)
    assert np.abs(decode_image(image.convert("La"), color_mode="grey") - expected).max() <= 2
