"""Energy that no causal policy can undercut for the same demand, fleet and objectives.

Its own module because it is the yardstick that every report is held against: it shares the
planner's figures and none of its caution. In each window replicas and nodes switch for
nothing, nothing is kept free, forecast or remembered, and the demand is met at its mean:

    E_LP    replicas and nodes are divisible: each request takes its share of a full replica
    E_MILP  whole replicas and whole nodes, constant for the window

Both hold for policies that serve every request within its objectives. A window whose demand
exceeds what the whole fleet can carry counts the most that it can.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scheduler.instance import relaxed_instance_of
from scheduler.solver import relax, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.instance import Instance
    from scheduler.plans import PlanInput

# A window's search for its exact optimum; the bound that it has proved until then counts.
WINDOW_LIMIT_S = 10.0


class Bounds(NamedTuple):
    """Least energy over all windows.

    Attributes:
        e_lp_j: with divisible replicas and nodes.
        e_milp_j: with whole ones; never below `e_lp_j`.

    """

    e_lp_j: float
    e_milp_j: float


def lower_bounds(windows: Sequence[tuple[float, PlanInput]]) -> Bounds:
    """Bound the energy of serving these windows one after the other.

    Args:
        windows: how long each takes in seconds, and what is to be served in it; censuses
            and settings do not count.

    """
    e_lp_j = e_milp_j = 0.0
    for duration_s, plan_input in windows:
        instance = relaxed_instance_of(plan_input)
        lp_w = _lp_w(instance)
        e_lp_j += duration_s * lp_w
        e_milp_j += duration_s * max(lp_w, _milp_w(instance))
    return Bounds(e_lp_j, e_milp_j)


def least_power_w(plan_input: PlanInput, unserved: Sequence[float] = ()) -> float:
    """Power that no plan for these demands can be below; see E_LP.

    Args:
        plan_input: what is to be served.
        unserved: of each demand's rate, what is not.

    """
    demands = plan_input.demands
    if unserved:
        demands = tuple(
            replace(demand, requests_per_s=max(0.0, demand.requests_per_s - less))
            for demand, less in zip(demands, unserved, strict=True)
        )
    return _lp_w(relaxed_instance_of(replace(plan_input, demands=demands)))


def _lp_w(instance: Instance) -> float:
    if not instance.loads or not instance.slots:
        return 0.0
    relaxed = relax(instance)
    return 0.0 if relaxed is None else max(0.0, relaxed.cost)


def _milp_w(instance: Instance) -> float:
    if not instance.loads or not instance.slots:
        return 0.0
    solution = solve(instance, limit_s=WINDOW_LIMIT_S)
    return 0.0 if solution is None or np.isinf(solution.bound) else solution.bound
