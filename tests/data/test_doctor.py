import json
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multilabelkit.data import doctor, threads
from multilabelkit.data.doctor import DataReport, Finding, check_data
from multilabelkit.data.findings import KINDS
from multilabelkit.errors import InputError

ORIENTATION = 0x0112


def whole(message):
    return f"^{re.escape(message)}$"


def make_photo(seed, height=64, width=96):
    small = np.random.default_rng(seed).integers(30, 200, (9, 11, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def save(folder, name, image, **options):
    path = folder / name
    image.save(path, **options)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    """Three sound photographs of 96 x 64 pixels."""
    return [save(tmp_path, f"{seed}.jpg", make_photo(seed)) for seed in range(3)]


def check(X, y=None, **options):
    return check_data(X, y, verbose=0, **options)


def list_kinds(report):
    return [finding.kind for finding in report.findings]


def get(report, kind):
    (finding,) = [finding for finding in report.findings if finding.kind == kind]
    return finding


def make_table(**columns):
    """A table of ten or more positives and negatives a class, so that no class is rare."""
    return pd.DataFrame({name: [int(cell) for cell in cells] for name, cells in columns.items()})


def images_for(table):
    return np.random.default_rng(0).integers(0, 256, (len(table), 32, 32, 3), dtype=np.uint8)


# ---------------------------------------------------------------------------------------------------------- images


def test_sound_images_have_no_finding(photos):
    report = check(photos)
    assert report.findings == ()
    assert report.ok
    assert report.label_counts is None
    assert report.cooccurrence is None
    assert report.correlation is None
    expected = {
        "path": photos,
        "width": [96, 96, 96],
        "height": [64, 64, 64],
        "mode": ["RGB", "RGB", "RGB"],
        "format": ["JPEG", "JPEG", "JPEG"],
        "rotated": [False, False, False],
        "animated": [False, False, False],
        "error": [None, None, None],
        "n_labels": [pd.NA, pd.NA, pd.NA],
        "split": [None, None, None],
        "exact_group": [0, 1, 2],
        "duplicate_group": [0, 1, 2],
    }
    assert list(report.images) == list(expected)
    assert report.images.index.name == "row"
    for name, column in expected.items():
        assert report.images[name].tolist() == column


def test_files_that_cannot_be_read_are_listed_with_the_reason(tmp_path, photos):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image", encoding="utf-8")
    data = Path(photos[1]).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    names = ["missing.jpg", "empty.jpg", "text.jpg", "cut.jpg", "."]
    report = check([photos[0], *(str(tmp_path / name) for name in names), photos[2]])
    assert not report.ok
    assert list_kinds(report) == ["unreadable_image"]
    found = report.findings[0]
    assert (found.severity, found.count, found.rows, found.classes) == ("error", 5, (1, 2, 3, 4, 5), ())
    assert found.message == "5 of 7 images cannot be read."
    assert found.advice == 'Repair or remove them, or fit with on_bad_image="skip": as they are, training stops.'
    reasons = report.images["error"].tolist()
    assert reasons[:3] == [None, "the file does not exist", "the file is empty"]
    assert reasons[3].startswith("it is not an image")
    assert reasons[4].startswith("the file is damaged or unsupported (image file is truncated")
    assert reasons[5] == "it is a folder, not a file"
    examples = [f"'{tmp_path / name}' (row {row}): {reasons[row]}" for row, name in enumerate(names[:4], start=1)]
    assert list(found.examples[:4]) == examples


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.99])
def test_a_jpeg_cut_off_anywhere_is_found_although_it_is_decoded_at_a_reduced_size(tmp_path, progressive, kept):
    path = save(tmp_path, "big.jpg", make_photo(0, 768, 1024), progressive=progressive)
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: int(len(data) * kept)])
    assert list_kinds(check([path])) == ["unreadable_image"]


def test_a_damaged_png_is_found(tmp_path):
    path = save(tmp_path, "a.png", make_photo(0))
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 0xFF
    Path(path).write_bytes(data)
    assert list_kinds(check([path])) == ["unreadable_image"]


def test_things_that_are_no_images_are_reported_in_their_rows():
    report = check([make_photo(0), None, 7, np.zeros((3, 4, 5)), b"", "s3://bucket/a.jpg\0", {"a": 1}])
    found = get(report, "unreadable_image")
    assert found.rows == (1, 2, 3, 4, 5, 6)
    assert found.examples[0].startswith("row 1: its type is NoneType")


@pytest.mark.parametrize("X", ["a.jpg", [], 5, None, np.zeros((4, 4))], ids=str)
def test_what_is_no_list_of_images_is_refused(X):
    with pytest.raises(InputError, match=r"^X "):
        check(X)


