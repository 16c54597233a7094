import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.training.lr_finder import find_learning_rate


def whole(message):
    return f"^{re.escape(message)}$"


def run_test(loss_of, **settings):
    """Run the range test on a loss that is a function of the rate alone; return the curve and the rates it set."""
    rates = []
    curve = find_learning_rate(lambda: loss_of(rates[-1]), set_learning_rate=rates.append, **settings)
    return curve, rates


def fall(rate, *, center):
    """A loss that falls from 0.7 to 0.1, fastest (over the logarithm of the rate) at `center`."""
    return 0.1 + 0.6 / (1 + rate / center)


def test_rates_rise_exponentially_from_low_to_high():
    curve, rates = run_test(lambda rate: fall(rate, center=0.01), low=1e-4, high=1.0, n_steps=41)
    np.testing.assert_allclose(rates, 10.0 ** np.linspace(-4, 0, 41))
    assert all(type(rate) is float for rate in rates)
    np.testing.assert_array_equal(curve.learning_rates, rates)
    np.testing.assert_allclose(curve.losses, [fall(rate, center=0.01) for rate in rates])


@pytest.mark.parametrize(("n_steps", "decay"), [(20, 0.5), (40, 0.75), (100, 0.9)])
def test_smoothed_loss_is_a_weighted_mean_of_those_seen(n_steps, decay):
    curve, _ = run_test(lambda rate: fall(rate, center=0.001), n_steps=n_steps)
    for step in range(n_steps):
        weights = decay ** np.arange(step, -1, -1)
        assert curve.smoothed[step] == pytest.approx(np.average(curve.losses[: step + 1], weights=weights))


@pytest.mark.parametrize("n_steps", [30, 100, 300])
@pytest.mark.parametrize("center", [1e-4, 1e-3, 1e-2])
def test_suggestion_lies_by_the_steepest_point(center, n_steps):
    curve, _ = run_test(lambda rate: fall(rate, center=center) + (rate / (100 * center)) ** 2, n_steps=n_steps)
    # Half a decade beyond the steepest point, where the average notices it, and well below the minimum at 20 times it.
    assert center < curve.suggestion < 8 * center


@pytest.mark.parametrize("n_steps", [50, 100])
def test_suggestion_withstands_noise(n_steps):
    suggestions = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        loss_of = lambda rate: fall(rate, center=1e-3) + (rate / 0.1) ** 2 + 0.1 * random.normal()  # noqa: B023, E731
        suggestions.append(run_test(loss_of, n_steps=n_steps)[0].suggestion)
    assert 3e-4 < min(suggestions) < max(suggestions) < 1e-2


def test_suggestion_moves_with_the_scale_of_the_rates_alone():
    curve, _ = run_test(lambda rate: fall(rate, center=1e-3), low=1e-5, high=0.1)
    other, _ = run_test(lambda rate: 7 * fall(rate, center=1e-2) + 3, low=1e-4, high=1.0)
    assert other.suggestion == pytest.approx(10 * curve.suggestion)


def test_suggestion_by_hand():
    # Averaged with weights 1/2, 1/4, ...: of three steps in a row the average falls most from the 10th to the 12th.
    losses = [1.0] * 10 + [0.2] * 6 + [1.0] * 4
    curve = find_learning_rate(iter(losses).__next__, set_learning_rate=lambda rate: None, n_steps=20)
    rates = 10.0 ** np.linspace(-6, 0, 20)
    assert curve.smoothed.argmin() == 15
    assert curve.suggestion == pytest.approx(math.sqrt(rates[10] * rates[15] / 10))


@pytest.mark.parametrize("divergence", [1.5, 4.0, 8.0])
def test_search_stops_once_the_loss_diverges(divergence):
    losses = iter([1.0] * 10 + [0.5] * 40 + [float(1 + place) for place in range(50)])
    curve = find_learning_rate(losses.__next__, set_learning_rate=lambda rate: None, divergence=divergence)
    limit = divergence * curve.smoothed.min()
    assert (curve.smoothed[curve.smoothed.argmin() : -1] <= limit).all()
    assert curve.smoothed[-1] > limit
    assert 50 < len(curve.losses) == len(curve.learning_rates) < 100


@pytest.mark.parametrize("end", [math.inf, -math.inf, math.nan])
def test_search_stops_at_a_loss_that_is_not_finite(end):
    curve, rates = run_test(lambda rate: fall(rate, center=1e-3) if rate < 0.1 else end)
    assert len(rates) == len(curve.losses) + 1
    assert np.isfinite(curve.losses).all()
    assert 1e-3 < curve.suggestion < 1e-2


