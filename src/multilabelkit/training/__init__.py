"""Watching and stopping a training."""

from multilabelkit.training.callbacks import Callback, CSVLogger, Progress, TensorBoardLogger, TrainState
from multilabelkit.training.pruning import OptunaPruning

__all__ = ["CSVLogger", "Callback", "OptunaPruning", "Progress", "TensorBoardLogger", "TrainState"]
