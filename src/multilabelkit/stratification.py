"""Dealing rows to parts so that each part gets its share of every label: the algorithm beneath the splitters."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils import check_random_state

from multilabelkit.checks import RANDOM_STATE, check_parameters, shorten
from multilabelkit.errors import InputError

_SAMPLE = 48  # units of each part that are compared at a time when two parts swap
_MAX_SWAPS = 3000
_MAX_REPAIRS = 300


def split_rows(
    y: Any,
    *,
    sizes: Sequence[int] | np.ndarray,
    groups: Any = None,
    random_state: int | np.random.RandomState | None = None,
) -> np.ndarray:
    """Deal rows to parts of given sizes so that every part gets its share of every label.

    The label with the fewest remaining rows is dealt first, each of its rows to the part that lacks that label
    most [1]_. Then sizes are evened out, labels missing from a part are brought there, and rows are swapped
    between parts for as long as that brings the label counts nearer to their shares.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_classes)
        1 present; 0 and NaN not present.
    sizes : sequence of int, of length n_parts
        Rows wanted in each part; their sum is n_samples. Met exactly without `groups`, nearly with them.
    groups : array-like of shape (n_samples,), default=None
        Rows of one group all go to one part.
    random_state : int, RandomState instance or None, default=None
        Decides between rows that serve equally well.

    Returns
    -------
    part : ndarray of shape (n_samples,)
        Number of the part of each row, from 0.

    Raises
    ------
    InputError
        If `sizes` do not add up to the rows, hold a number below 1, or exceed the groups in number.

    Notes
    -----
    A label that at least n_parts rows (or groups) have is in every part, wherever the search finds a way: with
    parts of few rows, or labels that exclude each other's needs, there may be none.

    References
    ----------
    .. [1] K. Sechidis, G. Tsoumakas, I. Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011.

    Examples
    --------
    >>> y = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [1, 1], [1, 1]])
    >>> part = split_rows(y, sizes=[3, 3], random_state=0)
    >>> [y[part == index].sum(axis=0).tolist() for index in range(2)]
    [[2, 2], [2, 2]]
    """
    check_parameters("split_rows", {"random_state": random_state}, {"random_state": RANDOM_STATE})
    present = np.asarray(y) == 1
    if present.ndim != 2:
        raise InputError(f"y must have the shape (n_samples, n_classes) in split_rows. Got the shape {present.shape}.")
    wanted = np.asarray(sizes)
    if wanted.ndim != 1 or wanted.dtype.kind not in "iu" or wanted.sum() != len(present) or (wanted < 1).any():
        raise InputError(
            f"sizes must be whole numbers of at least 1 that add up to the {len(present)} rows of y. "
            f"Got {shorten(wanted.tolist())}."
        )
    units, unit_of_row = _gather_units(present, groups)
    if len(units) <= len(wanted):
        raise InputError(
            f"Cannot deal {len(units) - 1} groups to {len(wanted)} parts: a part would stay empty. "
            "Ask for fewer parts, or pass finer groups."
        )
    rng = np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
    want = _share_labels(units, wanted)
    parts = _Parts(units, _deal_units(units, want, rng), want)
    _even_out(parts, rng, by_rows=groups is None)
    _bring_missing(parts, rng, may_move=groups is not None)
    _refine(parts, rng, may_move=groups is not None)
    return parts.of_unit[unit_of_row]


class _Parts:
    """Which unit lies in which part, kept up to date while units move.

    Attributes
    ----------
    units : rows per label and, last, rows in all, of every unit; one more unit of zeros at the end is "nobody"
    excess : the same sums of every part, less what the part should hold
    holders : how many units of every part hold each label
    """

    def __init__(self, units: np.ndarray, of_unit: np.ndarray, want: np.ndarray) -> None:
        self.units, self.of_unit = units, of_unit
        order = np.argsort(of_unit, kind="stable")
        ends = np.cumsum(np.bincount(of_unit, minlength=len(want)))
        self.members = [block.tolist() for block in np.split(order, ends[:-1])]
        self.place = np.empty(len(of_unit), dtype=np.int64)
        for block in self.members:
            self.place[block] = np.arange(len(block))
        self.excess = _sum_by_part(units[:-1], of_unit, len(want)) - want
        self.holders = _sum_by_part(units[:-1, :-1] > 0, of_unit, len(want))
        # Note: powers of two here and 64ths in `want` make every sum exact, so that no rounding decides between
        # two rows, and a seed gives the same parts on every machine.
        self.weight = np.exp2(-np.rint(np.log2(np.maximum(units.sum(axis=0, dtype=np.float64), 1))))

    def move(self, unit: int, part: int) -> None:
        """Take a unit from its part to another; nobody moves at no cost."""
        if unit == -1:
            return
        source, hole, last = self.of_unit[unit], self.place[unit], self.members[self.of_unit[unit]].pop()
        if last != unit:
            self.members[source][hole], self.place[last] = last, hole
        self.members[part].append(unit)
        self.of_unit[unit], self.place[unit] = part, len(self.members[part]) - 1
        amounts = self.units[unit]
        self.excess[source] -= amounts
        self.excess[part] += amounts
        self.holders[source] -= amounts[:-1] > 0
        self.holders[part] += amounts[:-1] > 0

    def sample(self, part: int, rng: np.random.Generator) -> np.ndarray:
        """Return some units of a part, all if they are few."""
        members = self.members[part]
        if len(members) <= _SAMPLE:
            return np.array(members)
        return np.array([members[index] for index in rng.integers(len(members), size=_SAMPLE)])

    def find_exchange(self, one: int, give: np.ndarray, other: int, take: np.ndarray) -> tuple[float, int, int]:
        """Return the best unit to give from part `one` and to take from `other`, and how the error changes."""
        pull = self.weight * (self.excess[one] - self.excess[other])
        gives, takes = self.units[give].astype(np.float64), self.units[take].astype(np.float64)
        alone_give = (gives * gives) @ self.weight - gives @ pull
        alone_take = (takes * takes) @ self.weight + takes @ pull
        change = alone_give[:, None] + alone_take - 2 * (gives * self.weight) @ takes.T
        row, column = divmod(int(change.argmin()), len(take))
        return float(change[row, column]), int(give[row]), int(take[column])

    def find_missing(self) -> np.ndarray:
        """Return the pairs (part, label) where a part has nothing of a label that should be there."""
        absent = self.holders == 0
        n_holders = self.holders.sum(axis=0)
        # A label with too few units for all parts must at least not be in one part alone.
        alone = (n_holders > 1) & (absent.sum(axis=0) == len(absent) - 1)
        return np.argwhere(absent & (alone | (n_holders >= len(absent))))


def _gather_units(present: np.ndarray, groups: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return rows per label and in all of every unit (a row, or a group), plus nobody, and the unit of each row."""
    n_samples, n_classes = present.shape
    if groups is None:
        units = np.zeros((n_samples + 1, n_classes + 1), dtype=np.float32)
        units[:-1, :-1], units[:-1, -1] = present, 1
        return units, np.arange(n_samples)
    names = pd.Series(groups if isinstance(groups, (list, tuple)) else np.asarray(groups))
    if len(names) != n_samples:
        raise InputError(f"groups must name the group of every row. Got {len(names)} entries for {n_samples} rows.")
    unit_of_row = pd.factorize(names)[0]
    if (unit_of_row < 0).any():
        row = int(np.argmax(unit_of_row < 0))
        raise InputError(f"groups must name the group of every row. Got {names[row]} at row {row}.")
    columns = [np.bincount(unit_of_row, weights=column) for column in present.T]
    units = np.stack([*columns, np.bincount(unit_of_row)], axis=1)
    return np.vstack([units, np.zeros(n_classes + 1)]).astype(np.float32), unit_of_row


