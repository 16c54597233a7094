import re
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.offsetbox import TextArea
from PIL import Image

from multilabelkit.data.images import encode_png
from multilabelkit.errors import ImageDecodeError, InputError
from multilabelkit.inspection import plot_predictions

GREEN, BROWN, RED = "#1a7f37", "#8c6d00", "#c62828"


def whole(message):
    return f"^{re.escape(message)}$"


def read_texts(axis):
    """Return what is written below an image, with its colours."""
    return [(area.get_text(), area._text.get_color()) for area in axis.findobj(TextArea)]


def draw(n_images=1, **keywords):
    return plot_predictions(np.zeros((n_images, 8, 8)), [["sea"]] * n_images, [["sea"]] * n_images, **keywords)


@pytest.mark.parametrize(("n_images", "n_columns", "shape"), [(1, 4, (1, 1)), (5, 2, (3, 2)), (4, 4, (1, 4))])
def test_there_is_one_axes_per_image_in_rows_of_n_columns(n_images, n_columns, shape):
    figure = draw(n_images, n_columns=n_columns)
    assert len(figure.axes) == n_images
    assert figure.axes[0].get_gridspec().get_geometry() == shape
    assert all(len(axis.images) == 1 for axis in figure.axes)


def test_images_are_drawn_as_they_are():
    image = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    figure = plot_predictions([image], [[]], [["sea"]])
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), image)


@pytest.mark.parametrize(
    ("truth", "guess", "texts", "frame"),
    [
        (["sea", "sun"], ["sea", "sun"], [("sea", GREEN), ("sun", GREEN)], GREEN),
        (["sea", "sun"], ["sun"], [("sun", GREEN), ("\N{MINUS SIGN}sea", BROWN)], RED),
        (["sun"], ["sea", "sun"], [("sun", GREEN), ("+sea", RED)], RED),
        (["sun"], ["sea"], [("\N{MINUS SIGN}sun", BROWN), ("+sea", RED)], RED),
        ([], [], [("no label", GREEN)], GREEN),
        ([3], [4], [("\N{MINUS SIGN}3", BROWN), ("+4", RED)], RED),
    ],
    ids=["right", "one missed", "one too many", "all wrong", "none", "integers"],
)
def test_colours_and_signs_tell_right_from_missed_and_wrong(truth, guess, texts, frame):
    from matplotlib.colors import to_hex

    classes = [3, 4] if truth == [3] else ["sea", "sun"]
    (axis,) = plot_predictions(np.zeros((1, 8, 8)), [truth], [guess], classes=classes).axes
    assert read_texts(axis) == texts
    assert {to_hex(side.get_edgecolor()) for side in axis.spines.values()} == {frame}


def test_labels_may_have_any_format():
    frame = pd.DataFrame({"sea": [1, 0], "sun": [1, 1]})
    images = np.zeros((2, 8, 8))
    expected = [[("sea", GREEN), ("sun", GREEN)], [("sun", GREEN), ("+sea", RED)]]
    for truth, guess, classes in [
        (frame, np.array([[1, 1], [1, 1]]), None),
        (np.array([[1, 1], [0, 1]]), pd.DataFrame({"sea": [1, 1], "sun": [1, 1]}), None),
        (np.array([[1, 1], [0, 1]]), np.array([[1, 1], [1, 1]]), np.array(["sea", "sun"], dtype=object)),
        ([{"sea", "sun"}, {"sun"}], [("sea", "sun")] * 2, None),
        (pd.Series([["sea", "sun"], ["sun"]]), np.array([["sea", "sun"]] * 2).tolist(), None),
    ]:
        figure = plot_predictions(images, truth, guess, classes=classes)
        assert [read_texts(axis) for axis in figure.axes] == expected


@pytest.mark.parametrize("nothing", [[(), ()], [[], []], pd.Series([[], []])], ids=["tuples", "lists", "series"])
def test_predicting_nothing_at_all_is_a_prediction(nothing):
    figure = plot_predictions(np.zeros((2, 8, 8)), [["sea"], []], nothing)
    assert [read_texts(axis) for axis in figure.axes] == [[("\N{MINUS SIGN}sea", BROWN)], [("no label", GREEN)]]


def test_paths_and_pil_images_are_drawn_too(tmp_path):
    pixels = np.full((8, 8, 3), 7, dtype=np.uint8)
    (tmp_path / "a.png").write_bytes(encode_png(pixels))
    figure = plot_predictions([tmp_path / "a.png", Image.fromarray(pixels)], [["sea"]] * 2, [["sea"]] * 2)
    for axis in figure.axes:
        np.testing.assert_array_equal(axis.images[0].get_array(), pixels)


def test_no_window_is_opened_and_pyplot_knows_nothing_of_it(tmp_path):
    was_loaded = "matplotlib.pyplot" in sys.modules
    figure = draw(3)
    figure.savefig(tmp_path / "predictions.png", dpi=50)
    assert ("matplotlib.pyplot" in sys.modules) is was_loaded
    if was_loaded:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
    with Image.open(tmp_path / "predictions.png") as picture:
        picture.verify()


@pytest.mark.parametrize(("n_true", "n_pred"), [(2, 3), (3, 2)])
def test_lengths_that_differ_are_refused(n_true, n_pred):
    message = f"X, y_true and y_pred must have the same length. Got 3 images and labels for {n_true} and {n_pred}."
    with pytest.raises(InputError, match=whole(message)):
        plot_predictions(np.zeros((3, 8, 8)), [["sea"]] * n_true, [["sea"]] * n_pred)


@pytest.mark.parametrize("n_columns", [0, 2.0, None])
def test_n_columns_must_be_a_count(n_columns):
    message = f"The 'n_columns' parameter of plot_predictions must be an integer >= 1. Got {n_columns} instead."
    with pytest.raises(InputError, match=whole(message)):
        draw(n_columns=n_columns)


def test_all_bad_images_are_listed_with_their_rows(tmp_path):
    images = [np.zeros((8, 8)), tmp_path / "one.png", np.zeros((8, 8)), tmp_path / "two.png"]
    message = (
        f"Cannot decode 2 of 4 images in X; the first is '{tmp_path / 'one.png'}' at row 1: the file does not exist. "
        "Repair or remove them (all are listed in error.paths and error.rows)."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        plot_predictions(images, [["sea"]] * 4, [["sea"]] * 4)
    assert caught.value.rows == (1, 3)
