"""What can watch and stop a training: a base of four empty hooks, the progress bar, and two loggers."""

from __future__ import annotations

import csv
import io
import math
import numbers
import os
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from multilabelkit.checks import Check, check_parameters, import_extra
from multilabelkit.errors import InputError
from multilabelkit.nn.network import Network

_PATH = Check(lambda value: isinstance(value, (str, os.PathLike)) and os.fspath(value) != "", "a path")


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
    valid_logits : ndarray of shape (n_valid, n_classes) or None
        Logits of the validation images in the best epoch so far.
    phase : {"training", "head", "refit"}
        Which training this is: that of the network, of its head alone on features, or again on all images.
    n_images : int
        How many images an epoch shows; 0 if that is not known.
    best_weights : dict of str to Tensor, or None
        The state dict of the best epoch so far.
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
    valid_logits: np.ndarray | None = None
    phase: str = "training"
    n_images: int = 0
    best_weights: dict[str, torch.Tensor] | None = None


class Callback:
    """Watches a training. Override the hooks you need; each receives the `TrainState`, and all do nothing here.

    What a hook keeps while a training runs should begin in `on_train_begin` and end in `on_train_end`, and not in
    ``__init__``: scikit-learn copies callbacks with the classifier, once for every fold of a cross-validation.

    Examples
    --------
    >>> class StopWhenGood(Callback):
    ...     def on_epoch_end(self, state):
    ...         if state.history[-1].get("valid_map", 0) > 0.99:
    ...             state.stop_reason = "good enough"
    >>> from multilabelkit import MultiLabelImageClassifier
    >>> classifier = MultiLabelImageClassifier("small_cnn", callbacks=[StopWhenGood()])
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
    """One line an epoch on stderr, and in a terminal or a notebook a progress bar beneath it.

    A classifier with ``verbose=1`` has one already.

    Examples
    --------
    >>> from multilabelkit import MultiLabelImageClassifier
    >>> classifier = MultiLabelImageClassifier("small_cnn", verbose=0, callbacks=[Progress()])
    """

    def __init__(self) -> None:
        self._bar: tqdm | None = None

    def on_train_begin(self, state: TrainState) -> None:
        """Open the bar."""
        self._close()
        if sys.stderr.isatty() or "ipykernel" in sys.modules:
            self._bar = tqdm(total=state.n_epochs * state.n_steps, unit="batch", dynamic_ncols=True, leave=False)
            self._bar.set_description_str(name_epoch(state, 0))

    def on_step_end(self, state: TrainState) -> None:
        """Move the bar."""
        if self._bar is not None:
            rate = (self._bar.format_dict["rate"] or 0) * state.n_images / state.n_steps
            speed = f", {rate:.0f} images/s" if rate else ""
            self._bar.set_postfix_str(f"loss {state.loss:.4f}{speed}", refresh=False)
            self._bar.update()

    def on_epoch_end(self, state: TrainState) -> None:
        """Show the epoch's numbers."""
        announce(describe_epoch(state))
        if self._bar is not None:
            self._bar.set_description_str(name_epoch(state, min(state.epoch + 1, state.n_epochs - 1)))

    def on_train_end(self, state: TrainState) -> None:
        """Close the bar."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar = None  # an open bar holds a stream, which nothing can copy


class CSVLogger(Callback):
    """Writes the history as a table, one row an epoch, while the training runs.

    Every row is written whole and at once: a run that is killed leaves a table of its finished epochs. A further fit
    adds its rows below, with ``warm_start`` or without; fits that run at the same time need a file each.

    Parameters
    ----------
    path : path
        The file; its folder must exist. It has the columns of ``history_`` and the phase of the training; what an epoch
        does not have, such as a validation part, is left empty.

    Raises
    ------
    InputError
        While fitting: if the file cannot be written, or is a table without a column that is needed.

    Examples
    --------
    >>> import os, tempfile
    >>> import pandas as pd
    >>> from multilabelkit import MultiLabelImageClassifier
    >>> from multilabelkit.datasets import make_shapes
    >>> path = os.path.join(tempfile.mkdtemp(), "history.csv")
    >>> shapes = make_shapes(100, random_state=0)
    >>> classifier = MultiLabelImageClassifier(
    ...     "small_cnn", image_size=32, max_epochs=2, random_state=0, verbose=0, callbacks=[CSVLogger(path)]
    ... )
    >>> classifier = classifier.fit(shapes.images, shapes.target)
    >>> pd.read_csv(path)["epoch"].tolist()
    [0, 1]
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = path

    def on_train_begin(self, state: TrainState) -> None:
        """Find out now, and not after an epoch, that the file cannot be written."""
        check_parameters("CSVLogger", vars(self), {"path": [_PATH]})
        try:
            open(self.path, "ab").close()
        except OSError as error:
            raise self._explain(error) from error

    def on_epoch_end(self, state: TrainState) -> None:
        """Write the epoch's row."""
        try:
            self._append(state.history[-1] | {"phase": state.phase})
        except OSError as error:
            raise self._explain(error) from error

    def _append(self, row: dict[str, Any]) -> None:
        with open(self.path, "a+b") as file:
            file.seek(0)
            content = file.read()
            columns = next(csv.reader([content.decode("utf-8-sig", "replace").partition("\n")[0]]), [])
            lacking = [repr(name) for name in row if name not in columns]
            if columns and lacking:
                raise InputError(
                    f"CSVLogger cannot add to '{os.fspath(self.path)}', a table without the column(s) "
                    f"{', '.join(lacking)}. Name another file, or move this one away."
                )
            lines = io.StringIO()
            table = csv.DictWriter(lines, columns or list(row), lineterminator="\n")
            if not columns:
                table.writeheader()
            elif not content.endswith(b"\n"):  # as a full disk or an editor left it
                lines.write("\n")
            table.writerow(row)
            file.write(lines.getvalue().encode("utf-8"))

    def _explain(self, error: OSError) -> InputError:
        return InputError(
            f"CSVLogger cannot write '{os.fspath(self.path)}': {error.strerror}. Name a file in a folder that exists "
            "and can be written."
        )


