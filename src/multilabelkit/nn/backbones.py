"""Networks that turn images into features: timm's by name, a small one of our own, or the caller's."""

from __future__ import annotations

import copy
import os
import re
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from multilabelkit.checks import shorten, suggest
from multilabelkit.errors import InputError

SMALL_CNN, PLAIN_CNN = "small_cnn", "plain_cnn"
OWN_BACKBONES = (SMALL_CNN, PLAIN_CNN)  # ours, without pretrained weights

_NO_DOWNLOAD_ADVICE = (
    "Pass pretrained='path/to/weights.safetensors' (a checkpoint you have), pretrained=False (train from scratch), "
    "or run once on a machine with a network and copy its Hugging Face cache here."
)


class SmallCNN(nn.Module):
    """A small network that trains from scratch in a minute on a laptop.

    Two blocks of Conv 3x3, ReLU and max-pool 2 (10, then 20 channels), Dropout2d 0.5, Linear to 1024, ReLU. It is the
    published blood-cell network (25,920 inputs to the linear layer at 1x150x150), with a ReLU of ours at its end.

    Parameters
    ----------
    in_chans : int
        Channels of the input.
    image_size : int
        Side of the input in pixels, at least 10.
    """

    def __init__(self, *, in_chans: int, image_size: int) -> None:
        super().__init__()
        side = ((image_size - 2) // 2 - 2) // 2
        if side < 1:
            raise InputError(f"image_size={image_size} is too small for the backbone 'small_cnn'; use at least 10.")
        self.layers = nn.Sequential(
            nn.Conv2d(in_chans, 10, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(10, 20, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout2d(0.5),
            nn.Flatten(),
            nn.Linear(20 * side * side, 1024),
            nn.ReLU(),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features (B, 1024)."""
        return self.layers(images)


class PlainCNN(nn.Module):
    """A small network for images in which things may be anywhere; it too trains from scratch in a minute.

    Six layers of Conv 3x3, batch norm and ReLU in three stages (32, 64, 128 channels), each halving the image, and the
    mean over what is left of it.

    Parameters
    ----------
    in_chans : int
        Channels of the input.
    """

    def __init__(self, *, in_chans: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = in_chans
        for width in (32, 64, 128):
            # The first layer strides, where a pool would leave the dearest layer of all at full size.
            stride = 2 if width == 32 else 1
            layers += _convolve(channels, width, stride=stride) + _convolve(width, width)
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if width < 128 else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features (B, 128)."""
        return self.layers(images)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to the maps (B, 128, S / 8, S / 8) whose mean is the features."""
        return self.layers[:-2](images)


def _convolve(n_inputs: int, n_outputs: int, *, stride: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(n_inputs, n_outputs, 3, stride=stride, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(n_outputs), nn.ReLU()]


def check_backbone_name(name: str) -> None:
    """Refuse a backbone name that is neither ours nor one of timm's, naming the nearest ones."""
    known = {*OWN_BACKBONES, *timm.list_models()}
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        raise InputError(
            f"The backbone {name!r} is unknown.{suggest(architecture, known)} "
            "Use 'small_cnn', 'plain_cnn', a name from timm.list_models(), or your own torch.nn.Module."
        )
    tagged = timm.list_models(f"{architecture}.*", pretrained=True) if tag else []
    if tag and name not in tagged:
        raise InputError(
            f"The backbone {architecture!r} has no pretrained weights tagged {tag!r}.{suggest(name, tagged)} "
            f"Use {architecture!r} for the default ones, or a name from "
            f"timm.list_models('{architecture}.*', pretrained=True)."
        )


def create_backbone(
    backbone: str | nn.Module | Callable[..., nn.Module],
    *,
    in_chans: int,
    image_size: int | None,
    pretrained: bool | str | os.PathLike,
    backbone_params: Mapping[str, Any],
) -> nn.Module:
    """Create the network that turns images into features.

    Parameters
    ----------
    backbone : str, Module or callable
        "small_cnn", "plain_cnn", a name of timm's, a Module (used as it is: copy it first), or a callable that returns
        one.
    in_chans : int
        Channels of the images.
    image_size : int or None
        Side of the images in pixels; None leaves it to the backbone (small_cnn then takes 150).
    pretrained : bool or path
        True downloads timm's weights, False starts at random, a path reads a local checkpoint: safetensors, or a torch
        state dict (read without running any code in it). A bool is ignored for small_cnn, plain_cnn and own modules.
    backbone_params : mapping
        Keywords for timm or for the callable.

    Returns
    -------
    network : Module
        Maps images (B, C, S, S) to features.

    Raises
    ------
    InputError
        If the name is unknown, the checkpoint does not fit, or the weights cannot be downloaded.
    """
    if isinstance(backbone, str) and backbone not in OWN_BACKBONES:
        return _create_timm(backbone, in_chans, image_size, pretrained, backbone_params)
    if backbone_params and isinstance(backbone, (str, nn.Module)):
        kind = repr(backbone) if isinstance(backbone, str) else f"an instance of {type(backbone).__name__}"
        raise InputError(
            f"The backbone is {kind} and takes no backbone_params. Got {shorten(dict(backbone_params))}; "
            "leave them out, or pass a class or function as the backbone."
        )
    if backbone == SMALL_CNN:
        network: nn.Module = SmallCNN(in_chans=in_chans, image_size=image_size or 150)
    elif backbone == PLAIN_CNN:
        network = PlainCNN(in_chans=in_chans)
    elif isinstance(backbone, nn.Module):
        network = backbone
    elif callable(backbone):
        network = backbone(**backbone_params)
        if not isinstance(backbone, type):
            network = copy.deepcopy(network)  # a function may give the same module every time
        if not isinstance(network, nn.Module):
            raise InputError(
                f"The backbone {shorten(backbone)} was called and returned {type(network).__name__}; "
                "it must return a torch.nn.Module."
            )
    if not isinstance(pretrained, bool):
        load_checkpoint(network, pretrained, in_chans=in_chans)
    return network


def _create_timm(name, in_chans, image_size, pretrained, backbone_params) -> nn.Module:
    check_backbone_name(name)
    params = {"num_classes": 0, "in_chans": in_chans, **backbone_params}
    if image_size is not None and takes_image_size(name):
        params.setdefault("img_size", image_size)
    if pretrained is True:
        _check_downloadable(name)
    try:
        network = timm.create_model(name, pretrained=pretrained is True, **params)
    except OSError as error:  # what huggingface_hub and urllib raise for every failed download
        raise InputError(
            f"The pretrained weights of {name!r} cannot be downloaded: {error} {_NO_DOWNLOAD_ADVICE}"
        ) from error
    except (TypeError, ValueError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
        if not backbone_params:
            raise
        raise InputError(
            f"The backbone {name!r} does not accept backbone_params={shorten(dict(backbone_params))}: {error}. "
            "Remove or correct that keyword."
        ) from error
    if not isinstance(pretrained, bool):
        load_checkpoint(network, pretrained, in_chans=in_chans)
    return network


def takes_image_size(name: str) -> bool:
    """Tell whether the model is built for one size, as vision transformers are, and must be told ours."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(config and config.fixed_input_size)


def _check_downloadable(name: str) -> None:
    """Refuse at once what huggingface_hub would give up only after 45 seconds of retries."""
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None or not config.has_weights:
        raise InputError(
            f"timm has no pretrained weights for the backbone {name!r}. "
            "Use pretrained=False, a local checkpoint, or one of timm.list_models(pretrained=True)."
        )
    obstacle = _find_obstacle() if config.hf_hub_id and not _is_cached(config) else None
    if obstacle:
        raise InputError(f"The pretrained weights of {name!r} cannot be downloaded: {obstacle}. {_NO_DOWNLOAD_ADVICE}")


def _is_cached(config) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return any(isinstance(try_to_load_from_cache(config.hf_hub_id, file), str) for file in names)


def _find_obstacle() -> str | None:
    """Say why the Hugging Face Hub cannot be reached, or return None if its name resolves."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "they are not in the Hugging Face cache, and HF_HUB_OFFLINE forbids to fetch them"
    endpoint = urllib.parse.urlparse(constants.ENDPOINT)
    if {endpoint.scheme, "all"} & set(urllib.request.getproxies()):
        return None  # the proxy resolves the name, not we
    try:
        socket.getaddrinfo(endpoint.hostname, 443)
    except OSError:
        return "no network, the host of the Hugging Face Hub is not found"
    return None


def load_checkpoint(network: nn.Module, path: str | os.PathLike, *, in_chans: int) -> None:
    """Load a local checkpoint into a backbone, leaving out the classification layer it was trained with.

    Parameters
    ----------
    network : Module
    path : path
        A safetensors file, or a torch file holding a state dict (also under the key "state_dict" or "model").
    in_chans : int
        Channels of the images; the first convolution of an RGB checkpoint is adapted to greyscale.

    Raises
    ------
    InputError
        If the file cannot be read or does not fit; it names the keys.
    """
    weights = _read_state_dict(Path(path))
    config = getattr(network, "pretrained_cfg", None) or {}
    for classifier in _as_tuple(config.get("classifier")):
        weights = {key: value for key, value in weights.items() if not key.startswith(f"{classifier}.")}
    for convolution in _as_tuple(config.get("first_conv")):
        key = f"{convolution}.weight"
        if key in weights and weights[key].ndim == 4 and weights[key].shape[1] == 3 != in_chans:
            weights[key] = timm.models.adapt_input_conv(in_chans, weights[key])
    expected = network.state_dict()
    optional = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(weights) - optional)
    unexpected = sorted(set(weights) - set(expected))
    changed = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(expected[key].shape)}"
        for key in sorted(set(expected) & set(weights))
        if weights[key].shape != expected[key].shape
    ]
    if missing or unexpected or changed:
        parts = [
            f"{len(keys)} {what} (first: {', '.join(keys[:3])})"
            for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", changed))
            if keys
        ]
        raise InputError(
            f"The checkpoint '{path}' does not fit the backbone; of its keys, {'; '.join(parts)}. "
            "Pass the checkpoint of this very architecture, or name the architecture it was made with."
        )
    network.load_state_dict(weights, strict=False)


def _as_tuple(value: Any) -> tuple[str, ...]:
    return () if not value else (value,) if isinstance(value, str) else tuple(value)


def _read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"The checkpoint '{path}' does not exist; 'pretrained' takes True, False or a file.")
    try:
        weights: Any
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(f"The checkpoint '{path}' is damaged or no state dict ({shorten(error)}).") from error
    except UnpicklingError as error:  # how weights_only=True refuses anything but tensors
        raise InputError(
            f"The checkpoint '{path}' holds more than tensors, so reading it could run code. "
            "Save its state_dict() alone, best as safetensors, and pass that file."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(weights, Mapping) and isinstance(weights.get(key), Mapping):
            weights = weights[key]
    if not _is_state_dict(weights):
        raise InputError(
            f"The checkpoint '{path}' holds {shorten(weights)}, not a state dict: a dict of names and tensors. "
            "Save the network's state_dict(), and pass that file."
        )
    return {re.sub(r"^module\.", "", key): value for key, value in weights.items()}


def _is_state_dict(weights: Any) -> bool:
    return isinstance(weights, Mapping) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()
    )
