"""L2-regularised logistic regressions of many labels at once: all of them share each product with the features."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from scipy.linalg import cho_factor, cho_solve, get_blas_funcs
from scipy.special import softmax

_MEMORY = 20  # steps that the search remembers; few do badly where classes can be told apart without error
_LARGEST_GRAM = 4096  # features; of more, the Gram matrix is taken to be diagonal
_REFRESH = 4.0  # the curvature that the preconditioner was made for may be wrong by this factor
_ENOUGH = 0.1  # a line search ends where the slope has fallen to this share
_MAX_TRIALS = 20
_SCORING_TOL = 1e-3  # scores that are only compared with thresholds need no more digits
_BY_PROBLEM = ("weight", "goal", "floor", "theta", "margins", "residual", "share", "gradient", "direction", "slope")
_MAX_CELLS = 2**23  # labels to work on at a time, several tables of float64 each


@dataclass(frozen=True)
class Design:
    """Features as the solver wants them.

    Attributes
    ----------
    matrix : ndarray of shape (n_samples, n_features)
        The features; with an intercept, less their mean, so that intercept and coefficients hardly interact.
    mean : ndarray of shape (n_features,)
        float64; what was subtracted.
    gram : ndarray of shape (n_features, n_features) or (n_features,)
        ``matrix.T @ matrix`` for samples of a mean weight of 1, or its diagonal.
    total_weight : float
        The sum of the weights of the samples.
    has_intercept : bool
    """

    matrix: np.ndarray
    mean: np.ndarray
    gram: np.ndarray
    total_weight: float
    has_intercept: bool


@dataclass(frozen=True)
class Solution:
    """What the solver found, one row per problem.

    Attributes
    ----------
    coef : ndarray of shape (n_problems, n_features)
    intercept : ndarray of shape (n_problems,)
        float64, as `coef`; for features as they were before their mean was subtracted.
    n_iter : ndarray of int of shape (n_problems,)
    converged : ndarray of bool of shape (n_problems,)
        Whether `tol` was reached.
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: np.ndarray
    converged: np.ndarray


def prepare_features(X: np.ndarray, weight: np.ndarray, *, fit_intercept: bool) -> Design:
    """Do the work on the features that all problems share.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        float32 or float64; the products with it are computed in its precision, all else in float64.
    weight : ndarray of shape (n_samples,)
        Weights above 0.
    fit_intercept : bool

    Returns
    -------
    design : Design

    Examples
    --------
    >>> design = prepare_features(np.array([[1.0], [3.0]]), np.ones(2), fit_intercept=True)
    >>> design.matrix.ravel(), design.gram
    (array([-1.,  1.]), array([[2.]]))
    """
    mean, X = np.zeros(X.shape[1]), np.ascontiguousarray(X)
    if fit_intercept:
        mean = (np.einsum("i,ij->j", weight, X) / weight.sum()).astype(X.dtype)
        X, mean = X - mean, mean.astype(np.float64)
    is_even = weight.min() == weight.max()
    weighted = X if is_even else X * (weight / weight.mean()).astype(X.dtype)[:, np.newaxis]
    is_small = X.shape[1] <= _LARGEST_GRAM
    gram = weighted.T @ X if is_small else np.einsum("ij,ij->j", weighted, X)
    return Design(X, mean, gram, float(weight.sum()), fit_intercept)


