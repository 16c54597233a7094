import copy
import pickle
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import timm
import torch
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.nn import embedding as module
from multilabelkit.nn.embedding import LayerFeatures, create_embedding_model
from multilabelkit.nn.fingerprint import compute_fingerprint

OPTIONS = {
    "layer": None,
    "in_chans": 3,
    "image_size": 32,
    "normalization": "unit",
    "pretrained": False,
    "backbone_params": {},
    "seed": 0,
}


FACTOR = 1.0


class Shift(nn.Module):
    """Moves the channels to the end."""

    def forward(self, maps):
        return maps.permute(0, 2, 3, 1)


class Windows(nn.Module):
    """Gives four windows of each image, as if they were images."""

    def forward(self, maps):
        return maps.reshape(len(maps) * 4, -1)


@pytest.fixture(autouse=True)
def forget_models():
    module._models.clear()
    yield
    module._models.clear()


def create(backbone="plain_cnn", **options):
    return create_embedding_model(backbone, **(OPTIONS | options))


def is_same(model, other):
    return compute_fingerprint(model.network) == compute_fingerprint(other.network)


@pytest.mark.parametrize("training", [True, False])
def test_layer_features_leave_the_backbone_as_it_was(training, tiny_network):
    tiny_network.train(training)
    before = copy.deepcopy(tiny_network)
    layer = LayerFeatures(tiny_network, "0")
    layer(torch.zeros(2, 3, 9, 9))
    assert compute_fingerprint(tiny_network) == compute_fingerprint(before)
    assert all(part.training is training for part in tiny_network.modules())


def test_layer_that_is_not_there_leaves_no_hook_when_the_backbone_fails(tiny_network):
    with pytest.raises(RuntimeError, match="to have 3 channels"):
        LayerFeatures(tiny_network, "0")(torch.zeros(2, 1, 9, 9))
    assert not tiny_network[0]._forward_hooks


@pytest.mark.parametrize("layer", ["0", "1", "2", "3"])
def test_maps_with_channels_first_and_last_give_the_same(layer):
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Conv2d(3, 8, 3), Shift(), nn.Flatten(1, 2), nn.LayerNorm(8, elementwise_affine=False))
    images = torch.rand(2, 3, 9, 9)
    expected = backbone[0](images).mean(dim=(2, 3))
    if layer == "3":
        expected = backbone(images).mean(dim=1)
    torch.testing.assert_close(LayerFeatures(backbone, layer)(images), expected)


def test_layer_of_a_transformer_gives_the_mean_over_its_tokens():
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    images, outputs = torch.rand(2, 3, 32, 32), []
    handle = network.blocks[3].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    network(images)
    handle.remove()
    assert outputs[0].shape == (2, 5, 192)
    torch.testing.assert_close(LayerFeatures(network, "blocks.3")(images), outputs[0].mean(dim=1))


def test_layer_features_are_summed_in_fp32(tiny_network):
    with torch.autocast("cpu", torch.bfloat16):
        assert LayerFeatures(tiny_network, "2")(torch.rand(1, 3, 32, 32)).dtype == torch.float32


def test_of_a_layer_that_is_run_twice_the_last_output_counts(tiny_network):
    relu = nn.ReLU()
    backbone = nn.Sequential(tiny_network[0], relu, tiny_network[2], relu)
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(LayerFeatures(backbone, "3")(images), backbone(images).mean(dim=(2, 3)))


def test_two_threads_may_run_one_network(tiny_network):
    layer = LayerFeatures(tiny_network, "1")
    images = [torch.full((1, 3, 32, 32), value / 8) for value in range(8)]
    expected = [layer(image) for image in images]
    with ThreadPoolExecutor(4) as pool, torch.inference_mode():
        for _ in range(5):
            for result, truth in zip(pool.map(layer, images), expected, strict=True):
                torch.testing.assert_close(result, truth)


