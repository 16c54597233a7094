"""From decoded pixels to what the network sees: one resize kernel, augmentation, scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from multilabelkit.data.images import InputSpec

# Training images are kept this much larger than the network's input, so that a random crop of them is still sharp.
CROP_MARGIN = 8 / 7

# Weights of red, green and blue in a grey value (ITU-R BT.601, as Pillow and torchvision have them).
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Augmentation:
    """Random changes that keep the labels true; one draw per image and epoch.

    Parameters
    ----------
    scale : (float, float)
        Share of the image's area that the random crop keeps.
    ratio : (float, float)
        Aspect ratio of the crop, as in torchvision's RandomResizedCrop.
    flip : float
        Probability of a left-right mirror.
    jitter : float
        Brightness, contrast and saturation are each multiplied by a factor in [1 - jitter, 1 + jitter].
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0


AUGMENTATIONS: dict[str, Augmentation] = {
    "light": Augmentation(scale=(0.6, 1.0)),
    "standard": Augmentation(scale=(0.4, 1.0), jitter=0.2),
}


def resize_pixels(pixels: np.ndarray, size: int) -> np.ndarray:
    """Squish pixels to a square with an antialiased bilinear kernel.

    This is the only resize kernel of the library: training, prediction and every decoder go through it.

    Parameters
    ----------
    pixels : ndarray of shape (H, W, C), uint8
    size : int
        Side of the square in pixels.

    Returns
    -------
    resized : ndarray of shape (size, size, C), uint8

    Examples
    --------
    >>> resize_pixels(np.full((5, 9, 3), 7, dtype=np.uint8), 4)[0, 0]
    array([7, 7, 7], dtype=uint8)
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]  # (1, C, H, W), a channels_last view
    resized = functional.interpolate(image, (size, size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def draw_crop(height: int, width: int, augmentation: Augmentation, random: np.random.Generator) -> tuple[slice, slice]:
    """Draw a random crop of the wanted area and aspect ratio; after ten misses, the whole image."""
    low, high = np.log(augmentation.ratio)
    for _ in range(10):
        area = height * width * random.uniform(*augmentation.scale)
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
    """Crop, resize and mirror one image at random, and draw its colour factors.

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
    """
    rows, columns = draw_crop(pixels.shape[0], pixels.shape[1], augmentation, random)
    augmented = resize_pixels(pixels[rows, columns], size)
    if random.random() < augmentation.flip:
        augmented = augmented[:, ::-1]
    factors = random.uniform(1 - augmentation.jitter, 1 + augmentation.jitter, 3)
    return augmented, factors.astype(np.float32)


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
