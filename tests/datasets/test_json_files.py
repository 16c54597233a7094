import json
import os
import re

import numpy as np
import pandas as pd
import pytest

from multilabelkit.checks import shorten
from multilabelkit.datasets.json_files import read_json
from multilabelkit.errors import InputError

NAN = np.nan
CLASSES = ["sea", "sunset"]


def write(folder, content, name="labels.json", images=("a.jpg", "b.jpg", "c.jpg")):
    """Write a text, or anything else as JSON, and empty files for images beside it."""
    for image in images:
        (folder / image).touch()
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def frame(**columns):
    unknown = any(value != value for column in columns.values() for value in column)
    return pd.DataFrame(columns, dtype=np.float32 if unknown else np.int64)


def refuse(message, path, **options):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_json(path, **options)


LISTS = {"a.jpg": ["sunset", "sea"], "b.jpg": [], "c.jpg": ["sea"]}
ROWS = {"a.jpg": [1, 1], "b.jpg": [-1, -1], "c.jpg": [1, -1]}
OBJECTS = [{"image": name, "labels": labels} for name, labels in LISTS.items()]
LINES = "".join(f"{json.dumps(entry)}\n" for entry in OBJECTS)


@pytest.mark.parametrize(
    ("name", "content", "options"),
    [
        ("l.json", LISTS, {}),
        ("l.json", LISTS, {"classes": CLASSES}),
        ("l.json", "\ufeff" + json.dumps(LISTS, indent=1).replace("\n", "\r\n"), {}),
        ("l.json", {"a": ["sea", "sunset"], "b": [], "c": ["sea"]}, {"pattern": "{id}.jpg"}),
        ("l.json", {"a.jpg": "sea|sunset", "b.jpg": "", "c.jpg": "sea"}, {"label_sep": "|"}),
        ("l.json", ROWS, {"classes": CLASSES}),
        ("l.json", {"a.jpg": [1, True], "b.jpg": [0, False], "c.jpg": [1.0, 0]}, {"classes": CLASSES}),
        ("l.json", {"a.jpg": {"sunset": 1, "sea": 1}, "b.jpg": {}, "c.jpg": {"sea": True, "sunset": 0}}, {}),
        ("l.json", {k: {"sunset": int("sunset" in v), "sea": int("sea" in v)} for k, v in LISTS.items()}, {}),
        ("l.json", OBJECTS, {}),
        ("l.json", [{"id": 7, "FileName": k, "Tags": v} for k, v in LISTS.items()], {}),
        ("l.json", [{"image": k, "names": v} for k, v in LISTS.items()], {}),
        ("l.json", [{"photo": k, "seen": v} for k, v in LISTS.items()], {}),
        ("l.json", [{"image": 7, "x": k, "y": v} for k, v in LISTS.items()], {"image_key": "x", "labels_key": "y"}),
        ("l.json", [{"image": k, "labels": v} for k, v in ROWS.items()], {"classes": CLASSES}),
        ("l.jsonl", LINES, {}),
        ("l.NDJSON", f"\n{LINES}\n  \n", {}),
        ("l.json", LINES.replace("\n", "\r\n\r\n"), {}),
        ("l.json", LINES.replace("sunset", "sun\u2028set"), {"classes": ["sea", "sun\u2028set"]}),
    ],
    ids=[
        "lists",
        "lists and classes",
        "lists on Windows",
        "lists of ids",
        "strings",
        "rows",
        "rows of anything",
        "dicts",
        "dicts with all classes",
        "objects",
        "objects with other keys",
        "objects with one other key",
        "objects with two unknown keys",
        "objects with keys given",
        "objects with rows",
        "lines",
        "lines with blank ones",
        "lines in .json",
        "lines with a separator that is none",
    ],
)
def test_read_json_reads_every_layout_alike(tmp_path, name, content, options):
    path = write(tmp_path, content, name)
    data = read_json(path, **options)
    assert sorted(data) == ["DESCR", "paths", "target", "target_names"]
    assert data.paths == [str(tmp_path / image) for image in ("a.jpg", "b.jpg", "c.jpg")]
    names = options.get("classes", CLASSES)
    pd.testing.assert_frame_equal(data.target, frame(sea=[1, 0, 1], sunset=[1, 0, 0]).set_axis(names, axis="columns"))
    assert data.target_names == names
    assert f"JSON in '{path}': n_samples=3, n_classes=2." == data.DESCR


