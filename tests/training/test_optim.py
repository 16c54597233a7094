import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network
from multilabelkit.training.optim import create_average, create_optimizer, create_schedule


def create_network():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(backbone, LinearHead(4, 2, dropout=0.0))


def create_test_optimizer(network, *, learning_rate=0.1, backbone_lr_factor=0.25, weight_decay=0.03):
    return create_optimizer(
        network, learning_rate=learning_rate, backbone_lr_factor=backbone_lr_factor, weight_decay=weight_decay
    )


def find_group(optimizer, parameter):
    groups = [group for group in optimizer.param_groups if any(p is parameter for p in group["params"])]
    assert len(groups) == 1
    return groups[0]


def test_each_parameter_has_the_rate_and_decay_of_its_kind():
    network = create_network()
    optimizer = create_test_optimizer(network)
    expected = {
        "backbone.0.weight": (0.025, 0.03),
        "backbone.0.bias": (0.025, 0.0),
        "backbone.1.weight": (0.025, 0.0),
        "backbone.1.bias": (0.025, 0.0),
        "head.linear.weight": (0.1, 0.03),
        "head.linear.bias": (0.1, 0.0),
    }
    got = {}
    for name, parameter in network.named_parameters():
        group = find_group(optimizer, parameter)
        got[name] = (group["lr"], group["weight_decay"])
    assert got == expected


def test_frozen_parameters_are_left_out():
    network = create_network()
    network.backbone[0].requires_grad_(False)
    optimizer = create_test_optimizer(network)
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(trained) == 4
    assert all(parameter.requires_grad for parameter in trained)


def test_network_without_a_head_has_backbone_groups_alone():
    optimizer = create_test_optimizer(Network(create_network().backbone, None))
    assert [group["lr"] for group in optimizer.param_groups] == [0.025, 0.025]


def test_optimizer_takes_the_steps_of_plain_adamw():
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), LinearHead(4, 2, dropout=0.0))
    optimizer = create_test_optimizer(network, backbone_lr_factor=1.0, weight_decay=0.0)
    other = copy.deepcopy(network)
    plain = torch.optim.AdamW(other.parameters(), lr=0.1, weight_decay=0.0, fused=False)
    images = torch.randn(5, 3, 8, 8)
    for _ in range(3):
        for model, stepper in ((network, optimizer), (other, plain)):
            stepper.zero_grad()
            model(images).square().sum().backward()
            stepper.step()
    for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def list_rates(optimizer, schedule, n_steps):
    """Return the rate of each group at each step, (n_steps, n_groups)."""
    rates = []
    for _ in range(n_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return np.array(rates)


@pytest.mark.parametrize("n_steps", [8, 40, 101])
def test_schedule_peaks_at_the_rate_of_each_group_after_a_quarter(n_steps):
    optimizer = create_test_optimizer(create_network())
    rates = list_rates(optimizer, create_schedule(optimizer, n_steps=n_steps), n_steps)
    top = np.array([0.025, 0.025, 0.1, 0.1])
    # Cosines up from a 25th and down to nothing, which meet at a quarter of the steps.
    peak = n_steps / 4 - 1
    for step in range(n_steps):
        low, share = (1 / 25, 1 - step / peak) if step <= peak else (4e-6, (step - peak) / (n_steps - 1 - peak))
        expected = low + (1 - low) * (1 + math.cos(math.pi * share)) / 2
        np.testing.assert_allclose(rates[step], top * expected, rtol=1e-6, atol=1e-9)
    assert abs(rates[:, 0].argmax() - peak) <= 1
    np.testing.assert_allclose(rates.max(axis=0), top, rtol=0.01)


@pytest.mark.parametrize("n_steps", [1, 2, 3, 4, 5])
def test_schedule_serves_trainings_of_few_steps(n_steps):
    optimizer = create_test_optimizer(create_network())
    rates = list_rates(optimizer, create_schedule(optimizer, n_steps=n_steps), n_steps)
    assert (rates[0] >= np.array([0.025, 0.025, 0.1, 0.1]) / 26).all()
    assert n_steps == 1 or rates[1, -1] > 0.09


class Counts(nn.Module):
    """A weight, a buffer of floats and a counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("counter", torch.tensor(0))


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_follows_the_recursion_with_warm_up(decay):
    network = Counts()
    average = create_average(network, decay=decay)
    random = torch.Generator().manual_seed(0)
    weight = mean = None
    for step in range(30):
        with torch.no_grad():
            network.weight.copy_(torch.randn(2, 2, generator=random))
            network.mean.copy_(torch.randn(3, generator=random))
            network.counter.fill_(7 * step)
        average.update_parameters(network)
        if step == 0:  # the first weights are taken over
            weight, mean = network.weight.detach().clone(), network.mean.clone()
        else:
            kept = min(decay, (1 + step) / (10 + step))
            weight = kept * weight + (1 - kept) * network.weight.detach()
            mean = kept * mean + (1 - kept) * network.mean
        torch.testing.assert_close(average.module.weight.detach(), weight)
        torch.testing.assert_close(average.module.mean, mean)
        assert average.module.counter == 7 * step


def test_average_follows_batch_norm_and_leaves_the_network_alone():
    network = create_network()
    average = create_average(network, decay=0.9)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        network(torch.randn(4, 3, 8, 8)).sum().backward()
        optimizer.step()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        average.update_parameters(network)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    norm, averaged = network.backbone[1], average.module.backbone[1]
    assert averaged.num_batches_tracked == norm.num_batches_tracked == 3
    assert not torch.equal(averaged.running_mean, norm.running_mean)
    assert all(parameter.grad is None for parameter in average.module.parameters())
