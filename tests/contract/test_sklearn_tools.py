"""The other tools of scikit-learn that fit a classifier many times, each beside the same thing written by hand."""

import itertools
import pickle
import re

import joblib
import numpy as np
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    cross_validate,
    learning_curve,
    permutation_test_score,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import resample

from multilabelkit import MultiLabelImageClassifier, as_labels
from multilabelkit import metrics as ours
from multilabelkit.datasets import make_shapes
from multilabelkit.metrics import make_multilabel_scorer
from multilabelkit.model_selection import MultiLabelStratifiedKFold

GRID = {"learning_rate": [1e-3, 1e-2]}
MAP = make_multilabel_scorer("average_precision")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    shapes = make_shapes(96, random_state=1)
    return shapes.images, shapes.target


def create_classifier(**params):
    # Half of the images validate, so that no class has so few positives there that fit would warn.
    settings = {"image_size": 32, "max_epochs": 1, "batch_size": 8, "num_workers": 0, "verbose": 0, "random_state": 0}
    return MultiLabelImageClassifier("small_cnn", **({"validation_fraction": 0.5} | settings | params))


def score_by_hand(classifier, data, train, test, **weights):
    """Fit a copy on one part and return the mAP of the other, which differs where predictions may not."""
    X, Y = data
    params = {name: values[train] for name, values in weights.items()}
    fitted = clone(classifier).fit(X[train], Y.iloc[train], **params)
    return ours.mean_average_precision(Y.iloc[test], fitted.predict_proba(X[test]))


def score_splits(splits, data, **params):
    return np.mean([score_by_hand(create_classifier(**params), data, *split) for split in splits])


def test_cross_validate_scores_the_images_trained_on_too(data):
    X, Y = data
    found = cross_validate(create_classifier(), X, Y, scoring=MAP, cv=2, return_train_score=True, return_indices=True)
    splits = list(KFold(2).split(X))
    for place, (train, test) in enumerate(splits):
        np.testing.assert_array_equal(found["indices"]["test"][place], test)
        assert found["test_score"][place] == score_by_hand(create_classifier(), data, train, test)
        assert found["train_score"][place] == score_by_hand(create_classifier(), data, train, train)


def test_cross_validate_returns_fitted_classifiers_from_two_processes(data):
    X, Y = data
    try:
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            found = cross_validate(create_classifier(), X, Y, scoring=MAP, cv=2, n_jobs=2, return_estimator=True)
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown()
    splits = KFold(2).split(X)
    assert found["test_score"].tolist() == [score_by_hand(create_classifier(), data, *split) for split in splits]
    fitted = create_classifier().fit(X[48:], Y[48:])
    np.testing.assert_array_equal(found["estimator"][0].predict_proba(X), fitted.predict_proba(X))


@pytest.mark.parametrize("convert", [lambda Y: Y, lambda Y: Y.to_numpy()], ids=["DataFrame", "array"])
@pytest.mark.parametrize("min_resources", ["exhaust", "smallest"])
def test_halving_search_cannot_count_the_classes_of_a_table(min_resources, convert, data):
    """It takes twice the number of folds times that of different values of y, which it wants in one dimension."""
    search = HalvingGridSearchCV(create_classifier(), GRID, scoring=MAP, cv=2, min_resources=min_resources)
    message = r"^y should be a 1d array, got an array of shape \(96, 3\) instead\.$"
    with pytest.raises(ValueError, match=message):
        search.fit(data[0], convert(data[1]))


def test_halving_search_by_images_equals_a_loop_by_hand(data):
    X, Y = data
    splitter = MultiLabelStratifiedKFold(2, random_state=0)
    search = HalvingGridSearchCV(
        create_classifier(), GRID, scoring=MAP, cv=splitter, min_resources=48, factor=2, random_state=0
    ).fit(X, Y)
    assert (search.n_resources_, search.n_candidates_) == ([48, 96], [2, 1])
    halves, wholes = (
        [
            [resample(rows, replace=False, random_state=0, n_samples=int(share * len(rows))) for rows in split]
            for split in splitter.split(X, Y)
        ]
        for share in (0.5, 1)
    )  # the wholes are in another order, too
    scores = {rate: score_splits(halves, data, learning_rate=rate) for rate in GRID["learning_rate"]}
    best = max(scores, key=scores.__getitem__)
    last = score_splits(wholes, data, learning_rate=best)
    assert search.cv_results_["mean_test_score"].tolist() == [*scores.values(), last]
    assert search.best_params_ == {"learning_rate": best}


