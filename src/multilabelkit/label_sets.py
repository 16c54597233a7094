"""All sets of labels that rules allow, laid out as paths of a diagram, and the best path for each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from multilabelkit.errors import InputError

_MAX_STATES = 4096


class Ties(NamedTuple):
    """How classes are tied to each other; sets of classes are integers whose bits are places."""

    implied: list[int]  # by each class, itself included
    implying: list[int]  # each class, itself included
    barred: list[int]  # by each class
    order: list[int]
    n_bound: int  # how many, the first in `order`, are tied to another


class Layer(NamedTuple):
    """A class, and to which state of the next layer each state leads without and with it; -1 is nowhere."""

    place: int
    skip: np.ndarray
    take: np.ndarray


class Diagram(NamedTuple):
    """All sets of labels that obey the rules, as paths: each layer decides one class.

    A state is what the decisions so far leave of the rules: the classes that may not come, those that must, and the
    number of labels. However many sets there are, chains, trees and groups have few states.
    """

    layers: list[Layer]
    ends: np.ndarray  # whether a path may end in each state that the last layer leads to

    @property
    def n_states(self) -> int:
        """How many there are, with one more per layer for nowhere."""
        return sum(len(layer.skip) + 1 for layer in self.layers) + len(self.ends) + 1


def tie_classes(n_classes: int, implies: Sequence[tuple[int, int]], excludes: Sequence[tuple[int, ...]]) -> Ties:
    """Follow implications through, and order the classes so that what is tied stands close together."""
    implied, excluded = np.eye(n_classes, dtype=bool), np.zeros((n_classes, n_classes), dtype=bool)
    for special, general in implies:
        implied[special, general] = True
    for first, second in (pair for group in excludes for pair in combinations(group, 2)):
        excluded[[first, second], [second, first]] = True
    neighbours = _to_bits((implied | implied.T | excluded) & ~np.eye(n_classes, dtype=bool))
    for middle in range(n_classes):
        implied |= np.outer(implied[:, middle], implied[middle])
    reach = implied.astype(np.float32)
    barred = reach @ excluded @ reach.T > 0
    bound = [place for place in range(n_classes) if neighbours[place]]
    order = _order_places(bound, neighbours, implied.sum(axis=1))
    free = [place for place in range(n_classes) if not neighbours[place]]
    return Ties(_to_bits(implied), _to_bits(implied.T), _to_bits(barred), order + free, len(bound))


def _to_bits(table):
    return [int.from_bytes(np.packbits(row, bitorder="little").tobytes(), "little") for row in table]


def _order_places(places, neighbours, n_implied):
    """Start from what implies least, and go on to the neighbour that has the fewest neighbours left."""
    left, order = sum(1 << place for place in places), []
    while left:
        candidates = 1 << min(_list_bits(left), key=lambda place: (n_implied[place], place))
        while candidates:
            place = min(_list_bits(candidates), key=lambda place: (neighbours[place] & left).bit_count())
            order.append(place)
            left &= ~(1 << place)
            candidates = (candidates | neighbours[place]) & left
    return order


def _list_bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1


def build_diagram(ties: Ties, order: Sequence[int], *, low: int = 0, high: int | None = None) -> Diagram:
    """Lay out all sets of `low` to `high` labels that obey the ties among the classes in `order`."""
    top, left = low if high is None else high, sum(1 << place for place in order)
    states, layers = {(0, 0, 0): 0}, []
    for place in order:
        left &= ~(1 << place)
        following: dict[tuple[int, int, int], int] = {}
        skip, take = np.full((2, len(states)), -1, dtype=np.intp)
        for (barred, needed, number), state in states.items():
            if not needed >> place & 1:
                key = (barred | ties.implying[place]) & left, needed & left, number
                skip[state] = following.setdefault(key, len(following))
            if not barred >> place & 1 and number != high:
                key = (barred | ties.barred[place]) & left, (needed | ties.implied[place]) & left, min(number + 1, top)
                take[state] = following.setdefault(key, len(following))
        if len(following) > _MAX_STATES:
            raise InputError(
                f"The rules tie {len(order)} classes so closely that the best labels cannot be found exactly: more "
                f"than {_MAX_STATES} cases to tell apart. Drop some; trees, chains and groups are no trouble."
            )
        layers.append(Layer(place, skip, take))
        states = following
    return Diagram(layers, np.array([number >= low for _, _, number in states]))


def choose_best(diagram: Diagram, margins: np.ndarray) -> np.ndarray:
    """Choose for each sample the set with the largest sum of margins; classes outside the diagram by their sign.

    Parameters
    ----------
    diagram : Diagram
    margins : ndarray of shape (n_classes, n_samples)

    Returns
    -------
    chosen : ndarray of shape (n_classes, n_samples)
        bool.
    """
    onward = _score_onward(diagram, np.zeros_like(margins), margins)
    chosen = margins > 0
    samples, state = np.arange(margins.shape[1]), np.zeros(margins.shape[1], dtype=np.intp)
    for (place, skip, take), following in zip(diagram.layers, onward[1:], strict=True):
        with_it, without = take[state], skip[state]
        chosen[place] = margins[place] + following[with_it, samples] >= following[without, samples]
        state = np.where(chosen[place], with_it, without)
    return chosen


def _score_onward(diagram, skip_scores, take_scores):
    """Return for each layer the largest sum from each of its states to an end, (n_states + 1, n_samples)."""
    nowhere = np.full((1, take_scores.shape[1]), -np.inf)
    scores = [np.vstack([np.where(diagram.ends, 0, -np.inf)[:, None] + np.zeros_like(nowhere), nowhere])]
    for place, skip, take in reversed(diagram.layers):
        best = np.maximum(skip_scores[place] + scores[-1][skip], take_scores[place] + scores[-1][take])
        scores.append(np.vstack([best, nowhere]))
    return scores[::-1]


def find_possible(diagram: Diagram, may_skip: np.ndarray, may_take: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which cells can be absent and which present, in a set that obeys the rules and what each cell may be.

    Parameters
    ----------
    diagram : Diagram
    may_skip, may_take : ndarray of shape (n_classes, n_samples)
        Whether a cell may be absent, and present.

    Returns
    -------
    can_skip, can_take : ndarray of shape (n_classes, n_samples)
    """
    onward = _score_onward(diagram, *(np.where(may, 0, -np.inf) for may in (may_skip, may_take)))
    can_skip, can_take = may_skip.copy(), may_take.copy()
    reached = np.ones((1, may_take.shape[1]), dtype=bool)
    for (place, skip, take), scores in zip(diagram.layers, onward[1:], strict=True):
        without = reached & may_skip[place] & (scores[skip] == 0)
        with_it = reached & may_take[place] & (scores[take] == 0)
        can_skip[place], can_take[place] = without.any(axis=0), with_it.any(axis=0)
        leads = np.eye(len(scores), dtype=np.float32)
        reached = (leads[skip].T @ without + leads[take].T @ with_it)[:-1] > 0
    return can_skip, can_take
