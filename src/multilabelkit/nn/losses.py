"""Losses over logits and targets with unknown entries."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional
from torch.nn.functional import logsigmoid

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, shorten, suggest
from multilabelkit.class_names import join_first, list_names
from multilabelkit.errors import InputError

# Gives the loss of each cell (B, C), of each image whose cells are all known (B, 1) or of which any is (B,), or of the
# batch (), from logits, targets without NaN and class weights of shape (C,) or None.
_Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def binary_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, sample_weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean binary cross-entropy over the known entries, in fp32.

    Parameters
    ----------
    logits : tensor of shape (B, C)
    targets : tensor of shape (B, C)
        1 present, 0 absent, NaN unknown.
    sample_weight : tensor of shape (B,), optional
        What the loss of each image is multiplied by. Weights are taken as they are: with a mean of 1 over all images
        of a training, an image of weight 2 counts in it as if it were there twice.

    Returns
    -------
    loss : tensor of shape ()
        Sum of the weighted losses of the known entries over their number; 0 where nothing is known.

    Examples
    --------
    >>> logits = torch.zeros(1, 2)
    >>> binary_cross_entropy(logits, torch.tensor([[1.0, float("nan")]]))
    tensor(0.6931)
    """
    # NaN must go before the loss: NaN * 0 is NaN, in the gradient too.
    values = _compute_bce(logits.float(), targets.nan_to_num(), None)
    return _average(values, ~targets.isnan(), sample_weight)


def _average(values: torch.Tensor, known: torch.Tensor, sample_weight: torch.Tensor | None) -> torch.Tensor:
    """Return the mean of the known values (B, C) or (B, 1), each times its weight; 0 if there is none."""
    # Note: not divided by the weights of the batch. In a batch of one image they would cancel out.
    weights = known.float() if sample_weight is None else known * sample_weight[:, None]
    return (values * weights).sum() / known.sum().clamp_min(1)


