"""Which training images an epoch sees: those with rare labels more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from multilabelkit.checks import Check, Choice, Constraint, Interval, check_parameters, suggest
from multilabelkit.class_names import join_first, list_names
from multilabelkit.errors import InputError, warn

_SHARE = Interval(float, 0, 1, open_low=True, open_high=True)
_REPEAT = Interval(float, 1)
_SAMPLERS: dict[str, dict[str, list[Constraint]]] = {
    "repeat_factor": {"threshold": [_SHARE], "max_repeat": [_REPEAT]},
    "oversample": {
        "frequencies": [_SHARE, Check(lambda v: isinstance(v, Mapping) and len(v) > 0, "a dict by class")],
        "max_repeat": [_REPEAT],
    },
}
_PARAMETERS: dict[str, list[Constraint]] = {
    "sampler": [Choice((*_SAMPLERS, None))],
    "sampler_params": [Check(lambda v: v is None or isinstance(v, Mapping), "None or a dict")],
}
# Cost of a repeat against that of a shortfall: with the first, shares are met exactly; where they cannot be met, the
# second makes the minimum far easier to find.
_EXACT, _SOFT = 1e-11, 1e-5
_REACHED = 1e-5  # a shortfall below this is none
_MAX_STEPS, _MAX_ROUNDS = 100, 20
_MISSED = 0.99  # a share below this part of the wanted one is worth a warning


def compute_repeats(
    targets: np.ndarray,
    *,
    sampler: str | None,
    sampler_params: Mapping[str, Any] | None = None,
    classes: Sequence[Any] | np.ndarray,
) -> np.ndarray | None:
    """Compute how often an epoch shows each training image, so that it holds enough of the rare labels.

    Images are repeated, never dropped. An unknown label counts as not carried.

    Parameters
    ----------
    targets : ndarray of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown.
    sampler : {None, "repeat_factor", "oversample"}
        None shows every image once. "repeat_factor" [1]_ repeats the images of a class that a share f of all images
        carries max(1, sqrt(threshold / f)) times; of several labels, the one with the largest factor decides.
        "oversample" repeats images until each class has at least the share of the epoch that `frequencies` names.
    sampler_params : dict, default=None
        "repeat_factor" takes `threshold` (0.1), the share below which a class is rare, and `max_repeat` (5).
        "oversample" takes `frequencies`, a dict by class or one number for all classes that any image carries, and
        `max_repeat` (20).
    classes : sequence of shape (n_classes,)
        The names of the classes, in order.

    Returns
    -------
    repeats : ndarray of shape (n_samples,) or None
        Numbers >= 1, for `draw_rows`.

    Raises
    ------
    InputError
        If a name or a number is not allowed, or frequencies are asked for that no repeating can give.

    Warns
    -----
    MultiLabelKitWarning
        If "oversample" falls short of a frequency, because of `max_repeat` or because labels occur together.

    Notes
    -----
    "oversample" finds the smallest repeats (those of the least sum of squares of what exceeds 1) that give every class
    its share. Where classes exclude each other, a class that had too little gets exactly the share it should have.
    Where labels occur together, images that bring several missing labels are repeated more than others, those that
    bring common ones along less. Where not all shares can be had, the squares of what is missing of them are least.

    References
    ----------
    .. [1] A. Gupta, P. Dollar, R. Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019.

    Examples
    --------
    >>> targets = np.array([[1, 0], [1, 0], [1, 0], [0, 1]])
    >>> compute_repeats(targets, sampler="oversample", sampler_params={"frequencies": 0.5}, classes=["sea", "trees"])
    array([1., 1., 1., 3.])
    """
    given = {"sampler": sampler, "sampler_params": sampler_params}
    check_parameters("compute_repeats", given, _PARAMETERS)
    params = dict(sampler_params or {})
    if sampler is None:
        if params:
            raise InputError(
                "sampler_params needs a sampler. Choose sampler='repeat_factor' or 'oversample', or leave it out."
            )
        return None
    _check_sampler_params(sampler, params)
    carried = np.asarray(targets) == 1  # (n, C)
    if sampler == "repeat_factor":
        return _compute_repeat_factors(carried, **params)
    return _oversample(carried, list_names(classes, n_classes=carried.shape[1]), **params)


def draw_rows(repeats: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw the rows of one epoch: each as often as its whole repeats say, and once more by chance for the fraction.

    Parameters
    ----------
    repeats : ndarray of shape (n_samples,)
        Numbers >= 0, as from `compute_repeats`.
    random : numpy Generator

    Returns
    -------
    rows : ndarray of shape (n_rows,)
        int64, in ascending order; those of an image stand side by side, so shuffle them.

    Examples
    --------
    >>> draw_rows(np.array([1.0, 2.0, 1.0]), np.random.default_rng(0))
    array([0, 1, 1, 2])
    """
    whole = np.floor(repeats)
    times = whole + (random.random(len(repeats)) < repeats - whole)
    return np.repeat(np.arange(len(repeats), dtype=np.int64), times.astype(np.int64))


