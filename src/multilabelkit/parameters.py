"""The parameters of every image classifier: the one long signature, and what each may be."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import MultiLabelBinarizer
from torch import nn

from multilabelkit.checks import RANDOM_STATE, Check, Choice, Constraint, Interval, check_parameters, shorten
from multilabelkit.data.images import COLOR_MODES, MAX_PIXELS, InputSpec
from multilabelkit.data.transforms import AUGMENTATIONS, RESIZES
from multilabelkit.errors import InputError
from multilabelkit.nn.network import NORMALIZATIONS, Network
from multilabelkit.thresholds import OBJECTIVES
from multilabelkit.training.callbacks import Callback


def _is_two_vectors(value: Any) -> bool:
    """Tell whether a value is (mean, std): two numbers, or two sequences of one or three numbers."""
    if isinstance(value, (str, Mapping)):
        return False
    try:
        mean, std = (np.atleast_1d(np.asarray(part, dtype=float)) for part in value)
    except (TypeError, ValueError):
        return False
    return mean.shape in ((1,), (3,)) and mean.shape == std.shape and bool(np.isfinite(mean).all() and (std > 0).all())


def _is_transform(value: Any) -> bool:
    """Tell whether a value is a transform, and not the class of one."""
    return callable(value) and not isinstance(value, type)


def _is_folder(value: Any) -> bool:
    """Tell whether a value names a folder here, rather than a place elsewhere or a misspelt option."""
    if isinstance(value, str):
        return any(mark in value for mark in "/\\.") and "://" not in value
    return isinstance(value, os.PathLike)


def _is_device(value: Any) -> bool:
    try:
        torch.device(value)
    except (TypeError, RuntimeError):
        return isinstance(value, str) and value == "auto"
    return True


# What each parameter may be. What another part must check anyway, before training starts, is checked there: classes by
# encode_labels, the name of the backbone by timm's list, numbers as thresholds by fix_thresholds.
_PARAMETERS: dict[str, list[Constraint]] = {
    "backbone": [
        Check(lambda v: isinstance(v, (str, nn.Module)) or callable(v), "a name, a torch.nn.Module or a callable")
    ],
    "image_size": [Interval(int, 1), Choice((None,))],
    "color_mode": [Choice(tuple(COLOR_MODES))],
    "resize": [Choice(RESIZES)],
    "normalization": [
        Choice(("pretrained", *NORMALIZATIONS, "dataset")),
        Check(_is_two_vectors, "a pair (mean, std) with std > 0"),
    ],
    "augment": [Choice((*AUGMENTATIONS, None)), Check(_is_transform, "a torchvision transform")],
    "on_bad_image": [Choice(("raise", "skip", "nan"))],
    "max_pixels": [Interval(int, 1)],
    "decoder": [Choice(("auto", "pillow"))],
    "pixel_cache": [
        Choice(("auto", "memory", None)),
        Check(_is_folder, "the path of a folder, such as './pixels'"),
    ],
    "label_sep": [
        Check(lambda v: v is None or (isinstance(v, str) and v != ""), "None or a string of at least one letter")
    ],
    "pretrained": [Choice((True, False)), Check(lambda v: isinstance(v, (str, os.PathLike)), "a path")],
    "backbone_params": [Check(lambda v: v is None or isinstance(v, Mapping), "None or a dict")],
    "head": [Choice(("linear", None))],
    "dropout": [Interval(float, 0, 1, open_high=True)],
    "head_first": [Choice((True, False))],
    "learning_rate": [Interval(float, 0, open_low=True)],
    "backbone_lr_factor": [Interval(float, 0, open_low=True)],
    "weight_decay": [Interval(float, 0)],
    "max_epochs": [Interval(int, 1)],
    "batch_size": [Interval(int, 1)],
    "ema": [Interval(float, 0, 1, open_high=True), Choice((None,))],
    "warm_start": [Choice((True, False))],
    "validation_fraction": [Interval(float, 0, 1, open_low=True, open_high=True), Choice((None,))],
    "thresholds": [
        Choice(OBJECTIVES),
        Check(lambda v: v is not None and not isinstance(v, (str, bool)), "a number, one per class, a dict by class"),
    ],
    "device": [Check(_is_device, "'auto' or the name of a torch device")],
    "precision": [Choice(("auto", "bf16", "fp32"))],
    "num_workers": [Interval(int, 0), Choice((None,))],
    "random_state": RANDOM_STATE,
    "verbose": [Interval(int, 0), Choice((True, False))],
    "callbacks": [
        Check(
            lambda v: v is None or (isinstance(v, (list, tuple)) and all(isinstance(c, Callback) for c in v)),
            "None or a list of multilabelkit.training.Callback",
        )
    ],
}

# Keywords of timm that would read files or the network; a parameter of ours, or nothing, stands for each of them.
_RESERVED_PARAMS = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
_RESERVED_PARAMS |= {"num_classes", "in_chans", "model_name"}


# Parameters that shape the network: a fitted one keeps those it was made with, whatever is set afterwards.
_NETWORK_PARAMS = ("backbone", "backbone_params", "head", "image_size", "color_mode", "resize", "normalization")


# Parameters that say how images are read, also for prediction.
_READING_PARAMS = ("on_bad_image", "max_pixels", "decoder", "batch_size", "num_workers")


class BaseImageClassifier(BaseEstimator):
    """The parameters of every image classifier; see MultiLabelImageClassifier for what they mean."""

    classes_: np.ndarray
    label_binarizer_: MultiLabelBinarizer
    thresholds_: np.ndarray
    threshold_report_: pd.DataFrame | None
    history_: list[dict[str, Any]]
    network_: Network
    network_params_: dict[str, Any]
    input_spec_: InputSpec
    split_seed_: int

    def __init__(
        self,
        backbone: str | nn.Module | Callable[..., nn.Module] = "resnet50",
        *,
        image_size: int | None = None,
        color_mode: str = "rgb",
        resize: str = "squish",
        normalization: str | tuple = "pretrained",
        augment: str | Callable[[Any], Any] | None = "standard",
        on_bad_image: str = "raise",
        max_pixels: int = MAX_PIXELS,
        decoder: str = "auto",
        pixel_cache: str | os.PathLike | None = "auto",
        classes: Sequence | None = None,
        label_sep: str | None = None,
        pretrained: bool | str | os.PathLike = True,
        backbone_params: Mapping[str, Any] | None = None,
        head: str | None = "linear",
        dropout: float = 0.2,
        head_first: bool = True,
        learning_rate: float = 1e-3,
        backbone_lr_factor: float = 0.5,
        weight_decay: float = 0.05,
        max_epochs: int = 12,
        batch_size: int = 32,
        ema: float | None = 0.99,
        warm_start: bool = False,
        validation_fraction: float | None = 0.15,
        thresholds: Any = "f1",
        device: str | torch.device = "auto",
        precision: str = "auto",
        num_workers: int | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 1,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        self.backbone = backbone
        self.image_size = image_size
        self.color_mode = color_mode
        self.resize = resize
        self.normalization = normalization
        self.augment = augment
        self.on_bad_image = on_bad_image
        self.max_pixels = max_pixels
        self.decoder = decoder
        self.pixel_cache = pixel_cache
        self.classes = classes
        self.label_sep = label_sep
        self.pretrained = pretrained
        self.backbone_params = backbone_params
        self.head = head
        self.dropout = dropout
        self.head_first = head_first
        self.learning_rate = learning_rate
        self.backbone_lr_factor = backbone_lr_factor
        self.weight_decay = weight_decay
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.ema = ema
        self.warm_start = warm_start
        self.validation_fraction = validation_fraction
        self.thresholds = thresholds
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks


def check_classifier(classifier: BaseImageClassifier) -> None:
    """Refuse parameters that cannot work, before anything else happens."""
    owner = type(classifier).__name__
    check_parameters(owner, classifier.get_params(deep=False), _PARAMETERS)
    if isinstance(classifier.backbone, str):
        check_backbone_params(classifier.backbone_params or {})


def check_reading(classifier: BaseImageClassifier) -> None:
    """Refuse parameters with which images cannot be read; they may have been set after the fit."""
    table = {name: _PARAMETERS[name] for name in _READING_PARAMS}
    check_parameters(type(classifier).__name__, {name: getattr(classifier, name) for name in table}, table)


def check_backbone_params(params: Mapping[str, Any]) -> None:
    """Refuse keywords of timm that read files or stand for a parameter of ours."""
    reserved = sorted(_RESERVED_PARAMS & set(params))
    if reserved:
        raise InputError(
            f"backbone_params must not hold {reserved[0]!r}: the classifier sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'."
        )


def describe_network(classifier: BaseImageClassifier) -> dict[str, Any]:
    """Return the parameters that shape the network."""
    values = {name: getattr(classifier, name) for name in _NETWORK_PARAMS}
    return {name: value if name == "backbone" else copy.copy(value) for name, value in values.items()}


def check_same_network(classifier: BaseImageClassifier) -> None:
    """Refuse to go on with a network that the present parameters would not make."""
    for name, fitted in classifier.network_params_.items():
        value = getattr(classifier, name)
        if value is not fitted and not np.array_equal(np.array(value, dtype=object), np.array(fitted, dtype=object)):
            raise InputError(
                f"With warm_start=True a fit goes on with the fitted network, so the {name!r} parameter must stay "
                f"{shorten(fitted)}. Got {shorten(value)}; set it back, or set warm_start=False to start anew."
            )
