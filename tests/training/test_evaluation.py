import math

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, log_loss

from multilabelkit.training.evaluation import CLASSES, LABELS, evaluate_logits, score_epoch


def test_exclusive_classes_are_measured_as_sklearn_does():
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (40, 4)).astype(np.float32)
    truth = random.integers(0, 4, 40)
    row = evaluate_logits(CLASSES, np.eye(4, dtype=np.float32)[truth], logits)
    proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert row["valid_loss"] == pytest.approx(log_loss(truth, proba), rel=1e-5)
    assert row["valid_accuracy"] == accuracy_score(truth, logits.argmax(axis=1))
    assert row["valid_macro_f1"] == pytest.approx(f1_score(truth, logits.argmax(axis=1), average="macro"))


def test_exclusive_rows_of_unknown_class_are_left_out():
    logits = np.array([[1, 0], [0, 1], [5, 0]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1], [np.nan, np.nan]], dtype=np.float32)
    row = evaluate_logits(CLASSES, targets, logits)
    assert row == evaluate_logits(CLASSES, targets[:2], logits[:2])
    assert row["valid_accuracy"] == 1
    nothing = evaluate_logits(CLASSES, targets[2:], logits[2:])
    assert all(math.isnan(value) for value in nothing.values())


@pytest.mark.parametrize("task", [LABELS, CLASSES], ids=["labels", "classes"])
def test_columns_are_those_that_are_measured(task):
    targets = np.eye(3, dtype=np.float32)
    assert tuple(evaluate_logits(task, targets, targets)) == task.columns


def test_a_metric_of_the_callers_sees_probabilities():
    targets, logits = np.array([[1, 0]], dtype=np.float32), np.zeros((1, 2), dtype=np.float32)
    row = evaluate_logits(LABELS, targets, logits, monitor=lambda y_true, proba: (y_true * proba).sum())
    assert row["valid_score"] == 0.5
    assert score_epoch(row, task=LABELS, monitor=len) == 0.5


@pytest.mark.parametrize(
    ("row", "monitor", "expected"),
    [
        ({"train_loss": 0.3, "valid_map": 0.7, "valid_loss": 0.2}, "auto", 0.7),
        ({"train_loss": 0.3, "valid_map": math.nan, "valid_loss": 0.2}, "auto", -0.2),
        ({"train_loss": 0.3, "valid_map": math.nan, "valid_loss": math.nan}, "auto", -0.3),
        ({"train_loss": 0.3}, "auto", -0.3),
        ({"train_loss": 0.3, "valid_map": 0.7, "valid_macro_f1": 0.6}, "valid_macro_f1", 0.6),
        ({"train_loss": 0.3, "valid_map": 0.7}, "train_loss", -0.3),
        ({"train_loss": 0.3, "valid_map": math.nan}, "valid_map", -math.inf),
    ],
)
def test_higher_is_better_whatever_is_watched(row, monitor, expected):
    assert score_epoch(row, task=LABELS, monitor=monitor) == expected
