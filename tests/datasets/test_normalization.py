import numpy as np
import pytest
from PIL import Image

from multilabelkit.datasets.normalization import compute_normalization
from multilabelkit.errors import ImageDecodeError, InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 12, 17, 3), dtype=np.uint8)


def test_normalization_equals_numpy_over_all_pixels():
    mean, std = compute_normalization(IMAGES)
    np.testing.assert_allclose(mean, (IMAGES / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (IMAGES / 255).std(axis=(0, 1, 2)))


def test_every_image_counts_the_same_whatever_its_size():
    images = [np.zeros((2, 2), dtype=np.uint8), np.full((90, 90), 255, dtype=np.uint8)]
    assert compute_normalization(images, color_mode="grey") == ((0.5,), (0.5,))


@pytest.mark.parametrize("num_workers", [None, 0, 3])
def test_the_number_of_workers_changes_nothing(tmp_path, num_workers):
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    assert compute_normalization(paths, num_workers=num_workers) == compute_normalization(IMAGES, num_workers=1)


def test_one_colour_has_no_deviation():
    mean, std = compute_normalization(np.full((3, 4, 4, 3), 51, dtype=np.uint8))
    np.testing.assert_allclose(mean, 0.2)
    np.testing.assert_allclose(std, 0, atol=1e-7)


def test_all_bad_images_are_listed():
    with pytest.raises(
        ImageDecodeError, match=r"^Cannot decode 2 of 4 images in X; the first is '<NoneType>' at row 1"
    ):
        compute_normalization([IMAGES[0], None, IMAGES[1], b""])


def test_too_many_pixels_are_refused(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    with pytest.raises(ImageDecodeError, match="more than max_pixels=203"):
        compute_normalization([tmp_path / "a.png"], max_pixels=203)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"color_mode": "hsv"}, "'color_mode' parameter of compute_normalization must be 'rgb' or 'grey'"),
        ({"max_pixels": 0}, "'max_pixels' parameter of compute_normalization must be an integer >= 1"),
        ({"num_workers": -1}, "'num_workers' parameter of compute_normalization must be an integer >= 0, or None"),
    ],
    ids=["color_mode", "max_pixels", "num_workers"],
)
def test_wrong_parameters_are_named(parameters, message):
    with pytest.raises(InputError, match=message):
        compute_normalization(IMAGES, **parameters)
