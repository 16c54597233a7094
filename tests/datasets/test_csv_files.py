import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multilabelkit.checks import shorten
from multilabelkit.datasets.csv_files import encode_file_labels, read_csv
from multilabelkit.errors import InputError

NAN = np.nan


def write(folder, text, name="labels.csv", images=("a.jpg", "b.jpg", "c.jpg")):
    """Write a table and empty files for its images beside it."""
    for image in images:
        (folder / image).touch()
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def frame(**columns):
    unknown = any(value != value for column in columns.values() for value in column)
    return pd.DataFrame(columns, dtype=np.float32 if unknown else np.int64)


def refuse(message, path, **options):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        read_csv(path, **options)


SCENES = frame(sea=[1, 0, 1], sunset=[1, 0, 0])


@pytest.mark.parametrize(
    ("name", "text", "options"),
    [
        ("l.csv", "image,sea,sunset\na.jpg,1,1\nb.jpg,0,0\nc.jpg,1,0\n", {}),
        ("l.csv", "image,sea,sunset\na.jpg,1,1\nb.jpg,-1,-1\nc.jpg,1,-1\n", {}),
        ("l.csv", "image,sea,sunset\na.jpg,1.0, 1 \nb.jpg, 0.0,0\nc.jpg,1,0\n", {}),
        ("l.csv", "image,sea,sunset\na.jpg,True,TRUE\nb.jpg,False,False\nc.jpg, true ,false\n", {}),
        ("l.csv", "sea,Image_ID,sunset\n1,a.jpg,1\n0,b.jpg,0\n1,c.jpg,0\n", {}),
        ("l.csv", "photo,sea,sunset\na.jpg,1,1\nb.jpg,0,0\nc.jpg,1,0\n", {}),
        ("l.csv", "sea,photo,sunset\n1,a.jpg,1\n0,b.jpg,0\n1,c.jpg,0\n", {"image_column": "photo"}),
        ("l.csv", ",image,sea,sunset\n0,a.jpg,1,1\n1,b.jpg,0,0\n2,c.jpg,1,0\n", {}),
        ("l.csv", "Unnamed: 0,image,sea,sunset\n0,a.jpg,1,1\n1,b.jpg,0,0\n1,c.jpg,1,0\n", {}),
        (
            "l.csv",
            "Unnamed: 0.1,Unnamed: 0,file,x\n0,0,a.jpg,sea|sunset\n1,1,b.jpg,\n2,2,c.jpg,sea\n",
            {"label_sep": "|"},
        ),
        ("l.csv", "sea,Unnamed: 1,sunset\n1,a.jpg,1\n0,b.jpg,0\n1,c.jpg,0\n", {"image_column": "Unnamed: 1"}),
        ("l.csv", "id,sea,sunset\na,1,1\nb,0,0\nc,1,0\n", {"pattern": "{id}.jpg"}),
        ("l.csv", "image,sunset,age,sea\na.jpg,1,7,1\nb.jpg,0,,0\nc.jpg,0,9,1\n", {"classes": ["sea", "sunset"]}),
        ("l.csv", "image;sea;sunset\na.jpg;1;1\nb.jpg;0;0\nc.jpg;1;0\n", {"sep": ";"}),
        ("l.CSV", "\ufeffImage ; sea;sunset;\r\na.jpg;1;1;\r\nb.jpg;0;0;\r\nc.jpg;1;0;\r\n\r\n", {}),
        ("l.tsv", "image\tsea\tsunset\na.jpg\t1\t1\nb.jpg\t0\t0\nc.jpg\t1\t0\n", {}),
        ("l.txt", "3\nsea sunset\na.jpg  1  1\nb.jpg -1 -1\nc.jpg  1 -1\n", {}),
        ("l.csv", "image,labels\na.jpg,sunset|sea\nb.jpg,\nc.jpg, sea \n", {"label_sep": "|"}),
        ("l.csv", 'image;labels\r\na.jpg;"sea, sunset, sea"\r\nb.jpg;\r\nc.jpg;sea,\r\n', {"label_sep": ","}),
        ("l.csv", 'image,labels\na.jpg,"sea,sunset"\nb.jpg,""\nc.jpg,"sea"\n', {"label_sep": ","}),
        (
            "l.csv",
            "image,x,tags\na.jpg,7,sea sunset\nb.jpg,8,\nc.jpg,9,sea\n",
            {"label_column": "tags", "label_sep": " "},
        ),
        ("l.csv", "image,x\na.jpg,sea|sunset\nb.jpg,\nc.jpg,sea\n", {"label_sep": "|", "classes": ["sea", "sunset"]}),
    ],
    ids=[
        "0 and 1",
        "-1 and 1",
        "padded decimals",
        "booleans",
        "image column by name",
        "image column first",
        "image column given",
        "index of pandas",
        "index of pandas with its name",
        "two of them and a list",
        "one of them chosen",
        "pattern",
        "classes choose columns",
        "semicolons",
        "Excel with semicolons",
        "tabs",
        "CelebA text",
        "list",
        "quoted list of Excel",
        "quoted list",
        "list in a column given",
        "list with classes",
    ],
)
def test_read_csv_reads_every_layout_alike(tmp_path, name, text, options):
    path = write(tmp_path, text, name)
    data = read_csv(path, **options)
    assert sorted(data) == ["DESCR", "paths", "target", "target_names"]
    assert data.paths == [str(tmp_path / image) for image in ("a.jpg", "b.jpg", "c.jpg")]
    pd.testing.assert_frame_equal(data.target, SCENES)
    assert data.target_names == ["sea", "sunset"]
    assert f"Table in '{path}': n_samples=3, n_classes=2." == data.DESCR


