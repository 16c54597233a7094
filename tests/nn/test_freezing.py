import copy
import re

import numpy as np
import pytest
import timm
import torch
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.nn.freezing import (
    check_trainable,
    find_trainable,
    freeze,
    list_layers,
    set_train_mode,
)
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network


def whole(message):
    return f"^{re.escape(message)}$"


def convolve(n_inputs, n_outputs):
    return [nn.Conv2d(n_inputs, n_outputs, 3, padding=1, bias=False), nn.BatchNorm2d(n_outputs), nn.ReLU()]


def create_network(*, head=True):
    """Four convolutions with batch norm ('0', '3', '6' and '9') and 4 maps each, dropout and a mean; a head of 2."""
    layers = [*convolve(3, 4), *convolve(4, 4), *convolve(4, 4), *convolve(4, 4)]
    backbone = nn.Sequential(*layers, nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(backbone, LinearHead(4, 2, dropout=0.0) if head else None)


def list_open(network):
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


def list_training(network):
    return [name for name, module in network.backbone.named_children() if module.training]


def train(network, n_steps=3):
    """Take steps of gradient descent on noise, in whatever mode the network is."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(n_steps):
        optimizer.zero_grad()
        network(torch.randn(5, 3, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()


def copy_state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def list_changed(module, before):
    return {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, "head"), (1, "head"), (2, 0.6), (5, 0.6), (6, "all"), (99, "all")], ids=str
)
def test_find_trainable_takes_the_last_epoch_begun(epoch, expected):
    assert find_trainable({6: "all", 2: 0.6}, epoch) == expected


@pytest.mark.parametrize("trainable", ["head", "all", 0.3, 1])
def test_find_trainable_gives_what_holds_always(trainable):
    assert find_trainable(trainable, 7) == trainable


@pytest.mark.parametrize("trainable", ["head", "all", 1, 1e-9, np.float32(0.5), {0: "head", np.int64(11): 1}], ids=repr)
def test_check_trainable_accepts(trainable):
    check_trainable(trainable, max_epochs=12)


SHARES = '"head", "all" or a fraction > 0 and <= 1 of the layers'
OR_DICT = f"{SHARES}, or a dict of these by epoch"


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (0, f"trainable must be {SHARES}. Got 0 instead."),
        (1.5, f"trainable must be {SHARES}. Got 1.5 instead."),
        (True, f"trainable must be {OR_DICT}. Got True instead."),
        (None, f"trainable must be {OR_DICT}. Got None instead."),
        (float("nan"), f"trainable must be {OR_DICT}. Got nan instead."),
        ("backbone", f"trainable must be {OR_DICT}. Got 'backbone' instead."),
        ([0.5], f"trainable must be {OR_DICT}. Got [0.5] instead."),
        ({}, 'trainable is an empty dict. Name at least one epoch, as in {0: "head", 2: 0.6}.'),
        ({0: 0.5, 3: "most"}, f"trainable in epoch 3 must be {SHARES}. Got 'most' instead."),
        ({0: {1: 0.5}}, f"trainable in epoch 0 must be {SHARES}. Got {{1: 0.5}} instead."),
        ({-1: "all"}, "An epoch in trainable must be an integer >= 0. Got -1 instead."),
        ({1.5: "all"}, "An epoch in trainable must be an integer >= 0. Got 1.5 instead."),
        ({True: "all"}, "An epoch in trainable must be an integer >= 0. Got True instead."),
        ({"2": "all"}, "An epoch in trainable must be an integer >= 0. Got '2' instead."),
        (
            {0: "head", 12: "all"},
            "trainable names epoch 12, but with max_epochs=12 the last one is 11 (epochs count from 0). "
            "Raise max_epochs, or name an earlier epoch.",
        ),
    ],
    ids=repr,
)
def test_check_trainable_refuses(trainable, message):
    with pytest.raises(InputError, match=whole(message)):
        check_trainable(trainable, max_epochs=12)


HEADLESS = (
    'trainable="head" would train nothing: the network has no head (head=None), its backbone gives the logits. '
    'Use trainable="all" or a fraction, from epoch 0 on.'
)


@pytest.mark.parametrize("trainable", ["head", {0: "all", 2: "head"}, {1: "all"}], ids=repr)
def test_check_trainable_refuses_head_where_there_is_none(trainable):
    with pytest.raises(InputError, match=whole(HEADLESS)):
        check_trainable(trainable, max_epochs=3, has_head=False)
    check_trainable(trainable, max_epochs=3)


def describe_layers(module):
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {layer.name: {names[parameter] for parameter in layer.parameters} for layer in list_layers(module)}


def test_norm_belongs_to_the_layer_before_it():
    assert describe_layers(nn.Sequential(*convolve(3, 4), nn.Linear(4, 4), nn.LayerNorm(4))) == {
        "0": {"0.weight", "1.weight", "1.bias"},
        "3": {"3.weight", "3.bias", "4.weight", "4.bias"},
    }


def test_norm_of_the_input_is_a_layer_of_its_own():
    assert list(describe_layers(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)))) == ["0", "1"]


class Scaled(nn.Module):
    """Holds a vector of its own, beside two linear layers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.first = nn.Linear(4, 4, bias=False)
        self.second = nn.Linear(4, 4, bias=False)
        self.scale = nn.Parameter(torch.ones(4))


def test_what_a_module_holds_itself_belongs_to_the_first_layer_inside():
    backbone = nn.Sequential(nn.Linear(4, 4, bias=False), Scaled())
    assert describe_layers(backbone) == {
        "0": {"0.weight", "1.norm.weight", "1.norm.bias"},
        "1.first": {"1.first.weight", "1.scale"},
        "1.second": {"1.second.weight"},
    }


def test_shared_weight_counts_once_where_it_is_met_first():
    backbone = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    backbone[2].weight = backbone[0].weight
    assert describe_layers(backbone) == {"0": {"0.weight", "0.bias"}, "1": {"1.weight", "1.bias", "2.bias"}}


def test_attention_of_torch_is_one_layer():
    assert list(describe_layers(nn.MultiheadAttention(4, 2))) == ["out_proj"]


def test_backbone_without_parameters_has_no_layers():
    assert list_layers(nn.Flatten()) == []


@pytest.mark.parametrize(
    ("name", "size", "n_layers"),
    [
        ("resnet50", 64, 53),
        ("vgg16", 32, 15),
        ("mobilenetv2_100", 32, 52),
        ("convnext_tiny", 32, 58),
        ("swin_tiny_patch4_window7_224", 224, 52),
        ("vit_tiny_patch16_224", 224, 49),
        ("inception_v3", 96, 94),
    ],
)
def test_layers_of_timm_come_in_the_order_of_the_forward_pass(name, size, n_layers):
    with torch.device("meta"), torch.no_grad():  # shapes alone: no weights are made, nothing is computed
        backbone = timm.create_model(name, num_classes=0).eval()
        layers = list_layers(backbone)
        seen = []
        for layer in layers:
            layer.modules[0].register_forward_pre_hook(lambda *_, layer=layer: seen.append(layer))
        backbone(torch.zeros(1, 3, size, size))
    assert seen == layers
    assert len(layers) == n_layers
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    assert len(parameters) == len(set(parameters)) == len(list(backbone.parameters()))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "convnext_tiny"])
def test_embeddings_and_scales_of_timm_belong_where_they_act(name):
    with torch.device("meta"):
        names = describe_layers(timm.create_model(name, num_classes=0))
    if name.startswith("vit"):
        assert {"cls_token", "pos_embed"} < names["patch_embed.proj"]
    else:
        block = "stages.3.blocks.2"
        assert names[f"{block}.conv_dw"] == {
            f"{block}.{part}" for part in ("gamma", "conv_dw.weight", "conv_dw.bias", "norm.weight", "norm.bias")
        }


