"""The numbers of a training, and what sets labels apart from exclusive classes in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from multilabelkit.data.mixing import Mixing
from multilabelkit.data.transforms import Augmentation
from multilabelkit.nn.losses import Loss, create_loss
from multilabelkit.training.evaluation import LABELS, Task

Monitor = str | Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class TrainingSettings:
    """The numbers of a training; the classifier's parameters of the same names say what they mean."""

    max_epochs: int
    batch_size: int
    learning_rate: float
    backbone_lr_factor: float | tuple[float, float]
    weight_decay: float
    ema: float | None
    augmentation: Augmentation | None
    device: torch.device
    dtype: torch.dtype
    num_workers: int
    seed: int
    task: Task = LABELS
    loss: Loss = field(default_factory=lambda: create_loss("bce"))
    start_share: float = 0.0  # of the starting weights in those that count, see `blend_networks`
    mixing: Mixing | None = None
    repeats: np.ndarray | None = None  # (n,) how often an epoch shows each image; None shows each once
    trainable: str | float | Mapping[int, Any] = "all"
    trains_batch_norm: bool = True  # False keeps the statistics of batch norm as they are
    optimizer: Any = "adamw"
    optimizer_params: Mapping[str, Any] | None = None
    schedule: str = "one_cycle"
    schedule_params: Mapping[str, Any] | None = None
    clip_norm: float | None = None
    accumulate: int = 1
    flip: bool = False  # judge epochs by the mean of each image and its mirror image, as predictions are made
    monitor: Monitor = "auto"
    patience: int | None = None
    evaluation_batch_size: int = 32
    first_epoch: int = 0  # how many epochs the network has behind it, so that a further fit draws other crops
    last_epoch: int | None = None  # stop after so many epochs of the schedule, and keep the last weights, not the best
    verbose: bool = False
