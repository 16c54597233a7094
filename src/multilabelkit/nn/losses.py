"""Losses over logits and targets with unknown entries."""

from __future__ import annotations

import torch
from torch.nn import functional


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, sample_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean binary cross-entropy over the known entries, in fp32.

    Parameters
    ----------
    logits : tensor of shape (B, C)
    targets : tensor of shape (B, C)
        1 present, 0 absent, NaN unknown.
    sample_weight : tensor of shape (B,), optional
        Weight of each image; an image of weight 2 counts as if it were there twice.

    Returns
    -------
    loss : tensor of shape ()
        0 where nothing is known.

    Examples
    --------
    >>> logits = torch.zeros(1, 2)
    >>> binary_cross_entropy(logits, torch.tensor([[1.0, float("nan")]]))
    tensor(0.6931)
    """
    known = ~targets.isnan()
    # NaN must go before the loss: NaN * 0 is NaN, in the gradient too.
    values = functional.binary_cross_entropy_with_logits(logits.float(), targets.nan_to_num(), reduction="none")
    weights = known.float() if sample_weight is None else known * sample_weight[:, None]
    return (values * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)