def test_small_images_are_a_warning(tmp_path, photos):
    path = save(tmp_path, "icon.png", make_photo(5, 40, 31))
    found = get(check([*photos, path]), "tiny_image")
    assert (found.severity, found.count, found.rows) == ("warning", 1, (3,))
    assert found.message == "1 of 4 images is less than 32 pixels wide or high."
    assert found.advice == "See that they are no icons or thumbnails: enlarged, they show little."
    assert found.examples == (f"'{path}' (row 3)",)


def test_images_of_32_pixels_are_not_small():
    assert check([make_photo(0, 32, 32)]).findings == ()


def test_long_images_are_noted():
    images = [make_photo(0, 40, 160), make_photo(1, 40, 161), make_photo(2, 200, 40)]
    found = get(check(images), "extreme_aspect_ratio")
    assert (found.severity, found.count, found.rows) == ("note", 2, (1, 2))
    assert found.message == "2 of 3 images are more than 4 times as long as wide."
    assert found.advice == (
        'Squished to a square, what they show is hard to recognise: cut them, or train with resize="pad".'
    )


def test_very_large_images_are_noted(tmp_path):
    path = save(tmp_path, "large.jpg", Image.new("L", (5001, 5000)))
    found = get(check([path, save(tmp_path, "less.jpg", Image.new("L", (5000, 5000)))]), "very_large_image")
    assert (found.severity, found.count, found.rows) == ("note", 1, (0,))
    assert found.message == "1 of 2 images has more than 25,000,000 pixels."
    assert found.advice == "They take long to decode in every epoch: scale them down once."


def test_mixed_modes_are_noted(tmp_path, photos):
    others = [
        save(tmp_path, "grey.jpg", make_photo(4).convert("L")),
        save(tmp_path, "cmyk.jpg", make_photo(5).convert("CMYK")),
        save(tmp_path, "palette.png", make_photo(6).convert("P")),
        save(tmp_path, "alpha.png", make_photo(7).convert("RGBA")),
        save(tmp_path, "grey2.jpg", make_photo(8).convert("L")),
    ]
    report = check([*photos, *others])
    assert list_kinds(report) == ["mixed_modes"]
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("note", 5, (3, 4, 5, 6, 7))
    assert found.message == "5 of 8 images are not of the mode RGB, as the others are: 2 L, 1 CMYK, 1 P, 1 RGBA."
    assert found.advice == (
        "All get the colours that the network wants, and what is transparent is laid on white: see that this is right."
    )


def test_greyscale_images_alone_are_no_mixture(tmp_path):
    assert check([save(tmp_path, f"{seed}.png", make_photo(seed).convert("L")) for seed in range(3)]).findings == ()


def test_images_of_16_bits_are_noted(tmp_path):
    deep = [
        save(tmp_path, f"{seed}.png", Image.fromarray(np.asarray(make_photo(seed).convert("L"), dtype=np.uint16) * 250))
        for seed in range(2)
    ]
    report = check(deep)
    assert list_kinds(report) == ["deep_image"]
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("note", 2, (0, 1))
    assert found.message == "2 of 2 images have more than 8 bits per channel."
    assert found.advice == "The upper 8 bits are kept: scale the values yourself where the lower ones matter."


def test_turned_images_are_noted_with_the_size_that_is_seen(tmp_path, photos):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    path = save(tmp_path, "turned.jpg", make_photo(4), exif=exif)
    report = check([*photos, path])
    assert list_kinds(report) == ["rotated_image"]
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("note", 1, (3,))
    assert found.message == "1 of 4 images is turned as the camera noted (EXIF orientation)."
    assert found.advice == "See that whoever labelled them saw them turned, too."
    assert report.images[["width", "height", "rotated"]].iloc[3].tolist() == [64, 96, True]


def test_images_of_several_frames_are_noted(tmp_path):
    frames = [make_photo(seed).convert("P") for seed in range(2)]
    path = save(tmp_path, "film.gif", frames[0], save_all=True, append_images=frames[1:])
    report = check([path, save(tmp_path, "still.gif", make_photo(2).convert("P"))])
    found = get(report, "animated_image")
    assert (found.severity, found.count, found.rows) == ("note", 1, (0,))
    assert found.message == "1 of 2 images has several frames."
    assert found.advice == "Only the first one is used: save the others as images if they matter."


def test_images_of_every_source_are_described(tmp_path):
    path = save(tmp_path, "a.png", make_photo(0))
    sources = [path, Path(path), Path(path).read_bytes(), make_photo(1), np.asarray(make_photo(2)), np.zeros((50, 40))]
    images = check(sources).images
    assert images["path"].tolist() == [path, path, "<bytes>", "<Image>", "<ndarray>", "<ndarray>"]
    assert images["width"].tolist() == [96, 96, 96, 96, 96, 40]
    assert images["height"].tolist() == [64, 64, 64, 64, 64, 50]
    assert images["format"].tolist() == ["PNG", "PNG", "PNG", None, None, None]
    assert images["exact_group"].tolist() == [0, 0, 0, 3, 4, 5]