def test_halving_search_by_epochs_equals_a_loop_by_hand(data):
    X, Y = data
    search = HalvingGridSearchCV(
        create_classifier(), GRID, scoring=MAP, cv=2, resource="max_epochs", min_resources=1, max_resources=2,
        factor=2, random_state=0,
    ).fit(X, Y)  # fmt: skip
    assert (search.n_resources_, search.n_candidates_) == ([1, 2], [2, 1])
    splits = list(KFold(2).split(X))
    scores = {rate: score_splits(splits, data, learning_rate=rate) for rate in GRID["learning_rate"]}
    best = max(scores, key=scores.__getitem__)
    last = score_splits(splits, data, learning_rate=best, max_epochs=2)
    assert search.cv_results_["mean_test_score"].tolist() == [*scores.values(), last]
    assert search.best_params_ == {"learning_rate": best, "max_epochs": 2}
    refitted = create_classifier(**search.best_params_).fit(X, Y)
    np.testing.assert_array_equal(search.predict(X), refitted.predict(X))


def test_halving_search_takes_label_lists_with_our_splitter_and_scorer(data):
    X, Y = data
    labels = [list(row) for row in as_labels(Y)]
    params = {
        "param_grid": GRID,
        "cv": MultiLabelStratifiedKFold(2, random_state=0),
        "min_resources": 96,
        "random_state": 0,
    }
    lists = HalvingGridSearchCV(create_classifier(), scoring=MAP, **params).fit(X, labels)
    table = HalvingGridSearchCV(create_classifier(), scoring=MAP, **params).fit(X, Y)
    found, expected = (search.cv_results_["mean_test_score"] for search in (lists, table))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_halving_search_needs_the_same_folds_at_every_call(data):
    search = HalvingGridSearchCV(create_classifier(), GRID, cv=MultiLabelStratifiedKFold(2), min_resources=96)
    with pytest.raises(ValueError, match=re.escape("must yield consistent folds across calls to split()")):
        search.fit(*data)


def test_learning_curve_equals_a_loop_by_hand(data):
    X, Y = data
    splitter = MultiLabelStratifiedKFold(2, random_state=0)
    sizes, train_scores, test_scores = learning_curve(
        create_classifier(), X, Y, train_sizes=[32, 48], cv=splitter, scoring=MAP
    )
    assert sizes.tolist() == [32, 48]
    for (row, size), (fold, (train, test)) in itertools.product(enumerate(sizes), enumerate(splitter.split(X, Y))):
        part = train[:size]
        assert train_scores[row, fold] == score_by_hand(create_classifier(), data, part, part)
        assert test_scores[row, fold] == score_by_hand(create_classifier(), data, part, test)


def test_permutation_test_score_equals_a_loop_by_hand(data):
    X, Y = data
    score, shuffled, p_value = permutation_test_score(
        create_classifier(), X, Y, cv=2, scoring=MAP, n_permutations=2, random_state=0
    )
    random, splits = np.random.RandomState(0), list(KFold(2).split(X))
    assert score == np.mean([score_by_hand(create_classifier(), data, *split) for split in splits])
    expected = []
    for _ in range(2):
        others = Y.iloc[random.permutation(96)]
        expected.append(np.mean([score_by_hand(create_classifier(), (X, others), *split) for split in splits]))
    assert shuffled.tolist() == expected
    assert p_value == (1 + np.count_nonzero(np.array(expected) >= score)) / 3


