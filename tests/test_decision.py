"""From logits to labels: what the classifier does with calibration, thresholds and rules."""

import json
import re

import numpy as np
import pytest
from scipy.special import expit

from multilabelkit import MultiLabelImageClassifier, fitting
from multilabelkit.calibration import Calibrator
from multilabelkit.data.loading import iterate_evaluation
from multilabelkit.datasets import make_shapes
from multilabelkit.decision import decide, to_proba
from multilabelkit.errors import InputError, ModelFileError, MultiLabelKitWarning
from multilabelkit.metrics import f1_score, make_multilabel_scorer
from multilabelkit.rules import create_rules
from multilabelkit.thresholds import threshold_report, tune_thresholds
from multilabelkit.training import Callback

NAMES = ["circle", "square", "triangle"]


def create(**parameters):
    defaults = {
        "image_size": 32,
        "max_epochs": 2,
        "batch_size": 16,
        "validation_fraction": 0.4,
        "random_state": 0,
        "verbose": 0,
        "num_workers": 0,
        "feature_cache": None,
    }
    return MultiLabelImageClassifier("small_cnn", **(defaults | parameters))


@pytest.fixture(scope="module")
def many():
    return make_shapes(96, random_state=1)


@pytest.fixture(scope="module")
def focal(many):
    return create(loss="focal").fit(many.images, many.target)


def whole(message):
    return f"^{re.escape(message)}$"


def take_validation(classifier, many):
    rows = classifier.validation_rows_
    return [many.images[row] for row in rows], many.target.to_numpy()[rows]


