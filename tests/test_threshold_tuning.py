import inspect
import re

import pytest

from multilabelkit.errors import InputError
from multilabelkit.threshold_tuning import check_threshold_params, tune_thresholds

UNKNOWN = "Known are: beta, target, confidence, cost_fp, cost_fn, n_bootstraps, shrink, random_state."


@pytest.mark.parametrize(
    ("thresholds", "params"),
    [
        ("f1", None),
        ("fbeta", {"beta": 2, "n_bootstraps": 0, "shrink": 5.0, "random_state": None}),
        ("precision", {"target": 0.9, "confidence": 0.5}),
        ("cost", {"cost_fn": 3}),
        (0.5, None),
        ({"sea": 0.5}, {}),
    ],
)
def test_threshold_params_that_tune_thresholds_takes_pass(thresholds, params):
    check_threshold_params("Net", thresholds, params)


@pytest.mark.parametrize(
    ("thresholds", "params", "message"),
    [
        (
            0.5,
            {"shrink": 0},
            "threshold_params has no effect on fixed thresholds. Leave it out, or name an objective.",
        ),
        (
            "f1",
            {"objective": "fbeta", "beta": 2},
            "threshold_params must not hold 'objective', which stands in thresholds. Write thresholds='fbeta' instead.",
        ),
        ("f1", {"shrinc": 0}, f"threshold_params has no 'shrinc'. Did you mean 'shrink'? {UNKNOWN}"),
        ("f1", {"classes": ["sea"]}, f"threshold_params has no 'classes'. {UNKNOWN}"),
        ("f1", {3: 0}, f"threshold_params has no 3. {UNKNOWN}"),
        (
            "f1",
            {"shrink": -1},
            "The 'shrink' parameter of Net's threshold_params must be 'auto', or a number >= 0. Got -1 instead.",
        ),
        (
            "precision",
            {"target": 2},
            "The 'target' parameter of Net's threshold_params must be a number > 0 and < 1. Got 2 instead.",
        ),
        ("precision", None, "objective='precision' needs target, a number > 0 and < 1. Got none."),
        ("f1", {"beta": 2}, "beta=2 has no effect with objective='f1'; it belongs to 'fbeta'. Leave it out."),
    ],
)
def test_other_threshold_params_are_refused(thresholds, params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_threshold_params("Net", thresholds, params)


def test_every_keyword_of_tune_thresholds_is_known():
    taken = {"y_true", "proba", "objective", "classes"}
    assert set(re.findall(r"\w+", UNKNOWN)[2:]) == set(inspect.signature(tune_thresholds).parameters) - taken
