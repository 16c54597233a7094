import copy
import hashlib
import json
import pickle
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from torch import nn
from torchvision.transforms import v2

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.classifier import MultiLabelImageClassifier as Classifier
from multilabelkit.errors import InputError, ModelFileError, MultiLabelKitWarning
from multilabelkit.saving import _BACKBONE_NAME
from multilabelkit.training import Callback

FAST = {"image_size": 32, "max_epochs": 1, "verbose": 0, "validation_fraction": 0.4, "random_state": 0}


class TinyNetwork(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


class OtherNetwork(TinyNetwork):
    def __init__(self):
        super().__init__()
        self.more = nn.Linear(2, 2)


def create(**parameters):
    options = {"image_size": 32, "max_epochs": 1, "verbose": 0, "validation_fraction": 0.4, "random_state": 0}
    return Classifier("small_cnn", **{**options, **parameters})


def create_tiny(width=4):
    return TinyNetwork(width)


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.fixture(scope="module")
def fitted(shapes):
    return Classifier("small_cnn", **FAST).fit(shapes.images, shapes.target)


@pytest.fixture
def model(fitted, tmp_path):
    fitted.save(tmp_path / "model")
    return tmp_path / "model"


def read_config(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def change_config(folder, change):
    """Change the config in place and correct its checksum."""
    config = read_config(folder)
    change(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    sums = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("config.json", "model.safetensors")
    ]
    (folder / "SHA256SUMS").write_text("".join(sums))


def assert_same(one, other, images):
    np.testing.assert_array_equal(one.decision_function(images), other.decision_function(images))
    np.testing.assert_array_equal(one.predict(images), other.predict(images))
    assert one.predict_labels(images) == other.predict_labels(images)
    np.testing.assert_array_equal(one.classes_, other.classes_)
    assert one.classes_.dtype == other.classes_.dtype
    np.testing.assert_array_equal(one.label_binarizer_.classes_, other.label_binarizer_.classes_)
    np.testing.assert_array_equal(one.thresholds_, other.thresholds_)
    assert one.input_spec_ == other.input_spec_
    pd.testing.assert_frame_equal(pd.DataFrame(one.history_), pd.DataFrame(other.history_))
    if one.threshold_report_ is None:
        assert other.threshold_report_ is None
    else:
        pd.testing.assert_frame_equal(one.threshold_report_, other.threshold_report_)


def test_a_loaded_classifier_is_the_saved_one_to_the_bit(fitted, model, shapes):
    loaded = Classifier.load(model)
    assert type(loaded) is MultiLabelImageClassifier
    assert_same(fitted, loaded, shapes.images)
    assert loaded.score(shapes.images, shapes.target) == fitted.score(shapes.images, shapes.target)


def test_a_loaded_classifier_has_the_parameters_of_the_saved_one(fitted, model):
    assert Classifier.load(model).get_params() == fitted.get_params()


@pytest.mark.parametrize(
    "parameters",
    [{"resize": "pad"}, {"normalization": "dataset"}, {"on_bad_image": "nan", "max_pixels": 5000, "decoder": "pillow"}],
    ids=str,
)
def test_how_images_are_read_is_saved(shapes, tmp_path, parameters):
    wide = shapes.images[:, 4:-4]
    classifier = create(**parameters).fit(shapes.images, shapes.target)
    classifier.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert_same(classifier, loaded, wide)
    assert loaded.get_params() == classifier.get_params()


@pytest.mark.parametrize(("pixel_cache", "expected"), [("memory", "memory"), (None, None), ("./here", "auto")])
def test_no_folder_of_this_machine_is_saved(shapes, tmp_path, monkeypatch, pixel_cache, expected):
    monkeypatch.chdir(tmp_path)
    create(pixel_cache=pixel_cache).fit(shapes.images, shapes.target).save(tmp_path / "model")
    assert Classifier.load(tmp_path / "model").pixel_cache == expected


def test_a_transform_is_not_saved_and_this_is_said(shapes, tmp_path):
    classifier = create(augment=v2.RandomHorizontalFlip()).fit(shapes.images, shapes.target)
    message = (
        "The transform in the 'augment' parameter is not saved, because it may hold code: predictions do not need it, "
        "but set it again before the loaded classifier is fitted further."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$") as caught:
        classifier.save(tmp_path / "model")
    assert caught[0].filename == __file__
    loaded = Classifier.load(tmp_path / "model")
    assert_same(classifier, loaded, shapes.images)
    assert loaded.augment == "standard"


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"loss": torch.nn.HuberLoss(reduction="none")}, "function"),
        ({"monitor": lambda y_true, proba: float(proba.mean())}, "function"),
        ({"optimizer": torch.optim.Adagrad}, "class"),
    ],
    ids=["loss", "monitor", "optimizer"],
)
def test_code_that_only_a_fit_needs_is_not_saved_and_this_is_said(shapes, tmp_path, parameters, what):
    (name,) = parameters
    saved = Classifier("small_cnn", **FAST, **parameters).fit(shapes.images, shapes.target)
    message = (
        f"The {what} in the {name!r} parameter is not saved, because it may hold code: predictions do not need it, but "
        "set it again before the loaded classifier is fitted further."
    )
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        saved.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert getattr(loaded, name) == getattr(Classifier(), name)
    assert_same(saved, loaded, shapes.images)


