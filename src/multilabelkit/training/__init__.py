"""Watching and stopping a training."""

from multilabelkit.training.callbacks import Callback, Progress, TrainState

__all__ = ["Callback", "Progress", "TrainState"]
