"""From probabilities to decisions: one threshold per class, tuned on held-out predictions or fixed by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from multilabelkit.checks import (
    RANDOM_STATE,
    Choice,
    Constraint,
    Interval,
    check_indicator,
    check_parameters,
    check_scores,
    shorten,
    suggest,
)
from multilabelkit.errors import InputError, warn
from multilabelkit.metrics import f1_score
from multilabelkit.threshold_prior import combine_with_anchors, compute_anchors, move_towards, to_logit, to_proba

__all__ = ["apply_thresholds", "fix_thresholds", "threshold_report", "tune_thresholds"]

OBJECTIVES = ("f1", "global")
_CONSTRAINTS: dict[str, list[Constraint]] = {
    "objective": [Choice(OBJECTIVES)],
    "n_bootstraps": [Interval(int, 0)],
    "shrink": [Choice(("auto",)), Interval(float, 0)],
    "random_state": RANDOM_STATE,
}
_FEW = 5  # fewer positives than this do not pin a threshold down
_N_BINS = 1024  # of the histogram that finds the stretch of scores to sort
_N_NAMES = 20  # classes that a message lists before it gives a count


def tune_thresholds(
    y_true: Any,
    proba: Any,
    *,
    objective: str = "f1",
    n_bootstraps: int = 20,
    shrink: float | str = "auto",
    classes: Sequence[Any] | np.ndarray | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> np.ndarray:
    """Choose one decision threshold per class from held-out predictions.

    A sweep finds the midpoint between two neighbouring probabilities of known samples (or between 0 and the lowest)
    that gives a class its best F1; if several do, the one nearest to 0.5, then the lower. The best midpoint of few
    samples is largely luck, so that the threshold of a class is the mean of the sweeps of `n_bootstraps` resamples of
    its samples, drawn towards a guess that takes its probabilities alone: half the best F1 to be expected of them,
    once one sigmoid has calibrated all classes together. How far, all classes decide: wholly where chance explains why
    theirs differ from the guesses, hardly where they truly differ. Means are taken of logits.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out for that class).
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1], from samples not used for training.
    objective : {"f1", "global"}, default="f1"
        "f1" gives every class the threshold of its best F1 and so the best macro-F1. "global" gives all classes the
        one threshold of the best micro-F1 over all known labels, by a plain sweep, which suits very few samples.
    n_bootstraps : int, default=20
        Resamples whose sweeps are averaged. 0 takes the plain sweep, exact on these samples and worse on others.
    shrink : float or "auto", default="auto"
        "auto" draws towards the guesses; with fewer than 2 `n_bootstraps` it cannot tell chance, and does as 0 does. A
        number draws towards the global threshold, as if that were the choice of so many further positives: with 5, a
        class with 5 meets it half-way. 0 draws nowhere.
    classes : sequence of shape (n_classes,), default=None
        Names for the warnings; None uses the column numbers.
    random_state : int, RandomState instance or None, default=0
        Seed of the resamples.

    Returns
    -------
    thresholds : ndarray of shape (n_classes,)
        In [0, 1]. A class is predicted where its probability is >= its threshold.

    Raises
    ------
    InputError
        If the shapes differ, `proba` leaves [0, 1] or the objective is unknown.

    Warns
    -----
    MultiLabelKitWarning
        If a class has no known positive (it gets the global threshold, or 0.5 if no class has one), and if a class
        has fewer than 5.

    References
    ----------
    Z. Lipton, C. Elkan and B. Naryanaswamy, "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014.
    B. Efron and C. Morris, "Data Analysis Using Stein's Estimator and its Generalizations", 1975.

    Examples
    --------
    >>> y_true = np.array([[1, 0], [0, 0], [1, 1]] * 5)
    >>> proba = np.array([[0.40, 0.2], [0.20, 0.1], [0.35, 0.9]] * 5)
    >>> tune_thresholds(y_true, proba, n_bootstraps=0, shrink=0)
    array([0.275, 0.55 ])
    >>> tune_thresholds(y_true, proba).round(2)
    array([0.27, 0.44])
    """
    given = {"objective": objective, "n_bootstraps": n_bootstraps, "shrink": shrink, "random_state": random_state}
    check_parameters("tune_thresholds", given, _CONSTRAINTS)
    y_true = check_indicator(y_true)
    proba = check_scores(y_true, proba)
    n_classes = y_true.shape[1]
    names = list_names(range(n_classes) if classes is None else classes, n_classes=n_classes)
    n_positive = np.count_nonzero(y_true == 1, axis=0)
    if not n_positive.any():
        message = f"No class has a known positive, so nothing can be tuned: all {n_classes} thresholds stay at 0.5."
        warn(message)
        return np.full(n_classes, 0.5)
    kind = np.where(np.isnan(y_true), 2, y_true).T.astype(np.int16, order="C")  # (c, n): absent, present, unknown
    scores = np.ascontiguousarray(proba.T)  # (c, n)
    if objective == "global":
        return np.full(n_classes, _sweep(kind.ravel(), scores.ravel()))
    seed = check_random_state(random_state).randint(2**31 - 1)
    shrink = 0 if shrink == "auto" and n_bootstraps < 2 else shrink
    thresholds = _tune_by_class(kind, scores, n_positive, n_bootstraps, shrink, seed)
    for message in filter(None, [_describe_empty(names, n_positive, thresholds), _describe_few(names, n_positive)]):
        warn(message)
    return thresholds


def fix_thresholds(thresholds: Any, *, classes: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Turn thresholds chosen by hand into one number per class.

    Parameters
    ----------
    thresholds : float, array-like of shape (n_classes,), dict or Series by class
        One number for all classes, one per class in the order of `classes`, or one for each class by name. In [0, 1].
    classes : sequence of shape (n_classes,)
        The names of the classes, in order.

    Returns
    -------
    thresholds : ndarray of shape (n_classes,)
        In [0, 1].

    Raises
    ------
    InputError
        If a class is missing or unknown, the length differs, or a number is not in [0, 1].

    Examples
    --------
    >>> fix_thresholds({"sea": 0.3, "trees": 0.6}, classes=["trees", "sea"])
    array([0.6, 0.3])
    >>> fix_thresholds(0.5, classes=["trees", "sea"])
    array([0.5, 0.5])
    """
    names = list_names(classes)
    if isinstance(thresholds, (Mapping, pd.Series)):
        thresholds = _order_by_class(dict(thresholds.items()), names)
    elif np.ndim(thresholds) == 0:
        thresholds = [thresholds] * len(names)
    elif np.shape(thresholds) != (len(names),):
        raise InputError(
            f"thresholds must hold one number for each of {len(names)} classes. Got the shape {np.shape(thresholds)}."
        )
    allowed = Interval(float, 0, 1)
    for name, value in zip(names, thresholds, strict=True):
        if not allowed.accepts(value):
            raise InputError(
                f"A threshold must be {allowed.describe()}. Got {shorten(_to_plain(value))} for class {name!r}."
            )
    return np.array(thresholds, dtype=np.float64)


