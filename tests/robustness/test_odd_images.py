"""Odd but valid images, and malformed ones of every format: pixels of the right shape or an ImageDecodeError."""

import io
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from multilabelkit.data.images import decode_image
from multilabelkit.data.loading import PixelReader
from multilabelkit.errors import ImageDecodeError

COLOURS = np.random.default_rng(0).integers(0, 256, (24, 36, 3), dtype=np.uint8)
SMOOTH = np.stack(np.meshgrid(np.arange(60), np.arange(90), indexing="ij"), -1).sum(-1).astype(np.uint8)
GREY, ALPHA = COLOURS[..., 0], COLOURS[..., 1]
ORIENTATION = 0x0112


def encode(image, kind, **params):
    buffer = io.BytesIO()
    image.save(buffer, kind, **params)
    return buffer.getvalue()


def orient(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def write_png(width, height, depth, color, rows, *chunks):
    """Write a PNG by hand, of kinds that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *(chunk(*pair) for pair in chunks), chunk(b"IDAT", data), chunk(b"IEND", b"")]
    )


RGB, L = Image.fromarray(COLOURS), Image.fromarray(GREY)
LA = Image.merge("LA", [L, Image.fromarray(ALPHA)])
RGBA = Image.fromarray(np.dstack([COLOURS, ALPHA]))
SIXTEEN = Image.fromarray(GREY.astype(np.uint16) * 257)

# Each with the height and width that must come out.
ODD = {
    "1-bit PNG": (encode(L.convert("1"), "PNG"), 24, 36),
    "1-bit TIFF, fax": (encode(L.convert("1"), "TIFF", compression="group4"), 24, 36),
    "grey JPEG": (encode(L, "JPEG"), 24, 36),
    "grey with alpha PNG": (encode(LA, "PNG"), 24, 36),
    "palette PNG": (encode(RGB.quantize(8), "PNG"), 24, 36),
    "palette PNG, one transparent": (encode(RGB.quantize(8), "PNG", transparency=3), 24, 36),
    "palette PNG, alpha table": (encode(RGB.quantize(8), "PNG", transparency=bytes([0, 99])), 24, 36),
    "palette GIF": (encode(RGB.quantize(8), "GIF"), 24, 36),
    "transparent GIF": (encode(RGB.quantize(8), "GIF", transparency=2), 24, 36),
    "palette BMP": (encode(RGB.quantize(8), "BMP"), 24, 36),
    "RGBA PNG": (encode(RGBA, "PNG"), 24, 36),
    "RGBA WebP": (encode(RGBA, "WEBP"), 24, 36),
    "RGBA TIFF": (encode(RGBA, "TIFF"), 24, 36),
    "transparent colour PNG": (encode(RGB, "PNG", transparency=(1, 2, 3)), 24, 36),
    "CMYK JPEG": (encode(RGB.convert("CMYK"), "JPEG"), 24, 36),
    "CMYK TIFF": (encode(RGB.convert("CMYK"), "TIFF"), 24, 36),
    "YCbCr TIFF": (encode(RGB.convert("YCbCr"), "TIFF"), 24, 36),
    "16-bit grey PNG": (encode(SIXTEEN, "PNG"), 24, 36),
    "16-bit grey TIFF": (encode(SIXTEEN, "TIFF"), 24, 36),
    "16-bit colour PNG": (write_png(2, 2, 16, 2, [bytes(range(12))] * 2), 2, 2),
    "2-bit grey PNG": (write_png(4, 2, 2, 0, [b"\x1b"] * 2), 2, 4),
    "16-bit grey with alpha PNG": (write_png(2, 2, 16, 4, [bytes(range(8))] * 2), 2, 2),
    "16-bit PGM": (b"P5 3 2 65535\n" + bytes(12), 2, 3),
    "plain text PPM": (b"P3 2 1 255\n1 2 3 4 5 6\n", 1, 2),
    "plain text PBM": (b"P1 3 1\n1 0 1\n", 1, 3),
    "float TIFF": (encode(Image.fromarray((GREY / 255).astype(np.float32)), "TIFF"), 24, 36),
    "progressive JPEG": (encode(RGB, "JPEG", progressive=True), 24, 36),
    "lossless WebP": (encode(RGB, "WEBP", lossless=True), 24, 36),
    "interlaced GIF": (encode(RGB.quantize(8), "GIF", interlace=1), 24, 36),
    "LZW TIFF": (encode(RGB, "TIFF", compression="tiff_lzw"), 24, 36),
    "animated GIF": (encode(L, "GIF", save_all=True, append_images=[L.rotate(180)] * 3), 24, 36),
    "animated WebP": (encode(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(180)] * 3), 24, 36),
    "animated PNG": (encode(RGB, "PNG", save_all=True, append_images=[RGB.rotate(180)] * 3), 24, 36),
    "TIFF of several pages": (encode(RGB, "TIFF", save_all=True, append_images=[L] * 2), 24, 36),
    "JPEG of several pictures": (encode(RGB, "MPO", save_all=True, append_images=[RGB.rotate(180)]), 24, 36),
    **{f"turned {value}": (encode(RGB, "JPEG", exif=orient(value)), 36, 24) for value in (5, 6, 7, 8)},
    **{f"turned {value}": (encode(RGB, "JPEG", exif=orient(value)), 24, 36) for value in (1, 2, 3, 4)},
    "turned PNG": (encode(RGB, "PNG", exif=orient(6)), 36, 24),
    "turned WebP": (encode(RGB, "WEBP", exif=orient(8)), 36, 24),
    "1x1 PNG": (encode(RGB.resize((1, 1)), "PNG"), 1, 1),
    "1x1 JPEG": (encode(RGB.resize((1, 1)), "JPEG"), 1, 1),
    "1x1 GIF": (encode(L.resize((1, 1)), "GIF"), 1, 1),
    "1x10000 PNG": (encode(RGB.resize((1, 10000)), "PNG"), 10000, 1),
    "10000x1 JPEG": (encode(RGB.resize((10000, 1)), "JPEG"), 1, 10000),
    "text after the end": (encode(RGB, "JPEG") + b"and more", 24, 36),
    "a profile of its own": (encode(RGB, "PNG", icc_profile=b"no profile" * 9), 24, 36),
}


@pytest.mark.parametrize("color_mode", ["rgb", "grey"])
@pytest.mark.parametrize("name", ODD)
def test_odd_images_are_read(tmp_path, name, color_mode):
    encoded, height, width = ODD[name]
    n_channels = {"rgb": 3, "grey": 1}[color_mode]
    path = tmp_path / "image.jpg"  # whatever it is
    path.write_bytes(encoded)
    for source in (encoded, path):
        pixels = decode_image(source, color_mode=color_mode)
        assert pixels.shape == (height, width, n_channels)
        assert pixels.dtype == np.uint8
    for resize in ("squish", "pad", "crop"):
        reader = PixelReader([path, encoded], size=8, color_mode=color_mode, resize=resize)
        assert reader.read(0).shape == reader.read(1).shape == (8, 8, n_channels)


WHITE = np.full((24, 36, 3), 255)
EXACT = {
    "grey": (["16-bit grey PNG", "16-bit grey TIFF", "float TIFF"], np.stack([GREY] * 3, -1)),
    "colours": (
        ["lossless WebP", "LZW TIFF", "animated PNG", "TIFF of several pages", "a profile of its own"],
        COLOURS,
    ),
    "turned": (["turned PNG"], np.rot90(COLOURS, -1)),
    "black and white": (
        ["1-bit PNG", "1-bit TIFF, fax"],
        np.where(np.asarray(L.convert("1")), 255, 0)[..., None].repeat(3, -1),
    ),
    "16-bit colour": (["16-bit colour PNG"], np.arange(0, 12, 2).reshape(1, 2, 3).repeat(2, 0)),
    "2-bit grey": (["2-bit grey PNG"], np.array([0, 85, 170, 255])[None, :, None].repeat(2, 0).repeat(3, 2)),
    "plain text": (["plain text PPM"], np.array([[[1, 2, 3], [4, 5, 6]]])),
    "plain bits": (["plain text PBM"], np.array([0, 255, 0])[None, :, None].repeat(3, 2)),
}


@pytest.mark.parametrize("kind", EXACT)
def test_odd_images_without_loss_have_their_very_pixels(kind):
    names, expected = EXACT[kind]
    for name in names:
        np.testing.assert_array_equal(decode_image(ODD[name][0]), expected, err_msg=name)


@pytest.mark.parametrize("name", ["RGBA PNG", "RGBA TIFF"])
def test_transparent_images_are_laid_on_white(name):
    share = ALPHA[..., None] / 255
    np.testing.assert_allclose(decode_image(ODD[name][0]), COLOURS * share + WHITE * (1 - share), atol=1)


SOUND = {
    "jpg": encode(Image.fromarray(SMOOTH).convert("RGB"), "JPEG", exif=orient(6), quality=90),
    "png": encode(Image.fromarray(SMOOTH).convert("RGB"), "PNG", exif=orient(6)),
    "webp": encode(Image.fromarray(SMOOTH).convert("RGB"), "WEBP", exif=orient(6)),
    "gif": encode(Image.fromarray(SMOOTH), "GIF"),
    "bmp": encode(Image.fromarray(SMOOTH).convert("RGB"), "BMP"),
    "tif": encode(Image.fromarray(SMOOTH).convert("RGB"), "TIFF", compression="tiff_lzw"),
}


def damage(sound, random, trial):
    """Cut a file, or change a few of its bytes: a third of the time those of the header, where most can break."""
    damaged = bytearray(sound)
    if trial % 3 == 0:
        del damaged[random.integers(len(sound)) :]
        return bytes(damaged)
    end = len(sound) if trial % 3 == 1 else min(200, len(sound))
    for _ in range(random.integers(1, 9)):
        damaged[random.integers(end)] = random.integers(256)
    return bytes(damaged)


@pytest.mark.parametrize("kind", SOUND)
def test_malformed_images_give_pixels_or_one_error(tmp_path, kind):
    """350 of each format, 2,100 in all, as bytes and as files; none takes two seconds."""
    random = np.random.default_rng(list(kind.encode()))
    path = tmp_path / f"image.{kind}"
    n_failed, slowest = 0, 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, about damaged notes
        for trial in range(350):
            damaged = damage(SOUND[kind], random, trial)
            path.write_bytes(damaged)
            reader = PixelReader([path if trial % 2 else damaged], size=16, color_mode="rgb")
            start = time.perf_counter()
            result = _read_or_fail(reader)
            if isinstance(result, ImageDecodeError):
                n_failed += 1
                assert result.paths == (str(path) if trial % 2 else "<bytes>",)
                assert result.reasons[0]
            else:
                assert result.shape == (16, 16, 3)
                assert result.dtype == np.uint8
            slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 2
    assert 20 < n_failed < 350


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_a_file_that_cannot_be_read_is_bad_with_either_decoder(tmp_path, kind):
    """The faster decoder accepts nothing that Pillow would refuse, and whatever it refuses goes to Pillow."""
    random = np.random.default_rng(0)
    path = tmp_path / f"image.{kind}"
    verdicts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for trial in range(300):
            path.write_bytes(damage(SOUND[kind], random, trial))
            readers = [PixelReader([path], size=16, color_mode="rgb", decoder=name) for name in ("auto", "pillow")]
            verdicts.append([isinstance(_read_or_fail(reader), ImageDecodeError) for reader in readers])
    assert all(fast == slow for fast, slow in verdicts)


def _read_or_fail(reader):
    """Return the pixels, or the one error that may come instead."""
    try:
        return reader.read(0)
    except ImageDecodeError as error:
        return error


@pytest.mark.parametrize(
    "encoded",
    [
        pytest.param(encode(Image.new("1", (9460, 9460)), "PNG"), id="PNG"),
        pytest.param(encode(Image.new("L", (9460, 9460)), "JPEG"), id="JPEG"),
        pytest.param(b"P5 9460 9460 255\n", id="PGM"),
        pytest.param(write_png(50000, 50000, 8, 2, [b""]), id="far too large"),
    ],
)
def test_bombs_are_refused_before_they_unfold(tmp_path, monkeypatch, encoded):
    """Files of a few kilobytes that would take hundreds of megabytes."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: pytest.fail("it was decoded"))
    path = tmp_path / "image.jpg"
    path.write_bytes(encoded)
    for source in (path, encoded):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns above the same number
            with pytest.raises(ImageDecodeError) as caught:
                PixelReader([source], size=16, color_mode="rgb").read(0)
        assert "pixels" in caught.value.reasons[0]
