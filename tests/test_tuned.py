import pickle
import re

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import sparse
from scipy.special import logit
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.exceptions import NotFittedError, UnsetMetadataPassedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.metrics import f1_score as sklearn_f1
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RepeatedKFold, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator

from multilabelkit import MultiLabelImageClassifier, MultiLabelLogisticRegression, as_labels
from multilabelkit.calibration import Calibrator
from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.metrics import f1_score, make_multilabel_scorer
from multilabelkit.model_selection import MultiLabelStratifiedKFold, MultiLabelStratifiedShuffleSplit
from multilabelkit.thresholds import threshold_report, tune_thresholds
from multilabelkit.tuned import MultiLabelThresholdsCV

NAN = float("nan")
NAMES = ["sea", "sun", "trees"]
TABLES = {
    "one-vs-rest": OneVsRestClassifier(LogisticRegression()),
    "chain": ClassifierChain(LogisticRegression(), random_state=0),
    "mlp": make_pipeline(
        StandardScaler(), MLPClassifier((8,), solver="lbfgs", max_iter=1000, alpha=1.0, random_state=0)
    ),
}
LISTS = {
    "multi-output": MultiOutputClassifier(GaussianNB()),
    "forest": RandomForestClassifier(5, random_state=0),
    "extra-trees": ExtraTreesClassifier(5, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "neighbours": KNeighborsClassifier(),
    "pipeline": make_pipeline(StandardScaler(), KNeighborsClassifier()),
}
FOREST = LISTS["forest"]

# All checks of scikit-learn, none excused, where thresholds are at 0.5. Where they are tuned, one check does not apply.
ROUNDS = {
    "check_classifier_multioutput": "It compares predict with probabilities rounded at 0.5, not at the thresholds.",
    "check_classifiers_train": "It compares predict with the more probable of two classes, not at the threshold.",
}


class Share(ClassifierMixin, BaseEstimator):
    """Predict for every row the share of known positives in training; keep the groups it was given."""

    seen = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None, groups=None):
        self.seen.append(groups)
        self.classes_ = np.array(NAMES)
        self.share_ = np.nanmean(y, axis=0)
        return self

    def predict_proba(self, X):
        return np.clip(self.share_ + np.asarray(X)[:, :1] / 100, 0, 1)


@pytest.fixture(scope="module")
def data():
    X, Y = make_multilabel_classification(150, n_features=6, n_classes=3, n_labels=1, random_state=0)
    return X, pd.DataFrame(Y, columns=NAMES)


def cross_fit(estimator, X, Y, splits, choose, **weights):
    """Return by hand the probabilities of rows left out."""
    proba = np.full(Y.shape, np.nan)
    for train, test in splits:
        params = {name: values[train] for name, values in weights.items()}
        proba[test] = choose(clone(estimator).fit(X[train], Y[train], **params), X[test])
    return proba


def choose_table(fitted, X):
    return fitted.predict_proba(X)


def choose_list(fitted, X):
    return np.column_stack([columns[:, 1] for columns in fitted.predict_proba(X)])


def to_logits(proba):
    return logit(np.clip(proba, 1e-7, 1 - 1e-7))


def choose_scores(fitted, X):
    return fitted.decision_function(X)


def create_splitter():
    return MultiLabelStratifiedKFold(3, random_state=0)


@pytest.mark.parametrize("name", [*TABLES, *LISTS])
def test_thresholds_and_predictions_equal_a_loop_by_hand(name, data):
    X, Y = data[0], data[1].to_numpy()
    estimator, choose = (TABLES[name], choose_table) if name in TABLES else (LISTS[name], choose_list)
    proba = cross_fit(estimator, X, Y, create_splitter().split(X, Y), choose)
    tuned = MultiLabelThresholdsCV(estimator, cv=create_splitter()).fit(X, data[1])
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y, proba))
    report = threshold_report(Y, proba, tuned.thresholds_, classes=NAMES, tuned_by={})
    pd.testing.assert_frame_equal(tuned.threshold_report_, report)
    expected = choose(clone(estimator).fit(X, Y), X)
    np.testing.assert_array_equal(tuned.predict_proba(X), expected)
    np.testing.assert_array_equal(tuned.predict(X), expected >= tuned.thresholds_)
    assert tuned.predict(X).dtype == np.int64
    assert tuned.calibrator_ is None
    assert tuned.classes_.tolist() == NAMES


