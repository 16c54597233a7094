"""How good a model is where classes exclude each other: a table by class, averages, and who is taken for whom."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from multilabelkit import metrics
from multilabelkit.checks import check_scores
from multilabelkit.class_names import join_first
from multilabelkit.data.exclusive_labels import encode_classes
from multilabelkit.errors import InputError
from multilabelkit.report_text import WIDTH, shorten_name, show_number, to_plain, write_table

__all__ = ["ClassReport", "class_report"]

_TOLERANCE = 1e-3  # by which a row of probabilities may miss 1, after rounding in half precision


@dataclass(frozen=True, eq=False)
class ClassReport:
    """The result of `class_report`; print it, or take it as a dict or a DataFrame.

    Attributes
    ----------
    table : DataFrame of shape (n_classes, 4)
        Indexed by class: `support` (images of the class), `precision`, `recall` and `f1`.
    averages : dict of str to int or float
        `accuracy`, `balanced_accuracy` (mean recall of the classes that have images), `macro_f1`, `log_loss`, with more
        than two classes `top_2_accuracy`, then `n_samples`, `n_classes_without_images` and `n_unknown` (images left
        out).
    confusion : DataFrame of shape (n_classes, n_classes)
        Numbers of images: rows are true classes, columns predicted ones.
    """

    table: pd.DataFrame
    averages: dict[str, Any]
    confusion: pd.DataFrame

    @property
    def text(self) -> str:
        """The report to read in a terminal: headline, table by class, averages, confusions, notes."""
        parts = [
            _write_headline(self.averages),
            write_table(self.table),
            _write_averages(self.averages, self.table),
            _write_confusion(self.confusion),
            _write_notes(self.averages, self.table),
        ]
        return "\n\n".join(filter(None, parts))

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"<ClassReport of {len(self.table)} classes: {_write_headline(self.averages)}>"

    def to_frame(self) -> pd.DataFrame:
        """Return the table by class, one row per class.

        Returns
        -------
        table : DataFrame of shape (n_classes, 4)
            A copy, which may be changed.
        """
        return self.table.copy()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain numbers, strings and None (for NaN), ready for JSON.

        Returns
        -------
        report : dict
            `averages` is a dict by name; `classes` a list with one dict per class, its name under `class`; `confusion`
            a list of rows in the order of `classes`.
        """
        rows = self.table.reset_index().to_dict(orient="records")
        return {
            "averages": to_plain(self.averages),
            "classes": [to_plain(row) for row in rows],
            "confusion": self.confusion.to_numpy().tolist(),
        }


def class_report(y_true: Any, y_pred: Any, proba: Any, *, classes: Sequence[Any] | np.ndarray) -> ClassReport:
    """Measure predicted classes and probabilities by class and on average.

    Images of unknown class are left out of every number. A class without an image counts as 0 in the macro-F1.

    Parameters
    ----------
    y_true : sequence of shape (n_samples,)
        The name of each image's class; None or NaN where it is unknown.
    y_pred : sequence of shape (n_samples,)
        The predicted names.
    proba : array-like of shape (n_samples, n_classes)
        Probabilities, which sum to 1 in each row.
    classes : sequence of shape (n_classes,)
        The names of the classes, in column order.

    Returns
    -------
    report : ClassReport
        Print it, or call `to_dict` or `to_frame`.

    Raises
    ------
    InputError
        If the shapes do not fit, a name is not among the classes, or a row of `proba` does not sum to 1.

    Examples
    --------
    >>> y_true = ["sea", "sky", "sea", "trees"]
    >>> proba = [[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.3, 0.5, 0.2], [0.1, 0.1, 0.8]]
    >>> y_pred = ["sea", "sky", "sky", "trees"]
    >>> print(class_report(y_true, y_pred, proba, classes=["sea", "sky", "trees"]))
    accuracy 0.750 · macro-F1 0.778
    <BLANKLINE>
    class  support  precision  recall     f1
    sea          2      1.000   0.500  0.667
    sky          1      0.500   1.000  0.667
    trees        1      1.000   1.000  1.000
    <BLANKLINE>
    balanced accuracy 0.833 · top-2 accuracy 1.000 · log loss 0.574
    4 samples, 3 classes
    <BLANKLINE>
    Confusion: rows are true classes, columns predicted ones.
    class  sea  sky  trees
    sea      1    1      0
    sky      0    1      0
    trees    0    0      1
    """
    truth, encoder = encode_classes(y_true, classes=classes, name="y_true")
    guess, _ = encode_classes(y_pred, classes=classes, name="y_pred")
    _check_complete(truth, guess)
    known = ~np.isnan(truth).any(axis=1)
    scores = _check_proba(truth, proba)[known]
    labels, decided = truth[known].astype(np.int64), guess[known].astype(np.int64)  # (n_known, C) of 0 and 1
    names = encoder.classes_.tolist()
    support = labels.sum(axis=0)
    columns = {
        "support": support,
        "precision": metrics.precision_score(labels, decided, average=None),
        "recall": metrics.recall_score(labels, decided, average=None),
        "f1": metrics.f1_score(labels, decided, average=None),
    }
    averages = {
        "accuracy": metrics.subset_accuracy(labels, decided),
        "balanced_accuracy": float(columns["recall"][support > 0].mean()),
        "macro_f1": metrics.f1_score(labels, decided),
        "log_loss": _measure_log_loss(labels, scores),
        **({"top_2_accuracy": _measure_top_2(labels, scores)} if len(names) > 2 else {}),
        "n_samples": len(truth),
        "n_classes_without_images": int(np.count_nonzero(support == 0)),
        "n_unknown": int(np.count_nonzero(~known)),
    }
    confusion = pd.DataFrame(
        labels.T @ decided, index=pd.Index(names, name="true"), columns=pd.Index(names, name="predicted")
    )
    return ClassReport(pd.DataFrame(columns, index=pd.Index(names, name="class")), averages, confusion)