class Loss(nn.Module):
    """A loss averaged over what is known; made by `create_loss`.

    Move it to the device of the logits with ``to``, which takes class weights and the tensors of an own module along.

    Parameters
    ----------
    compute : callable
        Gives the loss of each cell or image from logits in fp32, targets without NaN, and the class weights.
    class_weight : ndarray of shape (n_classes,), optional
    missing_labels : {"ignore", "negative"}
        Whether unknown cells are left out or count as absent.
    """

    class_weight: torch.Tensor | None

    def __init__(
        self, compute: _Compute, *, class_weight: np.ndarray | None = None, missing_labels: str = "ignore"
    ) -> None:
        super().__init__()
        weight = None if class_weight is None else torch.tensor(class_weight, dtype=torch.float32)
        self.register_buffer("class_weight", weight)
        self.compute = compute
        self.missing_labels = missing_labels

    def forward(
        self, logits: torch.Tensor, targets: torch.Tensor, sample_weight: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the mean loss, a tensor of shape (), of logits (B, C), targets (B, C) and weights (B,)."""
        if self.missing_labels == "negative":
            targets = targets.nan_to_num()
        known = ~targets.isnan()
        weight = None if self.class_weight is None else self.class_weight.to(logits.device)
        values = self.compute(logits.float(), targets.nan_to_num().float(), weight)
        if values.ndim == 0:
            _check_scalar(known, sample_weight)
            return values
        if values.ndim == 1:
            values, known = values[:, None], known.any(dim=1, keepdim=True)  # (B, 1)
        elif values.shape != known.shape:
            known = known.all(dim=1, keepdim=True)  # (B, 1)
        return _average(values, known, sample_weight)


def create_loss(
    loss: str | Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    loss_params: Mapping[str, Any] | None = None,
    class_weight: np.ndarray | None = None,
    missing_labels: str = "ignore",
) -> Loss:
    """Create a loss by name, or make one of the caller's own fit for unknown labels and weights.

    Every named loss is computed in fp32 and averaged over the known cells, so that the right learning rate depends
    neither on the batch size nor on how much is known. Sample weights are taken as they are, so that an image counts
    alike in every batch; with a mean of 1 over the training they leave the learning rate alone, too. Targets may be any
    number from 0 to 1: a cell with target y costs y times what a present label costs plus 1 - y times what an absent
    one does.

    Parameters
    ----------
    loss : {"bce", "focal", "asymmetric", "cross_entropy"} or callable
        "bce" is binary cross-entropy. "focal" [1]_ makes cells count less that are right already. "asymmetric" [2]_
        does so more strongly for absent labels, and drops those below a margin; its outputs are no probabilities
        before they are calibrated, nor is 0.5 a good threshold for them. "cross_entropy" is softmax cross-entropy for
        classes that exclude each other: a row of targets sums to 1, and one with NaN is left out.

        A callable takes logits and targets (B, C), unknown ones as 0, and returns one of three. Of one value per cell
        (B, C), those of known labels are averaged. Of one value per image (B,), such as
        ``nn.CrossEntropyLoss(reduction="none")`` gives, those of images with any known label are averaged. A single
        value for the batch is taken as it is, and so leaves no way to unknown labels and weights. A module is copied.
    loss_params : dict, default=None
        "bce" takes `label_smoothing` (0): that share of each target is replaced by 1/2.
        "cross_entropy" takes `label_smoothing` (0): that share of each target is spread evenly over the classes.
        "focal" takes `gamma` (2), the strength, and `alpha` (0.25), the weight of present against 1 - alpha for absent
        labels; None weighs both by 1.
        "asymmetric" takes `gamma_neg` (4), `gamma_pos` (1) and `margin` (0.05), a probability.
    class_weight : ndarray of shape (n_classes,), default=None
        Multiplies what present labels of a class cost; see `compute_class_weight`. The mean is not divided by it. Of
        losses of your own, only one with a value per cell takes it.
    missing_labels : {"ignore", "negative"}, default="ignore"
        What unknown (NaN) targets are: left out, or absent (not with "cross_entropy").

    Returns
    -------
    loss : Loss
        Called with logits, targets and, optionally, sample_weight (B,); returns a tensor of shape (), 0 where nothing
        is known.

    Raises
    ------
    InputError
        If a name, keyword or value is not allowed; and, when called, if an own loss returns another shape, a single
        value where labels are unknown or weighted, or no value per cell where classes are.

    References
    ----------
    .. [1] T.-Y. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    .. [2] T. Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021.

    Examples
    --------
    >>> loss = create_loss("focal", loss_params={"gamma": 1, "alpha": None})
    >>> loss(torch.zeros(1, 2), torch.tensor([[1.0, float("nan")]]))
    tensor(0.3466)
    """
    given = {"loss": loss, "loss_params": loss_params, "missing_labels": missing_labels}
    check_parameters("create_loss", given, _PARAMETERS)
    if not isinstance(loss, str):
        if loss_params:
            raise InputError(
                f"loss_params must be None with a loss of your own. Got {shorten(loss_params)}; "
                "bind its parameters with functools.partial."
            )
        own = copy.deepcopy(loss) if isinstance(loss, nn.Module) else loss
        return Loss(_OwnLoss(own), class_weight=class_weight, missing_labels=missing_labels)
    if loss == "cross_entropy" and missing_labels == "negative":
        raise InputError(
            "The 'missing_labels' parameter must be 'ignore' with loss='cross_entropy': where classes exclude each "
            "other, an image without a known class cannot count as absent from all of them. Got 'negative' instead."
        )
    params = dict(loss_params or {})
    _check_loss_params(loss, params)
    return Loss(partial(_LOSSES[loss], **params), class_weight=class_weight, missing_labels=missing_labels)


def _compute_bce(logits, targets, class_weight, label_smoothing=0.0):
    if label_smoothing:
        targets = targets * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=class_weight, reduction="none")


def _compute_focal(logits, targets, class_weight, gamma=2.0, alpha=0.25):
    # Powers are taken as exponentials of logarithms: the gradient of 0 ** gamma is infinite for gamma < 1.
    present = -logsigmoid(logits) * torch.exp(gamma * logsigmoid(-logits))
    absent = -logsigmoid(-logits) * torch.exp(gamma * logsigmoid(logits))
    if alpha is not None:
        present, absent = alpha * present, (1 - alpha) * absent
    return _blend_terms(present, absent, targets, class_weight)


def _compute_asymmetric(logits, targets, class_weight, gamma_neg=4.0, gamma_pos=1.0, margin=0.05):
    present = -logsigmoid(logits) * torch.exp(gamma_pos * logsigmoid(-logits))
    # The logarithm of 1 - max(p - margin, 0), without the cancellation of 1 - p for p near 1.
    log_margin = torch.full((), math.log(margin) if margin else -math.inf, device=logits.device)
    log_absent = torch.logaddexp(logsigmoid(-logits), log_margin).clamp_max(0)
    shifted = (-torch.expm1(log_absent)).clamp_min(torch.finfo(torch.float32).tiny)
    return _blend_terms(present, -log_absent * shifted**gamma_neg, targets, class_weight)


def _compute_cross_entropy(logits, targets, class_weight, label_smoothing=0.0):
    values = functional.cross_entropy(
        logits, targets, weight=class_weight, label_smoothing=label_smoothing, reduction="none"
    )
    return values[:, None]  # (B, 1)


def _blend_terms(present, absent, targets, class_weight):
    if class_weight is not None:
        present = present * class_weight
    return targets * present + (1 - targets) * absent


class _OwnLoss(nn.Module):
    """A loss of the caller's, its result checked and its present labels weighted."""

    def __init__(self, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, targets: torch.Tensor, class_weight: torch.Tensor | None) -> torch.Tensor:
        """Return values of shape (B, C), or (B,) or () where no class is to be weighted."""
        values = self.loss(logits, targets)
        shape = tuple(values.shape) if isinstance(values, torch.Tensor) else None
        cells = tuple(logits.shape)
        if shape not in ((), cells[:1], cells):
            found = f"the shape {shape}" if shape is not None else f"the {type(values).__name__} {shorten(values)}"
            raise InputError(
                f"A loss of your own must return a tensor with one value per cell, here of shape {cells}, one value "
                f"per image, here of shape {cells[:1]}, or a single value. Got {found}."
            )
        if class_weight is None:
            return values.float()
        if shape != cells:
            returned = "a single value" if shape == () else "one value per image"
            raise InputError(
                f"A loss of your own that returns {returned} cannot be combined with class_weight. Return one value "
                "per cell, of the shape of the logits, instead, or leave class_weight out."
            )
        return values.float() * (1 + (class_weight - 1) * targets)


def _check_scalar(known: torch.Tensor, sample_weight: torch.Tensor | None) -> None:
    """Refuse a single value for the batch where its cells do not all count alike."""
    n_unknown = int((~known).sum())
    if sample_weight is None and not n_unknown:
        return
    reason = f"{n_unknown} of {known.numel()} labels of a batch are unknown" if n_unknown else "sample_weight is used"
    raise InputError(
        f"A loss of your own that returns a single value cannot be used where {reason}. Return one value per cell or "
        "per image instead, as torch's losses do with reduction='none'; what is unknown is then left out."
    )


_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "bce": _compute_bce,
    "focal": _compute_focal,
    "asymmetric": _compute_asymmetric,
    "cross_entropy": _compute_cross_entropy,
}
_LOSS_PARAMS: dict[str, dict[str, list[Constraint]]] = {
    "bce": {"label_smoothing": [Interval(float, 0, 1, open_high=True)]},
    "focal": {
        "gamma": [Interval(float, 0)],
        "alpha": [Interval(float, 0, 1, open_low=True, open_high=True), Choice((None,))],
    },
    "asymmetric": {
        "gamma_neg": [Interval(float, 0)],
        "gamma_pos": [Interval(float, 0)],
        "margin": [Interval(float, 0, 1, open_high=True)],
    },
    "cross_entropy": {"label_smoothing": [Interval(float, 0, 1, open_high=True)]},
}
_PARAMETERS: dict[str, list[Constraint]] = {
    "loss": [
        Choice(tuple(_LOSSES)),
        Check(lambda v: callable(v) and not isinstance(v, type), "a callable of logits and targets (not a class)"),
    ],
    "loss_params": [Check(lambda v: v is None or isinstance(v, Mapping), "None or a dict")],
    "missing_labels": [Choice(("ignore", "negative"))],
}


