import os
import re
import unicodedata

import pandas as pd
import pytest

from multilabelkit import datasets
from multilabelkit.datasets.listings import (
    check_file,
    check_folder,
    check_listed_images,
    create_bunch,
    find_files,
    find_images,
    is_image_name,
    join_names,
    locate_images,
    read_lines,
)
from multilabelkit.errors import InputError, MultiLabelKitWarning

ID_ADVICE = " A name without an ending may be an id: pass pattern='{id}.jpg' or the like."


def whole(message):
    return f"^{re.escape(message)}$"


def test_the_package_names_every_reader():
    assert sorted(name for name in datasets.__all__ if name.startswith("read_")) == [
        "read_class_files",
        "read_coco",
        "read_csv",
        "read_folders",
        "read_json",
        "read_sidecar_files",
        "read_voc",
    ]
    assert all(callable(getattr(datasets, name)) for name in datasets.__all__)


def test_create_bunch_holds_what_is_known():
    target = pd.DataFrame({"sea": [1, 0]})
    data = create_bunch(["a", "b"], target, descr="two", split=["train", "test"], n_missing=3)
    assert (data.paths, data.target_names, data.DESCR, data.n_missing) == (["a", "b"], ["sea"], "two", 3)
    assert data.target is target
    assert data.split.tolist() == ["train", "test"]
    assert "split" not in create_bunch(["a", "b"], target, descr="two")
    assert create_bunch(("a", "b"), target, descr="two", return_X_y=True) == (["a", "b"], target)


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        ("absent", check_file, "The file '{}' does not exist; check the path."),
        ("folder", check_file, "'{}' is a folder, but a file is wanted."),
        ("empty", check_file, "The file '{}' is empty; it has no line to read."),
        ("absent", check_folder, "The folder '{}' does not exist; check the path."),
        ("empty", check_folder, "'{}' is a file, but a folder is wanted."),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, kind, check, message):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    with pytest.raises(InputError, match=whole(message.format(tmp_path / kind))):
        check(tmp_path / kind)


@pytest.mark.parametrize("check", [check_file, check_folder])
def test_home_folders_and_urls_are_refused_with_advice(check):
    what = check.__name__.removeprefix("check_")
    message = (
        f"The {what} '{os.path.join('~', 'no such')}' does not exist; check the path. '~' is not replaced by your home "
        "folder; os.path.expanduser does that."
    )
    with pytest.raises(InputError, match=whole(message)):
        check("~/no such")
    message = f"The {what} 'https://host/labels' is a URL, but must be on this machine. Download it, and pass its path."
    with pytest.raises(InputError, match=whole(message)):
        check("https://host/labels")
    with pytest.raises(InputError, match=whole(f"The {what} must be a path. Got None instead.")):
        check(None)


def test_files_and_folders_may_be_named_by_file_urls(tmp_path):
    (tmp_path / "my folder").mkdir()
    (tmp_path / "my folder" / "ä.csv").write_text("x")
    assert check_folder((tmp_path / "my folder").as_uri()) == tmp_path / "my folder"
    assert check_file((tmp_path / "my folder" / "ä.csv").as_uri()) == tmp_path / "my folder" / "ä.csv"


def locate(names, images, check_files=False):
    places = [f"line {number}" for number, _ in enumerate(names, start=2)]
    return locate_images(names, images=images, source="list", places=places, check_files=check_files)


@pytest.mark.parametrize(
    "name",
    [
        "s3://bucket/a.png",
        "https://host/a.jpg?size=2",
        "GS://bucket/my a.jpg",
        "file:///data/a.jpg",
        "C:\\photos\\a.jpg",
        "d:/photos/a.jpg",
        "\\\\server\\photos\\a.jpg",
        os.path.abspath("a.jpg"),
    ],
)
@pytest.mark.parametrize("images", ["photos", "s3://bucket/photos"])
def test_urls_and_absolute_paths_stay_as_they_are(name, images):
    assert locate([name], images) == [name]


@pytest.mark.parametrize("name", ["a.jpg", "train/my ä.jpg", "12:30.jpg", "a:b/c.jpg"])
def test_all_other_names_are_in_the_folder(name):
    assert locate([name], "photos") == locate([name], "photos/") == [os.path.join("photos", name)]
    assert (
        locate([name], "s3://bucket/photos") == locate([name], "s3://bucket/photos/") == [f"s3://bucket/photos/{name}"]
    )


def test_files_behind_urls_of_this_machine_must_exist_and_no_others(tmp_path):
    (tmp_path / "my ä.jpg").touch()
    names = ["s3://bucket/a.png", (tmp_path / "my ä.jpg").as_uri(), "my ä.jpg"]
    expected = [*names[:2], str(tmp_path / "my ä.jpg")]
    assert locate(names, tmp_path, check_files=True) == locate(names, tmp_path.as_uri(), check_files=True) == expected
    absent = (tmp_path / "none.jpg").as_uri()
    message = (
        f"'list' names 1 of 4 images that do not exist; the first is '{absent}' in line 5. Correct the folder of the "
        "images, or remove these entries."
    )
    with pytest.raises(InputError, match=whole(message)):
        locate([*names, absent], tmp_path, check_files=True)