def test_the_second_history_and_the_rate_survive(shapes, tmp_path):
    saved = Classifier("small_cnn", refit=True, learning_rate=2e-3, **FAST).fit(shapes.images, shapes.target)
    saved.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.refit_history_ == saved.refit_history_
    assert loaded.learning_rate_ == 2e-3
    assert loaded.images_key_ == saved.images_key_


def test_the_config_is_plain_json_that_a_person_can_read(model):
    config = read_config(model)
    assert config["format"] == "multilabelkit"
    assert config["kind"] == "MultiLabelImageClassifier"
    assert config["classes"] == ["circle", "square", "triangle"]
    assert set(config["versions"]) == {"python", "multilabelkit", "torch", "timm", "scikit-learn"}
    assert config["own_backbone"] is None
    assert config["input"] == {
        "size": 32,
        "channels": 3,
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
        "resize": "squish",
    }


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"normalization": (0.5, 0.25)}, {"normalization": (0.5, 0.25)}),
        (
            {"normalization": ((0.1, 0.2, 0.3), [1, 1, 2])},
            {"normalization": ((0.1, 0.2, 0.3), (1.0, 1.0, 2.0))},
        ),
        ({"normalization": (np.full(3, 0.5), np.ones(3))}, {"normalization": ((0.5,) * 3, (1.0,) * 3)}),
        ({"thresholds": 0.3}, {"thresholds": 0.3}),
        ({"thresholds": "global"}, {"thresholds": "global"}),
        ({"thresholds": [0.1, 0.2, 0.3]}, {"thresholds": [0.1, 0.2, 0.3]}),
        ({"thresholds": np.array([0.1, 0.2, 0.3])}, {"thresholds": [0.1, 0.2, 0.3]}),
        (
            {"thresholds": {"circle": 0.1, "triangle": 0.2, "square": 0.3}},
            {"thresholds": {"circle": 0.1, "triangle": 0.2, "square": 0.3}},
        ),
        (
            {"thresholds": pd.Series({"circle": 0.1, "triangle": 0.2, "square": 0.3})},
            {"thresholds": {"circle": 0.1, "triangle": 0.2, "square": 0.3}},
        ),
        ({"classes": ("triangle", "circle", "square")}, {"classes": ["triangle", "circle", "square"]}),
        ({"classes": pd.Index(["triangle", "circle", "square"])}, {"classes": ["triangle", "circle", "square"]}),
        ({"classes": pd.Series(["triangle", "circle", "square"])}, {"classes": ["triangle", "circle", "square"]}),
        ({"pretrained": False, "head_first": False}, {"pretrained": False, "head_first": False}),
        ({"device": torch.device("cpu")}, {"device": "auto"}),
        ({"random_state": np.int64(7)}, {"random_state": 7}),
        ({"random_state": np.random.RandomState(7)}, {"random_state": None}),
        ({"random_state": None}, {"random_state": None}),
        ({"callbacks": [Callback()]}, {"callbacks": None}),
        ({"color_mode": "grey", "augment": None, "pixel_cache": None}, {"color_mode": "grey", "augment": None}),
        ({"label_sep": "|", "ema": None, "num_workers": 0}, {"label_sep": "|", "ema": None, "num_workers": 0}),
        ({"dropout": np.float32(0.5), "batch_size": np.int32(16)}, {"dropout": 0.5, "batch_size": 16}),
        ({"precision": "fp32", "learning_rate": 1e-4}, {"precision": "fp32", "learning_rate": 1e-4}),
        ({"validation_fraction": None}, {"validation_fraction": None}),
        ({"backbone_params": {}}, {"backbone_params": {}}),
        ({"trainable": {0: 0.5, 1: "all"}, "max_epochs": 2}, {"trainable": {0: 0.5, 1: "all"}}),
        ({"class_weight": {"circle": 2.0}}, {"class_weight": {"circle": 2.0}}),
        (
            {"sampler": "oversample", "sampler_params": {"frequencies": {"circle": 0.7}}},
            {"sampler_params": {"frequencies": {"circle": 0.7}}},
        ),
        ({"head": "mlp", "head_params": {"hidden": (8, 4)}}, {"head": "mlp", "head_params": {"hidden": [8, 4]}}),
        ({"head": "attention"}, {"head": "attention"}),
        (
            {"head": "ml_decoder", "head_params": {"width": 16, "n_heads": 2, "feedforward": 8}},
            {"head_params": {"width": 16, "n_heads": 2, "feedforward": 8}},
        ),
        ({"backbone_lr_factor": (0.1, 0.5)}, {"backbone_lr_factor": [0.1, 0.5]}),
        (
            {"schedule": "cosine", "schedule_params": {"warmup_epochs": 0.5}},
            {"schedule_params": {"warmup_epochs": 0.5}},
        ),
        ({"tta": "hflip", "refit": True}, {"tta": "hflip", "refit": True}),
        ({"mixup": {"mixup_alpha": 0.3}}, {"mixup": {"mixup_alpha": 0.3}}),
        ({"batch_size": None, "clip_norm": 1.0, "accumulate": 2}, {"batch_size": None, "accumulate": 2}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_every_kind_of_parameter_survives(shapes, tmp_path, parameters, expected):
    saved = Classifier("small_cnn", **{**FAST, **parameters}).fit(shapes.images, shapes.target)
    saved.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    found = loaded.get_params()
    assert {name: found[name] for name in expected} == expected
    assert_same(saved, loaded, shapes.images)
    loaded.fit(shapes.images, shapes.target)  # and the parameters are fit to be used again


def test_a_local_checkpoint_survives_as_its_path(shapes, tmp_path):
    network = timm.create_model("test_vit", num_classes=0, img_size=32)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    path = Path(tmp_path / "weights.pt")
    saved = Classifier("test_vit", pretrained=path, backbone_params={"drop_path_rate": 0.1}, **FAST)
    saved.fit(shapes.images, shapes.target).save(tmp_path / "model")
    path.unlink()  # predicting needs it no more
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.pretrained == str(path)
    assert loaded.backbone_params == {"drop_path_rate": 0.1}
    assert_same(saved, loaded, shapes.images)


@pytest.mark.parametrize("backbone", ["plain_cnn", "test_vit", "test_resnet"])
def test_other_backbones_survive(shapes, tmp_path, backbone):
    saved = Classifier(backbone, pretrained=False, **FAST).fit(shapes.images, shapes.target)
    saved.save(tmp_path / "model")
    assert_same(saved, Classifier.load(tmp_path / "model"), shapes.images)


def test_integer_classes_survive_with_a_threshold_for_each(shapes, tmp_path):
    """JSON has no integer keys."""
    thresholds = {10: 0.1, 20: 0.2, 30: 0.3}
    saved = Classifier("small_cnn", thresholds=thresholds, classes=[10, 20, 30], **FAST)
    saved.fit(shapes.images, shapes.target.to_numpy()).save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.thresholds == thresholds
    assert loaded.classes_.dtype == saved.classes_.dtype
    assert_same(saved, loaded, shapes.images)
    loaded.fit(shapes.images, shapes.target.to_numpy())


def test_odd_class_names_survive(shapes, tmp_path):
    names = ["\N{SNOWMAN} s|now", "a\tb\n", "0"]
    saved = Classifier("small_cnn", classes=names, **FAST).fit(shapes.images, shapes.target.to_numpy())
    saved.save(tmp_path / "model")
    loaded = Classifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == names
    assert_same(saved, loaded, shapes.images)


@pytest.mark.filterwarnings("ignore::multilabelkit.errors.MultiLabelKitWarning")
def test_nan_in_history_and_report_survives(shapes, tmp_path):
    """A class of which nothing is known has no F1; JSON has no NaN."""
    target = shapes.target.astype(float)
    target["square"] = np.nan
    saved = Classifier("small_cnn", **FAST).fit(shapes.images, target)
    saved.history_[0]["mine"] = float("nan")
    saved.save(tmp_path / "model")
    assert "NaN" not in (tmp_path / "model" / "config.json").read_text()
    loaded = Classifier.load(tmp_path / "model")
    assert np.isnan(loaded.threshold_report_.loc["square", "f1"])
    assert_same(saved, loaded, shapes.images)


def test_saving_over_a_model_replaces_it(fitted, model, shapes):
    other = Classifier("small_cnn", **{**FAST, "random_state": 1}).fit(shapes.images, shapes.target)
    other.save(model)
    assert_same(other, Classifier.load(model), shapes.images)


def test_saving_changes_nothing_in_the_classifier(fitted, tmp_path, shapes):
    before = fitted.decision_function(shapes.images)
    fitted.save(tmp_path / "model")
    np.testing.assert_array_equal(fitted.decision_function(shapes.images), before)


def test_a_subclass_saves_and_loads_as_itself(shapes, tmp_path):
    class Mine(MultiLabelImageClassifier):
        pass

    Mine("small_cnn", **FAST).fit(shapes.images, shapes.target).save(tmp_path / "model")
    assert type(Mine.load(tmp_path / "model")) is Mine
    message = (
        f"The model in '{tmp_path / 'model'}' is of the class 'Mine', not of "
        "MultiLabelImageClassifier. Call the load of its own class."
    )
    with pytest.raises(ModelFileError, match=whole(message)):
        MultiLabelImageClassifier.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("backbone", "attached", "name"),
    [
        (TinyNetwork(), TinyNetwork(), "TinyNetwork"),
        (TinyNetwork(), TinyNetwork, "TinyNetwork"),
        (TinyNetwork, TinyNetwork, "TinyNetwork"),
        (create_tiny, create_tiny, "create_tiny"),
        (lambda: TinyNetwork(4), create_tiny, "<lambda>"),
        (partial(TinyNetwork, width=4), TinyNetwork(), "partial"),
    ],
    ids=["module", "module, then class", "class", "function", "lambda, then function", "partial, then module"],
)
def test_an_own_network_is_attached_by_the_caller(shapes, tmp_path, backbone, attached, name):
    saved = Classifier(backbone, **FAST).fit(shapes.images, shapes.target)
    folder = tmp_path / "model"
    saved.save(folder)
    message = (
        f"The model folder '{folder}' was trained with a backbone of your own, '{name}', and holds its weights but not "
        "its code. Attach the module, class or function: MultiLabelImageClassifier.load(path, backbone=...)."
    )
    with pytest.raises(InputError, match=whole(message)):
        Classifier.load(folder)
    before = torch.get_rng_state()
    loaded = Classifier.load(folder, backbone=attached)
    assert loaded.backbone is attached
    assert_same(saved, loaded, shapes.images)
    if isinstance(attached, nn.Module):
        assert loaded.network_.backbone is not attached
        assert torch.equal(torch.get_rng_state(), before)


