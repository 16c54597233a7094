import copy
import csv
import io
import math
import os
import pickle
import re
import sys

import pandas as pd
import pytest
from sklearn.base import clone
from torch import nn

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.errors import InputError, MissingExtraError
from multilabelkit.nn.network import Network
from multilabelkit.training import Callback, CSVLogger, Progress, TensorBoardLogger, TrainState
from multilabelkit.training.callbacks import describe_epoch

ROW = {"epoch": 1, "train_loss": 0.51239, "learning_rate": 1e-3, "seconds": 2.04}
VALID = {"valid_loss": 0.4, "valid_map": 0.87654, "valid_macro_f1": 0.5, "valid_binary_accuracy": 0.9}
CLASSES = {"valid_loss": 0.4, "valid_accuracy": 0.75, "valid_macro_f1": 0.5}


def create_state(row=ROW, **params):
    return TrainState(Network(nn.Flatten(), None), n_epochs=12, n_steps=3, epoch=1, history=[row], **params)


def test_train_state_starts_before_the_first_step():
    state = TrainState(Network(nn.Flatten(), None), n_epochs=2, n_steps=3)
    assert (state.epoch, state.step, state.history, state.best_epoch, state.stop_reason) == (0, 0, [], None, None)
    assert math.isnan(state.loss)
    assert (state.phase, state.n_images, state.best_weights) == ("training", 0, None)
    assert state.history is not create_state().history


def test_callback_does_nothing_by_itself():
    callback, state = Callback(), create_state()
    before = vars(state).copy()
    for hook in ("on_train_begin", "on_step_end", "on_epoch_end", "on_train_end"):
        assert getattr(callback, hook)(state) is None
    assert vars(state) == before


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (ROW, "epoch 2/12  loss 0.5124  2.0 s"),
        (ROW | VALID, "epoch 2/12  loss 0.5124  valid 0.4000  mAP 0.8765  F1 0.5000  2.0 s"),
        (ROW | VALID | {"valid_map": math.nan}, "epoch 2/12  loss 0.5124  valid 0.4000  mAP nan  F1 0.5000  2.0 s"),
        (ROW | CLASSES, "epoch 2/12  loss 0.5124  valid 0.4000  accuracy 0.7500  F1 0.5000  2.0 s"),
        (ROW | {"valid_loss": 0.4, "valid_score": 3}, "epoch 2/12  loss 0.5124  valid 0.4000  score 3.0000  2.0 s"),
    ],
    ids=["train", "valid", "no mAP", "exclusive classes", "own score"],
)
def test_describe_epoch_is_one_line(row, text):
    assert describe_epoch(create_state(row)) == text


def test_describe_epoch_names_a_phase_that_is_not_the_usual_one():
    assert describe_epoch(create_state(phase="refit")) == "refit epoch 2/12  loss 0.5124  2.0 s"


def run(callback, state):
    callback.on_train_begin(state)
    for _ in range(3):
        callback.on_step_end(state)
    callback.on_epoch_end(state)
    callback.on_train_end(state)


def test_progress_writes_a_line_an_epoch_where_there_is_no_terminal(capsys):
    run(Progress(), create_state())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "epoch 2/12  loss 0.5124  2.0 s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def open_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def begin_bar(state):
    """Begin a progress whose bar draws every step and whose clock stands at 30 steps a second."""
    progress = Progress()
    progress.on_train_begin(state)
    progress._bar.mininterval = progress._bar.miniters = 0
    progress._bar._ema_dn, progress._bar._ema_dt = (lambda *x: 30.0), (lambda *x: 1.0)
    return progress


def test_progress_moves_a_bar_in_a_terminal(monkeypatch):
    terminal = open_terminal(monkeypatch)
    progress, state = Progress(), create_state()
    run(progress, state)
    assert "epoch 2/12  loss 0.5124" in terminal.getvalue()
    assert "3/36" in terminal.getvalue()
    run(progress, state)  # and serves a second fit


def test_progress_bar_shows_the_epoch_the_loss_and_the_rate(monkeypatch):
    terminal = open_terminal(monkeypatch)
    state = create_state(n_images=90, phase="refit", loss=0.25)
    progress = begin_bar(state)
    assert "refit epoch 1/12" in terminal.getvalue()
    progress.on_step_end(state)
    assert "loss 0.2500, 900 images/s" in terminal.getvalue()  # 90 images in 3 steps, 30 steps a second
    progress.on_epoch_end(state)
    assert terminal.getvalue().count("refit epoch 3/12") == 1
    progress.on_train_end(state)


