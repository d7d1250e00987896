"""Nodes that Ray's autoscaler switches on for a request, and off when nothing is expected."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cluster.autoscaled_ray import autoscaled_ray
from tests.cluster.live_cluster import LiveCluster, eventually, running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.thorough, pytest.mark.timeout(600)]

WORKER = {"CPU": 4, "GPU": 2, "accelerator_type:H100": 1}
CONFIG = """
models:
  - name: echo
    variants:
      - {name: h100, engine: echo, accelerator: h100-sxm, cpus_per_replica: 0.1, max_batch: 8,
          min_replicas: 0, max_replicas: 4, start_s: 5, echo: {decode_step_s: 0.02}}
planner: {period_s: 2, horizon_s: 60, asleep_after_s: 5}
gateway: {ingress: head_node, hold_timeout_s: 110}
node_groups:
  - {name: h100, accelerator: h100-sxm, accelerators_per_node: 2, max_nodes: 2,
      node_power_w: 500, boot_s: 5, boot_j: 1000}
"""


async def nodes_on(cluster: LiveCluster) -> int:
    async with cluster.client() as client:
        plan = await client.plan()
    return sum(each.ready for each in plan.nodes)


async def test_a_request_switches_a_node_on_and_silence_switches_it_off(tmp_path: Path) -> None:
    with (
        autoscaled_ray(WORKER, most=2, idle_s=3.0) as address,
        running(tmp_path, CONFIG, ray_address=address) as cluster,
    ):

        async def none_is_on() -> bool:
            return await nodes_on(cluster) == 0

        async def both_are_on() -> bool:
            return await nodes_on(cluster) == 2

        assert await eventually(none_is_on)
        await cluster.assert_serves("echo")
        assert await nodes_on(cluster) == 1

        # A node has two accelerators; what is pinned needs the other node too.
        await cluster.command("plan", "--pin", "h100=3")
        assert await eventually(both_are_on)
        await asyncio.gather(*(cluster.assert_serves("echo") for _ in range(8)))
        await cluster.command("plan", "--unpin")

        assert await eventually(none_is_on), await cluster.command("plan")
        await cluster.assert_serves("echo")
        await cluster.assert_released()
