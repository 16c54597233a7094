import copy
import inspect
import os
import re
import subprocess
import sys
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn
from torchvision.transforms import v2

from multilabelkit import MultiLabelImageClassifier, as_labels, fitting, metrics, prediction, preparation
from multilabelkit.data import loading, pixel_cache
from multilabelkit.data.images import decode_image, encode_png
from multilabelkit.data.transforms import resize_pixels
from multilabelkit.errors import ImageDecodeError, InputError, MultiLabelKitWarning
from multilabelkit.report import MultiLabelReport
from multilabelkit.thresholds import tune_thresholds
from multilabelkit.training import Callback, labelled

NAN = ", or set on_bad_image='nan' to have rows of NaN for what is bad"
SKIP = ", or fit with on_bad_image='skip' to train without what is bad"
FAST = {"image_size": 32, "max_epochs": 1, "verbose": 0, "validation_fraction": 0.4, "random_state": 0}


def create(backbone="small_cnn", **parameters):
    return MultiLabelImageClassifier(backbone, **{**FAST, **parameters})


def whole(message):
    return f"^{re.escape(message)}$"


def copy_weights(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture(scope="module")
def fitted(shapes):
    return create(max_epochs=4).fit(shapes.images, shapes.target)


@pytest.fixture(scope="module")
def paths(shapes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    paths = [folder / f"{number}.png" for number in range(len(shapes.images))]
    for path, image in zip(paths, shapes.images, strict=True):
        path.write_bytes(encode_png(image))
    return paths


class TinyNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


# What comes out


def test_every_method_returns_the_promised_shape_and_type(fitted, shapes):
    images = shapes.images[:5]
    logits, proba, predicted = fitted.decision_function(images), fitted.predict_proba(images), fitted.predict(images)
    assert logits.shape == proba.shape == predicted.shape == (5, 3)
    assert (logits.dtype, proba.dtype, predicted.dtype) == (np.float32, np.float32, np.int64)
    np.testing.assert_allclose(proba, 1 / (1 + np.exp(-logits.astype(np.float64))), rtol=1e-5)
    np.testing.assert_array_equal(predicted, proba >= fitted.thresholds_)
    assert fitted.predict_labels(images) == as_labels(predicted, classes=fitted.classes_)


def test_fit_returns_the_classifier_and_sets_what_is_documented(fitted, shapes):
    documented = set(re.findall(r"^    (\w+_) : ", MultiLabelImageClassifier.__doc__, flags=re.MULTILINE))
    assert documented == {name for name in vars(fitted) if name.endswith("_")}
    classifier = create()
    assert classifier.fit(shapes.images, shapes.target) is classifier


def test_fitted_attributes_fit_together(fitted):
    assert fitted.classes_.tolist() == ["circle", "square", "triangle"]
    assert fitted.label_binarizer_.classes_.tolist() == fitted.classes_.tolist()
    assert fitted.thresholds_.shape == (3,)
    assert fitted.threshold_report_.index.tolist() == fitted.classes_.tolist()
    np.testing.assert_array_equal(fitted.threshold_report_["threshold"], fitted.thresholds_)
    assert [row["epoch"] for row in fitted.history_] == [0, 1, 2, 3]
    assert not fitted.network_.training
    assert (fitted.input_spec_.size, fitted.input_spec_.channels) == (32, 3)


def test_history_rows_hold_the_documented_numbers(fitted):
    expected = {"epoch", "train_loss", "valid_loss", "valid_map", "valid_macro_f1", "valid_micro_f1"}
    expected |= {"valid_binary_accuracy", "learning_rate", "seconds"}
    assert all(set(row) == expected for row in fitted.history_)


def test_it_learns():
    """Colours are easy: a linear network on 48 images tells them apart."""
    from multilabelkit.datasets import make_shapes

    train, test = make_shapes(160, random_state=1), make_shapes(60, random_state=2)
    classifier = create("plain_cnn", max_epochs=12, augment=None, learning_rate=1e-2, backbone_lr_factor=1.0)
    classifier.fit(train.images, train.target)
    assert classifier.score(test.images, test.target) > 0.9
    assert classifier.history_[-1]["train_loss"] < classifier.history_[0]["train_loss"] / 2


def test_predictions_do_not_depend_on_the_company(fitted, shapes):
    """A batch of one may round otherwise than a batch of many; no more than that."""
    together = fitted.decision_function(shapes.images[:6])
    alone = np.concatenate([fitted.decision_function(image[None]) for image in shapes.images[:6]])
    np.testing.assert_allclose(together, alone, atol=2e-2)
    np.testing.assert_array_equal(fitted.decision_function(shapes.images[:6][::-1])[::-1], together)


@pytest.mark.parametrize("top_k", [1, 2, 3, 99, np.int64(2)])
def test_top_k_labels_are_the_most_probable_best_first(fitted, shapes, top_k):
    images = shapes.images[:4]
    labels = fitted.predict_labels(images, top_k=top_k)
    for row, proba in zip(labels, fitted.predict_proba(images), strict=True):
        assert list(row) == [fitted.classes_[column] for column in np.argsort(-proba)[:top_k]]
        assert all(type(name) is str for name in row)


@pytest.mark.parametrize("top_k", [0, -1, 1.5, "1", True])
def test_top_k_must_be_a_count(fitted, shapes, top_k):
    message = f"The 'top_k' parameter of predict_labels must be an integer >= 1, or None. Got {top_k!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        fitted.predict_labels(shapes.images, top_k=top_k)


def test_score_is_the_macro_f1_of_predict(fitted, shapes):
    predicted = fitted.predict(shapes.images)
    expected = metrics.f1_score(shapes.target.to_numpy(), predicted, average="macro")
    assert fitted.score(shapes.images, shapes.target) == expected
    weight = np.arange(48.0)
    weighted = metrics.f1_score(shapes.target.to_numpy(), predicted, average="macro", sample_weight=weight)
    assert fitted.score(shapes.images, shapes.target, weight) == weighted != expected


def test_score_takes_every_label_format_and_leaves_unknown_labels_out(fitted, shapes):
    images, labels = shapes.images, as_labels(shapes.target)
    expected = fitted.score(images, shapes.target)
    assert fitted.score(images, labels) == expected
    assert fitted.score(images, shapes.target[["triangle", "circle", "square"]]) == expected
    target = shapes.target.astype(float)
    target[fitted.predict(images) != target] = np.nan  # what is wrong is unknown now
    assert fitted.score(images, target) == 1


def test_evaluate_reports_what_score_says(fitted, shapes):
    report = fitted.evaluate(shapes.images, as_labels(shapes.target))
    assert isinstance(report, MultiLabelReport)
    assert report.averages["macro_f1"] == pytest.approx(fitted.score(shapes.images, shapes.target))
    np.testing.assert_array_equal(report.to_frame()["threshold"], fitted.thresholds_)
    assert report.to_frame().index.tolist() == fitted.classes_.tolist()


# Labels


def list_label_formats(target):
    names, cells = list(target.columns), target.to_numpy()
    labels = as_labels(target)
    return {
        "lists": ([list(row) for row in labels], {}),
        "sets": ([set(row) for row in labels], {}),
        "tuples": (labels, {}),
        "strings": (["|".join(row) for row in labels], {"label_sep": "|"}),
        "dicts": ([dict(zip(names, row, strict=True)) for row in cells.tolist()], {}),
        "series": (pd.Series([list(row) for row in labels], index=range(100, 148)), {}),
        "array": (cells, {"classes": names}),
        "booleans": (cells.astype(bool), {"classes": names}),
        "signs": (cells * 2 - 1, {"classes": names}),
        "sparse": (sparse.csr_matrix(cells), {"classes": names}),
        "tensor": (torch.tensor(cells), {"classes": names}),
        "classes in order": (labels, {"classes": names}),
    }


@pytest.mark.parametrize("name", list_label_formats(pd.DataFrame({"a": [1] * 48})))
def test_every_label_format_gives_the_same_fit(fitted, shapes, name):
    labels, parameters = list_label_formats(shapes.target)[name]
    classifier = create(max_epochs=4, **parameters).fit(shapes.images, labels)
    assert classifier.classes_.tolist() == fitted.classes_.tolist()
    assert_equal_weights(classifier.network_.state_dict(), fitted.network_.state_dict())
    np.testing.assert_array_equal(classifier.thresholds_, fitted.thresholds_)


def test_columns_of_a_table_keep_their_order(shapes):
    order = ["triangle", "circle", "square"]
    classifier = create().fit(shapes.images, shapes.target[order])
    assert classifier.classes_.tolist() == order
    assert classifier.predict_labels(shapes.images[:3]) == as_labels(
        classifier.predict(shapes.images[:3]), classes=order
    )


def test_unknown_labels_are_left_out_of_training(shapes):
    """With NaN in place of what is unknown, whatever stood there cannot matter."""
    target = shapes.target.to_numpy(np.float32, copy=True)
    target[::3, 1] = np.nan
    labels = [{name: None if np.isnan(cell) else cell for name, cell in enumerate(row)} for row in target]
    one, other = create().fit(shapes.images, target), create().fit(shapes.images, labels)
    assert_equal_weights(one.network_.state_dict(), other.network_.state_dict())
    guessed = create().fit(shapes.images, np.nan_to_num(target))
    assert not np.array_equal(guessed.decision_function(shapes.images), one.decision_function(shapes.images))
    assert np.isfinite(one.decision_function(shapes.images)).all()


@pytest.mark.parametrize("n_classes", [1, 2])
@pytest.mark.parametrize("kind", ["names", "array"])
def test_one_and_two_classes_work_like_many(shapes, n_classes, kind):
    target = shapes.target.iloc[:, :n_classes]
    classifier = create().fit(shapes.images, target if kind == "names" else target.to_numpy())
    assert classifier.predict(shapes.images).shape == (48, n_classes)
    assert classifier.predict_proba(shapes.images).shape == (48, n_classes)
    assert classifier.classes_.tolist() == (list(target.columns) if kind == "names" else list(range(n_classes)))
    assert 0 <= classifier.score(shapes.images, target if kind == "names" else target.to_numpy()) <= 1


def test_a_class_without_a_positive_warns_and_gets_the_global_threshold(shapes):
    with pytest.warns(MultiLabelKitWarning) as caught:
        classifier = create(classes=["circle", "hexagon", "square", "triangle"]).fit(
            shapes.images, as_labels(shapes.target)
        )
    threshold = classifier.thresholds_[1]
    assert [str(warning.message) for warning in caught] == [
        "No known positive in 1 of 4 classes; they get the threshold that is best for all classes together, "
        f"{threshold:.3g}: 'hexagon'."
    ]
    with pytest.warns(MultiLabelKitWarning, match="^No image in y is known to have 1 of 4 classes: 'hexagon'"):
        alike = create(classes=classifier.classes, thresholds="global").fit(shapes.images, as_labels(shapes.target))
    assert alike.thresholds_.tolist() == [threshold] * 4


def test_few_positives_in_validation_warn(shapes):
    with pytest.warns(MultiLabelKitWarning) as caught:
        classifier = create(validation_fraction=0.15).fit(shapes.images, shapes.target)
    counts = classifier.threshold_report_["n_positive"]
    listed = ", ".join(f"{name!r} ({count})" for name, count in counts.items() if count < 5)
    assert [str(warning.message) for warning in caught] == [
        f"Fewer than 5 known positives make the thresholds of {(counts < 5).sum()} of 3 classes uncertain: {listed}. "
        "Tune on more samples, or choose 'global', one threshold for all classes."
    ]


# Validation and thresholds


def test_thresholds_are_those_of_the_held_out_images(shapes):
    """The classifier's own split, made again: what tune_thresholds finds there is what predict uses."""
    half = {"X": shapes.images[:24], "y": shapes.target[:24]}
    held_out = (shapes.images[24:], shapes.target[24:])
    classifier = create().fit(**half, validation_data=held_out)
    proba = classifier.predict_proba(held_out[0])
    np.testing.assert_array_equal(classifier.thresholds_, tune_thresholds(held_out[1].to_numpy(), proba))
    assert classifier.threshold_report_["n_known"].tolist() == [24, 24, 24]
    assert classifier.history_[-1]["valid_map"] == metrics.mean_average_precision(held_out[1].to_numpy(), proba)


def test_the_best_epoch_by_map_is_restored(shapes):
    class Remember(Callback):
        def on_epoch_end(self, state):
            self.best = state.best_epoch

    remember = Remember()
    classifier = create(max_epochs=5, callbacks=[remember])
    classifier.fit(shapes.images[:24], shapes.target[:24], validation_data=(shapes.images[24:], shapes.target[24:]))
    proba = classifier.predict_proba(shapes.images[24:])
    scores = [row["valid_map"] for row in classifier.history_]
    assert scores[remember.best] == max(scores)
    assert metrics.mean_average_precision(shapes.target[24:].to_numpy(), proba) == max(scores)


def test_without_validation_thresholds_are_one_half(shapes):
    classifier = create(validation_fraction=None).fit(shapes.images, shapes.target)
    assert classifier.thresholds_.tolist() == [0.5, 0.5, 0.5]
    assert classifier.threshold_report_ is None
    assert set(classifier.history_[0]) == {"epoch", "train_loss", "learning_rate", "seconds"}


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [
        (0.25, [0.25, 0.25, 0.25]),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3]),
        (np.array([0, 0.5, 1]), [0, 0.5, 1]),
        ({"triangle": 0.3, "circle": 0.1, "square": 0.2}, [0.1, 0.2, 0.3]),
        (pd.Series({"triangle": 0.3, "circle": 0.1, "square": 0.2}), [0.1, 0.2, 0.3]),
    ],
    ids=["number", "list", "array", "dict", "series"],
)
@pytest.mark.parametrize("validation_fraction", [None, 0.15])
def test_fixed_thresholds_are_taken_as_they_are(shapes, thresholds, expected, validation_fraction):
    classifier = create(thresholds=thresholds, validation_fraction=validation_fraction)
    classifier.fit(shapes.images, shapes.target)
    assert classifier.thresholds_.tolist() == expected
    assert (classifier.threshold_report_ is None) is (validation_fraction is None)
    np.testing.assert_array_equal(
        classifier.predict(shapes.images), classifier.predict_proba(shapes.images) >= np.array(expected)
    )


