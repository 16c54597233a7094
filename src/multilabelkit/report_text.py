"""How reports are written: tables that align, numbers with three digits, and what a number leaves out."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any

import pandas as pd

from multilabelkit.class_names import join_first

WIDTH = 100  # columns of the text
NAME_WIDTH = 36  # longest class name in the text
HEADLINE = {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "mAP": "mAP"}
_AVERAGES = (
    {"samples_f1": "samples-F1", "weighted_f1": "weighted-F1"}
    | {"subset_accuracy": "subset accuracy", "binary_accuracy": "binary accuracy"},
    {name: name.upper() for name in ("cp", "cr", "cf1", "op", "or", "of1")} | {"hamming_loss": "Hamming loss"},
    {"lrap": "LRAP", "ranking_loss": "ranking loss", "coverage_error": "coverage error"}
    | {"bce": "BCE", "brier_score": "Brier", "ece": "ECE"},
)


def write_headline(averages: Mapping[str, Any], intervals: Mapping[str, tuple[float, float]]) -> str:
    """Return the three numbers to look at first, with their intervals if there are any."""
    parts = []
    for name, label in HEADLINE.items():
        interval = f" [{show_interval(*intervals[name])}]" if name in intervals else ""
        parts.append(f"{label} {show_number(averages[name])}{interval}")
    return " · ".join(parts)


def write_averages(averages: Mapping[str, Any], *, n_classes: int) -> str:
    """Return the other numbers, two lines for decisions and one for scores."""
    lines = [" · ".join(f"{label} {show_number(averages[name])}" for name, label in line.items()) for line in _AVERAGES]
    return "\n".join([*lines, f"{averages['n_samples']} samples, {n_classes} classes"])


def write_table(table: pd.DataFrame, *, title: str = "class", name_width: int = NAME_WIDTH) -> str:
    """Align names to the left and numbers to the right, under their titles."""
    titles = [title, *(name.replace("average_precision", "AP") for name in table.columns)]
    columns = [
        [shorten_name(name, width=name_width) for name in table.index],
        *([show_number(value) for value in table[name].tolist()] for name in table.columns),
    ]
    widths = [max(map(len, [title, *column])) for title, column in zip(titles, columns, strict=True)]
    rows = [titles, *zip(*columns, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )


def write_notes(notes: list[str]) -> str:
    """Return each note from a line of its own on, within the width of the text."""
    return "\n".join(textwrap.fill(note, WIDTH) for note in notes)


def list_gaps(averages: Mapping[str, Any], table: pd.DataFrame, *, zero_division: float) -> list[str]:
    """Say what the numbers leave out; nothing if they leave out nothing."""
    notes = []
    if averages["n_unknown"]:
        n_cells = averages["n_samples"] * len(table)
        notes.append(f"Note: unknown labels are left out of every number ({averages['n_unknown']} of {n_cells}).")
    empty = [repr(name) for name in table.index[table["support"] == 0]]
    if empty:
        unless = f", or {zero_division:g} where never predicted," if zero_division else ""
        notes.append(
            f"Note: no known positive in {len(empty)} of {len(table)} classes, which are left out of the mAP and count "
            f"as 0{unless} in the macro-F1 (not at all if nothing is known of them): {join_first(empty)}."
        )
    return notes


def shorten_name(name: Any, *, width: int = NAME_WIDTH) -> str:
    """Return a class name in one line, cut where it is long."""
    text = " ".join(str(name).split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def show_number(value: float | str) -> str:
    """Return a count as it is, a score with three digits, NaN as a dash, and text as it is."""
    if isinstance(value, (int, str)):
        return str(value)
    return "-" if math.isnan(value) else f"{value:.3f}"


def show_interval(low: float, high: float, *, signed: bool = False) -> str:
    """Return both ends of an interval; a dash where there is none."""
    return "-" if math.isnan(low) else f"{low:+.3f}, {high:+.3f}" if signed else f"{low:.3f}, {high:.3f}"


def to_plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Replace NaN, which JSON has not, by None."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in values.items()}
