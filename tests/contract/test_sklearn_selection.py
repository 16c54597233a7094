"""Cross-validation, grid search and pipelines of scikit-learn, each beside the same thing written by hand."""

import itertools
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.metrics import average_precision_score, f1_score
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import Pipeline
from sklearn.utils import shuffle

from multilabelkit import MultiLabelImageClassifier, as_indicator, as_labels
from multilabelkit.errors import MultiLabelKitWarning
from multilabelkit.metrics import make_multilabel_scorer
from multilabelkit.model_selection import MultiLabelStratifiedKFold

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))
LEGACY = "You appear to be using a legacy multi-label data representation"
GRID = {"learning_rate": [1e-3, 1e-2], "dropout": [0.0, 0.5]}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(shapes, tmp_path_factory):
    """Paths of 48 images in random order, and their labels as lists of names."""
    folder = tmp_path_factory.mktemp("shapes")
    paths = [str(folder / f"{row:02}.png") for row in range(48)]
    for path, pixels in zip(paths, shapes.images, strict=True):
        Image.fromarray(pixels).save(path)
    return shuffle(paths, [list(labels) for labels in as_labels(shapes.target)], random_state=0)


def create_classifier(**params):
    # Half of the images validate, so that no class has so few positives there that fit would warn.
    settings = {"image_size": 32, "max_epochs": 1, "batch_size": 8, "num_workers": 0, "verbose": 0, "random_state": 0}
    return MultiLabelImageClassifier("small_cnn", **({"validation_fraction": 0.5} | settings | params))


def fit_folds(classifier, X, Y, splitter, **weights):
    """Fit a copy of the classifier on every fold; yield it with the images and labels it has not seen."""
    for train, test in splitter.split(X, Y):
        params = {name: values[train] for name, values in weights.items()}
        fold = clone(classifier).fit([X[row] for row in train], Y.iloc[train], **params)
        yield fold, [X[row] for row in test], Y.iloc[test]


def score_folds(classifier, X, Y, splitter, **weights):
    folds = fit_folds(classifier, X, Y, splitter, **weights)
    return [f1_score(truth, fold.predict(images), average="macro") for fold, images, truth in folds]


@pytest.fixture(scope="module")
def plain(data):
    """The macro-F1 of three plain folds, by hand."""
    return score_folds(create_classifier(), data[0], as_indicator(data[1]), KFold(3))


@pytest.fixture(scope="module")
def stratified(data):
    """The macro-F1 of three stratified folds, by hand."""
    splitter = MultiLabelStratifiedKFold(3, random_state=0)
    return score_folds(create_classifier(), data[0], as_indicator(data[1]), splitter)


# ---- cross_val_score


def test_cross_val_score_equals_a_loop_by_hand(data, plain):
    paths, labels = data
    Y = as_indicator(labels)
    scores = cross_val_score(create_classifier(), paths, Y, scoring="f1_macro", cv=3)
    assert scores.tolist() == plain


def test_cross_val_score_with_stratified_folds_equals_a_loop_by_hand(data, stratified):
    paths, labels = data
    Y, splitter = as_indicator(labels), MultiLabelStratifiedKFold(3, random_state=0)
    scores = cross_val_score(create_classifier(), paths, Y, scoring="f1_macro", cv=splitter)
    assert scores.tolist() == stratified


def test_cross_val_score_without_scoring_uses_the_score_method(data, plain):
    paths, labels = data
    Y = as_indicator(labels)
    scores = cross_val_score(create_classifier(), paths, Y, cv=3)
    assert scores.tolist() == pytest.approx(plain, abs=1e-12)