def test_read_csv_returns_a_pair_on_request(tmp_path):
    paths, target = read_csv(write(tmp_path, "image,sea\na.jpg,1\n"), return_X_y=True)
    assert paths == [str(tmp_path / "a.jpg")]
    pd.testing.assert_frame_equal(target, frame(sea=[1]))


@pytest.mark.parametrize("cell", ["", " ", "NaN", "NA", "null", "None"])
def test_empty_cells_are_unknown(tmp_path, cell):
    path = write(tmp_path, f"image,sea,sunset\na.jpg,1,{cell}\nb.jpg,0,True\n")
    pd.testing.assert_frame_equal(read_csv(path).target, frame(sea=[1, 0], sunset=[NAN, 1]))


@pytest.mark.parametrize(("uncertain", "value"), [("missing", NAN), ("positive", 1), ("negative", 0)])
def test_uncertain_says_what_minus_one_is(tmp_path, uncertain, value):
    path = write(tmp_path, "Path,Sex,edema,fracture\na.jpg,F,1.0,\nb.jpg,M,-1.0,0.0\n")
    target = read_csv(path, classes=["edema", "fracture"], uncertain=uncertain).target
    pd.testing.assert_frame_equal(target, frame(edema=[1, value], fracture=[NAN, 0]))


def test_a_single_column_of_text_holds_one_label_each(tmp_path):
    path = write(tmp_path, "image,label\na.jpg,NA\nb.jpg,\nc.jpg,dog\n")
    pd.testing.assert_frame_equal(read_csv(path).target, frame(NA=[1, 0, 0], dog=[0, 0, 1]))


def test_a_single_column_of_cells_is_a_class(tmp_path):
    path = write(tmp_path, "image,cat\na.jpg,1\nb.jpg,NA\nc.jpg,0\n")
    pd.testing.assert_frame_equal(read_csv(path).target, frame(cat=[1, NAN, 0]))


def test_a_label_in_brackets_may_be_a_class(tmp_path):
    path = write(tmp_path, "image,label\na.jpg,[none]\nb.jpg,sea\n")
    assert read_csv(path, classes=["[none]", "sea"]).target.to_numpy().tolist() == [[1, 0], [0, 1]]