@pytest.mark.parametrize("method", ["temperature", "platt", "auto"])
def test_calibration_of_probabilities_equals_a_loop_by_hand(method, data):
    X, Y = data[0], data[1].to_numpy()
    estimator = TABLES["one-vs-rest"]
    logits = to_logits(cross_fit(estimator, X, Y, create_splitter().split(X, Y), choose_table))
    calibrator = Calibrator(method=method).fit(Y, logits)
    tuned = MultiLabelThresholdsCV(estimator, cv=create_splitter(), calibration=method).fit(X, Y)
    np.testing.assert_allclose(tuned.thresholds_, tune_thresholds(Y, calibrator.predict_proba(logits)), atol=1e-9)
    expected = calibrator.predict_proba(to_logits(clone(estimator).fit(X, Y).predict_proba(X)))
    np.testing.assert_allclose(tuned.predict_proba(X), expected, atol=1e-9)
    assert tuned.calibrator_.method == method


@pytest.mark.parametrize("wrap", [OneVsRestClassifier, ClassifierChain])
def test_calibration_turns_scores_into_probabilities(wrap, data):
    X, Y = data[0], data[1].to_numpy()
    estimator = wrap(LinearSVC(random_state=0))
    scores = cross_fit(estimator, X, Y, create_splitter().split(X, Y), choose_scores)
    calibrator = Calibrator(method="platt").fit(Y, scores)
    tuned = MultiLabelThresholdsCV(estimator, cv=create_splitter(), calibration="platt").fit(X, Y)
    np.testing.assert_allclose(tuned.thresholds_, tune_thresholds(Y, calibrator.predict_proba(scores)), atol=1e-9)
    expected = calibrator.predict_proba(clone(estimator).fit(X, Y).decision_function(X))
    np.testing.assert_allclose(tuned.predict_proba(X), expected, atol=1e-9)
    assert tuned.response_method_ == "decision_function"


def test_classes_without_a_positive_are_asked_by_the_same_method(data):
    """`OneVsRestClassifier` gains a `predict_proba` where its first label is constant."""
    Y = data[1].assign(sea=0)
    tuned = MultiLabelThresholdsCV(OneVsRestClassifier(LinearSVC(random_state=0)), cv=3, calibration="platt")
    with pytest.warns(UserWarning, match="Label not 0 is present|no known positive|No known positive"):
        tuned.fit(data[0], Y)
    assert tuned.response_method_ == "decision_function"
    assert tuned.predict_proba(data[0]).shape == (150, 3)


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (0.3, [0.3, 0.3, 0.3]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        ({"trees": 0.3, "sea": 0.1, "sun": 0.2}, [0.1, 0.2, 0.3]),
    ],
    ids=["number", "list", "dict"],
)
def test_fixed_thresholds_are_kept(thresholds, expected, data):
    tuned = MultiLabelThresholdsCV(FOREST, thresholds=thresholds, cv=3, random_state=0).fit(*data)
    assert tuned.thresholds_.tolist() == expected
    assert tuned.threshold_report_["threshold"].tolist() == expected


def test_estimator_of_this_library_learns_the_names(data):
    estimator = MultiLabelLogisticRegression(class_weight={NAMES[1]: 5}, thresholds=0.5)
    model = MultiLabelThresholdsCV(estimator, cv=3).fit(*data)
    assert model.estimator_.classes_.tolist() == model.classes_.tolist() == NAMES


def test_threshold_params_go_to_tune_thresholds(data):
    X, Y = data[0], data[1].to_numpy()
    proba = cross_fit(FOREST, X, Y, create_splitter().split(X, Y), choose_list)
    params = {"beta": 2.0, "n_bootstraps": 3, "random_state": 1}
    tuned = MultiLabelThresholdsCV(FOREST, thresholds="fbeta", threshold_params=params, cv=create_splitter())
    expected = tune_thresholds(Y, proba, objective="fbeta", **params)
    np.testing.assert_array_equal(tuned.fit(X, Y).thresholds_, expected)


def test_rows_that_no_split_tests_tune_nothing(data):
    X, Y = data[0], data[1].to_numpy()
    splitter = MultiLabelStratifiedShuffleSplit(1, test_size=0.4, random_state=0)
    train, test = next(splitter.split(X, Y))
    proba = choose_list(clone(FOREST).fit(X[train], Y[train]), X[test])
    tuned = MultiLabelThresholdsCV(FOREST, cv=splitter).fit(X, Y)
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y[test], proba))
    assert tuned.threshold_report_["n_known"].tolist() == [60, 60, 60]