@pytest.mark.parametrize(
    ("trainable", "n_open"),
    [("head", 0), (0.01, 1), (0.3, 1), (0.375, 2), (0.5, 2), (0.8, 3), (0.9, 4), (1, 4), ("all", 4)],
)
def test_freeze_opens_the_top_share(trainable, n_open):
    network = create_network()
    report = freeze(network, trainable)
    tops = [str(place) for place in (0, 1, 3, 4, 6, 7, 9, 10)][8 - 2 * n_open :]
    assert {name.split(".")[1] for name in list_open(network) if name.startswith("backbone")} == set(tops)
    assert {"head.linear.weight", "head.linear.bias"} <= set(list_open(network))
    assert (report.n_layers, report.n_open, report.n_frozen_above) == (4, n_open, 0)
    layers = ["0", "3", "6", "9"]
    assert report.first_open == (layers[4 - n_open] if n_open else None)
    assert report.last_frozen == (layers[3 - n_open] if n_open < 4 else None)
    assert report.n_params == sum(parameter.numel() for parameter in network.parameters()) == 582
    assert report.n_frozen_params == {4: 0, 3: 116, 2: 268, 1: 420, 0: 572}[n_open]


def test_freeze_follows_another_share_either_way():
    network = create_network()
    opened = [freeze(network, trainable).n_open for trainable in ("head", 0.5, "all", 0.25, "head")]
    assert opened == [0, 2, 4, 1, 0]


