"""What thresholds rest on, how sure they are, and what to expect of them on new samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.calibration import Calibrator
from multilabelkit.checks import Check, check_indicator, check_parameters, check_scores
from multilabelkit.class_names import list_names
from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.fixed_thresholds import fix_thresholds
from multilabelkit.metrics import f1_score
from multilabelkit.stratification import split_rows
from multilabelkit.threshold_prior import to_logit, to_proba
from multilabelkit.threshold_tuning import check_threshold_params, tune_thresholds

_KEYWORDS = Check(lambda value: isinstance(value, Mapping), "None or a dict of keywords of tune_thresholds")
_N_FOLDS = 5
_N_RESAMPLES = 20
_Z = 1.645  # of a normal distribution, 90 % lie within so many standard deviations
_TRUST = 20  # positives of a class from which on its own labels tell more of its F1 than the calibrated scores
_N_NODES = 15  # of the quadrature that smooths scores
_MAX_SAMPLES = 5000  # up to which scores are smoothed


def threshold_report(
    y_true: Any,
    proba: Any,
    thresholds: Any,
    *,
    classes: Sequence[Any] | np.ndarray,
    tuned_by: Mapping[str, Any] | None = None,
) -> pd.DataFrame:
    """Show what each threshold rests on, and what it gains.

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
    tuned_by : dict, default=None
        The keywords of `tune_thresholds`, if these very samples tuned the thresholds; ``{}`` for its defaults. The
        report then also tells how sure the thresholds are and what to expect of them on new samples.

    Returns
    -------
    report : DataFrame of shape (n_classes, 5) or (n_classes, 9)
        Indexed by class: `threshold`, `n_known` and `n_positive` (samples), `f1_at_half` (F1 at 0.5) and `f1` (at the
        threshold). On the data that tuned the thresholds `f1` is optimistic: it had the choice. With `tuned_by` also
        `low` and `high`, a 90 % interval of the threshold from resamples, `expected_f1` on new samples, and
        `expected_gain` over 0.5.

    Raises
    ------
    InputError
        If the shapes do not fit or a number leaves its range.

    Notes
    -----
    `expected_f1` is a mean of two estimates, weighted by the known positives of the class and by 20. One is
    cross-fitted: each fifth of the samples is decided by thresholds tuned on the others. Of few positives it knows
    little and falls short, so that the other takes no label of the class one by one: Platt's calibration gives the
    probabilities, and Scott's rule smooths the scores. Of more than 5000 samples the first alone is taken. The F1 at
    0.5 is estimated alike. A class without a known positive has NaN, as has the interval of a threshold of 0 or 1.

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
    if tuned_by is not None:
        check_parameters("threshold_report", {"tuned_by": tuned_by}, {"tuned_by": [_KEYWORDS]})
        params = {name: value for name, value in tuned_by.items() if name not in ("objective", "classes")}
        check_threshold_params("threshold_report", tuned_by.get("objective", "f1"), params)
    if tuned_by is not None and not len(y_true):
        raise InputError("y_true and proba have no rows, so that nothing can be foreseen of these thresholds.")
    columns = {
        "threshold": limits,
        "n_known": np.count_nonzero(~np.isnan(y_true), axis=0),
        "n_positive": np.count_nonzero(y_true == 1, axis=0),
        "f1_at_half": f1_score(y_true, proba >= 0.5, average=None),
        "f1": f1_score(y_true, proba >= limits, average=None),
    }
    if tuned_by is not None:
        columns |= _foresee(y_true, proba, limits, {**tuned_by, "classes": None})
    return pd.DataFrame(columns, index=pd.Index(names, name="class"))