def solve_logistic(
    design: Design,
    targets: np.ndarray,
    weight: np.ndarray,
    *,
    C: float,
    tol: float | np.ndarray,
    max_iter: int,
    exclusive: bool = False,
) -> Solution:
    """Minimise ``C * sum(weight * loss) + ||coef||**2 / 2`` for every problem; intercepts are not penalised.

    L-BFGS on all problems at once, each with steps of its own, in the metric of the Gram matrix times the mean
    curvature of the losses; since the margins along a step are known, its length is searched without a product with
    the features. Solved problems leave the search.

    Parameters
    ----------
    design : Design
    targets : ndarray of shape (n_problems, n_samples)
        0 or 1; 0 where unknown.
    weight : ndarray of shape (n_problems, n_samples)
        How much each label counts; 0 leaves it out.
    C : float
        Inverse strength of the penalty, as in scikit-learn.
    tol : float or ndarray of shape (n_problems,)
        A problem is solved when the estimated distance to its solution is below this share of the length of the
        coefficients, both in the metric of the curvature of the loss.
    max_iter : int
        Most steps.
    exclusive : bool, default=False
        Whether the rows of `targets` are classes that exclude each other: one problem, with the loss of the softmax,
        in place of one with a logistic loss each. Every class then needs a sample, and all rows have the same weights.

    Returns
    -------
    solution : Solution
        A problem with an intercept whose known labels are all alike has no solution. It gets coefficients of 0, and the
        intercept that predicts (P + 1/2) / (W + 1), of labels of weight W of which P are present; as if all samples
        lacked it, where none is known.

    References
    ----------
    D. Liu and J. Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization", 1989.

    Examples
    --------
    >>> design = prepare_features(np.array([[-1.0], [0.0], [1.0]]), np.ones(3), fit_intercept=True)
    >>> targets = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    >>> solution = solve_logistic(design, targets, np.ones((2, 3)), C=1.0, tol=1e-6, max_iter=100)
    >>> solution.coef.round(4), solution.intercept.round(4)
    (array([[0.7016],
           [0.    ]]), array([-0.7476, -1.9459]))
    """
    present, known = (weight * targets).sum(axis=1), weight.sum(axis=1)
    theta = np.zeros((len(targets), len(design.mean) + 1))  # coefficients, then the intercept
    if design.has_intercept:
        theta[:, -1] = _guess_intercepts(present, known, design.total_weight, exclusive=exclusive)
    is_constant = design.has_intercept & ((present == 0) | (present == known))
    n_iter, converged = np.zeros(len(theta), dtype=np.int64), is_constant.copy()
    rows = np.flatnonzero(~is_constant)
    tol = np.broadcast_to(tol, len(theta))
    unit = design.total_weight / weight.shape[1]  # of the loss, so that no scale of the weights is out of range
    search = _Search(design, targets[rows], weight[rows] / unit, theta[rows], 1 / (C * unit), exclusive)
    for iteration in range(max_iter + 1):
        if not len(rows):
            break
        solved = search.find_solved(tol[rows])
        ended = solved | (iteration == max_iter)
        theta[rows[ended]], n_iter[rows[ended]], converged[rows[solved]] = search.theta[ended], iteration, True
        rows = rows[~ended]
        if len(rows):
            search.keep(~ended)
            search.advance()
    if exclusive:
        theta -= theta.mean(axis=0)  # the same for all classes changes no probability, and the penalty is least without
    coef = theta[:, :-1]
    return Solution(coef, theta[:, -1] - coef @ design.mean, n_iter, converged)


