"""How good a model is on one data set: a table by class, averages, and a text to read."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.checks import check_indicator
from multilabelkit.metrics import (
    average_precision,
    binary_accuracy,
    binary_cross_entropy,
    f1_score,
    hamming_loss,
    mean_average_precision,
    precision_score,
    recall_score,
    subset_accuracy,
)
from multilabelkit.thresholds import fix_thresholds, join_first, list_names

__all__ = ["MultiLabelReport", "multilabel_report"]

WIDTH = 100  # columns of the text
_NAME_WIDTH = 36  # longest class name in the text


@dataclass(frozen=True, eq=False)
class MultiLabelReport:
    """The result of `multilabel_report`; print it, or take it as a dict or a DataFrame.

    Attributes
    ----------
    table : DataFrame of shape (n_classes, 5) or (n_classes, 6)
        Indexed by class: `support` (known positives), `threshold` (if given), `precision`, `recall`, `f1` and
        `average_precision` (NaN for a class without a known positive).
    averages : dict of str to int or float
        `macro_f1`, `micro_f1`, `samples_f1`, `mAP`, `subset_accuracy`, `binary_accuracy`, `hamming_loss`, `bce`
        (binary cross-entropy), `n_samples`, `n_classes_without_positives` and `n_unknown` (labels left out).
    """

    table: pd.DataFrame
    averages: dict[str, Any]

    @property
    def text(self) -> str:
        """The report to read in a terminal: headline, table by class, averages, notes."""
        parts = [_write_headline(self.averages), write_table(self.table), _write_averages(self.averages, self.table)]
        return "\n\n".join(filter(None, [*parts, _write_notes(self.averages, self.table)]))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<MultiLabelReport of {len(self.table)} classes: {_write_headline(self.averages)}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the table by class, one row per class.

        Returns
        -------
        table : DataFrame of shape (n_classes, 5) or (n_classes, 6)
            A copy, which may be changed.
        """
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and None (for NaN), ready for JSON.

        Returns
        -------
        report : dict
            `averages` is a dict by name; `classes` a list with one dict per class, its name under `class`.
        """
        rows = self.table.reset_index().to_dict(orient="records")
        return {"averages": to_plain(self.averages), "classes": [to_plain(row) for row in rows]}


def multilabel_report(
    y_true: Any, y_pred: Any, proba: Any, *, classes: Sequence[Any] | np.ndarray, thresholds: Any = None
) -> MultiLabelReport:
    """Measure decisions and probabilities by class and on average.

    Unknown labels are left out of every number. A class without a known positive is left out of the mAP and counts as
    0 in the macro-F1 (not at all if nothing is known of it).

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

    Returns
    -------
    report : MultiLabelReport
        Print it, or call `to_dict` or `to_frame`.

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
    samples-F1 0.889 · subset accuracy 0.667 · binary accuracy 0.833 · Hamming loss 0.167 · BCE 0.437
    3 samples, 2 classes
    """
    known = check_indicator(y_true)
    names = list_names(classes, n_classes=known.shape[1])
    columns = {
        "support": np.count_nonzero(known == 1, axis=0),
        "threshold": None if thresholds is None else fix_thresholds(thresholds, classes=names),
        "precision": precision_score(known, y_pred, average=None),
        "recall": recall_score(known, y_pred, average=None),
        "f1": f1_score(known, y_pred, average=None),
        "average_precision": average_precision(known, proba),
    }
    columns = {name: column for name, column in columns.items() if column is not None}
    averages = {
        "macro_f1": f1_score(known, y_pred),
        "micro_f1": f1_score(known, y_pred, average="micro"),
        "samples_f1": f1_score(known, y_pred, average="samples"),
        "mAP": mean_average_precision(known, proba),
        "subset_accuracy": subset_accuracy(known, y_pred),
        "binary_accuracy": binary_accuracy(known, y_pred),
        "hamming_loss": hamming_loss(known, y_pred),
        "bce": binary_cross_entropy(known, proba),
        "n_samples": len(known),
        "n_classes_without_positives": int(np.count_nonzero(columns["support"] == 0)),
        "n_unknown": int(np.count_nonzero(np.isnan(known))),
    }
    return MultiLabelReport(pd.DataFrame(columns, index=pd.Index(names, name="class")), averages)


def _write_headline(averages: dict[str, Any]) -> str:
    names = {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "mAP": "mAP"}
    return " · ".join(f"{label} {show_number(averages[name])}" for name, label in names.items())


def _write_averages(averages: dict[str, Any], table: pd.DataFrame) -> str:
    names = {
        "samples_f1": "samples-F1",
        "subset_accuracy": "subset accuracy",
        "binary_accuracy": "binary accuracy",
        "hamming_loss": "Hamming loss",
        "bce": "BCE",
    }
    numbers = " · ".join(f"{label} {show_number(averages[name])}" for name, label in names.items())
    return f"{numbers}\n{averages['n_samples']} samples, {len(table)} classes"


def write_table(table: pd.DataFrame) -> str:
    """Align names to the left and numbers to the right, under their titles."""
    titles = ["class", *(title.replace("average_precision", "AP") for title in table.columns)]
    columns = [
        [shorten_name(name) for name in table.index],
        *([show_number(value) for value in table[title].tolist()] for title in table.columns),
    ]
    widths = [max(map(len, [title, *column])) for title, column in zip(titles, columns, strict=True)]
    rows = [titles, *zip(*columns, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def _write_notes(averages: dict[str, Any], table: pd.DataFrame) -> str:
    """Say what the numbers leave out; nothing if they leave out nothing."""
    notes = []
    if averages["n_unknown"]:
        n_cells = averages["n_samples"] * len(table)
        notes.append(f"Note: unknown labels are left out of every number ({averages['n_unknown']} of {n_cells}).")
    empty = [repr(name) for name in table.index[table["support"] == 0]]
    if empty:
        notes.append(
            f"Note: no known positive in {len(empty)} of {len(table)} classes, which are left out of the mAP and count "
            f"as 0 in the macro-F1 (not at all if nothing is known of them): {join_first(empty)}."
        )
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes)


def shorten_name(name: Any) -> str:
    """Return a class name in one line, cut where it is long."""
    text = " ".join(str(name).split())
    return text if len(text) <= _NAME_WIDTH else f"{text[: _NAME_WIDTH - 1]}…"


def show_number(value: float) -> str:
    """Return a count as it is, a score with three digits, NaN as a dash."""
    if isinstance(value, int):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def to_plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON has not, by None."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
