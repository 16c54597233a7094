"""Mixup and CutMix for images with several labels: two images in one, with the labels of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, suggest
from multilabelkit.errors import InputError


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed; with both kinds, each batch takes one of them, half of the time each.

    Parameters
    ----------
    mixup_alpha : float
        Mixup blends whole images. Their shares are drawn from Beta(alpha, alpha): below 1 mostly one image, above 1
        mostly both; 0 means no mixup.
    cutmix_alpha : float
        CutMix pastes a box of one image into the other; the area of the box is drawn in the same way.
    probability : float
        Share of the batches that are mixed.
    """

    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    probability: float = 1.0


_MIXINGS: dict[str, Mixing] = {
    "mixup": Mixing(mixup_alpha=0.2),
    "cutmix": Mixing(cutmix_alpha=1.0),
    "both": Mixing(mixup_alpha=0.2, cutmix_alpha=1.0),
}
_FIELDS: dict[str, list[Constraint]] = {
    "mixup_alpha": [Interval(float, 0)],
    "cutmix_alpha": [Interval(float, 0)],
    "probability": [Interval(float, 0, 1, open_low=True)],
}
# What the `mixup` parameter may be; the fields of a dict are checked by `create_mixing`.
MIXUP: list[Constraint] = [
    Choice((*_MIXINGS, None)),
    Check(lambda v: isinstance(v, Mapping), f"a dict of {', '.join(_FIELDS)}"),
]


def create_mixing(mixup: str | Mapping[str, float] | None) -> Mixing | None:
    """Turn the `mixup` parameter into a Mixing.

    Parameters
    ----------
    mixup : {None, "mixup", "cutmix", "both"} or dict
        A dict holds the fields of `Mixing`; those left out are 0, and 1 for the probability. The names stand for
        alphas of 0.2 (mixup) and 1 (CutMix).

    Returns
    -------
    mixing : Mixing or None

    Raises
    ------
    InputError
        If the name or a field is unknown, a number is out of its range, or nothing would be mixed.

    Examples
    --------
    >>> create_mixing({"mixup_alpha": 0.4, "probability": 0.5})
    Mixing(mixup_alpha=0.4, cutmix_alpha=0.0, probability=0.5)
    """
    check_parameters("create_mixing", {"mixup": mixup}, {"mixup": MIXUP})
    if mixup is None or isinstance(mixup, str):
        return None if mixup is None else _MIXINGS[mixup]
    unknown = [name for name in mixup if name not in _FIELDS]
    if unknown:
        raise InputError(
            f"mixup must not hold {unknown[0]!r}.{suggest(str(unknown[0]), _FIELDS)} "
            f"Allowed: {', '.join(map(repr, _FIELDS))}."
        )
    mixing = Mixing(**mixup)
    check_parameters("mixup", asdict(mixing), _FIELDS)
    if not mixing.mixup_alpha and not mixing.cutmix_alpha:
        raise InputError(
            "mixup mixes nothing where mixup_alpha and cutmix_alpha are both 0. Set one of them above 0, or mixup=None."
        )
    return mixing


def mix_batch(
    images: torch.Tensor,
    targets: torch.Tensor,
    sample_weight: torch.Tensor | None,
    mixing: Mixing,
    random: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Mix each image of a batch with another one of it, and their targets and weights in the same shares.

    Parameters
    ----------
    images : tensor of shape (B, C, H, W), floating point
    targets : tensor of shape (B, n_classes)
        In [0, 1], NaN unknown. What is unknown of either image is unknown of both together.
    sample_weight : tensor of shape (B,) or None
    mixing : Mixing
    random : numpy Generator
        Decides everything that is drawn.

    Returns
    -------
    images, targets, sample_weight
        New tensors of the same shape and memory format; or the ones given, where there is nothing to mix.

    References
    ----------
    .. [1] H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    .. [2] S. Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
       ICCV 2019.

    Examples
    --------
    >>> images, targets = torch.zeros(2, 3, 8, 8), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, float("nan")]])
    >>> mix_batch(images, targets, None, Mixing(cutmix_alpha=1.0), np.random.default_rng(1))[1]
    tensor([[1.0000, 0.7656,    nan],
            [1.0000, 0.2344,    nan]])
    """
    if len(images) < 2 or random.random() >= mixing.probability:
        return images, targets, sample_weight
    cut = mixing.cutmix_alpha > 0 and (mixing.mixup_alpha == 0 or random.random() < 0.5)
    alpha = mixing.cutmix_alpha if cut else mixing.mixup_alpha
    # Rounded as the tensors are, so that a share of nearly 1 does not make the known unknown.
    share = float(np.float32(random.beta(alpha, alpha)))
    partner = torch.from_numpy(random.permutation(len(images))).to(images.device)
    if cut:
        rows, columns = _draw_box(images.shape[2], images.shape[3], share, random)
        mixed = images.clone()
        mixed[:, :, rows, columns] = images[partner, :, rows, columns]
        area = (rows.stop - rows.start) * (columns.stop - columns.start)
        share = 1 - area / (images.shape[2] * images.shape[3])
    else:
        mixed = _blend(images, partner, share)
    weight = None if sample_weight is None else _blend(sample_weight, partner, share)
    return mixed, _blend(targets, partner, share), weight


def _draw_box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[slice, slice]:
    """Draw a box that leaves `share` of the image around it; it is cut where it reaches over the edge."""
    side = math.sqrt(1 - share)
    slices = []
    for length in (height, width):
        size = round(length * side)
        start = int(random.integers(length)) - size // 2
        slices.append(slice(max(start, 0), min(start + size, length)))
    return slices[0], slices[1]


def _blend(values: torch.Tensor, partner: torch.Tensor, share: float) -> torch.Tensor:
    """Return `share` of each entry and the rest of its partner's; one with a share of 0 has no say, be it NaN."""
    if share == 1:
        return values.clone()
    if share == 0:
        return values[partner]
    # Note: lerp gives back exactly what two equal values are; a sum of two products does not.
    return torch.lerp(values[partner], values, share)
