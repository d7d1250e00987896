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
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from scheduler.actions import actions_to, reasons_for
from scheduler.bounds import least_power_w
from scheduler.hysteresis import settle
from scheduler.instance import instance_of
from scheduler.plans import Plan
from scheduler.search import SAME_RATE, best_solution, missing, serve_with
from scheduler.solver import OPTIMAL, solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.hysteresis import Settled
    from scheduler.instance import Instance
    from scheduler.plans import PlanInput, Slot
    from scheduler.search import Solver
    from scheduler.solution import Solution

Name = TypeVar("Name")

# Of a planner's time: the search, then what it is compared with.
SEARCH_SHARE, KINDS_SHARE, STAY_SHARE, BRIDGE_SHARE = 0.55, 0.05, 0.15, 0.15
# Kinds of replica that a plan is tried without; each takes a share of the time.
MOST_KINDS = 3
# Of a replica, what is lost where requests on one kind of replica fluctuate by themselves.
HALF_FULL = 0.5


def plan(plan_input: PlanInput, *, previous: Plan | None = None) -> Plan:
    """Say what is to be awake from now on, and why.

    Args:
        plan_input: what there is, could be and is expected.
        previous: the plan before, which knows how long things have been superfluous.
            Without it every clock starts anew, and nothing that costs energy to wake is
            drained.

    """
    instance = instance_of(plan_input)
    wanted, solver = best_solution(instance, plan_input.settings.solve_limit_s * SEARCH_SHARE)
    wanted = _fewer_kinds(instance, wanted, plan_input.settings.solve_limit_s)
    wanted = _stay(instance, wanted, plan_input.settings.solve_limit_s)
    bridge = _bridge(instance, wanted, plan_input)
    if _takes_a_node(instance, wanted, bridge):
        # Headroom may be short until what is woken serves; a node would take longer.
        bridge = _bridge(instance.without_headroom(), wanted, plan_input)
    settled = settle(instance, wanted, bridge, plan_input.census, previous)
    return _plan(plan_input, instance, wanted, settled, solver)


def _fewer_kinds(instance: Instance, wanted: Solution, limit_s: float) -> Solution:
    """Do without kinds of replicas that save less than their fragmentation costs.

    The program fills every replica to its last place. In truth the requests on each kind
    fluctuate by themselves, so that one replica of every kind is half full.
    """
    for kind in _spared_kinds(instance, wanted)[:MOST_KINDS]:
        if sum(count > 0 for count in wanted.replicas) == 1:
            break
        fewer = _without(instance, wanted, kind, limit_s * KINDS_SHARE)
        wanted = wanted if fewer is None else fewer
    return wanted


def _without(instance: Instance, wanted: Solution, kind: int, limit_s: float) -> Solution | None:
    """Do without a kind of replica, if the others carry as much for little more."""
    ceilings = [
        terms.ceiling if count and index != kind else 0
        for index, (count, terms) in enumerate(zip(wanted.replicas, instance.slots, strict=True))
    ]
    fewer = solve(instance, limit_s=limit_s, ceilings=ceilings)
    if fewer is None or missing(fewer) > missing(wanted) + SAME_RATE:
        return None
    terms = instance.slots[kind]
    worth = HALF_FULL * instance.groups[terms.group].weight * (terms.idle_w + terms.busy_w)
    if fewer.cost(instance) > wanted.cost(instance) + worth:
        return None
    return replace(fewer, bound=wanted.bound)


def _spared_kinds(instance: Instance, wanted: Solution) -> list[int]:
    """Name the slots of which no replica has to be there, rarest first."""
    spared = [
        index
        for index, (count, terms) in enumerate(zip(wanted.replicas, instance.slots, strict=True))
        if count and not terms.floor
    ]
    return sorted(spared, key=lambda kind: wanted.replicas[kind])


def _stay(instance: Instance, wanted: Solution, limit_s: float) -> Solution:
    """Prefer what is awake now, if nothing that the search can tell is better."""
    present = [terms.awake for terms in instance.slots]
    if tuple(present) == wanted.replicas or not _allowed(instance, present):
        return wanted
    stay = solve(instance, limit_s=limit_s * STAY_SHARE, floors=present, ceilings=present)
    if stay is None or missing(stay) > missing(wanted) + SAME_RATE:
        return wanted
    gain = stay.cost(instance) - wanted.cost(instance)
    return stay if gain <= 2 * OPTIMAL * wanted.cost(instance) else wanted


