"""What moves the weights: parameter groups, the optimiser and its schedule."""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Mapping
from typing import Any

import timm.optim
import torch
from torch import nn

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, shorten, suggest
from multilabelkit.errors import InputError
from multilabelkit.nn.freezing import list_layers
from multilabelkit.nn.network import Network

# Torch's own, with our defaults. A fused kernel makes one pass over the weights instead of a dozen; on a CPU AdamW's
# saves a tenth of a step. Note: that of SGD fails (torch 2.15) once layers are opened that had no gradient before.
_TORCH: dict[str, tuple[type, dict[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"fused": True}),
    "adam": (torch.optim.Adam, {"fused": True}),
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "rmsprop": (torch.optim.RMSprop, {}),
}
_OWN_ARGUMENTS = {"lr": "learning_rate", "weight_decay": "weight_decay"}
# What optimisers raise where a keyword has a wrong value, some of them only in their first step.
_VALUE_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_OPTIMIZER_ERRORS = (*_VALUE_ERRORS, AssertionError, ImportError, RuntimeError)


def check_optimizer(
    optimizer: str | type[torch.optim.Optimizer],
    optimizer_params: Mapping[str, Any] | None = None,
    *,
    device: str | torch.device = "cpu",
) -> None:
    """Refuse an optimiser that is unknown, does not take its keywords or cannot take a step, before any work is done.

    Parameters
    ----------
    optimizer, optimizer_params
        As for `create_optimizer`.
    device : str or device, default="cpu"
        Where it will work: some optimisers and keywords serve GPUs alone.

    Raises
    ------
    InputError
        Names the keyword or the reason, and what would work.

    Examples
    --------
    >>> check_optimizer("sgd", {"momentun": 0.8})
    Traceback (most recent call last):
    multilabelkit.errors.InputError: The optimizer 'sgd' takes no keyword 'momentun'. Did you mean 'momentum'? ...
    """
    kind, _ = _find_optimizer(optimizer)
    params = dict(optimizer_params or {})
    name = f"The optimizer {(optimizer if isinstance(optimizer, str) else kind.__name__)!r}"
    closure = inspect.signature(kind.step).parameters.get("closure")  # type: ignore[attr-defined]
    if closure is not None and closure.default is closure.empty:  # as in LBFGS
        raise InputError(f"{name} needs a closure, which training here does not give it. Choose another one.")
    for key, ours in _OWN_ARGUMENTS.items():
        if key in params:
            raise InputError(f"optimizer_params must not hold {key!r}: pass it as the {ours!r} parameter.")
    signature = inspect.signature(kind).parameters
    known = [key for key in signature if key not in ("params", *_OWN_ARGUMENTS)]
    unknown = [key for key in params if key not in known]
    if unknown and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.values()):
        raise InputError(
            f"{name} takes no keyword {unknown[0]!r}.{suggest(str(unknown[0]), known)} "
            f"optimizer_params may hold {', '.join(known)}."
        )
    try:
        _try_step(optimizer, params, device)
    except _OPTIMIZER_ERRORS as error:
        raise InputError(
            f"{name} cannot be used with optimizer_params={shorten(params)}: "
            f"{str(error).rstrip('.') or type(error).__name__}. Correct them, or choose another optimizer."
        ) from error


def _try_step(optimizer: Any, params: Mapping[str, Any], device: str | torch.device) -> None:
    """Move a matrix and a vector, in groups of their own as in a network, by one step."""
    parameters = [nn.Parameter(torch.zeros(shape, device=device)) for shape in ((2, 2), (2,))]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    groups = [{"params": [parameter], "lr": 1e-3, "weight_decay": 0.0} for parameter in parameters]
    # A few of timm's optimisers compile their step, which takes half a minute; others draw random numbers.
    with torch.random.fork_rng(devices=[]), torch.compiler.set_stance("force_eager"):
        _build(optimizer, params, groups, learning_rate=1e-3).step()