def test_warnings_of_pillow_about_single_images_are_not_passed_on(tmp_path, photos):
    data = Path(photos[0]).read_bytes()
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + b"\xff" * 8  # notes that end too early
    notes = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    (tmp_path / "notes.jpg").write_bytes(data[:2] + notes + data[2:])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list_kinds(check([str(tmp_path / "notes.jpg")])) == []


# ------------------------------------------------------------------------------------------------------ duplicates


def test_copies_of_a_file_and_a_path_given_twice_are_exact_duplicates(tmp_path, photos):
    copy = tmp_path / "copy.jpg"
    copy.write_bytes(Path(photos[1]).read_bytes())
    report = check([*photos, str(copy), photos[0], photos[0]])
    assert list_kinds(report) == ["exact_duplicate"]
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("note", 5, (0, 1, 3, 4, 5))
    assert found.message == "5 of 6 images have the same pixels as others (2 groups)."
    assert found.advice == "Keep one image of each group, or see that no split parts them."
    assert found.examples == (
        f"'{photos[0]}' (row 0) = '{photos[0]}' (row 4) = '{photos[0]}' (row 5)",
        f"'{photos[1]}' (row 1) = '{copy}' (row 3)",
    )
    assert report.images["exact_group"].tolist() == [0, 1, 2, 1, 0, 0]
    assert report.images["duplicate_group"].tolist() == [0, 1, 2, 1, 0, 0]


def test_the_same_pixels_in_another_format_are_exact_duplicates(tmp_path):
    names = ["a.png", "a.bmp", "a.tif"]
    assert list_kinds(check([save(tmp_path, name, make_photo(0)) for name in names])) == ["exact_duplicate"]


def test_versions_of_an_image_are_near_duplicates(tmp_path, photos):
    smaller = save(tmp_path, "smaller.jpg", Image.open(photos[2]).resize((77, 51)))
    report = check([*photos, smaller, photos[2]])
    assert list_kinds(report) == ["exact_duplicate", "near_duplicate"]
    found = report.findings[1]
    assert (found.severity, found.count, found.rows) == ("note", 3, (2, 3, 4))
    assert found.message == "3 of 5 images look the same as others (1 group)."
    assert found.advice == ('See that no split parts them: splitters take groups=report.images["duplicate_group"].')
    assert found.examples == (f"'{photos[2]}' (row 2) = '{smaller}' (row 3) = '{photos[2]}' (row 4)",)
    assert report.images["exact_group"].tolist() == [0, 1, 2, 3, 2]
    assert report.images["duplicate_group"].tolist() == [0, 1, 2, 2, 2]


def test_exact_duplicates_in_different_splits_are_an_error(photos):
    report = check([*photos, photos[0], photos[0], photos[1]], split=["train", "train", "test", None, "test", "train"])
    assert list_kinds(report) == ["exact_duplicate_across_splits", "exact_duplicate"]
    assert not report.ok
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("error", 3, (0, 3, 4))
    assert found.message == "3 of 6 images have the same pixels as others, but lie in another split (1 group)."
    assert found.advice == "Keep each group in one split, for a model knows what it was trained on."
    assert found.examples == (
        f"'{photos[0]}' (row 0) in train = '{photos[0]}' (row 3) = '{photos[0]}' (row 4) in test",
    )
    assert report.images["split"].tolist() == ["train", "train", "test", None, "test", "train"]


def test_an_example_of_a_leak_shows_both_splits_of_a_large_group(photos):
    report = check([photos[0]] * 9, split=["train"] * 7 + ["test"] * 2)
    (example,) = report.findings[0].examples
    assert example == (
        f"'{photos[0]}' (row 0) in train = '{photos[0]}' (row 7) in test = '{photos[0]}' (row 1) in train and 6 more"
    )


def test_near_duplicates_in_different_splits_are_a_warning(tmp_path, photos):
    smaller = save(tmp_path, "smaller.jpg", Image.open(photos[2]).resize((77, 51)))
    report = check([*photos, smaller], split=pd.Series(["train", "train", "train", "valid"], index=[9, 8, 7, 6]))
    assert list_kinds(report) == ["near_duplicate_across_splits"]
    assert report.ok
    found = report.findings[0]
    assert (found.severity, found.count, found.rows) == ("warning", 2, (2, 3))
    assert found.message == "2 of 4 images look the same as others, but lie in another split (1 group)."
    assert found.advice == ("Look at them, and keep each group in one split, for a model knows what it was trained on.")