@pytest.mark.parametrize(
    "convert",
    [
        lambda paths: [Path(path) for path in paths],
        lambda paths: pd.Series(paths, index=range(100, 148)),
        lambda paths: np.array(paths, dtype=object),
        np.array,
        lambda paths: pd.DataFrame({"path": paths}),
        lambda paths: np.stack([np.asarray(Image.open(path)) for path in paths]),
        lambda paths: [Image.open(path).copy() for path in paths],
    ],
    ids=["Path", "Series", "object-array", "str-array", "DataFrame", "4-D", "PIL"],
)
def test_cross_val_score_takes_images_in_every_form(convert, data, plain):
    paths, labels = data
    Y = as_indicator(labels)
    scores = cross_val_score(create_classifier(), convert(paths), Y, scoring="f1_macro", cv=3)
    assert scores.tolist() == plain


def test_cross_val_score_hands_sample_weights_and_groups_to_fit(data):
    paths, labels = data
    Y, weight, groups = as_indicator(labels), np.linspace(0, 2, 48), np.arange(48) // 2
    params = {"sample_weight": weight, "groups": groups}
    scores = cross_val_score(create_classifier(), paths, Y, scoring="f1_macro", cv=3, params=params)
    assert scores.tolist() == score_folds(create_classifier(), paths, Y, KFold(3), **params)


def test_groups_of_cross_val_score_go_to_the_splitter(data):
    paths, labels = data
    groups = np.arange(48) // 4
    splitter = MultiLabelStratifiedKFold(3, random_state=0)
    found = cross_validate(
        create_classifier(), paths, as_indicator(labels), groups=groups, cv=splitter, return_indices=True
    )
    tested = found["indices"]["test"]
    assert all(set(groups[one]).isdisjoint(groups[other]) for one, other in itertools.combinations(tested, 2))


# ---- labels of other formats


FORMATS = {
    "lists": lambda labels: labels,
    "tuples": lambda labels: [tuple(row) for row in labels],
    "Series": lambda labels: pd.Series(labels, index=range(100, 148)),
    "sets": lambda labels: [set(row) for row in labels],
    "dicts": lambda labels: [dict.fromkeys(row, 1) for row in labels],
    "array": lambda labels: as_indicator(labels).to_numpy(),
    "plus-minus": lambda labels: as_indicator(labels).to_numpy() * 2 - 1,
}


@pytest.mark.parametrize("kind", ["lists", "tuples", "Series"])
def test_lists_of_labels_need_a_splitter(kind, data):
    paths, labels = data
    with pytest.raises(ValueError, match=LEGACY):
        cross_val_score(create_classifier(), paths, FORMATS[kind](labels), cv=3)


@pytest.mark.parametrize("kind", ["lists", "tuples", "Series", "sets", "dicts"])
def test_scorers_of_sklearn_need_a_table(kind, data):
    """scikit-learn scores what `predict` returns against y itself."""
    paths, labels = data
    with pytest.warns(UserWarning, match="Scoring failed"):
        scores = cross_val_score(
            create_classifier(), paths, FORMATS[kind](labels), scoring="f1_macro", cv=MultiLabelStratifiedKFold(3)
        )
    assert np.isnan(scores).all()


@pytest.mark.parametrize("scoring", [None, make_multilabel_scorer("f1_macro")], ids=["score", "our-scorer"])
@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_every_format_work_with_our_splitter_and_our_scores(kind, scoring, data, stratified):
    paths, labels = data
    splitter = MultiLabelStratifiedKFold(3, random_state=0)
    scores = cross_val_score(create_classifier(), paths, FORMATS[kind](labels), scoring=scoring, cv=splitter)
    assert scores.tolist() == pytest.approx(stratified, abs=1e-12)


@pytest.mark.filterwarnings("ignore:(?s)Scoring failed.*Mix type of y not allowed:UserWarning")
def test_f1_of_sklearn_is_wrong_for_minus_one_and_one(data, plain):
    """It counts absent, -1 on one side and 0 on the other, as classes of their own; before 1.9 it gives NaN."""
    paths, labels = data
    Y = as_indicator(labels)
    scores = cross_val_score(create_classifier(), paths, FORMATS["plus-minus"](labels), scoring="f1_macro", cv=3)
    assert np.isnan(scores).all() if VERSION < (1, 9) else (scores > np.array(plain) + 0.05).all()
    assert cross_val_score(create_classifier(), paths, Y, scoring="f1_macro", cv=3).tolist() == plain


