import errno
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multilabelkit import MultiLabelImageClassifier, __version__, cli
from multilabelkit.cli import main
from multilabelkit.data.images import encode_png
from multilabelkit.errors import InputError, MultiLabelKitError


@pytest.fixture
def small(monkeypatch):
    """The demo with few images."""
    monkeypatch.setattr(cli, "_N_TRAIN", 60)
    monkeypatch.setattr(cli, "_N_TEST", 20)


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_demo_runs_from_images_to_a_loaded_model(small, tmp_path, capsys, monkeypatch):
    """With a relative folder, as the README has it; 60 images teach nothing, so numbers do not matter here."""
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--epochs", "1", "--output", "some/folder", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    expected = [
        "Writing 60 training and 20 test images with 0 to 4 handwritten digits each to some/folder/",
        "Training a small network from scratch, then tuning one threshold per class on held-out images",
        "On 20 test images, drawn with digits that no training image shows:",
        "Model saved to some/folder/model/ and pictures of 16 test images to some/folder/predictions.png",
        "A fresh process loaded the model and agrees on 20 of 20 images",
    ]
    places = [printed.index(line) for line in expected]
    assert places == sorted(places)
    assert re.search(r"^class +support +threshold +precision +recall +f1 +AP$", printed, flags=re.MULTILINE)
    assert re.search(r"^macro-F1 [\d.]+ · micro-F1 [\d.]+ · mAP [\d.]+$", printed, flags=re.MULTILINE)
    assert re.search(r"^Done in \d+ s$", printed, flags=re.MULTILINE)
    folder = tmp_path / "some" / "folder"
    assert sorted(os.listdir(folder)) == [".multilabelkit-demo", "model", "predictions.png", "test", "train"]
    assert len(os.listdir(folder / "train")) == 60
    with Image.open(folder / "predictions.png") as picture:
        picture.load()
    with Image.open(folder / "test" / "0000.png") as image:
        assert (image.size, image.mode) == ((96, 96), "L")
    loaded = MultiLabelImageClassifier.load(folder / "model")
    assert loaded.random_state == 3
    assert len(loaded.history_) == 1


def test_a_model_that_predicts_otherwise_in_a_fresh_process_is_an_error(monkeypatch, tmp_path, capsys):
    answer = subprocess.CompletedProcess([], 0, stdout="3|7\n\n1\n", stderr="")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: answer)
    cli._compare_with_fresh_process(tmp_path, ["a", "b", "c"], [("3", "7"), (), ("1",)])
    assert capsys.readouterr().out == "A fresh process loaded the model and agrees on 3 of 3 images\n"
    with pytest.raises(
        MultiLabelKitError, match=r"^The loaded model predicts other labels than the one that was saved\.$"
    ):
        cli._compare_with_fresh_process(tmp_path, ["a", "b", "c"], [("3", "7"), ("1",), ()])


def test_a_fresh_process_that_fails_shows_why(monkeypatch, tmp_path):
    answer = subprocess.CompletedProcess([], 1, stdout="", stderr="ModelFileError: no")
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **keywords: answer)
    with pytest.raises(MultiLabelKitError, match=r"^A fresh process could not use the model:\nModelFileError: no$"):
        cli._compare_with_fresh_process(tmp_path, ["a"], [()])


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"multilabelkit {__version__}\n"


def test_version_costs_no_import_of_torch():
    code = "import sys\nfrom multilabelkit.cli import main\ntry:\n    main(['--version'])\nfinally:\n"
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}    print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert finished.stdout == f"multilabelkit {__version__}\nFalse\n"


