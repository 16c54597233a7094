import json
import pickle
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference

from multilabelkit import metrics
from multilabelkit.errors import InputError
from multilabelkit.inspection import plot_confusion
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
    expected = [reference.brier_score_loss(*columns) for columns in zip(y_true.T, proba.T, strict=True)]
    np.testing.assert_allclose(table["brier_score"], expected, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(table["ece"], metrics.expected_calibration_error(y_true, proba, average=None))


def test_averages_equal_sklearn():
    y_true, y_pred, proba = draw(1)
    averages = multilabel_report(y_true, y_pred, proba, classes=range(5)).averages
    macro, micro, weighted, samples = (
        reference.precision_recall_fscore_support(y_true, y_pred, average=average, zero_division=0.0)
        for average in ("macro", "micro", "weighted", "samples")
    )
    expected = {
        "macro_f1": macro[2],
        "micro_f1": micro[2],
        "samples_f1": samples[2],
        "weighted_f1": weighted[2],
        "mAP": reference.average_precision_score(y_true, proba),
        "cp": macro[0],
        "cr": macro[1],
        "cf1": 2 * macro[0] * macro[1] / (macro[0] + macro[1]),
        "op": micro[0],
        "or": micro[1],
        "of1": micro[2],
        "subset_accuracy": reference.accuracy_score(y_true, y_pred),
        "binary_accuracy": reference.accuracy_score(y_true.ravel(), y_pred.ravel()),
        "hamming_loss": reference.hamming_loss(y_true, y_pred),
        "lrap": reference.label_ranking_average_precision_score(y_true, proba),
        "ranking_loss": reference.label_ranking_loss(y_true, proba),
        "coverage_error": reference.coverage_error(y_true, proba),
        "bce": reference.log_loss(y_true.ravel(), proba.ravel()),
        "brier_score": reference.brier_score_loss(y_true.ravel(), proba.ravel()),
        "ece": metrics.expected_calibration_error(y_true, proba),
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
        "samples-F1 0.583 · weighted-F1 0.833 · subset accuracy 0.500 · binary accuracy 0.818",
        "CP 0.667 · CR 0.500 · CF1 0.571 · OP 0.750 · OR 0.750 · OF1 0.750 · Hamming loss 0.182",
        "LRAP 1.000 · ranking loss 0.000 · coverage error 1.000 · BCE 0.394 · Brier 0.129 · ECE 0.300",
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
        "brier_score": pytest.approx((0.2**2 + 0.3**2 + 0.7**2) / 3),
        "ece": pytest.approx((0.2 + 0.3 + 0.7) / 3),  # a bin for each sample
        "tn": 1,
        "fp": 0,
        "fn": 1,
        "tp": 1,
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


def test_to_json_is_the_dict_with_null_for_what_is_unknown(tmp_path):
    names = ["Übersee", "sunset", "trees"]
    report = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=names, thresholds=0.5, n_bootstraps=5)
    text = report.to_json()
    assert json.loads(text) == report.to_dict()
    assert '"average_precision": null' in text
    assert "NaN" not in text
    assert report.to_json(tmp_path / "report.json") is None
    assert (tmp_path / "report.json").read_bytes().decode("utf-8") == text + "\n"
    assert "Übersee" in text


def test_to_json_says_where_it_cannot_write(tmp_path):
    report = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=["a", "b", "c"])
    path = tmp_path / "absent" / "report.json"
    message = f"The report cannot be written to '{path}': No such file or directory."
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        report.to_json(path)


def test_report_keeps_copies_of_what_it_measured_but_does_not_show_them():
    y_true, y_pred, proba = draw(5)
    y_true[0, 0] = np.nan
    report = multilabel_report(y_true, y_pred, proba, classes=range(5))
    expected = y_true.copy(), y_pred.copy(), proba.copy()
    for array in (y_true, y_pred, proba):
        array[:] = 0
    for kept, copy in zip((report.y_true, report.y_pred, report.proba), expected, strict=True):
        np.testing.assert_array_equal(kept, copy)
    assert "proba" not in report.text + repr(report) + report.to_json()


def test_report_survives_pickling():
    y_true, y_pred, proba = draw(6)
    report = multilabel_report(y_true, y_pred, proba, classes=range(5), n_bootstraps=5)
    assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()


def test_zero_division_reaches_every_rate():
    y_true, y_pred, proba = np.zeros((3, 2)), np.zeros((3, 2)), np.full((3, 2), 0.2)
    y_true[0, 0] = y_pred[0, 0] = 1
    plain, kind = (multilabel_report(y_true, y_pred, proba, classes="ab", zero_division=z) for z in (0.0, 1.0))
    rates = ["macro_f1", "samples_f1", "cp", "cr", "cf1"]
    assert [plain.averages[name] for name in rates] == [0.5, 1 / 3, 0.5, 0.5, 0.5]
    assert [kind.averages[name] for name in rates] == [1, 1, 1, 1, 1]
    assert kind.table.loc["b", ["precision", "recall", "f1"]].tolist() == [1, 1, 1]
    assert "count as 0 in the macro-F1" in " ".join(plain.text.split())
    assert "count as 0, or 1 where never predicted, in the macro-F1" in " ".join(kind.text.split())


