import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from multilabelkit.errors import InputError
from multilabelkit.exclusive_report import ClassReport, class_report

CLASSES = ["sea", "sky", "trees"]
Y_TRUE = ["sea", "sky", "sea", "sky", None]
Y_PRED = ["sea", "sky", "sky", "sky", "trees"]
PROBA = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.25, 0.5, 0.25], [0.2, 0.4, 0.4], [0, 0, 1]])


def draw(seed, n_samples=60, n_classes=4):
    """Return names, predictions and probabilities with no ties, every class being true somewhere."""
    rng = np.random.default_rng(seed)
    classes = np.array([f"class {number:02d}" for number in range(n_classes)])
    y_true = np.append(classes, rng.choice(classes, n_samples - n_classes))
    proba = rng.dirichlet(np.ones(n_classes), n_samples)
    return y_true, classes[proba.argmax(axis=1)], proba, classes


def measure(y_true=Y_TRUE, y_pred=Y_PRED, proba=PROBA, classes=CLASSES):
    return class_report(y_true, y_pred, proba, classes=classes)


@pytest.mark.parametrize("n_classes", [2, 4, 11])
def test_table_and_confusion_equal_sklearn(n_classes):
    y_true, y_pred, proba, classes = draw(0, n_classes=n_classes)
    report = class_report(y_true, y_pred, proba, classes=classes)
    rates = reference.precision_recall_fscore_support(y_true, y_pred, labels=classes, average=None, zero_division=0.0)
    for name, expected in zip(["precision", "recall", "f1", "support"], rates, strict=True):
        np.testing.assert_allclose(report.table[name], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(report.confusion, reference.confusion_matrix(y_true, y_pred, labels=classes))
    assert (report.confusion.index.name, report.confusion.columns.name) == ("true", "predicted")
    assert report.confusion.index.tolist() == report.confusion.columns.tolist() == classes.tolist()


@pytest.mark.parametrize("kind", [np.float64, np.float32])
@pytest.mark.parametrize("n_classes", [2, 3, 11])
def test_averages_equal_sklearn(n_classes, kind):
    y_true, y_pred, proba, classes = draw(1, n_classes=n_classes)
    proba = proba.astype(kind)
    place = classes.tolist().index(y_true[0])
    proba[0, place] = 0  # which a loss must survive
    proba[0] /= proba[0].sum()
    y_pred[0] = classes[proba[0].argmax()]
    averages = class_report(y_true, y_pred, proba, classes=classes).averages
    expected = {
        "accuracy": reference.accuracy_score(y_true, y_pred),
        "balanced_accuracy": reference.balanced_accuracy_score(y_true, y_pred),
        "macro_f1": reference.f1_score(y_true, y_pred, average="macro"),
        "log_loss": reference.log_loss(y_true, proba, labels=classes),
        "top_2_accuracy": reference.top_k_accuracy_score(y_true, proba, labels=classes) if n_classes > 2 else None,
        "n_samples": 60,
        "n_classes_without_images": 0,
        "n_unknown": 0,
    }
    expected = {name: value for name, value in expected.items() if value is not None}
    assert list(averages) == list(expected)
    assert averages == pytest.approx(expected, rel=0, abs=1e-12 if kind is np.float64 else 1e-6)


def test_numbers_of_a_small_table_are_those_of_the_hand():
    report = measure()
    assert report.table.to_dict("list") == {
        "support": [2, 2, 0],
        "precision": pytest.approx([1, 2 / 3, 0]),
        "recall": [0.5, 1, 0],
        "f1": pytest.approx([2 / 3, 4 / 5, 0]),
    }
    assert report.averages == pytest.approx(
        {
            "accuracy": 3 / 4,
            "balanced_accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 4 / 5) / 3,
            "log_loss": -np.log(0.7 * 0.6 * 0.25 * 0.4) / 4,
            "top_2_accuracy": 1.0,
            "n_samples": 5,
            "n_classes_without_images": 1,
            "n_unknown": 1,
        }
    )
    assert report.confusion.to_numpy().tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_images_of_unknown_class_are_left_out_and_counted():
    y_true, y_pred, proba, classes = draw(2)
    hidden = [None if row % 3 == 0 else name for row, name in enumerate(y_true)]
    some = class_report(hidden, y_pred, proba, classes=classes)
    kept = np.arange(60) % 3 != 0
    expected = class_report(y_true[kept], y_pred[kept], proba[kept], classes=classes)
    pd.testing.assert_frame_equal(some.table, expected.table)
    pd.testing.assert_frame_equal(some.confusion, expected.confusion)
    assert some.averages == {**expected.averages, "n_samples": 60, "n_unknown": 20}


def test_text_shows_headline_table_averages_confusion_and_notes():
    report = measure()
    assert report.text == str(report)
    assert report.text.split("\n") == [
        "accuracy 0.750 · macro-F1 0.489",
        "",
        "class  support  precision  recall     f1",
        "sea          2      1.000   0.500  0.667",
        "sky          2      0.667   1.000  0.800",
        "trees        0      0.000   0.000  0.000",
        "",
        "balanced accuracy 0.750 · top-2 accuracy 1.000 · log loss 0.793",
        "5 samples, 3 classes",
        "",
        "Confusion: rows are true classes, columns predicted ones.",
        "class  sea  sky  trees",
        "sea      1    1      0",
        "sky      0    2      0",
        "trees    0    0      0",
        "",
        "Note: images of unknown class are left out of every number (1 of 5).",
        "Note: no image in 1 of 3 classes, which count as 0 in the macro-F1 and are left out of the balanced",
        "accuracy: 'trees'.",
    ]


def test_text_leaves_out_notes_and_top_2_where_there_is_nothing_to_say():
    y_true, y_pred, proba, classes = draw(3, n_classes=2)
    text = class_report(y_true, y_pred, proba, classes=classes).text
    assert "Note" not in text
    assert "top-2" not in text


def test_text_shortens_names_and_leaves_out_a_matrix_that_is_too_wide():
    y_true, y_pred, proba, _ = draw(4, n_classes=30, n_samples=90)
    classes = ["x" * 80, *map(str, range(29))]
    rename = {f"class {number:02d}": name for number, name in enumerate(classes)}
    report = class_report([rename[n] for n in y_true], [rename[n] for n in y_pred], proba, classes=classes)
    lines = report.text.split("\n")
    assert max(map(len, lines)) <= 100
    assert lines[3].startswith("x" * 35 + "…  ")
    assert lines[-1] == (
        "Confusion: 30 classes are too many to print; see report.confusion, or plot_confusion(report)."
    )


@pytest.mark.parametrize("classes", [np.array([3, 5, 8]), np.array(CLASSES)], ids=["integers", "strings"])
def test_to_dict_survives_json_unchanged(classes):
    rename = dict(zip([*CLASSES, None], [*classes, None], strict=True))
    report = measure([rename[name] for name in Y_TRUE], [rename[name] for name in Y_PRED], classes=classes).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert list(report) == ["averages", "classes", "confusion"]
    assert [row["class"] for row in report["classes"]] == classes.tolist()
    assert report["classes"][1] == {
        "class": classes.tolist()[1],
        "support": 2,
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(4 / 5),
    }
    assert report["confusion"] == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_text_of_integer_classes_shows_them():
    lines = class_report([3, 5], [3, 3], [[1, 0], [0.5, 0.5]], classes=[3, 5]).text.split("\n")
    assert lines[-3:] == ["class  3  5", "3      1  0", "5      1  0"]


def test_to_frame_is_a_copy_indexed_by_class():
    report = measure()
    frame = report.to_frame()
    pd.testing.assert_index_equal(frame.index, pd.Index(CLASSES, name="class"))
    frame["f1"] = 0.0
    assert report.table.loc["sky", "f1"] == 0.8


def test_repr_is_one_line_with_the_headline():
    assert repr(measure()) == "<ClassReport of 3 classes: accuracy 0.750 · macro-F1 0.489>"


def test_report_cannot_be_reassigned():
    report = ClassReport(pd.DataFrame(), {}, pd.DataFrame())
    with pytest.raises(AttributeError, match="cannot assign to field 'averages'"):
        report.averages = {}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"y_pred": ["sea"]}, "y_true and y_pred must have the same length. Got 5 and 1 names."),
        (
            {"y_pred": ["sea", None, "sky", None, "sea"]},
            "y_pred must name a class for every image. 2 of 5 have none, the first in row 1; leave these images out.",
        ),
        ({"proba": PROBA * [1, 1, 1.1]}, "proba must be in [0, 1]. Got 1.1 at row 4, column 2."),
        (
            {"proba": PROBA * 0.9},
            "Each row of proba must sum to 1, as classes exclude each other. Row 0 sums to 0.9; for several labels an "
            "image there is multilabel_report.",
        ),
        ({"proba": PROBA[:2]}, "y_true and proba must have the same shape. Got (5, 3) and (2, 3)."),
        (
            {"y_true": ["sea", "sky", "sea", "sky", "moon"]},
            "y_true holds 1 name(s) that are not among the 3 classes: 'moon' in row 4. Correct them, or name every "
            "class with classes=[...].",
        ),
        (
            {"y_pred": ["sea", "sky", "sea", "sky", "moon"]},
            "y_pred holds 1 name(s) that are not among the 3 classes: 'moon' in row 4. Correct them, or name every "
            "class with classes=[...].",
        ),
    ],
    ids=["short", "incomplete", "range", "sum", "shape", "truth", "guess"],
)
def test_errors_say_what_to_do(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        measure(**params)