def _foresee(y_true, proba, thresholds, tuned_by):
    """Return the columns that tell of new samples."""
    with warnings.catch_warnings():  # whoever tuned the thresholds was warned
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        low, high = _estimate_interval(y_true, proba, thresholds, tuned_by)
        crossed = _decide_crosswise(y_true, proba, tuned_by)
    weight = np.count_nonzero(y_true == 1, axis=0)
    decisions = crossed, proba >= 0.5
    labelled = np.nan_to_num([f1_score(y_true, decided, average=None) for decided in decisions])
    expected = labelled
    if len(y_true) <= _MAX_SAMPLES:  # of more, labels tell enough
        modelled = _expect_f1(y_true, proba, [thresholds, np.full(len(thresholds), 0.5)])
        expected = (weight * labelled + _TRUST * modelled) / (weight + _TRUST)
    expected, at_half = np.where(weight > 0, expected, np.nan)
    return {"low": low, "high": high, "expected_f1": expected, "expected_gain": expected - at_half}


def _estimate_interval(y_true, proba, thresholds, tuned_by):
    """Return the ends of an interval around each threshold, as wide as sweeps of resampled rows differ."""
    exact = tuned_by | {"n_bootstraps": 0, "shrink": 0}
    random = np.random.default_rng(0)
    rows = np.lexsort((*y_true.T, *proba.T))  # so that the order of the samples does not matter
    swept = np.full((_N_RESAMPLES, len(thresholds)), np.nan)
    for place in range(_N_RESAMPLES):
        drawn = rows[random.integers(len(rows), size=len(rows))]
        present = (y_true[drawn] == 1).any(axis=0)
        if present.any():
            swept[place, present] = to_logit(tune_thresholds(y_true[drawn], proba[drawn], **exact))[present]
    n_positive = np.count_nonzero(y_true == 1, axis=0)
    width = np.full(len(thresholds), np.nan)
    told = np.count_nonzero(~np.isnan(swept), axis=0) > 1
    told &= (thresholds > 0) & (thresholds < 1)  # at the ends there is no logit, and what is not attainable
    # Resamples cannot show how little one or two positives tell.
    width[told] = _Z * np.sqrt(np.nanvar(swept[:, told], axis=0, ddof=1) + 1 / n_positive[told])
    return to_proba(to_logit(thresholds) - width), to_proba(to_logit(thresholds) + width)


def _decide_crosswise(y_true, proba, tuned_by):
    """Return decisions of each part of the samples by thresholds that the others tuned."""
    n_samples = len(y_true)
    n_folds = min(_N_FOLDS, n_samples)
    sizes = np.full(n_folds, n_samples // n_folds)
    sizes[: n_samples % n_folds] += 1
    part = split_rows(y_true, sizes=sizes, random_state=0)
    decided = np.zeros(proba.shape, dtype=bool)
    for fold in range(n_folds):
        held_out = part == fold
        others = ~held_out if n_folds > 1 else held_out
        decided[held_out] = proba[held_out] >= tune_thresholds(y_true[others], proba[others], **tuned_by)
    return decided


def _expect_f1(y_true, proba, limits):
    """Return the F1 that calibrated, smoothed scores lead to expect at each of several vectors of thresholds."""
    logits, known = to_logit(proba), ~np.isnan(y_true)
    calibrator = Calibrator(method="platt").fit(y_true, logits)
    spread = np.array([column[rows].std() if rows.any() else 0 for column, rows in zip(logits.T, known.T, strict=True)])
    bandwidth = 1.06 * np.maximum(known.sum(axis=0), 1) ** -0.2 * spread
    hits, predicted, present = np.zeros((3, len(limits), y_true.shape[1]))
    nodes, weights = np.polynomial.hermite_e.hermegauss(_N_NODES)
    for node, weight in zip(nodes, weights, strict=True):
        moved = logits + bandwidth * node
        likely = weight * known * calibrator.predict_proba(moved)
        above = [moved >= to_logit(thresholds) for thresholds in limits]
        hits += [(likely * decided).sum(axis=0) for decided in above]
        predicted += [weight * (known & decided).sum(axis=0) for decided in above]
        present += likely.sum(axis=0)
    return 2 * hits / np.maximum(present + predicted, np.finfo(float).tiny)
