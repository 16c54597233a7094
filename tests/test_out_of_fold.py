import re

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.datasets import make_multilabel_classification
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, RepeatedKFold, ShuffleSplit, cross_val_predict
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from multilabelkit import MultiLabelImageClassifier, MultiLabelLogisticRegression, as_labels
from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.model_selection import MultiLabelStratifiedKFold, out_of_fold_proba
from multilabelkit.out_of_fold import collect_proba, collect_scores

NAN = float("nan")
NAMES = ["a", "b", "c"]
# Those that return a table, and those that return a list with two columns for each label.
TABLES = {
    "one-vs-rest": OneVsRestClassifier(LogisticRegression()),
    "chain": ClassifierChain(LogisticRegression(), random_state=0),
    "mlp": MLPClassifier((8,), solver="lbfgs", max_iter=1000, alpha=1.0, random_state=0),
}
LISTS = {
    "multi-output": MultiOutputClassifier(GaussianNB()),
    "forest": RandomForestClassifier(5, random_state=0),
    "extra-trees": ExtraTreesClassifier(5, random_state=0),
    "tree": DecisionTreeClassifier(max_depth=3, random_state=0),
    "neighbours": KNeighborsClassifier(),
    "pipeline": make_pipeline(StandardScaler(), KNeighborsClassifier()),
}


@pytest.fixture(scope="module")
def data():
    return make_multilabel_classification(60, n_features=4, n_classes=3, n_labels=2, random_state=0)


class Replay(ClassifierMixin, BaseEstimator):
    """Return what it was made with, whatever X is."""

    def __init__(self, output, *, classes=None):
        self.output = output
        self.classes = classes
        if classes is not None:
            self.classes_ = classes

    def predict_proba(self, X):
        return self.output

    decision_function = predict_proba


class Share(ClassifierMixin, BaseEstimator):
    """Predict the share of known positives in training; keep what it was given. Some parameters are wanted by name."""

    seen = []  # noqa: RUF012

    def fit(self, X, y, sample_weight=None, groups=None):
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight)
        self.share_ = np.nansum(weight[:, None] * y, axis=0) / (weight[:, None] * ~np.isnan(y)).sum(axis=0)
        self.seen.append((y.dtype, None if groups is None else set(groups)))
        return self

    def predict_proba(self, X):
        return np.tile(self.share_, (len(X), 1))


def predict_by_hand(estimator, X, Y, splits, choose, **weights):
    """Fit on every training part and put the probabilities beside each other."""
    proba = np.full(Y.shape, np.nan)
    for train, test in splits:
        params = {name: values[train] for name, values in weights.items()}
        proba[test] = choose(clone(estimator).fit(X[train], Y[train], **params), X[test])
    return proba


def choose_table(fitted, X):
    return fitted.predict_proba(X)


def choose_list(fitted, X):
    return np.column_stack([columns[:, 1] for columns in fitted.predict_proba(X)])


def test_collect_proba_takes_the_column_of_the_value_1_of_each_label():
    output = [
        np.array([[0.9, 0.1], [0.4, 0.6]]),
        np.array([[1.0], [1.0]]),
        np.array([[1.0], [1.0]]),
        np.array([[0.2, 0.8], [0.3, 0.7]]),
    ]
    classes = [np.array([0, 1]), np.array([0]), np.array([1]), np.array([-1, 1])]
    proba = collect_proba(Replay(output, classes=classes), None, n_classes=4)
    assert proba.tolist() == [[0.1, 0, 1, 0.8], [0.6, 0, 1, 0.7]]


def test_collect_proba_takes_a_list_without_classes_for_absent_and_present():
    assert collect_proba(Replay([np.array([[0.9, 0.1]]), np.array([[0.2, 0.8]])]), None, n_classes=2).tolist() == [
        [0.1, 0.8]
    ]


@pytest.mark.parametrize("convert", [np.array, np.float32, sparse.csr_array, sparse.lil_matrix, pd.DataFrame])
def test_collect_proba_returns_every_table_as_float64(convert):
    proba = collect_proba(Replay(convert([[0.25, 0.5], [0, 1]])), None, n_classes=2)
    assert type(proba) is np.ndarray
    assert proba.dtype == np.float64
    assert proba.tolist() == [[0.25, 0.5], [0, 1]]