def test_an_attached_module_keeps_its_own_weights(shapes, tmp_path):
    Classifier(TinyNetwork, **FAST).fit(shapes.images, shapes.target).save(tmp_path / "model")
    attached = TinyNetwork()
    before = {key: value.clone() for key, value in attached.state_dict().items()}
    Classifier.load(tmp_path / "model", backbone=attached)
    assert all(torch.equal(value, before[key]) for key, value in attached.state_dict().items())


@pytest.mark.parametrize(
    ("attached", "reason"),
    [
        (
            OtherNetwork,
            "of its weights, 2 missing (first: 'backbone.more.bias').",
        ),
        (
            lambda: TinyNetwork(5),
            "of its weights, 7 of another shape or type (first: 'backbone.layers.0.bias').",
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3)),
            "of its weights, 2 missing (first: 'backbone.0.bias'), 7 unexpected (first: 'backbone.layers.0.bias').",
        ),
    ],
    ids=["more layers", "another width", "other names"],
)
def test_an_own_network_that_is_another_is_refused(shapes, tmp_path, attached, reason):
    folder = tmp_path / "model"
    Classifier(TinyNetwork, **FAST).fit(shapes.images, shapes.target).save(folder)
    start = re.escape(f"The model folder '{folder}' does not fit together: {reason}")
    end = re.escape(" Attach the very backbone it was trained with.")
    with pytest.raises(ModelFileError, match=f"^{start}.*{end}$"):
        Classifier.load(folder, backbone=attached)


