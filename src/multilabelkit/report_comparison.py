"""Whether one classifier is better than another on the same samples, number by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit.bootstrap import find_interval
from multilabelkit.checks import shorten
from multilabelkit.errors import InputError
from multilabelkit.report_text import HEADLINE, show_interval, to_plain, write_notes, write_table


@dataclass(frozen=True, eq=False)
class ReportComparison:
    """The result of `compare`; print it, or take it as a dict or a DataFrame.

    Attributes
    ----------
    averages : DataFrame of shape (3, 5)
        Rows `macro_f1`, `micro_f1` and `mAP`. Columns `a`, `b`, `difference` (b - a: above 0 where b is better), `low`
        and `high`, the ends of the 95 % interval of the difference.
    table : DataFrame of shape (n_classes, 5)
        The same of the F1 of each class.
    n_samples : int
        Samples on which both were measured.
    n_bootstraps : int
        Resamples behind the intervals.
    """

    averages: pd.DataFrame
    table: pd.DataFrame
    n_samples: int
    n_bootstraps: int

    @property
    def text(self) -> str:
        """The comparison to read in a terminal: headline numbers, F1 by class, how to read the intervals."""
        parts = [
            write_table(_arrange(self.averages.rename(HEADLINE)), title=""),
            write_table(_arrange(self.table), title="F1 of class"),
            write_notes([self._describe_intervals()]),
        ]
        return "\n\n".join(parts)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        differences = zip(HEADLINE.values(), self.averages["difference"], strict=True)
        parts = [f"{label} {value:+.3f}" for label, value in differences]
        return f"<ReportComparison of {len(self.table)} classes: {' · '.join(parts)}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the table by class, one row per class.

        Returns
        -------
        table : DataFrame of shape (n_classes, 5)
            A copy, which may be changed.
        """
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and None (for NaN), ready for JSON.

        Returns
        -------
        comparison : dict
            `averages` is a dict by name, `classes` a list with one dict per class, its name under `class`; then
            `n_samples` and `n_bootstraps`.
        """
        return {
            "averages": {name: to_plain(row) for name, row in self.averages.to_dict(orient="index").items()},
            "classes": [to_plain(row) for row in self.table.reset_index().to_dict(orient="records")],
            "n_samples": self.n_samples,
            "n_bootstraps": self.n_bootstraps,
        }

    def _describe_intervals(self) -> str:
        n_clear = int(((self.table["low"] > 0) | (self.table["high"] < 0)).sum())
        n_classes = int(self.table["low"].notna().sum())
        return (
            f"Differences are b - a on the same {self.n_samples} samples, with the 95 % interval of "
            f"{self.n_bootstraps} resamples, drawn alike for both. The interval leaves out 0 in {n_clear} of "
            f"{n_classes} classes; if nothing differed but by chance, {0.05 * n_classes:.2g} would be expected."
        )


def compare_scores(
    scores: Sequence[np.ndarray], resampled: Sequence[np.ndarray], names: pd.Index | list[str]
) -> pd.DataFrame:
    """Return the table of two times k scores (k,) and of their values in the same resamples (n_bootstraps, k)."""
    (a, b), (resampled_a, resampled_b) = scores, resampled
    low, high = find_interval(resampled_b - resampled_a)
    return pd.DataFrame({"a": a, "b": b, "difference": b - a, "low": low, "high": high}, index=names)


def check_same_labels(y_true: Sequence[np.ndarray], *, classes: Sequence[list[Any]]) -> None:
    """Refuse two reports that are not of the same classes, samples and labels."""
    (a, b), (classes_a, classes_b) = y_true, classes
    if classes_a != classes_b:
        raise InputError(
            f"The reports are of other classes: {shorten(classes_a)} in report_a, {shorten(classes_b)} in report_b. "
            "Measure both with the same classes in the same order."
        )
    if len(a) != len(b):
        found = f"{len(a)} in report_a, {len(b)} in report_b"
    else:
        differs = (a != b) & ~(np.isnan(a) & np.isnan(b))
        if not differs.any():
            return
        row, column = np.argwhere(differs)[0]
        n_differ = np.count_nonzero(differs)
        found = f"{n_differ} of {a.size} labels differ, the first in row {row}, class {classes_a[column]!r}"
    raise InputError(
        f"The reports are of other samples or labels: {found}. Measure both on the same samples in the same order."
    )


def _arrange(table: pd.DataFrame) -> pd.DataFrame:
    """Return what the text shows."""
    ends = zip(table["low"], table["high"], strict=True)
    signed = [f"{value:+.3f}" if pd.notna(value) else "-" for value in table["difference"]]
    shown = {"a": table["a"], "b": table["b"], "b - a": signed}
    return pd.DataFrame(shown | {"95 % interval": [show_interval(*pair, signed=True) for pair in ends]})