def test_progress_bar_leaves_out_a_rate_it_does_not_know(monkeypatch):
    terminal = open_terminal(monkeypatch)
    progress = begin_bar(create_state())
    progress.on_step_end(create_state(loss=0.25))
    progress.on_train_end(create_state())
    assert "loss 0.2500" in terminal.getvalue()
    assert "images/s" not in terminal.getvalue()


def test_progress_closes_its_bar_after_an_error(monkeypatch):
    terminal = open_terminal(monkeypatch)
    progress = begin_bar(create_state())
    bar = progress._bar
    progress.on_train_end(create_state())  # all that a failed training still calls
    assert bar.disable  # closed
    assert progress._bar is None
    assert terminal.getvalue().endswith("\r")  # the line is wiped: what comes next stands alone


def test_progress_closes_a_bar_that_no_end_was_told_of(monkeypatch):
    open_terminal(monkeypatch)
    progress = begin_bar(create_state())
    bar = progress._bar
    run(progress, create_state())
    assert bar.disable


def test_progress_ends_quietly_before_it_began():
    Progress().on_train_end(create_state())


@pytest.mark.parametrize("create", [Progress, lambda: CSVLogger("a.csv"), lambda: TensorBoardLogger("runs")])
def test_callbacks_are_copied_with_the_classifier(create, tmp_path, monkeypatch):
    open_terminal(monkeypatch)
    monkeypatch.chdir(tmp_path)
    callback = create()
    if not isinstance(callback, TensorBoardLogger):
        run(callback, create_state())
    classifier = MultiLabelImageClassifier("small_cnn", callbacks=[callback])
    for copied in (clone(classifier), copy.deepcopy(classifier), pickle.loads(pickle.dumps(classifier))):
        assert type(copied.callbacks[0]) is type(callback)
        assert copied.callbacks[0] is not callback
        assert vars(copied.callbacks[0]) == vars(callback)


def test_csv_logger_writes_a_row_an_epoch(tmp_path):
    path = tmp_path / "history.csv"
    logger, rows = CSVLogger(path), [ROW | VALID | {"epoch": epoch} for epoch in range(3)]
    logger.on_train_begin(create_state())
    for epoch in range(3):
        logger.on_epoch_end(create_state(rows[epoch]))
        table = pd.read_csv(path)
        assert table["epoch"].tolist() == list(range(epoch + 1))
        assert path.read_bytes().endswith(b"\n")
    assert b"\r" not in path.read_bytes()
    assert table.drop(columns="phase").to_dict("records") == rows  # every digit
    assert list(table) == [*rows[0], "phase"]


def test_csv_logger_appends_the_epochs_of_a_further_fit(tmp_path, shapes):
    path = str(tmp_path / "history.csv")
    classifier = MultiLabelImageClassifier(
        "small_cnn", image_size=32, max_epochs=1, num_workers=0, verbose=0, random_state=0, validation_fraction=0.5
    ).set_params(warm_start=True, callbacks=[CSVLogger(path)])
    classifier.fit(shapes.images, shapes.target).fit(shapes.images, shapes.target)
    table = pd.read_csv(path)
    assert table["epoch"].tolist() == [0, 1]
    assert table.drop(columns="phase").to_dict("records") == classifier.history_


def test_csv_logger_leaves_empty_what_an_epoch_does_not_have(tmp_path):
    logger = CSVLogger(tmp_path / "history.csv")
    logger.on_epoch_end(create_state(ROW | VALID))
    logger.on_epoch_end(create_state(ROW, phase="refit"))
    table = pd.read_csv(logger.path)
    assert table["valid_map"].isna().tolist() == [False, True]
    assert table["phase"].tolist() == ["training", "refit"]
    assert table["train_loss"].tolist() == [0.51239, 0.51239]


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "as Excel saves it"])
def test_csv_logger_adds_in_the_order_of_the_columns_that_are_there(tmp_path, mark):
    path = tmp_path / "history.csv"
    path.write_bytes(f"{mark}phase,seconds,learning_rate,train_loss,epoch\r\nhead,1,1,1,0".encode())  # no end of line
    CSVLogger(path).on_epoch_end(create_state())
    with open(path, encoding="utf-8-sig", newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["head", "1", "1", "1", "0"],
            ["training", "2.04", "0.001", "0.51239", "1"],
        ]