def test_random_state_draws_the_folds(data):
    first, second = (MultiLabelThresholdsCV(FOREST, cv=3, random_state=seed).fit(*data) for seed in (0, 1))
    by_splitter = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(*data)
    np.testing.assert_array_equal(first.thresholds_, by_splitter.thresholds_)
    assert not np.array_equal(first.thresholds_, second.thresholds_)


def test_several_jobs_give_the_same(data):
    with joblib.parallel_config("threading"):
        tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter(), n_jobs=2).fit(*data)
    expected = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(*data)
    np.testing.assert_array_equal(tuned.thresholds_, expected.thresholds_)


def test_tuned_thresholds_beat_a_half_for_rare_classes():
    X, Y = make_multilabel_classification(2000, n_features=8, n_classes=6, n_labels=1, random_state=3)
    plain = OneVsRestClassifier(LogisticRegression()).fit(X[:1000], Y[:1000])
    tuned = MultiLabelThresholdsCV(plain, random_state=0).fit(X[:1000], Y[:1000])
    at_half = sklearn_f1(Y[1000:], plain.predict(X[1000:]), average="macro")
    assert tuned.score(X[1000:], Y[1000:]) > at_half + 0.03


FORMATS = {
    "lists": lambda Y: [list(row) for row in as_labels(Y)],
    "sets": lambda Y: [set(row) for row in as_labels(Y)],
    "dicts": lambda Y: [dict.fromkeys(row, 1) for row in as_labels(Y)],
    "array": lambda Y: Y.to_numpy(),
    "nested-list": lambda Y: Y.to_numpy().tolist(),
    "plus-minus": lambda Y: Y.to_numpy() * 2 - 1,
    "sparse": lambda Y: sparse.csr_array(Y.to_numpy()),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_every_format_give_the_same(kind, data):
    X, Y = data
    expected = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y)
    found = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, FORMATS[kind](Y))
    np.testing.assert_array_equal(found.thresholds_, expected.thresholds_)
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))
    assert found.classes_.tolist() == (NAMES if kind in ("lists", "sets", "dicts") else [0, 1, 2])
    assert found.score(X, FORMATS[kind](Y)) == expected.score(X, Y)


def test_separated_strings_give_the_same(data):
    X, Y = data
    joined = ["|".join(row) for row in as_labels(Y)]
    found = MultiLabelThresholdsCV(FOREST, cv=create_splitter(), label_sep="|").fit(X, joined)
    expected = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y)
    np.testing.assert_array_equal(found.thresholds_, expected.thresholds_)
    assert make_multilabel_scorer()(found, X, joined) == found.score(X, joined) == expected.score(X, Y)


def test_unknown_labels_are_left_out_where_the_estimator_takes_them():
    Y = np.array([[1, 0, 1], [NAN, 1, 0], [0, 1, 1], [1, NAN, 0]] * 5, dtype=np.float32)
    X = np.arange(20.0)[:, None]
    splits = [(np.arange(10), np.arange(10, 20)), (np.arange(10, 20), np.arange(10))]
    tuned = MultiLabelThresholdsCV(Share(), cv=splits).fit(X, Y)
    proba = cross_fit(Share(), X, Y, splits, choose_table)
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y, proba))
    assert tuned.threshold_report_["n_known"].tolist() == [15, 15, 20]
    assert tuned.score(X, Y) == f1_score(Y, tuned.predict(X))


def test_one_class_is_a_table_of_one_column(data):
    X, Y = data
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y[["sun"]])
    assert tuned.predict(X).shape == tuned.predict_proba(X).shape == (150, 1)
    assert tuned.classes_.tolist() == ["sun"]


def test_score_is_macro_f1_with_weights(data):
    X, Y = data
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y)
    weight = np.linspace(0, 1, 150)
    expected = sklearn_f1(Y, tuned.predict(X), average="macro", sample_weight=weight)
    assert tuned.score(X, Y[NAMES[::-1]], sample_weight=weight) == pytest.approx(expected)


