"""From logits to probabilities that mean what they say: of the cells with 0.3, three in ten are present."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.special import expit, logit
from sklearn.exceptions import NotFittedError
from sklearn.isotonic import isotonic_regression

from multilabelkit.checks import (
    Check,
    Choice,
    Constraint,
    Interval,
    check_indicator,
    check_parameters,
    check_scores,
    shorten,
)
from multilabelkit.class_names import list_names
from multilabelkit.errors import InputError, warn
from multilabelkit.fixed_thresholds import fix_thresholds
from multilabelkit.threshold_prior import fit_sigmoid, measure_log_loss

__all__ = ["Calibrator"]

METHODS = ("auto", "temperature", "platt", "isotonic")
_REACH = 1000.0  # logits further from 0 count as this
_END = _REACH + 1  # where the lines of isotonic classes end
_NEAREST = 36.0  # calibrated logits further from 0 count as this: beyond, a double cannot tell 1 - p from 0
_MIN_SLOPE = 0.01  # higher logits must stay higher, however little a class's logits tell
_MOST = 1e12  # nothing in a state is larger
_FEW = 5  # fewer samples of either kind do not carry a sigmoid of their own
_MANY, _MANY_OF_EITHER = 1000, 50  # known samples, and those of either kind, that isotonic regression needs
_N_FOLDS = 5
_N_BINS = 4096  # more logits of a class than this are binned, in bins less than 0.4 % of their value wide
_SPAN = np.arcsinh(_REACH) * (1 + 1e-9)


class Calibrator:
    """Turn logits into calibrated probabilities, class by class, without changing the order of any class.

    Focal and asymmetric losses and class weights train logits whose sigmoid is no probability. A calibrator learns the
    way back from held-out samples, by one of three maps:

    - temperature: sigmoid(logit / T) with one T for all classes; it needs least data.
    - Platt: sigmoid(a * logit + b) per class, at least log-loss + ((a - 1) ** 2 + b ** 2) / 2, with a > 0.
    - isotonic: per class, the non-decreasing steps of least squares. The steps are joined by lines from centre to
      centre, drawn between logits, and go on with Platt's slope beyond the outermost, so that different logits keep
      different probabilities: steps would tie samples that a threshold must tell apart.

    Parameters
    ----------
    method : {"auto", "temperature", "platt", "isotonic"}, default="auto"
        "auto" chooses per class: temperature with fewer than 5 known samples of either kind, otherwise Platt, or
        isotonic where it is allowed and has the lower log-loss in 5-fold cross-validation. "isotonic" is allowed with
        1000 known samples of a class, 50 of either kind; other classes get Platt, and a warning says so. A class with
        one known value only, or none, always gets the temperature.

    Attributes
    ----------
    methods_ : list of str, one per class
        "temperature", "platt" or "isotonic".
    temperature_ : float
        The T of all classes together, whether or not a class uses it.
    slopes_, offsets_ : ndarray of shape (n_classes,)
        a and b of sigmoid(a * logit + b): 1 / T and 0 for temperature; of an isotonic class, Platt's.
    knots_ : list of one None or ndarray of shape (2, n_knots) per class
        Of an isotonic class the logits, ascending, and the calibrated logits at which straight lines meet.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun and K. Weinberger, "On Calibration of Modern Neural Networks", 2017. J. Platt,
    "Probabilistic Outputs for Support Vector Machines and Comparisons to Regularized Likelihood Methods", 1999.

    Examples
    --------
    >>> import numpy as np
    >>> random = np.random.default_rng(0)
    >>> logits = random.normal(-1, 2, (500, 2))
    >>> y_true = random.random((500, 2)) < 1 / (1 + np.exp(-logits))
    >>> calibrator = Calibrator().fit(y_true, 3 * logits + [0, 6])  # too sure, and the second class too high
    >>> calibrator.methods_
    ['platt', 'platt']
    >>> calibrator.predict_proba([[3, 9]]).round(1)  # in truth sigmoid(1), 0.7
    array([[0.7, 0.7]])
    """

    def __init__(self, *, method: str = "auto") -> None:
        self.method = method

    def fit(self, y_true: Any, logits: Any, *, classes: Sequence[Any] | np.ndarray | None = None) -> Calibrator:
        """Learn the maps from held-out samples; their order does not matter.

        Parameters
        ----------
        y_true : array-like of shape (n_samples, n_classes)
            1 present, 0 absent, NaN unknown (left out for that class).
        logits : array-like of shape (n_samples, n_classes)
            From samples not used for training. Beyond -1000 and 1000, infinity too, they count as these.
        classes : sequence of shape (n_classes,), default=None
            Names for the warning; None uses the column numbers.

        Returns
        -------
        self : Calibrator

        Raises
        ------
        InputError
            If the method is unknown, the shapes differ, or a logit is NaN.
        """
        check_parameters("Calibrator", {"method": self.method}, {"method": [Choice(METHODS)]})
        y_true = check_indicator(y_true)
        logits = check_scores(y_true, _limit(logits), name="logits", probabilities=False)
        names = list_names(range(y_true.shape[1]) if classes is None else classes, n_classes=y_true.shape[1])
        cells = [_count_by_logit(*column) for column in zip(y_true.T, np.ascontiguousarray(logits.T), strict=True)]
        everything = np.concatenate([np.empty((3, 0)), *cells], axis=1)
        slope = fit_sigmoid(everything, min_slope=_MIN_SLOPE, with_offset=False)[0]
        self.temperature_ = float(1 / slope)
        maps = [_fit_map(self.method, column, 1 / self.temperature_) for column in cells]
        self.methods_ = [name for name, _, _ in maps]
        self.slopes_, self.offsets_ = np.array([line for _, line, _ in maps], dtype=np.float64).reshape(-1, 2).T
        self.knots_ = [knots for _, _, knots in maps]
        if self.method == "isotonic":
            _warn_of_fallbacks(names, self.methods_, cells)
        return self

    def predict_proba(self, logits: Any) -> np.ndarray:
        """Return calibrated probabilities.

        Parameters
        ----------
        logits : array-like of shape (n_samples, n_classes)

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            float64, above 0 and below 1; within a class never lower for a higher logit.

        Raises
        ------
        InputError
            If the shape does not fit or a logit is NaN.
        """
        self._check_is_fitted()
        n_classes, limited = len(self.methods_), _limit(logits)
        if np.ndim(limited) != 2 or np.shape(limited)[1] != n_classes:
            raise InputError(
                f"logits must have the shape (n_samples, {n_classes}), a column for each class that the calibrator "
                f"was fitted to. Got the shape {np.shape(limited)}."
            )
        return expit(self._move(check_scores(np.asarray(limited), limited, name="logits", probabilities=False)))

    def map_thresholds(self, thresholds: Any, *, inverse: bool = False) -> np.ndarray:
        """Carry thresholds on raw probabilities, sigmoid(logit), to calibrated ones, so that decisions stay the same.

        A sample on its threshold stays present; 0 stays 0 (always present) and 1 stays 1. Only probabilities that
        differ in their 12th digit, or so near to 0 or 1 that the other scale cannot tell them apart, may change sides.

        Parameters
        ----------
        thresholds : float, array-like of shape (n_classes,)
            In [0, 1].
        inverse : bool, default=False
            Whether to carry thresholds on calibrated probabilities to raw ones.

        Returns
        -------
        thresholds : ndarray of shape (n_classes,)
            In [0, 1].

        Raises
        ------
        InputError
            If the length differs or a number is not in [0, 1].

        Examples
        --------
        >>> calibrator = Calibrator().fit([[0], [0], [0], [1]] * 100, [[1], [2], [3], [4]] * 100)
        >>> calibrator.map_thresholds([0.97]).round(2)
        array([0.52])
        >>> calibrator.map_thresholds([0.52], inverse=True).round(2)
        array([0.97])
        """
        self._check_is_fitted()
        limits = fix_thresholds(thresholds, classes=range(len(self.methods_)))
        inside = (limits > 0) & (limits < 1)
        heights = _give_way(logit(np.where(inside, limits * (1 - 1e-15), 0.5)))[None]
        moved = _give_way(self._move_back(heights) if inverse else self._move(heights))
        return np.where(inside, expit(moved[0]), limits)

    def get_state(self) -> dict[str, Any]:
        """Return what was fitted as plain data that JSON can hold; `from_state` takes it back."""
        self._check_is_fitted()
        state: dict[str, Any] = {"method": self.method, "methods": [*self.methods_], "temperature": self.temperature_}
        knots = [knots if knots is None else knots.tolist() for knots in self.knots_]
        return state | {"slopes": self.slopes_.tolist(), "offsets": self.offsets_.tolist(), "knots": knots}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Calibrator:
        """Make a fitted calibrator of what `get_state` returned.

        Parameters
        ----------
        state : dict
            It may come from a file that strangers wrote.

        Raises
        ------
        InputError
            If something is missing, unknown, of another kind or out of range.

        Examples
        --------
        >>> state = Calibrator().fit([[0], [1]], [[-3], [3]]).get_state()
        >>> Calibrator.from_state(state).predict_proba([[0]])
        array([[0.5]])
        """
        _check_state(state)
        calibrator = cls(method=state["method"])
        calibrator.methods_, calibrator.temperature_ = [*state["methods"]], float(state["temperature"])
        calibrator.slopes_, calibrator.offsets_ = np.array([state["slopes"], state["offsets"]], dtype=np.float64)
        calibrator.knots_ = [None if knots is None else np.array(knots, dtype=np.float64) for knots in state["knots"]]
        return calibrator

    def extend(self, n_new: int) -> Calibrator:
        """Return a calibrator of further classes too, which come last and have the common temperature.

        Examples
        --------
        >>> Calibrator().fit([[0], [1]], [[-3], [3]]).extend(2).methods_
        ['temperature', 'temperature', 'temperature']
        """
        state = self.get_state()
        state["methods"] += ["temperature"] * n_new
        state["slopes"] += [1 / self.temperature_] * n_new
        state["offsets"] += [0.0] * n_new
        state["knots"] += [None] * n_new
        return self.from_state(state)

    def _check_is_fitted(self):
        if not hasattr(self, "methods_"):
            raise NotFittedError("This Calibrator is not fitted yet. Call fit(y_true, logits) first.")

    def _move(self, logits):
        """Return calibrated logits; rounding cannot turn their order round."""
        moved = logits * self.slopes_ + self.offsets_
        for place, knots in enumerate(self.knots_):
            if knots is not None:
                moved[:, place] = _follow(logits[:, place], *knots)
        return np.clip(moved, -_NEAREST, _NEAREST)

    def _move_back(self, calibrated):
        """Return the logits that become these."""
        moved = (calibrated - self.offsets_) / self.slopes_
        for place, knots in enumerate(self.knots_):
            if knots is not None:
                moved[:, place] = _follow(calibrated[:, place], *knots[::-1])
        return moved


def _give_way(heights):
    """Lower thresholds by what rounding can be, lest a sample on its threshold end below it."""
    return heights - 1e-12 * (1 + np.abs(heights))


def _limit(logits):
    """Bring far logits near; what holds no numbers is left to `check_scores`, which says what is wrong with it."""
    try:
        return np.clip(np.asarray(logits, dtype=np.float64), -_REACH, _REACH)
    except (TypeError, ValueError):
        return logits


def _count_by_logit(truth, logits):
    """Return logits (if many, means of bins) in ascending order, how many are absent and present; (3, n_logits)."""
    known = ~np.isnan(truth)
    present, logits = truth[known] == 1, logits[known]
    if len(logits) <= _N_BINS:
        values, bins = np.unique(logits, return_inverse=True)
    else:
        bins = ((np.arcsinh(logits) / _SPAN + 1) * (_N_BINS / 2)).astype(np.int16)
        total = np.bincount(bins, weights=logits, minlength=_N_BINS)
        values = total / np.maximum(np.bincount(bins, minlength=_N_BINS), 1)
    counts = [np.bincount(bins[present == kind], minlength=len(values)) for kind in (False, True)]
    return np.vstack([values, *counts])[:, np.any(counts, axis=0)]


def _fit_map(method, cells, common_slope):
    """Return (method, (slope, offset), knots) of one class."""
    counts = cells[1:].sum(axis=1)
    if method == "temperature" or counts.min() < (_FEW if method == "auto" else 1):
        return "temperature", (common_slope, 0.0), None
    line = fit_sigmoid(cells, min_slope=_MIN_SLOPE)
    too_few = counts.sum() < _MANY or counts.min() < _MANY_OF_EITHER
    if method == "platt" or too_few or (method == "auto" and not _prefers_isotonic(cells)):
        return "platt", line, None
    return "isotonic", line, _fit_isotonic(cells, line[0])


def _prefers_isotonic(cells):
    """Tell whether isotonic regression beats Platt on the samples that were left out of each fold's fit."""
    # Note: folds are drawn for each logit's counts, not for rows, so that the order of the samples does not matter.
    random = np.random.default_rng(0)
    folds = random.multinomial(cells[1:].astype(np.int64), [1 / _N_FOLDS] * _N_FOLDS)  # (2, n_logits, n_folds)
    lead = 0.0
    for left_out in np.moveaxis(folds, -1, 0):
        kept = np.vstack([cells[0], cells[1:] - left_out])[:, (cells[1:] > left_out).any(axis=0)]
        slope, offset = fit_sigmoid(kept, min_slope=_MIN_SLOPE)
        lead += measure_log_loss(slope * cells[0] + offset, *left_out)
        lead -= measure_log_loss(_follow(cells[0], *_fit_isotonic(kept, slope)), *left_out)
    return lead > 0


