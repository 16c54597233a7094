"""What image classifiers share: the parameters, and the steps of fit and predict as functions."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils import check_random_state
from torch import nn

from multilabelkit.checks import RANDOM_STATE, Check, Choice, Constraint, Interval, check_parameters, shorten
from multilabelkit.data.images import (
    COLOR_MODES,
    InputSpec,
    check_decodable,
    check_files_exist,
    check_images,
)
from multilabelkit.data.labels import encode_labels
from multilabelkit.data.loading import PixelReader, count_workers, iterate_evaluation
from multilabelkit.data.transforms import AUGMENTATIONS, CROP_MARGIN
from multilabelkit.errors import ImageDecodeError, InputError, MultiLabelKitWarning
from multilabelkit.inference import choose_device, choose_dtype, predict_logits
from multilabelkit.nn.backbones import OWN_BACKBONES
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import NORMALIZATIONS, Network, create_network
from multilabelkit.stratification import split_rows
from multilabelkit.thresholds import OBJECTIVES, join_first
from multilabelkit.training.callbacks import Callback, Progress, announce
from multilabelkit.training.head_first import start_head
from multilabelkit.training.loop import LabelledImages, TrainingSettings, TrainState, train_network


def _is_two_vectors(value: Any) -> bool:
    """Tell whether a value is (mean, std): two numbers, or two sequences of one or three numbers."""
    if isinstance(value, (str, Mapping)):
        return False
    try:
        mean, std = (np.atleast_1d(np.asarray(part, dtype=float)) for part in value)
    except (TypeError, ValueError):
        return False
    return mean.shape in ((1,), (3,)) and mean.shape == std.shape and bool(np.isfinite(mean).all() and (std > 0).all())


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
    "normalization": [
        Choice(("pretrained", *NORMALIZATIONS)),
        Check(_is_two_vectors, "a pair (mean, std) with std > 0"),
    ],
    "augment": [Choice((*AUGMENTATIONS, None))],
    "pixel_cache": [Choice(("memory", None))],
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
_NETWORK_PARAMS = ("backbone", "backbone_params", "head", "image_size", "color_mode", "normalization")


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
        normalization: str | tuple = "pretrained",
        augment: str | None = "standard",
        pixel_cache: str | None = "memory",
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
        self.normalization = normalization
        self.augment = augment
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


def warn_of_empty_classes(targets: np.ndarray, classes: np.ndarray) -> None:
    """Warn once of classes that no image is known to have: nothing about them can be learnt."""
    empty = [repr(name) for name, column in zip(classes.tolist(), targets.T, strict=True) if not (column == 1).any()]
    if empty:
        warnings.warn(
            f"No image in y is known to have {len(empty)} of {len(classes)} classes: {join_first(empty)}.",
            MultiLabelKitWarning,
            stacklevel=3,
        )


def check_groups(groups: Any, n_samples: int) -> None:
    """Refuse groups that do not name one group for each image."""
    if groups is not None and len(groups) != n_samples:
        raise InputError(f"groups must name one group for each of {n_samples} images in X. Got {len(groups)}.")


def check_same_length(sources: Sequence[Any], targets: np.ndarray) -> None:
    """Refuse X and y of different length."""
    if len(sources) != len(targets):
        raise InputError(f"X and y must have the same length. Got {len(sources)} images and labels for {len(targets)}.")


def check_validation_data(
    classifier: BaseImageClassifier, validation_data: Any, *, classes: np.ndarray
) -> tuple[list[Any], np.ndarray]:
    """Return the sources and targets of a pair (X, y), whose complaints say that they are about this pair."""
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise InputError(f"validation_data must be a pair (X, y). Got {shorten(validation_data)} instead.")
    X, y = validation_data
    try:
        sources = check_images(X)
        targets, _ = encode_labels(y, classes=classes, label_sep=classifier.label_sep)
        check_same_length(sources, targets)
    except InputError as error:
        raise InputError(f"In validation_data: {error}") from error
    check_sources(classifier, sources, where="validation_data")
    return sources, targets


def draw_seed(random_state: Any) -> int:
    """Draw one number from `random_state`; everything random in a fit follows from it."""
    return int(check_random_state(random_state).randint(2**31 - 1))


def choose_validation_rows(
    targets: np.ndarray, *, fraction: float, groups: Any, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows in train and validation, each with its share of every label."""
    n_valid = max(1, round(len(targets) * fraction))
    if n_valid >= len(targets):
        raise InputError(
            f"{len(targets)} image(s) are too few to set a validation part of {fraction:g} aside; "
            "pass more images, validation_data=(X, y), or validation_fraction=None."
        )
    part = split_rows(targets, sizes=[len(targets) - n_valid, n_valid], groups=groups, random_state=seed)
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1)


def start_network(classifier: BaseImageClassifier, *, n_classes: int) -> tuple[Network, InputSpec]:
    """Create the network that a fit trains: the fitted one with warm_start, else a new one; never the caller's own."""
    if classifier.warm_start and hasattr(classifier, "network_"):
        network = copy.deepcopy(classifier.network_)  # if fit fails, the fitted one is as it was
        if isinstance(network.head, LinearHead):
            network.head.dropout.p = classifier.dropout
        return network, classifier.input_spec_
    backbone = classifier.backbone
    return create_network(
        copy.deepcopy(backbone) if isinstance(backbone, nn.Module) else backbone,
        n_classes=n_classes,
        in_chans=COLOR_MODES[classifier.color_mode],
        image_size=classifier.image_size,
        normalization=classifier.normalization,
        head=classifier.head,
        dropout=classifier.dropout,
        pretrained=classifier.pretrained,
        backbone_params=classifier.backbone_params or {},
    )