@pytest.mark.parametrize("classes", [[0, 1], [-1, 1], ["no", "yes"]], ids=["0-1", "plus-minus", "strings"])
@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), TABLES["one-vs-rest"], FOREST], ids=["linear", "ovr", "rf"]
)
def test_two_values_in_one_dimension_are_a_binary_problem(estimator, classes, data):
    X, Y = data
    y = np.array(classes)[Y["sun"].to_numpy()]
    tuned = MultiLabelThresholdsCV(estimator, cv=create_splitter()).fit(X, y)
    table = MultiLabelThresholdsCV(estimator, cv=create_splitter()).fit(X, Y[["sun"]])
    assert tuned.thresholds_.tolist() == table.thresholds_.tolist()
    assert tuned.classes_.tolist() == classes
    assert tuned.threshold_report_.index.tolist() == classes[1:]
    np.testing.assert_array_equal(tuned.predict(X), np.array(classes)[table.predict(X)[:, 0]])
    np.testing.assert_array_equal(tuned.predict_proba(X)[:, 1:], table.predict_proba(X))
    assert tuned.score(X, y) == accuracy_score(y, tuned.predict(X))


def test_prefit_takes_the_estimator_as_it_is(data):
    X, Y = data[0], data[1].to_numpy()
    fitted = clone(FOREST).fit(X[:80], Y[:80])
    tuned = MultiLabelThresholdsCV(fitted, cv="prefit").fit(X[80:], data[1][80:])
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y[80:], choose_list(fitted, X[80:])))
    assert tuned.estimator_ is fitted
    assert tuned.classes_.tolist() == NAMES


def test_prefit_orders_the_columns_as_the_estimator_does(data):
    X, Y = data
    fitted = Share().fit(X, Y.to_numpy())
    expected = MultiLabelThresholdsCV(fitted, cv="prefit").fit(X, Y)
    for y in (Y[NAMES[::-1]], [set(row) for row in as_labels(Y)]):
        tuned = MultiLabelThresholdsCV(fitted, cv="prefit").fit(X, y)
        assert tuned.classes_.tolist() == NAMES
        np.testing.assert_array_equal(tuned.thresholds_, expected.thresholds_)


def test_prefit_needs_a_fitted_estimator(data):
    with pytest.raises(NotFittedError, match="This RandomForestClassifier instance is not fitted yet"):
        MultiLabelThresholdsCV(FOREST, cv="prefit").fit(*data)


def test_sample_weight_goes_to_the_estimator_alone(data):
    X, Y, weight = data[0], data[1].to_numpy(), np.linspace(0, 2, 150)
    proba = cross_fit(FOREST, X, Y, create_splitter().split(X, Y), choose_list, sample_weight=weight)
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y, sample_weight=weight)
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y, proba))
    expected = choose_list(clone(FOREST).fit(X, Y, sample_weight=weight), X)
    np.testing.assert_array_equal(tuned.predict_proba(X), expected)


def test_arguments_of_a_pipeline_are_cut_like_rows(data):
    X, Y = data
    weight = np.linspace(0, 2, 150)
    pipeline = MultiLabelThresholdsCV(make_pipeline("passthrough", FOREST), cv=create_splitter())
    alone = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y, sample_weight=weight)
    pipeline.fit(X, Y, randomforestclassifier__sample_weight=weight)
    np.testing.assert_array_equal(pipeline.thresholds_, alone.thresholds_)


def test_groups_go_to_the_splitter_and_to_a_fit_that_has_them(data):
    X, Y = data
    groups = np.arange(150) // 10
    Share.seen.clear()
    MultiLabelThresholdsCV(Share(), cv=GroupKFold(3)).fit(X, Y, groups=groups)
    splits = GroupKFold(3).split(X, Y, groups)
    expected = [set(groups[train]) for train, _ in splits] + [set(groups)]
    assert list(map(set, Share.seen)) == expected


def test_metadata_routing_decides_who_gets_what(data):
    X, Y, weight, groups = data[0], data[1].to_numpy(), np.linspace(0, 2, 150), np.arange(150) // 10
    plain = MultiOutputClassifier(GaussianNB())
    splits = GroupKFold(3).split(X, Y, groups)
    proba = cross_fit(plain, X, Y, splits, choose_list, sample_weight=weight)
    with sklearn.config_context(enable_metadata_routing=True):
        asking = MultiOutputClassifier(GaussianNB().set_fit_request(sample_weight=True))
        tuned = MultiLabelThresholdsCV(asking, cv=GroupKFold(3))
        tuned.fit(X, Y, sample_weight=weight, groups=groups)
        with pytest.raises(UnsetMetadataPassedError, match=r"\[sample_weight\] are passed but are not explicitly set"):
            MultiLabelThresholdsCV(plain, cv=GroupKFold(3)).fit(X, Y, sample_weight=weight, groups=groups)
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y, proba))


