"""What is counted of a call once it has ended, whichever way."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Sum

from cluster import telemetry_attributes as names
from cluster import telemetry_metrics
from cluster.telemetry_requests import RequestRecord, Requests
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.calls import Wishes
from serve.observation import CallObserver, observe_books
from tests.gateway_fakes import LARGE, Desk, cluster_config, ending, settle, tokens

if TYPE_CHECKING:
    from serve.calls import Journey


class Records(Requests):
    """Keeps what is counted."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[RequestRecord] = []

    def record(self, request: RequestRecord) -> None:
        self.all.append(request)


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    desk = Desk(cluster_config(max_resumes=0))
    await desk.wake({LARGE: ["a"]})
    return desk


async def read(desk: Desk, **changes: Any) -> None:
    async for _ in desk.dispatcher.serve(desk.call(**changes)):
        pass


async def completed(desk: Desk, **changes: Any) -> Journey:
    task = asyncio.create_task(read(desk, **changes))
    await settle()
    desk.clock.now_s += 1.0
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    desk.clock.now_s += 2.0
    part = ending(1, [6, 7], [5, 6, 7])
    assert part.delta is not None
    assert part.delta.finish is not None
    finish = part.delta.finish._replace(prefill_s=0.25)
    desk.send(LARGE, "a", part._replace(delta=part.delta._replace(finish=finish)))
    await task
    return desk.journeys[-1]


async def refused(desk: Desk, **changes: Any) -> Journey:
    await asyncio.gather(read(desk, **changes), return_exceptions=True)
    return desk.journeys[-1]


async def lost(desk: Desk) -> Journey:
    task = asyncio.create_task(read(desk))
    await settle()
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    desk.handles[LARGE].break_connection(ReplicaId("a"))
    await asyncio.gather(task, return_exceptions=True)
    return desk.journeys[-1]


async def cancelled(desk: Desk) -> Journey:
    task = asyncio.create_task(read(desk))
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return desk.journeys[-1]


async def test_a_completed_call_is_measured(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}), records)(
        await completed(desk, wishes=Wishes(service_class="batch"))
    )
    (record,) = records.all
    assert record == RequestRecord(
        outcome="completed",
        model="m",
        variant="large",
        service_class="batch",
        operation="text_completion",
        objectives="met",
        prompt_tokens=4,
        completion_tokens=3,
        ttft_s=1.0,
        tpot_s=1.0,
        e2e_latency_s=3.0,
        energy_j=3.0,
        energy_method="model",
    )


@pytest.mark.parametrize(("ttft_s", "objectives"), [(1.0, "met"), (0.99, "missed")])
async def test_a_completed_call_is_judged_by_its_own_objectives(
    desk: Desk, records: Records, ttft_s: float, objectives: str
) -> None:
    wishes = Wishes(service_class="batch", ttft_s=ttft_s)
    CallObserver(frozenset({"m"}), records)(await completed(desk, wishes=wishes))
    assert [record.objectives for record in records.all] == [objectives]


async def test_a_refused_call_counts_by_its_fault(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}), records)(await refused(desk, max_tokens=0))
    (record,) = records.all
    assert (record.outcome, record.error) == ("rejected", "invalid_request_error")
    assert (record.completion_tokens, record.ttft_s, record.energy_j) == (0, None, None)
    assert not record.objectives, "a fault of the client's says nothing about the service"


async def test_a_model_of_the_clients_own_making_begins_no_time_series(
    desk: Desk, records: Records
) -> None:
    CallObserver(frozenset({"m"}), records)(await refused(desk, model="x" * 1000))
    assert [record.model for record in records.all] == [""]


async def test_a_lost_call_keeps_the_tokens_that_came(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}), records)(await lost(desk))
    (record,) = records.all
    assert (record.outcome, record.error) == ("failed", "replica_lost")
    assert record.completion_tokens == 1
    assert record.objectives == "missed"
    assert record.ttft_s == 0.0
    assert record.e2e_latency_s is None


async def test_a_cancelled_call_is_nobodys_fault(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}), records)(await cancelled(desk))
    (record,) = records.all
    assert (record.outcome, record.error) == ("cancelled", "")


@pytest.mark.parametrize("items", [1, 2, 3, 4])
async def test_wherever_the_client_leaves_record_and_tally_agree(
    desk: Desk, records: Records, items: int
) -> None:
    """Two messages of tokens, the outcome, the end: it leaves with the last of so many in hand."""
    serving = desk.dispatcher.serve(desk.call())
    taken = 0

    async def take() -> None:
        nonlocal taken
        async with aclosing(serving):
            async for _ in serving:
                taken += 1
                if taken == items:
                    return

    task = asyncio.create_task(take())
    await settle()
    desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    desk.send(LARGE, "a", ending(1, [6], [5, 6]))
    await task
    CallObserver(frozenset({"m"}), records)(desk.journeys[-1])
    tally = desk.dispatcher.tally
    counted = {"completed": tally.completed, "cancelled": tally.cancelled, "failed": tally.failed}
    assert {name: int(name == records.all[0].outcome) for name in counted} == counted


# ── books ───────────────────────────────────────────────────────────────────


async def test_tenants_accounts_are_read_at_every_export(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    monkeypatch.setattr(telemetry_metrics, "meter", lambda _: meter)
    observe_books(desk.dispatcher.books, "g")
    assert reader.get_metrics_data() is None
    await completed(desk, wishes=Wishes(tenant="acme"))
    data = reader.get_metrics_data()
    assert data is not None
    read = {
        metric.name: [
            (point.value, dict(point.attributes or {})) for point in metric.data.data_points
        ]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if isinstance(metric.data, Sum)
    }
    whose = {names.TENANT: "acme", names.GATEWAY: "g"}
    assert read == {
        "jouleserve.tenant_energy_j": [(3.0, whose)],
        "jouleserve.tenant_emissions_g": [(0.0, whose)],
    }
