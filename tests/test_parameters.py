import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from multilabelkit import parameters
from multilabelkit.classifier import MultiLabelImageClassifier
from multilabelkit.errors import InputError
from multilabelkit.parameters import BaseImageClassifier, check_classifier
from multilabelkit.thresholds import OBJECTIVES
from multilabelkit.training import Callback

THRESHOLDS = f"{', '.join(map(repr, OBJECTIVES[:-1]))} or 'prior', or a number, one per class, a dict by class"


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize(
    ("parameters", "must", "got"),
    [
        ({"backbone": 50}, "a name, a torch.nn.Module or a callable", "50"),
        ({"image_size": 0}, "an integer >= 1, or None", "0"),
        ({"image_size": 32.0}, "an integer >= 1, or None", "32.0"),
        ({"color_mode": "gray"}, "'rgb' or 'grey'", "'gray'"),
        (
            {"normalization": "imagenet"},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            "'imagenet'",
        ),
        ({"normalization": "01"}, "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0", "'01'"),
        (
            {"normalization": (0.5, 0)},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            "(0.5, 0)",
        ),
        (
            {"normalization": (0.5, (1, 1, 1))},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            None,
        ),
        (
            {"normalization": ((0, 0), (1, 1))},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            None,
        ),
        (
            {"normalization": (float("nan"), 1)},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            None,
        ),
        (
            {"normalization": {0.5: 0, 0.25: 0}},
            "'pretrained', 'unit' or 'dataset', or a pair (mean, std) with std > 0",
            None,
        ),
        ({"resize": "stretch"}, "'squish', 'pad' or 'crop'", "'stretch'"),
        ({"augment": True}, "'light', 'standard', 'strong' or None, or a torchvision transform", "True"),
        ({"augment": dict}, "'light', 'standard', 'strong' or None, or a torchvision transform", "<class 'dict'>"),
        ({"on_bad_image": "ignore"}, "'raise', 'skip' or 'nan'", "'ignore'"),
        ({"max_pixels": 0}, "an integer >= 1", "0"),
        ({"max_pixels": None}, "an integer >= 1", "None"),
        ({"decoder": "turbo"}, "'auto' or 'pillow'", "'turbo'"),
        ({"pixel_cache": "disk"}, "'auto', 'memory' or None, or the path of a folder, such as './pixels'", "'disk'"),
        (
            {"pixel_cache": "s3://b/pixels"},
            "'auto', 'memory' or None, or the path of a folder, such as './pixels'",
            "'s3://b/pixels'",
        ),
        ({"pixel_cache": True}, "'auto', 'memory' or None, or the path of a folder, such as './pixels'", "True"),
        ({"label_sep": ""}, "None or a string of at least one letter", "''"),
        ({"pretrained": None}, "True or False, or a path", "None"),
        ({"pretrained": 1}, "True or False, or a path", "1"),
        ({"backbone_params": [("a", 1)]}, "None or a dict", "[('a', 1)]"),
        ({"head": "mpl"}, "'linear', 'mlp', 'attention', 'ml_decoder' or None", "'mpl'"),
        ({"head_params": 3}, "None or a dict", "3"),
        ({"missing_labels": "drop"}, "'ignore' or 'negative'", "'drop'"),
        (
            {"feature_cache": "disk"},
            "'auto', 'memory' or None, or the path of a folder, such as './features'",
            "'disk'",
        ),
        ({"trainable": "none"}, "'head' or 'all', or a share of the layers, or a dict of these by epoch", "'none'"),
        ({"loss_params": []}, "None or a dict", "[]"),
        ({"class_weight": "equal"}, "'balanced' or None, or a dict by class, one number per class", "'equal'"),
        ({"sampler": "rare"}, "'repeat_factor', 'oversample' or None", "'rare'"),
        ({"clip_norm": 0}, "a number > 0, or None", "0"),
        ({"accumulate": 0}, "an integer >= 1", "0"),
        ({"patience": 0}, "an integer >= 1, or None", "0"),
        ({"refit": 1}, "True or False", "1"),
        ({"tta": "vflip"}, "'hflip' or None", "'vflip'"),
        ({"dropout": 1}, "a number >= 0 and < 1", "1"),
        ({"head_first": "yes"}, "True or False", "'yes'"),
        ({"learning_rate": 0}, "a number > 0, or 'auto'", "0"),
        ({"backbone_lr_factor": -1}, "a number > 0, or a pair (stem, body) > 0", "-1"),
        ({"backbone_lr_factor": (1, 0)}, "a number > 0, or a pair (stem, body) > 0", "(1, 0)"),
        ({"weight_decay": -0.1}, "a number >= 0", "-0.1"),
        ({"max_epochs": 0}, "an integer >= 1", "0"),
        ({"batch_size": 0.5}, "an integer >= 1, or None", "0.5"),
        ({"ema": 1.0}, "a number >= 0 and < 1, or None", "1.0"),
        ({"warm_start": None}, "True or False", "None"),
        ({"validation_fraction": 0}, "a number > 0 and < 1, or None", "0"),
        ({"validation_fraction": 1}, "a number > 0 and < 1, or None", "1"),
        ({"thresholds": "f3"}, THRESHOLDS, "'f3'"),
        ({"thresholds": None}, THRESHOLDS, "None"),
        ({"device": "gpu"}, "'auto' or the name of a torch device", "'gpu'"),
        ({"device": None}, "'auto' or the name of a torch device", "None"),
        ({"precision": "fp8"}, "'auto', 'bf16', 'fp16' or 'fp32'", "'fp8'"),
        ({"num_workers": -1}, "an integer >= 0, or None", "-1"),
        ({"random_state": -1}, "an integer >= 0 and <= 4294967295, or None, or a numpy RandomState", "-1"),
        ({"verbose": None}, "an integer >= 0, or True or False", "None"),
        ({"callbacks": Callback()}, "None or a list of multilabelkit.training.Callback", None),
        ({"callbacks": [Callback]}, "None or a list of multilabelkit.training.Callback", None),
    ],
    ids=lambda value: "-".join(f"{k}={str(v)[:20]}" for k, v in value.items()) if isinstance(value, dict) else None,
)
def test_a_wrong_parameter_is_named_before_anything_else_happens(parameters, must, got):
    (name, value), *_ = parameters.items()
    got = repr(value) if got is None else got
    message = f"The {name!r} parameter of MultiLabelImageClassifier must be {must}. Got {got} instead."
    with pytest.raises(InputError, match=whole(message)):
        MultiLabelImageClassifier(**parameters).fit(None, None)