@pytest.mark.parametrize(
    ("rows", "options", "images"),
    [
        ([[1, 1], [-1, -1], [1, -1]], {"pattern": "{i}.jpg"}, ["1.jpg", "2.jpg", "3.jpg"]),
        ([[1, 1], [0, 0], [1, 0]], {"pattern": "im{i}.png", "first": 0}, ["im0.png", "im1.png", "im2.png"]),
        ([[1, 1], [0, 0], [1, 0]], {"pattern": "{i:03d}.jpg", "first": 98}, ["098.jpg", "099.jpg", "100.jpg"]),
        ([["sea", "sunset"], [], ["sea"]], {"pattern": "{i}.jpg"}, ["1.jpg", "2.jpg", "3.jpg"]),
    ],
    ids=["-1 and 1", "from 0", "with leading zeros", "names"],
)
def test_rows_belong_to_images_by_number(tmp_path, rows, options, images):
    folder = tmp_path / "photos"
    folder.mkdir()
    path = write(tmp_path, rows, images=[f"photos/{image}" for image in images])
    data = read_json(path, images=folder, classes=CLASSES, **options)
    assert data.paths == [str(folder / image) for image in images]
    pd.testing.assert_frame_equal(data.target, frame(sea=[1, 0, 1], sunset=[1, 0, 0]))


def test_read_json_returns_a_pair_on_request(tmp_path):
    paths, target = read_json(write(tmp_path, {"a.jpg": ["sea"]}), return_X_y=True)
    assert paths == [str(tmp_path / "a.jpg")]
    pd.testing.assert_frame_equal(target, frame(sea=[1]))


@pytest.mark.parametrize(
    "content",
    ['{"a.jpg": [1, null], "b.jpg": [0, 1]}', '{"a.jpg": [1, NaN], "b.jpg": [0, 1]}'],
    ids=["null", "NaN"],
)
def test_null_and_nan_are_unknown_in_rows(tmp_path, content):
    target = read_json(write(tmp_path, content), classes=CLASSES).target
    pd.testing.assert_frame_equal(target, frame(sea=[1, 0], sunset=[NAN, 1]))


@pytest.mark.parametrize("second", [{"sunset": 1}, {"sunset": 1, "sea": 0}], ids=["some classes", "all classes"])
def test_null_is_unknown_in_dicts(tmp_path, second):
    path = write(tmp_path, {"a.jpg": {"sea": 1, "sunset": None}, "b.jpg": second})
    pd.testing.assert_frame_equal(read_json(path).target, frame(sea=[1, 0], sunset=[NAN, 1]))
    both = read_json(path, classes=["sunset", "sky", "sea"]).target
    pd.testing.assert_frame_equal(both, frame(sunset=[NAN, 1], sky=[0, 0], sea=[1, 0]))


@pytest.mark.parametrize(("uncertain", "value"), [("missing", NAN), ("positive", 1), ("negative", 0)])
def test_uncertain_says_what_minus_one_is(tmp_path, uncertain, value):
    path = write(tmp_path, {"a.jpg": [1, -1], "b.jpg": [0, 1]})
    target = read_json(path, classes=CLASSES, uncertain=uncertain).target
    pd.testing.assert_frame_equal(target, frame(sea=[1, 0], sunset=[value, 1]))


def test_images_need_not_exist_on_request(tmp_path):
    path = write(tmp_path, {"x.jpg": ["sea"]})
    folder = tmp_path / "nowhere"
    assert read_json(path, images=folder, check_files=False).paths == [str(folder / "x.jpg")]
    rows = write(tmp_path, [[1, 1]], "rows.json", images=["2.jpg"])
    options = {"classes": CLASSES, "pattern": "{i}.jpg", "check_files": False}
    assert read_json(rows, **options).paths == [str(tmp_path / "1.jpg")]


