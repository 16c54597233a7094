import os
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_classifier_multioutput, parametrize_with_checks

import multilabelkit
from multilabelkit import logistic_solver
from multilabelkit.data.labels import as_indicator, as_labels
from multilabelkit.errors import InputError, MultiLabelKitWarning
from multilabelkit.linear import MultiLabelLogisticRegression
from multilabelkit.metrics import f1_score
from multilabelkit.stratification import split_rows
from multilabelkit.thresholds import tune_thresholds

NAMES = ["sea", "sun", "trees"]


def make_data(n_samples=300, n_features=6, n_classes=3, *, seed=0):
    """Return features of uneven spread and mean, and a table of labels that they tell something of."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_samples, n_features)) * np.geomspace(0.1, 10, n_features) + np.arange(n_features)
    logits = StandardScaler().fit_transform(X) @ rng.normal(size=(n_features, n_classes)) - 1
    return X, (rng.random(logits.shape) < expit(logits)).astype(int)


X, Y = make_data()


def fit_peer(X, y, *, sample_weight=None, **params):
    return LogisticRegression(tol=1e-10, max_iter=100_000, **params).fit(X, y, sample_weight=sample_weight)


def assert_same_coef(found, expected, *, tol=1e-4):
    """Each row of coefficients is off by less than `tol` of its length."""
    assert found.shape == expected.shape
    assert (np.linalg.norm(found - expected, axis=1) <= tol * np.linalg.norm(expected, axis=1)).all()


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
@parametrize_with_checks([MultiLabelLogisticRegression(), MultiLabelLogisticRegression(thresholds=0.5)])
def test_scikit_learn_checks_pass(estimator, check):
    check(estimator)


def test_thresholds_of_one_half_pass_the_check_that_decisions_are_those_of_the_probabilities():
    check_classifier_multioutput("MultiLabelLogisticRegression", MultiLabelLogisticRegression(thresholds=0.5))


def test_module_needs_no_torch():
    code = "import multilabelkit.linear, sys; assert 'torch' not in sys.modules"
    environment = {**os.environ, "PYTHONPATH": str(Path(multilabelkit.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [0.01, 1, 100])
def test_fit_finds_the_solution_of_one_vs_rest(C, fit_intercept):
    peer = OneVsRestClassifier(LogisticRegression(C=C, fit_intercept=fit_intercept, tol=1e-10, max_iter=100_000))
    peer.fit(X, Y)
    ours = MultiLabelLogisticRegression(C=C, fit_intercept=fit_intercept, thresholds=0.5).fit(X, Y)
    assert_same_coef(ours.coef_, np.vstack([part.coef_ for part in peer.estimators_]))
    assert ours.intercept_ == pytest.approx([part.intercept_.item() for part in peer.estimators_], rel=1e-3, abs=1e-3)
    assert ours.decision_function(X) == pytest.approx(peer.decision_function(X), abs=2e-3)
    assert (ours.predict(X) == peer.predict(X)).all()


def test_float32_features_stay_so_and_lead_to_the_same_solution():
    ours = MultiLabelLogisticRegression(thresholds=0.5).fit(X.astype(np.float32), Y)
    assert ours.coef_.dtype == ours.intercept_.dtype == ours.predict_proba(X.astype(np.float32)).dtype == np.float32
    assert_same_coef(ours.coef_, np.vstack([fit_peer(X, column).coef_ for column in Y.T]))


def test_more_features_than_the_gram_matrix_may_have_lead_to_the_same_solution(monkeypatch):
    monkeypatch.setattr(logistic_solver, "_LARGEST_GRAM", 5)
    ours = MultiLabelLogisticRegression(thresholds=0.5).fit(X, Y)
    assert_same_coef(ours.coef_, np.vstack([fit_peer(X, column).coef_ for column in Y.T]))


def test_blocks_of_problems_lead_to_the_same_solution(monkeypatch):
    whole = MultiLabelLogisticRegression(tol=1e-8).fit(X, Y)
    monkeypatch.setattr(logistic_solver, "_MAX_CELLS", 4 * len(X))
    blocks = MultiLabelLogisticRegression(tol=1e-8).fit(X, Y)
    assert_same_coef(blocks.coef_, whole.coef_, tol=1e-6)
    assert blocks.thresholds_ == pytest.approx(whole.thresholds_, abs=5e-3)  # of scores of few digits


def test_solution_exists_where_features_are_constant_or_copies_and_classes_separable():
    data = np.column_stack([np.ones(40), np.arange(40.0), np.arange(40.0), np.full(40, 1e6)])
    y = np.column_stack([np.arange(40) > 19, np.arange(40) % 2])
    ours = MultiLabelLogisticRegression(C=1e6, thresholds=0.5).fit(data, y)
    assert np.isfinite(ours.coef_).all()
    assert (ours.predict(data)[:, 0] == y[:, 0]).all()
    assert ours.coef_[:, 1] == pytest.approx(ours.coef_[:, 2], rel=ours.tol)
    assert ours.coef_[:, [0, 3]] == pytest.approx(0)


def test_balanced_class_weight_is_that_of_one_vs_rest():
    weight = np.linspace(0.5, 2, len(X)).astype(np.float32)
    ours = MultiLabelLogisticRegression(class_weight="balanced", thresholds=0.5).fit(X, Y, sample_weight=weight)
    for row, column in enumerate(Y.T):
        share = (weight * column).sum() / weight.sum()
        balanced = weight * np.where(column, 0.5 / share, 0.5 / (1 - share))
        assert_same_coef(ours.coef_[[row]], fit_peer(X, column, sample_weight=balanced).coef_)


def test_dict_of_class_weights_weighs_present_labels_of_the_classes_it_names():
    table = pd.DataFrame(Y, columns=NAMES)
    ours = MultiLabelLogisticRegression(class_weight={"sun": 4}, thresholds=0.5).fit(X, table)
    assert_same_coef(ours.coef_[[0]], fit_peer(X, Y[:, 0]).coef_)
    assert_same_coef(ours.coef_[[1]], fit_peer(X, Y[:, 1], class_weight={0: 1, 1: 4}).coef_)


def test_unknown_labels_are_left_out_of_the_loss_of_their_class():
    table = Y.astype(float)
    table[::3, 0] = table[1::4, 1] = np.nan
    ours = MultiLabelLogisticRegression(thresholds=0.5).fit(X, table)
    for row, column in enumerate(table.T):
        known = ~np.isnan(column)
        assert_same_coef(ours.coef_[[row]], fit_peer(X[known], column[known]).coef_)


@pytest.mark.parametrize("thresholds", [0.5, "f1"])
def test_without_intercept_a_class_that_is_known_nowhere_changes_no_other(thresholds):
    params = {"fit_intercept": False, "thresholds": thresholds}
    table = np.column_stack([Y, np.full(len(Y), np.nan)])
    with pytest.warns(MultiLabelKitWarning):
        ours = MultiLabelLogisticRegression(**params).fit(X, table)
    assert_same_coef(ours.coef_[:-1], MultiLabelLogisticRegression(**params).fit(X, Y).coef_)
    assert (ours.coef_[-1] == 0).all()
    assert (ours.predict_proba(X)[:, -1] == 0.5).all()


def test_weights_are_repetitions_and_samples_of_weight_zero_are_not_there():
    weight = np.arange(len(X)) % 3
    weighted = MultiLabelLogisticRegression(thresholds=0.5).fit(X, Y, sample_weight=weight)
    repeated = MultiLabelLogisticRegression(thresholds=0.5).fit(X.repeat(weight, axis=0), Y.repeat(weight, axis=0))
    assert weighted.coef_ == pytest.approx(repeated.coef_, rel=1e-6)
    removed = MultiLabelLogisticRegression().fit(X[weight > 0], Y[weight > 0])
    tuned = MultiLabelLogisticRegression().fit(X, Y, sample_weight=weight > 0)
    assert (tuned.coef_ == removed.coef_).all()
    assert (tuned.thresholds_ == removed.thresholds_).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1e-30, 1e-9, 1e9, 1e30], ids=str)
def test_weights_and_their_inverse_in_C_cancel(factor, dtype):
    features, weight = X.astype(dtype), np.full(len(X), factor)
    ours = MultiLabelLogisticRegression(C=1 / factor, thresholds=0.5).fit(features, Y, sample_weight=weight)
    assert_same_coef(ours.coef_, MultiLabelLogisticRegression(thresholds=0.5).fit(features, Y).coef_)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("C", [1e-20, 1e-26, 1e-32])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_strongest_penalties_leave_the_gradient_at_0_times_C(C, dtype):
    features = X.astype(dtype)
    ours = MultiLabelLogisticRegression(C=C, fit_intercept=False, thresholds=0.5).fit(features, Y)
    np.testing.assert_allclose(ours.coef_ / C, (Y - 0.5).T @ X, rtol=2e-2, atol=1e-2)


def test_order_of_the_features_in_memory_does_not_matter():
    rows, columns = (MultiLabelLogisticRegression().fit(np.asarray(X, order=order), Y) for order in "CF")
    assert (rows.coef_ == columns.coef_).all()
    assert (rows.thresholds_ == columns.thresholds_).all()


def test_labels_that_are_all_alike_get_the_documented_intercept():
    table = np.zeros((len(X), 4))
    table[:, 1], table[:, 2], table[:, 3] = 1, np.nan, Y[:, 0]
    table[:100, 0] = np.nan
    with pytest.warns(MultiLabelKitWarning, match=r"^No sample in y is known to have 2 of 4 classes: 0, 2\.$"):
        ours = MultiLabelLogisticRegression(thresholds=0.5).fit(X, table)
    assert (ours.coef_[:3] == 0).all()
    assert ours.predict_proba(X[:1])[0, :3] == pytest.approx([0.5 / 201, 300.5 / 301, 0.5 / 301])
    assert ours.n_iter_[:3].tolist() == [0, 0, 0]
    assert_same_coef(ours.coef_[[3]], fit_peer(X, Y[:, 0]).coef_)


def test_without_intercept_labels_that_are_all_alike_are_a_problem_as_any_other():
    with pytest.warns(MultiLabelKitWarning, match="No sample in y is known to have 1 of 1 classes"):
        ours = MultiLabelLogisticRegression(thresholds=0.5, fit_intercept=False).fit(X, np.zeros((len(X), 1)))
    gradient = expit(X @ ours.coef_.T).T @ X + ours.coef_
    assert np.abs(gradient).max() < 1e-3 * np.abs(X.sum(axis=0)).max()
    assert ours.intercept_ == 0


@pytest.mark.parametrize(
    "y",
    [
        Y,
        Y * 2 - 1,
        Y.tolist(),
        list(Y),
        Y.astype(bool),
        scipy.sparse.csr_matrix(Y),
        as_labels(Y, classes=[0, 1, 2]),
        [set(row) for row in as_labels(Y, classes=[0, 1, 2])],
        pd.Series([list(row) for row in as_labels(Y, classes=[0, 1, 2])]),
        [dict(enumerate(row)) for row in Y.tolist()],
        pd.DataFrame(Y),
    ],
    ids=["table", "minus_one", "nested", "arrays", "bool", "sparse", "tuples", "sets", "series", "dicts", "frame"],
)
def test_every_format_of_labels_means_the_same(y):
    expected = MultiLabelLogisticRegression().fit(X, Y)
    found = MultiLabelLogisticRegression().fit(X, y)
    assert found.classes_.tolist() == [0, 1, 2]
    assert (found.coef_ == expected.coef_).all()
    assert (found.thresholds_ == expected.thresholds_).all()
    assert found.score(X, y) == expected.score(X, Y)
    assert found.predict(X).dtype == np.int64
    assert found.predict(X).shape == found.predict_proba(X).shape == found.decision_function(X).shape == Y.shape


def test_strings_with_a_separator_are_labels():
    y = ["|".join(row) for row in as_labels(Y, classes=NAMES)]
    found = MultiLabelLogisticRegression(label_sep="|").fit(X, y)
    assert found.label_binarizer_.classes_.tolist() == found.classes_.tolist() == NAMES
    assert found.score(X, y) == MultiLabelLogisticRegression().fit(X, Y).score(X, Y)


def test_classes_fix_the_columns():
    y = [tuple(reversed(row)) for row in as_labels(Y, classes=NAMES)]
    found = MultiLabelLogisticRegression(classes=["trees", "sun", "sea"], thresholds=0.5).fit(X, y)
    assert found.classes_.tolist() == ["trees", "sun", "sea"]
    assert found.coef_ == pytest.approx(MultiLabelLogisticRegression(thresholds=0.5).fit(X, Y).coef_[::-1])


@pytest.mark.parametrize("n_classes", [1, 2])
def test_one_and_two_labels_work_like_twenty(n_classes):
    found = MultiLabelLogisticRegression().fit(X, Y[:, :n_classes])
    assert found.coef_.shape == (n_classes, X.shape[1])
    assert found.predict(X).shape == found.predict_proba(X).shape == found.decision_function(X).shape
    assert found.predict(X).shape == (len(X), n_classes)


SINGLE = np.array(NAMES)[Y @ [1, 1, 0]]


def test_names_are_classes_that_exclude_each_other_under_softmax():
    peer, ours = fit_peer(X, SINGLE), MultiLabelLogisticRegression().fit(X, SINGLE)
    assert_same_coef(ours.coef_, peer.coef_)
    assert ours.intercept_ == pytest.approx(peer.intercept_, rel=1e-3)
    assert ours.predict_proba(X) == pytest.approx(peer.predict_proba(X), abs=1e-4)
    assert (ours.predict(X) == peer.predict(X)).all()
    assert ours.classes_.tolist() == NAMES
    assert ours.thresholds_ is None
    assert ours.label_binarizer_ is None
    assert ours.score(X, SINGLE) == peer.score(X, SINGLE)


@pytest.mark.parametrize("names", [["no", "yes"], [3, 7], [-1, 1], [0.0, 1.0], [False, True]], ids=str)
def test_two_names_are_one_logistic_regression(names):
    y = np.array(names)[Y[:, 0]]
    peer, ours = fit_peer(X, y), MultiLabelLogisticRegression().fit(X, y.tolist())
    assert_same_coef(ours.coef_, peer.coef_)
    assert ours.decision_function(X) == pytest.approx(peer.decision_function(X), abs=1e-3)
    assert ours.predict_proba(X) == pytest.approx(peer.predict_proba(X), abs=1e-4)
    assert ours.predict_proba(X).sum(axis=1) == pytest.approx(1)
    assert (ours.predict(X) == peer.predict(X)).all()
    assert ours.score(X, y) == peer.score(X, y)


@pytest.mark.parametrize("class_weight", ["balanced", {"sun": 3}], ids=str)
def test_weights_of_classes_that_exclude_each_other_are_those_of_scikit_learn(class_weight):
    ours = MultiLabelLogisticRegression(class_weight=class_weight).fit(X, SINGLE)
    assert_same_coef(ours.coef_, fit_peer(X, SINGLE, class_weight=class_weight).coef_)


def test_samples_of_unknown_class_are_left_out():
    y = SINGLE.astype(object)
    y[::5] = None
    known = ~pd.isna(y)
    ours = MultiLabelLogisticRegression().fit(X, y)
    assert (ours.coef_ == MultiLabelLogisticRegression().fit(X[known], SINGLE[known]).coef_).all()


def test_a_column_of_names_is_flattened_with_the_warning_of_scikit_learn():
    with pytest.warns(DataConversionWarning, match="A column-vector y was passed when a 1d array was expected"):
        ours = MultiLabelLogisticRegression().fit(X, SINGLE[:, np.newaxis])
    assert ours.predict(X).shape == (len(X),)


def test_names_with_a_separator_are_classes_once_these_are_named():
    y = np.where(Y[:, 0], "sea, calm", "sea, rough")
    ours = MultiLabelLogisticRegression(classes=["sea, rough", "sea, calm"]).fit(X, y)
    assert ours.classes_.tolist() == ["sea, rough", "sea, calm"]
    assert ours.score(X, y) == MultiLabelLogisticRegression().fit(X, Y[:, 0]).score(X, Y[:, 0])


def test_thresholds_are_tuned_on_scores_of_samples_left_out():
    part = split_rows(Y, sizes=[60] * 5, random_state=0)
    proba = np.empty(Y.shape)
    for fold in range(5):
        train = part != fold
        proba[~train] = np.column_stack(
            [fit_peer(X[train], column).predict_proba(X[~train])[:, 1] for column in Y[train].T]
        )
    expected = tune_thresholds(Y, proba, random_state=0)
    assert MultiLabelLogisticRegression().fit(X, Y).thresholds_ == pytest.approx(expected, abs=0.01)
    for objective in ("f1", "global"):
        exact = MultiLabelLogisticRegression(tol=1e-8, thresholds=objective).fit(X, Y).thresholds_
        assert exact == pytest.approx(tune_thresholds(Y, proba, objective=objective), abs=0.01)


def test_decisions_are_the_probabilities_at_or_above_the_thresholds():
    ours = MultiLabelLogisticRegression().fit(X, Y)
    assert (ours.predict(X) == (ours.predict_proba(X) >= ours.thresholds_)).all()


@pytest.mark.parametrize("thresholds", [0.3, [0.3, 0.3, 0.3], {0: 0.3, 2: 0.3, 1: 0.3}], ids=str)
def test_fixed_thresholds_are_taken_as_they_are(thresholds):
    ours = MultiLabelLogisticRegression(thresholds=thresholds).fit(X, Y)
    assert ours.thresholds_.tolist() == [0.3, 0.3, 0.3]


def test_threshold_params_are_those_of_the_objective():
    model = MultiLabelLogisticRegression(thresholds="fbeta", threshold_params={"beta": 1e-3})
    assert (model.fit(X, Y).thresholds_ > MultiLabelLogisticRegression().fit(X, Y).thresholds_).all()


def test_a_class_with_one_positive_gets_the_global_threshold():
    table = np.column_stack([Y, np.zeros(len(Y))])
    table[7, 3] = 1
    with pytest.warns(MultiLabelKitWarning, match=r"^No known positive in 1 of 4 classes; they get the threshold"):
        ours = MultiLabelLogisticRegression().fit(X, table)
    assert 0.1 < ours.thresholds_[3] < 0.9
    assert ours.coef_[3].any()


def test_seed_decides_thresholds_but_not_coefficients():
    one, same, other = (MultiLabelLogisticRegression(random_state=seed).fit(X, Y) for seed in (0, 0, 1))
    assert (one.thresholds_ == same.thresholds_).all()
    assert (one.thresholds_ != other.thresholds_).any()
    assert_same_coef(one.coef_, other.coef_)


def test_score_is_macro_f1_without_unknown_labels():
    ours = MultiLabelLogisticRegression().fit(X, Y)
    table = Y.astype(float)
    table[:50, 0] = np.nan
    assert ours.score(X, table) == f1_score(table, ours.predict(X), average="macro")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_tiny_table_can_be_fitted(data):
    n_samples, n_classes = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 3))
    cells = st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n_classes, max_size=n_classes)
    table = np.array(data.draw(st.lists(cells, min_size=n_samples, max_size=n_samples)))
    if np.isnan(table).all():
        table[0, 0] = 0
    values = st.lists(st.sampled_from([-1e3, -1.0, 0.0, 1e-3, 2.0]), min_size=2, max_size=2)
    features = np.array(data.draw(st.lists(values, min_size=n_samples, max_size=n_samples)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MultiLabelKitWarning)
        ours = MultiLabelLogisticRegression().fit(features, table)
    assert np.isfinite(ours.coef_).all()
    assert np.isfinite(ours.intercept_).all()
    assert ((ours.thresholds_ >= 0) & (ours.thresholds_ <= 1)).all()


def test_grid_search_of_a_pipeline_is_a_hand_written_loop():
    table = as_indicator(as_labels(Y, classes=NAMES))
    model = make_pipeline(StandardScaler(), MultiLabelLogisticRegression())
    grid = {"multilabellogisticregression__C": [0.01, 1.0]}
    search = GridSearchCV(model, grid, cv=3, scoring="f1_macro").fit(X, table)
    scores = []
    for C in (0.01, 1.0):
        model.set_params(multilabellogisticregression__C=C)
        folds = np.array_split(np.arange(len(X)), 3)
        for test in folds:
            train = np.setdiff1d(np.arange(len(X)), test)
            model.fit(X[train], table.iloc[train])
            scores.append(f1_score(Y[test], model.predict(X[test]), average="macro"))
    assert search.cv_results_["mean_test_score"] == pytest.approx(np.reshape(scores, (2, 3)).mean(axis=1))
    assert search.best_estimator_.predict(X).shape == Y.shape
    assert cross_val_score(model, X, table, cv=3).tolist() == pytest.approx(scores[3:])


def test_sample_weight_is_routed_through_a_pipeline():
    weight = np.arange(len(X)) % 2
    with sklearn.config_context(enable_metadata_routing=True):
        model = MultiLabelLogisticRegression(thresholds=0.5).set_fit_request(sample_weight=True)
        routed = make_pipeline(model).fit(X, Y, sample_weight=weight)
    assert (routed[-1].coef_ == MultiLabelLogisticRegression(thresholds=0.5).fit(X[1::2], Y[1::2]).coef_).all()


def test_names_of_features_are_kept():
    ours = MultiLabelLogisticRegression().fit(pd.DataFrame(X, columns=list("abcdef")), Y)
    assert ours.feature_names_in_.tolist() == list("abcdef")
    assert ours.n_features_in_ == 6


def test_pickled_copy_predicts_the_same():
    ours = MultiLabelLogisticRegression().fit(X, pd.DataFrame(Y, columns=NAMES))
    copy = pickle.loads(pickle.dumps(ours))
    assert (copy.predict(X) == ours.predict(X)).all()
    assert copy.classes_.tolist() == NAMES


def test_every_fitted_attribute_is_documented():
    fitted = {*vars(MultiLabelLogisticRegression().fit(pd.DataFrame(X).rename(columns=str), Y))}
    documented = re.findall(r"^    (\w+_) : |^    (n_features_in_)", MultiLabelLogisticRegression.__doc__, re.MULTILINE)
    assert {name for name in fitted if name.endswith("_")} == {name for pair in documented for name in pair if name}


@pytest.mark.parametrize("y", [Y, SINGLE], ids=["labels", "names"])
def test_stopping_early_warns(y):
    message = (
        "The solver took max_iter=1 steps and did not reach tol=1e-05 for 3 of 3 classes, the first is "
        f"{0 if y is Y else 'sea'!r}. Increase max_iter, or lower C."
    )
    with pytest.warns(ConvergenceWarning, match=f"^{re.escape(message)}$") as caught:
        ours = MultiLabelLogisticRegression(max_iter=1).fit(X, y)
    assert ours.n_iter_.tolist() == [1, 1, 1]
    assert caught[0].filename == __file__


OWNER = "of MultiLabelLogisticRegression must be"
REFUSED = {
    "C": ({"C": 0}, Y, None, f"The 'C' parameter {OWNER} a number > 0. Got 0 instead."),
    "folds": ({"threshold_cv": 1}, Y, None, f"The 'threshold_cv' parameter {OWNER} an integer >= 2. Got 1 instead."),
    "class_weight": (
        {"class_weight": "rare"},
        Y,
        None,
        f"The 'class_weight' parameter {OWNER} None or 'balanced', or a dict by class. Got 'rare' instead.",
    ),
    "weight_of_unknown_class": (
        {"class_weight": {7: 1}},
        Y,
        None,
        "class_weight names 1 unknown class(es), the first is 7.",
    ),
    "weight_of_misspelt_class": (
        {"class_weight": {"see": 1}},
        SINGLE,
        None,
        "class_weight names 1 unknown class(es), the first is 'see'. Did you mean 'sea' or 'trees'?",
    ),
    "class_weight_zero": ({"class_weight": {1: 0}}, Y, None, "A class_weight must be a number > 0. Got 0 for class 1."),
    "threshold_params": (
        {"thresholds": "precision", "threshold_params": {"targte": 0.9}},
        Y,
        None,
        "threshold_params has no 'targte'. Did you mean 'target'? Known are: beta, target, confidence, cost_fp, "
        "cost_fn, n_bootstraps, shrink, random_state.",
    ),
    "params_of_fixed_thresholds": (
        {"thresholds": 0.5, "threshold_params": {"target": 0.9}},
        Y,
        None,
        "threshold_params has no effect on fixed thresholds. Leave it out, or name an objective.",
    ),
    "no_y": ({}, None, None, "MultiLabelLogisticRegression requires y to be passed, but the target y is None."),
    "few_labels": ({}, Y[:9], None, "X and y must have the same length. Got 300 samples and labels for 9."),
    "few_names": ({}, SINGLE[:9], None, "X and y must have the same length. Got 300 samples and labels for 9."),
    "no_weight": (
        {},
        Y,
        np.zeros(300),
        "sample_weight is zero for all 300 rows. Give some of them a weight above 0.",
    ),
    "one_weight": (
        {},
        Y,
        np.eye(300)[3],
        "Only 1 of 300 samples can be used: the others have weight 0 or no known class. Pass at least 2.",
    ),
    "class_without_sample": (
        {"classes": ["moon", *NAMES, "star"]},
        SINGLE,
        None,
        "No sample in y has 2 of 5 classes, the first is 'moon'. Where classes exclude each other, each needs a sample "
        "with a weight above 0; leave the others out of classes=[...].",
    ),
    "continuous": (
        {},
        X[:, 0],
        None,
        f"Unknown label type: continuous. Row 0 of y is {X[0, 0]:g}, which names no class. Pass strings or whole "
        "numbers, or labels in a format of as_indicator.",
    ),
    "joined": (
        {},
        ["sea"] * 299 + ["sea|sun"],
        None,
        "'sea|sun' in row 299 of y looks like several labels in one string. Split it with label_sep='|', or name all "
        "classes with classes=[...] if it is one class.",
    ),
}


@pytest.mark.parametrize(("params", "y", "weight", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_fitted_is_refused(params, y, weight, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        MultiLabelLogisticRegression(**params).fit(X, y, sample_weight=weight)


def test_score_refuses_labels_of_another_length():
    ours = MultiLabelLogisticRegression().fit(X, Y)
    with pytest.raises(InputError, match=r"^X and y must have the same length\. Got 300 samples and labels for 9\.$"):
        ours.score(X, Y[:9])


def test_fixed_thresholds_that_do_not_fit_the_classes_are_refused_before_any_work():
    with pytest.raises(
        InputError, match=r"^thresholds must hold one number for each of 3 classes\. Got the shape \(2,\)"
    ):
        MultiLabelLogisticRegression(thresholds=[0.1, 0.2]).fit(X, Y)