def test_duplicates_with_other_labels_are_warnings(tmp_path, photos):
    smaller = save(tmp_path, "smaller.jpg", Image.open(photos[2]).resize((77, 51)))
    labels = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]])
    report = check([*photos, photos[0], smaller], labels)
    exact, near = get(report, "exact_duplicate_with_other_labels"), get(report, "near_duplicate_with_other_labels")
    assert (exact.severity, exact.rows, near.severity, near.rows) == ("warning", (0, 3), "warning", (2, 4))
    assert exact.message == "2 of 5 images have the same pixels as others, but other labels (1 group)."
    assert exact.advice == "Correct the labels, and keep one image of each group."
    assert near.message == "2 of 5 images look the same as others, but have other labels (1 group)."
    assert near.advice == "Look at them, and correct the labels of those that show the same."
    assert "exact_duplicate" not in list_kinds(report)


def test_an_unknown_label_contradicts_none(photos):
    labels = np.array([[1, np.nan], [0, 1], [1, 0], [np.nan, 0]])
    assert "exact_duplicate" in list_kinds(check([*photos, photos[0]], labels))


def test_a_group_may_leak_and_contradict_itself(photos):
    report = check([photos[0], photos[0]], [["sea"], ["trees"]], split=["train", "test"])
    assert list_kinds(report)[:2] == ["exact_duplicate_across_splits", "exact_duplicate_with_other_labels"]


def test_unreadable_images_are_no_duplicates(tmp_path, photos):
    missing = str(tmp_path / "missing.jpg")
    report = check([missing, photos[0], missing, photos[0]])
    assert list_kinds(report) == ["unreadable_image", "exact_duplicate"]
    assert report.images["duplicate_group"].tolist() == [0, 1, 2, 1]


def test_duplicates_are_not_looked_for_if_not_wanted(photos):
    report = check([photos[0], photos[0]], duplicates=False)
    assert report.findings == ()
    assert not {"exact_group", "duplicate_group"} & set(report.images)


def test_duplicate_groups_keep_duplicates_in_one_part_of_a_split(photos):
    from multilabelkit.model_selection import multilabel_train_test_split

    images = [path for path in photos for _ in range(4)]
    groups = check(images).images["duplicate_group"]
    train, test, *_ = multilabel_train_test_split(
        images, [["sea"]] * 6 + [["trees"]] * 6, groups=groups, test_size=0.34, random_state=0
    )
    assert not set(train) & set(test)


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        pytest.param(
            [list("sea"), list("sunset"), list("trees")],
            "Every label of y is a single letter, as if strings had been split",
            id="letters",
        ),
        pytest.param(["sea|sunset", "sea", "trees"], "looks like several labels in one string", id="joined"),
        pytest.param(np.array([[1, 0], [-1, 1], [0, 0]]), "so -1 may mean absent or uncertain", id="minus one"),
        pytest.param([[1, 0], [0, 1], [1, 1]], "y is a nested list of 0 and 1", id="nested list"),
        pytest.param(np.full((3, 2), np.nan), "y holds no known label", id="all unknown"),
        pytest.param(np.array([[1, 0], [2, 0], [0, 1]]), "A table of labels must hold only 0, 1 and NaN", id="cells"),
        pytest.param("sea", "y is the single string 'sea'", id="string"),
        pytest.param([], "y is empty", id="empty"),
        pytest.param(7, "y must be a list with one row of labels per image", id="number"),
    ],
)
def test_labels_that_fit_would_refuse_are_reported_and_the_images_checked_all_the_same(photos, labels, problem):
    report = check([photos[0], photos[1], photos[1] + "x"], labels)
    assert list_kinds(report) == ["unreadable_image", "unusable_labels"]
    found = report.findings[1]
    assert found.severity == "error"
    assert found.message.startswith("The labels cannot be used. ")
    assert problem in found.message
    assert found.advice == "Mend this and check again: labels are read up to the first such problem."
    assert report.label_counts is None


def test_labels_are_read_as_told(photos):
    report = check(photos, ["sea|sunset", "", "trees"], label_sep="|", classes=["trees", "sunset", "sea"])
    assert report.label_counts.index.tolist() == ["trees", "sunset", "sea"]
    report = check(photos, np.array([[1, 0], [-1, 1], [0, 0]]), uncertain="missing")
    assert report.label_counts["unknown"].tolist() == [1, 0]


def test_another_number_of_labels_than_images_is_an_error_and_both_are_checked(photos):
    report = check([photos[0], photos[0]], [["sea"], [], ["sea"]])
    assert list_kinds(report) == ["length_mismatch", "rare_class", "exact_duplicate"]
    found = report.findings[0]
    assert (found.severity, found.count) == ("error", 1)
    assert found.message == "X holds 2 images, but y has 3 rows."
    assert found.advice == (
        "Pass one row of labels per image, in the same order; [] is the row of an image without labels."
    )
    assert report.label_counts["positives"].tolist() == [2]
    assert report.images["n_labels"].isna().all()


