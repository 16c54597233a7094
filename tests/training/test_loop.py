import copy
import math
import re
import threading
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from multilabelkit import metrics
from multilabelkit.data.images import InputSpec
from multilabelkit.data.loading import PixelReader, iterate_evaluation
from multilabelkit.data.transforms import AUGMENTATIONS
from multilabelkit.errors import ImageDecodeError, MultiLabelKitError, MultiLabelKitWarning
from multilabelkit.inference import predict_logits, sigmoid
from multilabelkit.nn import depthwise
from multilabelkit.nn.backbones import PlainCNN, SmallCNN
from multilabelkit.nn.heads import LinearHead
from multilabelkit.nn.network import Network
from multilabelkit.training import Callback
from multilabelkit.training.evaluation import LABELS, evaluate_logits
from multilabelkit.training.labelled import LabelledFeatures, LabelledImages
from multilabelkit.training.loop import TrainingInterrupted, search_learning_rate, train_network
from multilabelkit.training.settings import TrainingSettings

CPU = torch.device("cpu")
TRAIN_KEYS = ["epoch", "train_loss", "learning_rate", "seconds"]
VALID_KEYS = ["valid_loss", "valid_map", "valid_macro_f1", "valid_micro_f1", "valid_binary_accuracy"]


def create_spec(channels=3):
    return InputSpec(32, channels, (0.5,) * channels, (0.25,) * channels)


def create_settings(**params):
    defaults = {
        "max_epochs": 3,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "backbone_lr_factor": 1.0,
        "weight_decay": 0.01,
        "ema": None,
        "augmentation": None,
        "device": CPU,
        "dtype": torch.float32,
        "num_workers": 0,
        "seed": 0,
    }
    return TrainingSettings(**(defaults | params))


