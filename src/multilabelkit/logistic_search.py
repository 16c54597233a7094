"""The search for the coefficients of many logistic regressions: where each stands, and where it goes next."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_factor, cho_solve, get_blas_funcs
from scipy.special import softmax

if TYPE_CHECKING:
    from multilabelkit.logistic_solver import Design

_MEMORY = 20  # steps that the search remembers; few do badly where classes can be told apart without error
_REFRESH = 4.0  # the curvature that the preconditioner was made for may be wrong by this factor
_ENOUGH = 0.1  # a line search ends where the slope has fallen to this share
_MAX_TRIALS = 20
_BY_PROBLEM = ("weight", "goal", "floor", "theta", "margins", "residual", "share", "gradient", "direction", "slope")


class LogisticSearch:
    """Problems that are not solved yet, and where each of them stands.

    Parameters
    ----------
    design : Design
    targets : ndarray of shape (n_problems, n_samples)
        0 or 1; 0 where unknown.
    weight : ndarray of shape (n_problems, n_samples)
        How much each label counts; 0 leaves it out.
    theta : ndarray of shape (n_problems, n_features + 1)
        Coefficients, all of them 0, and the intercept to start from; the present ones are in `theta` later.
    penalty : float
        What half the squared length of the coefficients is multiplied by.
    exclusive : bool
        Whether the problems are classes that exclude each other.
    """

    def __init__(
        self,
        design: Design,
        targets: np.ndarray,
        weight: np.ndarray,
        theta: np.ndarray,
        penalty: float,
        exclusive: bool,
    ) -> None:
        self.design, self.penalty, self.exclusive = design, penalty, exclusive
        self.weight, self.goal, self.theta = weight, weight * targets, theta
        self.floor = 1e-9 * weight.sum(axis=1)  # of the curvature, which vanishes where all are told apart
        self.factor, self.factor_scale = None, np.nan  # NaN is near no scale
        self.history: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY)
        self.margins = np.repeat(theta[:, -1:], weight.shape[1], axis=1)
        self.residual = self._compare(self.margins)
        self.gradient = self._compute_gradient()

    def keep(self, mask: np.ndarray) -> None:
        """Go on with some of the problems."""
        if mask.all():
            return
        for name in _BY_PROBLEM:
            setattr(self, name, getattr(self, name)[mask])
        self.history = deque(((step[mask], turn[mask]) for step, turn in self.history), maxlen=_MEMORY)

    def find_solved(self, tol: np.ndarray) -> np.ndarray:
        """Choose the next directions, and tell which problems need none."""
        self.direction = self._choose_direction()
        self.slope = self._join(_dot(self.gradient, self.direction))
        coef, intercept = self.theta[:, :-1], self.theta[:, -1:]
        bend = self.penalty * self._join(_dot(coef, coef))
        return np.abs(self.slope) <= tol**2 * (self._measure_curvature(self.margins - intercept) + bend)

    def advance(self) -> None:
        """Take a step along the directions."""
        step = self._search_line()[:, np.newaxis] * self.direction
        self.theta = self.theta + step
        gradient = self._compute_gradient()
        turn, self.gradient = gradient - self.gradient, gradient
        bend = self._join(_dot(step, turn))[:, np.newaxis]
        # Both scaled so that their product is 1, which keeps the history of the strongest penalties within float32.
        scale = np.where(bend > 0, 1 / np.sqrt(np.where(bend > 0, bend, 1)), 0)
        dtype = self.design.matrix.dtype
        self.history.append(((scale * step).astype(dtype), (scale * turn).astype(dtype)))

    def _join(self, values):
        """Add up what is one problem."""
        return np.full_like(values, values.sum()) if self.exclusive else values

    def _compare(self, margins):
        """Return the derivatives of the losses, and set how much each margin shares in their curvature."""
        # Note: this tanh is several times as fast as expit, and as exact where it matters.
        proba = softmax(margins, axis=0) if self.exclusive else (np.tanh(margins / 2) + 1) / 2
        self.proba = proba if self.exclusive else None
        self.share = self.weight * proba
        residual = self.share - self.goal
        if not self.exclusive:
            self.share *= 1 - proba
        return residual

    def _measure_curvature(self, change):
        """Return the second derivatives of the losses along a change of the margins."""
        if self.exclusive:
            change = change - (self.proba * change).sum(axis=0)
        return self._join(np.einsum("ij,ij,ij->i", self.share, change, change))

    def _compute_gradient(self):
        matrix = self.design.matrix
        gradient = np.empty_like(self.theta)
        gradient[:, :-1] = multiply(self.residual, matrix) + self.penalty * self.theta[:, :-1]
        gradient[:, -1] = self.residual.sum(axis=1) * self.design.has_intercept
        return gradient

    def _choose_direction(self):
        """Return minus the gradient times the inverse curvature that the steps so far suggest."""
        # Memory traffic: the history is as precise as the products that it came from, and no more.
        direction, shares = -self.gradient.astype(self.design.matrix.dtype), []
        for step, turn in reversed(self.history):
            shares.append(self._join(_dot(step, direction)))
            direction -= shares[-1][:, np.newaxis] * turn
        direction = self._precondition(direction)
        for step, turn in self.history:
            direction += (shares.pop() - self._join(_dot(turn, direction)))[:, np.newaxis] * step
        return direction.astype(np.float64)

    def _precondition(self, vectors):
        """Multiply by the inverse of a rough curvature: the Gram matrix times the mean curvature of the losses."""
        curvature = np.maximum(self.share.sum(axis=1), self.floor)
        mean = curvature / self.weight.shape[1]
        scale = np.exp(np.log(mean).mean())  # one matrix for all problems
        if not self.factor_scale / _REFRESH <= scale <= self.factor_scale * _REFRESH:
            self.factor_scale = scale / 2  # it falls as the classes are told apart
            self.factor = self._factorise(self.factor_scale)
        gram, result = self.design.gram, np.empty_like(vectors)
        if gram.ndim == 1:
            result[:, :-1] = vectors[:, :-1] / self.factor
        else:
            right = vectors[:, :-1].T.astype(gram.dtype, copy=False)
            result[:, :-1] = cho_solve(self.factor, right, check_finite=False).T
        result[:, :-1] *= (self.factor_scale / mean)[:, np.newaxis]
        result[:, -1] = vectors[:, -1] / curvature * self.design.has_intercept
        return result

    def _factorise(self, scale):
        gram = self.design.gram
        if gram.ndim == 1:
            return gram * scale + self.penalty
        matrix = gram * gram.dtype.type(scale)
        diagonal = np.einsum("ii->i", matrix)
        # Rounding must not make it indefinite, however small the penalty.
        diagonal += max(self.penalty, np.finfo(gram.dtype).eps * len(gram) * diagonal.max())
        return cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)

    def _search_line(self):
        """Move the margins to where the loss stops falling along the directions; return the lengths of the steps."""
        matrix, coef, direction = self.design.matrix, self.theta[:, :-1], self.direction[:, :-1]
        change = multiply(direction, matrix, transpose=True) + self.direction[:, -1:]
        start, bend = (self.penalty * self._join(_dot(other, direction)) for other in (coef, direction))
        length, slope, margins = np.zeros_like(bend), self.slope, self.margins
        low, high, is_flat = np.full_like(bend, -np.inf), np.full_like(bend, np.inf), np.zeros(len(bend), dtype=bool)
        for _ in range(_MAX_TRIALS):
            low, high = np.where(slope < 0, length, low), np.where(slope > 0, length, high)
            newton = length - slope / (self._measure_curvature(change) + bend)
            is_inside = (newton > low) & (newton < high)
            length = np.where(is_flat, length, np.where(is_inside, newton, (low + high) / 2))
            margins = self.margins + length[:, np.newaxis] * change
            self.residual = self._compare(margins)
            slope = self._join(_dot(self.residual, change)) + start + length * bend
            is_flat = np.abs(slope) <= _ENOUGH * np.abs(self.slope)
            if is_flat.all():
                break
        self.margins = margins
        return length


def multiply(left: np.ndarray, matrix: np.ndarray, *, transpose: bool = False) -> np.ndarray:
    """Return ``left @ matrix``, or ``left @ matrix.T``, in the precision of the matrix.

    By scipy's BLAS, which also solves for the preconditioner: numpy may have one of its own, and threads of two that
    wait for their next product keep each other from the processors, which takes twice as long as a single thread.
    """
    left = np.ascontiguousarray(left, dtype=matrix.dtype)
    (gemm,) = get_blas_funcs(("gemm",), (matrix,))
    return gemm(1, matrix.T, left.T, trans_a=transpose).T


def _dot(one, other):
    return np.einsum("ij,ij->i", one, other)