def test_unknown_labels_need_our_splitter_and_our_scorer(data):
    paths, labels = data
    Y = as_indicator(labels).astype(float)
    Y.iloc[::5, 0] = np.nan
    scorer, splitter = make_multilabel_scorer("f1_macro"), MultiLabelStratifiedKFold(3, random_state=0)
    with pytest.raises(ValueError, match="Input y contains NaN"), np.errstate(invalid="ignore"):
        cross_val_score(create_classifier(), paths, Y, scoring=scorer, cv=3)
    scores = cross_val_score(create_classifier(), paths, Y, scoring=scorer, cv=splitter)
    expected = [
        scorer(fold, images, truth) for fold, images, truth in fit_folds(create_classifier(), paths, Y, splitter)
    ]
    assert scores.tolist() == expected
    assert np.isfinite(scores).all()


# ---- several metrics, and what comes back


def test_cross_validate_with_several_metrics_returns_the_estimators(data):
    paths, labels = data
    Y = as_indicator(labels)
    scoring = {"f1": "f1_samples", "map": "average_precision", "ours": make_multilabel_scorer("average_precision")}
    Z = Y.set_axis([0, 1, 2], axis=1)  # numbered, so that every version of scikit-learn finds a class 1
    found = cross_validate(create_classifier(), paths, Z, scoring=scoring, cv=3, return_estimator=True)
    by_hand = list(fit_folds(create_classifier(), paths, Z, KFold(3)))
    for row, (fold, images, truth) in enumerate(by_hand):
        np.testing.assert_array_equal(found["estimator"][row].predict_proba(images), fold.predict_proba(images))
        decided, logits = fold.predict(images), fold.decision_function(images)
        assert found["test_f1"][row] == f1_score(truth, decided, average="samples", zero_division=0.0)
        assert found["test_map"][row] == average_precision_score(truth, logits)
        assert found["test_ours"][row] == pytest.approx(average_precision_score(truth, fold.predict_proba(images)))


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_cross_val_predict_equals_a_loop_by_hand(method, data):
    """KFold in order tests the rows in order, so the folds can be joined."""
    paths, labels = data
    Y = as_indicator(labels)
    found = cross_val_predict(create_classifier(), paths, Y, cv=3, method=method)
    expected = [getattr(fold, method)(images) for fold, images, _ in fit_folds(create_classifier(), paths, Y, KFold(3))]
    np.testing.assert_array_equal(found, np.concatenate(expected))


def test_cross_val_predict_of_probabilities_takes_a_label_of_every_image_for_absent(data):
    """scikit-learn numbers the values of each column anew: a column of ones becomes one of zeros."""
    paths, labels = data
    Y = as_indicator(labels).assign(circle=1)
    with pytest.warns(MultiLabelKitWarning, match="No known positive in 1 of 3 classes"):
        proba = cross_val_predict(create_classifier(), paths, Y, cv=3, method="predict_proba")
    assert (proba[:, 0] < 0.1).all()


# ---- search


def test_grid_search_equals_a_loop_by_hand(data):
    paths, labels = data
    Y = as_indicator(labels)
    search = GridSearchCV(create_classifier(), GRID, scoring="f1_macro", cv=3).fit(paths, Y)
    table = {
        (dropout, rate): score_folds(create_classifier(dropout=dropout, learning_rate=rate), paths, Y, KFold(3))
        for dropout, rate in itertools.product(GRID["dropout"], GRID["learning_rate"])
    }
    order = [(params["dropout"], params["learning_rate"]) for params in search.cv_results_["params"]]
    assert order == list(table)
    for fold in range(3):
        assert search.cv_results_[f"split{fold}_test_score"].tolist() == [table[place][fold] for place in order]
    best = max(table, key=lambda place: np.mean(table[place]))
    assert search.best_params_ == {"dropout": best[0], "learning_rate": best[1]}
    assert search.best_score_ == np.mean(table[best])
    refitted = create_classifier(**search.best_params_).fit(paths, Y)
    np.testing.assert_array_equal(search.best_estimator_.predict_proba(paths), refitted.predict_proba(paths))
    np.testing.assert_array_equal(search.predict(paths), refitted.predict(paths))
    assert search.classes_.tolist() == ["circle", "square", "triangle"]


