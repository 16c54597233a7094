"""What both image classifiers can do: fit, give scores, grow, describe themselves, save and load."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import check_is_fitted
from torch import nn

from multilabelkit.errors import InputError
from multilabelkit.fitting import fit_classifier, try_learning_rates
from multilabelkit.nn.summary import summarize_network
from multilabelkit.parameters import BaseImageClassifier
from multilabelkit.prediction import compute_logits
from multilabelkit.saving import load_classifier, save_classifier
from multilabelkit.training.lr_finder import LearningRateCurve
from multilabelkit.training.sklearn_callbacks import with_callbacks

if TYPE_CHECKING:
    from sklearn.utils import Tags

Estimator = TypeVar("Estimator", bound="ImageEstimator")


class ImageEstimator(BaseImageClassifier):
    """The methods that image classifiers share."""

    @with_callbacks
    def fit(
        self: Estimator,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        groups: Any = None,
        validation_data: tuple[Any, Any] | None = None,
    ) -> Estimator:
        """Train the network, and choose on images set aside what is chosen after training.

        Parameters
        ----------
        X : sequence of n_samples paths, URLs, encoded bytes, PIL images, arrays or tensors
            Arrays are (H, W) or (H, W, 1|3|4): uint8, uint16, bool, or float in [0, 1]; tensors may have the channels
            first. An array (n_samples, H, W[, C]) or a pandas column works too.
        y : labels of n_samples images
            For `MultiLabelImageClassifier` a list of label lists, sets, strings or dicts, or a table of 0/1, -1/+1,
            with NaN for unknown; see :func:`multilabelkit.as_indicator`. For `ImageClassifier` one class name an image.
        sample_weight : array-like of shape (n_samples,), default=None
            How much each image counts in the training loss.
        groups : array-like of shape (n_samples,), default=None
            Images of one group (a patient, a video) all go to training or all to validation. Without a validation part
            of X, they have no effect.
        validation_data : (X, y), default=None
            Images to use in place of the validation part of X.

        Returns
        -------
        self : object

        Raises
        ------
        InputError
            If a parameter, an image or a label cannot be used; ``ImageDecodeError`` lists every bad image.
        MultiLabelKitError
            If the training diverges in its first epoch, or a batch does not fit in memory.
        KeyboardInterrupt
            On Ctrl-C. After the first epoch the classifier is fitted with the best weights so far; before that, it is
            as it was.
        """
        fit_classifier(self, X, y, sample_weight=sample_weight, groups=groups, validation_data=validation_data)
        return self

    def find_learning_rate(
        self, X: Any, y: Any, *, sample_weight: Any = None, n_steps: int | None = None
    ) -> LearningRateCurve:
        """Try rising learning rates for some batches, as `fit` would train them, and suggest one.

        Nothing is kept: the classifier stays as it is. ``learning_rate="auto"`` does the same within `fit`.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        n_steps : int, default=None
            How many batches to try. None: two epochs of them, but 30 to 100.

        Returns
        -------
        curve : LearningRateCurve
            With ``learning_rates``, ``losses``, ``suggestion``;
            :func:`multilabelkit.inspection.plot_learning_rates` draws it.
        """
        return try_learning_rates(self, X, y, sample_weight=sample_weight, n_steps=n_steps)

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
            One row per image, in order. Rows sum to 1 only where the classes exclude each other (`ImageClassifier`).
        """
        check_is_fitted(self)
        return self._task.to_proba(compute_logits(self, X))

    def add_classes(self: Estimator, names: Sequence) -> Estimator:
        """Add classes to a fitted classifier, which keeps what it has learnt of the others.

        The new ones come last in ``classes_`` and are predicted for next to nothing, until a further `fit` with
        ``warm_start=True`` on images that show them.

        Parameters
        ----------
        names : sequence of str or int
            The new classes, of the type of the old.

        Returns
        -------
        self : object

        Raises
        ------
        InputError
            If a class is there already, or the network gives the scores itself (head=None).
        """
        check_is_fitted(self)
        classes = _join_classes(self.classes_, names)
        if self.network_.head is None:
            raise InputError("With head=None the classes are your network's own outputs; add them there, and fit anew.")
        n_new = len(classes) - len(self.classes_)
        device = next(self.network_.parameters()).device
        head = self.network_.head.grow(n_new, seed=self.split_seed_ + len(classes))  # type: ignore[operator]
        self.network_.head = head.to(device).eval()
        self._set_classes(classes)
        return self

    def summary(self) -> pd.DataFrame:
        """Return a table of the network's layers: name, kind, output shape, number of parameters, trainable or not.

        Shapes have None for the number of images. ``n_params`` sums to the size of the whole network.
        """
        check_is_fitted(self)
        return summarize_network(self.network_, self.input_spec_)

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
        cls: type[Estimator],
        path: str | os.PathLike,
        *,
        backbone: nn.Module | Callable[..., nn.Module] | None = None,
        device: str | torch.device = "auto",
    ) -> Estimator:
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
        classifier : object
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
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.non_deterministic = self.random_state is None
        return tags


def _join_classes(classes: np.ndarray, names: Any) -> list:
    """Return the old classes and the new ones, or refuse these."""
    if isinstance(names, (str, bytes)):
        raise InputError(f"add_classes takes a list of names. Got the single string {names!r}; pass [{names!r}].")
    new, old = list(names), classes.tolist()
    if not new:
        raise InputError("add_classes was given no name; pass at least one.")
    kind = type(old[0])
    for place, name in enumerate(new):
        if not isinstance(name, kind) or isinstance(name, bool):
            raise InputError(
                f"The classes are of type {kind.__name__}, and so must new ones be. Got {name!r} in add_classes."
            )
        if name in old or name in new[:place]:
            raise InputError(f"The class {name!r} is there already; name each new class once.")
    return old + new