def create_net(backbone, n_features, *, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(backbone, LinearHead(n_features, 3, dropout=dropout))


@pytest.fixture
def network(tiny_network):
    return create_net(tiny_network, 16)


def label(shapes, rows=slice(None), *, color_mode="rgb", size=32, targets=None, sample_weight=None):
    images = list(shapes.images[rows])
    values = shapes.target.to_numpy(dtype=np.float32)[rows] if targets is None else targets
    reader = PixelReader(images, size=size, color_mode=color_mode, pixel_cache="memory")
    return LabelledImages(reader, values, sample_weight)


@pytest.fixture
def train(shapes):
    return label(shapes, slice(0, 32))


@pytest.fixture
def valid(shapes):
    return label(shapes, slice(32, 48))


def fit(network, train, valid=None, *, callbacks=(), channels=3, **params):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return train_network(
            network, train, valid, spec=create_spec(channels), settings=create_settings(**params), callbacks=callbacks
        )


def evaluate(network, valid):
    logits = valid.predict_logits(network, spec=create_spec(), settings=create_settings())
    return evaluate_logits(LABELS, valid.targets, logits)


class Record(Callback):
    """Notes each hook as it is called."""

    def __init__(self):
        self.calls, self.losses, self.weights = [], [], []

    def on_train_begin(self, state):
        assert math.isnan(state.loss)
        self.calls.append("begin")

    def on_step_end(self, state):
        self.calls.append((state.epoch, state.step))
        self.losses.append(state.loss)

    def on_epoch_end(self, state):
        self.calls.append("epoch")
        self.weights.append({key: value.clone() for key, value in state.network.state_dict().items()})

    def on_train_end(self, state):
        self.calls.append("end")


class Forget(Callback):
    """Undoes all that the head has learnt from an epoch on, so that an earlier one is best."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_step_end(self, state):
        if state.epoch >= self.epoch:
            nn.init.zeros_(state.network.head.linear.weight)


class Fail(Callback):
    """Raises at the end of an epoch."""

    def __init__(self, error, epoch=1):
        self.error, self.epoch = error, epoch

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            raise self.error


def test_training_learns_the_shapes(network, train, valid):
    state = fit(network, train, valid, max_epochs=25)
    losses = [row["train_loss"] for row in state.history]
    assert losses[-1] < 0.5 * losses[0]
    assert max(row["valid_map"] for row in state.history) > 0.8


@pytest.mark.parametrize("ema", [None, 0.9])
def test_best_weights_are_restored(network, train, valid, ema):
    state = fit(network, train, valid, max_epochs=8, callbacks=[Forget(epoch=5)], ema=ema)
    scores = [row["valid_map"] for row in state.history]
    assert state.best_epoch == max(range(8), key=lambda epoch: (scores[epoch], epoch))  # of equals the later
    assert state.best_epoch < 5 or ema  # an average forgets slowly
    restored = evaluate(network, valid)
    best = state.history[state.best_epoch]
    assert restored == pytest.approx({key: best[key] for key in VALID_KEYS}, rel=1e-6)


def test_lowest_training_loss_is_best_without_validation(network, train):
    record = Record()
    state = fit(network, train, max_epochs=8, callbacks=[Forget(epoch=5), record])
    losses = [row["train_loss"] for row in state.history]
    assert state.best_epoch == int(np.argmin(losses)) < 5
    for key, value in network.state_dict().items():
        assert torch.equal(value, record.weights[state.best_epoch][key])


def test_lowest_validation_loss_is_best_where_map_is_unknown(network, train, shapes):
    empty = label(shapes, slice(32, 48), targets=np.zeros((16, 3), dtype=np.float32))  # no positive, so no mAP
    state = fit(network, train, empty, max_epochs=5)
    assert all(math.isnan(row["valid_map"]) for row in state.history)
    assert state.best_epoch == int(np.argmin([row["valid_loss"] for row in state.history]))


@pytest.mark.parametrize("with_valid", [True, False])
def test_history_has_one_row_an_epoch(network, train, valid, with_valid):
    state = fit(network, train, valid if with_valid else None)
    assert [row["epoch"] for row in state.history] == [0, 1, 2]
    for row in state.history:
        assert sorted(row) == sorted(TRAIN_KEYS + VALID_KEYS * with_valid)
        assert all(math.isfinite(value) for value in row.values())
        assert row["seconds"] > 0


def test_history_holds_the_mean_loss_and_the_last_rate_of_each_epoch(network, shapes):
    record = Record()
    train = label(shapes, slice(0, 30))  # batches of 8, 8, 7 and 7
    state = fit(network, train, callbacks=[record], learning_rate=0.01)
    losses = np.array(record.losses).reshape(3, 4)
    np.testing.assert_allclose([row["train_loss"] for row in state.history], losses @ [8, 8, 7, 7] / 30)
    rates = [row["learning_rate"] for row in state.history]
    assert rates[0] == pytest.approx(0.01, rel=0.1)  # the peak, after a quarter of the steps
    assert rates[0] > rates[1] > rates[2]
    assert rates[2] == pytest.approx(4e-8, rel=1e-3)  # that of the last step, not of one that never comes


def test_validation_row_equals_the_metrics_of_the_logits(network, valid):
    row = evaluate(network, valid)
    batches = iterate_evaluation(valid.reader, batch_size=3, num_workers=0)
    logits = predict_logits(network, batches, spec=create_spec(), device=CPU, dtype=torch.float32)
    proba = 1 / (1 + np.exp(-logits.astype(np.float64)))
    y_pred = (logits >= 0).astype(int)
    expected = {
        "valid_loss": -np.log(np.where(valid.targets == 1, proba, 1 - proba)).mean(),
        "valid_map": metrics.mean_average_precision(valid.targets, proba),
        "valid_macro_f1": metrics.f1_score(valid.targets, y_pred, average="macro"),
        "valid_micro_f1": metrics.f1_score(valid.targets, y_pred, average="micro"),
        "valid_binary_accuracy": (valid.targets == y_pred).mean(),
    }
    assert row == pytest.approx(expected, abs=1e-6)


def test_sigmoid_does_not_overflow():
    logits = np.array([[-1000, -20, 0, 20, 1000]], dtype=np.float32)
    proba = sigmoid(logits)
    assert proba.dtype == np.float32
    np.testing.assert_allclose(proba, [[0, 2.0611537e-09, 0.5, 1, 1]], atol=1e-12)


def test_hooks_are_called_in_order(network, train, valid):
    record = Record()
    fit(network, train, valid, max_epochs=2, callbacks=[record])
    steps = [(epoch, step) for epoch in range(2) for step in range(1, 5)]
    assert record.calls == ["begin", *steps[:4], "epoch", *steps[4:], "epoch", "end"]


def test_stop_reason_stops_after_the_epoch(network, train, valid):
    class Stop(Callback):
        def on_step_end(self, state):
            if state.epoch == 1:
                state.stop_reason = "enough"

    record = Record()
    state = fit(network, train, valid, max_epochs=9, callbacks=[Stop(), record])
    assert state.stop_reason == "enough"
    assert len(state.history) == 2
    assert record.calls[-2:] == ["epoch", "end"]


@pytest.mark.parametrize("error", [ZeroDivisionError("mine"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_training_ends_properly_when_it_fails(network, train, valid, error):
    record = Record()
    with pytest.raises(type(error)):
        fit(network, train, valid, max_epochs=5, learning_rate=1e-3, callbacks=[record, Fail(error)])
    assert record.calls[-1] == "end"
    assert record.calls.count("epoch") == 2
    assert any(  # the best weights so far are kept
        all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
        for weights in record.weights
    )


def test_broken_image_ends_the_training_and_its_threads(network, shapes, tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    record = Record()
    reader = PixelReader([*shapes.images, path], size=32, color_mode="rgb", pixel_cache="memory")
    targets = np.zeros((49, 3), dtype=np.float32)
    message = f"Cannot decode the image {path}: the file is empty."
    with pytest.raises(ImageDecodeError, match=f"^{re.escape(message)}$"):
        fit(network, LabelledImages(reader, targets), callbacks=[record], num_workers=2)
    assert record.calls[0] == "begin"
    assert record.calls[-1] == "end"


class FailAtStep(Callback):
    def on_step_end(self, state):
        raise ZeroDivisionError("mine")


def test_failing_step_leaves_no_decoding_thread(network, train):
    with pytest.raises(ZeroDivisionError) as caught:
        fit(network, train, callbacks=[FailAtStep()], num_workers=2)
    assert caught.value.__traceback__ is not None  # which holds the frames of the loop
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit-decode")]


class Spoil(Callback):
    """Makes the next loss infinite or unknown."""

    def __init__(self, epoch, step):
        self.when = epoch, step

    def on_step_end(self, state):
        if (state.epoch, state.step) == self.when:
            with torch.no_grad():
                state.network.head.linear.bias.fill_(math.nan)


DIVERGED = (
    "The training loss became nan in epoch {epoch}, batch 3, at learning_rate=0.01. Try a tenth of that learning rate, "
    "clip_norm=1, or precision='fp32'."
)


def test_loss_that_is_not_finite_in_the_first_epoch_is_an_error(network, train):
    record = Record()
    with pytest.raises(MultiLabelKitError, match=f"^{re.escape(DIVERGED.format(epoch=1))}$"):
        fit(network, train, callbacks=[Spoil(0, 2), record], schedule="constant")
    assert record.calls[-1] == "end"


@pytest.mark.parametrize("ema", [None, 0.9])
def test_loss_that_is_not_finite_later_ends_the_training_with_the_best_weights(network, train, ema):
    record = Record()
    message = f"{DIVERGED.format(epoch=2)} The weights of epoch 1 are kept."
    with pytest.warns(MultiLabelKitWarning, match=f"^{re.escape(message)}$"):
        state = fit(network, train, callbacks=[Spoil(1, 2), record], ema=ema, schedule="constant")
    assert state.stop_reason == DIVERGED.format(epoch=2)
    assert state.best_epoch == 0
    assert record.calls[-1] == "end"
    assert all(value.isfinite().all() for value in network.state_dict().values())


def test_a_loss_that_explodes_but_stays_finite_is_told_once(network, train):
    with pytest.warns(MultiLabelKitWarning) as caught:
        state = fit(network, train, learning_rate=1e4, schedule="constant", optimizer="adamw", ema=None, max_epochs=3)
    (message,) = [str(warning.message) for warning in caught if "diverged" in str(warning.message)]
    assert re.fullmatch(
        r"The training loss rose from 0\.\d+ in the first batch to [\d.e+]+ on average in epoch 1, at "
        r"learning_rate=1e\+04: this training has diverged\. Try a tenth of that learning rate, clip_norm=1, or "
        r"precision='fp32'\.",
        message,
    )
    assert state.history[0]["train_loss"] > 20


@pytest.mark.parametrize("num_workers", [0, 3])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_same_seed_gives_the_same_weights_bit_by_bit(shapes, num_workers, ema):
    def run(seed, num_workers):
        network = create_net(PlainCNN(in_chans=3), 128, dropout=0.3)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            network.head.linear.reset_parameters()
            for module in network.backbone.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        train, valid = label(shapes, slice(0, 24), size=36), label(shapes, slice(32, 48))
        state = fit(
            network,
            train,
            valid,
            max_epochs=2,
            seed=seed,
            ema=ema,
            num_workers=num_workers,
            augmentation=AUGMENTATIONS["standard"],
        )
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in state.history]
        return network.state_dict(), rows

    (weights, rows), (again, rows_again), (other, _) = run(0, 0), run(0, num_workers), run(1, 0)
    assert rows == rows_again
    assert all(torch.equal(value, again[key]) for key, value in weights.items())
    assert not torch.equal(weights["head.linear.weight"], other["head.linear.weight"])


def test_precisions_may_change_within_a_process(tiny_network, train, valid):
    losses = []
    for dtype in (torch.float32, torch.bfloat16, torch.float32):
        network = create_net(copy.deepcopy(tiny_network), 16)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network.head.linear.reset_parameters()
        state = fit(network, train, valid, dtype=dtype)
        losses.append(state.history[-1]["train_loss"])
        assert all(value.dtype in (torch.float32, torch.int64) for value in network.state_dict().values())
    assert losses[0] == losses[2]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_depthwise_convolutions_get_fast_gradients_in_bf16(monkeypatch, tiny_network, train):
    n_calls, compute = Counter(), depthwise._DepthwiseConvolution.backward

    def count(ctx, gradient):
        n_calls[str(gradient.dtype)] += 1
        return compute(ctx, gradient)

    monkeypatch.setattr(depthwise._DepthwiseConvolution, "backward", staticmethod(count))
    for dtype in (torch.float32, torch.bfloat16):
        layers = [nn.Conv2d(3, 3, 3, stride=2, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 16)]
        state = fit(create_net(nn.Sequential(*layers), 16), train, None, dtype=dtype)
        assert math.isfinite(state.history[-1]["train_loss"])
        assert bool(n_calls) == (dtype == torch.bfloat16)
    assert set(n_calls) == {"torch.bfloat16"}


@pytest.mark.parametrize("augment", [None, "light", "standard"])
@pytest.mark.parametrize("color_mode", ["rgb", "grey"])
@pytest.mark.parametrize("kind", ["small_cnn", "plain_cnn"])
def test_training_takes_colour_and_grey(shapes, kind, color_mode, augment):
    channels = 3 if color_mode == "rgb" else 1
    small = kind == "small_cnn"
    backbone = SmallCNN(in_chans=channels, image_size=32) if small else PlainCNN(in_chans=channels)
    network = create_net(backbone, 1024 if small else 128)
    augmentation = AUGMENTATIONS[augment] if augment else None
    train = label(shapes, slice(0, 16), color_mode=color_mode, size=36 if augment else 32)
    valid = label(shapes, slice(32, 48), color_mode=color_mode)
    state = fit(network, train, valid, max_epochs=1, channels=channels, augmentation=augmentation)
    assert math.isfinite(state.history[0]["valid_loss"])


@pytest.mark.parametrize("n_images", [1, 2, 9])
@pytest.mark.parametrize("max_epochs", [1, 2, 4])
def test_training_takes_few_steps(network, shapes, n_images, max_epochs):
    before = network.head.linear.weight.detach().clone()
    state = fit(network, label(shapes, slice(0, n_images)), max_epochs=max_epochs)
    assert len(state.history) == max_epochs
    assert not torch.equal(network.head.linear.weight, before)


def test_unknown_labels_and_weights_steer_the_training(network, shapes):
    targets = shapes.target.to_numpy(dtype=np.float32).copy()
    other = copy.deepcopy(network)
    weight = np.ones(48, dtype=np.float32)
    weight[::2] = 0
    weight /= weight.mean()
    fit(network, label(shapes, targets=targets, sample_weight=weight), batch_size=48)
    targets[::2] = np.nan  # to know nothing of an image is to give it no weight
    targets.flags.writeable = False
    fit(other, label(shapes, targets=targets), batch_size=48)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(other.state_dict()[key], value)


def test_epoch_of_unknown_labels_alone_moves_no_weights(network, shapes):
    before = copy.deepcopy(network.state_dict())
    targets = np.full((48, 3), np.nan, dtype=np.float32)
    state = fit(network, label(shapes, targets=targets), weight_decay=0.0)
    assert [row["train_loss"] for row in state.history] == [0, 0, 0]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_frozen_parts_stay_as_they_are(network, train):
    network.backbone.requires_grad_(False)
    before = copy.deepcopy(network.state_dict())
    fit(network, train)
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in after if key.startswith("backbone"))
    assert not torch.equal(after["head.linear.weight"], before["head.linear.weight"])


def test_training_leaves_no_gradients_behind(network, train):
    fit(network, train, ema=0.9)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_training_without_a_head_trains_the_backbone(shapes, train):
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), None)
    state = fit(network, train, learning_rate=1e-3, max_epochs=6)
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"]


def test_lowest_training_loss_is_best_where_no_validation_label_is_known(network, train, shapes):
    unknown = np.full((16, 3), np.nan, dtype=np.float32)
    state = train_network(
        network,
        train,
        label(shapes, slice(32, 48), targets=unknown),
        spec=create_spec(),
        settings=create_settings(ema=0.9),
    )
    losses = [row["train_loss"] for row in state.history]
    assert state.best_epoch == int(np.argmin(losses))


def test_every_callback_sees_the_end_where_another_fails_to_begin(network, train):
    class Ends(Callback):
        ended = False

        def on_train_end(self, state):
            self.ended = True

    class Fails(Callback):
        def on_train_begin(self, state):
            raise RuntimeError("no")

    first = Ends()
    with pytest.raises(RuntimeError, match=r"^no$"):
        train_network(network, train, None, spec=create_spec(), settings=create_settings(), callbacks=[first, Fails()])
    assert first.ended


def flat_network():
    """No batch norm, so that batches may be cut anywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Network(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU()), LinearHead(8, 3, dropout=0.0))


