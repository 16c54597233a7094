import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multilabelkit.datasets.annotations import read_coco, read_voc
from multilabelkit.errors import InputError


def create_files(folder, files):
    """Write files from a dict of names and contents, or a list of names."""
    for name, content in files.items() if isinstance(files, dict) else dict.fromkeys(files, "").items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def expect_error(message):
    return pytest.raises(InputError, match=f"^{re.escape(message)}$")


def create_table(rows, columns, dtype=np.int64):
    return pd.DataFrame(rows, columns=columns, dtype=dtype)


def create_xml(*objects, filename=None):
    """Write an annotation; a "!" after a name marks an object as difficult."""
    items = [
        f"<object><name> {name.rstrip('!')}\n</name><difficult>{int(name.endswith('!'))}</difficult>"
        "<part><name>head</name></part></object>"
        for name in objects
    ]
    return f"<annotation>{'' if filename is None else f'<filename>{filename}</filename>'}{''.join(items)}</annotation>"


@pytest.fixture
def voc(tmp_path):
    """A folder as VOC2012: 1 with a difficult cat, 2 without objects, 10 with a cat and a difficult dog and cat."""
    return create_files(
        tmp_path,
        {
            "JPEGImages/1.jpg": "",
            "JPEGImages/b.png": "",
            "JPEGImages/10.jpg": "",
            "JPEGImages/without annotation.jpg": "",
            "Annotations/1.xml": create_xml("cat!", filename="1"),
            "Annotations/2.xml": create_xml(filename="b.png"),
            "Annotations/10.xml": create_xml("cat!", "dog!", "cat", "cat!"),
            "ImageSets/Main/train.txt": "10\n1\n",
            "ImageSets/Main/val.txt": "\n2\r\n",
            "ImageSets/Main/trainval.txt": "2\n10\n1\n",
            "ImageSets/Main/mine.txt": "10\n",
            "ImageSets/Main/cat_train.txt": "10  1\n1 -1\n",
        },
    )


def list_stems(data):
    return [Path(path).stem for path in data.paths]


def test_voc_objects_become_labels_and_difficult_ones_unknown(voc):
    data = read_voc(voc)
    assert sorted(data) == ["DESCR", "paths", "split", "target", "target_names"]
    assert data.paths == [str(voc / "JPEGImages" / name) for name in ("1.jpg", "b.png", "10.jpg")]
    expected = create_table([[math.nan, 0], [0, 0], [1, math.nan]], ["cat", "dog"], np.float32)
    pd.testing.assert_frame_equal(data.target, expected)
    assert data.target_names == ["cat", "dog"]
    pd.testing.assert_series_equal(data.split, pd.Series(["train", "valid", "train"], name="split", dtype=object))
    assert data["DESCR"] == f"Pascal VOC annotations in '{voc / 'Annotations'}': n_samples=3, n_classes=2."


def test_voc_difficult_objects_can_count_as_present(voc):
    paths, target = read_voc(voc, difficult="present", return_X_y=True)
    assert paths == read_voc(voc).paths
    pd.testing.assert_frame_equal(target, create_table([[1, 0], [0, 0], [1, 1]], ["cat", "dog"]))


def test_voc_classes_fix_the_columns(voc):
    data = read_voc(voc, difficult="present", classes=["dog", "cow", "cat"])
    pd.testing.assert_frame_equal(data.target, create_table([[0, 0, 1], [0, 0, 0], [1, 0, 1]], ["dog", "cow", "cat"]))


@pytest.mark.parametrize(
    ("image_set", "stems", "splits"),
    [
        ("trainval", ["b", "10", "1"], ["valid", "train", "train"]),
        ("train", ["10", "1"], ["train", "train"]),
        ("val", ["b"], ["valid"]),
        ("mine", ["10"], None),
    ],
)
def test_voc_image_set_chooses_and_orders(voc, image_set, stems, splits):
    data = read_voc(voc, image_set=image_set, classes=["cat", "dog"])
    assert list_stems(data) == stems
    assert ("split" in data) == (splits is not None)
    assert splits is None or list(data.split) == splits