@pytest.mark.parametrize("indent", [None, 1], ids=["in one line", "in lines"])
@pytest.mark.parametrize(
    ("entry", "options"),
    [
        ({"image": "a.jpg", "labels": ["sea"]}, {}),
        ({"labels": "sea|", "id": 3, "File Name": "a.jpg"}, {"label_sep": "|"}),
        ({"image_id": 7, "Tags": {"sea": 1}}, {"pattern": "a.jpg{id}"}),
        ({"photo": "a.jpg", "seen": ["sea"]}, {"image_key": "photo"}),
        ({"image": "a.jpg", "seen": ["sea"]}, {"labels_key": "seen"}),
    ],
    ids=["usual keys", "other usual keys", "number", "image_key", "labels_key"],
)
def test_a_single_object_is_one_image(tmp_path, entry, options, indent):
    path = write(tmp_path, f"\ufeff{json.dumps(entry, indent=indent)}\r\n\r\n", images=["a.jpg", "a.jpg7"])
    data = read_json(path, **options)
    assert data.paths == [str(tmp_path / ("a.jpg7" if "image_id" in entry else "a.jpg"))]
    pd.testing.assert_frame_equal(data.target, frame(sea=[1]))


@pytest.mark.parametrize(
    "content",
    [{"image": ["sea"], "labels": []}, {"image": ["sea"]}, {"name": "sea", "sunset": "sea"}, {"labels": ["sea"]}],
    ids=["no name", "no labels", "usual image key alone", "usual labels key alone"],
)
def test_images_may_be_called_like_keys(tmp_path, content):
    path = write(tmp_path, content, images=content)
    assert read_json(path).paths == [str(tmp_path / name) for name in content]


def test_a_single_object_without_labels_is_refused(tmp_path):
    path = write(tmp_path, {"image": "a.jpg", "labels": None})
    refuse(
        f"The labels (y) in '{path}' cannot be used: the only object is None. A row is a list, tuple, set or 1-D array "
        "of names, a string or a dict. Write [] if the image has no labels; if they are unknown, pass a table with a "
        "row of NaN.",
        path,
    )


def test_urls_stay_as_they_are_and_are_not_looked_for(tmp_path):
    uri = (tmp_path / "b.jpg").as_uri()
    path = write(tmp_path, {"s3://bucket/a.png": ["sea"], uri: [], "c.jpg": []})
    assert read_json(path).paths == ["s3://bucket/a.png", uri, str(tmp_path / "c.jpg")]
    objects = write(tmp_path, [{"labels": ["sea"], "url": "https://host/a.jpg"}], "objects.json")
    assert read_json(objects).paths == ["https://host/a.jpg"]
    assert read_json(path, images="gs://b", pattern="{id}", check_files=False).paths[-1] == "gs://b/c.jpg"


def test_files_behind_urls_must_exist(tmp_path):
    uri = (tmp_path / "none.jpg").as_uri()
    path = write(tmp_path, {"a.jpg": ["sea"], uri: []})
    refuse(
        f"'{path}' names 1 of 2 images that do not exist; the first is '{uri}' in the entry {shorten(uri)}. Correct "
        "the folder of the images, or remove these entries.",
        path,
    )


def test_numbered_images_may_lie_behind_urls(tmp_path):
    path = write(tmp_path, [[1, 0], [1, 1]], images=["1.jpg", "2.jpg"])
    options = {"classes": CLASSES, "pattern": "{i}.jpg"}
    assert read_json(path, images="s3://b", **options).paths == ["s3://b/1.jpg", "s3://b/2.jpg"]
    uri = tmp_path.as_uri()
    options["pattern"] = uri + "/{i}.jpg"
    assert read_json(path, **options).paths == [f"{uri}/1.jpg", f"{uri}/2.jpg"]
    (tmp_path / "3.jpg").touch()
    refuse(
        f"'{path}' has 2 rows, for '{uri}/1.jpg' to '{uri}/2.jpg', but there is also '{uri}/3.jpg'. Add the missing "
        "rows, or correct first, which is the number of the image of the first row.",
        path,
        **options,
    )


