import io
import math
import sys

import pytest
from torch import nn

from multilabelkit.nn.network import Network
from multilabelkit.training import Callback, Progress, TrainState
from multilabelkit.training.callbacks import describe_epoch

ROW = {"epoch": 1, "train_loss": 0.51239, "learning_rate": 1e-3, "seconds": 2.04}
VALID = {"valid_loss": 0.4, "valid_map": 0.87654, "valid_macro_f1": 0.5}


def create_state(**params):
    return TrainState(Network(nn.Flatten(), None), n_epochs=12, n_steps=3, epoch=1, history=[ROW], **params)


def test_train_state_starts_before_the_first_step():
    state = TrainState(Network(nn.Flatten(), None), n_epochs=2, n_steps=3)
    assert (state.epoch, state.step, state.history, state.best_epoch, state.stop_reason) == (0, 0, [], None, None)
    assert math.isnan(state.loss)
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
    ],
    ids=["train", "valid", "no mAP"],
)
def test_describe_epoch_is_one_line(row, text):
    state = create_state()
    state.history = [row]
    assert describe_epoch(state) == text


def run(progress, state):
    progress.on_train_begin(state)
    for _ in range(3):
        progress.on_step_end(state)
    progress.on_epoch_end(state)
    progress.on_train_end(state)


def test_progress_writes_a_line_an_epoch_where_there_is_no_terminal(capsys):
    run(Progress(), create_state())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "epoch 2/12  loss 0.5124  2.0 s\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_moves_a_bar_in_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress, state = Progress(), create_state()
    run(progress, state)
    assert "epoch 2/12  loss 0.5124" in terminal.getvalue()
    assert "3/36" in terminal.getvalue()
    assert progress._bar.disable  # closed
    run(progress, state)  # and serves a second fit


def test_progress_ends_quietly_before_it_began():
    Progress().on_train_end(create_state())
