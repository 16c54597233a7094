"""Thresholds that are best on held-out predictions, as far as these can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
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
from multilabelkit.class_names import join_first, list_names
from multilabelkit.errors import InputError, warn
from multilabelkit.threshold_objectives import (
    OBJECTIVES,
    OPTIONS,
    POOLED,
    Cut,
    check_options,
    choose_expectation,
    cut_everything,
    list_cuts,
)
from multilabelkit.threshold_prior import combine_with_anchors, compute_anchors, move_towards, to_logit, to_proba

_CONSTRAINTS: dict[str, list[Constraint]] = {
    "objective": [Choice(OBJECTIVES)],
    "n_bootstraps": [Interval(int, 0)],
    "shrink": [Choice(("auto",)), Interval(float, 0)],
    "random_state": RANDOM_STATE,
}
_DEFAULTS = {"objective": "f1", "n_bootstraps": 20, "shrink": "auto", "random_state": 0}
_KEYWORDS = [name for name in (*OPTIONS, *_DEFAULTS) if name != "objective"]  # that threshold_params may hold
_ROOM = 2**23  # rows of resamples that are kept
_FEW = 5  # fewer positives than this do not pin a threshold down
# The variance of a mean of sweeps is about half that of a single sweep, and resamples cannot show how little a few
# positives tell. Both as measured on samples drawn anew, 100 to 2000 of them with 3 to 500 positives.
_NOISE_OF_MEAN, _NOISE_OF_FEW = 0.5, 2.0


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
    once one sigmoid has calibrated all classes together. How far, all classes decide: the less, the further
    theirs differ from the guesses beyond what chance explains. Means are taken of logits.

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
    array([0.27, 0.41])
    >>> tune_thresholds(y_true, proba, objective="recall", target=0.5)
    array([0.275, 0.55 ])
    """
    given = {
        "objective": objective,
        "beta": beta,
        "target": target,
        "confidence": confidence,
        "cost_fp": cost_fp,
        "cost_fn": cost_fn,
        "n_bootstraps": n_bootstraps,
        "shrink": shrink,
        "random_state": random_state,
    }
    options = check_tuning("tune_thresholds", given)
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


def check_tuning(owner: str, given: Mapping[str, Any]) -> dict[str, float]:
    """Return the options of the objective, or raise InputError for a keyword of `tune_thresholds` that is wrong."""
    parameters: dict[str, Any] = dict.fromkeys(OPTIONS) | _DEFAULTS | dict(given)
    check_parameters(owner, parameters, _CONSTRAINTS)
    return check_options(owner, parameters["objective"], parameters)


def check_threshold_params(owner: str, thresholds: Any, threshold_params: Mapping[str, Any] | None) -> None:
    """Refuse `threshold_params` that `tune_thresholds` would not take.

    Parameters
    ----------
    owner : str
        Name of the classifier whose parameters these are.
    thresholds : str, float, sequence or dict
        The objective, which takes keywords; or fixed thresholds, which take none.
    threshold_params : dict or None
        Keywords of `tune_thresholds` but for the objective and the names of the classes.

    Raises
    ------
    InputError
        If a keyword is unknown, does not belong to the objective or has a wrong value, or if one is lacking.

    Examples
    --------
    >>> check_threshold_params("Net", "precision", {"target": 0.9})
    >>> check_threshold_params("Net", "precision", {"targte": 0.9})
    Traceback (most recent call last):
    multilabelkit.errors.InputError: threshold_params has no 'targte'. Did you mean 'target'? Known are: ...
    """
    params = dict(threshold_params or {})
    if not isinstance(thresholds, str):
        if params:
            raise InputError("threshold_params has no effect on fixed thresholds. Leave it out, or name an objective.")
        return
    if "objective" in params:
        raise InputError(
            "threshold_params must not hold 'objective', which stands in thresholds. Write "
            f"thresholds={shorten(params['objective'])} instead."
        )
    for name in params:
        if name not in _KEYWORDS:
            raise InputError(
                f"threshold_params has no {name!r}.{suggest(str(name), _KEYWORDS)} Known are: {', '.join(_KEYWORDS)}."
            )
    check_tuning(f"{owner}'s threshold_params", {"objective": thresholds, **params})


