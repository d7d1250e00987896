"""Plans for Llama-3.1-8B on H100s, against figures known from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from scheduler.bounds import lower_bounds
from scheduler.capacity import capability
from scheduler.planning import plan
from scheduler.plans import Plan, PlanInput, PlanSettings, Slot
from scheduler.requests import Objective, VariantName
from scheduler.validation import Rejected, validate
from tests.plan_fakes import (
    BF16,
    CHEAPER,
    COMPLETION_TOKENS,
    DECODE_ONLY,
    FP8,
    H100,
    STEPS,
    applied,
    demand,
    group,
    plan_input,
    variant,
)

PATIENT = PlanSettings(solve_limit_s=30.0)


class Row(NamedTuple):
    """Joules per output token at a mean load, with fleets that can do more and more."""

    load: float
    spread: float
    parked: float
    exited: float
    nodes_off: float
    bound_bare: float
    bound_off: float


# Eight H100s, 8B bf16, Azure chat, TPOT ≤ 20 ms, decode alone (fluid model): every replica
# on; the fewest replicas with the rest idle, exited, switched off; and the bound with the
# others at 61 W and at 0 W.
KNOWN = (
    Row(0.05, 1.259, 0.468, 0.328, 0.184, 0.248, 0.092),
    Row(0.10, 0.644, 0.250, 0.180, 0.108, 0.166, 0.092),
    Row(0.20, 0.337, 0.168, 0.138, 0.108, 0.125, 0.092),
    Row(0.40, 0.184, 0.124, 0.114, 0.103, 0.104, 0.092),
    Row(0.70, 0.118, 0.102, 0.100, 0.097, 0.095, 0.092),
)


def eight(load: float, *, size: int, bare_w: float, floor: int = 0) -> PlanInput:
    """Eight accelerators on nodes of a size, at a share of their highest rate."""
    able = capability(variant(steps=DECODE_ONLY), demand(1.0))
    assert able is not None
    case = plan_input(
        demand(load * 8 * able.requests_per_s, risk=0.0),
        variants=(variant(steps=DECODE_ONLY),),
        nodes=group(size=size, max_nodes=8 // size, node_w=0.0, bare_w=bare_w, boot_j=0.0),
        start_j=0.0,
        settings=PATIENT,
    )
    return replace(case, placements=(replace(case.placements[0], min_replicas=floor),))


def per_token(power_w: float, case: PlanInput) -> float:
    return power_w / (case.demands[0].requests_per_s * COMPLETION_TOKENS)


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row.load:.0%}")
def test_joules_per_token_are_those_of_the_fluid_model(row: Row) -> None:
    # At 40 % the known figures average over 3 and 4 replicas as load moves, a plan has 4:
    # there it is 4 % above them.
    parked = eight(row.load, size=8, bare_w=61.0, floor=8)
    assert per_token(plan(parked).predicted_w, parked) == pytest.approx(row.parked, rel=0.03)
    exited = eight(row.load, size=8, bare_w=61.0)
    assert per_token(plan(exited).predicted_w, exited) == pytest.approx(row.exited, rel=0.03)
    off = eight(row.load, size=1, bare_w=0.0)
    assert per_token(plan(off).predicted_w, off) == pytest.approx(row.nodes_off, rel=0.045)


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row.load:.0%}")
def test_bounds_are_those_of_the_fractional_knapsack(row: Row) -> None:
    for size, bare_w, known in ((8, 61.0, row.bound_bare), (1, 0.0, row.bound_off)):
        case = eight(row.load, size=size, bare_w=bare_w)
        bounds = lower_bounds([(1.0, case)])
        assert per_token(bounds.e_lp_j, case) == pytest.approx(known, rel=0.01)
        assert bounds.e_lp_j <= bounds.e_milp_j <= plan(case).predicted_w * (1 + 1e-6)


@pytest.mark.parametrize("row", KNOWN, ids=lambda row: f"{row.load:.0%}")
def test_spread_over_all_replicas_draws_what_is_known(row: Row) -> None:
    able = capability(variant(steps=DECODE_ONLY), demand(1.0))
    assert able is not None
    rate = row.load * able.requests_per_s
    joules = able.power_w(rate) / (rate * COMPLETION_TOKENS)
    assert joules == pytest.approx(row.spread, rel=0.01)


def test_prefill_costs_about_as_much_as_decoding_on_azure_chat() -> None:
    # 5.5 prompt tokens for each completion token: r_max falls from 35 to 12.4 requests/s.
    with_prefill, without = (
        capability(variant(steps=s), demand(1.0)) for s in (STEPS, DECODE_ONLY)
    )
    assert with_prefill is not None
    assert without is not None
    assert with_prefill.requests_per_s == pytest.approx(12.4, rel=0.01)
    assert without.requests_per_s == pytest.approx(35.0, rel=0.01)
    ratio = with_prefill.joules_per_request() / without.joules_per_request()
    assert 2.0 < ratio < 3.0


def test_the_cheapest_precision_carries_the_load() -> None:
    both = (variant(), variant(FP8, CHEAPER, quality=0.99))
    made = plan(plan_input(demand(25.0), variants=both))
    assert made.replicas == {Slot(BF16, H100): 0, Slot(FP8, H100): 2}
    floored = plan(plan_input(demand(25.0, Objective(2.0, 0.02, 1.0)), variants=both))
    assert floored.replicas[Slot(FP8, H100)] == 0
    assert floored.replicas[Slot(BF16, H100)] > 2


def test_a_kind_of_replica_that_saves_next_to_nothing_is_done_without() -> None:
    alike = replace(CHEAPER, e0_j=CHEAPER.e0_j * 0.998)
    kinds = (variant(FP8, CHEAPER, quality=0.99), variant(VariantName("int4"), alike, quality=0.9))
    choosy = Objective(2.0, 0.02, 0.99)
    made = plan(plan_input(demand(20.0, choosy), demand(20.0), variants=kinds))
    assert made.replicas == {Slot(FP8, H100): 2, Slot(VariantName("int4"), H100): 0}


def test_a_low_floor_spills_to_higher_quality_and_not_the_reverse() -> None:
    both = (variant(), variant(FP8, CHEAPER, quality=0.99))
    nodes = group(max_nodes=1)
    low, high = Objective(2.0, 0.02, 0.9), Objective(2.0, 0.02, 1.0)
    case = plan_input(demand(10.0, low), demand(5.0, high), variants=both, nodes=nodes)
    few = replace(case.placements[1], max_replicas=0)
    made = plan(replace(case, placements=(case.placements[0], few)))
    assert made.unserved == {}
    assert made.shares[0, Slot(BF16, H100)] == pytest.approx(1.0)
    reverse = plan(replace(case, placements=(replace(case.placements[0], max_replicas=0), few)))
    assert reverse.unserved[1] == pytest.approx(5.0)


def test_what_lacks_capacity_is_unserved_and_everything_is_awake() -> None:
    case = plan_input(demand(1000.0), nodes=group(max_nodes=2))
    made = plan(case)
    assert made.replicas[Slot(BF16, H100)] == 16
    able = capability(variant(), case.demands[0])
    assert able is not None
    carried = 16 * able.requests_per_s * case.settings.load_share
    assert made.unserved[0] == pytest.approx(1000.0 - carried, rel=1e-3)


def test_waking_for_need_is_at_once_and_says_why() -> None:
    made = plan(plan_input(demand(36.0), awake={BF16: 1}, nodes_on=1))
    (wake,) = made.actions
    assert (wake.kind, wake.count) == ("wake", 3)
    assert "36 requests/s" in wake.reason
    assert "1 are awake" in wake.reason
    assert "12 kJ each" in wake.reason


def test_a_superfluous_replica_goes_when_keeping_it_has_cost_what_waking_it_would() -> None:
    # 12 kJ over 119.7 W − 61 W are 204 s; the node stays, for others need it.
    case = plan_input(demand(5.0), awake={BF16: 3}, nodes_on=1)
    first = plan(case)
    wanted = 1
    assert first.solver == "held"
    assert first.actions == ()
    later = plan(applied(first, case, now_s=200.0), previous=first)
    assert later.actions == ()
    assert later.surplus_since_s[Slot(BF16, H100)] == (0.0, 0.0)
    last = plan(applied(first, case, now_s=205.0), previous=later)
    assert last.replicas[Slot(BF16, H100)] == wanted
    (drain,) = last.actions
    assert (drain.kind, drain.count) == ("drain", 3 - wanted)
    assert "204 s" in drain.reason


def test_a_replica_that_is_needed_again_starts_a_new_clock() -> None:
    calm = plan_input(demand(5.0), awake={BF16: 3}, nodes_on=1)
    first = plan(calm)
    busy = replace(applied(first, calm, now_s=150.0), demands=(demand(22.0),))
    second = plan(busy, previous=first)
    assert second.surplus_since_s == {}
    again = plan(applied(second, calm, now_s=210.0), previous=second)
    assert again.actions == ()


def test_an_empty_node_is_halted_after_its_own_patience() -> None:
    # 200 kJ over 700 W + 8 × 61 W are 168 s.
    case = plan_input(demand(5.0), awake={BF16: 1}, nodes_on=3)
    first = plan(case)
    assert first.nodes[H100] == 3
    later = plan(applied(first, case, now_s=170.0), previous=first)
    assert [(action.kind, action.count) for action in later.actions] == [("halt", 2)]


def test_a_cheaper_variant_is_woken_only_if_that_pays_within_the_horizon() -> None:
    both = (variant(), variant(FP8, CHEAPER, quality=0.99))
    cheap = plan_input(demand(20.0), variants=both, awake={BF16: 3}, nodes_on=1, start_j=3_000.0)
    assert plan(cheap).replicas[Slot(FP8, H100)] > 0
    # Those that it replaces serve until it does.
    assert plan(cheap).replicas[Slot(BF16, H100)] >= 2
    dear = plan_input(demand(20.0), variants=both, awake={BF16: 3}, nodes_on=1, start_j=900_000.0)
    assert plan(dear).actions == ()


def test_no_power_no_replicas() -> None:
    settings = replace(PATIENT, power_budget_w=100.0)
    made = plan(plan_input(demand(5.0), settings=settings))
    assert made.replicas[Slot(BF16, H100)] == 0
    assert made.unserved == {0: pytest.approx(5.0)}


def test_without_time_the_greedy_plan_states_its_gap() -> None:
    case = plan_input(demand(60.0), settings=replace(PATIENT, solve_limit_s=0.0))
    hasty, patient = plan(case), plan(plan_input(demand(60.0), settings=PATIENT))
    assert hasty.solver == "greedy"
    assert patient.solver == "milp"
    assert patient.predicted_w <= hasty.predicted_w <= patient.predicted_w * 1.1
    assert hasty.gap >= 0


def test_carbon_moves_load_to_where_it_is_clean() -> None:
    dirty = replace(group(), carbon_g_per_kwh=500.0)
    clean = replace(group(), name=type(H100)("clean"), node_power_w=720.0)
    case = plan_input(demand(20.0), nodes=dirty)
    case = replace(
        case,
        groups={dirty.name: dirty, clean.name: clean},
        placements=(case.placements[0], replace(case.placements[0], group=clean.name)),
    )
    assert plan(case).replicas[Slot(BF16, dirty.name)] > 0
    green = replace(case, settings=replace(case.settings, carbon_weight=5000.0))
    assert plan(green).replicas[Slot(BF16, clean.name)] > 0
    assert plan(green).replicas[Slot(BF16, dirty.name)] == 0


# ── validation ──────────────────────────────────────────────────────────────


def rejected(made: Plan, fresh: PlanInput) -> str:
    verdict = validate(made, fresh)
    assert isinstance(verdict, Rejected)
    return verdict.reason


def test_a_plan_is_outdated_after_its_horizon() -> None:
    case = plan_input(demand(5.0))
    late = replace(case, census=replace(case.census, observed_at_s=301.0))
    assert "301 s old" in rejected(plan(case), late)


def test_a_plan_is_rejected_when_demand_has_outgrown_it() -> None:
    case = plan_input(demand(5.0))
    assert "it would leave" in rejected(plan(case), replace(case, demands=(demand(50.0),)))


def test_a_plan_is_rejected_when_nodes_are_gone() -> None:
    case = plan_input(demand(60.0))
    assert "nodes of h100" in rejected(
        plan(case), replace(case, groups={H100: group(max_nodes=0)})
    ) or "can be" in rejected(plan(case), replace(case, groups={H100: group(max_nodes=0)}))


def test_actions_are_counted_anew_when_replicas_died() -> None:
    case = plan_input(demand(30.0), awake={BF16: 4}, nodes_on=1)
    made = plan(case)
    assert made.actions == ()
    fresh = replace(case, census=replace(case.census, awake={Slot(BF16, H100): 2}))
    verdict = validate(made, fresh)
    assert isinstance(verdict, Plan)
    assert [(action.kind, action.count) for action in verdict.actions] == [("wake", 2)]


def test_a_drain_is_rejected_when_what_was_to_replace_it_has_died() -> None:
    both = (variant(), variant(FP8, CHEAPER, quality=0.99))
    case = plan_input(demand(20.0), variants=both, awake={BF16: 3, FP8: 2}, nodes_on=1, start_j=0.0)
    made = plan(case)
    assert made.replicas[Slot(BF16, H100)] == 0
    fresh = replace(case, census=replace(case.census, awake={Slot(BF16, H100): 3}))
    assert "what it drains serves 20 requests/s" in rejected(made, fresh)
