"""Images in, labels out."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from torch import nn

from multilabelkit import metrics
from multilabelkit.checks import Interval, check_parameters, check_sample_weight
from multilabelkit.data.bad_images import locate_error
from multilabelkit.data.images import check_images
from multilabelkit.data.labels import as_labels, encode_labels
from multilabelkit.errors import ImageDecodeError
from multilabelkit.fitting import (
    check_groups,
    check_same_length,
    check_validation_data,
    choose_usable_images,
    choose_validation_rows,
    compute_logits,
    draw_seed,
    fit_network,
    keep_rows,
    list_bad_images,
    prepare_cache,
    start_network,
    warn_of_empty_classes,
)
from multilabelkit.inference import choose_device, sigmoid
from multilabelkit.parameters import BaseImageClassifier, check_classifier, check_same_network, describe_network
from multilabelkit.report import MultiLabelReport, multilabel_report
from multilabelkit.saving import load_classifier, save_classifier
from multilabelkit.thresholds import apply_thresholds, fix_thresholds, threshold_report, tune_thresholds

if TYPE_CHECKING:
    from sklearn.utils import Tags


class MultiLabelImageClassifier(ClassifierMixin, BaseImageClassifier):
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
    classes : sequence of str or int, default=None
        *Labels.* All classes in the wanted order, also those without an image. None learns them from y.
    label_sep : str, default=None
        *Labels.* Separator of labels given as one string an image, such as ``"|"`` for ``"sea|sunset"``.
    pretrained : bool or path, default=True
        *Model, often set.* True starts from the weights that timm downloads, False from random ones, a path from a
        local checkpoint (safetensors, or a torch state dict). small_cnn, plain_cnn and your own networks have no
        weights to download: for them True changes nothing but `head_first`.
    backbone_params : dict, default=None
        *Model, rarely set.* Keywords for timm, or for the class or function given as `backbone`.
    head : {"linear", None}, default="linear"
        *Model.* What turns features into one score per class; None if your own network returns these scores itself.
        With None, `dropout` and `head_first` have no effect, and precision="auto" is fp32.
    dropout : float in [0, 1), default=0.2
        *Model.* Share of the features dropped before the linear head in training.
    head_first : bool, default=True
        *Model.* Fit the head alone on features of the unchanged backbone before all is fine-tuned. It takes seconds and
        keeps good features good; it is left out where the backbone starts at random.
    learning_rate : float, default=1e-3
        *Optimiser, often set.* Peak rate of the head; AdamW with a one-cycle schedule.
    backbone_lr_factor : float, default=0.5
        *Optimiser.* The backbone learns at this share of `learning_rate`.
    weight_decay : float, default=0.05
        *Optimiser.* AdamW's decay of weight matrices; biases and normalisation layers have none.
    max_epochs : int, default=12
        *Optimiser, often set.* Passes over the training images.
    batch_size : int, default=32
        *Optimiser, often set.* Images in a step, and in a forward pass of predict.
    ema : float in [0, 1) or None, default=0.99
        *Optimiser.* Decay per step of the moving average of the weights, which is what predicts. None: no average.
    warm_start : bool, default=False
        *Optimiser, rarely set.* A second fit goes on with the network of the first; the classes and the parameters that
        shape the network must be the same. Given the same images, the same ones are set aside for validation; with
        others, pass `validation_data` that no fit has trained on.
    validation_fraction : float in (0, 1) or None, default=0.15
        *Stopping, often set.* Share of the images set aside, stratified by labels, to choose the best epoch (by mAP)
        and the thresholds. None trains on all: the best epoch is that of the lowest training loss, and thresholds
        are 0.5.
    thresholds : {"f1", "global"}, float, sequence or dict, default="f1"
        *Decision, often set.* What is tuned on the validation images: the F1 of each class, or one threshold for all
        classes; or fixed values: a number for all classes, one per class, or a dict by class.
    device : str, default="auto"
        *Runtime.* A torch device; "auto" takes a GPU if there is one.
    precision : {"auto", "bf16", "fp32"}, default="auto"
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
        Per class: the threshold, and F1 on the validation images at 0.5 and at the threshold. None without such images.
    history_ : list of dict
        One row per epoch: training and validation loss, mAP, F1, learning rate, seconds. ``pandas.DataFrame(history_)``
        makes a table of it.
    network_ : Network
        The trained torch module.
    network_params_ : dict
        The parameters that shaped it; what is set afterwards does not change it.
    input_spec_ : InputSpec
        The size, channels and scaling of its input.
    split_seed_ : int
        Seed of the validation part. A further fit with warm_start sets the same images aside.

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

    def fit(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        groups: Any = None,
        validation_data: tuple[Any, Any] | None = None,
    ) -> MultiLabelImageClassifier:
        """Train the network and choose the thresholds.

        Parameters
        ----------
        X : sequence of n_samples paths, URLs, encoded bytes, PIL images, arrays or tensors
            Arrays are (H, W) or (H, W, 1|3|4): uint8, uint16, bool, or float in [0, 1]; tensors may have the channels
            first. An array (n_samples, H, W[, C]) or a pandas column works too.
        y : labels of n_samples images
            A list of label lists, sets, strings or dicts, or a table of 0/1, -1/+1, with NaN for unknown; see
            :func:`multilabelkit.as_indicator`.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each image counts in the training loss.
        groups : array-like of shape (n_samples,), default=None
            Images of one group (a patient, a video) all go to training or all to validation. Without a validation part
            of X, they have no effect.
        validation_data : (X, y), default=None
            Images to use in place of the validation part of X.

        Returns
        -------
        self : MultiLabelImageClassifier

        Raises
        ------
        InputError
            If a parameter, an image or a label cannot be used; ``ImageDecodeError`` lists every bad image.
        """
        check_classifier(self)
        sources = check_images(X)
        going_on = self.warm_start and hasattr(self, "network_")
        if going_on:
            check_same_network(self)
        targets, binarizer = encode_labels(
            y, classes=self.classes_ if going_on else self.classes, label_sep=self.label_sep
        )
        check_same_length(sources, targets)
        weight = check_sample_weight(sample_weight, len(sources))
        if not isinstance(self.thresholds, str):
            fix_thresholds(self.thresholds, classes=binarizer.classes_)
        check_groups(groups, len(sources))
        prepare_cache(self)
        images = choose_usable_images(self, sources)
        targets, weight, groups = keep_rows(images.rows, targets, weight, groups)
        seed = draw_seed(self.random_state)
        # The same images are set aside again: thresholds must not come from images that an earlier fit trained on.
        split_seed = self.split_seed_ if going_on else seed
        rows, valid, valid_images = self._set_validation_aside(
            images, targets, groups, validation_data, binarizer.classes_, split_seed
        )
        if valid is None or not (isinstance(self.thresholds, str) and self.thresholds == "f1"):
            warn_of_empty_classes(targets, binarizer.classes_)  # tuning by class says so itself
        sources = images.list_sources()
        train = ([sources[row] for row in rows], targets[rows], None if weight is None else weight[rows])
        device = choose_device(self.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):  # the caller's numbers stay as they were
            torch.manual_seed(seed)
            try:
                network, spec = start_network(self, train[0], n_classes=targets.shape[1])
                state, logits = fit_network(self, network, spec, train, valid, seed=seed, is_new=not going_on)
            except ImageDecodeError as error:
                list_bad_images(self, images)
                if valid_images is not None:
                    list_bad_images(self, valid_images)
                raise locate_error(error, images.sources) from error
        chosen = self._choose_thresholds(None if valid is None else valid[1], logits, binarizer.classes_)
        # Only now, all at once: a fit that fails or is interrupted leaves the classifier as it was.
        self.thresholds_, self.threshold_report_ = chosen
        self.label_binarizer_, self.classes_ = binarizer, binarizer.classes_
        self.network_, self.input_spec_ = network.eval(), spec
        self.network_params_, self.split_seed_ = describe_network(self), split_seed
        self.history_ = [*(self.history_ if going_on else ()), *state.history]
        return self

    def _set_validation_aside(self, images, targets, groups, validation_data, classes, seed):
        """Return the rows to train on, the (sources, targets) to validate on, and the images of `validation_data`."""
        everything = np.arange(len(targets))
        if validation_data is not None:
            valid_images, valid_targets = check_validation_data(self, validation_data, classes=classes)
            return everything, (valid_images.list_sources(), valid_targets), valid_images
        if self.validation_fraction is None:
            return everything, None, None
        rows, held_out = choose_validation_rows(targets, fraction=self.validation_fraction, groups=groups, seed=seed)
        sources = images.list_sources()
        return rows, ([sources[row] for row in held_out], targets[held_out]), None

    def _choose_thresholds(self, valid_targets, logits, classes):
        """Return the thresholds, and the report of what they rest on or None."""
        is_tuned = isinstance(self.thresholds, str)
        if logits is None:
            return fix_thresholds(0.5 if is_tuned else self.thresholds, classes=classes), None
        proba = sigmoid(logits)
        if is_tuned:
            thresholds = tune_thresholds(valid_targets, proba, objective=self.thresholds, classes=classes)
        else:
            thresholds = fix_thresholds(self.thresholds, classes=classes)
        return thresholds, threshold_report(valid_targets, proba, thresholds, classes=classes)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits, (n_samples, n_classes) float32; higher means the class is more likely."""
        check_is_fitted(self)
        return compute_logits(self, X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class.

        Parameters
        ----------
        X : sequence of n_samples images, as for `fit`

        Returns
        -------
        proba : ndarray of shape (n_samples, n_classes), float32
            One row per image, in order. The classes do not exclude each other: rows need not sum to 1.
        """
        return sigmoid(self.decision_function(X))

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 where a class is predicted and 0 elsewhere, (n_samples, n_classes) int64.

        With on_bad_image="nan", and only if an image cannot be decoded, the result is float64 with NaN in its row.
        """
        return _decide(self.predict_proba(X), self.thresholds_)

    def predict_labels(self, X: Any, *, top_k: int | None = None) -> list[tuple | None]:
        """Return the names of the predicted labels.

        Parameters
        ----------
        X : sequence of n_samples images, as for `fit`
        top_k : int, default=None
            Return the `top_k` most probable labels of every image, best first, whatever their thresholds. None returns
            the labels above their thresholds, in the order of ``classes_``.

        Returns
        -------
        labels : list of n_samples tuples
            With on_bad_image="nan", None for an image that cannot be decoded.
        """
        check_parameters("predict_labels", {"top_k": top_k}, {"top_k": [Interval(int, 1)]} if top_k is not None else {})
        proba = self.predict_proba(X)
        if top_k is None:
            labels = as_labels(_decide(proba, self.thresholds_), classes=self.classes_)
        else:
            names = self.classes_.tolist()
            order = np.argsort(-proba, axis=1, kind="stable")[:, :top_k]
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
        y_pred = apply_thresholds(self._predict_every(X), self.thresholds_)
        return metrics.f1_score(targets, y_pred, average="macro", sample_weight=sample_weight)

    def evaluate(self, X: Any, y: Any) -> MultiLabelReport:
        """Return a report of how well the classifier does on images with known labels."""
        check_is_fitted(self)
        targets = self._encode(X, y)
        proba = self._predict_every(X)
        y_pred = apply_thresholds(proba, self.thresholds_)
        return multilabel_report(targets, y_pred, proba, classes=self.classes_, thresholds=self.thresholds_)

    def _predict_every(self, X: Any) -> np.ndarray:
        """Return the probabilities of images that must all be sound: a score of some of them would not be honest."""
        return sigmoid(compute_logits(self, X, on_bad_image="raise"))

    def _encode(self, X: Any, y: Any) -> np.ndarray:
        targets, _ = encode_labels(y, classes=self.classes_, label_sep=self.label_sep)
        check_same_length(check_images(X), targets)
        return targets

    def save(self, path: str | os.PathLike) -> None:
        """Write the fitted classifier as a folder of safe files, whole or not at all.

        Parameters
        ----------
        path : path
            The folder to make. One that holds a model is replaced; one that holds anything else is refused.

        Raises
        ------
        InputError
            If the folder cannot be written, or a parameter cannot be saved as data.
        """
        check_is_fitted(self)
        save_classifier(self, path)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike,
        *,
        backbone: nn.Module | Callable[..., nn.Module] | None = None,
        device: str | torch.device = "auto",
    ) -> MultiLabelImageClassifier:
        """Read a classifier that `save` wrote; the folder cannot make this run any code.

        Parameters
        ----------
        path : path
        backbone : Module or callable, default=None
            The network of your own that the model was trained with, or the class or function that makes it.
        device : str, default="auto"
            Where to predict.

        Returns
        -------
        classifier : MultiLabelImageClassifier
            Fitted. With ``set_params(warm_start=True)`` a further fit goes on from here.

        Raises
        ------
        ModelFileError
            If the folder is missing, damaged or made by a newer version.
        InputError
            If `backbone` is missing or not wanted, or there is no such device.
        """
        return load_classifier(cls, path, backbone=backbone, device=device)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.classifier_tags.multi_class = False
        tags.target_tags.multi_output = True
        tags.target_tags.two_d_labels = True
        tags.target_tags.single_output = False
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        return tags


def _decide(proba: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Apply the thresholds; rows of NaN stay, in float64."""
    bad = np.isnan(proba).any(axis=1)
    if not bad.any():
        return apply_thresholds(proba, thresholds)
    y_pred = np.full(proba.shape, np.nan)
    y_pred[~bad] = apply_thresholds(proba[~bad], thresholds)
    return y_pred