def test_accumulated_batches_equal_one_large_batch(train):
    whole, parts = flat_network(), flat_network()
    fit(whole, train, batch_size=16, optimizer="sgd", max_epochs=2)
    fit(parts, train, batch_size=4, accumulate=4, optimizer="sgd", max_epochs=2)
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value)


def test_the_last_accumulated_step_of_an_epoch_may_be_short(train):
    """Four batches of 8: the fourth stands alone, and counts as a whole step."""
    alone, parts = flat_network(), flat_network()
    state = fit(parts, train, batch_size=8, accumulate=3, optimizer="sgd", max_epochs=1, schedule="constant")
    assert state.step == 4
    steps = []
    batches = list(train.iterate(spec=create_spec(), settings=create_settings(batch_size=8), epoch=0, rows=None))
    optimizer = torch.optim.SGD(alone.parameters(), lr=1e-2, momentum=0.9, nesterov=True)
    for group in (batches[:3], batches[3:]):
        decayed = [p for p in alone.parameters() if p.ndim > 1]
        optimizer.zero_grad()
        for batch in group:
            images = train.to_input(batch, spec=create_spec(), device=CPU)
            loss = nn.functional.binary_cross_entropy_with_logits(
                alone(images), torch.tensor(train.targets[batch.rows])
            )
            (loss / len(group)).backward()
        for parameter in decayed:
            parameter.grad.add_(parameter.detach(), alpha=0.01)  # the weight decay of create_settings
        optimizer.step()
        steps.append(1)
    for key, value in alone.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[key], value)


