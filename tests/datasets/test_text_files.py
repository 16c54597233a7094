import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multilabelkit.datasets.text_files import read_class_files, read_sidecar_files
from multilabelkit.errors import InputError, MultiLabelKitWarning


def create_files(folder, files):
    """Write files from a dict of names and contents, or a list of names."""
    for name, content in files.items() if isinstance(files, dict) else dict.fromkeys(files, "").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def expect_error(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def expect_warning(message):
    return pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$")


def create_table(rows, columns):
    return pd.DataFrame(rows, columns=columns, dtype=np.int64)


@pytest.fixture
def ids(tmp_path):
    """The folder of class files; that of the images im2, im10 and other.png lies beside it."""
    create_files(tmp_path / "images", ["im10.jpg", "im2.jpg", "other.png"])
    return create_files(
        tmp_path / "ids",
        {"car.txt": "10\n\n 2 \r\n10\n", "car_r1.txt": "2\n", "baby.txt": "10", "README.txt": "See the web site.\n"},
    )


def read_ids(ids, **options):
    return read_class_files(ids, images=ids.parent / "images", **{"pattern": "im{id}.jpg", **options})


def test_class_files_become_columns(ids):
    data = read_ids(ids)
    images = ids.parent / "images"
    assert sorted(data) == ["DESCR", "n_missing", "paths", "target", "target_names"]
    assert data.paths == [str(images / name) for name in ("im2.jpg", "im10.jpg", "other.png")]
    columns = ["baby", "car", "car_r1"]
    pd.testing.assert_frame_equal(data.target, create_table([[0, 1, 1], [1, 1, 0], [0, 0, 0]], columns))
    assert data.target_names == columns
    assert data.n_missing == 0
    assert data["DESCR"] == f"Class files in '{ids}', images in '{images}': n_samples=3, n_classes=3."


def test_classes_choose_and_order_class_files(ids):
    create_files(ids, {"dog.txt": "\n"})
    paths, target = read_ids(ids, classes=["dog", "car_r1"], return_X_y=True)
    assert [Path(path).name for path in paths] == ["im2.jpg", "im10.jpg", "other.png"]
    pd.testing.assert_frame_equal(target, create_table([[0, 1], [0, 0], [0, 0]], ["dog", "car_r1"]))


@pytest.mark.parametrize(
    ("pattern", "content"),
    [("{id}.jpg", "my cat, 1\n"), ("{id}", "my cat, 1.jpg\r"), ("my {id}.jpg", "\ufeffcat, 1\n")],
    ids=["stem", "whole name", "byte order mark"],
)
def test_pattern_makes_names_also_with_blanks(tmp_path, pattern, content):
    create_files(tmp_path, {"my cat, 1.jpg": "", "2.jpg": "", "cat.txt": content})
    data = read_class_files(tmp_path, images=tmp_path, pattern=pattern)
    assert data.target["cat"].tolist() == [0, 1]


def test_ids_without_image_are_an_error_or_left_out_with_a_warning(ids):
    create_files(ids, {"car.txt": "10\n77\n", "baby.txt": "77\n78\n2\n"})
    finding = (
        f"2 of 4 images that the class files name are not in '{ids.parent / 'images'}'; the first is 'im77.jpg' from "
        f"'{ids / 'baby.txt'}', line 1."
    )
    with expect_error(f'{finding} Correct `images` or `pattern`, or pass missing="ignore" to leave them out.'):
        read_ids(ids)
    with expect_warning(f"{finding} They are left out.") as caught:
        data = read_ids(ids, missing="ignore", classes=["baby", "car"])
    assert caught[0].filename == __file__
    assert data.n_missing == 2
    pd.testing.assert_frame_equal(data.target, create_table([[1, 0], [0, 1], [0, 0]], ["baby", "car"]))


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"car.txt": "10\n2 1\n"},
            {},
            "'{car}', line 2 is '2 1', but a class file holds one image id a line. If this is no class file, name "
            "those to read with classes=[...].",
        ),
        (
            {"car.txt": "10,2\n"},
            {"missing": "ignore"},
            "'{car}', line 1 is '10,2', but a class file holds one image id a line. If this is no class file, name "
            "those to read with classes=[...].",
        ),
        (
            {"car.txt": " \n"},
            {},
            "The class file '{car}' names no image. Remove it, or name all classes with classes=[...], which may be "
            "classes without images.",
        ),
        (
            {"car.txt": b"10\n\xff\n"},
            {},
            "'{car}', line 2 is not in UTF-8. Save the file in that encoding.",
        ),
        (
            {},
            {"classes": ["car", "babi"]},
            "'{ids}' holds no file 'babi.txt' for the class 'babi'. Did you mean 'baby'? `classes` names the class "
            "files without their ending.",
        ),
        ({}, {"classes": "car"}, "classes must be a list of names. Got 'car' instead."),
        ({}, {"classes": [3, 1]}, "classes must be strings, as all labels in files are. Got [3, 1] instead."),
        (
            {},
            {"pattern": "im.jpg"},
            "The 'pattern' parameter of read_class_files must be a string with {{id}} in it. Got 'im.jpg' instead.",
        ),
        (
            {},
            {"missing": "warn"},
            "The 'missing' parameter of read_class_files must be 'error' or 'ignore'. Got 'warn' instead.",
        ),
    ],
    ids=["blank", "comma", "empty", "encoding", "no such class", "classes", "numbers", "pattern", "missing"],
)
def test_unfit_class_files_are_refused(ids, files, options, message):
    create_files(ids, files)
    with expect_error(message.format(ids=ids, car=ids / "car.txt")):
        read_ids(ids, **options)


