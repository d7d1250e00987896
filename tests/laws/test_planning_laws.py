"""What every plan keeps, whatever the fleet, the demand and the state it starts from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.bounds import lower_bounds
from scheduler.planning import plan
from scheduler.plans import Plan, PlanInput, Slot
from scheduler.validation import validate
from tests.plan_fakes import applied, plan_inputs

if TYPE_CHECKING:
    from scheduler.plans import NodeGroupName

SLACK = 1e-3


def taken(made: Plan, given: PlanInput) -> dict[NodeGroupName, int]:
    """Accelerators that a plan's replicas hold."""
    held = dict.fromkeys(given.groups, 0)
    for placement in given.placements:
        slot = Slot(placement.variant, placement.group)
        held[placement.group] += placement.accelerators * made.replicas[slot]
    return held


def served(made: Plan, given: PlanInput) -> float:
    return sum(d.requests_per_s for d in given.demands) - sum(made.unserved.values())


@settings(max_examples=60, deadline=None)
@given(plan_inputs())
def test_replicas_and_nodes_keep_their_bounds(case: PlanInput) -> None:
    made = plan(case)
    for placement in case.placements:
        count = made.replicas[Slot(placement.variant, placement.group)]
        assert count >= 0
        if placement.max_replicas is not None:
            assert count <= placement.max_replicas
    held = taken(made, case)
    for name, nodes in case.groups.items():
        assert made.nodes[name] <= nodes.max_nodes
        assert held[name] <= made.nodes[name] * nodes.accelerators_per_node


@settings(max_examples=60, deadline=None)
@given(plan_inputs())
def test_power_stays_within_the_budget(case: PlanInput) -> None:
    made = plan(replace(case, settings=replace(case.settings, horizon_s=1e12)))
    if case.settings.power_budget_w is not None:
        assert made.predicted_w <= case.settings.power_budget_w * (1 + SLACK)


@settings(max_examples=60, deadline=None)
@given(plan_inputs())
def test_every_demand_is_shared_out_or_said_to_be_unserved(case: PlanInput) -> None:
    made = plan(case)
    for index, wanted in enumerate(case.demands):
        if wanted.requests_per_s < SLACK:
            continue
        shares = {slot: share for (other, slot), share in made.shares.items() if other == index}
        missing = made.unserved.get(index, 0.0) / wanted.requests_per_s
        assert sum(shares.values()) + missing == pytest.approx(1.0, abs=SLACK)
        for slot in shares:
            carrier = case.variants[slot.variant]
            assert carrier.model == wanted.model
            assert carrier.quality >= wanted.objective.min_quality
            assert made.replicas[slot] > 0


@settings(max_examples=60, deadline=None)
@given(plan_inputs())
def test_actions_lead_from_the_census_to_the_plan(case: PlanInput) -> None:
    made = plan(case)
    replicas, nodes = dict(case.census.awake), dict(case.census.nodes_on)
    for action in made.actions:
        assert action.count >= 1
        assert action.reason
        sign = 1 if action.kind in {"wake", "boot"} else -1
        if action.variant is None:
            nodes[action.group] = nodes.get(action.group, 0) + sign * action.count
        else:
            slot = Slot(action.variant, action.group)
            replicas[slot] = replicas.get(slot, 0) + sign * action.count
    assert {slot: n for slot, n in replicas.items() if n} == {
        slot: n for slot, n in made.replicas.items() if n
    }
    assert {name: n for name, n in nodes.items() if n} == {
        name: n for name, n in made.nodes.items() if n
    }


@settings(max_examples=80, deadline=None)
@given(plan_inputs())
def test_applied_at_once_a_plan_is_a_fixed_point(case: PlanInput) -> None:
    made, there = plan(case), case
    # While woken replicas do not serve, others stay for them, and may be in their room: the
    # exchange takes a few rounds, and then nothing moves any more.
    for _ in range(8):
        if not any(action.kind == "wake" for action in made.actions):
            break
        there = applied(made, there)
        made = plan(there, previous=made)
    there = applied(made, there)
    assert plan(there, previous=made).actions == ()


@settings(max_examples=60, deadline=None)
@given(plan_inputs())
def test_with_nothing_awake_before_a_plan_is_a_fixed_point_in_one_step(case: PlanInput) -> None:
    case = replace(case, census=replace(case.census, awake={}, nodes_on={}))
    made = plan(case)
    assert {action.kind for action in made.actions} <= {"boot", "wake"}
    assert plan(applied(made, case), previous=made).actions == ()


@settings(max_examples=40, deadline=None)
@given(plan_inputs())
def test_what_costs_to_wake_is_not_drained_at_once_and_goes_in_the_end(case: PlanInput) -> None:
    lull = replace(case, demands=(), settings=replace(case.settings, power_budget_w=None))
    lull = replace(
        lull,
        placements=tuple(replace(p, min_replicas=0, max_replicas=None) for p in lull.placements),
    )
    first = plan(lull)
    costly = {Slot(p.variant, p.group) for p in lull.placements if p.start_j > 0}
    for action in first.actions:
        if action.kind == "drain" and action.variant is not None:
            assert Slot(action.variant, action.group) not in costly
    later = plan(applied(first, lull, now_s=1e7), previous=first)
    for placement in lull.placements:
        kept = later.replicas[Slot(placement.variant, placement.group)]
        assert kept == 0


@settings(max_examples=40, deadline=None)
@given(plan_inputs())
def test_bounds_are_below_every_plan(case: PlanInput) -> None:
    made = plan(case)
    left = tuple(
        replace(d, requests_per_s=max(0.0, d.requests_per_s - made.unserved.get(i, 0.0)))
        for i, d in enumerate(case.demands)
    )
    bounds = lower_bounds([(10.0, replace(case, demands=left))])
    assert 0 <= bounds.e_lp_j <= bounds.e_milp_j
    assert bounds.e_milp_j <= 10.0 * made.predicted_w * (1 + SLACK) + SLACK
    assert made.bound_w <= made.predicted_w * (1 + SLACK) + SLACK


@settings(max_examples=40, deadline=None)
@given(plan_inputs(budgets=False), st.floats(100.0, 20_000.0), st.floats(1.0, 3.0))
def test_a_larger_power_budget_never_serves_less(
    case: PlanInput, budget_w: float, factor: float
) -> None:
    case = replace(case, placements=tuple(replace(p, min_replicas=0) for p in case.placements))
    tight = replace(case, settings=replace(case.settings, power_budget_w=budget_w))
    loose = replace(case, settings=replace(case.settings, power_budget_w=budget_w * factor))
    assert served(plan(loose), loose) >= served(plan(tight), tight) - SLACK * 60


@settings(max_examples=40, deadline=None)
@given(plan_inputs())
def test_without_time_a_plan_is_greedy_and_keeps_the_same_bounds(case: PlanInput) -> None:
    hasty = plan(replace(case, settings=replace(case.settings, solve_limit_s=0.0)))
    held = taken(hasty, case)
    for name, nodes in case.groups.items():
        assert held[name] <= hasty.nodes[name] * nodes.accelerators_per_node
        assert hasty.nodes[name] <= nodes.max_nodes
    assert 0.0 <= hasty.gap <= 1.0


@settings(max_examples=40, deadline=None)
@given(plan_inputs())
def test_a_plan_is_valid_on_the_census_it_was_made_from(case: PlanInput) -> None:
    made = plan(case)
    fresh = validate(made, case)
    assert isinstance(fresh, Plan), fresh.reason
    assert fresh.actions == made.actions
