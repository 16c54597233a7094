import os
import pickle
import re
import shutil
import time

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.nn import backbones
from multilabelkit.nn.backbones import PlainCNN, SmallCNN, check_backbone_name, create_backbone, load_checkpoint


def whole(message):
    return f"^{re.escape(message)}$"


def create(backbone, *, in_chans=3, image_size=None, pretrained=False, **params):
    return create_backbone(
        backbone, in_chans=in_chans, image_size=image_size, pretrained=pretrained, backbone_params=params
    )


def n_features(network, size, *, channels=3):
    with torch.inference_mode():
        return tuple(network.eval()(torch.zeros(2, channels, size, size)).shape)


def test_small_cnn_is_the_published_network():
    network = create("small_cnn", in_chans=1)
    assert isinstance(network, SmallCNN)
    linear = network.layers[-2]
    assert (linear.in_features, linear.out_features) == (25_920, 1024)
    assert [type(layer).__name__ for layer in network.layers] == [
        *("Conv2d", "ReLU", "MaxPool2d") * 2,
        *("Dropout2d", "Flatten", "Linear", "ReLU"),
    ]
    assert [layer.out_channels for layer in network.layers if isinstance(layer, nn.Conv2d)] == [10, 20]
    assert n_features(network, 150, channels=1) == (2, 1024)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [10, 11, 12, 13, 32, 65, 224])
def test_small_cnn_takes_other_sizes_and_colours(size, channels):
    network = create("small_cnn", in_chans=channels, image_size=size)
    assert n_features(network, size, channels=channels) == (2, 1024)


@pytest.mark.parametrize("size", [1, 9])
def test_small_cnn_refuses_images_without_room(size):
    message = f"image_size={size} is too small for the backbone 'small_cnn'; use at least 10."
    with pytest.raises(InputError, match=whole(message)):
        create("small_cnn", image_size=size)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 32, 65])
def test_plain_cnn_takes_any_size_and_colour(size, channels):
    network = create("plain_cnn", in_chans=channels, image_size=size)
    assert isinstance(network, PlainCNN)
    assert n_features(network, size, channels=channels) == (2, 128)


def test_plain_cnn_halves_the_image_three_times():
    network = create("plain_cnn")
    widths = [layer.out_channels for layer in network.layers if isinstance(layer, nn.Conv2d)]
    assert widths == [32, 32, 64, 64, 128, 128]
    images = torch.rand(1, 3, 40, 40)
    maps = network.eval().forward_features(images)
    assert maps.shape == (1, 128, 5, 5)
    torch.testing.assert_close(network(images), maps.mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        pytest.param("resnet5O", "'resnet50' or 'resnet50t' or 'resnet50d'", id="typo"),
        pytest.param("small_cn", "'small_cnn'", id="ours"),
        pytest.param("qqqqqqqq", None, id="nothing near"),
    ],
)
def test_unknown_backbone_is_refused_with_the_nearest_names(name, guess):
    with pytest.raises(InputError) as caught:
        create(name)
    start, rest = str(caught.value).split(" Use ", 1)
    if guess is None:
        assert start == f"The backbone {name!r} is unknown."
    else:
        assert start.startswith(f"The backbone {name!r} is unknown. Did you mean ")
        assert guess.split(" or ")[0] in start
    assert rest == "'small_cnn', 'plain_cnn', a name from timm.list_models(), or your own torch.nn.Module."


@pytest.mark.parametrize("pretrained", [False, True])
def test_unknown_tag_of_a_known_backbone_is_refused_with_the_right_ones(pretrained):
    message = (
        "The backbone 'resnet10t' has no pretrained weights tagged 'c4_in1k'. Did you mean 'resnet10t.c3_in1k'? "
        "Use 'resnet10t' for the default ones, or a name from timm.list_models('resnet10t.*', pretrained=True)."
    )
    with pytest.raises(InputError, match=whole(message)):
        create("resnet10t.c4_in1k", pretrained=pretrained)


@pytest.mark.parametrize("name", ["small_cnn", "plain_cnn", "resnet18", "resnet18.a1_in1k"])
def test_check_backbone_name_lets_known_names_pass(name):
    check_backbone_name(name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("name", "expected"), [("resnet10t", 512), ("resnet18.a1_in1k", 512)])
def test_timm_backbone_gives_pooled_features(name, expected, channels):
    network = create(name, in_chans=channels, image_size=64)
    assert n_features(network, 64, channels=channels) == (2, expected)


@pytest.mark.parametrize("size", [64, 48])
def test_vision_transformer_is_built_for_the_size_of_the_images(size):
    network = create("vit_tiny_patch16_224", image_size=size)
    assert n_features(network, size) == (2, 192)


