"""A fitted classifier as plain data and tensors, and back."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import os
import platform
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from multilabelkit.calibration import Calibrator
from multilabelkit.checks import shorten
from multilabelkit.data.images import COLOR_MODES, InputSpec
from multilabelkit.errors import InputError, ModelFileError, warn
from multilabelkit.nn.backbones import create_backbone
from multilabelkit.nn.heads import create_head
from multilabelkit.nn.network import Network, create_network
from multilabelkit.parameters import BaseImageClassifier, check_classifier, describe_network
from multilabelkit.storage import read_model, write_model

_BACKBONE_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")
_MAX_SIZE = 10_000  # of an image side, and of any number for the backbone, in a file
_MAX_PIXELS = 10**9  # of an image that a loaded model would decode
_MAX_REASON = 500  # letters

_CACHES = ("pixel_cache", "feature_cache")  # folders of this machine
_CODE_FOR_FITTING = {"augment": "transform", "loss": "function", "monitor": "function", "optimizer": "class"}

Classifier = TypeVar("Classifier", bound=BaseImageClassifier)


def save_classifier(classifier: BaseImageClassifier, path: str | os.PathLike) -> None:
    """Write a fitted classifier as a model folder."""
    parameters = classifier.get_params(deep=False) | classifier.network_params_
    for name, what in _CODE_FOR_FITTING.items():
        if callable(parameters[name]):
            warn(
                f"The {what} in the {name!r} parameter is not saved, because it may hold code: predictions do not need "
                "it, but set it again before the loaded classifier is fitted further."
            )
    is_own = not isinstance(parameters["backbone"], str)
    config = {
        "kind": type(classifier).__name__,
        "parameters": {name: _to_plain(name, value) for name, value in parameters.items() if _is_data(name, value)},
        "own_backbone": _name_own(parameters["backbone"]) if is_own else None,
        "classes": _to_plain("classes", classifier.classes_),
        "input": vars(classifier.input_spec_) | {},
        "n_features": _count_features(classifier.network_.head),
        "split_seed": classifier.split_seed_,
        "images_key": classifier.images_key_,
        "validation_rows": _to_plain("validation_rows", classifier.validation_rows_),
        "learning_rate": _to_plain("learning_rate", classifier.learning_rate_),
        **classifier._describe_decision(),
        "history": _to_plain("history", classifier.history_),
        "refit_history": _to_plain("history", classifier.refit_history_),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("multilabelkit", "torch", "timm", "scikit-learn")},
        },
    }
    write_model(path, config, classifier.network_.state_dict())


def _is_data(name: str, value: Any) -> bool:
    """Tell whether a parameter can be written; those that only a fit needs may hold code, or name a place here."""
    if name in _CACHES:
        return value in (None, "auto", "memory")
    return name != "callbacks" and not (callable(value) and (name == "backbone" or name in _CODE_FOR_FITTING))


def _name_own(backbone: Any) -> str:
    return getattr(backbone, "__name__", type(backbone).__name__)


def _to_plain(name: str, value: Any) -> Any:
    """Turn a value into what JSON can hold; NaN becomes null."""
    if isinstance(value, np.random.RandomState):
        return None  # its state is spent by the fit
    if isinstance(value, (os.PathLike, torch.device)):
        return str(value)
    if isinstance(value, pd.Series) and name in ("thresholds", "class_weight"):
        value = value.to_dict()
    if isinstance(value, (np.ndarray, np.generic, pd.Series, pd.Index)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_to_plain(name, part) for part in value]
    if isinstance(value, Mapping):
        return {str(key): _to_plain(name, part) for key, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(
        f"The {name!r} parameter holds {shorten(value)}, which cannot be saved as data. "
        "Set it to numbers, strings, lists or dicts of these before saving."
    )


def describe_report(report: pd.DataFrame | None) -> dict[str, list] | None:
    """Return the report of the thresholds as plain data."""
    return None if report is None else {name: _to_plain(name, report[name].to_numpy()) for name in report.columns}


def load_classifier(
    kind: type[Classifier],
    path: str | os.PathLike,
    *,
    backbone: nn.Module | Callable[..., nn.Module] | None = None,
    device: str | torch.device = "auto",
) -> Classifier:
    """Read a fitted classifier from a model folder; no code of the folder's choosing runs."""
    check_classifier(kind("small_cnn" if backbone is None else backbone, device=device))
    config, weights = read_model(path)
    if config.get("kind") != kind.__name__:
        raise ModelFileError(
            f"The model in '{path}' is of the class {shorten(config.get('kind'))}, not of {kind.__name__}. Call the "
            "load of its own class."
        )
    own = config.get("own_backbone")
    if own is not None and backbone is None:
        raise InputError(
            f"The model folder '{path}' was trained with a backbone of your own, {shorten(own)}, and holds its weights "
            f"but not its code. Attach the module, class or function: {kind.__name__}.load(path, backbone=...)."
        )
    if own is None and backbone is not None:
        raise InputError(f"The model folder '{path}' names its backbone; load it without backbone=.")
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
            return _restore(kind, config, weights, backbone=backbone, device=device)
    except Exception as error:  # of any kind: what a damaged config makes of a network's constructor is boundless
        advice = "Save it again." if own is None else "Attach the very backbone it was trained with."
        reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__} {shorten(str(error))}."
        reason = reason if len(reason) <= _MAX_REASON else f"{reason[:_MAX_REASON]}..."  # it may quote the file
        raise ModelFileError(f"The model folder '{path}' does not fit together: {reason} {advice}") from error


