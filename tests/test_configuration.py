import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.classifier import MultiLabelImageClassifier
from multilabelkit.configuration import choose_start_share, create_settings, has_learnt_features, start_network
from multilabelkit.exclusive import ImageClassifier
from multilabelkit.nn.ml_decoder import CrossAttention
from multilabelkit.training.evaluation import CLASSES, LABELS

TARGETS = np.array([[1, 0]] * 4 + [[0, 1]] * 16, dtype=np.float32)


def configure(kind=MultiLabelImageClassifier, *, backbone="small_cnn", targets=TARGETS, **parameters):
    classifier = kind(backbone, device="cpu", **parameters)
    return create_settings(classifier, targets, classes=np.array(["cat", "dog"]), seed=7, validates=True)


# The settings of a training


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_epochs", 5),
        ("batch_size", 6),
        ("learning_rate", 0.02),
        ("backbone_lr_factor", (0.1, 0.3)),
        ("weight_decay", 0.3),
        ("ema", None),
        ("trainable", {0: "head", 3: 0.5}),
        ("optimizer", "sgd"),
        ("optimizer_params", {"momentum": 0.8}),
        ("schedule", "cosine"),
        ("schedule_params", {"warmup_epochs": 1}),
        ("clip_norm", 2.0),
        ("accumulate", 3),
        ("monitor", "valid_loss"),
        ("patience", 4),
        ("num_workers", 0),
    ],
)
def test_settings_take_over_the_parameters_of_their_names(name, value):
    assert getattr(configure(**{name: value}), name) == value


def test_settings_know_the_seed_and_the_kind_of_the_classifier():
    labels, classes = configure(), configure(ImageClassifier)
    assert (labels.seed, classes.seed) == (7, 7)
    assert (labels.task, classes.task) == (LABELS, CLASSES)
    assert (labels.verbose, configure(verbose=0).verbose) == (True, False)


def test_a_rate_that_is_yet_to_be_found_starts_at_the_default():
    assert configure(learning_rate="auto").learning_rate == MultiLabelImageClassifier().learning_rate


def test_without_a_batch_size_a_batch_is_all_images():
    assert configure(batch_size=None).batch_size == len(TARGETS)


def test_without_a_batch_size_a_batch_holds_the_repeated_images_too():
    settings = configure(batch_size=None, sampler="oversample", sampler_params={"frequencies": {"cat": 0.5}})
    assert settings.repeats.shape == (len(TARGETS),)
    assert settings.batch_size == np.ceil(settings.repeats).sum() > len(TARGETS)


def test_class_weights_reach_the_loss():
    assert configure(class_weight={"dog": 3}).loss.class_weight.tolist() == [1, 3]
    assert configure(class_weight="balanced").loss.class_weight.tolist() == [4, 1]  # absent / present, at least 1
    exclusive = configure(ImageClassifier, class_weight="balanced").loss.class_weight
    assert exclusive.tolist() == pytest.approx([20 / (2 * 4), 20 / (2 * 16)])


def test_images_are_mixed_and_repeated_only_if_asked():
    assert (configure().mixing, configure().repeats) == (None, None)
    assert configure(mixup="cutmix").mixing.cutmix_alpha == 1
    repeats = configure(sampler="repeat_factor", sampler_params={"threshold": 0.8}).repeats
    np.testing.assert_allclose(repeats, [2.0] * 4 + [1.0] * 16)  # the square root of 0.8 / 0.2


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"backbone": "resnet18"}, True),
        ({"backbone": "resnet18", "batch_size": 15}, False),
        ({"backbone": "resnet18", "batch_size": 16}, True),
        ({"backbone": "resnet18", "targets": TARGETS[:15]}, False),
        ({"backbone": "resnet18", "batch_size": None}, True),
        ({"backbone": "resnet18", "batch_size": None, "targets": TARGETS[:15]}, False),
        ({"backbone": "resnet18", "batch_size": 15, "pretrained": False}, True),
        ({"backbone": "small_cnn", "batch_size": 15}, True),
    ],
)
def test_batch_norm_keeps_learnt_statistics_where_batches_are_small(parameters, expected):
    assert configure(**parameters).trains_batch_norm is expected


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"backbone": "resnet18"}, 0.3),
        ({"backbone": "resnet18", "pretrained": "weights.pt"}, 0.3),
        ({"backbone": "resnet18", "pretrained": False}, 0.0),
        ({"backbone": "small_cnn"}, 0.0),
        ({"backbone": "small_cnn", "pretrained": "weights.pt"}, 0.3),
        ({"backbone": nn.Identity()}, 0.0),
        ({"backbone": nn.Identity(), "pretrained": "weights.pt"}, 0.3),
        ({"backbone": "resnet18", "start_share": 0.0}, 0.0),
        ({"backbone": nn.Identity(), "start_share": 0.6}, 0.6),
    ],
)
def test_the_start_has_a_share_of_its_own_where_its_weights_are_known_to_be_good(parameters, expected):
    assert choose_start_share(MultiLabelImageClassifier(**parameters)) == expected


