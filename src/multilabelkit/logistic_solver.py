"""L2-regularised logistic regressions of many labels at once: all of them share each product with the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from multilabelkit.logistic_search import LogisticSearch, multiply

_LARGEST_GRAM = 4096  # features; of more, the Gram matrix is taken to be diagonal
_SCORING_TOL = 1e-3  # scores that are only compared with thresholds need no more digits
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
        lacked it, where none is known. Without an intercept, a problem of which none is known gets coefficients of 0.

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
    is_constant = (known == 0) | (design.has_intercept & ((present == 0) | (present == known)))
    n_iter, converged = np.zeros(len(theta), dtype=np.int64), is_constant.copy()
    rows = np.flatnonzero(~is_constant)
    tol = np.broadcast_to(tol, len(theta))
    unit = design.total_weight / weight.shape[1]  # of the loss, so that no scale of the weights is out of range
    search = LogisticSearch(design, targets[rows], weight[rows] / unit, theta[rows], 1 / (C * unit), exclusive)
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
        scores[rows] = multiply(solution.coef, X[rows], transpose=True).T + solution.intercept
        is_learnt = (targets[~rows] == 1).any(axis=0)
        y_true[np.ix_(rows, ~is_learnt)] = np.nan
    return y_true, scores


def _guess_intercepts(present, known, total, *, exclusive):
    """Return the intercepts that predict the share of each class, with half a sample more on each side."""
    absent = np.where(known > 0, known - present, total)
    return np.log(present + 0.5) - (0 if exclusive else np.log(absent + 0.5))