def has_learnt_features(classifier: BaseImageClassifier) -> bool:
    """Tell whether a new network starts from features worth fitting a head on."""
    if isinstance(classifier.backbone, str) and classifier.backbone in OWN_BACKBONES:
        return not isinstance(classifier.pretrained, bool)
    return classifier.pretrained is not False


def fit_network(
    classifier: BaseImageClassifier,
    network: Network,
    spec: InputSpec,
    train: tuple[Sequence[Any], np.ndarray, np.ndarray | None],
    valid: tuple[Sequence[Any], np.ndarray] | None,
    *,
    seed: int,
    is_new: bool,
) -> tuple[TrainState, np.ndarray | None]:
    """Train a network in place: the head first, then all of it.

    Parameters
    ----------
    classifier : BaseImageClassifier
        Where the settings stand.
    network, spec : Network, InputSpec
    train : (sources, targets, sample_weight)
    valid : (sources, targets) or None
    seed : int
    is_new : bool
        False to go on with a trained network: its head is kept.

    Returns
    -------
    state : TrainState
    valid_logits : ndarray of shape (n_valid, n_classes), or None
        Of the trained network.
    """
    augmentation = AUGMENTATIONS[classifier.augment] if classifier.augment else None
    device = choose_device(classifier.device)
    dtype = choose_network_dtype(classifier, network, device)
    settings = TrainingSettings(
        max_epochs=classifier.max_epochs,
        batch_size=classifier.batch_size,
        learning_rate=classifier.learning_rate,
        backbone_lr_factor=classifier.backbone_lr_factor,
        weight_decay=classifier.weight_decay,
        ema=classifier.ema,
        augmentation=augmentation,
        device=device,
        dtype=dtype,
        num_workers=count_workers(classifier.num_workers),
        seed=seed,
        first_epoch=0 if is_new else len(classifier.history_),
    )
    network.to(device).to(memory_format=torch.channels_last)
    sources, targets, weight = train
    # Where nothing is cropped, images are kept at the very size the network sees.
    size = round(spec.size * CROP_MARGIN) if augmentation else spec.size
    cache, reserved = classifier.pixel_cache is not None, 0
    valid_images = None
    if valid is not None:
        reader = PixelReader(valid[0], size=spec.size, color_mode=spec.color_mode, cache=cache)
        # A broken image must show now and not after the first epoch; the cache keeps the others.
        check_decodable(range(len(valid[0])), reader.read, num_workers=settings.num_workers)
        valid_images, reserved = LabelledImages(reader, valid[1]), reader.cache_bytes
    reader = PixelReader(sources, size=size, color_mode=spec.color_mode, cache=cache, reserved_bytes=reserved)
    train_images = LabelledImages(reader, targets, weight)
    if is_new and isinstance(network.head, LinearHead):
        learn = classifier.head_first and has_learnt_features(classifier)
        if learn and classifier.verbose:
            announce(f"fitting the head on features of {len(sources)} images")
        start_head(network, spec, train_images, settings=settings, learn=learn)
    callbacks = [*(classifier.callbacks or ()), *([Progress()] if classifier.verbose else [])]
    state = train_network(network, train_images, valid_images, spec=spec, settings=settings, callbacks=callbacks)
    if valid_images is None:
        return state, None
    batches = iterate_evaluation(valid_images.reader, batch_size=settings.batch_size, num_workers=settings.num_workers)
    return state, predict_logits(network, batches, spec=spec, device=device, dtype=dtype)


def choose_network_dtype(classifier: BaseImageClassifier, network: Network, device: torch.device) -> torch.dtype:
    """Choose what a network computes in; one that gives the logits itself is left in fp32 unless bf16 is asked for."""
    by_default = "fp32" if network.head is None else "auto"
    return choose_dtype(by_default if classifier.precision == "auto" else classifier.precision, device)


def compute_logits(classifier: BaseImageClassifier, X: Any) -> np.ndarray:
    """Run the fitted network over images and return the logits (n_samples, n_classes) float32."""
    sources = check_images(X)
    spec, device = classifier.input_spec_, choose_device(classifier.device)
    reader = PixelReader(sources, size=spec.size, color_mode=spec.color_mode, cache=False)
    num_workers = count_workers(classifier.num_workers)
    network = classifier.network_.to(device)
    batches = iterate_evaluation(reader, batch_size=classifier.batch_size, num_workers=num_workers)
    try:
        dtype = choose_network_dtype(classifier, network, device)
        return predict_logits(network, batches, spec=spec, device=device, dtype=dtype)
    except ImageDecodeError:
        list_bad_images(classifier, sources)
        raise


def check_sources(classifier: BaseImageClassifier, sources: Sequence[Any], *, where: str = "X") -> None:
    """Refuse files that are not there, before any work; the error also lists those that cannot be decoded."""
    try:
        check_files_exist(sources, where=where)
    except ImageDecodeError:
        list_bad_images(classifier, sources, where=where)
        raise


def list_bad_images(classifier: BaseImageClassifier, sources: Sequence[Any], *, where: str = "X") -> None:
    """After one image has failed, look at all of them and raise the error that lists every bad one."""
    reader = PixelReader(sources, size=1, color_mode=classifier.color_mode, cache=False)
    check_decodable(sources, reader.decode, num_workers=count_workers(classifier.num_workers), where=where)
