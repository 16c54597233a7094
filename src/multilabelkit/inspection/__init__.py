"""Looking at what a classifier does."""

from multilabelkit.inspection.confusion import plot_confusion
from multilabelkit.inspection.curves import plot_history, plot_learning_rates
from multilabelkit.inspection.plots import plot_predictions

__all__ = ["plot_confusion", "plot_history", "plot_learning_rates", "plot_predictions"]
