"""The parameters of every image classifier: the one long signature, and what each may be."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator
from sklearn.preprocessing import MultiLabelBinarizer
from torch import nn

from multilabelkit.calibration import METHODS, Calibrator
from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, shorten
from multilabelkit.data.images import MAX_PIXELS, InputSpec
from multilabelkit.data.mixing import MIXUP, create_mixing
from multilabelkit.data.transforms import AUGMENTATIONS
from multilabelkit.errors import InputError
from multilabelkit.inference import choose_device
from multilabelkit.nn.freezing import check_trainable
from multilabelkit.nn.heads import HEADS, check_head_params
from multilabelkit.nn.losses import Loss, create_loss
from multilabelkit.nn.network import NORMALIZATIONS, Network
from multilabelkit.reading import IMAGE_PARAMETERS, MAPPING, VECTORS, check_backbone_params, is_folder
from multilabelkit.rules import DecisionRules
from multilabelkit.thresholds import OBJECTIVES
from multilabelkit.training.callbacks import Callback
from multilabelkit.training.evaluation import Task
from multilabelkit.training.optim import check_optimizer, check_schedule
from multilabelkit.training.sklearn_callbacks import CallbackSupportMixin


def _is_transform(value: Any) -> bool:
    """Tell whether a value is a transform, and not the class of one."""
    return callable(value) and not isinstance(value, type)


def _is_pair_of_factors(value: Any) -> bool:
    """Tell whether a value is (stem, body), two numbers > 0."""
    factor = Interval(float, 0, open_low=True)
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(factor.accepts, value))


# What each parameter may be. What another part must check anyway, before training starts, is checked there: classes by
# encode_labels, numbers as thresholds by fix_thresholds, the loss by create_loss, the optimiser and the schedule by
# their own checks.
_PARAMETERS: dict[str, list[Constraint]] = {
    **IMAGE_PARAMETERS,
    "normalization": [Choice(("pretrained", *NORMALIZATIONS, "dataset")), VECTORS],
    "augment": [Choice((*AUGMENTATIONS, None)), Check(_is_transform, "a torchvision transform")],
    "on_bad_image": [Choice(("raise", "skip", "nan"))],
    "pixel_cache": [
        Choice(("auto", "memory", None)),
        Check(is_folder, "the path of a folder, such as './pixels'"),
    ],
    "label_sep": [
        Check(lambda v: v is None or (isinstance(v, str) and v != ""), "None or a string of at least one letter")
    ],
    "missing_labels": [Choice(("ignore", "negative"))],
    "head": [Choice((*HEADS, None))],
    "head_params": [MAPPING],
    "dropout": [Interval(float, 0, 1, open_high=True)],
    "mixup": MIXUP,
    "trainable": [
        Choice(("head", "all")),
        Check(lambda v: isinstance(v, (int, float, Mapping)), "a share of the layers, or a dict of these by epoch"),
    ],
    "head_first": [Choice((True, False))],
    "loss_params": [MAPPING],
    "class_weight": [
        Choice(("balanced", None)),
        Check(lambda v: v is not None and not isinstance(v, (str, bool)), "a dict by class, one number per class"),
    ],
    "sampler": [Choice(("repeat_factor", "oversample", None))],
    "sampler_params": [MAPPING],
    "optimizer_params": [MAPPING],
    "learning_rate": [Interval(float, 0, open_low=True), Choice(("auto",))],
    "backbone_lr_factor": [Interval(float, 0, open_low=True), Check(_is_pair_of_factors, "a pair (stem, body) > 0")],
    "weight_decay": [Interval(float, 0)],
    "schedule_params": [MAPPING],
    "clip_norm": [Interval(float, 0, open_low=True), Choice((None,))],
    "max_epochs": [Interval(int, 1)],
    "batch_size": [Interval(int, 1), Choice((None,))],
    "accumulate": [Interval(int, 1)],
    "ema": [Interval(float, 0, 1, open_high=True), Choice((None,))],
    "start_share": [Choice(("auto",)), Interval(float, 0, 1, open_high=True)],
    "warm_start": [Choice((True, False))],
    "validation_fraction": [Interval(float, 0, 1, open_low=True, open_high=True), Choice((None,))],
    "patience": [Interval(int, 1), Choice((None,))],
    "thresholds": [
        Choice(OBJECTIVES),
        Check(lambda v: v is not None and not isinstance(v, (str, bool)), "a number, one per class, a dict by class"),
    ],
    "threshold_params": [MAPPING],
    "threshold_cv": [Interval(int, 2), Choice((None,))],
    "calibration": [Choice((*METHODS, None))],
    "rules": [MAPPING],
    "refit": [Choice((True, False))],
    "tta": [Choice(("hflip", None))],
    "verbose": [Interval(int, 0), Choice((True, False))],
    "callbacks": [
        Check(
            lambda v: v is None or (isinstance(v, (list, tuple)) and all(isinstance(c, Callback) for c in v)),
            "None or a list of multilabelkit.training.Callback",
        )
    ],
}

# Parameters that shape the network: a fitted one keeps those it was made with, whatever is set afterwards.
_NETWORK_PARAMS = (
    "backbone",
    "backbone_params",
    "head",
    "head_params",
    "image_size",
    "color_mode",
    "resize",
    "normalization",
)


# Parameters that say how images are read, also for prediction.
_READING_PARAMS = ("on_bad_image", "max_pixels", "decoder", "batch_size", "tta", "num_workers")


class BaseImageClassifier(CallbackSupportMixin, BaseEstimator):
    """The parameters of every image classifier; see MultiLabelImageClassifier for what they mean."""

    _task: ClassVar[Task]

    classes_: np.ndarray
    label_binarizer_: MultiLabelBinarizer
    thresholds_: np.ndarray
    threshold_report_: pd.DataFrame | None
    calibrator_: Calibrator | None
    rules_: DecisionRules
    history_: list[dict[str, Any]]
    refit_history_: list[dict[str, Any]]
    learning_rate_: float
    images_key_: str
    validation_rows_: np.ndarray | None
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
        feature_cache: str | os.PathLike | None = "auto",
        classes: Sequence | None = None,
        label_sep: str | None = None,
        missing_labels: str = "ignore",
        pretrained: bool | str | os.PathLike = True,
        backbone_params: Mapping[str, Any] | None = None,
        head: str | None = "linear",
        head_params: Mapping[str, Any] | None = None,
        dropout: float = 0.2,
        trainable: str | float | Mapping[int, Any] = "all",
        head_first: bool = True,
        loss: str | Callable[..., Any] = "auto",
        loss_params: Mapping[str, Any] | None = None,
        class_weight: Any = None,
        sampler: str | None = None,
        sampler_params: Mapping[str, Any] | None = None,
        mixup: str | Mapping[str, float] | None = None,
        optimizer: str | type = "adamw",
        optimizer_params: Mapping[str, Any] | None = None,
        learning_rate: float | str = 1e-3,
        backbone_lr_factor: float | tuple[float, float] = 0.5,
        weight_decay: float = 0.05,
        schedule: str = "one_cycle",
        schedule_params: Mapping[str, Any] | None = None,
        clip_norm: float | None = None,
        max_epochs: int = 12,
        batch_size: int | None = 32,
        accumulate: int = 1,
        ema: float | None = 0.999,
        start_share: float | str = "auto",
        warm_start: bool = False,
        validation_fraction: float | None = 0.15,
        monitor: str | Callable[[Any, Any], float] = "auto",
        patience: int | None = None,
        thresholds: Any = "f1",
        threshold_params: Mapping[str, Any] | None = None,
        threshold_cv: int | None = None,
        calibration: str | None = "auto",
        rules: Mapping[str, Any] | None = None,
        refit: bool = False,
        tta: str | None = None,
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
        self.feature_cache = feature_cache
        self.classes = classes
        self.label_sep = label_sep
        self.missing_labels = missing_labels
        self.pretrained = pretrained
        self.backbone_params = backbone_params
        self.head = head
        self.head_params = head_params
        self.dropout = dropout
        self.trainable = trainable
        self.head_first = head_first
        self.loss = loss
        self.loss_params = loss_params
        self.class_weight = class_weight
        self.sampler = sampler
        self.sampler_params = sampler_params
        self.mixup = mixup
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate = learning_rate
        self.backbone_lr_factor = backbone_lr_factor
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.schedule_params = schedule_params
        self.clip_norm = clip_norm
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.ema = ema
        self.start_share = start_share
        self.warm_start = warm_start
        self.validation_fraction = validation_fraction
        self.monitor = monitor
        self.patience = patience
        self.thresholds = thresholds
        self.threshold_params = threshold_params
        self.threshold_cv = threshold_cv
        self.calibration = calibration
        self.rules = rules
        self.refit = refit
        self.tta = tta
        self.device = device
        self.precision = precision
        self.num_workers = num_workers
        self.random_state = random_state
        self.verbose = verbose
        self.callbacks = callbacks

    # What the two kinds of classifier do differently.

    def _encode_labels(self, y: Any, *, classes: Any) -> tuple[np.ndarray, Any]:
        """Return the targets (n_samples, n_classes), and what holds their ``classes_``."""
        raise NotImplementedError

    def _decode_targets(self, targets: np.ndarray, encoder: Any) -> np.ndarray:
        """Return labels that scikit-learn's scorers take, from targets."""
        raise NotImplementedError

    def _check_labels(self, classes: np.ndarray) -> None:
        """Refuse parameters that do not fit the classes, before any work."""

    def _tunes_by_class(self) -> bool:
        """Tell whether something is tuned for each class, which warns of classes without an image."""
        return False

    def _is_tuned(self) -> bool:
        """Tell whether anything is chosen on images that were not trained on, besides the best epoch."""
        return False

    def _choose_decision(self, valid_targets: Any, logits: np.ndarray | None, encoder: Any) -> dict[str, Any]:
        """Return the fitted attributes that turn scores into predictions."""
        raise NotImplementedError

    def _describe_decision(self) -> dict[str, Any]:
        """Return these attributes as plain data."""
        return {}

    def _restore_decision(self, config: Mapping[str, Any], classes: list) -> None:
        """Set these attributes from plain data."""
        raise NotImplementedError

    def _set_classes(self, classes: list) -> None:
        """Take up new classes, which come after the old."""
        raise NotImplementedError


