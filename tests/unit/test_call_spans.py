"""The spans of a call: its stages in order, within its client's trace, and nothing of its text."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from cluster import telemetry
from cluster import telemetry_attributes as names
from cluster.telemetry_spans import Spans
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.call_spans import CallTracer
from serve.observation import outcome_of
from serve.placing import MOST_TRACED
from tests.gateway_fakes import LARGE, Desk, cluster_config, ending, settle, tokens

if TYPE_CHECKING:
    from serve.calls import Call
    from serve.tracing import CallTrace

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
PARENT_ID = "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "tracestate": "vendor=1"}


class Traced:
    """A desk whose calls are traced, and the spans that came of it."""

    def __init__(self, *, max_resumes: int = 1) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        spans = Spans(provider, SimpleSpanProcessor(self.exporter))
        self.current: list[tuple[str, str] | None] = []
        begin = CallTracer(spans, frozenset({"m"}), outcome_of)

        def trace(call: Call) -> CallTrace:
            begun = begin(call)
            self.current.append(telemetry.current_ids())
            return begun

        self.desk = Desk(cluster_config(max_resumes=max_resumes), trace=trace)

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans() if span.name == name)
        return found

    async def read(self, **changes: Any) -> None:
        async for _ in self.desk.dispatcher.serve(self.desk.call(**changes)):
            pass

    async def completed(self, **changes: Any) -> dict[str, str]:
        """Serve a call; give the trace headers that its replica got."""
        task = asyncio.create_task(self.read(**changes))
        await settle()
        headers = self.desk.submissions[1].request.trace_headers
        self.desk.clock.now_s += 1.0
        self.desk.send(LARGE, "a", tokens(1, 5), accepted=[1])
        await settle()
        self.desk.clock.now_s += 2.0
        self.desk.send(LARGE, "a", ending(1, [6, 7], [5, 6, 7]))
        await task
        return headers


@pytest.fixture
async def traced(monkeypatch: pytest.MonkeyPatch) -> Traced:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    traced = Traced()
    await traced.desk.wake({LARGE: ["a"]})
    return traced


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def parent_id(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def lasted_s(span: ReadableSpan) -> float:
    return round(((span.end_time or 0) - (span.start_time or 0)) / 1e9, 2)


async def test_the_stages_follow_each_other_within_the_callers_trace(traced: Traced) -> None:
    await traced.completed(trace_headers=TRACEPARENT, operation="chat")
    root = traced.named("chat m")
    stages = [span for span in traced.spans() if span is not root]
    assert sorted(span.name for span in stages) == ["admit", "route", "serve"]
    assert {ids(span)[0] for span in traced.spans()} == {TRACE_ID}
    assert parent_id(root) == PARENT_ID
    assert {parent_id(span) for span in stages} == {ids(root)[1]}
    assert root.kind is SpanKind.SERVER
    assert traced.named("serve").kind is SpanKind.CLIENT
    assert (lasted_s(root), lasted_s(traced.named("serve"))) == (3.0, 3.0)


async def test_the_replicas_spans_belong_to_the_attempt(traced: Traced) -> None:
    headers = await traced.completed(trace_headers=TRACEPARENT)
    trace_id, span_id = ids(traced.named("serve"))
    assert headers == {"traceparent": f"00-{trace_id}-{span_id}-01", "tracestate": "vendor=1"}


async def test_whatever_is_done_for_a_call_knows_its_trace(traced: Traced) -> None:
    await traced.completed(trace_headers=TRACEPARENT)
    assert traced.current == [ids(traced.named("text_completion m"))]


async def test_spans_carry_what_was_used_and_why(traced: Traced) -> None:
    await traced.desk.wake({LARGE: [chr(ord("a") + number) for number in range(12)]})
    await traced.completed()
    root = said(traced.named("text_completion m"))
    assert root[names.MODEL] == "m"
    assert root[names.RESPONSE_MODEL] == "large"
    assert (root[names.INPUT_TOKENS], root[names.OUTPUT_TOKENS]) == (4, 3)
    assert root[names.FINISH_REASONS] == ["length"]
    assert (root[names.ENERGY_J], root[names.ENERGY_METHOD]) == (3.0, "model")
    assert (root[names.TTFT_S], root[names.TPOT_S]) == (1.0, 1.0)
    assert root[names.OUTCOME] == "completed"
    assert said(traced.named("serve"))[names.REPLICA] == "a"
    routing = said(traced.named("route"))
    assert routing[names.REASON]
    replicas, scores = routing[names.CANDIDATE_REPLICAS], routing[names.CANDIDATE_SCORES]
    assert replicas[0] == routing[names.REPLICA]
    assert len(replicas) == len(scores) == len(routing[names.CANDIDATE_VARIANTS])
    assert len(replicas) == MOST_TRACED, "however many there are"
    assert routing[names.CANDIDATES_EXCLUDED] == 0
    assert list(scores) == sorted(scores)


async def test_a_call_that_goes_on_elsewhere_tells_both_attempts(traced: Traced) -> None:
    desk = traced.desk
    await desk.wake({LARGE: ["a", "b"]})
    task = asyncio.create_task(traced.read(trace_headers=TRACEPARENT))
    await settle()
    first = next(iter(desk.submissions.values())).lease.replica
    desk.send(LARGE, first, tokens(1, 5), accepted=[1])
    await settle()
    desk.handles[LARGE].break_connection(ReplicaId(first))
    await settle()
    second = "b" if first == "a" else "a"
    desk.send(LARGE, second, ending(2, [6], [5, 6]), accepted=[2])
    await task
    lost, resumed = traced.named("serve"), traced.named("resume")
    assert (said(lost)[names.REPLICA], said(resumed)[names.REPLICA]) == (first, second)
    assert lost.status.status_code is StatusCode.ERROR
    assert said(resumed)[names.REPLAYED_TOKENS] == 5
    assert len([span for span in traced.spans() if span.name == "route"]) == 2
    root = traced.named("text_completion m")
    assert said(root)[names.RESUMES] == 1
    assert root.status.status_code is StatusCode.UNSET
    assert {ids(span)[0] for span in traced.spans()} == {TRACE_ID}


async def test_a_refused_call_has_its_fault_and_no_stages(traced: Traced) -> None:
    await asyncio.gather(traced.read(max_tokens=0), return_exceptions=True)
    (root,) = traced.spans()
    assert [event.name for event in root.events] == ["exception"]
    assert said(root)[names.ERROR_TYPE] == "invalid_request_error"
    assert root.status.status_code is StatusCode.UNSET, "the client's fault is not ours"


async def test_a_call_that_finds_no_replica_says_so_of_its_routing(traced: Traced) -> None:
    await traced.desk.wake({LARGE: []})
    await asyncio.gather(traced.read(), return_exceptions=True)
    assert {span.name for span in traced.spans()} == {"admit", "route", "text_completion m"}
    assert traced.named("route").status.status_code is StatusCode.ERROR
    assert traced.named("text_completion m").status.status_code is StatusCode.ERROR


async def test_a_cancelled_call_ends_its_spans(traced: Traced) -> None:
    task = asyncio.create_task(traced.read())
    await settle()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    root = traced.named("text_completion m")
    assert said(root)[names.OUTCOME] == "cancelled"
    assert traced.named("serve").status.status_code is StatusCode.UNSET


async def test_names_of_clients_own_making_name_no_span(traced: Traced) -> None:
    await asyncio.gather(traced.read(model="x" * 1000), return_exceptions=True)
    assert [span.name for span in traced.spans()] == ["text_completion"]


async def test_what_the_sampler_does_not_want_costs_nothing_and_passes_through() -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(TracerProvider(sampler=ALWAYS_OFF), SimpleSpanProcessor(exporter))
    desk = Desk(trace=CallTracer(spans, frozenset({"m"}), outcome_of))
    call = desk.call(trace_headers=TRACEPARENT)
    trace = CallTracer(spans, frozenset({"m"}), outcome_of)(call)
    assert not trace.recording
    assert not exporter.get_finished_spans()
    desk.close()