def test_frozen_weights_stay_although_they_were_trained_before():
    network = create_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    images = torch.randn(4, 3, 8, 8)
    network(images).sum().backward()
    optimizer.step()
    freeze(network, "head")
    before = copy_state(network.backbone)
    optimizer.step()  # neither the last gradient nor momentum nor decay may move them
    assert list_changed(network.backbone, before) == set()


@pytest.mark.parametrize("trainable", ["all", 0.75])
def test_what_came_frozen_stays_frozen(trainable):
    network = create_network()
    network.backbone[9].requires_grad_(False)
    network.backbone[1].bias.requires_grad_(False)
    for share in ("head", trainable):
        freeze(network, share)
    opened = list_open(copy.deepcopy(network))
    again = copy.deepcopy(network)
    freeze(again, "all")
    assert not {"backbone.9.weight", "backbone.1.bias"} & {*opened, *list_open(again)}
    assert "backbone.10.weight" in opened
    assert ("backbone.1.weight" in opened) == (trainable == "all")
    assert "backbone.1.weight" in list_open(again)


@pytest.mark.parametrize(
    ("trainable", "came_frozen", "text"),
    [
        ("all", [], "No layer of the backbone is frozen; all 582 parameters are trained"),
        (0.5, [], "2 of 4 layers of the backbone are frozen, up to '3'; 314 of 582 parameters are trained"),
        (0.75, [], "1 of 4 layers of the backbone is frozen, up to '0'; 466 of 582 parameters are trained"),
        ("head", [], "All 4 layers of the backbone are frozen; 10 of 582 parameters are trained"),
        (
            "all",
            [6, 7],
            "1 of 4 layers of the backbone is frozen, as passed by the caller; 430 of 582 parameters are trained",
        ),
        (
            0.75,
            [6, 7],
            "2 of 4 layers of the backbone are frozen, up to '0' and 1 above it, as passed by the caller; "
            "314 of 582 parameters are trained",
        ),
    ],
)
def test_report_describes_itself_in_a_sentence(trainable, came_frozen, text):
    network = create_network()
    for place in came_frozen:
        network.backbone[place].requires_grad_(False)
    assert freeze(network, trainable).describe() == text


def test_report_counts_millions():
    network = Network(nn.Sequential(nn.Linear(3000, 1000), nn.Linear(1000, 2100)), nn.Linear(2100, 5))
    texts = [freeze(network, trainable).describe().split("; ")[1] for trainable in ("head", 0.5, "all")]
    assert texts == [
        "10,505 of 5.11 million parameters are trained",
        "2.11 of 5.11 million parameters are trained",
        "all 5.11 million parameters are trained",
    ]


