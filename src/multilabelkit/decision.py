"""From logits to labels: calibration, thresholds, rules; and what of them is learnt on images set aside."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.calibration import Calibrator
from multilabelkit.inference import sigmoid
from multilabelkit.rules import DecisionRules
from multilabelkit.thresholds import apply_thresholds, fix_thresholds, threshold_report, tune_thresholds

# Columns of the report of thresholds that stay true where a threshold is set by hand.
_LASTING = ("threshold", "n_known", "n_positive", "f1_at_half")


def to_proba(calibrator: Calibrator | None, logits: np.ndarray) -> np.ndarray:
    """Return probabilities (n, C) float32: calibrated ones if there is a calibrator. Rows of NaN stay."""
    if calibrator is None:
        return sigmoid(logits)
    proba = np.full(logits.shape, np.nan, dtype=np.float32)
    sound = ~np.isnan(logits).any(axis=1)
    proba[sound] = calibrator.predict_proba(logits[sound])
    return proba


def decide(proba: np.ndarray, thresholds: np.ndarray, rules: DecisionRules, *, abstain: bool = True) -> np.ndarray:
    """Apply thresholds and rules; rows of NaN stay, and with `abstain` cells may be left open, both in float64."""
    if rules.to_dict():
        return (rules if abstain else dataclasses.replace(rules, abstain=(0.0,) * len(thresholds))).apply(
            proba, thresholds
        )
    bad = np.isnan(proba).any(axis=1)
    if not bad.any():
        return apply_thresholds(proba, thresholds)
    y_pred = np.full(proba.shape, np.nan)
    y_pred[~bad] = apply_thresholds(proba[~bad], thresholds)
    return y_pred


def tune(
    targets: np.ndarray, proba: np.ndarray, *, classes: np.ndarray, thresholds: Any, params: Mapping[str, Any] | None
) -> tuple[np.ndarray, pd.DataFrame]:
    """Return thresholds for what they are to be tuned for, or the fixed ones, and the report of how well they do."""
    if not isinstance(thresholds, str):
        limits = fix_thresholds(thresholds, classes=classes)
        return limits, threshold_report(targets, proba, limits, classes=classes)
    tuned_by = {"objective": thresholds, **(params or {})}
    limits = tune_thresholds(targets, proba, classes=classes, **tuned_by)
    return limits, threshold_report(targets, proba, limits, classes=classes, tuned_by=tuned_by)


def update_report(report: pd.DataFrame, thresholds: np.ndarray) -> pd.DataFrame:
    """Return the report with thresholds set by hand; nothing is known of how well those do that have moved."""
    moved = report["threshold"].to_numpy() != thresholds
    report = report.assign(threshold=thresholds)
    report.loc[moved, [name for name in report.columns if name not in _LASTING]] = np.nan
    return report
