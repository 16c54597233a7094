"""Features in, labels out: one logistic regression per class, all fitted together."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score
from sklearn.utils.validation import check_is_fitted, validate_data

from multilabelkit import metrics
from multilabelkit.checks import (
    NON_EMPTY,
    RANDOM_STATE,
    Check,
    Choice,
    Constraint,
    Interval,
    check_parameters,
    check_sample_weight,
)
from multilabelkit.class_names import join_first
from multilabelkit.data.exclusive_labels import encode_classes
from multilabelkit.data.label_kinds import find_names, unnest
from multilabelkit.data.label_weights import weigh_classes, weigh_labels
from multilabelkit.data.labels import encode_labels
from multilabelkit.errors import InputError, warn
from multilabelkit.logistic_solver import Solution, prepare_features, score_left_out, solve_folds, solve_logistic
from multilabelkit.stratification import split_rows
from multilabelkit.threshold_tuning import check_threshold_params
from multilabelkit.thresholds import OBJECTIVES, apply_thresholds, fix_thresholds, tune_thresholds

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = ["MultiLabelLogisticRegression"]

_PARAMETERS: dict[str, list[Constraint]] = {
    "C": [Interval(float, 0, open_low=True)],
    "class_weight": [
        Choice((None, "balanced")),
        Check(lambda value: isinstance(value, (Mapping, pd.Series)), "a dict by class"),
    ],
    "fit_intercept": [Choice((True, False))],
    "max_iter": [Interval(int, 1)],
    "tol": [Interval(float, 0, open_low=True)],
    "thresholds": [
        Choice(OBJECTIVES),
        Check(lambda v: v is not None and not isinstance(v, (str, bool)), "a number, one per class, a dict by class"),
    ],
    "threshold_params": [Choice((None,)), Check(lambda value: isinstance(value, Mapping), "a dict")],
    "threshold_cv": [Interval(int, 2)],
    "label_sep": [Choice((None,)), NON_EMPTY],
    "random_state": RANDOM_STATE,
}


class MultiLabelLogisticRegression(ClassifierMixin, BaseEstimator):
    """Logistic regression for any number of labels per sample, with a tuned threshold for each.

    Every class gets its own L2-regularised logistic regression, the one that scikit-learn's
    ``OneVsRestClassifier(LogisticRegression(C=C))`` finds; all are fitted together, which is many times as fast. Labels
    may be unknown (NaN): a class is fitted to the samples whose label is known. Thresholds are tuned on scores of
    samples that the scoring coefficients were not fitted to.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the penalty on the coefficients, above 0.
    class_weight : {"balanced"}, dict by class or None, default=None
        "balanced" weighs present and absent labels of a class so that both count alike, as in scikit-learn. A dict
        gives factors for the present labels of the classes that it names. Thresholds make up for rare classes
        without it, and it moves the probabilities away from the truth.
    fit_intercept : bool, default=True
        Whether to add a constant, which is not penalised.
    max_iter : int, default=300
        Most steps of the solver.
    tol : float, default=1e-5
        A class is solved when its coefficients are estimated to be within this share of their length, measured by
        what they do to the loss.
    thresholds : str, float, array-like of shape (n_classes,) or dict by class, default="f1"
        An objective of :func:`multilabelkit.thresholds.tune_thresholds`, or fixed numbers in [0, 1]; 0.5 predicts what
        scikit-learn would.
    threshold_params : dict, default=None
        Further arguments of `tune_thresholds`, such as ``{"target": 0.9}`` for "precision".
    threshold_cv : int, default=5
        Folds, with the same share of every label, whose scores tune the thresholds: each comes from coefficients
        fitted to the other folds. Then all samples are fitted. Fixed thresholds need no folds.
    label_sep : str, default=None
        Separator of labels given as one string a sample, such as ``"|"``.
    classes : sequence of str or int, default=None
        All classes in the wanted order. None learns them from y.
    random_state : int, RandomState instance or None, default=0
        Seed of the folds and of the resamples that tune thresholds, which None makes others at every fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted for label lists, in column order for tables.
    coef_ : ndarray of shape (n_classes, n_features)
        Of the type of X. (1, n_features), for the second class, where two classes exclude each other.
    intercept_ : ndarray of shape (n_classes,) or (1,)
        A class that no sample is known to have, or none to lack, has coefficients of 0 and the intercept that predicts
        (P + 1/2) / (W + 1): W is the weight of its known labels, P that of the present ones. With nothing known at
        all, every sample counts as lacking it.
    thresholds_ : ndarray of shape (n_classes,) or None
        A class is predicted where its probability is at least its threshold. None for classes that exclude each other.
    label_binarizer_ : MultiLabelBinarizer or None
        scikit-learn's, fitted with the classes. None for classes that exclude each other.
    n_iter_ : ndarray of int of shape (n_classes,) or (1,)
        Steps of the solver.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Only if the columns of X have names.

    See Also
    --------
    multilabelkit.MultiLabelImageClassifier : Images in, labels out.

    Notes
    -----
    What `y` is decides what is fitted. A table with one column per class, and rows of labels (lists, sets, dicts, or
    strings with `label_sep`) mean labels that do not exclude each other. **One name per sample** (a 1-D array or list
    of strings or numbers) means classes that do, as it does in scikit-learn: `predict` returns names, and rows of
    `predict_proba` sum to 1. The loss is then that of scikit-learn's LogisticRegression: a single logistic regression
    for two classes and the softmax for more: one-vs-rest probabilities, scaled to sum to 1, would be those of no model.
    Thresholds play no part, and samples of unknown class (None, NaN) are left out.

    So ``["sea", "trees"]`` are classes that exclude each other, ``[["sea"], ["trees"]]`` are labels. A nested list of
    0 and 1 with rows of equal length above 1 is a table; a column of 0 and 1 in a 2-D array is one label.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> y = [{"sea": int(a > 0), "trees": int(b > 1)} for a, b in X]
    >>> classifier = MultiLabelLogisticRegression().fit(X, y)
    >>> classifier.predict([[1.0, -2.0], [2.0, 2.0]])
    array([[1, 0],
           [1, 1]])
    >>> classifier.classes_
    array(['sea', 'trees'], dtype=object)
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        class_weight: str | Mapping | pd.Series | None = None,
        fit_intercept: bool = True,
        max_iter: int = 300,
        tol: float = 1e-5,
        thresholds: Any = "f1",
        threshold_params: Mapping | None = None,
        threshold_cv: int = 5,
        label_sep: str | None = None,
        classes: Sequence | np.ndarray | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.thresholds = thresholds
        self.threshold_params = threshold_params
        self.threshold_cv = threshold_cv
        self.label_sep = label_sep
        self.classes = classes
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, sample_weight: Any = None) -> MultiLabelLogisticRegression:
        """Fit the coefficients, and tune the thresholds on scores of samples left out of the fit.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Dense and finite. float32 stays float32, which is faster.
        y : labels of n_samples samples
            In any format of :func:`multilabelkit.as_indicator`; or one class name per sample, see Notes.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each sample counts in the loss. Samples of weight 0 are left out; otherwise all samples count
            alike when thresholds are tuned.

        Returns
        -------
        self : object

        Raises
        ------
        InputError
            If a parameter or `y` cannot be used.
        ValueError
            From scikit-learn, if `X` cannot be used.

        Warns
        -----
        ConvergenceWarning
            If a class was not solved within `max_iter` steps.
        MultiLabelKitWarning
            If classes have too few positives to tune their thresholds.
        """
        check_parameters(type(self).__name__, self.get_params(deep=False), _PARAMETERS)
        check_threshold_params(type(self).__name__, self.thresholds, self.threshold_params)
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        if y is None:
            raise InputError("MultiLabelLogisticRegression requires y to be passed, but the target y is None.")
        weight = _check_weight(sample_weight, len(X))
        names = find_names(y, label_sep=self.label_sep, classes=self.classes)
        if names is None:
            self._fit_labels(X, y, weight)
        else:
            self._fit_classes(X, names, weight)
        return self

    def _fit_labels(self, X: np.ndarray, y: Any, weight: np.ndarray) -> None:
        """Fit labels that do not exclude each other."""
        targets, binarizer = encode_labels(unnest(y), classes=self.classes, label_sep=self.label_sep)
        _check_same_length(X, targets)
        classes = binarizer.classes_
        is_fixed = not isinstance(self.thresholds, str)
        thresholds = fix_thresholds(self.thresholds, classes=classes) if is_fixed else None
        X, targets, weight = _keep_rows(weight > 0, X, targets, weight)
        known = ~np.isnan(targets.T)
        positive = np.where(known, targets.T, 0.0)
        weights = weigh_labels(positive, weight * known, self.class_weight, classes=classes)
        part = None
        if thresholds is None:
            sizes = np.bincount(np.arange(len(X)) % self.threshold_cv)  # no fold is empty where samples are few
            part = split_rows(targets, sizes=sizes, random_state=self.random_state)
        design = prepare_features(X, weight, fit_intercept=self.fit_intercept)
        solution, *others = solve_folds(design, positive, weights, part, **self._get_limits())
        if part is None:
            _warn_of_empty_classes(positive, classes)
        else:
            y_true, scores = score_left_out(X, targets, part, others)
            options = {"random_state": self.random_state, **(self.threshold_params or {})}
            thresholds = tune_thresholds(y_true, expit(scores), objective=self.thresholds, classes=classes, **options)
        self.label_binarizer_, self.thresholds_ = binarizer, thresholds
        self._set_solution(solution, classes, X.dtype)

    def _fit_classes(self, X: np.ndarray, names: np.ndarray, weight: np.ndarray) -> None:
        """Fit classes that exclude each other."""
        _check_same_length(X, names)
        X, names, weight = _keep_rows((weight > 0) & ~pd.isna(names), X, names, weight)
        targets, encoder = encode_classes(names, classes=self.classes)
        positive, classes = targets.T.astype(np.float64), encoder.classes_
        _check_every_class_found(positive, classes)
        weight = weigh_classes(positive, weight, self.class_weight, classes=classes)
        rows = positive[1:] if len(classes) == 2 else positive
        design = prepare_features(X, weight, fit_intercept=self.fit_intercept)
        weights = np.broadcast_to(weight, rows.shape)
        solution = solve_logistic(design, rows, weights, exclusive=len(rows) > 1, **self._get_limits())
        self.label_binarizer_ = self.thresholds_ = None
        self._set_solution(solution, classes, X.dtype)

    def _get_limits(self) -> dict[str, Any]:
        return {"C": self.C, "tol": self.tol, "max_iter": self.max_iter}

    def _set_solution(self, solution: Solution, classes: np.ndarray, dtype: np.dtype) -> None:
        self.classes_ = classes
        self.coef_, self.intercept_ = solution.coef.astype(dtype), solution.intercept.astype(dtype)
        self.n_iter_ = solution.n_iter
        unsolved = classes[-len(self.coef_) :][~solution.converged].tolist()
        if unsolved:
            message = (
                f"The solver took max_iter={self.max_iter} steps and did not reach tol={self.tol} for {len(unsolved)} "
                f"of {len(self.coef_)} classes, the first is {unsolved[0]!r}. Increase max_iter, or lower C."
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=4)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits, (n_samples, n_classes); higher means the class is more likely.

        Of two classes that exclude each other it is the logit of the second alone, (n_samples,). Thresholds have no
        part in it: at 0 the probability is 1/2.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        logits = X @ self.coef_.T + self.intercept_
        return logits.ravel() if self._is_binary() else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n_samples, n_classes).

        Rows sum to 1 only where the classes exclude each other.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        """
        logits = self.decision_function(X)
        if self.label_binarizer_ is not None:
            return expit(logits)
        return np.column_stack([expit(-logits), expit(logits)]) if self._is_binary() else softmax(logits, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 where a class is predicted and 0 elsewhere, (n_samples, n_classes) int64.

        Where the classes exclude each other, return the name of the most probable one, (n_samples,).

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        """
        check_is_fitted(self)
        if self.thresholds_ is not None:
            return apply_thresholds(self.predict_proba(X), self.thresholds_)
        logits = self.decision_function(X)
        return self.classes_[(logits > 0).astype(np.intp) if logits.ndim == 1 else logits.argmax(axis=1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the macro-F1; unknown labels are left out, and classes that y lacks score 0.

        Where the classes exclude each other, return the accuracy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : labels of n_samples samples, in any format that `fit` takes
        sample_weight : array-like of shape (n_samples,), default=None
        """
        y_pred = self.predict(X)
        if self.label_binarizer_ is None:
            return float(accuracy_score(y, y_pred, sample_weight=sample_weight))
        targets, _ = encode_labels(unnest(y), classes=self.classes_, label_sep=self.label_sep)
        _check_same_length(y_pred, targets)
        return metrics.f1_score(targets, y_pred, average="macro", sample_weight=sample_weight)

    def _is_binary(self) -> bool:
        return self.label_binarizer_ is None and len(self.classes_) == 2

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        # Note: multi_output would be "multi-class multi-output": a name, not a yes or no, in every column.
        tags.classifier_tags.multi_label = True
        return tags


def _check_weight(sample_weight: Any, n_samples: int) -> np.ndarray:
    weight = check_sample_weight(sample_weight, n_samples)
    return np.ones(n_samples) if weight is None else weight.astype(np.float64)


def _check_same_length(X: Any, y: Any) -> None:
    if len(X) != len(y):
        raise InputError(f"X and y must have the same length. Got {len(X)} samples and labels for {len(y)}.")


def _keep_rows(mask: np.ndarray, *arrays: np.ndarray) -> Sequence[np.ndarray]:
    """Return the rows to fit, or refuse what is left of them."""
    n_rows = np.count_nonzero(mask)
    if n_rows < 2:
        raise InputError(
            f"Only {n_rows} of {len(mask)} samples can be used: the others have weight 0 or no known class. Pass at "
            "least 2."
        )
    return arrays if mask.all() else [array[mask] for array in arrays]


def _check_every_class_found(positive: np.ndarray, classes: np.ndarray) -> None:
    missing = classes[~positive.any(axis=1)].tolist()
    if missing:
        raise InputError(
            f"No sample in y has {len(missing)} of {len(classes)} classes, the first is {missing[0]!r}. Where classes "
            "exclude each other, each needs a sample with a weight above 0; leave the others out of classes=[...]."
        )


def _warn_of_empty_classes(positive: np.ndarray, classes: np.ndarray) -> None:
    empty = [repr(name) for name in classes[~positive.any(axis=1)].tolist()]
    if empty:
        warn(f"No sample in y is known to have {len(empty)} of {len(classes)} classes: {join_first(empty)}.")
