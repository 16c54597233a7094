import hashlib
import json
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn import metrics as reference
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import get_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.utils import estimator_checks, get_tags
from sklearn.utils.class_weight import compute_class_weight

from multilabelkit import MultiLabelImageClassifier, fitting
from multilabelkit.datasets import make_shapes
from multilabelkit.errors import ImageDecodeError, InputError, ModelFileError, MultiLabelKitWarning
from multilabelkit.exclusive import ImageClassifier
from multilabelkit.exclusive_report import ClassReport, class_report

FAST = {"image_size": 32, "max_epochs": 1, "batch_size": 16, "num_workers": 0, "verbose": 0, "random_state": 0}
FAST |= {"validation_fraction": 0.25, "pixel_cache": "memory", "feature_cache": "memory"}
THOROUGH = {"max_epochs": 12, "augment": None, "learning_rate": 1e-2, "backbone_lr_factor": 1.0}
CLASSES = ["circle", "square", "triangle"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny networks are fastest on one thread; bits are compared between fits on the same number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def create(backbone="small_cnn", **parameters):
    return ImageClassifier(backbone, **{**FAST, **parameters})


def draw(n_samples, seed):
    """Return images of exactly one shape, and the names of these."""
    shapes = make_shapes(n_samples, random_state=seed)
    alone = (shapes.target.sum(axis=1) == 1).to_numpy()
    return shapes.images[alone], shapes.target[alone].idxmax(axis=1).to_numpy(object)


def whole(message):
    return f"^{re.escape(message)}$"


def refuse(message, kind=InputError):
    return pytest.raises(kind, match=whole(message))


@pytest.fixture(scope="module")
def data():
    return draw(128, 0)


@pytest.fixture(scope="module")
def fitted(data):
    return create(max_epochs=3).fit(*data)


@pytest.fixture(scope="module")
def binary(data):
    X, y = data
    rows = y != "triangle"
    return create().fit(X[rows], y[rows])


# What comes out


def test_every_method_returns_the_promised_shape_and_type(fitted, data):
    X = data[0][:5]
    logits, proba, names = fitted.decision_function(X), fitted.predict_proba(X), fitted.predict(X)
    assert logits.shape == proba.shape == (5, 3)
    assert (logits.dtype, proba.dtype, names.dtype, names.shape) == (np.float32, np.float32, object, (5,))
    odds = np.exp(logits.astype(np.float64))
    np.testing.assert_allclose(proba, odds / odds.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert names.tolist() == [CLASSES[column] for column in proba.argmax(axis=1)]


def test_two_classes_have_two_probabilities_and_one_logit(binary, data):
    X = data[0][:5]
    logit, proba = binary.decision_function(X), binary.predict_proba(X)
    assert logit.shape == (5,)
    assert proba.shape == (5, 2)
    np.testing.assert_allclose(proba[:, 1], 1 / (1 + np.exp(-logit.astype(np.float64))), rtol=1e-5)
    np.testing.assert_array_equal(binary.predict(X), binary.classes_[(logit > 0).astype(int)])


def test_integer_classes_are_predicted_as_integers(data):
    X, y = data
    numbers = np.array([{"circle": 7, "square": 3, "triangle": 11}[name] for name in y])
    classifier = create().fit(X, numbers)
    assert classifier.classes_.tolist() == [3, 7, 11]
    assert classifier.classes_.dtype == classifier.predict(X).dtype == np.int64
    assert classifier.score(X, numbers) == reference.accuracy_score(numbers, classifier.predict(X))


def test_fit_returns_the_classifier_and_sets_what_is_documented(fitted, data):
    documented = set(re.findall(r"^    (\w+_) : ", ImageClassifier.__doc__, flags=re.MULTILINE))
    assert documented == {name for name in vars(fitted) if name.endswith("_")}
    classifier = create()
    assert classifier.fit(*data) is classifier


def test_history_rows_hold_the_documented_numbers(fitted):
    expected = {"epoch", "train_loss", "valid_loss", "valid_accuracy", "valid_macro_f1", "learning_rate", "seconds"}
    assert [row["epoch"] for row in fitted.history_] == [0, 1, 2]
    assert all(set(row) == expected for row in fitted.history_)


@pytest.fixture(scope="module")
def learnt():
    return create("plain_cnn", **THOROUGH).fit(*draw(300, 1))


def test_it_learns(learnt):
    assert learnt.score(*draw(160, 2)) > 0.9
    assert learnt.history_[-1]["train_loss"] < learnt.history_[0]["train_loss"] / 2


def test_every_parameter_is_that_of_the_multi_label_classifier():
    assert ImageClassifier().get_params() == MultiLabelImageClassifier().get_params()


# Scores


def test_score_is_the_accuracy_with_weights(fitted, data):
    X, y = data
    weight = np.random.default_rng(0).random(len(y))
    y_pred = fitted.predict(X)
    assert fitted.score(X, y) == pytest.approx(reference.accuracy_score(y, y_pred))
    expected = reference.accuracy_score(y, y_pred, sample_weight=weight)
    assert fitted.score(X, y, sample_weight=weight) == pytest.approx(expected)


def test_images_of_unknown_class_are_left_out_of_fit_and_scores(fitted, data):
    X, y = data
    hidden = np.where(np.arange(len(y)) % 4 == 0, None, y)
    known = np.arange(len(y)) % 4 != 0
    assert fitted.score(X, hidden) == pytest.approx(fitted.score(X[known], y[known]))
    assert fitted.evaluate(X, hidden).averages["n_unknown"] == (~known).sum()
    classifier = create().fit(X, hidden)
    assert classifier.classes_.tolist() == CLASSES
    assert np.isfinite(classifier.history_[0]["train_loss"])
    assert np.isfinite(classifier.history_[0]["valid_loss"])


def test_evaluate_reports_what_is_predicted(fitted, data):
    X, y = data
    report = fitted.evaluate(X, y)
    expected = class_report(y, fitted.predict(X), fitted.predict_proba(X), classes=CLASSES)
    assert isinstance(report, ClassReport)
    assert report.text == expected.text
    assert report.averages["accuracy"] == pytest.approx(fitted.score(X, y))
    expected = reference.confusion_matrix(y, fitted.predict(X), labels=CLASSES)
    np.testing.assert_array_equal(report.confusion, expected)


def test_a_class_without_an_image_can_be_scored(fitted, data):
    X, y = data
    rows = y == "circle"
    assert fitted.score(X[rows], y[rows]) == pytest.approx((fitted.predict(X[rows]) == "circle").mean())


# Labels and parameters


def test_given_classes_keep_their_order_and_those_without_an_image_are_warned_of(data):
    classes = ["triangle", "star", "square", "circle"]
    message = "No image in y is known to have 1 of 4 classes: 'star'."
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        classifier = create(classes=classes).fit(*data)
    assert classifier.classes_.tolist() == classes
    assert classifier.predict_proba(data[0][:2]).shape == (2, 4)


def test_parameters_of_other_decisions_have_no_effect(data):
    X, y = data
    expected = create().fit(X, y).predict_proba(X)
    other = create(thresholds=0.9, label_sep="i").fit(X, y)
    np.testing.assert_array_equal(other.predict_proba(X), expected)
    assert other.classes_.tolist() == CLASSES


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"loss": "bce"},
            "The 'loss' parameter of ImageClassifier must be 'auto', 'cross_entropy', or a callable of logits and "
            "targets (not a class). "
            "Got 'bce' instead.",
        ),
        (
            {"monitor": "valid_map"},
            "The 'monitor' parameter of ImageClassifier must be 'auto', 'train_loss', 'valid_loss', 'valid_accuracy', "
            "'valid_macro_f1', or a callable (y_true, proba). Got 'valid_map' instead.",
        ),
        (
            {"missing_labels": "negative"},
            "The 'missing_labels' parameter must be 'ignore' with loss='cross_entropy': where classes exclude each "
            "other, an image without a known class cannot count as absent from all of them. Got 'negative' instead.",
        ),
        (
            {"missing_labels": "negative", "loss": lambda logits, targets: -(torch.log_softmax(logits, 1) * targets)},
            "The 'missing_labels' parameter of ImageClassifier must be 'ignore': where classes exclude each other, "
            "an image without a known class cannot count as absent from all of them. Got 'negative' instead.",
        ),
    ],
    ids=["loss", "monitor", "missing_labels", "missing_labels of an own loss"],
)
def test_what_only_labels_have_is_refused(data, parameters, message):
    with refuse(message):
        create(**parameters).fit(*data)