def test_collect_proba_takes_a_binary_problem_for_one_label():
    assert collect_proba(Replay(np.array([[0.9, 0.1]])), None, n_classes=1).tolist() == [[0.1]]
    assert collect_proba(Replay(np.array([[0.9]])), None, n_classes=1).tolist() == [[0.9]]


def test_collect_proba_forgives_rounding():
    assert collect_proba(Replay(np.array([[1 + 1e-12, -1e-12]])), None, n_classes=2).tolist() == [[1, 0]]


def test_collect_scores_takes_one_column_of_decision_function_in_one_dimension():
    scores = collect_scores(Replay(np.array([-2.0, 3.0])), None, n_classes=1, method="decision_function")
    assert scores.tolist() == [[-2], [3]]


PROBLEMS = [
    (
        np.zeros((2, 2, 3)),
        None,
        "Replay.predict_proba must give one row per sample and one column per class. Got the shape (2, 2, 3).",
    ),
    (
        np.zeros((2, 2)),
        None,
        "Replay.predict_proba must give one column for each of 3 classes. Got 2; fit the estimator on a table of all "
        "of them.",
    ),
    (np.array([[0, 0, 1.5]]), None, "Replay.predict_proba must be in [0, 1]. Got 1.5 at row 0, column 2."),
    (np.array([[0, NAN, 1]]), None, "Replay.predict_proba must be in [0, 1]. Got nan at row 0, column 1."),
    (
        [np.zeros((2, 3))] * 3,
        [np.array([0, 1, 2])] * 3,
        "Replay.predict_proba must give one column for each of the values 0 and 1 that a label had in training. Got "
        "the shape (2, 3) for the values [0, 1, 2].",
    ),
    (
        [np.zeros((2, 1))] * 3,
        None,
        "Replay.predict_proba must give one column for each of the values 0 and 1 that a label had in training. Got "
        "the shape (2, 1) for the values [0, 1].",
    ),
]


@pytest.mark.parametrize(("output", "classes", "message"), PROBLEMS)
def test_other_outputs_are_refused(output, classes, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        collect_proba(Replay(output, classes=classes), None, n_classes=3)


def test_scores_that_are_not_finite_are_refused():
    message = r"^Replay\.decision_function must be finite\. Got inf at row 1, column 0\.$"
    with pytest.raises(InputError, match=message):
        collect_scores(Replay(np.array([[0.0], [np.inf]])), None, n_classes=1, method="decision_function")


@pytest.mark.parametrize("name", [*TABLES, *LISTS])
def test_out_of_fold_proba_equals_a_loop_by_hand(name, data):
    X, Y = data
    estimator, choose = (TABLES[name], choose_table) if name in TABLES else (LISTS[name], choose_list)
    splits = list(MultiLabelStratifiedKFold(3, random_state=0).split(X, Y))
    proba = out_of_fold_proba(estimator, X, Y, cv=MultiLabelStratifiedKFold(3, random_state=0))
    np.testing.assert_array_equal(proba, predict_by_hand(estimator, X, Y, splits, choose))
    assert not hasattr(estimator, "classes_")


@pytest.mark.parametrize("name", [*TABLES, *LISTS])
def test_one_label_equals_a_binary_problem(name, data):
    X, Y = data
    if name in ("chain", "multi-output"):  # they take tables alone
        estimator = LogisticRegression() if name == "chain" else GaussianNB()
    else:
        estimator = (TABLES | LISTS)[name]
    proba = out_of_fold_proba((TABLES | LISTS)[name], X, Y[:, :1], cv=KFold(3))
    expected = cross_val_predict(estimator, X, Y[:, 0], cv=KFold(3), method="predict_proba")
    np.testing.assert_allclose(proba[:, 0], expected[:, 1], rtol=0, atol=1e-12)


def test_decision_function_equals_a_loop_by_hand(data):
    X, Y = data
    scores = out_of_fold_proba(RidgeClassifier(), X, Y, cv=KFold(3), method="decision_function")
    splits = KFold(3).split(X)
    expected = predict_by_hand(RidgeClassifier(), X, Y, splits, lambda fitted, X: fitted.decision_function(X))
    np.testing.assert_array_equal(scores, expected)


def test_a_number_makes_stratified_folds(data):
    X, Y = data
    splitter = MultiLabelStratifiedKFold(4, random_state=3)
    np.testing.assert_array_equal(
        out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=4, random_state=3),
        out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=splitter),
    )


