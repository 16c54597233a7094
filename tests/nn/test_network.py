import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError
from multilabelkit.nn.backbones import PlainCNN, SmallCNN
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network, create_input_spec, create_network


def whole(message):
    return f"^{re.escape(message)}$"


def create(backbone="plain_cnn", **params):
    defaults = {
        "n_classes": 3,
        "in_chans": 3,
        "image_size": 32,
        "normalization": "pretrained",
        "head": "linear",
        "dropout": 0.1,
        "pretrained": False,
        "backbone_params": {},
    }
    return create_network(backbone, **(defaults | params))


class Returns(nn.Module):
    """Gives what a function makes of the images."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("backbone", "n_features"), [("small_cnn", 1024), ("plain_cnn", 128), ("resnet10t", 512)], ids=str
)
def test_create_network_puts_a_fitting_head_on_a_backbone(backbone, n_features, channels):
    network, spec = create(backbone, in_chans=channels)
    assert isinstance(network.head, LinearHead)
    assert network.head.linear.weight.shape == (3, n_features)
    assert network.head.dropout.p == 0.1
    assert (spec.size, spec.channels) == (32, channels)
    with torch.inference_mode():
        assert network.eval()(torch.zeros(2, channels, 32, 32)).shape == (2, 3)


def test_create_network_averages_the_maps_of_own_modules(tiny_network):
    network, _ = create(tiny_network)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.embed(images), tiny_network(images).mean(dim=(2, 3)))
    assert network.head.linear.in_features == 16


def test_logits_are_the_head_of_the_features(tiny_network):
    network = create(tiny_network)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), network.head.linear(network.embed(images)))


def test_logits_and_features_are_fp32_under_autocast(tiny_network):
    network = create(tiny_network)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tiny_network(images).dtype == torch.bfloat16
        features, logits = network.embed(images), network(images)
    assert features.dtype == logits.dtype == torch.float32
    torch.testing.assert_close(logits, network.head.linear(features), rtol=0, atol=0)  # and computed in it


@pytest.mark.parametrize("training", [True, False])
def test_create_network_counts_features_without_touching_the_backbone(training):
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone.train(training)
    create(backbone)
    assert backbone[1].num_batches_tracked == 0
    assert torch.equal(backbone[1].running_mean, torch.zeros(4))
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            lambda images: (images, images),
            "The backbone returned tuple, not a tensor; make its forward return the features (B, F) or (B, F, h, w) "
            "alone.",
            id="tuple",
        ),
        pytest.param(
            lambda images: {"logits": images},
            "The backbone returned dict, not a tensor; make its forward return the features (B, F) or (B, F, h, w) "
            "alone.",
            id="dict",
        ),
        pytest.param(
            lambda images: images.flatten(2),
            "The backbone returned a tensor of shape (1, 3, 1024); its forward must return features of shape (B, F) or "
            "(B, F, h, w).",
            id="3-D",
        ),
        pytest.param(
            lambda images: images.sum(),
            "The backbone returned a tensor of shape (); its forward must return features of shape (B, F) or "
            "(B, F, h, w).",
            id="0-D",
        ),
    ],
)
def test_backbone_that_returns_no_features_is_refused(output, message):
    with pytest.raises(InputError, match=whole(message)):
        create(Returns(output))


def test_backbone_gives_the_logits_itself_without_a_head():
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3))
    network, _ = create(backbone, head=None)
    assert network.head is None
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network(images), backbone(images))
    torch.testing.assert_close(network.embed(images), backbone(images))


def test_backbone_without_a_head_must_return_one_logit_per_class():
    message = (
        "With head=None the backbone must return one logit per class, but it returned 16 values for 3 classes. "
        "Change its last layer, or use head='linear'."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(nn.Sequential(nn.Conv2d(3, 16, 3)), head=None)


@pytest.mark.parametrize(
    ("backbone", "params", "what", "reason"),
    [
        pytest.param(nn.Conv2d(1, 4, 3), {}, "3 channel(s) and 32x32", ".*expected input.*", id="own, colours"),
        pytest.param("vit_tiny_patch16_224", {"image_size": 8}, "3 channel(s) and 8x8", ".*", id="too small"),
        pytest.param(
            "maxvit_tiny_rw_224",
            {"image_size": 100, "in_chans": 1},
            "1 channel(s) and 100x100",
            ".*divisible.*",
            id="an assertion of timm's",
        ),
    ],
)
def test_backbone_that_cannot_take_such_images_is_refused(backbone, params, what, reason):
    start = re.escape(f"The backbone cannot take images of {what} pixels: ")
    with pytest.raises(
        InputError, match=rf"(?s)^{start}{reason}\. Change image_size or color_mode, or the backbone\.$"
    ):
        create(backbone, **params)


def test_errors_of_an_own_backbone_are_its_own():
    with pytest.raises(ZeroDivisionError):
        create(Returns(lambda images: 1 / 0))


@pytest.mark.parametrize(
    ("backbone", "size"),
    [(SmallCNN(in_chans=3, image_size=150), 150), (PlainCNN(in_chans=3), 224), (nn.Flatten(), 224)],
    ids=["small_cnn", "plain_cnn", "own"],
)
def test_input_spec_has_a_default_size(backbone, size):
    spec = create_input_spec(backbone, in_chans=3, image_size=None, normalization="pretrained")
    assert spec == InputSpec(size, 3, (0.0,) * 3, (1.0,) * 3)


def test_input_spec_is_that_of_the_pretrained_weights():
    backbone = timm.create_model("resnet10t", num_classes=0)
    config = backbone.pretrained_cfg
    spec = create_input_spec(backbone, in_chans=3, image_size=None, normalization="pretrained")
    assert spec == InputSpec(config["input_size"][-1], 3, config["mean"], config["std"])
    grey = create_input_spec(backbone, in_chans=1, image_size=40, normalization="pretrained")
    assert (grey.size, grey.channels) == (40, 1)
    np.testing.assert_allclose([grey.mean[0], grey.std[0]], [np.mean(config["mean"]), np.mean(config["std"])])


@pytest.mark.parametrize(
    ("normalization", "channels", "mean", "std"),
    [
        ("unit", 3, (0.0,) * 3, (1.0,) * 3),
        ("unit", 1, (0.0,), (1.0,)),
        ((0.5, 0.25), 3, (0.5,) * 3, (0.25,) * 3),
        (((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)), 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ((np.array([0.1, 0.2, 0.3]), [1, 1, 1]), 3, (0.1, 0.2, 0.3), (1.0,) * 3),
        (((0.5,), (0.2,)), 1, (0.5,), (0.2,)),
        (((0.5,), (0.2,)), 3, (0.5,) * 3, (0.2,) * 3),
    ],
)
def test_input_spec_takes_the_callers_normalization(normalization, channels, mean, std):
    backbone = timm.create_model("resnet10t", num_classes=0)
    spec = create_input_spec(backbone, in_chans=channels, image_size=8, normalization=normalization)
    assert spec == InputSpec(8, channels, mean, std)
    assert all(type(value) is float for value in (*spec.mean, *spec.std))


def test_network_saves_and_loads_its_weights(tiny_network):
    network = Network(tiny_network, LinearHead(16, 3, dropout=0.0))
    other = create(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2)))[0]
    other.load_state_dict(network.state_dict())
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("one", [0.5, np.float32(0.5), (0.5,), np.array([0.5]), [0.5] * 3], ids=repr)
def test_normalization_takes_numbers_of_every_kind(one):
    assert create(normalization=(one, one))[1].mean == (0.5, 0.5, 0.5)
