"""From images to logits with a fitted classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from multilabelkit.data.bad_images import check_files_exist, locate_error, warn_of_failures
from multilabelkit.data.images import check_images
from multilabelkit.data.loading import iterate_evaluation
from multilabelkit.data.threads import count_workers
from multilabelkit.errors import ImageDecodeError
from multilabelkit.inference import choose_device, choose_dtype, explain_memory, predict_logits
from multilabelkit.parameters import BaseImageClassifier, check_reading
from multilabelkit.preparation import UsableImages, create_reader, list_bad_images

BATCH_SIZE = 32  # where batch_size=None trains on all images at once


def choose_network_dtype(classifier: BaseImageClassifier, has_head: bool, device: torch.device) -> torch.dtype:
    """Choose what a network computes in; one that gives the logits itself is left in fp32 unless bf16 is asked for."""
    by_default = "auto" if has_head else "fp32"
    return choose_dtype(by_default if classifier.precision == "auto" else classifier.precision, device)


def compute_logits(classifier: BaseImageClassifier, X: Any, *, on_bad_image: str | None = None) -> np.ndarray:
    """Run the fitted network over images and return the logits (n_samples, n_classes) float32.

    With on_bad_image="nan", which stands in the classifier unless it is given, an image that cannot be decoded has a
    row of NaN; else it is an error.
    """
    check_reading(classifier)
    sources = check_images(X)
    images = UsableImages(sources, np.arange(len(sources)))
    spec, device = classifier.input_spec_, choose_device(classifier.device)
    keep_bad = (on_bad_image or classifier.on_bad_image) == "nan"
    reader = create_reader(classifier, sources, size=spec.size, spec=spec, keep_bad=keep_bad)
    num_workers = count_workers(classifier.num_workers)
    network = classifier.network_.to(device)
    batch_size = classifier.batch_size or BATCH_SIZE
    batches = iterate_evaluation(reader, batch_size=batch_size, num_workers=num_workers)
    try:
        if not keep_bad:
            check_files_exist(sources)
        dtype = choose_network_dtype(classifier, network.head is not None, device)
        with explain_memory(batch_size=batch_size, spec=spec, device=device):
            logits = predict_logits(
                network, batches, spec=spec, device=device, dtype=dtype, flip=classifier.tta == "hflip"
            )
    except ImageDecodeError as error:
        list_bad_images(classifier, images, advice=", or set on_bad_image='nan' to have rows of NaN for what is bad")
        raise locate_error(error, sources) from error
    if reader.failures:
        failures = sorted(reader.failures.items())
        logits[[row for row, _ in failures]] = np.nan
        consequence = "Their rows are NaN, as on_bad_image='nan' asks."
        warn_of_failures(failures, n_images=len(sources), consequence=consequence)
    return logits