FORMATS = {
    "lists": lambda Y: [list(row) for row in as_labels(Y)],
    "sets": lambda Y: [set(row) for row in as_labels(Y)],
    "dicts": lambda Y: [dict.fromkeys(row, 1) for row in as_labels(Y)],
    "array": lambda Y: Y.to_numpy(),
    "bool": lambda Y: Y.astype(bool),
    "plus-minus": lambda Y: Y * 2 - 1,
    "sparse": lambda Y: sparse.coo_array(Y.to_numpy()),
    "tensor": lambda Y: torch.tensor(Y.to_numpy()),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_every_format_give_the_same(kind, data):
    X, Y = data[0], pd.DataFrame(data[1], columns=NAMES)
    expected = out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3))
    np.testing.assert_array_equal(out_of_fold_proba(KNeighborsClassifier(), X, FORMATS[kind](Y), cv=KFold(3)), expected)


def test_separated_strings_give_the_same(data):
    X, Y = data[0], pd.DataFrame(data[1], columns=NAMES)
    joined = ["|".join(row) for row in as_labels(Y)]
    np.testing.assert_array_equal(
        out_of_fold_proba(KNeighborsClassifier(), X, joined, cv=KFold(3), label_sep="|"),
        out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3)),
    )


@pytest.mark.parametrize("convert", [np.ndarray.tolist, pd.DataFrame, sparse.coo_matrix, torch.tensor])
def test_rows_of_every_container_give_the_same(convert, data):
    X, Y = data
    expected = out_of_fold_proba(DecisionTreeClassifier(max_depth=2, random_state=0), X, Y, cv=KFold(3))
    found = out_of_fold_proba(DecisionTreeClassifier(max_depth=2, random_state=0), convert(X), Y, cv=KFold(3))
    np.testing.assert_array_equal(found, expected)


def test_several_jobs_give_the_same(data):
    X, Y = data
    with joblib.parallel_config("threading"):
        found = out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3), n_jobs=2)
    np.testing.assert_array_equal(found, out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3)))


def test_image_classifier_equals_a_loop_by_hand(shapes):
    images, Y = shapes.images, shapes.target
    classifier = MultiLabelImageClassifier(
        "small_cnn", image_size=32, max_epochs=1, batch_size=8, validation_fraction=0.5, num_workers=0, verbose=0,
        random_state=0,
    )  # fmt: skip
    expected = predict_by_hand(classifier, images, Y.to_numpy(), KFold(2).split(images), choose_table)
    labels = [list(row) for row in as_labels(Y)]
    np.testing.assert_array_equal(out_of_fold_proba(classifier, list(images), labels, cv=KFold(2)), expected)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda model: model,
        lambda model: make_pipeline(MinMaxScaler(), model),
        lambda model: GridSearchCV(model, {"C": [1.0]}, cv=2),
        lambda model: GridSearchCV(make_pipeline(MinMaxScaler(), model), {"minmaxscaler__clip": [False]}, cv=2),
    ],
)
def test_settings_may_name_classes(wrap, data):
    X, Y = data
    table = pd.DataFrame(Y, columns=NAMES)
    found = out_of_fold_proba(wrap(MultiLabelLogisticRegression(class_weight={"b": 5})), X, table, cv=KFold(3))
    plain = out_of_fold_proba(wrap(MultiLabelLogisticRegression()), X, table, cv=KFold(3))
    assert found[:, 1].mean() > plain[:, 1].mean() + 0.05
    np.testing.assert_allclose(found[:, [0, 2]], plain[:, [0, 2]], atol=1e-3)


@pytest.mark.parametrize("wrap", [OneVsRestClassifier, MultiOutputClassifier, ClassifierChain])
def test_wrappers_that_hand_on_no_names_get_none(wrap, data):
    X, Y = data
    model = wrap(MultiLabelLogisticRegression())
    found = out_of_fold_proba(model, X, pd.DataFrame(Y, columns=NAMES), cv=KFold(3))
    np.testing.assert_array_equal(found, out_of_fold_proba(model, X, Y, cv=KFold(3)))


