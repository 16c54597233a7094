import json
import re

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from multilabelkit.errors import InputError
from multilabelkit.report import MultiLabelReport, multilabel_report

Y_TRUE = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, np.nan, 0]])
PROBA = np.array([[0.9, 0.2, 0.1], [0.4, 0.7, 0.6], [0.8, 0.3, 0.2], [0.1, 0.9, 0.3]])
Y_PRED = (PROBA >= 0.5).astype(int)
CLASSES = ["sea", "sunset", "trees"]


def draw(seed, n_samples=40, n_classes=5):
    rng = np.random.default_rng(seed)
    y_true = (rng.random((n_samples, n_classes)) < 0.4).astype(float)
    proba = rng.random((n_samples, n_classes))
    return y_true, (proba >= 0.5).astype(int), proba


def test_table_equals_sklearn_class_by_class():
    y_true, y_pred, proba = draw(0)
    table = multilabel_report(y_true, y_pred, proba, classes=range(5)).table
    rates = reference.precision_recall_fscore_support(y_true, y_pred, average=None, zero_division=0.0)
    for name, expected in zip(["precision", "recall", "f1", "support"], rates, strict=True):
        np.testing.assert_allclose(table[name], expected, rtol=0, atol=1e-12)
    expected = reference.average_precision_score(y_true, proba, average=None)
    np.testing.assert_allclose(table["average_precision"], expected, rtol=0, atol=1e-12)


def test_averages_equal_sklearn():
    y_true, y_pred, proba = draw(1)
    averages = multilabel_report(y_true, y_pred, proba, classes=range(5)).averages
    expected = {
        "macro_f1": reference.f1_score(y_true, y_pred, average="macro"),
        "micro_f1": reference.f1_score(y_true, y_pred, average="micro"),
        "samples_f1": reference.f1_score(y_true, y_pred, average="samples", zero_division=0.0),
        "mAP": reference.average_precision_score(y_true, proba),
        "subset_accuracy": reference.accuracy_score(y_true, y_pred),
        "binary_accuracy": reference.accuracy_score(y_true.ravel(), y_pred.ravel()),
        "hamming_loss": reference.hamming_loss(y_true, y_pred),
        "bce": reference.log_loss(y_true.ravel(), proba.ravel()),
        "n_samples": 40,
        "n_classes_without_positives": 0,
        "n_unknown": 0,
    }
    assert list(averages) == list(expected)
    assert averages == pytest.approx(expected, rel=0, abs=1e-12)


def test_text_shows_headline_table_averages_and_notes():
    report = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=CLASSES, thresholds=[0.5, 0.5, 0.25])
    assert report.text == str(report)
    assert report.text.split("\n") == [
        "macro-F1 0.556 · micro-F1 0.750 · mAP 1.000",
        "",
        "class   support  threshold  precision  recall     f1     AP",
        "sea           2      0.500      1.000   1.000  1.000  1.000",
        "sunset        2      0.500      1.000   0.500  0.667  1.000",
        "trees         0      0.250      0.000   0.000  0.000      -",
        "",
        "samples-F1 0.583 · subset accuracy 0.500 · binary accuracy 0.818 · Hamming loss 0.182 · BCE 0.394",
        "4 samples, 3 classes",
        "",
        "Note: unknown labels are left out of every number (1 of 12).",
        "Note: no known positive in 1 of 3 classes, which are left out of the mAP and count as 0 in the",
        "macro-F1 (not at all if nothing is known of them): 'trees'.",
    ]


def test_text_leaves_out_notes_and_thresholds_that_are_not_there():
    y_true, y_pred, proba = draw(2)
    report = multilabel_report(y_true, y_pred, proba, classes=range(5))
    assert "Note" not in report.text
    assert "threshold" not in report.text
    assert "threshold" not in report.table


def test_text_of_a_class_of_which_nothing_is_known_shows_dashes():
    y_true = Y_TRUE.copy()
    y_true[:, 2] = np.nan
    report = multilabel_report(y_true, Y_PRED, PROBA, classes=CLASSES)
    assert "trees         0          -       -      -      -" in report.text.split("\n")
    assert report.averages["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)


def test_text_shortens_long_names_and_stays_within_100_columns():
    y_true, y_pred, proba = draw(3)
    names = ["x" * 80, "two\nlines", *"abc"]
    y_true[:, 3:] = 0
    lines = multilabel_report(y_true, y_pred, proba, classes=names, thresholds=0.5).text.split("\n")
    assert max(map(len, lines)) <= 100
    assert lines[3].startswith("x" * 35 + "…  ")
    assert lines[4].startswith("two lines  ")
    assert len({len(line) for line in lines[2:8]}) == 1


def test_report_of_thousands_of_classes_has_a_row_for_each():
    y_true, y_pred, proba = draw(4, n_samples=5, n_classes=3000)
    report = multilabel_report(y_true, y_pred, proba, classes=range(3000))
    lines = report.text.split("\n")
    assert [line.split()[0] for line in lines[3:3003]] == list(map(str, range(3000)))
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("classes", [np.array([3, 5, 8]), np.array(CLASSES)], ids=["integers", "strings"])
def test_to_dict_survives_json_unchanged(classes):
    report = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=classes, thresholds=0.5).to_dict()
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert [row["class"] for row in report["classes"]] == classes.tolist()
    assert report["classes"][1] == {
        "class": classes.tolist()[1],
        "support": 2,
        "threshold": 0.5,
        "precision": 1.0,
        "recall": 0.5,
        "f1": pytest.approx(2 / 3),
        "average_precision": 1.0,
    }
    assert report["classes"][2]["average_precision"] is None
    assert report["averages"]["n_classes_without_positives"] == 1
    assert report["averages"]["n_unknown"] == 1


def test_to_dict_turns_averages_that_are_not_measured_into_none():
    report = multilabel_report(np.full((2, 1), np.nan), np.zeros((2, 1)), np.zeros((2, 1)), classes=["sea"])
    assert report.to_dict()["averages"]["mAP"] is None
    assert report.text.startswith("macro-F1 - · micro-F1 - · mAP -\n")


def test_to_frame_is_a_copy_indexed_by_class():
    report = multilabel_report(
        Y_TRUE, Y_PRED, PROBA, classes=CLASSES, thresholds={"sunset": 0.2, "trees": 0.3, "sea": 0.1}
    )
    frame = report.to_frame()
    pd.testing.assert_index_equal(frame.index, pd.Index(CLASSES, name="class"))
    assert frame["threshold"].tolist() == [0.1, 0.2, 0.3]
    frame["f1"] = 0.0
    assert report.table.loc["sea", "f1"] == 1.0


def test_repr_is_one_line_with_the_headline():
    report = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=CLASSES)
    assert repr(report) == "<MultiLabelReport of 3 classes: macro-F1 0.556 · micro-F1 0.750 · mAP 1.000>"


def test_report_cannot_be_reassigned():
    report = MultiLabelReport(pd.DataFrame(), {})
    with pytest.raises(AttributeError, match="cannot assign to field 'averages'"):
        report.averages = {}


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"classes": ["sea"]}, "classes must name each of 3 columns. Got 1 names: ['sea']."),
        (
            {"classes": CLASSES, "thresholds": [0.5]},
            "thresholds must hold one number for each of 3 classes. Got the shape (1,).",
        ),
    ],
)
def test_errors_say_what_to_do(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        multilabel_report(Y_TRUE, Y_PRED, PROBA, **params)