def _check_sampler_params(sampler: str, params: Mapping[str, Any]) -> None:
    """Refuse keywords that the sampler does not have, lacks, or that are out of their range."""
    table = _SAMPLERS[sampler]
    unknown = [name for name in params if name not in table]
    if unknown:
        raise InputError(
            f"sampler_params must not hold {unknown[0]!r} with sampler={sampler!r}.{suggest(str(unknown[0]), table)} "
            f"Allowed: {', '.join(map(repr, table))}."
        )
    if sampler == "oversample" and "frequencies" not in params:
        raise InputError(
            "sampler='oversample' needs frequencies. Say which share of an epoch each class should have, such as "
            "sampler_params={'frequencies': 0.1} or {'frequencies': {'sunset': 0.3}}."
        )
    check_parameters(f"sampler={sampler!r}", params, {name: table[name] for name in params})


def _compute_repeat_factors(carried: np.ndarray, threshold: float = 0.1, max_repeat: float = 5) -> np.ndarray:
    share = np.maximum(carried.mean(axis=0), 1 / max(len(carried), 1))  # what no image carries repeats none
    factors = np.clip(np.sqrt(threshold / share), 1, max_repeat)
    return np.where(carried, factors, 1.0).max(axis=1, initial=1.0)


def _oversample(
    carried: np.ndarray, names: list[Any], frequencies: float | Mapping[Any, float], max_repeat: float = 20
) -> np.ndarray:
    """Return the smallest repeats, at most `max_repeat`, with which each class has its share of the epoch."""
    wanted = _list_frequencies(frequencies, names, np.any(carried, axis=0))
    places = [place for place, name in enumerate(names) if name in wanted]
    carried, names = carried[:, places], [names[place] for place in places]
    shares = np.array([wanted[name] for name in names])
    if not names:
        return np.ones(len(carried))
    _check_possible(carried, shares, names)
    # Images with the same labels are repeated alike, and there are far fewer sets of labels than images.
    sets, set_of, n_images = np.unique(carried, axis=0, return_inverse=True, return_counts=True)
    repeats = _find_repeats(sets - shares, n_images / len(carried), max_repeat)
    _warn_of_missed(sets.T @ (n_images * repeats) / (n_images @ repeats), shares, names)
    return repeats.round(6)[set_of.reshape(-1)]  # so that 2.9999997 is 3


def _list_frequencies(frequencies: Any, names: list[Any], is_carried: np.ndarray) -> dict[Any, float]:
    """Return the wanted share of each class that has one, or say which of them cannot be."""
    if not isinstance(frequencies, Mapping):
        return {name: frequencies for name, there in zip(names, is_carried, strict=True) if there}
    wanted = dict(zip(list_names(list(frequencies)), frequencies.values(), strict=True))
    unknown = [name for name in wanted if name not in set(names)]
    if unknown:
        hint = suggest(str(unknown[0]), map(str, names))
        raise InputError(f"frequencies names unknown classes: {join_first([*map(repr, unknown)])}.{hint}")
    for name, share in wanted.items():
        check_parameters(
            "sampler='oversample'", {f"frequencies[{name!r}]": share}, {f"frequencies[{name!r}]": [_SHARE]}
        )
    empty = [repr(name) for name, there in zip(names, is_carried, strict=True) if name in wanted and not there]
    if empty:
        raise InputError(
            f"frequencies names {len(empty)} class(es) that no training image is known to carry: {join_first(empty)}. "
            "Leave them out, or add images of them."
        )
    return wanted