@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: make_pipeline(MinMaxScaler(), model)])
def test_classes_in_another_order_are_refused(wrap, data):
    message = (
        "MultiLabelLogisticRegression has the class 'b' in a column where the labels have 'a'. Leave its parameter "
        "classes at None, or name the classes of the labels in their order."
    )
    model = wrap(MultiLabelLogisticRegression(classes=["b", "a", "c"]))
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(model, data[0], pd.DataFrame(data[1], columns=NAMES))


def test_columns_without_names_may_get_them_from_the_estimator(data):
    X, Y = data
    named = MultiLabelLogisticRegression(classes=NAMES, class_weight={"b": 5})
    expected = out_of_fold_proba(
        MultiLabelLogisticRegression(class_weight={"b": 5}), X, pd.DataFrame(Y, columns=NAMES), cv=KFold(3)
    )
    np.testing.assert_array_equal(out_of_fold_proba(named, X, Y, cv=KFold(3)), expected)


def test_a_search_may_choose_an_estimator_that_learns_no_names(data):
    X, Y = data
    steps, trees = Pipeline([("clf", MultiLabelLogisticRegression())]), ExtraTreesClassifier(5, random_state=0)
    search = GridSearchCV(
        steps,
        {"clf": [steps["clf"], trees]},
        scoring=lambda model, X, y: float(isinstance(model[-1], ExtraTreesClassifier)),
        cv=KFold(3),
    )
    found = out_of_fold_proba(search, X, pd.DataFrame(Y, columns=NAMES), cv=KFold(3))
    np.testing.assert_array_equal(found, out_of_fold_proba(trees, X, Y, cv=KFold(3)))


def test_unknown_labels_that_a_step_does_not_take_are_explained(data):
    X, Y = data
    table = pd.DataFrame(Y.astype(float), columns=NAMES)
    table.iloc[0, 0] = NAN
    model = make_pipeline(SelectFromModel(RandomForestClassifier(5)), MultiLabelLogisticRegression())
    with pytest.raises(InputError, match=r"^1 labels in y are unknown \(NaN\), and Pipeline does not take them\."):
        out_of_fold_proba(model, X, table, cv=[(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))])


def test_a_label_that_every_row_has_stays_present(data):
    X, Y = data[0], np.column_stack([data[1], np.ones(60, dtype=int)])
    garbled = cross_val_predict(KNeighborsClassifier(), X, Y, cv=KFold(3), method="predict_proba")
    assert (garbled[3][:, 0] == 1).all()  # of the value 0, which no row has
    with pytest.warns(MultiLabelKitWarning, match="class 3 has no known negative in the training part of split 0"):
        proba = out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3))
    assert (proba[:, 3] == 1).all()


def test_unknown_labels_reach_an_estimator_that_takes_them():
    Y = np.array([[1, 0], [NAN, 1], [0, 1], [1, NAN], [0, 0]])
    splits = [([0, 1, 2], [3, 4]), ([2, 3, 4], [0, 1])]
    with pytest.warns(MultiLabelKitWarning):
        proba = out_of_fold_proba(Share(), np.zeros((5, 1)), Y, cv=[*splits, ([0, 4], [2])])
    assert proba.tolist() == [[1 / 3, 0.5], [1 / 3, 0.5], [0.5, 0], [0.5, 2 / 3], [0.5, 2 / 3]]


def test_unknown_labels_are_refused_where_the_estimator_does_not_take_them(data):
    X, Y = data[0], data[1].astype(float)
    Y[::7, 0] = NAN
    message = (
        "6 labels in y are unknown (NaN), and KNeighborsClassifier does not take them. Use an estimator that leaves "
        "them out, such as MultiLabelLogisticRegression, or call them absent with as_indicator(y).fillna(0)."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=KFold(3))


