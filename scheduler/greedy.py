"""A plan without a solver: load by load, whatever carries the rest for the fewest watts.

Its own module because it is what remains when the exact search runs out of time, and the
yardstick of what that search is worth. It takes the room that open replicas have left,
then opens replicas of the slot that carries the remainder at the least cost a request,
nodes included. Loads that few slots suit come first.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from scheduler.solution import Solution, busy_replicas

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.instance import Instance, PairTerms

# Requests/s, and shares of a replica, that are none.
NOTHING = 1e-9


class _Opening(NamedTuple):
    """Replicas that could be woken for what remains of a load."""

    row: int
    replicas: int
    carried: float
    cost_each: float


class _Books:
    """What is open so far, and how much of it is taken."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.replicas = [terms.floor for terms in instance.slots]
        self.taken = [0.0] * len(instance.slots)
        self.amounts = [0.0] * len(instance.pairs)

    def take(self, row: int, amount: float) -> None:
        """Give a pair so many requests/s."""
        pair = self.instance.pairs[row]
        self.amounts[row] += amount
        self.taken[pair.slot] += amount / pair.capacity

    def room(self, row: int) -> float:
        """Requests/s that a pair's open replicas can still take."""
        pair = self.instance.pairs[row]
        return (self.replicas[pair.slot] - self.taken[pair.slot]) * pair.capacity

    def fits(self, pair: PairTerms, more: int) -> bool:
        """Whether so many more replicas find nodes and power."""
        replicas = self._with(pair, more)
        if replicas[pair.slot] > self.instance.slots[pair.slot].ceiling:
            return False
        nodes = self.instance.nodes_for(replicas)
        group = self.instance.slots[pair.slot].group
        if nodes[group] > self.instance.groups[group].group.max_nodes:
            return False
        return self.instance.reserved_w(replicas, nodes) <= self.instance.budget_w

    def added_cost(self, pair: PairTerms, more: int, carried: float) -> float:
        """Weighted watts of opening so many replicas and giving them a rate."""
        instance, replicas = self.instance, self._with(pair, more)
        slot = instance.slots[pair.slot]
        standing = [
            instance.standing_cost(each, instance.nodes_for(each))
            for each in (replicas, self.replicas)
        ]
        serving_w = more * slot.busy_w + carried * pair.request_j
        return standing[0] - standing[1] + instance.groups[slot.group].weight * serving_w

    def _with(self, pair: PairTerms, more: int) -> list[int]:
        replicas = list(self.replicas)
        replicas[pair.slot] += more
        return replicas


def solve_greedily(instance: Instance, bound: float = -math.inf) -> Solution:
    """Find a plan that is good rather than best, in a time that nothing can stretch.

    Args:
        instance: to be solved.
        bound: that no solution can be below, where it is known.

    """
    books, short = _Books(instance), [0.0] * len(instance.loads)
    suits: list[list[int]] = [[] for _ in instance.loads]
    for row, pair in enumerate(instance.pairs):
        suits[pair.load].append(row)
    # The mean of every load goes before anyone's headroom.
    means = [load.mean for load in instance.loads]
    for wanted in (means, [load.headroom for load in instance.loads]):
        for load in sorted(range(len(suits)), key=lambda load: len(suits[load])):
            short[load] += _carry(books, suits[load], wanted[load])
    return _solution(books, short, bound)


def _carry(books: _Books, rows: list[int], wanted: float) -> float:
    """Place a rate; give back what found no place."""
    for row in sorted(rows, key=lambda row: books.instance.pairs[row].request_j):
        amount = min(wanted, books.room(row))
        if amount > NOTHING:
            books.take(row, amount)
            wanted -= amount
    while wanted > NOTHING:
        openings = [opening for row in rows if (opening := _opening(books, row, wanted))]
        if not openings:
            return wanted
        best = min(openings, key=lambda opening: opening.cost_each)
        books.replicas[books.instance.pairs[best.row].slot] += best.replicas
        carried = min(best.carried, books.room(best.row))
        if carried <= NOTHING:
            return wanted
        books.take(best.row, carried)
        wanted -= carried
    return 0.0


def _opening(books: _Books, row: int, wanted: float) -> _Opening | None:
    """Say what it would cost to wake replicas of a slot for a rate, or for what fits of it."""
    pair = books.instance.pairs[row]
    needed = math.ceil(wanted / pair.capacity - NOTHING)
    count = _most(needed, lambda more: books.fits(pair, more))
    if count == 0:
        return None
    carried = min(wanted, count * pair.capacity)
    return _Opening(row, count, carried, books.added_cost(pair, count, carried) / carried)


def _most(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest count up to a limit that fits, where fewer always fit too."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _solution(books: _Books, short: list[float], bound: float) -> Solution:
    instance = books.instance
    uncovered = [min(s, load.headroom) for s, load in zip(short, instance.loads, strict=True)]
    unserved = [s - spare for s, spare in zip(short, uncovered, strict=True)]
    rates = _means(books, unserved)
    replicas = tuple(books.replicas)
    return Solution(
        replicas=replicas,
        nodes=tuple(instance.nodes_for(replicas)),
        busy=busy_replicas(instance, rates),
        rates=rates,
        spare=tuple(amount - rate for amount, rate in zip(books.amounts, rates, strict=True)),
        unserved=tuple(unserved),
        uncovered=tuple(uncovered),
        bound=bound,
    )


def _means(books: _Books, unserved: list[float]) -> tuple[float, ...]:
    """Spread each load's mean over its pairs as its mean and headroom together are."""
    instance = books.instance
    totals = [0.0] * len(instance.loads)
    for pair, amount in zip(instance.pairs, books.amounts, strict=True):
        totals[pair.load] += amount
    return tuple(
        amount * (instance.loads[pair.load].mean - unserved[pair.load]) / totals[pair.load]
        if totals[pair.load] > 0
        else 0.0
        for pair, amount in zip(instance.pairs, books.amounts, strict=True)
    )