def test_folders_without_class_files_or_images_are_refused(ids):
    empty = ids.parent / "empty"
    with expect_error(f"The folder '{empty}' does not exist; check the path."):
        read_class_files(empty, images=ids)
    with expect_error(f"The folder of images '{empty}' does not exist; check the path."):
        read_class_files(ids, images=empty)
    create_files(empty, {"README.txt": "Nothing here."})
    with expect_error(f"'{empty}' holds no class file; a class file is called like its class, such as car.txt."):
        read_class_files(empty, images=ids.parent / "images")
    with expect_error(f"'{empty}' holds no image; images are files that end in .jpg, .png and the like."):
        read_class_files(ids, images=empty)


def test_label_files_with_one_label_a_line(tmp_path):
    files = {"im10.txt": "sea\n\nsunset\r\nsea\n", "im2.txt": "", "im3.txt": "\ufeff trees \rsea"}
    create_files(tmp_path, {**files, "im10.jpg": "", "im2.PNG": "", "im3.jpg": "", "readme.txt": "About these."})
    data = read_sidecar_files(tmp_path)
    assert sorted(data) == ["DESCR", "n_missing", "paths", "target", "target_names"]
    assert data.paths == [str(tmp_path / name) for name in ("im2.PNG", "im3.jpg", "im10.jpg")]
    columns = ["sea", "sunset", "trees"]
    pd.testing.assert_frame_equal(data.target, create_table([[0, 0, 0], [1, 0, 1], [1, 1, 0]], columns))
    assert data.target_names == columns
    assert data.n_missing == 0
    assert data["DESCR"] == f"Label files beside the images in '{tmp_path}': n_samples=3, n_classes=3."


@pytest.mark.parametrize("label_sep", ["|", ", ", " ", "\t"], ids=["bar", "comma", "blank", "tab"])
def test_label_files_with_several_labels_a_line(tmp_path, label_sep):
    labels = {"1": ["sea", "sky", "sea", ""], "2": ["sky"]}
    create_files(tmp_path, {f"{name}.txt": label_sep.join(row) + "\nsun\n" for name, row in labels.items()})
    create_files(tmp_path, ["1.jpg", "2.jpg"])
    paths, target = read_sidecar_files(tmp_path, label_sep=label_sep, return_X_y=True)
    assert [Path(path).name for path in paths] == ["1.jpg", "2.jpg"]
    pd.testing.assert_frame_equal(target, create_table([[1, 1, 1], [0, 1, 1]], ["sea", "sky", "sun"]))


def test_classes_fix_the_columns_of_label_files(tmp_path):
    create_files(tmp_path, {"1.jpg": "", "1.txt": "rock, paper\n", "2.jpg": "", "2.txt": ""})
    data = read_sidecar_files(tmp_path, classes=["tree", "rock, paper"])
    pd.testing.assert_frame_equal(data.target, create_table([[0, 1], [0, 0]], ["tree", "rock, paper"]))


def test_label_files_below_the_folder_are_read_on_wish(tmp_path):
    create_files(tmp_path, {f"{name}.{ending}": "x" for name in ("1", "b/1", "b/c/2") for ending in ("jpg", "txt")})
    assert len(read_sidecar_files(tmp_path).paths) == 1
    data = read_sidecar_files(tmp_path, recursive=True)
    assert [Path(path).relative_to(tmp_path).as_posix() for path in data.paths] == ["1.jpg", "b/1.jpg", "b/c/2.jpg"]