def test_the_command_is_installed():
    from importlib.metadata import entry_points

    (command,) = entry_points(group="console_scripts", name="multilabelkit")
    assert command.load() is main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["demo", "--epochs", "0"], "argument --epochs: must be a whole number from 1 to 10000, not '0'"),
        (["demo", "--epochs", "two"], "argument --epochs: must be a whole number from 1 to 10000, not 'two'"),
        (["demo", "--epochs", "1.5"], "argument --epochs: must be a whole number from 1 to 10000, not '1.5'"),
        (["demo", "--seed", "-1"], "argument --seed: must be a whole number from 0 to 4294967295, not '-1'"),
        (["demo", "--seed", "4294967296"], "must be a whole number from 0 to 4294967295, not '4294967296'"),
    ],
)
def test_wrong_arguments_are_explained_before_anything_is_written(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_an_unwritable_output_folder_is_explained(small, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["demo", "--output", str(tmp_path / "file")]) == 1
    folder = tmp_path / "file"
    assert capsys.readouterr().err == (
        f"multilabelkit: The demo cannot write its images to '{folder}': File exists. "
        "Choose another folder with --output.\n"
    )


def test_a_picture_that_cannot_be_written_is_explained(tmp_path, monkeypatch):
    class Figure:
        def savefig(self, path, dpi):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Classifier:
        classes_ = ("a",)
        label_binarizer_ = type("Binarizer", (), {"transform": staticmethod(lambda labels: labels)})
        predict = staticmethod(lambda paths: paths)

    monkeypatch.setattr("multilabelkit.inspection.plot_predictions", lambda *arguments, **keywords: Figure())
    picture = tmp_path / "predictions.png"
    with pytest.raises(InputError, match=f"^The picture cannot be written to '{picture}': No space left on device.$"):
        cli._draw_predictions(Classifier(), [], [], picture)


def test_ctrl_c_ends_with_130(monkeypatch, capsys):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_run_demo", interrupt)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "multilabelkit: interrupted\n"


def test_an_error_of_ours_is_one_line_and_any_other_a_traceback(monkeypatch, capsys):
    def refuse(options):
        raise InputError("No.")

    monkeypatch.setattr(cli, "_run_demo", refuse)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "multilabelkit: No.\n"

    def break_down(options):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_run_demo", break_down)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_demo_refuses_a_folder_with_other_files(small, tmp_path, capsys):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "0000.png").write_bytes(b"mine")
    assert main(["demo", "--epochs", "1", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        f"multilabelkit: The demo does not write to '{tmp_path}': the folder holds other files, which it could "
        "overwrite. Choose a new folder with --output.\n"
    )
    assert (tmp_path / "train" / "0000.png").read_bytes() == b"mine"


def test_demo_may_overwrite_its_own_folder(tmp_path):
    cli._claim_folder(tmp_path / "demo")
    (tmp_path / "demo" / "train").mkdir()
    cli._claim_folder(tmp_path / "demo")


def make_images(folder, names):
    """Photographs, of which those with the same number in their names are the same."""
    for name in names:
        number = int(re.sub("[^0-9]", "", name))
        pixels = np.random.default_rng(number).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((96, 64)).save(path)
    return folder


def test_check_reads_a_table_and_reports_missing_files(tmp_path, capsys):
    make_images(tmp_path / "images", ["1.jpg", "2.jpg"])
    (tmp_path / "labels.csv").write_text("image,labels\n1.jpg,sea|trees\n2.jpg,sea\n3.jpg,\n", encoding="utf-8")
    options = ["--images", str(tmp_path / "images"), "--label-sep", "|", "--num-workers", "1"]
    assert main(["check", str(tmp_path / "labels.csv"), *options]) == 1
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.split("\n")
    assert lines[0] == "3 images, 2 classes: 1 error, 1 warning, 1 note"
    assert "ERROR unreadable_image: 1 of 3 images cannot be read." in printed.out
    assert "  - '3.jpg' (row 2): the file does not exist" in lines
    assert lines[-3:] == ["Formats: 2 JPEG", "Modes: 2 RGB", ""]


def test_check_finds_a_leak_between_the_splits_of_a_table(tmp_path, capsys):
    make_images(tmp_path, ["1.png", "1a.png", "2.png"])
    (tmp_path / "labels.tsv").write_text("image\tsea\tpart\n1.png\t1\ttrain\n1a.png\t1\ttest\n2.png\t0\ttest\n")
    assert main(["check", str(tmp_path / "labels.tsv"), "--split", "part"]) == 1
    assert "  - '1.png' (row 0) in train = '1a.png' (row 1) in test\n" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "labels.tsv"), "--split", "part", "--no-duplicates"]) == 0
    assert "duplicate" not in capsys.readouterr().out