@pytest.mark.parametrize(
    ("parameters", "method"),
    [
        ({}, None),
        ({"loss": "focal"}, "auto"),
        ({"loss": "asymmetric"}, "auto"),
        ({"loss": "bce", "class_weight": "balanced"}, "auto"),
        ({"loss": "bce", "sampler": "repeat_factor"}, "auto"),
        ({"loss": lambda logits, targets: ((logits - targets) ** 2).mean()}, "auto"),
        ({"loss": "bce"}, None),
        ({"loss": "bce", "calibration": "platt"}, "platt"),
        ({"loss": "focal", "calibration": None}, None),
        ({"loss": "focal", "validation_fraction": None}, None),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_what_is_no_probability_is_calibrated(many, parameters, method):
    classifier = create(max_epochs=1, **parameters).fit(many.images, many.target)
    assert getattr(classifier.calibrator_, "method", None) == method


def test_probabilities_and_thresholds_are_those_of_the_calibrator(focal, many):
    images, labels = take_validation(focal, many)
    logits = focal.decision_function(images)
    calibrator = Calibrator().fit(labels, logits)
    proba = calibrator.predict_proba(logits).astype(np.float32)
    np.testing.assert_allclose(focal.predict_proba(images), proba, atol=2e-4)
    thresholds = tune_thresholds(labels, proba)
    np.testing.assert_allclose(focal.thresholds_, thresholds, atol=1e-3)
    report = threshold_report(labels, proba, thresholds, classes=NAMES, tuned_by={"objective": "f1"})
    assert focal.threshold_report_.columns.tolist() == report.columns.tolist()
    np.testing.assert_array_equal(focal.predict(images), focal.predict_proba(images) >= focal.thresholds_)


def test_a_calibrated_classifier_is_saved_and_loaded(focal, many, tmp_path):
    focal.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(many.images), focal.predict_proba(many.images))
    assert loaded.calibrator_.get_state() == focal.calibrator_.get_state()
    np.testing.assert_allclose(loaded.threshold_report_, focal.threshold_report_)


def test_a_calibrator_that_does_not_fit_is_refused(focal, tmp_path):
    focal.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    for key in ("methods", "slopes", "offsets", "knots"):
        config["calibrator"][key].pop()
    (tmp_path / "model" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model" / "SHA256SUMS").unlink()
    with pytest.raises(ModelFileError):
        MultiLabelImageClassifier.load(tmp_path / "model")


def test_new_classes_of_a_calibrated_classifier_start_with_next_to_nothing(many, tmp_path):
    classifier = create(loss="focal", rules={"max_labels": 2}).fit(many.images, many.target)
    before = classifier.predict_proba(many.images)
    classifier.add_classes(["star"])
    after = classifier.predict_proba(many.images)
    np.testing.assert_allclose(after[:, :3], before, atol=1e-5)
    assert (after[:, 3] < 0.5).all()
    assert classifier.predict(many.images).sum(axis=1).max() <= 2


def test_bad_images_have_rows_of_nan(focal, many):
    proba = to_proba(focal.calibrator_, np.array([[0.1, 0.2, 0.3], [np.nan] * 3], dtype=np.float32))
    assert proba.dtype == np.float32
    assert np.isfinite(proba[0]).all()
    assert np.isnan(proba[1]).all()
    rules = create_rules({"min_labels": 1}, classes=NAMES)
    np.testing.assert_array_equal(decide(proba, np.full(3, 0.99), rules).sum(axis=1), [1, np.nan])


def test_rules_hold_in_predictions_scores_and_files(many, tmp_path):
    rules = {"implies": {"circle": "square"}, "min_labels": 1}
    classifier = create(rules=rules, thresholds=0.6).fit(many.images, many.target)
    y_pred = classifier.predict(many.images)
    assert (y_pred[:, 0] <= y_pred[:, 1]).all()
    assert (y_pred.sum(axis=1) >= 1).all()
    assert y_pred.dtype == np.int64
    labels = classifier.predict_labels(many.images)
    assert all("square" in row for row in labels if "circle" in row)
    classifier.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(many.images), y_pred)
    assert loaded.rules == {"implies": {"circle": "square"}, "min_labels": 1}


def test_rules_of_integer_classes_survive_the_file(many, tmp_path):
    labels = many.target.to_numpy()
    rules = {"implies": {0: 1}, "abstain": {2: 0.1}}
    classifier = create(rules=rules, classes=[0, 1, 2]).fit(many.images, labels)
    classifier.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    assert loaded.rules == rules
    assert loaded.rules_ == classifier.rules_
    loaded.set_params(warm_start=True).fit(many.images, labels)


def test_cells_left_open_are_nan_in_predict_and_decided_in_scores(many):
    classifier = create(rules={"abstain": 0.3}, thresholds=0.5).fit(many.images, many.target)
    plain = create(thresholds=0.5).fit(many.images, many.target)
    y_pred, proba = classifier.predict(many.images), plain.predict_proba(many.images)
    open_cells = np.abs(np.log(proba) - np.log1p(-proba)) < 0.3
    assert 0 < open_cells.sum() < open_cells.size
    np.testing.assert_array_equal(np.isnan(y_pred), open_cells)
    np.testing.assert_array_equal(y_pred[~open_cells], plain.predict(many.images)[~open_cells])
    assert classifier.score(many.images, many.target) == plain.score(many.images, many.target)
    assert classifier.evaluate(many.images, many.target).averages == plain.evaluate(many.images, many.target).averages
    assert all(set(row) <= {*NAMES} for row in classifier.predict_labels(many.images))


def test_wrong_rules_and_keywords_are_refused_before_any_work(many):
    with pytest.raises(InputError, match="cat"):
        create(rules={"implies": {"cat": "circle"}}, backbone_params=None).fit(many.images, many.target)
    with pytest.raises(InputError, match="target"):
        create(thresholds="precision").fit(many.images, many.target)
    message = (
        "threshold_cv trains a network anew for each part of the images, which a further fit with warm_start=True "
        "cannot do: what it goes on with has seen all of them. Set one of the two to None or False."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(threshold_cv=3, warm_start=True).fit(many.images, many.target)
    message = "threshold_cv=97 asks for more folds than there are images: 96. Set it lower."
    with pytest.raises(InputError, match=whole(message)):
        create(threshold_cv=97).fit(many.images, many.target)


def test_thresholds_follow_their_objective(many):
    recall = create(thresholds="recall", threshold_params={"target": 0.5}).fit(many.images, many.target)
    images, labels = take_validation(recall, many)
    expected = tune_thresholds(labels, recall.predict_proba(images), objective="recall", target=0.5)
    np.testing.assert_allclose(recall.thresholds_, expected, atol=1e-3)


def test_retune_moves_thresholds_alone(focal, many, tmp_path):
    focal.save(tmp_path / "model")
    classifier = MultiLabelImageClassifier.load(tmp_path / "model")
    other = make_shapes(60, random_state=5)
    proba = classifier.predict_proba(other.images)
    assert classifier.retune(other.images, other.target) is classifier
    np.testing.assert_array_equal(classifier.thresholds_, tune_thresholds(other.target, proba))
    assert classifier.threshold_report_["n_known"].tolist() == [60] * 3
    np.testing.assert_array_equal(classifier.predict_proba(other.images), proba)
    classifier.retune(other.images, other.target, objective="fbeta", beta=2)
    np.testing.assert_array_equal(
        classifier.thresholds_, tune_thresholds(other.target, proba, objective="fbeta", beta=2)
    )
    assert classifier.thresholds == "f1"


def test_retune_of_fixed_thresholds_wants_an_objective(many):
    classifier = create(thresholds=0.4).fit(many.images, many.target)
    message = "The thresholds of this classifier are fixed. Say what to tune them for: objective='f1'."
    with pytest.raises(InputError, match=whole(message)):
        classifier.retune(many.images, many.target)


def test_thresholds_set_by_hand_decide_and_the_report_forgets_what_is_no_longer_true(focal, many, tmp_path):
    focal.save(tmp_path / "model")
    classifier = MultiLabelImageClassifier.load(tmp_path / "model")
    kept = classifier.thresholds_.copy()
    assert classifier.set_thresholds({"square": 0.9}) is classifier
    np.testing.assert_array_equal(classifier.thresholds_, [kept[0], 0.9, kept[2]])
    report = classifier.threshold_report_
    assert report.loc["square", "threshold"] == 0.9
    assert report.loc["square", ["f1", "low", "high", "expected_f1"]].isna().all()
    assert report.loc["circle"].notna().all()
    classifier.set_thresholds([0.2, 0.3, 0.4])
    np.testing.assert_array_equal(
        classifier.predict(many.images), classifier.predict_proba(many.images) >= np.array([0.2, 0.3, 0.4])
    )
    with pytest.raises(InputError, match=r"^thresholds names unknown classes: 'squares'\. Did you mean 'square'\?$"):
        classifier.set_thresholds({"squares": 0.5})


def fit_folds(many, part, **parameters):
    """Train by hand on the others of each part, and return the logits of the parts."""
    logits = np.empty((96, 3), dtype=np.float32)
    for fold in np.unique(part):
        others, own = np.flatnonzero(part != fold), np.flatnonzero(part == fold)
        classifier = create(validation_fraction=None, loss="bce", monitor="train_loss", **parameters)
        classifier.fit([many.images[row] for row in others], many.target.iloc[others])
        logits[own] = classifier.decision_function([many.images[row] for row in own])
    return logits


def test_cross_fitted_thresholds_are_those_of_networks_that_saw_the_other_parts(many, monkeypatch):
    parts = []
    deal = fitting.deal_folds
    monkeypatch.setattr("multilabelkit.fitting.deal_folds", lambda *a, **k: parts.append(deal(*a, **k)) or parts[-1])
    classifier = create(threshold_cv=3, loss="bce", schedule="constant", max_epochs=1).fit(many.images, many.target)
    logits = fit_folds(many, parts[0], schedule="constant", max_epochs=1)
    np.testing.assert_allclose(classifier.thresholds_, tune_thresholds(many.target, expit(logits)), atol=1e-3)
    assert classifier.threshold_report_["n_known"].tolist() == [96] * 3
    counts = [np.bincount(parts[0][many.target.to_numpy()[:, place] == 1], minlength=3) for place in range(3)]
    assert all(np.ptp(of_class) <= 1 for of_class in counts)


def test_cross_fitting_a_frozen_backbone_passes_no_image_twice(many, monkeypatch):
    passes = []
    settings = {"trainable": "head", "pretrained": True, "threshold_cv": 4, "feature_cache": "memory"}
    monkeypatch.setattr(
        "multilabelkit.features.iterate_evaluation",
        lambda images, **options: passes.append(len(images.sources)) or iterate_evaluation(images, **options),
    )
    create(**(settings | {"pretrained": False}), dropout=0.0).fit(many.images, many.target)
    assert sum(passes) == 96


def test_cross_fitting_says_what_it_costs_and_keeps_groups_together(many, capsys):
    groups = np.repeat(np.arange(12), 8)
    create(threshold_cv=3, verbose=1, max_epochs=1).fit(many.images, many.target, groups=groups)
    told = capsys.readouterr().err
    assert "training for thresholds, fold 1 of 3: 64 of 96 images" in told
    assert "fold 3 of 3" in told


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_cross_fitting_needs_no_validation_images(many):
    classifier = create(threshold_cv=3, validation_fraction=None, max_epochs=1).fit(many.images, many.target)
    assert classifier.validation_rows_ is None
    assert classifier.threshold_report_["n_known"].tolist() == [96] * 3
    fixed = create(threshold_cv=3, thresholds=0.4, calibration=None, max_epochs=1).fit(many.images, many.target)
    np.testing.assert_array_equal(fixed.thresholds_, [0.4] * 3)


def test_ctrl_c_while_it_trains_for_thresholds_keeps_the_classifier(many, monkeypatch):
    train, calls = fitting.fit_network, []

    def interrupt(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return train(*arguments, **options)

    monkeypatch.setattr("multilabelkit.fitting.fit_network", interrupt)
    classifier = create(threshold_cv=3, max_epochs=1)
    message = (
        "Fitting was interrupted while it trained networks for thresholds (threshold_cv). The classifier is fitted, "
        "with thresholds of its validation images."
    )
    with pytest.raises(KeyboardInterrupt, match=whole(message)):
        classifier.fit(many.images, many.target)
    assert classifier.predict(many.images).shape == (96, 3)


def test_the_report_of_an_evaluation_has_intervals_if_asked(focal, many):
    report = focal.evaluate(many.images, many.target, n_bootstraps=50)
    assert "macro_f1" in report.intervals


@pytest.fixture
def rare(many):
    """Labels of which one class has a single image."""
    labels = many.target.copy()
    labels["square"] = 0
    labels.loc[labels.index[7], "square"] = 1
    return labels


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_cross_fitting_does_not_trust_a_network_that_has_not_seen_the_class(many, rare):
    classifier = create(threshold_cv=3, validation_fraction=None, max_epochs=4).fit(many.images, rare)
    assert classifier.threshold_report_.loc["square", "n_positive"] == 0
    assert classifier.predict(many.images)[:, 1].mean() < 0.5


def test_cross_fitting_warns_only_of_the_thresholds_that_stay(many, rare):
    with pytest.warns(MultiLabelKitWarning) as caught:
        create(threshold_cv=3, max_epochs=1).fit(many.images, rare)
    assert [str(warning.message)[:24] for warning in caught] == ["No known positive in 1 o"]


@pytest.mark.parametrize(
    "parameters", [{"thresholds": "precision", "threshold_params": {"target": 0.5}}, {"calibration": "platt"}], ids=str
)
def test_what_needs_images_set_aside_says_so(many, parameters):
    classifier = create(validation_fraction=None, max_epochs=1, **parameters)
    message = (
        f"thresholds={classifier.thresholds!r} and calibration={classifier.calibration!r} need images that were not "
        "trained on, and there are none: thresholds are 0.5 unless they are fixed, and probabilities are as they come. "
        "Set validation_fraction, pass validation_data, or set threshold_cv."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)) as caught:
        classifier.fit(many.images, many.target)
    assert len(caught) == 1


@pytest.mark.parametrize(
    "parameters",
    [{"loss_params": {"label_smoothing": 0.2}}, {"missing_labels": "negative"}, {"mixup": "mixup"}],
    ids=str,
)
def test_bce_of_other_than_the_labels_is_calibrated_too(many, parameters):
    classifier = create(max_epochs=1, loss="bce", **parameters).fit(many.images, many.target)
    assert classifier.calibrator_ is not None


def test_retune_looks_at_its_keywords_before_the_images(focal):
    with pytest.raises(InputError, match=r"'targte'\. Did you mean 'target'\?"):
        focal.retune(["nowhere.jpg"], [["sea"]], objective="precision", targte=0.9)
    with pytest.raises(InputError, match=r"^The 'objective' parameter of retune must be 'f1', "):
        focal.retune(["nowhere.jpg"], [["sea"]], objective=0.5)
    with pytest.raises(InputError, match=r"^The 'n_bootstraps' parameter of evaluate must be an integer >= 0"):
        focal.evaluate(["nowhere.jpg"], [["sea"]], n_bootstraps="many")


def test_rules_are_set_without_training(focal, many, tmp_path):
    focal.save(tmp_path / "model")
    classifier = MultiLabelImageClassifier.load(tmp_path / "model")
    assert classifier.set_rules({"max_labels": np.int64(1)}) is classifier
    assert classifier.predict(many.images).sum(axis=1).max() == 1
    classifier.save(tmp_path / "again")
    again = MultiLabelImageClassifier.load(tmp_path / "again")
    np.testing.assert_array_equal(again.predict(many.images), classifier.predict(many.images))
    classifier.set_rules(None)
    np.testing.assert_array_equal(classifier.predict(many.images), focal.predict(many.images))


def test_scorers_leave_open_cells_out(many):
    classifier = create(rules={"abstain": 0.3}, thresholds=0.5).fit(many.images, many.target)
    y_pred, y_true = classifier.predict(many.images), many.target.to_numpy().astype(float)
    is_open = np.isnan(y_pred)
    y_true[is_open] = np.nan
    expected = f1_score(y_true, np.where(is_open, 0, y_pred), average="macro")
    assert make_multilabel_scorer("f1_macro")(classifier, many.images, many.target) == expected


def test_the_best_labels_are_told_apart_where_probabilities_are_1(focal, many, monkeypatch):
    monkeypatch.setattr(
        "multilabelkit.classifier.compute_logits", lambda *a, **k: np.array([[20, 40, 30]], dtype=np.float32)
    )
    monkeypatch.setattr(focal, "calibrator_", None)
    assert focal.predict_labels(many.images[:1], top_k=2) == [("square", "triangle")]


def test_ctrl_c_tells_how_to_go_on_without_cross_fitting(many):
    class Interrupt(Callback):
        def on_epoch_end(self, state):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"set_params\(warm_start=True, threshold_cv=None\)\.$"):
        create(threshold_cv=3, callbacks=[Interrupt()]).fit(many.images, many.target)