# The network


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"backbone": "resnet18"}, True),
        ({"backbone": "resnet18", "pretrained": False}, False),
        ({"backbone": "resnet18", "pretrained": "weights.pt"}, True),
        ({"backbone": "small_cnn"}, False),
        ({"backbone": "small_cnn", "pretrained": "weights.pt"}, True),
        ({"backbone": nn.Identity()}, True),
        ({"backbone": nn.Identity(), "pretrained": False}, False),
    ],
)
def test_only_a_backbone_with_weights_has_learnt_features(parameters, expected):
    assert has_learnt_features(MultiLabelImageClassifier(**parameters)) is expected


def test_start_network_copies_a_module_of_the_caller(tiny_network):
    network, _ = start_network(MultiLabelImageClassifier(tiny_network, image_size=32), [], n_classes=2)
    assert network.backbone is not tiny_network
    assert torch.equal(network.backbone[0].weight, tiny_network[0].weight)


def test_start_network_copies_the_fitted_one_with_warm_start(tiny_network):
    classifier = MultiLabelImageClassifier(tiny_network, image_size=32)
    classifier.network_, classifier.input_spec_ = start_network(classifier, [], n_classes=2)
    fresh, _ = start_network(classifier, [], n_classes=3)
    assert fresh.head.linear.out_features == 3
    network, spec = start_network(classifier.set_params(warm_start=True), [], n_classes=2)
    assert network is not classifier.network_
    assert torch.equal(network.head.linear.weight, classifier.network_.head.linear.weight)
    assert spec is classifier.input_spec_


@pytest.mark.parametrize(
    ("head", "head_params"),
    [
        ("linear", None),
        ("mlp", {"hidden": (8, 8)}),
        ("attention", None),
        ("attention", {"queries": "per_class"}),
        ("ml_decoder", {"width": 16, "feedforward": 8}),
    ],
    ids=["linear", "mlp", "attention", "attention per class", "ml_decoder"],
)
def test_a_further_fit_takes_up_a_changed_dropout(tiny_network, head, head_params):
    classifier = MultiLabelImageClassifier(
        tiny_network, image_size=32, head=head, head_params=head_params, dropout=0.5, warm_start=True
    )
    classifier.network_, classifier.input_spec_ = start_network(classifier, [], n_classes=2)
    network, _ = start_network(classifier.set_params(dropout=0.0), [], n_classes=2)
    assert set(list_dropouts(network.head)) == {0.0}
    assert set(list_dropouts(classifier.network_.head)) == {0.5}  # the fitted one is as it was
    torch.manual_seed(0)
    images = torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network.train()(images), network(images))


def test_a_further_fit_without_a_head_has_no_dropout_to_change(tiny_network):
    own = nn.Sequential(tiny_network, nn.Flatten(), nn.LazyLinear(2))
    own(torch.zeros(1, 3, 32, 32))
    classifier = MultiLabelImageClassifier(own, image_size=32, head=None, warm_start=True)
    classifier.network_, classifier.input_spec_ = start_network(classifier, [], n_classes=2)
    network, _ = start_network(classifier.set_params(dropout=0.0), [], n_classes=2)
    assert network.head is None


def test_a_network_sees_images_as_its_parameters_say(tiny_network):
    black, white = (np.full((8, 8, 3), value, dtype=np.uint8) for value in (0, 255))
    classifier = MultiLabelImageClassifier(tiny_network, image_size=40, resize="pad", normalization="dataset")
    _, spec = start_network(classifier, [black, white], n_classes=2)
    assert (spec.size, spec.channels, spec.resize) == (40, 3, "pad")
    assert spec.mean == pytest.approx((0.5,) * 3)
    assert spec.std == pytest.approx((0.5,) * 3)
    _, spec = start_network(classifier, [black, black], n_classes=2)
    assert spec.std == pytest.approx((1 / 255,) * 3)  # of images that are all the same colour


def list_dropouts(head):
    modules = list(head.modules())
    own = [module.dropout for module in modules if isinstance(module, CrossAttention)]
    return own + [module.p for module in modules if isinstance(module, nn.Dropout)]
