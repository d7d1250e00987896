"""The best replicas and nodes that can be found in the time there is.

Its own module because how hard to search is a trade of its own: a fleet of one model is
solved to the end; with many models the search is narrowed to the slots that matter, which
are those that divisible replicas would use, those that the greedy plan uses and those that
are awake. The greedy plan itself remains when time runs out. The gap is stated in each case.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from scheduler.greedy import solve_greedily
from scheduler.solution import NOTHING, busy_replicas
from scheduler.solver import OPTIMAL, relax, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.instance import Instance
    from scheduler.solution import Solution
    from scheduler.solver import Relaxed

Solver: TypeAlias = Literal["milp", "greedy"]

# Pairs of load and slot up to which the exact search ends within a few tenths of a second.
FEW_PAIRS = 48
# What a request of missing headroom weighs against a request that is not served.
HEADROOM_WEIGHT = 0.05
# Requests/s that two solutions may differ by and serve the same.
SAME_RATE = 1e-4


def best_solution(instance: Instance, limit_s: float) -> tuple[Solution, Solver]:
    """Take the exact solution, or the greedy one where time was too short for a better one."""
    if not instance.slots:
        return solve_greedily(instance), "greedy"
    few = len(instance.pairs) <= FEW_PAIRS
    exact = solve(instance, limit_s=limit_s) if few else None
    if exact is not None and exact.gap(instance) <= 2 * OPTIMAL:
        return exact, "milp"
    relaxed = relax(instance, whole=True)
    greedy = solve_greedily(instance, -math.inf if relaxed is None else relaxed.cost)
    if not few and relaxed is not None:
        exact = _narrowed(instance, relaxed, greedy, limit_s)
    if exact is None or carries_more_or_cheaper(instance, greedy, exact):
        return greedy, "greedy"
    return exact, "milp"


def serve_with(
    instance: Instance, replicas: Sequence[int], nodes: Sequence[int], limit_s: float
) -> Solution | None:
    """Say what these replicas carry best, whether or not all are needed, or the budget bears them.

    Args:
        instance: whose loads they are to carry.
        replicas: awake, by slot.
        nodes: on, by group.
        limit_s: for the search.

    Returns:
        None when time was too short.

    """
    standing = replace(
        instance,
        slots=tuple(terms._replace(idle_w=0.0, wake_j=0.0) for terms in instance.slots),
        groups=tuple(terms._replace(node_w=0.0, price_w=0.0) for terms in instance.groups),
        budget_w=math.inf,
    )
    none = [0] * len(instance.slots)
    served = solve(standing, limit_s=limit_s, floors=none, ceilings=replicas)
    if served is None:
        return None
    return replace(served, replicas=tuple(replicas), nodes=tuple(nodes), bound=-math.inf)


def carries_more_or_cheaper(instance: Instance, one: Solution, other: Solution) -> bool:
    """Whether one solution carries more than another, or as much for less."""
    less = missing(other) - missing(one)
    if abs(less) > SAME_RATE:
        return less > 0
    return one.cost(instance) < other.cost(instance)


def missing(solution: Solution) -> float:
    """Requests/s that a solution lacks, headroom at its weight."""
    return sum(solution.unserved) + HEADROOM_WEIGHT * sum(solution.uncovered)


def _narrowed(
    instance: Instance, relaxed: Relaxed, greedy: Solution, limit_s: float
) -> Solution | None:
    """Search exactly among the slots that matter, against the bound of all of them."""
    matters = [
        share > NOTHING or count > 0 or terms.awake > 0 or terms.floor > 0
        for share, count, terms in zip(
            relaxed.replicas, greedy.replicas, instance.slots, strict=True
        )
    ]
    pairs = sum(matters[pair.slot] for pair in instance.pairs)
    found = solve(
        instance,
        limit_s=limit_s,
        ceilings=[
            terms.ceiling if matter else 0
            for terms, matter in zip(instance.slots, matters, strict=True)
        ],
        whole_busy=pairs <= FEW_PAIRS,
    )
    if found is None:
        return None
    # Busy replicas were divisible in a large search; they are counted again as whole ones.
    busy = found.busy if pairs <= FEW_PAIRS else busy_replicas(instance, found.rates)
    return replace(found, busy=busy, bound=relaxed.cost)
