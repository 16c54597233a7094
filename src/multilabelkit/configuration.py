"""From a classifier's parameters to its network and to the settings of its training."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from multilabelkit.data.images import COLOR_MODES, InputSpec
from multilabelkit.data.mixing import create_mixing
from multilabelkit.data.threads import count_workers
from multilabelkit.data.transforms import create_augmentation
from multilabelkit.datasets.normalization import compute_normalization
from multilabelkit.inference import choose_device
from multilabelkit.nn.backbones import OWN_BACKBONES
from multilabelkit.nn.heads import set_dropout
from multilabelkit.nn.losses import compute_class_weight
from multilabelkit.nn.network import Network, create_network
from multilabelkit.parameters import BaseImageClassifier, choose_loss
from multilabelkit.prediction import BATCH_SIZE, choose_network_dtype
from multilabelkit.training.evaluation import CLASSES
from multilabelkit.training.sampling import compute_repeats
from multilabelkit.training.settings import TrainingSettings

_FEW_FOR_BATCH_NORM = 16  # images; the statistics of fewer are too noisy to replace those of the pretraining
_START_SHARE = 0.3


def create_settings(
    classifier: BaseImageClassifier, targets: np.ndarray, *, classes: np.ndarray, seed: int, validates: bool
) -> TrainingSettings:
    """Turn the parameters of a classifier into the settings of its training."""
    device = choose_device(classifier.device)
    repeats = compute_repeats(
        targets, sampler=classifier.sampler, sampler_params=classifier.sampler_params, classes=classes
    )
    n_images = len(targets) if repeats is None else int(np.ceil(repeats).sum())
    batch_size = classifier.batch_size or n_images
    exclusive = classifier._task is CLASSES
    weight = compute_class_weight(classifier.class_weight, targets, classes=classes, exclusive=exclusive)
    few = min(batch_size, n_images) < _FEW_FOR_BATCH_NORM
    rate = classifier.learning_rate
    return TrainingSettings(
        max_epochs=classifier.max_epochs,
        batch_size=batch_size,
        learning_rate=1e-3 if isinstance(rate, str) else rate,
        # Without a head the backbone is all there is, and learns at the full rate.
        backbone_lr_factor=1.0 if classifier.head is None else classifier.backbone_lr_factor,
        weight_decay=classifier.weight_decay,
        ema=classifier.ema,
        augmentation=create_augmentation(classifier.augment),
        device=device,
        dtype=choose_network_dtype(classifier, classifier.head is not None, device),
        num_workers=count_workers(classifier.num_workers),
        seed=seed,
        task=classifier._task,
        loss=choose_loss(classifier, validates=validates, class_weight=weight).to(device),
        mixing=create_mixing(classifier.mixup),
        repeats=repeats,
        trainable=classifier.trainable,
        trains_batch_norm=not (few and has_learnt_features(classifier)),
        optimizer=classifier.optimizer,
        optimizer_params=classifier.optimizer_params,
        schedule=classifier.schedule,
        schedule_params=classifier.schedule_params,
        clip_norm=classifier.clip_norm,
        accumulate=classifier.accumulate,
        flip=classifier.tta == "hflip",
        monitor=classifier.monitor,
        patience=classifier.patience,
        evaluation_batch_size=classifier.batch_size or BATCH_SIZE,
        verbose=bool(classifier.verbose),
    )


def start_network(
    classifier: BaseImageClassifier, sources: Sequence[Any], *, n_classes: int
) -> tuple[Network, InputSpec]:
    """Create the network that a fit trains: the fitted one with warm_start, else a new one; never the caller's own."""
    if classifier.warm_start and hasattr(classifier, "network_"):
        network = copy.deepcopy(classifier.network_)  # if fit fails, the fitted one is as it was
        if network.head is not None:
            set_dropout(network.head, classifier.dropout)
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
        head_params=classifier.head_params,
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


def choose_start_share(classifier: BaseImageClassifier) -> float:
    """Turn the `start_share` parameter into a number; what is drawn towards random weights is spoilt."""
    if not isinstance(classifier.start_share, str):
        return classifier.start_share
    is_known = not isinstance(classifier.pretrained, bool) or isinstance(classifier.backbone, str)
    return _START_SHARE if is_known and has_learnt_features(classifier) else 0.0
