"""What an epoch is judged by: the validation part of its history row, and the one number that is watched."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from multilabelkit import metrics
from multilabelkit.checks import shorten
from multilabelkit.errors import InputError
from multilabelkit.inference import sigmoid, softmax


@dataclass(frozen=True)
class Task:
    """What labels of which an image may have any number do not share with classes that exclude each other.

    Parameters
    ----------
    to_proba : callable
        Turns logits (n, C) into probabilities (n, C).
    measure : callable
        Returns the metrics of an epoch, given targets (n, C), logits (n, C) and probabilities (n, C).
    watched : tuple of str
        Columns of the history that monitor="auto" watches, the first that is known; a name that ends in "loss" is
        better where it is lower.
    columns : tuple of str
        All columns that `measure` fills.
    loss : str
        What loss="auto" stands for where probabilities are taken as they come.
    calibrated_loss : str
        What it stands for where they are calibrated afterwards, so that the loss need not train probabilities.
    losses : tuple of str
        All losses that fit the task.
    """

    to_proba: Callable[[np.ndarray], np.ndarray]
    measure: Callable[[np.ndarray, np.ndarray, np.ndarray], dict[str, float]]
    watched: tuple[str, ...]
    columns: tuple[str, ...]
    loss: str
    calibrated_loss: str
    losses: tuple[str, ...]


def _measure_labels(targets: np.ndarray, logits: np.ndarray, proba: np.ndarray) -> dict[str, float]:
    """F1 is taken at 0.5, as the thresholds come after training."""
    y_pred = (proba >= 0.5).astype(np.int64)
    return {
        "valid_loss": metrics.binary_cross_entropy(targets, proba),
        "valid_map": metrics.mean_average_precision(targets, proba),
        "valid_macro_f1": metrics.f1_score(targets, y_pred, average="macro"),
        "valid_micro_f1": metrics.f1_score(targets, y_pred, average="micro"),
        "valid_binary_accuracy": metrics.binary_accuracy(targets, y_pred),
    }


def _measure_classes(targets: np.ndarray, logits: np.ndarray, proba: np.ndarray) -> dict[str, float]:
    known = ~np.isnan(targets).any(axis=1)
    targets, logits = targets[known], logits[known].astype(np.float64)
    y_pred = np.eye(targets.shape[1], dtype=np.int64)[logits.argmax(axis=1)]
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-math.inf)
    log_proba = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    is_right = (y_pred * targets).sum(axis=1)
    return {
        "valid_loss": float(-(log_proba * targets).sum(axis=1).mean()) if len(targets) else math.nan,
        "valid_accuracy": float(is_right.mean()) if len(targets) else math.nan,
        "valid_macro_f1": metrics.f1_score(targets, y_pred, average="macro") if len(targets) else math.nan,
    }


LABELS = Task(
    sigmoid,
    _measure_labels,
    watched=("valid_map", "valid_loss", "train_loss"),
    columns=("valid_loss", "valid_map", "valid_macro_f1", "valid_micro_f1", "valid_binary_accuracy"),
    loss="bce",
    calibrated_loss="bce",
    losses=("bce", "focal", "asymmetric"),
)
CLASSES = Task(
    softmax,
    _measure_classes,
    watched=("valid_accuracy", "valid_loss", "train_loss"),
    columns=("valid_loss", "valid_accuracy", "valid_macro_f1"),
    loss="cross_entropy",
    calibrated_loss="cross_entropy",
    losses=("cross_entropy",),
)


def evaluate_logits(task: Task, targets: np.ndarray, logits: np.ndarray, *, monitor: Any = "auto") -> dict[str, float]:
    """Return the validation part of a history row, with "valid_score" if the monitor is a metric of the caller's."""
    proba = task.to_proba(logits)
    row = task.measure(targets, logits, proba)
    if not callable(monitor):
        return row
    score = monitor(targets, proba)
    if not isinstance(score, (int, float, np.number)):
        raise InputError(f"The monitor {shorten(monitor)} must return a number. Got {shorten(score)}.")
    return row | {"valid_score": float(score)}


def score_epoch(row: dict[str, Any], *, task: Task, monitor: Any = "auto") -> float:
    """Say how good an epoch was, higher being better: by what is monitored, or by the first that is known."""
    if callable(monitor):
        names: tuple[str, ...] = ("valid_score",)
    else:
        names = task.watched if monitor == "auto" else (monitor,)
    values = ((-1 if name.endswith("loss") else 1) * row.get(name, math.nan) for name in names)
    return next((value for value in values if math.isfinite(value)), -math.inf)
