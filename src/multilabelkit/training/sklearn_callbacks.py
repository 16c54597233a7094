"""The callbacks of scikit-learn itself (1.9 and later) in our training. Only this file knows whether they exist."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from multilabelkit.training.callbacks import Callback, TrainState

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9 has none: no set_callbacks, and a plain fit

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for the mixin that scikit-learn has not yet."""

    def with_callbacks(method: Callable) -> Callable:
        """Return the method as it is."""
        return method


class SklearnCallbacks(Callback):
    """Tells the callbacks that an estimator was given by ``set_callbacks`` of its fit and of every epoch.

    The fit is a task of scikit-learn's protocol, and every epoch a task in it. It must be the last of the callbacks of
    a training, so that it begins no epoch that another one has just called off. Where scikit-learn has no callbacks, it
    does nothing.

    Parameters
    ----------
    estimator : BaseEstimator
        With `CallbackSupportMixin` as a base, and ``fit`` decorated by `with_callbacks`. Making the adapter begins the
        task of its fit.
    n_epochs : int
        The most epochs that the trainings of this fit have, all together.
    X, y : array-like
        The images and labels it is trained on, as ``predict`` and scorers take them; or functions that return them,
        which are called only if a callback asks.
    sample_weight : array-like, default=None
        Passed on to scorers.
    describe_fitted : callable
        Given the `TrainState`, returns the attributes that make a copy of the estimator predict as if fit had stopped
        after this epoch. It is called only if a callback asks.

    Examples
    --------
    >>> from sklearn.base import BaseEstimator
    >>> class Estimator(CallbackSupportMixin, BaseEstimator):
    ...     @with_callbacks
    ...     def fit(self, X, y):
    ...         adapter = SklearnCallbacks(self, n_epochs=1, X=X, y=y, describe_fitted=lambda state: {"epoch_": 0})
    ...         state = TrainState(None, n_epochs=1, n_steps=1)  # a training, with `adapter` among its callbacks
    ...         adapter.on_train_begin(state)
    ...         adapter.on_epoch_end(state)
    ...         adapter.on_train_end(state)
    ...         self.epoch_ = state.epoch
    ...         adapter.end_fit()
    ...         return self
    >>> Estimator().fit([[0]], [1]).epoch_
    0
    """

    def __init__(
        self,
        estimator: Any,
        *,
        n_epochs: int,
        X: Any,
        y: Any,
        describe_fitted: Callable[[TrainState], dict[str, Any]],
        sample_weight: Any = None,
    ) -> None:
        self._describe_fitted = describe_fitted
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._arguments = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._epoch: Any = None
        self._fit: Any = None
        if hasattr(estimator, "_init_callback_context"):
            self._fit = estimator._init_callback_context(max_subtasks=n_epochs)
            self._fit.call_on_fit_task_begin(**self._arguments)

    def on_train_begin(self, state: TrainState) -> None:
        """Begin the first epoch."""
        self._begin_epoch(state)

    def on_epoch_end(self, state: TrainState) -> None:
        """End the epoch, stop if a callback returned True, and begin the next one."""
        if self._epoch is None:
            return
        epoch, self._epoch = self._epoch, None
        stop = epoch.call_on_fit_task_end(**self._arguments, reconstruction_attributes=self._defer(state))
        if stop and not state.stop_reason:
            state.stop_reason = "a callback of scikit-learn asked to stop"
        if not state.stop_reason and state.epoch + 1 < state.n_epochs:
            self._begin_epoch(state)

    def on_train_end(self, state: TrainState) -> None:
        """End an epoch that did not come to its end."""
        if self._epoch is not None:
            epoch, self._epoch = self._epoch, None
            epoch.call_on_fit_task_end(estimator=self._arguments["estimator"])

    def end_fit(self) -> None:
        """End the task of the fit, once the estimator has all its attributes; a fit that fails does without."""
        if self._fit is not None:
            self._fit.call_on_fit_task_end(**self._arguments, reconstruction_attributes={})

    def _begin_epoch(self, state: TrainState) -> None:
        if self._fit is None:
            return
        name = "epoch" if state.phase == "training" else f"{state.phase}-epoch"
        self._epoch = self._fit.subcontext(task_name=name)
        fitted = self._defer(state) if state.history else None  # at first nothing can predict
        self._epoch.call_on_fit_task_begin(**self._arguments, reconstruction_attributes=fitted)

    def _defer(self, state: TrainState) -> Callable[[], dict[str, Any]]:
        return lambda: self._describe_fitted(state)