def check_classifier(classifier: BaseImageClassifier) -> None:
    """Refuse parameters that cannot work, before anything else happens."""
    owner = type(classifier).__name__
    check_parameters(owner, classifier.get_params(deep=False), _PARAMETERS)
    if isinstance(classifier.backbone, str):
        check_backbone_params(classifier.backbone_params or {})
    check_trainable(classifier.trainable, max_epochs=classifier.max_epochs, has_head=classifier.head is not None)
    check_head_params(classifier.head, classifier.head_params)
    choose_loss(classifier, validates=classifier.validation_fraction is not None)
    check_monitor(classifier)
    create_mixing(classifier.mixup)
    check_optimizer(classifier.optimizer, classifier.optimizer_params, device=choose_device("auto"))
    check_schedule(classifier.schedule, classifier.schedule_params, max_epochs=classifier.max_epochs)
    if classifier.threshold_cv is not None and classifier.warm_start and classifier._is_tuned():
        raise InputError(
            "threshold_cv trains a network anew for each part of the images, which a further fit with warm_start=True "
            "cannot do: what it goes on with has seen all of them. Set one of the two to None or False."
        )
    if classifier.refit and classifier.warm_start:
        raise InputError(
            "refit=True trains on the validation images too, so that a further fit with warm_start=True could not be "
            "judged on them. Set one of the two to False."
        )


