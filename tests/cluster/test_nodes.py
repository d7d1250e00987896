"""Four Ray nodes on this machine: load rises and falls, things are lost, and no stream notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.cluster.live_cluster import eventually, running
from tests.soak.cluster import WORKER, WORKERS, configuration
from tests.soak.ray_nodes import ray_nodes
from tests.soak.report import figures
from tests.soak.runs import carried_out
from tests.soak.schedules import Fault, Phase, Schedule
from tests.soak.streams import watched

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SCHEDULE = Schedule(
    seed=0,
    phases=(Phase(6.0, 3.0), Phase(14.0, 12.0), Phase(20.0, 3.0)),
    faults=(
        Fault(5.0, "kill_engine", 0.0),
        Fault(9.0, "kill_gateway", 0.0),
        Fault(13.0, "remove_node", 0.0),
    ),
)
# Two small nodes, and models of which each fills one.
PAIR = {"num_cpus": 4, "num_gpus": 2, "resources": {"accelerator_type:H100": 1}}
TWO = """
models:
  - name: a
    variants: [&variant {name: a, engine: echo, accelerator: h100-sxm, cpus_per_replica: 0.1,
        min_replicas: 0, max_replicas: 2, echo: {decode_step_s: 0.02}}]
  - name: b
    variants: [{<<: *variant, name: b}]
planner: {period_s: 2}
gateway: {ingress: head_node}
node_groups:
  - {name: h100, accelerator: h100-sxm, accelerators_per_node: 2, max_nodes: 2}
"""
LONG = 500


async def test_no_stream_is_lost_or_altered(tmp_path: Path) -> None:
    with (
        ray_nodes(WORKERS, WORKER) as nodes,
        running(tmp_path, configuration("planner"), ray_address=nodes.address) as cluster,
    ):
        # Something is awake when the first fault comes.
        await cluster.assert_serves("echo")
        run = await carried_out(cluster, nodes, SCHEDULE)
    found = figures([run])
    assert found["streams"] > 100
    assert (found["failed"], found["altered"]) == (0, 0), found
    assert run.leftovers == {}
    assert [kind for _, kind in run.losses_s] == [fault.kind for fault in SCHEDULE.faults]
    assert found["most_awake"] > 0


@pytest.mark.thorough
async def test_replicas_that_fit_on_one_node_leave_the_other(tmp_path: Path) -> None:
    with (
        ray_nodes(2, PAIR, {"RAY_SERVE_NODE_COMPACTION_DELAY_S": "2"}) as nodes,
        running(tmp_path, TWO, ray_address=nodes.address) as cluster,
    ):

        async def places() -> dict[str, list[str]]:
            engines = [*await cluster.engines("a"), *await cluster.engines("b")]
            by_node: dict[str, list[str]] = {}
            for each in engines:
                by_node.setdefault(each["node"], []).append(each["deployment"])
            return {node: sorted(variants) for node, variants in by_node.items()}

        async def brought_to(wanted: list[list[str]]) -> bool:
            return sorted((await places()).values()) == wanted

        async def pinned(a: int, b: int, wanted: list[list[str]]) -> None:
            await cluster.command("plan", "--pin", f"a={a}", "--pin", f"b={b}")
            assert await eventually(lambda: brought_to(wanted)), await places()

        await pinned(2, 0, [["a", "a"]])
        await pinned(2, 2, [["a", "a"], ["b", "b"]])
        async with cluster.client() as client:
            streams = [
                asyncio.create_task(watched(client, model, [1, 2, 3], LONG, echoes=True))
                for model in ("a", "b")
                for _ in range(6)
            ]
            await asyncio.sleep(1.0)
            # One of each is left, each on a node of its own: both fit on one.
            await pinned(1, 1, [["a", "b"]])
            seen = await asyncio.gather(*streams)
        assert [(each.error, each.altered, each.resumes) for each in seen] == [("", False, 0)] * 12
        await cluster.assert_released()
