import json
import re

import numpy as np
import pandas as pd
import pytest

from multilabelkit import metrics
from multilabelkit.bootstrap import draw_weights
from multilabelkit.errors import InputError
from multilabelkit.report import MultiLabelReport, ReportComparison, compare, multilabel_report

CLASSES = ["sea", "sunset", "trees"]


def draw(n_samples=200, seed=0):
    """Return labels, some unknown, and the probabilities of two classifiers of which the second is better."""
    rng = np.random.default_rng(seed)
    y_true = (rng.random((n_samples, 3)) < [0.1, 0.3, 0.5]).astype(float)
    shared = rng.normal(size=y_true.shape)
    logits = [skill * (y_true - 0.5) + shared + 0.3 * rng.normal(size=y_true.shape) for skill in (1.0, 1.6)]
    y_true[rng.random(y_true.shape) < 0.1] = np.nan
    return y_true, *(1 / (1 + np.exp(-table)) for table in logits)


def report(y_true, proba, *, classes=CLASSES, **params):
    return multilabel_report(y_true, proba >= 0.5, proba, classes=classes, **params)


def test_differences_and_intervals_equal_those_of_copied_rows():
    y_true, a, b = draw()
    comparison = compare(report(y_true, a), report(y_true, b), n_bootstraps=40, random_state=5)

    def measure(rows, proba):
        truth, decided = y_true[rows], proba[rows] >= 0.5
        headline = [
            metrics.f1_score(truth, decided),
            metrics.f1_score(truth, decided, average="micro"),
            metrics.mean_average_precision(truth, proba[rows]),
        ]
        return np.array([*headline, *metrics.f1_score(truth, decided, average=None)])

    seed = np.random.RandomState(5).randint(2**31 - 1)
    weights = np.concatenate(list(draw_weights(200, n_bootstraps=40, random_state=seed)))
    resamples = [np.repeat(np.arange(200), weight.astype(int)) for weight in weights]
    differences = np.array([measure(rows, b) - measure(rows, a) for rows in resamples])
    everything = np.arange(200)
    expected = pd.DataFrame(
        {
            "a": measure(everything, a),
            "b": measure(everything, b),
            "difference": measure(everything, b) - measure(everything, a),
            "low": np.quantile(differences, 0.025, axis=0),
            "high": np.quantile(differences, 0.975, axis=0),
        },
    )
    found = pd.concat([comparison.averages, comparison.table])
    assert found.index.tolist() == ["macro_f1", "micro_f1", "mAP", *CLASSES]
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected, rtol=0, atol=1e-12)


def test_the_better_classifier_is_seen_to_be_better_where_separate_intervals_overlap():
    y_true, a, b = draw()
    reports = [report(y_true, proba, n_bootstraps=300) for proba in (a, b)]
    assert reports[0].intervals["macro_f1"][1] > reports[1].intervals["macro_f1"][0]
    assert compare(*reports, n_bootstraps=300).averages.loc["macro_f1", "low"] > 0


def test_a_report_does_not_differ_from_itself():
    y_true, a, _ = draw()
    comparison = compare(report(y_true, a), report(y_true, a, thresholds=0.5), n_bootstraps=10)
    for table in (comparison.averages, comparison.table):
        assert (table[["difference", "low", "high"]] == 0).all(axis=None)


def test_swapped_reports_give_the_opposite():
    y_true, a, b = draw()
    one, other = report(y_true, a), report(y_true, b)
    for random_state in (3, np.random.RandomState(3)):
        there = compare(one, other, n_bootstraps=50, random_state=3).table
        back = compare(other, one, n_bootstraps=50, random_state=random_state).table
        np.testing.assert_allclose(back["difference"], -there["difference"])
        np.testing.assert_allclose(back[["low", "high"]], -there[["high", "low"]])