def test_a_file_or_folder_that_does_not_exist_is_refused(tmp_path):
    path = write(tmp_path, LISTS)
    refuse(f"The JSON file '{tmp_path / 'no.json'}' does not exist; check the path.", tmp_path / "no.json")
    refuse(f"The folder of images '{tmp_path / 'no'}' does not exist; check the path.", path, images=tmp_path / "no")


LAYOUTS = (
    "It must hold a list of rows of numbers, an object with the labels of each image, or a list of objects (or one "
    'object a line) such as {{"image": "a.jpg", "labels": ["sea"]}}.'
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.json", "", "The JSON file '{path}' is empty; it has no line to read."),
        ("l.json", " \n", "'{path}' cannot be read as JSON: Expecting value: line 2 column 1 (char 2)."),
        (
            "l.json",
            '{\n "a.jpg": ["sea"],\n "b.jpg": [sea]\n}',
            "'{path}' cannot be read as JSON: Expecting value: line 3 column 12 (char 32).",
        ),
        (
            "l.jsonl",
            LINES + '\n{"image": "d.jpg"',
            "'{path}', line 5 cannot be read as JSON: Expecting ',' delimiter: column 18.",
        ),
        ("l.json", LINES + "[1]]\n", "'{path}', line 4 cannot be read as JSON: Extra data: column 4."),
        ("l.json", "[1]\n[2]\n", "'{path}' cannot be read as JSON: Extra data: line 2 column 1 (char 4)."),
        (
            "l.json",
            '{"a.jpg": ["sea"], "b.jpg": [], "a.jpg": ["sky"]}',
            "'{path}' cannot be read as JSON: the key 'a.jpg' is repeated in one object, with ['sea'] and ['sky']; "
            "merge them, or remove one.",
        ),
        (
            "l.json",
            '{"a.jpg": {"sea": 1, "sea": 0}}',
            "'{path}' cannot be read as JSON: the key 'sea' is repeated in one object, with 1 and 0; merge them, or "
            "remove one.",
        ),
        (
            "l.jsonl",
            LINES + '{"image": "d.jpg", "labels": ["sea"], "labels": ["sky"]}',
            "'{path}', line 4 cannot be read as JSON: the key 'labels' is repeated in one object, with ['sea'] and "
            "['sky']; merge them, or remove one.",
        ),
        ("l.jsonl", "\n\n", f"'{{path}}' holds [], but no image. {LAYOUTS}"),
        ("l.json", [], f"'{{path}}' holds [], but no image. {LAYOUTS}"),
        ("l.json", {}, f"'{{path}}' holds {{{{}}}}, but no image. {LAYOUTS}"),
        ("l.json", '"a.jpg"', f"'{{path}}' holds 'a.jpg', but no image. {LAYOUTS}"),
        ("l.json", [[1], 5], f"'{{path}}' holds 5 in row 1 (counted from 0). {LAYOUTS}"),
        ("l.json", ["a.jpg"], f"'{{path}}' holds 'a.jpg' in row 0 (counted from 0). {LAYOUTS}"),
        ("l.json", [*OBJECTS, ["sea"]], f"'{{path}}' holds ['sea'] in row 3 (counted from 0). {LAYOUTS}"),
        ("l.jsonl", LINES + "\n5\n", f"'{{path}}' holds 5 in line 5. {LAYOUTS}"),
        (
            "l.jsonl",
            LINES + '{"image": "d.jpg", "label": ["sea"]}\n',
            "'{path}' has no 'labels' in line 4. Did you mean 'label'? Say with image_key and labels_key where images "
            "and labels are.",
        ),
        (
            "l.json",
            [*OBJECTS, {"labels": ["sea"]}],
            "'{path}' has no 'image' in row 3 (counted from 0). Say with image_key and labels_key where images and "
            "labels are.",
        ),
        (
            "l.json",
            [{"image": "a.jpg", "x": 1, "y": 2}],
            "The objects in '{path}' have none of the keys 'labels', 'label', 'tags', 'tag', 'classes', 'categories'. "
            "Beside the image they have 'x', 'y'; say with labels_key where the labels are.",
        ),
        (
            "l.json",
            [{}],
            "The objects in '{path}' have none of the keys 'labels', 'label', 'tags', 'tag', 'classes', 'categories'. "
            "Beside the image they have nothing; say with labels_key where the labels are.",
        ),
        (
            "l.json",
            [*OBJECTS, {"image": None, "labels": []}],
            "'{path}' has None as 'image' in row 3 (counted from 0). The name of an image is a non-empty string or an "
            "integer.",
        ),
        (
            "l.jsonl",
            LINES + '{"image": "b.jpg", "labels": []}\n',
            "'{path}' names the image '{b}' twice: in line 2 and line 4. Merge the two entries, or remove one.",
        ),
        (
            "l.json",
            {**LISTS, "x.jpg": []},
            "'{path}' names 1 of 4 images that do not exist; the first is '{x}' in the entry 'x.jpg'. Correct the "
            "folder of the images, or remove these entries.",
        ),
        (
            "l.json",
            {"a.jpg": ["sea"], "b.jpg": None},
            "The labels (y) in '{path}' cannot be used: the entry 'b.jpg' is None. A row is a list, tuple, set or 1-D "
            "array of names, a string or a dict. Write [] if the image has no labels; if they are unknown, pass a "
            "table with a row of NaN.",
        ),
        (
            "l.json",
            {"a.jpg": ["sea"], "b.jpg": {"sky": 2}},
            "The labels (y) in '{path}' cannot be used: the entry 'b.jpg' gives 'sky' as 2. Write 1, 0 or None "
            "(unknown).",
        ),
        (
            "l.json",
            {"a.jpg": ["sea"], "b.jpg": {"sky": "row 0" + 80 * "x"}},
            "The labels (y) in '{path}' cannot be used: the entry 'b.jpg' gives 'sky' as 'row 0"
            + 71 * "x"
            + ".... Write 1, 0 or None (unknown).",
        ),
        (
            "l.json",
            {"a.jpg": [], "b.jpg": []},
            "The labels (y) in '{path}' cannot be used: No row of y has a label, so there are no classes to learn. "
            "Name them with classes=[...].",
        ),
        (
            "l.json",
            [{"image": "a.jpg", "labels": [{"label": "sea"}]}],
            "The labels (y) in '{path}' cannot be used: {{'label': 'sea'}} in row 0 (counted from 0) is no label: a "
            "label is a non-empty string or an integer. Write [] for an image without labels, and a dict such as "
            "{{'cat': None}} where one is unknown.",
        ),
        (
            "l.json",
            ROWS,
            "The labels in '{path}' are rows of numbers. Name the classes in their order with classes=[...]; or, if "
            "the numbers are labels, write them as strings.",
        ),
    ],
    ids=[
        "empty",
        "blank",
        "not JSON",
        "line not JSON",
        "line in .json not JSON",
        "lists a line",
        "repeated image as a key",
        "repeated label",
        "repeated key in a line",
        "blank lines",
        "empty list",
        "empty object",
        "string",
        "number among rows",
        "names of images",
        "list among objects",
        "number among lines",
        "line without labels",
        "object without image",
        "no key of labels",
        "empty object in a list",
        "image that is none",
        "repeated image",
        "missing image",
        "no list",
        "unknown value",
        "long value that looks like a row",
        "no labels",
        "objects as labels",
        "no classes",
    ],
)
def test_json_that_needs_guessing_is_refused(tmp_path, name, content, message):
    path = write(tmp_path, content, name)
    refuse(message.format(path=path, b=tmp_path / "b.jpg", x=tmp_path / "x.jpg"), path)


