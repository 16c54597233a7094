"""The training loop: epochs, one epoch, one step. It runs inside accelerate, on one processor as on many."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import Batch, count_batches, create_generator
from multilabelkit.data.mixing import mix_batch
from multilabelkit.errors import InputError, MultiLabelKitError, warn
from multilabelkit.inference import autocast, explain_memory
from multilabelkit.nn.depthwise import speed_up_depthwise
from multilabelkit.nn.freezing import find_trainable, freeze, set_train_mode
from multilabelkit.nn.network import Network
from multilabelkit.training.averaging import create_average
from multilabelkit.training.callbacks import Callback, TrainState, announce
from multilabelkit.training.evaluation import evaluate_logits, score_epoch
from multilabelkit.training.labelled import Labelled, LabelledFeatures
from multilabelkit.training.lr_finder import LearningRateCurve, find_learning_rate
from multilabelkit.training.optim import create_optimizer, create_schedule
from multilabelkit.training.sampling import draw_rows
from multilabelkit.training.settings import TrainingSettings

_LONG_AVERAGE, _SHORT_AVERAGE = 1, 9  # warm-ups, see `create_average`
_EXPLOSION = 20  # times the loss of the first batch, or 1 where that is less: a sure sign that a training diverges
_ADVICE = "Try a tenth of that learning rate, clip_norm=1, or precision='fp32'."


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C after at least one epoch: the network has the best weights so far.

    Attributes
    ----------
    state : TrainState
        Where the training stood.
    learning_rate : float
        Its rate.
    """

    def __init__(self, state: TrainState, *, learning_rate: float) -> None:
        super().__init__()
        self.state = state
        self.learning_rate = learning_rate


class _LossNotFiniteError(MultiLabelKitError):
    """The training has diverged."""


def train_network(
    network: Network,
    train: Labelled,
    valid: Labelled | None,
    *,
    spec: InputSpec,
    settings: TrainingSettings,
    callbacks: Sequence[Callback] = (),
    owner: Network | None = None,
) -> TrainState:
    """Train a network in place, and leave it with the best weights it had.

    Parameters
    ----------
    network : Network
        On the device already.
    train : LabelledImages or LabelledFeatures
    valid : LabelledImages, LabelledFeatures or None
        What the best epoch is chosen on, see ``settings.monitor``; without it, by the lowest training loss.
    spec : InputSpec
    settings : TrainingSettings
    callbacks : sequence of Callback
    owner : Network, optional
        The whole network, where `network` is its head alone; it is what callbacks see.

    Returns
    -------
    state : TrainState
        With the history, the logits of the validation images in the best epoch, and the reason of an early stop.

    Raises
    ------
    MultiLabelKitError
        If the loss is not finite in the first epoch, or a batch does not fit in memory. In a later epoch a loss that is
        not finite ends the training with a warning, and the best weights so far are kept.
    TrainingInterrupted
        On Ctrl-C after the first epoch; it holds the state, and the network has the best weights so far.
    """
    run = _Run(network, train, spec=spec, settings=settings)
    is_head = owner is not None and owner is not network
    state = TrainState(
        network=owner or network,
        n_epochs=run.n_epochs,
        n_steps=run.n_batches,
        phase="refit" if settings.last_epoch is not None else "head" if is_head else "training",
        n_images=run.n_images,
    )
    best = _Best(settings)
    try:
        for callback in callbacks:
            callback.on_train_begin(state)
        with explain_memory(batch_size=settings.batch_size, spec=spec, device=settings.device):
            _run_epochs(run, state, best, valid, callbacks)
    except _LossNotFiniteError as error:
        if best.weights is None:
            raise MultiLabelKitError(str(error)) from None
        state.stop_reason = str(error)
        warn(f"{error} The weights of epoch {(state.best_epoch or 0) + 1} are kept.")
    except KeyboardInterrupt as error:
        if best.weights is None:
            raise
        state.stop_reason = f"interrupted in epoch {state.epoch + 1}"
        raise TrainingInterrupted(state, learning_rate=settings.learning_rate) from error
    finally:
        if best.weights is not None:
            network.load_state_dict(best.weights)
        network.zero_grad()  # gradients are as large as the network, which the caller keeps
        for callback in callbacks:
            callback.on_train_end(state)
    return state