def name_loss(classifier: BaseImageClassifier, *, validates: bool) -> Any:
    """Return the loss as it was given, or what "auto" stands for with validation images and without."""
    if not (isinstance(classifier.loss, str) and classifier.loss == "auto"):
        return classifier.loss
    return classifier._task.calibrated_loss if validates and classifier.calibration else classifier._task.loss


def trains_probabilities(classifier: BaseImageClassifier, *, validates: bool) -> bool:
    """Tell whether the loss trains probabilities: it is a proper one, and counts all images alike."""
    is_even = classifier.class_weight is None and classifier.sampler is None and classifier.missing_labels == "ignore"
    is_plain = classifier.mixup is None and not (classifier.loss_params or {}).get("label_smoothing")
    return is_even and is_plain and name_loss(classifier, validates=validates) in ("bce", "cross_entropy")


def choose_loss(classifier: BaseImageClassifier, *, validates: bool, class_weight: np.ndarray | None = None) -> Loss:
    """Return the loss that the parameters name, or refuse one that the kind of classifier does not have."""
    loss, names = name_loss(classifier, validates=validates), classifier._task.losses
    is_function = callable(loss) and not isinstance(loss, type)
    if not is_function and not (isinstance(loss, str) and loss in names):
        raise InputError(
            f"The 'loss' parameter of {type(classifier).__name__} must be 'auto', {', '.join(map(repr, names))}, or a "
            f"callable of logits and targets (not a class). Got {shorten(loss)} instead."
        )
    return create_loss(
        loss,
        loss_params=classifier.loss_params,
        class_weight=class_weight,
        missing_labels=classifier.missing_labels,
    )