def _restore(kind, config, weights, *, backbone, device) -> Any:
    parameters = dict(config["parameters"])
    unknown = sorted(set(parameters) - set(kind._get_param_names()))
    if unknown:
        raise InputError(f"it holds the unknown parameter {unknown[0]!r}.")
    classes = _check_classes(config["classes"])
    if isinstance(parameters["normalization"], list):
        mean, std = parameters["normalization"]
        parameters["normalization"] = (_to_tuple(mean), _to_tuple(std))
    _restore_keys(parameters, classes)
    parameters["backbone"] = parameters["backbone"] if backbone is None else backbone
    parameters["device"] = device
    classifier = kind(**parameters)
    check_classifier(classifier)
    for name in _CACHES:
        folder = getattr(classifier, name)
        if folder not in (None, "auto", "memory"):  # save writes no other, and a fit would write there
            raise InputError(f"it names the folder {shorten(str(folder))}.")
    if classifier.max_pixels > _MAX_PIXELS:
        raise InputError(f"its max_pixels is {shorten(classifier.max_pixels)}.")
    for name in ("batch_size", "num_workers"):
        if (getattr(classifier, name) or 0) > _MAX_SIZE:
            raise InputError(f"its {name} is {shorten(getattr(classifier, name))}.")
    if backbone is None and not _BACKBONE_NAME.fullmatch(parameters["backbone"]):
        raise InputError(f"it holds the backbone name {shorten(parameters['backbone'])}.")
    classifier._restore_decision(config, classes)
    classifier.history_ = [_to_numbers(row) for row in config["history"]]
    classifier.refit_history_ = [_to_numbers(row) for row in config.get("refit_history", [])]
    classifier.split_seed_ = _check_seed(config["split_seed"])
    classifier.images_key_ = str(config.get("images_key", ""))
    classifier.validation_rows_ = _check_rows(config.get("validation_rows"))
    rate = config.get("learning_rate")
    classifier.learning_rate_ = math.nan if rate is None else float(rate)
    classifier.network_params_ = describe_network(classifier)
    classifier.input_spec_ = _restore_input(classifier, config["input"])
    classifier.network_ = _restore_network(classifier, weights, config).to(memory_format=torch.channels_last).eval()
    return classifier


def _check_classes(classes: Any) -> list[str | int]:
    kinds = {type(name) for name in classes}
    if kinds not in ({str}, {int}) or len(set(classes)) != len(classes):
        raise InputError("its classes are not a list of different names.")
    return classes


def _check_rows(rows: Any) -> np.ndarray | None:
    if rows is None:
        return None
    values = np.array(rows)
    if values.ndim != 1 or (values.size and values.dtype.kind != "i") or (values < 0).any():
        raise InputError("its validation_rows are not a list of row numbers.")
    return values.astype(np.int64)


def _check_seed(seed: Any) -> int:
    if type(seed) is not int or not 0 <= seed < 2**32:
        raise InputError(f"its split_seed is {shorten(seed)}.")
    return seed


def restore_thresholds(thresholds: Any, classes: list[str | int]) -> np.ndarray:
    """Return thresholds read from a file, or refuse them."""
    values = np.array(thresholds, dtype=np.float64)
    if values.shape != (len(classes),) or not ((values >= 0) & (values <= 1)).all():
        raise InputError("its thresholds are not one number in [0, 1] for each class.")
    return values


def restore_calibrator(state: Any, classes: list[str | int]) -> Calibrator | None:
    """Return a calibrator read from a file, or refuse it."""
    if state is None:
        return None
    calibrator = Calibrator.from_state(state)
    if len(calibrator.methods_) != len(classes):
        raise InputError(f"its calibrator is of {len(calibrator.methods_)} classes, and there are {len(classes)}.")
    return calibrator


def restore_report(report: Mapping[str, list] | None, classes: list[str | int]) -> pd.DataFrame | None:
    """Return the report of the thresholds from plain data."""
    if report is None:
        return None
    columns = {name: list(_to_numbers(dict(enumerate(column))).values()) for name, column in report.items()}
    return pd.DataFrame(columns, index=pd.Index(classes, name="class"))


def _to_numbers(row: Mapping[Any, Any]) -> dict[Any, Any]:
    """Turn null, which is how NaN was written, back into NaN."""
    return {key: math.nan if value is None else value for key, value in row.items()}