def test_pipeline_changes_images_before_they_reach_the_classifier(data):
    X, Y = data
    weight = np.linspace(0, 2, 96)
    mirror = FunctionTransformer(np.flip, kw_args={"axis": 2})
    pipeline = Pipeline([("mirror", mirror), ("clf", create_classifier())])
    pipeline.fit(X, Y, clf__sample_weight=weight)
    alone = create_classifier().fit(X[:, :, ::-1], Y, sample_weight=weight)
    np.testing.assert_array_equal(pipeline.predict_proba(X), alone.predict_proba(X[:, :, ::-1]))
    assert pipeline.score(X, Y) == alone.score(X[:, :, ::-1], Y)


def test_routed_weights_and_groups_equal_a_loop_by_hand(data):
    X, Y = data
    metadata = {"sample_weight": np.linspace(0, 2, 96), "groups": np.arange(96) // 4}
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = create_classifier().set_fit_request(sample_weight=True, groups=True)
        classifier.set_score_request(sample_weight=True)
        scores = cross_validate(classifier, X, Y, cv=GroupKFold(2), params=metadata)["test_score"]
    expected = []
    for train, test in GroupKFold(2).split(X, Y, metadata["groups"]):
        part = {name: values[train] for name, values in metadata.items()}
        fitted = create_classifier().fit(X[train], Y.iloc[train], **part)
        weight = metadata["sample_weight"][test]
        expected.append(ours.f1_score(Y.iloc[test], fitted.predict(X[test]), sample_weight=weight))
    assert scores.tolist() == expected


def test_routed_groups_reach_our_splitter_without_a_request(data):
    X, Y = data
    groups = np.arange(96) // 4
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = create_classifier().set_fit_request(groups=False)
        found = cross_validate(
            classifier, X, Y, cv=MultiLabelStratifiedKFold(2, random_state=0), params={"groups": groups},
            return_indices=True,
        )  # fmt: skip
    splits = list(MultiLabelStratifiedKFold(2, random_state=0).split(X, Y, groups))
    for place, (_, test) in enumerate(splits):
        np.testing.assert_array_equal(found["indices"]["test"][place], test)


def test_routed_weights_pass_through_pipelines_and_searches(data):
    X, Y = data
    weight = np.linspace(0, 2, 96)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = create_classifier().set_fit_request(sample_weight=True)
        search = GridSearchCV(Pipeline([("clf", classifier)]), {"clf__dropout": [0.0]}, scoring=MAP, cv=2)
        search.fit(X, Y, sample_weight=weight)
    expected = [
        score_by_hand(create_classifier(dropout=0.0), data, *split, sample_weight=weight) for split in KFold(2).split(X)
    ]
    assert search.cv_results_["mean_test_score"].tolist() == pytest.approx([np.mean(expected)], abs=1e-12)


def test_routing_asks_for_a_decision_about_weights(data):
    with (
        sklearn.config_context(enable_metadata_routing=True),
        pytest.raises(UnsetMetadataPassedError, match=r"sample_weight.* are passed .*but are not explicitly set"),
    ):
        cross_validate(create_classifier(), *data, cv=2, params={"sample_weight": np.ones(96)})


def test_a_fitted_search_can_be_pickled(data):
    X, Y = data
    pipeline = Pipeline([("clf", create_classifier())])
    search = GridSearchCV(pipeline, {"clf__dropout": [0.0]}, scoring=make_multilabel_scorer(), cv=2).fit(X, Y)
    copy = pickle.loads(pickle.dumps(search))
    np.testing.assert_array_equal(copy.predict_proba(X), search.predict_proba(X))
    assert copy.score(X, Y) == search.score(X, Y)
    assert copy.best_estimator_[-1].history_ == search.best_estimator_[-1].history_


def test_joblib_stores_a_fitted_classifier(data, tmp_path):
    X, Y = data
    classifier = create_classifier().fit(X, Y)
    joblib.dump(classifier, tmp_path / "classifier.joblib")
    copy = joblib.load(tmp_path / "classifier.joblib")
    np.testing.assert_array_equal(copy.predict_proba(X), classifier.predict_proba(X))
    assert copy.predict_labels(X) == classifier.predict_labels(X)
