"""From decoded pixels to what the network sees: one resize kernel, augmentation, scaling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torchvision import tv_tensors
from torchvision.transforms import v2

from multilabelkit.checks import shorten
from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError

RESIZES = ("squish", "pad", "crop")

# Training images are kept this much larger than the network's input, so that a random crop of them is still sharp.
CROP_MARGIN = 8 / 7

# Weights of red, green and blue in a grey value (ITU-R BT.601, as Pillow and torchvision have them).
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Random changes that keep the labels true; one draw per image and epoch.

    Parameters
    ----------
    scale : (float, float) or None
        Share of the image's area that the random crop keeps; None crops nothing.
    ratio : (float, float)
        Aspect ratio of the crop, as in torchvision's RandomResizedCrop.
    flip : float
        Probability of a left-right mirror.
    jitter : float
        Brightness, contrast and saturation are each multiplied by a factor in [1 - jitter, 1 + jitter].
    transform : callable, optional
        A torchvision transform (v2) to apply after these, to a uint8 image (C, H, W).
    """

    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.0
    jitter: float = 0.0
    transform: Callable[[Any], Any] | None = None


# Note: none of them changes hues, which are the label of a sunset or a stain.
AUGMENTATIONS: dict[str, Augmentation] = {
    "light": Augmentation(scale=(0.6, 1.0), flip=0.5),
    "standard": Augmentation(scale=(0.4, 1.0), flip=0.5, jitter=0.2),
    "strong": Augmentation(
        scale=(0.3, 1.0),
        flip=0.5,
        jitter=0.3,
        transform=v2.Compose(
            [
                v2.RandomApply([v2.RandomAffine(degrees=15, shear=8, interpolation=v2.InterpolationMode.BILINEAR)]),
                v2.RandomGrayscale(p=0.1),
                v2.RandomErasing(p=0.25, scale=(0.02, 0.2)),
            ]
        ),
    ),
}


def create_augmentation(augment: str | Callable[[Any], Any] | None) -> Augmentation | None:
    """Turn the `augment` parameter into an Augmentation: one of the named ones, or a transform of the caller's."""
    if augment is None or isinstance(augment, str):
        return None if augment is None else AUGMENTATIONS[augment]
    return Augmentation(transform=augment)


