"""The numbers of a report: by class and on average, each table gone through as few times as can be."""

from __future__ import annotations

from typing import Any

import numpy as np

from multilabelkit import metrics
from multilabelkit.decision_metrics import average_rates, count_classes, rate_counts, rate_pooled
from multilabelkit.known_labels import average_known, check_decisions
from multilabelkit.ranking_metrics import rank_labels


def measure_report(
    y_true: np.ndarray, y_pred: Any, proba: Any, *, zero_division: float
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns of the table, (n_classes,) each, and the averages, by name."""
    counts = count_classes(*check_decisions(y_true, y_pred, None))
    rates = rate_counts(counts, zero_division)
    columns = {
        "support": counts[2].astype(np.int64),
        **rates._asdict(),
        "average_precision": metrics.average_precision(y_true, proba),
        "brier_score": metrics.brier_score(y_true, proba, average=None),
        "ece": metrics.expected_calibration_error(y_true, proba, average=None),
    }
    overall = rate_pooled(counts, zero_division)
    averages = {
        "macro_f1": average_known(rates.f1),
        "micro_f1": overall.f1,
        "samples_f1": metrics.f1_score(y_true, y_pred, average="samples", zero_division=zero_division),
        "weighted_f1": average_known(rates.f1, counts[2]),
        "mAP": average_known(columns["average_precision"]),
        **dict(zip(("cp", "cr", "cf1"), average_rates(rates), strict=True)),
        **dict(zip(("op", "or", "of1"), overall, strict=True)),
        "subset_accuracy": metrics.subset_accuracy(y_true, y_pred),
        "binary_accuracy": metrics.binary_accuracy(y_true, y_pred),
        "hamming_loss": metrics.hamming_loss(y_true, y_pred),
        **dict(zip(("lrap", "ranking_loss", "coverage_error"), rank_labels(y_true, proba), strict=True)),
        "bce": metrics.binary_cross_entropy(y_true, proba),
        "brier_score": average_known(columns["brier_score"]),
        "ece": average_known(columns["ece"]),
        "n_samples": len(y_true),
        "n_classes_without_positives": int(np.count_nonzero(columns["support"] == 0)),
        "n_unknown": int(np.count_nonzero(np.isnan(y_true))),
    }
    return columns, averages