def _check_loss_params(loss: str, params: Mapping[str, Any]) -> None:
    """Refuse keywords that the loss does not have, and values out of their range."""
    table = _LOSS_PARAMS[loss]
    unknown = [name for name in params if name not in table]
    if unknown:
        raise InputError(
            f"loss_params must not hold {unknown[0]!r} with loss={loss!r}.{suggest(str(unknown[0]), table)} "
            f"Allowed: {', '.join(map(repr, table))}."
        )
    check_parameters(f"loss={loss!r}", params, {name: table[name] for name in params})


def compute_class_weight(
    class_weight: Any,
    targets: np.ndarray,
    *,
    classes: Sequence[Any] | np.ndarray,
    exclusive: bool = False,
    cap: float = 10.0,
) -> np.ndarray | None:
    """Turn the `class_weight` parameter into one number per class, by which its present labels count more.

    Parameters
    ----------
    class_weight : None, "balanced", dict or Series by class, or array-like of shape (n_classes,)
        None weighs nothing. "balanced" is n_absent / n_present of the known labels of a class, from 1 to `cap`; a
        class that is present in no image keeps 1, as there is nothing to make up for. Given weights are positive
        and taken as they are; a class that a dict leaves out keeps 1.
    targets : ndarray of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown.
    classes : sequence of shape (n_classes,)
        The names of the classes, in order.
    exclusive : bool, default=False
        Whether each image has one class. "balanced" is then n_samples / (n_classes * n_present), as in scikit-learn,
        of the images and classes that are there, from 1 / `cap` to `cap`.
    cap : float, default=10.0
        Bound on the balanced weights: larger ones make the training jump after single images.

    Returns
    -------
    weight : ndarray of shape (n_classes,) or None
        float64.

    Raises
    ------
    InputError
        If the weights are of the wrong kind or number, not positive, or name an unknown class.

    Examples
    --------
    >>> targets = np.array([[1, 0], [0, 0], [0, 0], [0, np.nan]])
    >>> compute_class_weight("balanced", targets, classes=["sea", "trees"])
    array([3., 1.])
    >>> compute_class_weight({"trees": 2}, targets, classes=["sea", "trees"])
    array([1., 2.])
    """
    check_parameters("compute_class_weight", {"cap": cap}, {"cap": [Interval(float, 1)]})
    if class_weight is None:
        return None
    names = list_names(classes)
    if isinstance(class_weight, str) and class_weight == "balanced":
        return _balance_exclusive(targets, cap) if exclusive else _balance(targets, cap)
    if isinstance(class_weight, (Mapping, pd.Series)):
        class_weight = _order_by_class(dict(class_weight.items()), names)
    return _check_weights(class_weight, names)


