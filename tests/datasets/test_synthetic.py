import hashlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from multilabelkit.data.labels import as_labels
from multilabelkit.datasets import make_digits, make_shapes, synthetic
from multilabelkit.errors import InputError

SEED_RULE = "an integer >= 0 and <= 4294967295, or None, or a numpy RandomState"


def hash_images(data):
    return hashlib.sha256(data.images.tobytes()).hexdigest()[:16]


@pytest.fixture(scope="module")
def digits():
    return make_digits(300)


def test_make_digits_returns_images_and_a_table_of_labels(digits):
    assert digits.images.shape == (300, 96, 96)
    assert digits.images.dtype == np.uint8
    assert isinstance(digits.target, pd.DataFrame)
    assert list(digits.target.columns) == digits.target_names == [str(digit) for digit in range(10)]
    assert (digits.target.dtypes == np.int64).all()
    assert set(np.unique(digits.target)) == {0, 1}
    assert "load_digits" in digits.DESCR


# Note: pinned on purpose. Later releases and other platforms must make the same images; everything is drawn
# from numpy's frozen RandomState in whole numbers, so the hash of the bytes holds exactly.
@pytest.mark.parametrize(
    ("options", "digest", "labels"),
    [
        ({}, "cce3f3a5352b6728", ["136", "", "25", "015", "5", "237"]),
        ({"split": "test", "random_state": 7}, "26d6049f5d818f6f", ["07", "259", "045", "125", "47", "678"]),
    ],
    ids=["train", "test"],
)
def test_make_digits_never_changes(options, digest, labels):
    data = make_digits(6, **options)
    assert ["".join(row) for row in as_labels(data.target)] == labels
    assert hash_images(data) == digest


@pytest.mark.parametrize("make", [make_digits, make_shapes])
def test_first_images_of_a_longer_set_are_those_of_a_shorter_one(make):
    short, long = make(5, random_state=3), make(9, random_state=3)
    assert short.target.equals(long.target.head(5))
    assert np.array_equal(short.images, long.images[:5])
    assert hash_images(short) == hash_images(make(5, random_state=3))
    assert hash_images(short) != hash_images(make(5, random_state=4))


def test_make_digits_splits_share_no_digit_and_no_layout(monkeypatch):
    pools = []
    place = synthetic._place_tiles
    monkeypatch.setattr(synthetic, "_place_tiles", lambda rng, rows: pools.append(rows) or place(rng, rows))
    train, test = make_digits(40, split="train"), make_digits(40, split="test")
    assert (len(pools[0]), len(pools[40])) == (1348, 449)
    assert not set(pools[0]) & set(pools[40])
    assert not train.target.equals(test.target)


def test_make_digits_label_counts_and_classes_are_spread(digits):
    counts = np.bincount(digits.target.sum(axis="columns"), minlength=5)
    assert (counts > 10).all()
    assert len(counts) == 5
    assert digits.target.mean().between(0.12, 0.28).all()


def test_make_digits_shows_ink_exactly_where_there_is_a_label(digits):
    brightest = digits.images.reshape(300, -1).max(axis=1)
    empty = ~digits.target.any(axis="columns").to_numpy()
    assert brightest[empty].max() < 100
    assert brightest[~empty].min() >= 120


def test_tiles_lie_inside_and_overlap_by_at_most_a_quarter():
    rng = np.random.RandomState(0)
    numbers = []
    for _ in range(500):
        tiles = synthetic._place_tiles(rng, np.arange(20))
        numbers.append(len(tiles))
        cover = np.zeros((len(tiles), 96, 96), dtype=bool)
        for layer, tile in zip(cover, tiles, strict=True):
            layer[tile.top : tile.top + tile.size, tile.left : tile.left + tile.size] = True
            assert layer.sum() == tile.size**2
            assert 20 <= tile.size <= 36
        for index, one in enumerate(cover):
            for other in cover[:index]:
                assert (one & other).sum() <= min(one.sum(), other.sum()) / 4
    assert set(numbers) == {0, 1, 2, 3, 4}


def test_resizer_keeps_a_constant_inside_and_fades_at_the_edge():
    resizer = synthetic._create_resizer(8, 24)
    totals = resizer.sum(axis=1)
    assert np.abs(totals[5:-5] - 4096).max() <= 2
    assert totals[0] < 4096
    assert np.array_equal(resizer, resizer[::-1, ::-1])


def test_make_digits_draws_on_from_a_random_state_instance():
    rng = np.random.RandomState(0)
    first, second = make_digits(2, random_state=rng), make_digits(2, random_state=rng)
    assert hash_images(first) != hash_images(second)
    assert make_digits(1, random_state=None).images.shape == (1, 96, 96)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (
            make_digits,
            {"n_samples": 0},
            "The 'n_samples' parameter of make_digits must be an integer >= 1. Got 0 instead.",
        ),
        (
            make_digits,
            {"n_samples": 1, "split": "val"},
            "The 'split' parameter of make_digits must be 'train' or 'test'. Got 'val' instead.",
        ),
        (
            make_digits,
            {"n_samples": 1, "random_state": -1},
            f"The 'random_state' parameter of make_digits must be {SEED_RULE}. Got -1 instead.",
        ),
        (
            make_shapes,
            {"n_samples": 1, "image_size": 8},
            "The 'image_size' parameter of make_shapes must be an integer >= 16. Got 8 instead.",
        ),
    ],
    ids=["n_samples", "split", "random_state", "image_size"],
)
def test_wrong_arguments_are_refused(make, arguments, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        make(**arguments)


@pytest.mark.parametrize(
    ("options", "digest"),
    [({}, "9c9af397b52e69f1"), ({"image_size": 21, "random_state": 5}, "3cc8d833c69e64f6")],
    ids=["default", "odd size"],
)
def test_make_shapes_never_changes(options, digest):
    assert hash_images(make_shapes(6, **options)) == digest


@pytest.mark.parametrize("image_size", [16, 33])
def test_make_shapes_returns_images_and_a_table_of_labels(image_size):
    data = make_shapes(12, image_size=image_size)
    assert data.images.shape == (12, image_size, image_size, 3)
    assert data.images.dtype == np.uint8
    assert list(data.target.columns) == data.target_names == ["circle", "square", "triangle"]
    assert (data.target.dtypes == np.int64).all()


def test_make_shapes_has_all_eight_label_sets():
    data = make_shapes(200)
    assert len(data.target.value_counts()) == 8


def test_make_shapes_gives_each_kind_its_colour_exactly_where_it_is_labelled():
    data = make_shapes(200)
    pixels = data.images.reshape(200, -1, 3).astype(int)
    for kind, name in enumerate(data.target_names):
        strongest = (pixels[:, :, kind] - np.delete(pixels, kind, axis=2).max(axis=2)).max(axis=1)
        assert np.array_equal(strongest >= 90, data.target[name] == 1)


def test_shape_masks_have_the_areas_of_the_shapes():
    circle, square, triangle = ((synthetic._draw_mask(kind, 40) > 0).mean() for kind in range(3))
    assert circle == pytest.approx(np.pi / 4, abs=0.02)
    assert square == 1
    assert triangle == pytest.approx(1 / 2, abs=0.02)


def test_datasets_load_no_torch():
    code = "import sys, multilabelkit.datasets as d; d.make_shapes(1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
