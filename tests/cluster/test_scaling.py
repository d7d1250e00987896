"""The planner in charge: what is needed wakes, the rest sleeps, people can see and overrule."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.live_cluster import LiveCluster, eventually, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from protos.jouleserve.client import Plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CONFIG = """
models:
  - name: echo
    variants:
      - name: large
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_batch: 8
        min_replicas: 0
        max_replicas: 4
        start_s: 5
        echo: {decode_step_s: 0.02}
      - name: small
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_batch: 8
        min_replicas: 0
        max_replicas: 4
        start_s: 5
        quality: 0.9
        echo: {decode_step_s: 0.01}
  # Its better half is on nodes that nobody has.
  - name: faraway
    variants:
      - name: absent
        engine: echo
        accelerator: l4
        min_replicas: 0
        max_replicas: 1
        start_s: 5
        echo: {decode_step_s: 0.001}
      - name: present
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        min_replicas: 0
        max_replicas: 1
        start_s: 5
        echo: {decode_step_s: 0.05}
planner: {period_s: 2, horizon_s: 60, asleep_after_s: 10, no_capacity_s: 20}
# The power of a node that is on makes it worth while to let everything sleep.
node_groups:
  - {name: cpu, accelerator: cpu, accelerators_per_node: 1, max_nodes: 1, node_power_w: 50}
  - {name: l4, accelerator: l4, accelerators_per_node: 1, max_nodes: 1, boot_s: 0}
"""
NOTHING = {"large": 0, "small": 0, "absent": 0, "present": 0}


@pytest.fixture(scope="module")
def sleeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    with running(tmp_path_factory.mktemp("sleeper"), CONFIG) as cluster:
        yield cluster


async def planned(cluster: LiveCluster) -> Plan:
    async with cluster.client() as client:
        return await client.plan()


async def awake(cluster: LiveCluster) -> int:
    return sum(each.state == "awake" for each in (await cluster.status()).replicas)


async def all_asleep(cluster: LiveCluster) -> bool:
    return not (await cluster.status()).replicas


def is_idle(cluster: LiveCluster) -> Callable[[], Awaitable[bool]]:
    """Ask whether nothing is awake, and nothing is expected: whatever is woken next is so alone."""

    async def idle() -> bool:
        expected = sum(each.requests_per_s for each in (await planned(cluster)).demands)
        return expected == 0.0 and await all_asleep(cluster)

    return idle


async def test_everything_sleeps_until_a_request_comes(sleeper: LiveCluster) -> None:
    assert await all_asleep(sleeper)
    plan = await planned(sleeper)
    assert plan.planned
    assert {each.variant: each.wanted for each in plan.replicas} == NOTHING
    async with sleeper.client() as client:
        replies = await asyncio.gather(
            *(client.complete("echo", prompt_token_ids=[7, 8], max_tokens=3) for _ in range(5))
        )
    assert [reply.token_ids for reply in replies] == [(7, 8, 7)] * 5
    assert await awake(sleeper)
    await sleeper.assert_released()


async def test_a_plan_can_be_asked_for_and_changes_nothing(sleeper: LiveCluster) -> None:
    async with sleeper.client() as client:
        await client.complete("echo", "hello", max_tokens=1)

        async def expected() -> bool:
            # Gateways tell once a second what came.
            return bool((await client.plan(dry_run=True)).demands)

        assert await eventually(expected)
        proposed = await client.plan(dry_run=True)
    assert proposed.planned
    assert [each.model for each in proposed.demands] == ["echo"]
    assert proposed.predicted_w >= proposed.bound_w > 0
    printed = await sleeper.command("plan", "--dry-run")
    assert "W predicted (model)" in printed


async def test_a_pin_overrules_the_planner_until_it_is_taken_away(sleeper: LiveCluster) -> None:
    await sleeper.command("plan", "--pin", "small=2", "--pin", "large=0")

    async def two() -> bool:
        replicas = (await sleeper.status()).replicas
        return [(each.variant, each.state) for each in replicas] == [("small", "awake")] * 2

    assert await eventually(two), await sleeper.status()
    answer = json.loads(await sleeper.command("plan", "--json"))
    pinned = [each["variant"] for each in answer["replicas"] if each["pinned"]]
    assert pinned == ["large", "small"]
    with pytest.raises(RuntimeError, match="pinned"):
        await sleeper.command("plan", "--pin", "small=9")
    await sleeper.command("plan", "--unpin")

    async def none() -> bool:
        return await all_asleep(sleeper)

    assert await eventually(none), await planned(sleeper)
    await sleeper.assert_serves("echo", min_quality=0.95)


async def test_a_request_wakes_what_it_asks_for_although_something_else_is_awake(
    sleeper: LiveCluster,
) -> None:
    await sleeper.command("plan", "--pin", "small=1")

    async def small() -> bool:
        return await sleeper.awake("small") == 1

    try:
        assert await eventually(small), await sleeper.status()
        await sleeper.assert_serves("echo", min_quality=0.95)
    finally:
        await sleeper.command("plan", "--unpin")
    assert await eventually(is_idle(sleeper)), await planned(sleeper)
    await sleeper.assert_serves("echo", variant="large")
    assert await eventually(is_idle(sleeper)), await planned(sleeper)
    await sleeper.assert_serves("echo", variant="small")


async def test_where_nothing_comes_up_the_next_best_is_woken_and_people_are_told(
    sleeper: LiveCluster,
) -> None:
    assert await eventually(is_idle(sleeper)), await planned(sleeper)
    assert (await sleeper.status()).troubles == ()
    async with sleeper.client() as client:
        completion = await client.complete("faraway", "hello", max_tokens=1)
    assert completion.finish.variant == "present"

    async def told() -> bool:
        return bool((await sleeper.status()).troubles)

    assert await eventually(told), await planned(sleeper)
    (trouble,) = (await sleeper.status()).troubles
    assert trouble.subject == "absent"
    assert "looked for a place" in trouble.reason
    assert f"! absent: {trouble.reason}" in await sleeper.command("status")
    remarks = {each.variant: each.trouble for each in (await planned(sleeper)).replicas}
    assert remarks == {**dict.fromkeys(NOTHING, ""), "absent": remarks["absent"]}
