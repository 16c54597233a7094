import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import create_generator
from multilabelkit.nn.heads import create_head
from multilabelkit.nn.network import Network
from multilabelkit.training.labelled import LabelledFeatures
from multilabelkit.training.settings import TrainingSettings

CPU = torch.device("cpu")
SPEC = InputSpec(32, 3, (0.5,) * 3, (0.25,) * 3)
POOLED = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
TOKENS = np.random.default_rng(1).normal(size=(7, 5, 4)).astype(np.float32)
TARGETS = np.eye(7, 3, dtype=np.float32)


def create_settings(**params):
    defaults = {"max_epochs": 3, "batch_size": 3, "learning_rate": 1e-2, "backbone_lr_factor": 1.0, "weight_decay": 0.0}
    defaults |= {"ema": None, "augmentation": None, "device": CPU, "dtype": torch.float32, "num_workers": 0, "seed": 5}
    return TrainingSettings(**(defaults | params))


def iterate(features, *, epoch=0, rows=None, **params):
    labelled = LabelledFeatures(features, TARGETS)
    return list(labelled.iterate(spec=SPEC, settings=create_settings(**params), epoch=epoch, rows=rows))


def list_rows(batches):
    return np.concatenate([batch.rows for batch in batches]).tolist()


def create_network(head):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(nn.Identity(), create_head(head, n_features=4, n_classes=3, dropout=0.5))


@pytest.mark.parametrize("features", [POOLED, TOKENS], ids=["pooled", "tokens"])
def test_an_epoch_shows_each_row_once_with_its_own_features(features):
    batches = iterate(features)
    assert [len(batch.rows) for batch in batches] == [3, 2, 2]
    assert sorted(list_rows(batches)) == list(range(7))
    for batch in batches:
        np.testing.assert_array_equal(batch.pixels.numpy(), features[batch.rows])
        assert batch.factors is None


def test_the_order_follows_from_seed_and_epoch():
    assert list_rows(iterate(POOLED, epoch=2)) == create_generator("order", 5, 2).permutation(7).tolist()
    orders = [iterate(POOLED, epoch=2), iterate(POOLED, epoch=3), iterate(POOLED, epoch=2, seed=6)]
    assert len({tuple(list_rows(batches)) for batches in orders}) == 3


def test_given_rows_are_shown_as_often_as_asked():
    rows = np.array([6, 6, 6, 0, 2])
    batches = iterate(POOLED, rows=rows, epoch=1)
    assert list_rows(batches) == rows[create_generator("order", 5, 1).permutation(5)].tolist()
    for batch in batches:
        np.testing.assert_array_equal(batch.pixels.numpy(), POOLED[batch.rows])


def test_batches_of_two_leave_no_row_alone():
    assert [len(batch.rows) for batch in iterate(POOLED, batch_size=2)] == [3, 2, 2]


@pytest.mark.parametrize("features", [POOLED, TOKENS], ids=["pooled", "tokens"])
def test_the_input_of_the_head_is_the_features_themselves(features):
    labelled = LabelledFeatures(features, TARGETS)
    batch = iterate(features)[0]
    images = labelled.to_input(batch, spec=SPEC, device=CPU)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images.numpy(), features[batch.rows])


@pytest.mark.parametrize(
    ("head", "features"),
    [("linear", POOLED), ("mlp", POOLED), ("attention", TOKENS), ("ml_decoder", TOKENS)],
)
def test_logits_are_those_of_the_head_without_dropout(head, features):
    network = create_network(head).train()
    logits = LabelledFeatures(features, TARGETS).predict_logits(network, spec=SPEC, settings=create_settings())
    assert network.training
    assert (logits.shape, logits.dtype) == ((7, 3), np.float32)
    with torch.inference_mode():
        expected = network.head.eval()(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_logits_of_a_linear_head_are_the_product_by_hand():
    network = create_network("linear")
    logits = LabelledFeatures(POOLED, TARGETS).predict_logits(network, spec=SPEC, settings=create_settings())
    linear = network.head.linear
    expected = POOLED @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-6)


def test_many_rows_pass_the_head_in_parts(monkeypatch):
    monkeypatch.setattr("multilabelkit.training.labelled._PART_VALUES", 2 * TOKENS[0].size)
    network, sizes = create_network("attention"), []
    network.head.register_forward_hook(lambda module, inputs, logits: sizes.append(len(logits)))
    labelled, settings = LabelledFeatures(TOKENS, TARGETS), create_settings()
    logits = labelled.predict_logits(network, spec=SPEC, settings=settings)
    assert sizes == [2, 2, 2, 1]
    monkeypatch.undo()
    np.testing.assert_allclose(logits, labelled.predict_logits(network, spec=SPEC, settings=settings), atol=1e-6)


def test_logits_are_the_mean_with_the_mirror_images_where_there_are_features_of_these():
    network, settings = create_network("linear"), create_settings()
    sides = [LabelledFeatures(part, TARGETS) for part in (POOLED, TOKENS[:, 0])]
    plain = [side.predict_logits(network, spec=SPEC, settings=settings) for side in sides]
    both = LabelledFeatures(POOLED, TARGETS, mirrored=TOKENS[:, 0])
    logits = both.predict_logits(network, spec=SPEC, settings=settings)
    np.testing.assert_allclose(logits, np.mean(plain, axis=0), atol=1e-6)