def test_classes_without_a_positive_are_a_warning():
    table = make_table(a="10" * 10, none="0" * 20)
    table["hidden"] = np.nan
    report = check(images_for(table), table)
    found = get(report, "class_without_positive")
    assert (found.severity, found.count, found.classes, found.rows) == ("warning", 2, ("none", "hidden"), ())
    assert found.message == "2 of 3 classes are present in no image."
    assert found.advice == ("Nothing can be learnt of them: add images that show them, or leave the classes out.")
    assert found.examples == ("'none' (0)", "'hidden' (0)")


def test_classes_that_never_vary_are_a_warning():
    table = make_table(a="10" * 10, every="1" * 20).astype(float)
    table.loc[3, "every"] = np.nan
    found = get(check(images_for(table), table), "constant_class")
    assert (found.severity, found.count, found.classes) == ("warning", 1, ("every",))
    assert found.message == "1 of 2 classes is present in every image where they are known."
    assert found.advice == ("Nothing can be learnt of them: add images without them, or leave the classes out.")
    assert found.examples == ("'every' (19)",)


def test_rare_classes_are_a_warning():
    table = make_table(ten="1" * 10 + "0" * 14, nine="0" * 15 + "1" * 9, one="01" + "0" * 22)
    report = check(images_for(table), table)
    found = get(report, "rare_class")
    assert (found.severity, found.count, found.classes) == ("warning", 2, ("nine", "one"))
    assert found.message == "2 of 3 classes are present in fewer than 10 images."
    assert found.advice == (
        "Validation sees two or less, so that thresholds and scores are a matter of luck: add images that show them."
    )
    assert found.examples == ("'nine' (9)", "'one' (1)")


def test_class_names_that_are_hardly_different_are_a_warning():
    names = ["Sea", "sea", "sea ", "T-shirt", "t_shirt", "café", "cafe\u0301", "C", "C+"]
    bits = np.random.default_rng(0).integers(0, 2, (60, 9))
    found = get(check(images_for(bits), pd.DataFrame(bits, columns=names)), "similar_class_names")
    assert (found.severity, found.count, found.classes) == ("warning", 7, tuple(names[:7]))
    assert found.message == (
        "7 of 9 classes differ from others only in case, blanks, hyphens or underscores of their names."
    )
    assert found.advice == "Give each class one spelling."
    counts = bits.sum(axis=0)
    assert found.examples[0] == f"'Sea' ({counts[0]}) and 'sea' ({counts[1]}) and 'sea ' ({counts[2]})"


def test_classes_with_the_same_labels_are_a_warning():
    table = make_table(sea="10" * 10, ocean="10" * 10, trees="1100" * 5)
    report = check(images_for(table), table)
    found = get(report, "identical_classes")
    assert (found.severity, found.count, found.classes) == ("warning", 2, ("sea", "ocean"))
    assert found.message == "2 of 3 classes have the same labels as others."
    assert found.advice == "Merge them, or correct the labels."
    assert found.examples == ("'sea' (10) and 'ocean' (10)",)


def test_classes_with_nearly_the_same_or_opposite_labels_are_noted():
    rng = np.random.default_rng(0)
    sea, trees = rng.integers(0, 2, (2, 400))
    ocean, no_trees = sea.copy(), 1 - trees
    ocean[0] ^= 1
    table = pd.DataFrame({"sea": sea, "ocean": ocean, "trees": trees, "no trees": no_trees})
    report = check(images_for(table), table)
    near, opposite = get(report, "nearly_identical_classes"), get(report, "opposite_classes")
    assert (near.severity, near.classes) == ("note", ("sea", "ocean"))
    assert near.message == "2 of 4 classes have nearly the same labels as others."
    assert near.advice == "See whether they mean the same; if so, merge them."
    assert (opposite.severity, opposite.classes) == ("note", ("trees", "no trees"))
    assert opposite.message == "2 of 4 classes are absent where others are present, always or nearly so."
    assert opposite.advice == "One of the two is enough."


def test_classes_that_share_only_two_images_are_alike_by_accident():
    table = make_table(a="11" + "0" * 18, b="11" + "0" * 18)
    assert "identical_classes" not in list_kinds(check(images_for(table), table))


