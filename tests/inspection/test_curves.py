import re

import numpy as np
import pytest

from multilabelkit.errors import InputError
from multilabelkit.inspection import plot_history, plot_learning_rates
from multilabelkit.training.lr_finder import LearningRateCurve

ROWS = [
    {"epoch": 0, "train_loss": 0.7, "valid_loss": 0.6, "valid_map": 0.5, "learning_rate": 1e-3, "seconds": 1.0},
    {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.4, "valid_map": 0.8, "learning_rate": 1e-4, "seconds": 1.0},
]


def test_history_is_drawn_by_epoch_from_1():
    figure = plot_history(ROWS)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["loss", "score", "learning rate"]
    losses, scores, rates = figure.axes
    assert [line.get_label() for line in losses.lines] == ["train loss", "valid loss"]
    np.testing.assert_array_equal(losses.lines[0].get_xdata(), [1, 2])
    np.testing.assert_array_equal(losses.lines[1].get_ydata(), [0.6, 0.4])
    np.testing.assert_array_equal(scores.lines[0].get_ydata(), [0.5, 0.8])
    np.testing.assert_array_equal(rates.lines[0].get_ydata(), [1e-3, 1e-4])


def test_history_without_validation_has_no_scores():
    rows = [{"epoch": 0, "train_loss": 0.7, "learning_rate": 1e-3}]
    assert [axis.get_title() for axis in plot_history(rows).axes] == ["loss", "learning rate"]


@pytest.mark.parametrize("history", [[], [{"loss": 1}]])
def test_history_without_epochs_is_refused(history):
    message = f"history must be a classifier's history_, with a row for each epoch. Got {history}."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        plot_history(history)


def test_learning_rates_are_drawn_with_the_suggestion():
    rates, losses = np.logspace(-5, 0, 6), np.array([0.7, 0.7, 0.6, 0.3, 0.3, 2.0])
    figure = plot_learning_rates(LearningRateCurve(rates, losses, losses / 2, 3e-3))
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    np.testing.assert_array_equal(axis.lines[0].get_ydata(), losses)
    np.testing.assert_array_equal(axis.lines[1].get_ydata(), losses / 2)
    assert list(axis.lines[2].get_xdata()) == [3e-3, 3e-3]
    assert axis.get_legend().get_texts()[2].get_text() == "suggestion 0.003"
