"""scikit-learn's scorers, by name, on one, two and three classes: what they get right, and what they cannot do.

scikit-learn asks `type_of_target(classifier.classes_)` what kind of problem it has. It takes one or two class names for
a binary problem, three for a multi-class one, and never sees that the labels do not exclude each other. `LIMITS` pins
what follows from that; `make_multilabel_scorer` has none of these limits.
"""

import numpy as np
import pytest
import sklearn
import torch
from sklearn import metrics as reference
from sklearn.base import clone
from sklearn.metrics import get_scorer, make_scorer
from sklearn.model_selection import KFold, cross_val_score

from multilabelkit import MultiLabelImageClassifier, metrics
from multilabelkit.metrics import make_multilabel_scorer

# From 1.9 on, scikit-learn looks for the positive class 1 only where it sees a binary problem; before, always.
LOOKS_FOR_1_ALWAYS = tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 9)

# The columns of the labels: names, the integers of an array without names, from 1 on, and other integers.
COLUMNS = {
    "named": ["circle", "square", "triangle"],
    "counted": [0, 1, 2],
    "from-one": [1, 2, 3],
    "integer": [3, 7, 11],
}
CASES = [(kind, n_classes) for kind in COLUMNS for n_classes in (1, 2, 3)]
NAMED = [case for case in CASES if case[0] in ("named", "integer")]

# Scorer: (method, metric, keywords). The expected value is the metric of the method's output, computed here.
SCORERS = {
    f"{name}_{average}": ("predict", getattr(reference, f"{name}_score"), {"average": average})
    for name, averages in {
        "f1": ("macro", "micro", "samples", "weighted"),
        "precision": ("macro", "micro", "weighted"),
        "recall": ("macro", "micro", "weighted"),
        "jaccard": ("macro", "micro", "samples", "weighted"),
    }.items()
    for average in averages
} | {
    "accuracy": ("predict", reference.accuracy_score, {}),
    "average_precision": ("decision_function", reference.average_precision_score, {}),
    "roc_auc": ("decision_function", reference.roc_auc_score, {}),
}

# Images without any label make rows of 0 / 0, which scikit-learn counts as 0 with a warning.
ILL_DEFINED = pytest.mark.filterwarnings("ignore:.* is ill-defined:sklearn.exceptions.UndefinedMetricWarning")
NO_CLASS_1 = r"pos_label=1 is not a valid label: It should be one of \["
NO_SAMPLES = "Samplewise metrics are not available outside of multilabel classification."

# What makes our own number by hand, for every class count.
OURS = {
    **{
        f"{name}_{average}": ("predict", getattr(metrics, f"{name}_score"), {"average": average})
        for name in ("f1", "precision", "recall")
        for average in ("macro", "micro", "samples", "weighted")
    },
    "average_precision": ("predict_proba", metrics.mean_average_precision, {}),
    "binary_accuracy": ("predict", metrics.binary_accuracy, {}),
    "subset_accuracy": ("predict", metrics.subset_accuracy, {}),
}


def create_classifier():
    # Half of the images validate, so that no class has so few positives there that fit would warn.
    return MultiLabelImageClassifier(
        "small_cnn", image_size=32, max_epochs=1, batch_size=8, validation_fraction=0.5, num_workers=0, verbose=0,
        random_state=0,
    )  # fmt: skip


def select(target, kind, n_classes):
    """Return the labels of the first classes, under names of the wanted kind."""
    return target.iloc[:, :n_classes].set_axis(COLUMNS[kind][:n_classes], axis=1)


def find_limit(scorer, kind, n_classes):
    """Return the error by which scikit-learn's scorer refuses a case, or None where it works."""
    if n_classes == 1 and scorer.endswith("_samples"):
        return NO_SAMPLES
    if scorer == "average_precision" and (n_classes < 3 or LOOKS_FOR_1_ALWAYS):
        return None if 1 in COLUMNS[kind][:n_classes] else NO_CLASS_1
    return None


def compute_score(scorer, classifier, X, Y):
    """Compute by hand what the scorer of sklearn gives where it works."""
    method, metric, params = SCORERS[scorer]
    output = getattr(classifier, method)(X)
    # In a binary problem sklearn turns the scores over where the first class is the positive one: for average_precision
    # that is the class 1, for roc_auc the last class.
    positive = 1 if scorer == "average_precision" else Y.columns[-1]
    if method == "decision_function" and Y.shape[1] < 3 and Y.columns[0] == positive:
        output = -output
    return metric(Y.to_numpy(), output, **params)


