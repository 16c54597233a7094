"""Training a network from what a classifier was given: images opened, the head started, then the epochs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from multilabelkit.configuration import choose_start_share, has_learnt_features
from multilabelkit.data.bad_images import check_decodable
from multilabelkit.data.images import InputSpec
from multilabelkit.data.transforms import CROP_MARGIN
from multilabelkit.errors import InputError, warn
from multilabelkit.features import compute_features
from multilabelkit.inference import explain_memory
from multilabelkit.nn.freezing import freeze
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network, switch_to_eval
from multilabelkit.parameters import BaseImageClassifier
from multilabelkit.preparation import create_reader
from multilabelkit.training.callbacks import Callback, TrainState, announce
from multilabelkit.training.evaluation import CLASSES
from multilabelkit.training.head_first import create_head_network, fit_head, start_at_frequencies
from multilabelkit.training.labelled import Labelled, LabelledFeatures, LabelledImages
from multilabelkit.training.loop import search_learning_rate, train_network
from multilabelkit.training.lr_finder import LearningRateCurve
from multilabelkit.training.settings import TrainingSettings

Images = tuple[Sequence[Any], np.ndarray, np.ndarray | None]  # sources, targets, sample_weight
_FEATURE_BYTES = 4 * 2**30  # fixed, and not what is free just now: a fit must not depend on that


@dataclasses.dataclass(frozen=True)
class Trained:
    """What comes out of `fit_network` besides the weights."""

    state: TrainState
    settings: TrainingSettings  # with the rate that was found, if it was to be


def fit_network(
    classifier: BaseImageClassifier,
    network: Network,
    spec: InputSpec,
    train: Images,
    valid: tuple[Sequence[Any], np.ndarray] | None,
    *,
    settings: TrainingSettings,
    callbacks: Sequence[Callback] = (),
    is_new: bool,
) -> Trained:
    """Train a network in place: the head first, then what is to be trained.

    Parameters
    ----------
    classifier : BaseImageClassifier
        Where the other parameters stand.
    network, spec : Network, InputSpec
    train : (sources, targets, sample_weight)
    valid : (sources, targets) or None
    settings : TrainingSettings
    callbacks : sequence of Callback
    is_new : bool
        False to go on with a trained network: its head is kept.
    """
    with start_training(classifier, network, spec, train, valid, settings=settings, is_new=is_new) as start:
        settings = dataclasses.replace(settings, start_share=start.start_share)
        if classifier.learning_rate == "auto" and settings.last_epoch is None:
            rate = _choose_learning_rate(start, spec, settings)
            settings = dataclasses.replace(settings, learning_rate=rate)
        state = train_network(
            start.learner, start.train, start.valid, spec=spec, settings=settings, callbacks=callbacks, owner=network
        )
        return Trained(state, settings)


def _choose_learning_rate(start: Start, spec: InputSpec, settings: TrainingSettings) -> float:
    """Return the rate that a test of rising rates suggests, or the default where the test tells nothing."""
    try:
        rate = try_rising_rates(start, spec=spec, settings=settings).suggestion
    except InputError as error:
        warn(f"learning_rate='auto' found nothing, so {settings.learning_rate:g} is taken. {error}")
        return settings.learning_rate
    if settings.verbose:
        announce(f"learning_rate={rate:.2g} was found to be best")
    return rate


def try_rising_rates(
    start: Start, *, spec: InputSpec, settings: TrainingSettings, n_steps: int | None = None
) -> LearningRateCurve:
    """Try rising rates on a copy of what a training starts from, or say that this cannot tell anything."""
    if start.is_minimum:
        raise InputError(
            "The test of learning rates tells nothing: the linear head is at the minimum of its loss on the features "
            "of the frozen backbone already, and what a rate gains there it gains by overfitting. Set learning_rate "
            "yourself, or head_first=False."
        )
    return search_learning_rate(start.learner, start.train, spec=spec, settings=settings, n_steps=n_steps)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a training starts from: images, or features of them where the backbone is frozen."""

    learner: Network  # the network, or its head alone
    train: Labelled
    valid: Labelled | None
    start_share: float = 0.0  # of the starting weights; 0 where they are worth nothing
    is_minimum: bool = False  # a linear head that was fitted to these very features