def test_confusion_has_a_row_of_four_counts_for_each_class():
    confusion = multilabel_report(Y_TRUE, Y_PRED, PROBA, classes=CLASSES).confusion
    expected = pd.DataFrame(
        {"tn": [2, 1, 3], "fp": [0, 0, 1], "fn": [0, 1, 0], "tp": [2, 1, 0]}, index=pd.Index(CLASSES, name="class")
    )
    pd.testing.assert_frame_equal(confusion, expected, check_dtype=False)


def test_predicted_instead_names_what_is_missed_and_what_is_predicted():
    y_true, y_pred = [[1, 0, 0], [1, 0, 1], [0, 1, 0]], [[0, 1, 0], [0, 0, 1], [0, 1, 0]]
    report = multilabel_report(y_true, y_pred, np.full((3, 3), 0.5), classes=CLASSES)
    matrix = report.predicted_instead()
    assert (matrix.index.name, matrix.columns.name) == ("missed", "predicted")
    assert matrix.loc["sea"].to_dict() == {"sea": 0, "sunset": 1, "trees": 0}
    assert report.predicted_instead(normalize=True).loc["sea", "sunset"] == 0.5


def test_predicted_instead_can_be_drawn():
    y_true, y_pred, proba = draw(7)
    matrix = multilabel_report(y_true, y_pred, proba, classes=list("abcde")).predicted_instead()
    assert plot_confusion(matrix).axes[0].get_xticklabels()[0].get_text() == "a"


def test_intervals_are_those_of_bootstrap_interval():
    y_true, y_pred, proba = draw(8)
    y_true[::7, 1] = np.nan
    params = {"n_bootstraps": 60, "random_state": 4}
    report = multilabel_report(y_true, y_pred, proba, classes=range(5), **params)
    interval = partial(metrics.bootstrap_interval, y_true=y_true, **params)
    expected = {
        "macro_f1": interval(metrics.f1_score, predicted=y_pred),
        "micro_f1": interval(partial(metrics.f1_score, average="micro"), predicted=y_pred),
        "mAP": interval(metrics.mean_average_precision, predicted=proba),
    }
    assert list(report.intervals) == list(expected)
    for name, ends in expected.items():
        assert report.intervals[name] == pytest.approx(tuple(ends), rel=0, abs=1e-12)
    by_class = interval(partial(metrics.f1_score, average=None), predicted=y_pred)
    np.testing.assert_allclose(report.table[["f1_low", "f1_high"]].T, by_class, rtol=0, atol=1e-12)
    assert report.to_dict()["intervals"]["mAP"] == list(report.intervals["mAP"])
    assert report.to_dict()["n_bootstraps"] == 60


def test_text_shows_intervals_where_there_are_any_and_stays_within_100_columns():
    y_true, y_pred, proba = draw(9)
    y_true[:, 4] = np.nan
    params = {"classes": ["x" * 80, *"abcd"], "thresholds": 0.5, "n_bootstraps": 20}
    report = multilabel_report(y_true, y_pred, proba, **params)
    lines = report.text.split("\n")
    low, high = report.intervals["macro_f1"]
    assert lines[0].startswith(f"macro-F1 {report.averages['macro_f1']:.3f} [{low:.3f}, {high:.3f}] · micro-F1 0.")
    assert lines[2].endswith("     f1   f1 interval     AP")
    row = report.table.loc["a"]
    assert f"{row['f1']:.3f}  {row['f1_low']:.3f}, {row['f1_high']:.3f}  " in lines[4]
    assert lines[7].split()[-3:] == ["-", "-", "-"]  # nothing is known of it
    assert lines[-1] == "Note: intervals hold the middle 95 % of 20 resamples of the samples."
    assert max(map(len, lines)) <= 100
    assert "interval" not in multilabel_report(y_true, y_pred, proba, **(params | {"n_bootstraps": 0})).text


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
        (
            {"classes": CLASSES, "zero_division": "warn"},
            "The 'zero_division' parameter of multilabel_report must be a number >= 0 and <= 1. Got 'warn' instead.",
        ),
        (
            {"classes": CLASSES, "n_bootstraps": -1},
            "The 'n_bootstraps' parameter of multilabel_report must be an integer >= 0. Got -1 instead.",
        ),
    ],
)
def test_errors_say_what_to_do(params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        multilabel_report(Y_TRUE, Y_PRED, PROBA, **params)