def apply_thresholds(proba: Any, thresholds: Any) -> np.ndarray:
    """Decide which classes are present: those whose probability is >= their threshold.

    Parameters
    ----------
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    thresholds : array-like of shape (n_classes,)
        One threshold per class in [0, 1].

    Returns
    -------
    y_pred : ndarray of shape (n_samples, n_classes)
        int64, 0 or 1.

    Raises
    ------
    InputError
        If the shapes do not fit or a number leaves [0, 1].

    Examples
    --------
    >>> apply_thresholds([[0.4, 0.2], [0.2, 0.6]], [0.275, 0.55])
    array([[1, 0],
           [0, 1]])
    """
    proba = np.asarray(proba)
    if proba.ndim != 2:
        raise InputError(f"proba must have the shape (n_samples, n_classes). Got the shape {proba.shape}.")
    limits = fix_thresholds(thresholds, classes=range(proba.shape[1]))
    return (check_scores(proba, proba) >= limits).astype(np.int64)


def threshold_report(y_true: Any, proba: Any, thresholds: Any, *, classes: Sequence[Any] | np.ndarray) -> pd.DataFrame:
    """Show what each threshold rests on and what it gains.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out for that class).
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    thresholds : float, array-like of shape (n_classes,), dict or Series by class
        As `fix_thresholds` takes them.
    classes : sequence of shape (n_classes,)
        The names of the classes, in column order.

    Returns
    -------
    report : DataFrame of shape (n_classes, 5)
        Indexed by class: `threshold`, `n_known` and `n_positive` (samples), `f1_at_half` (F1 at 0.5) and `f1` (at the
        threshold). On the data that tuned the thresholds `f1` is optimistic: it had the choice.

    Raises
    ------
    InputError
        If the shapes do not fit or a number leaves its range.

    Examples
    --------
    >>> threshold_report([[1], [0], [1]], [[0.40], [0.20], [0.35]], 0.275, classes=["sea"])
           threshold  n_known  n_positive  f1_at_half   f1
    class
    sea        0.275        3           2         0.0  1.0
    """
    y_true = check_indicator(y_true)
    proba = check_scores(y_true, proba)
    names = list_names(classes, n_classes=y_true.shape[1])
    limits = fix_thresholds(thresholds, classes=names)
    return pd.DataFrame(
        {
            "threshold": limits,
            "n_known": np.count_nonzero(~np.isnan(y_true), axis=0),
            "n_positive": np.count_nonzero(y_true == 1, axis=0),
            "f1_at_half": f1_score(y_true, proba >= 0.5, average=None),
            "f1": f1_score(y_true, proba >= limits, average=None),
        },
        index=pd.Index(names, name="class"),
    )


