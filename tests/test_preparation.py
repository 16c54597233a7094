import re

import numpy as np
import pytest

from multilabelkit.classifier import MultiLabelImageClassifier
from multilabelkit.errors import ImageDecodeError, InputError, MultiLabelKitWarning
from multilabelkit.preparation import (
    UsableImages,
    check_same_length,
    check_validation_data,
    choose_usable_images,
    choose_validation_rows,
    draw_seed,
    list_bad_images,
)

UNKNOWN_FORMAT = "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)"


def whole(message):
    return f"^{re.escape(message)}$"


def test_check_same_length_counts_both():
    check_same_length([1, 2], np.zeros((2, 1)))
    with pytest.raises(InputError, match=whole("X and y must have the same length. Got 3 images and labels for 2.")):
        check_same_length([1, 2, 3], np.zeros((2, 1)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "validation_data must be a pair (X, y). Got 3 instead."),
        ((1, 2, 3), "validation_data must be a pair (X, y). Got (1, 2, 3) instead."),
        (([], []), "In validation_data: X is empty; pass at least one image."),
        (("a.jpg", [["sea"]]), "In validation_data: X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg']."),
        (
            ([np.zeros((8, 8))], [["sea"], []]),
            "In validation_data: X and y must have the same length. Got 1 images and labels for 2.",
        ),
        (
            ([np.zeros((8, 8))], [["sae"]]),
            "In validation_data: y holds 1 label(s) that are not among the 2 classes: 'sae' in row 0. "
            "Did you mean 'sea'? Correct them, or name every class with classes=[...].",
        ),
    ],
    ids=["number", "three", "empty", "one path", "lengths", "unseen label"],
)
def test_what_is_wrong_with_the_validation_data_says_so(data, message):
    with pytest.raises(InputError, match=whole(message)):
        check_validation_data(MultiLabelImageClassifier(), data, classes=np.array(["sea", "sun"]))


def test_missing_validation_images_are_listed_by_their_rows_there(tmp_path):
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    message = (
        f"Cannot decode 2 of 3 images in validation_data; the first is '{paths[0]}' at row 1: the file does not exist. "
        "Repair or remove them (all are listed in error.paths and error.rows), or fit with on_bad_image='skip' to "
        "train without what is bad."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        check_validation_data(
            MultiLabelImageClassifier(), ([np.zeros((8, 8)), *paths], [[], ["sea"], ["sea"]]), classes=np.array(["sea"])
        )
    assert caught.value.paths == tuple(paths)
    assert caught.value.rows == (1, 2)


@pytest.mark.parametrize(("n_samples", "fraction", "n_valid"), [(48, 0.15, 7), (2, 0.01, 1), (10, 0.5, 5), (3, 0.4, 1)])
def test_validation_rows_are_the_wanted_share_and_at_least_one(n_samples, fraction, n_valid):
    targets = np.tile([[1.0, 0.0]], (n_samples, 1))
    train, valid = choose_validation_rows(targets, fraction=fraction, groups=None, seed=0)
    assert len(valid) == n_valid
    assert sorted([*train, *valid]) == list(range(n_samples))


@pytest.mark.parametrize(("n_samples", "fraction"), [(1, 0.15), (3, 0.9)])
def test_too_few_images_for_a_validation_part_say_what_to_do(n_samples, fraction):
    message = (
        f"{n_samples} image(s) are too few to set a validation part of {fraction:g} aside; "
        "pass more images, validation_data=(X, y), or validation_fraction=None."
    )
    with pytest.raises(InputError, match=whole(message)):
        choose_validation_rows(np.ones((n_samples, 1)), fraction=fraction, groups=None, seed=0)


def test_validation_rows_are_stratified_and_groups_stay_whole():
    targets = np.zeros((40, 2), dtype=np.float32)
    targets[::10, 0] = 1  # 4 of 40
    _, valid = choose_validation_rows(targets, fraction=0.25, groups=None, seed=0)
    assert targets[valid, 0].sum() == 1
    groups = np.repeat(np.arange(10), 4)
    train, valid = choose_validation_rows(targets, fraction=0.25, groups=groups, seed=0)
    assert not set(groups[train]) & set(groups[valid])


def test_one_seed_follows_from_the_random_state():
    assert draw_seed(3) == draw_seed(3)
    generator = np.random.RandomState(3)
    assert draw_seed(generator) == draw_seed(3)
    assert draw_seed(generator) != draw_seed(3)  # a generator goes on
    assert draw_seed(None) != draw_seed(None)


def test_list_bad_images_lists_broken_and_missing_ones(tmp_path):
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image")
    sources = [np.zeros((8, 8)), tmp_path / "empty.png", tmp_path / "text.png"]
    classifier = MultiLabelImageClassifier(num_workers=2)
    with pytest.raises(ImageDecodeError) as caught:
        list_bad_images(classifier, UsableImages(sources, np.arange(3)))
    assert caught.value.rows == (1, 2)
    assert caught.value.reasons == ("the file is empty", UNKNOWN_FORMAT)
    list_bad_images(classifier, UsableImages(sources, np.array([0])))
    with pytest.raises(ImageDecodeError, match=r"^Cannot decode 1 of 3 images in here: '.*' at row 2") as caught:
        list_bad_images(classifier, UsableImages(sources, np.array([0, 2]), where="here"))
    assert caught.value.rows == (2,)


def test_choose_usable_images_lists_broken_ones_too_once_a_file_is_missing(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    sources = [np.zeros((8, 8)), tmp_path / "text.png", tmp_path / "gone.png"]
    classifier = MultiLabelImageClassifier(num_workers=2)
    assert choose_usable_images(classifier, sources[:2]).rows.tolist() == [0, 1]  # only looks whether files are there
    with pytest.raises(ImageDecodeError, match=r"^Cannot decode 2 of 3 images in validation_data; ") as caught:
        choose_usable_images(classifier, sources, where="validation_data")
    assert caught.value.rows == (1, 2)
    assert caught.value.reasons == (UNKNOWN_FORMAT, "the file does not exist")


def test_choose_usable_images_leaves_bad_images_out_and_says_so(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    text = tmp_path / "text.png"
    classifier = MultiLabelImageClassifier(on_bad_image="skip", num_workers=2)
    message = (
        f"Cannot decode 2 of 4 images in X; the first is '{text}' at row 1: {UNKNOWN_FORMAT}. "
        "They are left out, as on_bad_image='skip' asks. Others: '<NoneType>'."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        images = choose_usable_images(classifier, [np.zeros((8, 8)), text, np.zeros((8, 8)), None])
    assert images.rows.tolist() == [0, 2]
    assert len(images.list_sources()) == 2


def test_choose_usable_images_raises_where_no_image_is_left():
    classifier = MultiLabelImageClassifier(on_bad_image="skip", num_workers=2)
    with pytest.raises(ImageDecodeError, match=r"^Cannot decode 2 of 2 images in X; "):
        choose_usable_images(classifier, [None, None])
