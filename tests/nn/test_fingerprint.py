import collections
import copy
import functools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import timm
import torch
from torch import nn

from multilabelkit.nn.backbones import SmallCNN
from multilabelkit.nn.fingerprint import compute_fingerprint


class Scaled(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        vars(self).update(attributes)

    def forward(self, images):
        return images.mean(dim=(2, 3))


def create_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5))


def define(source):
    """Define a function or class as a notebook does."""
    scope = {"__name__": "__main__", "nn": nn, "torch": torch}
    exec(source, scope)
    return scope["result"]


def copy_modified(change):
    network = create_network()
    change(network)
    return compute_fingerprint(network)


@pytest.mark.parametrize(
    "duplicate",
    [lambda network: network, copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))],
    ids=["itself", "copy", "pickle"],
)
@pytest.mark.parametrize(
    "create",
    [create_network, lambda: SmallCNN(in_chans=3, image_size=32), lambda: timm.create_model("resnet18"), Scaled],
    ids=["sequential", "small_cnn", "timm", "own"],
)
def test_equal_networks_have_the_same_fingerprint(create, duplicate):
    network = create()
    assert compute_fingerprint(duplicate(network)) == compute_fingerprint(network)


def test_mode_gradients_and_origin_of_weights_have_no_part():
    network = timm.create_model("resnet18", num_classes=0)
    expected = compute_fingerprint(network)
    network.eval().requires_grad_(False)
    network.pretrained_cfg = {"url": "https://example.org/weights"}
    assert compute_fingerprint(network) == expected
    assert compute_fingerprint(network.train()) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda network: network[0].weight.data[0, 0, 0].__setitem__(0, 1.5),
        lambda network: network[0].bias.data.neg_(),
        lambda network: network[1].running_mean.add_(1e-7),
        lambda network: network[1].register_buffer("hidden", torch.ones(1), persistent=False),
        lambda network: network.double(),
        lambda network: network.to(memory_format=torch.channels_last),
        lambda network: setattr(network[1], "eps", 1e-4),
        lambda network: setattr(network[0], "padding", (1, 1)),
        lambda network: network.append(nn.ReLU()),
        lambda network: network.__setitem__(2, nn.GELU()),
        lambda network: network.register_forward_hook(lambda module, inputs, output: output * 2),
        lambda network: network[2].register_forward_pre_hook(lambda module, inputs: (inputs[0] * 2,)),
        lambda network: setattr(network, "act", torch.relu),
    ],
    ids=range(13),
)
def test_whatever_changes_features_changes_the_fingerprint(change):
    assert copy_modified(change) != compute_fingerprint(create_network())


def test_settings_that_timm_does_not_show_have_their_part():
    networks = [
        timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, patch_size=16, embed_dim=12, num_heads=1,
                          depth=1, fc_norm=False, global_pool=pool)
        for pool in ("avg", "max")
    ]  # fmt: skip
    networks[1].load_state_dict(networks[0].state_dict())
    assert repr(networks[0]) == repr(networks[1])
    assert compute_fingerprint(networks[0]) != compute_fingerprint(networks[1])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, 1.0),
        (1, True),
        ("1", 1),
        ((1, 2), (2, 1)),
        (((1,), 2), ((1, 2),)),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (np.zeros(3), np.zeros(4)),
        (np.zeros(2), np.zeros(2, dtype=np.int64)),
        (torch.zeros(3), torch.ones(3)),
        (torch.relu, torch.sigmoid),
        (nn.functional.relu, nn.functional.gelu),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
        (collections.deque([1]), collections.deque([2])),
        (nn.ReLU, nn.GELU),
        (np, torch),
    ],
    ids=range(18),
)
def test_values_that_differ_differ(one, other):
    assert compute_fingerprint(one) != compute_fingerprint(other)
    assert compute_fingerprint(Scaled(value=one)) != compute_fingerprint(Scaled(value=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("result = lambda x: x * 2", "result = lambda x: x * 3"),
        ("result = lambda x: x.min()", "result = lambda x: x.max()"),
        ("result = lambda x, y=1: x", "result = lambda x, y=2: x"),
        ("result = lambda x, *, y=1: x", "result = lambda x, *, y=2: x"),
        ("result = (lambda y: lambda x: x * y)(2)", "result = (lambda y: lambda x: x * y)(3)"),
        ("scale = 2\nresult = lambda x: x * scale", "scale = 3\nresult = lambda x: x * scale"),
        (
            "def f(x): return x\nresult = lambda x: f(x)",
            "def f(x): return -x\nresult = lambda x: f(x)",
        ),
        ("class result:\n def f(self): return 1", "class result:\n def f(self): return 2"),
        ("class result:\n a = 1", "class result:\n a = 2"),
        ("class A: a = 1\nclass result(A): pass", "class A: a = 2\nclass result(A): pass"),
        (
            "class result:\n @property\n def f(self): return 1",
            "class result:\n @property\n def f(self): return 2",
        ),
        (
            "class result:\n @staticmethod\n def f(): return 1",
            "class result:\n @staticmethod\n def f(): return 2",
        ),
        ("class result(nn.Module):\n def forward(self, x): return x", "class result(nn.Module): pass"),
        ("result = lambda x: [y for y in x if y > 1]", "result = lambda x: [y for y in x if y > 2]"),
    ],
    ids=range(14),
)
def test_code_of_the_caller_that_differs_differs(one, other):
    assert compute_fingerprint(define(one)) == compute_fingerprint(define("\n\n" + one))  # wherever it stands
    assert compute_fingerprint(define(one)) != compute_fingerprint(define(other))


def test_functions_that_call_each_other_end():
    source = "def f(x): return g(x)\ndef g(x): return f(x) + {}\nresult = f"
    assert compute_fingerprint(define(source.format(1))) == compute_fingerprint(define(source.format(1)))
    assert compute_fingerprint(define(source.format(1))) != compute_fingerprint(define(source.format(2)))


def test_values_that_hold_themselves_end():
    value = [1]
    value.append(value)
    assert compute_fingerprint(value) == compute_fingerprint(copy.deepcopy(value))


def test_what_cannot_be_taken_apart_has_no_fingerprint():
    with pytest.raises(TypeError, match="lock"):
        compute_fingerprint(Scaled(lock=threading.Lock()))


def test_fingerprint_is_the_same_in_another_process():
    source = """
        from torch import nn
        from multilabelkit.nn.fingerprint import compute_fingerprint

        class Own(nn.Sequential):
            act = staticmethod(lambda x: x in {"a", "b", "c", "d"})

        network = Own(nn.Conv2d(3, 8, 3), nn.ReLU())
        nn.init.ones_(network[0].weight)
        nn.init.ones_(network[0].bias)
        result = compute_fingerprint((network, {"x", "y", "z"}))
        """
    source = textwrap.dedent(source)
    command = [sys.executable, "-c", f"{source}\nprint(result)"]
    printed = subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, "PYTHONHASHSEED": "7"}
    )
    assert printed.stdout.strip() == define(source)