def test_groups_never_straddle_the_split(shapes):
    """Images of one group carry its number as their grey value, so that the loop itself shows what it reads."""
    groups = np.repeat(np.arange(12), 4)
    images = np.repeat(groups, 32 * 32).reshape(48, 32, 32).astype(np.uint8) * 10
    seen = []

    class LookAtInput(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, pixels):
            if self.training:
                seen.extend((pixels[:, 0, 0, 0] * 255 / 10).round().int().tolist())
            return pixels.mean(dim=(2, 3)) * self.scale

    classifier = create(LookAtInput, augment=None, head_first=False, precision="fp32")
    classifier.fit(images, shapes.target, groups=groups)
    n_valid = int(classifier.threshold_report_["n_known"].iloc[0])
    assert all(seen.count(group) in (0, 4) for group in range(12))
    assert len(seen) == 48 - n_valid
    assert 12 <= n_valid <= 24


def test_sample_weight_draws_the_network_to_the_heavy_images(shapes):
    target = np.tile([[1, 0], [0, 1]], (24, 1))  # the same images say both, so the weights decide
    images = np.repeat(shapes.images[:24], 2, axis=0)
    heavy = np.tile([9.0, 1.0], 24)
    parameters = {"validation_fraction": None, "max_epochs": 10, "augment": None}
    first = create(**parameters).fit(images, target, sample_weight=heavy).predict_proba(images).mean(axis=0)
    second = create(**parameters).fit(images, target, sample_weight=heavy[::-1]).predict_proba(images).mean(axis=0)
    assert first[0] > 0.6 > 0.4 > first[1]
    assert second[1] > 0.6 > 0.4 > second[0]


