"""The moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def create_average(network: nn.Module, *, decay: float, warmup: int = 9) -> AveragedModel:
    """Create a moving average of the weights and of the batch-norm statistics.

    After t steps its decay is ``min(decay, (1 + t) / (1 + warmup + t))``: without this warm-up, a short run would still
    be made of its initial weights (0.9997 ** 1260 = 0.69). With a warm-up of 9 the average is that of the last tenth of
    the steps so far; with 1 it is the mean of all of them, which is worth it where the first weights are good already.
    """
    return _Average(network, decay=decay, warmup=warmup)


class _Average(AveragedModel):
    """Counts its updates itself: torch's counter, left at 0, would be moved to the GPU and waited for at every step."""

    def __init__(self, network: nn.Module, *, decay: float, warmup: int) -> None:
        super().__init__(network, use_buffers=True)
        self.decay, self.warmup = decay, warmup
        self.n_updates = 0

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Draw the average towards the weights and statistics of a network."""
        kept = min(self.decay, (1 + self.n_updates) / (1 + self.warmup + self.n_updates))
        floats: list[tuple[torch.Tensor, torch.Tensor]] = []
        others: list[tuple[torch.Tensor, torch.Tensor]] = []
        for pair in zip(_list_tensors(self.module), _list_tensors(model), strict=True):
            (floats if pair[0].is_floating_point() and self.n_updates else others).append(pair)
        if floats:
            averaged, current = map(list, zip(*floats, strict=True))
            torch._foreach_lerp_(averaged, current, 1 - kept)
        if others:  # counters, such as the number of batches seen; in the first update, everything
            averaged, current = map(list, zip(*others, strict=True))
            torch._foreach_copy_(averaged, current)
        self.n_updates += 1


def _list_tensors(network: nn.Module) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