def compute_our_score(metric, classifier, X, Y):
    """Compute by hand what our scorer gives."""
    method, measure, params = OURS[metric]
    return measure(Y, getattr(classifier, method)(X), **params)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(shapes):
    return list(shapes.images), shapes.target


@pytest.fixture(scope="module")
def fitted(data):
    """One classifier for each case."""
    X, target = data
    return {case: create_classifier().fit(X, select(target, *case)) for case in CASES}


@pytest.fixture(scope="module")
def folds(data):
    """For each case and fold a classifier fitted by hand, with the images and labels it has not seen."""
    X, target = data
    classifiers = {}
    for case in NAMED:
        Y = select(target, *case)
        classifiers[case] = [
            (create_classifier().fit([X[row] for row in train], Y.iloc[train]), [X[row] for row in test], Y.iloc[test])
            for train, test in KFold(2).split(X)
        ]
    return classifiers


@pytest.mark.parametrize(("kind", "n_classes"), CASES)
@pytest.mark.parametrize("scorer", SCORERS)
@ILL_DEFINED
def test_scorer_equals_the_metric_or_raises_as_pinned(scorer, kind, n_classes, data, fitted):
    X, Y, classifier = data[0], select(data[1], kind, n_classes), fitted[kind, n_classes]
    limit = find_limit(scorer, kind, n_classes)
    if limit is not None:
        with pytest.raises(ValueError, match=limit):
            get_scorer(scorer)(classifier, X, Y)
        return
    assert get_scorer(scorer)(classifier, X, Y) == compute_score(scorer, classifier, X, Y)


@pytest.mark.parametrize(("kind", "n_classes"), NAMED)
@pytest.mark.parametrize("scorer", ["f1_macro", "f1_samples", "average_precision", "roc_auc", "accuracy"])
@ILL_DEFINED
def test_cross_val_score_equals_a_loop_by_hand_or_warns_and_gives_nan(scorer, kind, n_classes, data, folds):
    X, Y = data[0], select(data[1], kind, n_classes)
    limit = find_limit(scorer, kind, n_classes)
    if limit is not None:
        with pytest.warns(UserWarning, match=f"(?s)Scoring failed.*{limit}"):
            scores = cross_val_score(create_classifier(), X, Y, scoring=scorer, cv=KFold(2))
        assert np.isnan(scores).all()
        return
    scores = cross_val_score(create_classifier(), X, Y, scoring=scorer, cv=KFold(2))
    assert scores.tolist() == [compute_score(scorer, *fold) for fold in folds[kind, n_classes]]


@pytest.mark.parametrize(("kind", "n_classes"), CASES)
@pytest.mark.parametrize("metric", OURS)
def test_our_scorer_works_in_every_case_and_equals_the_metric(metric, kind, n_classes, data, fitted):
    X, Y, classifier = data[0], select(data[1], kind, n_classes), fitted[kind, n_classes]
    expected = compute_our_score(metric, classifier, X, Y)
    assert make_multilabel_scorer(metric)(classifier, X, Y) == expected
    assert np.isfinite(expected)


@pytest.mark.parametrize(("kind", "n_classes"), NAMED)
@pytest.mark.parametrize("metric", ["f1_macro", "average_precision"])
def test_cross_val_score_with_our_scorer_equals_a_loop_by_hand(metric, kind, n_classes, data, folds):
    X, Y = data[0], select(data[1], kind, n_classes)
    scores = cross_val_score(create_classifier(), X, Y, scoring=make_multilabel_scorer(metric), cv=KFold(2))
    assert scores.tolist() == [compute_our_score(metric, *fold) for fold in folds[kind, n_classes]]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", ["f1_macro", "f1_micro", "f1_samples", "f1_weighted"])
@ILL_DEFINED
def test_our_scorer_agrees_with_that_of_sklearn_from_two_classes_on(name, n_classes, data, fitted):
    X, Y, classifier = data[0], select(data[1], "named", n_classes), fitted["named", n_classes]
    ours, theirs = make_multilabel_scorer(name)(classifier, X, Y), get_scorer(name)(classifier, X, Y)
    assert ours == pytest.approx(theirs, abs=1e-12)


def test_one_class_is_a_binary_problem_to_the_rates_of_sklearn(data, fitted):
    """With one column, f1_macro averages over present and absent, and f1_micro is the accuracy."""
    X, Y, classifier = data[0], select(data[1], "named", 1), fitted["named", 1]
    truth, decided = Y.to_numpy().ravel(), classifier.predict(X).ravel()
    present = reference.f1_score(truth, decided)
    absent = reference.f1_score(1 - truth, 1 - decided, zero_division=0.0)
    assert get_scorer("f1_macro")(classifier, X, Y) == pytest.approx((present + absent) / 2)
    assert get_scorer("f1_micro")(classifier, X, Y) == np.mean(truth == decided)
    assert make_multilabel_scorer("f1_macro")(classifier, X, Y) == pytest.approx(present)
    assert classifier.score(X, Y) == pytest.approx(present)


