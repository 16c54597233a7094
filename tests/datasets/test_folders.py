import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multilabelkit.datasets.folders import find_files, read_folders
from multilabelkit.errors import InputError, MultiLabelKitWarning


def create_files(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def expect_error(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def list_names(data, folder):
    return [Path(path).relative_to(folder).as_posix() for path in data.paths]


def test_each_folder_is_a_class(tmp_path):
    create_files(tmp_path, ["dog/1.jpg", "cat/10.PNG", "cat/2.jpg", "cat/young/1.jpg", "cat/notes.txt"])
    data = read_folders(tmp_path)
    assert sorted(data) == ["DESCR", "labels", "paths", "target", "target_names"]
    assert data.paths == [
        str(tmp_path / "cat" / "2.jpg"),
        str(tmp_path / "cat" / "10.PNG"),
        str(tmp_path / "cat" / "young" / "1.jpg"),
        str(tmp_path / "dog" / "1.jpg"),
    ]
    pd.testing.assert_frame_equal(data.target, pd.DataFrame({"cat": [1, 1, 1, 0], "dog": [0, 0, 0, 1]}, dtype=np.int64))
    assert data.target_names == ["cat", "dog"]
    assert data.labels == ["cat", "cat", "cat", "dog"]
    assert data["DESCR"] == f"Images in one folder per class in '{tmp_path}': n_samples=4, n_classes=2."


def test_pair_of_paths_and_target(tmp_path):
    create_files(tmp_path, ["cat/1.jpg", "dog/1.jpg"])
    paths, target = read_folders(str(tmp_path), return_X_y=True)
    assert paths == read_folders(tmp_path).paths
    assert target.equals(read_folders(tmp_path).target)


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "val", "test"), ["train", "valid", "test"]),
        (("training", "validation", "testing"), ["train", "valid", "test"]),
        (("Train", "Valid"), ["train", "valid"]),
        (("test",), ["test"]),
    ],
    ids=["short", "long", "capitals", "one"],
)
def test_folders_of_splits_are_told_by_their_names(tmp_path, names, splits):
    create_files(tmp_path, [f"{name}/cat/1.jpg" for name in names])
    data = read_folders(tmp_path)
    assert list_names(data, tmp_path) == [f"{name}/cat/1.jpg" for name in names]
    pd.testing.assert_series_equal(data.split, pd.Series(splits, name="split", dtype=object))


def test_classes_of_all_splits_are_the_columns(tmp_path):
    create_files(tmp_path, ["val/dog/3.jpg", "train/cat/1.jpg", "train/owl/2.jpg"])
    (tmp_path / "val" / "cat").mkdir()
    data = read_folders(tmp_path)
    assert list_names(data, tmp_path) == ["train/cat/1.jpg", "train/owl/2.jpg", "val/dog/3.jpg"]
    expected = pd.DataFrame([[1, 0, 0], [0, 0, 1], [0, 1, 0]], columns=["cat", "dog", "owl"], dtype=np.int64)
    pd.testing.assert_frame_equal(data.target, expected)
    assert list(data.split) == ["train", "train", "valid"]
    assert data.labels == ["cat", "owl", "dog"]


def test_class_of_trains_is_no_split(tmp_path):
    create_files(tmp_path, ["bus/1.jpg", "train/1.jpg"])
    data = read_folders(tmp_path)
    assert data.target_names == ["bus", "train"]
    assert "split" not in data


def test_hidden_folders_and_files_are_left_out(tmp_path):
    create_files(tmp_path, ["cat/1.jpg", "cat/.2.jpg", ".cache/3.jpg", "cat/.old/4.jpg"])
    assert list_names(read_folders(tmp_path), tmp_path) == ["cat/1.jpg"]


def test_linked_class_folder_is_read_but_no_circle(tmp_path):
    create_files(tmp_path, ["store/cat/1.jpg", "data/dog/2.jpg"])
    try:
        (tmp_path / "data" / "cat").symlink_to(tmp_path / "store" / "cat", target_is_directory=True)
        (tmp_path / "data" / "dog" / "again").symlink_to(tmp_path / "data", target_is_directory=True)
    except OSError:
        pytest.skip("links need a right that this account lacks")
    assert list_names(read_folders(tmp_path / "data"), tmp_path / "data") == ["cat/1.jpg", "dog/2.jpg"]


def test_images_outside_the_classes_are_left_out_with_a_warning(tmp_path):
    create_files(tmp_path, ["train/cat/1.jpg", "train/2.jpg", "3.jpg"])
    message = f"2 image(s) lie outside the class folders and are left out; the first is '{tmp_path / '3.jpg'}'."
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        data = read_folders(tmp_path)
    assert [warning.filename for warning in caught] == [__file__]
    assert list_names(data, tmp_path) == ["train/cat/1.jpg"]


def test_find_files_sorts_numbers_by_value(tmp_path):
    names = ["10.jpg", "2.jpg", "2b.jpg", "im02.jpg", "im1.jpg", "im2.jpg", "x.JPG"]
    create_files(tmp_path, names)
    (tmp_path / "folder.jpg").mkdir()
    found = [path.name for path in find_files(tmp_path, {".jpg"})]
    assert found == ["2.jpg", "2b.jpg", "10.jpg", "im1.jpg", "im02.jpg", "im2.jpg", "x.JPG"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "'{0}' holds no folders. Put the images of each class in a folder of its own in it."),
        (["1.jpg"], "'{0}' holds no folders. Put the images of each class in a folder of its own in it."),
        (
            ["train/1.jpg", "test/2.jpg"],
            "'{train}' holds no folders. Put the images of each class in a folder of its own in it.",
        ),
        (
            ["cat/1.jpg", "dog/1.gif2", "owl/notes.txt"],
            "2 of 3 class folders in '{0}' hold no image: 'dog', 'owl'. Put images in them, or remove them.",
        ),
        (
            ["train/cat/1.jpg", "train/stray.jpg", "models/1.jpg"],
            "'{train}' looks like a split, but lies beside 'models', which are no splits. Keep either splits or "
            "classes in a folder: move the others away, or rename this one.",
        ),
    ],
    ids=["empty", "no classes", "no classes in a split", "empty classes", "split beside classes"],
)
def test_unfit_folders_are_refused(tmp_path, names, message):
    create_files(tmp_path, names)
    with expect_error(message.format(tmp_path, train=tmp_path / "train")):
        read_folders(tmp_path)


def test_wrong_arguments_are_refused(tmp_path):
    with expect_error(f"The folder '{tmp_path / 'none'}' does not exist; check the path."):
        read_folders(tmp_path / "none")
    with expect_error("The 'return_X_y' parameter of read_folders must be True or False. Got 'yes' instead."):
        read_folders(tmp_path, return_X_y="yes")
