"""From probabilities to decisions: one threshold per class, tuned on held-out predictions or fixed by hand."""

from multilabelkit.fixed_thresholds import apply_thresholds, fix_thresholds
from multilabelkit.threshold_objectives import OBJECTIVES
from multilabelkit.threshold_report import threshold_report
from multilabelkit.threshold_tuning import tune_thresholds

__all__ = ["OBJECTIVES", "apply_thresholds", "fix_thresholds", "threshold_report", "tune_thresholds"]
