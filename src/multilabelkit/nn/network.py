"""The whole network: a backbone that gives features and a head that gives logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from timm.data import resolve_model_data_config
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError
from multilabelkit.nn.backbones import SmallCNN, create_backbone
from multilabelkit.nn.heads import LinearHead

NORMALIZATIONS = {"unit": (0.0, 1.0)}


class Network(nn.Module):
    """A backbone and a head.

    Parameters
    ----------
    backbone : Module
        Maps images (B, C, S, S) to features (B, F); maps of shape (B, F, h, w) are averaged.
    head : Module or None
        Maps features to logits (B, n_classes) in fp32, whatever the precision of the backbone. None if the
        backbone gives the logits itself.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features (B, F) in fp32."""
        features = self.backbone(images)
        if not isinstance(features, torch.Tensor):
            raise InputError(
                f"The backbone returned {type(features).__name__}, not a tensor; "
                "make its forward return the features (B, F) or (B, F, h, w) alone."
            )
        if features.ndim == 4:
            features = features.mean(dim=(2, 3))
        if features.ndim != 2:
            raise InputError(
                f"The backbone returned a tensor of shape {tuple(features.shape)}; "
                "its forward must return features of shape (B, F) or (B, F, h, w)."
            )
        return features.float()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to logits (B, n_classes) in fp32."""
        features = self.embed(images)
        if self.head is None:
            return features
        # bf16 logits have three significant digits: too few to rank images or to set thresholds.
        with torch.autocast(images.device.type, enabled=False):
            return self.head(features)


def create_network(
    backbone: str | nn.Module | Callable[..., nn.Module],
    *,
    n_classes: int,
    in_chans: int,
    image_size: int | None,
    normalization: str | tuple,
    head: str | None,
    dropout: float,
    pretrained: bool | str | os.PathLike,
    backbone_params: Mapping[str, Any],
) -> tuple[Network, InputSpec]:
    """Create a backbone with a new head, and say what the two want to see.

    Parameters
    ----------
    backbone, in_chans, pretrained, backbone_params
        As for `create_backbone`.
    n_classes : int
        Number of logits.
    image_size : int or None
        Side of the input in pixels; None takes the backbone's own (150 for small_cnn, 224 for own modules).
    normalization : {"pretrained", "unit"} or (mean, std)
        "pretrained" is the backbone's own; "unit" divides by 255 and does nothing else.
    head : {"linear"} or None
        None takes the backbone's output as the logits.
    dropout : float
        Dropout before the linear layer.

    Returns
    -------
    network : Network
    spec : InputSpec
    """
    body = create_backbone(
        backbone,
        in_chans=in_chans,
        image_size=image_size,
        pretrained=pretrained,
        backbone_params=backbone_params,
    ).to("cpu", torch.float32)  # where the caller's own may not be; fit chooses the device and the precision
    spec = create_input_spec(body, in_chans=in_chans, image_size=image_size, normalization=normalization)
    network = Network(body, None)
    n_features = _count_features(network, spec)
    if head == "linear":
        network.head = LinearHead(n_features, n_classes, dropout=dropout)
    elif n_features != n_classes:
        raise InputError(
            f"With head=None the backbone must return one logit per class, but it returned {n_features} values "
            f"for {n_classes} classes. Change its last layer, or use head='linear'."
        )
    return network, spec


def create_input_spec(
    backbone: nn.Module, *, in_chans: int, image_size: int | None, normalization: str | tuple
) -> InputSpec:
    """Say what a backbone wants to see: the caller's wish first, then what its pretrained weights were trained with."""
    config = getattr(backbone, "pretrained_cfg", None)
    own = resolve_model_data_config(backbone) if config else None
    default_size = own["input_size"][-1] if own else _default_size(backbone)
    if isinstance(normalization, str) and normalization == "pretrained":
        mean, std = (own["mean"], own["std"]) if own else NORMALIZATIONS["unit"]
    else:
        mean, std = NORMALIZATIONS[normalization] if isinstance(normalization, str) else normalization
    return InputSpec(
        size=image_size or default_size,
        channels=in_chans,
        mean=_per_channel(mean, in_chans),
        std=_per_channel(std, in_chans),
    )


def _default_size(backbone: nn.Module) -> int:
    return 150 if isinstance(backbone, SmallCNN) else 224


def _per_channel(value: Any, in_chans: int) -> tuple[float, ...]:
    """Repeat a number, or fold three colour values into one for greyscale."""
    values = tuple(np.atleast_1d(np.asarray(value, dtype=float)).tolist())
    if len(values) == in_chans:
        return values
    return (sum(values) / len(values),) * in_chans


@torch.no_grad()
def _count_features(network: Network, spec: InputSpec) -> int:
    """Ask the backbone itself, in eval mode and on one black image, so that any module of any kind has its answer."""
    training = network.training
    network.eval()
    try:
        return network.embed(torch.zeros(1, spec.channels, spec.size, spec.size)).shape[1]
    except (RuntimeError, AssertionError) as error:  # timm asserts sizes
        raise InputError(
            f"The backbone cannot take images of {spec.channels} channel(s) and {spec.size}x{spec.size} pixels: "
            f"{error}. Change image_size or color_mode, or the backbone."
        ) from error
    finally:
        network.train(training)