def test_layer_that_gives_no_features_says_what_it_gave():
    message = (
        "The layer '1' of the backbone must give features (B, F), tokens (B, N, F) or maps (B, F, h, w). For 2 "
        "image(s) it gave a tensor of shape (8, 98); choose another layer."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        LayerFeatures(nn.Sequential(nn.Conv2d(3, 8, 3), Windows()), "1")(torch.zeros(2, 3, 9, 9))


@pytest.mark.parametrize("layer", ["", "5"])
def test_layer_that_is_not_there_is_refused_with_the_names_of_those_that_are(layer, tiny_network):
    message = (
        f"The backbone has no layer {layer!r}. Its parts are ['0', '1', '2', '3']; network_.backbone.named_modules() "
        "of an embedder fitted with layer=None lists all that is in them."
    )
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        LayerFeatures(tiny_network, layer)


@pytest.mark.parametrize(("layer", "n_features"), [(None, 128), ("layers.7", 64)])
def test_model_knows_its_width_before_it_sees_an_image(layer, n_features):
    model = create(layer=layer)
    assert model.n_features == n_features == model.network.embed(torch.zeros(1, 3, 32, 32)).shape[1]
    assert model.spec.size == 32
    assert not any(part.training for part in model.network.modules())


def test_same_model_is_made_once_and_copied(monkeypatch):
    made, create_model = [], module._create_model
    monkeypatch.setattr(
        module, "_create_model", lambda *args, **kwargs: made.append(1) or create_model(*args, **kwargs)
    )
    models = [create() for _ in range(3)]
    assert len(made) == 1
    assert all(is_same(model, models[0]) for model in models)
    next(models[1].network.parameters()).data.zero_()
    next(models[0].network.parameters()).data.zero_()
    assert is_same(create(), models[2])
    create("small_cnn"), create(seed=1), create()
    assert len(made) == 4
    assert len(module._models) == 2


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"layer": "layers"}, {"image_size": 40}, {"normalization": (0.5, 0.5)}, {"in_chans": 1}],
    ids=str,
)
def test_models_of_other_options_are_not_mixed_up(other):
    create()
    found = create(**other)
    module._models.clear()
    expected = create(**other)
    assert is_same(found, expected)
    assert found.spec == expected.spec


def test_name_that_is_given_to_another_model_makes_the_other(monkeypatch):
    entrypoint, model = timm.model_entrypoint, create("resnet18")
    other = lambda **params: entrypoint("resnet10t")(**params)  # noqa: E731
    monkeypatch.setitem(timm.models._registry._model_entrypoints, "resnet18", other)
    assert not is_same(create("resnet18"), model)


def test_fingerprint_of_a_model_that_nobody_can_have_changed_is_computed_once(monkeypatch):
    computed, compute = [], module.fingerprint_network
    monkeypatch.setattr(module, "fingerprint_network", lambda network: computed.append(1) or compute(network))
    first, second = create("resnet10t"), create("resnet10t")
    assert first.compute_fingerprint() == second.compute_fingerprint()
    assert len(computed) == 1
    next(first.network.parameters()).data.zero_()
    assert first.compute_fingerprint() != second.compute_fingerprint()


def test_fingerprint_follows_the_packages_of_who_unpickles_the_model(monkeypatch):
    model = create("resnet10t")
    before = model.compute_fingerprint()
    kept = pickle.dumps(model)
    assert pickle.loads(kept).compute_fingerprint() == before
    monkeypatch.setattr(timm, "__version__", "999")
    assert pickle.loads(kept).compute_fingerprint() != before


def test_fingerprint_follows_code_of_the_caller_that_changes(monkeypatch):
    class Act(nn.ReLU):
        def forward(self, maps):
            return super().forward(maps) * FACTOR

    model = create("resnet10t", backbone_params={"act_layer": Act})
    before = model.compute_fingerprint()
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    assert model.compute_fingerprint() != before


def test_threads_that_ask_for_the_network_get_the_same():
    for _ in range(5):
        model = create("resnet10t")
        with ThreadPoolExecutor(8) as pool:
            networks = list(pool.map(lambda _, model=model: model.network, range(8)))
        assert len(set(map(id, networks))) == 1


def test_own_modules_and_functions_are_made_anew(tiny_network):
    create(tiny_network), create(lambda: tiny_network)
    assert not module._models


def test_creations_in_threads_draw_the_weights_of_their_seeds():
    expected = [create(seed=seed) for seed in range(4)]
    module._models.clear()
    before = torch.get_rng_state()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: create(seed=seed), range(4)))
    assert all(map(is_same, found, expected))
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_without_a_fingerprint_are_no_obstacle():
    class Act(nn.ReLU):
        lock = threading.Lock()

    models = [create("resnet10t", backbone_params={"act_layer": Act}) for _ in range(2)]
    assert not module._models
    np.testing.assert_array_equal(*(model.network.backbone.conv1[0].weight.detach() for model in models))
