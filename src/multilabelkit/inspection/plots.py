"""Pictures of what a classifier does."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from multilabelkit.checks import Interval, check_parameters
from multilabelkit.data.bad_images import describe_failures
from multilabelkit.data.images import check_images, decode_image
from multilabelkit.data.labels import as_labels
from multilabelkit.errors import ImageDecodeError, InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_RIGHT, _MISSED, _WRONG = "#1a7f37", "#8c6d00", "#c62828"


def plot_predictions(
    X: Any, y_true: Any, y_pred: Any, *, classes: Sequence[Any] | np.ndarray | None = None, n_columns: int = 4
) -> Figure:
    """Draw images with their true and predicted labels.

    Below each image stand its labels: those found in green, those missed in brown with a minus, those predicted wrongly
    in red with a plus.

    Parameters
    ----------
    X : sequence of n_samples images
    y_true, y_pred : labels of n_samples images, in any format
    classes : sequence, default=None
        Names of the columns where labels are given as tables without names. None takes those of the other table, if it
        has names, else numbers.
    n_columns : int, default=4
        Images in a row.

    Returns
    -------
    figure : matplotlib Figure
        Save it with ``figure.savefig("predictions.png")``; no window is opened.

    Raises
    ------
    InputError
        If X and the labels differ in length, or cannot be read; ``ImageDecodeError`` lists every bad image.

    Examples
    --------
    >>> images = np.zeros((2, 8, 8), dtype=np.uint8)
    >>> figure = plot_predictions(images, [["sea"], []], [["sea"], ["sun"]])
    >>> len(figure.axes)
    2
    """
    check_parameters("plot_predictions", {"n_columns": n_columns}, {"n_columns": [Interval(int, 1)]})
    from matplotlib.figure import Figure  # only when something is drawn: it takes half a second to import

    sources = check_images(X)
    truth, guess = _read_labels(y_true, y_pred, classes), _read_labels(y_pred, y_true, classes)
    if not len(sources) == len(truth) == len(guess):
        raise InputError(
            "X, y_true and y_pred must have the same length. "
            f"Got {len(sources)} images and labels for {len(truth)} and {len(guess)}."
        )
    n_columns = min(n_columns, len(sources))
    n_rows = -(-len(sources) // n_columns)
    figure = Figure(figsize=(2.4 * n_columns, 2.75 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, pixels, true_labels, predicted in zip(axes, _decode_all(sources), truth, guess, strict=False):
        axis.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 200 else "auto")
        axis.set_xticks([])
        axis.set_yticks([])
        _write_labels(axis, true_labels, predicted)
    for axis in axes[len(sources) :]:
        axis.remove()
    return figure


def _read_labels(y: Any, other: Any, classes: Any) -> list[tuple]:
    """Return the labels of each image; a table without names takes those of the other."""
    is_table = getattr(y, "ndim", 1) == 2
    if classes is None and is_table and not hasattr(y, "columns"):
        classes = getattr(other, "columns", None)
    if classes is None and not is_table and isinstance(y, Collection) and not any(map(_holds_labels, y)):
        return [()] * len(y)  # nothing predicted anywhere: as_labels would have no class to learn
    return as_labels(y, classes=classes)


def _holds_labels(row: Any) -> bool:
    return not isinstance(row, Collection) or len(row) > 0


def _decode_all(sources: Sequence[Any]) -> list[np.ndarray]:
    images, failures = [], []
    for row, source in enumerate(sources):
        try:
            images.append(decode_image(source))
        except ImageDecodeError as error:
            failures.append((row, error))
    if failures:
        raise describe_failures(failures, n_images=len(sources))
    return images


def _write_labels(axis: Any, truth: tuple, guess: tuple) -> None:
    """Write the labels below an image, in one line that is coloured part by part."""
    parts = [(str(name), _RIGHT) for name in truth if name in guess]
    parts += [(f"\N{MINUS SIGN}{name}", _MISSED) for name in truth if name not in guess]
    parts += [(f"+{name}", _WRONG) for name in guess if name not in truth]
    if not parts:
        parts = [("no label", _RIGHT)]
    wrong = any(color != _RIGHT for _, color in parts)
    for side in axis.spines.values():
        side.set_color(_WRONG if wrong else _RIGHT)
        side.set_linewidth(1.5)
    from matplotlib.artist import Artist
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    texts: list[Artist] = [TextArea(text, textprops={"color": color, "fontsize": 9}) for text, color in parts]
    box = HPacker(children=texts, align="baseline", pad=0, sep=5)
    axis.add_artist(
        AnchoredOffsetbox(
            loc="upper center", child=box, frameon=False, bbox_to_anchor=(0.5, 0), bbox_transform=axis.transAxes
        )
    )
