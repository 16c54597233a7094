"""The adapter alone, with an estimator and a training made of nothing; tests/contract has those of the classifier."""

import importlib.util
import sys

import pytest
import sklearn
from sklearn.base import BaseEstimator, clone

from multilabelkit.training import Callback, TrainState, sklearn_callbacks
from multilabelkit.training.sklearn_callbacks import CallbackSupportMixin, SklearnCallbacks, with_callbacks

VERSION = tuple(map(int, sklearn.__version__.split(".")[:2]))
needs_protocol = pytest.mark.skipif(VERSION < (1, 9), reason="scikit-learn has callbacks from 1.9 on")


class Recorder:
    """Notes every call of the protocol; stops after the epoch `stop_after`."""

    def __init__(self, stop_after=None):
        self.calls, self.stop_after = [], stop_after

    def setup(self, estimator, context):
        self.calls.append(("setup", context.task_name, context.max_subtasks))

    def teardown(self, estimator, context):
        self.calls.append(("teardown", context.task_name, context.max_subtasks))

    def on_fit_task_begin(self, estimator, context):
        self.calls.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context):
        self.calls.append(("end", context.task_name, context.task_id))
        return context.task_id == self.stop_after and context.parent is not None


class Curious(Recorder):
    """Asks for everything that the protocol offers."""

    def note(self, when, context, arguments):
        fitted = arguments.pop("fitted_estimator")
        self.calls.append((when, context.task_name, arguments, None if fitted is None else fitted.n_seen_))

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.note("begin", context, {"X": X, "y": y, "metadata": metadata, "fitted_estimator": fitted_estimator})

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.note("end", context, {"X": X, "y": y, "metadata": metadata, "fitted_estimator": fitted_estimator})