def test_labels_that_look_like_numbers_stay_text_in_a_label_column(tmp_path):
    path = write(tmp_path, "image,label\na.jpg,007\nb.jpg,7\n")
    target = read_csv(path, label_column="label").target
    pd.testing.assert_frame_equal(target, pd.DataFrame({"007": [1, 0], "7": [0, 1]}))


def test_image_names_that_look_like_numbers_stay_text(tmp_path):
    path = write(tmp_path, "image,sea\n000001,1\n1e5,0\nNA,1\n", images=["000001", "1e5", "NA"])
    assert read_csv(path).paths == [str(tmp_path / name) for name in ("000001", "1e5", "NA")]


def test_images_lie_in_the_folder_given_unless_their_path_is_absolute(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    absolute = tmp_path / "b.jpg"
    path = write(tmp_path, f'image,sea\na.jpg,1\n"{absolute}",0\n', images=["photos/a.jpg", "b.jpg"])
    expected = [str(folder / "a.jpg"), str(absolute)]
    assert read_csv(path, images=folder).paths == read_csv(path, images=str(folder)).paths == expected


def test_urls_stay_as_they_are_and_are_not_looked_for(tmp_path):
    uri = (tmp_path / "a.jpg").as_uri()
    path = write(tmp_path, f"image,sea\ns3://bucket/a.png,1\nhttps://host/b.jpg,0\n{uri},1\nc.jpg,0\n")
    assert read_csv(path).paths == ["s3://bucket/a.png", "https://host/b.jpg", uri, str(tmp_path / "c.jpg")]
    assert read_csv(path, n_rows=2, pattern="{id}.gz").paths == ["s3://bucket/a.png.gz", "https://host/b.jpg.gz"]


def test_a_column_of_urls_names_the_images_unless_another_does(tmp_path):
    path = write(tmp_path, "label,image_url\nsea,https://host/b.jpg\n")
    assert read_csv(path).paths == ["https://host/b.jpg"]
    path = write(tmp_path, "label,URL,file_name\nsea,https://host/b.jpg,a.jpg\n")
    assert read_csv(path, label_column="label").paths == [str(tmp_path / "a.jpg")]


def test_a_pattern_may_make_urls_and_the_images_lie_behind_one(tmp_path):
    path = write(tmp_path, "image,sea\na,1\nsub/b,0\n")
    expected = ["s3://bucket/a.jpg", "s3://bucket/sub/b.jpg"]
    assert read_csv(path, pattern="s3://bucket/{id}.jpg").paths == expected
    assert read_csv(path, pattern="{id}.jpg", images="s3://bucket/").paths == expected


def test_files_behind_urls_must_exist(tmp_path):
    uri = (tmp_path / "none.jpg").as_uri()
    path = write(tmp_path, f"image,sea\ns3://bucket/a.png,1\n{uri},1\n")
    refuse(
        f"'{path}' names 1 of 2 images that do not exist; the first is '{uri}' in line 3. Correct the folder of the "
        "images, or remove these entries.",
        path,
    )


def test_images_lie_in_folders_with_blanks_and_accents(tmp_path):
    (tmp_path / "my photos" / "Zürich").mkdir(parents=True)
    path = write(tmp_path, "image,sea\nZürich/früh am See.jpg,1\n", images=["my photos/Zürich/früh am See.jpg"])
    expected = [os.path.join(tmp_path, "my photos", "Zürich/früh am See.jpg")]
    assert read_csv(path, images=tmp_path / "my photos").paths == expected
    assert read_csv(str(path), images=f"{tmp_path / 'my photos'}/").paths == expected


def test_images_lie_beside_a_table_in_the_working_folder(tmp_path, monkeypatch):
    write(tmp_path, "image,sea\na.jpg,1\n")
    monkeypatch.chdir(tmp_path)
    assert read_csv("labels.csv").paths == ["a.jpg"]


def test_images_need_not_exist_on_request(tmp_path):
    path = write(tmp_path, "image,sea\nx.jpg,1\n")
    folder = tmp_path / "nowhere"
    assert read_csv(path, images=folder, check_files=False).paths == [str(folder / "x.jpg")]


def test_n_rows_reads_the_first_rows(tmp_path):
    path = write(tmp_path, "image,sea\na.jpg,1\nb.jpg,0\nmissing.jpg,yes\n")
    data = read_csv(path, n_rows=2)
    assert data.paths == [str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")]
    pd.testing.assert_frame_equal(data.target, frame(sea=[1, 0]))


CELEBA_TXT = "3\nBald Smiling \na.jpg -1  1\nb.jpg  1 -1\nc.jpg -1 -1\n"
CELEBA_CSV = "image_id,Bald,Smiling\na.jpg,-1,1\nb.jpg,1,-1\nc.jpg,-1,-1\n"


@pytest.mark.parametrize(
    ("split_name", "split_text"),
    [
        ("list_eval_partition.csv", "image_id,partition\nc.jpg,2\na.jpg,0\nb.jpg,1\n"),
        ("list_eval_partition.txt", "a.jpg 0\nb.jpg 1\nc.jpg 2\nd.jpg 2\n"),
        ("split.csv", "\ufeffimage;split\r\na.jpg;Train\r\nb.jpg;valid\r\nc.jpg;test\r\n"),
        ("split.csv", "a.jpg,train\nb.jpg,Val\n\nc.jpg, test\na.jpg,train\n"),
    ],
    ids=["csv", "txt", "Excel", "names without header"],
)
@pytest.mark.parametrize(
    ("name", "text"), [("list_attr_celeba.csv", CELEBA_CSV), ("list_attr_celeba.txt", CELEBA_TXT)], ids=["csv", "txt"]
)
def test_celeba_is_read_with_its_split_file(tmp_path, name, text, split_name, split_text):
    path, split = write(tmp_path, text, name), write(tmp_path, split_text, split_name)
    data = read_csv(path, split=split)
    pd.testing.assert_frame_equal(data.target, frame(Bald=[0, 1, 0], Smiling=[1, 0, 0]))
    pd.testing.assert_series_equal(data.split, pd.Series(["train", "valid", "test"], name="split", dtype=object))
    assert list(read_csv(path, split=str(split), n_rows=2).split) == ["train", "valid"]


def test_split_may_be_a_column(tmp_path):
    path = write(tmp_path, "image,part,sea\na.jpg,train,1\nb.jpg,VALIDATION,0\nc.jpg,2,1\n")
    data = read_csv(path, split="part")
    assert list(data.split) == ["train", "valid", "test"]
    assert data.target_names == ["sea"]
    assert list(read_csv(path, split="part", label_column="sea").split) == ["train", "valid", "test"]


def test_the_split_file_knows_images_by_what_the_table_calls_them(tmp_path):
    path = write(tmp_path, "id,sea\na,1\nb,0\n")
    split = write(tmp_path, "a,train\nb,test\n", "split.csv")
    assert list(read_csv(path, pattern="{id}.jpg", split=split).split) == ["train", "test"]


def test_a_table_or_folder_that_does_not_exist_is_refused(tmp_path):
    path = write(tmp_path, "image,sea\na.jpg,1\n")
    refuse(f"The table '{tmp_path / 'no.csv'}' does not exist; check the path.", tmp_path / "no.csv")
    refuse(f"The folder of images '{tmp_path / 'no'}' does not exist; check the path.", path, images=tmp_path / "no")
    refuse(
        f"The folder of images '{os.path.join('~', 'no')}' does not exist; check the path. '~' is not replaced by your "
        "home folder; os.path.expanduser does that.",
        path,
        images="~/no",
    )


CORRECT = (
    "; {wrong} of the {all} cells of this column are none of 0, 1, -1 and empty (unknown). Correct them; or, if it is "
    "no class, name the classes with classes=[...], or pass label_column='{name}' or split='{name}'."
)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "image,sea,sky\n\na.jpg,1,0\n\nb.jpg,2,0\nc.jpg,5,1\n",
            {},
            "'{path}' has '2' in line 5, column 'sea'" + CORRECT.format(wrong=2, all=3, name="sea"),
        ),
        (
            "image,sea,sky\na.jpg,1,0\nb.jpg,,0.5\n",
            {},
            "'{path}' has '0.5' in line 3, column 'sky'" + CORRECT.format(wrong=1, all=2, name="sky"),
        ),
        (
            'image,sea,"a\nsky"\n"a.jpg",1,1\nb.jpg,0,yes\n',
            {},
            "'{path}' has 'yes' in line 4, column 'a\\nsky'" + CORRECT.format(wrong=1, all=2, name="a\\nsky"),
        ),
        (
            "image,sea,split\na.jpg,1,train\nb.jpg,0,test\n",
            {},
            "'{path}' has 'train' in line 2, column 'split'" + CORRECT.format(wrong=2, all=2, name="split"),
        ),
        (
            "image,sea\na.jpg,1\n ,0\n",
            {},
            "'{path}' names no image in line 3. Add it, or remove the row.",
        ),
        (
            "image\na.jpg\n",
            {"sep": "|"},
            "'{path}' has the single column 'image', if its fields are separated by '|'; it needs one for the images "
            "and one for labels. Pass the right separator as sep.",
        ),
        (
            "image,split\na.jpg,train\n",
            {"split": "split"},
            "'{path}' has no column of labels beside that of the images, 'image'.",
        ),
        (
            "image,sea,sky\na.jpg,1,0\n",
            {"label_sep": "|"},
            "'{path}' has 2 columns beside that of the images, 'image'. Say with label_column=... which of them "
            "label_sep splits.",
        ),
        (
            "image,sea,sky\na.jpg,1,0\n",
            {"classes": ["sae", "sky"]},
            "'{path}' has no column 'sae'. Did you mean 'sea' or 'image'? It has 'image', 'sea', 'sky'.",
        ),
        (
            ",sea,sky\na.jpg,1,0\n",
            {"image_column": "image"},
            "'{path}' has no column 'image'. It has 'sea', 'sky'.",
        ),
        (
            "image,sea,sky\na.jpg,1,0\n",
            {"label_column": "labels"},
            "'{path}' has no column 'labels'. It has 'image', 'sea', 'sky'.",
        ),
        (
            "image,sea\na.jpg,1\n\nb.jpg,0\na.jpg,0\n",
            {},
            "'{path}' names the image '{a}' twice: in line 2 and line 5. Merge the two entries, or remove one.",
        ),
        (
            "image,sea\na.jpg,1\n\nb.jpg,0\na.jpg,0\n",
            {"check_files": False},
            "'{path}' names the image '{a}' twice: in line 2 and line 5. Merge the two entries, or remove one.",
        ),
        (
            "image,sea\na.jpg,1\n\nx.jpg,0\ny.jpg,0\n",
            {},
            "'{path}' names 2 of 3 images that do not exist; the first is '{x}' in line 4. Correct the folder of the "
            "images, or remove these entries.",
        ),
        (
            "image,labels\na.jpg,sea\n\nb.jpg,sea|sky\n",
            {},
            "The labels (y) in '{path}' cannot be used: 'sea|sky' in line 4 looks like several labels in one string. "
            "Pass each row as one string with label_sep='|' to split it, or name the classes with classes=[...].",
        ),
        (
            "image,labels\na.jpg,sea\n\nb.jpg,sae\n",
            {"classes": ["sea", "sky"]},
            "The labels (y) in '{path}' cannot be used: y holds 1 label(s) that are not among the 2 classes: 'sae' in "
            "line 4. Did you mean 'sea'? Correct them, or name every class with classes=[...].",
        ),
        (
            'image,labels\na.jpg,sea\nb.jpg,row 1\nc.jpg,"it\'s row 2"\n',
            {"classes": ["sea"]},
            "The labels (y) in '{path}' cannot be used: y holds 2 label(s) that are not among the 1 classes: 'row 1' "
            'in line 3. "it\'s row 2" in line 4. Correct them, or name every class with classes=[...].',
        ),
        (
            'image,labels\na.jpg,"say ""row 3"""\nb.jpg,"it\'s ""row 0"" of y"\n',
            {"classes": ["row 1"]},
            "The labels (y) in '{path}' cannot be used: y holds 2 label(s) that are not among the 1 classes: "
            "'say \"row 3\"' in line 2. Did you mean 'row 1'? 'it\\'s \"row 0\" of y' in line 3. Correct them, or name "
            "every class with classes=[...].",
        ),
        (
            "image,labels\na.jpg,sea\nb.jpg,row 0|" + "x" * 80 + "\n",
            {},
            "The labels (y) in '{path}' cannot be used: 'row 0|" + "x" * 70 + "... in line 3 looks like several labels "
            "in one string. Pass each row as one string with label_sep='|' to split it, or name the classes with "
            "classes=[...].",
        ),
        (
            "image,labels\na.jpg,sea\nb.jpg,\"it's row 0|" + "x" * 80 + '"\n',
            {},
            "The labels (y) in '{path}' cannot be used: \"it's row 0|" + "x" * 65 + "... in line 3 looks like several "
            "labels in one string. Pass each row as one string with label_sep='|' to split it, or name the classes "
            "with classes=[...].",
        ),
        (
            'image,row 0,"as_indicator(y, "\na.jpg,1,0\nb.jpg,-1,1\n',
            {},
            "The labels (y) in '{path}' cannot be used: y holds -1 (first at line 3, column 'row 0') beside 0 or NaN, "
            "so -1 may mean absent or uncertain. Say which with read_csv(path, "
            'uncertain="missing"|"positive"|"negative").',
        ),
        (
            "image,labels\na.jpg,sea\n\nb.jpg,\"['sea', 'sky']\"\n",
            {"label_sep": ","},
            "'{path}' has \"['sea', 'sky']\" in line 4, as Python writes a list. Write the labels with a separator "
            "between them, such as sea|sky, and pass it as label_sep; or, if this is the name of one label, name the "
            "classes with classes=[...].",
        ),
        (
            "image,labels\na.jpg,[]\n",
            {},
            "'{path}' has '[]' in line 2, as Python writes a list. Write the labels with a separator between them, "
            "such as sea|sky, and pass it as label_sep; or, if this is the name of one label, name the classes with "
            "classes=[...].",
        ),
        (
            "image,sea,sky\na.jpg,1,0\nb.jpg,-1,1\n",
            {},
            "The labels (y) in '{path}' cannot be used: y holds -1 (first at line 3, column 'sea') beside 0 or NaN, so "
            "-1 may mean absent or uncertain. Say which with read_csv(path, "
            'uncertain="missing"|"positive"|"negative").',
        ),
        (
            "image,sea,sky\na.jpg,,\n",
            {},
            "The labels (y) in '{path}' cannot be used: y holds no known label: every cell is NaN. Pass at least one 0 "
            "or 1.",
        ),
        (
            "image,part,sea\na.jpg,train,1\n\nb.jpg,dev,0\n",
            {"split": "part"},
            "'{path}' gives the split 'dev' in line 4. Write train, valid or test, or 0, 1 or 2.",
        ),
        (
            "image,part,sea\na.jpg,train,1\nb.jpg,,0\n",
            {"split": "part"},
            "'{path}' gives the split '' in line 3. Write train, valid or test, or 0, 1 or 2.",
        ),
        (
            "image,split,sea\na.jpg,train,1\n",
            {"split": "splt"},
            "The split 'splt' is neither a column of '{path}' nor a file that exists. Did you mean 'split'?",
        ),
    ],
    ids=[
        "2",
        "0.5",
        "yes",
        "split as a class",
        "no image",
        "no column of labels",
        "only a split",
        "several columns of lists",
        "no class column",
        "no image column",
        "no label column",
        "repeated image",
        "repeated image, not checked",
        "missing image",
        "list without separator",
        "unknown label",
        "labels that look like rows",
        "labels that look like rows, with both quotes",
        "long label that looks like a row",
        "long label that looks like a row, with a quote",
        "column that looks like a row",
        "list of Python",
        "empty list of Python",
        "-1 and 0",
        "all unknown",
        "unknown split",
        "empty split",
        "no split",
    ],
)
def test_a_table_that_needs_guessing_is_refused(tmp_path, text, options, message):
    path = write(tmp_path, text)
    refuse(message.format(path=path, a=tmp_path / "a.jpg", x=tmp_path / "x.jpg"), path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "image,split\na.jpg,0\n",
            "The split file '{split}' does not name 2 of 3 images in '{path}'; the first is 'b.jpg' in line 4. Add "
            "them to it.",
        ),
        (
            "a.jpg,0\n\na.jpg,1\n",
            "'{split}' names the image 'a.jpg' again, with another split, in line 3.",
        ),
        ("a.jpg,1,0\n", "The split file '{split}' has 3 columns. Keep two: images, splits."),
        (
            "image,split\na.jpg,3\n",
            "'{split}' gives the split '3' in line 2. Write train, valid or test, or 0, 1 or 2.",
        ),
        ("", "The split file '{split}' is empty; it has no line to read."),
    ],
    ids=["images without a split", "two splits", "three columns", "unknown split", "empty"],
)
def test_a_split_file_that_does_not_fit_is_refused(tmp_path, text, message):
    path = write(tmp_path, "image,sea\na.jpg,1\n\nb.jpg,0\nc.jpg,0\n")
    split = write(tmp_path, text, "split.csv")
    refuse(message.format(path=path, split=split), path, split=split)


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("images", 3, "None, or a path"),
        ("image_column", 0, "None, or a non-empty string"),
        ("pattern", ".jpg", "a string with {id} in it"),
        ("label_column", "", "None, or a non-empty string"),
        ("label_sep", "", "None, or a non-empty string"),
        ("uncertain", "nan", "None, 'missing', 'positive' or 'negative'"),
        ("split", 1, "None, or a path"),
        ("sep", "||", "None, or a single ASCII character, neither a quote nor a line break"),
        ("n_rows", 0, "None, or an integer >= 1"),
        ("check_files", 1, "True or False"),
        ("return_X_y", None, "True or False"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, name, value, allowed):
    message = f"The {name!r} parameter of read_csv must be {allowed}. Got {value!r} instead."
    refuse(message, write(tmp_path, "image,sea\na.jpg,1\n"), **{name: value})