def test_roc_auc_is_upside_down_with_one_class(data, fitted):
    """Note: a search would choose the worst model. `neg_bce` and `average_precision` of ours are right."""
    X, Y, classifier = data[0], select(data[1], "named", 1), fitted["named", 1]
    right = reference.roc_auc_score(Y, classifier.decision_function(X))
    assert get_scorer("roc_auc")(classifier, X, Y) == pytest.approx(1 - right)
    assert right > 0.6


@pytest.mark.parametrize("n_classes", [1, 2])
def test_average_precision_is_upside_down_where_the_first_of_two_classes_is_the_number_1(n_classes, data, fitted):
    X, Y, classifier = data[0], select(data[1], "from-one", n_classes), fitted["from-one", n_classes]
    found = get_scorer("average_precision")(classifier, X, Y)
    assert found == reference.average_precision_score(Y, -classifier.decision_function(X))
    assert make_multilabel_scorer("average_precision")(classifier, X, Y) > found + 0.01


@pytest.mark.parametrize("scorer", ["f1", "precision", "recall", "jaccard"])
def test_scorers_without_an_average_refuse_several_labels(scorer, data, fitted):
    """Three counted classes; one or two names fail already at the positive class."""
    Y = select(data[1], "counted", 3)
    with pytest.raises(ValueError, match="Target is multilabel-indicator but average='binary'"):
        get_scorer(scorer)(fitted["counted", 3], data[0], Y)


@pytest.mark.parametrize("scorer", ["balanced_accuracy", "matthews_corrcoef"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_scorers_for_exclusive_classes_refuse_several_labels(scorer, n_classes, data, fitted):
    Y = select(data[1], "named", n_classes)
    with pytest.raises(ValueError, match="multilabel-indicator is not supported"):
        get_scorer(scorer)(fitted["named", n_classes], data[0], Y)


@pytest.mark.parametrize("n_classes", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:The y_.* values do not sum to one:UserWarning")
def test_neg_log_loss_fails_or_gives_a_number_that_means_nothing(n_classes, data, fitted):
    """It takes the classes to exclude each other: two for one probability, three for a distribution."""
    X, Y, classifier = data[0], select(data[1], "named", n_classes), fitted["named", n_classes]
    right = make_multilabel_scorer("neg_bce")(classifier, X, Y)
    assert right == pytest.approx(-reference.log_loss(Y.to_numpy().ravel(), classifier.predict_proba(X).ravel()), 1e-6)
    if n_classes == 1:
        with pytest.raises(ValueError, match=r"Got predict_proba of shape \(48, 1\)"):
            get_scorer("neg_log_loss")(classifier, X, Y)
    else:
        assert abs(get_scorer("neg_log_loss")(classifier, X, Y) - right) > 0.01


def test_scorer_of_your_own_has_the_same_limit_with_two_names(data, fitted):
    """Also `make_scorer` looks for the class 1; a plain function scorer(estimator, X, y) does not."""
    X, Y, classifier = data[0], select(data[1], "named", 2), fitted["named", 2]
    scorer = make_scorer(reference.average_precision_score, response_method="predict_proba")
    with pytest.raises(ValueError, match=NO_CLASS_1):
        scorer(classifier, X, Y)

    def measure(estimator, X, y):
        return reference.average_precision_score(y, estimator.predict_proba(X))

    assert make_multilabel_scorer("average_precision")(classifier, X, Y) == pytest.approx(measure(classifier, X, Y))


def test_two_names_given_as_an_array_work_in_average_precision(data, fitted):
    """An array has no names, so that its second class is 1."""
    X, Y = data[0], select(data[1], "named", 2).to_numpy()
    classifier = clone(fitted["named", 2]).fit(X, Y)
    expected = reference.average_precision_score(Y, classifier.decision_function(X))
    assert get_scorer("average_precision")(classifier, X, Y) == expected


def test_limits_are_those_of_the_page():
    """The page for users names every scorer that fails in one of the cases."""
    failing = {scorer for scorer in SCORERS for case in CASES if find_limit(scorer, *case) is not None}
    assert failing == {"average_precision", "f1_samples", "jaccard_samples"}
