"""A fitted classifier as plain data and tensors, and back."""

from __future__ import annotations

import copy
import importlib.metadata
import math
import os
import platform
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from sklearn.preprocessing import MultiLabelBinarizer
from torch import nn

from multilabelkit.checks import shorten
from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError, ModelFileError
from multilabelkit.fitting import BaseImageClassifier, check_backbone_params, check_classifier
from multilabelkit.nn.network import create_network
from multilabelkit.storage import read_model, write_model

# Parameters that only a fit needs and that may hold code; they are written as None.
_NOT_SAVED = ("callbacks",)

_BACKBONE_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)?")

Classifier = TypeVar("Classifier", bound=BaseImageClassifier)


def save_classifier(classifier: BaseImageClassifier, path: str | os.PathLike) -> None:
    """Write a fitted classifier as a model folder."""
    parameters = classifier.get_params(deep=False)
    is_own = not isinstance(parameters["backbone"], str)
    config = {
        "kind": type(classifier).__name__,
        "parameters": {
            name: _to_plain(name, value)
            for name, value in parameters.items()
            if name not in _NOT_SAVED and not (is_own and name == "backbone")
        },
        "own_backbone": _name_own(parameters["backbone"]) if is_own else None,
        "classes": _to_plain("classes", classifier.classes_),
        "input": vars(classifier.input_spec_) | {},
        "thresholds": classifier.thresholds_.tolist(),
        "threshold_report": _report_to_plain(classifier.threshold_report_),
        "history": _to_plain("history", classifier.history_),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("multilabelkit", "torch", "timm", "scikit-learn")},
        },
    }
    write_model(path, config, classifier.network_.state_dict())


def _name_own(backbone: Any) -> str:
    return getattr(backbone, "__name__", type(backbone).__name__)


def _to_plain(name: str, value: Any) -> Any:
    """Turn a value into what JSON can hold; NaN becomes null."""
    if isinstance(value, np.random.RandomState):
        return None  # its state is spent by the fit
    if isinstance(value, (os.PathLike, torch.device)):
        return str(value)
    if isinstance(value, (np.ndarray, np.generic)):
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


def _report_to_plain(report: pd.DataFrame | None) -> dict[str, list] | None:
    return None if report is None else {name: _to_plain(name, report[name].to_numpy()) for name in report.columns}


def load_classifier(
    kind: type[Classifier],
    path: str | os.PathLike,
    *,
    backbone: nn.Module | Callable[..., nn.Module] | None = None,
    device: str | torch.device = "auto",
) -> Classifier:
    """Read a fitted classifier from a model folder; no code of the folder's choosing runs."""
    config, weights = read_model(path)
    if config.get("kind") != kind.__name__:
        raise ModelFileError(f"The model folder '{path}' holds a {shorten(config.get('kind'))}, not a {kind.__name__}.")
    own = config.get("own_backbone")
    if own is not None and backbone is None:
        raise InputError(
            f"The model folder '{path}' was trained with a backbone of your own, {shorten(own)}, and holds its weights "
            f"but not its code. Attach it: {kind.__name__}.load(path, backbone={own})."
        )
    if own is None and backbone is not None:
        raise InputError(f"The model folder '{path}' names its backbone; load it without backbone=.")
    try:
        return _restore(kind, config, weights, backbone=backbone, device=device)
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelFileError(
            f"The model folder '{path}' does not fit together: {error}. "
            "Save it again, or attach the very backbone it was trained with."
        ) from error


def _restore(kind, config, weights, *, backbone, device) -> Any:
    parameters = dict(config["parameters"])
    unknown = sorted(set(parameters) - set(kind._get_param_names()))
    if unknown:
        raise InputError(f"it holds the unknown parameter {unknown[0]!r}")
    if isinstance(parameters["normalization"], list):
        mean, std = parameters["normalization"]
        parameters["normalization"] = (_to_tuple(mean), _to_tuple(std))
    parameters["backbone"] = parameters["backbone"] if backbone is None else backbone
    parameters["device"] = device
    classifier = kind(**parameters)
    check_classifier(classifier)
    if backbone is None and not _BACKBONE_NAME.fullmatch(parameters["backbone"]):
        raise InputError(f"it holds the backbone name {shorten(parameters['backbone'])}")
    _restore_decision(classifier, config)
    _restore_network(classifier, config["input"], weights)
    return classifier


def _restore_decision(classifier, config: Mapping[str, Any]) -> None:
    classes = config["classes"]
    if not classes or not all(isinstance(name, (str, int)) for name in classes) or len(set(classes)) != len(classes):
        raise InputError("its classes are not a list of different names")
    thresholds = np.array(config["thresholds"], dtype=np.float64)
    if thresholds.shape != (len(classes),) or not ((thresholds >= 0) & (thresholds <= 1)).all():
        raise InputError("its thresholds are not one number in [0, 1] for each class")
    classifier.label_binarizer_ = MultiLabelBinarizer(classes=classes).fit([])
    classifier.classes_ = classifier.label_binarizer_.classes_
    classifier.thresholds_ = thresholds
    report = config["threshold_report"]
    index = pd.Index(classes, name="class")
    classifier.threshold_report_ = None if report is None else pd.DataFrame(report, index=index)
    classifier.history_ = [dict(row) for row in config["history"]]


def _restore_network(classifier, stored: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    check_backbone_params(classifier.backbone_params or {})
    size, channels = stored["size"], stored["channels"]
    if type(size) is not int or not 0 < size <= 10_000 or channels not in (1, 3):
        raise InputError("its input has no sensible size")
    spec = InputSpec(size=size, channels=channels, mean=_to_tuple(stored["mean"]), std=_to_tuple(stored["std"]))
    if not len(spec.mean) == len(spec.std) == channels:
        raise InputError("its input has not one mean and std for each channel")
    backbone = classifier.backbone
    network, _ = create_network(
        copy.deepcopy(backbone) if isinstance(backbone, nn.Module) else backbone,
        n_classes=len(classifier.classes_),
        in_chans=spec.channels,
        image_size=spec.size,
        normalization=(spec.mean, spec.std),
        head=classifier.head,
        dropout=classifier.dropout,
        pretrained=False,
        backbone_params=classifier.backbone_params or {},
    )
    network.load_state_dict(dict(weights))
    classifier.network_ = network.to(memory_format=torch.channels_last).eval()
    classifier.input_spec_ = spec


def _to_tuple(value: Any) -> Any:
    return tuple(float(part) for part in value) if isinstance(value, list) else float(value)
