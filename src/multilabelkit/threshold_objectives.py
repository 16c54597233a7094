"""What a threshold can be tuned for: how each objective cuts the scores of a class, and what it expects of the cut."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betainc

from multilabelkit.checks import Constraint, Interval, check_parameters
from multilabelkit.errors import InputError
from multilabelkit.threshold_prior import Expectation, expect_fbeta, expect_prevalence
from multilabelkit.threshold_sweeps import choose_nearest, cut_above, split_scores, sweep_cuts, sweep_gains

OBJECTIVES = ("f1", "fbeta", "micro_f1", "samples_f1", "global", "precision", "recall", "cost", "youden", "prior")

POOLED = ("micro_f1", "samples_f1", "global")  # what is expected, is expected of all classes together

_POSITIVE: list[Constraint] = [Interval(float, 0, open_low=True)]
_SHARE: list[Constraint] = [Interval(float, 0, 1, open_low=True, open_high=True)]
# What each option may be, what it is where it is not given (None: it must be), and the objectives that it belongs to.
OPTIONS: dict[str, tuple[list[Constraint], float | None, tuple[str, ...]]] = {
    "beta": (_POSITIVE, None, ("fbeta",)),
    "target": (_SHARE, None, ("precision", "recall")),
    "confidence": (_SHARE, 0.95, ("precision", "recall")),
    "cost_fp": (_POSITIVE, 1.0, ("cost",)),
    "cost_fn": (_POSITIVE, 1.0, ("cost",)),
}
_MAX_PASSES = 50  # of a coordinate ascent; it settles after three or four


class Cut(NamedTuple):
    """How one class is cut: ``sweep(*columns)`` gives the threshold, also of resampled columns.

    The columns are its kind (0 absent, 1 present, 2 unknown), its scores, and what else the sweep takes, each of shape
    (n_samples,). The threshold is NaN where the objective cannot be attained.
    """

    sweep: Callable[..., float]
    columns: tuple[np.ndarray, ...]


def check_options(owner: str, objective: str, options: Mapping[str, Any]) -> dict[str, float]:
    """Return the options of an objective, with defaults, or raise InputError for one that is wrong or out of place."""
    chosen: dict[str, float] = {}
    for name, (constraints, default, objectives) in OPTIONS.items():
        value = options[name]
        if value is not None:
            check_parameters(owner, options, {name: constraints})
        if objective in objectives:
            value = default if value is None else value
            if value is None:
                raise InputError(f"objective={objective!r} needs {name}, {constraints[0].describe()}. Got none.")
            chosen[name] = value
        elif value is not None:
            belongs = " and ".join(map(repr, objectives))
            raise InputError(
                f"{name}={value!r} has no effect with objective={objective!r}; it belongs to {belongs}. Leave it out."
            )
    return chosen


def list_cuts(objective: str, kind: np.ndarray, scores: np.ndarray, options: Mapping[str, float]) -> Iterator[Cut]:
    """Yield how each class is cut.

    Parameters
    ----------
    objective : str
        One of `OBJECTIVES` but "global", which does not cut class by class.
    kind, scores : ndarray of shape (n_classes, n_samples)
    options : mapping of str to float
        As `check_options` returns them.
    """
    if objective == "micro_f1":
        yield from _list_micro_cuts(kind, scores)
    elif objective == "samples_f1":
        yield from _list_samples_cuts(kind, scores)
    else:
        sweep = _create_sweep(objective, options)
        yield from (Cut(sweep, columns) for columns in zip(kind, scores, strict=True))


def cut_everything(objective: str, kind: np.ndarray, scores: np.ndarray, options: Mapping[str, float]) -> float:
    """Return the threshold that is best where the cells of all classes are taken for those of one."""
    sweep = _create_sweep("f1" if objective in POOLED else objective, options)
    return sweep(kind.ravel(), scores.ravel())


def choose_expectation(objective: str, options: Mapping[str, float]) -> Expectation | None:
    """Return what theory expects of calibrated probabilities; None where thresholds are not to be drawn anywhere."""
    if objective in ("f1", "fbeta", "micro_f1", "samples_f1"):
        return functools.partial(expect_fbeta, beta=options.get("beta", 1.0))
    if objective == "cost":
        share = options["cost_fp"] / (options["cost_fp"] + options["cost_fn"])
        return lambda proba, count: share
    return expect_prevalence if objective == "youden" else None


def measure_fbeta(hits, false_alarms, n_positive, n_negative, *, beta=1.0, other_hits=0, others=0):
    """Return the F-beta of cuts; with the hits, and the positives and predictions, of other classes pooled in."""
    weight = beta**2
    return (1 + weight) * (hits + other_hits) / (weight * n_positive + hits + false_alarms + others)


def _create_sweep(objective, options):
    if objective in ("f1", "fbeta"):
        return functools.partial(sweep_cuts, measure=functools.partial(measure_fbeta, **options))
    if objective == "cost":
        return functools.partial(sweep_cuts, measure=functools.partial(_measure_saving, **options), may_be_none=True)
    if objective == "youden":
        return functools.partial(sweep_cuts, measure=_measure_youden)
    if objective == "prior":
        return _match_prior
    attain = _attain_precision if objective == "precision" else _attain_recall
    return functools.partial(attain, target=options["target"], doubt=1 - options["confidence"])


def _measure_saving(hits, false_alarms, n_positive, n_negative, *, cost_fp, cost_fn):
    return cost_fn * hits - cost_fp * false_alarms


def _measure_youden(hits, false_alarms, n_positive, n_negative):
    return hits / n_positive - false_alarms / max(n_negative, 1)


def _attain_precision(kind, scores, *, target, doubt):
    """Cut as low as the precision is above the target by its lower confidence bound (Clopper and Pearson)."""
    cuts, hits, predicted, lower = _list_cuts_below_positives(kind, scores)
    # P(precision <= target) given these counts; the bound is above the target where this is below the doubt left.
    risk = betainc(hits, predicted - hits + 1, target)
    attained = np.flatnonzero(risk <= doubt)
    return split_scores(lower, cuts)[attained[0]] if len(attained) else np.nan


def _attain_recall(kind, scores, *, target, doubt):
    """Cut as high as the recall is above the target by its lower confidence bound."""
    cuts, hits, _, lower = _list_cuts_below_positives(kind, scores)
    attained = np.flatnonzero(betainc(hits, hits[0] - hits + 1, target) <= doubt)
    return split_scores(lower, cuts)[attained[-1]] if len(attained) else np.nan


def _list_cuts_below_positives(kind, scores):
    """Return the distinct scores of positives, ascending, with their hits, predictions and the next lower score."""
    known = np.sort(scores[kind < 2])
    positives = np.sort(scores[kind == 1])
    first = np.flatnonzero(np.diff(positives, prepend=-1.0))
    cuts = positives[first]
    n_below = np.searchsorted(known, cuts)
    return cuts, len(positives) - first, len(known) - n_below, np.concatenate([[0.0], known])[n_below]


def _match_prior(kind, scores):
    """Predict as many samples as are positive, or as nearly as ties allow."""
    known = np.sort(scores[kind < 2])
    first = np.flatnonzero(np.diff(known, prepend=-1.0))
    away = np.abs(len(known) - first - np.count_nonzero(kind == 1))
    if np.count_nonzero(kind == 1) < away.min() and known[-1] < 1:
        return cut_above(known[-1])
    best = first[away == away.min()]
    return choose_nearest(split_scores(np.concatenate([[0.0], known])[best], known[best]))


def _list_micro_cuts(kind, scores):
    """Yield cuts by the micro-F1 of all classes, the others as a coordinate ascent leaves them."""
    present = kind == 1
    n_positive = present.sum(axis=1)
    decided = _start_ascent(kind, scores)
    hits, predicted = (decided & present).sum(axis=1), decided.sum(axis=1)

    def create_cut(place):
        others = np.arange(len(kind)) != place
        measure = functools.partial(
            measure_fbeta,
            other_hits=hits[others].sum(),
            others=(n_positive + predicted)[others].sum(),
        )
        return Cut(functools.partial(sweep_cuts, measure=measure, may_be_none=True), (kind[place], scores[place]))

    def measure_all():
        return 2 * hits.sum() / (n_positive.sum() + predicted.sum())

    def decide(place):
        chosen = _apply(create_cut(place))
        hits[place], predicted[place] = (chosen & present[place]).sum(), chosen.sum()

    _ascend(np.flatnonzero(n_positive), decide, measure_all)
    yield from map(create_cut, range(len(kind)))


def _list_samples_cuts(kind, scores):
    """Yield cuts by the mean F1 of the samples, the other classes as a coordinate ascent leaves them."""
    present, known = kind == 1, kind < 2
    decided = _start_ascent(kind, scores)
    n_present, hits, predicted = present.sum(axis=0), (decided & present).sum(axis=0), decided.sum(axis=0)

    def create_cut(place):
        others_hit, others = hits - (decided & present)[place], n_present + predicted - decided[place]
        without = 2 * others_hit / np.maximum(others, 1)
        gains = 2 * (others_hit + present[place]) / (others + 1) - without
        return Cut(_sweep_known_gains, (kind[place], scores[place], gains))

    def measure_all():
        return np.sum(2 * hits / np.maximum(n_present + predicted, 1))

    def decide(place):
        chosen = _apply(create_cut(place))
        hits[:] += (chosen & present[place]).astype(int) - (decided & present)[place]
        predicted[:] += chosen.astype(int) - decided[place]
        decided[place] = chosen

    _ascend(np.flatnonzero(known.any(axis=1)), decide, measure_all)
    yield from map(create_cut, range(len(kind)))


def _sweep_known_gains(kind, scores, gains):
    return sweep_gains(scores[kind < 2], gains[kind < 2])


def _start_ascent(kind, scores):
    """Return what is decided at the one best threshold for all classes."""
    return (scores >= sweep_cuts(kind.ravel(), scores.ravel(), measure_fbeta)) & (kind < 2)


def _apply(cut):
    kind, scores = cut.columns[:2]
    return (scores >= cut.sweep(*cut.columns)) & (kind < 2)


def _ascend(places, decide, measure_all):
    """Decide class by class anew, until a pass over all gains nothing."""
    worth = measure_all()
    for _ in range(_MAX_PASSES):
        for place in places:
            decide(place)
        before, worth = worth, measure_all()
        if worth <= before + 1e-12:
            break
