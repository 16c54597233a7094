import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from multilabelkit.training.averaging import create_average


class Counts(nn.Module):
    """A weight, a buffer of floats and a counter."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2, 2))
        self.register_buffer("mean", torch.zeros(3))
        self.register_buffer("counter", torch.tensor(0))


@pytest.mark.parametrize("decay", [0.3, 0.99])
@pytest.mark.parametrize("warmup", [1, 9])
def test_average_follows_the_recursion_with_warm_up(decay, warmup):
    network = Counts()
    average = create_average(network, decay=decay, warmup=warmup)
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
            kept = min(decay, (1 + step) / (1 + warmup + step))
            weight = kept * weight + (1 - kept) * network.weight.detach()
            mean = kept * mean + (1 - kept) * network.mean
        torch.testing.assert_close(average.module.weight.detach(), weight)
        torch.testing.assert_close(average.module.mean, mean)
        assert average.module.counter == 7 * step


def test_average_follows_batch_norm_and_leaves_the_network_alone():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    average = create_average(network, decay=0.9)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(3):
        network(torch.randn(4, 3, 8, 8)).sum().backward()
        optimizer.step()
        before = {key: value.clone() for key, value in network.state_dict().items()}
        average.update_parameters(network)
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    norm, averaged = network[1], average.module[1]
    assert averaged.num_batches_tracked == norm.num_batches_tracked == 3
    assert not torch.equal(averaged.running_mean, norm.running_mean)
    assert all(parameter.grad is None for parameter in average.module.parameters())


def average_as_torch(network, *, decay):
    """Average with torch's own counter and loop."""

    @torch.no_grad()
    def blend(averaged, current, n_averaged):
        kept = min(decay, (1 + n_averaged.item()) / (10 + n_averaged.item()))
        for mine, theirs in zip(averaged, current, strict=True):
            mine.copy_(mine.lerp(theirs, 1 - kept) if mine.is_floating_point() else theirs)

    return AveragedModel(network, multi_avg_fn=blend, use_buffers=True)


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_average_is_that_of_torch_to_the_last_bit(decay):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(2, 2).to(torch.bfloat16))
    averages = [create(network, decay=decay) for create in (create_average, average_as_torch)]
    for step in range(12):
        with torch.no_grad():
            for tensor in (*network.parameters(), *network.buffers()):
                tensor.copy_(torch.randn(tensor.shape) * 3 + step)
        for average in averages:
            average.update_parameters(network)
        ours, theirs = (average.module.state_dict() for average in averages)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_copy_of_an_average_goes_on_alone():
    network = Counts()
    average = create_average(network, decay=0.99)
    for value in (0.0, 1.0):
        nn.init.constant_(network.weight, value)
        average.update_parameters(network)
    other = copy.deepcopy(average)
    before = average.module.weight.clone()
    other.update_parameters(network)
    assert torch.equal(average.module.weight, before)
    average.update_parameters(network)
    assert torch.equal(average.module.weight, other.module.weight)