def test_unknown_features_are_not_taken_for_unknown_labels(data):
    X, Y = data[0].copy(), data[1].astype(float)
    X[0, 0] = Y[1, 0] = NAN
    with pytest.raises(ValueError, match="Input X contains NaN"):
        out_of_fold_proba(Pipeline([("scale", MinMaxScaler()), ("knn", KNeighborsClassifier())]), X, Y, cv=KFold(3))


def test_class_without_a_positive_in_a_training_part_shifts_no_column():
    X = np.arange(8.0)[:, None]
    Y = np.zeros((8, 3), dtype=int)
    Y[[0, 1], 0] = Y[[1, 4, 6], 1] = Y[[2, 3, 5], 2] = 1
    splits = [(np.arange(4, 8), np.arange(4)), (np.arange(4), np.arange(4, 8))]
    message = (
        "Scores say nothing where nothing could be learnt: class 'a' has no known positive in the training part of "
        "split 0 of cv. Make fewer or stratified splits, or pass more rows of rare classes."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        proba = out_of_fold_proba(DecisionTreeClassifier(random_state=0), X, pd.DataFrame(Y, columns=NAMES), cv=splits)
    with_one_column_less = DecisionTreeClassifier(random_state=0).fit(X[4:], Y[4:, 1:])
    assert (proba[:4, 0] == 0).all()
    np.testing.assert_array_equal(proba[:4, 1:], choose_list(with_one_column_less, X[:4]))


def test_several_such_classes_are_told_in_one_warning(data):
    X = np.zeros((4, 1))
    Y = np.array([[1, 1], [1, 1], [0, 1], [0, 0]])
    message = (
        "Scores say nothing where nothing could be learnt: class 0 has no known positive in the training part of split "
        "0 of cv (2 more cases are alike). Make fewer or stratified splits, or pass more rows of rare classes."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        out_of_fold_proba(Share(), X, Y, cv=[([2, 3], [0, 1]), ([0, 1], [2, 3])])
    assert len(caught) == 1


@pytest.mark.parametrize(("side", "train", "test"), [("positive", [2, 3], [0, 1]), ("negative", [0, 1], [2, 3])])
def test_a_single_class_that_cannot_be_learnt_is_refused(side, train, test):
    message = (
        f"Of the one class there is nothing to learn: class 'a' has no known {side} in the training part of split 0 of "
        "cv. Make fewer or stratified splits, or pass more rows of rare classes."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(Share(), np.zeros((4, 1)), [["a"], ["a"], [], []], cv=[(train, test), (test, train)])


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (
            RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
            "cv tests 60 of 60 rows more than once, so that they have no single out-of-fold score; the first is row 0. "
            "Pass a cv that tests every row once, such as MultiLabelStratifiedKFold.",
        ),
        (
            [(np.arange(30), np.arange(31, 60))],
            "cv tests 31 of 60 rows never, so that they have no out-of-fold score; the first is row 0. Pass a cv that "
            "tests every row once, such as MultiLabelStratifiedKFold.",
        ),
        (
            [(np.arange(30), np.arange(29, 60)), (np.arange(30, 60), np.arange(29))],
            "Split 0 of cv trains on 1 of the rows it tests, the first of them row 29. Pass splits whose training and "
            "test rows differ.",
        ),
    ],
    ids=["overlapping", "partial", "leaking"],
)
def test_splits_that_do_not_test_every_row_once_are_refused(cv, message, data):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(KNeighborsClassifier(), *data, cv=cv)


def test_splits_may_be_masks(data):
    masks = [(np.isin(np.arange(60), train), np.isin(np.arange(60), test)) for train, test in KFold(3).split(data[0])]
    found = out_of_fold_proba(KNeighborsClassifier(), *data, cv=masks)
    np.testing.assert_array_equal(found, out_of_fold_proba(KNeighborsClassifier(), *data, cv=KFold(3)))


def test_random_splits_are_refused(data):
    with pytest.raises(InputError, match=r"^cv tests \d+ of 60 rows more than once, so that"):
        out_of_fold_proba(KNeighborsClassifier(), *data, cv=ShuffleSplit(5, random_state=0))


def test_sample_weight_goes_to_fit(data):
    X, Y = data
    weight = np.linspace(0, 2, 60)
    expected = predict_by_hand(LISTS["forest"], X, Y, KFold(3).split(X), choose_list, sample_weight=weight)
    found = out_of_fold_proba(LISTS["forest"], X, Y, cv=KFold(3), sample_weight=weight)
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found, out_of_fold_proba(LISTS["forest"], X, Y, cv=KFold(3)))