def _share_labels(units: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return how many rows of every label, and in all, each part should hold; at least 1 where there are enough."""
    totals = units.sum(axis=0, dtype=np.float64)
    want = np.rint(np.outer(wanted / wanted.sum(), totals) * 64) / 64  # (n_parts, n_classes + 1)
    enough = (units > 0).sum(axis=0) >= len(wanted)
    return np.where(enough, np.clip(want, 1, np.maximum(totals - len(wanted) + 1, 1)), want)


def _sum_by_part(amounts: np.ndarray, part: np.ndarray, n_parts: int) -> np.ndarray:
    """Return the sum of rows of each part, shape (n_parts, n_columns)."""
    order = np.argsort(part, kind="stable")
    counts = np.bincount(part, minlength=n_parts)
    total = np.zeros((n_parts, amounts.shape[1]))
    starts = np.cumsum(counts) - counts
    total[counts > 0] = np.add.reduceat(amounts[order], starts[counts > 0], axis=0, dtype=np.float64)
    return total


def _deal_units(units: np.ndarray, want: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Deal the label with fewest remaining units first, each unit to the part that lacks the label most."""
    part = np.full(len(units) - 1, -1)
    holds = np.asfortranarray(units[:-1, :-1] > 0)
    remaining = holds.sum(axis=0)
    want = want.copy()
    while remaining.any():
        label = int(np.argmin(np.where(remaining > 0, remaining, len(units))))
        chosen = rng.permutation(np.flatnonzero(holds[:, label] & (part < 0)))
        chosen = chosen[np.argsort(-units[chosen, label], kind="stable")]
        part[chosen] = _deal_label(units[chosen, label], units[chosen, -1], want[:, [label, -1]], rng)
        want -= _sum_by_part(units[chosen], part[chosen], len(want))
        remaining -= holds[chosen].sum(axis=0)
    chosen = rng.permutation(np.flatnonzero(part < 0))
    chosen = chosen[np.argsort(-units[chosen, -1], kind="stable")]
    part[chosen] = _deal_label(units[chosen, -1], units[chosen, -1], want[:, [-1, -1]], rng)
    return part


def _deal_label(amounts: np.ndarray, rows: np.ndarray, want: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Deal units, each to the part that wants most of the label, then most rows; chance breaks further ties."""
    # A queue of (-wanted of the label, -wanted rows, chance, part), the neediest part in front.
    queue = list(zip(*(-want.T).tolist(), rng.permutation(len(want)).tolist(), range(len(want)), strict=True))
    heapq.heapify(queue)
    dealt = []
    for amount, n_rows in zip(amounts.tolist(), rows.tolist(), strict=True):
        label, room, chance, part = queue[0]
        dealt.append(part)
        heapq.heapreplace(queue, (label + amount, room + n_rows, chance, part))
    return dealt


def _even_out(parts: _Parts, rng: np.random.Generator, *, by_rows: bool) -> None:
    """Move units from too large parts to too small ones; with groups, only to parts that are empty."""
    nobody = np.array([-1])
    while True:
        filled = np.array([len(block) for block in parts.members])
        surplus = parts.excess[:, -1] if by_rows else filled - 1
        source, target = int(surplus.argmax()), int(surplus.argmin())
        if surplus[target] > -0.5:
            return
        _, unit, _ = parts.find_exchange(source, parts.sample(source, rng), target, nobody)
        parts.move(unit, target)


def _bring_missing(parts: _Parts, rng: np.random.Generator, *, may_move: bool) -> None:
    """Bring labels to the parts that lack them; a label weighs the more the longer it is missing."""
    missing = parts.find_missing()
    weight, fewest, best = parts.weight.copy(), len(missing), parts.of_unit.copy()
    for _ in range(_MAX_REPAIRS):
        if len(missing) == 0:
            break
        target, label = (int(number) for number in rng.choice(missing))
        source = int(rng.choice(np.flatnonzero(parts.holders[:, label] > 1)))
        holding = np.flatnonzero((parts.units[:-1, label] > 0) & (parts.of_unit == source))
        back = parts.sample(target, rng)
        back = np.append(back, -1) if may_move else back
        n_tried = 1 if rng.random() < 0.2 else _SAMPLE  # now and then any step at all, to leave dead ends
        change, unit, other = parts.find_exchange(
            source, rng.permutation(holding)[:n_tried], target, rng.permutation(back)[:n_tried]
        )
        if change < 0 or n_tried == 1:
            parts.move(unit, target)
            parts.move(other, source)
        parts.weight[label] += 1
        missing = parts.find_missing()
        if len(missing) < fewest:
            fewest, best = len(missing), parts.of_unit.copy()
    parts.weight = weight
    if len(missing) > fewest:
        for moved in np.flatnonzero(parts.of_unit != best).tolist():
            parts.move(moved, int(best[moved]))


def _refine(parts: _Parts, rng: np.random.Generator, *, may_move: bool) -> None:
    """Swap units between parts, or move groups, while that brings the counts nearer to the shares."""
    patience = min(40 * (len(parts.members) - 1), 400)
    failures, n_missing = 0, len(parts.find_missing())
    for _ in range(_MAX_SWAPS):
        one, other = _choose_pair(parts, rng)
        give, take = parts.sample(one, rng), parts.sample(other, rng)
        if may_move:
            give = np.append(give, -1) if len(parts.members[other]) > 1 else give
            take = np.append(take, -1) if len(parts.members[one]) > 1 else take
        change, unit, back = parts.find_exchange(one, give, other, take)
        failures += 1
        if change < 0:
            parts.move(unit, other)
            parts.move(back, one)
            if len(parts.find_missing()) > n_missing:
                parts.move(unit, one)
                parts.move(back, other)
            else:
                failures = 0
        if failures >= patience:
            return


def _choose_pair(parts: _Parts, rng: np.random.Generator) -> tuple[int, int]:
    """Return two parts: often the worst one and the one most unlike it, else any two."""
    if len(parts.members) == 2:
        return 0, 1
    if rng.integers(2):
        one, other = rng.choice(len(parts.members), size=2, replace=False)
        return int(one), int(other)
    one = int(((parts.excess**2) @ parts.weight).argmax())
    return one, int((((parts.excess - parts.excess[one]) ** 2) @ parts.weight).argmax())
