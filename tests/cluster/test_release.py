"""A client that goes, however it goes, leaves nothing: no lease, no stream, no running request."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from protos.jouleserve.client import CallCancelledError, DeadlineExceededError
from tests.cluster.live_cluster import HERE, PATIENCE_S, PROJECT

if TYPE_CHECKING:
    from protos.jouleserve.client import AsyncClient
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

ENDLESS = 2000
AT_ONCE = 40


class Vanishing:
    """A client process with many streams."""

    def __init__(self, cluster: LiveCluster, streams: int) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "vanishing_client.py"),
                *(cluster.address, "slow", str(streams)),
            ],
            env={"PYTHONPATH": str(PROJECT)},
            stdout=subprocess.PIPE,
            text=True,
        )

    async def vanish(self) -> None:
        """Let the kernel end it once all of its streams run."""
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(PATIENCE_S):
                line = await asyncio.to_thread(self._process.stdout.readline)
        finally:
            self._process.kill()
            self._process.communicate()
        assert line == "all run\n"


async def cancel(client: AsyncClient, after_tokens: int) -> None:
    async with client.generate("slow", "hello", max_tokens=ENDLESS) as stream:
        for _ in range(after_tokens):
            await anext(stream)
        stream.cancel()
        with pytest.raises(CallCancelledError):
            await stream.complete()


async def leave(client: AsyncClient, after_s: float) -> None:
    async with client.generate("slow", "hello", max_tokens=ENDLESS) as stream:
        reading = asyncio.create_task(stream.complete())
        await asyncio.sleep(after_s)
        reading.cancel()
        await asyncio.wait([reading])


async def run_out_of_time(client: AsyncClient, timeout_s: float) -> None:
    with pytest.raises(DeadlineExceededError):
        await client.complete("slow", "hello", max_tokens=ENDLESS, timeout_s=timeout_s)


async def hang_up(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        stream = client.generate("slow", "hello", max_tokens=ENDLESS)
        await anext(stream)
    with pytest.raises(CallCancelledError):
        await stream.complete()


@pytest.mark.parametrize("after_tokens", [0, 1, 5])
async def test_after_a_cancel(cluster: LiveCluster, after_tokens: int) -> None:
    async with cluster.client() as client:
        await cancel(client, after_tokens)
        await cluster.assert_released()


@pytest.mark.parametrize("timeout_s", [0.001, 0.05, 0.5])
async def test_after_a_deadline(cluster: LiveCluster, timeout_s: float) -> None:
    async with cluster.client() as client:
        await run_out_of_time(client, timeout_s)
        await cluster.assert_released()


async def test_after_the_connection_was_closed(cluster: LiveCluster) -> None:
    await hang_up(cluster)
    await cluster.assert_released()


async def test_after_the_client_was_killed(cluster: LiveCluster) -> None:
    await Vanishing(cluster, 5).vanish()
    await cluster.assert_released()


async def test_while_requests_wait_for_a_place_in_the_batch(cluster: LiveCluster) -> None:
    """More streams than both batches hold: some are cancelled before the engine began them."""
    async with cluster.client() as client:
        await asyncio.gather(*(leave(client, 1.0) for _ in range(300)))
        await cluster.assert_released()


async def test_two_hundred_times_over(cluster: LiveCluster) -> None:
    before = (await cluster.status()).counters
    gate = asyncio.Semaphore(AT_ONCE)
    vanishing = [Vanishing(cluster, 20) for _ in range(2)]
    async with cluster.client() as client:

        async def go(number: int) -> None:
            async with gate:
                match number % 4:
                    case 0:
                        await cancel(client, after_tokens=number // 4 % 4)
                    case 1:
                        await run_out_of_time(client, timeout_s=0.01 * (number % 30))
                    case 2:
                        await leave(client, after_s=0.005 * (number % 50))
                    case _:
                        await hang_up(cluster)

        await asyncio.gather(
            *(go(number) for number in range(160)), *(each.vanish() for each in vanishing)
        )
    await cluster.assert_released()
    after = (await cluster.status()).counters
    # Some were gone before the gateway had accepted them; no other way of ending was seen.
    assert 100 <= after.cancelled - before.cancelled <= 200
    assert after.accepted - before.accepted == after.cancelled - before.cancelled
    await cluster.assert_serves("slow")