def test_search_bears_negative_losses():
    curve, rates = run_test(lambda rate: fall(rate, center=1e-3) - 1)
    assert len(rates) == 100
    assert curve.suggestion > 1e-3


def test_curve_becomes_a_table():
    curve, _ = run_test(lambda rate: fall(rate, center=1e-3), n_steps=25)
    expected = pd.DataFrame({"learning_rate": curve.learning_rates, "loss": curve.losses, "smoothed": curve.smoothed})
    pd.testing.assert_frame_equal(curve.to_frame(), expected)


def test_refuses_a_loss_that_only_rises():
    message = (
        "The test of learning rates tells nothing: after 11 of 100 steps the loss only rose, or was not finite. "
        "Start at a lower rate, or use precision='fp32'."
    )
    with pytest.raises(InputError, match=whole(message)):
        run_test(lambda rate: 1 + rate)


def test_refuses_a_loss_that_is_never_finite():
    message = (
        "The test of learning rates tells nothing: after 0 of 100 steps the loss only rose, or was not finite. "
        "Start at a lower rate, or use precision='fp32'."
    )
    with pytest.raises(InputError, match=whole(message)):
        run_test(lambda rate: math.nan)


def test_refuses_a_fall_within_the_noise():
    # Up and down by 0.1, and down by 0.01 in all.
    losses = iter([0.7 + 0.1 * (place % 2) - 0.0001 * place for place in range(100)])
    message = (
        r"^The test of learning rates tells nothing: the loss went from 0\.75 to 0\.7\d+ at best, while it varies by "
        r"0\.071 from step to step\. Use more steps \(n_steps\) or a larger batch, or set learning_rate yourself\.$"
    )
    with pytest.raises(InputError, match=message):
        find_learning_rate(losses.__next__, set_learning_rate=lambda rate: None)


@pytest.mark.parametrize(
    ("settings", "must"),
    [
        ({"low": 0}, "'low' parameter of find_learning_rate must be a number > 0. Got 0"),
        ({"low": 0.1, "high": 0.1}, "'high' parameter of find_learning_rate must be a number > low. Got 0.1"),
        ({"high": math.inf}, "'high' parameter of find_learning_rate must be a number > low. Got inf"),
        ({"n_steps": 19}, "'n_steps' parameter of find_learning_rate must be an integer >= 20. Got 19"),
        ({"divergence": 1}, "'divergence' parameter of find_learning_rate must be a number > 1. Got 1"),
    ],
)
def test_refuses_settings(settings, must):
    with pytest.raises(InputError, match=whole(f"The {must} instead.")):
        run_test(lambda rate: 1.0, **settings)


class Problem:
    """Separable random data, a new network on them, and an optimiser: all of it the same for the same seed."""

    def __init__(self, kind, optimizer, seed):
        self.random = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if kind == "linear":
                self.x, self.network, shape = torch.randn(256, 20, generator=self.random), nn.Linear(20, 3), (20, 3)
            else:
                self.x, shape = torch.randn(256, 1, 8, 8, generator=self.random), (64, 3)
                convolutions = (nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())
                self.network = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 3))
        self.y = (self.x.flatten(1) @ torch.randn(*shape, generator=self.random) > 0).float()
        params = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
        self.optimizer = optimizer(self.network.parameters(), lr=0.1, **params)

    def set_learning_rate(self, rate):
        self.optimizer.param_groups[0]["lr"] = rate

    def step(self):
        rows = torch.randint(0, 256, (32,), generator=self.random)
        self.optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(self.network(self.x[rows]), self.y[rows])
        loss.backward()
        self.optimizer.step()
        return loss.item()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("kind", ["linear", "convolutions"])
def test_training_with_the_suggestion_learns_and_does_not_diverge(kind, optimizer, seed):
    problem = Problem(kind, optimizer, seed)
    curve = find_learning_rate(problem.step, set_learning_rate=problem.set_learning_rate)

    def train(rate):
        problem = Problem(kind, optimizer, seed)
        problem.set_learning_rate(rate)
        losses = [problem.step() for _ in range(60)]
        return np.mean(losses[-10:]), max(losses)

    loss, worst = train(curve.suggestion)
    much_lower, _ = train(curve.suggestion / 30)
    assert loss < 0.9 * much_lower
    assert worst < 1.5
    assert loss < 1.5 * train(curve.suggestion / 5)[0]
