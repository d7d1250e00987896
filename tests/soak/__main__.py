"""Soak a cluster of echo engines in faults: `python -m tests.soak --schedules 100 --out soak.json`.

Ends with 1 if a stream failed or was altered, or anything was left held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cluster.live_cluster import running
from tests.soak.cluster import (
    VLLM_MODEL,
    VLLM_WORKER,
    VLLM_WORKERS,
    WORKER,
    WORKERS,
    configuration,
    vllm_configuration,
)
from tests.soak.ray_nodes import ray_nodes
from tests.soak.report import figures
from tests.soak.runs import carried_out
from tests.soak.schedules import steady, tenfold
from tests.soak.streams import ECHO

if TYPE_CHECKING:
    from tests.cluster.live_cluster import LiveCluster
    from tests.soak.ray_nodes import RayNodes
    from tests.soak.runs import Run
    from tests.soak.schedules import Schedule


async def _soak(
    cluster: LiveCluster, nodes: RayNodes, schedules: list[Schedule], model: str
) -> list[Run]:
    runs = []
    for number, schedule in enumerate(schedules, 1):
        run = await carried_out(cluster, nodes, schedule, model)
        runs.append(run)
        one = figures([run])
        gap = one["loss_to_next_token_s"].get("max", 0.0)
        sys.stdout.write(
            f"{number}/{len(schedules)} seed {schedule.seed}: {one['streams']} streams,"
            f" {one['failed']} failed, {one['altered']} altered, {one['resumed']} resumed,"
            f" {sum(one['losses'].values())} losses, {one['left']} left,"
            f" next token within {gap:.2f} s {one['errors'][:1] or ''}\n"
        )
        sys.stdout.flush()
    return runs


def main() -> int:
    """Run it; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedules", type=int, default=10, help="runs, each with its own seed")
    parser.add_argument("--seed", type=int, default=0, help="of the first")
    parser.add_argument("--shape", choices=("steady", "tenfold"), default="steady")
    parser.add_argument("--rate", type=float, default=6.0, help="requests/s; of tenfold, the low")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a run; of tenfold, a phase")
    parser.add_argument("--faults", type=int, default=2, help="in each run")
    parser.add_argument("--autoscaler", choices=("planner", "queue_based"), default="planner")
    parser.add_argument("--queue-target", type=float, default=4.0, help="of queue_based")
    parser.add_argument("--engine", choices=("echo", "vllm"), default="echo")
    parser.add_argument("--out", type=Path, help="JSON file")
    given = parser.parse_args()
    schedules = [
        tenfold(seed, low_per_s=given.rate, scale_s=given.seconds, faults=given.faults)
        if given.shape == "tenfold"
        else steady(seed, requests_per_s=given.rate, duration_s=given.seconds, faults=given.faults)
        for seed in range(given.seed, given.seed + given.schedules)
    ]
    config = configuration(given.autoscaler, given.queue_target)
    model, workers = ECHO, (WORKERS, WORKER)
    if given.engine == "vllm":
        config, model = vllm_configuration(), VLLM_MODEL
        workers = (VLLM_WORKERS, VLLM_WORKER)
    began_s = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as directory,
        ray_nodes(*workers) as nodes,
        running(Path(directory), config, ray_address=nodes.address) as cluster,
    ):
        runs = asyncio.run(_soak(cluster, nodes, schedules, model))
    result = figures(runs) | {"autoscaler": given.autoscaler, "took_s": time.monotonic() - began_s}
    text = json.dumps(result, indent=2)
    sys.stdout.write(text + "\n")
    if given.out:
        given.out.write_text(text + "\n")
    return 1 if result["failed"] or result["altered"] or result["left"] else 0


if __name__ == "__main__":
    sys.exit(main())