def list_names(classes: Sequence[Any] | np.ndarray, *, n_classes: int | None = None) -> list[Any]:
    """Return class names as plain Python values, or raise InputError if there are not `n_classes` of them."""
    names = [_to_plain(name) for name in classes]
    if n_classes is not None and len(names) != n_classes:
        raise InputError(f"classes must name each of {n_classes} columns. Got {len(names)} names: {shorten(names)}.")
    return names


def join_first(texts: Sequence[str]) -> str:
    """List a few of many things in a message, then how many more there are."""
    rest = f" and {len(texts) - _N_NAMES} more" if len(texts) > _N_NAMES else ""
    return ", ".join(texts[:_N_NAMES]) + rest


def _tune_by_class(kind, scores, n_positive, n_bootstraps, shrink, seed):
    """Return the threshold of each class for the objective "f1"."""
    thresholds, variance = np.full((2, len(kind)), np.nan)
    own, is_auto = n_positive > 0, isinstance(shrink, str)
    for place in np.flatnonzero(own):
        thresholds[place], variance[place] = _average_sweeps(kind[place], scores[place], n_bootstraps, seed)
    if is_auto:
        noise = variance[own] + 1 / n_positive[own]  # resamples cannot show how little one or two positives tell
        anchors = compute_anchors(kind, scores)[own]
        thresholds[own] = to_proba(combine_with_anchors(to_logit(thresholds[own]), anchors, noise))
    if not own.all() or (shrink and not is_auto):
        for_all = _sweep(kind.ravel(), scores.ravel())
        thresholds[~own] = for_all
        if not is_auto:
            thresholds[own] = move_towards(thresholds[own], for_all, shrink / (n_positive[own] + shrink))
    return thresholds


def _average_sweeps(kind, scores, n_bootstraps, seed):
    """Return the mean of the best thresholds of resampled scores and the variance of their logits.

    With 0 resamples that is the best threshold of these scores, and 0.
    """
    if not n_bootstraps:
        return _sweep(kind, scores), 0.0
    known = np.flatnonzero(kind < 2)
    rows = known[np.lexsort((kind[known], scores[known]))]  # so that the order of the samples does not matter
    kind, scores = kind[rows], scores[rows]
    random = np.random.default_rng(seed)
    draws = (random.integers(len(rows), size=len(rows)) for _ in range(n_bootstraps))
    swept = to_logit(np.array([_sweep(kind[draw], scores[draw]) for draw in draws if kind[draw].any()]))
    return (to_proba(swept.mean()), swept.var()) if len(swept) else (_sweep(kind, scores), 0.0)