def test_json_nested_too_deep_is_refused(tmp_path):
    path = write(tmp_path, "[" * 200_000)
    with pytest.raises(InputError, match=rf"^'{re.escape(str(path))}' cannot be read as JSON: .*recursion.*\.$"):
        read_json(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"a.jpg": [1, 1], "b.jpg": [1, 1, 0], "c.jpg": [1]},
            "'{path}' has 2 of 3 rows that are not lists of 2 numbers, one per class; the first, in the entry 'b.jpg', "
            "is a list of 3.",
        ),
        (
            {"a.jpg": [1, 1], "b.jpg": None},
            "'{path}' has 1 of 2 rows that are not lists of 2 numbers, one per class; the first, in the entry 'b.jpg', "
            "is None.",
        ),
        (
            {"a.jpg": [1, 0], "b.jpg": [1, 2]},
            "'{path}' has 2 in the entry 'b.jpg', column 'sunset'. A row of numbers holds 0 and 1, or -1 and 1, and "
            "null where a label is unknown.",
        ),
        (
            {"a.jpg": {"sunset": 1, "sea": None}, "b.jpg": {"sea": 1, "sunset": "yes"}},
            "'{path}' has 'yes' in the entry 'b.jpg', column 'sunset'. A row of numbers holds 0 and 1, or -1 and 1, "
            "and null where a label is unknown.",
        ),
        (
            {"a.jpg": [1, 0], "b.jpg": ["1", 0]},
            "'{path}' has '1' in the entry 'b.jpg', column 'sea'. A row of numbers holds 0 and 1, or -1 and 1, and "
            "null where a label is unknown.",
        ),
        (
            {"a.jpg": [1, 10**400]},
            "'{path}' has 1"
            + 76 * "0"
            + "... in the entry 'a.jpg', column 'sunset'. A row of numbers holds 0 and 1, or "
            "-1 and 1, and null where a label is unknown.",
        ),
        (
            {"a.jpg": [1, [0]]},
            "'{path}' has [0] in the entry 'a.jpg', column 'sunset'. A row of numbers holds 0 and 1, or -1 and 1, and "
            "null where a label is unknown.",
        ),
        (
            {"a.jpg": [1, 0], "b.jpg": [-1, 1]},
            "The labels (y) in '{path}' cannot be used: y holds -1 (first at the entry 'b.jpg', column 'sea') beside 0 "
            "or NaN, so -1 may mean absent or uncertain. Say which with read_json(path, "
            'uncertain="missing"|"positive"|"negative").',
        ),
        (
            {"row 1.jpg": ["row 0"], "b.jpg": ["sea", 'it\'s "row 1" of y']},
            "The labels (y) in '{path}' cannot be used: y holds 2 label(s) that are not among the 2 classes: 'row 0' "
            "in the entry 'row 1.jpg'. 'it\\'s \"row 1\" of y' in the entry 'b.jpg'. Correct them, or name every class "
            "with classes=[...].",
        ),
        (
            {"a.jpg": ["sea"], "b.jpg": ["sae"]},
            "The labels (y) in '{path}' cannot be used: y holds 1 label(s) that are not among the 2 classes: 'sae' in "
            "the entry 'b.jpg'. Did you mean 'sea'? Correct them, or name every class with classes=[...].",
        ),
    ],
    ids=["ragged", "no row", "2", "string in a dict", "string", "huge", "list", "-1 and 0", "rows", "unknown label"],
)
def test_labels_that_do_not_fit_the_classes_are_refused(tmp_path, content, message):
    path = write(tmp_path, content, images=content)
    refuse(message.format(path=path), path, classes=CLASSES)


