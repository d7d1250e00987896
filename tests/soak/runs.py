"""Carry one schedule out on a live cluster, and give what was seen.

Its own module because load, faults and measuring run side by side and know nothing of each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, TypeVar

from protos.jouleserve.client import AsyncClient, JouleserveClientError
from serve.deployment import GATEWAY, PLANNER
from tests.cluster.live_cluster import PATIENCE_S, eventually
from tests.soak.streams import ECHO, Watched, offered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.cluster.live_cluster import LiveCluster
    from tests.soak.ray_nodes import RayNodes
    from tests.soak.schedules import Fault, Schedule

T = TypeVar("T")

SAMPLE_S = 0.5
CONNECTIONS = 4
# Replicas may be lost several times under one stream in a minute; a fourth time is bad luck that
# a client may be spared.
CLIENT_RESUMES = 10
# When a run is over, nothing of it may be held for longer than this.
RELEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The cluster at one instant.

    Attributes:
        at_s: monotonic.
        awake: replicas that serve.
        nodes: that hold one.
        replicas_w: that these draw together.

    """

    at_s: float
    awake: int
    nodes: int
    replicas_w: float


@dataclass(slots=True)
class Run:
    """What came of a schedule.

    Attributes:
        schedule: itself.
        streams: every one.
        losses_s: when something was lost, by what it was.
        samples: of the cluster meanwhile.
        leftovers: what it still held afterwards; empty if nothing.

    """

    schedule: Schedule
    streams: list[Watched] = field(default_factory=list)
    losses_s: list[tuple[float, str]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    leftovers: dict[str, int] = field(default_factory=dict)

    def gaps_s(self) -> list[float]:
        """Give the time from each loss to the next token of each stream that went on after it."""
        gaps = []
        for stream in self.streams:
            if not stream.resumes:
                continue
            pauses = zip(stream.arrivals_s, stream.arrivals_s[1:], strict=False)
            found = [
                after_s - lost_s
                for before_s, after_s in pauses
                for lost_s, _ in self.losses_s
                if before_s <= lost_s <= after_s
            ]
            if found:
                gaps.append(max(found))
        return gaps


async def carried_out(
    cluster: LiveCluster, nodes: RayNodes, schedule: Schedule, model: str = ECHO
) -> Run:
    """Offer the load, do the damage, and wait until all is over."""
    run = Run(schedule)
    rng = Random(schedule.seed)
    async with AsyncClient(
        cluster.address,
        timeout_s=PATIENCE_S,
        connections=CONNECTIONS,
        resumes=CLIENT_RESUMES,
    ) as client:
        sampling = asyncio.create_task(_sample(cluster, run.samples))
        damage = asyncio.create_task(_damage(cluster, nodes, schedule, run.losses_s))
        try:
            run.streams = await offered(client, schedule, rng, model)
            await damage
        finally:
            damage.cancel()
            sampling.cancel()
    run.leftovers = await _leftovers(cluster)
    return run


async def _damage(
    cluster: LiveCluster,
    nodes: RayNodes,
    schedule: Schedule,
    losses_s: list[tuple[float, str]],
) -> None:
    start_s = time.monotonic()
    for fault in schedule.faults:
        await asyncio.sleep(max(0.0, start_s + fault.at_s - time.monotonic()))
        lost = await _strike(cluster, nodes, fault)
        if lost:
            losses_s.append((time.monotonic(), fault.kind))


async def _strike(cluster: LiveCluster, nodes: RayNodes, fault: Fault) -> bool:
    """Do the damage; whether there was anything to damage."""
    if fault.kind == "remove_node":
        if len(nodes.numbers) < 2:
            return False
        await nodes.remove(_picked(nodes.numbers, fault.pick))
        await nodes.add()
        return True
    replicas = await cluster.probe.replicas()
    if fault.kind == "kill_gateway":
        victims = [each for each in replicas if each["deployment"] == GATEWAY]
        if len(victims) < 2:
            return False
    else:
        victims = [each for each in replicas if each["deployment"] not in {GATEWAY, PLANNER}]
    if not victims:
        return False
    with contextlib.suppress(ProcessLookupError):
        await cluster.probe.kill(_picked(victims, fault.pick))
    return True


def _picked(items: Sequence[T], pick: float) -> T:
    return items[min(len(items) - 1, int(pick * len(items)))]


async def _sample(cluster: LiveCluster, samples: list[Sample]) -> None:
    async with cluster.client() as client:
        while True:
            with contextlib.suppress(JouleserveClientError):
                replicas = (await client.status()).replicas
                samples.append(
                    Sample(
                        time.monotonic(),
                        sum(each.state == "awake" for each in replicas),
                        len({each.node for each in replicas}),
                        sum(each.power_w for each in replicas),
                    )
                )
            await asyncio.sleep(SAMPLE_S)


async def _leftovers(cluster: LiveCluster) -> dict[str, int]:
    async def free() -> bool:
        try:
            return not await cluster.leftovers()
        except JouleserveClientError:
            return False

    if await eventually(free, RELEASE_S):
        return {}
    return await cluster.leftovers()
