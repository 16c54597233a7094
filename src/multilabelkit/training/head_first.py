"""Fitting the head alone on features of the frozen backbone: seconds, and the right start for fine-tuning.

Fine-tuning from a random head distorts good features before the head has learnt to use them; a head that is trained
first avoids that (Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from multilabelkit.nn.losses import binary_cross_entropy


def fit_linear_head(
    linear: nn.Linear,
    features: np.ndarray,
    targets: np.ndarray,
    *,
    penalty: float = 1e-2,
    max_steps: int = 100,
    sample_weight: np.ndarray | None = None,
) -> None:
    """Set a linear layer to the minimum of the penalised cross-entropy over fixed features, by L-BFGS.

    Parameters
    ----------
    linear : Linear
        The layer to set; its present bias is the starting point.
    features : ndarray of shape (n_samples, n_features)
    targets : ndarray of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown.
    penalty : float
        Weight of the squared weights, of features scaled to unit variance, against the mean loss.
    max_steps : int
        Bound on the iterations.
    sample_weight : ndarray of shape (n_samples,), optional
    """
    device = linear.weight.device
    x = torch.from_numpy(features).to(device)
    y = torch.tensor(targets, device=device)  # copies: the caller's may be read-only
    weight = None if sample_weight is None else torch.tensor(sample_weight, device=device)
    center, scale = x.mean(dim=0), x.std(dim=0, correction=0).clamp_min(1e-4)
    x = (x - center) / scale
    coefficients = torch.zeros_like(linear.weight, requires_grad=True)
    bias = linear.bias.detach().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([coefficients, bias], max_iter=max_steps, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = binary_cross_entropy(x @ coefficients.T + bias, y, weight)
        loss = loss + penalty * coefficients.square().sum() / len(bias)
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():  # fold the scaling into the layer, which sees the features as they are
        linear.weight.copy_(coefficients / scale)
        linear.bias.copy_(bias - linear.weight @ center)
