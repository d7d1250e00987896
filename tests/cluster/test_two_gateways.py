"""Two gateways over the same replicas: they see each other's work, and fall each alone.

They ask for API keys, so that all of this is seen to work with them.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from protos.jouleserve.calls import API_KEY
from protos.jouleserve.client import (
    AsyncClient,
    Completion,
    UnauthenticatedError,
    UnavailableError,
)
from tests.cluster.live_cluster import PATIENCE_S, LiveCluster, eventually, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from protos.jouleserve.client import ClusterStatus

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

CONFIG = """
models:
  - name: slow
    variants:
      - name: slow
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        echo: {decode_step_s: 0.02}
gateway:
  replicas: 2
  api_keys_file: keys
"""
KEY = "the-key-of-these-tests"
STREAMS = 16
# Sixteen seconds: a gateway dies, is missed and replaced, and the ingress starts anew, twice.
TOKENS = 800
# A replica gives a gateway two seconds to come back.
ABANDON_S = 10.0


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    directory = tmp_path_factory.mktemp("pair")
    (directory / "keys").write_text(f"# these tests\n{KEY}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(API_KEY, KEY)
        with running(directory, CONFIG) as cluster:
            yield cluster


async def views(cluster: LiveCluster) -> dict[str, ClusterStatus]:
    """Ask until both gateways have answered; the ingress chooses which one does."""
    found: dict[str, ClusterStatus] = {}

    async def both() -> bool:
        status = await cluster.status()
        found[status.gateway] = status
        return len(found) == 2

    assert await eventually(both), found
    return found


@pytest.mark.parametrize("shown", ["", "another-key"])
async def test_who_shows_no_key_is_refused_and_may_ask_for_health(
    pair: LiveCluster, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    monkeypatch.setenv(API_KEY, shown)
    async with pair.client() as client:
        for call in (client.generate("slow", "hello").complete, client.models, client.status):
            with pytest.raises(UnauthenticatedError, match="Bearer KEY") as refusal:
                await call()
            assert refusal.value.kind == "unauthenticated"
        with pytest.raises(UnauthenticatedError):
            await client.plan()
    for path in ("v1/models", "v1/chat/completions", "v1/completions"):
        request = Request(f"{pair.http_url}/{path}", headers={"authorization": f"Bearer {shown}"})
        request.data = None if path == "v1/models" else b"{}"
        with pytest.raises(HTTPError) as refused:
            await asyncio.to_thread(urlopen, request, timeout=PATIENCE_S)
        with refused.value as answer:
            assert answer.code == 401, path
            assert json.load(answer)["error"]["type"] == "unauthenticated"
    assert await asyncio.to_thread(urlopen, f"{pair.http_url}/health", timeout=PATIENCE_S)


async def test_both_serve_and_see_each_others_work(pair: LiveCluster) -> None:
    clients = [pair.client() for _ in range(STREAMS)]
    streams = [client.generate("slow", "hello", max_tokens=TOKENS) for client in clients]
    await asyncio.gather(*(anext(stream) for stream in streams))

    async def agreed() -> bool:
        statuses = (await views(pair)).values()
        return {each.replicas[0].running_requests for each in statuses} == {STREAMS}

    assert await eventually(agreed), await views(pair)
    counters = [each.counters for each in (await views(pair)).values()]
    assert all(each.in_flight > 0 for each in counters)
    assert sum(each.in_flight for each in counters) == STREAMS
    assert all(each.leases == each.in_flight for each in counters)
    await asyncio.gather(*(client.close() for client in clients))
    await assert_both_free(pair)


async def test_one_that_is_killed_takes_only_its_own_streams_along(pair: LiveCluster) -> None:
    # They do not go on elsewhere, so that every stream shows which gateway it had.
    clients = [AsyncClient(pair.address, timeout_s=PATIENCE_S, resumes=0) for _ in range(STREAMS)]
    streams = [client.generate("slow", "hello", max_tokens=TOKENS) for client in clients]
    await asyncio.gather(*(anext(stream) for stream in streams))
    reading = [asyncio.create_task(stream.complete()) for stream in streams]
    leases = sorted(each.counters.leases for each in (await views(pair)).values())
    victim, *_ = await pair.gateways()
    await pair.probe.kill(victim)

    async def fallen() -> int:
        return sum(task.done() for task in reading)

    assert await eventually(fallen)
    kept = await settled(pair)
    lost = [task for task in reading if task.done()]
    assert sorted([len(lost), kept]) == leases
    assert all(isinstance(task.exception(), UnavailableError) for task in lost)

    await pair.assert_serves("slow")
    async with asyncio.timeout(PATIENCE_S):
        ends = await asyncio.gather(*reading, return_exceptions=True)
    whole = [end for end in ends if isinstance(end, Completion)]
    assert len(whole) == kept, [end for end in ends if isinstance(end, BaseException)]
    assert all(len(each.token_ids) == TOKENS for each in whole)
    await asyncio.gather(*(client.close() for client in clients))

    async def back() -> bool:
        return len(await pair.gateways()) == 2

    assert await eventually(back)
    await assert_both_free(pair)
    async with pair.client() as client:
        await asyncio.gather(*(serve_once(client) for _ in range(STREAMS)))


async def settled(cluster: LiveCluster) -> int:
    """Wait until the engine works for one gateway only; give how much, which its books agree to."""

    async def one() -> bool:
        (replica,) = await cluster.probe.statuses()
        return len(replica["gateways"]) == 1

    assert await eventually(one, ABANDON_S), await cluster.probe.statuses()
    (replica,) = await cluster.probe.statuses()
    counters = (await cluster.status()).counters
    assert counters.in_flight == counters.leases == replica["unfinished_requests"]
    assert replica["open_streams"] == replica["unfinished_requests"]
    return int(replica["unfinished_requests"])


async def assert_both_free(cluster: LiveCluster) -> None:
    async def free() -> bool:
        counters = [each.counters for each in (await views(cluster)).values()]
        (replica,) = await cluster.probe.statuses()
        held = sum(each.in_flight + each.leases for each in counters)
        return not held + replica["unfinished_requests"] + replica["open_streams"]

    assert await eventually(free), await views(cluster)


async def serve_once(client: AsyncClient) -> None:
    reply = await client.complete("slow", prompt_token_ids=[1, 2], max_tokens=3)
    assert reply.token_ids == (1, 2, 1)
