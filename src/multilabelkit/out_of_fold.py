"""Scores of every row by an estimator that has not seen it, whatever shape the estimator gives them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import has_fit_parameter

from multilabelkit.checks import Check, Constraint, Interval
from multilabelkit.errors import InputError, warn

CV: list[Constraint] = [
    Interval(int, 2),
    Check(lambda value: hasattr(value, "split") and not isinstance(value, str), "a splitter"),
    Check(lambda value: isinstance(value, Iterable) and not isinstance(value, str), "an iterable of (train, test)"),
]
Splits = list[tuple[np.ndarray, np.ndarray]]

_VALUES = ({0, 1}, {-1, 1})  # that a column of labels may have had when an estimator was fitted
_SPLIT_ADVICE = "Make fewer or stratified splits, or pass more rows of rare classes."
_SLACK = 1e-6  # by which a mean of probabilities may leave [0, 1] in floating point


def collect_proba(estimator: Any, X: Any, *, n_classes: int) -> np.ndarray:
    """Predict the probability that each label is present, as one table whatever the estimator returns.

    Multi-label classifiers of scikit-learn return a table (`OneVsRestClassifier`, `ClassifierChain`, `MLPClassifier`)
    or a list with one array per label (forests, trees, neighbours, `MultiOutputClassifier`), whose columns are the
    values the label had in training: two, or one where all rows had the same.

    Parameters
    ----------
    estimator : estimator
        Fitted on a table of 0 and 1 with `n_classes` columns, with a `predict_proba`.
    X : sequence of n_samples rows
        As the estimator takes them.
    n_classes : int
        Number of labels.

    Returns
    -------
    proba : ndarray of shape (n_samples, n_classes)
        float64 in [0, 1]; 0 for a label that no row had in training, 1 for one that all had, if the estimator says so.

    Raises
    ------
    InputError
        If `predict_proba` returns something else.

    Examples
    --------
    >>> from sklearn.tree import DecisionTreeClassifier
    >>> X, Y = np.array([[0.0], [1.0]]), np.array([[0, 0, 1], [1, 0, 1]])
    >>> tree = DecisionTreeClassifier().fit(X, Y)
    >>> [column.shape for column in tree.predict_proba(X)]
    [(2, 2), (2, 1), (2, 1)]
    >>> collect_proba(tree, X, n_classes=3)
    array([[0., 0., 1.],
           [1., 0., 1.]])
    """
    output, owner = estimator.predict_proba(X), f"{type(estimator).__name__}.predict_proba"
    if isinstance(output, (list, tuple)):
        values = getattr(estimator, "classes_", None)
        values = values if isinstance(values, (list, tuple)) else [[0, 1]] * len(output)
        output = np.column_stack([_choose_present(*pair, owner) for pair in zip(output, values, strict=True)])
    proba = _to_table(output, owner)
    if n_classes == 1 and proba.shape[1] == 2:
        proba = proba[:, 1:]  # a binary problem, to scikit-learn
    _check_width(proba, n_classes, owner)
    wrong = ~((proba >= -_SLACK) & (proba <= 1 + _SLACK))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise InputError(f"{owner} must be in [0, 1]. Got {proba[row, column]:g} at row {row}, column {column}.")
    return np.clip(proba, 0, 1)


def collect_scores(estimator: Any, X: Any, *, n_classes: int, method: str = "predict_proba") -> np.ndarray:
    """Predict by `predict_proba` (see `collect_proba`) or `decision_function`, (n_samples, n_classes) float64."""
    if method == "predict_proba":
        return collect_proba(estimator, X, n_classes=n_classes)
    scores, owner = np.asarray(estimator.decision_function(X)), f"{type(estimator).__name__}.decision_function"
    table = _check_width(_to_table(scores[:, None] if scores.ndim == 1 else scores, owner), n_classes, owner)
    if not np.isfinite(table).all():
        row, column = np.argwhere(~np.isfinite(table))[0]
        raise InputError(f"{owner} must be finite. Got {table[row, column]:g} at row {row}, column {column}.")
    return table


def predict_out_of_fold(
    estimator: Any,
    X: Any,
    targets: np.ndarray,
    *,
    splits: Splits,
    method: str,
    classes: Sequence[Any] | np.ndarray | None = None,
    params: Mapping[str, Any] | None = None,
    n_jobs: int | None = None,
) -> np.ndarray:
    """Fit a copy of the estimator on each training part and predict the part beside it.

    Parameters
    ----------
    estimator : estimator
        It is not changed.
    X : sequence of n_samples rows
    targets : ndarray of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown.
    splits : list of (train, test)
        As `list_splits` returns them.
    method : {"predict_proba", "decision_function"}
    classes : sequence of shape (n_classes,), default=None
        Names of the columns for an estimator of this library, whose settings may name them.
    params : mapping of str to object, default=None
        Further arguments of the estimator's `fit`; what has one entry per row is cut like X.
    n_jobs : int, default=None
        Fits at a time.

    Returns
    -------
    scores : ndarray of shape (n_samples, n_classes)
        float64; NaN in rows that no split tests.
    """
    jobs = (
        delayed(_fit_and_predict)(clone(estimator), X, targets, train, test, method, classes, params or {})
        for train, test in splits
    )
    scores = np.full(targets.shape, np.nan)
    for (_, test), part in zip(splits, Parallel(n_jobs=n_jobs)(jobs), strict=True):
        scores[test] = part
    return scores


def fit_on_table(
    estimator: Any,
    X: Any,
    targets: np.ndarray,
    params: Mapping[str, Any],
    *,
    classes: Sequence[Any] | np.ndarray | None = None,
) -> Any:
    """Fit an estimator on a table of labels, which is of integers unless some are unknown; return the estimator.

    One of this library, and a pipeline that ends in one, or a search for one, learn the names of the columns with it,
    unless these are numbers in order.
    """
    has_unknown = bool(np.isnan(targets).any())
    y: Any = targets if has_unknown else targets.astype(np.int64)
    names = _list_names(classes)
    if names is not None and _takes_names(_find_learner(estimator)):
        y = pd.DataFrame(y, columns=pd.Index(names, dtype=object))
    try:
        with warnings.catch_warnings():
            # Note: one label is a table of one column to multi-label estimators, and a binary problem to the others.
            warnings.simplefilter("ignore", DataConversionWarning)
            fitted = estimator.fit(X, y, **params)
    except ValueError as error:
        if not has_unknown or "NaN" not in str(error) or "Input X" in str(error):
            raise
        raise InputError(
            f"{np.isnan(targets).sum()} labels in y are unknown (NaN), and {type(estimator).__name__} does not take "
            "them. Use an estimator that leaves them out, such as MultiLabelLogisticRegression, or call them absent "
            "with as_indicator(y).fillna(0)."
        ) from error
    if names is not None and isinstance(y, pd.DataFrame):
        _check_learnt(_find_learner(fitted), names)
    return fitted


def _list_names(classes: Sequence[Any] | np.ndarray | None) -> list | None:
    """Return names as Python has them; None if they only count the columns, or are not what this library takes."""
    names = np.asarray(classes, dtype=object).tolist() if classes is not None else None
    if names == list(range(len(names or ()))):
        return None
    return names if all(isinstance(name, str | Integral) for name in names or ()) else None


def _find_learner(estimator: Any) -> Any:
    """Return what learns in pipelines and searches; other wrappers cut the table into columns."""
    if isinstance(estimator, Pipeline):
        return _find_learner(estimator.steps[-1][1])
    if hasattr(estimator, "param_grid") or hasattr(estimator, "param_distributions"):  # a search
        return _find_learner(getattr(estimator, "best_estimator_", estimator.estimator))
    return estimator


def _takes_names(learner: Any) -> bool:
    """Return whether an estimator is of this library."""
    return hasattr(learner, "get_params") and "label_sep" in learner.get_params(deep=False)


def _check_learnt(learner: Any, names: list) -> None:
    """Refuse columns that the estimator has in another order."""
    learnt = np.asarray(getattr(learner, "classes_", names), dtype=object).tolist() if _takes_names(learner) else names
    if learnt == names:  # or a search has chosen another estimator
        return
    one, other = next(pair for pair in zip_longest(learnt, names) if pair[0] != pair[1])
    raise InputError(
        f"{type(learner).__name__} has the class {one!r} in a column where the labels have {other!r}. Leave its "
        "parameter classes at None, or name the classes of the labels in their order."
    )


def list_splits(
    splitter: Any,
    X: Any,
    targets: np.ndarray,
    *,
    classes: Sequence[Any] | np.ndarray,
    params: Mapping[str, Any] | None = None,
    partial: bool = False,
) -> Splits:
    """Return the rows to train on and to test on, split by split, or refuse splits that do not test every row once.

    Parameters
    ----------
    splitter : splitter of scikit-learn's kind
    X : sequence of n_samples rows
    targets : ndarray of shape (n_samples, n_classes)
    classes : sequence of shape (n_classes,)
        Names for the warning of classes that a training part teaches nothing about.
    params : mapping of str to object, default=None
        Further arguments of the splitter's `split`.
    partial : bool, default=False
        Whether rows may stay untested.
    """
    splits = [(_to_rows(train), _to_rows(test)) for train, test in splitter.split(X, targets, **(params or {}))]
    counts = np.zeros(len(targets), dtype=np.intp)
    for place, (train, test) in enumerate(splits):
        both = np.intersect1d(train, test)
        if len(both):
            raise InputError(
                f"Split {place} of cv trains on {len(both)} of the rows it tests, the first of them row {both[0]}. "
                "Pass splits whose training and test rows differ."
            )
        np.add.at(counts, test, 1)
    _refuse_rows(counts > 1, "more than once, so that they have no single out-of-fold score")
    if not partial:
        _refuse_rows(counts == 0, "never, so that they have no out-of-fold score")
    _warn_of_one_sided_parts(targets, classes, splits)
    return splits


def create_router(owner: str, estimator: Any, splitter: Any) -> MetadataRouter:
    """Say what `fit` hands on to the estimator's `fit` and to the splitter, for scikit-learn's metadata routing."""
    return (
        MetadataRouter(owner=owner)
        .add(estimator=estimator, method_mapping=MethodMapping().add(caller="fit", callee="fit"))
        .add(splitter=splitter, method_mapping=MethodMapping().add(caller="fit", callee="split"))
    )


def route_params(owner: str, estimator: Any, splitter: Any, params: Mapping[str, Any]) -> tuple[dict, dict]:
    """Return which arguments the estimator's `fit` gets and which the splitter: by their requests, or by name."""
    given = {name: value for name, value in params.items() if value is not None}
    if sklearn.get_config()["enable_metadata_routing"]:
        routed = process_routing(create_router(owner, estimator, splitter), "fit", **given)
        return dict(routed.estimator.fit), dict(routed.splitter.split)
    split = {name: value for name, value in given.items() if name == "groups"}
    fit = {name: value for name, value in given.items() if name not in split or has_fit_parameter(estimator, name)}
    return fit, split


