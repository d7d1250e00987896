"""What the planner remembers from turn to turn, and what it makes of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.nodes import GroupState
from scheduler.capacity import unfit
from scheduler.steps import AffineSteps
from scheduler.traffic import Traffic
from scheduler.validation import Rejected
from serve import catalogue
from serve.plan_news import GatewayNews, PlanNews
from tests.planner_fakes import (
    BATCH,
    BIG,
    EPOCH_S,
    H100,
    L4,
    SMALL,
    STANDARD,
    Shell,
    config,
    echo,
    traffic,
)


@pytest.fixture
def shell() -> Shell:
    return Shell()


def rate(shell: Shell) -> float:
    """Requests/s of the standard class that are expected now; 0 if nobody has heard of it."""
    demand = shell.draft().demands.get(STANDARD)
    return demand.requests_per_s if demand else 0.0


def sleepers(shell: Shell) -> set[str]:
    return {each.variant for each in shell.planner.news(shell.now_s).sleepers}


def start_s(shell: Shell) -> dict[str, float]:
    return {each.variant: each.start_s for each in shell.draft().plan_input.placements}


# ── gateways ────────────────────────────────────────────────────────────────


def test_totals_of_a_gateway_that_was_not_known_are_of_the_past(shell: Shell) -> None:
    shell.hear(5000)
    shell.turn()
    assert rate(shell) == 0


def test_what_has_come_since_a_gateway_last_spoke_counts(shell: Shell) -> None:
    shell.hear(5000)
    shell.hear(100)
    shell.turn()
    assert rate(shell) == pytest.approx(10.0)


def test_a_class_that_a_known_gateway_names_for_the_first_time_counts(shell: Shell) -> None:
    shell.hear({BATCH: 10})
    shell.hear({STANDARD: 100})
    shell.turn()
    assert rate(shell) == pytest.approx(10.0)


def test_a_gateway_that_is_silent_is_forgotten_with_what_it_holds(shell: Shell) -> None:
    shell.hear(held={STANDARD: 30})
    shell.turn(after_s=30.0)
    assert rate(shell) > 0
    shell.turn(after_s=0.1)
    assert rate(shell) == 0
    assert not shell.planner.urgent()


def test_a_gateway_that_comes_back_after_it_was_forgotten_brings_no_old_traffic(
    shell: Shell,
) -> None:
    shell.hear()
    shell.turn(after_s=31.0)
    shell.hear(5000)
    shell.turn()
    assert rate(shell) == 0


def test_a_gateway_that_speaks_is_remembered_while_another_is_forgotten(shell: Shell) -> None:
    shell.hear(gateway="silent", power_w=900.0)
    shell.now_s += 20.0
    answer = shell.hear(gateway="speaks", power_w=100.0)
    assert answer.power_w == 900.0
    shell.turn(after_s=20.0)
    assert shell.planner.news(shell.now_s).power_w == 100.0


def test_requests_that_gateways_hold_add_up(shell: Shell) -> None:
    shell.hear(gateway="a", held={STANDARD: 30})
    once = rate(shell)
    shell.hear(gateway="b", held={STANDARD: 60})
    assert rate(shell) == pytest.approx(3 * once)


def test_requests_are_planned_for_with_their_own_floor(shell: Shell) -> None:
    floor = STANDARD._replace(min_quality=0.97)
    shell.hear(gateway="a", held={STANDARD: 1, floor: 1})
    demands = shell.draft().demands
    assert demands[STANDARD].objective.min_quality < demands[floor].objective.min_quality == 0.97


def test_requests_that_name_a_variant_are_planned_for_on_it_alone(shell: Shell) -> None:
    one = STANDARD._replace(variant=BIG)
    shell.hear(gateway="a", held={one: 1})
    draft = shell.draft()
    assert draft.demands[one].variant == BIG
    fitting = [
        name
        for name, variant in draft.plan_input.variants.items()
        if not unfit(variant, draft.demands[one])
    ]
    assert fitting == [BIG]


def test_requests_that_wait_in_replicas_are_not_counted_by_every_gateway(shell: Shell) -> None:
    shell.hear(gateway="a")
    shell.hear(100, gateway="a", waiting={BIG: 40})
    shell.turn()
    once = shell.draft().demands
    shell.hear(gateway="b", waiting={BIG: 30})
    assert shell.draft().demands == once
    shell.hear(gateway="b", waiting={BIG: 80})
    more = shell.draft().demands[STANDARD].upper_requests_per_s
    assert more > once[STANDARD].upper_requests_per_s


def test_step_models_that_gateways_correct_are_planned_with(shell: Shell) -> None:
    corrected = AffineSteps(0.5, 0.1, 9.0, 1.0, 0.01, 1.0)
    shell.hear(steps={BIG: corrected, "unheard of": corrected})
    variants = shell.draft().plan_input.variants
    assert variants[BIG].steps == corrected
    assert set(variants) == {BIG, SMALL}


def test_step_models_that_gateways_corrected_outlive_a_change_of_configuration(
    shell: Shell,
) -> None:
    corrected = AffineSteps(0.5, 0.1, 9.0, 1.0, 0.01, 1.0)
    shell.hear(steps={BIG: corrected})
    shell.planner.configure(
        config(pinned={SMALL: 1}), catalogue.variants(shell.config), shell.now_s
    )
    assert shell.draft().plan_input.variants[BIG].steps == corrected


def test_step_models_that_gateways_corrected_are_dropped_with_the_variant_they_were_of(
    shell: Shell,
) -> None:
    corrected = AffineSteps(0.5, 0.1, 9.0, 1.0, 0.01, 1.0)
    shell.hear(steps={BIG: corrected})
    given = catalogue.variants(shell.config)
    other = replace(given[BIG], context_power_w=given[BIG].context_power_w + 1.0)
    shell.planner.configure(shell.config, {**given, BIG: other}, shell.now_s)
    assert shell.draft().plan_input.variants[BIG] == other


# ── lost replicas ───────────────────────────────────────────────────────────


def test_what_another_gateway_still_reaches_is_not_lost(shell: Shell) -> None:
    here, there = shell.start(BIG, 2)
    shell.hear(gateway="a", lost=frozenset({here, there}))
    shell.hear(gateway="b", lost=frozenset({here}), awake={there: BIG})
    assert [each.replica for each in shell.draft().situation.deployed.running] == [there]


def test_a_gateway_that_never_knew_a_replica_hides_no_loss(shell: Shell) -> None:
    (lost,) = shell.start(BIG)
    shell.hear(gateway="a", lost=frozenset({lost}))
    shell.hear(gateway="new")
    assert shell.planner.urgent()
    assert not shell.draft().situation.deployed.running


def test_lost_replicas_are_wanted_beside_those_that_take_their_place(shell: Shell) -> None:
    shell.hear(held={STANDARD: 1})
    shell.turn()
    (wanted,) = [name for name, count in shell.planner.targets().items() if count]
    (lost,) = shell.start(wanted)
    shell.hear(held={STANDARD: 1}, lost=frozenset({lost}))
    shell.turn()
    assert shell.wanted(**{wanted: 2})
    del shell.running[lost]
    shell.turn()
    assert shell.wanted(**{wanted: 1})


def test_a_loss_is_urgent_until_it_is_planned_with(shell: Shell) -> None:
    (lost,) = shell.start(BIG)
    shell.hear(lost=frozenset({lost}))
    assert shell.planner.urgent()
    shell.turn()
    assert not shell.planner.urgent()


@pytest.mark.parametrize(
    ("news", "urgent"), [({}, False), ({"strained": True}, True), ({"held": {STANDARD: 1}}, True)]
)
def test_requests_without_room_are_urgent(
    shell: Shell, news: dict[str, Any], *, urgent: bool
) -> None:
    shell.hear(100, **news)
    assert shell.planner.urgent() is urgent
    shell.hear()
    assert not shell.planner.urgent()


# ── plans ───────────────────────────────────────────────────────────────────


def test_before_the_first_plan_nothing_is_said(shell: Shell) -> None:
    assert shell.planner.targets() == {}
    assert shell.hear() == PlanNews()


def test_a_first_plan_that_does_not_hold_is_none(shell: Shell) -> None:
    assert shell.planner.adopt(Rejected("too old"), shell.draft(), 0.1) is None
    assert shell.planner.targets() == {}


def test_a_plan_that_does_not_hold_leaves_the_old_one_and_says_why(shell: Shell) -> None:
    shell.hear(held={STANDARD: 1})
    before, targets = shell.turn(), shell.planner.targets()
    assert before is not None
    after = shell.planner.adopt(Rejected("a node is gone"), shell.draft(), 0.1)
    assert after == replace(before, rejected="a node is gone")
    assert shell.planner.targets() == targets
    assert any("a node is gone" in each.reason for each in shell.hear().troubles)


def test_a_plan_that_holds_ends_the_rejection(shell: Shell) -> None:
    shell.turn()
    shell.planner.adopt(Rejected("a node is gone"), shell.draft(), 0.1)
    planned = shell.turn()
    assert planned is not None
    assert planned.rejected == ""


def test_news_tell_how_old_the_plan_is(shell: Shell) -> None:
    shell.turn()
    shell.now_s += 7.0
    assert shell.planner.news(shell.now_s).age_s == pytest.approx(7.0)


def test_a_plan_stands_beside_what_there_is(shell: Shell) -> None:
    shell.start(BIG)
    shell.starting[SMALL] = 1
    shell.nodes[L4] = GroupState(ready=1, booting=1, trouble="slow", accelerators_per_node=4)
    planned = shell.turn()
    assert planned is not None
    there = {slot.variant: (each.awake, each.starting) for slot, each in planned.slots.items()}
    assert there == {BIG: (1, 0), SMALL: (0, 1)}
    nodes = planned.groups[L4]
    assert (nodes.ready, nodes.booting, nodes.trouble) == (1, 1, "slow")


def test_a_pin_is_planned_and_said_from_the_next_plan_on(shell: Shell) -> None:
    shell.turn()
    pinned = config(pinned={BIG: 2})
    shell.planner.configure(pinned, catalogue.variants(pinned), shell.now_s)
    planned = shell.turn()
    assert planned is not None
    assert shell.wanted(big=2)
    assert {slot.variant: each.pinned for slot, each in planned.slots.items()} == {
        BIG: True,
        SMALL: False,
    }


def test_traffic_that_was_learnt_outlives_a_change_of_configuration(shell: Shell) -> None:
    shell.hear()
    shell.hear(100)
    shell.turn()
    before = rate(shell)
    shell.planner.configure(shell.config, catalogue.variants(shell.config), shell.now_s)
    assert rate(shell) == before > 0


# ── starts ──────────────────────────────────────────────────────────────────


def test_how_long_a_start_takes_is_not_learnt_from_those_that_were_there_before(
    shell: Shell,
) -> None:
    shell.start(BIG, asked_s_ago=9000.0)
    shell.turn()
    assert start_s(shell) == {BIG: 60.0, SMALL: 60.0}


def test_how_long_a_start_takes_is_learnt_from_those_that_come_up(shell: Shell) -> None:
    shell.start(SMALL)
    shell.draft()
    shell.start(BIG, asked_s_ago=20.0)
    assert start_s(shell) == {BIG: 20.0, SMALL: 60.0}
    shell.start(BIG, asked_s_ago=40.0)
    assert 20.0 < start_s(shell)[BIG] < 30.0


def test_a_start_is_learnt_once(shell: Shell) -> None:
    shell.start(SMALL)
    shell.draft()
    shell.start(BIG, asked_s_ago=20.0)
    shell.draft()
    shell.now_s += 1000.0
    assert start_s(shell)[BIG] == 20.0


def test_how_long_the_first_start_after_sleep_takes_is_learnt(shell: Shell) -> None:
    shell.draft()
    shell.start(BIG, asked_s_ago=20.0)
    assert start_s(shell)[BIG] == 20.0


def test_a_replica_that_is_reached_again_tells_nothing_of_starts(shell: Shell) -> None:
    shell.start(SMALL)
    (lost,) = shell.start(BIG)
    shell.draft()
    shell.now_s += 3600.0
    shell.hear(lost=frozenset({lost}))
    shell.draft()
    shell.hear()
    assert start_s(shell)[BIG] == 60.0


@pytest.mark.parametrize("asked_s_ago", [0.5, 9000.0], ids=["recovered", "reconfigured"])
def test_a_replica_that_ray_serve_looks_at_anew_tells_nothing_of_starts(
    shell: Shell, asked_s_ago: float
) -> None:
    shell.start(SMALL)
    (known,) = shell.start(BIG)
    shell.draft()
    there, shell.starting[BIG] = shell.running.pop(known), 1
    shell.draft()
    del shell.starting[BIG]
    shell.running[known] = replace(there, asked_at_s=shell.now_s - asked_s_ago)
    assert start_s(shell) == {BIG: 60.0, SMALL: 60.0}


# ── sleepers ────────────────────────────────────────────────────────────────


def test_nothing_can_be_woken_before_the_first_plan(shell: Shell) -> None:
    assert sleepers(shell) == set()


def test_variants_with_room_for_one_more_can_be_woken(shell: Shell) -> None:
    shell.turn()
    assert sleepers(shell) == {BIG, SMALL}


def test_a_variant_that_has_all_its_replicas_cannot_be_woken(shell: Shell) -> None:
    shell.start(BIG)
    shell.starting[BIG] = 1
    shell.turn()
    assert sleepers(shell) == {SMALL}


def test_a_variant_that_does_not_come_up_cannot_be_woken(shell: Shell) -> None:
    shell.failures[BIG] = "no such weights"
    shell.turn()
    assert sleepers(shell) == {SMALL}


def test_a_variant_of_a_fixed_number_cannot_be_woken() -> None:
    fixed = echo(BIG, "h100-sxm", min_replicas=1, max_replicas=None)
    shell = Shell(config(fixed, echo(SMALL, "l4")))
    shell.turn()
    assert sleepers(shell) == {SMALL}


def test_a_variant_that_is_pinned_to_what_it_has_cannot_be_woken() -> None:
    shell = Shell(config(pinned={BIG: 0}))
    shell.turn()
    assert sleepers(shell) == {SMALL}


def test_waking_takes_as_long_as_was_learnt(shell: Shell) -> None:
    shell.start(SMALL)
    shell.turn()
    shell.start(BIG, asked_s_ago=20.0)
    shell.turn(after_s=0.0)
    took_s = {each.variant: each.start_s for each in shell.planner.news(EPOCH_S).sleepers}
    assert took_s == {BIG: 20.0, SMALL: 60.0}


# ── obstacles ───────────────────────────────────────────────────────────────


def test_another_variant_takes_the_place_of_one_that_does_not_come_up(shell: Shell) -> None:
    shell.hear(held={STANDARD: 1})
    shell.turn()
    (first,) = [name for name, count in shell.planner.targets().items() if count]
    other = SMALL if first == BIG else BIG
    shell.failures[first] = "no such weights"
    shell.hear(held={STANDARD: 1})
    shell.turn()
    assert shell.wanted(**{other: 1})
    assert any("no such weights" in each.reason for each in shell.hear().troubles)


def test_trouble_of_nodes_is_in_the_way_of_those_that_seek_one(shell: Shell) -> None:
    shell.nodes[H100] = GroupState(trouble="no machine left")
    shell.starting[BIG], shell.seekers[BIG] = 1, 0.0
    assert dict(shell.draft().situation.obstacles) == {BIG: "no machine left"}


def test_a_node_that_the_plan_asks_for_may_boot_before_patience_ends() -> None:
    shell = Shell(config(echo(BIG, "h100-sxm", min_replicas=1)))
    shell.nodes[H100] = GroupState()
    shell.turn()
    shell.starting[BIG], shell.seekers[BIG] = 1, 149.0
    assert shell.draft().situation.obstacles == {}
    shell.seekers[BIG] = 150.0
    assert set(shell.draft().situation.obstacles) == {BIG}


# ── what changes nothing ────────────────────────────────────────────────────


def test_a_plan_that_is_only_proposed_changes_nothing(shell: Shell) -> None:
    (lost,) = shell.start(BIG)
    shell.turn()
    shell.hear(lost=frozenset({lost}))
    before = (shell.planner.urgent(), shell.planner.targets())
    shell.failures[SMALL] = "no such weights"
    shell.planner.draft(shell.observed())
    assert (shell.planner.urgent(), shell.planner.targets()) == before
    assert SMALL in sleepers(shell)


def test_news_that_was_overtaken_on_its_way_is_ignored(shell: Shell) -> None:
    shell.planner.hear(GatewayNews("g", 1, {STANDARD: traffic(10)}), shell.now_s)
    shell.planner.hear(GatewayNews("g", 2, {STANDARD: traffic(50)}), shell.now_s)
    shell.planner.hear(GatewayNews("g", 1, {STANDARD: traffic(20)}), shell.now_s)
    shell.planner.hear(GatewayNews("g", 3, {STANDARD: traffic(60)}), shell.now_s)
    shell.now_s += 10.0
    shell.planner.observe(shell.observed())
    other = Shell()
    other.planner.hear(GatewayNews("g", 1, {STANDARD: traffic(10)}), other.now_s)
    other.planner.hear(GatewayNews("g", 2, {STANDARD: traffic(60)}), other.now_s)
    other.now_s += 10.0
    other.planner.observe(other.observed())
    assert shell.draft().demands == other.draft().demands


def test_news_that_was_overtaken_is_ignored_though_no_request_came_in_between(
    shell: Shell,
) -> None:
    waits = GatewayNews("g", 1, {STANDARD: Traffic(requests=1)}, held={STANDARD: 1})
    ended = GatewayNews("g", 2, {STANDARD: traffic(1)})
    for news in (waits, ended, waits):
        shell.planner.hear(news, shell.now_s)
    assert not shell.planner.urgent()


def test_a_pin_does_not_forget_what_keeps_a_variant_from_coming_up(shell: Shell) -> None:
    shell.failures[BIG] = "no such weights"
    shell.turn()
    shell.planner.configure(
        config(pinned={SMALL: 1}), catalogue.variants(shell.config), shell.now_s
    )
    assert BIG not in sleepers(shell)