def _fit_isotonic(cells, slope):
    """Return the knots of the lines that join the centres of the isotonic steps, (2, n_knots)."""
    logits, _, present = cells
    count = cells[1:].sum(axis=0)
    steps = isotonic_regression(present / count, sample_weight=count)
    first = np.flatnonzero(np.diff(steps, prepend=-1.0) > 0)
    last = np.append(first[1:], len(steps)) - 1
    size = np.add.reduceat(count, first)
    centres = np.clip(np.add.reduceat(logits * count, first) / size, logits[first], logits[last])
    knots = np.stack([centres, logit(_leave_ends(steps[first], size))])[:, np.diff(centres, prepend=-np.inf) > 0]
    ends = knots[:, [0, -1]] + [[1], [slope]] * (np.array([-_END, _END]) - knots[0, [0, -1]])
    return np.hstack([ends[:, :1], knots, ends[:, 1:]])


def _leave_ends(proba, size):
    """Move a lowest step of 0 and a highest of 1 inwards, by Laplace's rule and at most half-way to the next step."""
    low = np.minimum(1 / (size + 2), np.append(proba[1:], 1) / 2)
    high = 1 - np.minimum(1 / (size + 2), 0.5 - np.append(0, proba[:-1]) / 2)
    return np.where(proba == 0, low, np.where(proba == 1, high, proba))


