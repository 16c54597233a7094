"""What can watch and stop a training: a base of four empty hooks, and the progress bar."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from tqdm.auto import tqdm

from multilabelkit.nn.network import Network


@dataclass
class TrainState:
    """Where a training stands; every hook receives it.

    Parameters
    ----------
    network : Network
        The network in training.
    n_epochs, n_steps : int
        How many epochs are planned, and how many steps an epoch has.
    epoch, step : int
        The current epoch, and the steps taken in it, both from 0.
    loss : float
        Training loss of the last step.
    history : list of dict
        One row per finished epoch, as in the classifier's ``history_``.
    best_epoch : int or None
        The epoch whose weights are the best so far.
    stop_reason : str or None
        A hook sets it to stop after the current epoch; the reason is kept.
    """

    network: Network
    n_epochs: int
    n_steps: int
    epoch: int = 0
    step: int = 0
    loss: float = float("nan")
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int | None = None
    stop_reason: str | None = None


class Callback:
    """Watches a training. Override the hooks you need; each receives the `TrainState`, and all do nothing here.

    Examples
    --------
    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, state):
    ...         if state.history[-1]["valid_map"] > 0.99:
    ...             state.stop_reason = "good enough"
    """

    def on_train_begin(self, state: TrainState) -> None:
        """Before the first epoch."""

    def on_step_end(self, state: TrainState) -> None:
        """After each step; ``state.loss`` is its loss."""

    def on_epoch_end(self, state: TrainState) -> None:
        """After each epoch and its evaluation; ``state.history[-1]`` is its row."""

    def on_train_end(self, state: TrainState) -> None:
        """After the last epoch, also when the training fails or is interrupted."""


class Progress(Callback):
    """One line an epoch on stderr, and in a terminal or a notebook a progress bar beneath it."""

    def __init__(self) -> None:
        self._bar: tqdm | None = None
        self._interactive = sys.stderr.isatty() or "ipykernel" in sys.modules

    def on_train_begin(self, state: TrainState) -> None:
        """Open the bar."""
        if self._interactive:
            self._bar = tqdm(total=state.n_epochs * state.n_steps, unit="batch", dynamic_ncols=True, leave=False)
            self._bar.set_description_str(f"epoch 1/{state.n_epochs}")

    def on_step_end(self, state: TrainState) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def on_epoch_end(self, state: TrainState) -> None:
        """Show the epoch's numbers."""
        announce(describe_epoch(state))
        if self._bar is not None:
            self._bar.set_description_str(f"epoch {min(state.epoch + 2, state.n_epochs)}/{state.n_epochs}")

    def on_train_end(self, state: TrainState) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


def announce(text: str) -> None:
    """Write a line on stderr, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def describe_epoch(state: TrainState) -> str:
    """Put the last epoch into one line."""
    row = state.history[-1]
    parts = [f"epoch {state.epoch + 1}/{state.n_epochs}", f"loss {row['train_loss']:.4f}"]
    if "valid_loss" in row:
        parts += [f"valid {row['valid_loss']:.4f}", f"mAP {row['valid_map']:.4f}", f"F1 {row['valid_macro_f1']:.4f}"]
    return "  ".join([*parts, f"{row['seconds']:.1f} s"])
