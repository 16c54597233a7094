"""What the parameters of a training do in fit, from the classifier's side."""

import copy
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from multilabelkit import MultiLabelImageClassifier, fitting, network_training
from multilabelkit.data import loading
from multilabelkit.data.images import decode_image
from multilabelkit.errors import ImageDecodeError, InputError, MultiLabelKitError, MultiLabelKitWarning
from multilabelkit.inference import sigmoid
from multilabelkit.thresholds import tune_thresholds
from multilabelkit.training import Callback


def whole(message):
    return f"^{re.escape(message)}$"


class Pretrained(nn.Module):
    """A network of the caller's own: two convolutions and batch norm."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2)
            )

    def forward(self, images):
        return self.layers(images)


def create(backbone=Pretrained, **parameters):
    defaults = {
        "image_size": 32,
        "max_epochs": 1,
        "batch_size": 16,
        "validation_fraction": 0.3,
        "thresholds": "global",
        "random_state": 0,
        "verbose": 0,
        "num_workers": 0,
        "feature_cache": None,
    }
    return MultiLabelImageClassifier(backbone, **(defaults | parameters))


def get_weights(classifier):
    return {key: value.clone() for key, value in classifier.network_.state_dict().items()}


def test_a_frozen_backbone_stays_and_each_image_passes_it_once(shapes, monkeypatch):
    passes = []
    forward = Pretrained.forward
    monkeypatch.setattr(Pretrained, "forward", lambda self, images: passes.append(len(images)) or forward(self, images))
    classifier = create(trainable="head", max_epochs=20).fit(shapes.images, shapes.target)
    assert sum(passes) < 48 + 2 * 16 + 3  # the last batches are filled up, and the network was asked for its width
    fresh = Pretrained().state_dict()
    backbone = classifier.network_.backbone.state_dict()
    assert all(torch.equal(backbone[key], fresh[key]) for key in fresh)
    assert len(classifier.history_) == 20


@pytest.mark.parametrize("head", ["mlp", "attention"])
def test_a_head_learns_on_a_frozen_backbone(shapes, head):
    classifier = create(trainable="head", head=head, max_epochs=40).fit(shapes.images, shapes.target)
    assert classifier.history_[-1]["train_loss"] < classifier.history_[0]["train_loss"]


def test_a_frozen_backbone_of_many_images_is_trained_from_the_images(shapes, monkeypatch):
    monkeypatch.setattr(network_training, "_fits", lambda *arguments: False)
    with pytest.warns(MultiLabelKitWarning, match=r"^Features of 48 images take more than 4 GiB"):
        classifier = create(trainable="head", max_epochs=2).fit(shapes.images, shapes.target)
    fresh = Pretrained().state_dict()
    backbone = classifier.network_.backbone.state_dict()
    assert all(torch.equal(backbone[key], fresh[key]) for key in fresh)


def test_a_share_of_the_layers_is_opened_from_the_top(shapes):
    classifier = create(trainable=0.5, max_epochs=1).fit(shapes.images, shapes.target)
    fresh, backbone = Pretrained().state_dict(), classifier.network_.backbone.state_dict()
    changed = {key.rsplit(".", 1)[0] for key in fresh if not torch.equal(backbone[key], fresh[key])}
    assert changed == {"layers.3"}


def test_fit_says_what_it_froze(shapes, capsys):
    create(trainable=0.5, verbose=1).fit(shapes.images, shapes.target)
    err = capsys.readouterr().err
    assert "1 of 2 layers of the backbone is frozen, up to 'layers.0'" in err


def test_features_are_found_by_the_next_fit(shapes, tmp_path, monkeypatch):
    paths = [tmp_path / f"{row}.png" for row in range(16)]
    for path, image in zip(paths, shapes.images, strict=False):
        Image.fromarray(image).save(path)
    decoded = []
    monkeypatch.setattr(
        loading, "decode_image", lambda *args, **limits: decoded.append(1) or decode_image(*args, **limits)
    )
    parameters = {"trainable": "head", "validation_fraction": None, "feature_cache": tmp_path / "features"}

    def fit_and_count(backbone):
        decoded.clear()
        return create(backbone, **parameters).fit(paths, shapes.target[:16]), len(decoded)

    first, n_first = fit_and_count(Pretrained)
    second, n_second = fit_and_count(Pretrained)
    other = Pretrained()
    nn.init.zeros_(other.layers[0].bias)
    _, n_other = fit_and_count(other)
    assert (n_first, n_second, n_other) == (16, 0, 16)
    assert all(torch.equal(value, get_weights(second)[key]) for key, value in get_weights(first).items())


def test_refit_trains_on_all_images_and_keeps_the_thresholds(shapes, monkeypatch):
    seen = []
    train_network = network_training.train_network

    def spy(network, train, valid, **options):
        seen.append((len(train.targets), valid is not None))
        return train_network(network, train, valid, **options)

    monkeypatch.setattr(network_training, "train_network", spy)
    once = create(max_epochs=2).fit(shapes.images, shapes.target)
    twice = create(max_epochs=2, refit=True).fit(shapes.images, shapes.target)
    assert seen == [(34, True), (34, True), (48, False)]
    np.testing.assert_array_equal(once.thresholds_, twice.thresholds_)
    assert [row["epoch"] for row in twice.history_] == [row["epoch"] for row in twice.refit_history_] == [0, 1]
    assert once.refit_history_ == []
    assert any(not torch.equal(value, get_weights(twice)[key]) for key, value in get_weights(once).items())


def test_refit_equals_a_fit_without_validation_that_keeps_its_last_weights(shapes):
    refitted = create(max_epochs=2, refit=True).fit(shapes.images, shapes.target)
    everything = create(max_epochs=2, validation_fraction=None).fit(shapes.images, shapes.target)
    assert [row["train_loss"] for row in refitted.refit_history_] == [row["train_loss"] for row in everything.history_]


def test_refit_goes_as_far_as_an_early_stop_did(shapes):
    class Stop(Callback):
        def on_epoch_end(self, state):
            if state.epoch == 1 and state.n_epochs == 9:
                state.stop_reason = "enough"

    classifier = create(max_epochs=9, refit=True, callbacks=[Stop()]).fit(shapes.images, shapes.target)
    maps = [row["valid_map"] for row in classifier.history_]
    assert len(classifier.refit_history_) == max(range(2), key=lambda epoch: (maps[epoch], epoch)) + 1


def test_refit_without_images_set_aside_has_nothing_to_do_and_says_so(shapes):
    classifier = create(refit=True, validation_fraction=None)
    message = (
        "refit=True changes nothing here, because no images of X are set aside: all are trained on already. Set "
        "validation_fraction and leave validation_data out, or set refit=False."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        classifier.fit(shapes.images, shapes.target)
    assert classifier.refit_history_ == []


def test_ctrl_c_in_the_refit_keeps_the_first_training(shapes):
    class Interrupt(Callback):
        begun = 0

        def on_train_begin(self, state):
            self.begun += 1

        def on_epoch_end(self, state):
            if self.begun == 2:
                raise KeyboardInterrupt

    once = create().fit(shapes.images, shapes.target)
    classifier = create(refit=True, callbacks=[Interrupt()])
    message = (
        "Fitting was interrupted while it trained again on all images (refit=True). The classifier is fitted with the "
        "weights and thresholds from before that."
    )
    with pytest.raises(KeyboardInterrupt, match=whole(message)):
        classifier.fit(shapes.images, shapes.target)
    assert all(torch.equal(value, get_weights(classifier)[key]) for key, value in get_weights(once).items())


def test_mirroring_averages_the_logits_of_both_images(shapes):
    plain = create().fit(shapes.images, shapes.target)
    mirrored = copy.deepcopy(plain).set_params(tta="hflip")
    expected = (
        plain.decision_function(shapes.images) + plain.decision_function([image[:, ::-1] for image in shapes.images])
    ) / 2
    np.testing.assert_allclose(mirrored.decision_function(shapes.images), expected, atol=1e-5)


def test_thresholds_are_tuned_on_mirrored_predictions_where_these_are_used(shapes):
    classifier = create(tta="hflip", max_epochs=2, validation_fraction=None)
    rows = slice(30, 48)
    classifier.fit(shapes.images[:30], shapes.target[:30], validation_data=(shapes.images[rows], shapes.target[rows]))
    proba = sigmoid(classifier.decision_function(shapes.images[rows]))
    truth = shapes.target[rows].to_numpy(float)
    expected = tune_thresholds(truth, proba, objective="global", classes=classifier.classes_)
    np.testing.assert_allclose(classifier.thresholds_, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, 0.0),
        ({"start_share": 0.4}, 0.4),
        ({"start_share": 0.4, "head_first": False}, 0.0),
        ({"start_share": 0.4, "pretrained": False}, 0.0),
    ],
    ids=["own network", "asked for", "no start of the head", "random start"],
)
def test_weights_are_drawn_to_a_start_that_is_worth_it(shapes, monkeypatch, parameters, expected):
    seen = []
    train_network = network_training.train_network
    monkeypatch.setattr(
        network_training,
        "train_network",
        lambda *args, settings, **options: (
            seen.append(settings.start_share) or train_network(*args, settings=settings, **options)
        ),
    )
    create(**parameters).fit(shapes.images, shapes.target)
    assert seen == [expected]


def test_a_rate_may_be_searched_first(shapes, capsys):
    searched = create("plain_cnn", learning_rate="auto", verbose=1, max_epochs=1)
    searched.fit(shapes.images, shapes.target)
    assert "learning_rate=" in capsys.readouterr().err
    assert searched.learning_rate_ != 1e-3
    fixed = create("plain_cnn", learning_rate=searched.learning_rate_, max_epochs=1).fit(shapes.images, shapes.target)
    assert all(torch.equal(value, get_weights(searched)[key]) for key, value in get_weights(fixed).items())
    assert searched.learning_rate == "auto"


def test_find_learning_rate_leaves_the_classifier_as_it_was(shapes):
    classifier = create("plain_cnn")
    curve = classifier.find_learning_rate(shapes.images, shapes.target, n_steps=40)
    assert 1e-6 < curve.suggestion < 1
    assert not hasattr(classifier, "network_")
    again = create("plain_cnn").find_learning_rate(shapes.images, shapes.target, n_steps=40)
    np.testing.assert_array_equal(curve.losses, again.losses)


def test_find_learning_rate_checks_its_steps(shapes):
    message = "The 'n_steps' parameter of find_learning_rate must be an integer >= 20, or None. Got 3 instead."
    with pytest.raises(InputError, match=whole(message)):
        create().find_learning_rate(shapes.images, shapes.target, n_steps=3)


def test_full_batches_take_one_step_an_epoch(shapes):
    steps = []

    class Count(Callback):
        def on_step_end(self, state):
            steps.append(state.epoch)

    classifier = create(batch_size=None, max_epochs=3, callbacks=[Count()]).fit(shapes.images, shapes.target)
    assert steps == [0, 1, 2]
    assert classifier.predict(shapes.images).shape == (48, 3)


@pytest.mark.parametrize(("batch_size", "moves"), [(8, False), (16, True)])
def test_batch_norm_of_small_batches_keeps_its_statistics(shapes, batch_size, moves):
    classifier = create(batch_size=batch_size).fit(shapes.images, shapes.target)
    fresh = Pretrained().state_dict()["layers.1.running_mean"]
    assert torch.equal(classifier.network_.backbone.state_dict()["layers.1.running_mean"], fresh) is not moves


def test_unknown_labels_may_count_as_absent(shapes):
    target = shapes.target.astype(float).copy()
    target.iloc[::3] = np.nan
    absent = create(missing_labels="negative", validation_fraction=None).fit(shapes.images, target)
    by_hand = create(validation_fraction=None).fit(shapes.images, target.fillna(0))
    assert absent.history_[0]["train_loss"] == by_hand.history_[0]["train_loss"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"loss": "focal"},
        {"loss": "asymmetric", "loss_params": {"gamma_neg": 2}},
        {"loss": nn.HuberLoss(reduction="none")},
        {"class_weight": "balanced"},
        {"class_weight": {"circle": 3.0}},
        {"sampler": "oversample", "sampler_params": {"frequencies": 0.6}},
        {"mixup": {"mixup_alpha": 0.4}},
        {"optimizer": "lion"},
        {"optimizer": torch.optim.Adagrad},
        {"schedule": "cosine", "schedule_params": {"warmup_epochs": 1}, "max_epochs": 3},
        {"backbone_lr_factor": (0.1, 0.3)},
    ],
    ids=lambda parameters: "-".join(f"{key}={str(value)[:20]}" for key, value in parameters.items()),
)
def test_each_part_of_the_recipe_changes_what_is_learnt(shapes, parameters):
    plain = create(max_epochs=3).fit(shapes.images, shapes.target)
    changed = create(**({"max_epochs": 3} | parameters)).fit(shapes.images, shapes.target)
    assert any(not torch.equal(value, get_weights(plain)[key]) for key, value in get_weights(changed).items())
    assert np.isfinite([row["train_loss"] for row in changed.history_]).all()


class PeakAtSecond:
    """A measure that is best in the second epoch, whatever the network predicts there."""

    def __init__(self):
        self.seen = []

    def __call__(self, y_true, proba):
        self.seen.append(proba.copy())
        return -abs(len(self.seen) - 2)


def test_the_epoch_that_monitor_likes_best_is_kept(shapes):
    peak = PeakAtSecond()
    rows = slice(30, 48)
    classifier = create(monitor=peak, max_epochs=4, validation_fraction=None)
    classifier.fit(shapes.images[:30], shapes.target[:30], validation_data=(shapes.images[rows], shapes.target[rows]))
    proba = classifier.predict_proba(shapes.images[rows])
    assert len(peak.seen) == len(classifier.history_) == 4
    np.testing.assert_allclose(proba, peak.seen[1], atol=1e-6)
    assert not np.allclose(proba, peak.seen[3], atol=1e-4)


@pytest.mark.parametrize(("patience", "n_epochs"), [(1, 3), (2, 4), (None, 6)])
def test_patience_ends_a_training_that_gets_no_better(shapes, patience, n_epochs):
    classifier = create(monitor=PeakAtSecond(), patience=patience, max_epochs=6).fit(shapes.images, shapes.target)
    assert len(classifier.history_) == n_epochs


def test_a_diverging_training_says_what_to_try(shapes):
    message = (
        "The training loss became nan in epoch 1, batch 2, at learning_rate=1e+30. Try a tenth of that learning rate, "
        "clip_norm=1, or precision='fp32'."
    )
    classifier = create(learning_rate=1e30, schedule="constant", max_epochs=3, precision="fp32")
    with pytest.raises(
        MultiLabelKitError, match=r"^The training loss became (nan|inf) in epoch 1, batch \d, at"
    ) as caught:
        classifier.fit(shapes.images, shapes.target)
    assert str(caught.value).endswith(message[message.index(", at") :])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"monitor": "map"},
            "The 'monitor' parameter of MultiLabelImageClassifier must be 'auto', 'train_loss', 'valid_loss', "
            "'valid_map', 'valid_macro_f1', 'valid_micro_f1', 'valid_binary_accuracy', or a callable (y_true, proba). "
            "Got 'map' instead.",
        ),
        (
            {"monitor": "valid_map", "validation_fraction": None},
            "monitor='valid_map' needs validation images, and there are none. Set validation_fraction, pass "
            "validation_data, or use monitor='train_loss'.",
        ),
        (
            {"loss": "hinge"},
            "The 'loss' parameter of MultiLabelImageClassifier must be 'auto', 'bce', 'focal', 'asymmetric', or a "
            "callable of logits and targets (not a class). Got 'hinge' instead.",
        ),
        (
            {"loss": "cross_entropy"},
            "The 'loss' parameter of MultiLabelImageClassifier must be 'auto', 'bce', 'focal', 'asymmetric', or a "
            "callable of logits and targets (not a class). Got 'cross_entropy' instead.",
        ),
        (
            {"refit": True, "warm_start": True},
            "refit=True trains on the validation images too, so that a further fit with warm_start=True could not be "
            "judged on them. Set one of the two to False.",
        ),
    ],
    ids=["unknown monitor", "nothing to watch", "unknown loss", "exclusive loss", "refit and warm_start"],
)
def test_impossible_trainings_are_refused_before_any_work(shapes, monkeypatch, parameters, message):
    monkeypatch.setattr(fitting, "start_network", lambda *arguments, **options: pytest.fail("it has begun"))
    with pytest.raises(InputError, match=whole(message)):
        create(**parameters).fit(shapes.images, shapes.target)


@pytest.mark.parametrize(
    "parameters",
    [
        {"trainable": 1.5},
        {"trainable": {5: "all"}},
        {"trainable": "head", "head": None},
        {"schedule": "step", "schedule_params": {"milestones": [4]}},
        {"schedule": "cosine", "schedule_params": {"warmup_epochs": 2}},
        {"schedule": "waves"},
        {"optimizer": "adamm"},
        {"optimizer_params": {"lr": 1}},
        {"mixup": "blend"},
        {"loss_params": {"gamma": 2}},
        {"head_params": {"hidden": (3,)}},
        {"class_weight": {"cat": 1}},
        {"sampler": "oversample", "sampler_params": {"frequencies": {"cat": 0.5}}},
    ],
    ids=lambda parameters: "-".join(f"{key}={str(value)[:20]}" for key, value in parameters.items()),
)
def test_what_other_rooms_refuse_is_refused_before_any_work(shapes, monkeypatch, parameters):
    monkeypatch.setattr(fitting, "start_network", lambda *arguments, **options: pytest.fail("it has begun"))
    with pytest.raises(InputError):
        create(**parameters).fit(shapes.images, shapes.target)


@pytest.mark.parametrize("loss", ["focal", "asymmetric"])
@pytest.mark.parametrize(
    "parameters", [{"thresholds": 0.5, "calibration": None}, {"validation_fraction": None}], ids=["fixed", "no images"]
)
def test_a_loss_without_frequencies_warns_of_a_fixed_threshold(shapes, loss, parameters):
    message = (
        f"Probabilities of a network trained with loss='{loss}' are no frequencies, so that a fixed threshold suits "
        "none of its classes. Let thresholds be tuned (thresholds='f1'), or probabilities be calibrated "
        "(calibration='auto'), on images set aside by validation_fraction or by threshold_cv."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        create(loss=loss, **parameters).fit(shapes.images, shapes.target)


OTHER_IMAGES = (
    "This fit goes on from one that trained on other images, or on all of these, so that the images it sets aside may "
    "have been trained on before, and thresholds and scores from them look too good. Pass validation_data=(X, y) that "
    "no fit has trained on."
)


@pytest.mark.parametrize(
    "first",
    [
        {"rows": slice(0, 40)},
        {"rows": slice(None, None, -1)},
        {"validation_fraction": None},
        {"refit": True},
    ],
    ids=["fewer images", "another order", "all trained on", "refit"],
)
@pytest.mark.parametrize("saved", [False, True], ids=["in place", "saved and loaded"])
def test_a_further_fit_warns_where_its_validation_images_may_have_been_seen(shapes, tmp_path, first, saved):
    rows = first.pop("rows", slice(None))
    classifier = create(**first).fit(shapes.images[rows], shapes.target[rows])
    first["rows"] = rows
    if saved:
        classifier.save(tmp_path / "model")
        classifier = MultiLabelImageClassifier.load(tmp_path / "model", backbone=Pretrained)
    classifier.set_params(warm_start=True, refit=False, validation_fraction=0.3)
    with pytest.warns(MultiLabelKitWarning, match=whole(OTHER_IMAGES)):
        classifier.fit(shapes.images, shapes.target)


def test_a_further_fit_sets_the_same_images_aside_whatever_their_labels_are_now(shapes, monkeypatch):
    classifier = create(warm_start=True).fit(shapes.images, shapes.target)
    first = classifier.validation_rows_
    assert len(first) == 14
    classifier.add_classes(["star"])
    target = shapes.target.astype(float)
    target["star"] = np.arange(48) % 2
    classifier.set_params(validation_fraction=0.2).fit(shapes.images, target)
    np.testing.assert_array_equal(classifier.validation_rows_, first)
    others = (shapes.images[40:], target[40:])
    classifier.fit(shapes.images[:30], target[:30], validation_data=others)  # no warning
    assert classifier.validation_rows_ is None


def test_ctrl_c_while_the_head_is_fitted_first_leaves_a_new_classifier_unfitted(shapes, monkeypatch):
    from multilabelkit.training import loop

    move = loop._Run.move_weights

    def interrupt(self, **options):
        move(self, **options)
        if self.n_steps_left < 400:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._Run, "move_weights", interrupt)
    classifier = create(head="mlp")
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(shapes.images, shapes.target)
    assert [name for name in vars(classifier) if name.endswith("_")] == []


def test_ctrl_c_while_thresholds_are_tuned_keeps_the_trained_weights(shapes, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("multilabelkit.decision.tune_thresholds", interrupt)
    classifier = create()
    message = (
        "Fitting was interrupted while thresholds were chosen, after the training. The classifier is fitted with the "
        "trained weights, and with the thresholds of a fit without validation images."
    )
    with pytest.raises(KeyboardInterrupt, match=whole(message)):
        classifier.fit(shapes.images, shapes.target)
    np.testing.assert_array_equal(classifier.thresholds_, [0.5] * 3)
    assert classifier.predict(shapes.images).shape == (48, 3)


def test_ctrl_c_with_refit_tells_how_to_go_on_without_it(shapes):
    class Interrupt(Callback):
        def on_epoch_end(self, state):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"set_params\(warm_start=True, refit=False\)\.$"):
        create(refit=True, callbacks=[Interrupt()]).fit(shapes.images, shapes.target)


@pytest.mark.parametrize("mixup", ["mixup", "cutmix", "both"])
def test_a_head_on_features_is_not_mixed(shapes, mixup):
    plain = create(trainable="head", max_epochs=2).fit(shapes.images, shapes.target)
    mixed = create(trainable="head", max_epochs=2, mixup=mixup).fit(shapes.images, shapes.target)
    assert all(torch.equal(value, get_weights(plain)[key]) for key, value in get_weights(mixed).items())


def test_features_that_would_fill_the_memory_are_not_kept_and_this_is_said(shapes, monkeypatch):
    monkeypatch.setattr(network_training, "_FEATURE_BYTES", 1000)
    message = (
        f"Features of 48 images take more than {1000 / 2**30:g} GiB, so that they are not kept: the head is not fitted "
        "on them first, and with trainable='head' each epoch reads all images."
    )
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        create(trainable="head").fit(shapes.images, shapes.target)


def test_a_search_that_finds_no_rate_falls_back_and_says_so(shapes, monkeypatch):
    def fail(*arguments, **options):
        raise InputError("It tells nothing.")

    monkeypatch.setattr(network_training, "search_learning_rate", fail)
    message = "learning_rate='auto' found nothing, so 0.001 is taken. It tells nothing."
    with pytest.warns(MultiLabelKitWarning, match=whole(message)):
        classifier = create(learning_rate="auto").fit(shapes.images, shapes.target)
    assert classifier.learning_rate_ == 1e-3


def test_a_missing_file_is_told_in_one_traceback(shapes):
    images = ["missing.jpg", *shapes.images[1:]]
    with pytest.raises(ImageDecodeError, match="fit with on_bad_image='skip' to train") as caught:
        create().fit(images, shapes.target)
    assert caught.value.__suppress_context__


def test_no_rate_is_searched_for_a_head_that_is_at_its_minimum(shapes, tmp_path, monkeypatch):
    small = create().fit(shapes.images, shapes.target)
    small.save(tmp_path / "small")
    message = (
        "The test of learning rates tells nothing: the linear head is at the minimum of its loss on the features of "
        "the frozen backbone already, and what a rate gains there it gains by overfitting. Set learning_rate yourself, "
        "or head_first=False."
    )
    weights = small.network_.backbone.state_dict()
    torch.save(weights, tmp_path / "weights.pt")
    frozen = {"trainable": "head", "learning_rate": "auto", "pretrained": tmp_path / "weights.pt"}
    with pytest.warns(
        MultiLabelKitWarning, match=whole(f"learning_rate='auto' found nothing, so 0.001 is taken. {message}")
    ):
        assert create(**frozen).fit(shapes.images, shapes.target).learning_rate_ == 1e-3
    with pytest.raises(InputError, match=whole(message)):
        create(**frozen).find_learning_rate(shapes.images, shapes.target)
    monkeypatch.setattr(network_training, "search_learning_rate", lambda *arguments, **options: "a curve")
    assert create(**frozen, head_first=False).find_learning_rate(shapes.images, shapes.target) == "a curve"


def test_a_sampler_with_full_batches_takes_one_step_an_epoch(shapes):
    steps = []

    class Count(Callback):
        def on_step_end(self, state):
            steps.append(state.epoch)

    create(
        batch_size=None, sampler="oversample", sampler_params={"frequencies": 0.7}, max_epochs=2, callbacks=[Count()]
    ).fit(shapes.images, shapes.target)
    assert steps == [0, 1]


def test_a_network_without_a_head_learns_at_the_full_rate(shapes):
    network = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(12, 3))
    classifier = create(network, head=None, schedule="constant", learning_rate=0.01).fit(shapes.images, shapes.target)
    assert classifier.history_[0]["learning_rate"] == 0.01


def test_weights_that_the_last_step_spoils_are_not_kept(shapes):
    class Spoil(Callback):
        def on_step_end(self, state):
            if state.epoch == 1 and state.step == state.n_steps:
                with torch.no_grad():
                    state.network.head.linear.bias.fill_(np.nan)

    classifier = create(max_epochs=3, ema=None, callbacks=[Spoil()])
    with pytest.warns(
        MultiLabelKitWarning, match=r"^The weights were not finite at the end of epoch 2, at learning_rate="
    ):
        classifier.fit(shapes.images, shapes.target)
    assert len(classifier.history_) == 1
    assert np.isfinite(classifier.predict_proba(shapes.images)).all()


def test_one_image_is_too_few_for_batch_norm_and_this_is_said():
    class Pixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

        def forward(self, images):
            return self.layers(images)

    message = (
        "Batch norm cannot be trained on a batch of one image whose maps are a single pixel there. Use batch_size=2 or "
        "more (and at least two images), or a larger image_size."
    )
    images, labels = np.zeros((2, 8, 8, 3), dtype=np.uint8), [["a"], ["b"]]
    with pytest.raises(InputError, match=whole(message)):
        create(Pixel, pretrained=False, validation_fraction=None, batch_size=1).fit(images, labels)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (5, "groups must be a list of one group for each image in X. Got 5."),
        ([[1, 2]] * 48, "groups must be a list of one group for each image in X. Got "),
    ],
)
def test_groups_that_are_no_list_are_refused(shapes, groups, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        create().fit(shapes.images, shapes.target, groups=groups)


def test_a_monitor_must_return_a_number(shapes):
    with pytest.raises(InputError, match=r"^The monitor <function .* must return a number\. Got None\.$"):
        create(monitor=lambda y_true, proba: None).fit(shapes.images, shapes.target)