def _sweep(kind, scores):
    """Return the threshold with the best F1 for one column; `kind` is 0 absent, 1 present, 2 unknown.

    The best cut lies just below a positive, and most scores lie far from it. A histogram bounds the F1 of every cut
    within a bin, so that only the bins that can hold the best one are sorted.
    """
    bins = (scores * _N_BINS).astype(np.int16)
    counts = np.bincount(kind * (_N_BINS + 1) + bins, minlength=3 * (_N_BINS + 1)).reshape(3, -1)[:2]
    above = np.pad(counts[:, ::-1].cumsum(axis=1)[:, ::-1], [(0, 0), (0, 1)])  # absent, present; from the bin upwards
    n_positive = above[1, 0]
    reached = _compute_f1(above[1, :-1], above[0, :-1], n_positive)  # cutting at the foot of the bin
    bound = _compute_f1(above[1, :-1], above[0, 1:], n_positive)  # all its positives, none of its negatives
    hopeful = np.flatnonzero((counts[1] > 0) & (bound >= reached.max()))
    low, high = hopeful[0], hopeful[-1]
    # The midpoint also needs the next lower score, wherever it is.
    lower = np.flatnonzero(counts[:, :low].any(axis=0))
    rows = (bins >= (lower[-1] if len(lower) else low)) & (bins <= high)
    return _sweep_sorted(
        np.sort(scores[rows & (kind == 1)]), np.sort(scores[rows & (kind == 0)]), above[:, high + 1], n_positive
    )


def _sweep_sorted(positives, negatives, higher, n_positive):
    """Try every cut just below a positive, given how many (absent, present) scores lie higher still."""
    first = np.flatnonzero(np.diff(positives, prepend=-1.0))  # of each run of equal scores
    cuts = positives[first]
    n_below = np.searchsorted(negatives, cuts)
    f1 = _compute_f1(higher[1] + len(positives) - first, higher[0] + len(negatives) - n_below, n_positive)
    best = f1 == f1.max()
    lower = np.maximum(
        np.concatenate([[0.0], positives])[first[best]], np.concatenate([[0.0], negatives])[n_below[best]]
    )
    middle = _split(lower, cuts[best])
    return middle[np.argmin(np.abs(middle - 0.5))]


def _compute_f1(hits, false_alarms, n_positive):
    return 2 * hits / (n_positive + hits + false_alarms)


def _split(lower, upper):
    """Return the midpoints, or `upper` where two scores are so near that a midpoint would not keep them apart."""
    middle = lower + (upper - lower) / 2
    # Note: thresholds meet scores in float32 too (torch, exported models), where a midpoint may round onto a score.
    rounded = middle.astype(np.float32)
    return np.where((rounded > lower) & (rounded <= upper), middle, upper)


def _order_by_class(thresholds, names):
    """Return the values of a dict in the order of the classes; every class must be there, and nothing else."""
    thresholds = {_to_plain(name): value for name, value in thresholds.items()}
    unknown = [name for name in thresholds if name not in set(names)]
    if unknown:
        hint = suggest(str(unknown[0]), map(str, names))
        raise InputError(f"thresholds names unknown classes: {join_first([*map(repr, unknown)])}.{hint}")
    missing = [repr(name) for name in names if name not in thresholds]
    if missing:
        raise InputError(
            f"thresholds must name every class. It lacks {len(missing)} of {len(names)}: {join_first(missing)}."
        )
    return [thresholds[name] for name in names]


def _describe_empty(names, n_positive, thresholds):
    """Say which classes had nothing to tune on; nothing if there is none."""
    empty = np.flatnonzero(n_positive == 0)
    if not len(empty):
        return None
    return (
        f"No known positive in {len(empty)} of {len(names)} classes; they get the threshold that is best for all "
        f"classes together, {thresholds[empty[0]]:.3g}: {join_first([repr(names[place]) for place in empty])}."
    )


def _describe_few(names, n_positive):
    """Say which classes had too little to tune on; nothing if there is none."""
    few = np.flatnonzero((n_positive > 0) & (n_positive < _FEW))
    if not len(few):
        return None
    return (
        f"Fewer than {_FEW} known positives make the thresholds of {len(few)} of {len(names)} classes uncertain: "
        f"{join_first([f'{names[place]!r} ({n_positive[place]})' for place in few])}. "
        "Tune on more samples, or choose 'global', one threshold for all classes."
    )


def _to_plain(value):
    return value.item() if isinstance(value, np.generic) else value
