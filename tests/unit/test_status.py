"""What a gateway says about the cluster: every model, every replica, and counts that add up."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

from scheduler.fleet import ReplicaReport
from serve import cli_tables, status
from serve import link as link_module
from tests.gateway_fakes import LARGE, SMALL, Desk, cluster_config, settle
from tests.unit.test_dashboard import STATUS

REPORT = ReplicaReport(
    observed_at_s=0.0,
    running_requests=3,
    waiting_requests=2,
    kv_cache_usage=0.25,
    prefill_tokens_per_s=100.0,
    decode_tokens_per_s=50.0,
    step_time_s=0.02,
    power_w=20.0,
    energy_j=1000.0,
)


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    desk = Desk()
    await desk.wake({LARGE: ["a"], SMALL: ["b"]})
    return desk


def test_models_come_with_variants_objectives_and_what_is_awake() -> None:
    (model,) = status.models(cluster_config(), {SMALL: 2}).models
    assert (model.name, model.max_context_tokens) == ("m", 256)
    assert [(each.name, each.quality, each.awake_replicas) for each in model.variants] == [
        ("large", 1.0, 0),
        ("small", 0.9, 2),
    ]
    assert {each.name for each in model.service_classes} == {"interactive", "standard", "batch"}
    assert model.default_service_class == "standard"
    assert all(each.objective.HasField("ttft_s") for each in model.service_classes)


async def test_a_replica_is_shown_as_it_reported_and_how_long_ago(desk: Desk) -> None:
    desk.send(LARGE, "a", report=REPORT)
    await settle()
    desk.clock.now_s += 1.5
    shown = status.cluster(
        cluster_config(), desk.engines, desk.dispatcher.tally, (), desk.clock.now_s
    )
    replica = next(each for each in shown.replicas if each.replica == "a")
    assert (replica.model, replica.variant, replica.node) == ("m", "large", "node")
    assert (replica.accelerator, replica.state) == ("cpu", "awake")
    assert replica.age_s == 1.5
    for name in (
        *("running_requests", "waiting_requests", "kv_cache_usage", "prefill_tokens_per_s"),
        *("decode_tokens_per_s", "step_time_s", "power_w", "energy_j"),
    ):
        assert getattr(replica, name) == getattr(REPORT, name)


async def test_leases_are_shown_where_they_are_held_and_in_all(desk: Desk) -> None:
    task = asyncio.create_task(anext(desk.dispatcher.serve(desk.call())))
    await settle()
    shown = status.cluster(cluster_config(), desk.engines, desk.dispatcher.tally, (), 0.0)
    assert sorted(replica.leases for replica in shown.replicas) == [0, 1]
    counters = shown.counters
    assert (counters.accepted, counters.in_flight, counters.leases) == (1, 1, 1)
    task.cancel()
    await settle()
    shown = status.cluster(cluster_config(), desk.engines, desk.dispatcher.tally, (), 0.0)
    counters = shown.counters
    assert (counters.cancelled, counters.in_flight, counters.leases) == (1, 0, 0)


async def test_a_lost_replica_stays_in_sight(desk: Desk) -> None:
    desk.handles[LARGE].break_connection(next(iter(desk.engines.links)))
    await settle()
    shown = status.cluster(
        cluster_config(), desk.engines, desk.dispatcher.tally, (), desk.clock.now_s
    )
    assert {each.replica: each.state for each in shown.replicas} == {"a": "lost", "b": "awake"}
    assert shown.gateway == "g"
    assert shown.policy == "energy"


def test_in_words_a_status_tells_what_was_met_and_why_who_was_chosen() -> None:
    printed = io.StringIO()
    cli_tables.print_status(Console(file=printed, width=200), STATUS)
    text = printed.getvalue()
    assert "interactive: of 6 requests within 300 s, 3 met their objectives" in text
    assert "2.5 s ago r (batch) to a, one of 1 that could: cheapest" in text
