import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.errors import InputError
from multilabelkit.nn.backbones import PlainCNN, SmallCNN
from multilabelkit.nn.heads import HEADS, LinearHead, create_head
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
    backbone[1].eval()  # someone froze its statistics
    create(backbone)
    assert [backbone.training, backbone[0].training, backbone[1].training] == [training, training, False]
    assert backbone[1].num_batches_tracked == 0
    assert torch.equal(backbone[1].running_mean, torch.zeros(4))
    assert all(parameter.grad is None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("output", "message"),
    [
        pytest.param(
            lambda images: (images, images),
            "The backbone returned tuple, not a tensor; make its forward return the features (B, F), (B, F, h, w) or "
            "(B, N, F) alone.",
            id="tuple",
        ),
        pytest.param(
            lambda images: {"logits": images},
            "The backbone returned dict, not a tensor; make its forward return the features (B, F), (B, F, h, w) or "
            "(B, N, F) alone.",
            id="dict",
        ),
        pytest.param(
            lambda images: images.unsqueeze(0),
            "The backbone returned a tensor of shape (1, 1, 3, 32, 32); its forward must return features of shape "
            "(B, F), (B, F, h, w) or (B, N, F).",
            id="5-D",
        ),
        pytest.param(
            lambda images: images.sum(),
            "The backbone returned a tensor of shape (); its forward must return features of shape (B, F), "
            "(B, F, h, w) or (B, N, F).",
            id="0-D",
        ),
    ],
)
@pytest.mark.parametrize("head", ["linear", "attention"])
def test_backbone_that_returns_no_features_is_refused(output, message, head):
    with pytest.raises(InputError, match=whole(message)):
        create(Returns(output), head=head)


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


class TakesOneSize(nn.Module):
    """Takes images of one size, and does not say so before."""

    def __init__(self, size):
        super().__init__()
        self.size = size

    def forward(self, images):
        if images.shape[-1] != self.size:
            raise RuntimeError("something about matrices")
        return images.flatten(1)


@pytest.mark.parametrize("head", ["linear", "attention"])
@pytest.mark.parametrize(
    ("backbone", "params", "reason", "least"),
    [
        pytest.param("nest_tiny", {"image_size": 14}, "`patch_size` must divide `img_size` evenly", 16, id="not built"),
        pytest.param("inception_v3", {"image_size": 74}, ".+", 75, id="inception"),
        pytest.param("vgg16", {"image_size": 31}, ".+", 32, id="vgg", marks=pytest.mark.slow),
        pytest.param(TakesOneSize(30), {"image_size": 20}, "something about matrices", 30, id="own"),
    ],
)
def test_images_too_small_for_a_backbone_are_refused_with_the_least_size(backbone, params, reason, least, head):
    size, channels = params["image_size"], params.get("in_chans", 3)
    start = f"The backbone cannot take images of {channels} channel(s) and {size}x{size} pixels: "
    end = f". Use image_size={least}, the least that it can take."
    with pytest.raises(InputError, match=f"^{re.escape(start)}{reason}{re.escape(end)}$"):
        create(backbone, head=head, **params)


def test_least_size_can_be_taken():
    for backbone, size in (("vit_tiny_patch16_224", 16), ("convnext_atto", 32), (TakesOneSize(30), 30)):
        assert create(backbone, image_size=size)[1].size == size