def test_grid_search_takes_label_lists_with_our_splitter_and_scorer(data):
    paths, labels = data
    splitter = MultiLabelStratifiedKFold(3, random_state=0)
    params = {"param_grid": {"learning_rate": [1e-3, 1e-2]}, "cv": splitter}
    lists = GridSearchCV(create_classifier(), scoring=make_multilabel_scorer(), **params).fit(paths, labels)
    table = GridSearchCV(create_classifier(), scoring="f1_macro", **params).fit(paths, as_indicator(labels))
    np.testing.assert_allclose(lists.cv_results_["mean_test_score"], table.cv_results_["mean_test_score"], atol=1e-12)
    assert make_multilabel_scorer()(lists, paths, labels) == pytest.approx(table.score(paths, as_indicator(labels)))


def test_two_processes_give_the_scores_of_one(data, plain):
    paths, labels = data
    Y = as_indicator(labels)
    try:
        with joblib.parallel_config("loky", inner_max_num_threads=1):
            scores = cross_val_score(create_classifier(), paths, Y, scoring="f1_macro", cv=3, n_jobs=2)
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown()
    assert scores.tolist() == plain


# ---- pipelines and splits


def test_pipeline_passes_images_and_parameters_through(data):
    paths, labels = data
    Y = as_indicator(labels)
    pipeline = Pipeline([("clf", create_classifier())]).set_params(clf__dropout=0.0).fit(paths, Y)
    alone = create_classifier(dropout=0.0).fit(paths, Y)
    np.testing.assert_array_equal(pipeline.predict_proba(paths), alone.predict_proba(paths))
    assert pipeline.score(paths, labels) == alone.score(paths, labels)
    assert pipeline.classes_.tolist() == alone.classes_.tolist()
    scores = cross_val_score(pipeline, paths, Y, scoring="f1_macro", cv=3)
    assert scores.tolist() == score_folds(create_classifier(dropout=0.0), paths, Y, KFold(3))


@pytest.mark.parametrize("wrap", ["pipeline", "search", "search-in-pipeline", "pipeline-in-search"])
def test_our_scorer_finds_the_separator_inside(wrap, data):
    """Labels joined in one string are split as the classifier inside splits them."""
    paths, labels = data
    joined = ["|".join(row) for row in labels]
    splitter = MultiLabelStratifiedKFold(2, random_state=0)
    folds = list(splitter.split(paths, labels))
    classifier = create_classifier(label_sep="|")

    def search(estimator, name):
        return GridSearchCV(estimator, {name: [0.2]}, cv=[folds[0]], scoring=make_multilabel_scorer())

    estimator = {
        "pipeline": Pipeline([("clf", classifier)]),
        "search": search(classifier, "dropout"),
        "search-in-pipeline": Pipeline([("search", search(classifier, "dropout"))]),
        "pipeline-in-search": search(Pipeline([("clf", classifier)]), "clf__dropout"),
    }[wrap]
    score = make_multilabel_scorer()(estimator.fit(paths, joined), paths, joined)
    assert score == classifier.fit(paths, joined).score(paths, joined)


def test_train_test_split_keeps_images_and_labels_together(data):
    paths, labels = data
    Y = as_indicator(labels)
    train_paths, test_paths, train_Y, test_Y = train_test_split(paths, Y, random_state=0)
    assert [paths[row] for row in test_Y.index] == test_paths
    score = create_classifier().fit(train_paths, train_Y).score(test_paths, test_Y)
    assert 0 <= score <= 1