def test_several_labels_an_image_are_refused(data):
    message = (
        "Row 0 of y is ['circle'], but where classes exclude each other each image has one. Pass its name alone. "
        "MultiLabelImageClassifier takes several labels an image."
    )
    with refuse(message):
        create().fit(data[0][:1], [["circle"]])


def test_lengths_that_differ_are_refused(fitted, data):
    message = "X and y must have the same length. Got 3 images and labels for 2."
    for method in (create().fit, fitted.score, fitted.evaluate):
        with refuse(message):
            method(data[0][:3], ["circle", "square"])


def test_complaints_about_validation_data_say_so(data):
    message = (
        "In validation_data: y holds 1 name(s) that are not among the 3 classes: 'circel' in row 0. Did you mean "
        "'circle'? Correct them, or name every class with classes=[...]."
    )
    with refuse(message):
        create().fit(*data, validation_data=(data[0][:1], ["circel"]))


def test_methods_before_fit_say_so(data):
    for method in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(create(), method)(data[0])
    for method in ("score", "evaluate"):
        with pytest.raises(NotFittedError):
            getattr(create(), method)(*data)


# Bad images


@pytest.fixture
def torn(data, tmp_path):
    path = tmp_path / "torn.png"
    path.write_bytes(b"no image")
    return [data[0][0], path, data[0][1]]


