"""What the estimators of images have in common: the parameters of images and backbones, and how images are read."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch import nn

from multilabelkit.checks import RANDOM_STATE, Check, Choice, Constraint, Interval
from multilabelkit.data.bad_images import describe_failures, find_undecodable
from multilabelkit.data.images import COLOR_MODES, InputSpec
from multilabelkit.data.loading import PixelReader
from multilabelkit.data.threads import count_workers
from multilabelkit.data.transforms import RESIZES
from multilabelkit.errors import InputError
from multilabelkit.nn.network import NORMALIZATIONS


def is_folder(value: Any) -> bool:
    """Tell whether a value names a folder here, rather than a place elsewhere or a misspelt option."""
    if isinstance(value, str):
        return any(mark in value for mark in "/\\.") and "://" not in value
    return isinstance(value, os.PathLike)


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


MAPPING = Check(lambda v: v is None or isinstance(v, Mapping), "None or a dict")
VECTORS = Check(_is_two_vectors, "a pair (mean, std) with std > 0")

# What the parameters may be that every estimator of images has. What another part must check anyway is checked there,
# such as the name of the backbone by timm's list.
IMAGE_PARAMETERS: dict[str, list[Constraint]] = {
    "backbone": [
        Check(lambda v: isinstance(v, (str, nn.Module)) or callable(v), "a name, a torch.nn.Module or a callable")
    ],
    "image_size": [Interval(int, 1), Choice((None,))],
    "color_mode": [Choice(tuple(COLOR_MODES))],
    "resize": [Choice(RESIZES)],
    "normalization": [Choice(("pretrained", *NORMALIZATIONS)), VECTORS],
    "on_bad_image": [Choice(("raise", "nan"))],
    "max_pixels": [Interval(int, 1)],
    "decoder": [Choice(("auto", "pillow"))],
    "feature_cache": [
        Choice(("auto", "memory", None)),
        Check(is_folder, "the path of a folder, such as './features'"),
    ],
    "pretrained": [Choice((True, False)), Check(lambda v: isinstance(v, (str, os.PathLike)), "a path")],
    "backbone_params": [MAPPING],
    "batch_size": [Interval(int, 1)],
    "device": [Check(_is_device, "'auto' or the name of a torch device")],
    "precision": [Choice(("auto", "bf16", "fp16", "fp32"))],
    "num_workers": [Interval(int, 0), Choice((None,))],
    "random_state": RANDOM_STATE,
}

# Keywords of timm that would read files or the network; a parameter of ours, or nothing, stands for each of them.
_RESERVED_PARAMS = {"checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"}
_RESERVED_PARAMS |= {"num_classes", "in_chans", "model_name"}


def check_backbone_params(params: Mapping[str, Any], *, owner: str = "classifier") -> None:
    """Refuse keywords of timm that read files or stand for a parameter of ours."""
    reserved = sorted(_RESERVED_PARAMS & set(params))
    if reserved:
        raise InputError(
            f"backbone_params must not hold {reserved[0]!r}: the {owner} sets it. Weights are chosen with the "
            "'pretrained' parameter, and channels with 'color_mode'."
        )


def draw_seed(random_state: Any) -> int:
    """Draw one number from `random_state`; everything random in a fit follows from it."""
    return int(check_random_state(random_state).randint(2**31 - 1))


class ImageSettings(Protocol):
    """The parameters of an estimator that say how images are read."""

    color_mode: str
    resize: str
    max_pixels: int
    decoder: str
    num_workers: int | None


@dataclasses.dataclass(frozen=True)
class UsableImages:
    """Images as the caller passed them, and the rows of those to use."""

    sources: list[Any]
    rows: np.ndarray
    where: str = "X"

    def list_sources(self) -> list[Any]:
        """Return the images to use."""
        return [self.sources[row] for row in self.rows]


def create_reader(
    settings: ImageSettings,
    sources: Sequence[Any],
    *,
    size: int,
    spec: InputSpec | None = None,
    **options: Any,
) -> PixelReader:
    """Create a reader that decodes as the parameters of an estimator say, and as its network wants."""
    return PixelReader(
        sources,
        size=size,
        color_mode=settings.color_mode if spec is None else spec.color_mode,
        resize=settings.resize if spec is None else spec.resize,
        max_pixels=settings.max_pixels,
        decoder=settings.decoder,
        **options,
    )


def list_bad_images(
    settings: ImageSettings,
    images: UsableImages,
    *,
    advice: str = ", or fit with on_bad_image='skip' to train without what is bad",
) -> None:
    """After one image has failed, look at all of them and raise the error that lists every bad one."""
    sources = images.list_sources()
    decode = create_reader(settings, sources, size=1).decode
    found = find_undecodable(sources, decode, num_workers=count_workers(settings.num_workers))
    if found:
        failures = [(int(images.rows[row]), error) for row, error in found]
        raise describe_failures(failures, n_images=len(images.sources), where=images.where, advice=advice) from None
