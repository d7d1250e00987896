"""A request leaves one trace: the client's, with a span for each thing that it went through."""

from __future__ import annotations

import asyncio
import secrets
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context, trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from protos.jouleserve.client import AsyncClient
from tests.cluster.live_cluster import PATIENCE_S, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.live_cluster import LiveCluster
    from tests.cluster.otlp_collector import OtlpCollector, Received

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Spans are stamped by one clock and measured by another; a process may pause between the two.
CLOCKS_NS = 50_000_000
GATEWAY, REPLICA = "jouleserve-gateway", "jouleserve-replica"
STAGES = ["admit", "route", "serve"]
PHASES = ["queue", "prefill", "decode"]
# Of the slow model: ten seconds, in which its replica is killed.
TOKENS = 200


@pytest.fixture
def caller() -> Iterator[SpanContext]:
    """Give the span that is current where a client is called, as an instrumented program has it."""
    own = SpanContext(
        secrets.randbits(127) + 1,
        secrets.randbits(63) + 1,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )
    token = context.attach(trace.set_span_in_context(NonRecordingSpan(own)))
    yield own
    context.detach(token)


async def arrived(collector: OtlpCollector, caller: SpanContext, *names: str) -> list[Received]:
    """Wait for these spans of the caller's trace; give all that have come."""
    trace_id = f"{caller.trace_id:032x}"

    async def whole() -> bool:
        came = [each.span.name for each in collector.trace(trace_id)]
        return all(names.count(name) <= came.count(name) for name in names)

    assert await eventually(whole), [each.span.name for each in collector.trace(trace_id)]
    return collector.trace(trace_id)


def said(received: Received) -> dict[str, Any]:
    return {each.key: each.value for each in received.span.attributes}


async def test_a_request_is_one_trace_from_its_client_to_the_engine(
    cluster: LiveCluster, collector: OtlpCollector, caller: SpanContext
) -> None:
    async with AsyncClient(cluster.address) as client:
        await client.complete("echo", "hello", max_tokens=20, request_id="traced")
    engines = ("engine small", "engine large")
    root_name = "text_completion echo"
    came = await arrived(collector, caller, root_name, *STAGES, *PHASES)
    spans = {each.span.name: each for each in came}
    (engine,) = (spans.pop(name) for name in engines if name in spans)
    root = spans.pop(root_name)
    assert sorted(spans) == sorted([*STAGES, *PHASES])
    assert root.span.parent_span_id.hex() == f"{caller.span_id:016x}"
    assert {spans[name].span.parent_span_id for name in STAGES} == {root.span.span_id}
    assert engine.span.parent_span_id == spans["serve"].span.span_id
    assert {spans[name].span.parent_span_id for name in PHASES} == {engine.span.span_id}
    assert {each.service for each in (root, *(spans[name] for name in STAGES))} == {GATEWAY}
    assert {each.service for each in (engine, *(spans[name] for name in PHASES))} == {REPLICA}
    for name, following in pairwise(PHASES):
        gap_ns = spans[following].span.start_time_unix_nano - spans[name].span.end_time_unix_nano
        assert abs(gap_ns) < CLOCKS_NS
    whole, part = root.span, engine.span
    assert whole.start_time_unix_nano - CLOCKS_NS < part.start_time_unix_nano
    assert part.end_time_unix_nano < whole.end_time_unix_nano + CLOCKS_NS
    attributes = said(root)
    assert attributes["gen_ai.response.id"].string_value == "traced"
    assert attributes["gen_ai.usage.output_tokens"].int_value == 20
    assert attributes["jouleserve.energy_j"].double_value > 0
    assert attributes["jouleserve.outcome"].string_value == "completed"
    scores = said(spans["route"])["jouleserve.candidates.score"].array_value.values
    assert len(scores) == 3, "one of large, two of small"


async def test_a_request_whose_replica_dies_goes_on_in_the_same_trace(
    cluster: LiveCluster, collector: OtlpCollector, caller: SpanContext
) -> None:
    processes = {each["replica"]: each for each in await cluster.engines("slow")}
    async with cluster.client() as client:
        stream = client.generate("slow", prompt_token_ids=[7, 8, 9], max_tokens=TOKENS)
        await anext(aiter(stream))
        (holder,) = (each for each in (await cluster.status()).replicas if each.leases)
        victim = processes[holder.replica]
        await cluster.probe.kill(victim)
        await asyncio.wait_for(stream.complete(), PATIENCE_S)
    came = await arrived(
        collector, caller, "text_completion slow", "serve", "resume", "route", "route", *PHASES
    )
    spans = {each.span.name: each for each in came}
    lost, resumed = said(spans["serve"]), said(spans["resume"])
    assert lost["jouleserve.replica"].string_value == victim["replica"]
    assert resumed["jouleserve.replica"].string_value != victim["replica"]
    assert resumed["jouleserve.replayed_tokens"].int_value > 3
    assert spans["engine slow"].span.parent_span_id == spans["resume"].span.span_id
    assert said(spans["text_completion slow"])["jouleserve.resumes"].int_value == 1

    async def back() -> bool:
        return await cluster.awake("slow") == 2

    assert await eventually(back), "the tests that follow want both"


async def test_a_request_that_is_refused_is_traced_too(
    cluster: LiveCluster, collector: OtlpCollector, caller: SpanContext
) -> None:
    async with AsyncClient(cluster.address) as client:
        with pytest.raises(Exception, match="at least 1"):
            await client.complete("echo", "hello", max_tokens=0)
    (root,) = await arrived(collector, caller, "text_completion echo")
    assert [event.name for event in root.span.events] == ["exception"]
