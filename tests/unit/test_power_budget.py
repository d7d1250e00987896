"""The power budget at the door: who may take new work, as gateways are told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from cluster.accelerators import CATALOGUE
from scheduler.power import peak_w
from scheduler.requests import ReplicaId
from serve import catalogue, status
from serve.calls import Outcome
from tests.gateway_fakes import (
    LARGE,
    SMALL,
    Desk,
    Rig,
    cluster_config,
    ending,
    idle_report,
    settle,
    tokens,
)
from tests.planner_fakes import BIG, Shell, config

if TYPE_CHECKING:
    from scheduler.requests import VariantName

A, B = ReplicaId("a"), ReplicaId("b")


def takes_work(rig: Rig) -> set[ReplicaId]:
    return {each.replica for each in rig.engines.fleet().replicas if not each.draining}


# ── gateway ─────────────────────────────────────────────────────────────────


async def test_only_those_that_may_are_given_new_work() -> None:
    rig = Rig()
    await rig.wake({LARGE: [A, B]})
    assert takes_work(rig) == {A, B}
    rig.engines.permit(frozenset({B}))
    assert takes_work(rig) == {B}
    rig.engines.permit(None)
    assert takes_work(rig) == {A, B}


async def test_a_replica_that_comes_rests_until_it_may_work() -> None:
    rig = Rig()
    await rig.wake({LARGE: [A]})
    rig.engines.permit(frozenset({A}))
    await rig.wake({SMALL: [B]})
    assert takes_work(rig) == {A}
    rig.engines.permit(frozenset({A, B}))
    assert takes_work(rig) == {A, B}


async def test_a_replica_that_leaves_does_not_come_back_by_a_permission() -> None:
    rig = Rig()
    await rig.wake({LARGE: [A, B]})
    rig.engines.permit(frozenset({B}))
    await rig.wake({LARGE: [B]})
    rig.engines.permit(None)
    assert takes_work(rig) == {B}


async def test_what_is_held_goes_on_once_a_replica_may_work_and_nothing_in_flight_is_cut() -> None:
    desk = Desk(cluster_config(hold_timeout_s=60.0))
    await desk.wake({LARGE: [A]})
    first = desk.dispatcher.serve(desk.call())
    task = asyncio.create_task(anext(first))
    await settle()
    (begun,) = desk.submissions
    desk.engines.permit(frozenset())
    later = asyncio.create_task(anext(desk.dispatcher.serve(desk.call(request_id="later"))))
    await settle()
    assert set(desk.submissions) == {begun}
    desk.send(LARGE, A, tokens(begun, 1), ending(begun, [2], [1, 2]))
    await task
    assert [type(item) async for item in first][-1] is Outcome
    assert not later.done()
    desk.engines.permit(frozenset({A}))
    await settle()
    assert len(desk.submissions) == 2
    later.cancel()
    await settle()


async def test_people_see_who_rests() -> None:
    desk = Desk()
    await desk.wake({LARGE: [A, B]})
    desk.engines.permit(frozenset({B}))
    shown = status.cluster(cluster_config(), desk.engines, desk.dispatcher.tally, (), 0.0)
    assert {each.replica: each.state for each in shown.replicas} == {"a": "resting", "b": "awake"}


async def test_a_gateway_tells_who_serves_and_who_of_them_has_work() -> None:
    rig = Rig()
    await rig.wake({LARGE: [A, B]})
    rig.send(LARGE, A, report=idle_report()._replace(running_requests=1))
    await settle()
    assert rig.engines.members() == {A: LARGE, B: LARGE}
    assert rig.engines.busy() == {A}


# ── planner ─────────────────────────────────────────────────────────────────


def awake(shell: Shell) -> dict[ReplicaId, VariantName]:
    return {ReplicaId(each.replica): each.variant for each in shell.running.values()}


def told(shell: Shell) -> frozenset[ReplicaId] | None:
    return shell.hear(awake=awake(shell)).workers


def test_without_a_budget_everybody_works() -> None:
    shell = Shell()
    shell.start(BIG, 2)
    shell.turn()
    assert told(shell) is None
    assert shell.hear().troubles == ()


def test_a_budget_that_falls_lets_replicas_rest_and_says_so() -> None:
    plenty_w = 1e6
    shell = Shell(config(power_budget_w=plenty_w))
    names = shell.start(BIG, 2)
    shell.turn()
    assert told(shell) == frozenset(names)
    variants = catalogue.variants(shell.config)
    nodes_w = 4 * (CATALOGUE["h100-sxm"].idle_w + CATALOGUE["l4"].idle_w)
    scarce = config(power_budget_w=nodes_w + 1.5 * peak_w(variants[BIG]))
    shell.planner.configure(scarce, variants, shell.now_s)
    assert len(told(shell) or names) == 1
    assert "power" in {each.subject for each in shell.hear(awake=awake(shell)).troubles}
    shell.planner.configure(config(power_budget_w=plenty_w), variants, shell.now_s)
    assert told(shell) == frozenset(names)