def test_classes_must_be_a_list(tmp_path):
    path = write(tmp_path, "image,sea\na.jpg,1\n")
    refuse("classes must be a list of names. Got 'sea' instead.", path, classes="sea")


def test_a_path_must_be_one():
    refuse("The 'path' parameter of read_csv must be a path. Got None instead.", None)


NAMES = st.text(alphabet="ab1,;|\"' é\n", min_size=1, max_size=4).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.sets(NAMES, max_size=4), min_size=1, max_size=5).filter(any))
def test_labels_with_odd_names_come_back_from_both_layouts(tmp_path_factory, rows):
    classes = sorted(set().union(*rows))
    target = pd.DataFrame([[int(name in row) for name in classes] for row in rows], columns=classes)
    names = [f"{place}.jpg" for place in range(len(rows))]
    folder = tmp_path_factory.getbasetemp()
    target.set_index(pd.Index(names, name="image")).to_csv(folder / "cells.csv")
    pd.DataFrame({"image": names, "labels": map("/".join, rows)}).to_csv(folder / "lists.csv", index=False)
    for data in (
        read_csv(folder / "cells.csv", check_files=False),
        read_csv(folder / "lists.csv", check_files=False, label_sep="/", classes=classes),
    ):
        assert data.paths == [str(folder / name) for name in names]
        assert data.target.to_numpy().tolist() == target.to_numpy().tolist()
        assert data.target_names == classes


