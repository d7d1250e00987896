"""A gateway's process dies: its streams go on through another, and no client notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from protos.jouleserve.client import Completion
from tests.cluster.live_cluster import LiveCluster, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protos.jouleserve.client import AsyncClient, ClusterStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CONFIG = """
models:
  - name: slow
    variants:
      - name: slow
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        echo: {decode_step_s: 0.05, prefill_tokens_per_s: 2000}
gateway:
  replicas: 2
"""
CLIENTS = 8
STREAMS = 40
TOKENS = 150
# At 2000 tokens a second the first token of the last of them comes after seconds.
LONG_PROMPT = 1500
LATECOMERS = 8


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    with running(tmp_path_factory.mktemp("pair"), CONFIG) as cluster:
        yield cluster


class Reading:
    """A stream that a task reads, and what it should give."""

    def __init__(self, client: AsyncClient, number: int, prompt_tokens: int) -> None:
        self.prompt = [1000 * number + place for place in range(prompt_tokens)]
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.started = asyncio.Event()
        stream = client.generate(
            "slow",
            prompt_token_ids=self.prompt,
            max_tokens=TOKENS,
            request_id=f"stream-{number}",
        )
        self.task = asyncio.create_task(self._read(stream))

    async def _read(self, stream: Any) -> Completion:
        async for tokens in stream:
            self.texts.append(tokens.text)
            self.token_ids += tokens.token_ids
            self.started.set()
        completion = await stream.complete()
        assert isinstance(completion, Completion)
        return completion

    def expected(self) -> list[int]:
        return [self.prompt[place % len(self.prompt)] for place in range(TOKENS)]


async def views(cluster: LiveCluster) -> dict[str, ClusterStatus]:
    """Ask until both gateways have answered; the ingress chooses which one does."""
    found: dict[str, ClusterStatus] = {}

    async def both() -> bool:
        status = await cluster.status()
        found[status.gateway] = status
        return len(found) == 2

    assert await eventually(both), found
    return found


async def test_streams_of_a_killed_gateway_go_on_through_another(pair: LiveCluster) -> None:
    await views(pair)  # The ingress knows both before it has to choose.
    clients = [pair.client() for _ in range(CLIENTS)]
    begun = [Reading(clients[n % CLIENTS], n, 3 + n) for n in range(STREAMS)]
    await asyncio.gather(*(each.started.wait() for each in begun))
    held = {each.counters.in_flight for each in (await views(pair)).values()}
    assert min(held) > 0, "one gateway holds every stream"
    waiting = [
        Reading(clients[n % CLIENTS], STREAMS + n, LONG_PROMPT + n) for n in range(LATECOMERS)
    ]
    await asyncio.sleep(0.3)
    victim, *_ = await pair.gateways()
    await pair.probe.kill(victim)

    readings = [*begun, *waiting]
    ends = await asyncio.gather(*(each.task for each in readings), return_exceptions=True)
    failed = [end for end in ends if not isinstance(end, Completion)]
    assert not failed
    for reading, end in zip(readings, ends, strict=True):
        assert isinstance(end, Completion)
        assert list(end.token_ids) == reading.token_ids == reading.expected()
        assert end.text == "".join(reading.texts) == "".join(f" {t}" for t in reading.expected())
        assert end.finish.usage.completion_tokens == TOKENS
    resumed = [end for end in ends[:STREAMS] if isinstance(end, Completion) and gone_on(end)]
    assert 0 < len(resumed) <= max(held)
    assert all("gateway" in end.finish.reason for end in resumed)
    assert all(end.finish.usage.replayed_tokens > 0 for end in resumed)
    await asyncio.gather(*(client.close() for client in clients))
    await recovered(pair)


def gone_on(end: Completion) -> bool:
    return end.finish.usage.resumes > 0


async def recovered(cluster: LiveCluster) -> None:
    """Wait until there are two gateways again, and nothing is held for anybody."""

    async def back() -> bool:
        return len(await cluster.gateways()) == 2

    async def free() -> bool:
        counters = [each.counters for each in (await views(cluster)).values()]
        (replica,) = await cluster.probe.statuses()
        held = sum(each.in_flight + each.leases for each in counters)
        return not held + replica["unfinished_requests"] + replica["open_streams"]

    assert await eventually(back)
    assert await eventually(free), await views(cluster)
    await cluster.assert_serves("slow")