def test_metadata_routing_reaches_through_cross_validation(data):
    X, Y, weight = data[0], data[1], np.linspace(0, 2, 150)
    expected = [
        MultiLabelThresholdsCV(FOREST, cv=create_splitter())
        .fit(X[train], Y.iloc[train], sample_weight=weight[train])
        .score(X[test], Y.iloc[test], sample_weight=weight[test])
        for train, test in KFold(3).split(X)
    ]
    with sklearn.config_context(enable_metadata_routing=True):
        tuned = MultiLabelThresholdsCV(clone(FOREST).set_fit_request(sample_weight=True), cv=create_splitter())
        tuned.set_score_request(sample_weight=True)
        scores = cross_val_score(tuned, X, Y, cv=KFold(3), params={"sample_weight": weight})
    assert scores.tolist() == expected


@pytest.mark.parametrize("cv", [3, "prefit", KFold(3), [([0], [1])]], ids=["number", "prefit", "splitter", "iterable"])
def test_metadata_routing_is_told_for_every_cv(cv):
    assert MultiLabelThresholdsCV(FOREST, cv=cv).get_metadata_routing() is not None


def list_checks(*estimators, **params):
    # Not parametrize_with_checks: before 1.9 it hands pytest a generator, which that deprecates.
    return [case for one in estimators for case in estimator_checks_generator(one, mark="xfail", **params)]


def name_check(value):
    return getattr(getattr(value, "func", None), "__name__", None)


@pytest.mark.parametrize(
    ("estimator", "check"),
    list_checks(
        MultiLabelThresholdsCV(OneVsRestClassifier(LogisticRegression()), thresholds=0.5, cv=3),
        MultiLabelThresholdsCV(MultiOutputClassifier(LogisticRegression()), thresholds=0.5, cv=3),
    ),
    ids=name_check,
)
@pytest.mark.filterwarnings("ignore")
def test_every_check_of_sklearn_passes(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    ("estimator", "check"),
    list_checks(
        MultiLabelThresholdsCV(OneVsRestClassifier(LogisticRegression()), cv=3),
        MultiLabelThresholdsCV(OneVsRestClassifier(LinearSVC()), cv=3, calibration="platt"),
        expected_failed_checks=ROUNDS,
    ),
    ids=name_check,
)
@pytest.mark.filterwarnings("ignore")
def test_every_check_that_does_not_round_at_a_half_passes_with_tuned_thresholds(estimator, check):
    check(estimator)


@pytest.mark.parametrize("values", [np.array([0.0, 1.0]), np.array([2, 7]), np.array([b"no", b"yes"])], ids=str)
def test_one_dimension_of_any_two_values_reaches_estimators_of_this_library(values, data):
    X, y = data[0], data[1].iloc[:, 0].to_numpy()
    tuned = MultiLabelThresholdsCV(MultiLabelLogisticRegression(), cv=3, random_state=0).fit(X, values[y])
    expected = MultiLabelThresholdsCV(MultiLabelLogisticRegression(), cv=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(tuned.predict(X), values[expected.predict(X)])


def test_fit_changes_neither_parameters_nor_the_estimator(data):
    estimator = clone(FOREST)
    tuned = MultiLabelThresholdsCV(estimator, cv=3, random_state=0)
    before = tuned.get_params()
    assert tuned.fit(*data) is tuned
    assert tuned.get_params() == before
    assert not hasattr(estimator, "classes_")


def test_copies_predict_the_same_and_clones_are_unfitted(data):
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter(), calibration="platt").fit(*data)
    copy = pickle.loads(pickle.dumps(tuned))
    np.testing.assert_array_equal(copy.predict_proba(data[0]), tuned.predict_proba(data[0]))
    with pytest.raises(NotFittedError):
        clone(tuned).predict(data[0])


def test_a_second_fit_forgets_the_first(data):
    X, Y = data
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(X, Y["sun"])
    tuned.fit(X, Y)
    assert tuned.predict(X).shape == (150, 3)
    assert tuned.classes_.tolist() == NAMES