def test_clipped_gradients_are_no_longer_than_asked(train, monkeypatch):
    lengths = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, max_norm, **keywords):
        parameters = list(parameters)
        norm = clip(parameters, max_norm, **keywords)
        lengths.append(math.sqrt(sum(float(p.grad.square().sum()) for p in parameters)))
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    fit(flat_network(), train, clip_norm=0.01, max_epochs=1)
    assert len(lengths) == 4
    assert max(lengths) == pytest.approx(0.01, rel=1e-3)


def test_repeated_images_are_seen_as_often_as_asked(network, train):
    seen = []

    class Count(Callback):
        def on_epoch_end(self, state):
            seen.append(state.step)

    repeats = np.ones(32)
    repeats[:8] = 3.0
    fit(network, train, repeats=repeats, callbacks=[Count()], max_epochs=2)
    assert seen == [6, 6]  # 48 images in batches of 8


def test_stochastic_repeats_never_outrun_the_schedule(network, train):
    state = fit(network, train, repeats=np.full(32, 1.5), batch_size=2, max_epochs=6)
    assert len(state.history) == 6
    assert state.history[-1]["learning_rate"] < 1e-4


def test_mixing_depends_on_the_seed_alone(train):
    from multilabelkit.data.mixing import create_mixing

    weights = []
    for seed in (0, 0, 1):
        network = flat_network()
        fit(network, train, mixing=create_mixing("both"), seed=seed, max_epochs=1)
        weights.append(network.head.linear.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_patience_stops_after_epochs_that_are_no_better(network, train, valid):
    state = fit(network, train, valid, max_epochs=20, patience=2, callbacks=[Forget(epoch=3)])
    assert state.stop_reason == "no better epoch in 2"
    assert len(state.history) == state.best_epoch + 3


@pytest.mark.parametrize("monitor", ["valid_macro_f1", "valid_loss", "train_loss"])
def test_the_best_epoch_is_that_of_the_monitor(network, train, valid, monitor):
    state = fit(network, train, valid, max_epochs=8, monitor=monitor, callbacks=[Forget(epoch=5)])
    values = [row[monitor] * (-1 if monitor.endswith("loss") else 1) for row in state.history]
    assert state.best_epoch == max(range(8), key=lambda epoch: (values[epoch], epoch))
    logits = valid.predict_logits(network, spec=create_spec(), settings=create_settings())
    np.testing.assert_allclose(state.valid_logits, logits, atol=1e-6)


def test_a_metric_of_the_callers_is_watched(network, train, valid):
    def monitor(y_true, proba):
        return -abs(float(proba.mean()) - 0.4)

    state = fit(network, train, valid, max_epochs=5, monitor=monitor)
    scores = [row["valid_score"] for row in state.history]
    assert state.best_epoch == max(range(5), key=lambda epoch: (scores[epoch], epoch))


def test_the_last_weights_are_kept_where_the_number_of_epochs_is_given(network, train):
    record = Record()
    state = fit(network, train, max_epochs=8, last_epoch=3, callbacks=[record, Forget(epoch=2)])
    assert len(state.history) == 3
    assert state.best_epoch == 2
    assert state.history[-1]["learning_rate"] > 1e-3  # in the middle of the schedule of 8 epochs
    assert all(torch.equal(value, record.weights[-1][key]) for key, value in network.state_dict().items())


def test_fp16_trains_on_scaled_losses(network, train):
    state = fit(network, train, dtype=torch.float16, max_epochs=3)
    assert state.history[-1]["train_loss"] < state.history[0]["train_loss"]
    assert all(value.dtype in (torch.float32, torch.int64) for value in network.state_dict().values())


def test_weights_that_count_lie_on_the_line_to_the_start(train, valid):
    end, drawn = flat_network(), flat_network()
    start = copy.deepcopy(end.state_dict())
    fit(end, train, last_epoch=2, max_epochs=2)
    state = fit(drawn, train, valid, last_epoch=2, max_epochs=2, start_share=0.25)
    for key, value in drawn.state_dict().items():
        torch.testing.assert_close(value, 0.25 * start[key] + 0.75 * end.state_dict()[key])
    assert evaluate(drawn, valid) == pytest.approx({key: state.history[-1][key] for key in VALID_KEYS}, rel=1e-5)


def test_layers_open_as_epochs_go_by(train):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()
        )
    network = create_net(backbone, 4)
    record = Record()
    before = copy.deepcopy(network.state_dict())
    fit(network, train, callbacks=[record], trainable={0: "head", 1: 0.5, 2: "all"}, max_epochs=3)
    changed = [
        {key for key in before if not torch.equal(weights[key], previous[key])}
        for previous, weights in zip([before, *record.weights], record.weights, strict=False)
    ]
    assert {key.split(".")[0] for key in changed[0]} == {"head"}
    assert {key.rsplit(".", 1)[0] for key in changed[1]} == {"head.linear", "backbone.3", "backbone.4"}
    assert {key.rsplit(".", 1)[0] for key in changed[2]} == {"head.linear", *(f"backbone.{i}" for i in (0, 1, 3, 4))}


