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
from multilabelkit.threshold_objectives import (
    OBJECTIVES,
    POOLED,
    Cut,
    check_options,
    choose_expectation,
    cut_everything,
    list_cuts,
)
from multilabelkit.threshold_prior import combine_with_anchors, compute_anchors, move_towards, to_logit, to_proba

__all__ = ["OBJECTIVES", "apply_thresholds", "fix_thresholds", "threshold_report", "tune_thresholds"]

_CONSTRAINTS: dict[str, list[Constraint]] = {
    "objective": [Choice(OBJECTIVES)],
    "n_bootstraps": [Interval(int, 0)],
    "shrink": [Choice(("auto",)), Interval(float, 0)],
    "random_state": RANDOM_STATE,
}
_FEW = 5  # fewer positives than this do not pin a threshold down
_N_NAMES = 20  # classes that a message lists before it gives a count


def tune_thresholds(
    y_true: Any,
    proba: Any,
    *,
    objective: str = "f1",
    beta: float | None = None,
    target: float | None = None,
    confidence: float | None = None,
    cost_fp: float | None = None,
    cost_fn: float | None = None,
    n_bootstraps: int = 20,
    shrink: float | str = "auto",
    classes: Sequence[Any] | np.ndarray | None = None,
    random_state: int | np.random.RandomState | None = 0,
) -> np.ndarray:
    """Choose one decision threshold per class from held-out predictions.

    A sweep finds the midpoint between two neighbouring probabilities of known samples (or between 0 and the lowest)
    that is best for a class; if several are, the one nearest to 0.5, then the lower. The best midpoint of few samples
    is largely luck, so that the threshold of a class is the mean of the sweeps of `n_bootstraps` resamples of its
    samples, drawn towards a guess that takes its probabilities alone: for F1, half the best F1 to be expected of them,
    once one sigmoid has calibrated all classes together. How far, all classes decide: wholly where chance explains why
    theirs differ from the guesses, hardly where they truly differ. Means are taken of logits.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out for that class).
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1], from samples not used for training.
    objective : str, default="f1"
        What is best:

        - "f1": the F1 of each class, and so macro-F1; "fbeta": its F-beta.
        - "micro_f1", "samples_f1": the F1 of all cells together, and the mean F1 of the samples (0 where a sample has
          no label), by coordinate ascent over the classes.
        - "global": the micro-F1 of one threshold for all classes, by a plain sweep, which suits very few samples.
        - "precision": the most recall at a precision of at least `target`; "recall": the most precision at a recall of
          at least `target`. Each as its lower confidence bound (Clopper and Pearson) says at the very threshold.
        - "cost": the least cost, at `cost_fp` a false alarm and `cost_fn` a miss.
        - "youden": recall plus specificity. "prior": as many predictions as there are positives.
    beta : float > 0, default=None
        Of "fbeta", which needs it: how many times as much recall counts as precision.
    target : float in (0, 1), default=None
        Of "precision" and "recall", which need it.
    confidence : float in (0, 1), default=None
        Of the bounds of "precision" and "recall"; None is 0.95.
    cost_fp, cost_fn : float > 0, default=None
        Of "cost"; None is 1.
    n_bootstraps : int, default=20
        Resamples whose sweeps are averaged. 0 takes the plain sweep, exact on these samples and worse on others. It
        has no effect on "global", "precision", "recall" and "prior", which are exact.
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
        If the shapes differ, `proba` leaves [0, 1], the objective is unknown or an option does not belong to it.

    Warns
    -----
    MultiLabelKitWarning
        If a class has no known positive (it gets the global threshold, or 0.5 if no class has one), if a class has
        fewer than 5, and if a target cannot be attained: the threshold is then 1 for "precision", and 0 for "recall".

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
    >>> tune_thresholds(y_true, proba, objective="recall", target=0.5)
    array([0.275, 0.55 ])
    """
    given = {"objective": objective, "n_bootstraps": n_bootstraps, "shrink": shrink, "random_state": random_state}
    check_parameters("tune_thresholds", given, _CONSTRAINTS)
    options = {"beta": beta, "target": target, "confidence": confidence, "cost_fp": cost_fp, "cost_fn": cost_fn}
    options = check_options("tune_thresholds", objective, options)
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
        return np.full(n_classes, cut_everything(objective, kind, scores, options))
    seed = check_random_state(random_state).randint(2**31 - 1)
    shrink = 0 if shrink == "auto" and n_bootstraps < 2 else shrink
    thresholds = _tune_by_class(objective, kind, scores, options, n_bootstraps, shrink, seed)
    unattained = np.isnan(thresholds)
    thresholds[unattained] = 1.0 if objective == "precision" else 0.0
    messages = [
        _describe_empty(names, n_positive, thresholds),
        _describe_few(names, n_positive),
        _describe_unattained(names, unattained, objective, options),
    ]
    for message in filter(None, messages):
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