def _follow(values, xs, ys):
    """Return the heights of the lines through the knots; unlike np.interp's, rounding never lets them fall."""
    place = np.clip(np.searchsorted(xs, values, side="right") - 1, 0, len(xs) - 2)
    share = np.clip((values - xs[place]) / np.diff(xs)[place], 0, 1)
    return np.minimum(ys[place] + share * np.diff(ys)[place], ys[place + 1])


def _warn_of_fallbacks(names, methods, cells):
    others = [place for place, method in enumerate(methods) if method != "isotonic"]
    if others:
        absent, present = cells[others[0]][1:].sum(axis=1).astype(int)
        warn(
            f"{len(others)} of {len(names)} classes have too few known samples for isotonic calibration and get a "
            f"sigmoid: the first is {names[others[0]]!r}, {present} present and {absent} absent. It takes "
            f"{_MANY} known samples, {_MANY_OF_EITHER} of either kind; method='auto' chooses without this warning."
        )


def _check_each(accepts, words):
    return Check(lambda values: isinstance(values, list) and all(map(accepts, values)), f"a list of {words}")


_NUMBERS = _check_each(Interval(float, -_MOST, _MOST).accepts, "finite numbers")


def _are_knots(knots):
    """Tell whether these are None, or two equally long lists of numbers that ascend."""
    if knots is None or not (isinstance(knots, list) and len(knots) == 2 and all(map(_NUMBERS.accepts, knots))):
        return knots is None
    return len(knots[0]) == len(knots[1]) >= 2 and all(a < b for values in knots for a, b in pairwise(values))