def create_optimizer(
    network: Network,
    *,
    optimizer: str | type[torch.optim.Optimizer] = "adamw",
    optimizer_params: Mapping[str, Any] | None = None,
    learning_rate: float,
    backbone_lr_factor: float | tuple[float, float],
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Create an optimiser over all parameters of a network.

    The head learns at `learning_rate`, the stem (the first third of the backbone's layers) and the body (the others) at
    that times their factor. Vectors, which are biases and the scales of norms, are not decayed. Parameters that are
    frozen at the moment are included, as they may be opened later: without a gradient, an optimiser leaves them alone.

    Parameters
    ----------
    network : Network
    optimizer : str or class, default="adamw"
        "adamw", "adam", "sgd" (with Nesterov momentum of 0.9), "rmsprop" (as torch has them), any other name of
        ``timm.optim.list_optimizers()``, or a subclass of ``torch.optim.Optimizer``.
    optimizer_params : mapping, optional
        Its further keywords, such as ``{"momentum": 0.8}``.
    learning_rate : float
        Rate of the head.
    backbone_lr_factor : float or (float, float)
        Rate of the backbone, or of its stem and its body, as a multiple of `learning_rate`.
    weight_decay : float
        What the optimiser makes of it: "adamw" shrinks the weights themselves, "adam" and "sgd" add it to the gradient,
        where values around 1e-4 are usual.

    Returns
    -------
    optimizer : Optimizer
        Its groups are named "stem", "body" and "head", with " undecayed" added for the vectors; the head is last.

    Raises
    ------
    InputError
        As for `check_optimizer`.

    Examples
    --------
    >>> network = Network(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)), nn.Linear(8, 2))
    >>> optimizer = create_optimizer(network, learning_rate=0.1, backbone_lr_factor=(0.1, 0.5), weight_decay=0.05)
    >>> [(group["name"], group["lr"]) for group in optimizer.param_groups if group["weight_decay"]]
    [('stem', 0.01), ('body', 0.05), ('head', 0.1)]
    """
    check_optimizer(optimizer, optimizer_params, device=next(network.parameters()).device)
    groups = []
    for name, factor, parameters in _split_parameters(network, backbone_lr_factor):
        for label, decay, is_vector in ((name, weight_decay, False), (f"{name} undecayed", 0.0, True)):
            part = [parameter for parameter in parameters if (parameter.ndim <= 1) == is_vector]
            if part:
                groups.append({"params": part, "lr": learning_rate * factor, "weight_decay": decay, "name": label})
    return _build(optimizer, optimizer_params or {}, groups, learning_rate=learning_rate)


def _split_parameters(network: Network, factors: float | tuple[float, float]) -> list[tuple[str, float, list]]:
    """Return (name, factor, parameters) of stem, body and head."""
    stem_factor, body_factor = factors if isinstance(factors, (tuple, list)) else (factors, factors)
    layers = list_layers(network.backbone)
    n_stem = round(len(layers) / 3)
    stem, body = ([p for layer in part for p in layer.parameters] for part in (layers[:n_stem], layers[n_stem:]))
    head = [] if network.head is None else list(network.head.parameters())
    return [("stem", stem_factor, stem), ("body", body_factor, body), ("head", 1.0, head)]


def _find_optimizer(optimizer: Any) -> tuple[type, dict[str, Any]]:
    """Return the class of an optimiser and its defaults here."""
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        return optimizer, {}
    if isinstance(optimizer, str) and optimizer in _TORCH:
        return _TORCH[optimizer]
    known = [str(name) for name in timm.optim.list_optimizers()]
    if not isinstance(optimizer, str) or optimizer not in known:
        near = suggest(optimizer, known) if isinstance(optimizer, str) else ""
        raise InputError(
            f"The optimizer {shorten(optimizer)} is unknown.{near} Use 'adamw', 'adam', 'sgd', 'rmsprop', a name from "
            "timm.optim.list_optimizers(), or a class of torch.optim."
        )
    info = timm.optim.get_optimizer_info(optimizer)
    if info.second_order:
        needs = "needs second derivatives, which training here does not compute"
        raise InputError(f"The optimizer {optimizer!r} {needs}. Choose another one.")
    try:
        kind: Any = timm.optim.get_optimizer_class(optimizer, bind_defaults=False)
    except (AssertionError, ImportError) as error:  # those of apex and bitsandbytes
        raise InputError(f"The optimizer {optimizer!r} cannot be used here: {error}. Choose another one.") from error
    # Note: timm gives every optimiser that knows momentum one of 0.9, whatever the default of its class.
    return kind, ({"momentum": 0.9} if info.has_momentum else {}) | (info.defaults or {})


def _build(optimizer: Any, params: Mapping, groups: list[dict], *, learning_rate: float) -> torch.optim.Optimizer:
    kind, defaults = _find_optimizer(optimizer)
    keywords = {**defaults, **params}
    if params.get("momentum") == 0 and "nesterov" not in params:
        keywords.pop("nesterov", None)  # torch refuses Nesterov's without momentum
    if "lr" in inspect.signature(kind).parameters:
        keywords["lr"] = learning_rate
    return kind(groups, **keywords)


_SHARE, _COUNT = Interval(float, 0, 1, open_low=True, open_high=True), Interval(int, 1)
_WARMUP: dict[str, tuple[Any, Constraint]] = {"warmup_epochs": (0.0, Interval(float, 0))}
_RISING = Check(lambda value: _is_rising(value), "a list of integers >= 1 in rising order")
# The keywords of each schedule: their defaults, and what they may be.
_SCHEDULES: dict[str, dict[str, tuple[Any, Constraint]]] = {
    "one_cycle": {"pct_start": (0.25, _SHARE)},
    "cosine": {"final_factor": (0.0, Interval(float, 0, 1)), **_WARMUP},
    "step": {"step_epochs": (None, _COUNT), "milestones": (None, _RISING), "factor": (0.1, _SHARE), **_WARMUP},
    "exponential": {"factor": (0.9, _SHARE), **_WARMUP},
    "plateau": {"factor": (0.1, _SHARE), "patience": (3, _COUNT), **_WARMUP},
    "constant": _WARMUP,
}


def check_schedule(schedule: str, schedule_params: Mapping[str, Any] | None = None, *, max_epochs: int) -> None:
    """Refuse a schedule that is unknown, does not take its keywords, or does not fit into a training.

    Parameters
    ----------
    schedule, schedule_params
        As for `create_schedule`.
    max_epochs : int
        How many epochs are planned.

    Raises
    ------
    InputError
        Names the keyword and what would work.

    Examples
    --------
    >>> check_schedule("cosine", {"warmup_epochs": 20}, max_epochs=12)
    Traceback (most recent call last):
    multilabelkit.errors.InputError: The warm-up of 20 epochs would fill the whole training ...
    """
    if not isinstance(schedule, str) or schedule not in _SCHEDULES:
        near = suggest(schedule, _SCHEDULES) if isinstance(schedule, str) else ""
        raise InputError(
            f"The schedule {shorten(schedule)} is unknown.{near} Use {Choice(tuple(_SCHEDULES)).describe()}."
        )
    params, table = dict(schedule_params or {}), _SCHEDULES[schedule]
    unknown = [key for key in params if key not in table]
    if unknown:
        why = ": it warms up by itself" if (schedule, unknown[0]) == ("one_cycle", "warmup_epochs") else ""
        raise InputError(
            f"The schedule {schedule!r} takes no keyword {unknown[0]!r}{why}.{suggest(str(unknown[0]), table)} "
            f"schedule_params may hold {', '.join(table)}."
        )
    check_parameters(f"the schedule {schedule!r}", params, {key: [table[key][1]] for key in params})
    _check_epochs(schedule, params, max_epochs)


def _check_epochs(schedule: str, params: Mapping[str, Any], max_epochs: int) -> None:
    warmup = params.get("warmup_epochs", 0)
    if warmup >= max_epochs:
        raise InputError(
            f"The warm-up of {warmup:g} epochs would fill the whole training (max_epochs={max_epochs}). "
            "Make warmup_epochs shorter, or raise max_epochs."
        )
    if schedule == "step" and ("step_epochs" in params) == ("milestones" in params):
        raise InputError(
            "The schedule 'step' must be told when the rate falls, in one way. Pass as schedule_params either "
            "{'step_epochs': 4} (after every 4 epochs) or {'milestones': [6, 9]} (after 6 and after 9)."
        )
    last = params["milestones"][-1] if "milestones" in params else params.get("step_epochs", 0)
    if last >= max_epochs:
        raise InputError(
            f"The schedule 'step' lowers the rate after {last} epochs, when the training is over "
            f"(max_epochs={max_epochs}). Lower it sooner, or raise max_epochs."
        )


def _is_rising(value: Any) -> bool:
    whole = isinstance(value, (list, tuple)) and all(map(_COUNT.accepts, value))
    return whole and len(value) > 0 and all(map(operator.lt, value, value[1:]))


class Schedule:
    """Moves the rates of an optimiser's groups, which keep their ratios; made by `create_schedule`."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, *, schedule: str, params: Mapping[str, Any], n_steps: int, n_epochs: int
    ) -> None:
        self._optimizer = optimizer
        self._schedule, self._params = schedule, params
        self._n_steps, self._n_epochs = n_steps, n_epochs
        self._rates = [group["lr"] for group in optimizer.param_groups]
        momenta = [(group.get("betas") or [group.get("momentum")])[0] for group in optimizer.param_groups]
        self._cycles_momentum = schedule == "one_cycle" and set(momenta) == {0.9}  # another was chosen by the caller
        self._step = 0
        self._reduction, self._best, self._n_waited = 1.0, -math.inf, 0
        self._apply()

    def step(self) -> None:
        """Go on to the rates of the next step."""
        self._step += 1
        self._apply()

    def end_epoch(self, score: float) -> None:
        """Hear how good an epoch was, higher being better; only "plateau" listens."""
        if self._schedule == "plateau":
            self._n_waited = 0 if score > self._best else self._n_waited + 1
            self._best = max(self._best, score)
            if self._n_waited >= self._params["patience"]:
                self._reduction, self._n_waited = self._reduction * self._params["factor"], 0
                self._apply()

    def get_last_lr(self) -> list[float]:
        """Return the present rate of each group; the last is the head's."""
        return [group["lr"] for group in self._optimizer.param_groups]

    def _apply(self) -> None:
        if self._schedule == "one_cycle":
            factor, momentum = _find_cycle(self._step, self._n_steps, self._params["pct_start"])
        else:
            factor = _find_factor(self._schedule, self._params, self._step, self._n_steps, self._n_epochs)
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor * self._reduction
            if self._cycles_momentum:
                group |= {"betas": (momentum, *group["betas"][1:])} if group.get("betas") else {"momentum": momentum}