def _tune_by_class(objective, kind, scores, options, n_bootstraps, shrink, seed):
    """Return the threshold of each class; NaN where the objective cannot be attained."""
    n_positive = np.count_nonzero(kind == 1, axis=1)
    own, is_auto = n_positive > 0, isinstance(shrink, str)
    expect = choose_expectation(objective, options)
    if expect is None:
        n_bootstraps = shrink = 0
    thresholds, variance = np.full((2, len(kind)), np.nan)
    for place, cut in enumerate(list_cuts(objective, kind, scores, options)):
        if own[place]:
            thresholds[place], variance[place] = _average_sweeps(cut, n_bootstraps, seed)
    if shrink and is_auto:
        noise = variance[own] + 1 / n_positive[own]  # resamples cannot show how little one or two positives tell
        anchors = compute_anchors(kind, scores, expect, pooled=objective in POOLED)[own]
        thresholds[own] = to_proba(combine_with_anchors(to_logit(thresholds[own]), anchors, noise))
    if not own.all() or (shrink and not is_auto):
        for_all = cut_everything(objective, kind, scores, options)
        thresholds[~own] = for_all
        if shrink and not is_auto:
            thresholds[own] = move_towards(thresholds[own], for_all, shrink / (n_positive[own] + shrink))
    return thresholds


def _average_sweeps(cut: Cut, n_bootstraps: int, seed: int) -> tuple[float, float]:
    """Return the mean of the best thresholds of resampled scores and the variance of their logits.

    With 0 resamples that is the best threshold of these scores, and 0.
    """
    if not n_bootstraps:
        return cut.sweep(*cut.columns), 0.0
    kind, scores = cut.columns[:2]
    known = np.flatnonzero(kind < 2)
    rows = known[np.lexsort((kind[known], scores[known]))]  # so that the order of the samples does not matter
    columns = [column[rows] for column in cut.columns]
    random = np.random.default_rng(seed)
    draws = (random.integers(len(rows), size=len(rows)) for _ in range(n_bootstraps))
    resamples = ([column[draw] for column in columns] for draw in draws)
    swept = to_logit(np.array([cut.sweep(*resample) for resample in resamples if resample[0].any()]))
    return (to_proba(swept.mean()), swept.var()) if len(swept) else (cut.sweep(*columns), 0.0)


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


def _describe_unattained(names, unattained, objective, options):
    """Say for which classes a target is out of reach; nothing if there is none."""
    if not unattained.any():
        return None
    consequence = "1, which predicts nearly nothing" if objective == "precision" else "0, which predicts all"
    return (
        f"A {objective} of {options['target']:g} is not attainable with a confidence of {options['confidence']:g} in "
        f"{np.count_nonzero(unattained)} of {len(names)} classes; their thresholds are {consequence}: "
        f"{join_first([repr(names[place]) for place in np.flatnonzero(unattained)])}."
    )


def _to_plain(value):
    return value.item() if isinstance(value, np.generic) else value