def solve_folds(
    design: Design,
    targets: np.ndarray,
    weight: np.ndarray,
    part: np.ndarray | None,
    *,
    C: float,
    tol: float,
    max_iter: int,
) -> list[Solution]:
    """Solve logistic problems for all samples and, at the same time, for all but those of one fold.

    Parameters
    ----------
    design, targets, weight, C, tol, max_iter
        As for `solve_logistic`. Where a fold is left out, `tol` is at least 0.001.
    part : ndarray of int of shape (n_samples,) or None
        The fold of each sample, from 0. None leaves out nothing.

    Returns
    -------
    solutions : list of Solution
        For all samples, without fold 0, without fold 1, ...

    Examples
    --------
    >>> design = prepare_features(np.array([[-1.0], [0.0], [1.0]]), np.ones(3), fit_intercept=True)
    >>> targets, part = np.array([[0.0, 1.0, 1.0]]), np.array([0, 0, 1])
    >>> solutions = solve_folds(design, targets, np.ones((1, 3)), part, C=1.0, tol=1e-6, max_iter=100)
    >>> [round(solution.coef.item(), 3) for solution in solutions]
    [0.702, 0.0, 0.445]
    """
    part = np.zeros(targets.shape[1], dtype=np.int64) if part is None else part + 1
    n_sets, n_problems = part.max() + 1, len(targets)
    left_out, row = np.divmod(np.arange(n_sets * n_problems), n_problems)  # 0 leaves out nothing
    # Note: no search starts from the solution for all samples, in which those left out had their say.
    tols = np.where(left_out == 0, tol, max(tol, _SCORING_TOL))
    blocks = []
    for block in np.array_split(np.arange(len(row)), -(-len(row) * len(part) // _MAX_CELLS)):
        fold = left_out[block, np.newaxis]
        kept = weight[row[block]] * ((part != fold) | (fold == 0))
        blocks.append(solve_logistic(design, targets[row[block]], kept, C=C, tol=tols[block], max_iter=max_iter))
    whole = [np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Solution)]
    return [Solution(*parts) for parts in zip(*(np.split(values, n_sets) for values in whole), strict=True)]


def score_left_out(
    X: np.ndarray, targets: np.ndarray, part: np.ndarray, solutions: Sequence[Solution]
) -> tuple[np.ndarray, np.ndarray]:
    """Score every sample by the solution that left it out.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    targets : ndarray of shape (n_samples, n_problems)
        1 present, 0 absent, NaN unknown.
    part : ndarray of int of shape (n_samples,)
        The fold of each sample.
    solutions : sequence of Solution
        Without fold 0, without fold 1, ...

    Returns
    -------
    y_true : ndarray of shape (n_samples, n_problems)
        `targets`, with NaN also where a solution has seen no positive: its scores do not compare with those of others.
    scores : ndarray of shape (n_samples, n_problems)
        Logits.

    Examples
    --------
    >>> solutions = [Solution(np.array([[2.0]]), np.array([value]), *np.ones((2, 1))) for value in (0.0, 10.0)]
    >>> y_true, scores = score_left_out(np.array([[3.0], [4.0]]), np.array([[1.0], [0.0]]), np.array([0, 1]), solutions)
    >>> y_true.ravel(), scores.ravel()
    (array([nan,  0.]), array([ 6., 18.]))
    """
    y_true, scores = targets.astype(np.float64), np.empty(targets.shape)
    for fold, solution in enumerate(solutions):
        rows = part == fold
        scores[rows] = _multiply(solution.coef, X[rows], transpose=True).T + solution.intercept
        is_learnt = (targets[~rows] == 1).any(axis=0)
        y_true[np.ix_(rows, ~is_learnt)] = np.nan
    return y_true, scores


def _guess_intercepts(present, known, total, *, exclusive):
    """Return the intercepts that predict the share of each class, with half a sample more on each side."""
    absent = np.where(known > 0, known - present, total)
    return np.log(present + 0.5) - (0 if exclusive else np.log(absent + 0.5))


class _Search:
    """Problems that are not solved yet, and where each of them stands."""

    def __init__(self, design, targets, weight, theta, penalty, exclusive):
        self.design, self.penalty, self.exclusive = design, penalty, exclusive
        self.weight, self.goal, self.theta = weight, weight * targets, theta
        self.floor = 1e-9 * weight.sum(axis=1)  # of the curvature, which vanishes where all are told apart
        self.factor, self.factor_scale = None, np.nan  # NaN is near no scale
        self.history: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY)
        self.margins = np.repeat(theta[:, -1:], weight.shape[1], axis=1)
        self.residual = self._compare(self.margins)
        self.gradient = self._compute_gradient()

    def keep(self, mask: np.ndarray) -> None:
        """Go on with some of the problems."""
        if mask.all():
            return
        for name in _BY_PROBLEM:
            setattr(self, name, getattr(self, name)[mask])
        self.history = deque(((step[mask], turn[mask], rho[mask]) for step, turn, rho in self.history), maxlen=_MEMORY)

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
        bend = self._join(_dot(step, turn))
        rho = np.divide(1, bend, out=np.zeros_like(bend), where=bend > 0)
        dtype = self.design.matrix.dtype
        self.history.append((step.astype(dtype), turn.astype(dtype), rho.astype(dtype)))

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
        gradient[:, :-1] = _multiply(self.residual, matrix) + self.penalty * self.theta[:, :-1]
        gradient[:, -1] = self.residual.sum(axis=1) * self.design.has_intercept
        return gradient

    def _choose_direction(self):
        """Return minus the gradient times the inverse curvature that the steps so far suggest."""
        # Memory traffic: the history is as precise as the products that it came from, and no more.
        direction, shares = -self.gradient.astype(self.design.matrix.dtype), []
        for step, turn, rho in reversed(self.history):
            shares.append(rho * self._join(_dot(step, direction)))
            direction -= shares[-1][:, np.newaxis] * turn
        direction = self._precondition(direction)
        for step, turn, rho in self.history:
            direction += (shares.pop() - rho * self._join(_dot(turn, direction)))[:, np.newaxis] * step
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
        change = _multiply(direction, matrix, transpose=True) + self.direction[:, -1:]
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


def _multiply(left, matrix, *, transpose=False):
    """Return ``left @ matrix``, or ``left @ matrix.T``, in the precision of the matrix.

    By scipy's BLAS, which also solves for the preconditioner: numpy may have one of its own, and threads of two that
    wait for their next product keep each other from the processors, which takes twice as long as a single thread.
    """
    left = np.ascontiguousarray(left, dtype=matrix.dtype)
    (gemm,) = get_blas_funcs(("gemm",), (matrix,))
    return gemm(1, matrix.T, left.T, trans_a=transpose).T


def _dot(one, other):
    return np.einsum("ij,ij->i", one, other)
