"""What moves the weights: parameter groups, the optimiser, the schedule and the moving average."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from multilabelkit.nn.network import Network


def create_optimizer(
    network: Network, *, learning_rate: float, backbone_lr_factor: float, weight_decay: float
) -> torch.optim.AdamW:
    """Create AdamW over the parameters that are to be trained.

    The head learns at `learning_rate`, the backbone at `learning_rate * backbone_lr_factor`. Biases and the scales of
    normalisation layers are not decayed.

    Parameters
    ----------
    network : Network
    learning_rate : float
    backbone_lr_factor : float
    weight_decay : float

    Returns
    -------
    optimizer : AdamW
    """
    groups = []
    for module, factor in ((network.backbone, backbone_lr_factor), (network.head, 1.0)):
        parameters = [p for p in module.parameters() if p.requires_grad] if module is not None else []
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        rate = learning_rate * factor
        groups += [
            {"params": part, "lr": rate, "weight_decay": decay}
            for part, decay in ((decayed, weight_decay), (plain, 0.0))
            if part
        ]
    # The fused kernel is one pass over the weights instead of a dozen; on a CPU it saves a tenth of a step.
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def create_schedule(optimizer: torch.optim.Optimizer, *, n_steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """Create a one-cycle schedule that peaks at each group's own rate after a quarter of the steps."""
    rates = [group["lr"] for group in optimizer.param_groups]
    # Note: torch divides by zero at 4 steps, and trains a single step at a rate of nearly 0: a quarter of fewer than 5
    # steps is no rise. Such a training takes the first steps of a longer cycle.
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=max(n_steps, 5), pct_start=0.25)


def create_average(network: nn.Module, *, decay: float) -> AveragedModel:
    """Create a moving average of the weights and of the batch-norm statistics.

    After t steps its decay is ``min(decay, (1 + t) / (10 + t))``: without this warm-up, a short run would still be
    made of its initial weights (0.9997 ** 1260 = 0.69).
    """

    @torch.no_grad()
    def average(averaged, current, n_averaged) -> None:
        steps = int(n_averaged)
        kept = min(decay, (1 + steps) / (10 + steps))
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - kept)
        else:  # counters, such as the number of batches seen
            torch._foreach_copy_(averaged, current)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