def create_schedule(
    optimizer: torch.optim.Optimizer,
    *,
    schedule: str = "one_cycle",
    schedule_params: Mapping[str, Any] | None = None,
    n_steps: int,
    n_epochs: int,
) -> Schedule:
    """Create a schedule, and set the rates of the first step.

    Parameters
    ----------
    optimizer : Optimizer
        The rates of its groups are those that the schedule starts from (peaks at, for "one_cycle").
    schedule : str, default="one_cycle"
        - "one_cycle" (Smith and Topin, 2019): from a 25th up to the rate in the first quarter (`pct_start`) of the
          steps, then down to nothing; a momentum of 0.9 goes from 0.95 down to 0.85 and back, another stays as it is
        - "cosine": down to `final_factor` (0) of the rate
        - "step": times `factor` (0.1) after every `step_epochs`, or after each of `milestones` epochs
        - "exponential": times `factor` (0.9) after every epoch
        - "plateau": times `factor` (0.1) after `patience` (3) epochs in a row without a new best score
        - "constant"
    schedule_params : mapping, optional
        The keywords named above. All but "one_cycle" take `warmup_epochs` (0) too, a number or a fraction of epochs
        over which the rate rises from a hundredth; "cosine" and "exponential" fall after it, "step" counts all epochs.
    n_steps, n_epochs : int
        Optimiser steps and epochs of the whole training.

    Returns
    -------
    schedule : Schedule

    Raises
    ------
    InputError
        As for `check_schedule`.

    Examples
    --------
    >>> optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    >>> params = {"step_epochs": 1}
    >>> schedule = create_schedule(optimizer, schedule="step", schedule_params=params, n_steps=4, n_epochs=2)
    >>> for _ in range(2):
    ...     optimizer.step()
    ...     schedule.step()
    >>> schedule.get_last_lr()
    [0.05]
    """
    check_schedule(schedule, schedule_params, max_epochs=n_epochs)
    defaults = {key: default for key, (default, _) in _SCHEDULES[schedule].items()}
    params = {**defaults, **(schedule_params or {})}
    return Schedule(optimizer, schedule=schedule, params=params, n_steps=n_steps, n_epochs=n_epochs)


