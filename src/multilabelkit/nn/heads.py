"""From features to logits."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class LinearHead(nn.Module):
    """Dropout and one linear layer.

    Parameters
    ----------
    n_features, n_classes : int
        Sizes of the input and the output.
    dropout : float
        Share of the features set to zero at random in training.
    """

    def __init__(self, n_features: int, n_classes: int, *, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_features, n_classes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features (B, F) to logits (B, C)."""
        return self.linear(self.dropout(features))


@torch.no_grad()
def set_prior_bias(linear: nn.Linear, prior: np.ndarray) -> None:
    """Start each class at its frequency, so that training does not spend its first epoch learning what is rare.

    Parameters
    ----------
    linear : Linear
        The layer that gives the logits.
    prior : ndarray of shape (n_classes,)
        Share of known images with the class; NaN (nothing known) counts as one half.
    """
    safe = np.clip(np.nan_to_num(prior, nan=0.5), 1e-3, 1 - 1e-3)
    linear.bias.copy_(torch.from_numpy(np.log(safe / (1 - safe))))
