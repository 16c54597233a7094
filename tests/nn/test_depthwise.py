"""Depthwise convolutions keep their results, and get the gradients of plain ones."""

import contextlib

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.nn.depthwise import speed_up_depthwise

CPU = torch.device("cpu")


def compute_gradients(layer, images, *, is_fast, inference=False):
    images = images.clone().requires_grad_(not inference)
    layer.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), speed_up_depthwise(CPU, torch.bfloat16 if is_fast else torch.float32):
        maps = layer(images)
    torch.manual_seed(1)
    (maps.float() * torch.randn(maps.shape)).sum().backward()
    gradients = [parameter.grad for parameter in layer.parameters()]
    return maps, [*gradients, *([] if inference else [images.grad])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "params"),
    [
        (15, {"kernel_size": 3, "stride": 2}),
        (16, {"kernel_size": 3, "stride": 2, "padding": 1}),
        (16, {"kernel_size": 5, "stride": 2, "padding": 2}),
        (17, {"kernel_size": 7, "padding": 3}),
        (17, {"kernel_size": (3, 5), "stride": (1, 2), "padding": (1, 2)}),
        (19, {"kernel_size": 3, "stride": 2, "dilation": 2}),
    ],
)
def test_gradients_equal_the_plain_ones(size, params, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(24, 24, groups=24, bias=bias, **params).to(memory_format=torch.channels_last)
    images = torch.randn(4, 24, size, size).contiguous(memory_format=torch.channels_last)
    fast_maps, fast = compute_gradients(layer, images, is_fast=True)
    plain_maps, plain = compute_gradients(layer, images, is_fast=False)
    assert fast_maps.dtype == plain_maps.dtype == torch.bfloat16
    torch.testing.assert_close(fast_maps, plain_maps)
    for ours, theirs in zip(fast, plain, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02 * theirs.abs().max().item())
    # Against fp32 throughout, they must be no worse than bf16 is.
    layer.zero_grad()
    exact = images.clone().requires_grad_()
    maps = layer(exact)
    torch.manual_seed(1)
    (maps * torch.randn(maps.shape)).sum().backward()
    assert (fast[-1] - exact.grad).norm() < 0.01 * exact.grad.norm()


def is_sent_elsewhere(layer, images, dtype=torch.bfloat16):
    with torch.autocast("cpu", torch.bfloat16), speed_up_depthwise(CPU, dtype):
        maps = layer(images)
    node, names = maps.grad_fn, []
    while node is not None:
        names.append(node.name())
        node = node.next_functions[0][0] if node.next_functions else None
    return any("_DepthwiseConvolution" in name for name in names)


def test_only_slow_convolutions_are_touched():
    images = torch.randn(2, 8, 9, 9)
    assert is_sent_elsewhere(nn.Conv2d(8, 8, 3, stride=2, groups=8), images)
    assert is_sent_elsewhere(nn.Conv2d(8, 8, 5, groups=8), images)
    assert not is_sent_elsewhere(nn.Conv2d(8, 8, 3, groups=8), images)  # its gradients are fast
    assert not is_sent_elsewhere(nn.Conv2d(8, 8, 3, stride=2), images)
    assert not is_sent_elsewhere(nn.Conv2d(8, 16, 3, stride=2, groups=8), images)
    assert not is_sent_elsewhere(nn.Conv2d(8, 8, 5, padding="same", groups=8), images)
    assert not is_sent_elsewhere(nn.Conv2d(1, 1, 5, stride=2), torch.randn(2, 1, 9, 9))
    assert not is_sent_elsewhere(nn.Conv2d(8, 8, 3, stride=2, groups=8), images[0])  # without a batch
    assert not is_sent_elsewhere(nn.Conv2d(8, 8, 3, stride=2, groups=8), images, dtype=torch.float32)


def enter(*, is_fast=True):
    stack = contextlib.ExitStack()
    stack.enter_context(torch.autocast("cpu", torch.bfloat16))
    stack.enter_context(speed_up_depthwise(CPU, torch.bfloat16) if is_fast else contextlib.nullcontext())
    return stack


@pytest.mark.parametrize(
    "call",
    [
        lambda images, weight: torch.conv2d(images, weight, stride=np.int64(2), groups=8),
        lambda images, weight: torch.conv2d(weight=weight, input=images, stride=[2], padding=(1,), groups=8),
        lambda images, weight: torch.conv2d(images.double(), weight.double(), stride=2, groups=8),
        lambda images, weight: torch.conv2d(images.half(), weight, stride=2, groups=8),
    ],
)
def test_whatever_plain_convolutions_take_is_taken(call):
    torch.manual_seed(0)
    images, weight = torch.randn(2, 8, 9, 9), torch.randn(8, 1, 3, 3, requires_grad=True)
    found = []
    for is_fast in (True, False):
        with enter(is_fast=is_fast):
            found.append(call(images, weight))
    torch.testing.assert_close(*found)  # types too


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_autocast_within_is_obeyed(dtype):
    layer, images = nn.Conv2d(8, 8, 3, stride=2, groups=8), torch.randn(2, 8, 9, 9)
    with enter(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        assert layer(images).dtype == dtype


def test_errors_are_those_of_torch():
    weight = torch.randn(8, 1, 3, 3, requires_grad=True)
    for images in (torch.randn(8), torch.ones(2, 8, 9, 9, dtype=torch.int64)):
        messages = []
        for is_fast in (True, False):
            with enter(is_fast=is_fast), pytest.raises(RuntimeError) as error:
                torch.conv2d(images, weight, stride=2, groups=8)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


def test_a_second_derivative_is_that_of_plain_convolutions():
    found = []
    for is_fast in (True, False):
        torch.manual_seed(0)
        layer, images = nn.Conv2d(8, 8, 3, stride=2, groups=8), torch.randn(2, 8, 9, 9, requires_grad=True)
        with enter(is_fast=is_fast):
            maps = layer(images)
        (of_images,) = torch.autograd.grad(maps.float().square().sum(), images, create_graph=True)
        of_images.square().sum().backward()
        found.append(layer.weight.grad)
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02 * found[0].abs().max().item())


def test_vmap_passes():
    images, weight = torch.randn(3, 2, 8, 9, 9), torch.randn(8, 1, 3, 3, requires_grad=True)
    with enter():
        maps = torch.vmap(lambda batch: torch.conv2d(batch, weight, stride=2, groups=8))(images)
    expected = torch.stack([torch.conv2d(batch, weight, stride=2, groups=8) for batch in images])
    torch.testing.assert_close(maps.float(), expected, rtol=0.02, atol=0.05)


def test_compiled_networks_stay_whole():
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.ReLU())
    compiled, images = torch.compile(network, backend="eager", fullgraph=True), torch.randn(2, 8, 9, 9)
    with enter():
        torch.testing.assert_close(compiled(images), network(images))


def test_frozen_weights_and_images_without_gradient_are_left_alone():
    layer = nn.Conv2d(8, 8, 3, stride=2, groups=8, bias=False)
    images = torch.randn(2, 8, 9, 9)
    _, (of_weight,) = compute_gradients(layer, images, is_fast=True, inference=True)
    assert of_weight.abs().sum() > 0
    layer.weight.requires_grad_(False)
    _, (nothing, of_images) = compute_gradients(layer, images, is_fast=True)
    assert nothing is None
    assert of_images.abs().sum() > 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), speed_up_depthwise(CPU, torch.bfloat16):
        assert layer(images).grad_fn is None


def test_other_devices_and_types_get_nothing():
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float32), ("cpu", torch.float16)):
        assert isinstance(speed_up_depthwise(torch.device(device), dtype), contextlib.nullcontext)
