"""Four Ray nodes on this machine: load rises and falls, things are lost, and no stream notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.live_cluster import running
from tests.soak.cluster import WORKER, WORKERS, configuration
from tests.soak.ray_nodes import ray_nodes
from tests.soak.report import figures
from tests.soak.runs import carried_out
from tests.soak.schedules import Fault, Phase, Schedule

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