def test_a_network_without_a_head_survives(shapes, tmp_path):
    def create():
        return nn.Sequential(nn.Conv2d(3, 3, 5, stride=5), nn.ReLU(), nn.Conv2d(3, 3, 3))

    saved = Classifier(create, head=None, **FAST).fit(shapes.images, shapes.target)
    saved.save(tmp_path / "model")
    assert_same(saved, Classifier.load(tmp_path / "model", backbone=create), shapes.images)


def test_a_backbone_for_a_model_that_names_its_own_is_refused(model):
    message = f"The model folder '{model}' names its backbone; load it without backbone=."
    with pytest.raises(InputError, match=whole(message)):
        Classifier.load(model, backbone=TinyNetwork)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"device": "nonsense"},
            "The 'device' parameter of MultiLabelImageClassifier must be 'auto' or the name of a torch device. "
            "Got 'nonsense' instead.",
        ),
        (
            {"backbone": 3},
            "The 'backbone' parameter of MultiLabelImageClassifier must be a name, a torch.nn.Module or a callable. "
            "Got 3 instead.",
        ),
    ],
)
def test_a_wrong_argument_of_load_is_not_blamed_on_the_folder(model, keywords, message):
    with pytest.raises(InputError, match=whole(message)):
        Classifier.load(model, **keywords)