def test_sample_weight_of_ones_changes_nothing(shapes):
    one = create().fit(shapes.images, shapes.target)
    other = create().fit(shapes.images, shapes.target, sample_weight=np.ones(48))
    np.testing.assert_allclose(
        one.decision_function(shapes.images), other.decision_function(shapes.images), rtol=1e-4, atol=1e-4
    )


# Images


@pytest.mark.parametrize(
    "kind", ["paths", "strings", "series", "frame", "array of names", "pil", "list", "floats", "tensor"]
)
def test_the_same_images_of_any_kind_give_the_same_predictions(fitted, shapes, paths, kind):
    names = [str(path) for path in paths]
    images = {
        "paths": lambda: paths,
        "strings": lambda: tuple(names),
        "series": lambda: pd.Series(names, index=range(100, 148)),
        "frame": lambda: pd.DataFrame({"path": names}),
        "array of names": lambda: np.array(names),
        "pil": lambda: [Image.fromarray(image) for image in shapes.images],
        "list": lambda: list(shapes.images),
        "floats": lambda: shapes.images / 255,
        "tensor": lambda: torch.from_numpy(shapes.images),
    }[kind]()
    np.testing.assert_array_equal(fitted.decision_function(images), fitted.decision_function(shapes.images))


def test_fit_on_files_equals_fit_on_arrays(fitted, shapes, paths):
    classifier = create(max_epochs=4).fit(paths, shapes.target)
    assert_equal_weights(classifier.network_.state_dict(), fitted.network_.state_dict())


@pytest.mark.parametrize("parameters", [{"pixel_cache": None}, {"num_workers": 0}, {"num_workers": 3}], ids=str)
def test_how_images_are_read_changes_nothing(fitted, shapes, parameters):
    classifier = create(max_epochs=4, **parameters).fit(shapes.images, shapes.target)
    assert_equal_weights(classifier.network_.state_dict(), fitted.network_.state_dict())


def test_images_in_every_form_give_the_same_predictions(fitted, shapes, paths):
    """Paths, URLs, bytes, PIL images, arrays and tensors of the same pixels."""
    expected = fitted.decision_function(shapes.images[:6])
    forms = {
        "paths": paths[:6],
        "URLs": [path.as_uri() for path in paths[:6]],
        "bytes": [path.read_bytes() for path in paths[:6]],
        "PIL images": [Image.fromarray(image) for image in shapes.images[:6]],
        "16 bits": shapes.images[:6].astype(np.uint16) * 257,
        "floats": shapes.images[:6] / 255,
        "tensor": torch.from_numpy(shapes.images[:6]).permute(0, 3, 1, 2),
        "column": pd.Series([str(path) for path in paths[:6]]),
    }
    for name, X in forms.items():
        np.testing.assert_array_equal(fitted.decision_function(X), expected, err_msg=name)


def test_a_cache_folder_spares_a_second_fit_all_decoding(fitted, shapes, paths, tmp_path, monkeypatch):
    decoded = []

    def count(source, **limits):
        decoded.append(source)
        return decode_image(source, **limits)

    monkeypatch.setattr(loading, "decode_image", count)
    for expected in (48, 0):
        decoded.clear()
        classifier = create(max_epochs=4, pixel_cache=tmp_path / "pixels").fit(paths, shapes.target)
        assert len(decoded) == expected
        assert_equal_weights(classifier.network_.state_dict(), fitted.network_.state_dict())
    assert list((tmp_path / "pixels").rglob("*.tmp")) == []


def test_an_interrupted_fit_leaves_its_cache_to_the_next(shapes, paths, tmp_path):
    classifier = create(max_epochs=2, pixel_cache=tmp_path / "pixels", callbacks=[_Interrupt("epoch", epoch=1)])
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(paths, shapes.target)
    names = sorted(path.name.split(".", 1)[1] for path in (tmp_path / "pixels").rglob("*.*") if path.is_file())
    assert names == ["digests.npy", "digests.npy", "pixels.npy", "pixels.npy"]  # for training and for validation


@pytest.mark.parametrize("resize", ["pad", "crop"])
def test_predict_resizes_as_fit_did(shapes, resize):
    wide = shapes.images[:, 4:-4]
    classifier = create(resize=resize).fit(wide, shapes.target)
    assert classifier.input_spec_.resize == resize
    by_hand = np.stack([resize_pixels(image, 32, resize=resize) for image in wide])
    np.testing.assert_array_equal(classifier.decision_function(wide), classifier.decision_function(by_hand))
    assert not np.array_equal(
        classifier.decision_function(wide), classifier.decision_function([resize_pixels(image, 32) for image in wide])
    )


def test_dataset_normalization_is_that_of_the_training_images(shapes):
    classifier = create(normalization="dataset", validation_fraction=None).fit(shapes.images, shapes.target)
    spec = classifier.input_spec_
    np.testing.assert_allclose(spec.mean, (shapes.images / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(spec.std, (shapes.images / 255).std(axis=(0, 1, 2)))


def test_dataset_normalization_survives_a_channel_without_contrast(shapes):
    images = shapes.images.copy()
    images[..., 2] = 7
    classifier = create(normalization="dataset").fit(images, shapes.target)
    assert classifier.input_spec_.std[2] == 1 / 255
    assert np.isfinite(classifier.decision_function(images)).all()


@pytest.mark.parametrize("num_workers", [0, 3])
def test_a_transform_of_torchvision_augments_the_same_with_any_number_of_workers(shapes, num_workers):
    transform = v2.Compose([v2.RandomRotation(20), v2.ColorJitter(0.3), v2.RandomResizedCrop(32)])
    first = create(augment=transform, num_workers=1).fit(shapes.images, shapes.target)
    torch.rand(7)  # whatever the caller drew
    second = create(augment=transform, num_workers=num_workers).fit(shapes.images, shapes.target)
    assert_equal_weights(second.network_.state_dict(), first.network_.state_dict())
    other = create(augment=transform, random_state=1).fit(shapes.images, shapes.target)
    assert not torch.equal(other.network_.head.linear.weight, first.network_.head.linear.weight)


def test_a_transform_that_returns_no_image_is_named(shapes):
    with pytest.raises(InputError, match=r"^The 'augment' transform Compose\(.* must return an image tensor"):
        create(augment=v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.1])])).fit(
            shapes.images, shapes.target
        )


def test_grey_images_and_another_size(shapes):
    classifier = create(color_mode="grey", image_size=20).fit(shapes.images, shapes.target)
    assert (classifier.input_spec_.size, classifier.input_spec_.channels) == (20, 1)
    assert classifier.predict(shapes.images[:, :, :, 0]).shape == (48, 3)


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_no_image_size_takes_the_own_size_of_the_backbone(shapes):
    classifier = create(image_size=None, pixel_cache=None, augment=None).fit(shapes.images[:6], shapes.target[:6])
    assert classifier.input_spec_.size == 150


# What fit leaves alone


def test_fit_changes_no_parameter(shapes):
    classifier = create(TinyNetwork(), classes=["triangle", "circle", "square"], backbone_params={}, callbacks=[])
    before = dict(classifier.get_params())
    frozen = copy.deepcopy({name: value for name, value in before.items() if name != "backbone"})
    weights = copy_weights(classifier.backbone)
    classifier.fit(shapes.images, shapes.target)
    after = classifier.get_params()
    assert all(after[name] is before[name] for name in before)
    assert {name: after[name] for name in frozen} == frozen
    assert_equal_weights(classifier.backbone.state_dict(), weights)


def test_clone_of_a_fitted_classifier_has_no_trained_weights(shapes):
    """Else the folds of a cross-validation would see each other's images."""
    module = TinyNetwork()
    weights = copy_weights(module)
    fitted = create(module, max_epochs=2).fit(shapes.images, shapes.target)
    fresh = clone(fitted)
    assert not hasattr(fresh, "network_")
    assert_equal_weights(fresh.backbone.state_dict(), weights)
    assert not torch.equal(fitted.network_.backbone.layers[0].weight, weights["layers.0.weight"])


