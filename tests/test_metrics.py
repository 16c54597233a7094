"""What holds for every metric, and the scorers made of them; the tests of the modules hold the numbers."""

import pickle
import re
from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from multilabelkit import metrics
from multilabelkit.errors import InputError

EXACT = {"rtol": 0, "atol": 1e-12}
OF_DECISIONS = {
    **{
        f"{name}-{average}": partial(getattr(metrics, f"{name}_score"), average=average)
        for name in ("f1", "precision", "recall")
        for average in ("macro", "micro", "samples", "weighted")
    },
    "cp_cr_cf1": metrics.cp_cr_cf1,
    "op_or_of1": metrics.op_or_of1,
    "binary_accuracy": metrics.binary_accuracy,
    "hamming_loss": metrics.hamming_loss,
    "subset_accuracy": metrics.subset_accuracy,
}
OF_SCORES = {
    "mean_average_precision": metrics.mean_average_precision,
    "label_ranking_average_precision": metrics.label_ranking_average_precision,
    "label_ranking_loss": metrics.label_ranking_loss,
    "coverage_error": metrics.coverage_error,
    "binary_cross_entropy": metrics.binary_cross_entropy,
    **{f"brier_score-{average}": partial(metrics.brier_score, average=average) for average in ("macro", "micro")},
    **{
        f"ece-{strategy}-{average}": partial(
            metrics.expected_calibration_error, average=average, strategy=strategy, n_bins=5
        )
        for strategy in ("quantile", "uniform")
        for average in ("macro", "micro")
    },
}
# Numbers by class: the function and which of its inputs it takes.
BY_CLASS = {
    "f1": (partial(metrics.f1_score, average=None), "y_pred"),
    "confusion": (metrics.multilabel_confusion_matrix, "y_pred"),
    "average_precision": (metrics.average_precision, "scores"),
    "brier_score": (partial(metrics.brier_score, average=None), "scores"),
    "ece": (partial(metrics.expected_calibration_error, average=None), "scores"),
}
ALL = {
    **{name: (measure, "y_pred") for name, measure in OF_DECISIONS.items()},
    **{name: (measure, "scores") for name, measure in OF_SCORES.items()},
}
EVERY = ALL | BY_CLASS | {"predicted_instead": (metrics.predicted_instead_matrix, "y_pred")}