def _check_complete(truth: np.ndarray, guess: np.ndarray) -> None:
    if len(truth) != len(guess):
        raise InputError(f"y_true and y_pred must have the same length. Got {len(truth)} and {len(guess)} names.")
    missing = np.flatnonzero(np.isnan(guess).any(axis=1))
    if len(missing):
        raise InputError(
            f"y_pred must name a class for every image. {len(missing)} of {len(guess)} have none, the first in row "
            f"{missing[0]}; leave these images out."
        )


def _check_proba(truth: np.ndarray, proba: Any) -> np.ndarray:
    """Return probabilities that sum to 1, at least the smallest step of their type, so that logarithms are finite."""
    scores = check_scores(truth, proba)
    sums = scores.sum(axis=1)
    wrong = np.flatnonzero(np.abs(sums - 1) > _TOLERANCE)
    if len(wrong):
        raise InputError(
            f"Each row of proba must sum to 1, as classes exclude each other. Row {wrong[0]} sums to "
            f"{sums[wrong[0]]:.4g}; for several labels an image there is multilabel_report."
        )
    kind = np.asarray(proba).dtype
    return np.maximum(scores, np.finfo(kind if kind.kind == "f" else np.float64).eps)


def _measure_log_loss(labels: np.ndarray, scores: np.ndarray) -> float:
    return float(-np.log(scores[labels == 1]).mean())


def _measure_top_2(labels: np.ndarray, scores: np.ndarray) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :2]
    return float(np.take_along_axis(labels, best, axis=1).any(axis=1).mean())


def _write_headline(averages: dict[str, Any]) -> str:
    return f"accuracy {show_number(averages['accuracy'])} · macro-F1 {show_number(averages['macro_f1'])}"


def _write_averages(averages: dict[str, Any], table: pd.DataFrame) -> str:
    names = {"balanced_accuracy": "balanced accuracy", "top_2_accuracy": "top-2 accuracy", "log_loss": "log loss"}
    numbers = " · ".join(f"{label} {show_number(averages[name])}" for name, label in names.items() if name in averages)
    return f"{numbers}\n{averages['n_samples']} samples, {len(table)} classes"


def _write_confusion(confusion: pd.DataFrame) -> str:
    """Write the matrix where it fits in the width of the text."""
    text = write_table(confusion.set_axis([shorten_name(name) for name in confusion.columns], axis=1))
    if len(text.partition("\n")[0]) > WIDTH:
        n_classes = len(confusion)
        return f"Confusion: {n_classes} classes are too many to print; see report.confusion, or plot_confusion(report)."
    return f"Confusion: rows are true classes, columns predicted ones.\n{text}"


def _write_notes(averages: dict[str, Any], table: pd.DataFrame) -> str:
    """Say what the numbers leave out; nothing if they leave out nothing."""
    notes = []
    if averages["n_unknown"]:
        n_samples = averages["n_samples"]
        notes.append(
            f"Note: images of unknown class are left out of every number ({averages['n_unknown']} of {n_samples})."
        )
    empty = [repr(name) for name in table.index[table["support"] == 0]]
    if empty:
        notes.append(
            f"Note: no image in {len(empty)} of {len(table)} classes, which count as 0 in the macro-F1 and are left "
            f"out of the balanced accuracy: {join_first(empty)}."
        )
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes)
