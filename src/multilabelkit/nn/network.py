"""The whole network: a backbone that gives features and a head that gives logits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError
from multilabelkit.nn.backbones import OWN_BACKBONES, PlainCNN, SmallCNN, create_backbone, takes_image_size
from multilabelkit.nn.heads import HEADS, check_head_params, create_head

NORMALIZATIONS = {"unit": (0.0, 1.0)}

# What torch, and timm's assertions, say of images they cannot take; timm's other errors tell of a size that leaves no
# windows or patches. An own module's other errors are its own.
_FAILURES = (RuntimeError, AssertionError)
_TIMM_FAILURES = (*_FAILURES, ArithmeticError, LookupError, ValueError)


class Network(nn.Module):
    """A backbone and a head.

    Parameters
    ----------
    backbone : Module
        Maps images (B, C, S, S) to features (B, F), to maps (B, F, h, w) or to tokens (B, N, F). Of a model of timm's
        that pools, tokens are what stands before its pooling.
    head : Module or None
        Maps features to logits (B, n_classes) in fp32, whatever the precision of the backbone. Its `input_kind` says
        which: "pooled" (B, F) or "tokens" (B, N, F). None if the backbone gives the logits itself.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features (B, F) in fp32; maps and tokens are averaged."""
        features = self._check_features(self.backbone(images))
        return (features if features.ndim == 2 else self._to_tokens(features).mean(dim=1)).float()

    def embed_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features of each place in them (B, N, F) in fp32.

        The places of a map stand row by row. Class and register tokens of a transformer stay in front of the others:
        they hold what it has learnt to sum up. Of several scales the last is taken; pooled features are one token.
        """
        body: Any = self.backbone
        if hasattr(body, "forward_features") and (isinstance(body, PlainCNN) or hasattr(body, "pretrained_cfg")):
            features = body.forward_features(images)
            if isinstance(features, list):  # of CoaT and CrossViT
                features = features[-1]
        else:
            features = body(images)
        return self._to_tokens(self._check_features(features)).float()

    def compute_features(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to the features that the head takes: pooled (B, F) or tokens (B, N, F), in fp32."""
        wants_tokens = getattr(self.head, "input_kind", "pooled") == "tokens"
        return self.embed_tokens(images) if wants_tokens else self.embed(images)

    def classify(self, features: torch.Tensor) -> torch.Tensor:
        """Map what `compute_features` gives to logits (B, n_classes) in fp32."""
        if self.head is None:
            return features
        # bf16 logits have three significant digits: too few to rank images or to set thresholds.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to logits (B, n_classes) in fp32."""
        return self.classify(self.compute_features(images))

    def _check_features(self, features: Any) -> torch.Tensor:
        if not isinstance(features, torch.Tensor):
            raise InputError(
                f"The backbone returned {type(features).__name__}, not a tensor; "
                "make its forward return the features (B, F), (B, F, h, w) or (B, N, F) alone."
            )
        if not 2 <= features.ndim <= 4:
            raise InputError(
                f"The backbone returned a tensor of shape {tuple(features.shape)}; "
                "its forward must return features of shape (B, F), (B, F, h, w) or (B, N, F)."
            )
        return features

    def _to_tokens(self, features: torch.Tensor) -> torch.Tensor:
        """Bring maps, tokens and pooled features to one form (B, N, F)."""
        if features.ndim == 2:
            return features.unsqueeze(1)
        return features.movedim(self._find_channels(features), -1).flatten(1, -2)

    def _find_channels(self, features: torch.Tensor) -> int:
        """Tell which axis of maps or tokens holds the channels, by timm's layout or by the width it says they have."""
        layout = getattr(self.backbone, "output_fmt", None)
        if layout in ("NHWC", "NLC"):
            return -1
        usual, other = (1, -1) if features.ndim == 4 else (-1, 1)
        width = getattr(self.backbone, "num_features", None)
        return other if features.shape[usual] != width == features.shape[other] else usual


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
    head_params: Mapping[str, Any] | None = None,
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
    head : {"linear", "mlp", "attention", "ml_decoder"} or None
        None takes the backbone's output as the logits.
    dropout : float
        Dropout inside the head.
    head_params : mapping or None
        Keywords of the head, see `create_head`.

    Returns
    -------
    network : Network
    spec : InputSpec

    Raises
    ------
    InputError
        If a name or keyword is wrong, or the backbone cannot take images of this size; it names the least it can.
    """
    check_head_params(head, head_params)
    options: dict[str, Any] = {"in_chans": in_chans, "backbone_params": backbone_params}
    try:
        body = create_backbone(backbone, image_size=image_size, pretrained=pretrained, **options)
    except InputError:
        raise
    except _TIMM_FAILURES as error:
        if image_size is None or not _is_built_for_size(backbone):
            raise
        raise _refuse_images(backbone, None, error, size=image_size, **options) from error
    body = body.to("cpu", torch.float32)  # where the caller's own may not be; fit chooses the device and the precision
    spec = create_input_spec(body, in_chans=in_chans, image_size=image_size, normalization=normalization)
    _check_declared_size(body, spec)
    network = Network(body, None)
    failures = _TIMM_FAILURES if hasattr(body, "pretrained_cfg") else _FAILURES
    try:
        n_features = _count_features(network, spec, head=head)
    except InputError:
        raise
    except failures as error:
        raise _refuse_images(backbone, network, error, size=spec.size, **options) from error
    if head is not None:
        network.head = create_head(
            head, n_features=n_features, n_classes=n_classes, dropout=dropout, head_params=head_params
        )
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


@contextlib.contextmanager
def switch_to_eval(network: nn.Module) -> Iterator[None]:
    """Put a network in eval mode, and afterwards each of its parts back in the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _count_features(network: Network, spec: InputSpec, *, head: str | None) -> int:
    """Ask the backbone itself, in eval mode and on one black image, so that any module of any kind has its answer."""
    wants_tokens = head is not None and HEADS[head].input_kind == "tokens"
    embed = network.embed_tokens if wants_tokens else network.embed
    with torch.no_grad(), switch_to_eval(network):
        return embed(torch.zeros(1, spec.channels, spec.size, spec.size)).shape[-1]


def _check_declared_size(backbone: nn.Module, spec: InputSpec) -> None:
    """Refuse what timm says is too small, and less than one cell of the last map, even where a forward pass works."""
    config = getattr(backbone, "pretrained_cfg", None) or {}
    stages = getattr(backbone, "feature_info", None)
    cells = [stage.get("reduction") or 0 for stage in stages] if isinstance(stages, list) else []
    least = max([*(config.get("min_input_size") or ())[1:], *cells], default=0)
    if spec.size < least:
        name = config.get("architecture") or type(backbone).__name__
        raise InputError(f"image_size={spec.size} is too small for the backbone {name!r}; use at least {least}.")


def _is_built_for_size(backbone: Any) -> bool:
    return isinstance(backbone, str) and backbone not in OWN_BACKBONES and takes_image_size(backbone)


def _refuse_images(
    backbone: Any, network: Network | None, error: Exception, *, in_chans: int, size: int, backbone_params: Mapping
) -> InputError:
    """Return the error that says why a backbone cannot take such images, and which are the least that it can."""

    def takes(side: int) -> bool:
        try:
            if _is_built_for_size(backbone):
                params = {"num_classes": 0, "in_chans": in_chans, **backbone_params, "img_size": side}
                with torch.device("meta"):  # shapes alone, for this can be one size of many
                    timm.create_model(backbone, **params).eval()(torch.zeros(1, in_chans, side, side))
            else:
                assert network is not None
                network(torch.zeros(1, in_chans, side, side))
        except _TIMM_FAILURES:
            return False
        return True

    with torch.no_grad(), contextlib.nullcontext() if network is None else switch_to_eval(network):
        least = _find_least_size(takes, limit=max(256, size))
    if least is None:
        advice = "Change image_size or color_mode, or the backbone."
    elif size < least:
        advice = f"Use image_size={least}, the least that it can take."
    else:
        advice = f"It can take image_size={least}, but not every size above; use that or a multiple of it."
    reason = str(error).rstrip(".") or type(error).__name__
    return InputError(
        f"The backbone cannot take images of {in_chans} channel(s) and {size}x{size} pixels: {reason}. {advice}"
    )


def _find_least_size(takes: Callable[[int], bool], *, limit: int) -> int | None:
    """Return the least size up to `limit` that passes."""
    failed = 0
    # Networks halve images or cut patches of 14 or 16 pixels; those that take one size alone like it round.
    steps = (size for size in range(8, limit + 1) if not (size % 8 and size % 10 and size % 14))
    for size in [1, 2, 4, *steps]:
        if takes(size):
            return next((between for between in range(failed + 1, size) if takes(between)), size)
        failed = size
    return None
