"""From configuration, replicas and nodes to what is planned with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cluster.nodes import GroupState
from scheduler.plans import NodeGroupName, Placement, Slot
from scheduler.requests import VariantName
from serve.census import Deployed
from serve.plan_problem import Situation, accelerators_of, group_of, groups, problem, with_held
from tests.plan_fakes import demand
from tests.planner_fakes import BATCH, BIG, EPOCH_S, H100, L4, SMALL, STANDARD, config, echo

if TYPE_CHECKING:
    from serve.config import Config

CPU = NodeGroupName("cpu")


def situation(**changes: Any) -> Situation:
    return Situation(**{"now_s": EPOCH_S, "deployed": Deployed(), "nodes": {}, **changes})


def placements(given: Config, **changes: Any) -> dict[VariantName, Placement]:
    plan_input = problem(given, {}, situation(**changes), {})
    return {each.variant: each for each in plan_input.placements}


def bounds(placement: Placement) -> tuple[int, int | None]:
    return placement.min_replicas, placement.max_replicas


def on_cpus(*cores: float) -> Config:
    variants = (echo(f"v{n}", "cpu", cpus_per_replica=each) for n, each in enumerate(cores))
    return config(*variants, node_groups=())


def test_replicas_and_nodes_are_counted_where_they_are() -> None:
    there = Deployed(awake={BIG: 2}, starting={SMALL: 1}, draining={BIG: 1})
    nodes = {H100: GroupState(ready=2, booting=1), L4: GroupState()}
    census = problem(config(), {}, situation(deployed=there, nodes=nodes), {}).census
    assert census.observed_at_s == EPOCH_S
    assert census.awake == {Slot(BIG, H100): 2}
    assert census.starting == {Slot(SMALL, L4): 1}
    assert census.draining == {Slot(BIG, H100): 1}
    assert census.nodes_on == {H100: 3, L4: 0}


def test_replicas_of_what_is_not_configured_do_not_count() -> None:
    there = Deployed(awake={VariantName("gone"): 2})
    assert problem(config(), {}, situation(deployed=there), {}).census.awake == {}


def test_demands_keep_their_order() -> None:
    first, second = demand(1.0), demand(2.0)
    assert problem(config(), {}, situation(), {STANDARD: first, BATCH: second}).demands == (
        first,
        second,
    )


def test_a_plan_keeps_the_horizon_and_the_power_budget_that_are_configured() -> None:
    given = config(horizon_s=77.0, power_budget_w=1234.0)
    settings = problem(given, {}, situation(), {}).settings
    assert (settings.horizon_s, settings.power_budget_w) == (77.0, 1234.0)


# ── placements ──────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ({"min_replicas": 1, "max_replicas": 3}, (1, 3)),
        ({"min_replicas": 2, "max_replicas": None}, (2, 2)),
        ({"min_replicas": 0, "max_replicas": 3}, (0, 3)),
    ],
)
def test_bounds_are_those_that_are_configured(
    configured: dict[str, Any], expected: tuple[int, int]
) -> None:
    given = config(echo(BIG, "h100-sxm", **configured))
    assert bounds(placements(given)[BIG]) == expected


def test_a_pin_is_both_bounds_of_its_variant_only() -> None:
    found = placements(config(pinned={BIG: 1}))
    assert (bounds(found[BIG]), bounds(found[SMALL])) == ((1, 1), (0, 2))


def test_what_is_in_the_way_leaves_what_there_is() -> None:
    given = config(echo(BIG, "h100-sxm", min_replicas=2, max_replicas=4))
    there = Deployed(awake={BIG: 1}, starting={BIG: 1})
    assert bounds(placements(given, deployed=there, obstacles={BIG: "x"})[BIG]) == (1, 1)
    assert bounds(placements(given, obstacles={BIG: "x"})[BIG]) == (0, 0)


def test_what_is_in_the_way_makes_no_room() -> None:
    there = Deployed(awake={BIG: 5})
    assert bounds(placements(config(), deployed=there, obstacles={BIG: "x"})[BIG]) == (0, 2)


def test_a_start_takes_as_long_as_was_measured_and_energy_in_proportion() -> None:
    before = placements(config())[BIG]
    after = placements(config(), start_s={BIG: 15.0})
    assert (before.start_s, after[BIG].start_s, after[SMALL].start_s) == (60.0, 15.0, 60.0)
    assert after[BIG].start_j == pytest.approx(before.start_j / 4)


# ── nodes ───────────────────────────────────────────────────────────────────


def test_nodes_that_are_ours_to_switch_are_described_as_configured() -> None:
    found = groups(config(), {H100: GroupState(ready=1, accelerators_per_node=1)})[H100]
    assert (found.accelerators_per_node, found.max_nodes, found.boot_s) == (4, 2, 120.0)


def test_nodes_that_are_not_ours_to_switch_are_those_that_are_there() -> None:
    given = config(node_groups=())
    name = group_of(given, "h100-sxm")
    found = groups(given, {name: GroupState(ready=3, booting=2, accelerators_per_node=8)})[name]
    assert (found.accelerators_per_node, found.max_nodes) == (8, 3)
    assert (found.node_power_w, found.boot_s, found.boot_j) == (0.0, 0.0, 0.0)


def test_nodes_that_nobody_knows_of_hold_nothing() -> None:
    given = config(node_groups=())
    assert {each.max_nodes for each in groups(given, {}).values()} == {0}


def test_a_group_of_nodes_has_its_name_else_that_of_its_accelerator() -> None:
    given = config(node_groups=({**NODES, "name": "mine"},))
    assert (group_of(given, "h100-sxm"), group_of(given, "l4")) == ("mine", "l4")


NODES = {"accelerator": "h100-sxm", "accelerators_per_node": 4, "max_nodes": 2}


@pytest.mark.parametrize(
    ("cores", "taken", "held"),
    [
        ((1.0,), [1], 4),
        ((2.0, 1.0), [2, 1], 4),
        ((2.5,), [3], 4),
        ((0.5,), [1], 8),
        ((0.1, 1.0), [1, 10], 40),
        ((0.3, 0.5), [1, 2], 13),
        ((0.3, 2.1), [1, 7], 13),
    ],
)
def test_parts_of_a_core_are_counted_in_the_smallest_of_them(
    cores: tuple[float, ...], taken: list[int], held: int
) -> None:
    given = on_cpus(*cores)
    found = groups(given, {CPU: GroupState(ready=1, accelerators_per_node=4)})[CPU]
    assert [accelerators_of(given, entry) for _, entry in given.variants()] == taken
    assert found.accelerators_per_node == held


def test_a_node_loses_no_part_by_rounding() -> None:
    nodes = {CPU: GroupState(ready=1, accelerators_per_node=7)}
    assert groups(on_cpus(0.07), nodes)[CPU].accelerators_per_node == 100


def test_a_node_draws_the_same_in_whatever_parts_it_is_counted() -> None:
    nodes = {CPU: GroupState(ready=1, accelerators_per_node=4)}
    whole, parts = (groups(on_cpus(each), nodes)[CPU] for each in (1.0, 0.25))
    assert whole.bare_power_w > 0
    assert parts.accelerators_per_node * parts.bare_power_w == pytest.approx(
        whole.accelerators_per_node * whole.bare_power_w
    )


# ── what waits ──────────────────────────────────────────────────────────────


def test_what_waits_raises_a_forecast_that_is_lower() -> None:
    raised = with_held(demand(1.0), 600, 300.0)
    assert (raised.requests_per_s, raised.upper_requests_per_s) == (2.0, 2.0)


def test_what_waits_does_not_raise_a_forecast_that_is_higher() -> None:
    assert with_held(demand(3.0), 600, 300.0) == demand(3.0)