def test_fit_leaves_the_data_alone(shapes):
    images, target = shapes.images.copy(), shapes.target.astype(float)
    images.flags.writeable = False
    before = target.copy()
    create().fit(images, target)
    pd.testing.assert_frame_equal(target, before)


@pytest.mark.parametrize("backbone", ["small_cnn", TinyNetwork], ids=["name", "class"])
def test_the_same_seed_gives_the_same_classifier(shapes, backbone):
    one, other = (create(backbone).fit(shapes.images, shapes.target) for _ in range(2))
    assert_equal_weights(one.network_.state_dict(), other.network_.state_dict())
    np.testing.assert_array_equal(one.thresholds_, other.thresholds_)
    third = create(backbone, random_state=1).fit(shapes.images, shapes.target)
    assert not np.array_equal(third.decision_function(shapes.images), one.decision_function(shapes.images))


def test_fitting_twice_equals_fitting_once(fitted, shapes):
    classifier = create(max_epochs=4).fit(shapes.images, shapes.target[["triangle", "circle"]])
    classifier.fit(shapes.images, shapes.target)
    assert_equal_weights(classifier.network_.state_dict(), fitted.network_.state_dict())
    assert len(classifier.history_) == 4


def test_a_generator_as_random_state_goes_on(shapes):
    generator = np.random.RandomState(0)
    one = create(random_state=generator).fit(shapes.images, shapes.target)
    other = create(random_state=generator).fit(shapes.images, shapes.target)
    assert not np.array_equal(one.decision_function(shapes.images), other.decision_function(shapes.images))


def test_the_global_generators_are_left_as_they_were(shapes):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    create("plain_cnn").fit(shapes.images, shapes.target).predict(shapes.images)
    assert torch.equal(torch.get_rng_state(), torch_state)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_predicting_changes_nothing(fitted, shapes):
    before = fitted.decision_function(shapes.images)
    weights = copy_weights(fitted.network_)
    fitted.predict_labels(shapes.images)
    assert_equal_weights(fitted.network_.state_dict(), weights)
    np.testing.assert_array_equal(fitted.decision_function(shapes.images), before)


# Going on, watching, stopping


def test_warm_start_goes_on_with_the_fitted_network(shapes):
    classifier = create(warm_start=True, max_epochs=2).fit(shapes.images, shapes.target)
    first, network = list(classifier.history_), classifier.network_
    weights = copy_weights(network)
    classifier.fit(shapes.images, as_labels(shapes.target))
    assert classifier.history_[:2] == first
    assert len(classifier.history_) == 4
    assert_equal_weights(network.state_dict(), weights)  # whoever holds the old network still has it
    assert not torch.equal(classifier.network_.head.linear.weight, weights["head.linear.weight"])


def test_warm_start_needs_the_same_classes(shapes):
    classifier = create(warm_start=True).fit(shapes.images, shapes.target)
    held_out = (shapes.images, shapes.target)
    classifier.fit(shapes.images[:40], as_labels(shapes.target[["circle", "square"]][:40]), validation_data=held_out)
    assert classifier.classes_.tolist() == ["circle", "square", "triangle"]
    message = (
        "y holds 1 label(s) that are not among the 3 classes: 'hexagon' in row 0. Correct them, or name every class "
        "with classes=[...]."
    )
    with pytest.raises(InputError, match=whole(message)):
        classifier.fit(shapes.images, [["hexagon"]] * 48)


def test_without_warm_start_a_second_fit_begins_anew(fitted, shapes):
    again = create(max_epochs=4).fit(shapes.images, shapes.target)
    again.fit(shapes.images, shapes.target)
    np.testing.assert_array_equal(again.decision_function(shapes.images), fitted.decision_function(shapes.images))


class Recorder(Callback):
    def __init__(self):
        self.calls = []

    def on_train_begin(self, state):
        self.calls.append("begin")

    def on_step_end(self, state):
        self.calls.append("step")

    def on_epoch_end(self, state):
        self.calls.append("epoch")

    def on_train_end(self, state):
        self.calls.append("end")


def test_callbacks_are_called_in_order(shapes):
    recorder = Recorder()
    create(max_epochs=2, batch_size=10, callbacks=[recorder]).fit(shapes.images, shapes.target)
    epoch = ["step"] * 3 + ["epoch"]  # 29 of 48 images are trained on
    assert recorder.calls == ["begin", *epoch, *epoch, "end"]


def test_a_callback_can_stop_the_training(shapes):
    class Stop(Callback):
        def on_epoch_end(self, state):
            state.stop_reason = "enough"

    classifier = create(max_epochs=5, callbacks=[Stop()]).fit(shapes.images, shapes.target)
    assert len(classifier.history_) == 1


def test_verbose_zero_is_silent_and_one_speaks_on_stderr(shapes, capfd):
    create(verbose=0).fit(shapes.images, shapes.target).predict(shapes.images)
    assert capfd.readouterr() == ("", "")
    create(verbose=1, max_epochs=2).fit(shapes.images, shapes.target)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"(epoch [12]/2  loss [\d.]+  valid [\d.]+  mAP [\d.]+  F1 [\d.]+  [\d.]+ s\n){2}", printed.err)


class _Interrupt(Callback):
    def __init__(self, hook, epoch):
        self.hook, self.epoch = hook, epoch

    def on_step_end(self, state):
        if self.hook == "step" and state.epoch == self.epoch:
            raise KeyboardInterrupt

    def on_epoch_end(self, state):
        if self.hook == "epoch" and state.epoch == self.epoch:
            raise KeyboardInterrupt


@pytest.mark.parametrize("hook", ["step", "epoch"])
@pytest.mark.parametrize("warm_start", [False, True])
def test_ctrl_c_keeps_the_best_weights_says_so_and_leaves_no_thread(shapes, hook, warm_start):
    classifier = create(warm_start=warm_start, batch_size=4, num_workers=2).fit(shapes.images, shapes.target)
    n_epochs = len(classifier.history_) if warm_start else 0
    classifier.set_params(max_epochs=3, callbacks=[_Interrupt(hook, epoch=1)])
    with pytest.raises(KeyboardInterrupt) as caught:
        classifier.fit(shapes.images, shapes.target)
    history = classifier.history_[n_epochs:]
    assert len(history) == (1 if hook == "step" else 2)
    maps = [row["valid_map"] for row in history]
    best = max(range(len(maps)), key=lambda epoch: (maps[epoch], epoch)) + 1
    assert str(caught.value) == (
        "Fitting was interrupted in epoch 2 of 3. The classifier is fitted with the weights of epoch "
        f"{best}, the best so far. To go on from there, call fit again after set_params(warm_start=True)."
    )
    assert len(classifier.thresholds_) == 3
    assert classifier.predict(shapes.images).shape == (48, 3)
    assert [thread.name for thread in threading.enumerate() if "multilabelkit" in thread.name] == []


def test_ctrl_c_in_the_first_epoch_leaves_a_fitted_classifier_as_it_was(shapes):
    classifier = create().fit(shapes.images, shapes.target)
    before, logits = dict(vars(classifier)), classifier.decision_function(shapes.images)
    classifier.set_params(max_epochs=3, callbacks=[_Interrupt("step", epoch=0)])
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(shapes.images, shapes.target[["triangle", "square", "circle"]])
    after = vars(classifier)
    assert all(after[name] is before[name] for name in before if name.endswith("_"))
    np.testing.assert_array_equal(classifier.decision_function(shapes.images), logits)


def test_ctrl_c_in_the_first_epoch_leaves_a_new_classifier_unfitted(shapes):
    classifier = create(max_epochs=3, callbacks=[_Interrupt("step", epoch=0)])
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(shapes.images, shapes.target)
    assert [name for name in vars(classifier) if name.endswith("_")] == []


