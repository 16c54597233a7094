import io
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from multilabelkit.data.images import (
    InputSpec,
    check_decodable,
    check_files_exist,
    check_images,
    decode_image,
    describe_failures,
    describe_source,
    encode_png,
)
from multilabelkit.errors import ImageDecodeError, InputError

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 17, 3), dtype=np.uint8)
GREY = COLOURS[..., 0]
ORIENTATION = 0x0112


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


def test_check_images_reads_nothing():
    assert check_images([Path("absent.jpg"), None, 3]) == [Path("absent.jpg"), None, 3]


NO_SEQUENCE = (
    "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas column. "
    "Got {} instead."
)
ONE_IMAGE = "X is a single image, an array of shape {}; pass a list of images: [image] or image[None]."


@pytest.mark.parametrize(
    ("X", "message"),
    [
        pytest.param("a.jpg", "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg'].", id="str"),
        pytest.param(Path("a.jpg"), "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg'].", id="Path"),
        pytest.param(
            Image.new("RGB", (4, 3)),
            "X is a single PIL image of size (4, 3); pass a list of images: [image].",
            id="PIL image",
        ),
        pytest.param(GREY, ONE_IMAGE.format("(12, 17)"), id="grey array"),
        pytest.param(COLOURS, ONE_IMAGE.format("(12, 17, 3)"), id="colour array"),
        pytest.param(torch.zeros(5, 6), ONE_IMAGE.format("(5, 6)"), id="tensor"),
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
        pytest.param(b"\x89PNG", NO_SEQUENCE.format("bytes"), id="bytes"),
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


@pytest.mark.parametrize("transparency", [3, bytes([0, 128] + [255] * 14)], ids=["one colour", "a table"])
def test_decode_image_drops_the_transparency_of_palettes(tmp_path, transparency):
    palette = Image.fromarray(COLOURS).quantize(16)
    path = save(tmp_path / "a.png", palette, transparency=transparency)
    np.testing.assert_array_equal(decode_image(path), np.asarray(palette.convert("RGB")))
    assert decode_image(path, color_mode="grey").shape == (12, 17, 1)


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
    message = "Cannot decode the image <Image>: its dtype is int32, not uint8 or float in [0, 1]."
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
        pytest.param(np.dstack([COLOURS, GREY]), COLOURS, id="uint8 four channels"),
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
        pytest.param(GREY > 9, "ndarray", "its dtype is bool, not uint8 or float in [0, 1]", id="bool"),
        pytest.param(GREY.astype(int), "ndarray", "its dtype is int64, not uint8 or float in [0, 1]", id="int64"),
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
            torch.zeros(3, 8, 8),
            "Tensor",
            "its shape is (3, 8, 8), not (H, W) or (H, W, 1|3|4); put the channels last",
            id="channels first",
        ),
        pytest.param(np.zeros((0, 4)), "ndarray", "its shape is (0, 4), not (H, W) or (H, W, 1|3|4)", id="empty array"),
        pytest.param(Image.new("RGB", (0, 5)), "Image", "it has no pixels", id="empty PIL image"),
        pytest.param(None, "NoneType", "its type is NoneType, not a path, PIL image or array", id="None"),
        pytest.param(float("nan"), "float", "its type is float, not a path, PIL image or array", id="NaN for a path"),
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
        path = folder / ("x" * 300)
    return path, {
        "missing": "the file does not exist",
        "folder": "it is a folder, not a file",
        "empty": "the file is empty",
        "text": "it is not an image file of a known format",
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


@pytest.mark.parametrize(
    ("source", "name"), [("a/b.jpg", "a/b.jpg"), (Path("b.jpg"), "b.jpg"), (GREY, "<ndarray>"), (3, "<int>")]
)
def test_describe_source_names_paths_and_kinds(source, name):
    assert describe_source(source) == name


@pytest.mark.parametrize("num_workers", [0, 1, 3])
def test_check_decodable_lists_every_bad_image(tmp_path, num_workers):
    good = save(tmp_path / "good.png", Image.fromarray(COLOURS))
    empty, text = (make_broken(tmp_path, kind)[0] for kind in ("empty", "text"))
    sources = [good, empty, GREY, text, str(tmp_path / "absent.jpg"), good]
    message = (
        f"Cannot decode 3 of 6 images in X; the first is '{empty}' at row 1: the file is empty. "
        "Repair or remove them (all are listed in error.paths and error.rows)."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        check_decodable(sources, decode_image, num_workers=num_workers)
    assert caught.value.rows == (1, 3, 4)
    assert caught.value.paths == (str(empty), str(text), str(tmp_path / "absent.jpg"))
    assert caught.value.reasons == (
        "the file is empty",
        "it is not an image file of a known format",
        "the file does not exist",
    )


def test_check_decodable_is_silent_where_all_is_well():
    check_decodable([GREY, COLOURS], decode_image, num_workers=2)


def test_check_decodable_passes_other_errors_on():
    def decode(source):
        raise ZeroDivisionError("not an image's fault")

    with pytest.raises(ZeroDivisionError):
        check_decodable([GREY], decode, num_workers=2)


def test_check_files_exist_lists_every_missing_file_and_opens_none(tmp_path):
    text = make_broken(tmp_path, "text")[0]
    folder = make_broken(tmp_path, "folder")[0]
    sources = [text, "absent.jpg", GREY, Path("gone.png"), folder, "null\0byte"]
    message = (
        "Cannot decode 4 of 6 images in X_valid; the first is 'absent.jpg' at row 1: the file does not exist. "
        "Repair or remove them (all are listed in error.paths and error.rows)."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        check_files_exist(sources, where="X_valid")
    assert caught.value.rows == (1, 3, 4, 5)
    assert caught.value.paths == ("absent.jpg", "gone.png", str(folder), "null\0byte")
    check_files_exist([text, GREY, None])


def test_describe_failures_says_when_a_bad_image_is_the_only_one():
    failure = ImageDecodeError("no", paths=["a.jpg"], rows=[0], reasons=["the file is empty"])
    error = describe_failures([(7, failure)], n_images=9)
    assert str(error) == "Cannot decode 1 of 9 images in X: 'a.jpg' at row 7: the file is empty. Repair or remove it."
    assert (error.paths, error.rows, error.reasons) == (("a.jpg",), (7,), ("the file is empty",))


@pytest.mark.parametrize("pixels", [COLOURS, GREY, GREY[:, :, None]], ids=["colours", "grey", "one channel"])
def test_encode_png_comes_back_unchanged(pixels):
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert image.format == "PNG"
        decoded = decode_image(image, color_mode="rgb" if pixels.shape[-1] == 3 else "grey")
    np.testing.assert_array_equal(decoded, pixels if pixels.ndim == 3 else pixels[:, :, None])
