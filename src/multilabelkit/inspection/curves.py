"""Pictures of a training: how its numbers went by epoch, and what a test of learning rates saw."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from multilabelkit.checks import shorten
from multilabelkit.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from multilabelkit.training.lr_finder import LearningRateCurve

_TRAIN, _VALID, _GREY = "#4c72b0", "#c44e52", "#9a9a9a"


def plot_learning_rates(curve: LearningRateCurve) -> Figure:
    """Draw the loss against the rising learning rate, and the suggestion.

    Parameters
    ----------
    curve : LearningRateCurve
        What ``classifier.find_learning_rate(X, y)`` returns.

    Returns
    -------
    figure : matplotlib Figure
        Save it with ``figure.savefig("rates.png")``; no window is opened.

    Examples
    --------
    >>> from multilabelkit.training.lr_finder import LearningRateCurve
    >>> import numpy as np
    >>> rates, losses = np.logspace(-5, 0, 6), np.array([0.7, 0.7, 0.6, 0.3, 0.3, 2.0])
    >>> figure = plot_learning_rates(LearningRateCurve(rates, losses, losses, 1e-3))
    >>> figure.axes[0].get_xlabel()
    'learning rate of the head'
    """
    figure, (axis,) = _create_figure(1)
    axis.plot(curve.learning_rates, curve.losses, color=_GREY, linewidth=0.8, label="each step")
    axis.plot(curve.learning_rates, curve.smoothed, color=_TRAIN, label="smoothed")
    axis.axvline(curve.suggestion, color=_VALID, linestyle="--", label=f"suggestion {curve.suggestion:.2g}")
    axis.set_xscale("log")
    axis.set_xlabel("learning rate of the head")
    axis.set_ylabel("loss")
    axis.legend(frameon=False)
    return figure


def plot_history(history: Sequence[dict[str, Any]]) -> Figure:
    """Draw losses, scores and learning rate by epoch.

    Parameters
    ----------
    history : list of dict
        A classifier's ``history_``.

    Returns
    -------
    figure : matplotlib Figure
        Save it with ``figure.savefig("history.png")``; no window is opened.

    Raises
    ------
    InputError
        If there is no epoch in it.

    Examples
    --------
    >>> rows = [{"epoch": 0, "train_loss": 0.6, "learning_rate": 1e-3}, {"epoch": 1, "train_loss": 0.4}]
    >>> len(plot_history(rows).axes)
    2
    """
    table = pd.DataFrame(history)
    if table.empty or "epoch" not in table:
        raise InputError(f"history must be a classifier's history_, with a row for each epoch. Got {shorten(history)}.")
    scores = [name for name in table.columns if name.startswith("valid_") and name != "valid_loss"]
    losses = [name for name in ("train_loss", "valid_loss") if name in table]
    parts = [("loss", losses), ("score", scores), ("learning rate", ["learning_rate"])]
    parts = [(title, [name for name in names if name in table]) for title, names in parts]
    parts = [(title, names) for title, names in parts if names]
    from matplotlib.ticker import MaxNLocator

    figure, axes = _create_figure(len(parts))
    for axis, (title, names) in zip(axes, parts, strict=True):
        for name in names:
            axis.plot(table["epoch"] + 1, table[name], marker=".", label=name.replace("_", " "))
        axis.set_xlabel("epoch")
        axis.set_title(title)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False, fontsize=8)
    return figure


def _create_figure(n_axes: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # only when something is drawn: it takes half a second to import

    figure = Figure(figsize=(4.5 * n_axes, 3.4), layout="constrained")
    return figure, figure.subplots(1, n_axes, squeeze=False)[0]