@pytest.mark.parametrize("integers", [False, True], ids=["strings", "integers"])
def test_an_image_that_cannot_be_decoded_has_no_class_with_nan(fitted, data, torn, integers):
    y = np.array([CLASSES.index(name) for name in data[1]]) if integers else data[1]
    classifier = create(on_bad_image="nan").fit(data[0], y)
    with pytest.warns(MultiLabelKitWarning, match="Their rows are NaN, as on_bad_image='nan' asks"):
        names = classifier.predict(torn)
    expected = classifier.predict(data[0][:2])
    assert names.dtype == object
    assert names.tolist() == [expected[0], None, expected[1]]
    with pytest.warns(MultiLabelKitWarning):
        assert np.isnan(classifier.predict_proba(torn)).all(axis=1).tolist() == [False, True, False]


def test_scores_of_some_of_the_images_are_refused(data, torn):
    classifier = create(on_bad_image="nan").fit(*data)
    for method in (classifier.score, classifier.evaluate):
        with pytest.raises(ImageDecodeError) as caught:
            method(torn, ["circle", "square", "circle"])
        assert caught.value.rows == (1,)


# scikit-learn


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_no_attributes_set_in_init",
        "check_do_not_raise_errors_in_init_or_set_params",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_mixin_order",
    ],
)
def test_checks_of_scikit_learn_that_need_no_data_pass(check):
    estimator = ImageClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        getattr(estimator_checks, check)("ImageClassifier", estimator)


def test_tags_say_that_classes_exclude_each_other():
    tags = get_tags(ImageClassifier())
    assert is_classifier(ImageClassifier())
    assert (tags.classifier_tags.multi_class, tags.classifier_tags.multi_label) == (True, False)
    assert (tags.target_tags.single_output, tags.target_tags.multi_output) == (True, False)
    assert (tags.input_tags.string, tags.input_tags.two_d_array) == (True, False)


