import copy
import re

import numpy as np
import optuna
import pytest
from sklearn.base import clone
from torch import nn

from multilabelkit import MultiLabelImageClassifier
from multilabelkit.errors import InputError
from multilabelkit.nn.network import Network
from multilabelkit.training import Callback, OptunaPruning, TrainState

FAST = {"backbone": "small_cnn", "image_size": 32, "max_epochs": 3, "thresholds": 0.5, "verbose": 0, "random_state": 0}
ROW = {"epoch": 0, "train_loss": 0.5, "valid_loss": 0.4, "valid_map": 0.75, "learning_rate": 1e-3, "seconds": 2.0}


class Watcher(Callback):
    def on_train_begin(self, state):
        self.ended = None

    def on_train_end(self, state):
        self.ended = state.stop_reason


class PruneAt(optuna.pruners.BasePruner):
    def __init__(self, step):
        self.step = step

    def prune(self, study, trial):
        return trial.last_step >= self.step


def ask(direction="maximize", **params):
    return optuna.create_study(direction=direction, **params).ask()


def get_reported(trial):
    return trial.study.trials[trial.number].intermediate_values


def create_state(**params):
    return TrainState(Network(nn.Flatten(), None), n_epochs=3, n_steps=1, history=[ROW], **params)


def watch_epoch(callback, state):
    callback.on_train_begin(state)
    callback.on_epoch_end(state)


@pytest.mark.parametrize(("monitor", "direction"), [("valid_map", "maximize"), ("valid_loss", "minimize")])
def test_every_epoch_is_reported(monitor, direction, shapes):
    trial = ask(direction)
    classifier = MultiLabelImageClassifier(**FAST, callbacks=[OptunaPruning(trial, monitor=monitor)])
    classifier.fit(shapes.images, shapes.target)
    assert get_reported(trial) == {row["epoch"]: row[monitor] for row in classifier.history_}
    assert len(classifier.history_) == 3


def test_a_pruned_fit_ends_with_its_epoch_and_leaves_no_trace(shapes):
    trial, watcher = ask(pruner=PruneAt(1)), Watcher()
    classifier = MultiLabelImageClassifier(**FAST, callbacks=[OptunaPruning(trial), watcher])
    with pytest.raises(optuna.TrialPruned, match=r"^valid_map was 0\.\d+ after epoch 2\.$"):
        classifier.fit(shapes.images, shapes.target)
    assert sorted(get_reported(trial)) == [0, 1]
    assert watcher.ended == "pruned in epoch 2"
    assert not [name for name in vars(classifier) if name.endswith("_")]


def test_a_pruned_further_fit_leaves_the_classifier_as_it_was(shapes):
    classifier = MultiLabelImageClassifier(**FAST).fit(shapes.images, shapes.target)
    before = classifier.predict_proba(shapes.images)
    trial = ask(pruner=PruneAt(3))  # epochs are counted on
    classifier.set_params(warm_start=True, callbacks=[OptunaPruning(trial)])
    with pytest.raises(optuna.TrialPruned):
        classifier.fit(shapes.images, shapes.target)
    assert sorted(get_reported(trial)) == [3]
    assert len(classifier.history_) == 3
    np.testing.assert_array_equal(classifier.predict_proba(shapes.images), before)


def test_a_study_prunes_trials_and_goes_on(shapes):
    def objective(trial):
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        classifier = MultiLabelImageClassifier(**FAST, learning_rate=rate, callbacks=[OptunaPruning(trial)])
        return classifier.fit(shapes.images, shapes.target).score(shapes.images, shapes.target)

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2, n_warmup_steps=2))
    study.optimize(objective, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    study.pruner = optuna.pruners.NopPruner()
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].state.name == "COMPLETE"


def test_the_second_training_of_refit_is_not_reported():
    trial = ask(pruner=PruneAt(0))
    OptunaPruning(trial).on_epoch_end(create_state(phase="refit"))
    assert get_reported(trial) == {}


def test_copies_report_to_the_same_trial():
    callback = OptunaPruning(ask(), monitor="valid_macro_f1")
    copied = clone(MultiLabelImageClassifier(callbacks=[callback])).callbacks[0]
    for other in (copied, copy.deepcopy(callback)):
        assert other is not callback
        assert other.trial is callback.trial
        assert other.monitor == "valid_macro_f1"


def test_a_fixed_trial_is_never_pruned():
    state = create_state()
    watch_epoch(OptunaPruning(optuna.trial.FixedTrial({})), state)
    assert state.stop_reason is None


@pytest.mark.parametrize(
    ("trial", "params", "message"),
    [
        (3, {}, "The 'trial' parameter of OptunaPruning must be a trial of Optuna. Got 3 instead."),
        (
            ask(),
            {"monitor": None},
            "The 'monitor' parameter of OptunaPruning must be a non-empty string. Got None instead.",
        ),
        (
            ask("minimize"),
            {},
            "OptunaPruning compares trials by 'valid_map' and must maximize it, but the study's direction is "
            "'minimize'. Create the study with direction='maximize', or monitor another column.",
        ),
        (
            ask(),
            {"monitor": "valid_loss"},
            "OptunaPruning compares trials by 'valid_loss' and must minimize it, but the study's direction is "
            "'maximize'. Create the study with direction='minimize', or monitor another column.",
        ),
        (
            optuna.create_study(directions=["maximize", "minimize"]).ask(),
            {},
            "OptunaPruning compares trials by 'valid_map' and must maximize it, but the study's direction is "
            "'maximize' and 'minimize'. Create the study with direction='maximize', or monitor another column.",
        ),
        (
            ask(),
            {"monitor": "valid_mpa"},
            "OptunaPruning finds no 'valid_mpa' in the history. Did you mean 'valid_map' or 'valid_loss'? Its columns "
            "are epoch, train_loss, valid_loss, valid_map, learning_rate, seconds.",
        ),
    ],
    ids=["no trial", "no name", "direction", "direction of a loss", "two directions", "no column"],
)
def test_what_cannot_be_compared_is_refused(trial, params, message):
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        watch_epoch(OptunaPruning(trial, **params), create_state())
