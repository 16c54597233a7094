"""What image classifiers share: the steps of fit and predict as functions."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from multilabelkit.checks import check_sample_weight, shorten
from multilabelkit.data.bad_images import (
    check_decodable,
    check_files_exist,
    describe_failures,
    find_undecodable,
    locate_error,
    warn_of_failures,
)
from multilabelkit.data.images import COLOR_MODES, InputSpec, check_images
from multilabelkit.data.labels import encode_labels
from multilabelkit.data.loading import PixelReader, iterate_evaluation
from multilabelkit.data.pixel_cache import prepare_folder
from multilabelkit.data.threads import count_workers
from multilabelkit.data.transforms import CROP_MARGIN, create_augmentation
from multilabelkit.datasets.normalization import compute_normalization
from multilabelkit.errors import ImageDecodeError, InputError, warn
from multilabelkit.inference import choose_device, choose_dtype, predict_logits
from multilabelkit.nn.backbones import OWN_BACKBONES
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network, create_network
from multilabelkit.parameters import BaseImageClassifier, check_reading
from multilabelkit.stratification import split_rows
from multilabelkit.thresholds import join_first
from multilabelkit.training.callbacks import Progress, announce
from multilabelkit.training.head_first import start_head
from multilabelkit.training.loop import LabelledImages, TrainingSettings, TrainState, train_network


def warn_of_empty_classes(targets: np.ndarray, classes: np.ndarray) -> None:
    """Warn once of classes that no image is known to have: nothing about them can be learnt."""
    empty = [repr(name) for name, column in zip(classes.tolist(), targets.T, strict=True) if not (column == 1).any()]
    if empty:
        warn(f"No image in y is known to have {len(empty)} of {len(classes)} classes: {join_first(empty)}.")


def check_groups(groups: Any, n_samples: int) -> None:
    """Refuse groups that do not name one group for each image."""
    if groups is not None and len(groups) != n_samples:
        raise InputError(f"groups must name one group for each of {n_samples} images in X. Got {len(groups)}.")


def check_same_length(sources: Sequence[Any], targets: np.ndarray) -> None:
    """Refuse X and y of different length."""
    if len(sources) != len(targets):
        raise InputError(f"X and y must have the same length. Got {len(sources)} images and labels for {len(targets)}.")


@dataclasses.dataclass(frozen=True)
class UsableImages:
    """Images as the caller passed them, and the rows of those to use."""

    sources: list[Any]
    rows: np.ndarray
    where: str = "X"

    def list_sources(self) -> list[Any]:
        """Return the images to use."""
        return [self.sources[row] for row in self.rows]


def check_validation_data(
    classifier: BaseImageClassifier, validation_data: Any, *, classes: np.ndarray
) -> tuple[UsableImages, np.ndarray]:
    """Return the images and targets of a pair (X, y), whose complaints say that they are about this pair."""
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise InputError(f"validation_data must be a pair (X, y). Got {shorten(validation_data)} instead.")
    X, y = validation_data
    try:
        sources = check_images(X)
        targets, _ = encode_labels(y, classes=classes, label_sep=classifier.label_sep)
        check_same_length(sources, targets)
    except InputError as error:
        raise InputError(f"In validation_data: {error}") from error
    images = choose_usable_images(classifier, sources, where="validation_data")
    return images, targets[images.rows]


def choose_usable_images(classifier: BaseImageClassifier, sources: list[Any], *, where: str = "X") -> UsableImages:
    """Choose the images to train on: all of them, or with on_bad_image="skip" those that can be decoded.

    Without "skip", files that are not there are an error now, before any work; what cannot be decoded shows later, when
    it is first read.
    """
    images = UsableImages(sources, np.arange(len(sources)), where)
    if classifier.on_bad_image != "skip":
        try:
            check_files_exist(sources, where=where)
        except ImageDecodeError:
            list_bad_images(classifier, images)
            raise
        return images
    decode = create_reader(classifier, sources, size=1).decode
    failures = find_undecodable(sources, decode, num_workers=count_workers(classifier.num_workers))
    if len(failures) == len(sources):
        raise describe_failures(failures, n_images=len(sources), where=where)
    if failures:
        consequence = "They are left out, as on_bad_image='skip' asks."
        warn_of_failures(failures, n_images=len(sources), where=where, consequence=consequence)
    return dataclasses.replace(images, rows=np.delete(images.rows, [row for row, _ in failures]))


def keep_rows(
    rows: np.ndarray, targets: np.ndarray, weight: np.ndarray | None, groups: Any
) -> tuple[np.ndarray, np.ndarray | None, Any]:
    """Return the labels, weights and groups of the images that are used, or refuse what is left of them."""
    if len(rows) == len(targets):
        return targets, weight, groups
    targets = targets[rows]
    if np.isnan(targets).all():
        raise InputError("No label is known of the images that can be decoded. Repair the others, or label these.")
    weight = None if weight is None else check_sample_weight(weight[rows], len(rows))
    return targets, weight, None if groups is None else np.asarray(groups)[rows]


def prepare_cache(classifier: BaseImageClassifier) -> None:
    """Make the folder of the pixel cache, if one is named, before any work is done."""
    if classifier.pixel_cache not in ("auto", "memory", None):
        prepare_folder(classifier.pixel_cache)


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


def start_network(
    classifier: BaseImageClassifier, sources: Sequence[Any], *, n_classes: int
) -> tuple[Network, InputSpec]:
    """Create the network that a fit trains: the fitted one with warm_start, else a new one; never the caller's own."""
    if classifier.warm_start and hasattr(classifier, "network_"):
        network = copy.deepcopy(classifier.network_)  # if fit fails, the fitted one is as it was
        if isinstance(network.head, LinearHead):
            network.head.dropout.p = classifier.dropout
        return network, classifier.input_spec_
    backbone, normalization = classifier.backbone, classifier.normalization
    if isinstance(normalization, str) and normalization == "dataset":
        mean, std = compute_normalization(
            sources,
            color_mode=classifier.color_mode,
            max_pixels=classifier.max_pixels,
            num_workers=count_workers(classifier.num_workers),
        )
        normalization = mean, tuple(max(value, 1 / 255) for value in std)  # a channel may be the same everywhere
    network, spec = create_network(
        copy.deepcopy(backbone) if isinstance(backbone, nn.Module) else backbone,
        n_classes=n_classes,
        in_chans=COLOR_MODES[classifier.color_mode],
        image_size=classifier.image_size,
        normalization=normalization,
        head=classifier.head,
        dropout=classifier.dropout,
        pretrained=classifier.pretrained,
        backbone_params=classifier.backbone_params or {},
    )
    return network, dataclasses.replace(spec, resize=classifier.resize)


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
    augmentation = create_augmentation(classifier.augment)
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
    with contextlib.ExitStack() as readers:
        valid_images, reserved = None, 0
        if valid is not None:
            cache = classifier.pixel_cache
            reader = create_reader(classifier, valid[0], size=spec.size, spec=spec, pixel_cache=cache)
            readers.callback(reader.close)
            # A broken image must show now and not after the first epoch; the cache keeps the others.
            check_decodable(range(len(valid[0])), reader.read, num_workers=settings.num_workers)
            valid_images, reserved = LabelledImages(reader, valid[1]), reader.cache_bytes
        # Where nothing is cropped, images are kept at the very size the network sees.
        size = round(spec.size * CROP_MARGIN) if augmentation else spec.size
        reader = create_reader(
            classifier, sources, size=size, spec=spec, pixel_cache=classifier.pixel_cache, reserved_bytes=reserved
        )
        readers.callback(reader.close)
        if classifier.verbose and classifier.pixel_cache == "auto" and reader.cache_folder is not None:
            announce(f"keeping decoded images in {reader.cache_folder}")
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
        batches = iterate_evaluation(
            valid_images.reader, batch_size=settings.batch_size, num_workers=settings.num_workers
        )
        return state, predict_logits(network, batches, spec=spec, device=device, dtype=dtype)


