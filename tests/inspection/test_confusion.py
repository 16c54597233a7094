import re
import sys
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multilabelkit.errors import InputError
from multilabelkit.exclusive_report import class_report
from multilabelkit.inspection.confusion import plot_confusion

COUNTS = [[3, 1, 0], [0, 0, 0], [1, 0, 199]]
NAMES = ["sea", "sky", "trees"]


def whole(message):
    return f"^{re.escape(message)}$"


def read_cells(figure, n_classes):
    """Return what is written in the cells, row by row."""
    cells = np.full((n_classes, n_classes), "", dtype=object)
    for text in figure.axes[0].texts:
        column, row = text.get_position()
        cells[row, column] = text.get_text()
    return cells.tolist()


def read_names(figure):
    axes = figure.axes[0]
    return [[label.get_text() for label in labels] for labels in (axes.get_yticklabels(), axes.get_xticklabels())]


def test_cells_hold_the_counts_and_colours_the_share_of_the_true_class():
    figure = plot_confusion(pd.DataFrame(COUNTS, index=NAMES, columns=NAMES))
    assert read_cells(figure, 3) == [["3", "1", ""], ["", "", ""], ["1", "", "199"]]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array(), [[0.75, 0.25, 0], [0, 0, 0], [0.005, 0, 0.995]])
    assert read_names(figure) == [NAMES, NAMES]
    assert figure.axes[0].get_ylabel() == "true class"
    assert figure.axes[0].get_xlabel() == "predicted class"


def test_normalized_cells_hold_shares_of_the_true_class():
    figure = plot_confusion([[999, 1, 0], [1, 199, 0], [0, 0, 5]], normalize=True)
    assert read_cells(figure, 3) == [["1.00", "<.01", ""], [".01", ".99", ""], ["", "", "1.00"]]
    assert read_names(figure) == [["0", "1", "2"]] * 2


def test_a_report_brings_counts_and_names():
    report = class_report([3, 5, 5], [3, 3, 5], [[1, 0], [0.8, 0.2], [0, 1]], classes=[3, 5])
    figure = plot_confusion(report)
    assert read_cells(figure, 2) == [["1", ""], ["1", "1"]]
    assert read_names(figure) == [["3", "5"], ["3", "5"]]


@pytest.mark.parametrize(
    ("count", "text"),
    [(7, "7"), (99999, "99999"), (100000, "100k"), (999499, "999k"), (1.2e6, "1.2M"), (0.25, "0.25")],
)
def test_large_counts_and_fractions_take_at_most_five_letters(count, text):
    assert read_cells(plot_confusion([[count, 0], [0, 1]]), 2)[0][0] == text


def test_long_names_are_cut_and_no_formulas():
    names = ["x" * 50, "two\nlines", "$5"]
    figure = plot_confusion(pd.DataFrame(COUNTS, index=names, columns=names))
    assert read_names(figure)[0] == ["x" * 23 + "…", "two lines", r"\$5"]


@pytest.mark.parametrize("n_classes", [2, 5, 12, 30])
def test_nothing_is_cut_off_and_no_names_run_into_each_other(n_classes):
    names = [f"a long name {number}" for number in range(n_classes)]
    counts = np.full((n_classes, n_classes), 12345)
    figure = plot_confusion(pd.DataFrame(counts, index=names, columns=names))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    page = figure.bbox
    for part in (axes.yaxis.label, axes.xaxis.label, *axes.get_xticklabels(), *axes.get_yticklabels(), figure.axes[1]):
        box = part.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    cell = axes.get_window_extent().width / n_classes
    assert max(text.get_window_extent().width for text in axes.texts) <= cell
    ends = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(ends))


def test_no_window_is_opened_and_pyplot_knows_nothing_of_it(tmp_path):
    was_loaded = "matplotlib.pyplot" in sys.modules
    plot_confusion(COUNTS).savefig(tmp_path / "confusion.png", dpi=50)
    assert ("matplotlib.pyplot" in sys.modules) is was_loaded
    if was_loaded:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    with Image.open(tmp_path / "confusion.png") as picture:
        picture.verify()


@pytest.mark.parametrize(
    ("matrix", "found"),
    [
        ("sea", "'sea'"),
        (None, "the shape ()"),
        ([[1, 2]], "the shape (1, 2)"),
        ([], "the shape (0,)"),
        ([[1, -2], [0, 1]], "-2 at row 0, column 1"),
        ([[1, 0], [np.nan, 1]], "nan at row 1, column 0"),
        (pd.DataFrame([[1, 0], [0, 1]], index=["a", "b"]), "other names of the rows than of the columns"),
    ],
    ids=["string", "none", "oblong", "empty", "negative", "nan", "names"],
)
def test_what_is_no_confusion_matrix_is_refused(matrix, found):
    message = (
        "plot_confusion takes a ClassReport, or a square matrix of numbers of images with a row and a column for each "
        f"class. Got {found}."
    )
    with pytest.raises(InputError, match=whole(message)):
        plot_confusion(matrix)


def test_normalize_must_be_true_or_false():
    message = "The 'normalize' parameter of plot_confusion must be True or False. Got 'true' instead."
    with pytest.raises(InputError, match=whole(message)):
        plot_confusion(COUNTS, normalize="true")