def test_find_files_sorts_numbers_by_value_and_leaves_hidden_ones_out(tmp_path):
    for name in ("im10.jpg", "im2.JPG", ".hidden.jpg", "notes.txt", "im2.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "folder.jpg" / "3.jpg").touch()
    assert [path.name for path in find_files(tmp_path, {".jpg"})] == ["im2.JPG", "im2.jpg", "im10.jpg"]
    assert [path.name for path in find_files(tmp_path, {".jpg"}, recursive=True)][-1] == "3.jpg"


def test_find_images_wants_one(tmp_path):
    message = f"'{tmp_path}' holds no image; images are files that end in .jpg, .png and the like."
    with pytest.raises(InputError, match=whole(message)):
        find_images(tmp_path)


@pytest.mark.parametrize(("name", "expected"), [("a.jpg", True), ("a.JPEG", True), ("a.txt", False), ("jpg", False)])
def test_images_are_known_by_their_endings(name, expected):
    assert is_image_name(name) is expected


def test_images_named_twice_are_refused_with_both_places():
    message = "'list' names the image 'a.jpg' twice: in line 2 and line 5. Merge the two entries, or remove one."
    with pytest.raises(InputError, match=whole(message)):
        check_listed_images(
            ["a.jpg", "b.jpg", "a.jpg"], places=["line 2", "line 3", "line 5"], source="list", must_exist=False
        )


def test_missing_images_are_counted_and_the_first_is_named(tmp_path):
    (tmp_path / "a.jpg").touch()
    paths = [str(tmp_path / name) for name in ("a.jpg", "b.jpg", "c.jpg")]
    message = (
        f"'list' names 2 of 3 images that do not exist; the first is '{paths[1]}' in line 3. Correct the folder of the "
        "images, or remove these entries."
    )
    with pytest.raises(InputError, match=whole(message)):
        check_listed_images(paths, places=["line 2", "line 3", "line 4"], source="list")
    check_listed_images(paths, places=["line 2", "line 3", "line 4"], source="list", must_exist=False)


@pytest.mark.parametrize(
    ("there", "name"),
    [("a.jpg", "a"), ("a.PNG", "A"), ("A.JPG", "a.jpg"), ("Kühe.jpg", unicodedata.normalize("NFD", "Kühe.jpg"))],
    ids=["ending", "ending and capitals", "capitals", "accents"],
)
def test_a_file_of_nearly_the_same_name_is_shown(tmp_path, there, name):
    (tmp_path / there).touch()
    if (tmp_path / name).exists():
        pytest.skip("these are the same name on this disk")
    message = (
        f"'list' names 1 of 1 images that do not exist; the first is '{tmp_path / name}' in line 2. Beside it lies "
        f"'{there}', whose name differs in its ending, capitals or accents.{'' if '.' in name else ID_ADVICE} Correct "
        "the folder of the images, or remove these entries."
    )
    with pytest.raises(InputError, match=whole(message)):
        locate([name], tmp_path, check_files=True)


@pytest.mark.skipif(os.sep == "\\", reason="such paths are right on Windows")
@pytest.mark.parametrize("name", ["train\\a.jpg", "C:\\photos\\a.jpg"])
def test_paths_of_windows_are_pointed_out_elsewhere(tmp_path, name):
    message = (
        f"'list' names 1 of 1 images that do not exist; the first is '{locate([name], tmp_path)[0]}' in "
        "line 2. It is written as on Windows; here, / stands between folders. Correct the folder of the images, or "
        "remove these entries."
    )
    with pytest.raises(InputError, match=whole(message)):
        locate([name], tmp_path, check_files=True)


def test_read_lines_knows_every_line_break_and_mark(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\rtwo\n  \nthree")
    assert read_lines(path) == [(1, "one"), (3, "two"), (5, "three")]


def test_join_names_counts_the_rest():
    assert join_names("abcdefg") == "'a', 'b', 'c', 'd', 'e' and 2 more"
    assert join_names("ab") == "'a', 'b'"


def test_images_of_formats_that_are_not_read_are_counted(tmp_path):
    for name in ("a.jpg", "b.HEIC", "c.avif"):
        (tmp_path / name).touch()
    message = (
        f"2 image(s) in '{tmp_path}' are of formats that are not read, and are left out; the first is "
        f"'{tmp_path / 'b.HEIC'}'. Convert them to JPEG or PNG."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        images = find_images(tmp_path)
    assert [path.name for path in images] == ["a.jpg"]
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").touch()
    (tmp_path / "cat" / "2.heic").touch()
    with pytest.warns(MultiLabelKitWarning) as caught:
        datasets.read_folders(tmp_path)
    assert any("2.heic" in str(warning.message) or "3 image(s)" in str(warning.message) for warning in caught)


def test_ids_without_an_ending_lead_to_the_pattern(tmp_path):
    (tmp_path / "7.jpg").touch()
    (tmp_path / "l.csv").write_text("image,sea\n7,1\n")
    with pytest.raises(InputError, match=re.escape(ID_ADVICE)):
        datasets.read_csv(tmp_path / "l.csv")


def test_a_workbook_is_named(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"PK\x03\x04 and more")
    message = f"'{path}' is no text but an archive, such as a workbook of Excel. Save the table as CSV."
    with pytest.raises(InputError, match=whole(message)):
        datasets.read_csv(path)


def test_coco_in_the_wrong_reader_is_named(tmp_path):
    path = tmp_path / "instances.json"
    path.write_text('{"images": [], "annotations": [], "categories": []}')
    message = f"'{path}' is a file of COCO's. Read it with read_coco(path, images=...)."
    with pytest.raises(InputError, match=whole(message)):
        datasets.read_json(path)


def test_boxes_are_no_labels(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.25 0.25\n")
    message = (
        f"'{tmp_path / 'a.txt'}', line 1: '0 0.5 0.5 0.25 0.25' looks like a box of YOLO's, and no label. Write the "
        "names of the classes instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        datasets.read_sidecar_files(tmp_path)