def _check_possible(carried: np.ndarray, shares: np.ndarray, names: list[Any]) -> None:
    """Refuse shares that add up to more than the labels images can have."""
    most = int(carried.sum(axis=1).max())
    if shares.sum() > most + 1e-9:
        raise InputError(
            f"The frequencies of {len(names)} classes add up to {shares.sum():.4g}, but no training image carries more "
            f"than {most} of these classes. Lower the frequencies until they add up to at most {most}."
        )
    together = carried.T.astype(np.float64) @ carried  # float64: products of whole numbers by BLAS
    excess = np.triu((together == 0) & (shares[:, None] + shares > 1 + 1e-9), k=1)
    if excess.any():
        one, other = np.argwhere(excess)[0]
        raise InputError(
            f"The frequencies of {names[one]!r} and {names[other]!r} add up to {shares[one] + shares[other]:.4g}, but "
            "no training image carries both. Lower them until they add up to at most 1."
        )


def _find_repeats(gains: np.ndarray, weights: np.ndarray, max_repeat: float) -> np.ndarray:
    """Return the smallest repeats without a shortfall, or those with the smallest shortfall of shares.

    `gains` (S, C) is what one more image of a set of labels brings a class beyond its share, `weights` (S,) the part of
    the images that have this set.
    """
    best = _minimise(gains, weights, max_repeat, slack=_EXACT)
    least = _measure_shortfall(gains, weights, best)
    repeats, shortfall = best, least
    # A shortfall counts in shares of the epoch, a ratio whose denominator the repeats make larger. Each round rewards
    # a larger epoch by what the last shortfall was worth, which makes the ratio fall until it is at its minimum.
    for _ in range(_MAX_ROUNDS):
        if shortfall < _REACHED:
            return repeats
        lift = shortfall**2 * (weights @ repeats) / _SOFT
        repeats = _minimise(gains, weights, max_repeat, slack=_SOFT, lift=lift)
        shortfall = _measure_shortfall(gains, weights, repeats)
        gain, best, least = 1 - shortfall / least, repeats if shortfall < least else best, min(shortfall, least)
        if gain < 0.01:
            break
    return best


def _measure_shortfall(gains: np.ndarray, weights: np.ndarray, repeats: np.ndarray) -> float:
    """Return the root of the squared shares of the epoch that are missing."""
    missing = np.minimum((weights * repeats) @ gains, 0)
    return float(np.linalg.norm(missing) / (weights @ repeats))


def _minimise(
    gains: np.ndarray, weights: np.ndarray, max_repeat: float, *, slack: float, lift: float = 0.0
) -> np.ndarray:
    """Return repeats r of the least weighted squares of r - 1, plus 1 / slack times those of the shortfalls.

    The minimum is r = clip(1 + gains @ m + lift, 1, max_repeat), where m holds one multiplier >= 0 a class. These
    minimise a convex, piecewise quadratic function, which Newton's method does in a few steps: each solves for the
    multipliers that are not held at 0, and is halved until the function falls.
    """

    def evaluate(multipliers: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        push = gains @ multipliers + lift
        repeats = np.clip(1 + push, 1, max_repeat)
        value = weights @ (repeats * push - (repeats - 1) ** 2 / 2) + slack / 2 * multipliers @ multipliers
        return value, repeats, (push > 0) & (1 + push < max_repeat)

    multipliers = np.zeros(gains.shape[1])
    value, repeats, moving = evaluate(multipliers)
    for _ in range(_MAX_STEPS):
        gradient = (weights * repeats) @ gains + slack * multipliers
        free = (multipliers > 0) | (gradient < 0)
        if np.abs(gradient[free]).max(initial=0) < 1e-12:
            break
        near = gains[moving][:, free]
        curvature = (near.T * weights[moving]) @ near + slack * np.eye(near.shape[1])
        step = np.zeros_like(multipliers)
        step[free] = -np.linalg.solve(curvature, gradient[free])
        for length in 0.5 ** np.arange(40):
            trial = np.maximum(multipliers + length * step, 0)
            new_value, new_repeats, new_moving = evaluate(trial)
            if new_value <= value + 1e-4 * gradient @ (trial - multipliers):
                break
        else:  # rounding hides any further fall
            break
        multipliers, value, repeats, moving = trial, new_value, new_repeats, new_moving
    return repeats


def _warn_of_missed(reached: np.ndarray, shares: np.ndarray, names: list[Any]) -> None:
    missed = np.flatnonzero(reached < _MISSED * shares)
    if len(missed):
        texts = [f"{names[place]!r} ({reached[place]:.3g} of {shares[place]:.3g})" for place in missed]
        warn(
            f"Oversampling falls short of the frequencies of {len(missed)} of {len(names)} classes: "
            f"{join_first(texts)}. Raise max_repeat, or lower the frequencies of these or of the labels beside them."
        )