def test_voc_urls_and_absolute_paths_stay_as_they_are(voc):
    names = ["s3://bucket/1.jpg", str(voc / "JPEGImages" / "b.png"), (voc / "JPEGImages" / "10.jpg").as_uri()]
    for stem, name in zip(("1", "2", "10"), names, strict=True):
        create_files(voc, {f"Annotations/{stem}.xml": create_xml("cat", filename=name)})
    assert read_voc(voc).paths == names


def test_voc_gives_no_split_where_the_lists_leave_an_image_out(voc):
    create_files(voc, {"Annotations/3.xml": create_xml("cow"), "JPEGImages/3.jpg": ""})
    assert "split" not in read_voc(voc)
    create_files(voc, {"ImageSets/Main/test.txt": "3"})
    assert list(read_voc(voc).split) == ["train", "valid", "test", "train"]


def test_voc_reads_a_folder_of_annotations_and_any_folder_of_images(voc):
    data = read_voc(voc / "Annotations", image_set="train")
    assert list_stems(data) == ["10", "1"]
    (voc / "JPEGImages").rename(voc / "photos")
    assert list_stems(read_voc(voc / "Annotations", images=voc / "photos")) == ["1", "b", "10"]


BILLION_LAUGHS = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_voc_refuses_entities_in_any_encoding(voc, encoding):
    path = create_files(voc, {"Annotations/1.xml": BILLION_LAUGHS.encode(encoding)}) / "Annotations" / "1.xml"
    with expect_error(f"'{path}' holds a DOCTYPE or ENTITY declaration, which is not safe to read. Remove it."):
        read_voc(voc)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "iso-8859-1"])
def test_voc_reads_the_encodings_of_xml(voc, encoding):
    content = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>{create_xml("Kühe")}'
    create_files(voc, {"Annotations/1.xml": content.encode(encoding)})
    assert read_voc(voc).target_names == ["Kühe", "cat", "dog"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"Annotations/1.xml": ""}, {}, "The file '{xml}' is empty; it has no line to read."),
        (
            {"Annotations/1.xml": "<annotation>\n<object>\n</annotation>"},
            {},
            "'{xml}' cannot be read as XML: mismatched tag: line 3, column 2. Repair or remove it.",
        ),
        (
            {"Annotations/1.xml": '<?xml version="1.0" encoding="latin-99"?><annotation/>'},
            {},
            "'{xml}' cannot be read as XML: unknown encoding: latin-99. Repair or remove it.",
        ),
        (
            {"Annotations/1.xml": '<?xml version="1.0" encoding="utf-7"?><annotation/>'},
            {},
            "'{xml}' cannot be read as XML: multi-byte encodings are not supported. Repair or remove it.",
        ),
        (
            {"Annotations/1.xml": "<html></html>"},
            {},
            "'{xml}' is no annotation of Pascal VOC: it holds <html> instead of <annotation>.",
        ),
        (
            {"Annotations/1.xml": "<annotation><object><name>x</name></object><object/></annotation>"},
            {},
            "'{xml}': object 2 has no <name>. Add its class, or remove the object.",
        ),
        (
            {"Annotations/1.xml": "<annotation><object><name>x</name><difficult>2</difficult></object></annotation>"},
            {},
            "'{xml}': object 1 has '2' as <difficult>, which must be 0 or 1. Correct it.",
        ),
        (
            {"Annotations/1.xml": create_xml("dog", "cats")},
            {"classes": ["cat", "dog"]},
            "'{xml}': object 2 is 'cats', which is not among the 2 classes. Did you mean 'cat'? Name every class with "
            "classes=[...], or read all and choose columns later.",
        ),
        (
            {"Annotations/1.xml": create_xml(filename="11")},
            {},
            "'{annotations}' names 1 of 3 images that do not exist; the first is '{images}11.jpg' in '1.xml'. Correct "
            "the folder of the images, or remove these entries.",
        ),
        (
            {"Annotations/1.xml": create_xml(filename="b.png")},
            {},
            "'{annotations}' names the image '{images}b.png' twice: in '1.xml' and '2.xml'. Merge the two entries, or "
            "remove one.",
        ),
        (
            {},
            {"image_set": "trainvalue"},
            "The list of images '{lists}trainvalue.txt' does not exist; check the path.",
        ),
        (
            {"ImageSets/Main/mine.txt": " \n\n"},
            {"image_set": "mine"},
            "The list of images '{lists}mine.txt' names no image; it has only blank lines.",
        ),
        (
            {},
            {"image_set": "cat_train"},
            "'{lists}cat_train.txt', line 1 names '10  1', but there is no '10  1.xml' in '{annotations}'. A line "
            "holds the name of one annotation without its ending; correct or remove it.",
        ),
        (
            {"ImageSets/Main/mine.txt": "10\n\n10\n"},
            {"image_set": "mine"},
            "'{lists}mine.txt' names '10' twice: in line 1 and line 3. Remove one.",
        ),
        (
            {"ImageSets/Main/val.txt": "2\n1\n"},
            {},
            "'{lists}val.txt', line 2 names '1', which is in '{lists}train.txt', too. An image belongs to one split: "
            "remove it from one of the lists, or pass image_set=... to read one of them.",
        ),
        (
            {},
            {"image_set": ""},
            "The 'image_set' parameter of read_voc must be None, or a name like 'train'. Got '' instead.",
        ),
        (
            {},
            {"difficult": "absent"},
            "The 'difficult' parameter of read_voc must be 'missing' or 'present'. Got 'absent' instead.",
        ),
        ({}, {"images": "no such folder"}, "The folder of images 'no such folder' does not exist; check the path."),
    ],
    ids=[
        "empty file",
        "not XML",
        "unknown encoding",
        "unfit encoding",
        "other XML",
        "no name",
        "difficult",
        "not a class",
        "no image",
        "image twice",
        "no list",
        "empty list",
        "ragged list",
        "twice in a list",
        "in two lists",
        "image_set",
        "difficult parameter",
        "images",
    ],
)
def test_unfit_voc_data_is_refused(voc, files, options, message):
    create_files(voc, files)
    annotations = voc / "Annotations"
    places = {
        "xml": annotations / "1.xml",
        "annotations": annotations,
        "images": voc / "JPEGImages" / "_",
        "lists": voc / "ImageSets" / "Main" / "_",
    }
    with expect_error(message.format_map({name: str(place).removesuffix("_") for name, place in places.items()})):
        read_voc(voc, **options)