def test_images_without_labels_and_with_unknown_ones_are_counted():
    table = make_table(a="10" * 10, b="0110" * 5).astype(float)
    table.iloc[0] = np.nan
    table.iloc[1] = 0
    table.iloc[2, 1] = np.nan
    report = check(images_for(table), table)
    without = get(report, "image_without_known_label")
    assert (without.severity, without.count, without.rows) == ("warning", 1, (0,))
    assert without.message == "1 of 20 images is unknown in every class."
    assert without.advice == "Nothing is learnt from them: label them, or leave them out."
    empty = get(report, "image_without_label")
    assert (empty.severity, empty.rows) == ("note", (1, 3, 7, 11, 15, 19))
    assert empty.message == "6 of 20 images have no label."
    assert empty.advice == (
        "That is right where no class is present; where nobody looked, write NaN (unknown) or leave the image out."
    )
    part = get(report, "unknown_labels")
    assert (part.severity, part.rows) == ("note", (2,))
    assert part.message == "1 of 20 images is labelled in part: 7.5% of all labels are unknown."
    assert part.advice == "Training, thresholds and scores leave unknown labels out."
    assert report.images["n_labels"].tolist()[:4] == [0, 0, 1, 0]


def test_classes_are_counted():
    table = pd.DataFrame({"sea": [1, 0, np.nan, 1], "trees": [0, 0, 0, 0], "far": [np.nan] * 4})
    counts = check(images_for(table), table).label_counts
    assert counts.index.tolist() == ["sea", "trees", "far"]
    assert counts["positives"].tolist() == [2, 0, 0]
    assert counts["negatives"].tolist() == [1, 4, 0]
    assert counts["unknown"].tolist() == [1, 0, 4]
    np.testing.assert_allclose(counts["share"], [2 / 3, 0, np.nan])


def test_pairs_of_classes_are_counted_and_correlated_where_both_are_known(monkeypatch):
    """Against pandas, which leaves out unknown cells pair by pair."""
    cells = np.random.default_rng(0).choice([0, 1, np.nan], (300, 6), p=[0.5, 0.4, 0.1])
    cells[:, 5] = 1
    table = pd.DataFrame(cells, columns=list("abcdef"))
    report = check(images_for(table), table, duplicates=False)
    expected = table.corr()
    np.testing.assert_allclose(report.correlation, expected, rtol=0, atol=1e-12)
    assert report.correlation.columns.tolist() == report.correlation.index.tolist() == list("abcdef")
    together = (cells == 1).astype(int).T @ (cells == 1).astype(int)
    np.testing.assert_array_equal(report.cooccurrence, together)
    assert report.cooccurrence.to_numpy().dtype == np.int64


def test_pairs_of_very_many_classes_are_left_out(monkeypatch):
    monkeypatch.setattr(doctor, "_MAX_PAIRED_CLASSES", 2)
    table = make_table(a="10" * 10, b="1100" * 5, c="10" * 10)
    report = check(images_for(table), table)
    assert report.cooccurrence is None
    assert report.correlation is None
    assert report.label_counts["positives"].tolist() == [10, 10, 10]
    assert report.to_dict()["strongest_pairs"] == []
    assert "correlation" not in report.text


# ---------------------------------------------------------------------------------------------------------- report


def test_the_text_shows_findings_the_gravest_first_and_then_tables(tmp_path, photos):
    names = [*photos, str(tmp_path / "missing.jpg"), photos[0]]
    labels = [["sea"], ["sea", "trees"], [], ["trees"], ["sea"]]
    assert check(names, labels, split=["train"] * 4 + ["test"]).text.split("\n") == [
        "5 images, 2 classes: 2 errors, 2 warnings, 1 note",
        "",
        "ERROR unreadable_image: 1 of 5 images cannot be read. Repair or remove them, or fit with",
        '  on_bad_image="skip": as they are, training stops.',
        "  - 'missing.jpg' (row 3): the file does not exist",
        "",
        "ERROR exact_duplicate_across_splits: 2 of 5 images have the same pixels as others, but lie in",
        "  another split (1 group). Keep each group in one split, for a model knows what it was trained on.",
        "  - '0.jpg' (row 0) in train = '0.jpg' (row 4) in test",
        "",
        "WARNING class_missing_in_split: 1 of 2 classes is present in some split, but in no image of another.",
        "  Nothing is learnt or measured of them there: split anew, so that each part has its share of every",
        "  label.",
        "  - 'trees' in no image of test",
        "",
        "WARNING rare_class: 2 of 2 classes are present in fewer than 10 images. Validation sees two or less,",
        "  so that thresholds and scores are a matter of luck: add images that show them.",
        "  - 'sea' (3)",
        "  - 'trees' (2)",
        "",
        "NOTE image_without_label: 1 of 5 images has no label. That is right where no class is present; where",
        "  nobody looked, write NaN (unknown) or leave the image out.",
        "  - '2.jpg' (row 2)",
        "",
        "Labels",
        "       positives  negatives  unknown share",
        "sea            3          2        0 60.0%",
        "trees          2          3        0 40.0%",
        "Labels per image: 1.00 on average; 1 with 0, 3 with 1, 1 with 2",
        "Strongest correlations (phi) of two classes, and the number of images with both",
        "  -0.17        1  sea and trees",
        "",
        f"Images, all in '{tmp_path}/'",
        "        smallest  5 %  median  95 %  largest",
        "width         96   96      96    96       96",
        "height        64   64      64    64       64",
        "Formats: 4 JPEG",
        "Modes: 4 RGB",
    ]