NUMBERS = {"classes": CLASSES, "pattern": "{i}.jpg"}


def test_a_ragged_row_of_a_list_is_named_by_its_number(tmp_path):
    path = write(tmp_path, [[1, 0], [1]], images=["1.jpg", "2.jpg"])
    refuse(
        f"'{path}' has 1 of 2 rows that are not lists of 2 numbers, one per class; the first, in row 1 (counted from "
        "0), is a list of 1.",
        path,
        **NUMBERS,
    )


def test_more_rows_than_images_are_refused(tmp_path):
    path = write(tmp_path, [[1, 0], [1, 1], [0, 0]], images=["1.jpg", "2.jpg"])
    refuse(
        f"'{path}' names 1 of 3 images that do not exist; the first is '{tmp_path / '3.jpg'}' in row 2 (counted from "
        "0). Correct the folder of the images, or remove these entries.",
        path,
        **NUMBERS,
    )


@pytest.mark.parametrize("more", ["0.jpg", "3.jpg"])
def test_more_images_than_rows_are_refused(tmp_path, more):
    path = write(tmp_path, [[1, 0], [1, 1]], images=["1.jpg", "2.jpg", more])
    refuse(
        f"'{path}' has 2 rows, for '{tmp_path / '1.jpg'}' to '{tmp_path / '2.jpg'}', but there is also "
        f"'{tmp_path / more}'. Add the missing rows, or correct first, which is the number of the image of the first "
        "row.",
        path,
        **NUMBERS,
    )


