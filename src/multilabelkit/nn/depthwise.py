"""Gradients of depthwise convolutions on a processor, where those in bf16 are slow."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_CAST = (torch.float32, torch.bfloat16, torch.float16)  # by autocast, to bf16


def speed_up_depthwise(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager:
    """Return a context in which depthwise convolutions keep their results and get faster gradients.

    For bf16 on a processor, torch (2.15, oneDNN) has fast kernels for most gradients, but not for that of the input of
    a strided depthwise convolution, nor for that of the weights of a large one: a batch of 32 images through one layer
    of MobileNetV2 (96 channels, 113 pixels, stride 2) takes 337 ms there, and 70 ms in fp32. Four such layers are half
    the time of a training step. Here these gradients are computed in fp32, and rounded to bf16 afterwards.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
        What autocast computes in. Anything but bf16 on a processor gives a context that does nothing.

    Examples
    --------
    >>> layer = torch.nn.Conv2d(8, 8, 3, stride=2, groups=8)
    >>> device = torch.device("cpu")
    >>> with torch.autocast("cpu", torch.bfloat16), speed_up_depthwise(device, torch.bfloat16):
    ...     layer(torch.ones(2, 8, 9, 9)).sum().backward()
    >>> layer.weight.grad.shape
    torch.Size([8, 1, 3, 3])
    """
    if device.type == "cpu" and dtype == torch.bfloat16:
        return _SpeedUp()
    return contextlib.nullcontext()


class _SpeedUp(TorchFunctionMode):
    """Sends each convolution whose gradients are slow to one that computes them in fp32."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.conv2d and _computes_in_bf16() and _is_slow(*args, **kwargs):
            return _convolve(*args, **kwargs)
        return func(*args, **kwargs)


def _computes_in_bf16() -> bool:
    """Tell whether gradients of what autocast computes in bf16 are wanted; a submodule may switch it off."""
    is_on = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    return is_on and torch.is_grad_enabled()


def _is_slow(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1) -> bool:
    """Tell whether a convolution is depthwise, and has a gradient that is faster in fp32."""
    if groups == 1 or input.ndim != 4 or not groups == input.shape[1] == weight.shape[0] or isinstance(padding, str):
        return False
    # Note: autocast leaves fp64 alone, and torch refuses integers.
    is_cast = input.dtype in _CAST and weight.dtype in _CAST
    return is_cast and (max(_to_pair(stride)) > 1 or _is_large(weight))


def _convolve(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Do what ``torch.conv2d`` does under autocast."""
    tensors = [None if tensor is None else tensor.bfloat16() for tensor in (input, weight, bias)]
    return _DepthwiseConvolution.apply(*tensors, _to_pair(stride), _to_pair(padding), _to_pair(dilation), groups)


def _is_large(weight: torch.Tensor) -> bool:
    return max(weight.shape[2:]) > 3


def _to_pair(value: Any) -> list[int]:
    pair = [int(number) for number in value] if isinstance(value, (tuple, list)) else [int(value)]
    return pair * 2 if len(pair) == 1 else pair


class _DepthwiseConvolution(torch.autograd.Function):
    """A convolution in bf16 some of whose gradients are computed in fp32."""

    generate_vmap_rule = True

    @staticmethod
    def forward(images, weight, bias, stride, padding, dilation, groups):
        return torch.conv2d(images, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def setup_context(ctx: Any, inputs, output) -> None:
        images, weight, _, stride, padding, dilation, groups = inputs
        ctx.save_for_backward(images, weight)
        ctx.shape = (stride, padding, dilation, False, [0, 0], groups)

    @staticmethod
    def backward(ctx: Any, gradient):
        images, weight = ctx.saved_tensors
        needs_images, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        compute = torch.ops.aten.convolution_backward
        of_images = of_weight = None
        if needs_images:
            dtype = torch.float32 if max(ctx.shape[0]) > 1 else images.dtype
            seen = torch.empty_like(images, dtype=dtype)  # only its shape and its layout count here
            mask = [True, False, False]
            of_images = compute(gradient.to(dtype), seen, weight.to(dtype), None, *ctx.shape, mask)[0]
        if needs_weight:
            dtype = torch.float32 if _is_large(weight) else images.dtype
            mask = [False, True, False]
            of_weight = compute(gradient.to(dtype), images.to(dtype), weight.to(dtype), None, *ctx.shape, mask)[1]
        of_bias = gradient.sum((0, 2, 3)) if needs_bias else None
        found = [None if found is None else found.to(images.dtype) for found in (of_images, of_weight, of_bias)]
        return *found, None, None, None, None