LIKE_ROWS = st.text(alphabet="row 01'\"\\.of y\n", min_size=1, max_size=90).filter(str.strip)


@settings(max_examples=300, deadline=None)
@given(labels=st.lists(LIKE_ROWS, min_size=2, max_size=3, unique=True))
@example(labels=["row 1", "it's row 2", 'say "row 3"'])
@example(labels=['it\'s "row 0"', "'", "at row 1"])
def test_messages_show_labels_as_they_are_and_places_instead_of_rows(labels):
    options = {"owner": "read_csv", "source": Path("l.csv"), "places": ["line 2", "line 5", "line 9"]}
    start = "The labels (y) in 'l.csv' cannot be used: "
    with pytest.raises(InputError) as caught:
        encode_file_labels([[label] for label in labels], options={"classes": ["ß"]}, **options)
    found = " ".join(f"{label!r} in {place}." for label, place in zip(labels, options["places"], strict=False))
    assert str(caught.value) == (
        f"{start}y holds {len(labels)} label(s) that are not among the 1 classes: {found} Correct them, or name every "
        "class with classes=[...]."
    )
    with pytest.raises(InputError) as caught:
        encode_file_labels([["sea"], [f"{labels[0]}|"]], options={}, **options)
    assert str(caught.value) == (
        f"{start}{shorten(labels[0] + '|')} in line 5 looks like several labels in one string. Pass each row as one "
        "string with label_sep='|' to split it, or name the classes with classes=[...]."
    )


