import re

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.nn.heads import (
    HEADS,
    LinearHead,
    check_head_params,
    create_head,
    set_dropout,
    set_prior_bias,
)
from multilabelkit.nn.ml_decoder import CrossAttention, GroupLinear


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def whole(message):
    return f"^{re.escape(message)}$"


def test_linear_head_is_a_linear_layer_in_eval_mode():
    head = LinearHead(5, 3, dropout=0.5).eval()
    features = torch.randn(4, 5)
    torch.testing.assert_close(head(features), features @ head.linear.weight.T + head.linear.bias)


def test_linear_head_drops_features_in_training():
    head = LinearHead(1000, 1, dropout=0.25)
    nn.init.ones_(head.linear.weight)
    nn.init.zeros_(head.linear.bias)
    torch.manual_seed(0)
    kept = head(torch.ones(50, 1000)) * 0.75 / 1000  # what is kept grows by 1 / 0.75
    assert kept.mean().item() == pytest.approx(0.75, abs=0.01)
    assert kept.std() > 0


def test_prior_bias_gives_each_class_its_frequency():
    head = LinearHead(5, 4, dropout=0.0)
    prior = np.array([0.5, 0.1, 0.003, 0.97])
    set_prior_bias(head.linear, prior)
    logits = head(torch.zeros(1, 5))
    np.testing.assert_allclose(logits.sigmoid().detach().numpy()[0], prior, rtol=1e-5)
    assert head.linear.bias.requires_grad


@pytest.mark.parametrize(("prior", "expected"), [(0.0, 1e-3), (1.0, 1 - 1e-3), (1e-9, 1e-3), (np.nan, 0.5)])
def test_prior_bias_is_finite_for_classes_without_positives_negatives_or_labels(prior, expected):
    linear = nn.Linear(2, 1)
    set_prior_bias(linear, np.array([prior]))
    assert linear.bias.sigmoid().item() == pytest.approx(expected, rel=1e-4)


def test_prior_bias_leaves_the_weights_alone():
    linear = nn.Linear(3, 2)
    before = linear.weight.detach().clone()
    set_prior_bias(linear, np.array([0.2, 0.3]))
    assert torch.equal(linear.weight, before)


# All heads


def create(head, **params):
    sizes = {"n_features": 8, "n_classes": 3, "dropout": 0.2}
    names = [name for name in params if name in sizes]
    return create_head(head, **(sizes | {name: params.pop(name) for name in names}), head_params=params)


SMALL = {"width": 16, "n_heads": 4, "feedforward": 32}
CASES = [
    pytest.param("linear", {}, id="linear"),
    pytest.param("mlp", {"hidden": (6,)}, id="mlp"),
    pytest.param("mlp", {"hidden": [6, 5, 4], "activation": "tanh"}, id="deep mlp"),
    pytest.param("attention", {}, id="attention"),
    pytest.param("attention", {"queries": "per_class", "n_heads": 2}, id="attention per class"),
    pytest.param("ml_decoder", SMALL, id="ml_decoder"),
]


def make_features(head, *, n_images=4, n_features=8, n_tokens=5):
    return torch.randn((n_images, n_features) if head.input_kind == "pooled" else (n_images, n_tokens, n_features))


