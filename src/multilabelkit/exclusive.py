"""Images in, one class out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from multilabelkit import metrics
from multilabelkit.data.exclusive_labels import ClassEncoder, create_encoder, encode_classes
from multilabelkit.data.images import check_images
from multilabelkit.errors import InputError
from multilabelkit.estimator import ImageEstimator
from multilabelkit.exclusive_report import ClassReport, class_report
from multilabelkit.prediction import compute_logits
from multilabelkit.preparation import check_same_length
from multilabelkit.training.evaluation import CLASSES


class ImageClassifier(ClassifierMixin, ImageEstimator):
    """Classify images whose classes exclude each other: each image has one.

    `fit` takes images and one class name per image, and fine-tunes a network under softmax cross-entropy. The
    parameters, the training and the files are those of `MultiLabelImageClassifier`, which carries any number of labels
    per image; here stands what differs.

    Parameters
    ----------
    backbone, image_size, color_mode, ... , callbacks
        See `MultiLabelImageClassifier`.
    classes : sequence of str or int, default=None
        All classes in the wanted order, also those without an image. None learns them from y, sorted; scikit-learn's
        scorers "neg_log_loss" and "roc_auc_ovr" take it that they are sorted.
    loss : {"auto", "cross_entropy"} or callable, default="auto"
        "auto" is cross-entropy. A callable takes logits and one-hot targets (B, C).
    loss_params : dict, default=None
        ``{"label_smoothing": 0.1}`` spreads that share of each target over the classes.
    class_weight : "balanced", dict, sequence or None, default=None
        Weight of the images of each class in the training loss. "balanced" is scikit-learn's, n_samples / (n_classes *
        n_images), between 1/10 and 10.
    monitor : str or callable, default="auto"
        A column of ``history_`` ("valid_accuracy", "valid_macro_f1", "valid_loss", "train_loss"), or a function of
        (one-hot y_true, proba). "auto" is "valid_accuracy", or "train_loss" without validation images.
    label_sep, thresholds, threshold_params, threshold_cv, calibration, rules : object
        Without effect: a name is taken as it is, and the class of the highest probability is predicted.
    missing_labels : {"ignore"}, default="ignore"
        Images of unknown class are left out of the loss. "negative" is refused: an image cannot be absent from all
        classes.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Their order is that of the columns of `predict_proba`.
    history_ : list of dict
        One row per epoch: training and validation loss, accuracy, macro-F1, learning rate, seconds.
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
    multilabelkit.MultiLabelImageClassifier : Any number of labels per image.

    Examples
    --------
    >>> from multilabelkit.datasets import make_shapes
    >>> shapes = make_shapes(200, random_state=0)
    >>> alone = shapes.target.sum(axis=1) == 1
    >>> images, names = shapes.images[alone], shapes.target[alone].idxmax(axis=1)
    >>> classifier = ImageClassifier("small_cnn", image_size=32, max_epochs=2, verbose=0, random_state=0)
    >>> classifier = classifier.fit(images, names)
    >>> classifier.classes_
    array(['circle', 'square', 'triangle'], dtype=object)
    >>> classifier.predict(images[:5]).shape
    (5,)
    """

    _task = CLASSES

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the logits, (n_samples, n_classes) float32; higher means the class is more likely.

        Of two classes it is, as everywhere in scikit-learn, the logit of the second alone, (n_samples,).
        """
        check_is_fitted(self)
        logits = compute_logits(self, X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probability of each class, (n_samples, n_classes) float32; each row sums to 1.

        With on_bad_image="nan", the row of an image that cannot be decoded is NaN.
        """
        check_is_fitted(self)
        return self._task.to_proba(compute_logits(self, X))

    def predict(self, X: Any) -> np.ndarray:
        """Return the name of the most probable class of each image, (n_samples,) of the type of ``classes_``.

        With on_bad_image="nan", and only if an image cannot be decoded, the result is an object array with None for it.
        """
        proba = self.predict_proba(X)
        bad = np.isnan(proba).any(axis=1)
        names = self.classes_[proba.argmax(axis=1)]
        if bad.any():
            names = names.astype(object)
            names[bad] = None
        return names

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy; images of unknown class are left out.

        Parameters
        ----------
        X : sequence of n_samples images
        y : sequence of n_samples class names
        sample_weight : array-like of shape (n_samples,), default=None
        """
        targets, proba = self._predict_known(X, y)
        y_pred = np.eye(len(self.classes_))[proba.argmax(axis=1)]
        return metrics.subset_accuracy(targets, y_pred, sample_weight=sample_weight)

    def evaluate(self, X: Any, y: Any) -> ClassReport:
        """Return a report, with the confusion matrix, of how well the classifier does on images of known class."""
        _, proba = self._predict_known(X, y)
        return class_report(y, self.classes_[proba.argmax(axis=1)], proba, classes=self.classes_)

    def _predict_known(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return targets and probabilities; all images must be sound: a score of some would not be honest."""
        check_is_fitted(self)
        targets, _ = self._encode_labels(y, classes=self.classes_)
        check_same_length(check_images(X), targets)
        return targets, self._task.to_proba(compute_logits(self, X, on_bad_image="raise"))

    def _encode_labels(self, y: Any, *, classes: Any) -> tuple[np.ndarray, ClassEncoder]:
        return encode_classes(y, classes=classes)

    def _decode_targets(self, targets: np.ndarray, encoder: ClassEncoder) -> np.ndarray:
        unknown = np.isnan(targets).any(axis=1)
        names = encoder.classes_[np.nan_to_num(targets).argmax(axis=1)]
        if unknown.any():
            names = names.astype(object)
            names[unknown] = None
        return names

    def _check_labels(self, classes: np.ndarray) -> None:
        if self.missing_labels == "negative":  # also with a loss of the caller's own, which would see rows of zeros
            raise InputError(
                "The 'missing_labels' parameter of ImageClassifier must be 'ignore': where classes exclude each other, "
                "an image without a known class cannot count as absent from all of them. Got 'negative' instead."
            )

    def _choose_decision(self, valid_targets, logits, encoder: ClassEncoder) -> dict[str, Any]:
        """Return the classes: the most probable one is predicted, and nothing is tuned."""
        return {"classes_": encoder.classes_}

    def _restore_decision(self, config: Mapping[str, Any], classes: list) -> None:
        self._set_classes(classes)

    def _set_classes(self, classes: list) -> None:
        self.classes_ = create_encoder(classes).classes_