def test_vision_transformer_keeps_its_own_size_where_none_is_given():
    assert create("vit_tiny_patch16_224").patch_embed.img_size == (224, 224)


def test_backbone_params_reach_timm():
    network = create("vit_tiny_patch16_224", image_size=32, depth=2, global_pool="avg")
    assert len(network.blocks) == 2
    assert network.global_pool == "avg"


@pytest.mark.parametrize("pretrained", [False, True])
def test_backbone_params_that_timm_does_not_know_are_refused(monkeypatch, pretrained):
    monkeypatch.setattr(backbones, "_check_downloadable", lambda name: None)
    message = (
        "The backbone 'resnet10t' does not accept backbone_params={'colour': 'red'}: ResNet.__init__() got an "
        "unexpected keyword argument 'colour'. Remove or correct that keyword."
    )
    with pytest.raises(InputError, match=whole(message)):
        create("resnet10t", colour="red", pretrained=pretrained)


def test_own_module_is_used_as_it_is(tiny_network):
    assert create(tiny_network, pretrained=True) is tiny_network


def build(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Built(nn.Module):
    def __init__(self, *, width=4):
        super().__init__()
        self.layers = build(width)

    def forward(self, images):
        return self.layers(images)


@pytest.mark.parametrize("factory", [build, Built], ids=["function", "class"])
def test_factory_is_called_with_the_backbone_params(factory):
    assert n_features(create(factory), 16) == (2, 4)
    assert n_features(create(factory, width=6), 16) == (2, 6)


def test_factory_that_returns_no_module_is_refused():
    def give_weights():
        return torch.zeros(1)

    message = (
        f"The backbone {repr(give_weights)[:77]}... was called and returned Tensor; it must return a torch.nn.Module."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(give_weights)


def test_errors_inside_a_factory_are_its_own():
    def fail():
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        create(fail)


# Local checkpoints


@pytest.fixture(scope="module")
def donor():
    """A timm network as others would have trained it, with the classification layer on it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return timm.create_model("resnet10t", num_classes=7)


def save_checkpoint(path, weights, wrapper=None):
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({wrapper: weights, "epoch": 3} if wrapper else weights, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    ("name", "wrapper"),
    [("a.safetensors", None), ("a.pt", None), ("a.pth", "state_dict"), ("a.ckpt", "model")],
    ids=["safetensors", "torch", "state_dict", "model"],
)
def test_local_checkpoint_is_loaded_without_its_classifier(tmp_path, donor, name, wrapper, prefix):
    weights = {f"{prefix}{key}": value for key, value in donor.state_dict().items()}
    path = save_checkpoint(tmp_path / name, weights, wrapper)
    network = create("resnet10t", pretrained=path if wrapper else os.fspath(path))
    expected = donor.state_dict()
    for key, value in network.state_dict().items():
        assert torch.equal(value, expected[key]), key
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        pooled = donor.eval().forward_head(donor.forward_features(images), pre_logits=True)
        torch.testing.assert_close(network.eval()(images), pooled)


def test_first_convolution_is_summed_over_colours_for_grey_images(tmp_path, donor):
    path = save_checkpoint(tmp_path / "a.safetensors", donor.state_dict())
    network = create("resnet10t", in_chans=1, pretrained=path)
    key = f"{donor.pretrained_cfg['first_conv']}.weight"
    assert torch.allclose(network.state_dict()[key], donor.state_dict()[key].sum(dim=1, keepdim=True))
    grey = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():  # what the colour network sees in a grey picture
        expected = donor.eval().forward_head(donor.forward_features(grey.expand(-1, 3, -1, -1)), pre_logits=True)
        torch.testing.assert_close(network.eval()(grey), expected, atol=1e-4, rtol=1e-4)


def test_counters_of_batch_norm_may_be_missing(tmp_path, donor):
    weights = {key: value for key, value in donor.state_dict().items() if not key.endswith("num_batches_tracked")}
    create("resnet10t", pretrained=save_checkpoint(tmp_path / "a.safetensors", weights))


def test_own_modules_and_small_networks_take_checkpoints_too(tmp_path, tiny_network):
    weights = {key: torch.ones_like(value) for key, value in tiny_network.state_dict().items()}
    create(tiny_network, pretrained=save_checkpoint(tmp_path / "a.safetensors", weights))
    assert all((value == 1).all() for value in tiny_network.state_dict().values())
    trained = PlainCNN(in_chans=3)
    network = create("plain_cnn", pretrained=save_checkpoint(tmp_path / "b.pt", trained.state_dict()))
    assert torch.equal(network.layers[0].weight, trained.layers[0].weight)


MISFIT = (
    "The checkpoint '{}' does not fit the backbone; of its keys, {}. "
    "Pass the checkpoint of this very architecture, or name the architecture it was made with."
)


def test_checkpoint_that_does_not_fit_is_refused_with_the_keys(tmp_path, tiny_network):
    weights = tiny_network.state_dict()
    weights = {"2.bias": weights["2.bias"], "0.bias": torch.zeros(9), **{f"x{i}.w": torch.zeros(1) for i in range(4)}}
    path = save_checkpoint(tmp_path / "a.safetensors", weights)
    before = {key: value.clone() for key, value in tiny_network.state_dict().items()}
    keys = (
        "2 missing (first: 0.weight, 2.weight); 4 unexpected (first: x0.w, x1.w, x2.w); "
        "1 of another shape (first: 0.bias is (9,), not (8,))"
    )
    with pytest.raises(InputError, match=whole(MISFIT.format(path, keys))):
        load_checkpoint(tiny_network, path, in_chans=3)
    assert all(torch.equal(value, before[key]) for key, value in tiny_network.state_dict().items())


def test_checkpoint_of_another_architecture_is_refused(tmp_path, donor):
    path = save_checkpoint(tmp_path / "a.safetensors", donor.state_dict())
    with pytest.raises(InputError, match=r"does not fit the backbone; of its keys, \d+ missing \(first: "):
        create("resnet18", pretrained=path)


@pytest.mark.parametrize("name", ["absent.safetensors", "folder.pt"])
def test_missing_checkpoint_is_refused(tmp_path, name):
    (tmp_path / "folder.pt").mkdir()
    path = tmp_path / name
    message = f"The checkpoint '{path}' does not exist; 'pretrained' takes True, False or a file."
    with pytest.raises(InputError, match=whole(message)):
        create("plain_cnn", pretrained=path)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        ([torch.zeros(1)], "[tensor([0.])]"),
        (torch.zeros(1), "tensor([0.])"),
        ({1: torch.zeros(1)}, "{1: tensor([0.])}"),
        ({"epoch": 3}, "{'epoch': 3}"),
        ({"state_dict": {"a": 1}}, "{'a': 1}"),
    ],
    ids=["list", "tensor", "numbers for keys", "no tensors", "wrapped"],
)
def test_checkpoint_that_is_no_state_dict_is_refused(tmp_path, content, shown):
    path = tmp_path / "a.pt"
    torch.save(content, path)
    message = (
        f"The checkpoint '{path}' holds {shown}, not a state dict: a dict of names and tensors. "
        "Save the network's state_dict(), and pass that file."
    )
    with pytest.raises(InputError, match=whole(message)):
        create("plain_cnn", pretrained=path)


class Touch:
    """Makes a file when it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle"])
def test_checkpoint_with_code_is_refused_and_not_run(tmp_path, kind):
    path, mark = tmp_path / "a.pt", os.fspath(tmp_path / "mark")
    content = {"state_dict": {"layers.0.weight": Touch(mark)}}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "torch")
    message = (
        f"The checkpoint '{path}' holds more than tensors, so reading it could run code. "
        "Save its state_dict() alone, best as safetensors, and pass that file."
    )
    with pytest.raises(InputError, match=whole(message)):
        create("plain_cnn", pretrained=path)
    assert not os.path.exists(mark)
    pickle.loads(pickle.dumps(Touch(mark)))  # it would have worked
    assert os.path.exists(mark)


@pytest.mark.parametrize("kind", ["empty", "text", "cut"])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_checkpoint_is_refused(tmp_path, tiny_network, suffix, kind):
    path = save_checkpoint(tmp_path / f"a.{suffix}", tiny_network.state_dict())
    content = {"empty": b"", "text": b"hello world", "cut": path.read_bytes()[:300]}[kind]
    path.write_bytes(content)
    start = re.escape(f"The checkpoint '{path}' is damaged or no state dict (")
    with pytest.raises(InputError, match=rf"^{start}.+\)\.$"):
        create("plain_cnn", pretrained=path)


# Downloads


ADVICE = (
    "Pass pretrained='path/to/weights.safetensors' (a checkpoint you have), pretrained=False (train from scratch), or "
    "run once on a machine with a network and copy its Hugging Face cache here."
)
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """Neither a network, nor a proxy, nor anything in the cache."""
    from huggingface_hub import constants

    def refuse(*args, **params):
        raise OSError("Name or service not known")

    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", os.fspath(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(backbones.socket, "getaddrinfo", refuse)
    return monkeypatch


@pytest.mark.parametrize("exception_to_proxy", [False, True])
@pytest.mark.parametrize("name", ["resnet10t", "resnet18.a1_in1k", "vit_tiny_patch16_224"])
def test_download_without_a_network_is_refused_at_once(no_network, name, exception_to_proxy):
    if exception_to_proxy:  # it names hosts that need no proxy, and is none itself
        no_network.setenv("no_proxy", "localhost")
    message = (
        f"The pretrained weights of {name!r} cannot be downloaded: no network, the host of the Hugging Face Hub is not "
        f"found. {ADVICE}"
    )
    start = time.perf_counter()
    with pytest.raises(InputError, match=whole(message)):
        create(name, pretrained=True)
    assert time.perf_counter() - start < 5


def test_download_that_the_environment_forbids_is_refused(no_network):
    from huggingface_hub import constants

    no_network.setattr(constants, "HF_HUB_OFFLINE", True)
    message = (
        "The pretrained weights of 'resnet10t' cannot be downloaded: they are not in the Hugging Face cache, and "
        f"HF_HUB_OFFLINE forbids to fetch them. {ADVICE}"
    )
    with pytest.raises(InputError, match=whole(message)):
        create("resnet10t", pretrained=True)


@pytest.mark.parametrize("through", ["name", "proxy"])
def test_download_that_fails_halfway_is_refused(no_network, through):
    def fail(*args, **params):
        assert params["pretrained"] is True
        raise ConnectionResetError("Connection reset by peer.")

    if through == "proxy":
        no_network.setenv("https_proxy", "http://proxy.invalid:3128")
    else:
        no_network.setattr(backbones.socket, "getaddrinfo", lambda *args: [])
    no_network.setattr(timm, "create_model", fail)
    message = f"The pretrained weights of 'resnet10t' cannot be downloaded: Connection reset by peer. {ADVICE}"
    with pytest.raises(InputError, match=whole(message)):
        create("resnet10t", pretrained=True)


def test_cached_weights_need_no_network(no_network, tmp_path, donor):
    from huggingface_hub import constants

    config = timm.get_pretrained_cfg("resnet10t")
    weights = timm.create_model("resnet10t").state_dict()
    folder = tmp_path / "cache" / f"models--{config.hf_hub_id.replace('/', '--')}"
    revision = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(revision)
    (folder / "snapshots" / revision).mkdir(parents=True)
    save_file(weights, folder / "snapshots" / revision / "model.safetensors")
    no_network.setattr(constants, "HF_HUB_OFFLINE", True)
    network = create("resnet10t", pretrained=True)
    assert torch.equal(network.state_dict()["conv1.0.weight"], weights["conv1.0.weight"])
    shutil.rmtree(folder)
    with pytest.raises(InputError):
        create("resnet10t", pretrained=True)


def test_timm_model_without_weights_is_refused():
    name = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    message = (
        f"timm has no pretrained weights for the backbone {name!r}. Use pretrained=False, a local checkpoint, or one "
        "of timm.list_models(pretrained=True)."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(name, pretrained=True)


@pytest.mark.parametrize("channels", [1, 3])
def test_real_pretrained_weights_load(shared_data, channels):
    path = shared_data / "weights" / "mobilenetv2_100_in1k.safetensors"
    if not path.is_file():
        pytest.skip(f"there is no file '{path}'")
    network = create("mobilenetv2_100", in_chans=channels, pretrained=path, pad_type="same")
    weights = load_file(path)
    own = network.state_dict()
    shared = [key for key in own if key in weights and own[key].shape == weights[key].shape]
    assert len(shared) >= len(own) - (channels == 1) - sum(key.endswith("num_batches_tracked") for key in own)
    assert all(torch.equal(own[key], weights[key]) for key in shared)
    assert n_features(network, 64, channels=channels) == (2, 1280)


def test_backbone_params_that_break_timm_are_refused():
    message = (
        "The backbone 'resnet10t' does not accept backbone_params={'act_layer': 'nonsense'}: 'nonsense'. "
        "Remove or correct that keyword."
    )
    with pytest.raises(InputError, match=whole(message)):
        create("resnet10t", act_layer="nonsense")


@pytest.mark.parametrize(
    ("backbone", "kind"),
    [("small_cnn", "'small_cnn'"), ("plain_cnn", "'plain_cnn'"), (nn.Flatten(), "an instance of Flatten")],
    ids=["small_cnn", "plain_cnn", "module"],
)
def test_backbone_params_are_refused_where_nothing_takes_them(backbone, kind):
    message = (
        f"The backbone is {kind} and takes no backbone_params. Got {{'width': 3}}; leave them out, "
        "or pass a class or function as the backbone."
    )
    with pytest.raises(InputError, match=whole(message)):
        create(backbone, width=3)
