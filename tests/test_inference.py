import re
import threading

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import PixelReader, iterate_evaluation
from multilabelkit.data.transforms import to_network_input
from multilabelkit.errors import ImageDecodeError, InputError
from multilabelkit.inference import autocast, choose_device, choose_dtype, embed, predict_logits
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network

CPU = torch.device("cpu")
SPEC = InputSpec(32, 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def whole(message):
    return f"^{re.escape(message)}$"


@pytest.fixture
def network(tiny_network):
    backbone = nn.Sequential(*tiny_network, nn.BatchNorm2d(16), nn.Dropout(0.5))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Network(backbone, LinearHead(16, 3, dropout=0.5)).eval()


def run(function, network, images, *, batch_size=7, dtype=torch.float32, num_workers=0):
    reader = PixelReader(list(images), size=32, color_mode="rgb", pixel_cache=None)
    batches = iterate_evaluation(reader, batch_size=batch_size, num_workers=num_workers)
    return function(network, batches, spec=SPEC, device=CPU, dtype=dtype)


def prepare(images):
    return to_network_input(torch.from_numpy(images), SPEC, device=CPU)


@pytest.mark.parametrize("device", ["cpu", CPU])
def test_choose_device_takes_the_callers_device(device):
    assert choose_device(device) == CPU


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, False, "cuda:1"), (True, True, "cuda:1")],
)
def test_choose_device_prefers_an_accelerator(monkeypatch, cuda, mps, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto") == torch.device(expected)


@pytest.mark.parametrize(
    ("device", "n_devices", "message"),
    [
        ("cuda", 0, "device='cuda' was asked for, but torch sees no CUDA device; use device='auto'."),
        (torch.device("cuda:1"), 0, "device='cuda:1' was asked for, but torch sees no CUDA device; use device='auto'."),
        ("cuda:2", 2, "device='cuda:2' was asked for, but torch sees only 2 CUDA device(s); use device='auto'."),
        ("mps", 0, "device='mps' was asked for, but torch sees no MPS device; use device='auto'."),
        ("gpu", 0, "device='gpu' is no device that torch knows; use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'."),
    ],
    ids=["cuda", "torch.device", "too high", "mps", "unknown"],
)
def test_choose_device_refuses_what_is_not_there(monkeypatch, device, n_devices, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: n_devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_devices)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match=whole(message)):
        choose_device(device)


@pytest.mark.parametrize(("precision", "expected"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_choose_dtype_takes_the_callers_precision(precision, expected, device):
    assert choose_dtype(precision, torch.device(device)) == expected


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_choose_dtype_asks_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert choose_dtype("auto", CPU) == expected


def test_choose_dtype_is_fp32_where_torch_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_dtype("auto", CPU) == torch.float32


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_choose_dtype_asks_the_accelerator(monkeypatch, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    assert choose_dtype("auto", torch.device("cuda")) == expected
    assert choose_dtype("auto", torch.device("mps")) == torch.float32


def test_autocast_does_nothing_for_fp32():
    matrix = torch.eye(2)
    with autocast(CPU, torch.float32):
        assert (matrix @ matrix).dtype == torch.float32
    with autocast(CPU, torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16


@pytest.mark.parametrize("num_workers", [0, 3])
def test_predict_logits_equals_the_network_on_all_images_at_once(network, shapes, num_workers):
    logits = run(predict_logits, network, shapes.images, num_workers=num_workers)
    with torch.no_grad():
        expected = network(prepare(shapes.images)).numpy()
    assert logits.dtype == np.float32
    assert logits.shape == (48, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5, 48, 1000])
def test_logits_do_not_depend_on_the_batch_size(network, shapes, batch_size):
    expected = run(predict_logits, network, shapes.images)
    np.testing.assert_allclose(
        run(predict_logits, network, shapes.images, batch_size=batch_size), expected, atol=1e-5, rtol=0
    )


def test_logits_keep_the_order_of_the_images(network, shapes):
    order = np.random.default_rng(0).permutation(48)
    expected = run(predict_logits, network, shapes.images)[order]
    np.testing.assert_allclose(
        run(predict_logits, network, shapes.images[order], num_workers=4, batch_size=3), expected, atol=1e-5
    )


def test_embed_gives_the_features_of_the_backbone(network, shapes):
    features = run(embed, network, shapes.images)
    with torch.no_grad():
        expected = network.backbone(prepare(shapes.images)).mean(dim=(2, 3)).numpy()
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)


@pytest.mark.parametrize("function", [predict_logits, embed])
def test_half_precision_gives_float32_results_near_those_of_full(network, shapes, function):
    full = run(function, network, shapes.images)
    half = run(function, network, shapes.images, dtype=torch.bfloat16)
    assert half.dtype == np.float32
    assert not np.array_equal(half, full)
    np.testing.assert_allclose(half, full, atol=0.05)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("function", [predict_logits, embed])
def test_network_keeps_its_mode_weights_and_statistics(network, shapes, function, training):
    network.train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first, second = (run(function, network, shapes.images) for _ in range(2))
    np.testing.assert_array_equal(first, second)  # no dropout
    assert network.training is training
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_network_keeps_its_mode_when_an_image_fails(network, shapes):
    network.train()
    with pytest.raises(ImageDecodeError, match=whole("Cannot decode the image absent.png: the file does not exist.")):
        run(predict_logits, network, [*shapes.images, "absent.png"])
    assert network.training


def test_inference_builds_no_graph(network, shapes, monkeypatch):
    seen = []
    monkeypatch.setattr(
        network, "forward", lambda images: seen.append(torch.is_grad_enabled()) or images.flatten(1)[:, :2]
    )
    run(predict_logits, network, shapes.images)
    assert seen == [False] * 7
    assert torch.is_grad_enabled()


def test_failing_network_leaves_no_decoding_thread(network, shapes):
    reader = PixelReader(list(shapes.images), size=32, color_mode="rgb", pixel_cache=None)
    batches = iterate_evaluation(reader, batch_size=4, num_workers=2)

    def fail(module, inputs):
        raise KeyboardInterrupt

    network.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        predict_logits(network, batches, spec=SPEC, device=CPU, dtype=torch.float32)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit")]