@pytest.fixture(scope="module")
def photographs(shared_data):
    """The 1,600 photographs: their folder, and their labels as pandas alone reads them."""
    folder = shared_data / "data" / "miml"
    return folder / "images", pd.read_csv(folder / "labels.csv", index_col="image")


def write_celeba(table, path):
    rows = "".join(f"{name} {' '.join(f'{2 * v - 1:2d}' for v in row)}\n" for name, *row in table.itertuples())
    path.write_text(f"{len(table)}\n{' '.join(table.columns)} \n{rows}", encoding="utf-8")


def write_lists(table, path):
    lists = (table @ (table.columns + "|")).str.rstrip("|")
    lists.rename("labels").to_csv(path)


@pytest.mark.parametrize(
    ("name", "save", "options"),
    [
        ("labels.csv", lambda table, path: table.to_csv(path), {}),
        ("labels.csv", lambda table, path: (2 * table - 1).to_csv(path), {}),
        ("labels.csv", lambda table, path: (table == 1).to_csv(path), {}),
        ("labels.tsv", lambda table, path: table.to_csv(path, sep="\t"), {}),
        ("labels.csv", lambda table, path: table.reset_index().to_csv(path), {}),
        ("labels.csv", write_lists, {"label_sep": "|"}),
        ("list_attr_celeba.csv", lambda table, path: (2 * table - 1).to_csv(path, index_label="image_id"), {}),
        ("list_attr_celeba.txt", write_celeba, {}),
    ],
    ids=["0 and 1", "-1 and 1", "booleans", "tabs", "with index", "lists", "CelebA csv", "CelebA txt"],
)
def test_photographs_come_back_from_every_layout(tmp_path, photographs, name, save, options):
    folder, labels = photographs
    save(labels, tmp_path / name)
    data = read_csv(tmp_path / name, images=folder, **options)
    assert data.paths == [os.path.join(folder, image) for image in labels.index]
    pd.testing.assert_frame_equal(data.target, labels.reset_index(drop=True))


def test_photographs_are_read_from_their_own_table(photographs):
    folder, labels = photographs
    data = read_csv(folder.parent / "labels.csv", images=folder)
    assert (len(data.paths), data.target.sum().to_dict()) == (1600, labels.sum().to_dict())