def take_rows(container: Any, rows: np.ndarray) -> Any:
    """Return some rows of a table, array or sequence as the same kind of container."""
    if hasattr(container, "iloc"):
        return container.iloc[rows]
    if hasattr(container, "shape"):
        return (container.tocsr() if hasattr(container, "tocsr") else container)[rows]
    taken = [container[row] for row in rows.tolist()]
    return tuple(taken) if isinstance(container, tuple) else taken


def check_rows(X: Any, targets: np.ndarray) -> None:
    """Refuse X and y of different length."""
    n_samples = count_rows(X)
    if n_samples != len(targets):
        raise InputError(f"X and y must have the same length. Got {n_samples} and {len(targets)}.")


def count_rows(container: Any) -> int:
    """Return the number of rows of a table, array or sequence."""
    return container.shape[0] if hasattr(container, "shape") else len(container)


def _fit_and_predict(estimator, X, targets, train, test, method, classes, params):
    """Fit on one part and return the scores of the other."""
    params = {name: _take_matching(value, train, len(targets)) for name, value in params.items()}
    fit_on_table(estimator, take_rows(X, train), targets[train], params, classes=classes)
    return collect_scores(estimator, take_rows(X, test), n_classes=targets.shape[1], method=method)


def _take_matching(value, rows, n_samples):
    """Cut what has one entry per row, and leave other arguments alone."""
    is_container = isinstance(value, (list, tuple)) or (hasattr(value, "shape") and np.ndim(value) > 0)
    return take_rows(value, rows) if is_container and count_rows(value) == n_samples else value


