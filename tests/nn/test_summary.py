import pytest
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network, create_network
from multilabelkit.nn.summary import summarize_network

SPEC = InputSpec(32, 3, (0.0,) * 3, (1.0,) * 3)


def create(backbone, **params):
    defaults = {
        "n_classes": 3,
        "in_chans": 3,
        "image_size": 32,
        "normalization": "unit",
        "head": "linear",
        "dropout": 0.1,
        "pretrained": False,
        "backbone_params": {},
    }
    return create_network(backbone, **(defaults | params))


def list_rows(network, spec=SPEC):
    table = summarize_network(network, spec)
    assert list(table.columns) == ["name", "kind", "output_shape", "n_params", "trainable"]
    assert table["n_params"].sum() == sum(parameter.numel() for parameter in network.parameters())
    return list(table.itertuples(index=False, name=None))


def test_table_of_a_network_by_hand(tiny_network):
    tiny_network[0].requires_grad_(False)
    assert list_rows(Network(tiny_network, LinearHead(16, 3, dropout=0.1))) == [
        ("backbone.0", "Conv2d", (None, 8, 15, 15), 8 * 27 + 8, False),
        ("backbone.1", "ReLU", (None, 8, 15, 15), 0, False),
        ("backbone.2", "Conv2d", (None, 16, 7, 7), 16 * 72 + 16, True),
        ("backbone.3", "ReLU", (None, 16, 7, 7), 0, False),
        ("head.dropout", "Dropout", (None, 16), 0, False),
        ("head.linear", "Linear", (None, 3), 51, True),
    ]


class Scaled(nn.Module):
    """Uses its second layer first, one layer twice, one not at all, and parameters of its own."""

    def __init__(self):
        super().__init__()
        self.after = nn.Linear(4, 4, bias=False)
        self.first = nn.Flatten()
        self.inner = nn.Linear(12, 4)
        self.unused = nn.Linear(4, 5)
        self.idle = nn.ReLU()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, images):
        features = self.inner(self.first(images)) * self.scale
        return self.after(self.after(features))


def test_rows_stand_in_the_order_of_the_forward_pass():
    assert list_rows(Network(Scaled(), None), InputSpec(2, 3, (0.0,) * 3, (1.0,) * 3)) == [
        ("backbone", "Scaled", (None, 4), 4, True),
        ("backbone.first", "Flatten", (None, 12), 0, False),
        ("backbone.inner", "Linear", (None, 4), 52, True),
        ("backbone.unused", "Linear", None, 25, True),
        ("backbone.after", "Linear", (None, 4), 16, True),
    ]


def test_shared_weights_count_once():
    first, second = nn.Linear(12, 12), nn.Linear(12, 12)
    second.weight = first.weight
    backbone = nn.Sequential(nn.Flatten(), first, second, first)
    rows = list_rows(Network(backbone, None), InputSpec(2, 3, (0.0,) * 3, (1.0,) * 3))
    assert [(name, n_params) for name, _, _, n_params, _ in rows[1:]] == [("backbone.1", 156), ("backbone.2", 12)]
    assert [row[4] for row in rows[1:]] == [True, True]


def test_module_that_gives_several_things_is_shown_by_the_first():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens)[0]

    rows = list_rows(Network(Attends(), None), InputSpec(3, 4, (0.0,) * 4, (1.0,) * 4))
    assert rows == [
        ("backbone.attention", "MultiheadAttention", (None, 9, 4), 4 * 12 + 12, True),
        ("backbone.attention.out_proj", "NonDynamicallyQuantizableLinear", None, 20, True),
    ]


@pytest.mark.parametrize(
    "output", [{"a": None, "b": [torch.zeros(2, 7)]}, (torch.zeros(2, 7), None)], ids=["dict", "tuple"]
)
def test_shape_is_found_in_outputs_of_every_kind(output):
    class Gives(nn.Module):
        def forward(self, images):
            return output

    class Takes(nn.Module):
        def __init__(self):
            super().__init__()
            self.gives = Gives()

        def forward(self, images):
            self.gives(images)
            return images.flatten(1)

    assert list_rows(Network(Takes(), None))[0] == ("backbone.gives", "Gives", (None, 7), 0, False)


@pytest.mark.parametrize("head", ["linear", "mlp", "attention", "ml_decoder"])
def test_vision_transformer_shows_its_own_parameters(head):
    network, spec = create(
        "vit_tiny_patch16_224", head=head, backbone_params={"depth": 1, "init_values": 1e-4}, in_chans=1
    )
    rows = {row[0]: row[1:] for row in list_rows(network, spec)}
    own = ("VisionTransformer", (None, 192) if head in ("linear", "mlp") else None, 192 + 5 * 192, True)
    assert next(iter(rows.items())) == ("backbone", own)  # class token and position embedding
    assert rows["backbone.blocks.0.ls1"] == ("LayerScale", (None, 5, 192), 192, True)
    last = "head.linear" if head in ("linear", "attention") else "head.output"
    assert list(rows)[-1] == last
    assert rows[last][1] == (None, 3)


@pytest.mark.parametrize("head", ["linear", "attention"])
def test_pretrained_layers_that_a_head_leaves_out_still_count(head):
    network, spec = create("mobilenetv3_small_050", head=head)
    shapes = {row[0]: row[2] for row in list_rows(network, spec)}
    assert shapes["backbone.conv_stem"] == (None, 16, 16, 16)
    assert shapes["backbone.conv_head"] == ((None, 1024, 1, 1) if head == "linear" else None)


class Counts(nn.Module):
    """Counts its calls in a buffer in place, and in another by replacing it."""

    def __init__(self, fail=False):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("more", torch.zeros(1))
        self.fail = fail

    def forward(self, images):
        self.calls += 1
        self.more = self.more + 1
        assert not self.training
        if self.fail:
            raise ZeroDivisionError
        return self.layers(images)


@pytest.mark.parametrize("fail", [False, True])
def test_network_stays_as_it_is(fail):
    network = Network(Counts(fail), LinearHead(4, 2, dropout=0.1)).train()
    network.backbone.layers[1].eval()
    network.head.linear.weight.grad = gradient = torch.ones(2, 4)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    if fail:
        with pytest.raises(ZeroDivisionError):
            summarize_network(network, SPEC)
    else:
        summarize_network(network, SPEC)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [parameter.grad is None for parameter in network.parameters()] == [True] * 4 + [False, True]
    assert network.head.linear.weight.grad is gradient
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_graph_in_waiting_can_still_be_walked_back():
    network = Network(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), LinearHead(4, 2, dropout=0.0)).eval()
    loss = network(torch.zeros(2, 3, 8, 8)).sum()
    summarize_network(network, SPEC)
    loss.backward()


def test_network_without_parameters_has_a_table():
    network = Network(nn.Flatten(), None)
    assert list_rows(network) == [("backbone", "Flatten", (None, 3072), 0, False)]
