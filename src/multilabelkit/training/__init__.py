"""Watching and stopping a training."""

from multilabelkit.training.callbacks import Callback, CSVLogger, Progress, TensorBoardLogger, TrainState

__all__ = ["CSVLogger", "Callback", "Progress", "TensorBoardLogger", "TrainState"]