def test_voc_folders_without_annotations_or_images_are_refused(tmp_path):
    with expect_error(
        f"'{tmp_path.parent}' holds no folder 'JPEGImages'; pass images=... to name the folder of the images."
    ):
        read_voc(tmp_path)
    with expect_error(f"'{tmp_path}' holds no .xml file, so there are no annotations to read."):
        read_voc(tmp_path, images=tmp_path)


def test_voc_data_in_which_no_label_is_known_is_refused(tmp_path):
    create_files(tmp_path, {"1.jpg": "", "1.xml": create_xml()})
    with expect_error(f"No annotation in '{tmp_path}' holds an object. Name the classes with classes=[...]."):
        read_voc(tmp_path, images=tmp_path)
    assert read_voc(tmp_path, images=tmp_path, classes=["cat"]).target["cat"].tolist() == [0]
    create_files(tmp_path, {"1.xml": create_xml("cat!", "dog!")})
    with expect_error(
        f"Every object in '{tmp_path}' is marked as difficult, so that no label is known. Pass "
        'difficult="present" to take them like any other.'
    ):
        read_voc(tmp_path, images=tmp_path)


def create_coco():
    """Return three images, the first without annotations and the last with two of one category, one a crowd."""
    return {
        "info": {"year": 2017},
        "images": [
            {"id": 30, "file_name": "c.jpg", "width": 1},
            {"id": 7, "file_name": "sub/a.jpg"},
            {"id": 9, "file_name": "b.jpg"},
        ],
        "annotations": [
            {"id": 1, "image_id": 9, "category_id": 18, "iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [3]}},
            {"id": 2, "image_id": 7, "category_id": 18, "iscrowd": 0, "segmentation": [[1.5, 2.5]]},
            {"id": 3, "image_id": 9, "category_id": 18, "bbox": [1, 2, 3, 4]},
            {"id": 4, "image_id": 9, "category_id": 3},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 4, "name": "cow"}],
    }