def test_load_sets_the_device(model):
    assert Classifier.load(model, device="cpu").device == "cpu"


class _Opaque(dict):
    def __init__(self):
        super().__init__(layer=nn.ReLU)


def test_a_parameter_that_is_no_data_is_refused_and_nothing_is_written(shapes, tmp_path):
    classifier = Classifier(lambda layer: TinyNetwork(), backbone_params=_Opaque(), **FAST)
    classifier.fit(shapes.images, shapes.target)
    message = (
        "The 'backbone_params' parameter holds <class 'torch.nn.modules.activation.ReLU'>, which cannot be saved as "
        "data. Set it to numbers, strings, lists or dicts of these before saving."
    )
    with pytest.raises(InputError, match=whole(message)):
        classifier.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def drop(*keys):
    def change(config):
        node = config
        for key in keys[:-1]:
            node = node[key]
        del node[keys[-1]]

    return change


def put(value, *keys):
    def change(config):
        node = config
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(1, "parameters", "colour"), "it holds the unknown parameter 'colour'."),
        (
            put(7, "parameters", "dropout"),
            "The 'dropout' parameter of MultiLabelImageClassifier must be a number >= 0 and < 1. Got 7 instead.",
        ),
        (put("hf-hub:x/y", "parameters", "backbone"), "it holds the backbone name 'hf-hub:x/y'."),
        (put("../weights", "parameters", "backbone"), "it holds the backbone name '../weights'."),
        (put("resnet18\n", "parameters", "backbone"), r"it holds the backbone name 'resnet18\n'."),
        (
            put({"checkpoint_path": "/etc/passwd"}, "parameters", "backbone_params"),
            "backbone_params must not hold 'checkpoint_path': the classifier sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'.",
        ),
        (
            put({"pretrained_cfg": {"file": "/etc/passwd"}}, "parameters", "backbone_params"),
            "backbone_params must not hold 'pretrained_cfg': the classifier sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'.",
        ),
        (
            put({"sizes": [1, {"depth": 10**6}]}, "parameters", "backbone_params"),
            "its backbone_params hold the number 1000000.",
        ),
        (put([], "classes"), "its classes are not a list of different names."),
        (put(["a", "a", "b"], "classes"), "its classes are not a list of different names."),
        (put(["a", "b", 3], "classes"), "its classes are not a list of different names."),
        (put([True, False, 2], "classes"), "its classes are not a list of different names."),
        (put([0.5, 0.5], "thresholds"), "its thresholds are not one number in [0, 1] for each class."),
        (put([0.5, 0.5, 1.5], "thresholds"), "its thresholds are not one number in [0, 1] for each class."),
        (put([0.5, 0.5, None], "thresholds"), "its thresholds are not one number in [0, 1] for each class."),
        (put(10**9, "input", "size"), "its input has the size 1000000000."),
        (put(32.0, "input", "size"), "its input has the size 32.0."),
        (put(1, "input", "channels"), "its input has 1 channels, its color_mode 'rgb'."),
        (put([0.0], "input", "mean"), "its input has not one mean and one std > 0 for each channel."),
        (put("/somewhere", "parameters", "pixel_cache"), "it names the folder '/somewhere'."),
        (put(10**15, "parameters", "max_pixels"), "its max_pixels is 1000000000000000."),
        (put([0.0, 1.0, 1.0], "input", "std"), "its input has not one mean and one std > 0 for each channel."),
        (
            put(300, "input", "size"),
            "its backbone is far larger than its weights.",
        ),
        (
            put(["a", "b", "c", "d"], "classes"),
            "its thresholds are not one number in [0, 1] for each class.",
        ),
        (drop("thresholds"), "KeyError \"'thresholds'\"."),
        (drop("parameters", "backbone"), "KeyError \"'backbone'\"."),
        (put(None, "parameters"), "TypeError \"'NoneType' object is not iterable\"."),
    ],
)
def test_a_config_that_does_not_fit_is_refused(model, change, reason):
    change_config(model, change)
    message = f"The model folder '{model}' does not fit together: {reason} Save it again."
    with pytest.raises(ModelFileError, match=whole(message)):
        Classifier.load(model)


