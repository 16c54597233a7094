"""Multi-label image classification in PyTorch with the manners of scikit-learn."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the module that holds each. They are imported on first use: `import multilabelkit` stays
# light, and neither torch nor sklearn is loaded before something needs it.
_NAMES = {
    "ImageClassifier": "multilabelkit.exclusive",
    "ImageEmbedder": "multilabelkit.embedder",
    "MultiLabelImageClassifier": "multilabelkit.classifier",
    "MultiLabelLogisticRegression": "multilabelkit.linear",
    "MultiLabelThresholdsCV": "multilabelkit.tuned",
    "as_indicator": "multilabelkit.data.labels",
    "as_labels": "multilabelkit.data.labels",
    "check_data": "multilabelkit.data.doctor",
}
_MODULES = (
    "calibration",
    "datasets",
    "errors",
    "inspection",
    "metrics",
    "model_selection",
    "report",
    "rules",
    "thresholds",
    "training",
)

__all__ = [
    "ImageClassifier",
    "ImageEmbedder",
    "MultiLabelImageClassifier",
    "MultiLabelLogisticRegression",
    "MultiLabelThresholdsCV",
    "__version__",
    "as_indicator",
    "as_labels",
    "calibration",
    "check_data",
    "datasets",
    "errors",
    "inspection",
    "metrics",
    "model_selection",
    "report",
    "rules",
    "thresholds",
    "training",
]

if TYPE_CHECKING:
    from multilabelkit import (
        calibration,
        datasets,
        errors,
        inspection,
        metrics,
        model_selection,
        report,
        rules,
        thresholds,
        training,
    )
    from multilabelkit.classifier import MultiLabelImageClassifier
    from multilabelkit.data.doctor import check_data
    from multilabelkit.data.labels import as_indicator, as_labels
    from multilabelkit.embedder import ImageEmbedder
    from multilabelkit.exclusive import ImageClassifier
    from multilabelkit.linear import MultiLabelLogisticRegression
    from multilabelkit.tuned import MultiLabelThresholdsCV


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(f"multilabelkit.{name}")
    else:
        raise AttributeError(f"module 'multilabelkit' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