def _tune_by_class(objective, kind, scores, options, n_bootstraps, shrink, seed):
    """Return the threshold of each class; NaN where the objective cannot be attained."""
    n_positive = np.count_nonzero(kind == 1, axis=1)
    own, is_auto = n_positive > 0, isinstance(shrink, str)
    expect = choose_expectation(objective, options)
    if expect is None:
        n_bootstraps = shrink = 0
    thresholds, variance = np.full((2, len(kind)), np.nan)
    draws = _Draws(n_bootstraps, seed)
    for place, cut in enumerate(list_cuts(objective, kind, scores, options)):
        if own[place]:
            thresholds[place], variance[place] = _average_sweeps(cut, draws)
    if expect is not None and shrink and is_auto:
        noise = _NOISE_OF_MEAN * variance[own] + _NOISE_OF_FEW / n_positive[own]
        anchors = compute_anchors(kind, scores, expect, pooled=objective in POOLED)[own]
        thresholds[own] = to_proba(combine_with_anchors(to_logit(thresholds[own]), anchors, noise))
    if not own.all() or (shrink and not is_auto):
        for_all = cut_everything(objective, kind, scores, options)
        thresholds[~own] = for_all
        if shrink and not is_auto:
            thresholds[own] = move_towards(thresholds[own], for_all, shrink / (n_positive[own] + shrink))
    return thresholds


class _Draws:
    """Rows of resamples; classes of as many known samples share them, which saves drawing them anew."""

    def __init__(self, n_bootstraps: int, seed: int) -> None:
        self._n_bootstraps, self._seed = n_bootstraps, seed
        self._kept: list[np.ndarray] = []

    def __bool__(self) -> bool:
        return self._n_bootstraps > 0

    def list_rows(self, n_rows: int) -> Iterable[np.ndarray]:
        """Return the rows of each resample of so many."""
        if self._kept and len(self._kept[0]) == n_rows:
            return self._kept
        random = np.random.default_rng(self._seed)
        draws = (random.integers(n_rows, size=n_rows) for _ in range(self._n_bootstraps))
        if n_rows * self._n_bootstraps > _ROOM:
            return draws
        self._kept = list(draws)
        return self._kept


def _average_sweeps(cut: Cut, draws: _Draws) -> tuple[float, float]:
    """Return the mean of the best thresholds of resampled scores and the variance of their logits.

    With 0 resamples that is the best threshold of these scores, and 0.
    """
    if not draws:
        return cut.sweep(*cut.columns), 0.0
    columns = _order_columns(*cut.columns)
    resamples = ([column[rows] for column in columns] for rows in draws.list_rows(len(columns[0])))
    swept = to_logit(np.array([cut.sweep(*resample) for resample in resamples if resample[0].any()]))
    return (to_proba(swept.mean()), swept.var()) if len(swept) else (cut.sweep(*columns), 0.0)


def _order_columns(kind, scores, *others):
    """Return columns of the known samples, by score and kind, so that the order of the samples does not matter."""
    if others:
        known = np.flatnonzero(kind < 2)
        rows = known[np.lexsort((kind[known], scores[known]))]
        return [column[rows] for column in (kind, scores, *others)]
    absent, present = (np.sort(scores[kind == one]) for one in (0, 1))  # half the time of lexsort, and the same
    places = np.searchsorted(absent, present, side="right")
    return [np.insert(np.zeros(len(absent), dtype=kind.dtype), places, 1), np.insert(absent, places, present)]


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
        f"{join_first([repr(names[place]) for place in np.flatnonzero(unattained)])}. Lower the target or the "
        "confidence, or tune on more samples."
    )