def test_every_name_that_timm_has_may_stand_in_a_config():
    names = {*timm.list_models(), *timm.list_models(pretrained=True)}
    assert [name for name in names if not _BACKBONE_NAME.fullmatch(name)] == []


def test_a_parameter_that_a_file_does_not_know_yet_takes_its_default(model):
    """A model of an older version goes on working when the classifier learns more."""
    change_config(model, drop("parameters", "ema"))
    assert Classifier.load(model).ema == Classifier().ema


def test_loading_leaves_the_random_numbers_of_the_caller_as_they_were(model):
    before = torch.get_rng_state()
    Classifier.load(model)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_model_can_be_trained_further(fitted, model, shapes):
    """As if it had never been saved: the further training of the one in memory gives the same to the bit."""
    loaded = Classifier.load(model).set_params(warm_start=True, max_epochs=2)
    first, before = list(loaded.history_), loaded.decision_function(shapes.images)
    loaded.fit(shapes.images, shapes.target)
    assert loaded.history_[: len(first)] == first
    assert len(loaded.history_) == len(first) + 2
    assert not np.array_equal(loaded.decision_function(shapes.images), before)
    straight = copy.deepcopy(fitted).set_params(warm_start=True, max_epochs=2).fit(shapes.images, shapes.target)
    np.testing.assert_array_equal(loaded.decision_function(shapes.images), straight.decision_function(shapes.images))
    loaded.save(model)
    assert_same(loaded, Classifier.load(model), shapes.images)


def test_a_fitted_classifier_survives_pickling(fitted, shapes):
    assert_same(fitted, pickle.loads(pickle.dumps(fitted)), shapes.images)


def test_an_unfitted_classifier_cannot_be_saved(tmp_path):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError, match=r"^This MultiLabelImageClassifier instance is not fitted yet"):
        Classifier("small_cnn").save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
