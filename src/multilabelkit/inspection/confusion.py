"""A picture of which classes are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from multilabelkit.checks import Choice, check_parameters, shorten
from multilabelkit.errors import InputError
from multilabelkit.exclusive_report import ClassReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELL = 0.42  # inches, the least a number of four digits needs
_NAME_WIDTH = 24  # letters


def plot_confusion(report_or_matrix: Any, *, normalize: bool = False) -> Figure:
    """Draw how many images of each class were taken for each class.

    Rows are true classes, columns predicted ones: what is right stands on the diagonal. The colour of a cell is its
    share of the images of the true class, so that rare classes are as visible as common ones.

    Parameters
    ----------
    report_or_matrix : ClassReport, DataFrame or array of shape (n_classes, n_classes)
        What `ImageClassifier.evaluate` returned, or numbers of images, such as scikit-learn's ``confusion_matrix``. A
        DataFrame brings the names of the classes; those of an array are numbers.
    normalize : bool, default=False
        Write shares of the true class in place of numbers of images.

    Returns
    -------
    figure : matplotlib Figure
        Save it with ``figure.savefig("confusion.png")``; no window is opened.

    Raises
    ------
    InputError
        If this is no square matrix of numbers of images.

    Examples
    --------
    >>> figure = plot_confusion(pd.DataFrame([[5, 1], [0, 4]], index=["sea", "sky"], columns=["sea", "sky"]))
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['5', '1', '4']
    """
    check_parameters("plot_confusion", {"normalize": normalize}, {"normalize": [Choice((True, False))]})
    from matplotlib.figure import Figure  # only when something is drawn: it takes half a second to import

    counts, names = _read_matrix(report_or_matrix)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    texts = _write_shares(shares) if normalize else _write_counts(counts)
    side = max(2.4, _CELL * len(names))
    margin = 1.0 + 0.075 * max(map(len, names))
    figure = Figure(figsize=(side + margin + 0.7, side + margin), layout="compressed")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _write_cells(axes, texts, shares)
    _write_names(axes, names)
    figure.colorbar(image, ax=axes, label="share of the true class", fraction=0.046, pad=0.02)
    return figure


def _read_matrix(source: Any) -> tuple[np.ndarray, list[str]]:
    """Return the counts and the names of the classes, or refuse what is no confusion matrix."""
    matrix = source.confusion if isinstance(source, ClassReport) else source
    try:
        counts = np.asarray(matrix, dtype=np.float64)
    except (TypeError, ValueError):
        found = shorten(source)
    else:
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) == 0:
            found = f"the shape {counts.shape}"
        elif not (np.isfinite(counts) & (counts >= 0)).all():
            row, column = np.argwhere(~(np.isfinite(counts) & (counts >= 0)))[0]
            found = f"{counts[row, column]:g} at row {row}, column {column}"
        elif isinstance(matrix, pd.DataFrame) and list(matrix.index) != list(matrix.columns):
            found = "other names of the rows than of the columns"
        else:
            names = matrix.index if isinstance(matrix, pd.DataFrame) else range(len(counts))
            return counts, [_shorten_name(name) for name in names]
    raise InputError(
        "plot_confusion takes a ClassReport, or a square matrix of numbers of images with a row and a column for each "
        f"class. Got {found}."
    )


def _shorten_name(name: Any) -> str:
    text = " ".join(str(name).split()).replace("$", r"\$")  # or matplotlib would set it as a formula
    return text if len(text) <= _NAME_WIDTH else f"{text[: _NAME_WIDTH - 1]}…"


def _write_counts(counts: np.ndarray) -> list[list[str]]:
    return [[_shorten_count(value) if value else "" for value in row] for row in counts.tolist()]


def _shorten_count(value: float) -> str:
    """Write at most five letters, as for 12345, 123k or 0.25."""
    if value != round(value):
        return f"{value:.3g}"
    return f"{value:.0f}" if value < 1e5 else f"{value / 1e3:.0f}k" if value < 1e6 else f"{value / 1e6:.3g}M"


def _write_shares(shares: np.ndarray) -> list[list[str]]:
    """Write two digits; a cell that holds anything at all is not left empty."""
    return [["" if value == 0 else "<.01" if value < 0.005 else _write_share(value) for value in row] for row in shares]


def _write_share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")  # room for larger digits


def _write_cells(axes: Axes, texts: list[list[str]], shares: np.ndarray) -> None:
    size = 10 if len(texts) <= 12 else 8
    for row, column in np.ndindex(shares.shape):
        if texts[row][column]:
            ink = "white" if shares[row, column] > 0.55 else "black"
            longest = size - max(0, len(texts[row][column]) - 3)  # so that five digits fit in a cell
            axes.text(column, row, texts[row][column], ha="center", va="center", color=ink, fontsize=longest)


def _write_names(axes: Axes, names: list[str]) -> None:
    """Name rows and columns; long names below are slanted so that they do not run into each other."""
    places = range(len(names))
    is_long = max(map(len, names)) * len(names) > 40
    slant = {"rotation": 90} if len(names) > 20 else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(places, names, **(slant if is_long else {}))
    axes.set_yticks(places, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    # Thin lines between the cells guide the eye along a row of thirty.
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#dddddd", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
