"""A fingerprint of a network: what it computes decides it, and nothing else."""

from __future__ import annotations

import contextlib
import enum
import functools
import hashlib
import itertools
import sys
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

if TYPE_CHECKING:
    from multilabelkit.nn.network import Network

# Where weights come from and what the modules note down for themselves decides no feature.
_LEFT_OUT = frozenset(vars(nn.Module())) | {"pretrained_cfg", "default_cfg"}
_NOT_CODE = {
    "__dict__",
    "__weakref__",
    "__doc__",
    "__annotations__",
    "__annotate_func__",
    "__firstlineno__",
    "_abc_impl",
}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, enum.Enum, torch.dtype, torch.device, np.generic)


def compute_fingerprint(value: Any) -> str:
    """Digest whatever decides what a network computes.

    Tensors stand for themselves by their bytes; modules by their tensors, parts, hooks and attributes; the functions
    and classes of installed packages by name and version; and those of the caller's own by their code, with the
    functions and constants that it names. No address, date or file name has a part in it, so that it is the same in
    every process. What code reaches in another way, such as a file that it reads, it does not know.

    Parameters
    ----------
    value : Module, or a tuple of modules and settings

    Returns
    -------
    fingerprint : str
        64 hexadecimal digits.

    Examples
    --------
    >>> compute_fingerprint(nn.ReLU()) == compute_fingerprint(nn.ReLU())
    True
    >>> compute_fingerprint(nn.LeakyReLU(0.1)) == compute_fingerprint(nn.LeakyReLU(0.2))
    False
    """
    return _digest(value, {}).hex()


def fingerprint_network(network: Network) -> str:
    """Digest whatever decides the features that a network gives to its head.

    Parameters
    ----------
    network : Network

    Returns
    -------
    fingerprint : str
        64 hexadecimal digits.
    """
    return compute_fingerprint((network.backbone, getattr(network.head, "input_kind", "pooled")))


def has_own_code(network: nn.Module) -> bool:
    """Return whether a module in it is of a class of the caller's, which may change while the program runs."""
    return any(_is_own(kind) for kind in {type(module) for module in network.modules()})


def _digest(value: Any, known: dict[int, tuple[Any, bytes]]) -> bytes:
    """Digest a value by its content; `known` holds those that were met before, and so ends circles."""
    take_apart = _find_way(type(value))  # type: ignore[arg-type]
    if take_apart is None:
        return hashlib.sha256(f"{type(value).__name__} {value!r}".encode()).digest()
    if id(value) not in known:
        known[id(value)] = value, b"a circle"
        digest = hashlib.sha256(take_apart.__name__.encode())
        for part in take_apart(value):
            digest.update(part if isinstance(part, memoryview) else _digest(part, known))
        known[id(value)] = value, digest.digest()
    return known[id(value)][1]


@functools.cache
def _find_way(kind: type) -> Callable[[Any], Iterable[Any]] | None:
    """Return how to take apart what is of this kind, or None if its `repr` says it all."""
    if issubclass(kind, _PLAIN):
        return None
    return next((way for kinds, way in _WAYS if issubclass(kind, kinds)), _list_object)


def _list_module(module: nn.Module) -> Iterable[Any]:
    yield type(module)
    yield dict(module._parameters.items())
    yield dict(module._buffers.items())
    yield dict(module._modules.items())
    yield [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    yield {name: value for name, value in vars(module).items() if name not in _LEFT_OUT}


def _list_tensor(tensor: torch.Tensor) -> Iterable[Any]:
    """The strides belong to it: the layout of weights chooses the kernel, and so the rounding errors."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)  # that of the memory: nothing is copied
    content = tensor.detach().cpu().permute(order).contiguous().reshape(-1).view(torch.uint8)
    return str(tensor.dtype), tuple(tensor.shape), tensor.stride(), content.numpy().data


def _list_array(array: np.ndarray) -> Iterable[Any]:
    return array.dtype.str, array.shape, array.tobytes()


def _list_mapping(mapping: Mapping) -> Iterable[Any]:
    return itertools.chain.from_iterable(mapping.items())


def _list_set(values: Collection) -> Iterable[Any]:
    return sorted(map(repr, values))  # their order differs between processes


def _list_code(code: types.CodeType) -> Iterable[Any]:
    return code.co_code, code.co_names, code.co_consts


def _list_function(function: types.FunctionType) -> Iterable[Any]:
    yield from _name(function)
    yield function.__defaults__, function.__kwdefaults__
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents
    if _is_own(function):
        yield function.__code__
        yield {name: function.__globals__.get(name) for name in function.__code__.co_names}


def _list_class(kind: type) -> Iterable[Any]:
    yield from _name(kind)
    if _is_own(kind):
        yield kind.__bases__
        yield {name: value for name, value in vars(kind).items() if name not in _NOT_CODE}


def _list_object(value: Any) -> Iterable[Any]:
    """Take any other object apart as pickle would; one that pickle cannot, such as a lock, raises TypeError."""
    yield from _name(value)
    reduced = value.__reduce_ex__(4)
    yield from (
        [reduced] if isinstance(reduced, str) else [[*part] if isinstance(part, Iterator) else part for part in reduced]
    )


def _list_wrapped(value: Any) -> Iterable[Any]:
    return [getattr(value, name, None) for name in ("__func__", "fget", "fset")]


def _name(value: Any) -> Iterable[Any]:
    """Name a class, a function or a module, with the version of its package."""
    module = getattr(value, "__module__", None)
    root = sys.modules.get(str(module).partition(".")[0])
    names = [str(getattr(value, name, "")) for name in ("__module__", "__qualname__", "__name__")]
    return *names, str(getattr(root, "__version__", ""))


def _is_own(value: Any) -> bool:
    """Tell whether a class or function is the caller's: its code may change where the version of no package does."""
    root = str(getattr(value, "__module__", "")).partition(".")[0]
    if root == "__main__" or root == "multilabelkit" or root in sys.stdlib_module_names:
        return root == "__main__"  # whose file may be that of an installed program
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return not {"site-packages", "dist-packages"} & set(Path(file).parts)


_WAYS: list[tuple[Any, Callable[[Any], Iterable[Any]]]] = [
    (nn.Module, _list_module),
    (torch.Tensor, _list_tensor),
    (np.ndarray, _list_array),
    (Mapping, _list_mapping),
    ((list, tuple), iter),
    ((set, frozenset), _list_set),
    (types.CodeType, _list_code),
    (types.FunctionType, _list_function),
    (type, _list_class),
    (types.ModuleType, _name),
    ((staticmethod, classmethod, property), _list_wrapped),
]