def test_batch_norm_may_keep_its_statistics(train):
    network = create_net(PlainCNN(in_chans=3), 128)
    before = copy.deepcopy(network.state_dict())
    fit(network, train, trains_batch_norm=False, max_epochs=1)
    after = network.state_dict()
    statistics = [key for key in before if "running" in key]
    assert statistics
    assert all(torch.equal(after[key], before[key]) for key in statistics)
    assert not torch.equal(after["backbone.layers.1.weight"], before["backbone.layers.1.weight"])


def test_ctrl_c_after_an_epoch_tells_where_the_training_stood(network, train, valid):
    with pytest.raises(TrainingInterrupted) as caught:
        fit(network, train, valid, max_epochs=5, callbacks=[Fail(KeyboardInterrupt())])
    state = caught.value.state
    assert state.stop_reason == "interrupted in epoch 2"
    assert evaluate(network, valid)["valid_map"] == pytest.approx(max(row["valid_map"] for row in state.history))
    assert state.valid_logits.shape == (16, 3)


def test_ctrl_c_in_the_first_epoch_is_a_plain_one(network, train):
    class Stop(Callback):
        def on_step_end(self, state):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        fit(network, train, callbacks=[Stop()])
    assert not isinstance(caught.value, TrainingInterrupted)


def test_training_on_features_equals_training_on_the_images_behind_them(shapes):
    """A frozen backbone without augmentation: the head learns the same either way."""
    images = label(shapes, slice(0, 32))
    by_images = Network(nn.Sequential(nn.AvgPool2d(8), nn.Flatten()), LinearHead(48, 3, dropout=0.0))
    by_features = Network(nn.Identity(), copy.deepcopy(by_images.head))
    pixels = np.stack([images.reader.read(row) for row in range(32)])
    inputs = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    features = by_images.backbone(inputs).numpy()
    state = fit(by_images, images, images, max_epochs=3)
    data = LabelledFeatures(features, images.targets)
    other = fit(by_features, data, data, max_epochs=3)
    assert [row["train_loss"] for row in other.history] == pytest.approx(
        [row["train_loss"] for row in state.history], rel=1e-4
    )
    torch.testing.assert_close(by_features.head.linear.weight, by_images.head.linear.weight, atol=1e-5, rtol=1e-4)


def test_search_of_a_rate_leaves_the_network_as_it_was(train):
    network = flat_network()
    before = copy.deepcopy(network.state_dict())
    curve = search_learning_rate(network, train, spec=create_spec(), settings=create_settings(), n_steps=40)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert 1e-6 < curve.suggestion < 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("multilabelkit-decode")]


def test_a_batch_that_does_not_fit_in_memory_says_which_sizes_to_lower(train):
    class Huge(nn.Module):
        def forward(self, images):
            return torch.empty(2**60)

    message = (
        "A batch of 8 images of 32x32 pixels does not fit in the memory of 'cpu'. Lower batch_size (accumulate=2 with "
        "half the batch_size trains alike), or image_size, or take a smaller backbone."
    )
    with pytest.raises(MultiLabelKitError, match=f"^{re.escape(message)}$"):
        fit(Network(nn.Sequential(Huge()), LinearHead(4, 3, dropout=0.0)), train)