def _allowed(instance: Instance, replicas: list[int]) -> bool:
    return all(
        terms.floor <= count <= terms.ceiling
        for count, terms in zip(replicas, instance.slots, strict=True)
    )


def _bridge(instance: Instance, wanted: Solution, plan_input: PlanInput) -> list[int]:
    """Count the replicas that must go on serving until those that are woken do."""
    serving = [
        min(terms.ceiling, plan_input.census.awake.get(terms.slot, 0)) for terms in instance.slots
    ]
    staying = [min(a, b) for a, b in zip(serving, wanted.replicas, strict=True)]
    if tuple(staying) == wanted.replicas or staying == serving:
        return staying
    limit_s = plan_input.settings.solve_limit_s * BRIDGE_SHARE
    bridge = solve(instance, limit_s=limit_s, floors=staying, ceilings=serving)
    if bridge is not None:
        return list(bridge.replicas)
    return serving if math.isinf(instance.budget_w) else staying


def _takes_a_node(instance: Instance, wanted: Solution, bridge: list[int]) -> bool:
    """Whether keeping what serves until others do would switch a node on for that alone."""
    both = [max(a, b) for a, b in zip(wanted.replicas, bridge, strict=True)]
    return any(
        needed > max(terms.on, nodes)
        for needed, nodes, terms in zip(
            instance.nodes_for(both), wanted.nodes, instance.groups, strict=True
        )
    )


def _plan(
    plan_input: PlanInput,
    instance: Instance,
    wanted: Solution,
    settled: Settled,
    solver: Solver,
) -> Plan:
    census = plan_input.census
    carried = _carried(instance, wanted, settled, plan_input.settings.solve_limit_s)
    slots = [terms.slot for terms in instance.slots]
    groups = [terms.group.name for terms in instance.groups]
    replicas = dict(zip(slots, settled.replicas, strict=True))
    nodes = dict(zip(groups, settled.nodes, strict=True))
    actions = actions_to(census, replicas, nodes, reasons_for(instance, wanted, settled))
    unserved = _unserved(plan_input, instance, carried)
    waking_w = instance.waking_w(settled.replicas, settled.nodes)
    gap = wanted.gap(instance)
    return Plan(
        made_at_s=census.observed_at_s,
        replicas=replicas,
        nodes=nodes,
        shares=_shares(instance, carried),
        actions=actions,
        predicted_w=carried.power_w(instance) + waking_w,
        bound_w=least_power_w(plan_input, unserved),
        solver=solver if actions or settled.replicas == wanted.replicas else "held",
        gap=gap if math.isfinite(gap) else 1.0,
        unserved={demand: rate for demand, rate in enumerate(unserved) if rate > 0},
        surplus_since_s=_with_entries(slots, settled.surplus_since_s),
        spare_since_s=_with_entries(groups, settled.spare_since_s),
    )


def _carried(instance: Instance, wanted: Solution, settled: Settled, limit_s: float) -> Solution:
    """Say who carries what: as wanted, unless there was no room for all that is wanted."""
    replicas, nodes = settled.replicas, settled.nodes
    if all(a >= b for a, b in zip(replicas, wanted.replicas, strict=True)):
        return replace(wanted, replicas=replicas, nodes=nodes)
    served = serve_with(instance, replicas, nodes, limit_s)
    return replace(wanted, replicas=replicas, nodes=nodes) if served is None else served


def _shares(instance: Instance, carried: Solution) -> dict[tuple[int, Slot], float]:
    shares = {}
    for pair, rate in zip(instance.pairs, carried.rates, strict=True):
        load = instance.loads[pair.load]
        # A solver keeps its rows within a tolerance: less than that is carried by nobody.
        if load.mean > 0 and rate > SAME_RATE * load.mean:
            shares[load.demand, instance.slots[pair.slot].slot] = rate / load.mean
    return shares


def _unserved(plan_input: PlanInput, instance: Instance, carried: Solution) -> list[float]:
    """Requests/s that nobody carries, by demand."""
    unserved = [0.0] * len(plan_input.demands)
    for load, rate in zip(instance.loads, carried.unserved, strict=True):
        unserved[load.demand] = rate
    return unserved


def _with_entries(
    names: Sequence[Name], clocks: Sequence[tuple[float, ...]]
) -> dict[Name, tuple[float, ...]]:
    return {name: clock for name, clock in zip(names, clocks, strict=True) if clock}