_STATE: dict[str, list[Constraint]] = {
    "method": [Choice(METHODS)],
    "methods": [_check_each(Choice(METHODS[1:]).accepts, "'temperature', 'platt' and 'isotonic'")],
    "temperature": [Interval(float, 1 / _MOST, 1 / _MIN_SLOPE)],
    "slopes": [_check_each(Interval(float, _MIN_SLOPE, _MOST).accepts, f"numbers >= {_MIN_SLOPE}")],
    "offsets": [_NUMBERS],
    "knots": [_check_each(_are_knots, "None and pairs of equally long lists of ascending numbers")],
}


def _check_state(state):
    if not isinstance(state, Mapping) or set(state) != set(_STATE):
        found = list(state) if isinstance(state, Mapping) else state
        raise InputError(f"The state of a calibrator must be a dict of {', '.join(_STATE)}. Got {shorten(found)}.")
    check_parameters("a calibrator's state", state, _STATE)
    shapes = {len(state[key]) for key in ("methods", "slopes", "offsets", "knots")}
    has_knots = [knots is not None for knots in state["knots"]]
    if len(shapes) > 1 or has_knots != [method == "isotonic" for method in state["methods"]]:
        raise InputError(
            "The state of a calibrator must hold a method, a slope, an offset and knots for each class, the knots None "
            f"unless the method is 'isotonic'. Got the methods {shorten(state['methods'])}."
        )