def search_learning_rate(
    network: Network, train: Labelled, *, spec: InputSpec, settings: TrainingSettings, n_steps: int | None = None
) -> LearningRateCurve:
    """Try rising rates on a copy of the network; see `find_learning_rate`.

    Parameters
    ----------
    network, train, spec, settings
        As for `train_network`.
    n_steps : int, optional
        How many batches to try; by default two epochs of them, but 30 to 100.
    """
    # With a rate of 1, the rates of the groups are their shares of the head's.
    alone = dataclasses.replace(
        settings,
        learning_rate=1.0,
        schedule="constant",
        schedule_params=None,
        ema=None,
        accumulate=1,
        start_share=0.0,
        trainable=find_trainable(settings.trainable, 0),  # what the training begins with
        verbose=False,
    )
    run = _Run(copy.deepcopy(network), train, spec=spec, settings=alone)
    shares = run.schedule.get_last_lr()
    batches = _repeat_epochs(run)
    devices = [settings.device] if settings.device.type == "cuda" else []

    def set_rate(rate: float) -> None:
        for group, share in zip(run.optimizer.param_groups, shares, strict=True):
            group["lr"] = rate * share

    def step() -> float:
        batch, random = next(batches)
        loss = run.compute_loss(batch, random)
        run.accelerator.backward(run.scaler.scale(loss))
        run.move_weights(follow_schedule=False)
        return loss.item()

    memory = explain_memory(batch_size=settings.batch_size, spec=spec, device=settings.device)
    with contextlib.closing(batches), memory, torch.random.fork_rng(devices):  # the training's dropout stays as it is
        return find_learning_rate(
            step, set_learning_rate=set_rate, n_steps=n_steps or min(100, max(30, 2 * run.n_batches))
        )


def _repeat_epochs(run: _Run) -> Generator[tuple[Batch, np.random.Generator], None, None]:
    for epoch in itertools.count():
        batches, random, _ = run.open_epoch(epoch)
        with contextlib.closing(batches):
            for batch in batches:
                yield batch, random


def _run_epochs(
    run: _Run, state: TrainState, best: _Best, valid: Labelled | None, callbacks: Sequence[Callback]
) -> None:
    for epoch in range(run.n_epochs):
        start = time.perf_counter()
        state.epoch, state.step = epoch, 0
        row: dict[str, Any] = {"epoch": run.settings.first_epoch + epoch}
        row["train_loss"] = run.train_epoch(state, callbacks)
        run.warn_of_explosion(row["train_loss"], epoch)
        logits, result = None, run.result
        _check_finite(_has_finite_weights(result), "weights", run, state)
        if valid is not None:
            logits = valid.predict_logits(result, spec=run.spec, settings=run.settings)
            _check_finite(np.isfinite(logits).all(), "outputs for the validation images", run, state)
            row |= evaluate_logits(run.settings.task, valid.targets, logits, monitor=run.settings.monitor)
        row |= {"learning_rate": run.learning_rate, "seconds": time.perf_counter() - start}
        state.history.append(row)
        best.update(state, result, logits)
        run.schedule.end_epoch(best.last_score)
        for callback in callbacks:
            callback.on_epoch_end(state)
        if state.stop_reason:
            return


def _has_finite_weights(network: Network) -> bool:
    values = (value for value in network.state_dict().values() if isinstance(value, torch.Tensor))
    return all(bool(value.isfinite().all()) for value in values if value.is_floating_point())


def _check_finite(is_finite: bool | np.bool_, what: str, run: _Run, state: TrainState) -> None:
    """Refuse what the last step of an epoch has spoilt; no loss tells of it."""
    if not is_finite:
        raise _LossNotFiniteError(
            f"The {what} were not finite at the end of epoch {state.epoch + 1}, at learning_rate="
            f"{run.learning_rate:.3g}. {_ADVICE}"
        )


@contextlib.contextmanager
def _explain_batch_norm() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            "Batch norm cannot be trained on a batch of one image whose maps are a single pixel there. Use "
            "batch_size=2 or more (and at least two images), or a larger image_size."
        ) from error