@pytest.mark.parametrize(
    ("names", "finding"),
    [
        (["2.jpg", "3.jpg"], "2 image(s) without a label file, such as '{2.jpg}'"),
        (["4.txt"], "1 label file(s) without an image, such as '{4.txt}'"),
        (
            ["2.jpg", "4.txt", "5.txt"],
            "1 image(s) without a label file, such as '{2.jpg}', and 2 label file(s) without an image, such as "
            "'{4.txt}'",
        ),
    ],
    ids=["images", "label files", "both"],
)
def test_files_that_are_alone_are_an_error_or_left_out_with_a_warning(tmp_path, names, finding):
    create_files(tmp_path, {"1.jpg": "", "1.txt": "sea", **dict.fromkeys(names, "")})
    finding = re.sub(r"\{(.*?)\}", lambda found: str(tmp_path / found[1]), finding)
    with expect_error(
        f"There are {finding}. Add what is missing (an image without labels needs an empty label file), or pass "
        'missing="ignore" to leave them out.'
    ):
        read_sidecar_files(tmp_path)
    with expect_warning(f"There are {finding}. They are left out.") as caught:
        data = read_sidecar_files(tmp_path, missing="ignore")
    assert caught[0].filename == __file__
    assert data.paths == [str(tmp_path / "1.jpg")]
    assert data.n_missing == len(names)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        (
            {"1.txt": "sky\nsea;sun\n"},
            {},
            "'{}', line 2: 'sea;sun' looks like several labels. Pass label_sep=';' to split it, or name the classes "
            "with classes=[...].",
        ),
        (
            {"1.txt": "sky\n\nsee\n"},
            {"classes": ["sea", "sky"]},
            "'{}', line 3: the label 'see' is not among the 2 classes. Did you mean 'sea'? Correct it, or name every "
            "class with classes=[...].",
        ),
        (
            {"1.txt": "sky;see\n"},
            {"classes": ["sea", "sky"], "label_sep": ";"},
            "'{}', line 1: the label 'see' is not among the 2 classes. Did you mean 'sea'? Correct it, or name every "
            "class with classes=[...].",
        ),
        (
            {"1.txt": "\ufeffsky\r\n".encode() + b"sky\r\nM\xe4dchen\r\n"},
            {},
            "'{}', line 3 is not in UTF-8. Save the file in that encoding.",
        ),
        ({}, {"label_sep": ""}, None),
    ],
    ids=["joined", "not a class", "not a class in a line", "encoding", "label_sep"],
)
def test_unfit_label_files_are_refused(tmp_path, files, options, message):
    create_files(tmp_path, {"1.jpg": "", "1.txt": "sky", **files})
    default = "The 'label_sep' parameter of read_sidecar_files must be None, or a non-empty string. Got '' instead."
    with expect_error((message or default).format(tmp_path / "1.txt")):
        read_sidecar_files(tmp_path, **options)


def test_folders_without_pairs_or_labels_are_refused(tmp_path):
    with expect_error(f"'{tmp_path}' holds no image; images are files that end in .jpg, .png and the like."):
        read_sidecar_files(tmp_path)
    create_files(tmp_path, ["1.jpg"])
    with (
        expect_error(f"No image in '{tmp_path}' has a label file; that of sea.jpg is sea.txt beside it."),
        pytest.warns(MultiLabelKitWarning),
    ):
        read_sidecar_files(tmp_path, missing="ignore")
    create_files(tmp_path, {"1.txt": " \n"})
    with expect_error(
        f"No label file in '{tmp_path}' holds a label, so there are no classes to learn. Name them with classes=[...]."
    ):
        read_sidecar_files(tmp_path)
    assert read_sidecar_files(tmp_path, classes=["sea"]).target["sea"].tolist() == [0]


def test_images_that_share_a_label_file_are_refused(tmp_path):
    create_files(tmp_path, ["1.jpg", "1.png", "1.txt"])
    with expect_error(f"'{tmp_path / '1.jpg'}' and '1.png' would share one label file. Rename or remove one of them."):
        read_sidecar_files(tmp_path)


@pytest.fixture(scope="module")
def scenes(shared_data):
    """The folder of 1,600 photographs, and the table of their labels by file name."""
    folder = shared_data / "data" / "miml"
    return folder / "images", pd.read_csv(folder / "labels.csv", index_col="image")


def place_images(folder, target):
    """Put images in another folder, linked where the disk can."""
    for path in folder.iterdir():
        try:
            os.link(path, target / path.name)
        except OSError:
            shutil.copy(path, target)


def check_equal(data, table):
    found = data.target.set_axis([Path(path).name for path in data.paths])
    pd.testing.assert_frame_equal(found.sort_index(), table.sort_index(), check_names=False)


def test_scenes_as_class_files_read_back_equal(scenes, tmp_path):
    images, table = scenes
    for name, column in table.items():
        ids = [image.removesuffix(".jpg") for image in table.index[column == 1]]
        (tmp_path / f"{name}.txt").write_text("\n".join(ids), encoding="utf-8")
    data = read_class_files(tmp_path, images=images)
    check_equal(data, table)
    assert [Path(path).stem for path in data.paths] == sorted(
        map(str.removesuffix, table.index, [".jpg"] * 1600), key=int
    )


@pytest.mark.parametrize("label_sep", [None, ";"], ids=["one a line", "delimited"])
def test_scenes_as_label_files_read_back_equal(scenes, tmp_path, label_sep):
    images, table = scenes
    place_images(images, tmp_path)
    for image, row in table.iterrows():
        text = (label_sep or "\n").join(row.index[row == 1])
        (tmp_path / image).with_suffix(".txt").write_text(text, encoding="utf-8")
    check_equal(read_sidecar_files(tmp_path, label_sep=label_sep), table)