def _balance(targets: np.ndarray, cap: float) -> np.ndarray:
    n_present = np.nansum(targets, axis=0)
    n_absent = (~np.isnan(targets)).sum(axis=0) - n_present
    return np.where(n_present > 0, np.clip(n_absent / np.maximum(n_present, 1), 1, cap), 1.0)


def _balance_exclusive(targets: np.ndarray, cap: float) -> np.ndarray:
    n_present = np.nansum(targets, axis=0)
    fair = n_present.sum() / max(np.count_nonzero(n_present), 1)  # images of each class, were all alike
    return np.where(n_present > 0, np.clip(fair / np.maximum(n_present, 1), 1 / cap, cap), 1.0)


def _order_by_class(weights: dict[Any, Any], names: list[Any]) -> list[Any]:
    """Return the values of a dict in the order of the classes, 1 for those that it leaves out."""
    unknown = [name for name in list_names(list(weights)) if name not in set(names)]
    if unknown:
        hint = suggest(str(unknown[0]), map(str, names))
        raise InputError(f"class_weight names unknown classes: {join_first([*map(repr, unknown)])}.{hint}")
    return [weights.get(name, 1) for name in names]


def _check_weights(weights: Any, names: list[Any]) -> np.ndarray:
    """Return given weights as an array, one positive number per class."""
    values = weights.tolist() if isinstance(weights, np.ndarray) else weights
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise InputError(
            "class_weight must be None, 'balanced', a dict by class, or one number per class. "
            f"Got {shorten(weights)} instead."
        )
    if len(values) != len(names):
        raise InputError(f"class_weight must hold one number for each of {len(names)} classes. Got {len(values)}.")
    allowed = Interval(float, 0, open_low=True)
    for name, value in zip(names, list_names(values), strict=True):
        if not allowed.accepts(value):
            raise InputError(f"A class_weight must be {allowed.describe()}. Got {shorten(value)} for class {name!r}.")
    return np.array(values, dtype=np.float64)
