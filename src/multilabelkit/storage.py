"""The model folder: plain data and tensors in, plain data and tensors out. Loading runs no code.

A folder holds ``config.json`` (everything but the weights), ``model.safetensors`` (the weights) and ``SHA256SUMS``
(which ``sha256sum -c`` reads too). Nothing in it is pickled, and nothing in it names code to import.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from multilabelkit.atomic import find_folder, write_folder
from multilabelkit.checks import shorten
from multilabelkit.errors import InputError, ModelFileError

CONFIG, WEIGHTS, SUMS = "config.json", "model.safetensors", "SHA256SUMS"
FORMAT, SCHEMA_VERSION = "multilabelkit", 1

# Read no more than this, whatever a folder holds: a config is some kilobytes, weights may be large.
_LIMITS = {SUMS: 4096, CONFIG: 64 * 2**20, WEIGHTS: 64 * 2**30}
_MAX_READS = 20  # of a folder that others keep replacing


def write_model(path: str | os.PathLike, config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Write a model folder, whole or not at all.

    Parameters
    ----------
    path : path
        The folder to make. One that holds a model is replaced; one that holds anything else is refused.
    config : mapping
        Plain data that JSON can hold.
    weights : mapping of str to tensor
        Finite.

    Raises
    ------
    InputError
        If the folder holds something else or cannot be written, or the weights are not finite. Nothing is left
        half-written.
    """
    path = Path(os.path.abspath(path))
    _check_weights(weights)
    content = {
        CONFIG: json.dumps({"format": FORMAT, "schema_version": SCHEMA_VERSION, **config}, indent=1).encode(),
        # Copies, because safetensors refuses tensors that share memory, as tied weights do.
        WEIGHTS: save(
            {key: value.detach().clone(memory_format=torch.contiguous_format).cpu() for key, value in weights.items()}
        ),
    }
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())
    try:
        _check_replaceable(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_folder(path, {**content, SUMS: sums.encode()})
    except OSError as error:
        raise InputError(
            f"The model cannot be saved to '{path}': {error.strerror or error}. Nothing was written; "
            "choose a folder that you may write to, on a disk with room."
        ) from error


def _check_weights(weights: Mapping[str, Any]) -> None:
    for key, value in weights.items():
        if not isinstance(value, torch.Tensor):
            raise InputError(
                f"The network's state {key!r} is a {type(value).__name__}, which cannot be saved as data. "
                "Keep in your module's state_dict() nothing but tensors."
            )
        if not _is_finite(value):
            raise InputError(
                f"The weights {key!r} are not all finite, so the model cannot be saved. Train again with a lower "
                "learning_rate; or, if they are a mask of your own module, register it with persistent=False."
            )


def _is_finite(value: torch.Tensor) -> bool:
    return not value.is_floating_point() or bool(value.isfinite().all())


def _check_replaceable(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        raise InputError(f"The model cannot be saved to '{path}': it is a file or a link. Choose the name of a folder.")
    found = set(os.listdir(path))
    # Note: a config.json and a model.safetensors without our sums are the model of another library.
    if found and found != {CONFIG, WEIGHTS, SUMS}:
        first = min(found - {CONFIG, WEIGHTS, SUMS}, default=min(found))
        raise InputError(
            f"The model cannot be saved to '{path}': the folder holds other files ('{first}'), and saving replaces "
            "a folder whole. Choose a new folder, or one that holds a model and nothing else."
        )


def read_model(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Read a model folder and check that it is whole; no code of the folder's choosing runs.

    Parameters
    ----------
    path : path

    Returns
    -------
    config : dict
    weights : dict of str to tensor
        On the CPU, finite.

    Raises
    ------
    ModelFileError
        If the folder is missing, damaged, or made by a newer version.
    """
    for _ in range(_MAX_READS - 1):
        before = _identify(find_folder(path))
        try:
            return _read_folder(path)
        except ModelFileError:
            if _identify(find_folder(path)) == before:
                raise
    return _read_folder(path)


def _identify(folder: Path) -> tuple[int, ...] | None:
    """Return what differs between a folder and the one that replaces it while it is being read."""
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _read_folder(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    folder = find_folder(path)
    if not folder.is_dir():
        raise ModelFileError(f"There is no model folder at '{path}'; pass the folder that save() made.")
    if not any(os.path.lexists(folder / name) for name in _LIMITS):
        raise ModelFileError(f"The folder '{path}' holds no model; pass the folder that save() made.")
    sums = _parse_sums(_read_file(folder, SUMS))
    content = {name: _read_file(folder, name) for name in (CONFIG, WEIGHTS)}
    for name, data in content.items():
        if hashlib.sha256(data).hexdigest() != sums.get(name):
            raise _damaged(folder, f"{name} does not match its checksum in {SUMS}")
    return _parse_config(folder, content[CONFIG]), _parse_weights(folder, content[WEIGHTS])


def _damaged(folder: Path, reason: str) -> ModelFileError:
    return ModelFileError(f"The model folder '{folder}' is damaged: {reason}. Copy or save it again.")


def _read_file(folder: Path, name: str) -> bytes:
    """Read a regular file of bounded size; links and devices are refused, so a folder reads nothing but itself."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(folder / name, flags)
    except OSError as error:
        raise _damaged(folder, f"{name} cannot be opened ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _damaged(folder, f"{name} is not a regular file")
        if status.st_size > _LIMITS[name]:
            raise _damaged(folder, f"{name} has {status.st_size} bytes, more than any real one")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:
        raise _damaged(folder, f"{name} cannot be read ({error.strerror})") from error
    finally:
        os.close(descriptor)


def _parse_sums(data: bytes) -> dict[str, str]:
    lines = data.decode("ascii", errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _parse_config(folder: Path, data: bytes) -> dict[str, Any]:
    try:
        config = json.loads(data.decode("utf-8"), object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, f"{CONFIG} is no valid JSON ({error})") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise _damaged(folder, f"{CONFIG} does not describe a multilabelkit model")
    version = config.get("schema_version")
    if type(version) is not int or version < 1:
        raise _damaged(folder, f"{CONFIG} has the schema_version {shorten(version)}")
    if version > SCHEMA_VERSION:
        raise ModelFileError(
            f"The model folder '{folder}' has schema_version {shorten(version)}, but this multilabelkit reads up to "
            f"{SCHEMA_VERSION}. Upgrade: pip install -U multilabelkit"
        )
    return config


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _parse_weights(folder: Path, data: bytes) -> dict[str, torch.Tensor]:
    try:
        weights = load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # KeyError: an unknown dtype
        raise _damaged(folder, f"{WEIGHTS} is no valid safetensors file ({shorten(str(error))})") from error
    for key, value in weights.items():
        if not _is_finite(value):
            raise _damaged(folder, f"the weights {shorten(key)} are not all finite")
    return weights
