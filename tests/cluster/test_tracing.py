"""A request leaves one trace: the client's, with a span for each thing that it went through."""

from __future__ import annotations

import secrets
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from protos.jouleserve.client import AsyncClient
from tests.cluster.live_cluster import eventually

if TYPE_CHECKING:
    from tests.cluster.live_cluster import LiveCluster
    from tests.cluster.otlp_collector import OtlpCollector

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# Spans are stamped by one clock and measured by another; a process may pause between the two.
CLOCKS_NS = 50_000_000
PHASES = ["admit", "route", "queue", "prefill", "decode"]


async def test_the_spans_of_a_request_belong_to_the_clients_trace(
    cluster: LiveCluster, collector: OtlpCollector
) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    metadata = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    async with AsyncClient(cluster.address, metadata=metadata) as client:
        await client.complete("echo", "hello", max_tokens=20, request_id="traced")

    async def whole() -> bool:
        return len(collector.trace(trace_id)) == len(PHASES) + 1

    assert await eventually(whole)
    spans = {span.name: span for span in collector.trace(trace_id)}
    root = spans.pop("generate echo")
    assert root.parent_span_id.hex() == span_id
    assert sorted(spans) == sorted(PHASES)
    assert {span.parent_span_id for span in spans.values()} == {root.span_id}
    for name, following in pairwise(PHASES):
        gap_ns = spans[following].start_time_unix_nano - spans[name].end_time_unix_nano
        assert abs(gap_ns) < CLOCKS_NS
    assert spans["decode"].end_time_unix_nano > spans["decode"].start_time_unix_nano
    attributes = {each.key: each.value for each in root.attributes}
    assert attributes["gen_ai.response.id"].string_value == "traced"
    assert attributes["gen_ai.usage.output_tokens"].int_value == 20
    assert attributes["jouleserve.energy_j"].double_value > 0
    assert attributes["jouleserve.outcome"].string_value == "completed"


async def test_a_request_that_is_refused_is_traced_too(
    cluster: LiveCluster, collector: OtlpCollector
) -> None:
    trace_id = secrets.token_hex(16)
    metadata = {"traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01"}
    async with AsyncClient(cluster.address, metadata=metadata) as client:
        with pytest.raises(Exception, match="at least 1"):
            await client.complete("echo", "hello", max_tokens=0)

    async def came() -> bool:
        return bool(collector.trace(trace_id))

    assert await eventually(came)
    (root,) = collector.trace(trace_id)
    assert [event.name for event in root.events] == ["exception"]
