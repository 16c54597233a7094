"""The training loop: epochs, one epoch, one step. It runs inside accelerate, on one processor as on many."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

from multilabelkit import metrics
from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import Batch, PixelReader, count_batches, iterate_evaluation, iterate_training
from multilabelkit.data.transforms import Augmentation, to_network_input
from multilabelkit.errors import MultiLabelKitError
from multilabelkit.inference import autocast, predict_logits, sigmoid
from multilabelkit.nn.losses import binary_cross_entropy
from multilabelkit.nn.network import Network
from multilabelkit.training.callbacks import Callback, TrainState
from multilabelkit.training.optim import create_average, create_optimizer, create_schedule


@dataclass(frozen=True)
class TrainingSettings:
    """The numbers of a training; the classifier's parameters of the same names say what they mean."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    backbone_lr_factor: float
    weight_decay: float
    ema: float | None
    augmentation: Augmentation | None
    device: torch.device
    dtype: torch.dtype
    num_workers: int
    seed: int
    first_epoch: int = 0  # how many epochs the network has behind it, so that a further fit draws other crops


@dataclass(frozen=True)
class LabelledImages:
    """Images with their targets, ready to be read."""

    reader: PixelReader
    targets: np.ndarray  # (n, C) float32 of 0, 1, NaN
    sample_weight: np.ndarray | None = None  # (n,) float32


def train_network(
    network: Network,
    train: LabelledImages,
    valid: LabelledImages | None,
    *,
    spec: InputSpec,
    settings: TrainingSettings,
    callbacks: Sequence[Callback] = (),
) -> TrainState:
    """Train a network in place, and leave it with the best weights it had.

    Parameters
    ----------
    network : Network
        On the device already.
    train : LabelledImages
    valid : LabelledImages or None
        The best weights are those of the highest mAP here; without it, those of the lowest training loss.
    spec : InputSpec
    settings : TrainingSettings
    callbacks : sequence of Callback

    Returns
    -------
    state : TrainState
        With the history and the reason of an early stop.
    """
    n_steps = count_batches(len(train.targets), settings.batch_size)
    state = TrainState(network=network, n_epochs=settings.max_epochs, n_steps=n_steps)
    run = _Run(network, train, spec=spec, settings=settings, n_steps=n_steps)
    best_score, best_weights = -math.inf, None
    try:
        for callback in callbacks:
            callback.on_train_begin(state)
        for epoch in range(settings.max_epochs):
            start = time.perf_counter()
            state.epoch, state.step = epoch, 0
            train_loss = run.train_epoch(state, callbacks)
            row: dict[str, Any] = {"epoch": settings.first_epoch + epoch, "train_loss": train_loss}
            if valid is not None:
                row |= evaluate_network(run.result, valid, spec=spec, settings=settings)
            row |= {"learning_rate": run.learning_rate, "seconds": time.perf_counter() - start}
            state.history.append(row)
            score = _score_epoch(row)
            if score >= best_score:  # of equals the later: it has seen more
                best_score, state.best_epoch = score, epoch
                best_weights = _copy_weights(run.result)
            for callback in callbacks:
                callback.on_epoch_end(state)
            if state.stop_reason:
                break
    finally:
        if best_weights is not None:
            network.load_state_dict(best_weights)
        network.zero_grad()  # gradients are as large as the network, which the caller keeps
        for callback in callbacks:
            callback.on_train_end(state)
    return state


def create_accelerator() -> Accelerator:
    """Create the accelerator of one training, whatever the process has used accelerate for before.

    Accelerate keeps one state per process, and refuses a second one of another precision or device. So it is told about
    neither: placement and autocast are ours, and what a launcher or the caller's own loop chose must not leak in.
    """
    try:
        accelerator = Accelerator(device_placement=False, mixed_precision="no", gradient_accumulation_steps=1)
    except ValueError:  # the caller has made one of another precision
        accelerator = Accelerator(device_placement=False, gradient_accumulation_steps=1)
        accelerator.native_amp = False
    accelerator.sync_gradients = True
    return accelerator


