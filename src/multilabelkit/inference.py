"""The only loop that runs a network in eval mode: logits and features of many images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import Batch
from multilabelkit.data.transforms import to_network_input
from multilabelkit.errors import InputError, MultiLabelKitError
from multilabelkit.nn.network import Network


def choose_device(device: str | torch.device) -> torch.device:
    """Turn the `device` parameter into a device; "auto" is the first accelerator there is, else the processor."""
    if device != "auto":
        try:
            chosen = torch.device(device)
        except RuntimeError as error:
            raise InputError(
                f"device={device!r} is no device that torch knows; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."
            ) from error
        n_devices = torch.cuda.device_count()
        if chosen.type == "cuda" and (chosen.index or 0) >= n_devices:
            seen = f"only {n_devices} CUDA device(s)" if n_devices else "no CUDA device"
            raise InputError(f"device={str(device)!r} was asked for, but torch sees {seen}; use device='auto'.")
        if chosen.type == "mps" and not torch.backends.mps.is_available():
            raise InputError(f"device={str(device)!r} was asked for, but torch sees no MPS device; use device='auto'.")
        return chosen
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Turn the `precision` parameter into the type that autocast computes in; fp32 means no autocast.

    "auto" is bf16 where the processor multiplies it natively (measured: 1.5 times faster in training and 3 times in
    prediction on such a CPU, several times slower on one without), else fp32.
    """
    if precision == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported(including_emulation=False)
        else:
            fast = device.type == "cpu" and _cpu_has_bf16()
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


def _cpu_has_bf16() -> bool:
    read_capabilities = getattr(torch.cpu, "get_capabilities", dict)  # older torch does not tell, and gets fp32
    capabilities: dict[str, bool] = read_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the context in which networks run; it does nothing for fp32."""
    return torch.autocast(device.type, dtype=dtype if dtype != torch.float32 else None, enabled=dtype != torch.float32)


def predict_logits(
    network: Network,
    batches: Iterable[Batch],
    *,
    spec: InputSpec,
    device: torch.device,
    dtype: torch.dtype,
    flip: bool = False,
) -> np.ndarray:
    """Return the logits of all images, (n_samples, n_classes) float32, in the order of the batches.

    With `flip`, they are the mean of those of each image and of its left-right mirror image.
    """

    def average(images: torch.Tensor) -> torch.Tensor:
        return (network(images) + network(images.flip(3))) / 2

    return _run(network, average if flip else network, batches, spec=spec, device=device, dtype=dtype)


def embed(
    network: Network, batches: Iterable[Batch], *, spec: InputSpec, device: torch.device, dtype: torch.dtype
) -> np.ndarray:
    """Return the features of all images, (n_samples, n_features) float32, in the order of the batches."""
    return _run(network, network.embed, batches, spec=spec, device=device, dtype=dtype)


def extract_features(
    network: Network, batches: Iterable[Batch], *, spec: InputSpec, device: torch.device, dtype: torch.dtype
) -> np.ndarray:
    """Return the features that the head wants of all images, (n_samples, F) or (n_samples, N, F) float32, in order."""
    return _run(network, network.compute_features, batches, spec=spec, device=device, dtype=dtype)


def _run(network, function, batches, *, spec, device, dtype) -> np.ndarray:
    training = network.training
    network.eval()
    close = getattr(batches, "close", None)  # of a generator; an error must not leave its threads behind
    try:
        with torch.inference_mode(), autocast(device, dtype):
            results = [function(to_network_input(batch.pixels, spec, device=device)) for batch in batches]
            return torch.cat(results).cpu().numpy()
    finally:
        if close is not None:
            close()
        network.train(training)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities, in float32 and without overflow."""
    return torch.sigmoid(torch.from_numpy(logits)).numpy()


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits into probabilities that sum to 1 in each row, in float32 and without overflow."""
    return torch.softmax(torch.from_numpy(logits), dim=1).numpy()


@contextmanager
def explain_memory(*, batch_size: int, spec: InputSpec, device: torch.device) -> Iterator[None]:
    """Turn torch's complaint that memory is used up into one that says which sizes to lower."""
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one; on a processor it is a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise MultiLabelKitError(
            f"A batch of {batch_size} images of {spec.size}x{spec.size} pixels does not fit in the memory of "
            f"{device.type!r}. Lower batch_size (accumulate=2 with half the batch_size trains alike), or image_size, "
            "or take a smaller backbone."
        ) from error
