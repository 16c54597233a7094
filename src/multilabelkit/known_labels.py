"""What all metrics agree on: which labels count, how much each sample weighs, and means of what is known."""

from __future__ import annotations

from typing import Any

import numpy as np

from multilabelkit.checks import check_indicator, check_scores
from multilabelkit.errors import InputError


def check_decisions(
    y_true: Any, y_pred: Any, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return what is known and present, what is decided, what is known (each (n, c), boolean) and the weights (n,)."""
    y_true = check_indicator(y_true)
    y_pred = check_scores(y_true, y_pred, name="y_pred", probabilities=False)
    decided = y_pred == 1
    wrong = ~decided & (y_pred != 0)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(
            f"y_pred must hold only 0 and 1. Got {y_pred[row, column]:g} at row {row}, column {column}; "
            "turn probabilities into decisions with apply_thresholds(proba, thresholds)."
        )
    known, weight = weigh_known(y_true, sample_weight)
    return known & (y_true == 1), decided, known, weight


def weigh_known(y_true: np.ndarray, sample_weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return which cells are known (n, c), none in a sample of weight 0, and the weights (n,)."""
    weight = np.ones(len(y_true)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (len(y_true),):
        raise InputError(f"sample_weight must have the shape ({len(y_true)},) of the samples. Got {weight.shape}.")
    bad = ~np.isfinite(weight) | (weight < 0)
    if bad.any():
        raise InputError(f"sample_weight must be finite and >= 0. Got {weight[bad][0]:g} at row {np.argmax(bad)}.")
    return ~np.isnan(y_true) & (weight > 0)[:, None], weight


def average_known(values: np.ndarray, weight: np.ndarray | None = None, *, axis: int | None = None) -> Any:
    """Return the weighted mean of what is not NaN (the plain mean if all weights are 0); NaN if nothing is left."""
    measured = ~np.isnan(values)
    weights = measured * (1.0 if weight is None else weight)
    weights = np.where(weights.any(axis=axis, keepdims=True), weights, measured)
    means = divide(np.where(measured, values, 0.0) * weights, weights, axis=axis)
    return float(means) if np.ndim(means) == 0 else means


def divide(parts: np.ndarray, wholes: np.ndarray, *, axis: int | None = None) -> np.ndarray:
    """Return the sum of the parts over the sum of the wholes; NaN for 0 / 0."""
    total = np.asarray(wholes.sum(axis=axis))
    return np.divide(parts.sum(axis=axis), total, out=np.full(total.shape, np.nan), where=total > 0)
