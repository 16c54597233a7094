"""Pictures of what a classifier does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from multilabelkit.data.images import check_images, decode_image
from multilabelkit.data.labels import as_labels
from multilabelkit.errors import InputError

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
        Names of the columns where labels are given as tables without names.
    n_columns : int, default=4
        Images in a row.

    Returns
    -------
    figure : matplotlib Figure
        Save it with ``figure.savefig("predictions.png")``; no window is opened.

    Examples
    --------
    >>> images = np.zeros((2, 8, 8), dtype=np.uint8)
    >>> figure = plot_predictions(images, [["sea"], []], [["sea"], ["sun"]])
    >>> len(figure.axes)
    2
    """
    from matplotlib.figure import Figure  # only when something is drawn: it takes half a second to import

    sources = check_images(X)
    truth, guess = as_labels(y_true, classes=classes), as_labels(y_pred, classes=classes)
    if not len(sources) == len(truth) == len(guess):
        raise InputError(
            "X, y_true and y_pred must have the same length. "
            f"Got {len(sources)} images and labels for {len(truth)} and {len(guess)}."
        )
    n_columns = min(n_columns, len(sources))
    n_rows = -(-len(sources) // n_columns)
    figure = Figure(figsize=(2.4 * n_columns, 2.75 * n_rows), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, source, true_labels, predicted in zip(axes, sources, truth, guess, strict=False):
        pixels = decode_image(source)
        axis.imshow(pixels, interpolation="nearest" if max(pixels.shape) < 200 else "auto")
        axis.set_xticks([])
        axis.set_yticks([])
        _write_labels(axis, true_labels, predicted)
    for axis in axes[len(sources) :]:
        axis.remove()
    return figure


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