@pytest.fixture
def coco(tmp_path):
    """The path of a COCO file beside the images."""
    create_files(tmp_path, {"sub/a.jpg": "", "b.jpg": "", "c.jpg": "", "coco.json": json.dumps(create_coco())})
    return tmp_path / "coco.json"


def test_coco_objects_become_labels(coco):
    data = read_coco(coco, images=coco.parent)
    assert sorted(data) == ["DESCR", "paths", "target", "target_names"]
    assert data.paths == [os.path.join(coco.parent, name) for name in ("c.jpg", "sub/a.jpg", "b.jpg")]
    expected = create_table([[0, 0, 0], [1, 0, 0], [1, 1, 0]], ["dog", "cat", "cow"])
    pd.testing.assert_frame_equal(data.target, expected)
    assert data.target_names == ["dog", "cat", "cow"]
    assert data["DESCR"] == f"COCO annotations in '{coco}': n_samples=3, n_classes=3."


def test_coco_classes_choose_and_order_categories(coco):
    paths, target = read_coco(coco, images=str(coco.parent), classes=("cow", "dog"), return_X_y=True)
    assert [Path(path).name for path in paths] == ["c.jpg", "a.jpg", "b.jpg"]
    pd.testing.assert_frame_equal(target, create_table([[0, 0], [0, 1], [0, 1]], ["cow", "dog"]))


def test_coco_ids_may_be_strings_and_there_may_be_no_annotation(coco):
    content = create_coco()
    content["images"][0]["id"] = "c"
    content["annotations"] = []
    coco.write_text(json.dumps(content), encoding="utf-8-sig")
    assert read_coco(coco, images=coco.parent).target.to_numpy().sum() == 0


def test_coco_urls_and_absolute_paths_stay_as_they_are(coco):
    content = create_coco()
    names = ["s3://bucket/c.jpg", (coco.parent / "sub" / "a.jpg").as_uri(), str(coco.parent / "b.jpg")]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    coco.write_text(json.dumps(content), encoding="utf-8")
    assert read_coco(coco, images=coco.parent / "sub").paths == names
    assert read_coco(coco, images="s3://bucket").paths == names


WITH_LISTS = "COCO's files of objects have the lists 'images', 'annotations' and 'categories'."
NO_SUCH_ID = "which is no 'id' in the list of those. Add it there, or remove the annotation."


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("images",), None, f"'{{0}}' has no list 'images' with something in it. {WITH_LISTS}"),
        (("categories",), [], f"'{{0}}' has no list 'categories' with something in it. {WITH_LISTS}"),
        (("annotations",), {}, f"'{{0}}' has no list 'annotations' with something in it. {WITH_LISTS}"),
        (("images", 1), 5, "'{0}': images[1] must have a number or a non-empty string as 'id'. Got None instead."),
        (("images", 1), {"id": 7}, "'{0}': images[1] must have a non-empty string as 'file_name'. Got None instead."),
        (
            ("categories", 2, "name"),
            "",
            "'{0}': categories[2] must have a non-empty string as 'name'. Got '' instead.",
        ),
        (
            ("annotations", 3, "image_id"),
            [9],
            "'{0}': annotations[3] must have a number or a non-empty string as 'image_id'. Got [9] instead.",
        ),
        (("annotations", 2, "image_id"), 99, f"'{{0}}': annotations[2] names the image 99, {NO_SUCH_ID}"),
        (("annotations", 1, "category_id"), "3", f"'{{0}}': annotations[1] names the category '3', {NO_SUCH_ID}"),
        (
            ("images", 2, "id"),
            30,
            "'{0}': images[0] and images[2] have the same 'id', 30. Merge them, or remove one.",
        ),
        (
            ("categories", 1, "id"),
            18,
            "'{0}': categories[0] and categories[1] have the same 'id', 18. Merge them, or remove one.",
        ),
        (
            ("categories", 2, "name"),
            "cat",
            "'{0}': categories[1] and categories[2] have the same 'name', 'cat'. Merge them, or remove one.",
        ),
        (
            ("images", 2, "file_name"),
            "c.jpg",
            "'{0}' names the image '{c}' twice: in images[0] and images[2]. Merge the two entries, or remove one.",
        ),
        (
            ("images", 0, "file_name"),
            "d.jpg",
            "'{0}' names 1 of 3 images that do not exist; the first is '{d}' in images[0]. Correct the folder of the "
            "images, or remove these entries.",
        ),
    ],
)
def test_unfit_coco_data_is_refused(coco, place, value, message):
    content = create_coco()
    part = content
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    coco.write_text(json.dumps(content), encoding="utf-8")
    with expect_error(message.format(coco, c=coco.parent / "c.jpg", d=coco.parent / "d.jpg")):
        read_coco(coco, images=coco.parent)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The annotation file '{}' is empty; it has no line to read."),
        (
            b'{"images": [\n  1,,\n]}',
            "'{}' cannot be read as JSON: Expecting value: line 2 column 5 (char 17).",
        ),
        (b'{"images":\n"M\xe4dchen"}', "'{}', line 2 is not in UTF-8. Save the file in that encoding."),
        (b"[]", f"'{{}}' has no list 'images' with something in it. {WITH_LISTS}"),
    ],
    ids=["empty", "not JSON", "encoding", "a list"],
)
def test_files_that_are_not_coco_are_refused(coco, content, message):
    coco.write_bytes(content)
    with expect_error(message.format(coco)):
        read_coco(coco, images=coco.parent)


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000], ids=["depth", "digits"])
def test_json_beyond_the_limits_of_python_is_refused(coco, text):
    coco.write_text(text, encoding="utf-8")
    start = re.escape(f"'{coco}' cannot be read as JSON: ")  # the reason differs from one Python to the next
    with pytest.raises(InputError, match=rf"^{start}.+\.$"):
        read_coco(coco, images=coco.parent)