def resize_pixels(pixels: np.ndarray, size: int, *, resize: str = "squish") -> np.ndarray:
    """Bring pixels to a square with an antialiased bilinear kernel.

    This is the only resize kernel of the library: training, prediction and every decoder go through it.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, C), uint8
    size : int
        Side of the square in pixels.
    resize : {"squish", "pad", "crop"}, default="squish"
        "squish" changes the aspect ratio; "pad" keeps it and adds black on both sides; "crop" keeps it and cuts to the
        middle square.

    Returns
    -------
    resized : ndarray of shape (size, size, C), uint8

    Examples
    --------
    >>> resize_pixels(np.full((5, 9, 3), 7, dtype=np.uint8), 4)[0, 0]
    array([7, 7, 7], dtype=uint8)
    """
    height, width = pixels.shape[:2]
    if height == width or resize == "squish":
        return _scale_pixels(pixels, size, size)
    if resize == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _scale_pixels(pixels[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    scaled = _scale_pixels(pixels, max(1, round(height * scale)), max(1, round(width * scale)))
    square = np.zeros((size, size, pixels.shape[2]), dtype=np.uint8)
    top, left = (size - scaled.shape[0]) // 2, (size - scaled.shape[1]) // 2
    square[top : top + scaled.shape[0], left : left + scaled.shape[1]] = scaled
    return square


def _scale_pixels(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    if pixels.shape[:2] == (height, width):
        return pixels
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]  # (1, C, H, W), a channels_last view
    scaled = functional.interpolate(image, (height, width), mode="bilinear", antialias=True)
    return scaled[0].permute(1, 2, 0).numpy()


def draw_crop(height: int, width: int, augmentation: Augmentation, random: np.random.Generator) -> tuple[slice, slice]:
    """Draw a random crop of the wanted area and aspect ratio; after ten misses, the whole image."""
    low, high = np.log(augmentation.ratio)
    for _ in range(10):
        area = height * width * random.uniform(*(augmentation.scale or (1.0, 1.0)))
        ratio = math.exp(random.uniform(low, high))
        crop_height, crop_width = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < crop_height <= height and 0 < crop_width <= width:
            top = int(random.integers(height - crop_height + 1))
            left = int(random.integers(width - crop_width + 1))
            return slice(top, top + crop_height), slice(left, left + crop_width)
    return slice(0, height), slice(0, width)


def augment_pixels(
    pixels: np.ndarray, size: int, augmentation: Augmentation, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Crop, resize, mirror and transform one image at random, and draw its colour factors.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, C), uint8
    size : int
        Side of the result in pixels.
    augmentation : Augmentation
    random : numpy Generator
        Its state decides every draw, so that an image's augmentation does not depend on the worker that makes it.

    Returns
    -------
    augmented : ndarray of shape (size, size, C), uint8
    factors : ndarray of shape (3,), float32
        Brightness, contrast and saturation, applied by `to_network_input` to the whole batch at once.

    Raises
    ------
    InputError
        If a transform of the caller's returns something else than an image.
    """
    if augmentation.scale is not None:
        rows, columns = draw_crop(pixels.shape[0], pixels.shape[1], augmentation, random)
        pixels = resize_pixels(pixels[rows, columns], size)
    if augmentation.flip and random.random() < augmentation.flip:
        pixels = pixels[:, ::-1]
    factors = random.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, 3)
    if augmentation.transform is not None:
        pixels = apply_transform(augmentation.transform, pixels, seed=int(random.integers(2**63)))
    return resize_pixels(pixels, size), factors.astype(np.float32)


class _SeededRandomness(TorchFunctionMode):
    """Within it, torch's random functions draw from a generator of their own.

    torchvision's transforms draw from torch's one global generator, which all threads share. A mode like this one is
    the thread's own, so that neither other images nor the dropout of the network have a part in the draws.
    """

    _DRAWS = frozenset(
        {"_sample_dirichlet", "_standard_gamma", "bernoulli", "bernoulli_", "binomial", "cauchy_", "exponential_"}
        | {"geometric_", "log_normal_", "multinomial", "normal", "normal_", "poisson", "rand", "randint", "randn"}
        | {"random_", "randperm", "uniform_"}
    )

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name in ("rand_like", "randn_like"):  # these take no generator before torch 2.9
            like, func = args[0], torch.rand if name == "rand_like" else torch.randn
            args, kwargs = (like.shape,), {"dtype": like.dtype} | kwargs
            name = name.removesuffix("_like")
        if name in self._DRAWS:
            kwargs.setdefault("generator", self._generator)
        return func(*args, **kwargs)


def apply_transform(transform: Callable[[Any], Any], pixels: np.ndarray, *, seed: int) -> np.ndarray:
    """Apply a torchvision transform to pixels (H, W, C) uint8; the seed alone decides what torch draws in it."""
    # A copy in any case: the pixels may lie in a cache, and the transform may write on what it is given.
    image = tv_tensors.Image(torch.from_numpy(pixels.transpose(2, 0, 1).copy(order="C")))  # (C, H, W)
    with _SeededRandomness(seed):
        result = transform(image)
    if not isinstance(result, torch.Tensor):
        raise InputError(
            f"The 'augment' transform {shorten(transform)} must return an image tensor. Got {type(result).__name__}; "
            "end a transform that gives PIL images with torchvision.transforms.v2.ToImage()."
        )
    is_image = result.ndim == 3 and result.shape[0] == len(image) and result.numel() > 0
    if is_image and result.is_floating_point() and float(result.min()) >= 0 and float(result.max()) <= 1:
        result = (result * 255).round().to(torch.uint8)
    if not is_image or result.dtype != torch.uint8:
        raise InputError(
            f"The 'augment' transform {shorten(transform)} must return an image tensor (C, H, W) of {len(image)} "
            f"channel(s), uint8 or float in [0, 1]. Got {_describe_result(result)}; "
            "leave out Normalize and the like, which the classifier does itself."
        )
    return result.permute(1, 2, 0).numpy()


def _describe_result(result: torch.Tensor) -> str:
    limits = f" from {float(result.min()):g} to {float(result.max()):g}" if result.numel() else ""
    return f"a tensor of shape {tuple(result.shape)}, {result.dtype}{limits}"


def to_network_input(
    pixels: torch.Tensor, spec: InputSpec, *, device: torch.device, factors: torch.Tensor | None = None
) -> torch.Tensor:
    """Scale a batch of pixels as the network expects, with colour jitter if factors are given.

    Parameters
    ----------
    pixels : tensor of shape (B, S, S, C), uint8
    spec : InputSpec
    device : torch.device
        Where the work is done and the result lives.
    factors : tensor of shape (B, 3), float32, optional
        Brightness, contrast and saturation of each image; 1 changes nothing.

    Returns
    -------
    images : tensor of shape (B, C, S, S), float32, channels_last
    """
    images = pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)  # (B, C, S, S), channels_last in memory
    mean = torch.tensor(spec.mean, device=device) * 255
    std = torch.tensor(spec.std, device=device) * 255
    if factors is not None:
        images = jitter_colors(images.float(), factors.to(device))
    return images.to(torch.float32).sub_(mean[:, None, None]).div_(std[:, None, None])


def jitter_colors(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, then contrast about the mean grey, then saturation; images (B, C, S, S) in 0 to 255."""
    brightness, contrast, saturation = factors.T[:, :, None, None, None]  # each (B, 1, 1, 1)
    images = images.mul(brightness)
    center = _to_grey(images).mean(dim=(2, 3), keepdim=True)  # (B, 1, 1, 1)
    images = images.sub_(center).mul_(contrast).add_(center)
    if images.shape[1] == 3:
        images = torch.lerp(_to_grey(images), images, saturation)
    return images.clamp_(0, 255)


def _to_grey(images: torch.Tensor) -> torch.Tensor:
    if images.shape[1] == 1:
        return images
    weights = torch.tensor(_LUMA, device=images.device)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True)
