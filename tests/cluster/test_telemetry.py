"""What operators fetch from a live cluster: metrics at one port, logs that give nothing away."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.live_cluster import eventually

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Token ids that nothing else has, and a key that opens nothing.
SECRET_IDS = [1918273645, 1546372819, 1029384756]
SECRET_KEY = "sk-canary-5bd1e995"


def scraped(port: int) -> dict[str, list[Sample]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[Sample]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


async def test_one_port_tells_of_gateway_planner_and_every_replica(
    cluster: LiveCluster, metrics_port: int
) -> None:
    async with cluster.client() as client:
        await client.complete("echo", prompt_token_ids=[1, 2, 3], max_tokens=5, variant="large")
    awake = {each.replica for each in (await cluster.status()).replicas if each.state == "awake"}

    async def complete() -> bool:
        found = await asyncio.to_thread(scraped, metrics_port)
        shown = {each.labels["jouleserve_replica"] for each in found["jouleserve_power_w_watts"]}
        return shown == awake and "jouleserve_plan_predicted_w_watts" in found

    assert await eventually(complete)
    found = await asyncio.to_thread(scraped, metrics_port)
    (requests,) = (
        each
        for each in found["jouleserve_requests_total"]
        if each.labels.get("jouleserve_variant") == "large"
        and each.labels["jouleserve_outcome"] == "completed"
    )
    assert requests.value >= 1
    assert requests.labels["jouleserve_objectives"] == "met"
    for name in (
        "gen_ai_server_time_to_first_token_seconds_count",
        "gen_ai_server_request_duration_seconds_count",
        "jouleserve_energy_j_joules_sum",
    ):
        assert any(each.labels.get("jouleserve_variant") == "large" for each in found[name]), name
    energy = found["jouleserve_replica_energy_j_joules_total"]
    assert {each.labels["jouleserve_variant"] for each in energy} == {"large", "small", "slow"}


async def test_logs_tell_neither_prompts_nor_keys(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        await client.complete("echo", prompt_token_ids=SECRET_IDS, max_tokens=3)
        with pytest.raises(Exception, match="at least 1"):
            await client.complete("echo", prompt_token_ids=SECRET_IDS, max_tokens=0)
    await asyncio.to_thread(_list_models, cluster)
    lines = _log_lines(cluster)
    assert any("is ready" in line for line in lines), "these are the logs"
    for line in lines:
        assert SECRET_KEY not in line
        assert not any(str(token) in line for token in SECRET_IDS)


async def test_log_lines_are_objects_where_that_is_asked(cluster: LiveCluster) -> None:
    ready = [line for line in _log_lines(cluster) if "is ready" in line]
    assert ready
    assert all(json.loads(line)["logger"] == "jouleserve.serve" for line in ready)


def _list_models(cluster: LiveCluster) -> None:
    request = urllib.request.Request(
        f"{cluster.http_url}/v1/models", headers={"Authorization": f"Bearer {SECRET_KEY}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


def _log_lines(cluster: LiveCluster) -> list[str]:
    logs = Path(cluster.directory, "session_latest", "logs", "serve")
    files = [each for each in logs.rglob("*.log") if each.is_file()]
    return [line for each in files for line in each.read_text(errors="replace").splitlines()]
