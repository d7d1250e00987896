"""What of a call leaves the process: one record, and spans that tell its phases in order."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cluster import telemetry
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.calls import Wishes
from serve.observation import CallObserver
from tests.gateway_fakes import LARGE, Desk, cluster_config, ending, settle, tokens

if TYPE_CHECKING:
    from serve.calls import Journey

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01"}


class Records:
    """Stands in for the process's instruments."""

    def __init__(self) -> None:
        self.all: list[telemetry.RequestRecord] = []

    def record(self, request: telemetry.RequestRecord) -> None:
        self.all.append(request)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Records:
    records = Records()
    monkeypatch.setattr(telemetry, "instruments", lambda: records)
    return records


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "tracer", provider.get_tracer)
    return exporter


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


def spans(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


# ── metrics ─────────────────────────────────────────────────────────────────


async def test_a_completed_call_is_measured(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}))(await completed(desk, wishes=Wishes(service_class="batch")))
    (record,) = records.all
    assert record == telemetry.RequestRecord(
        outcome="completed",
        model="m",
        variant="large",
        service_class="batch",
        prompt_tokens=4,
        completion_tokens=3,
        ttft_s=1.0,
        tpot_s=1.0,
        e2e_latency_s=3.0,
        energy_j=3.0,
        energy_method="model",
    )


async def test_a_refused_call_counts_by_its_fault(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}))(await refused(desk, max_tokens=0))
    (record,) = records.all
    assert (record.outcome, record.error) == ("rejected", "invalid_request_error")
    assert (record.completion_tokens, record.ttft_s, record.energy_j) == (0, None, None)


async def test_a_model_of_the_clients_own_making_begins_no_time_series(
    desk: Desk, records: Records
) -> None:
    CallObserver(frozenset({"m"}))(await refused(desk, model="x" * 1000))
    assert [record.model for record in records.all] == [""]


async def test_a_lost_call_keeps_the_tokens_that_came(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}))(await lost(desk))
    (record,) = records.all
    assert (record.outcome, record.error) == ("failed", "replica_lost")
    assert record.completion_tokens == 1
    assert record.ttft_s == 0.0
    assert record.e2e_latency_s is None


async def test_a_cancelled_call_is_nobodys_fault(desk: Desk, records: Records) -> None:
    CallObserver(frozenset({"m"}))(await cancelled(desk))
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
    CallObserver(frozenset({"m"}))(desk.journeys[-1])
    tally = desk.dispatcher.tally
    counted = {"completed": tally.completed, "cancelled": tally.cancelled, "failed": tally.failed}
    assert {name: int(name == records.all[0].outcome) for name in counted} == counted


# ── spans ───────────────────────────────────────────────────────────────────


async def test_the_phases_follow_each_other_within_the_callers_trace(
    desk: Desk, records: Records, exporter: InMemorySpanExporter
) -> None:
    CallObserver(frozenset({"m"}))(await completed(desk, trace_headers=TRACEPARENT))
    found = spans(exporter)
    root = found.pop("generate m")
    assert list(found) == ["admit", "route", "queue", "prefill", "decode"]
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == TRACE_ID
    for span in found.values():
        assert span.context is not None
        assert span.parent is not None
        assert span.context.trace_id == root.context.trace_id
        assert span.parent.span_id == root.context.span_id
    seconds = {
        name: round(((span.end_time or 0) - (span.start_time or 0)) / 1e9, 2)
        for name, span in found.items()
    }
    assert seconds == {"admit": 0, "route": 0, "queue": 0.75, "prefill": 0.25, "decode": 2.0}


async def test_spans_carry_what_was_used_and_why(
    desk: Desk, records: Records, exporter: InMemorySpanExporter
) -> None:
    CallObserver(frozenset({"m"}))(await completed(desk, wishes=Wishes(explain=True)))
    found = spans(exporter)
    attributes = dict(found["generate m"].attributes or {})
    assert attributes[telemetry.MODEL] == "m"
    assert attributes[telemetry.VARIANT] == "large"
    assert attributes[telemetry.REPLICA] == "a"
    assert attributes[telemetry.OUTPUT_TOKENS] == 3
    assert attributes[telemetry.ENERGY_J] == 3.0
    assert attributes[telemetry.OUTCOME] == "completed"
    routing = dict(found["route"].attributes or {})
    assert routing[telemetry.REASON]
    assert "jouleserve.score.a" in routing


async def test_a_refused_call_has_its_fault_and_no_phases(
    desk: Desk, records: Records, exporter: InMemorySpanExporter
) -> None:
    CallObserver(frozenset({"m"}))(await refused(desk, max_tokens=0))
    (root,) = exporter.get_finished_spans()
    assert [event.name for event in root.events] == ["exception"]


async def test_a_lost_call_has_the_phases_that_it_came_to(
    desk: Desk, records: Records, exporter: InMemorySpanExporter
) -> None:
    CallObserver(frozenset({"m"}))(await lost(desk))
    assert {"admit", "route", "queue", "decode"} <= set(spans(exporter))
    assert dict(spans(exporter)["generate m"].attributes or {})[telemetry.OUTCOME] == "failed"