def test_text_shows_the_headline_the_classes_and_how_to_read_them():
    averages = pd.DataFrame(
        {"a": [0.5, 0.6, np.nan], "b": [0.7, 0.5, np.nan], "difference": [0.2, -0.1, np.nan]},
        index=["macro_f1", "micro_f1", "mAP"],
    ).assign(low=[0.1, -0.2, np.nan], high=[0.3, 0.05, np.nan])
    table = pd.DataFrame(
        {"a": [0.5, 0.25, np.nan], "b": [0.75, 0.0, np.nan], "difference": [0.25, -0.25, np.nan]},
        index=pd.Index(CLASSES, name="class"),
    ).assign(low=[0.125, -0.5, np.nan], high=[0.5, -0.125, np.nan])
    comparison = ReportComparison(averages, table, n_samples=320, n_bootstraps=1000)
    assert str(comparison) == comparison.text
    assert comparison.text.split("\n") == [
        "              a      b   b - a   95 % interval",
        "macro-F1  0.500  0.700  +0.200  +0.100, +0.300",
        "micro-F1  0.600  0.500  -0.100  -0.200, +0.050",
        "mAP           -      -       -               -",
        "",
        "F1 of class      a      b   b - a   95 % interval",
        "sea          0.500  0.750  +0.250  +0.125, +0.500",
        "sunset       0.250  0.000  -0.250  -0.500, -0.125",
        "trees            -      -       -               -",
        "",
        "Differences are b - a on the same 320 samples, with the 95 % interval of 1000 resamples, drawn alike",
        "for both. The interval leaves out 0 in 2 of 2 classes; if nothing differed but by chance, 0.1 would",
        "be expected.",
    ]
    assert repr(comparison) == "<ReportComparison of 3 classes: macro-F1 +0.200 · micro-F1 -0.100 · mAP +nan>"


def test_to_dict_survives_json_and_to_frame_is_a_copy():
    y_true, a, b = draw()
    y_true[:, 2] = np.nan
    comparison = compare(report(y_true, a), report(y_true, b), n_bootstraps=5)
    found = comparison.to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert list(found) == ["averages", "classes", "n_samples", "n_bootstraps"]
    assert (found["n_samples"], found["n_bootstraps"]) == (200, 5)
    assert found["averages"]["mAP"]["difference"] > 0
    assert found["classes"][2] == {"class": "trees", **dict.fromkeys(["a", "b", "difference", "low", "high"])}
    frame = comparison.to_frame()
    frame["a"] = 0.0
    assert comparison.table.loc["sea", "a"] > 0


Y_TRUE, A, B = draw(12)
REPORT = report(Y_TRUE, A)
CHANGED = np.where(np.arange(36).reshape(12, 3) % 18 == 4, 1 - np.nan_to_num(Y_TRUE), Y_TRUE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: compare(REPORT, REPORT.averages["mAP"] * 0),
            "compare takes two reports, as multilabel_report or evaluate returned them. report_b is 0.0.",
        ),
        (
            lambda: compare(MultiLabelReport(REPORT.table, REPORT.averages), REPORT),
            f"compare takes two reports, as multilabel_report or evaluate returned them. report_a is {REPORT!r}.",
        ),
        (
            lambda: compare(REPORT, report(Y_TRUE, B, classes=["sea", "trees", "sunset"])),
            "The reports are of other classes: ['sea', 'sunset', 'trees'] in report_a, ['sea', 'trees', 'sunset'] in "
            "report_b. Measure both with the same classes in the same order.",
        ),
        (
            lambda: compare(REPORT, report(Y_TRUE[:4], B[:4])),
            "The reports are of other samples or labels: 12 in report_a, 4 in report_b. Measure both on the same "
            "samples in the same order.",
        ),
        (
            lambda: compare(REPORT, report(CHANGED, B)),
            "The reports are of other samples or labels: 2 of 36 labels differ, the first in row 1, class 'sunset'. "
            "Measure both on the same samples in the same order.",
        ),
        (
            lambda: compare(REPORT, report(Y_TRUE, B, zero_division=1.0)),
            "The reports count 0 / 0 as 0 (report_a) and 1 (report_b). Measure both with the same zero_division.",
        ),
        (
            lambda: compare(REPORT, REPORT, n_bootstraps=0),
            "The 'n_bootstraps' parameter of compare must be an integer >= 1. Got 0 instead.",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()


def test_an_unknown_label_is_not_an_absent_one():
    absent = np.nan_to_num(Y_TRUE)
    n_unknown = np.isnan(Y_TRUE).sum()
    with pytest.raises(InputError, match=rf"other samples or labels: {n_unknown} of 36 labels differ"):
        compare(REPORT, report(absent, B))
