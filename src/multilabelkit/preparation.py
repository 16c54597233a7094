"""The data of a fit: what the caller passed, checked, and split in what is trained on and what is set aside."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from multilabelkit.checks import check_sample_weight, shorten
from multilabelkit.class_names import join_first
from multilabelkit.data.bad_images import (
    check_files_exist,
    describe_failures,
    find_undecodable,
    warn_of_failures,
)
from multilabelkit.data.images import check_images
from multilabelkit.data.pixel_cache import prepare_folder
from multilabelkit.data.threads import count_workers
from multilabelkit.errors import ImageDecodeError, InputError, warn
from multilabelkit.parameters import BaseImageClassifier
from multilabelkit.reading import UsableImages, create_reader, draw_seed, list_bad_images
from multilabelkit.stratification import split_rows

_N_PIXELS = 1024  # of an image, by which it is told from others


def warn_of_empty_classes(targets: np.ndarray, classes: np.ndarray) -> None:
    """Warn once of classes that no image is known to have: nothing about them can be learnt."""
    empty = [repr(name) for name, column in zip(classes.tolist(), targets.T, strict=True) if not (column == 1).any()]
    if empty:
        warn(f"No image in y is known to have {len(empty)} of {len(classes)} classes: {join_first(empty)}.")


def check_groups(groups: Any, n_samples: int) -> None:
    """Refuse groups that do not name one group for each image."""
    if groups is None:
        return
    if np.ndim(groups) != 1:
        raise InputError(f"groups must be a list of one group for each image in X. Got {shorten(groups)}.")
    if len(groups) != n_samples:
        raise InputError(f"groups must name one group for each of {n_samples} images in X. Got {len(groups)}.")


def check_same_length(sources: Sequence[Any], targets: np.ndarray) -> None:
    """Refuse X and y of different length."""
    if len(sources) != len(targets):
        raise InputError(f"X and y must have the same length. Got {len(sources)} images and labels for {len(targets)}.")


def check_validation_data(
    classifier: BaseImageClassifier, validation_data: Any, *, classes: np.ndarray
) -> tuple[UsableImages, np.ndarray]:
    """Return the images and targets of a pair (X, y), whose complaints say that they are about this pair."""
    if not isinstance(validation_data, (tuple, list)) or len(validation_data) != 2:
        raise InputError(f"validation_data must be a pair (X, y). Got {shorten(validation_data)} instead.")
    X, y = validation_data
    try:
        sources = check_images(X)
        targets, _ = classifier._encode_labels(y, classes=classes)
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


def prepare_caches(classifier: BaseImageClassifier) -> None:
    """Make the folders of the caches, where they are named, before any work is done."""
    for name in ("pixel_cache", "feature_cache"):
        folder = getattr(classifier, name)
        if folder not in ("auto", "memory", None):
            prepare_folder(folder, parameter=name)


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


def deal_folds(targets: np.ndarray, *, n_folds: int, groups: Any, seed: int) -> np.ndarray:
    """Return the fold of each row; every fold has its share of every label."""
    if n_folds > len(targets):
        raise InputError(
            f"threshold_cv={n_folds} asks for more folds than there are images: {len(targets)}. Set it lower."
        )
    sizes = np.full(n_folds, len(targets) // n_folds)
    sizes[: len(targets) % n_folds] += 1
    return split_rows(targets, sizes=sizes, groups=groups, random_state=seed)


@dataclasses.dataclass(frozen=True)
class FitData:
    """All that a fit is given, checked: images, targets, weights, and which of them are set aside.

    Parameters
    ----------
    images : UsableImages
        Those of X.
    targets : ndarray of shape (n_usable, n_classes)
    weight : ndarray of shape (n_usable,) or None
    groups : sequence of length n_usable, or None
    encoder : MultiLabelBinarizer
        Or what else holds the classes.
    rows : ndarray of int
        Which of the usable images to train on.
    valid : (sources, targets) or None
    held_out : ndarray of int or None
        Which of the usable images are set aside; None if none are, or `validation_data` was given.
    valid_images : UsableImages or None
        Those of `validation_data`.
    seed, split_seed : int
    images_key : str
        A digest of the images in their order, see `digest_images`.
    """

    images: UsableImages
    targets: np.ndarray
    weight: np.ndarray | None
    groups: Any
    encoder: Any
    rows: np.ndarray
    valid: tuple[list[Any], np.ndarray] | None
    held_out: np.ndarray | None
    valid_images: UsableImages | None
    seed: int
    split_seed: int
    images_key: str

    def choose_training(self, rows: np.ndarray | None = None) -> tuple[list[Any], np.ndarray, np.ndarray | None]:
        """Return (sources, targets, sample_weight) of the images to train on, or of all; weights have a mean of 1."""
        chosen = self.rows if rows is None else rows
        sources = self.images.list_sources()
        weight = None if self.weight is None else self.weight[chosen]
        if weight is not None and weight.any():
            weight = weight / weight.mean()
        return [sources[row] for row in chosen], self.targets[chosen], weight


def prepare_data(
    classifier: BaseImageClassifier,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    groups: Any = None,
    validation_data: Any = None,
    going_on: bool = False,
) -> FitData:
    """Check what the caller passed and set validation images aside; all that can be refused is refused here."""
    sources = check_images(X)
    targets, encoder = classifier._encode_labels(y, classes=classifier.classes_ if going_on else classifier.classes)
    check_same_length(sources, targets)
    weight = check_sample_weight(sample_weight, len(sources))
    classifier._check_labels(encoder.classes_)
    check_groups(groups, len(sources))
    prepare_caches(classifier)
    images = choose_usable_images(classifier, sources)
    targets, weight, groups = keep_rows(images.rows, targets, weight, groups)
    usable, key, seed = images.list_sources(), digest_images(images), draw_seed(classifier.random_state)
    split_seed = classifier.split_seed_ if going_on else seed
    rows, valid, held_out, valid_images = np.arange(len(targets)), None, None, None
    if validation_data is not None:
        valid_images, valid_targets = check_validation_data(classifier, validation_data, classes=encoder.classes_)
        valid = valid_images.list_sources(), valid_targets
    elif classifier.validation_fraction is not None:
        held_out = recall_validation_rows(classifier, images, key) if going_on else None
        if held_out is None:
            rows, held_out = choose_validation_rows(
                targets, fraction=classifier.validation_fraction, groups=groups, seed=split_seed
            )
        rows = np.setdiff1d(rows, held_out)
        valid = [usable[row] for row in held_out], targets[held_out]
    return FitData(images, targets, weight, groups, encoder, rows, valid, held_out, valid_images, seed, split_seed, key)


def recall_validation_rows(classifier: BaseImageClassifier, images: UsableImages, key: str) -> np.ndarray | None:
    """Return which images the fit before this one set aside, whatever their labels are now; warn if that is unknown.

    Thresholds and scores must not come from images that an earlier fit trained on.
    """
    known = classifier.validation_rows_
    if known is not None and classifier.images_key_ == key and not classifier.refit_history_:
        return np.flatnonzero(np.isin(images.rows, known))
    warn(
        "This fit goes on from one that trained on other images, or on all of these, so that the images it sets aside "
        "may have been trained on before, and thresholds and scores from them look too good. Pass "
        "validation_data=(X, y) that no fit has trained on."
    )
    return None


def digest_images(images: UsableImages) -> str:
    """Return what tells the images of a fit from others: their names, or what they look like, in their order."""
    digest = hashlib.sha256()
    for source in images.list_sources():
        digest.update(_describe_source(source))
    return digest.hexdigest()


def _describe_source(source: Any) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        return f"{os.fspath(source)}\n".encode("utf-8", "surrogatepass")
    if isinstance(source, (bytes, bytearray)):
        return hashlib.sha256(source).digest()
    pixels = np.asarray(source)
    step = max(1, pixels.size // _N_PIXELS)
    return repr((pixels.shape, pixels.dtype.str)).encode() + np.ascontiguousarray(pixels.ravel()[::step]).tobytes()
