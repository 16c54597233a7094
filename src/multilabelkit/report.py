"""How good a model is on one data set, and whether another is better: tables by class, averages, texts to read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from multilabelkit.bootstrap import find_interval, resample_headline
from multilabelkit.checks import RANDOM_STATE, Interval, check_indicator, check_parameters, shorten
from multilabelkit.class_names import list_names
from multilabelkit.errors import InputError
from multilabelkit.multilabel_confusion import multilabel_confusion_matrix, predicted_instead_matrix
from multilabelkit.report_comparison import ReportComparison, check_same_labels, compare_scores
from multilabelkit.report_measures import measure_report
from multilabelkit.report_text import (
    HEADLINE,
    NAME_WIDTH,
    list_gaps,
    show_interval,
    to_plain,
    write_averages,
    write_headline,
    write_notes,
    write_table,
)
from multilabelkit.thresholds import fix_thresholds

__all__ = ["MultiLabelReport", "ReportComparison", "compare", "multilabel_report"]

_CONSTRAINTS: dict[str, Any] = {
    "zero_division": [Interval(float, 0, 1)],
    "n_bootstraps": [Interval(int, 0)],
    "random_state": RANDOM_STATE,
}
_NARROW = 33  # longest class name in a text with intervals, which are to fit as well
_NOT_SHOWN = ["f1_low", "f1_high", "brier_score", "ece"]  # columns of the table that the text leaves out


@dataclass(frozen=True, eq=False)
class MultiLabelReport:
    """The result of `multilabel_report`; print it, or take it as a dict, a DataFrame or JSON.

    Attributes
    ----------
    table : DataFrame with a row for each class
        Indexed by class: `support` (known positives), `threshold` (if given), `precision`, `recall`, `f1`, with
        resamples `f1_low` and `f1_high`, then `average_precision` (NaN for a class without a known positive),
        `brier_score` and `ece`.
    averages : dict of str to int or float
        Headline: `macro_f1`, `micro_f1`, `mAP`. Decisions: `samples_f1`, `weighted_f1`, `cp`, `cr`, `cf1`, `op`, `or`,
        `of1`, `subset_accuracy`, `binary_accuracy`, `hamming_loss`. Scores: `lrap` (label ranking average precision),
        `ranking_loss`, `coverage_error`, `bce` (binary cross-entropy), `brier_score` and `ece` (expected calibration
        error; both are means over classes). Counts: `n_samples`, `n_classes_without_positives`, which the mAP skips,
        and `n_unknown` (labels left out).
    intervals : dict of str to (float, float)
        The ends of the 95 % interval of `macro_f1`, `micro_f1` and `mAP`; empty without resamples.
    zero_division : float
        What counted where a number was 0 / 0.
    n_bootstraps : int
        Resamples behind the intervals.
    y_true, y_pred, proba : ndarray of shape (n_samples, n_classes) or None
        Copies of what was measured (float32, bool and as given), for `compare`, `confusion` and pictures. They are not
        in the text, the dict or the JSON.
    """

    table: pd.DataFrame
    averages: dict[str, Any]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    zero_division: float = 0.0
    n_bootstraps: int = 0
    y_true: np.ndarray | None = None
    y_pred: np.ndarray | None = None
    proba: np.ndarray | None = None

    @property
    def text(self) -> str:
        """The report to read in a terminal: headline, table by class, averages, notes."""
        parts = [
            write_headline(self.averages, self.intervals),
            write_table(_arrange_table(self.table), name_width=_NARROW if self.intervals else NAME_WIDTH),
            write_averages(self.averages, n_classes=len(self.table)),
            write_notes(self._list_notes()),
        ]
        return "\n\n".join(filter(None, parts))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<MultiLabelReport of {len(self.table)} classes: {write_headline(self.averages, {})}>"

    @property
    def confusion(self) -> pd.DataFrame:
        """How many samples of each class are `tn`, `fp`, `fn` and `tp`, a row per class; unknown labels left out."""
        matrices = multilabel_confusion_matrix(self.y_true, self.y_pred)
        return pd.DataFrame(matrices.reshape(-1, 4), index=self.table.index, columns=["tn", "fp", "fn", "tp"])

    def predicted_instead(self, *, normalize: bool = False) -> pd.DataFrame:
        """Return what is predicted by mistake where a class is missed.

        Parameters
        ----------
        normalize : bool, default=False
            Give shares of the samples in which the class is missed, in place of numbers of samples.

        Returns
        -------
        matrix : DataFrame of shape (n_classes, n_classes)
            Row: class that is present and missed. Column: class that is absent and predicted. `plot_confusion` draws
            it; see `metrics.predicted_instead_matrix`.
        """
        matrix = predicted_instead_matrix(self.y_true, self.y_pred, normalize=normalize)
        names = self.table.index
        return pd.DataFrame(matrix, index=names.rename("missed"), columns=names.rename("predicted"))

    def to_frame(self) -> pd.DataFrame:
        """Return the table by class, one row per class.

        Returns
        -------
        table : DataFrame with a row for each class
            A copy, which may be changed.
        """
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and None (for NaN), ready for JSON.

        Returns
        -------
        report : dict
            `averages` is a dict by name, as is `intervals`, with two numbers each; `classes` a list with one dict per
            class, its name under `class`, its `tn`, `fp`, `fn` and `tp` last.
        """
        table = self.table if self.y_true is None else self.table.assign(**self.confusion)
        intervals = {name: list(to_plain(dict(enumerate(ends))).values()) for name, ends in self.intervals.items()}
        return {
            "averages": to_plain(self.averages),
            **({"intervals": intervals, "n_bootstraps": self.n_bootstraps} if intervals else {}),
            "classes": [to_plain(row) for row in table.reset_index().to_dict(orient="records")],
        }

    def to_json(self, path: str | os.PathLike | None = None) -> str | None:
        """Return `to_dict` as JSON text, with null for NaN, or write it to a file.

        Parameters
        ----------
        path : path, default=None
            Where to write it (UTF-8, replaced if there). None returns the text.

        Returns
        -------
        text : str or None
            None if `path` is given.

        Raises
        ------
        InputError
            If the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        if path is None:
            return text
        try:
            Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"The report cannot be written to '{path}': {error.strerror or error}.") from error
        return None

    def _list_notes(self) -> list[str]:
        notes = list_gaps(self.averages, self.table, zero_division=self.zero_division)
        if self.intervals:
            notes.append(f"Note: intervals hold the middle 95 % of {self.n_bootstraps} resamples of the samples.")
        return notes


def multilabel_report(
    y_true: Any,
    y_pred: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | np.ndarray,
    thresholds: Any = None,
    zero_division: float = 0.0,
    n_bootstraps: int = 0,
    random_state: int | np.random.RandomState | None = 0,
) -> MultiLabelReport:
    """Measure decisions and probabilities by class and on average.

    Unknown labels are left out of every number. A class without a known positive is left out of the mAP and counts in
    the macro-F1 as 0, or as `zero_division` if it is never predicted (not at all if nothing is known of it).

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out).
    y_pred : array-like of shape (n_samples, n_classes)
        Decisions, 0 or 1.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1].
    classes : sequence of shape (n_classes,)
        The names of the classes, in column order.
    thresholds : float, array-like of shape (n_classes,), dict or Series by class, default=None
        The thresholds behind `y_pred`, only to be shown.
    zero_division : float, default=0.0
        In [0, 1]: what counts in precision, recall and F1 where a number is 0 / 0, as in `metrics.f1_score`. With 1.0
        a sample without labels that gets none is right in the samples-F1.
    n_bootstraps : int, default=0
        Resamples for the 95 % intervals of macro-F1, micro-F1, mAP and the F1 of each class; 1000 are enough. 0 does
        without. For other numbers see `metrics.bootstrap_interval`.
    random_state : int, RandomState instance or None, default=0
        Seed of the resamples.

    Returns
    -------
    report : MultiLabelReport
        Print it, or call `to_dict`, `to_frame` or `to_json`; `compare` takes two.

    Raises
    ------
    InputError
        If the shapes do not fit or a number leaves its range.

    Examples
    --------
    >>> y_true = [[1, 0], [0, 1], [1, 1]]
    >>> proba = [[0.9, 0.2], [0.4, 0.7], [0.8, 0.3]]
    >>> y_pred = [[1, 0], [0, 1], [1, 0]]
    >>> print(multilabel_report(y_true, y_pred, proba, classes=["sea", "sunset"], thresholds=0.5))
    macro-F1 0.833 · micro-F1 0.857 · mAP 1.000
    <BLANKLINE>
    class   support  threshold  precision  recall     f1     AP
    sea           2      0.500      1.000   1.000  1.000  1.000
    sunset        2      0.500      1.000   0.500  0.667  1.000
    <BLANKLINE>
    samples-F1 0.889 · weighted-F1 0.833 · subset accuracy 0.667 · binary accuracy 0.833
    CP 1.000 · CR 0.750 · CF1 0.857 · OP 1.000 · OR 0.750 · OF1 0.857 · Hamming loss 0.167
    LRAP 1.000 · ranking loss 0.000 · coverage error 1.333 · BCE 0.437 · Brier 0.138 · ECE 0.317
    3 samples, 2 classes
    """
    given: dict[str, Any] = {
        "zero_division": zero_division,
        "n_bootstraps": n_bootstraps,
        "random_state": random_state,
    }
    check_parameters("multilabel_report", given, _CONSTRAINTS)
    known = check_indicator(y_true)
    names = list_names(classes, n_classes=known.shape[1])
    columns, averages = measure_report(known, y_pred, proba, zero_division=zero_division)
    table = pd.DataFrame(columns, index=pd.Index(names, name="class"))
    if thresholds is not None:
        table.insert(1, "threshold", fix_thresholds(thresholds, classes=names))
    intervals = {}
    if n_bootstraps:
        headline, by_class = map(find_interval, resample_headline(known, y_pred, proba, **given))
        intervals = dict(zip(HEADLINE, zip(*map(np.ndarray.tolist, headline), strict=True), strict=True))
        after_f1 = table.columns.tolist().index("f1") + 1
        table.insert(after_f1, "f1_low", by_class.low)
        table.insert(after_f1 + 1, "f1_high", by_class.high)
    return MultiLabelReport(
        table=table,
        averages=averages,
        intervals=intervals,
        zero_division=float(zero_division),
        n_bootstraps=int(n_bootstraps),
        y_true=known.astype(np.float32),
        y_pred=np.asarray(y_pred) == 1,
        proba=np.array(proba),
    )


def compare(
    report_a: MultiLabelReport,
    report_b: MultiLabelReport,
    *,
    n_bootstraps: int = 1000,
    random_state: int | np.random.RandomState | None = 0,
) -> ReportComparison:
    """Tell whether the second of two classifiers is better than the first on the samples both were measured on.

    The samples are drawn again with replacement, the same for both, and the differences of macro-F1, micro-F1, mAP and
    the F1 of each class are taken anew (a paired bootstrap). As both err on the same difficult samples, a difference is
    far surer than two separate intervals make it seem.

    Parameters
    ----------
    report_a, report_b : MultiLabelReport
        Of the same samples and classes in the same order, with the same labels, and with the same `zero_division`.
    n_bootstraps : int, default=1000
        Resamples.
    random_state : int, RandomState instance or None, default=0
        Seed of the resamples.

    Returns
    -------
    comparison : ReportComparison
        Print it, or call `to_dict` or `to_frame`. Differences are b - a.

    Raises
    ------
    InputError
        If the reports are of other samples, classes or labels, and so cannot be compared.

    Examples
    --------
    >>> y_true = np.array([[1, 0], [0, 1], [1, 1], [0, 0]] * 25)
    >>> proba = np.array([[0.9, 0.2], [0.6, 0.7], [0.8, 0.3], [0.1, 0.4]] * 25)
    >>> at_half, tuned = (
    ...     multilabel_report(y_true, proba >= thresholds, proba, classes=["sea", "sunset"], thresholds=thresholds)
    ...     for thresholds in ([0.5, 0.5], [0.7, 0.25])
    ... )
    >>> print(compare(at_half, tuned))
                  a      b   b - a   95 % interval
    macro-F1  0.733  0.900  +0.167  +0.106, +0.218
    micro-F1  0.750  0.889  +0.139  +0.072, +0.188
    mAP       0.917  0.917  +0.000  +0.000, +0.000
    <BLANKLINE>
    F1 of class      a      b   b - a   95 % interval
    sea          0.800  1.000  +0.200  +0.129, +0.277
    sunset       0.667  0.800  +0.133  -0.009, +0.281
    <BLANKLINE>
    Differences are b - a on the same 100 samples, with the 95 % interval of 1000 resamples, drawn alike
    for both. The interval leaves out 0 in 1 of 2 classes; if nothing differed but by chance, 0.1 would
    be expected.
    """
    given = {"n_bootstraps": n_bootstraps, "random_state": random_state}
    check_parameters("compare", given, {"n_bootstraps": [Interval(int, 1)], "random_state": RANDOM_STATE})
    _check_comparable(report_a, report_b)
    reports, seed = (report_a, report_b), check_random_state(random_state).randint(2**31 - 1)  # both draw alike
    headlines, by_class = zip(*(_resample(report, n_bootstraps, seed) for report in reports), strict=True)
    averages = [np.array([report.averages[name] for name in HEADLINE]) for report in reports]
    return ReportComparison(
        averages=compare_scores(averages, headlines, list(HEADLINE)),
        table=compare_scores([report.table["f1"].to_numpy() for report in reports], by_class, report_a.table.index),
        n_samples=report_a.averages["n_samples"],
        n_bootstraps=int(n_bootstraps),
    )


def _check_comparable(report_a: Any, report_b: Any) -> None:
    for name, report in (("report_a", report_a), ("report_b", report_b)):
        if not isinstance(report, MultiLabelReport) or report.y_true is None:
            raise InputError(
                f"compare takes two reports, as multilabel_report or evaluate returned them. {name} is "
                f"{shorten(report)}."
            )
    check_same_labels(
        [report.y_true for report in (report_a, report_b)],
        classes=[report.table.index.tolist() for report in (report_a, report_b)],
    )
    if report_a.zero_division != report_b.zero_division:
        raise InputError(
            f"The reports count 0 / 0 as {report_a.zero_division:g} (report_a) and {report_b.zero_division:g} "
            "(report_b). Measure both with the same zero_division."
        )


def _resample(report: MultiLabelReport, n_bootstraps: int, random_state: Any) -> tuple[np.ndarray, np.ndarray]:
    return resample_headline(
        report.y_true,
        report.y_pred,
        report.proba,
        zero_division=report.zero_division,
        n_bootstraps=n_bootstraps,
        random_state=random_state,
    )


def _arrange_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the text shows: not all columns, and intervals as one."""
    shown = table.drop(columns=_NOT_SHOWN, errors="ignore")
    if "f1_low" in table:
        ends = zip(table["f1_low"], table["f1_high"], strict=True)
        shown.insert(shown.columns.tolist().index("f1") + 1, "f1 interval", [show_interval(*pair) for pair in ends])
    return shown
