"""Tuned thresholds and calibrated probabilities for any multi-label classifier of scikit-learn's kind."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils import get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter
from sklearn.utils.validation import check_is_fitted

from multilabelkit.calibration import METHODS, Calibrator
from multilabelkit.checks import NON_EMPTY, RANDOM_STATE, Check, Choice, Constraint, check_parameters
from multilabelkit.data.label_kinds import unnest
from multilabelkit.data.labels import encode_labels
from multilabelkit.errors import InputError
from multilabelkit.metrics import f1_score
from multilabelkit.model_selection import create_splitter
from multilabelkit.out_of_fold import (
    CV,
    check_rows,
    collect_scores,
    create_router,
    fit_on_table,
    list_splits,
    predict_out_of_fold,
    route_params,
)
from multilabelkit.targets import read_targets
from multilabelkit.threshold_prior import to_logit
from multilabelkit.threshold_tuning import check_threshold_params
from multilabelkit.thresholds import OBJECTIVES, apply_thresholds, fix_thresholds, threshold_report, tune_thresholds

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = ["MultiLabelThresholdsCV"]

Estimator = TypeVar("Estimator", bound="MultiLabelThresholdsCV")

_TABLE: dict[str, list[Constraint]] = {
    "estimator": [Check(lambda value: hasattr(value, "fit") and not inspect.isclass(value), "a classifier")],
    "thresholds": [
        Choice(OBJECTIVES),
        Check(lambda value: value is not None and not isinstance(value, str), "numbers, as fix_thresholds takes them"),
    ],
    "threshold_params": [Choice((None,)), Check(lambda value: isinstance(value, Mapping), "a dict")],
    "calibration": [Choice((None, *METHODS))],
    "cv": [*CV, Choice(("prefit",))],
    "label_sep": [Choice((None,)), NON_EMPTY],
    "random_state": RANDOM_STATE,
}


class MultiLabelThresholdsCV(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Tune the decision threshold of every class of any multi-label classifier, on rows it was not fitted on.

    Classifiers decide at a probability of 0.5, which is rarely best for rare classes; scikit-learn's
    `TunedThresholdClassifierCV` is for one binary label. Here copies of the classifier are fitted on the training parts
    of a cross-validation, the probabilities of the rows left out tune one threshold per class (and first fit a
    calibration, if asked), and the classifier is fitted once more, on all rows.

    Parameters
    ----------
    estimator : estimator
        Any classifier that takes a table of labels: `OneVsRestClassifier`, `MultiOutputClassifier`, `ClassifierChain`,
        forests, trees, neighbours, `MLPClassifier`, those of this package, or a pipeline that ends in one. One that has
        `decision_function` but no `predict_proba` needs `calibration`.
    thresholds : str, float, sequence or dict, default="f1"
        The objective to tune for, see :func:`multilabelkit.thresholds.tune_thresholds`; or fixed values: a number for
        all classes, one per class, or a dict by class.
    threshold_params : dict, default=None
        Further arguments of `tune_thresholds`, such as ``{"target": 0.9}`` for "precision".
    calibration : {None, "auto", "temperature", "platt", "isotonic"}, default=None
        How probabilities are calibrated before thresholds are chosen, and scores of a `decision_function` become
        probabilities; see :class:`multilabelkit.calibration.Calibrator`.
    cv : int, splitter, iterable of (train, test) or "prefit", default=5
        Which rows to leave out together. A number makes as many folds by `MultiLabelStratifiedKFold`. No row may be
        tested twice; rows that are never tested tune nothing, so that a single split costs two fits in all. "prefit"
        takes the estimator as it is, fitted on other rows than those passed to `fit`: to choose thresholds on rows it
        was fitted on would be to choose them too high.
    label_sep : str, default=None
        Separator of labels given as one string a row, such as ``"|"``.
    n_jobs : int, default=None
        Fits at a time, as in scikit-learn.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds where `cv` is a number. None gives other folds, and thresholds, at each fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted for label lists, in column order for tables.
    estimator_ : estimator
        Fitted on all rows; for "prefit" the one that was passed.
    thresholds_ : ndarray of shape (n_classes,)
        A class is predicted where its (calibrated) probability is at least its threshold.
    threshold_report_ : DataFrame
        Per class what the threshold rests on, by the rows left out; see
        :func:`multilabelkit.thresholds.threshold_report`.
    calibrator_ : Calibrator or None
        Fitted to the scores of the rows left out.
    response_method_ : {"predict_proba", "decision_function"}
        What `estimator_` is asked by.
    n_features_in_ : int
        If `estimator_` has it.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        If `estimator_` has it.

    See Also
    --------
    multilabelkit.model_selection.out_of_fold_proba : The probabilities alone.
    sklearn.model_selection.TunedThresholdClassifierCV : For one binary label.

    Notes
    -----
    Whatever the format of y, the estimator is given a table of the integers 0 and 1, so that its own classes are column
    numbers; only estimators of this library, also in a pipeline or a search, are given the names of the classes, which
    their settings may use. If labels are unknown (NaN), the table is of floats; that an estimator does not take them,
    as those of scikit-learn do not, is an error.

    As in scikit-learn, a y of one dimension (numbers, or strings without `label_sep`) is one label, there or not. It
    may have two values, of which the second has the threshold; `predict` returns them, `predict_proba` has a column
    for each, `score` is accuracy. A nested list of 0 and 1 in rows of equal length above 1 is a table here, too.

    Examples
    --------
    >>> from sklearn.datasets import make_multilabel_classification
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> X, Y = make_multilabel_classification(200, n_classes=3, random_state=0)
    >>> classifier = MultiLabelThresholdsCV(RandomForestClassifier(20, random_state=0), random_state=0).fit(X, Y)
    >>> classifier.predict(X[:2]).shape, classifier.thresholds_.shape
    ((2, 3), (3,))
    """

    def __init__(
        self,
        estimator: Any,
        *,
        thresholds: Any = "f1",
        threshold_params: Mapping[str, Any] | None = None,
        calibration: str | None = None,
        cv: Any = 5,
        label_sep: str | None = None,
        n_jobs: int | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.estimator = estimator
        self.thresholds = thresholds
        self.threshold_params = threshold_params
        self.calibration = calibration
        self.cv = cv
        self.label_sep = label_sep
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self: Estimator, X: Any, y: Any, **params: Any) -> Estimator:
        """Choose thresholds on rows left out, then fit the estimator on all.

        Parameters
        ----------
        X : sequence of n_samples rows
            As the estimator takes them.
        y : labels of n_samples rows
            In any format of :func:`multilabelkit.as_indicator`, or two values in one dimension.
        **params : dict
            Arguments of the estimator's `fit`, such as `sample_weight`; what has one entry per row is cut like X.
            Thresholds are tuned without weights. `groups` go to the splitter, and to the estimator if its `fit` has
            them. With scikit-learn's metadata routing switched on, their requests decide.

        Returns
        -------
        self : object

        Raises
        ------
        InputError
            If a parameter or y cannot be used, `cv` tests a row twice, or the estimator does not take unknown labels.

        Warns
        -----
        MultiLabelKitWarning
            If a class has few positives, or none in a training part.
        """
        check_parameters(type(self).__name__, vars(self), _TABLE)
        check_threshold_params(type(self).__name__, self.thresholds, self.threshold_params)
        method = _choose_method(self.estimator, self.calibration)
        prefit = isinstance(self.cv, str)
        known = _get_names(self.estimator) if prefit else None
        targets = read_targets(type(self).__name__, y, label_sep=self.label_sep, known=known)
        X = indexable(X)[0]
        check_rows(X, targets.table)
        if not isinstance(self.thresholds, str):
            fix_thresholds(self.thresholds, classes=targets.names)  # else an error would wait for all the fits
        fitted, truth, scores = (self._take_prefit if prefit else self._cross_fit)(X, targets, method, params)
        decision = self._choose_decision(targets.names, truth, scores, method)
        self.estimator_, self.classes_, self.response_method_ = fitted, targets.classes, method
        self.calibrator_, self.thresholds_, self.threshold_report_ = decision
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, calibrated if asked.

        Parameters
        ----------
        X : sequence of n_samples rows

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes)
            float64. Rows sum to 1 only after a fit on a y of one dimension.
        """
        proba = self._compute_proba(X)
        return np.column_stack([1 - proba, proba]) if self._is_flat() else proba

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 where a class is predicted and 0 elsewhere, (n_samples, n_classes) int64.

        After a fit on a y of one dimension, return one of its two values per row.
        """
        decided = apply_thresholds(self._compute_proba(X), self.thresholds_)
        return self.classes_[decided[:, 0]] if self._is_flat() else decided

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the macro-F1 at the thresholds; unknown labels are left out, and absent classes score 0.

        After a fit on a y of one dimension, return the accuracy.

        Parameters
        ----------
        X : sequence of n_samples rows
        y : their labels, in any format
        sample_weight : array-like of shape (n_samples,), default=None
        """
        check_is_fitted(self)
        if self._is_flat():
            return super().score(X, y, sample_weight)
        truth, _ = encode_labels(unnest(y), classes=self.classes_, label_sep=self.label_sep)
        return f1_score(truth, self.predict(X), average="macro", sample_weight=sample_weight)

    @property
    def n_features_in_(self) -> int:
        """Number of features that the estimator was fitted on."""
        return self.estimator_.n_features_in_

    @property
    def feature_names_in_(self) -> np.ndarray:
        """Names of the features that the estimator was fitted on."""
        return self.estimator_.feature_names_in_

    def get_metadata_routing(self) -> MetadataRouter:
        """Return what `fit` hands on to the estimator and the splitter, for scikit-learn's metadata routing."""
        splitter = create_splitter(self.cv) if isinstance(self.cv, Integral) else self.cv
        return create_router(type(self).__name__, self.estimator, splitter).add_self_request(self)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags = get_tags(self.estimator).input_tags
        tags.classifier_tags.multi_label = True
        tags.classifier_tags.multi_class = False
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        return tags

    def _take_prefit(self, X, targets, method, params):
        """Return the estimator as it is, the labels and its scores of them."""
        if params:
            raise InputError(f"cv='prefit' fits nothing, so that {' and '.join(params)} would have no effect.")
        check_is_fitted(self.estimator)
        n_classes = targets.table.shape[1]
        return self.estimator, targets.table, collect_scores(self.estimator, X, n_classes=n_classes, method=method)

    def _cross_fit(self, X, targets, method, params):
        """Return the estimator fitted on all rows, the labels, and scores by copies that were not fitted on the row."""
        table, splitter = targets.table, create_splitter(self.cv, random_state=self.random_state)
        fit_params, split_params = route_params(type(self).__name__, self.estimator, splitter, params)
        splits = list_splits(splitter, X, table, classes=targets.names, params=split_params, partial=True)
        names = None if targets.is_flat else targets.names
        scores = predict_out_of_fold(
            self.estimator,
            X,
            table,
            splits=splits,
            method=method,
            classes=names,
            params=fit_params,
            n_jobs=self.n_jobs,
        )
        truth = table.copy()
        for train, test in splits:  # scores of a copy that has seen no positive do not compare with those of the others
            truth[np.ix_(test, ~(table[train] == 1).any(axis=0))] = np.nan
        estimator = fit_on_table(clone(self.estimator), X, table, fit_params, classes=names)
        return estimator, truth, scores

    def _choose_decision(self, names, truth, scores, method):
        """Return the calibrator, the thresholds and their report."""
        tested = ~np.isnan(scores).any(axis=1)
        truth, scores = truth[tested], scores[tested]
        calibrator, proba = None, scores
        if self.calibration is not None:
            logits = _to_logits(scores, method)
            calibrator = Calibrator(method=self.calibration).fit(truth, logits, classes=names)
            proba = calibrator.predict_proba(logits)
        tuned_by = None
        if isinstance(self.thresholds, str):
            tuned_by = {"objective": self.thresholds, **(self.threshold_params or {})}
            thresholds = tune_thresholds(truth, proba, classes=names, **tuned_by)
        else:
            thresholds = fix_thresholds(self.thresholds, classes=names)
        return calibrator, thresholds, threshold_report(truth, proba, thresholds, classes=names, tuned_by=tuned_by)

    def _compute_proba(self, X):
        """Return the probability of each class that has a threshold."""
        check_is_fitted(self)
        method = self.response_method_
        scores = collect_scores(self.estimator_, X, n_classes=len(self.thresholds_), method=method)
        return scores if self.calibrator_ is None else self.calibrator_.predict_proba(_to_logits(scores, method))

    def _is_flat(self):
        """Tell whether y had one dimension: of its two classes one has a threshold."""
        return len(self.classes_) > len(self.thresholds_)


def _choose_method(estimator, calibration):
    """Return by which method to ask the estimator, or say why there is none."""
    if hasattr(estimator, "predict_proba"):
        return "predict_proba"
    name = type(estimator).__name__
    if not hasattr(estimator, "decision_function"):
        raise InputError(
            f"{name} has neither predict_proba nor decision_function, so that there is nothing to put a threshold on. "
            "Pass a classifier that has one of them."
        )
    if calibration is None:
        raise InputError(
            f"{name} has no predict_proba, and its scores become probabilities by calibration alone. "
            "Set calibration='platt', or 'auto'."
        )
    return "decision_function"


def _to_logits(scores, method):
    return to_logit(scores) if method == "predict_proba" else scores


def _get_names(estimator):
    """Return the class names of a fitted estimator that has one for each column, else None."""
    names = getattr(estimator, "classes_", None)
    return names if isinstance(names, np.ndarray) and names.ndim == 1 else None