def test_features_are_those_of_the_estimator(data):
    frame = pd.DataFrame(data[0]).add_prefix("x")
    tuned = MultiLabelThresholdsCV(FOREST, cv=3).fit(frame, data[1])
    assert tuned.n_features_in_ == 6
    assert tuned.feature_names_in_.tolist() == frame.columns.tolist()
    without = MultiLabelThresholdsCV(Share(), cv=KFold(3)).fit(*data)
    assert not hasattr(without, "n_features_in_")
    assert not hasattr(without, "feature_names_in_")


def test_tags_are_those_of_the_estimator_and_of_label_sets():
    tags = get_tags(MultiLabelThresholdsCV(KNeighborsClassifier()))
    assert tags.input_tags.sparse
    assert not get_tags(MultiLabelThresholdsCV(MLPClassifier())).input_tags.allow_nan
    assert (tags.classifier_tags.multi_label, tags.classifier_tags.multi_class) == (True, False)
    assert (tags.target_tags.multi_output, tags.target_tags.two_d_labels) == (True, True)


def test_searches_and_scorers_take_label_lists(data):
    X, Y = data
    labels = [list(row) for row in as_labels(Y)]
    tuned = MultiLabelThresholdsCV(DecisionTreeClassifier(random_state=0), cv=create_splitter())
    grid, scorer = {"estimator__max_depth": [1, 3]}, make_multilabel_scorer()
    search = GridSearchCV(tuned, grid, scoring=scorer, cv=create_splitter()).fit(X, labels)
    table = GridSearchCV(tuned, grid, scoring="f1_macro", cv=create_splitter()).fit(X, Y)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], table.cv_results_["mean_test_score"])