class TensorBoardLogger(Callback):
    """Writes the history for TensorBoard, one point an epoch; ``tensorboard --logdir FOLDER`` shows it.

    It needs ``pip install 'multilabelkit[log]'``. Losses and metrics are named ``train/loss``, ``valid/map`` and so on,
    with the phase in front where it is not the usual training; values that are not finite are left out. A further fit
    with ``warm_start`` goes on with the same curves; other fits should have a folder each, side by side.

    Parameters
    ----------
    folder : path
        Where the event files go; it is made where it does not exist.

    Raises
    ------
    MissingExtraError
        While fitting: if tensorboard is not installed.

    Examples
    --------
    >>> from multilabelkit import MultiLabelImageClassifier
    >>> classifier = MultiLabelImageClassifier("small_cnn", callbacks=[TensorBoardLogger("runs/first")])
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = folder
        self._writer: Any = None

    def on_train_begin(self, state: TrainState) -> None:
        """Open the writer."""
        check_parameters("TensorBoardLogger", {"folder": self.folder}, {"folder": [_PATH]})
        import_extra("tensorboard", extra="log")
        from torch.utils.tensorboard import SummaryWriter

        self._close()
        try:
            self._writer = SummaryWriter(os.fspath(self.folder))
        except OSError as error:
            raise InputError(
                f"TensorBoardLogger cannot write in '{os.fspath(self.folder)}': {error.strerror}. Name a folder that "
                "can be made or written."
            ) from error

    def on_epoch_end(self, state: TrainState) -> None:
        """Write the epoch's numbers."""
        row = state.history[-1]
        phase = "" if state.phase == "training" else f"{state.phase}/"
        for name, value in row.items():
            if name != "epoch" and isinstance(value, numbers.Real) and math.isfinite(value):
                tag = name.replace("_", "/", 1) if name.startswith(("train_", "valid_")) else name
                self._writer.add_scalar(f"{phase}{tag}", value, row["epoch"])
        self._writer.flush()  # a run that is killed leaves its finished epochs

    def on_train_end(self, state: TrainState) -> None:
        """Close the writer."""
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None  # an open writer holds files and a thread, which nothing can copy


def announce(text: str) -> None:
    """Write a line on stderr, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def name_epoch(state: TrainState, epoch: int) -> str:
    """Name an epoch, counted from 0, and its training if that is not the usual one."""
    phase = "" if state.phase == "training" else f"{state.phase} "
    return f"{phase}epoch {epoch + 1}/{state.n_epochs}"


# The numbers that a line has room for; exclusive classes have other metrics than labels.
_SHOWN = {
    "valid_loss": "valid",
    "valid_map": "mAP",
    "valid_accuracy": "accuracy",
    "valid_macro_f1": "F1",
    "valid_score": "score",
}


def describe_epoch(state: TrainState) -> str:
    """Put the last epoch into one line."""
    row = state.history[-1]
    parts = [name_epoch(state, state.epoch), f"loss {row['train_loss']:.4f}"]
    parts += [f"{word} {row[column]:.4f}" for column, word in _SHOWN.items() if column in row]
    return "  ".join([*parts, f"{row['seconds']:.1f} s"])