@contextlib.contextmanager
def start_training(
    classifier: BaseImageClassifier,
    network: Network,
    spec: InputSpec,
    train: Images,
    valid: tuple[Sequence[Any], np.ndarray] | None,
    *,
    settings: TrainingSettings,
    is_new: bool,
) -> Iterator[Start]:
    """Open the images and give the head its start; see `fit_network` for the parameters."""
    network.to(settings.device).to(memory_format=torch.channels_last)
    n_images = len(train[0]) + (0 if valid is None else len(valid[0]))
    learn = is_new and network.head is not None and classifier.head_first and has_learnt_features(classifier)
    is_frozen = settings.trainable == "head"
    if (learn or is_frozen) and not _fits(network, spec, n_images):
        warn(
            f"Features of {n_images} images take more than {_FEATURE_BYTES / 2**30:g} GiB, so that they are not kept: "
            "the head is not fitted on them first, and with trainable='head' each epoch reads all images."
        )
        learn = is_frozen = False
    with contextlib.ExitStack() as readers:
        images, valid_images = _open_images(classifier, spec, train, valid, settings, readers, once=is_frozen)
        if is_new and network.head is not None:
            start_at_frequencies(network, images.targets, exclusive=settings.task is CLASSES)
        if is_frozen:
            yield _start_frozen(classifier, network, spec, images, valid_images, settings=settings, learn=learn)
            return
        if learn:
            if settings.verbose:
                announce(f"computing features of {len(images.targets)} images to fit the head first")
            fit_head(network, _embed(classifier, network, images, spec, settings), spec=spec, settings=settings)
        share = choose_start_share(classifier) if learn else 0.0
        yield Start(network, images, valid_images, start_share=share)


def _start_frozen(classifier, network, spec, images, valid_images, *, settings, learn: bool) -> Start:
    """Turn the images into features: the backbone stays as it is, and each image passes it once."""
    report = freeze(network, "head")
    if settings.verbose:
        announce(report.describe())
        announce(f"computing features of {len(images.targets)} images")
    features = _embed(classifier, network, images, spec, settings)
    if learn:
        fit_head(network, features, spec=spec, settings=settings)
    mirrored = settings.flip
    valid = (
        None if valid_images is None else _embed(classifier, network, valid_images, spec, settings, mirrored=mirrored)
    )
    is_minimum = learn and isinstance(network.head, LinearHead)
    return Start(create_head_network(network), features, valid, is_minimum=is_minimum)


def _open_images(
    classifier, spec, train: Images, valid, settings, readers: contextlib.ExitStack, *, once: bool
) -> tuple[LabelledImages, LabelledImages | None]:
    """Return the training images and the validation images; `once` if each is read a single time, as it is."""
    valid_images, reserved = None, 0
    if valid is not None:
        cache = classifier.pixel_cache
        reader = create_reader(classifier, valid[0], size=spec.size, spec=spec, pixel_cache=cache)
        readers.callback(reader.close)
        # A broken image must show now and not after the first epoch; the cache keeps the others.
        check_decodable(range(len(valid[0])), reader.read, num_workers=settings.num_workers)
        valid_images, reserved = LabelledImages(reader, valid[1]), reader.cache_bytes
    sources, targets, weight = train
    # Where nothing is cropped, images are kept at the very size the network sees; where each is read once, not at all.
    size = spec.size if once or settings.augmentation is None else round(spec.size * CROP_MARGIN)
    cache = None if once else classifier.pixel_cache
    reader = create_reader(classifier, sources, size=size, spec=spec, pixel_cache=cache, reserved_bytes=reserved)
    readers.callback(reader.close)
    if classifier.verbose and classifier.pixel_cache == "auto" and reader.cache_folder is not None:
        announce(f"keeping decoded images in {reader.cache_folder}")
    return LabelledImages(reader, targets, weight), valid_images


def _embed(
    classifier, network: Network, images: LabelledImages, spec: InputSpec, settings, *, mirrored: bool = False
) -> LabelledFeatures:
    """Compute the features of all images, and with `mirrored` those of their mirror images too."""
    batch_size = settings.evaluation_batch_size
    with explain_memory(batch_size=batch_size, spec=spec, device=settings.device):
        features = [
            compute_features(
                lambda: network,
                images.reader,
                spec=spec,
                device=settings.device,
                dtype=settings.dtype,
                batch_size=batch_size,
                num_workers=settings.num_workers,
                feature_cache=classifier.feature_cache,
                flip=flip,
            )
            for flip in ((False, True) if mirrored else (False,))
        ]
    mirror = features[1] if mirrored else None
    return LabelledFeatures(features[0], images.targets, images.sample_weight, mirror)


@torch.no_grad()
def _fits(network: Network, spec: InputSpec, n_images: int) -> bool:
    """Tell whether the features of all images may be held in memory at once."""
    device = next(network.parameters()).device
    with switch_to_eval(network):
        one = network.compute_features(torch.zeros(1, spec.channels, spec.size, spec.size, device=device))
    return 4 * one.numel() * n_images <= _FEATURE_BYTES