OVR = OneVsRestClassifier(LogisticRegression())
MESSAGES = {
    "class": (
        {"estimator": LogisticRegression},
        "The 'estimator' parameter of MultiLabelThresholdsCV must be a classifier. Got <class "
        "'sklearn.linear_model._logistic.LogisticRegression'> instead.",
    ),
    "no-method": (
        {"estimator": MultiOutputClassifier(LinearSVC())},
        "MultiOutputClassifier has neither predict_proba nor decision_function, so that there is nothing to put a "
        "threshold on. Pass a classifier that has one of them.",
    ),
    "uncalibrated": (
        {"estimator": OneVsRestClassifier(LinearSVC())},
        "OneVsRestClassifier has no predict_proba, and its scores become probabilities by calibration alone. Set "
        "calibration='platt', or 'auto'.",
    ),
    "calibration": (
        {"calibration": "sigmoid"},
        "The 'calibration' parameter of MultiLabelThresholdsCV must be None, 'auto', 'temperature', 'platt' or "
        "'isotonic'. Got 'sigmoid' instead.",
    ),
    "cv": (
        {"cv": "fitted"},
        "The 'cv' parameter of MultiLabelThresholdsCV must be an integer >= 2, or a splitter, or an iterable of "
        "(train, test), or 'prefit'. Got 'fitted' instead.",
    ),
    "params-fixed": (
        {"thresholds": 0.5, "threshold_params": {"shrink": 0}},
        "threshold_params has no effect on fixed thresholds. Leave it out, or name an objective.",
    ),
    "fixed-length": (
        {"thresholds": [0.5, 0.5]},
        "thresholds must hold one number for each of 3 classes. Got the shape (2,).",
    ),
    "overlapping": (
        {"cv": RepeatedKFold(n_splits=2, n_repeats=2)},
        "cv tests 150 of 150 rows more than once, so that they have no single out-of-fold score; the first is row 0. "
        "Pass a cv that tests every row once, such as MultiLabelStratifiedKFold.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_bad_parameters_are_refused(case, data):
    params, message = MESSAGES[case]
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        MultiLabelThresholdsCV(**({"estimator": OVR} | params)).fit(*data)


def test_wrong_threshold_params_are_refused_before_any_fit(data):
    Share.seen.clear()
    message = r"^The 'shrink' parameter of MultiLabelThresholdsCV's threshold_params must be 'auto', or a number >= 0\."
    with pytest.raises(InputError, match=message):
        MultiLabelThresholdsCV(Share(), threshold_params={"shrink": -1}).fit(*data)
    with pytest.raises(InputError, match=r"^objective='precision' needs target"):
        MultiLabelThresholdsCV(Share(), thresholds="precision").fit(*data)
    with pytest.raises(InputError, match=r"^thresholds must hold one number for each of 3 classes\."):
        MultiLabelThresholdsCV(Share(), thresholds=[0.5]).fit(*data)
    assert not Share.seen


def test_arguments_of_fit_are_refused_where_nothing_is_fitted(data):
    message = r"^cv='prefit' fits nothing, so that sample_weight and groups would have no effect\.$"
    fitted = clone(FOREST).fit(*data)
    with pytest.raises(InputError, match=message):
        MultiLabelThresholdsCV(fitted, cv="prefit").fit(*data, sample_weight=np.ones(150), groups=np.ones(150))


def test_unknown_labels_are_refused_where_the_estimator_does_not_take_them(data):
    Y = data[1].astype(float)
    Y.iloc[:7, 0] = NAN
    message = (
        "5 labels in y are unknown (NaN), and OneVsRestClassifier does not take them. Use an estimator that leaves "
        "them out, such as MultiLabelLogisticRegression, or call them absent with as_indicator(y).fillna(0)."
    )
    cv = [(np.arange(2, 150), np.arange(2)), (np.arange(2), np.arange(2, 150))]
    with (
        np.errstate(invalid="ignore"),  # scikit-learn turns NaN into an integer before it looks for NaN
        pytest.warns(MultiLabelKitWarning, match="Scores say nothing"),
        pytest.raises(InputError, match=f"^{re.escape(message)}$"),
    ):
        MultiLabelThresholdsCV(OVR, cv=cv).fit(data[0], Y)


def test_x_and_y_of_different_length_are_refused(data):
    with pytest.raises(InputError, match=r"^X and y must have the same length\. Got 149 and 150\.$"):
        MultiLabelThresholdsCV(OVR).fit(data[0][:149], data[1])


def test_a_failed_fit_leaves_a_fitted_one_as_it_was(data):
    tuned = MultiLabelThresholdsCV(FOREST, cv=create_splitter()).fit(*data)
    before = tuned.thresholds_.tolist()
    with pytest.raises(InputError, match="one class alone"):
        tuned.fit(data[0], np.ones(150))
    assert tuned.thresholds_.tolist() == before


def test_image_classifier_with_unknown_labels_equals_a_loop_by_hand(shapes):
    images, Y = shapes.images, shapes.target.to_numpy(np.float32, copy=True)
    Y[::7, 0] = NAN
    classifier = MultiLabelImageClassifier(
        "small_cnn", image_size=32, max_epochs=1, batch_size=8, validation_fraction=0.5, num_workers=0, verbose=0,
        thresholds=0.5, random_state=0,
    )  # fmt: skip
    proba = cross_fit(classifier, images, Y, KFold(2).split(images), choose_table)
    tuned = MultiLabelThresholdsCV(classifier, cv=KFold(2)).fit(list(images), Y)
    np.testing.assert_array_equal(tuned.thresholds_, tune_thresholds(Y, proba))
    np.testing.assert_array_equal(tuned.predict_proba(images), clone(classifier).fit(images, Y).predict_proba(images))
    assert not get_tags(tuned).input_tags.two_d_array


@pytest.mark.filterwarnings("ignore:Label not 1 is present")
def test_a_class_with_one_positive_is_not_predicted_for_every_row():
    random = np.random.default_rng(0)
    X, y = random.normal(size=(90, 4)), np.zeros((90, 2), dtype=int)
    y[:, 0], y[5, 1] = X[:, 0] > 0, 1
    with pytest.warns(MultiLabelKitWarning):
        model = MultiLabelThresholdsCV(OneVsRestClassifier(LogisticRegression()), cv=3, random_state=0).fit(X, y)
    assert model.predict(X)[:, 1].mean() < 0.5


def test_prefit_refuses_names_that_the_estimator_does_not_know():
    X = np.linspace(-1, 1, 20)[:, None]
    fitted = LogisticRegression().fit(X, np.where(X[:, 0] > 0, "a", "b"))
    message = (
        "The estimator was fitted on the classes ['a', 'b'], and y holds ['a', 'zebra']. Pass labels of the classes "
        "that it knows."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        MultiLabelThresholdsCV(fitted, cv="prefit").fit(X, np.where(X[:, 0] > 0, "a", "zebra"))
