"""On a live cluster every joule of the replicas is on an account, or idle; replies carry theirs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest

from protos.jouleserve.errors import JouleserveClientError
from protos.jouleserve.v1 import inference_pb2 as pb
from protos.jouleserve.v1.inference_pb2_grpc import InferenceStub
from tests.cluster.live_cluster import eventually

if TYPE_CHECKING:
    from protos.jouleserve.client import AsyncClient, ClusterStatus
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

G_PER_J = 400 * 1.25 / 3.6e6
# Replicas share out what they used once a second, and report twice.
SETTLED_S = 2.5
TENANTS = ("blue", "green", "")


def booked_j(status: ClusterStatus) -> float:
    return sum(account.energy_j for account in status.accounts)


async def at_rest(cluster: LiveCluster) -> ClusterStatus:
    """Give the status once nothing runs, and what has run is shared out."""

    async def idle() -> bool:
        status = await cluster.status()
        return not any(each.running_requests + each.waiting_requests for each in status.replicas)

    await eventually(idle)
    await asyncio.sleep(SETTLED_S)
    return await cluster.status()


async def ask(client: AsyncClient, number: int) -> None:
    """Ask for something, and lose patience every fourth time, whoever asks."""
    call = client.complete(
        "echo",
        None,
        prompt_token_ids=list(range(1, 20)),
        max_tokens=40 + number % 60,
        tenant=TENANTS[number % len(TENANTS)],
    )
    if number % 4:
        await call
        return
    try:
        await asyncio.wait_for(call, 0.1)
    except (TimeoutError, JouleserveClientError):
        return


async def test_every_joule_is_on_an_account_or_idle(cluster: LiveCluster) -> None:
    before = await at_rest(cluster)
    async with cluster.client() as client:
        for wave in range(4):
            await asyncio.gather(*(ask(client, 30 * wave + each) for each in range(30)))
    after = await at_rest(cluster)
    known = {each.replica: each for each in before.replicas}
    used_j = sum(each.energy_j - known[each.replica].energy_j for each in after.replicas)
    idle_j = sum(each.idle_j - known[each.replica].idle_j for each in after.replicas)
    accounts_j = booked_j(after) - booked_j(before)
    assert accounts_j > 0.1
    assert used_j == pytest.approx(accounts_j + idle_j, rel=0.005)
    assert all(each.residual_j == 0.0 for each in after.replicas)
    assert {account.tenant for account in after.accounts} >= set(TENANTS)


async def test_a_reply_says_its_share_power_and_emissions(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        done = await client.complete("echo", None, prompt_token_ids=[1, 2, 3], max_tokens=50)
    energy = done.finish.usage.energy
    assert energy.method == "model"
    assert 0 < energy.share <= 1
    assert energy.mean_power_w > 0
    assert energy.gco2e == pytest.approx(energy.energy_j * G_PER_J)


async def test_trailing_metadata_says_what_a_call_has_used(cluster: LiveCluster) -> None:
    async with grpc.aio.insecure_channel(cluster.address) as channel:
        call = InferenceStub(channel).Generate(
            pb.GenerateRequest(
                model="echo",
                prompt_token_ids=pb.TokenIds(ids=[1, 2, 3]),
                sampling=pb.Sampling(max_tokens=20),
                tenant="blue",
            )
        )
        replies = [reply async for reply in call]
        told = dict(await call.trailing_metadata())
    energy = replies[-1].finish.usage.energy
    assert float(told["jouleserve-energy-j"]) == pytest.approx(energy.energy_j, abs=1e-6)
    assert told["jouleserve-energy-method"] == "model"
    assert float(told["jouleserve-gco2e"]) == pytest.approx(energy.gco2e, abs=1e-9)


async def test_a_tenant_that_is_no_name_is_refused(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        with pytest.raises(JouleserveClientError, match="64 letters"):
            await client.complete("echo", None, prompt_token_ids=[1], tenant="a b")


async def test_status_says_what_a_kilowatt_hour_emits(cluster: LiveCluster) -> None:
    carbon = (await cluster.status()).carbon
    assert carbon is not None
    assert (carbon.gco2e_per_kwh, carbon.pue, carbon.source, carbon.trouble) == (
        *(400.0, 1.25, "constant", ""),
    )
