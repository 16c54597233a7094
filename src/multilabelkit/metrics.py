"""How good decisions and scores are; unknown labels (NaN in `y_true`) are left out of every number.

Where nothing is known, the answer is NaN. A sample of weight 0 is as good as absent.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from multilabelkit.bootstrap import ConfidenceInterval, bootstrap_interval
from multilabelkit.checks import shorten, suggest
from multilabelkit.data.labels import encode_labels
from multilabelkit.decision_metrics import (
    PrecisionRecallF1,
    binary_accuracy,
    cp_cr_cf1,
    f1_score,
    hamming_loss,
    op_or_of1,
    precision_score,
    recall_score,
    subset_accuracy,
    top_k_decisions,
)
from multilabelkit.errors import InputError
from multilabelkit.multilabel_confusion import multilabel_confusion_matrix, predicted_instead_matrix
from multilabelkit.ranking_metrics import (
    average_precision,
    coverage_error,
    label_ranking_average_precision,
    label_ranking_loss,
    mean_average_precision,
)
from multilabelkit.reliability import binary_cross_entropy, brier_score, expected_calibration_error

__all__ = [
    "ConfidenceInterval",
    "PrecisionRecallF1",
    "average_precision",
    "binary_accuracy",
    "binary_cross_entropy",
    "bootstrap_interval",
    "brier_score",
    "coverage_error",
    "cp_cr_cf1",
    "expected_calibration_error",
    "f1_score",
    "hamming_loss",
    "label_ranking_average_precision",
    "label_ranking_loss",
    "make_multilabel_scorer",
    "mean_average_precision",
    "multilabel_confusion_matrix",
    "op_or_of1",
    "precision_score",
    "predicted_instead_matrix",
    "recall_score",
    "subset_accuracy",
    "top_k_decisions",
]


class MultiLabelScorer:
    """A scorer for `cross_val_score` and its kin that takes `y` in any label format; see `make_multilabel_scorer`."""

    def __init__(self, metric: str, params: dict[str, Any] | None = None) -> None:
        self.metric = metric
        self.params = params or {}

    def __call__(self, estimator: Any, X: Any, y_true: Any, sample_weight: Any = None) -> float:
        """Return the metric of a fitted estimator on `X` and its labels; higher is better."""
        method, measure = _METRICS[self.metric]
        y_true = _encode(y_true, estimator)
        predicted = getattr(estimator, method)(X)
        if isinstance(predicted, list):
            predicted = _join_proba(predicted, estimator.classes_)
        if method == "predict" and getattr(predicted, "dtype", None) == np.float64:
            y_true, predicted = _leave_open_cells_out(y_true, predicted)
        return measure(y_true, predicted, sample_weight=sample_weight, **self.params)

    def __repr__(self) -> str:
        params = "".join(f", {name}={value!r}" for name, value in self.params.items())
        return f"make_multilabel_scorer({self.metric!r}{params})"


def _leave_open_cells_out(y_true, y_pred):
    """Treat cells that the estimator leaves open (NaN) as if their labels were unknown."""
    is_open = np.isnan(y_pred)
    return np.where(is_open, np.nan, y_true), np.where(is_open, 0.0, y_pred)


def make_multilabel_scorer(metric: str = "f1_macro", **params: Any) -> MultiLabelScorer:
    """Create a scorer for `cross_val_score`, `cross_validate` and `GridSearchCV`.

    Unlike scikit-learn's own scorers it takes `y` in any label format, sorts the columns as the estimator does, and
    leaves unknown labels out, as it does cells that the estimator leaves open (NaN in what it predicts).

    Parameters
    ----------
    metric : str, default="f1_macro"
        Of decisions: "f1", "precision" or "recall" with "_macro", "_micro", "_samples" or "_weighted"; "cp", "cr",
        "cf1", "op", "or", "of1", "binary_accuracy", "subset_accuracy", "neg_hamming_loss". Of probabilities:
        "average_precision" (mAP), "label_ranking_average_precision", "neg_label_ranking_loss", "neg_coverage_error",
        "neg_bce", "neg_brier_score", "neg_expected_calibration_error". Higher is always better.
    **params
        Keywords of the metric, such as ``zero_division=1.0`` or ``n_bins=10``.

    Returns
    -------
    scorer : callable
        ``scorer(estimator, X, y_true, sample_weight=None) -> float``; it can be pickled. The estimator must have
        `classes_`, and `predict` or, for metrics of probabilities, `predict_proba`. Those of scikit-learn that give a
        list with one table per label, such as random forests, have no class names: `y_true` must be a table for them.

    Raises
    ------
    InputError
        If the metric is unknown (the message names the nearest ones) or does not take one of the keywords.

    Examples
    --------
    >>> make_multilabel_scorer("average_precision")
    make_multilabel_scorer('average_precision')
    >>> make_multilabel_scorer("f1_samples", zero_division=1.0)
    make_multilabel_scorer('f1_samples', zero_division=1.0)
    """
    if metric not in list(_METRICS):
        raise InputError(
            f"There is no metric {shorten(metric)}.{suggest(str(metric), _METRICS)} Known are: {', '.join(_METRICS)}."
        )
    _check_params(metric, params)
    return MultiLabelScorer(metric, params)


def _check_params(metric: str, params: dict[str, Any]) -> None:
    """Refuse keywords the metric does not take, and values it refuses, before the first fold is fitted."""
    _, measure = _METRICS[metric]
    taken = [name for name in _list_keywords(measure) if name not in ("average", "sample_weight")]
    for name in params:
        if name not in taken:
            known = f"It takes: {', '.join(taken)}." if taken else "It takes none."
            raise InputError(f"The metric {metric!r} takes no keyword {name!r}. {known}")
    measure(np.ones((1, 1)), np.ones((1, 1)), **params)


def _list_keywords(measure: Callable[..., Any]) -> list[str]:
    while isinstance(measure, partial) and measure.func in (_negate, _pick):
        measure = measure.args[0]
    parameters = inspect.signature(measure).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def _negate(measure: Callable[..., float], *args: Any, **params: Any) -> float:
    return -measure(*args, **params)


def _pick(measure: Callable[..., PrecisionRecallF1], name: str, *args: Any, **params: Any) -> float:
    return getattr(measure(*args, **params), name)


_METRICS: dict[str, tuple[str, Callable[..., float]]] = (
    {
        f"{name}_{average}": ("predict", partial(measure, average=average))
        for name, measure in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))
        for average in ("macro", "micro", "samples", "weighted")
    }
    | {
        name: ("predict", partial(_pick, measure, field))
        for names, measure in ((("cp", "cr", "cf1"), cp_cr_cf1), (("op", "or", "of1"), op_or_of1))
        for name, field in zip(names, PrecisionRecallF1._fields, strict=True)
    }
    | {
        "average_precision": ("predict_proba", mean_average_precision),
        "label_ranking_average_precision": ("predict_proba", label_ranking_average_precision),
        "binary_accuracy": ("predict", binary_accuracy),
        "subset_accuracy": ("predict", subset_accuracy),
        "neg_hamming_loss": ("predict", partial(_negate, hamming_loss)),
        "neg_label_ranking_loss": ("predict_proba", partial(_negate, label_ranking_loss)),
        "neg_coverage_error": ("predict_proba", partial(_negate, coverage_error)),
        "neg_bce": ("predict_proba", partial(_negate, binary_cross_entropy)),
        "neg_brier_score": ("predict_proba", partial(_negate, brier_score)),
        "neg_expected_calibration_error": ("predict_proba", partial(_negate, expected_calibration_error)),
    }
)


def _encode(y_true: Any, estimator: Any) -> np.ndarray:
    """Return the labels as a table whose columns stand as the estimator has its classes."""
    classes = estimator.classes_
    if isinstance(classes, list):  # scikit-learn's: the values of each column, and no names
        if len(getattr(y_true, "shape", ())) != 2:
            raise InputError(
                f"{type(estimator).__name__} keeps no class names, so that y must be a table with a column for each "
                f"class, such as as_indicator(labels). Got {shorten(y_true)}."
            )
        classes = None
    return encode_labels(y_true, classes=classes, label_sep=_find_label_sep(estimator))[0]


def _join_proba(tables: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
    """Return the probabilities of the value 1 of each label, (n_samples, n_classes); 0 where fit never saw it."""
    return np.column_stack(
        [table @ (np.asarray(columns) == 1).astype(float) for table, columns in zip(tables, values, strict=True)]
    )


def _find_label_sep(estimator: Any) -> str | None:
    """Ask the classifier inside pipelines and searches how it splits strings."""
    while not hasattr(estimator, "label_sep"):
        if hasattr(estimator, "best_estimator_"):
            estimator = estimator.best_estimator_
        elif hasattr(estimator, "steps"):
            estimator = estimator.steps[-1][1]
        else:
            return None
    return estimator.label_sep
