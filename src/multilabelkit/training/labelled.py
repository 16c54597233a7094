"""Images or features with their targets: what a training reads, batch by batch."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import (
    Batch,
    PixelReader,
    count_batches,
    create_generator,
    iterate_evaluation,
    iterate_training,
)
from multilabelkit.data.transforms import to_network_input
from multilabelkit.inference import predict_logits
from multilabelkit.nn.network import Network, switch_to_eval
from multilabelkit.training.settings import TrainingSettings

_PART_VALUES = 2**21  # features that pass the head at once


@dataclass(frozen=True)
class LabelledImages:
    """Images with their targets, ready to be read."""

    reader: PixelReader
    targets: np.ndarray  # (n, C) float32 of 0, 1, NaN
    sample_weight: np.ndarray | None = None  # (n,) float32

    def iterate(
        self, *, spec: InputSpec, settings: TrainingSettings, epoch: int, rows: np.ndarray | None
    ) -> Generator[Batch, None, None]:
        """Yield the batches of a training epoch."""
        return iterate_training(
            self.reader,
            size=spec.size,
            batch_size=settings.batch_size,
            augmentation=settings.augmentation,
            seed=settings.seed,
            epoch=epoch,
            num_workers=settings.num_workers,
            rows=rows,
        )

    def to_input(self, batch: Batch, *, spec: InputSpec, device: torch.device) -> torch.Tensor:
        """Return what the network takes: images (B, C, S, S)."""
        return to_network_input(batch.pixels, spec, device=device, factors=batch.factors)

    def predict_logits(self, network: Network, *, spec: InputSpec, settings: TrainingSettings) -> np.ndarray:
        """Return the logits (n, C) of all images, not augmented; with ``settings.flip``, mirrored too."""
        batch_size, num_workers = settings.evaluation_batch_size, settings.num_workers
        batches = iterate_evaluation(self.reader, batch_size=batch_size, num_workers=num_workers)
        return predict_logits(
            network, batches, spec=spec, device=settings.device, dtype=settings.dtype, flip=settings.flip
        )


@dataclass(frozen=True)
class LabelledFeatures:
    """Features of a frozen backbone with their targets: an epoch of them costs next to nothing.

    The network of such a training is ``Network(Identity(), head)``.
    """

    features: np.ndarray  # (n, F) or (n, N, F) float32
    targets: np.ndarray  # (n, C) float32 of 0, 1, NaN
    sample_weight: np.ndarray | None = None  # (n,) float32
    mirrored: np.ndarray | None = None  # features of the mirror images, where predictions are the mean of both

    def iterate(
        self, *, spec: InputSpec, settings: TrainingSettings, epoch: int, rows: np.ndarray | None
    ) -> Generator[Batch, None, None]:
        """Yield the batches of a training epoch, in a random order that depends on (seed, epoch) alone."""
        chosen = np.arange(len(self.features)) if rows is None else rows
        order = chosen[create_generator("order", settings.seed, epoch).permutation(len(chosen))]
        for part in np.array_split(order, count_batches(len(order), settings.batch_size)):
            yield Batch(part, torch.from_numpy(self.features[part]), None)

    def to_input(self, batch: Batch, *, spec: InputSpec, device: torch.device) -> torch.Tensor:
        """Return what the network takes: features (B, F) or (B, N, F)."""
        return batch.pixels.to(device)

    def predict_logits(self, network: Network, *, spec: InputSpec, settings: TrainingSettings) -> np.ndarray:
        """Return the logits (n, C) of all rows, averaged with those of the mirror images if there are."""
        sides = [side for side in (self.features, self.mirrored) if side is not None]
        with switch_to_eval(network), torch.inference_mode():
            logits = [_classify(network, side, settings) for side in sides]
            return torch.stack(logits).mean(dim=0).cpu().numpy()


def _classify(network: Network, features: np.ndarray, settings: TrainingSettings) -> torch.Tensor:
    parts = torch.from_numpy(features).split(max(1, _PART_VALUES // features[0].size))
    return torch.cat([network.classify(part.to(settings.device)) for part in parts])


Labelled = LabelledImages | LabelledFeatures
