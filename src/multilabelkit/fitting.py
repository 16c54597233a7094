"""What image classifiers share: the steps of fit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from multilabelkit.checks import Choice, Interval, check_parameters
from multilabelkit.configuration import create_settings, start_network
from multilabelkit.data.bad_images import locate_error
from multilabelkit.errors import ImageDecodeError, MultiLabelKitWarning, warn
from multilabelkit.inference import choose_device
from multilabelkit.network_training import Images, fit_network, start_training, try_rising_rates
from multilabelkit.nn.network import Network
from multilabelkit.parameters import (
    BaseImageClassifier,
    check_classifier,
    check_monitor,
    check_same_network,
    describe_network,
)
from multilabelkit.preparation import FitData, deal_folds, list_bad_images, prepare_data, warn_of_empty_classes
from multilabelkit.training.callbacks import Progress, TrainState, announce
from multilabelkit.training.loop import TrainingInterrupted
from multilabelkit.training.lr_finder import LearningRateCurve
from multilabelkit.training.settings import TrainingSettings
from multilabelkit.training.sklearn_callbacks import SklearnCallbacks


def fit_classifier(
    classifier: BaseImageClassifier,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    groups: Any = None,
    validation_data: Any = None,
) -> None:
    """Train a classifier and set its fitted attributes, all at once: a fit that fails leaves it as it was.

    With ``refit=True`` they are set after the first training, and a second one that fails leaves them so.

    Raises
    ------
    KeyboardInterrupt
        On Ctrl-C. If an epoch was over, the classifier is fitted with the best weights so far, and the message says so.
    """
    fit = _Fit(classifier, X, y, sample_weight=sample_weight, groups=groups, validation_data=validation_data)
    data = fit.data
    check_monitor(classifier, validates=data.valid is not None)
    warn_of_decisions(classifier, data, validates=fit.validates)
    fit.begin()
    with seed_torch(classifier.device, data.seed), explain_bad_images(classifier, data):
        fit.train()
        if fit.part is not None:
            fit.cross_fit(fit.part)
        if fit.refits:
            fit.train_on_all()
    fit.sklearn_callbacks.end_fit()


def try_learning_rates(
    classifier: BaseImageClassifier, X: Any, y: Any, *, sample_weight: Any = None, n_steps: int | None = None
) -> LearningRateCurve:
    """Do what a fit does up to its first epoch, and try rising learning rates there."""
    check_parameters("find_learning_rate", {"n_steps": n_steps}, {"n_steps": [Interval(int, 20), Choice((None,))]})
    fit = _Fit(classifier, X, y, sample_weight=sample_weight)
    train = fit.choose_training()
    with seed_torch(classifier.device, fit.data.seed), explain_bad_images(classifier, fit.data):
        network, spec = start_network(classifier, train[0], n_classes=fit.data.targets.shape[1])
        with start_training(classifier, network, spec, train, None, settings=fit.settings, is_new=fit.is_new) as start:
            return try_rising_rates(start, spec=spec, settings=fit.settings, n_steps=n_steps)


def warn_of_decisions(classifier: BaseImageClassifier, data: FitData, *, validates: bool) -> None:
    """Warn of what cannot be decided well: classes without an image, fixed thresholds, a second training of nothing."""
    fixed = not validates or not isinstance(classifier.thresholds, str)
    calibrates = validates and classifier.calibration is not None
    if not validates or not classifier._tunes_by_class():
        warn_of_empty_classes(data.targets, data.encoder.classes_)  # tuning by class says so itself
    if fixed and not calibrates and classifier.loss in ("focal", "asymmetric"):
        warn(
            f"Probabilities of a network trained with loss={classifier.loss!r} are no frequencies, so that a fixed "
            "threshold suits none of its classes. Let thresholds be tuned (thresholds='f1'), or probabilities be "
            "calibrated (calibration='auto'), on images set aside by validation_fraction or by threshold_cv."
        )
    if not validates and _wants_images(classifier):
        warn(
            f"thresholds={classifier.thresholds!r} and calibration={classifier.calibration!r} need images that were "
            "not trained on, and there are none: thresholds are 0.5 unless they are fixed, and probabilities are as "
            "they come. Set validation_fraction, pass validation_data, or set threshold_cv."
        )
    if classifier.refit and data.held_out is None:
        warn(
            "refit=True changes nothing here, because no images of X are set aside: all are trained on already. "
            "Set validation_fraction and leave validation_data out, or set refit=False."
        )


def _wants_images(classifier: BaseImageClassifier) -> bool:
    """Tell whether a parameter, by other than its default, asks for what takes images that were not trained on."""
    is_tuned = isinstance(classifier.thresholds, str) and classifier.thresholds not in ("f1", "global")
    return classifier._is_tuned() and (is_tuned or classifier.calibration not in ("auto", None))


class _Fit:
    """One fit under way: what it is given, and what comes out of it."""

    def __init__(self, classifier: BaseImageClassifier, X: Any, y: Any, *, sample_weight: Any, **options: Any) -> None:
        check_classifier(classifier)
        self.classifier = classifier
        self.is_new = not (classifier.warm_start and hasattr(classifier, "network_"))
        if not self.is_new:
            check_same_network(classifier)
        self.data = data = prepare_data(
            classifier, X, y, sample_weight=sample_weight, going_on=not self.is_new, **options
        )
        self.refits = classifier.refit and data.held_out is not None
        self.part = None  # of each image, where thresholds are cross-fitted
        if classifier.threshold_cv is not None and classifier._is_tuned():
            n_folds = classifier.threshold_cv
            self.part = deal_folds(data.targets, n_folds=n_folds, groups=data.groups, seed=data.split_seed)
        self.validates = data.valid is not None or self.part is not None  # be it by the further networks
        settings = self.create_settings(self.choose_training()[1])
        self.settings = dataclasses.replace(settings, first_epoch=0 if self.is_new else len(classifier.history_))

    def begin(self) -> None:
        """Collect who watches the fit, and tell scikit-learn's callbacks that it begins."""
        classifier, data, train = self.classifier, self.data, self.choose_training()
        self.sklearn_callbacks = SklearnCallbacks(
            classifier,
            n_epochs=classifier.max_epochs * (2 if self.refits else 1),
            X=train[0],
            y=lambda: classifier._decode_targets(train[1], data.encoder),
            sample_weight=train[2],
            describe_fitted=self.describe_fitted,
        )
        self.callbacks = [*(classifier.callbacks or ()), *([Progress()] if classifier.verbose else [])]
        self.callbacks.append(self.sklearn_callbacks)  # last, as they ask for

    def choose_training(self, rows: np.ndarray | None = None) -> Images:
        """Return what to train on, or all of it; unknown labels are absent ones if that is asked."""
        sources, targets, weight = self.data.choose_training(rows)
        if self.classifier.missing_labels == "negative":
            targets = np.nan_to_num(targets, nan=0.0)
        return sources, targets, weight

    def create_settings(self, targets: np.ndarray) -> TrainingSettings:
        """Return the settings of a training on these targets, of this fit's loss whether or not it validates itself."""
        classes, seed = self.data.encoder.classes_, self.data.seed
        return create_settings(self.classifier, targets, classes=classes, seed=seed, validates=self.validates)

    def create_further_settings(self, targets: np.ndarray) -> TrainingSettings:
        """Return the settings of a training as long and at the same rate as the first, with nothing to validate on."""
        return dataclasses.replace(
            self.create_settings(targets),
            last_epoch=self.n_epochs,
            learning_rate=self.classifier.learning_rate_,
            patience=None,
            monitor="train_loss",
        )

    def train(self) -> None:
        """Train, choose thresholds and keep the result in the classifier, also that of an interrupted training."""
        classifier, data = self.classifier, self.data
        train = self.choose_training()
        network, self.spec = start_network(classifier, train[0], n_classes=data.targets.shape[1])
        message = None
        try:
            trained = fit_network(
                classifier,
                network,
                self.spec,
                train,
                data.valid,
                settings=self.settings,
                callbacks=self.callbacks,
                is_new=self.is_new,
            )
            state, logits, self.settings = trained.state, trained.state.valid_logits, trained.settings
        except TrainingInterrupted as interruption:
            state = interruption.state
            logits, message = state.valid_logits, describe_interruption(state, classifier)
            self.settings = dataclasses.replace(self.settings, learning_rate=interruption.learning_rate)
        try:
            with warnings.catch_warnings():
                if self.part is not None:  # other thresholds come, and other warnings
                    warnings.simplefilter("ignore", MultiLabelKitWarning)
                fitted = self.collect_fitted(network, state, logits)
        except KeyboardInterrupt:
            fitted = self.collect_fitted(network, state, None)
            message = (
                "Fitting was interrupted while thresholds were chosen, after the training. The classifier is fitted "
                "with the trained weights, and with the thresholds of a fit without validation images."
            )
        for name, value in fitted.items():
            setattr(classifier, name, value)
        if message is not None:
            raise KeyboardInterrupt(message)
        self.n_epochs = len(state.history) if state.stop_reason is None else (state.best_epoch or 0) + 1

    def collect_fitted(self, network: Network, state: TrainState, logits: np.ndarray | None) -> dict[str, Any]:
        """Return all the fitted attributes of the classifier."""
        classifier, data = self.classifier, self.data
        return {
            **classifier._choose_decision(None if data.valid is None else data.valid[1], logits, data.encoder),
            "network_": network.eval(),
            "input_spec_": self.spec,
            "network_params_": describe_network(classifier),
            "split_seed_": data.split_seed,
            "images_key_": data.images_key,
            "validation_rows_": None if data.held_out is None else data.images.rows[data.held_out],
            "learning_rate_": self.settings.learning_rate,
            "history_": [*([] if self.is_new else classifier.history_), *state.history],
            "refit_history_": [],
        }

    def describe_fitted(self, state: TrainState) -> dict[str, Any]:
        """Return the attributes that the classifier would have if the fit had ended with the last epoch."""
        network = copy.deepcopy(state.network)
        # Where the backbone is frozen, the best weights are those of the head alone.
        network.load_state_dict(state.best_weights or {}, strict=False)
        if state.phase == "refit":  # thresholds are set already
            return {"network_": network.eval(), "refit_history_": list(state.history)}
        with warnings.catch_warnings():  # the fit itself warns of its classes, once
            warnings.simplefilter("ignore", MultiLabelKitWarning)
            return self.collect_fitted(network, state, state.valid_logits)

    def cross_fit(self, part: np.ndarray) -> None:
        """Choose thresholds on all images: each part scored by a network that was trained on the others."""
        classifier, data = self.classifier, self.data
        n_folds, n_images = int(part.max()) + 1, len(part)
        logits, judged = np.empty(data.targets.shape, dtype=np.float32), data.targets.copy()
        for fold in range(n_folds):
            held_out = np.flatnonzero(part == fold)
            train = self.choose_training(np.flatnonzero(part != fold))
            if classifier.verbose:
                announce(f"training for thresholds, fold {fold + 1} of {n_folds}: {len(train[1])} of {n_images} images")
            torch.manual_seed(data.seed)
            network, spec = start_network(classifier, train[0], n_classes=data.targets.shape[1])
            settings = self.create_further_settings(train[1])
            sources, targets, _ = data.choose_training(held_out)
            valid = sources, targets
            try:
                trained = fit_network(classifier, network, spec, train, valid, settings=settings, is_new=True)
            except KeyboardInterrupt:
                thresholds = "thresholds of 0.5" if data.valid is None else "thresholds of its validation images"
                raise KeyboardInterrupt(
                    "Fitting was interrupted while it trained networks for thresholds (threshold_cv). The classifier "
                    f"is fitted, with {thresholds}."
                ) from None
            logits[held_out] = trained.state.valid_logits
            # Scores of a network that has seen no image of a class do not compare with those of the others.
            judged[np.ix_(held_out, ~(train[1] == 1).any(axis=0))] = np.nan
        for name, value in classifier._choose_decision(judged, logits, data.encoder).items():
            setattr(classifier, name, value)

    def train_on_all(self) -> None:
        """Train anew on the images set aside too, as long as before, and keep these weights with the thresholds."""
        classifier, data = self.classifier, self.data
        everything = self.choose_training(np.arange(len(data.targets)))
        torch.manual_seed(data.seed)
        network, spec = start_network(classifier, everything[0], n_classes=data.targets.shape[1])
        settings = self.create_further_settings(everything[1])
        if classifier.verbose:
            announce(f"training again on all {len(everything[1])} images")
        try:
            trained = fit_network(
                classifier, network, spec, everything, None, settings=settings, callbacks=self.callbacks, is_new=True
            )
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                "Fitting was interrupted while it trained again on all images (refit=True). The classifier is fitted "
                "with the weights and thresholds from before that."
            ) from None
        classifier.network_, classifier.input_spec_ = network.eval(), spec
        classifier.refit_history_ = trained.state.history


def describe_interruption(state: TrainState, classifier: BaseImageClassifier) -> str:
    """Say what Ctrl-C left, and how to go on."""
    changes = ["warm_start=True"]
    changes += ["refit=False"] if classifier.refit else []
    changes += ["threshold_cv=None"] if classifier.threshold_cv is not None else []
    return (
        f"Fitting was interrupted in epoch {state.epoch + 1} of {state.n_epochs}. The classifier is fitted with the "
        f"weights of epoch {(state.best_epoch or 0) + 1}, the best so far. To go on from there, call fit again after "
        f"set_params({', '.join(changes)})."
    )


@contextlib.contextmanager
def seed_torch(device: Any, seed: int) -> Iterator[None]:
    """Seed torch's random numbers, and leave the caller's as they were."""
    chosen = choose_device(device)
    with torch.random.fork_rng([chosen] if chosen.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def explain_bad_images(classifier: BaseImageClassifier, data: FitData) -> Iterator[None]:
    """Turn the complaint about one image into that about all that are bad."""
    try:
        yield
    except ImageDecodeError as error:
        list_bad_images(classifier, data.images)
        if data.valid_images is not None:
            list_bad_images(classifier, data.valid_images)
        raise locate_error(error, data.images.sources) from error