class _Run:
    """The moving parts of one training: network, optimiser, schedule and average, prepared by accelerate."""

    def __init__(self, network: Network, train: LabelledImages, *, spec, settings: TrainingSettings, n_steps: int):
        self.accelerator = create_accelerator()
        self.train, self.spec, self.settings = train, spec, settings
        optimizer = create_optimizer(
            network,
            learning_rate=settings.learning_rate,
            backbone_lr_factor=settings.backbone_lr_factor,
            weight_decay=settings.weight_decay,
        )
        self.schedule = create_schedule(optimizer, n_steps=settings.max_epochs * n_steps)
        self.learning_rate = self.schedule.get_last_lr()[-1]
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        self.average = create_average(network, decay=settings.ema) if settings.ema is not None else None
        self.targets = torch.tensor(train.targets)  # a copy: the caller's may be read-only
        self.sample_weight = None if train.sample_weight is None else torch.tensor(train.sample_weight)

    @property
    def result(self) -> Network:
        """The network whose weights count: the average if there is one."""
        network = self.average.module if isinstance(self.average, AveragedModel) else self.network
        return self.accelerator.unwrap_model(network)

    def train_epoch(self, state: TrainState, callbacks: Sequence[Callback]) -> float:
        """Run one epoch and return its mean training loss per image."""
        self.network.train()
        batches = iterate_training(
            self.train.reader,
            size=self.spec.size,
            batch_size=self.settings.batch_size,
            augmentation=self.settings.augmentation,
            seed=self.settings.seed,
            epoch=self.settings.first_epoch + state.epoch,
            num_workers=self.settings.num_workers,
        )
        total, n_seen = 0.0, 0
        with contextlib.closing(batches):  # also on an error: no thread outlives the epoch
            for batch in batches:
                state.loss = self.train_step(batch)
                self._check_loss(state)
                total, n_seen = total + state.loss * len(batch.rows), n_seen + len(batch.rows)
                state.step += 1
                for callback in callbacks:
                    callback.on_step_end(state)
        return total / n_seen

    def _check_loss(self, state: TrainState) -> None:
        if not math.isfinite(state.loss):
            raise MultiLabelKitError(
                f"The training loss became {state.loss} in epoch {state.epoch + 1}, batch {state.step + 1}, at "
                f"learning_rate={self.settings.learning_rate:g}. Try a tenth of that learning rate, "
                "or precision='fp32'."
            )

    def train_step(self, batch: Batch) -> float:
        """Move the weights by one batch and return its loss."""
        device = self.settings.device
        images = to_network_input(batch.pixels, self.spec, device=device, factors=batch.factors)
        targets = self.targets[batch.rows].to(device)
        weight = None if self.sample_weight is None else self.sample_weight[batch.rows].to(device)
        with autocast(device, self.settings.dtype):
            logits = self.network(images)
        loss = binary_cross_entropy(logits, targets, weight)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.optimizer.step()
        self.learning_rate = self.schedule.get_last_lr()[-1]  # the head's; the schedule moves on to the next step
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.item()


def evaluate_network(
    network: Network, images: LabelledImages, *, spec: InputSpec, settings: TrainingSettings
) -> dict[str, float]:
    """Return the validation part of a history row; F1 is taken at 0.5, as the thresholds come after training."""
    batches = iterate_evaluation(images.reader, batch_size=settings.batch_size, num_workers=settings.num_workers)
    logits = predict_logits(network, batches, spec=spec, device=settings.device, dtype=settings.dtype)
    proba = sigmoid(logits)
    y_pred = (proba >= 0.5).astype(np.int64)
    return {
        "valid_loss": metrics.binary_cross_entropy(images.targets, proba),
        "valid_map": metrics.mean_average_precision(images.targets, proba),
        "valid_macro_f1": metrics.f1_score(images.targets, y_pred, average="macro"),
        "valid_micro_f1": metrics.f1_score(images.targets, y_pred, average="micro"),
        "valid_binary_accuracy": metrics.binary_accuracy(images.targets, y_pred),
    }


def _score_epoch(row: dict[str, Any]) -> float:
    """Say how good an epoch was, higher being better: by mAP, or by a loss where nothing known tells more."""
    scores = (row.get("valid_map", math.nan), -row.get("valid_loss", math.nan), -row["train_loss"])
    return next(score for score in scores if math.isfinite(score))


def _copy_weights(network: Network) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in network.state_dict().items()}
