"""Giving up a training that a search no longer believes in."""

from __future__ import annotations

from typing import Any

from multilabelkit.checks import NON_EMPTY, Check, check_parameters, import_extra, suggest
from multilabelkit.errors import InputError
from multilabelkit.training.callbacks import Callback, TrainState

_TRIAL = Check(
    lambda value: callable(getattr(value, "report", None)) and callable(getattr(value, "should_prune", None)),
    "a trial of Optuna",
)


class OptunaPruning(Callback):
    """Reports each epoch to a trial of Optuna, and ends the fit where Optuna prunes the trial.

    It needs ``pip install 'multilabelkit[tune]'``. The fit then raises `optuna.TrialPruned`, which `study.optimize`
    expects: no thresholds are chosen and nothing is trained again, and the classifier is as it was before the fit. The
    second training of ``refit=True`` is not reported.

    A trial takes one value an epoch, so that it should be of one fit, on a split that is the same for all trials. A
    cross-validation would warn that the epochs of its second fold are reported already.

    Parameters
    ----------
    trial : optuna.Trial
        What `study.optimize` gives to the objective.
    monitor : str, default="valid_map"
        The column of ``history_`` to report. Lower is better for a loss, higher for anything else, and the study must
        have that direction.

    Raises
    ------
    optuna.TrialPruned
        While fitting: if Optuna prunes the trial.
    InputError
        While fitting: if the history has no such column, or the study has another direction.

    Examples
    --------
    >>> import optuna
    >>> from multilabelkit import MultiLabelImageClassifier
    >>> from multilabelkit.datasets import make_shapes
    >>> from multilabelkit.model_selection import multilabel_train_test_split
    >>> shapes = make_shapes(100, random_state=0)
    >>> X, X_test, y, y_test = multilabel_train_test_split(shapes.images, shapes.target, random_state=0)
    >>> def objective(trial):
    ...     rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    ...     classifier = MultiLabelImageClassifier(
    ...         "small_cnn", image_size=32, max_epochs=2, learning_rate=rate, verbose=0, random_state=0
    ...     )
    ...     return classifier.set_params(callbacks=[OptunaPruning(trial)]).fit(X, y).score(X_test, y_test)
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
    >>> study.optimize(objective, n_trials=2)
    >>> list(study.best_params)
    ['learning_rate']
    """

    def __init__(self, trial: Any, *, monitor: str = "valid_map") -> None:
        self.trial = trial
        self.monitor = monitor

    def __deepcopy__(self, memo: dict) -> OptunaPruning:
        # A copy of the trial would report to a copy of the study, which nobody reads.
        return type(self)(self.trial, monitor=self.monitor)

    def on_train_begin(self, state: TrainState) -> None:
        """Find out now, and not after an epoch, that the study goes the other way."""
        check_parameters("OptunaPruning", vars(self), {"trial": [_TRIAL], "monitor": [NON_EMPTY]})
        wanted = "minimize" if self.monitor.endswith("loss") else "maximize"
        study = getattr(self.trial, "study", None)  # a FixedTrial has none
        directions = [] if study is None else [direction.name.lower() for direction in study.directions]
        if directions not in ([], [wanted]):
            raise InputError(
                f"OptunaPruning compares trials by {self.monitor!r} and must {wanted} it, but the study's direction is "
                f"{' and '.join(map(repr, directions))}. Create the study with direction={wanted!r}, or monitor "
                "another column."
            )

    def on_epoch_end(self, state: TrainState) -> None:
        """Report the epoch, and ask Optuna whether it is worth going on."""
        if state.phase == "refit":
            return
        row = state.history[-1]
        if self.monitor not in row:
            raise InputError(
                f"OptunaPruning finds no {self.monitor!r} in the history.{suggest(self.monitor, row)} Its columns are "
                f"{', '.join(row)}."
            )
        self.trial.report(float(row[self.monitor]), step=row["epoch"])
        if self.trial.should_prune():
            optuna = import_extra("optuna", extra="tune")
            state.stop_reason = f"pruned in epoch {state.epoch + 1}"
            raise optuna.TrialPruned(f"{self.monitor} was {row[self.monitor]:.4g} after epoch {state.epoch + 1}.")
