"""The spans of a request in a replica: the engine's own record, within the gateway's trace."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from cluster import telemetry_attributes as names
from cluster.telemetry_spans import Spans
from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.engine import EngineRequest
from serve.engine_echo import EchoEngine
from serve.engine_spans import RequestTracer
from serve.load import LoadMeter
from serve.replica import Replica, Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
HEADERS = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"}
STEPS = AffineSteps(
    t0_s=1e-3, t1_s=0.0, e0_j=0.1, e1_j=0.01, prefill_s_per_token=1e-4, prefill_j_per_token=0.01
)


class Engine(EchoEngine):
    """An echo engine that keeps what it was asked."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked: list[EngineRequest] = []

    def generate(self, request: EngineRequest) -> Any:
        self.asked.append(request)
        return super().generate(request)


class Traced:
    def __init__(self, decode_step_s: float) -> None:
        self.exporter = InMemorySpanExporter()
        spans = Spans(TracerProvider(), SimpleSpanProcessor(self.exporter))
        ledger = Ledger(STEPS, 10.0, "model", "cpu")
        books = Telemetry(LoadMeter(time.monotonic()), ledger, time.monotonic)
        self.engine = Engine(decode_step_s, 1e9, 64, 4096, books.observe)
        self.replica = Replica("r1", self.engine, books, 0.05, RequestTracer(spans, "int8"))

    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@asynccontextmanager
async def traced(decode_step_s: float = 0.0) -> AsyncGenerator[Traced]:
    traced = Traced(decode_step_s)
    await traced.engine.start()
    try:
        yield traced
    finally:
        await traced.replica.stop()


def request(**fields: Any) -> EngineRequest:
    return EngineRequest("r", [1, 2, 3], 8, trace_headers=HEADERS, **fields)


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


async def test_queue_prefill_and_decode_follow_each_other_in_the_gateways_trace() -> None:
    async with traced() as it:
        await it.replica.generate(request(), 1, "g")
    spans = it.spans()
    whole = spans["engine int8"]
    assert whole.context is not None
    assert set(spans) == {"engine int8", "queue", "prefill", "decode"}
    assert {f"{span.context.trace_id:032x}" for span in spans.values() if span.context} == {
        TRACE_ID
    }
    assert (parent_id(whole), whole.kind) == (PARENT_ID, SpanKind.SERVER)
    own_id = f"{whole.context.span_id:016x}"
    stages = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {parent_id(span) for span in stages} == {own_id}
    assert all(before.end_time == after.start_time for before, after in pairwise(stages))
    assert it.engine.asked[0].trace_headers["traceparent"] == f"00-{TRACE_ID}-{own_id}-01"
    said = dict(whole.attributes or {})
    assert (said[names.INPUT_TOKENS], said[names.OUTPUT_TOKENS]) == (3, 8)
    assert said[names.OUTCOME] == "completed"
    energy_j = said[names.ENERGY_J]
    assert isinstance(energy_j, float)
    assert energy_j > 0


async def test_replayed_tokens_are_told() -> None:
    async with traced() as it:
        await it.replica.generate(request(replayed_token_ids=[1, 2]), 1, "g")
    said = dict(it.spans()["engine int8"].attributes or {})
    assert (said[names.REPLAYED_TOKENS], said[names.OUTPUT_TOKENS]) == (5, 6)


async def test_a_request_that_is_cancelled_has_the_whole_alone() -> None:
    async with traced(decode_step_s=10.0) as it:
        task = asyncio.create_task(it.replica.generate(request(), 1, "g"))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait([task])
    assert set(it.spans()) == {"engine int8"}
    assert dict(it.spans()["engine int8"].attributes or {})[names.OUTCOME] == "cancelled"


async def test_a_request_that_the_engine_refuses_says_why() -> None:
    async with traced() as it:
        await it.replica.generate(EngineRequest("r", [], 8, trace_headers=HEADERS), 1, "g")
    (span,) = it.spans().values()
    assert dict(span.attributes or {})[names.ERROR_TYPE] == "invalid_request_error"
    assert span.status.status_code is StatusCode.UNSET, "the client's fault is not ours"


async def test_what_the_gateway_does_not_trace_is_not_traced_here() -> None:
    async with traced() as it:
        for number, headers in enumerate(({}, UNSAMPLED, {"traceparent": "nonsense"})):
            asked = EngineRequest("r", [1], 8, trace_headers=headers)
            await it.replica.generate(asked, number, "g")
        assert [each.trace_headers for each in it.engine.asked] == [
            {}, UNSAMPLED, {"traceparent": "nonsense"}
        ]  # fmt: skip
    assert not it.spans()