def test_a_warning_made_an_error_leaves_a_new_classifier_unfitted(shapes):
    """pytest and careful users turn warnings into errors; the one about thresholds comes last of all."""
    classifier = create(validation_fraction=0.15)
    with pytest.raises(MultiLabelKitWarning, match=r"^Fewer than 5 known positives"):
        classifier.fit(shapes.images, shapes.target)
    assert [name for name in vars(classifier) if name.endswith("_")] == []


# Bad input


@pytest.mark.parametrize(
    "method", ["decision_function", "predict_proba", "predict", "predict_labels", "score", "evaluate", "save"]
)
def test_an_unfitted_classifier_says_so(shapes, method, tmp_path):
    arguments = {"score": [shapes.images, shapes.target], "evaluate": [shapes.images, shapes.target]}
    arguments |= {"save": [tmp_path / "model"]}
    with pytest.raises(NotFittedError, match=r"^This MultiLabelImageClassifier instance is not fitted yet"):
        getattr(create(), method)(*arguments.get(method, [shapes.images]))


SINGLE = np.zeros((8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("method", ["fit", "predict", "score"])
@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([], "X is empty; pass at least one image."),
        (np.empty((0, 8, 8)), "X is empty; pass at least one image."),
        ("a.jpg", "X is a single path, 'a.jpg'; pass a list of paths: ['a.jpg']."),
        (Image.fromarray(SINGLE), "X is a single PIL image of size (8, 8); pass a list of images: [image]."),
        (SINGLE, "X is a single image, an array of shape (8, 8, 3); pass a list of images: [image] or image[None]."),
        (
            3,
            "X must be a list of paths, PIL images or arrays, an array of shape (n_samples, H, W[, C]) or a pandas "
            "column. Got int instead.",
        ),
    ],
    ids=["empty list", "empty array", "path", "pil", "array", "number"],
)
def test_what_is_no_list_of_images_is_refused(fitted, method, X, message):
    classifier = create() if method == "fit" else fitted
    arguments = [X] if method == "predict" else [X, [["circle"]]]
    with pytest.raises(InputError, match=whole(message)):
        getattr(classifier, method)(*arguments)


@pytest.mark.parametrize("method", ["fit", "score", "evaluate"])
def test_lengths_that_differ_are_refused(fitted, shapes, method):
    message = "X and y must have the same length. Got 48 images and labels for 47."
    with pytest.raises(InputError, match=whole(message)):
        getattr(copy.copy(fitted), method)(shapes.images, shapes.target[:47])


@pytest.mark.parametrize("method", ["fit", "predict"])
def test_all_missing_images_are_listed(fitted, shapes, paths, tmp_path, method):
    missing = [str(tmp_path / "one.jpg"), str(tmp_path / "two.jpg")]
    images = [missing[0], *paths[1:47], missing[1]]
    message = (
        f"Cannot decode 2 of 48 images in X; the first is '{missing[0]}' at row 0: the file does not exist. "
        f"Repair or remove them (all are listed in error.paths and error.rows){SKIP if method == 'fit' else NAN}."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        getattr(copy.copy(fitted), method)(images, *([shapes.target] if method == "fit" else []))
    assert caught.value.paths == tuple(missing)
    assert caught.value.rows == (0, 47)
    assert caught.value.reasons == ("the file does not exist",) * 2


def break_images(paths, folder):
    """Return 48 paths of which rows 5, 20 and 47 are broken, each in its own way."""
    broken = [folder / "empty.png", folder / "text.png", folder / "cut.png"]
    broken[0].touch()
    broken[1].write_text("no image")
    broken[2].write_bytes(paths[47].read_bytes()[:100])
    images = list(paths)
    images[5], images[20], images[47] = broken
    return images, tuple(map(str, broken))


@pytest.mark.parametrize("kind", ["predict", "fit", "fit with head first"])
def test_all_broken_images_are_listed(fitted, shapes, paths, tmp_path, kind):
    """Wherever they lie: the split sends some to training and some to validation, and rows are those of X."""
    images, broken = break_images(paths, tmp_path)
    message = (
        f"Cannot decode 3 of 48 images in X; the first is '{broken[0]}' at row 5: the file is empty. "
        f"Repair or remove them (all are listed in error.paths and error.rows){SKIP if kind != 'predict' else NAN}."
    )
    classifier = fitted if kind == "predict" else create("small_cnn" if kind == "fit" else TinyNetwork)
    call = classifier.predict if kind == "predict" else partial(classifier.fit, y=shapes.target)
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        call(images)
    assert caught.value.paths == broken
    assert caught.value.rows == (5, 20, 47)
    assert caught.value.reasons[:2] == (
        "the file is empty",
        "it is not an image of a format that is read (JPEG, PNG, WEBP, GIF, BMP, TIFF, PPM)",
    )
    assert caught.value.reasons[2].startswith("the file is damaged or unsupported (")
    assert [thread.name for thread in threading.enumerate() if "multilabelkit" in thread.name] == []


def test_one_broken_image_is_named(fitted, paths, tmp_path):
    empty = tmp_path / "empty.png"
    empty.touch()
    message = f"Cannot decode 1 of 3 images in X: '{empty}' at row 1: the file is empty. Repair or remove it{NAN}."
    with pytest.raises(ImageDecodeError, match=whole(message)):
        fitted.predict([paths[0], empty, paths[1]])


def test_a_broken_array_is_named_by_its_row(fitted, shapes):
    images = [*shapes.images[:2], shapes.images[0] * 1.0]
    message = (
        "Cannot decode 1 of 3 images in X: '<ndarray>' at row 2: a float array must hold finite values in [0, 1]; "
        f"divide by 255 if it holds 0 to 255. Repair or remove it{NAN}."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)):
        fitted.predict(images)


def test_broken_images_of_the_validation_data_are_listed_by_their_rows_there(shapes, paths, tmp_path):
    images, broken = break_images(paths, tmp_path)
    message = (
        f"Cannot decode 3 of 48 images in validation_data; the first is '{broken[0]}' at row 5: the file is empty. "
        f"Repair or remove them (all are listed in error.paths and error.rows){SKIP}."
    )
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        create().fit(shapes.images, shapes.target, validation_data=(images, shapes.target))
    assert caught.value.paths == broken
    assert caught.value.rows == (5, 20, 47)


@pytest.mark.parametrize("with_groups", [False, True])
def test_skip_trains_on_the_good_images_alone(shapes, paths, tmp_path, with_groups):
    images, broken = break_images(paths, tmp_path)
    good = np.delete(np.arange(48), [5, 20, 47])
    weight, groups = np.arange(1.0, 49.0), np.arange(48) // 3
    expected = create().fit(
        [paths[row] for row in good],
        shapes.target.iloc[good],
        sample_weight=weight[good],
        groups=groups[good] if with_groups else None,
    )
    with pytest.warns(
        MultiLabelKitWarning, match=r"^Cannot decode 3 of 48 images in X; .* They are left out"
    ) as caught:
        classifier = create(on_bad_image="skip").fit(
            images, shapes.target, sample_weight=weight, groups=groups.tolist() if with_groups else None
        )
    assert caught[0].filename == __file__
    assert str(broken[0]) in str(caught[0].message)
    assert_equal_weights(classifier.network_.state_dict(), expected.network_.state_dict())
    with pytest.raises(ImageDecodeError):
        classifier.predict(images)


def test_skip_leaves_bad_validation_images_out(shapes, paths, tmp_path):
    images, _ = break_images(paths, tmp_path)
    with pytest.warns(MultiLabelKitWarning, match=r"^Cannot decode 3 of 48 images in validation_data; "):
        classifier = create(on_bad_image="skip").fit(
            shapes.images, shapes.target, validation_data=(images, shapes.target)
        )
    good = np.delete(np.arange(48), [5, 20, 47])
    assert classifier.threshold_report_["n_positive"].tolist() == shapes.target.iloc[good].sum().tolist()