def shake(head):
    """Move every parameter away from where it starts, as training does."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    return head


@pytest.mark.parametrize(("head", "params"), CASES)
def test_every_parameter_of_a_head_is_trained(head, params):
    head = shake(create(head, **params))
    logits = head(make_features(head))
    assert logits.shape == (4, 3)
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters() if parameter.numel() > 1)


@pytest.mark.parametrize(("head", "params"), CASES)
def test_every_head_drops_features_in_training_alone(head, params):
    head = shake(create(head, dropout=0.5, **params))
    features = make_features(head)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize(("head", "params"), CASES)
def test_state_dict_of_a_head_fits_one_created_alike(head, params):
    first, second = (shake(create(head, **params)).eval() for _ in range(2))
    features = make_features(first)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(features), second(features))


@pytest.mark.parametrize(("head", "params"), CASES)
def test_every_head_starts_at_the_class_frequencies(head, params):
    head = create(head, **params).eval()
    features = make_features(head)
    before = head(features)
    head.set_prior_bias(np.array([0.5, 0.1, np.nan]))
    last = getattr(head, "output", None) or head.linear
    np.testing.assert_allclose(last.bias.detach(), [0, np.log(0.1 / 0.9), 0], atol=1e-6)
    moved = head(features) - before
    torch.testing.assert_close(moved, moved[:1].expand(4, -1))  # the same for every image


@pytest.mark.parametrize("n_new", [1, 4])
@pytest.mark.parametrize(("head", "params"), CASES)
def test_growing_keeps_what_a_head_has_learnt(head, params, n_new):
    old = shake(create(head, **params)).eval()
    before = {key: value.clone() for key, value in old.state_dict().items()}
    features = make_features(old)
    grown = old.grow(n_new)
    assert type(grown) is type(old)
    assert grown is not old
    assert not grown.training
    logits = grown(features)
    assert logits.shape == (4, 3 + n_new)
    torch.testing.assert_close(logits[:, :3], old(features))
    assert (logits[:, 3:].sigmoid() - 0.01).abs().max() < 0.01  # rare, whatever the image
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in grown.parameters())
    shake(grown)
    assert all(torch.equal(value, before[key]) for key, value in old.state_dict().items())


@pytest.mark.parametrize(("head", "params"), CASES)
def test_state_dict_of_a_grown_head_fits_one_created_for_all_classes(head, params):
    grown = shake(create(head, **params)).grow(2).eval()
    other = create(head, n_classes=5, **params).eval()
    other.load_state_dict(grown.state_dict())
    features = make_features(grown)
    assert torch.equal(grown(features), other(features))


@pytest.mark.parametrize(("head", "params"), CASES)
def test_seed_settles_how_new_classes_start(head, params):
    old = create(head, **params)
    before = torch.random.get_rng_state()
    first, same, other = (list(old.grow(2, seed=seed).state_dict().values()) for seed in (7, np.int64(7), 8))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(map(torch.equal, first, same))
    assert not all(map(torch.equal, first, other))


@pytest.mark.parametrize(("head", "params"), CASES)
def test_new_classes_are_drawn_by_the_global_generator_without_a_seed(head, params):
    old = create(head, **params)
    starts = []
    for seed in (7, 7, 8):
        torch.manual_seed(seed)
        starts.append(list(old.grow(2).state_dict().values()))
    assert all(map(torch.equal, starts[0], starts[1]))
    assert not all(map(torch.equal, starts[0], starts[2]))


@pytest.mark.parametrize(("head", "params"), CASES)
@pytest.mark.parametrize("n_new", [0, -1, 1.5, True])
def test_growing_by_no_number_of_classes_is_refused(head, params, n_new):
    message = f"The 'n_new' parameter of grow must be an integer >= 1. Got {n_new!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        create(head, **params).grow(n_new)


# Multi-layer perceptron


def test_mlp_is_its_layers_in_a_row():
    head = create("mlp", n_features=7, hidden=(4096, 512), activation="gelu", dropout=0.3)
    assert [type(layer).__name__ for layer in head.hidden] == ["Dropout", "Linear", "GELU"] * 2
    assert [tuple(layer.weight.shape) for layer in (*head.hidden[1::3], head.output)] == [
        (4096, 7),
        (512, 4096),
        (3, 512),
    ]
    assert [layer.p for layer in (*head.hidden[::3], head.dropout)] == [0.3] * 3


def test_mlp_of_one_layer_is_computed_by_hand():
    head = shake(create("mlp", hidden=np.array([6]).tolist(), activation="relu")).eval()
    features = torch.randn(4, 8)
    inner = (features @ head.hidden[1].weight.T + head.hidden[1].bias).clamp_min(0)
    torch.testing.assert_close(head(features), inner @ head.output.weight.T + head.output.bias)


# Attention


@pytest.mark.parametrize("queries", ["one", "per_class"])
def test_attention_starts_as_average_pooling(queries):
    head = create("attention", queries=queries).eval()
    tokens = torch.randn(4, 5, 8)
    torch.testing.assert_close(head(tokens), head.linear(nn.functional.layer_norm(tokens, (8,)).mean(dim=1)))


@pytest.mark.parametrize("queries", ["one", "per_class"])
@pytest.mark.parametrize("n_heads", [1, 2, 8])
def test_attention_weighs_each_part_of_the_tokens_by_its_query(queries, n_heads):
    head = shake(create("attention", queries=queries, n_heads=n_heads)).eval()
    tokens = torch.randn(2, 5, 8)
    normed, width, expected = head.norm(tokens), 8 // n_heads, torch.zeros(2, 3)
    for image in range(2):
        for label in range(3):
            query = head.query[label if queries == "per_class" else 0]
            pooled = []
            for part in range(n_heads):
                columns = slice(part * width, (part + 1) * width)
                weights = (normed[image][:, columns] @ query[columns] / width**0.5).softmax(dim=0)
                pooled.append(weights @ normed[image][:, columns])
            expected[image, label] = torch.cat(pooled) @ head.linear.weight[label] + head.linear.bias[label]
    torch.testing.assert_close(head(tokens), expected)


@pytest.mark.parametrize(("n_features", "n_heads"), [(8, 8), (12, 4), (10, 2), (7, 1)])
def test_attention_has_the_most_heads_that_divide_the_features(n_features, n_heads):
    assert create("attention", n_features=n_features).n_heads == n_heads


@pytest.mark.parametrize(("head", "params"), CASES[3:])
def test_order_of_the_places_does_not_matter(head, params):
    head = shake(create(head, **params)).eval()
    tokens = torch.randn(2, 6, 8)
    torch.testing.assert_close(head(tokens), head(tokens.flip(1)), rtol=1e-4, atol=1e-4)


# ML-Decoder


def test_ml_decoder_has_the_published_sizes():
    head = create_head("ml_decoder", n_features=20, n_classes=150, dropout=0.1)
    assert head.queries.shape == (75, 768)  # two classes a group, so that no group is left without one
    assert head.attention.n_heads == 8
    assert [tuple(layer.weight.shape) for layer in head.feedforward[::3]] == [(2048, 768), (768, 2048)]
    assert head.output.weight.shape == (75, 768, 2)
    assert not head.queries.requires_grad
    assert "queries" in head.state_dict()


@pytest.mark.parametrize(
    ("n_classes", "n_groups", "groups", "size"), [(3, 100, 3, 1), (5, 2, 2, 3), (7, 3, 3, 3), (4, 1, 1, 4)]
)
def test_ml_decoder_shares_groups_among_many_classes(n_classes, n_groups, groups, size):
    head = create("ml_decoder", n_classes=n_classes, n_groups=n_groups, **SMALL)
    assert head.output.weight.shape == (groups, 16, size)
    assert head(torch.randn(2, 5, 8)).shape == (2, n_classes)


def test_each_class_reads_the_answer_of_its_own_group():
    layer = GroupLinear(2, 5, group_size=2)
    with torch.no_grad():
        layer.weight.copy_(torch.arange(12.0).reshape(3, 2, 2))
        layer.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0]))
    groups = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    # Row 0 of [[0, 1], [2, 3]], row 1 of [[4, 5], [6, 7]], both of [[8, 9], [10, 11]], whose second column is cut off.
    assert layer(groups).tolist() == [[0.0, 1.0, 6.0, 7.0, 118.0]]


def test_ml_decoder_agrees_with_torchs_attention():
    head = shake(create("ml_decoder", **SMALL)).eval()
    oracle = nn.MultiheadAttention(16, 4, batch_first=True)
    layers = [head.attention.query, head.attention.key, head.attention.value]
    oracle.in_proj_weight = nn.Parameter(torch.cat([layer.weight for layer in layers]))
    oracle.in_proj_bias = nn.Parameter(torch.cat([layer.bias for layer in layers]))
    oracle.out_proj.load_state_dict(head.attention.output.state_dict())
    features = torch.randn(2, 5, 8)
    tokens, queries = head.project(features), head.queries.expand(2, -1, -1)
    assert (tokens >= 0).all()
    groups = head.attention_norm(queries + oracle(queries, tokens, tokens)[0])
    groups = head.feedforward_norm(groups + head.feedforward(groups))
    expected = [(groups[:, label] * head.output.weight[label, :, 0]).sum(dim=1) for label in range(3)]
    torch.testing.assert_close(head(features), torch.stack(expected, dim=1) + head.output.bias, rtol=1e-4, atol=1e-4)


def test_ml_decoder_refuses_new_classes_without_groups():
    message = (
        "The head 'ml_decoder' takes new classes only while each class has a group of its own: with the new ones there "
        "are 5, and it has at most 4 groups. Train a new network with head_params={'n_groups': 5} or more."
    )
    head = create("ml_decoder", n_groups=4, **SMALL)
    assert head.grow(1)(torch.randn(2, 5, 8)).shape == (2, 4)
    with pytest.raises(InputError, match=whole(message)):
        head.grow(2)


# What create_head refuses


@pytest.mark.parametrize("head", ["lineer", None, 3])
def test_unknown_head_is_refused(head):
    message = (
        "The 'head' parameter of create_head must be 'linear', 'mlp', 'attention' or 'ml_decoder'. "
        f"Got {head!r} instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(head)


@pytest.mark.parametrize(
    ("head", "params", "message"),
    [
        (
            "mlp",
            {"hiden": (4,)},
            "The head 'mlp' takes no head_params['hiden']. Did you mean 'hidden'? It takes 'hidden', 'activation'.",
        ),
        ("linear", {"hidden": (4,)}, "The head 'linear' takes no head_params['hidden']. It takes none."),
        (None, {"hidden": (4,)}, "The head None takes no head_params['hidden']. It takes none."),
        (
            "ml_decoder",
            {"queries": "one"},
            "The head 'ml_decoder' takes no head_params['queries']. "
            "It takes 'n_groups', 'width', 'n_heads', 'feedforward'.",
        ),
        ("attention", {1: 2}, "The head 'attention' takes no head_params[1]. It takes 'queries', 'n_heads'."),
    ],
)
def test_unknown_keyword_of_a_head_is_refused_with_the_allowed_ones(head, params, message):
    with pytest.raises(InputError, match=whole(message)):
        check_head_params(head, params)


@pytest.mark.parametrize(
    ("head", "name", "value", "wanted"),
    [
        ("mlp", "hidden", (), "a list of at least one integer >= 1"),
        ("mlp", "hidden", 512, "a list of at least one integer >= 1"),
        ("mlp", "hidden", (512, 0), "a list of at least one integer >= 1"),
        ("mlp", "hidden", (512.0,), "a list of at least one integer >= 1"),
        ("mlp", "activation", "swish", "'relu', 'tanh' or 'gelu'"),
        ("attention", "queries", 3, "'one' or 'per_class'"),
        ("attention", "n_heads", 0, "an integer >= 1, or None"),
        ("ml_decoder", "n_groups", 0, "an integer >= 1"),
        ("ml_decoder", "width", 1.5, "an integer >= 1"),
        ("ml_decoder", "n_heads", None, "an integer >= 1"),
        ("ml_decoder", "feedforward", True, "an integer >= 1"),
    ],
)
def test_value_that_a_head_cannot_use_is_refused(head, name, value, wanted):
    message = f"The {name!r} parameter of head_params must be {wanted}. Got {value!r} instead."
    with pytest.raises(InputError, match=whole(message)):
        create(head, **{name: value})


@pytest.mark.parametrize(
    ("head", "params", "what"),
    [
        ("attention", {"n_heads": 3}, "the 8 features of the backbone in n_heads=3"),
        ("ml_decoder", {"width": 10, "n_heads": 4}, "its width of 10 in n_heads=4"),
    ],
)
def test_heads_of_attention_that_do_not_divide_the_width_are_refused(head, params, what):
    message = f"The head {head!r} cannot split {what} equal parts; choose an n_heads in head_params that divides it."
    with pytest.raises(InputError, match=whole(message)):
        create(head, **params)


@pytest.mark.parametrize("params", [None, {}])
def test_heads_have_defaults(params):
    for head in HEADS:
        check_head_params(head, params)
    assert create_head("mlp", n_features=8, n_classes=3, dropout=0.0, head_params=params).output.in_features == 512


def test_head_params_of_an_unknown_head_are_refused():
    message = (
        "The 'head' parameter of create_head must be 'linear', 'mlp', 'attention', 'ml_decoder' or None. "
        "Got 'lineer' instead."
    )
    with pytest.raises(InputError, match=whole(message)):
        check_head_params("lineer", None)


@pytest.mark.parametrize("name", list(HEADS))
def test_another_dropout_is_that_of_a_new_head(name):
    head, expected = (create_head(name, n_features=16, n_classes=3, dropout=share) for share in (0.1, 0.4))
    set_dropout(head, 0.4)
    assert repr(head) == repr(expected)
    shares = [
        [module.dropout for module in each.modules() if isinstance(module, CrossAttention)] for each in (head, expected)
    ]
    assert shares[0] == shares[1]
