"""The learning-rate range test: train with ever higher rates for some steps, and see where the loss falls fastest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from multilabelkit.checks import Check, Constraint, Interval, check_parameters
from multilabelkit.errors import InputError

_FEWEST_STEPS = 20


@dataclass(frozen=True, eq=False)
class LearningRateCurve:
    """What a range test saw, and the rate it suggests.

    Attributes
    ----------
    learning_rates : ndarray of shape (n_steps,)
        The rates of the head, rising.
    losses : ndarray of shape (n_steps,)
        The loss of each step; all are finite.
    smoothed : ndarray of shape (n_steps,)
        Its moving average.
    suggestion : float
        The rate to train with; the peak of a schedule.
    """

    learning_rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray
    suggestion: float

    def to_frame(self) -> pd.DataFrame:
        """Return the curve as a table with one row per step."""
        columns = {"learning_rate": self.learning_rates, "loss": self.losses, "smoothed": self.smoothed}
        return pd.DataFrame(columns)


def find_learning_rate(
    step: Callable[[], float],
    *,
    set_learning_rate: Callable[[float], None],
    low: float = 1e-6,
    high: float = 1.0,
    n_steps: int = 100,
    divergence: float = 4.0,
) -> LearningRateCurve:
    """Train with rates that rise exponentially from `low` to `high`, and suggest one.

    The weights are worthless afterwards: run it on a copy of the network.

    Parameters
    ----------
    step : callable
        Trains one step and returns its loss as a float.
    set_learning_rate : callable
        Sets the rate of the head, and those of the other groups in proportion.
    low, high : float
        First and last rate.
    n_steps : int, default=100
        How many steps to take at most, at least 20; 100 give a dependable suggestion.
    divergence : float, default=4.0
        Stop once the smoothed loss exceeds its best value this many times.

    Returns
    -------
    curve : LearningRateCurve

    Raises
    ------
    InputError
        If the loss tells nothing: it does not fall, or it is not finite from the beginning.

    Notes
    -----
    The loss is smoothed by an exponential average over about a tenth of `n_steps`, corrected for its start at zero. The
    suggestion is the geometric mean of two rates that users of this test choose by eye: the one at which the smoothed
    loss falls fastest, and a tenth of the one at which it is lowest. The first alone depends much on noise, the second
    on where in a flat valley the minimum happens to lie. Slopes are taken over the logarithm of the rate, and over a
    tenth of the steps.

    References
    ----------
    Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.

    Examples
    --------
    >>> rates = []
    >>> def step():  # a loss that falls fastest at a rate of 0.001, and explodes beyond 0.1
    ...     return 1 / (1 + rates[-1] / 0.001) + (rates[-1] / 0.1) ** 4
    >>> curve = find_learning_rate(step, set_learning_rate=rates.append)
    >>> 0.001 < curve.suggestion < 0.01
    True
    """
    values = {"low": low, "high": high, "n_steps": n_steps, "divergence": divergence}
    table: dict[str, list[Constraint]] = {
        "low": [Interval(float, 0, open_low=True)],
        "high": [Check(lambda value: Interval(float).accepts(value) and value > low, "a number > low")],
        "n_steps": [Interval(int, _FEWEST_STEPS)],
        "divergence": [Interval(float, 1, open_low=True)],
    }
    check_parameters("find_learning_rate", values, table)
    decay = max(0.5, 1 - 10 / n_steps)
    rates = np.geomspace(low, high, n_steps)
    losses: list[float] = []
    smoothed: list[float] = []
    total = 0.0
    for n_done, rate in enumerate(rates.tolist(), start=1):
        set_learning_rate(rate)
        loss = float(step())
        if not math.isfinite(loss):
            break
        total = decay * total + (1 - decay) * loss
        losses.append(loss)
        smoothed.append(total / (1 - decay**n_done))
        best = min(smoothed)
        if smoothed[-1] > best + (divergence - 1) * abs(best):
            break
    seen = rates[: len(losses)]
    suggestion = _suggest_rate(seen, np.array(losses), np.array(smoothed), decay=decay, n_steps=n_steps)
    return LearningRateCurve(seen, np.array(losses), np.array(smoothed), suggestion)


def _suggest_rate(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray, *, decay: float, n_steps: int) -> float:
    """Return the geometric mean of the rate of the steepest fall and a tenth of the rate of the minimum."""
    first, half = n_steps // 10, max(1, n_steps // 20)  # the average needs a tenth of the steps to settle
    lowest = first + int(smoothed[first:].argmin()) if len(smoothed) > first else len(smoothed) - 1
    if lowest < first + 2 * half:
        raise InputError(
            f"The test of learning rates tells nothing: after {lowest + 1} of {n_steps} steps the loss only rose, or "
            "was not finite. Start at a lower rate, or use precision='fp32'."
        )
    start = losses[:first].mean()
    noise = np.diff(losses[: lowest + 1]).std() / math.sqrt(2)
    # Three standard errors of the difference between a mean and an exponential average.
    if start - smoothed[lowest] <= 3 * noise * math.sqrt(1 / first + (1 - decay) / (1 + decay)):
        raise InputError(
            f"The test of learning rates tells nothing: the loss went from {start:.3g} to {smoothed[lowest]:.3g} at "
            f"best, while it varies by {noise:.2g} from step to step. Use more steps (n_steps) or a larger "
            "batch, or set learning_rate yourself."
        )
    # Slopes over the steps are slopes over the logarithm of the rate.
    slopes = smoothed[first + 2 * half : lowest + 1] - smoothed[first : lowest + 1 - 2 * half]
    steepest = first + half + int(slopes.argmin())
    return math.sqrt(rates[steepest] * rates[lowest] / 10)