def test_nan_gives_bad_images_rows_of_nan(fitted, paths, tmp_path):
    images, broken = break_images(paths, tmp_path)
    classifier = copy.copy(fitted).set_params(on_bad_image="nan")
    bad = [5, 20, 47]
    good = np.delete(np.arange(48), bad)
    message = (
        f"Cannot decode 3 of 48 images in X; the first is '{broken[0]}' at row 5: the file is empty. Their rows are "
        f"NaN, as on_bad_image='nan' asks. Others: '{broken[1]}', '{broken[2]}'."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)) as caught:
        proba = classifier.predict_proba(images)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert np.isnan(proba[bad]).all()
    np.testing.assert_allclose(proba[good], fitted.predict_proba(paths)[good], atol=1e-6)
    with pytest.warns(MultiLabelKitWarning) as caught:
        predicted = classifier.predict(images)
    assert caught[0].filename == __file__
    assert predicted.dtype == np.float64
    assert np.isnan(predicted[bad]).all()
    np.testing.assert_array_equal(predicted[good], fitted.predict(paths)[good])


@pytest.mark.parametrize("top_k", [None, 2])
def test_nan_gives_bad_images_no_labels(fitted, paths, tmp_path, top_k):
    images, _ = break_images(paths, tmp_path)
    classifier = copy.copy(fitted).set_params(on_bad_image="nan")
    with pytest.warns(MultiLabelKitWarning, match="Their rows are NaN"):
        labels = classifier.predict_labels(images, top_k=top_k)
    expected = fitted.predict_labels(paths, top_k=top_k)
    assert [row for row in range(48) if labels[row] is None] == [5, 20, 47]
    assert all(one == other for one, other in zip(labels, expected, strict=True) if one is not None)


def test_nan_changes_nothing_where_every_image_is_sound(fitted, paths):
    classifier = copy.copy(fitted).set_params(on_bad_image="nan")
    assert classifier.predict(paths).dtype == np.int64
    np.testing.assert_array_equal(classifier.predict_proba(paths), fitted.predict_proba(paths))


@pytest.mark.parametrize("method", ["score", "evaluate", "fit"])
def test_nan_neither_scores_nor_fits_some_of_the_images(fitted, shapes, paths, tmp_path, method):
    images, _ = break_images(paths, tmp_path)
    classifier = copy.copy(fitted).set_params(on_bad_image="nan")
    with pytest.raises(ImageDecodeError, match=r"^Cannot decode 3 of 48 images in X; "):
        getattr(classifier, method)(images, shapes.target)


def test_rows_are_those_of_X_also_after_some_were_skipped(shapes, paths, tmp_path):
    """Row 0 is bad from the start, and row 7 vanishes in the middle of the training."""
    images = [tmp_path / f"{row}.png" for row in range(48)]
    for image, path in zip(images, paths, strict=True):
        image.write_bytes(path.read_bytes())
    images[0].write_text("no image")

    class Vanish(Callback):
        def on_epoch_end(self, state):
            images[7].unlink(missing_ok=True)

    classifier = create(on_bad_image="skip", pixel_cache=None, max_epochs=2, callbacks=[Vanish()])
    with (
        pytest.warns(MultiLabelKitWarning, match="They are left out"),
        pytest.raises(ImageDecodeError, match=r"^Cannot decode 1 of 48 images in X: '.*7\.png' at row 7: ") as caught,
    ):
        classifier.fit(images, shapes.target)
    assert caught.value.rows == (7,)


def test_rows_are_those_of_X_also_while_the_colours_are_measured(shapes, paths, tmp_path):
    images, broken = break_images(paths, tmp_path)
    with pytest.raises(ImageDecodeError, match=r"^Cannot decode 3 of 48 images in X; ") as caught:
        create(normalization="dataset").fit(images, shapes.target)
    assert caught.value.paths == broken
    assert caught.value.rows == (5, 20, 47)


def test_an_image_that_failed_only_once_has_its_row(shapes, paths, monkeypatch):
    """A second look finds nothing: a drive that was away for a moment."""
    n_failures = []

    def decode(source, **limits):
        if source == paths[9] and not n_failures:
            n_failures.append(1)
            raise ImageDecodeError("no", paths=[str(source)], rows=[0], reasons=["it was away"])
        return decode_image(source, **limits)

    monkeypatch.setattr(loading, "decode_image", decode)
    message = f"Cannot decode 1 of 48 images in X: '{paths[9]}' at row 9: it was away. Repair or remove it."
    with pytest.raises(ImageDecodeError, match=whole(message)) as caught:
        create().fit(paths, shapes.target)
    assert caught.value.rows == (9,)


@pytest.mark.parametrize("change", [{"resize": "pad"}, {"color_mode": "grey"}, {"image_size": 64}], ids=str)
def test_what_is_set_after_the_fit_does_not_change_what_the_network_sees(fitted, shapes, change):
    wide = shapes.images[:, 4:-4]
    classifier = copy.copy(fitted).set_params(**change)
    np.testing.assert_array_equal(classifier.decision_function(wide), fitted.decision_function(wide))


@pytest.mark.parametrize(
    ("change", "must"),
    [({"on_bad_image": "NaN"}, "'raise', 'skip' or 'nan'"), ({"max_pixels": "x"}, "an integer >= 1")],
    ids=str,
)
def test_predict_names_a_parameter_with_which_images_cannot_be_read(fitted, shapes, change, must):
    ((name, value),) = change.items()
    message = f"The {name!r} parameter of MultiLabelImageClassifier must be {must}. Got {value!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        copy.copy(fitted).set_params(**change).predict(shapes.images)


def test_predict_looks_for_missing_files_before_it_decodes(fitted, paths, tmp_path, monkeypatch):
    monkeypatch.setattr(prediction, "predict_logits", lambda *arguments, **options: pytest.fail("it has begun"))
    with pytest.raises(ImageDecodeError, match="the file does not exist"):
        fitted.predict([*paths, tmp_path / "absent.png"])