@pytest.mark.parametrize(
    ("backbone", "params", "reason"),
    [
        pytest.param("test_maxvit", {"image_size": 80}, "height (5) must be divisible by window (2)", id="timm"),
        pytest.param(TakesOneSize(32), {"image_size": None}, "something about matrices", id="own"),
    ],
)
def test_sizes_that_a_backbone_leaves_out_are_refused_with_one_it_takes(backbone, params, reason):
    size = params["image_size"] or 224
    message = (
        f"The backbone cannot take images of 3 channel(s) and {size}x{size} pixels: {reason}. "
        "It can take image_size=32, but not every size above; use that or a multiple of it."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(backbone, **params)


def test_size_that_timm_declares_too_small_is_refused_though_a_forward_pass_works():
    backbone = timm.create_model("resnet10t", num_classes=0)
    backbone.pretrained_cfg = {**backbone.pretrained_cfg, "min_input_size": (3, 64, 64)}
    message = "image_size=63 is too small for the backbone 'resnet10t'; use at least 64."
    with pytest.raises(InputError, match=whole(message)):
        create(backbone, image_size=63)
    assert create(backbone, image_size=64)[1].size == 64


@pytest.mark.parametrize(
    ("name", "least"),
    [("mobilenetv3_small_050", 32), ("resnet10t", 32), ("convnext_atto", 32), ("vit_tiny_patch16_224", 16)],
)
def test_images_smaller_than_a_cell_of_the_last_map_are_refused(name, least):
    message = f"image_size={least - 1} is too small for the backbone '{name}'; use at least {least}."
    with pytest.raises(InputError, match=whole(message)):
        create(name, image_size=least - 1)
    assert create(name, image_size=least)[1].size == least


def test_channels_that_no_size_mends_are_refused():
    with pytest.raises(InputError) as caught:
        create(nn.Conv2d(1, 4, 3))
    start, end = str(caught.value).split("expected input")
    assert start.startswith("The backbone cannot take images of 3 channel(s) and 32x32 pixels: Given groups=1, ")
    assert end.endswith(
        "to have 1 channels, but got 3 channels instead. Change image_size or color_mode, or the backbone."
    )


def test_errors_of_timm_that_have_nothing_to_do_with_sizes_are_its_own(monkeypatch):
    def fail(*args, **params):
        raise RuntimeError("mine")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match=whole("mine")):
        create("resnet10t")


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


# Features of each place


def test_maps_of_own_modules_become_tokens_row_by_row(tiny_network):
    network, _ = create(tiny_network, head="attention")
    images = torch.randn(2, 3, 32, 32)
    maps, tokens = tiny_network(images), network.embed_tokens(images)
    assert tokens.shape == (2, 49, 16)
    torch.testing.assert_close(tokens[:, 9], maps[:, :, 1, 2])  # maps of 7x7
    assert network.head.linear.in_features == 16


def test_tokens_of_own_modules_stay_and_are_averaged():
    network = Network(Returns(lambda images: images.flatten(2)), None)
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(network.embed_tokens(images), images.flatten(2))
    torch.testing.assert_close(network.embed(images), images.flatten(2).mean(dim=1))


def test_pooled_features_are_one_token():
    network = Network(nn.Flatten(), None)
    images = torch.randn(2, 3, 4, 4)
    assert torch.equal(network.embed_tokens(images), images.flatten(1).unsqueeze(1))
    assert torch.equal(network.embed(images), images.flatten(1))


@pytest.mark.parametrize(
    ("attributes", "channels"),
    [
        pytest.param({}, 1, id="nothing said"),
        pytest.param({"output_fmt": "NHWC"}, 3, id="layout said"),
        pytest.param({"num_features": 5}, 1, id="width of axis 1 said"),
        pytest.param({"num_features": 7}, 3, id="width of axis 3 said"),
        pytest.param({"num_features": 9}, 1, id="no such width"),
    ],
)
def test_channels_of_maps_are_where_the_backbone_says(attributes, channels):
    maps = torch.randn(2, 5, 6, 7)
    backbone = Returns(lambda images: maps)
    for name, value in attributes.items():
        setattr(backbone, name, value)
    network = Network(backbone, None)
    places = [axis for axis in (1, 2, 3) if axis != channels]
    torch.testing.assert_close(network.embed(maps), maps.mean(dim=places))
    torch.testing.assert_close(network.embed_tokens(maps), maps.permute(0, *places, channels).flatten(1, 2))


def test_plain_cnn_gives_its_maps_as_tokens():
    network = create("plain_cnn", head="attention")[0].eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = network.embed_tokens(images)
    assert tokens.shape == (2, 16, 128)
    torch.testing.assert_close(tokens.mean(dim=1), network.embed(images))


SWIN = {"depths": (1, 1, 1, 1), "embed_dim": 8, "num_heads": (1, 1, 1, 1), "window_size": 2}


@pytest.mark.parametrize("pool", ["avg", ""])
def test_swin_is_averaged_over_places_and_not_over_channels(pool):
    params = SWIN | {"global_pool": pool}
    network = create("swin_tiny_patch4_window7_224", image_size=64, head="attention", backbone_params=params)[0].eval()
    images = torch.randn(2, 3, 64, 64)
    tokens = network.embed_tokens(images)
    assert tokens.shape == (2, 4, 64)
    torch.testing.assert_close(network.embed(images), tokens.mean(dim=1))


