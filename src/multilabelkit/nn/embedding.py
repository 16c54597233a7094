"""Networks that turn an image into one vector: the features of a backbone, or those of one of its layers."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn

from multilabelkit.checks import shorten, suggest
from multilabelkit.data.file_digests import identify_file
from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError
from multilabelkit.nn.backbones import OWN_BACKBONES
from multilabelkit.nn.fingerprint import compute_fingerprint, fingerprint_network, has_own_code
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network, create_network

_MAX_MODELS = 2  # networks as they were made, which copies are taken of

_models: OrderedDict[str, OriginalModel] = OrderedDict()
_lock, _copy_lock = threading.Lock(), threading.Lock()


class EmbeddingModel:
    """A network whose `embed` gives the features; copied from one that is kept as soon as somebody wants to have it.

    Parameters
    ----------
    original : OriginalModel
    is_shared : bool
        Whether others have the original as well.

    Attributes
    ----------
    spec : InputSpec
        What the network wants to see.
    n_features : int
        How many features it gives.
    """

    def __init__(self, original: OriginalModel, *, is_shared: bool) -> None:
        self.spec, self.n_features = original.spec, original.n_features
        self._original = original if is_shared else None
        self._network = None if is_shared else original.network

    @property
    def network(self) -> Network:
        """The network, the owner's to change."""
        with _copy_lock:
            if self._original is not None:
                self._network, self._original = copy.deepcopy(self._original.network), None
        assert self._network is not None
        return self._network

    def compute_fingerprint(self) -> str:
        """Digest whatever decides the features; only once where neither the network nor its code can have changed."""
        original = self._original
        return fingerprint_network(self.network) if original is None else original.compute_fingerprint()


@dataclass(frozen=True)
class OriginalModel:
    """A network as it was made, what it wants to see, and how many features it gives."""

    network: Network
    spec: InputSpec
    n_features: int

    def compute_fingerprint(self) -> str:
        """Return that of the network."""
        return fingerprint_network(self.network) if has_own_code(self.network) else self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return fingerprint_network(self.network)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the fingerprint out, which names the versions of packages: who unpickles it may have others."""
        return {name: value for name, value in vars(self).items() if name != "_fingerprint"}


class LayerFeatures(nn.Module):
    """A backbone that returns what one of its layers gives, averaged over the places of the image.

    Parameters
    ----------
    backbone : Module
    layer : str
        One of the names in ``backbone.named_modules()``. Of a layer that is run several times, the last output counts.

    Examples
    --------
    >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
    >>> LayerFeatures(backbone, "1")(torch.zeros(2, 3, 9, 9)).shape
    torch.Size([2, 8])
    """

    def __init__(self, backbone: nn.Module, layer: str) -> None:
        super().__init__()
        names = [name for name, _ in backbone.named_modules(remove_duplicate=False) if name]
        if layer not in names:
            parts = shorten([name for name, _ in backbone.named_children()], limit=200)
            raise InputError(
                f"The backbone has no layer {layer!r}.{suggest(layer, names)} Its parts are {parts}; "
                "network_.backbone.named_modules() of an embedder fitted with layer=None lists all that is in them."
            )
        self.backbone = backbone
        self.layer = layer

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, C, S, S) to features (B, F) in fp32."""
        outputs: list[Any] = []
        thread = threading.get_ident()

        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:  # another one may be running the same network
                outputs[:] = [output]

        handle = self.backbone.get_submodule(self.layer).register_forward_hook(keep)
        try:
            self.backbone(images)
        finally:
            handle.remove()
        return self._pool(outputs[0] if outputs else None, n_images=len(images))

    def _pool(self, output: Any, *, n_images: int) -> torch.Tensor:
        is_tensor = isinstance(output, torch.Tensor)
        if not is_tensor or not 2 <= output.ndim <= 4 or len(output) != n_images:
            got = f"a tensor of shape {tuple(output.shape)}" if is_tensor else type(output).__name__
            got = "nothing, for it is not run" if output is None else got
            raise InputError(
                f"The layer {self.layer!r} of the backbone must give features (B, F), tokens (B, N, F) or maps "
                f"(B, F, h, w). For {n_images} image(s) it gave {got}; choose another layer."
            )
        if output.ndim == 2:
            return output.float()
        if output.ndim == 3:
            return output.float().mean(dim=1)
        # Images are square, and so are maps of them: that tells which axes are those of the map.
        _, first, second, third = output.shape
        return output.float().mean(dim=(1, 2) if first == second != third else (2, 3))


def create_embedding_model(
    backbone: str | nn.Module | Callable[..., nn.Module],
    *,
    layer: str | None,
    in_chans: int,
    image_size: int | None,
    normalization: str | tuple,
    pretrained: bool | str | os.PathLike,
    backbone_params: Mapping[str, Any],
    seed: int,
) -> EmbeddingModel:
    """Create a backbone that is ready to compute features, in eval mode.

    A search over 30 settings and folds asks for the same network 30 times: the last two that were given by name are
    kept, and copied for who needs more of them than features that are known already.

    Parameters
    ----------
    backbone, in_chans, image_size, normalization, pretrained, backbone_params
        As for `create_network`. A Module is copied.
    layer : str or None
        The layer whose output is wanted, see `LayerFeatures`; None takes the features of the whole backbone.
    seed : int
        Decides random weights. torch's own random numbers stay as they were.

    Returns
    -------
    model : EmbeddingModel

    Raises
    ------
    InputError
        As `create_network`, and if there is no such layer or it gives no features.
    """
    options: dict[str, Any] = {
        "in_chans": in_chans,
        "image_size": image_size,
        "normalization": normalization,
        "pretrained": pretrained,
        "backbone_params": backbone_params,
    }
    key = _identify_model(backbone, pretrained, (layer, options, seed))
    with _lock:  # which also keeps torch's one generator to one creation at a time
        known = None if key is None else _models.pop(key, None)
        model = known or _create_model(backbone, layer, options, seed=seed)
        if key is None:
            return EmbeddingModel(model, is_shared=False)
        _models[key] = model
        if len(_models) > _MAX_MODELS:
            _models.popitem(last=False)
    return EmbeddingModel(model, is_shared=True)


def _create_model(backbone: Any, layer: str | None, options: Mapping[str, Any], *, seed: int) -> OriginalModel:
    body = copy.deepcopy(backbone) if isinstance(backbone, nn.Module) else backbone
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        # Of the head only the width is wanted: it tells how many features there are.
        network, spec = create_network(body, n_classes=1, head="linear", dropout=0.0, **options)
    assert isinstance(network.head, LinearHead)
    n_features = network.head.linear.in_features
    network.head = None
    network.to(memory_format=torch.channels_last).eval()
    if layer is not None:
        network.backbone = LayerFeatures(network.backbone, layer).eval()
        with torch.no_grad():
            n_features = network.embed(torch.zeros(1, spec.channels, spec.size, spec.size)).shape[1]
    return OriginalModel(network, spec, n_features)


def _identify_model(backbone: Any, pretrained: Any, settings: tuple) -> str | None:
    """Return what stands for a network given by its name; None if something may have changed that no name tells."""
    if not isinstance(backbone, str):
        return None
    weights = pretrained if isinstance(pretrained, bool) else identify_file(pretrained)
    if weights is None:
        return None
    with contextlib.suppress(Exception):  # of any kind: what the caller's parameters hold is boundless
        # Names may be given to other models: in a notebook, by the next run of a cell.
        builder = None if backbone in OWN_BACKBONES else timm.model_entrypoint(backbone.partition(".")[0])
        return compute_fingerprint((backbone, builder, weights, settings))
    return None
