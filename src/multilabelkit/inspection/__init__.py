"""Looking at what a classifier does."""

from multilabelkit.inspection.plots import plot_predictions

__all__ = ["plot_predictions"]