def test_tokens_of_a_transformer_begin_with_its_class_token():
    network = create("vit_tiny_patch16_224", head="attention", backbone_params={"depth": 1})[0].eval()
    images = torch.randn(2, 3, 32, 32)
    tokens = network.embed_tokens(images)
    assert tokens.shape == (2, 1 + 4, 192)
    torch.testing.assert_close(tokens[:, 0], network.embed(images))


def test_of_several_scales_the_last_is_taken():
    params = {"depth": ((1, 1, 0),) * 3}
    network = create("crossvit_tiny_240", image_size=240, head="attention", backbone_params=params)[0]
    assert network.head.linear.in_features == 192
    assert network.embed(torch.zeros(1, 3, 240, 240)).shape == (1, 96 + 192)


@pytest.mark.parametrize("head", HEADS)
def test_logits_are_the_head_of_what_it_wants(tiny_network, head):
    network = create(tiny_network, head=head)[0].eval()
    images = torch.randn(2, 3, 32, 32)
    features = network.compute_features(images)
    assert features.ndim == (2 if head in ("linear", "mlp") else 3)
    assert torch.equal(network(images), network.classify(features))
    assert torch.equal(network(images), network.head(features))


@pytest.mark.parametrize("head", HEADS)
def test_every_head_computes_in_fp32_under_autocast(tiny_network, head):
    network = create(tiny_network, head=head)[0].eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = network.compute_features(torch.randn(2, 3, 32, 32))
        logits = network.classify(features)
    assert features.dtype == logits.dtype == torch.float32
    assert torch.equal(logits, network.classify(features))


def test_features_without_a_head_are_the_logits(tiny_network):
    network = Network(tiny_network, None)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(network(images), network.embed(images))
    assert torch.equal(network.compute_features(images), network.embed(images))


def test_create_network_passes_head_params_on(tiny_network):
    network, _ = create(tiny_network, head="mlp", head_params={"hidden": (6,)}, dropout=0.3)
    assert network.head.output.in_features == 6
    assert network.head.dropout.p == 0.3


def test_create_network_refuses_head_params_before_the_backbone_is_made():
    with pytest.raises(InputError, match=whole("The head 'linear' takes no head_params['width']. It takes none.")):
        create(Returns(lambda images: 1 / 0), head_params={"width": 3})


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_backbone_with_a_second_output_is_refused_before_training():
    message = (
        "The backbone returned tuple, not a tensor; make its forward return the features (B, F), (B, F, h, w) or "
        "(B, N, F) alone."
    )
    for head in ("linear", "attention"):
        with pytest.raises(InputError, match=whole(message)):
            create("inception_v3", image_size=299, head=head, backbone_params={"aux_logits": True})


@pytest.mark.parametrize(
    ("backbone", "pooled", "tokens"),
    [
        pytest.param("vgg16", 4096, (49, 512), marks=pytest.mark.slow),
        ("resnet18", 512, (49, 512)),
        ("resnet50", 2048, (49, 2048)),
        pytest.param("resnet101", 2048, (49, 2048), marks=pytest.mark.slow),
        ("inception_v3", 2048, (64, 2048)),
        ("mobilenetv3_large_100", 1280, (49, 960)),
        ("efficientnet_b0", 1280, (49, 1280)),
        ("convnext_tiny", 768, (49, 768)),
        ("swin_tiny_patch4_window7_224", 768, (49, 768)),
        ("vit_tiny_patch16_224", 192, (197, 192)),
        ("deit_tiny_patch16_224", 192, (197, 192)),
    ],
)
def test_backbones_train_at_their_own_size_in_grey_with_every_head(backbone, pooled, tokens):
    network, spec = create(backbone, image_size=None, in_chans=1)
    assert spec.size == (299 if backbone == "inception_v3" else 224)
    images, loss = torch.randn(2, 1, spec.size, spec.size), torch.zeros(())
    network.train()
    features = {"pooled": network.embed(images), "tokens": network.embed_tokens(images)}
    assert features["pooled"].shape == (2, pooled)
    assert features["tokens"].shape == (2, *tokens)
    for name, kind in HEADS.items():
        found = features[kind.input_kind]
        network.head = create_head(name, n_features=found.shape[-1], n_classes=3, dropout=0.1)
        logits = network.classify(found)
        assert logits.shape == (2, 3)
        loss = loss + logits.square().sum()
    loss.backward()
    without = [name for name, parameter in network.backbone.named_parameters() if parameter.grad is None]
    assert without == []
    assert all(parameter.grad.isfinite().all() for parameter in network.backbone.parameters())