def test_check_asks_what_minus_one_means(tmp_path, capsys):
    make_images(tmp_path, ["1.png", "2.png"])
    table = tmp_path / "labels.csv"
    table.write_text("image,edema,fracture\n1.png,1,0\n2.png,-1,1\n")
    assert main(["check", str(table)]) == 1
    assert "multilabelkit: The labels (y) in" in capsys.readouterr().err
    assert main(["check", str(table), "--uncertain", "missing"]) == 0
    assert "50.0% of all labels" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.json", '{"1.png": ["sea"], "2.png": [], "3.png": ["sea", "trees"]}'),
        ("labels.jsonl", '{"image": "1.png", "labels": ["sea"]}\n{"image": "2.png", "labels": []}\n'
                         '{"image": "3.png", "labels": ["sea", "trees"]}\n'),
        ("coco.json", json.dumps({
            "images": [{"id": n, "file_name": f"{n}.png"} for n in (1, 2, 3)],
            "annotations": [{"image_id": i, "category_id": c} for i, c in [(1, 7), (3, 7), (3, 8)]],
            "categories": [{"id": 7, "name": "sea"}, {"id": 8, "name": "trees"}],
        })),
    ],
    ids=["json", "jsonl", "coco"],
)  # fmt: skip
def test_check_reads_json_of_every_kind(tmp_path, capsys, name, content):
    make_images(tmp_path / "images", ["1.png", "2.png", "3.png"])
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert main(["check", str(tmp_path / name), "--images", str(tmp_path / "images")]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == "3 images, 2 classes: 1 warning, 1 note"
    assert "sea            2          1        0 66.7%" in lines


def test_check_reads_folders_of_classes_and_splits(tmp_path, capsys):
    make_images(tmp_path, ["train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "test/dog/1.png"])
    assert main(["check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.split("\n")
    assert lines[0].startswith("4 images, 2 classes: 1 error")
    assert f"  - '{Path('train/cat/1.png')}' (row 0) in train = '{Path('test/dog/1.png')}' (row 3) in test" in lines


def test_check_reads_label_files_beside_the_images_and_says_what_it_leaves_out(tmp_path, capsys):
    make_images(tmp_path, ["1.png", "2.png", "3.png"])
    (tmp_path / "1.txt").write_text("sea, trees\n")
    (tmp_path / "2.txt").write_text("")
    assert main(["check", str(tmp_path), "--label-sep", ","]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("2 images, 2 classes: ")
    assert printed.err.startswith("multilabelkit: There ")
    assert f"'{tmp_path / '3.png'}'" in printed.err
    assert printed.err.endswith(" left out.\n")
    assert printed.err.count("\n") == 1


def test_check_reads_a_folder_of_images_without_labels(tmp_path, capsys):
    make_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "README.txt").write_text("What this is.")
    assert main(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("2 images: nothing suspicious\n\nLabels: none\n")


def test_check_writes_the_report_as_json_and_csv(tmp_path, capsys):
    folder = make_images(tmp_path / "images", ["1.png", "1a.png"])
    files = [tmp_path / "report.json", tmp_path / "report.csv"]
    assert main(["check", str(folder), "--json", str(files[0]), "--csv", str(files[1])]) == 0
    report = json.loads(files[0].read_text(encoding="utf-8"))
    assert (report["ok"], [finding["kind"] for finding in report["findings"]]) == (True, ["exact_duplicate"])
    rows = files[1].read_text(encoding="utf-8").split("\n")
    assert rows[0] == (
        "row,path,width,height,mode,format,rotated,animated,error,n_labels,split,exact_group,duplicate_group"
    )
    assert rows[2:] == [f"1,{folder / '1a.png'},96,64,RGB,PNG,False,False,,,,0,0", ""]


def test_check_prints_to_a_stream_that_lacks_characters(tmp_path, monkeypatch):
    make_images(tmp_path, ["1.png"])
    (tmp_path / "1.txt").write_text("海\n", encoding="utf-8")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["check", str(tmp_path)]) == 0
    stream.seek(0)
    assert "'\\u6d77' (1)" in stream.read()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.csv"], "'nowhere.csv' does not exist; check the path."),
        (["nowhere"], "'nowhere' does not exist; check the path."),
        (
            ["notes.md"],
            "'notes.md' is nothing that can be checked: pass a folder, or a file that ends in .csv, .tsv, .txt, .json "
            "or .jsonl.",
        ),
        (["empty"], "'empty' holds no folders. Put the images of each class in a folder of its own in it."),
        (["images", "--images", "x"], "--images is for a file, which 'images' is not. Leave it out."),
        (["images", "--split", "x"], "--split is for a file, which 'images' is not. Leave it out."),
        (["images", "--uncertain", "missing"], "--uncertain is for a file, which 'images' is not. Leave it out."),
        (["images", "--label-sep", "|"], "--label-sep is for labels in text, which 'images' is not. Leave it out."),
        (["labels.json", "--split", "x"], "--split is for a table, which 'labels.json' is not. Leave it out."),
        (
            ["coco.json", "--label-sep", "|"],
            "--label-sep is for a table or plain JSON, which 'coco.json' is not. Leave it out.",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_check_explains_what_it_cannot_do_in_one_line(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images", ["1.png"])
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("")
    (tmp_path / "labels.json").write_text('{"1.png": ["sea"]}')
    (tmp_path / "coco.json").write_text('{"images": [], "annotations": [], "categories": []}')
    assert main(["check", *arguments]) == 1
    assert capsys.readouterr().err == f"multilabelkit: {message}\n"


def test_check_explains_a_report_that_cannot_be_written(tmp_path, capsys):
    folder = make_images(tmp_path / "images", ["1.png"])
    assert main(["check", str(folder), "--json", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("1 image: nothing suspicious\n")  # the report is not lost
    assert re.fullmatch(
        f"multilabelkit: The report cannot be written to '{re.escape(str(tmp_path))}': .+\n", printed.err
    )


def test_check_explains_data_that_may_not_be_read(tmp_path, capsys, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("multilabelkit.cli._is_coco", refuse)
    path = tmp_path / "labels.json"
    path.write_text("{}")
    assert main(["check", str(path)]) == 1
    assert capsys.readouterr().err == f"multilabelkit: '{path}' cannot be read: Permission denied.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: DATA"),
        (["data", "--num-workers", "-1"], "argument --num-workers: must be a whole number from 0 to 1024, not '-1'"),
        (["data", "--uncertain", "maybe"], "argument --uncertain: invalid choice: 'maybe'"),
        (["data", "--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_check_ends_with_2_when_called_wrongly(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_check_costs_no_import_of_torch(tmp_path):
    make_images(tmp_path, ["1.png"])
    code = f"import sys\nfrom multilabelkit.cli import main\nmain(['check', {str(tmp_path)!r}])\n"
    finished = subprocess.run(
        [sys.executable, "-c", f"{code}print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert finished.stdout.endswith("\nFalse\n")


@pytest.mark.parametrize("option", ["--csv", "--json"])
def test_check_does_not_overwrite_what_it_checks(tmp_path, capsys, option):
    table = tmp_path / "labels.csv"
    table.write_text("image,sea\na.jpg,1\n")
    assert main(["check", str(table), option, str(table)]) == 1
    message = (
        f"multilabelkit: The report would overwrite '{table}', which is to be checked. Choose another file for it."
    )
    assert message in capsys.readouterr().err
    assert table.read_text() == "image,sea\na.jpg,1\n"


def test_check_refuses_a_place_that_is_not_there_before_any_work(tmp_path, capsys):
    absent = tmp_path / "absent" / "report.json"
    assert main(["check", str(tmp_path / "labels.csv"), "--json", str(absent)]) == 1
    message = f"multilabelkit: The report cannot be written to '{absent}': there is no such folder. Make it first."
    assert message in capsys.readouterr().err


def test_check_names_the_option_for_the_folder_where_no_image_is_found(tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("image,sea\na.jpg,1\nb.jpg,0\n")
    assert main(["check", str(tmp_path / "labels.csv")]) == 1
    advice = "None of the images exists: name the folder they are in with --images."
    assert advice in capsys.readouterr().out
    (tmp_path / "a.jpg").write_bytes(encode_png(np.zeros((40, 40), dtype=np.uint8)))
    assert main(["check", str(tmp_path / "labels.csv")]) == 1
    assert advice not in capsys.readouterr().out


def test_the_module_runs_as_the_command():
    finished = subprocess.run(
        [sys.executable, "-m", "multilabelkit", "--version"], capture_output=True, text=True, check=False
    )
    assert (finished.returncode, finished.stdout.split()[0]) == (0, "multilabelkit")


@pytest.mark.skipif(os.name == "nt", reason="needs a pipe that breaks")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    for number in range(300):
        (tmp_path / f"{number}.jpg").write_text("no image")
    command = f"'{sys.executable}' -m multilabelkit check '{tmp_path}' | head -c 1"
    finished = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in finished.stderr
