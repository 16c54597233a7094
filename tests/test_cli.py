import errno
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from multilabelkit import MultiLabelImageClassifier, __version__, cli
from multilabelkit.cli import main
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
