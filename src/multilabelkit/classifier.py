"""Images in, labels out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import MultiLabelBinarizer
from sklearn.utils.validation import check_is_fitted

from multilabelkit import metrics
from multilabelkit.calibration import Calibrator
from multilabelkit.checks import Choice, Interval, check_parameters
from multilabelkit.data.images import check_images
from multilabelkit.data.labels import as_labels, encode_labels
from multilabelkit.decision import decide, to_proba, tune, update_report
from multilabelkit.errors import InputError
from multilabelkit.estimator import ImageEstimator
from multilabelkit.parameters import trains_probabilities
from multilabelkit.prediction import compute_logits
from multilabelkit.preparation import check_same_length
from multilabelkit.report import MultiLabelReport, multilabel_report
from multilabelkit.rules import create_rules
from multilabelkit.saving import describe_report, restore_calibrator, restore_report, restore_thresholds
from multilabelkit.threshold_tuning import check_threshold_params
from multilabelkit.thresholds import OBJECTIVES, fix_thresholds
from multilabelkit.training.evaluation import LABELS

if TYPE_CHECKING:
    from sklearn.utils import Tags


class MultiLabelImageClassifier(ClassifierMixin, ImageEstimator):
    """Classify images that carry any number of labels.

    `fit` takes images and labels, fine-tunes a network and tunes one decision threshold per class on images it did not
    train on. The classifier works wherever scikit-learn takes one: cross-validation, grid search, pipelines, metrics.

    Parameters
    ----------
    backbone : str, Module or callable, default="resnet50"
        *Model, often set.* The network that turns images into features: a name from ``timm.list_models()``;
        "small_cnn" or "plain_cnn", which train from scratch in a minute; a `torch.nn.Module` of your own (fit works on
        a copy); or a class or function that returns one.
    image_size : int, default=None
        *Images, often set.* Side in pixels of the square that images become. None takes the backbone's own (150 for
        small_cnn, 224 for your own).
    color_mode : {"rgb", "grey"}, default="rgb"
        *Images.* What images are converted to.
    resize : {"squish", "pad", "crop"}, default="squish"
        *Images.* How an image becomes square: its aspect ratio changes; or it is kept, with black added on two sides;
        or it is kept and only the middle square is seen, which can cut the labelled thing away.
    normalization : {"pretrained", "unit", "dataset"} or (mean, std), default="pretrained"
        *Images.* How pixels are scaled: as the backbone's weights expect, by 1/255 alone, by the mean and standard
        deviation of the training images, or by your own per channel, in units of pixel / 255.
    augment : {"standard", "light", "strong", None} or callable, default="standard"
        *Images, often set.* Random changes in training. "light": crops of 60 to 100 % of the area, mirrored or not;
        "standard": crops of 40 to 100 %, mirrored or not, brightness, contrast and saturation changed by up to 20 %;
        "strong": crops of 30 to 100 %, changes of 30 %, and at times turned by up to 15 degrees, grey or partly erased.
        Take None where a mirror image has another label, as with digits. Or any torchvision transform (v2): it is given
        uint8 images (C, H, W), square and an eighth larger than the network's input. What it draws from torch depends
        on `random_state` alone, whatever the number of workers.
    on_bad_image : {"raise", "skip", "nan"}, default="raise"
        *Images, often set.* What happens where images cannot be decoded. "raise": an error that lists all of them.
        "skip": fit looks at all images first, warns once and leaves the bad ones out; predict raises. "nan": fit
        raises; predict warns once and gives rows of NaN (``predict_labels``: None). Scores always raise.
    max_pixels : int, default=89478485
        *Images, rarely set.* A file of more pixels is refused before it is decoded.
    decoder : {"auto", "pillow"}, default="auto"
        *Images, rarely set.* "auto" leaves plain JPEG files on this machine to simplejpeg, which is faster and gives
        the same pixels; URLs, bytes and all else go to Pillow. "pillow": everything does, as is best for files that
        strangers made.
    pixel_cache : {"auto", "memory"}, path or None, default="auto"
        *Images, rarely set.* Where decoded images are kept, so that only the first epoch decodes. "memory": as many as
        fit in 4 GiB and in half of what is free. "auto": memory if all fit, else the user's cache folder
        (``MULTILABELKIT_CACHE`` moves it; 20 GiB at most). A path: this folder, which later fits and other processes
        share; images are found there by their content.
    feature_cache : {"auto", "memory"}, path or None, default="auto"
        *Images, rarely set.* Where features of the unchanged backbone are kept, which `head_first` and
        ``trainable="head"`` work on: further fits and folds of a cross-validation find them by the content of the
        images. "auto" is the user's cache folder (``MULTILABELKIT_CACHE`` moves it), "memory" this process.
    classes : sequence of str or int, default=None
        *Labels.* All classes in the wanted order, also those without an image. None learns them from y.
    label_sep : str, default=None
        *Labels.* Separator of labels given as one string an image, such as ``"|"`` for ``"sea|sunset"``.
    missing_labels : {"ignore", "negative"}, default="ignore"
        *Labels.* What unknown labels (NaN) are to the training loss: left out, or absent. Metrics and thresholds leave
        them out in any case.
    pretrained : bool or path, default=True
        *Model, often set.* True starts from the weights that timm downloads, False from random ones, a path from a
        local checkpoint (safetensors, or a torch state dict). small_cnn, plain_cnn and your own networks have no
        weights to download: for them True changes nothing but `head_first`.
    backbone_params : dict, default=None
        *Model, rarely set.* Keywords for timm, or for the class or function given as `backbone`.
    head : {"linear", "mlp", "attention", "ml_decoder", None}, default="linear"
        *Model.* What turns features into one score per class: a linear layer; several (``head_params``); attention over
        the places of the image; ML-Decoder; or None if your own network returns these scores itself. With None,
        `dropout` and `head_first` have no effect, and precision="auto" is fp32.
    head_params : dict, default=None
        *Model, rarely set.* Keywords of the head: "mlp" takes ``hidden`` (widths, such as ``(4096, 512)``) and
        ``activation``; see :mod:`multilabelkit.nn.heads`.
    dropout : float in [0, 1), default=0.2
        *Model.* Share of the features dropped before a linear layer of the head in training.
    trainable : {"all", "head"}, float in (0, 1] or dict, default="all"
        *Model, often set.* Which layers learn. "head": the backbone stays as it is and each image passes it once, so
        that the epochs cost next to nothing; nothing is augmented or mixed then. A float opens that share of the
        backbone's layers, from its output side. A dict opens more as epochs go by: ``{0: "head", 2: 0.6, 6: 0.7}``. The
        batch-norm statistics of a frozen layer stay as they are, too.
    head_first : bool, default=True
        *Model.* Fit the head alone on features of the unchanged backbone before all is fine-tuned. It takes seconds and
        keeps good features good; it is left out where the backbone starts at random.
    loss : {"auto", "bce", "focal", "asymmetric"} or callable, default="auto"
        *Loss.* "auto" is binary cross-entropy. Probabilities of "focal" and "asymmetric" are no frequencies: let their
        thresholds be tuned. A callable takes logits and targets (B, C) and returns one value per cell, per
        image, or in all.
    loss_params : dict, default=None
        *Loss, rarely set.* Keywords of the loss, such as ``{"label_smoothing": 0.1}`` or ``{"gamma_neg": 2}``; see
        :func:`multilabelkit.nn.losses.create_loss`.
    class_weight : "balanced", dict, sequence or None, default=None
        *Loss.* Weight of the positives of each class. "balanced" is absent / present, between 1 and 10.
    sampler : {"repeat_factor", "oversample", None}, default=None
        *Loss.* Show images of rare classes more often in an epoch: by the square root of how rare they are, or until
        classes have given shares.
    sampler_params : dict, default=None
        *Loss, rarely set.* Keywords of the sampler; see :func:`multilabelkit.training.sampling.compute_repeats`.
    mixup : {"mixup", "cutmix", "both", None} or dict, default=None
        *Loss.* Train on blends of two images, whose labels are blended alike. A dict sets ``mixup_alpha``,
        ``cutmix_alpha`` and ``probability``.
    optimizer : str or class, default="adamw"
        *Optimiser.* "adamw", "adam", "sgd" (momentum 0.9), any other name of timm's, or a torch optimiser class.
    optimizer_params : dict, default=None
        *Optimiser, rarely set.* Its further keywords, such as ``{"momentum": 0.8}``.
    learning_rate : float or "auto", default=1e-3
        *Optimiser, often set.* Peak rate of the head. "auto" tries rising rates first, see `find_learning_rate`.
    backbone_lr_factor : float or (stem, body), default=0.5
        *Optimiser.* The backbone learns at this share of `learning_rate`; a pair gives its first third a share of its
        own.
    weight_decay : float, default=0.05
        *Optimiser.* Decay of weight matrices; biases and normalisation layers have none. The default is AdamW's; for
        "sgd" and "adam", which add it to the gradient, 1e-4 is usual.
    schedule : {"one_cycle", "cosine", "step", "exponential", "plateau", "constant"}, default="one_cycle"
        *Optimiser.* How the rate goes up and down.
    schedule_params : dict, default=None
        *Optimiser, rarely set.* Keywords of the schedule, such as ``{"warmup_epochs": 1}``; see
        :func:`multilabelkit.training.optim.create_schedule`.
    clip_norm : float or None, default=None
        *Optimiser, rarely set.* Longest gradient over all weights that is taken as it is; longer ones are cut.
    max_epochs : int, default=12
        *Optimiser, often set.* Passes over the training images.
    batch_size : int or None, default=32
        *Optimiser, often set.* Images in a step, and in a forward pass of predict. None takes all training images in
        one step an epoch. With fewer than 16 and a pretrained backbone, batch norm keeps the statistics it came with.
    accumulate : int, default=1
        *Optimiser, rarely set.* Batches whose gradients are gathered for one step.
    ema : float in [0, 1) or None, default=0.999
        *Optimiser.* Decay per step of the moving average of the weights, which is what predicts; in short trainings it
        is the average of the last tenth of the steps, or with `start_share` of all of them. None: no average.
    start_share : "auto" or float in [0, 1), default="auto"
        *Optimiser.* Share of the starting weights (backbone as it came, head fitted first) in those that predict:
        weights on the line between start and end are better, and less sure of themselves, than the end. "auto" is 0.3
        where a backbone given by its name starts from pretrained weights, else 0. It needs `head_first`.
    warm_start : bool, default=False
        *Optimiser, rarely set.* A second fit goes on with the network of the first; the classes (but see `add_classes`)
        and the parameters that shape the network must be the same. Given the same images, the same ones are set aside
        for validation; with others, pass `validation_data` that no fit has trained on.
    validation_fraction : float in (0, 1) or None, default=0.15
        *Stopping, often set.* Share of the images set aside, stratified by labels, to choose the best epoch
        (see `monitor`) and the thresholds. None trains on all: the best epoch is that of the lowest training loss, and
        thresholds are 0.5.
    monitor : str or callable, default="auto"
        *Stopping, rarely set.* What the best epoch is chosen by: a column of ``history_`` ("valid_map",
        "valid_macro_f1", "valid_loss", "train_loss", ...), or a function of (y_true, proba), higher being better.
        "auto" is "valid_map", or "train_loss" without validation images.
    patience : int or None, default=None
        *Stopping.* Stop after so many epochs that are not better. Off by default: the one-cycle schedule is at its best
        at its end.
    thresholds : str, float, sequence or dict, default="f1"
        *Decision, often set.* What is tuned on the validation images, an objective of
        :func:`multilabelkit.thresholds.tune_thresholds` such as "f1", "micro_f1", "precision" or "cost"; or fixed
        values: a number for all classes, one per class, or a dict by class.
    threshold_params : dict, default=None
        *Decision.* Further keywords of `tune_thresholds`: ``{"target": 0.9}``, ``{"cost_fn": 5}``, ``{"shrink": 0}``.
    threshold_cv : int or None, default=None
        *Decision, rarely set.* Calibrate and tune on all images of X, each scored by one of so many further networks
        that were trained on the other parts, rather than on the validation images alone: as many more trainings, which
        with trainable="head" cost seconds. Best with few images, or rare labels.
    calibration : {"auto", "temperature", "platt", "isotonic", None}, default="auto"
        *Decision.* How probabilities are made true frequencies on the validation images, see
        :class:`multilabelkit.calibration.Calibrator`. "auto" leaves those of a proper loss (BCE of all images alike) as
        they are, and chooses for each class where the loss trains no probabilities: focal, asymmetric, your own, with
        class weights or a sampler.
    rules : dict, default=None
        *Decision.* What the labels of an image obey, such as ``{"implies": {"poodle": "dog"}, "excludes": [("day",
        "night")], "min_labels": 1, "max_labels": 3, "abstain": 0.1}``; see :func:`multilabelkit.rules.create_rules`.
    refit : bool, default=False
        *Decision, often set.* Once thresholds are chosen, train anew on all images, those set aside too; it doubles the
        time of fit.
    tta : {"hflip", None}, default=None
        *Decision.* Predict the mean of each image and its mirror image, for twice the time.
    device : str, default="auto"
        *Runtime.* A torch device; "auto" takes a GPU if there is one.
    precision : {"auto", "bf16", "fp16", "fp32"}, default="auto"
        *Runtime.* What the backbone computes in; "auto" is bf16 where the processor multiplies it natively. The head,
        the loss and the weights are always fp32.
    num_workers : int, default=None
        *Runtime, rarely set.* Threads that decode images; None is one per processor, at most 8; 0 decodes in between.
    random_state : int, RandomState or None, default=None
        *Runtime, often set.* Seed of the split, the weights, the order and the augmentation.
    verbose : int or bool, default=1
        *Runtime.* 0 is silent, 1 shows progress on stderr.
    callbacks : list of Callback, default=None
        *Runtime, rarely set.* See :mod:`multilabelkit.training`.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Sorted for label lists, in column order for tables.
    label_binarizer_ : MultiLabelBinarizer
        scikit-learn's, fitted with the classes.
    thresholds_ : ndarray of shape (n_classes,)
        A class is predicted where its probability is at least its threshold.
    threshold_report_ : DataFrame or None
        Per class: the threshold and its interval, F1 on the validation images at 0.5 and at the threshold, and the F1
        to be expected on new ones; see :func:`multilabelkit.thresholds.threshold_report`. None without such images.
    calibrator_ : Calibrator or None
        Turns logits into probabilities; None where their sigmoid is one.
    rules_ : DecisionRules
        What decisions obey after the thresholds.
    history_ : list of dict
        One row per epoch: training and validation loss, mAP, F1, learning rate, seconds. ``pandas.DataFrame(history_)``
        makes a table of it.
    refit_history_ : list of dict
        The same of the second training with ``refit=True``.
    learning_rate_ : float
        The rate that was used.
    network_ : Network
        The trained torch module.
    network_params_ : dict
        The parameters that shaped it; what is set afterwards does not change it.
    input_spec_ : InputSpec
        The size, channels and scaling of its input.
    validation_rows_ : ndarray of int or None
        The positions in X of the images set aside. A further fit with warm_start on the same images sets these aside.
    split_seed_ : int
        Seed by which they were drawn.
    images_key_ : str
        A digest of the images, by which a further fit notices that it is given others.

    See Also
    --------
    multilabelkit.as_indicator : Turns labels of any format into a table, which is what scikit-learn's tools want.

    Examples
    --------
    >>> from multilabelkit.datasets import make_shapes
    >>> shapes = make_shapes(100, random_state=0)
    >>> classifier = MultiLabelImageClassifier("small_cnn", image_size=32, max_epochs=2, verbose=0, random_state=0)
    >>> classifier = classifier.fit(shapes.images, shapes.target)
    >>> classifier.predict(shapes.images[:5]).shape
    (5, 3)
    """

    _task = LABELS

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 where a class is predicted and 0 elsewhere, (n_samples, n_classes) int64.

        It is float64 only if it holds NaN: in the row of an image that cannot be decoded, with on_bad_image="nan", and
        in cells that `rules` leave open ("abstain"), which scikit-learn's metrics do not take; `score` and `evaluate`
        decide these by their thresholds.
        """
        return decide(self.predict_proba(X), self.thresholds_, self.rules_)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, calibrated where the classifier has a calibrator.

        Parameters
        ----------
        X : sequence of n_samples images, as for `fit`

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float32
            One row per image, in order. Labels do not exclude each other: rows need not sum to 1.
        """
        check_is_fitted(self)
        return to_proba(self.calibrator_, compute_logits(self, X))

    def predict_labels(self, X: Any, *, top_k: int | None = None) -> list[tuple | None]:
        """Return the names of the predicted labels.

        Parameters
        ----------
        X : sequence of n_samples images, as for `fit`
        top_k : int, default=None
            Return the `top_k` most probable labels of every image, best first, whatever their thresholds. None returns
            the labels that `predict` gives, in the order of ``classes_``; cells that it leaves open are not among them.

        Returns
        -------
        labels : list of n_samples tuples
            With on_bad_image="nan", None for an image that cannot be decoded.
        """
        check_parameters("predict_labels", {"top_k": top_k}, {"top_k": [Interval(int, 1), Choice((None,))]})
        check_is_fitted(self)
        logits = compute_logits(self, X)
        proba = to_proba(self.calibrator_, logits)
        if top_k is None:
            labels = as_labels(decide(proba, self.thresholds_, self.rules_) == 1, classes=self.classes_)
        else:
            names = self.classes_.tolist()
            order = np.lexsort((-logits, -proba), axis=1)[:, :top_k]  # logits tell what probabilities of 1 do not
            labels = [tuple(names[column] for column in row) for row in order]
        return [None if bad else row for bad, row in zip(np.isnan(proba).any(axis=1), labels, strict=True)]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the macro-F1 at the tuned thresholds; unknown labels are left out, and absent classes score 0.

        Parameters
        ----------
        X : sequence of n_samples images
        y : their labels, in any format
        sample_weight : array-like of shape (n_samples,), default=None
        """
        check_is_fitted(self)
        targets = self._encode(X, y)
        y_pred = decide(self._predict_every(X), self.thresholds_, self.rules_, abstain=False)
        return metrics.f1_score(targets, y_pred, average="macro", sample_weight=sample_weight)

    def evaluate(self, X: Any, y: Any, *, n_bootstraps: int = 0, zero_division: float = 0.0) -> MultiLabelReport:
        """Return a report of how well the classifier does on images with known labels.

        Parameters
        ----------
        X : sequence of n_samples images
        y : their labels, in any format
        n_bootstraps, zero_division
            As :func:`multilabelkit.report.multilabel_report` takes them: ``n_bootstraps=1000`` for 95 % intervals.

        Notes
        -----
        Cells that `rules` leave open count here, and in `score`, as decided by their thresholds.
        """
        check_is_fitted(self)
        given = {"n_bootstraps": n_bootstraps, "zero_division": zero_division}
        check_parameters(
            "evaluate", given, {"n_bootstraps": [Interval(int, 0)], "zero_division": [Interval(float, 0, 1)]}
        )
        targets = self._encode(X, y)
        proba = self._predict_every(X)
        y_pred = decide(proba, self.thresholds_, self.rules_, abstain=False)
        return multilabel_report(
            targets,
            y_pred,
            proba,
            classes=self.classes_,
            thresholds=self.thresholds_,
            n_bootstraps=n_bootstraps,
            zero_division=zero_division,
        )

    def retune(self, X: Any, y: Any, *, objective: str | None = None, **params: Any) -> MultiLabelImageClassifier:
        """Tune the thresholds anew on other images, without any training.

        Parameters
        ----------
        X : sequence of n_samples images
            Not those that the network was trained on: it is too sure of these.
        y : their labels, in any format
        objective : str, default=None
            As the `thresholds` parameter, which stays as it is; None tunes for the same as the fit.
        **params : object
            Further keywords of :func:`multilabelkit.thresholds.tune_thresholds`, such as ``target=0.9``; without an
            objective, those of `threshold_params`.

        Returns
        -------
        self : object
            With new `thresholds_` and `threshold_report_`. Calibration stays.

        Raises
        ------
        InputError
            If the fit did not tune and no objective is given, or a keyword does not belong to it.
        """
        check_is_fitted(self)
        if objective is None and not isinstance(self.thresholds, str):
            raise InputError("The thresholds of this classifier are fixed. Say what to tune them for: objective='f1'.")
        if objective is None:
            objective, params = self.thresholds, {**(self.threshold_params or {}), **params}
        check_parameters("retune", {"objective": objective}, {"objective": [Choice(OBJECTIVES)]})
        check_threshold_params("retune", objective, params)
        targets = self._encode(X, y)
        proba = self._predict_every(X)
        tuned = tune(targets, proba, classes=self.classes_, thresholds=objective, params=params)
        self.thresholds_, self.threshold_report_ = tuned
        return self

    def set_thresholds(self, thresholds: Any) -> MultiLabelImageClassifier:
        """Set thresholds by hand, all of them or those of some classes.

        Parameters
        ----------
        thresholds : float, sequence of shape (n_classes,), or dict by class
            In [0, 1]. Classes that a dict leaves out keep theirs.

        Returns
        -------
        self : object
            With new `thresholds_`; `threshold_report_` keeps what does not depend on them.

        Raises
        ------
        InputError
            If a class is unknown or a number is not in [0, 1].
        """
        check_is_fitted(self)
        if isinstance(thresholds, Mapping):
            thresholds = dict(zip(self.classes_.tolist(), self.thresholds_.tolist(), strict=True)) | dict(thresholds)
        self.thresholds_ = fix_thresholds(thresholds, classes=self.classes_)
        if self.threshold_report_ is not None:
            self.threshold_report_ = update_report(self.threshold_report_, self.thresholds_)
        return self

    def set_rules(self, rules: Mapping[str, Any] | None) -> MultiLabelImageClassifier:
        """Set anew what the labels of an image obey, without any training.

        Parameters
        ----------
        rules : dict or None
            As the `rules` parameter, which becomes the same.

        Returns
        -------
        self : object
            With new `rules_`.

        Raises
        ------
        InputError
            If the rules contradict each other, or name an unknown class.
        """
        check_is_fitted(self)
        self.rules_ = create_rules(rules, classes=self.classes_)
        self.rules = rules
        return self

    def _predict_every(self, X: Any) -> np.ndarray:
        """Return the probabilities of images that must all be sound: a score of some of them would not be honest."""
        return to_proba(self.calibrator_, compute_logits(self, X, on_bad_image="raise"))

    def _encode(self, X: Any, y: Any) -> np.ndarray:
        targets, _ = self._encode_labels(y, classes=self.classes_)
        check_same_length(check_images(X), targets)
        return targets

    def _encode_labels(self, y: Any, *, classes: Any) -> tuple[np.ndarray, MultiLabelBinarizer]:
        return encode_labels(y, classes=classes, label_sep=self.label_sep)

    def _decode_targets(self, targets: np.ndarray, encoder: MultiLabelBinarizer) -> np.ndarray:
        return targets if np.isnan(targets).any() else targets.astype(np.int64)

    def _check_labels(self, classes: np.ndarray) -> None:
        """Refuse parameters that do not fit the classes, before any work."""
        check_threshold_params(type(self).__name__, self.thresholds, self.threshold_params)
        if not isinstance(self.thresholds, str):
            fix_thresholds(self.thresholds, classes=classes)
        create_rules(self.rules, classes=classes)

    def _tunes_by_class(self) -> bool:
        return isinstance(self.thresholds, str) and self.thresholds != "global"

    def _is_tuned(self) -> bool:
        return isinstance(self.thresholds, str) or self.calibration is not None

    def _choose_decision(self, valid_targets, logits, encoder: MultiLabelBinarizer) -> dict[str, Any]:
        """Return the fitted attributes that turn logits into labels."""
        classes, is_tuned = encoder.classes_, isinstance(self.thresholds, str)
        fitted = {
            "label_binarizer_": encoder,
            "classes_": classes,
            "rules_": create_rules(self.rules, classes=classes),
        }
        if logits is None:
            thresholds = fix_thresholds(0.5 if is_tuned else self.thresholds, classes=classes)
            return fitted | {"calibrator_": None, "thresholds_": thresholds, "threshold_report_": None}
        calibrator, method = None, self.calibration
        if method is not None and (method != "auto" or not trains_probabilities(self, validates=True)):
            calibrator = Calibrator(method=method).fit(valid_targets, logits, classes=classes)
        proba, params = to_proba(calibrator, logits), self.threshold_params
        tuned = tune(valid_targets, proba, classes=classes, thresholds=self.thresholds, params=params)
        return fitted | {"calibrator_": calibrator, "thresholds_": tuned[0], "threshold_report_": tuned[1]}

    def _describe_decision(self) -> dict[str, Any]:
        """Return as plain data what `_restore_decision` needs."""
        return {
            "thresholds": self.thresholds_.tolist(),
            "threshold_report": describe_report(self.threshold_report_),
            "calibrator": None if self.calibrator_ is None else self.calibrator_.get_state(),
            "rules": self.rules_.to_dict(),
        }

    def _restore_decision(self, config: Mapping[str, Any], classes: list) -> None:
        self.label_binarizer_ = MultiLabelBinarizer(classes=classes).fit([])
        self.classes_ = self.label_binarizer_.classes_
        self.thresholds_ = restore_thresholds(config["thresholds"], classes)
        self.threshold_report_ = restore_report(config["threshold_report"], classes)
        self.calibrator_ = restore_calibrator(config.get("calibrator"), classes)
        self.rules_ = create_rules(config.get("rules"), classes=self.classes_)

    def _set_classes(self, classes: list) -> None:
        """Take up new classes at the end; they have a threshold of 0.5 until they are learnt."""
        n_new = len(classes) - len(self.classes_)
        self.label_binarizer_ = MultiLabelBinarizer(classes=classes).fit([])
        self.classes_ = self.label_binarizer_.classes_
        self.thresholds_ = np.append(self.thresholds_, np.full(n_new, 0.5))
        self.rules_ = create_rules(self.rules_.to_dict(), classes=self.classes_)
        if self.calibrator_ is not None:
            self.calibrator_ = self.calibrator_.extend(n_new)
        if self.threshold_report_ is not None:
            self.threshold_report_ = self.threshold_report_.reindex(pd.Index(classes, name="class"))
            self.threshold_report_["threshold"] = self.thresholds_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.classifier_tags.multi_class = False
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.single_output = False
        return tags