def test_csv_logger_refuses_a_table_of_other_columns(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label\na.jpg,sea\n", encoding="utf-8")
    CSVLogger(path).on_train_begin(create_state())
    message = (
        f"CSVLogger cannot add to '{path}', a table without the column(s) 'epoch', 'train_loss', 'learning_rate', "
        "'seconds', 'phase'. Name another file, or move this one away."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        CSVLogger(path).on_epoch_end(create_state())
    assert path.read_text(encoding="utf-8") == "path,label\na.jpg,sea\n"


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_end"])
def test_csv_logger_says_that_it_cannot_write(tmp_path, hook):
    path = tmp_path / "nowhere" / "history.csv"
    message = (
        f"CSVLogger cannot write '{path}': No such file or directory. Name a file in a folder that exists and can be "
        "written."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        getattr(CSVLogger(path), hook)(create_state())


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (CSVLogger(None), "The 'path' parameter of CSVLogger must be a path. Got None instead."),
        (CSVLogger(""), "The 'path' parameter of CSVLogger must be a path. Got '' instead."),
        (TensorBoardLogger(3), "The 'folder' parameter of TensorBoardLogger must be a path. Got 3 instead."),
    ],
)
def test_loggers_want_a_path(callback, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        callback.on_train_begin(create_state())


def read_scalars(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    return {
        tag: [(point.step, pytest.approx(point.value)) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_logger_writes_a_point_an_epoch(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(tmp_path / "runs")
    logger.on_train_begin(create_state())
    logger.on_epoch_end(create_state(ROW | VALID | {"epoch": 0, "valid_map": math.nan}))
    logger.on_epoch_end(create_state(ROW | VALID | {"train_loss": 0.25}))
    logger.on_epoch_end(create_state(ROW, phase="refit"))
    assert read_scalars(logger.folder) == {  # before the end: a run that is killed leaves as much
        "train/loss": [(0, 0.51239), (1, 0.25)],
        "valid/loss": [(0, 0.4), (1, 0.4)],
        "valid/map": [(1, 0.87654)],
        "valid/macro_f1": [(0, 0.5), (1, 0.5)],
        "valid/binary_accuracy": [(0, 0.9), (1, 0.9)],
        "learning_rate": [(0, 1e-3), (1, 1e-3)],
        "seconds": [(0, 2.04), (1, 2.04)],
        "refit/train/loss": [(1, 0.51239)],
        "refit/learning_rate": [(1, 1e-3)],
        "refit/seconds": [(1, 2.04)],
    }
    logger.on_train_end(create_state())


def test_tensorboard_logger_closes_its_writer_and_serves_another_fit(tmp_path):
    pytest.importorskip("tensorboard")
    logger = TensorBoardLogger(str(tmp_path))
    logger.on_train_end(create_state())  # quietly before it began
    logger.on_train_begin(create_state())
    writer = logger._writer
    run(logger, create_state(ROW | {"epoch": 2}))  # though nobody ended the first
    assert logger._writer is None
    assert writer.file_writer is None  # closed
    run(copy.deepcopy(logger), create_state(ROW | {"epoch": 3}))
    assert [step for step, _ in read_scalars(tmp_path)["train/loss"]] == [2, 3]


def test_tensorboard_logger_says_that_it_cannot_write(tmp_path):
    pytest.importorskip("tensorboard")
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(FileExistsError) as refused:
        os.makedirs(path, exist_ok=True)
    reason = refused.value.strerror  # Windows has words of its own
    message = f"TensorBoardLogger cannot write in '{path}': {reason}. Name a folder that can be made or written."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        TensorBoardLogger(path).on_train_begin(create_state())


def test_tensorboard_logger_names_the_package_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = "This needs the package 'tensorboard', which is not installed. Run: pip install 'multilabelkit[log]'"
    with pytest.raises(MissingExtraError, match=f"^{re.escape(message)}$"):
        TensorBoardLogger(tmp_path).on_train_begin(create_state())