def check_monitor(classifier: BaseImageClassifier, *, validates: bool = True) -> None:
    """Refuse to watch what no epoch will have, or, once that is known, what is not there without validation images."""
    monitor, columns = classifier.monitor, ("train_loss", *classifier._task.columns)
    if callable(monitor):
        name = shorten(monitor)
    elif isinstance(monitor, str) and monitor in ("auto", "train_loss"):
        return
    elif isinstance(monitor, str) and monitor in columns:
        name = repr(monitor)
    else:
        raise InputError(
            f"The 'monitor' parameter of {type(classifier).__name__} must be 'auto', {', '.join(map(repr, columns))}, "
            f"or a callable (y_true, proba). Got {shorten(monitor)} instead."
        )
    if not validates:
        raise InputError(
            f"monitor={name} needs validation images, and there are none. "
            "Set validation_fraction, pass validation_data, or use monitor='train_loss'."
        )


def check_reading(classifier: BaseImageClassifier) -> None:
    """Refuse parameters with which images cannot be read; they may have been set after the fit."""
    table = {name: _PARAMETERS[name] for name in _READING_PARAMS}
    check_parameters(type(classifier).__name__, {name: getattr(classifier, name) for name in table}, table)


def describe_network(classifier: BaseImageClassifier) -> dict[str, Any]:
    """Return the parameters that shape the network."""
    values = {name: getattr(classifier, name) for name in _NETWORK_PARAMS}
    return {name: value if name == "backbone" else copy.copy(value) for name, value in values.items()}


def _is_same(value: Any, other: Any) -> bool:
    """Tell whether two values mean the same; a list does what a tuple does, as after loading."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return value.keys() == other.keys() and all(_is_same(value[key], other[key]) for key in value)
    return np.array_equal(np.array(value, dtype=object), np.array(other, dtype=object))


def check_same_network(classifier: BaseImageClassifier) -> None:
    """Refuse to go on with a network that the present parameters would not make."""
    for name, fitted in classifier.network_params_.items():
        value = getattr(classifier, name)
        if value is not fitted and not _is_same(value, fitted):
            raise InputError(
                f"With warm_start=True a fit goes on with the fitted network, so the {name!r} parameter must stay "
                f"{shorten(fitted)}. Got {shorten(value)}; set it back, or set warm_start=False to start anew."
            )
