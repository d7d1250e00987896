"""A replica's process dies: its streams go on elsewhere, and it comes back."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.jouleserve.client import Completion
from tests.cluster.live_cluster import PATIENCE_S, eventually

if TYPE_CHECKING:
    from protos.jouleserve.client import AsyncClient
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
REPLICAS = 2
STREAMS = 8
TOKENS = 150
# At 1000 tokens a second the first token comes after a second or more.
LONG_PROMPT = list(range(1000))
LATECOMERS = 4


class Reading:
    """A stream that a task reads."""

    def __init__(self, client: AsyncClient, prompt: list[int]) -> None:
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.started = asyncio.Event()
        stream = client.generate("slow", prompt_token_ids=prompt, max_tokens=TOKENS)
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: Any) -> Completion:
        async for tokens in stream:
            self.token_ids += tokens.token_ids
            self.started.set()
        completion = await stream.complete()
        assert isinstance(completion, Completion)
        return completion

    def expected(self) -> list[int]:
        return [self.prompt[place % len(self.prompt)] for place in range(TOKENS)]


async def busiest(cluster: LiveCluster, variant: str) -> dict[str, Any]:
    """Find the replica of a variant that has most to do."""
    held = {each["replica"]: each["open_streams"] for each in await cluster.probe.statuses()}
    return max(await cluster.engines(variant), key=lambda each: held[each["replica"]])


async def recover(cluster: LiveCluster, *victims: dict[str, Any]) -> None:
    """Wait until others have taken the place of the victims, and nothing is shown of these."""
    (variant,) = {victim["deployment"] for victim in victims}
    gone = {victim["replica"] for victim in victims}

    async def back() -> bool:
        shown = [each for each in (await cluster.status()).replicas if each.variant == variant]
        others = not gone & {each.replica for each in shown}
        return others and [each.state for each in shown] == ["awake"] * REPLICAS

    assert await eventually(back), await cluster.status()


async def test_streams_of_a_killed_replica_go_on_elsewhere(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        begun = [Reading(client, [7, 8, 9]) for _ in range(STREAMS)]
        await asyncio.gather(*(each.started.wait() for each in begun))
        victim = await busiest(cluster, "slow")
        waiting = [Reading(client, LONG_PROMPT) for _ in range(LATECOMERS)]
        await asyncio.sleep(0.3)
        await cluster.probe.kill(victim)
        ends = await asyncio.gather(*(each.task for each in (*begun, *waiting)))
    for reading, end in zip((*begun, *waiting), ends, strict=True):
        assert list(end.token_ids) == reading.token_ids == reading.expected()
        assert end.finish.replica != victim["replica"]
    usages = [end.finish.usage for end in ends]
    assert sum(usage.resumes for usage in usages[:STREAMS]) > 0
    assert sum(usage.resumes for usage in usages[STREAMS:]) == 0  # They had no token yet.
    assert all((usage.resumes > 0) == (usage.replayed_tokens > 3) for usage in usages)
    await cluster.assert_released()
    await recover(cluster, victim)
    await cluster.assert_serves("slow")


async def test_health_follows_the_replicas(cluster: LiveCluster) -> None:
    """While no replica of a model is awake the gateway says so, and when there is one again."""
    async with aio.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=2 * PATIENCE_S)
        assert (await watch.read()).status == SERVING
        victims = await cluster.engines("slow")
        for replica in victims:
            await cluster.probe.kill(replica)
        assert (await watch.read()).status == NOT_SERVING
        assert http_health(cluster) == (503, {"serving": False})
        async with cluster.client() as client:
            held = asyncio.create_task(client.complete("slow", "hello", max_tokens=1))
            # Another model is not concerned.
            assert (await client.complete("echo", "hello", max_tokens=1)).token_ids
            assert not held.done()
            # It waits for the replica that takes the place of those that are gone.
            assert (await held).token_ids
        assert (await watch.read()).status == SERVING
        watch.cancel()
    assert http_health(cluster) == (200, {"serving": True})
    await recover(cluster, *victims)
    await cluster.assert_serves("slow")
    await cluster.assert_released()


async def test_a_client_does_not_notice(cluster: LiveCluster) -> None:
    """Requests keep coming while a replica dies, and none of them fails."""
    completed = 0
    stop = asyncio.Event()

    async def go_on(client: AsyncClient) -> None:
        nonlocal completed
        while not stop.is_set():
            reply = await client.complete("echo", "hello", max_tokens=20, variant="small")
            assert reply.token_ids == tuple(b"hello" * 4)
            completed += 1

    async with cluster.client() as client:
        readers = [asyncio.create_task(go_on(client)) for _ in range(8)]
        await asyncio.sleep(0.5)
        victim, _ = await cluster.engines("small")
        await cluster.probe.kill(victim)
        before = completed
        await recover(cluster, victim)
        stop.set()
        await asyncio.gather(*readers)
    assert completed > before
    await cluster.assert_released()


def http_health(cluster: LiveCluster) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(f"{cluster.http_url}/health", timeout=60) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)