def _choose_present(proba, values, owner):
    """Return the probability of the value 1 of one label, given the columns of all values it had in training."""
    values, proba = np.asarray(values), np.asarray(proba)
    if proba.ndim != 2 or proba.shape[1] != len(values) or not any(set(values.tolist()) <= known for known in _VALUES):
        raise InputError(
            f"{owner} must give one column for each of the values 0 and 1 that a label had in training. Got the shape "
            f"{proba.shape} for the values {values.tolist()}."
        )
    return proba[:, values == 1].sum(axis=1)


def _to_table(output, owner):
    """Return a two-dimensional float64 array, also of a sparse one."""
    table = np.asarray(output.toarray() if hasattr(output, "toarray") else output, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"{owner} must give one row per sample and one column per class. Got the shape {table.shape}.")
    return table


def _check_width(table, n_classes, owner):
    if table.shape[1] != n_classes:
        raise InputError(
            f"{owner} must give one column for each of {n_classes} classes. Got {table.shape[1]}; fit the estimator on "
            "a table of all of them."
        )
    return table


def _to_rows(rows):
    """Return row numbers, also of a mask."""
    rows = np.asarray(rows)
    return np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.intp)


def _refuse_rows(wrong, problem):
    """Refuse splits that test some rows too often or never."""
    if wrong.any():
        raise InputError(
            f"cv tests {np.count_nonzero(wrong)} of {len(wrong)} rows {problem}; the first is row {np.argmax(wrong)}. "
            "Pass a cv that tests every row once, such as MultiLabelStratifiedKFold."
        )


def _warn_of_one_sided_parts(targets, classes, splits):
    """Warn once of classes without a positive, or a negative, in a training part; refuse that of a single class."""
    found = [
        f"class {name!r} has no known {side} in the training part of split {place}"
        for place, (train, _) in enumerate(splits)
        for side, cells in (("positive", targets == 1), ("negative", targets == 0))
        for name, has_any in zip(np.asarray(classes).tolist(), cells[train].any(axis=0), strict=True)
        if not has_any
    ]
    if not found:
        return
    if targets.shape[1] == 1:
        raise InputError(f"Of the one class there is nothing to learn: {found[0]} of cv. {_SPLIT_ADVICE}")
    others = f" ({len(found) - 1} more cases are alike)" if len(found) > 1 else ""
    warn(f"Scores say nothing where nothing could be learnt: {found[0]} of cv{others}. {_SPLIT_ADVICE}")