def test_cross_validation_stratifies_by_class(data):
    X, y = data
    scores = cross_val_score(create(), X, y, cv=3)
    by_hand = [
        create().fit(X[train], y[train]).score(X[test], y[test]) for train, test in StratifiedKFold(3).split(X, y)
    ]
    np.testing.assert_allclose(scores, by_hand)


def test_cross_val_predict_gives_names_and_probabilities(data):
    X, y = data
    assert set(cross_val_predict(create(), X, y, cv=2)) <= set(CLASSES)
    assert cross_val_predict(create(), X, y, cv=2, method="predict_proba").shape == (len(y), 3)


def test_grid_search_finds_and_refits(data):
    search = GridSearchCV(create(), {"learning_rate": [1e-3, 1e-2]}, cv=2, scoring=["accuracy", "f1_macro"])
    search.set_params(refit="accuracy").fit(*data)
    assert search.classes_.tolist() == CLASSES
    assert search.predict(data[0]).shape == (len(data[1]),)


def test_scorers_of_scikit_learn_measure_what_they_say(fitted, data):
    X, y = data
    y_pred, proba = fitted.predict(X), fitted.predict_proba(X).astype(np.float64)
    proba /= proba.sum(axis=1, keepdims=True)
    expected = {
        "accuracy": reference.accuracy_score(y, y_pred),
        "balanced_accuracy": reference.balanced_accuracy_score(y, y_pred),
        "f1_macro": reference.f1_score(y, y_pred, average="macro", zero_division=0),
        "neg_log_loss": -reference.log_loss(y, proba),
        "roc_auc_ovr": reference.roc_auc_score(y, proba, multi_class="ovr"),
    }
    for name, value in expected.items():
        assert get_scorer(name)(fitted, X, y) == pytest.approx(value, rel=1e-5), name
    report = fitted.evaluate(X, y).averages
    assert report["log_loss"] == pytest.approx(-expected["neg_log_loss"], rel=1e-5)
    assert report["balanced_accuracy"] == pytest.approx(expected["balanced_accuracy"])
    assert report["macro_f1"] == pytest.approx(expected["f1_macro"])


@pytest.mark.parametrize("scorer", ["roc_auc", "average_precision", "neg_log_loss", "neg_brier_score", "accuracy"])
def test_scorers_of_two_classes_work_too(binary, data, scorer):
    X, y = data
    rows = y != "triangle"
    # scikit-learn's scorers with a positive class look for 1.
    numbers = (y[rows] == "square").astype(int)
    proba = create().fit(X[rows], numbers).predict_proba(X[rows])[:, 1]
    expected = {
        "roc_auc": reference.roc_auc_score,
        "average_precision": reference.average_precision_score,
        "neg_log_loss": lambda y, p: -reference.log_loss(y, p),
        "neg_brier_score": lambda y, p: -reference.brier_score_loss(y, p),
        "accuracy": lambda y, p: reference.accuracy_score(y, p > 0.5),
    }[scorer](numbers, proba)
    classifier = create().fit(X[rows], numbers)
    assert get_scorer(scorer)(classifier, X[rows], numbers) == pytest.approx(expected, rel=1e-5)
    if scorer in ("roc_auc", "neg_log_loss", "accuracy"):
        assert get_scorer(scorer)(binary, X[rows], y[rows]) == pytest.approx(expected, rel=1e-5)


def test_a_clone_is_unfitted_and_fits_alike(fitted, data):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    assert not hasattr(copy, "classes_")
    np.testing.assert_array_equal(copy.fit(*data).predict_proba(data[0]), fitted.predict_proba(data[0]))


def test_pickling_keeps_every_bit(fitted, data):
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.decision_function(data[0]), fitted.decision_function(data[0]))
    np.testing.assert_array_equal(copy.predict(data[0]), fitted.predict(data[0]))