def test_every_parameter_but_the_classes_is_in_the_table():
    """The classes are checked with the labels, the others where they are turned into what does the work."""
    elsewhere = {"classes", "loss", "monitor", "optimizer", "schedule"}
    assert set(inspect.signature(BaseImageClassifier).parameters) - elsewhere == set(parameters._PARAMETERS)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"backbone": nn.Identity(), "head": None},
        {"backbone": nn.Identity},
        {"normalization": (0.5, 0.5)},
        {"normalization": [[0.5], [0.5]]},
        {"normalization": np.array([[0.5, 0.4, 0.3], [1, 1, 1]])},
        {"thresholds": [0.1, 0.2]},
        {"thresholds": {"a": 0.5}},
        {"augment": np.str_("light")},
        {"augment": v2.RandomHorizontalFlip()},
        {"pixel_cache": "./pixels"},
        {"pixel_cache": Path("pixels")},
        {"device": "cuda:1"},
        {"device": torch.device("cpu")},
        {"random_state": np.random.RandomState(0)},
        {"callbacks": ()},
        {"max_epochs": np.int64(3), "learning_rate": np.float32(0.1)},
    ],
    ids=str,
)
def test_rightful_parameters_pass(parameters):
    check_classifier(MultiLabelImageClassifier(**parameters))


def test_init_only_assigns():
    """clone() and grid search need a constructor that neither checks nor changes anything."""
    values = {name: object() for name in inspect.signature(BaseImageClassifier).parameters}
    classifier = BaseImageClassifier(**values)
    assert vars(classifier) == values


@pytest.mark.parametrize(
    "name",
    [
        "cache_dir",
        "checkpoint_path",
        "in_chans",
        "model_name",
        "num_classes",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
    ],
)
def test_reserved_keywords_of_timm_are_refused(name):
    message = (
        f"backbone_params must not hold '{name}': the classifier sets it. Weights are chosen with the 'pretrained' "
        "parameter, and channels with 'color_mode'."
    )
    with pytest.raises(InputError, match=whole(message)):
        check_classifier(MultiLabelImageClassifier(backbone_params={"drop_rate": 0.1, name: 1}))