def test_a_cache_that_cannot_be_made_is_refused_before_any_work(shapes, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(preparation, "find_undecodable", lambda *arguments, **options: pytest.fail("it has begun"))
    with pytest.raises(InputError, match=r"^The pixel cache cannot be kept in '.*file': File exists"):
        create(pixel_cache=tmp_path / "file", on_bad_image="skip").fit(shapes.images, shapes.target)


def test_weights_and_labels_of_what_is_left_are_checked_again(shapes, paths, tmp_path):
    images, _ = break_images(paths, tmp_path)
    weight, labels = np.zeros(48), shapes.target.astype(float)
    weight[5] = 1
    with pytest.warns(MultiLabelKitWarning), pytest.raises(InputError, match="sample_weight is zero for all"):
        create(on_bad_image="skip").fit(images, shapes.target, sample_weight=weight)
    labels.iloc[np.delete(np.arange(48), 5)] = np.nan
    message = "No label is known of the images that can be decoded. Repair the others, or label these."
    with pytest.warns(MultiLabelKitWarning), pytest.raises(InputError, match=whole(message)):
        create(on_bad_image="skip").fit(images, labels)


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_a_transform_that_works_in_place_spoils_no_cache(shapes, tmp_path, place):
    options = {"color_mode": "grey", "augment": v2.RandomErasing(p=1.0, inplace=True), "max_epochs": 3}
    expected = create(pixel_cache=None, **options).fit(shapes.images, shapes.target)
    cache = tmp_path if place == "folder" else place
    classifier = create(pixel_cache=cache, **options).fit(shapes.images, shapes.target)
    assert_equal_weights(classifier.network_.state_dict(), expected.network_.state_dict())


def test_fit_says_where_it_keeps_images_that_do_not_fit_in_memory(shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MULTILABELKIT_CACHE", str(tmp_path))
    monkeypatch.setattr(pixel_cache, "MEMORY_BYTES", 0)
    create(verbose=1).fit(shapes.images, shapes.target)
    assert f"keeping decoded images in {tmp_path / 'pixels'}" in "".join(capsys.readouterr())


def test_too_many_pixels_are_refused_in_fit_and_predict(fitted, shapes, paths):
    message = r"row 0: it has 1,024 pixels, more than max_pixels=1,023\."
    with pytest.raises(ImageDecodeError, match=message):
        copy.copy(fitted).set_params(max_pixels=1023).predict(paths)
    with pytest.raises(ImageDecodeError, match=message):
        create(max_pixels=1023).fit(paths, shapes.target)


@pytest.mark.parametrize(
    ("y", "parameters", "message"),
    [
        (
            [list("circle"), list("square")] * 24,
            {},
            "Every label of y is a single letter, as if strings had been split: row 0 is "
            "['c', 'i', 'r', 'c', 'l', 'e']. Pass the strings themselves, or classes=[...] if the letters are the "
            "classes.",
        ),
        (
            ["circle|square", "triangle"] * 24,
            {},
            "'circle|square' in row 0 of y looks like several labels in one string. Pass each row as one string with "
            "label_sep='|' to split it, or name the classes with classes=[...].",
        ),
        (
            np.tile([[1, -1], [0, 1]], (24, 1)),
            {},
            "y holds -1 (first at row 0, column 1) beside 0 or NaN, so -1 may mean absent or uncertain. Say which with "
            'as_indicator(y, uncertain="missing"|"positive"|"negative").',
        ),
        (np.full((48, 2), np.nan), {}, "y holds no known label: every cell is NaN. Pass at least one 0 or 1."),
        (
            [[1, 0], [0, 1]] * 24,
            {},
            "y is a nested list of 0 and 1 with rows of equal length, which may be a table or integer labels. "
            "Pass np.array(y) for a table with one column per class, or sets such as {0, 1} for labels.",
        ),
        ([[]] * 48, {}, "No row of y has a label, so there are no classes to learn. Name them with classes=[...]."),
        ([["circle"]] * 48, {"classes": "circle"}, "classes must be a list of names. Got 'circle' instead."),
        (
            [["circle"]] * 48,
            {"thresholds": {"circle": 0.1, "cycle": 0.2}},
            "thresholds names unknown classes: 'cycle'. Did you mean 'circle'?",
        ),
        (
            [["circle"]] * 48,
            {"thresholds": [0.1, 0.2]},
            "thresholds must hold one number for each of 1 classes. Got the shape (2,).",
        ),
    ],
    ids=[
        "letters",
        "joined",
        "minus one",
        "all unknown",
        "nested list",
        "no label",
        "classes as string",
        "thresholds of other classes",
        "too many thresholds",
    ],
)
def test_bad_labels_are_refused_before_training(shapes, monkeypatch, y, parameters, message):
    forbid_training(monkeypatch)
    with pytest.raises(InputError, match=whole(message)):
        create(**parameters).fit(shapes.images, y)


def forbid_training(monkeypatch):
    """Let nothing be computed: an error must come before that."""

    def fail(*arguments, **keywords):
        raise AssertionError("training began")

    monkeypatch.setattr("multilabelkit.fitting.fit_network", fail)


def test_an_unseen_label_at_score_time_is_named(fitted, shapes):
    labels = as_labels(shapes.target)
    labels[7] = ("sqare",)
    message = (
        "y holds 1 label(s) that are not among the 3 classes: 'sqare' in row 7. Did you mean 'square'? "
        "Correct them, or name every class with classes=[...]."
    )
    for method in (fitted.score, fitted.evaluate):
        with pytest.raises(InputError, match=whole(message)):
            method(shapes.images, labels)


def test_unknown_labels_alone_cannot_be_scored(fitted, shapes):
    message = "y holds no known label: every cell is NaN. Pass at least one 0 or 1."
    with pytest.raises(InputError, match=whole(message)):
        fitted.score(shapes.images, np.full((48, 3), np.nan))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"sample_weight": [1, 2]},
            "sample_weight must hold one finite weight >= 0 for each of the 48 rows of X. Got an array of shape (2,).",
        ),
        (
            {"sample_weight": [-1.0] + [1.0] * 47},
            "sample_weight must hold one finite weight >= 0 for each of the 48 rows of X. Got -1 at row 0.",
        ),
        ({"validation_data": 3}, "validation_data must be a pair (X, y). Got 3 instead."),
        (
            {"groups": [1] * 48},
            "Cannot deal 1 groups to 2 parts: a part would stay empty. Ask for fewer parts, or pass finer groups.",
        ),
    ],
    ids=["short weights", "negative weight", "no pair", "one group"],
)
def test_bad_arguments_of_fit_are_refused_before_training(shapes, monkeypatch, arguments, message):
    forbid_training(monkeypatch)
    with pytest.raises(InputError, match=whole(message)):
        create().fit(shapes.images, shapes.target, **arguments)


def test_one_image_is_too_few_for_a_validation_part(shapes):
    message = (
        "1 image(s) are too few to set a validation part of 0.4 aside; "
        "pass more images, validation_data=(X, y), or validation_fraction=None."
    )
    with pytest.raises(InputError, match=whole(message)):
        create().fit(shapes.images[:1], [["circle"]])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"backbone": "resnet_50"},
            "The backbone 'resnet_50' is unknown. Did you mean 'resnet50' or 'wide_resnet50_2' or 'seresnet50'? "
            "Use 'small_cnn', 'plain_cnn', a name from timm.list_models(), or your own torch.nn.Module.",
        ),
        (
            {"backbone_params": {"num_classes": 3}},
            "backbone_params must not hold 'num_classes': the classifier sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'.",
        ),
        (
            {"image_size": 8},
            "image_size=8 is too small for the backbone 'small_cnn'; use at least 10.",
        ),
    ],
    ids=["unknown backbone", "reserved keyword", "too small"],
)
def test_a_backbone_that_cannot_be_is_refused_before_training(shapes, monkeypatch, parameters, message):
    forbid_training(monkeypatch)
    with pytest.raises(InputError) as caught:
        create(**parameters).fit(shapes.images, shapes.target)
    names = re.compile(r"Did you mean .*\?")  # the nearest names depend on the version of timm
    assert names.sub("?", str(caught.value)) == names.sub("?", message)
    assert ("'resnet50'" in str(caught.value)) is ("'resnet50'" in message)


def test_a_checkpoint_that_does_not_fit_names_the_keys(shapes, monkeypatch, tmp_path):
    forbid_training(monkeypatch)
    weights = TinyNetwork().state_dict()
    weights["layers.0.weight"] = torch.zeros(4, 3, 5, 5)
    weights["extra"] = weights.pop("layers.1.bias")
    torch.save(weights, tmp_path / "weights.pt")
    message = (
        f"The checkpoint '{tmp_path / 'weights.pt'}' does not fit the backbone; of its keys, 1 missing (first: "
        "layers.1.bias); 1 unexpected (first: extra); 1 of another shape (first: layers.0.weight is (4, 3, 5, 5), not "
        "(4, 3, 3, 3)). Pass the checkpoint of this very architecture, or name the architecture it was made with."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(TinyNetwork, pretrained=tmp_path / "weights.pt").fit(shapes.images, shapes.target)


def test_an_unwritable_save_folder_is_named(fitted, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"^The model cannot be saved to '.*/file': it is a file or a link\. Choose"):
        fitted.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


# Manners


def test_parameters_are_keyword_only_after_the_backbone():
    first, *others = list(inspect.signature(MultiLabelImageClassifier).parameters.values())
    assert (first.name, first.default) == ("backbone", "resnet50")
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in others)


def test_every_parameter_is_documented_in_order():
    section = MultiLabelImageClassifier.__doc__.split("Parameters\n")[1].split("Attributes\n")[0]
    documented = re.findall(r"^    (\w+) : ", section, flags=re.MULTILINE)
    assert documented == list(inspect.signature(MultiLabelImageClassifier).parameters)


def test_tags_say_multi_label_and_images():
    tags = create().__sklearn_tags__()
    assert tags.classifier_tags.multi_label
    assert not tags.classifier_tags.multi_class
    assert tags.target_tags.multi_output
    assert tags.input_tags.string
    assert tags.input_tags.three_d_array
    assert not tags.input_tags.two_d_array
    assert not tags.non_deterministic
    assert create(random_state=None).__sklearn_tags__().non_deterministic