def test_wrong_arguments_of_read_coco_are_refused(coco):
    with expect_error(
        f"'{coco}' has no category 'dogs', which classes=[...] names. Did you mean 'dog'? It has 'dog', 'cat', 'cow'."
    ):
        read_coco(coco, images=coco.parent, classes=["cat", "dogs"])
    with expect_error("The folder of images 'nowhere' does not exist; check the path."):
        read_coco(coco, images="nowhere")
    with expect_error("The folder of images must be a path. Got None instead."):
        read_coco(coco, images=None, check_files=False)
    with expect_error("The 'return_X_y' parameter of read_coco must be True or False. Got 1 instead."):
        read_coco(coco, images=coco.parent, return_X_y=1)


@pytest.fixture(scope="module")
def scenes(shared_data):
    """The folder of 1,600 photographs, and the table of their labels by file name."""
    folder = shared_data / "data" / "miml"
    return folder / "images", pd.read_csv(folder / "labels.csv", index_col="image")


def check_equal(data, table):
    found = data.target.set_axis([Path(path).name for path in data.paths])
    pd.testing.assert_frame_equal(found.loc[table.index], table, check_names=False)
    assert len(found) == len(table)


def test_scenes_as_voc_read_back_equal(scenes, tmp_path):
    images, table = scenes
    files = {Path(image).stem: create_xml(*row.index[row == 1], filename=image) for image, row in table.iterrows()}
    create_files(tmp_path, {f"Annotations/{stem}.xml": content for stem, content in files.items()})
    create_files(tmp_path, {"ImageSets/Main/train.txt": "\n".join(sorted(files))})
    check_equal(read_voc(tmp_path, images=images), table)
    check_equal(read_voc(tmp_path, images=images, image_set="train"), table)


def test_scenes_as_coco_read_back_equal(scenes, tmp_path):
    images, table = scenes
    content = {
        "images": [{"id": place, "file_name": image} for place, image in enumerate(table.index)],
        "annotations": [
            {"image_id": row, "category_id": int(column)} for row, column in np.argwhere(table.to_numpy() == 1).tolist()
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(table.columns)],
    }
    create_files(tmp_path, {"coco.json": json.dumps(content)})
    check_equal(read_coco(tmp_path / "coco.json", images=images), table)


def test_coco_images_that_do_not_exist_may_be_left_to_the_doctor(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 7, "category_id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    source = tmp_path / "instances.json"
    source.write_text(json.dumps(content))
    data = read_coco(source, images=tmp_path / "absent", check_files=False)
    assert data.paths == [str(tmp_path / "absent" / "a.jpg")]
    with pytest.raises(InputError, match="images that do not exist"):
        read_coco(source, images=tmp_path)