@pytest.mark.parametrize("share", [0, True, "most", {0: "all"}], ids=repr)
def test_freeze_refuses_what_is_no_share(share):
    message = f"trainable must be {SHARES}. Got {share!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        freeze(create_network(), share)


def test_freeze_refuses_to_leave_nothing_to_train():
    network = create_network(head=False)
    with pytest.raises(InputError, match=whole(HEADLESS)):
        freeze(network, "head")
    network.backbone[9].requires_grad_(False)
    network.backbone[10].requires_grad_(False)
    message = (
        "Nothing is left to train: all layers that trainable=0.25 would open came frozen (requires_grad=False), and "
        "the network has no head. Open some of them before fit, or use a head."
    )
    with pytest.raises(InputError, match=whole(message)):
        freeze(network, 0.25)
    assert freeze(network, 0.5).n_open == 1


@pytest.mark.parametrize(
    ("trainable", "modules"),
    [
        ("head", []),
        (0.5, [str(place) for place in (2, 5, *range(6, 15))]),
        ("all", [str(place) for place in range(15)]),
    ],
)
def test_frozen_modules_are_in_eval_mode(trainable, modules):
    network = create_network()
    freeze(network, trainable)
    network.eval()
    set_train_mode(network)
    assert list_training(network) == modules
    assert network.head.training


@pytest.mark.parametrize("trainable", ["head", 0.5])
def test_training_moves_no_bit_of_what_is_frozen(trainable):
    network = create_network()
    freeze(network, trainable)
    set_train_mode(network)
    before = copy_state(network)
    train(network)
    frozen = (0, 1, 3, 4) if trainable == 0.5 else (0, 1, 3, 4, 6, 7, 9, 10)
    expected = {key for key in before if not key.startswith(tuple(f"backbone.{place}." for place in frozen))}
    assert list_changed(network, before) == expected
    assert trainable == "head" or "backbone.7.running_mean" in expected


def test_norm_without_parameters_keeps_still_behind_a_frozen_layer():
    backbone = nn.Sequential(
        nn.BatchNorm2d(3, affine=False),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, affine=False),
        nn.Conv2d(4, 4, 3),
        nn.BatchNorm2d(4, affine=False),
    )
    network = Network(backbone, LinearHead(4, 2, dropout=0.0))
    freeze(network, 0.5)
    set_train_mode(network)
    before = copy_state(backbone)
    train(network)
    changed = {key for key in list_changed(backbone, before) if "running" in key or "num_batches" in key}
    assert changed == {"4.running_mean", "4.running_var", "4.num_batches_tracked"}


def test_dropout_rests_inside_a_frozen_block_only():
    block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5))
    network = Network(nn.Sequential(block, nn.Dropout(0.5), nn.Conv2d(4, 4, 3)), LinearHead(4, 2, dropout=0.1))
    freeze(network, 0.5)
    set_train_mode(network)
    assert not block[1].training
    assert network.backbone[1].training
    assert network.head.dropout.training


def test_drop_path_of_timm_rests_in_frozen_blocks():
    network = Network(timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=3, drop_path_rate=0.5), None)
    freeze(network, 4 / 13)  # the last of three blocks of four layers, beside the patches
    set_train_mode(network)
    assert [block.drop_path1.training for block in network.backbone.blocks] == [False, False, True]


def test_batch_norm_can_keep_its_statistics_while_it_learns():
    network = create_network()
    freeze(network, "all")
    set_train_mode(network, batch_norm=False)
    assert list_training(network) == [str(place) for place in range(15) if place not in (1, 4, 7, 10)]
    before = copy_state(network)
    train(network)
    still = {key for key in before if "running" in key or "num_batches" in key}
    assert list_changed(network, before) == set(before) - still