def _restore_input(classifier: BaseImageClassifier, stored: Mapping[str, Any]) -> InputSpec:
    size, channels = stored["size"], stored["channels"]
    if type(size) is not int or not 0 < size <= _MAX_SIZE:
        raise InputError(f"its input has the size {shorten(size)}.")
    if type(channels) is not int or channels != COLOR_MODES[classifier.color_mode]:
        raise InputError(f"its input has {shorten(channels)} channels, its color_mode {classifier.color_mode!r}.")
    mean, std = (np.array(stored[name], dtype=np.float64) for name in ("mean", "std"))
    if not (mean.shape == std.shape == (channels,) and np.isfinite([mean, std]).all() and (std > 0).all()):
        raise InputError("its input has not one mean and one std > 0 for each channel.")
    return InputSpec(
        size=size,
        channels=channels,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        resize=classifier.resize,
    )


def _restore_keys(parameters: dict[str, Any], classes: list[str | int]) -> None:
    """Give dicts by class and by epoch their keys back, which JSON has turned into strings."""
    names = {str(name): name for name in classes}

    def rename(value: Any) -> Any:
        return {names.get(key, key): part for key, part in value.items()} if isinstance(value, dict) else value

    for name in ("thresholds", "class_weight"):
        parameters[name] = rename(parameters.get(name))
    if isinstance(parameters.get("rules"), dict):
        parameters["rules"] = {key: rename(part) for key, part in parameters["rules"].items()}
    sampler = parameters.get("sampler_params")
    if isinstance(sampler, dict) and "frequencies" in sampler:
        parameters["sampler_params"] = sampler | {"frequencies": rename(sampler["frequencies"])}
    if isinstance(parameters.get("trainable"), dict):
        parameters["trainable"] = {int(epoch): share for epoch, share in parameters["trainable"].items()}


def _restore_network(
    classifier: BaseImageClassifier, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> Network:
    spec, params = classifier.input_spec_, dict(classifier.backbone_params or {})
    n_classes = len(classifier.classes_)
    if isinstance(classifier.backbone, str):
        _check_bounded([params, dict(classifier.head_params or {})])
        with _limit_parameters(weights):
            body = create_backbone(
                classifier.backbone,
                in_chans=spec.channels,
                image_size=spec.size,
                pretrained=False,
                backbone_params=params,
            )
            network = Network(body, None)
            if classifier.head is not None:
                network.head = create_head(
                    classifier.head,
                    n_features=_read_n_features(config, weights),
                    n_classes=n_classes,
                    dropout=classifier.dropout,
                    head_params=classifier.head_params,
                )
    else:
        network, _ = create_network(
            copy.deepcopy(classifier.backbone) if isinstance(classifier.backbone, nn.Module) else classifier.backbone,
            n_classes=n_classes,
            in_chans=spec.channels,
            image_size=spec.size,
            normalization=(spec.mean, spec.std),
            head=classifier.head,
            head_params=classifier.head_params,
            dropout=classifier.dropout,
            pretrained=False,
            backbone_params=params,
        )
    _check_fit(network.state_dict(), weights)
    network.load_state_dict(dict(weights))
    return network


def _count_features(head: nn.Module | None) -> int | None:
    """Return how many features a head takes: what its first linear layer does."""
    layers = [] if head is None else [module for module in head.modules() if isinstance(module, nn.Linear)]
    return layers[0].in_features if layers else None


def _read_n_features(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> int:
    """Return how many features the head takes; asking the backbone would cost a forward pass."""
    if "head.linear.weight" in weights:
        return weights["head.linear.weight"].shape[1]
    n_features, sizes = config["n_features"], {size for key in weights for size in weights[key].shape}
    if type(n_features) is not int or n_features not in sizes:
        raise InputError(f"its n_features is {shorten(n_features)}.")
    return n_features


def _check_bounded(value: Any) -> None:
    """Refuse numbers that no backbone has: sizes stand in the file, and memory is taken before weights are compared."""
    if isinstance(value, (list, Mapping)):
        for part in value.values() if isinstance(value, Mapping) else value:
            _check_bounded(part)
    elif isinstance(value, (int, float)) and not abs(value) <= _MAX_SIZE:
        raise InputError(f"its backbone_params hold the number {shorten(value)}.")


@contextmanager
def _limit_parameters(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Stop building a network that has grown far larger than the weights that are to fill it."""
    owner = threading.get_ident()
    room = 2 * sum(value.numel() for value in weights.values()) + 10**6

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal room
        if parameter is not None and threading.get_ident() == owner:
            room -= parameter.numel() + 100  # the small ones take time, not memory
            if room < 0:
                raise InputError("its backbone is far larger than its weights.")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _check_fit(expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Refuse weights that are not, name by name, what the network has."""
    groups = {
        "missing": sorted(set(expected) - set(weights)),
        "unexpected": sorted(set(weights) - set(expected)),
        "of another shape or type": [
            key
            for key in sorted(set(expected) & set(weights))
            if (expected[key].shape, expected[key].dtype) != (weights[key].shape, weights[key].dtype)
        ],
    }
    found = [f"{len(keys)} {what} (first: {shorten(keys[0])})" for what, keys in groups.items() if keys]
    if found:
        raise InputError(f"of its weights, {', '.join(found)}.")


def _to_tuple(value: Any) -> Any:
    return tuple(float(part) for part in value) if isinstance(value, list) else float(value)
