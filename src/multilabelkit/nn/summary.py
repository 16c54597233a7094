"""A table of a network's layers: what each gives, and how many numbers it has learnt."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.nn.network import switch_to_eval


def summarize_network(network: nn.Module, spec: InputSpec) -> pd.DataFrame:
    """List the layers of a network in the order in which an image passes them.

    A row is a module without modules inside, or one that has parameters of its own beside them, such as the position
    embedding of a vision transformer. The network itself stays as it is.

    Parameters
    ----------
    network : Network
    spec : InputSpec
        What it wants to see; one black image is sent through.

    Returns
    -------
    table : DataFrame
        One row per layer, at its first use, with the columns

        - ``name``: where the module is in the network, such as ``"backbone.layers.0"``;
        - ``kind``: its class;
        - ``output_shape``: a tuple with None for the number of images, such as ``(None, 64, 112, 112)``; None for a
          module that has parameters but is not called, which stands behind the one that was made before it;
        - ``n_params``: the number of its own parameters, without those in modules inside. What several rows share
          counts in the first, so that the column sums to the size of the network;
        - ``trainable``: whether any of its own parameters is trained.

    Examples
    --------
    >>> from multilabelkit.nn.network import create_network
    >>> network, spec = create_network(
    ...     "small_cnn", n_classes=3, in_chans=1, image_size=150, normalization="unit", head="linear", dropout=0.1,
    ...     pretrained=False, backbone_params={},
    ... )
    >>> table = summarize_network(network, spec)
    >>> table.loc[0, "name"], table.loc[0, "output_shape"], int(table["n_params"].sum())
    ('backbone.layers.0', (None, 10, 148, 148), 26548099)
    """
    names = {
        module: name
        for name, module in network.named_modules()
        if not next(module.children(), None) or next(module.parameters(recurse=False), None) is not None
    }
    shapes = _trace_shapes(network, list(names), spec)
    counted: set[nn.Parameter] = set()
    rows = []
    for module in _put_in_order(list(names), shapes):
        own = list(module.parameters(recurse=False))
        rows.append(
            {
                "name": names[module],
                "kind": type(module).__name__,
                "output_shape": shapes.get(module),
                "n_params": sum(parameter.numel() for parameter in own if parameter not in counted),
                "trainable": any(parameter.requires_grad for parameter in own),
            }
        )
        counted.update(own)
    return pd.DataFrame(rows, columns=["name", "kind", "output_shape", "n_params", "trainable"])


def _trace_shapes(network: nn.Module, modules: list[nn.Module], spec: InputSpec) -> dict[nn.Module, Any]:
    """Send one black image through, and return the output shape of each module called, in the order of their calls."""
    shapes: dict[nn.Module, Any] = {}
    first = next(network.parameters(), torch.zeros(0))
    image = torch.zeros(1, spec.channels, spec.size, spec.size, device=first.device)

    # The place of a module is where it starts, before the modules inside it; its shape is known when it ends. What a
    # hook returns would replace what passes, so these return nothing.
    def note_start(module: nn.Module, args: Any) -> None:
        shapes.setdefault(module, None)

    def note_end(module: nn.Module, args: Any, output: Any) -> None:
        tensor = _find_tensor(output)
        if shapes[module] is None and tensor is not None:
            shapes[module] = (None, *tensor.shape[1:])

    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(note_start).remove)
            stack.callback(module.register_forward_hook(note_end).remove)
        stack.enter_context(switch_to_eval(network))
        stack.enter_context(_keep_buffers(network))
        stack.enter_context(torch.no_grad())
        network(image)
    return shapes


def _find_tensor(output: Any) -> torch.Tensor | None:
    """Return the first tensor of what a module gave, such as the output of an attention without its weights."""
    if isinstance(output, torch.Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, (list, tuple)) else ()
    return next((tensor for tensor in map(_find_tensor, parts) if tensor is not None), None)


@contextlib.contextmanager
def _keep_buffers(network: nn.Module) -> Iterator[None]:
    """Undo what a forward pass writes into buffers; torch's own modules write nothing in eval mode, others may."""
    kept = [
        (module, name, buffer, buffer.clone())
        for module in network.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in kept:
            setattr(module, name, buffer)
            if not torch.equal(buffer, value):
                buffer.copy_(value)


def _put_in_order(modules: list[nn.Module], shapes: dict[nn.Module, Any]) -> list[nn.Module]:
    """Return the modules in the order of their calls; those with parameters but no call behind their predecessor."""
    ordered = list(shapes)
    previous = None
    for module in modules:
        if module in shapes:
            previous = module
        elif next(module.parameters(recurse=False), None) is not None:
            ordered.insert(0 if previous is None else ordered.index(previous) + 1, module)
            previous = module
    return ordered