class _Best:
    """The best epoch so far: its score, its weights, and how long ago it was."""

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings
        self.weights: dict[str, torch.Tensor] | None = None
        self.score = self.last_score = -math.inf
        self.n_waited = 0

    def update(self, state: TrainState, network: Network, logits: np.ndarray | None) -> None:
        """Look at the last epoch; set the reason to stop if the best one is too long ago."""
        settings = self.settings
        self.last_score = score = score_epoch(state.history[-1], task=settings.task, monitor=settings.monitor)
        self.n_waited = 0 if score > self.score else self.n_waited + 1
        if score >= self.score or settings.last_epoch is not None:  # of equals the later: it has seen more
            weights = {key: copy.deepcopy(value) for key, value in network.state_dict().items()}
            # All at once, for Ctrl-C may come while a large network is copied.
            self.weights = state.best_weights = weights
            self.score, state.best_epoch, state.valid_logits = score, state.epoch, logits
        if settings.patience is not None and self.n_waited >= settings.patience and not state.stop_reason:
            state.stop_reason = f"no better epoch in {self.n_waited}"


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
    accelerator.gradient_accumulation_steps = 1  # a launcher may have set another in the environment
    accelerator.sync_gradients = True
    return accelerator


@torch.no_grad()
def blend_networks(start: Network, end: Network, share: float) -> Network:
    """Return a network on the line between two: `share` of the start's weights and statistics, the rest of the end's.

    Fine-tuning on few images goes too far: networks on the way are better, and less sure of themselves (Wortsman et
    al., "Robust fine-tuning of zero-shot models", CVPR 2022).
    """
    blended = copy.deepcopy(end)
    for kind in (nn.Module.parameters, nn.Module.buffers):  # these hold a tensor once, wherever it is used
        for value, beginning in zip(kind(blended), kind(start), strict=True):
            if value.is_floating_point():
                value.lerp_(beginning, share)
    return blended