def test_broken_validation_image_is_found_before_the_first_step(shapes, tmp_path):
    class Count(Callback):
        n_steps = 0

        def on_step_end(self, state):
            self.n_steps += 1

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    counter = Count()
    classifier = MultiLabelImageClassifier("small_cnn", image_size=32, max_epochs=1, verbose=0, callbacks=[counter])
    with pytest.raises(ImageDecodeError, match=r"broken\.png"):
        classifier.fit(shapes.images, shapes.target, validation_data=([str(broken)], shapes.target[:1]))
    assert counter.n_steps == 0


# Going on with a fitted network


def record_validation(monkeypatch):
    """Return a list that takes the validation sources of every fit."""
    seen, fit_network = [], fitting.fit_network

    def spy(classifier, network, spec, train, valid, **settings):
        seen.append(valid[0])
        return fit_network(classifier, network, spec, train, valid, **settings)

    monkeypatch.setattr("multilabelkit.fitting.fit_network", spy)
    return seen


@pytest.mark.parametrize("saved", [False, True], ids=["in place", "saved and loaded"])
def test_warm_start_validates_on_the_same_images_whatever_the_random_state(shapes, paths, tmp_path, monkeypatch, saved):
    seen = record_validation(monkeypatch)
    classifier = create(warm_start=True, random_state=None).fit(paths, shapes.target)
    if saved:
        classifier.save(tmp_path / "model")
        classifier = MultiLabelImageClassifier.load(tmp_path / "model").set_params(warm_start=True)
    classifier.fit(paths, shapes.target)
    assert seen[0] == seen[1]
    assert [row["epoch"] for row in classifier.history_] == [0, 1]


def test_warm_start_draws_other_crops_and_another_order(shapes, monkeypatch):
    epochs = []
    iterate_training = labelled.iterate_training

    def spy(*args, **settings):
        epochs.append(settings["epoch"])
        return iterate_training(*args, **settings)

    monkeypatch.setattr(labelled, "iterate_training", spy)
    classifier = create(warm_start=True, max_epochs=2).fit(shapes.images, shapes.target)
    classifier.fit(shapes.images, shapes.target)
    assert epochs == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 48}, "the 'image_size' parameter must stay 32. Got 48;"),
        ({"color_mode": "grey"}, "the 'color_mode' parameter must stay 'rgb'. Got 'grey';"),
        ({"backbone": "plain_cnn"}, "the 'backbone' parameter must stay 'small_cnn'. Got 'plain_cnn';"),
        ({"normalization": "unit"}, "the 'normalization' parameter must stay 'pretrained'. Got 'unit';"),
        ({"head": None}, "the 'head' parameter must stay 'linear'. Got None;"),
        ({"backbone_params": {"a": 1}}, "the 'backbone_params' parameter must stay None. Got {'a': 1};"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_warm_start_refuses_another_network(fitted, shapes, change, message):
    classifier = copy.deepcopy(fitted).set_params(warm_start=True, **change)
    whole_message = (
        f"With warm_start=True a fit goes on with the fitted network, so {message} set it back, or set "
        "warm_start=False to start anew."
    )
    with pytest.raises(InputError, match=whole(whole_message)):
        classifier.fit(shapes.images, shapes.target)


def test_warm_start_takes_another_dropout(fitted, shapes):
    classifier = copy.deepcopy(fitted).set_params(warm_start=True, dropout=0.7, normalization="pretrained")
    assert classifier.fit(shapes.images, shapes.target).network_.head.dropout.p == 0.7


def test_save_writes_the_parameters_that_shaped_the_network(fitted, shapes, tmp_path):
    changed = copy.deepcopy(fitted).set_params(backbone="plain_cnn", color_mode="grey", image_size=64)
    changed.save(tmp_path / "model")
    loaded = MultiLabelImageClassifier.load(tmp_path / "model")
    assert (loaded.backbone, loaded.color_mode, loaded.image_size) == ("small_cnn", "rgb", 32)
    np.testing.assert_array_equal(loaded.predict_proba(shapes.images), fitted.predict_proba(shapes.images))


# Own networks


class Scores(nn.Module):
    """Gives one score per class itself."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(TinyNetwork(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, images):
        return self.layers(images)


def test_scores_of_an_own_network_are_computed_in_fp32_unless_asked(shapes, monkeypatch):
    seen = []
    choose_dtype = prediction.choose_dtype
    monkeypatch.setattr(
        prediction, "choose_dtype", lambda name, device: seen.append(name) or choose_dtype("fp32", device)
    )
    create(Scores, head=None).fit(shapes.images, shapes.target)
    create(Scores, head=None, precision="bf16").fit(shapes.images, shapes.target)
    create(TinyNetwork).fit(shapes.images, shapes.target)
    assert seen == ["fp32", "bf16", "auto"]


def test_own_network_of_another_precision_is_taken(shapes):
    classifier = create(TinyNetwork().double()).fit(shapes.images, shapes.target)
    assert {p.dtype for p in classifier.network_.parameters()} == {torch.float32}


def test_function_that_gives_the_same_network_each_time_does_not_leak_weights(shapes):
    own = TinyNetwork()
    before = copy_weights(own)
    classifier = create(lambda: own).fit(shapes.images, shapes.target)
    assert_equal_weights(copy_weights(own), before)
    assert classifier.network_.backbone is not own


def test_own_functions_may_have_keywords_of_any_name(shapes):
    def build(num_classes):
        return nn.Sequential(TinyNetwork(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))

    classifier = create(build, head=None, backbone_params={"num_classes": 3}).fit(shapes.images, shapes.target)
    assert classifier.predict(shapes.images).shape == (48, 3)


# What else a caller may give


@pytest.mark.parametrize(
    "parameters",
    [{"thresholds": "global"}, {"thresholds": 0.5}, {"validation_fraction": None}],
    ids=["global", "fixed", "no validation"],
)
def test_class_without_an_image_warns_whatever_the_thresholds(shapes, parameters):
    target = shapes.target.assign(star=0)
    message = "No image in y is known to have 1 of 4 classes: 'star'."
    with pytest.warns(MultiLabelKitWarning, match=whole(message)) as caught:
        create(**parameters).fit(shapes.images, target)
    assert caught[0].filename == __file__


def test_normalization_may_be_an_array_and_verbose_a_bool(shapes):
    classifier = create(normalization=np.full((2, 3), 0.5), verbose=False).fit(shapes.images, shapes.target)
    assert classifier.input_spec_.mean == classifier.input_spec_.std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("parameters", [{}, {"validation_fraction": None}], ids=["split", "no split"])
def test_groups_of_another_length_are_refused(shapes, parameters):
    message = "groups must name one group for each of 48 images in X. Got 3."
    with pytest.raises(InputError, match=whole(message)):
        create(**parameters).fit(shapes.images, shapes.target, groups=[1, 2, 3])


FOREIGN_ACCELERATE = """
import pickle, sys
from accelerate import Accelerator
if sys.argv[1] == "object":
    Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4).sync_gradients = False
from multilabelkit import MultiLabelImageClassifier
from multilabelkit.datasets import make_shapes
shapes = make_shapes(48)
classifier = MultiLabelImageClassifier(
    "small_cnn", image_size=32, max_epochs=1, verbose=0, validation_fraction=None, random_state=0, precision="fp32"
).fit(shapes.images, shapes.target)
pickle.dumps(classifier)
print(classifier.history_[0]["train_loss"], float(classifier.network_.head.linear.weight.sum()))
"""


@pytest.mark.parametrize("foreign", ["variable", "object"])
def test_what_the_process_used_accelerate_for_changes_nothing(foreign):
    """Neither a launcher's settings nor an Accelerator of the caller's own reach our training."""

    def run(kind, **variables):
        command = [sys.executable, "-c", FOREIGN_ACCELERATE, kind]
        return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout

    variables = {"ACCELERATE_MIXED_PRECISION": "bf16"} if foreign == "variable" else {}
    assert run(foreign, **variables) == run("none")
