"""The load generator against a whole cluster: its schedule, its tenants, its joules."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadtest.live.run import LiveOptions, run_live
from loadtest.live.targets import target_of
from loadtest.run import Ending
from loadtest.scenario import Scenario

if TYPE_CHECKING:
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

DECODE_STEP_S = 0.002
TOKENS = 8
SCENARIO = Scenario.model_validate(
    {
        "name": "both-classes",
        "arrivals": {"open": {"process": "poisson", "rate_per_s": 12}},
        "warmup_s": 1,
        "duration_s": 4,
        "requests": [
            {
                "service_class": name,
                "tenant": f"tenant-{name}",
                "prompt": {"tokens": 20, "shared_prefix_tokens": 16},
                "completion_tokens": TOKENS,
                "turns": turns,
            }
            for name, turns in (("interactive", 1), ("batch", 2))
        ],
    }
)


async def test_a_scenario_runs_to_its_end_and_all_its_joules_are_somebodys(
    cluster: LiveCluster,
) -> None:
    options = LiveOptions(seed=2, workers=2)
    target = target_of(cluster.address, "echo")
    run = await asyncio.to_thread(run_live, SCENARIO, target, options)
    requests = run.requests
    assert not run.partial
    assert (requests.ending == Ending.COMPLETED).all()
    assert (requests.completion_tokens == TOKENS).all()
    assert set(run.variants) <= {"small", "large"}
    assert (requests.energy_j > 0).all()
    assert [each.name for each in run.classes] == ["interactive", "batch"]
    assert all(each.objective is not None for each in run.classes)
    # What the engine takes is the least that anybody can have measured.
    assert (requests.e2e_latency_s >= (TOKENS - 1) * DECODE_STEP_S).all()
    assert (requests.ttft_s >= requests.server_ttft_s - 1e-3).all()
    seconds = requests.select(requests.turn == 1)
    assert seconds.prompt_tokens.tolist() == [16 + 20 + TOKENS + 20] * len(seconds.turn)
    energy_j = np.array([sample.energy_j for sample in run.samples])
    assert len(energy_j) >= 4
    assert (np.diff(energy_j) >= -1e-6).all()
    assert max(sample.awake_replicas for sample in run.samples) >= 1
    await cluster.assert_released()
    tenants = {account.tenant for account in (await cluster.status()).accounts}
    assert {"tenant-interactive", "tenant-batch"} <= tenants
