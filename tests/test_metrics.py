import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as reference
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier

from multilabelkit import metrics
from multilabelkit.errors import InputError

EXACT = {"rtol": 0, "atol": 1e-12}
N_MATRICES = 300
RATES = {
    metrics.f1_score: reference.f1_score,
    metrics.precision_score: reference.precision_score,
    metrics.recall_score: reference.recall_score,
}
AVERAGES = ["macro", "micro", "samples", "weighted", None]


def draw(seed):
    """Return a table of labels, scores with ties, decisions and weights, with absent and full classes among them."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, 30), rng.integers(2, 7)  # sklearn wants two columns for a multi-label table
    y_true = (rng.random(shape) < rng.choice([0.0, 0.1, 0.4, 1.0], shape[1])).astype(float)
    scores = np.round(rng.random(shape), rng.integers(1, 4))
    return y_true, scores, (scores >= rng.random(shape[1])).astype(int), rng.integers(0, 4, shape[0]) + 0.5


def hide(y_true, seed, share=0.3):
    return np.where(np.random.default_rng(seed).random(y_true.shape) < share, np.nan, y_true)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("ours", RATES, ids=lambda ours: ours.__name__)
def test_rates_equal_sklearn_on_random_matrices(ours, average):
    for seed in range(N_MATRICES):
        y_true, _, y_pred, weight = draw(seed)
        params = {"average": average, "zero_division": seed % 2, "sample_weight": weight if seed % 3 else None}
        expected = RATES[ours](y_true, y_pred, **(params | {"zero_division": float(seed % 2)}))
        np.testing.assert_allclose(ours(y_true, y_pred, **params), expected, **EXACT)


@pytest.mark.parametrize("weighted", [False, True])
def test_cell_and_row_metrics_equal_sklearn_on_random_matrices(weighted):
    for seed in range(N_MATRICES):
        y_true, scores, y_pred, weight = draw(seed)
        params = {"sample_weight": weight if weighted else None}
        cells = {"sample_weight": np.repeat(weight, y_true.shape[1])} if weighted else {}
        pairs = [
            (metrics.hamming_loss(y_true, y_pred, **params), reference.hamming_loss(y_true, y_pred, **params)),
            (
                metrics.binary_accuracy(y_true, y_pred, **params),
                reference.accuracy_score(y_true.ravel(), y_pred.ravel(), **cells),
            ),
            (metrics.subset_accuracy(y_true, y_pred, **params), reference.accuracy_score(y_true, y_pred, **params)),
            (
                metrics.binary_cross_entropy(y_true, scores, **params),
                reference.log_loss(y_true.ravel(), scores.ravel(), labels=[0, 1], **cells),
            ),
        ]
        for ours, expected in pairs:
            assert ours == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_average_precision_equals_sklearn_with_ties_and_unknown_labels(weighted):
    for seed in range(N_MATRICES):
        y_true, scores, _, weight = draw(seed)
        y_true = hide(y_true, seed)
        ours = metrics.average_precision(y_true, scores, sample_weight=weight if weighted else None)
        for place, (truth, score) in enumerate(zip(y_true.T, scores.T, strict=True)):
            known = ~np.isnan(truth)
            if not np.any(truth == 1):
                assert np.isnan(ours[place])
                continue
            params = {"sample_weight": weight[known]} if weighted else {}
            expected = reference.average_precision_score(truth[known], score[known], **params)
            assert ours[place] == pytest.approx(expected, rel=0, abs=1e-12)


def test_average_precision_of_a_worked_example():
    # ranks: hit, miss, hit -> (1/1 + 2/3) / 2
    assert metrics.average_precision([[1], [0], [1]], [[0.9], [0.8], [0.7]])[0] == pytest.approx(5 / 6)


def test_average_precision_of_equal_scores_is_the_share_of_positives():
    assert metrics.average_precision([[1], [0], [0], [0]], [[0.3]] * 4)[0] == pytest.approx(0.25)


def test_average_precision_takes_logits():
    y_true, scores, _, _ = draw(3)
    logits = scores * 20 - 10
    np.testing.assert_array_equal(metrics.average_precision(y_true, logits), metrics.average_precision(y_true, scores))


def test_mean_average_precision_skips_classes_without_positives():
    y_true, scores = [[1, 0, 1], [0, 0, 0]], [[0.9, 0.1, 0.2], [0.8, 0.2, 0.7]]
    assert metrics.mean_average_precision(y_true, scores) == pytest.approx((1 + 0.5) / 2)
    assert np.isnan(metrics.mean_average_precision(np.zeros((2, 3)), scores))


@pytest.mark.parametrize("ours", RATES, ids=lambda ours: ours.__name__)
def test_unknown_labels_are_left_out_of_each_class(ours):
    for seed in range(100):
        y_true, _, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed)
        scores = ours(y_true, y_pred, average=None)
        for place, score in enumerate(scores):
            known = ~np.isnan(y_true[:, place])
            if not known.any():
                assert np.isnan(score)
                continue
            expected = RATES[ours](y_true[known, place], y_pred[known, place], zero_division=0.0)
            assert score == pytest.approx(expected, rel=0, abs=1e-12)
        if not np.isnan(scores).all():
            assert ours(y_true, y_pred) == pytest.approx(np.nanmean(scores), rel=0, abs=1e-12)


@pytest.mark.parametrize("ours", RATES, ids=lambda ours: ours.__name__)
def test_unknown_labels_are_left_out_of_each_sample(ours):
    for seed in range(25):
        y_true, _, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed, share=0.6)
        rows = [(truth[~np.isnan(truth)], pred[~np.isnan(truth)]) for truth, pred in zip(y_true, y_pred, strict=True)]
        expected = [RATES[ours](truth, pred, zero_division=0.0) for truth, pred in rows if len(truth)]
        assert ours(y_true, y_pred, average="samples") == pytest.approx(np.mean(expected), rel=0, abs=1e-12)


def test_unknown_labels_are_left_out_of_pooled_numbers():
    for seed in range(100):
        y_true, scores, y_pred, _ = draw(seed)
        y_true = hide(y_true, seed)
        known = ~np.isnan(y_true)
        if not known.any():
            continue
        truth, pred, score = y_true[known], y_pred[known], scores[known]
        pairs = [
            (metrics.f1_score(y_true, y_pred, average="micro"), reference.f1_score(truth, pred, zero_division=0.0)),
            (metrics.binary_accuracy(y_true, y_pred), np.mean(truth == pred)),
            (metrics.hamming_loss(y_true, y_pred), np.mean(truth != pred)),
            (
                metrics.binary_cross_entropy(y_true, score_table(y_true, score)),
                reference.log_loss(truth, score, labels=[0, 1]),
            ),
        ]
        for ours, expected in pairs:
            assert ours == pytest.approx(expected, rel=0, abs=1e-12)


def score_table(y_true, known_scores):
    """Put known scores back into their cells; the others must not matter."""
    table = np.full(y_true.shape, 0.123)
    table[~np.isnan(y_true)] = known_scores
    return table


def test_subset_accuracy_asks_for_the_known_labels_and_skips_unknown_samples():
    y_true = [[1, np.nan], [np.nan, np.nan], [0, 1]]
    assert metrics.subset_accuracy(y_true, [[1, 1], [0, 0], [0, 0]]) == 0.5


def test_a_sample_without_labels_that_gets_none_counts_as_zero_division():
    y_true, y_pred = [[0, 0], [1, 0]], [[0, 0], [1, 0]]
    assert metrics.f1_score(y_true, y_pred, average="samples") == 0.5
    assert metrics.f1_score(y_true, y_pred, average="samples", zero_division=1.0) == 1.0


@pytest.mark.parametrize("measure", [*RATES, metrics.hamming_loss, metrics.binary_accuracy, metrics.subset_accuracy])
def test_metrics_of_decisions_are_nan_where_nothing_is_known(measure):
    assert np.isnan(measure(np.full((3, 2), np.nan), np.zeros((3, 2))))


def test_metrics_of_scores_are_nan_where_nothing_is_known():
    y_true, proba = np.full((3, 2), np.nan), np.zeros((3, 2))
    assert np.isnan(metrics.binary_cross_entropy(y_true, proba))
    assert np.isnan(metrics.mean_average_precision(y_true, proba))


@pytest.mark.parametrize("average", AVERAGES)
def test_weight_zero_is_as_good_as_absent(average):
    for seed in range(50):
        y_true, scores, y_pred, weight = draw(seed)
        y_true, weight[1:2] = hide(y_true, seed), 0
        keep = weight > 0
        ours = metrics.f1_score(y_true, y_pred, average=average, sample_weight=weight)
        expected = metrics.f1_score(y_true[keep], y_pred[keep], average=average, sample_weight=weight[keep])
        np.testing.assert_allclose(ours, expected, **EXACT)
        np.testing.assert_allclose(
            metrics.average_precision(y_true, scores, sample_weight=weight),
            metrics.average_precision(y_true[keep], scores[keep], sample_weight=weight[keep]),
            **EXACT,
        )


def test_binary_cross_entropy_stays_finite_and_clips_as_sklearn_does():
    y_true = np.array([[1.0, 0.0], [0.0, 1.0]])
    for dtype in (np.float32, np.float64):
        wrong = (1 - y_true).astype(dtype)
        expected = reference.log_loss(y_true.ravel(), wrong.ravel(), labels=[0, 1])
        assert metrics.binary_cross_entropy(y_true, wrong) == pytest.approx(expected, rel=1e-6)


def test_one_class_works_like_many():
    y_true, y_pred = [[1], [0], [1]], [[1], [1], [0]]
    for average in AVERAGES[:-1]:
        assert metrics.f1_score(y_true, y_pred, average=average) == pytest.approx(
            0.5 if average != "samples" else 1 / 3
        )


def test_metrics_take_data_frames():
    y_true, _, y_pred, _ = draw(0)
    expected = metrics.f1_score(y_true, y_pred)
    assert metrics.f1_score(pd.DataFrame(y_true), pd.DataFrame(y_pred)) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.f1_score([[1]], [[1]], average="makro"),
            "The 'average' parameter of f1_score must be 'macro', 'micro', 'samples', 'weighted' or None. "
            "Got 'makro' instead.",
        ),
        (
            lambda: metrics.recall_score([[1]], [[1]], zero_division="warn"),
            "The 'zero_division' parameter of recall_score must be a number >= 0 and <= 1. Got 'warn' instead.",
        ),
        (
            lambda: metrics.f1_score([[1, 0]], [[1, 0.7]]),
            "y_pred must hold only 0 and 1. Got 0.7 at row 0, column 1; "
            "turn probabilities into decisions with apply_thresholds(proba, thresholds).",
        ),
        (
            lambda: metrics.hamming_loss([[1, 0]], [[1]]),
            "y_true and y_pred must have the same shape. Got (1, 2) and (1, 1).",
        ),
        (
            lambda: metrics.average_precision([[1], [0]], [[0.1], [np.inf]]),
            "scores must be finite. Got inf at row 1, column 0.",
        ),
        (
            lambda: metrics.binary_cross_entropy([[1], [0]], [[0.1], [1.5]]),
            "proba must be in [0, 1]. Got 1.5 at row 1, column 0.",
        ),
        (
            lambda: metrics.subset_accuracy([[1], [0]], [[1], [0]], sample_weight=[1]),
            "sample_weight must have the shape (2,) of the samples. Got (1,).",
        ),
        (
            lambda: metrics.f1_score([[1], [0]], [[1], [0]], sample_weight=[1, -2]),
            "sample_weight must be finite and >= 0. Got -2 at row 1.",
        ),
        (
            lambda: metrics.make_multilabel_scorer("f1_makro"),
            "There is no metric 'f1_makro'. Did you mean 'f1_macro' or 'f1_micro' or 'recall_macro'? Known are: "
            "f1_macro, f1_micro, f1_samples, f1_weighted, precision_macro, precision_micro, precision_samples, "
            "precision_weighted, recall_macro, recall_micro, recall_samples, recall_weighted, average_precision, "
            "binary_accuracy, subset_accuracy, neg_hamming_loss, neg_bce.",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()


class Fixed:
    """A fitted classifier that predicts what it was given."""

    def __init__(self, classes, proba, label_sep=None):
        self.classes_, self.proba, self.label_sep = np.array(classes, dtype=object), np.asarray(proba), label_sep

    def predict_proba(self, X):
        return self.proba[X]

    def predict(self, X):
        return (self.predict_proba(X) >= 0.5).astype(np.int64)


CLASSES = ["sea", "sunset", "trees"]
TABLE = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]])
PROBA = np.array([[0.9, 0.4, 0.3], [0.2, 0.7, 0.6], [0.6, 0.1, 0.2], [0.8, 0.3, 0.1]])
ROWS = np.arange(4)
EXPECTED = {
    "f1_macro": lambda y: metrics.f1_score(y, PROBA >= 0.5),
    "f1_micro": lambda y: metrics.f1_score(y, PROBA >= 0.5, average="micro"),
    "f1_samples": lambda y: metrics.f1_score(y, PROBA >= 0.5, average="samples"),
    "f1_weighted": lambda y: metrics.f1_score(y, PROBA >= 0.5, average="weighted"),
    "precision_macro": lambda y: metrics.precision_score(y, PROBA >= 0.5),
    "precision_micro": lambda y: metrics.precision_score(y, PROBA >= 0.5, average="micro"),
    "recall_macro": lambda y: metrics.recall_score(y, PROBA >= 0.5),
    "recall_micro": lambda y: metrics.recall_score(y, PROBA >= 0.5, average="micro"),
    "average_precision": lambda y: metrics.mean_average_precision(y, PROBA),
    "binary_accuracy": lambda y: metrics.binary_accuracy(y, PROBA >= 0.5),
    "subset_accuracy": lambda y: metrics.subset_accuracy(y, PROBA >= 0.5),
    "neg_hamming_loss": lambda y: -metrics.hamming_loss(y, PROBA >= 0.5),
    "neg_bce": lambda y: -metrics.binary_cross_entropy(y, PROBA),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_scorer_measures_what_its_name_says(name):
    scorer = metrics.make_multilabel_scorer(name)
    assert scorer(Fixed(CLASSES, PROBA), ROWS, TABLE) == EXPECTED[name](TABLE)


@pytest.mark.parametrize(
    "y",
    [
        [["sea", "trees"], ["sunset"], [], ["sunset", "sea"]],
        [{"sea", "trees"}, {"sunset"}, set(), {"sea", "sunset"}],
        pd.DataFrame(TABLE, columns=CLASSES)[["trees", "sea", "sunset"]],
        TABLE,
        TABLE * 2 - 1,
        [dict(zip(CLASSES, row, strict=True)) for row in TABLE.tolist()],
    ],
    ids=["lists", "sets", "frame in another order", "array", "minus one", "dicts"],
)
def test_scorer_takes_any_label_format(y):
    score = metrics.make_multilabel_scorer()(Fixed(CLASSES, PROBA), ROWS, y)
    assert score == EXPECTED["f1_macro"](TABLE)


def test_scorer_splits_strings_as_the_estimator_does():
    y = ["sea|trees", "sunset", "", "sunset|sea"]
    score = metrics.make_multilabel_scorer()(Fixed(CLASSES, PROBA, label_sep="|"), ROWS, y)
    assert score == EXPECTED["f1_macro"](TABLE)


def test_scorer_leaves_unknown_labels_out():
    y_true = TABLE.astype(float)
    y_true[3, 1] = np.nan
    score = metrics.make_multilabel_scorer()(Fixed(CLASSES, PROBA), ROWS, y_true)
    assert score == EXPECTED["f1_macro"](y_true) != EXPECTED["f1_macro"](TABLE)


def test_scorer_passes_sample_weight_on():
    weight = [3.0, 1.0, 1.0, 2.0]
    score = metrics.make_multilabel_scorer("f1_micro")(Fixed(CLASSES, PROBA), ROWS, TABLE, sample_weight=weight)
    assert score == metrics.f1_score(TABLE, PROBA >= 0.5, average="micro", sample_weight=weight)


@pytest.mark.parametrize("name", EXPECTED)
def test_scorer_survives_pickling(name):
    scorer = pickle.loads(pickle.dumps(metrics.make_multilabel_scorer(name)))
    assert scorer(Fixed(CLASSES, PROBA), ROWS, TABLE) == EXPECTED[name](TABLE)
    assert repr(scorer) == f"make_multilabel_scorer({name!r})"


def test_scorer_works_in_cross_val_score():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, :3] > 0).astype(int)
    model = OneVsRestClassifier(LogisticRegression())
    ours = cross_val_score(model, X, y, scoring=metrics.make_multilabel_scorer("f1_macro"), cv=3)
    np.testing.assert_allclose(ours, cross_val_score(model, X, y, scoring="f1_macro", cv=3), **EXACT)


def test_metrics_do_not_warn_about_absent_classes():
    y_true = np.zeros((4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.f1_score(y_true, y_true)
        metrics.mean_average_precision(y_true, y_true)