@pytest.mark.parametrize("pattern", [None, "a.jpg", "{id}.jpg", "{i}{}.jpg", "{i.x}", "{i[0]}", "{i", "{i:q}"])
def test_rows_without_names_need_a_pattern_with_a_number(tmp_path, pattern):
    path = write(tmp_path, [[1, 0]])
    refuse(
        "The 'pattern' parameter of read_json must be a string with {i} in it, for rows that name no image. Got "
        f"{pattern!r} instead.",
        path,
        pattern=pattern,
        classes=CLASSES,
    )


def test_rows_with_names_need_a_pattern_with_the_name(tmp_path):
    refuse(
        "The 'pattern' parameter of read_json must be None, or a string with {id} in it. Got '{i}.jpg' instead.",
        write(tmp_path, LISTS),
        pattern="{i}.jpg",
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("images", 3, "None, or a path"),
        ("image_key", "", "None, or a non-empty string"),
        ("first", -1, "an integer >= 0"),
        ("labels_key", 1, "None, or a non-empty string"),
        ("label_sep", "", "None, or a non-empty string"),
        ("uncertain", "nan", "None, 'missing', 'positive' or 'negative'"),
        ("check_files", 1, "True or False"),
        ("return_X_y", None, "True or False"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, name, value, allowed):
    message = f"The {name!r} parameter of read_json must be {allowed}. Got {value!r} instead."
    refuse(message, write(tmp_path, LISTS), **{name: value})


@pytest.fixture(scope="module")
def photographs(shared_data):
    """The 1,600 photographs: their folder, and their labels as pandas alone reads them."""
    folder = shared_data / "data" / "miml"
    return folder / "images", pd.read_csv(folder / "labels.csv", index_col="image")


def list_labels(table):
    return {name: [label for label, value in row.items() if value] for name, row in table.to_dict("index").items()}


@pytest.mark.parametrize(
    ("name", "convert", "with_classes"),
    [
        ("l.json", lambda table: dict(zip(table.index, (2 * table - 1).to_numpy().tolist(), strict=True)), True),
        ("l.json", list_labels, False),
        ("l.json", lambda table: table.to_dict("index"), False),
        ("l.json", lambda table: [{"image": k, "labels": v} for k, v in list_labels(table).items()], False),
        (
            "l.jsonl",
            lambda table: "\n".join(json.dumps({"image": k, "labels": v}) for k, v in list_labels(table).items()),
            False,
        ),
    ],
    ids=["rows", "lists", "dicts", "objects", "lines"],
)
def test_photographs_come_back_from_every_layout(tmp_path, photographs, name, convert, with_classes):
    folder, labels = photographs
    path = write(tmp_path, convert(labels), name)
    data = read_json(path, images=folder, classes=list(labels.columns) if with_classes else None)
    assert data.paths == [os.path.join(folder, image) for image in labels.index]
    pd.testing.assert_frame_equal(data.target, labels.reset_index(drop=True))


def test_photographs_come_back_from_a_list_of_rows(tmp_path, photographs):
    _, labels = photographs  # numbered with gaps: the rows get images of their own, numbered without
    images = [f"{number}.jpg" for number in range(1, 1601)]
    path = write(tmp_path, (2 * labels - 1).to_numpy().tolist(), images=images)
    data = read_json(path, classes=list(labels.columns), pattern="{i}.jpg")
    assert data.paths == [str(tmp_path / image) for image in images]
    pd.testing.assert_frame_equal(data.target, labels.reset_index(drop=True))