class _Run:
    """The moving parts of one training: network, optimiser, schedule and average, prepared by accelerate."""

    def __init__(self, network: Network, train: Labelled, *, spec: InputSpec, settings: TrainingSettings) -> None:
        self.train, self.spec, self.settings = train, spec, settings
        self.accelerator = create_accelerator()
        self.n_images = len(train.targets) if settings.repeats is None else round(float(settings.repeats.sum()))
        self.n_batches = count_batches(self.n_images, settings.batch_size)
        self.n_epochs = settings.last_epoch or settings.max_epochs
        self.n_steps_left = settings.max_epochs * math.ceil(self.n_batches / settings.accumulate)
        optimizer = create_optimizer(
            network,
            optimizer=settings.optimizer,
            optimizer_params=settings.optimizer_params,
            learning_rate=settings.learning_rate,
            backbone_lr_factor=settings.backbone_lr_factor,
            weight_decay=settings.weight_decay,
        )
        self.schedule = create_schedule(
            optimizer,
            schedule=settings.schedule,
            schedule_params=settings.schedule_params,
            n_steps=self.n_steps_left,
            n_epochs=settings.max_epochs,
        )
        self.learning_rate = self.schedule.get_last_lr()[-1]
        self.network, self.optimizer = self.accelerator.prepare(network, optimizer)
        # In fp16 small gradients vanish unless the loss is scaled up.
        self.scaler = torch.amp.GradScaler(settings.device.type, enabled=settings.dtype == torch.float16)
        self.first_loss, self.has_exploded = math.nan, False
        self.average = None
        if settings.ema is not None:
            # Weights that are drawn to their start are worth averaging from the start.
            warmup = _LONG_AVERAGE if settings.start_share else _SHORT_AVERAGE
            self.average = create_average(network, decay=settings.ema, warmup=warmup)
        self.start = copy.deepcopy(network).requires_grad_(False) if settings.start_share else None
        self.targets = torch.tensor(train.targets)  # a copy: the caller's may be read-only
        self.sample_weight = None if train.sample_weight is None else torch.tensor(train.sample_weight)
        self.trainable: Any = None

    @property
    def result(self) -> Network:
        """The network whose weights count: the average if there is one, drawn towards the start if that is asked."""
        network = self.average.module if isinstance(self.average, AveragedModel) else self.network
        network = self.accelerator.unwrap_model(network)
        return network if self.start is None else blend_networks(self.start, network, self.settings.start_share)

    def train_epoch(self, state: TrainState, callbacks: Sequence[Callback]) -> float:
        """Run one epoch and return its mean training loss per image."""
        settings = self.settings
        batches, random, n_batches = self.open_epoch(state.epoch)
        total, n_seen = 0.0, 0
        with contextlib.closing(batches):  # closed also on an error: no thread outlives the epoch
            for batch in batches:
                n_open = min(settings.accumulate, n_batches - state.step + state.step % settings.accumulate)
                loss = self.compute_loss(batch, random)
                self.accelerator.backward(self.scaler.scale(loss / n_open))
                state.loss = loss.item()
                if math.isnan(self.first_loss):
                    self.first_loss = state.loss
                self._check_loss(state)
                if (state.step + 1) % settings.accumulate == 0 or state.step + 1 == n_batches:
                    self.move_weights()
                total, n_seen = total + state.loss * len(batch.rows), n_seen + len(batch.rows)
                state.step += 1
                for callback in callbacks:
                    callback.on_step_end(state)
        return total / n_seen

    def open_epoch(self, epoch: int) -> tuple[Generator[Batch, None, None], np.random.Generator, int]:
        """Return the batches of an epoch, the random numbers to mix them with, and how many batches there are."""
        self._open_layers(epoch)
        settings, number = self.settings, self.settings.first_epoch + epoch
        random = create_generator("mixing", settings.seed, number)
        rows = None if settings.repeats is None else draw_rows(settings.repeats, random)
        batches = self.train.iterate(spec=self.spec, settings=settings, epoch=number, rows=rows)
        n_batches = self.n_batches if rows is None else count_batches(len(rows), settings.batch_size)
        return batches, random, n_batches

    def _open_layers(self, epoch: int) -> None:
        network = self.accelerator.unwrap_model(self.network)
        trainable = find_trainable(self.settings.trainable, epoch)
        if trainable != self.trainable and not isinstance(self.train, LabelledFeatures):
            report = freeze(network, trainable)
            if self.settings.verbose and (self.trainable is not None or trainable != "all"):
                announce(report.describe())
        self.trainable = trainable
        set_train_mode(network, batch_norm=self.settings.trains_batch_norm)

    def _check_loss(self, state: TrainState) -> None:
        if not math.isfinite(state.loss):
            raise _LossNotFiniteError(
                f"The training loss became {state.loss} in epoch {state.epoch + 1}, batch {state.step + 1}, at "
                f"learning_rate={self.learning_rate:.3g}. {_ADVICE}"
            )

    def warn_of_explosion(self, loss: float, epoch: int) -> None:
        """Say once that the training has diverged, where the loss is still a number."""
        if not self.has_exploded and loss > _EXPLOSION * max(1.0, self.first_loss):
            self.has_exploded = True
            warn(
                f"The training loss rose from {self.first_loss:.3g} in the first batch to {loss:.3g} on average in "
                f"epoch {epoch + 1}, at learning_rate={self.settings.learning_rate:.3g}: this training has diverged. "
                f"{_ADVICE}"
            )

    def compute_loss(self, batch: Batch, random: np.random.Generator) -> torch.Tensor:
        """Return the loss of one batch."""
        device = self.settings.device
        images = self.train.to_input(batch, spec=self.spec, device=device)
        targets = self.targets[batch.rows].to(device)
        weight = None if self.sample_weight is None else self.sample_weight[batch.rows].to(device)
        if self.settings.mixing is not None and not isinstance(self.train, LabelledFeatures):
            images, targets, weight = mix_batch(images, targets, weight, self.settings.mixing, random)
        dtype = self.settings.dtype
        with autocast(device, dtype), speed_up_depthwise(device, dtype), _explain_batch_norm():
            logits = self.network(images)
        return self.settings.loss(logits, targets, weight)

    def move_weights(self, *, follow_schedule: bool = True) -> None:
        """Move the weights along the gradients gathered so far, and forget these."""
        if self.settings.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if follow_schedule:
            self.learning_rate = self.schedule.get_last_lr()[-1]  # the head's; then on to that of the next step
            self.n_steps_left -= 1
            if self.n_steps_left > 0:  # an epoch of repeated images may have a batch more than was planned
                self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