def _find_cycle(step: int, n_steps: int, pct_start: float) -> tuple[float, float]:
    """Return factor and momentum of one-cycle before a step: two cosines that meet at the peak."""
    n_steps = max(n_steps, 5)  # fewer have no room for a rise and a fall; they are the first steps of five
    peak, last = max(0.0, pct_start * n_steps - 1), n_steps - 1
    progress = step / peak if step < peak else max(0.0, (last - step) / (last - peak))
    height, low = (1 - math.cos(math.pi * progress)) / 2, 1 / 25 if step < peak else 4e-6
    return low + (1 - low) * height, 0.95 - 0.1 * height


def _find_factor(schedule: str, params: Mapping[str, Any], step: int, n_steps: int, n_epochs: int) -> float:
    """Return what the rates are multiplied with before a step."""
    epoch = step * n_epochs // n_steps
    warmup = params["warmup_epochs"] * n_steps / n_epochs
    rise = 0.01 + 0.99 * step / warmup if step < warmup else 1.0
    if schedule == "cosine":
        progress = min(1.0, max(0.0, (step - warmup) / (n_steps - warmup)))
        return rise * (params["final_factor"] + (1 - params["final_factor"]) * (1 + math.cos(math.pi * progress)) / 2)
    if schedule == "step":
        milestones = params["milestones"] or range(params["step_epochs"], n_epochs, params["step_epochs"])
        return rise * params["factor"] ** sum(milestone <= epoch for milestone in milestones)
    if schedule == "exponential":
        return rise * params["factor"] ** max(0, epoch - int(params["warmup_epochs"]))
    return rise
