"""Splits that give every part its share of every label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import BaseCrossValidator, check_cv
from sklearn.utils import check_random_state, indexable

from multilabelkit.checks import RANDOM_STATE, Choice, Constraint, Interval, check_parameters, shorten
from multilabelkit.data.labels import encode_labels
from multilabelkit.errors import InputError
from multilabelkit.out_of_fold import CV, check_rows, list_splits, predict_out_of_fold, route_params, take_rows
from multilabelkit.stratification import split_rows

__all__ = [
    "MultiLabelStratifiedKFold",
    "MultiLabelStratifiedShuffleSplit",
    "multilabel_train_test_split",
    "out_of_fold_proba",
    "split_rows",
]

_TABLE: dict[str, list[Constraint]] = {
    "n_splits": [Interval(int, 1)],
    "shuffle": [Choice((True, False))],
    "test_size": [Interval(float, 0, 1, open_low=True, open_high=True), Interval(int, 1)],
    "random_state": RANDOM_STATE,
}


class MultiLabelStratifiedKFold(BaseCrossValidator):
    """Cross-validation folds with the same share of every label.

    Plain `KFold` leaves rare labels out of some folds; scikit-learn's `StratifiedKFold` refuses several labels an
    image. This splitter takes labels in every format that :func:`multilabelkit.as_indicator` reads, and works
    wherever scikit-learn takes `cv`. Fold sizes differ by at most one row, unless `groups` are given.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=True
        Whether chance decides between rows that serve equally well. Without it every call gives the same folds.
    random_state : int, RandomState instance or None, default=None
        Seed of that chance. None gives other folds at each call; give an integer to compare models on the same
        folds. Must be None if `shuffle` is False.
    label_sep : str, default=None
        Separator of labels given as one string a row, such as ``"|"``.

    See Also
    --------
    MultiLabelStratifiedShuffleSplit : Several independent splits in two.
    multilabel_train_test_split : One split in two.

    Notes
    -----
    Labels are dealt as by :func:`split_rows`, which says how. Unknown labels (NaN) count as not present.

    Examples
    --------
    >>> labels = [["sea"], ["sea", "sun"], ["sun"], [], ["sea"], ["sun"]]
    >>> splitter = MultiLabelStratifiedKFold(2, random_state=0)
    >>> [len(test) for train, test in splitter.split(labels, labels)]
    [3, 3]
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012  # sklearn's way to ask for groups

    def __init__(
        self,
        n_splits: int = 5,
        *,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        label_sep: str | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.shuffle = shuffle
        self.random_state = random_state
        self.label_sep = label_sep

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds; the arguments are ignored."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows to train on and the rows to test on, fold by fold.

        Parameters
        ----------
        X : sequence of length n_samples
            The images or features; only its length matters.
        y : labels of n_samples images, in any format
            What to stratify by.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (a patient, a video) never lie in different folds.

        Yields
        ------
        train, test : ndarray of int
            Row numbers, ascending.

        Raises
        ------
        InputError
            If there are fewer rows or groups than folds, or X, y and `groups` differ in length.
        """
        owner = type(self).__name__
        check_parameters(owner, vars(self), {**_select("shuffle", "random_state"), "n_splits": [Interval(int, 2)]})
        if not self.shuffle and self.random_state is not None:
            raise InputError(
                f"random_state={shorten(self.random_state)} has no effect with shuffle=False in {owner}. "
                "Leave it out, or set shuffle=True."
            )
        present = _encode_present(X, y, owner=owner, label_sep=self.label_sep)
        n_samples = len(present)
        if self.n_splits > n_samples:
            raise InputError(
                f"Cannot make n_splits={self.n_splits} folds of {n_samples} rows. "
                f"Set n_splits to {n_samples} or less, or give more rows."
            )
        sizes = np.full(self.n_splits, n_samples // self.n_splits)
        sizes[: n_samples % self.n_splits] += 1
        seed = self.random_state if self.shuffle else 0
        fold = split_rows(present, sizes=sizes, groups=groups, random_state=seed)
        for index in range(self.n_splits):
            yield np.flatnonzero(fold != index), np.flatnonzero(fold == index)


class MultiLabelStratifiedShuffleSplit(BaseCrossValidator):
    """Independent random splits in two, each side with its share of every label.

    Parameters
    ----------
    n_splits : int, default=10
        Number of splits. They are independent: a row may be tested on several times, or never.
    test_size : float or int, default=0.2
        Share of the rows to test on (between 0 and 1, rounded up), or their number. With `groups` it is met as
        nearly as the groups allow.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits. None gives other splits at each call.
    label_sep : str, default=None
        Separator of labels given as one string a row, such as ``"|"``.

    See Also
    --------
    MultiLabelStratifiedKFold : Every row is tested on once.

    Notes
    -----
    Labels are dealt as by :func:`split_rows`, which says how. Unknown labels (NaN) count as not present.

    Examples
    --------
    >>> labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0]])
    >>> splitter = MultiLabelStratifiedShuffleSplit(3, test_size=0.5, random_state=0)
    >>> [labels[test].sum(axis=0).tolist() for train, test in splitter.split(labels, labels)]
    [[1, 1], [1, 1], [1, 1]]
    """

    __metadata_request__split = {"groups": True}  # noqa: RUF012  # sklearn's way to ask for groups

    def __init__(
        self,
        n_splits: int = 10,
        *,
        test_size: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
        label_sep: str | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.test_size = test_size
        self.random_state = random_state
        self.label_sep = label_sep

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits; the arguments are ignored."""
        return self.n_splits

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the rows to train on and the rows to test on, split by split.

        Parameters
        ----------
        X : sequence of length n_samples
            The images or features; only its length matters.
        y : labels of n_samples images, in any format
            What to stratify by.
        groups : array-like of shape (n_samples,), default=None
            Rows of one group (a patient, a video) never lie on different sides.

        Yields
        ------
        train, test : ndarray of int
            Row numbers, ascending.

        Raises
        ------
        InputError
            If a side would be empty, or X, y and `groups` differ in length.
        """
        owner = type(self).__name__
        check_parameters(owner, vars(self), _select("n_splits", "test_size", "random_state"))
        present = _encode_present(X, y, owner=owner, label_sep=self.label_sep)
        sizes = _count_sides(len(present), self.test_size)
        generator = check_random_state(self.random_state)
        for _ in range(self.n_splits):
            side = split_rows(present, sizes=sizes, groups=groups, random_state=generator)
            yield np.flatnonzero(side == 0), np.flatnonzero(side == 1)


def multilabel_train_test_split(
    X: Any,
    y: Any,
    *,
    test_size: float = 0.2,
    random_state: int | np.random.RandomState | None = None,
    groups: Any = None,
    label_sep: str | None = None,
) -> tuple[Any, Any, Any, Any]:
    """Split images and their labels in two, each side with its share of every label.

    scikit-learn's `train_test_split` can keep the shares of whole label sets only, and fails as soon as one set
    occurs once. Here every label that two images have is on both sides, as far as sizes and overlaps allow it.

    Parameters
    ----------
    X : sequence of length n_samples
        Images, paths or features: a list, an array, a sparse matrix, a Series or a DataFrame.
    y : labels of n_samples images, in any format
        What to stratify by; unknown labels (NaN) count as not present.
    test_size : float or int, default=0.2
        Share of the rows to test on (between 0 and 1, rounded up), or their number. With `groups` it is met as
        nearly as the groups allow.
    random_state : int, RandomState instance or None, default=None
        Seed of the split. None gives another split at each call.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group (a patient, a video) never lie on different sides.
    label_sep : str, default=None
        Separator of labels given as one string a row, such as ``"|"``.

    Returns
    -------
    X_train, X_test, y_train, y_test : same kinds as X and y
        Rows keep their order.

    Raises
    ------
    InputError
        If a side would be empty, or X, y and `groups` differ in length.

    See Also
    --------
    MultiLabelStratifiedKFold : Folds for cross-validation.

    Examples
    --------
    >>> paths = ["1.jpg", "2.jpg", "3.jpg", "4.jpg"]
    >>> labels = [["sea"], ["sun"], ["sea"], ["sun"]]
    >>> _, _, y_train, y_test = multilabel_train_test_split(paths, labels, test_size=0.5, random_state=0)
    >>> sorted(y_train), sorted(y_test)
    ([['sea'], ['sun']], [['sea'], ['sun']])
    """
    owner = "multilabel_train_test_split"
    check_parameters(
        owner, {"test_size": test_size, "random_state": random_state}, _select("test_size", "random_state")
    )
    present = _encode_present(X, y, owner=owner, label_sep=label_sep)
    side = split_rows(present, sizes=_count_sides(len(present), test_size), groups=groups, random_state=random_state)
    train, test = np.flatnonzero(side == 0), np.flatnonzero(side == 1)
    return take_rows(X, train), take_rows(X, test), take_rows(y, train), take_rows(y, test)


def out_of_fold_proba(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    method: str = "predict_proba",
    groups: Any = None,
    sample_weight: Any = None,
    params: Mapping[str, Any] | None = None,
    label_sep: str | None = None,
    n_jobs: int | None = None,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    """Predict every row by a copy of the estimator that was fitted without it.

    scikit-learn's `cross_val_predict` numbers the values of each label column anew, so that a label which every row has
    becomes one which none has. This hands the estimator one table of 0 and 1 for labels of every format, and returns
    one table whatever its `predict_proba` returns.

    Parameters
    ----------
    estimator : estimator
        Any multi-label classifier; it is not changed.
    X : sequence of length n_samples
        Images, paths or features.
    y : labels of n_samples rows, in any format
        The estimator is given a table of integers, or of floats if labels are unknown (NaN); one of this library also
        the names of the classes, which its settings may use.
    cv : int, splitter or iterable of (train, test), default=5
        Which rows to predict together. A number makes as many folds by `MultiLabelStratifiedKFold`. Every row must be
        tested once.
    method : {"predict_proba", "decision_function"}, default="predict_proba"
        What to predict by.
    groups : array-like of shape (n_samples,), default=None
        For the splitter, and for the `fit` of estimators that have it: rows of one group are kept together.
    sample_weight : array-like of shape (n_samples,), default=None
        For the `fit` of the estimator.
    params : mapping of str to object, default=None
        Further arguments of `fit`; what has one entry per row is cut like X. With scikit-learn's metadata routing
        switched on, the requests of the estimator and the splitter decide who gets what.
    label_sep : str, default=None
        Separator of labels given as one string a row, such as ``"|"``.
    n_jobs : int, default=None
        Folds to fit at a time, as in scikit-learn.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds where `cv` is a number. None gives other folds at each call.

    Returns
    -------
    proba : ndarray of shape (n_samples, n_classes)
        float64; rows as in X, columns as in ``as_indicator(y)``.

    Raises
    ------
    InputError
        If `cv` tests a row twice or never, or the estimator does not take unknown labels or gives no such table.

    Warns
    -----
    MultiLabelKitWarning
        If a class has no known positive, or no negative, in a training part.

    Examples
    --------
    >>> from sklearn.neighbors import KNeighborsClassifier
    >>> X, labels = [[0], [1], [2], [8], [9], [10]], [["low"], ["low"], ["low"], [], ["high"], ["high"]]
    >>> out_of_fold_proba(KNeighborsClassifier(1), X, labels, cv=[([0, 2, 4], [1, 3, 5]), ([1, 3, 5], [0, 2, 4])])
    array([[0., 1.],
           [0., 1.],
           [0., 1.],
           [1., 0.],
           [0., 0.],
           [1., 0.]])
    """
    owner, methods = "out_of_fold_proba", Choice(("predict_proba", "decision_function"))
    table: dict[str, list[Constraint]] = {"cv": CV, "method": [methods], "random_state": RANDOM_STATE}
    check_parameters(owner, {"cv": cv, "method": method, "random_state": random_state}, table)
    if not hasattr(estimator, method):
        raise InputError(
            f"{type(estimator).__name__} has no {method}, which out_of_fold_proba is to ask. Set method to "
            "'decision_function' or 'predict_proba', whichever it has."
        )
    targets, binarizer = encode_labels(y, label_sep=label_sep)
    X = indexable(X)[0]
    check_rows(X, targets)
    splitter = create_splitter(cv, random_state=random_state)
    given = {"groups": groups, "sample_weight": sample_weight, **(params or {})}
    fit_params, split_params = route_params(owner, estimator, splitter, given)
    classes = binarizer.classes_
    splits = list_splits(splitter, X, targets, classes=classes, params=split_params)
    return predict_out_of_fold(
        estimator, X, targets, splits=splits, method=method, classes=classes, params=fit_params, n_jobs=n_jobs
    )


def create_splitter(cv: Any, *, random_state: int | np.random.RandomState | None = None) -> Any:
    """Return what splits: stratified folds for a number, a splitter as it is, an iterable as a splitter."""
    return MultiLabelStratifiedKFold(int(cv), random_state=random_state) if isinstance(cv, Integral) else check_cv(cv)


def _select(*names: str) -> dict[str, list[Constraint]]:
    """Return the rows of the parameter table that a splitter has."""
    return {name: _TABLE[name] for name in names}


def _encode_present(X: Any, y: Any, *, owner: str, label_sep: str | None) -> np.ndarray:
    """Return which labels are present, shape (n_samples, n_classes), for y that fits X."""
    if y is None:
        raise InputError(f"{owner} stratifies by labels and needs y. Got None.")
    present = encode_labels(y, label_sep=label_sep)[0] == 1
    check_rows(X, present)
    return present


def _count_sides(n_samples: int, test_size: float) -> list[int]:
    """Return how many rows to train and to test on."""
    # Note: 0.07 * 100 is a little more than 7; that little must not cost a row.
    n_test = math.ceil(round(test_size * n_samples, 6)) if test_size < 1 else int(test_size)
    if not 0 < n_test < n_samples:
        raise InputError(
            f"test_size={test_size} leaves no row to train on: there are {n_samples} rows. "
            "Make test_size smaller, or give more rows."
        )
    return [n_samples - n_test, n_test]