def test_the_text_without_labels_and_findings_is_short():
    report = check([make_photo(0)])
    assert str(report) == report.text
    assert report.text.split("\n") == [
        "1 image: nothing suspicious",
        "",
        "Labels: none",
        "",
        "Images",
        "        smallest  5 %  median  95 %  largest",
        "width         96   96      96    96       96",
        "height        64   64      64    64       64",
        "Formats: not known",
        "Modes: 1 RGB",
    ]
    assert repr(report) == "<DataReport of 1 image: nothing suspicious>"


def test_the_text_stays_short_for_a_thousand_classes_and_long_names(tmp_path):
    rng = np.random.default_rng(0)
    labels = pd.DataFrame(
        (rng.random((300, 1000)) < 0.02).astype(int), columns=[f"{'x' * 90} {n}" for n in range(1000)]
    )
    folder = tmp_path / ("y" * 120)
    folder.mkdir()
    paths = [str(folder / f"{'z' * 110}{n}.jpg") for n in range(300)]
    text = check(paths, labels).text
    lines = text.split("\n")
    assert len(lines) < 80
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 100
    assert "Labels: the 10 most common and the 10 rarest classes" in lines


def test_the_text_shows_nothing_that_a_terminal_obeys_or_cannot_print():
    report = check(["a\x1b[2J\udc80.jpg", "b"], [["sea\x07\u202e"], ["tr\nees"]])
    report.text.encode("utf-8")
    assert not set("\x1b\x07\u202e\udc80") & set(report.text)
    assert r"'a\x1b[2J\udc80.jpg' (row 0): the file does not exist" in report.text


def test_the_dict_is_plain_and_holds_everything_but_the_tables_of_pairs(tmp_path, photos):
    table = pd.DataFrame({"sea": [1, 0, np.nan, 1], "trees": [0, 1, 1, 0]})
    report = check([*photos, str(tmp_path / "missing.jpg")], table, split=["train", "train", "test", None])
    plain = report.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert list(plain) == ["ok", "findings", "label_counts", "strongest_pairs", "images"]
    assert plain["ok"] is False
    assert plain["findings"][0] == {
        "kind": "unreadable_image",
        "severity": "error",
        "count": 1,
        "message": "1 of 4 images cannot be read.",
        "advice": 'Repair or remove them, or fit with on_bad_image="skip": as they are, training stops.',
        "examples": [f"'{tmp_path / 'missing.jpg'}' (row 3): the file does not exist"],
        "rows": [3],
        "classes": [],
    }
    assert plain["label_counts"] == [
        {"class": "sea", "positives": 2, "negatives": 1, "unknown": 1, "share": 2 / 3},
        {"class": "trees", "positives": 2, "negatives": 2, "unknown": 0, "share": 0.5},
    ]
    assert plain["strongest_pairs"] == [{"classes": ["sea", "trees"], "phi": pytest.approx(-1), "together": 0}]
    assert plain["images"][3] == {
        "row": 3,
        "path": str(tmp_path / "missing.jpg"),
        "width": None,
        "height": None,
        "mode": None,
        "format": None,
        "rotated": False,
        "animated": False,
        "error": "the file does not exist",
        "n_labels": 1,
        "split": None,
        "exact_group": 3,
        "duplicate_group": 3,
    }


def test_classes_that_are_numbers_stay_numbers_in_the_dict(photos):
    plain = check(photos, np.array([[1, 0], [0, 1], [1, 1]])).to_dict()
    assert [row["class"] for row in plain["label_counts"]] == [0, 1]
    assert plain["findings"][0]["classes"] == [0, 1]
    json.dumps(plain)


def test_the_frame_has_one_row_per_finding(tmp_path, photos):
    report = check([*photos, str(tmp_path / "missing.jpg"), photos[0]])
    frame = report.to_frame()
    assert frame.columns.tolist() == list(Finding.__annotations__)
    assert frame["kind"].tolist() == ["unreadable_image", "exact_duplicate"]
    assert frame["rows"].tolist() == [(3,), (0, 4)]
    assert check(photos).to_frame().columns.tolist() == list(Finding.__annotations__)


def test_the_report_is_a_data_report(photos):
    assert isinstance(check(photos), DataReport)


# ------------------------------------------------------------------------------------------------------ parameters