# Files


@pytest.mark.parametrize("integers", [False, True], ids=["strings", "integers"])
def test_a_loaded_classifier_is_the_saved_one_to_the_bit(data, tmp_path, integers):
    X, y = data
    y = np.array([CLASSES.index(name) for name in y]) if integers else y
    classifier = create().fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = ImageClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.decision_function(X), classifier.decision_function(X))
    np.testing.assert_array_equal(loaded.predict(X), classifier.predict(X))
    assert loaded.classes_.tolist() == classifier.classes_.tolist()
    assert loaded.classes_.dtype == classifier.classes_.dtype
    assert loaded.get_params() == classifier.get_params()
    assert {name for name in vars(loaded) if name.endswith("_")} == {
        name for name in vars(classifier) if name.endswith("_")
    }
    pd.testing.assert_frame_equal(pd.DataFrame(loaded.history_), pd.DataFrame(classifier.history_))
    assert loaded.evaluate(X, y).text == classifier.evaluate(X, y).text


def test_the_folder_of_one_kind_is_no_model_of_the_other(fitted, shapes, tmp_path):
    fitted.save(tmp_path / "classes")
    message = (
        f"The model in '{tmp_path / 'classes'}' is of the class 'ImageClassifier', not of "
        "MultiLabelImageClassifier. Call the load of its own class."
    )
    with refuse(message, ModelFileError):
        MultiLabelImageClassifier.load(tmp_path / "classes")
    labels = MultiLabelImageClassifier("small_cnn", **{**FAST, "validation_fraction": None})
    labels.fit(shapes.images, shapes.target).save(tmp_path / "labels")
    message = (
        f"The model in '{tmp_path / 'labels'}' is of the class 'MultiLabelImageClassifier', not of "
        "ImageClassifier. Call the load of its own class."
    )
    with refuse(message, ModelFileError):
        ImageClassifier.load(tmp_path / "labels")