class StopAt(Callback):
    """A callback of ours that stops after an epoch."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            state.stop_reason = "enough"


class FailAt(StopAt):
    def on_epoch_end(self, state):
        if state.epoch == self.epoch:
            raise ZeroDivisionError


class Counter(CallbackSupportMixin, BaseEstimator):
    """Counts the epochs that it is trained for."""

    def __init__(self, phases=("training",), before=None, after=None):
        self.phases, self.before, self.after = phases, before, after

    @with_callbacks
    def fit(self, X, y, sample_weight=None):
        adapter = SklearnCallbacks(
            self,
            n_epochs=3 * len(self.phases),
            X=X,
            y=y,
            sample_weight=sample_weight,
            describe_fitted=lambda state: {"n_seen_": len(state.history)},
        )
        callbacks = [callback for callback in (self.before, adapter, self.after) if callback is not None]
        for phase in self.phases:
            state = train(callbacks, phase)
        self.n_seen_, self.stop_reason_ = len(state.history), state.stop_reason
        adapter.end_fit()
        return self


def train(callbacks, phase):
    """Call the hooks as the loop does."""
    state = TrainState(None, n_epochs=3, n_steps=1, phase=phase)
    try:
        for callback in callbacks:
            callback.on_train_begin(state)
        while state.epoch < 3 and not state.stop_reason:
            state.history.append({"epoch": state.epoch})
            for callback in callbacks:
                callback.on_epoch_end(state)
            state.epoch += 1
    finally:
        for callback in callbacks:
            callback.on_train_end(state)
    return state


def list_epochs(n_epochs, name="epoch", *, first=0):
    return [(when, name, epoch) for epoch in range(first, first + n_epochs) for when in ("begin", "end")]


def frame(*calls, n_epochs=3):
    """Put the calls of a whole fit around those of its epochs."""
    return [
        ("setup", "fit", n_epochs),
        ("begin", "fit", 0),
        *calls,
        ("end", "fit", 0),
        ("teardown", "fit", n_epochs),
    ]


@needs_protocol
def test_fit_and_every_epoch_are_tasks():
    recorder = Recorder()
    counter = Counter().set_callbacks(recorder).fit(None, None)
    assert recorder.calls == frame(*list_epochs(3))
    assert counter.stop_reason_ is None


@needs_protocol
def test_callback_of_scikit_learn_stops_after_an_epoch():
    recorder, other = Recorder(stop_after=1), Recorder()
    counter = Counter().set_callbacks(recorder, other).fit(None, None)
    assert recorder.calls == other.calls == frame(*list_epochs(2))
    assert (counter.n_seen_, counter.stop_reason_) == (2, "a callback of scikit-learn asked to stop")


@needs_protocol
def test_reason_of_another_callback_is_kept():
    counter = Counter(before=StopAt(1)).set_callbacks(Recorder(stop_after=1)).fit(None, None)
    assert counter.stop_reason_ == "enough"


@needs_protocol
def test_no_epoch_begins_after_another_callback_has_stopped():
    recorder = Recorder()
    Counter(before=StopAt(0)).set_callbacks(recorder).fit(None, None)
    assert recorder.calls == frame(*list_epochs(1))


@needs_protocol
def test_epoch_that_a_later_callback_calls_off_ends_all_the_same():
    recorder, curious = Recorder(), Curious()
    Counter(after=StopAt(0)).set_callbacks(recorder, curious).fit(None, None)
    assert recorder.calls == frame(*list_epochs(2))
    nothing = {"X": None, "y": None, "metadata": None}
    assert curious.calls[-3] == ("end", "epoch", nothing, None)  # nothing to score


@needs_protocol
def test_training_that_fails_ends_its_epoch_but_not_the_fit():
    recorder = Recorder()
    counter = Counter(before=FailAt(1)).set_callbacks(recorder)
    with pytest.raises(ZeroDivisionError):
        counter.fit(None, None)
    assert recorder.calls == [call for call in frame(*list_epochs(2)) if call != ("end", "fit", 0)]
    assert not hasattr(counter, "_callback_fit_ctx")
    counter.set_params(before=None).fit(None, None)  # and nothing is in the way of the next fit
    assert counter.n_seen_ == 3


@needs_protocol
def test_trainings_of_one_fit_are_told_apart():
    recorder = Recorder()
    Counter(phases=("head", "training", "refit")).set_callbacks(recorder).fit(None, None)
    epochs = list_epochs(3, "head-epoch") + list_epochs(3, first=3) + list_epochs(3, "refit-epoch", first=6)
    assert recorder.calls == frame(*epochs, n_epochs=9)


@needs_protocol
def test_callbacks_get_the_data_and_the_estimator_as_it_is_after_the_epoch():
    curious = Curious()
    data = {"X": "images", "y": "labels", "metadata": {"sample_weight": "weights"}}
    Counter().set_callbacks(curious).fit(lambda: "images", lambda: "labels", sample_weight="weights")
    assert curious.calls[1:-1] == [
        ("begin", "fit", data, None),
        ("begin", "epoch", data, None),
        ("end", "epoch", data, 1),
        ("begin", "epoch", data, 1),
        ("end", "epoch", data, 2),
        ("begin", "epoch", data, 2),
        ("end", "epoch", data, 3),
        ("end", "fit", data, 3),
    ]


@needs_protocol
def test_nothing_is_made_that_no_callback_asks_for():
    def fail(*_):
        raise AssertionError

    counter = Counter().set_callbacks(Recorder())
    adapter = SklearnCallbacks(counter, n_epochs=3, X=fail, y=fail, describe_fitted=fail)
    train([adapter], "training")
    adapter.end_fit()


@needs_protocol
def test_estimator_without_callbacks_fits_as_ever():
    counter = Counter().fit(None, None)
    assert set(vars(counter)) == {"phases", "before", "after", "n_seen_", "stop_reason_"}


@needs_protocol
def test_clones_share_the_callbacks():
    recorder = Recorder()
    clone(Counter().set_callbacks(recorder)).fit(None, None)
    assert len(recorder.calls) == 10


def test_before_1_9_a_fit_is_a_plain_fit(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.callback", None)
    spec = importlib.util.spec_from_file_location("sklearn_callbacks_of_1_8", sklearn_callbacks.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert set(vars(module.CallbackSupportMixin)) <= {"__module__", "__doc__", "__dict__", "__weakref__"} | set(
        vars(type("Empty", (), {}))
    )
    assert module.with_callbacks(list_epochs) is list_epochs
    adapter = module.SklearnCallbacks(BaseEstimator(), n_epochs=3, X=None, y=None, describe_fitted=None)
    state = train([adapter], "training")
    adapter.end_fit()
    assert (len(state.history), state.stop_reason) == (3, None)