@pytest.mark.parametrize(
    ("split", "found"),
    [
        (["train"], "1 names"),
        (np.array(["a"] * 4), "4 names"),
        ("train", "'train'"),
        (5, "5"),
        ([["a"], ["b", "c"], []], "[['a'], ['b', 'c'], []]"),
    ],
    ids=["short", "long", "string", "number", "nested"],
)
def test_a_split_of_another_length_is_refused(photos, split, found):
    message = f"split must name the split of each of the 3 images in X. Got {found}."
    with pytest.raises(InputError, match=whole(message)):
        check(photos, split=split)


@pytest.mark.parametrize(
    ("parameter", "value", "allowed"),
    [
        ("label_sep", "", "None, or a non-empty string"),
        ("uncertain", "maybe", "None, 'missing', 'positive' or 'negative'"),
        ("duplicates", "near", "True or False"),
        ("num_workers", -1, "an integer >= 0, or None"),
        ("verbose", "loud", "an integer >= 0, or True or False"),
    ],
)
def test_wrong_parameters_are_refused(parameter, value, allowed):
    message = f"The '{parameter}' parameter of check_data must be {allowed}. Got {value!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        check_data(["a.jpg"], **{parameter: value})


@pytest.mark.parametrize("num_workers", [0, 1, 3, None])
def test_the_number_of_threads_changes_nothing(photos, num_workers, monkeypatch):
    monkeypatch.setattr(threads, "_SLICE", 2)
    report = check([*photos, "missing", *photos], num_workers=num_workers)
    assert report.images["exact_group"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert report.images["error"].notna().tolist() == [False] * 3 + [True] + [False] * 3


def test_each_image_is_decoded_once(photos, monkeypatch):
    decoded = []

    def decode(source, **options):
        decoded.append(source)
        return decode_image(source, **options)

    decode_image = doctor.decode_image
    monkeypatch.setattr(doctor, "decode_image", decode)
    check(photos)
    assert sorted(decoded) == photos


def test_progress_is_shown_in_a_terminal_only(photos, capsys, monkeypatch):
    check_data(photos)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    check_data(photos)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "0/3" in printed.err
    check_data(photos, verbose=0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows sends no signal to a single child")
def test_ctrl_c_ends_within_a_second(tmp_path):
    """There are a hundred thousand images to go."""
    path = save(tmp_path, "a.jpg", make_photo(0, 256, 384))
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell starts what is in the background without
        "from multilabelkit.data.doctor import check_data\n"
        f"print('go', flush=True)\ncheck_data([{path!r}] * 100000)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "go\n"
        time.sleep(1)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=30)
    assert time.perf_counter() - start < 5  # a second is promised; the rest is for a machine that is busy
    assert printed.rstrip().endswith("KeyboardInterrupt")


def test_a_thousand_photographs_are_checked_as_they_are(shared_data):
    folder = shared_data / "data" / "miml"
    labels = pd.read_csv(folder / "labels.csv")
    paths = [str(folder / "images" / name) for name in labels.pop("image")]
    report = check(paths, labels, split=["train"] * 1200 + ["test"] * 400)
    assert list_kinds(report) == ["near_duplicate_with_other_labels", "near_duplicate"]
    assert report.ok


def test_every_kind_of_finding_is_explained_in_the_docs():
    page = (Path(__file__).parents[2] / "docs" / "check-data.md").read_text(encoding="utf-8")
    rows = [line.split(" | ")[:2] for line in page.split("\n") if line.startswith("| `")]
    explained = {kind: severity for kinds, severity in rows for kind in re.findall("`([a-z_]+)`", kinds)}
    assert {kind: explained.get(kind) for kind in KINDS} == {kind: severity for kind, (severity, *_) in KINDS.items()}


def test_classes_that_a_split_lacks_are_found():
    """By hand: the test part has no sunset and the train part no sea; trees are nowhere, which is another finding."""
    images = np.random.default_rng(0).integers(0, 256, (5, 40, 40, 3), dtype=np.uint8)
    labels = pd.DataFrame({"sea": [0, 0, 0, 1, 0], "sunset": [1, 0, 1, 0, 0], "trees": 0, "sky": [1, 0, 0, 1, 0]})
    split = ["train", "train", "train", "test", "test"]
    (found,) = (f for f in check_data(images, labels, split=split).findings if f.kind == "class_missing_in_split")
    assert found.severity == "warning"
    assert found.message == "2 of 4 classes are present in some split, but in no image of another."
    assert found.examples == ("'sunset' in no image of test", "'sea' in no image of train")
    assert found.classes == ("sea", "sunset")
    kinds = {finding.kind for finding in check_data(images, labels).findings}
    assert "class_missing_in_split" not in kinds


def test_the_reason_of_a_bad_image_is_shown_whole(tmp_path):
    path = tmp_path / ("a_long_name_" * 8 + ".jpg")
    path.write_text("no image")
    text = " ".join(str(check_data([path])).split())
    assert "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)" in text