def test_a_folder_that_names_one_class_is_refused(fitted, tmp_path):
    folder = tmp_path / "model"
    fitted.save(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["classes"] = ["circle"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    names = ("config.json", "model.safetensors")
    sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(sums))
    message = (
        f"The model folder '{folder}' does not fit together: There is only the class 'circle' in classes, and telling "
        "classes apart takes at least two. Save it again."
    )
    with refuse(message, ModelFileError):
        ImageClassifier.load(folder)


# Going on


def test_warm_start_goes_on_with_the_network_and_its_classes(data):
    X, y = data
    classifier = create(warm_start=True).fit(X, y)
    first = classifier.network_
    with pytest.warns(MultiLabelKitWarning, match=whole("No image in y is known to have 1 of 3 classes: 'triangle'.")):
        classifier.fit(X[y != "triangle"], y[y != "triangle"], validation_data=(X, y))
    assert classifier.network_ is not first
    assert classifier.classes_.tolist() == CLASSES
    assert [row["epoch"] for row in classifier.history_] == [0, 1]


def test_added_classes_come_last_and_are_learnt_by_a_further_fit(data):
    X, y = data
    rows = y != "circle"
    classifier = create(warm_start=True).fit(X[rows], y[rows])
    before = classifier.predict_proba(X)
    assert classifier.add_classes(["circle"]) is classifier
    assert classifier.classes_.tolist() == ["square", "triangle", "circle"]
    after = classifier.predict_proba(X)
    np.testing.assert_allclose(after.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(after[:, 0] / after[:, 1], before[:, 0] / before[:, 1], rtol=1e-3)
    assert "circle" not in classifier.predict(X)
    classifier.set_params(max_epochs=10, learning_rate=1e-2, augment=None).fit(X, y, validation_data=(X, y))
    assert "circle" in classifier.predict(X)


# Training options that the two kinds share


@pytest.mark.parametrize(
    "parameters",
    [
        {"trainable": "head"},
        {"refit": True},
        {"loss_params": {"label_smoothing": 0.1}},
        {"class_weight": "balanced"},
        {"class_weight": {"circle": 3}},
        {"sampler": "repeat_factor"},
        {"sampler": "oversample", "sampler_params": {"frequencies": 0.3}},
        {"mixup": "both"},
        {"tta": "hflip"},
        {"head": "mlp"},
        {"validation_fraction": None},
        {"monitor": lambda y_true, proba: float((proba * np.nan_to_num(y_true)).sum())},
        {"loss": lambda logits, targets: -(torch.log_softmax(logits, 1) * targets)},
    ],
    ids=lambda parameters: "-".join(parameters),
)
def test_options_of_training_work(data, parameters):
    X, y = data
    classifier = create(**parameters).fit(X, y)
    np.testing.assert_allclose(classifier.predict_proba(X).sum(axis=1), 1, rtol=1e-5)
    assert np.isfinite(classifier.history_[0]["train_loss"])
    assert len(classifier.refit_history_) == (1 if "refit" in parameters else 0)


def test_balanced_weights_are_those_of_scikit_learn(data):
    X, y = data
    classifier = create(class_weight="balanced").fit(X, y)
    targets, encoder = classifier._encode_labels(y, classes=None)
    settings = fitting.create_settings(classifier, targets, classes=encoder.classes_, seed=0, validates=True)
    expected = compute_class_weight("balanced", classes=np.array(CLASSES), y=y)
    np.testing.assert_allclose(settings.loss.class_weight.numpy(), expected, rtol=1e-6)


def test_the_loss_is_cross_entropy(fitted, data):
    X, y = data
    targets, _ = fitted._encode_labels(y, classes=None)
    loss = fitting.create_settings(fitted, targets, classes=fitted.classes_, seed=0, validates=True).loss
    value = loss(torch.from_numpy(fitted.decision_function(X)), torch.from_numpy(targets))
    assert float(value) == pytest.approx(reference.log_loss(y, fitted.predict_proba(X)), rel=1e-5)


def test_a_smoothed_target_keeps_probabilities_from_the_ends(learnt):
    X, y = draw(300, 1)
    smooth = create("plain_cnn", **THOROUGH, loss_params={"label_smoothing": 0.3}).fit(X, y)
    assert smooth.predict_proba(X).max(axis=1).mean() < learnt.predict_proba(X).max(axis=1).mean() - 0.05


def test_groups_stay_on_one_side(data, monkeypatch):
    """Images of one group carry its number as their grey value, so that what is trained on and set aside tells it."""
    names = data[1][:48]
    groups = np.arange(48) // 4
    images = np.repeat(groups.astype(np.uint8), 32 * 32).reshape(48, 32, 32)
    sides = []
    fit_network = fitting.fit_network

    def spy(classifier, network, spec, train, valid, **options):
        sides.extend(sorted(int(image[0, 0]) for image in part[0]) for part in (train, valid))
        return fit_network(classifier, network, spec, train, valid, **options)

    monkeypatch.setattr(fitting, "fit_network", spy)
    create().fit(images, names, groups=groups)
    train, valid = sides
    assert sorted(train + valid) == groups.tolist()
    assert 8 <= len(valid) <= 16
    assert not set(train) & set(valid)


def test_the_layer_table_counts_all_parameters(fitted):
    assert fitted.summary()["n_params"].sum() == sum(p.numel() for p in fitted.network_.parameters())


def test_a_learning_rate_is_found():
    classifier = create("plain_cnn", augment=None, backbone_lr_factor=1.0)
    curve = classifier.find_learning_rate(*draw(300, 1), n_steps=60)
    assert 1e-5 < curve.suggestion < 0.3
    assert curve.losses[0] == pytest.approx(np.log(3), rel=0.5)  # cross-entropy of three classes, before any training