def test_params_go_to_fit_and_are_cut_like_rows(data):
    X, Y = data
    weight = pd.Series(np.linspace(0, 2, 60), index=range(100, 160))
    pipeline = make_pipeline("passthrough", LISTS["forest"])
    found = out_of_fold_proba(pipeline, X, Y, cv=KFold(3), params={"randomforestclassifier__sample_weight": weight})
    np.testing.assert_array_equal(found, out_of_fold_proba(pipeline[-1], X, Y, cv=KFold(3), sample_weight=weight))


def test_groups_go_to_the_splitter_and_to_a_fit_that_has_them(data):
    X, Y = data
    groups = np.arange(60) // 6
    Share.seen.clear()
    out_of_fold_proba(Share(), X, Y, cv=GroupKFold(5), groups=groups)
    splits = list(GroupKFold(5).split(X, Y, groups))
    assert [seen for _, seen in Share.seen] == [set(groups[train]) for train, _ in splits]
    expected = predict_by_hand(KNeighborsClassifier(), X, Y, splits, choose_list)
    found = out_of_fold_proba(KNeighborsClassifier(), X, Y, cv=GroupKFold(5), groups=groups)
    np.testing.assert_array_equal(found, expected)


def test_metadata_routing_decides_who_gets_what(data):
    X, Y = data
    weight, groups = np.linspace(0, 2, 60), np.arange(60) // 6
    Share.seen.clear()
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = Share().set_fit_request(sample_weight=True, groups=False)
        found = out_of_fold_proba(estimator, X, Y, cv=GroupKFold(5), groups=groups, sample_weight=weight)
        with pytest.raises(
            sklearn.exceptions.UnsetMetadataPassedError, match=r"\[sample_weight, groups\] are passed but"
        ):
            out_of_fold_proba(Share(), X, Y, cv=GroupKFold(5), groups=groups, sample_weight=weight)
    assert {seen for _, seen in Share.seen} == {None}
    splits = GroupKFold(5).split(X, Y, groups)
    np.testing.assert_array_equal(found, predict_by_hand(Share(), X, Y, splits, choose_table, sample_weight=weight))


def test_estimators_are_given_integers_where_every_label_is_known(data):
    Share.seen.clear()
    out_of_fold_proba(Share(), data[0], data[1].astype(float), cv=KFold(3))
    assert {dtype for dtype, _ in Share.seen} == {np.dtype(np.int64)}


def test_x_and_y_of_different_length_are_refused(data):
    with pytest.raises(InputError, match=r"^X and y must have the same length\. Got 59 and 60\.$"):
        out_of_fold_proba(KNeighborsClassifier(), data[0][:59], data[1])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"cv": 1},
            "The 'cv' parameter of out_of_fold_proba must be an integer >= 2, or a splitter, or an iterable of "
            "(train, test). Got 1 instead.",
        ),
        (
            {"cv": "prefit"},
            "The 'cv' parameter of out_of_fold_proba must be an integer >= 2, or a splitter, or an iterable of "
            "(train, test). Got 'prefit' instead.",
        ),
        (
            {"method": "predict"},
            "The 'method' parameter of out_of_fold_proba must be 'predict_proba' or 'decision_function'. Got 'predict' "
            "instead.",
        ),
        (
            {"random_state": "0"},
            "The 'random_state' parameter of out_of_fold_proba must be an integer >= 0 and <= 4294967295, or None, or "
            "a numpy RandomState. Got '0' instead.",
        ),
    ],
)
def test_bad_parameters_are_refused(params, message, data):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(KNeighborsClassifier(), *data, **params)


def test_an_estimator_without_the_method_is_refused_before_any_fit():
    message = (
        "RidgeClassifier has no predict_proba, which out_of_fold_proba is to ask. Set method to 'decision_function' or "
        "'predict_proba', whichever it has."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        out_of_fold_proba(RidgeClassifier(), np.zeros((9, 2)), np.eye(9, 3, dtype=int))
