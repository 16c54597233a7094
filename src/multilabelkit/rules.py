"""What decisions obey beyond their thresholds: implications, exclusions, numbers of labels, and when to leave open."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from scipy.special import betainc

from multilabelkit.checks import (
    Choice,
    Constraint,
    Interval,
    check_indicator,
    check_parameters,
    check_scores,
    shorten,
    suggest,
)
from multilabelkit.class_names import join_first, list_names
from multilabelkit.errors import InputError, warn
from multilabelkit.fixed_thresholds import fix_thresholds
from multilabelkit.label_sets import Diagram, Ties, build_diagram, choose_best, find_possible, tie_classes
from multilabelkit.threshold_prior import to_logit

__all__ = ["DecisionRules", "create_rules", "tune_abstention"]

_KEYS = ("implies", "excludes", "min_labels", "max_labels", "abstain")
_NUMBERS: dict[str, list[Constraint]] = {
    "min_labels": [Interval(int, 0), Choice((None,))],
    "max_labels": [Interval(int, 1), Choice((None,))],
}
_WIDTH = Interval(float, 0)
_SHARE = Interval(float, 0, 1, open_low=True, open_high=True)
_UNIT = 2.0**-30  # of margins: sums of multiples are exact, so that ties do not hang on rounding
_NEVER = 33.0  # wider than any margin: leaves every cell open
_ROOM = 2**22  # numbers that decisions hold in memory at once


@dataclass(frozen=True)
class DecisionRules:
    """Rules that the labels of every image obey; made by `create_rules`.

    The margin of a cell is the logit of its probability less the logit of its threshold. Of all sets of labels that
    obey implications, exclusions and numbers, an image gets the one with the largest sum of margins: the most likely
    one, if classes are independent and thresholds 0.5. So without rules a class is predicted where its probability
    reaches its threshold; of two classes that exclude each other the one with the larger margin stays; a class brings
    what it implies along, or stays away if that costs more than it gains; and too few or too many labels are mended
    at the smallest loss. The search is exact. Of sets with the same sum, the one stays that holds the first class, in
    the order of `order`, in which they differ.

    Abstention comes last. A cell whose margin is nearer to 0 than its class's width is left open, unless the cells
    that are not so near, as decided, leave it only one answer under the rules.

    Attributes
    ----------
    classes : tuple
        The names of the classes, in column order.
    implies : tuple of pairs of names
        (class, implied class).
    excludes : tuple of tuples of names
        Groups of which an image has one class at most.
    min_labels, max_labels : int or None
        How many labels an image has.
    abstain : tuple of float, one per class
        Widths in logits, >= 0.
    """

    classes: tuple[Any, ...]
    implies: tuple[tuple[Any, Any], ...]
    excludes: tuple[tuple[Any, ...], ...]
    min_labels: int | None
    max_labels: int | None
    abstain: tuple[float, ...]

    @property
    def order(self) -> tuple[Any, ...]:
        """The classes in the order in which ties are settled: tied to others first, general before special."""
        return tuple(self.classes[place] for place in self._ties.order)

    def apply(self, proba: Any, thresholds: Any) -> np.ndarray:
        """Decide which classes are present.

        Parameters
        ----------
        proba : array-like of shape (n_samples, n_classes)
            Probabilities in [0, 1]; rows that are all NaN stay so.
        thresholds : float, array-like of shape (n_classes,), dict or Series by class
            As `fix_thresholds` takes them.

        Returns
        -------
        y_pred : ndarray of shape (n_samples, n_classes)
            0 or 1 as int64; float64 if there is a cell that is left open or has no probability, which is NaN.

        Raises
        ------
        InputError
            If the shapes do not fit or a number leaves [0, 1].

        Examples
        --------
        >>> rules = create_rules({"implies": {"poodle": "dog"}, "min_labels": 1}, classes=["cat", "dog", "poodle"])
        >>> rules.apply([[0.1, 0.4, 0.9], [0.2, 0.3, 0.1]], 0.5)
        array([[0, 1, 1],
               [0, 1, 0]])
        """
        proba, limits = np.asarray(proba), fix_thresholds(thresholds, classes=self.classes)
        if proba.ndim != 2 or proba.shape[1] != len(self.classes):
            raise InputError(
                f"proba must have the shape (n_samples, {len(self.classes)}), a column for each class of the rules. "
                f"Got the shape {proba.shape}."
            )
        missing = np.isnan(proba).all(axis=1) if proba.dtype.kind == "f" else np.zeros(len(proba), dtype=bool)
        proba = np.where(missing[:, None], 0.5, proba)
        margins = _measure_margins(check_scores(proba, proba), limits)
        size = max(1, _ROOM // self._diagram.n_states)
        decisions = np.empty(margins.shape)
        for start in range(0, len(margins), size):
            decisions[start : start + size] = self._decide(np.ascontiguousarray(margins[start : start + size].T)).T
        decisions[missing] = np.nan
        return decisions if np.isnan(decisions).any() else decisions.astype(np.int64)

    def to_dict(self) -> dict[str, Any]:
        """Return the rules as plain data that JSON can hold; `create_rules` takes it back.

        Examples
        --------
        >>> create_rules({"excludes": [("day", "night")], "abstain": {"day": 0.2}}, classes=["day", "night"]).to_dict()
        {'excludes': [['day', 'night']], 'abstain': [['day', 0.2]]}
        """
        widths = [[name, width] for name, width in zip(self.classes, self.abstain, strict=True) if width]
        spec = {
            "implies": [list(pair) for pair in self.implies],
            "excludes": [list(group) for group in self.excludes],
            "min_labels": self.min_labels,
            "max_labels": self.max_labels,
            "abstain": widths,
        }
        return {key: value for key, value in spec.items() if value not in (None, [])}

    @cached_property
    def _ties(self) -> Ties:
        place_of = {name: place for place, name in enumerate(self.classes)}
        implies = [(place_of[special], place_of[general]) for special, general in self.implies]
        excludes = [tuple(place_of[name] for name in group) for group in self.excludes]
        return tie_classes(len(self.classes), implies, excludes)

    @cached_property
    def _by_structure(self) -> Diagram:
        return build_diagram(self._ties, self._ties.order[: self._ties.n_bound])

    @cached_property
    def _diagram(self) -> Diagram:
        """The diagram of all rules; where the number of labels is free, classes without ties are not in it."""
        if not self.min_labels and self.max_labels is None:
            return self._by_structure
        return build_diagram(self._ties, self._ties.order, low=self.min_labels or 0, high=self.max_labels)

    def _decide(self, margins):
        """Return 0, 1 and NaN for margins; both (n_classes, n_samples)."""
        decided = choose_best(self._by_structure, margins)
        count = decided.sum(axis=0)
        high = len(decided) if self.max_labels is None else self.max_labels
        wrong = (count < (self.min_labels or 0)) | (count > high)
        if wrong.any():
            decided[:, wrong] = choose_best(self._diagram, margins[:, wrong])
        decisions = decided.astype(np.float64)
        unsure = np.abs(margins) < np.array(self.abstain)[:, None]
        rows = unsure.any(axis=0)
        if rows.any():
            unsure, decided = unsure[:, rows], decided[:, rows]
            either = np.logical_and(*find_possible(self._diagram, unsure | ~decided, unsure | decided))
            decisions[:, rows] = np.where(unsure & either, np.nan, decided)
        return decisions


def create_rules(spec: Mapping[str, Any] | None, *, classes: Sequence[Any] | np.ndarray) -> DecisionRules:
    """Read rules from a dict and make sure that they can be obeyed.

    Parameters
    ----------
    spec : dict or None
        Any of these; None is no rule at all.

        - "implies": pairs ``[("poodle", "dog")]`` or a dict ``{"poodle": "dog", "kitten": ["cat", "young"]}``; an image
          with the first has the second. Chains add up, and classes that imply each other come together.
        - "excludes": groups ``[("day", "night")]`` of two or more classes, of which an image has one at most.
        - "min_labels", "max_labels": how many labels an image has.
        - "abstain": a width in logits, or widths by class as a dict or as pairs: nearer to its threshold a cell is
          left open. `tune_abstention` finds widths.
    classes : sequence of shape (n_classes,)
        The names of the classes, in column order.

    Returns
    -------
    rules : DecisionRules

    Raises
    ------
    InputError
        If a key or a class is unknown, something has another form, or the rules contradict each other: no set of
        labels obeys them, or a class can never be predicted. Also if they tie so many classes to each other that the
        best set cannot be searched for exactly, which trees, chains and groups do not.

    Examples
    --------
    >>> rules = create_rules({"excludes": [("day", "night")], "max_labels": 2}, classes=["day", "night", "sea", "sun"])
    >>> rules.apply([[0.6, 0.7, 0.8, 0.2], [0.9, 0.3, 0.8, 0.6]], thresholds=0.5)
    array([[0, 1, 1, 0],
           [1, 0, 1, 0]])
    """
    spec = {} if spec is None else spec
    if not isinstance(spec, Mapping):
        raise InputError(f"rules must be a dict with some of the keys {', '.join(_KEYS)}. Got {shorten(spec)}.")
    for key in spec:
        if key not in _KEYS:
            hint = suggest(str(key), _KEYS)
            raise InputError(f"rules has the unknown key {shorten(key)}; it may have {', '.join(_KEYS)}.{hint}")
    numbers = {key: spec.get(key) for key in _NUMBERS}
    check_parameters("rules", numbers, _NUMBERS)
    numbers = {key: None if value is None else int(value) for key, value in numbers.items()}
    names = list_names(classes)
    rules = DecisionRules(
        classes=tuple(names),
        implies=tuple(_read_implications(spec.get("implies"), names)),
        excludes=tuple(_read_groups(spec.get("excludes"), names)),
        abstain=tuple(_read_widths(spec.get("abstain"), names)),
        **numbers,
    )
    _check_consistency(rules)
    return rules


def tune_abstention(
    y_true: Any,
    proba: Any,
    thresholds: Any,
    *,
    max_error: float,
    confidence: float = 0.95,
    classes: Sequence[Any] | np.ndarray | None = None,
) -> np.ndarray:
    """Choose how near to its threshold a class's probability is left open, so that what is decided is right.

    A class gets the smallest width for which, among the known samples that it leaves decided, the share of wrong ones
    is at most `max_error` as its upper confidence bound (Clopper and Pearson) says. That takes samples: an error of
    0.02 with the default confidence takes 149 decided ones without a mistake. What other rules decide is not counted.

    Parameters
    ----------
    y_true : array-like of shape (n_samples, n_classes)
        1 present, 0 absent, NaN unknown (left out for that class).
    proba : array-like of shape (n_samples, n_classes)
        Probabilities in [0, 1], from samples not used for training.
    thresholds : float, array-like of shape (n_classes,), dict or Series by class
        As `fix_thresholds` takes them.
    max_error : float
        Above 0 and below 1: the share of decisions on a class that may be wrong.
    confidence : float, default=0.95
        Above 0 and below 1. With 0.5, about half of the classes make more errors than `max_error` on other samples.
    classes : sequence of shape (n_classes,), default=None
        Names for the warning; None uses the column numbers.

    Returns
    -------
    widths : ndarray of shape (n_classes,)
        In logits, >= 0; 33, more than any margin, where no width attains `max_error`. By class they are what "abstain"
        of `create_rules` takes.

    Raises
    ------
    InputError
        If the shapes differ or a number leaves its range.

    Warns
    -----
    MultiLabelKitWarning
        If no width attains `max_error` for a class, so that every cell of it is left open.

    Examples
    --------
    >>> y_true = [[0]] * 30 + [[1], [0]] * 4 + [[1]] * 30
    >>> proba = [[0.1]] * 30 + [[0.45], [0.55]] * 4 + [[0.9]] * 30
    >>> tune_abstention(y_true, proba, 0.5, max_error=0.05).round(1)  # midway from logit 0.2 to 2.2
    array([1.2])
    """
    given = {"max_error": max_error, "confidence": confidence}
    check_parameters("tune_abstention", given, {"max_error": [_SHARE], "confidence": [_SHARE]})
    y_true = check_indicator(y_true)
    proba = check_scores(y_true, proba)
    names = list_names(range(y_true.shape[1]) if classes is None else classes, n_classes=y_true.shape[1])
    limits = fix_thresholds(thresholds, classes=names)
    margins = _measure_margins(proba, limits)
    columns = zip(y_true.T, margins.T, strict=True)
    widths = np.array([_find_width(*column, max_error, confidence) for column in columns])
    open_classes = [repr(name) for name, width in zip(names, widths, strict=True) if width == _NEVER]
    if open_classes:
        warn(
            f"An error of {max_error:g} is not attainable with a confidence of {confidence:g} in {len(open_classes)} "
            f"of {len(names)} classes, of which every cell is left open: {join_first(open_classes)}."
        )
    return widths


def _find_width(truth, margins, max_error, confidence):
    known = ~np.isnan(truth)
    distance = np.abs(margins[known])
    order = np.argsort(distance, kind="stable")
    distance, wrong = distance[order], ((margins[known] > 0) != truth[known])[order]
    n_wrong, n_right = (np.cumsum(kind[::-1])[::-1] for kind in (wrong, ~wrong))  # at this distance or farther
    attained = betainc(n_wrong + 1, n_right, max_error) >= confidence
    first = np.flatnonzero(attained & (np.diff(distance, prepend=-1.0) > 0))
    if not len(first):
        return _NEVER
    return 0.0 if first[0] == 0 else (distance[first[0] - 1] + distance[first[0]]) / 2


def _measure_margins(proba, limits):
    """Return how far probabilities lie above (> 0, or on) and below (< 0) their thresholds, in logits."""
    units = np.rint((to_logit(proba) - to_logit(limits)) / _UNIT)
    # Note: logits of the smallest and largest probabilities are equal, and rounding may hide which is larger.
    return np.where(proba >= limits, np.maximum(units, 1), np.minimum(units, -1)) * _UNIT


def _read_implications(value, names):
    """Return pairs (class, implied class)."""
    wanted = "a dict like {'poodle': 'dog'} or a list of pairs like [('poodle', 'dog')]"
    for entry in _list_entries(value, "implies", wanted):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise InputError(f"rules['implies'] must be {wanted}. Got the entry {shorten(entry)}.")
        special = _find_name(entry[0], "implies", names)
        for general in entry[1] if isinstance(entry[1], (list, tuple)) else [entry[1]]:
            yield special, _find_name(general, "implies", names)


def _read_groups(value, names):
    """Return groups of classes that exclude each other."""
    wanted = "a list of groups of two or more different classes like [('day', 'night')]"
    for entry in _list_entries(value, "excludes", wanted):
        if not isinstance(entry, (list, tuple)) or len(entry) < 2:
            raise InputError(f"rules['excludes'] must be {wanted}. Got the entry {shorten(entry)}.")
        group = tuple(_find_name(name, "excludes", names) for name in entry)
        if len(set(group)) < len(group):
            raise InputError(f"rules['excludes'] must be {wanted}. A class excludes itself in {shorten(entry)}.")
        yield group


def _read_widths(value, names):
    """Return one width per class."""
    wanted = f"a width ({_WIDTH.describe()}, in logits) or widths by class like {{'sea': 0.5}}"
    if value is None or _WIDTH.accepts(value):
        return [float(value or 0)] * len(names)
    widths = dict.fromkeys(names, 0.0)
    for entry in _list_entries(value, "abstain", wanted):
        if not isinstance(entry, (list, tuple)) or len(entry) != 2 or not _WIDTH.accepts(entry[1]):
            raise InputError(f"rules['abstain'] must be {wanted}. Got the entry {shorten(entry)}.")
        widths[_find_name(entry[0], "abstain", names)] = float(entry[1])
    return list(widths.values())


def _list_entries(value, key, wanted):
    entries = list(value.items()) if isinstance(value, Mapping) and key != "excludes" else value
    if entries is None or isinstance(entries, (list, tuple)):
        return entries or ()
    raise InputError(f"rules[{key!r}] must be {wanted}. Got {shorten(value)}.")


def _find_name(name, key, names):
    plain = name.item() if isinstance(name, np.generic) else name
    if not isinstance(plain, Hashable) or plain not in names:
        raise InputError(
            f"rules[{key!r}] names the unknown class {shorten(plain)}.{suggest(str(plain), map(str, names))}"
        )
    return plain


def _check_consistency(rules):
    """Refuse rules that no set of labels obeys, or that leave a class no set."""
    ties, low, high = rules._ties, rules.min_labels or 0, rules.max_labels
    for place, name in enumerate(rules.classes):
        if ties.barred[place] >> place & 1:
            pair = next(
                pair
                for group in rules.excludes
                for pair in combinations(group, 2)
                if all(ties.implied[place] >> rules.classes.index(other) & 1 for other in pair)
            )
            raise InputError(
                f"The rules contradict each other: {name!r} with what it implies includes {pair[0]!r} and {pair[1]!r}, "
                "which exclude each other, so that it could never be predicted. Drop one of these rules."
            )
    if high is not None and low > high:
        raise InputError(f"The rules ask for at least {low} and at most {high} labels. Lower min_labels.")
    anything = np.ones((len(rules.classes), 1), dtype=bool)
    without, within = find_possible(rules._diagram, anything, anything)
    numbers = f"at least {low}" if high is None else f"{low} to {high}"
    if not (without | within).all():
        largest = choose_best(rules._by_structure, anything.astype(float)).sum()
        raise InputError(
            f"No set of labels obeys the rules: of those that 'implies' and 'excludes' allow, the largest with "
            f"{largest} labels, none has {numbers}. Change min_labels or max_labels, or drop a rule."
        )
    never = [repr(name) for name, possible in zip(rules.classes, within[:, 0], strict=True) if not possible]
    if never:
        raise InputError(
            f"With {numbers} labels an image, 'implies' and 'excludes' leave {len(never)} of {len(within)} classes no "
            f"set of labels: {join_first(never)}. Change min_labels or max_labels, or drop a rule."
        )
