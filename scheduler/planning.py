"""Decide what is to be awake: telemetry → model → plan.

Its own module because this is the one decision of the slow loop; what it is made of (the
instance), how it is found (the solvers) and how it is held back (hysteresis) are elsewhere.

Waking is charged over the horizon in the search itself, so a change that wakes something is
only made for need, or where it saves more over the horizon than it costs. Letting go waits
for ski rental. What is there stays unless something else is better by more than the search
can tell: applied at once, a plan leads to the same plan.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from scheduler.actions import actions_to, reasons_for
from scheduler.bounds import least_power_w
from scheduler.greedy import solve_greedily
from scheduler.hysteresis import settle
from scheduler.instance import instance_of
from scheduler.plans import Plan
from scheduler.solver import OPTIMAL, relaxed_bound, solve

if TYPE_CHECKING:
    from scheduler.hysteresis import Settled
    from scheduler.instance import Instance
    from scheduler.plans import PlanInput
    from scheduler.solution import Solution

# Requests/s that two solutions may differ by and serve the same.
SAME_RATE = 1e-4
# Of a planner's time: the search, then what it is compared with.
SEARCH_SHARE, STAY_SHARE, BRIDGE_SHARE = 0.7, 0.15, 0.15


def plan(plan_input: PlanInput, *, previous: Plan | None = None) -> Plan:
    """Say what is to be awake from now on, and why.

    Args:
        plan_input: what there is, could be and is expected.
        previous: the plan before, which knows how long things have been superfluous.
            Without it every clock starts anew, and nothing that costs energy to wake is
            drained.

    """
    instance = instance_of(plan_input)
    wanted, solver = _search(instance, plan_input.settings.solve_limit_s)
    wanted = _stay(instance, wanted, plan_input.settings.solve_limit_s)
    bridge = _bridge(instance, wanted, plan_input)
    settled = settle(instance, wanted, bridge, plan_input.census, previous)
    return _plan(plan_input, instance, wanted, settled, solver)


def _search(
    instance: Instance, limit_s: float
) -> tuple[Solution, Literal["milp", "greedy", "held"]]:
    """Take the exact solution, or the greedy one where time was too short for a better one."""
    if not instance.slots:
        return solve_greedily(instance), "greedy"
    exact = solve(instance, limit_s=limit_s * SEARCH_SHARE)
    if exact is not None and exact.gap(instance) <= 2 * OPTIMAL:
        return exact, "milp"
    greedy = solve_greedily(instance, relaxed_bound(instance))
    if exact is None or _better(instance, greedy, exact):
        return greedy, "greedy"
    return exact, "milp"


def _better(instance: Instance, one: Solution, other: Solution) -> bool:
    """Whether one solution carries more, or as much for less."""
    less = _missing(other) - _missing(one)
    if abs(less) > SAME_RATE:
        return less > 0
    return one.cost(instance) < other.cost(instance)


def _missing(solution: Solution) -> float:
    return sum(solution.unserved) + 0.05 * sum(solution.uncovered)


def _stay(instance: Instance, wanted: Solution, limit_s: float) -> Solution:
    """Prefer what is awake now, if nothing that the search can tell is better."""
    present = [terms.awake for terms in instance.slots]
    if tuple(present) == wanted.replicas or not _allowed(instance, present):
        return wanted
    stay = solve(instance, limit_s=limit_s * STAY_SHARE, floors=present, ceilings=present)
    if stay is None or _missing(stay) > _missing(wanted) + SAME_RATE:
        return wanted
    gain = stay.cost(instance) - wanted.cost(instance)
    return stay if gain <= 2 * OPTIMAL * wanted.cost(instance) else wanted