def create_reader(
    classifier: BaseImageClassifier,
    sources: Sequence[Any],
    *,
    size: int,
    spec: InputSpec | None = None,
    **options: Any,
) -> PixelReader:
    """Create a reader that decodes as the classifier's parameters say, and as its network wants."""
    return PixelReader(
        sources,
        size=size,
        color_mode=classifier.color_mode if spec is None else spec.color_mode,
        resize=classifier.resize if spec is None else spec.resize,
        max_pixels=classifier.max_pixels,
        decoder=classifier.decoder,
        **options,
    )


def choose_network_dtype(classifier: BaseImageClassifier, network: Network, device: torch.device) -> torch.dtype:
    """Choose what a network computes in; one that gives the logits itself is left in fp32 unless bf16 is asked for."""
    by_default = "fp32" if network.head is None else "auto"
    return choose_dtype(by_default if classifier.precision == "auto" else classifier.precision, device)


def compute_logits(classifier: BaseImageClassifier, X: Any, *, on_bad_image: str | None = None) -> np.ndarray:
    """Run the fitted network over images and return the logits (n_samples, n_classes) float32.

    With on_bad_image="nan", which stands in the classifier unless it is given, an image that cannot be decoded has a
    row of NaN; else it is an error.
    """
    check_reading(classifier)
    sources = check_images(X)
    images = UsableImages(sources, np.arange(len(sources)))
    spec, device = classifier.input_spec_, choose_device(classifier.device)
    keep_bad = (on_bad_image or classifier.on_bad_image) == "nan"
    reader = create_reader(classifier, sources, size=spec.size, spec=spec, keep_bad=keep_bad)
    num_workers = count_workers(classifier.num_workers)
    network = classifier.network_.to(device)
    batches = iterate_evaluation(reader, batch_size=classifier.batch_size, num_workers=num_workers)
    try:
        if not keep_bad:
            check_files_exist(sources)
        dtype = choose_network_dtype(classifier, network, device)
        logits = predict_logits(network, batches, spec=spec, device=device, dtype=dtype)
    except ImageDecodeError as error:
        list_bad_images(classifier, images, advice=", or set on_bad_image='nan' to have rows of NaN for what is bad")
        raise locate_error(error, sources) from error
    if reader.failures:
        failures = sorted(reader.failures.items())
        logits[[row for row, _ in failures]] = np.nan
        consequence = "Their rows are NaN, as on_bad_image='nan' asks."
        warn_of_failures(failures, n_images=len(sources), consequence=consequence)
    return logits


def list_bad_images(
    classifier: BaseImageClassifier,
    images: UsableImages,
    *,
    advice: str = ", or fit with on_bad_image='skip' to train without what is bad",
) -> None:
    """After one image has failed, look at all of them and raise the error that lists every bad one."""
    sources = images.list_sources()
    decode = create_reader(classifier, sources, size=1).decode
    found = find_undecodable(sources, decode, num_workers=count_workers(classifier.num_workers))
    if found:
        failures = [(int(images.rows[row]), error) for row, error in found]
        raise describe_failures(failures, n_images=len(images.sources), where=images.where, advice=advice)
