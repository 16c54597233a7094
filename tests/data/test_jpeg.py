import io

import numpy as np
import pytest
from PIL import Image

from multilabelkit.data.images import decode_image
from multilabelkit.data.jpeg import decode_plain_jpeg
from multilabelkit.data.loading import PixelReader
from multilabelkit.data.transforms import resize_pixels
from multilabelkit.errors import ImageDecodeError

MAX = 10**8
CHANNELS = {"rgb": 3, "grey": 1}


def paint(height=60, width=90):
    rows, columns = np.mgrid[:height, :width]
    colours = [rows * 255 / height, columns * 255 / width, (rows * columns) % 256]
    return Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))


def encode(image, **params):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **params)
    return buffer.getvalue()


def orient(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


PLAIN = {
    "4:4:4": encode(paint(), subsampling=0),
    "4:2:2": encode(paint(), subsampling=1),
    "4:2:0": encode(paint(), subsampling=2),
    "odd size": encode(paint(61, 89)),
    "poor": encode(paint(), quality=10),
    "progressive": encode(paint(), progressive=True),
    "optimized": encode(paint(), optimize=True),
    "restart markers": encode(paint(), restart_marker_rows=1),
    "grey": encode(paint().convert("L")),
    "upright": encode(paint(), exif=orient(1)),
    "other notes": encode(paint(), comment=b"hello", icc_profile=b"x" * 70000, dpi=(300, 300)),
}


@pytest.mark.parametrize("color_mode", ["rgb", "grey"])
@pytest.mark.parametrize("kind", PLAIN)
def test_plain_jpegs_have_the_pixels_that_pillow_gives_them(kind, color_mode):
    pixels = decode_plain_jpeg(PLAIN[kind], color_mode=color_mode, max_pixels=MAX)
    expected = decode_image(PLAIN[kind], color_mode=color_mode)
    assert pixels.shape == expected.shape
    assert pixels.shape[2] == CHANNELS[color_mode]
    difference = np.abs(pixels.astype(int) - expected)
    # libjpeg's own grey is its luma channel; Pillow's rounds colours first.
    assert difference.mean() < (0.05 if color_mode == "rgb" else 0.6)


def test_photographs_have_the_pixels_that_pillow_gives_them(shared_data):
    """The mean difference over 200 photographs, of 255 grey values, is less than a hundredth."""
    paths = sorted((shared_data / "data" / "miml" / "images").glob("*.jpg"))[::8]
    differences = []
    for path in paths:
        pixels = decode_plain_jpeg(path.read_bytes(), max_pixels=MAX)
        differences.append(np.abs(pixels.astype(int) - decode_image(path)).mean())
    assert len(paths) == 200
    assert np.mean(differences) < 0.01


def test_a_reduced_photograph_looks_like_the_whole_one(shared_data):
    """What a network sees of a large file decoded at half its size or less, against the full decode: 2 of 255."""
    paths = sorted((shared_data / "data" / "miml" / "images").glob("*.jpg"))[::80]
    differences = []
    for path in paths:
        with Image.open(path) as image:
            large = encode(image.convert("RGB").resize((1600, 1200)), quality=90)
        reduced = resize_pixels(decode_image(large, min_size=224), 224)
        full = resize_pixels(decode_image(large), 224)
        differences.append(np.abs(reduced.astype(int) - full).mean())
    assert 0 < np.mean(differences) < 2


@pytest.mark.parametrize(
    ("encoded", "options"),
    [
        pytest.param(b"", {}, id="empty"),
        pytest.param(b"no image", {}, id="text"),
        pytest.param(PLAIN["4:2:0"][:2], {}, id="start only"),
        pytest.param(PLAIN["4:2:0"][:100], {}, id="cut in the header"),
        pytest.param(PLAIN["4:2:0"][:-300], {}, id="cut in the pixels"),
        pytest.param(PLAIN["4:2:0"][:2] + b"\x00" * 50, {}, id="no marker"),
        pytest.param(encode(paint().convert("CMYK")), {}, id="CMYK"),
        pytest.param(encode(paint(), exif=orient(6)), {}, id="turned"),
        pytest.param(encode(paint(), exif=b"Exif\x00\x00MM broken"), {}, id="damaged notes"),
        pytest.param(encode(paint(), xmp=b"<x:xmpmeta tiff:Orientation='6'/>"), {}, id="notes in XMP"),
        pytest.param(PLAIN["4:2:0"][:2] + b"\xff" + encode(paint(), exif=orient(6))[2:], {}, id="padding"),
        pytest.param(PLAIN["4:2:0"], {"max_pixels": 60 * 90 - 1}, id="too many pixels"),
        pytest.param(PLAIN["4:2:0"], {"min_size": 30}, id="can be reduced"),
    ],
)
def test_what_is_no_plain_jpeg_is_left_to_pillow(encoded, options):
    assert decode_plain_jpeg(encoded, **{"max_pixels": MAX, **options}) is None


@pytest.mark.parametrize(("min_size", "is_whole"), [(31, True), (60, True), (500, True), (30, False), (1, False)])
def test_only_what_cannot_be_halved_is_decoded_here(min_size, is_whole):
    pixels = decode_plain_jpeg(PLAIN["4:2:0"], min_size=min_size, max_pixels=MAX)
    assert (pixels is not None) is is_whole
    assert (decode_image(PLAIN["4:2:0"], min_size=min_size).shape == (60, 90, 3)) is is_whole


def test_damaged_bytes_never_raise():
    random = np.random.default_rng(0)
    n_decoded = 0
    for kind in ("4:2:0", "progressive", "upright"):
        sound = PLAIN[kind]
        for trial in range(300):
            damaged = bytearray(sound)
            if trial % 3 == 0:
                del damaged[random.integers(len(sound)) :]
            for _ in range(random.integers(1, 5) if trial % 3 else 0):
                end = len(sound) if trial % 3 == 1 else min(700, len(sound))
                damaged[random.integers(end)] = random.integers(256)
            pixels = decode_plain_jpeg(bytes(damaged), max_pixels=MAX)
            if pixels is not None:
                n_decoded += 1
                assert pixels.dtype == np.uint8
                assert pixels.shape[2] == 3
    assert n_decoded > 100


@pytest.mark.parametrize("decoder", ["auto", "pillow"])
@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.png"])  # a JPEG by any name
def test_reader_gives_the_same_pixels_with_either_decoder(tmp_path, decoder, name):
    path = tmp_path / name
    path.write_bytes(PLAIN["4:2:0"])
    reader = PixelReader([path, str(path), path.as_uri()], size=40, color_mode="rgb", decoder=decoder)
    expected = resize_pixels(decode_image(path), 40)
    for row in range(3):
        assert np.abs(reader.read(row).astype(int) - expected).mean() < 0.05


@pytest.mark.parametrize(
    ("decoder", "make", "expected"),
    [
        ("auto", lambda path: path, 1),
        ("auto", lambda path: path.as_uri(), 1),
        ("pillow", lambda path: path, 0),
        ("auto", lambda path: path.read_bytes(), 0),
    ],
    ids=["path", "file URL", "pillow", "bytes"],
)
def test_only_local_files_are_trusted_to_it(tmp_path, monkeypatch, decoder, make, expected):
    path = tmp_path / "a.jpg"
    path.write_bytes(PLAIN["4:2:0"])
    calls = []

    def count(data, **options):
        calls.append(data)
        return decode_plain_jpeg(data, **options)

    monkeypatch.setattr("multilabelkit.data.loading.decode_plain_jpeg", count)
    PixelReader([make(path)], size=40, color_mode="rgb", decoder=decoder).read(0)
    assert len(calls) == expected


@pytest.mark.parametrize("content", [b"", PLAIN["4:2:0"][:-300], None], ids=["empty", "cut", "missing"])
@pytest.mark.parametrize("with_folder", [False, True])
def test_reader_names_bad_jpegs_as_decode_image_does(tmp_path, content, with_folder):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageDecodeError) as expected:
        decode_image(path)
    reader = PixelReader([path], size=40, color_mode="rgb", pixel_cache=tmp_path / "pixels" if with_folder else None)
    with pytest.raises(ImageDecodeError) as caught:
        reader.read(0)
    assert caught.value.paths == expected.value.paths == (str(path),)
    assert caught.value.reasons == expected.value.reasons
