"""Candidates in a live cluster: proposed by themselves, tried with leave, kept or withdrawn."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cluster.live_cluster import LiveCluster, eventually, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from protos.jouleserve.plans import CandidateVariant

pytestmark = [pytest.mark.cluster, pytest.mark.thorough, pytest.mark.timeout(600)]

# Both candidates promise the same; the liar's steps take fifty times as long as its profile says.
CONFIG = """
models:
  - name: echo
    variants:
      - &usual
        name: usual
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_batch: 8
        min_replicas: 0
        max_replicas: 8
        start_s: 5
        echo: {decode_step_s: 0.05}
        profile: {t0_s: 0.05, t1_s: 0, e0_j: 0.02, e1_j: 0.0001, prefill_s_per_token: 0.0001,
                  prefill_j_per_token: 0.00001, measured_on: nowhere}
      - <<: *usual
        name: honest
        candidate: true
        echo: {decode_step_s: 0.01}
        profile: &fast {t0_s: 0.01, t1_s: 0, e0_j: 0.002, e1_j: 0.00001,
                        prefill_s_per_token: 0.0001, prefill_j_per_token: 0.00001,
                        measured_on: nowhere}
      - <<: *usual
        name: liar
        candidate: true
        echo: {decode_step_s: 0.5}
        profile: *fast
node_groups:
  - {name: cpu, accelerator: cpu, accelerators_per_node: 1, max_nodes: 1}
planner:
  period_s: 1
  horizon_s: 60
  adapt: {watch_s: 20, probation_s: 20}
"""
WRITERS, TOKENS, PERIOD_S = 6, 20, 1.5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveCluster]:
    with running(tmp_path_factory.mktemp("candidates"), CONFIG) as cluster:
        yield cluster


async def case(cluster: LiveCluster, name: str) -> CandidateVariant:
    async with cluster.client() as client:
        plan = await client.plan()
    return next(each for each in plan.candidates if each.variant == name)


@asynccontextmanager
async def traffic(cluster: LiveCluster) -> AsyncIterator[None]:
    """Let some clients ask again and again, no more often where answers come sooner."""

    async def write() -> None:
        async with cluster.client() as client:
            while True:
                await asyncio.gather(
                    client.complete("echo", prompt_token_ids=[7, 8], max_tokens=TOKENS),
                    asyncio.sleep(PERIOD_S),
                )

    writers = [asyncio.create_task(write()) for _ in range(WRITERS)]
    try:
        yield
    finally:
        for writer in writers:
            writer.cancel()
        ended = await asyncio.gather(*writers, return_exceptions=True)
    assert all(isinstance(each, asyncio.CancelledError) for each in ended), ended


async def test_candidates_are_proposed_tried_with_leave_and_kept_only_if_they_keep_their_promise(
    cluster: LiveCluster,
) -> None:
    async def reaches(name: str, *phases: str) -> bool:
        return (await case(cluster, name)).phase in phases

    async with traffic(cluster):
        assert await eventually(lambda: reaches("liar", "proposed")), await case(cluster, "liar")
        assert await cluster.awake("liar") == await cluster.awake("honest") == 0
        assert "candidate honest is proposed" in await cluster.command("plan")
        assert (await case(cluster, "honest")).promised > 0.05

        await cluster.command("plan", "--accept", "liar")
        assert await eventually(lambda: reaches("liar", "on probation")), await case(
            cluster, "liar"
        )
        assert await eventually(lambda: reaches("liar", "withdrawn")), await case(cluster, "liar")

        await cluster.command("plan", "--accept", "honest")
        assert await eventually(lambda: reaches("honest", "kept")), await case(cluster, "honest")
        kept = await case(cluster, "honest")
        assert kept.believed is not None
        assert kept.believed > 0.05
        assert (await case(cluster, "liar")).phase == "withdrawn"
        assert await cluster.awake("honest") > 0
        assert await cluster.awake("liar") == 0
    with pytest.raises(RuntimeError, match="no candidate 'usual'"):
        await cluster.command("plan", "--accept", "usual")
    await cluster.assert_released()