def draw(seed):
    """Return labels of which some are unknown, what is predicted (scores have ties), and counts as weights."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 25), rng.integers(1, 6)
    y_true = (rng.random(shape) < rng.choice([0.0, 0.2, 0.5, 1.0], shape[1])).astype(float)
    y_true[rng.random(shape) < rng.choice([0.0, 0.3])] = np.nan
    scores = np.round(rng.random(shape), rng.integers(1, 4))
    return y_true, {"scores": scores, "y_pred": (scores >= 0.5).astype(int)}, rng.integers(0, 4, shape[0])


@pytest.mark.parametrize("name", EVERY)
def test_a_weight_is_a_number_of_copies_of_a_sample(name):
    measure, kind = EVERY[name]
    for seed in range(100):
        y_true, predicted, weight = draw(seed)
        found = measure(y_true, predicted[kind], sample_weight=weight)
        expected = measure(np.repeat(y_true, weight, axis=0), np.repeat(predicted[kind], weight, axis=0))
        np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("name", EVERY)
def test_the_order_of_the_samples_does_not_matter(name):
    measure, kind = EVERY[name]
    for seed in range(50):
        y_true, predicted, weight = draw(seed)
        order = np.random.default_rng(seed).permutation(len(y_true))
        found = measure(y_true[order], predicted[kind][order], sample_weight=weight[order])
        np.testing.assert_allclose(found, measure(y_true, predicted[kind], sample_weight=weight), **EXACT)


@pytest.mark.parametrize("name", ALL | BY_CLASS)
def test_the_order_of_the_classes_does_not_matter(name):
    measure, kind = (ALL | BY_CLASS)[name]
    for seed in range(50):
        y_true, predicted, weight = draw(seed)
        order = np.random.default_rng(seed).permutation(y_true.shape[1])
        found = measure(y_true[:, order], predicted[kind][:, order], sample_weight=weight)
        expected = measure(y_true, predicted[kind], sample_weight=weight)
        np.testing.assert_allclose(found, expected[order] if name in BY_CLASS else expected, **EXACT)


@pytest.mark.parametrize("name", EVERY)
def test_what_is_predicted_where_the_label_is_unknown_does_not_matter(name):
    measure, kind = EVERY[name]
    for seed in range(50):
        y_true, predicted, weight = draw(seed)
        other = np.where(np.isnan(y_true), 1 - predicted[kind], predicted[kind])
        found = measure(y_true, other, sample_weight=weight)
        np.testing.assert_array_equal(found, measure(y_true, predicted[kind], sample_weight=weight))


@pytest.mark.parametrize("name", ALL)
def test_where_nothing_is_known_the_answer_is_unknown(name):
    measure, _ = ALL[name]
    assert np.isnan(measure(np.full((3, 2), np.nan), np.zeros((3, 2)))).all()
    assert np.isnan(measure([[1], [0]], [[1], [0]], sample_weight=[0, 0])).all()


@pytest.mark.parametrize("name", EVERY)
def test_inputs_are_not_changed(name):
    measure, kind = EVERY[name]
    y_true, predicted, weight = draw(7)
    weight = weight.astype(float)
    copies = y_true.copy(), predicted[kind].copy(), weight.copy()
    measure(y_true, predicted[kind], sample_weight=weight)
    for array, copy in zip((y_true, predicted[kind], weight), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_all_lists_every_metric_in_order_and_each_can_be_imported():
    assert metrics.__all__ == sorted(metrics.__all__)
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)


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
    "cp": lambda y: metrics.cp_cr_cf1(y, PROBA >= 0.5).precision,
    "cr": lambda y: metrics.cp_cr_cf1(y, PROBA >= 0.5).recall,
    "cf1": lambda y: metrics.cp_cr_cf1(y, PROBA >= 0.5).f1,
    "op": lambda y: metrics.op_or_of1(y, PROBA >= 0.5).precision,
    "or": lambda y: metrics.op_or_of1(y, PROBA >= 0.5).recall,
    "of1": lambda y: metrics.op_or_of1(y, PROBA >= 0.5).f1,
    "label_ranking_average_precision": lambda y: metrics.label_ranking_average_precision(y, PROBA),
    "neg_label_ranking_loss": lambda y: -metrics.label_ranking_loss(y, PROBA),
    "neg_coverage_error": lambda y: -metrics.coverage_error(y, PROBA),
    "neg_brier_score": lambda y: -metrics.brier_score(y, PROBA),
    "neg_expected_calibration_error": lambda y: -metrics.expected_calibration_error(y, PROBA),
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


def test_scorer_hands_its_keywords_to_the_metric():
    classifier = Fixed(CLASSES, np.zeros((4, 3)))
    scorer = metrics.make_multilabel_scorer("f1_samples", zero_division=1.0)
    assert scorer(classifier, ROWS, TABLE) == 0.25  # the sample without labels is right
    assert metrics.make_multilabel_scorer("f1_samples")(classifier, ROWS, TABLE) == 0
    assert repr(scorer) == "make_multilabel_scorer('f1_samples', zero_division=1.0)"
    assert pickle.loads(pickle.dumps(scorer))(classifier, ROWS, TABLE) == 0.25
    binned = metrics.make_multilabel_scorer("neg_expected_calibration_error", n_bins=2, strategy="uniform")
    expected = metrics.expected_calibration_error(TABLE, PROBA, n_bins=2, strategy="uniform")
    assert binned(Fixed(CLASSES, PROBA), ROWS, TABLE) == -expected


# What scikit-learn's own classifiers return: (n, c) tables, or a list with an (n, 2) table for each label.
MODELS = {
    "one-vs-rest": OneVsRestClassifier(LogisticRegression()),
    "network": MLPClassifier((4,), max_iter=5, random_state=0),
    "chain": ClassifierChain(LogisticRegression()),
    "multi-output": MultiOutputClassifier(LogisticRegression()),
    "forest": RandomForestClassifier(5, random_state=0),
    "neighbours": KNeighborsClassifier(),
    "pipeline": make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)),
    "search": GridSearchCV(RandomForestClassifier(5, random_state=0), {"max_depth": [2]}, cv=2),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")
def test_scorer_takes_every_shape_of_probabilities_of_sklearn(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = (X[:, :3] + rng.normal(size=(60, 3)) > 0.3).astype(int)
    model = MODELS[name].fit(X, y)
    proba = model.predict_proba(X)
    proba = np.column_stack([table[:, 1] for table in proba]) if isinstance(proba, list) else proba
    found = metrics.make_multilabel_scorer("average_precision")(model, X, y)
    assert found == pytest.approx(metrics.mean_average_precision(y, proba), rel=0, abs=1e-12)
    assert metrics.make_multilabel_scorer("cf1")(model, X, y) == metrics.cp_cr_cf1(y, model.predict(X)).f1


def test_scorer_knows_labels_that_a_forest_saw_always_or_never():
    X = np.arange(12.0)[:, None]
    y = np.column_stack([np.ones(12), np.zeros(12), np.arange(12) > 5]).astype(int)
    forest = RandomForestClassifier(5, random_state=0).fit(X, y)
    assert [table.shape[1] for table in forest.predict_proba(X)] == [1, 1, 2]
    expected = np.column_stack([np.ones(12), np.zeros(12), forest.predict_proba(X)[2][:, 1]])
    found = metrics.make_multilabel_scorer("neg_brier_score")(forest, X, 1 - y)
    assert found == -metrics.brier_score(1 - y, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.make_multilabel_scorer("f1_makro"),
            "There is no metric 'f1_makro'. Did you mean 'f1_macro' or 'f1_micro' or 'recall_macro'? Known are: "
            "f1_macro, f1_micro, f1_samples, f1_weighted, precision_macro, precision_micro, precision_samples, "
            "precision_weighted, recall_macro, recall_micro, recall_samples, recall_weighted, cp, cr, cf1, op, or, "
            "of1, average_precision, label_ranking_average_precision, binary_accuracy, subset_accuracy, "
            "neg_hamming_loss, neg_label_ranking_loss, neg_coverage_error, neg_bce, neg_brier_score, "
            "neg_expected_calibration_error.",
        ),
        (
            lambda: metrics.make_multilabel_scorer("cf1", average="macro"),
            "The metric 'cf1' takes no keyword 'average'. It takes: zero_division.",
        ),
        (
            lambda: metrics.make_multilabel_scorer("neg_bce", n_bins=3),
            "The metric 'neg_bce' takes no keyword 'n_bins'. It takes none.",
        ),
        (
            lambda: metrics.make_multilabel_scorer("f1_samples", zero_division=2),
            "The 'zero_division' parameter of f1_score must be a number >= 0 and <= 1. Got 2 instead.",
        ),
        (
            lambda: metrics.make_multilabel_scorer()(
                MultiOutputClassifier(LogisticRegression()).fit([[0], [1]], [[0], [1]]), [[0]], [["sea"]]
            ),
            "MultiOutputClassifier keeps no class names, so that y must be a table with a column for each class, such "
            "as as_indicator(labels). Got [['sea']].",
        ),
    ],
)
def test_errors_say_what_to_do(call, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        call()
