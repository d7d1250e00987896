"""Spans and metrics of real processes, as a collector receives them, and nothing when not asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cluster import telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]

# The SDK's providers can be set once in a process, so each process of the story is one.
GATEWAY = """
import json, time
from cluster import telemetry

shutdown = telemetry.configure("gateway", replica="g1")
now = time.time_ns()
caller = telemetry.extract(json.loads(input()))
root = telemetry.start_span("generate", caller, now, {telemetry.MODEL: "m"}, server=True)
telemetry.record_span("admit", root, now + 1, now + 2)
telemetry.record_span("route", root, now + 2, now + 5, {telemetry.VARIANT: "int8"}, error="full")
headers = telemetry.inject(root)
telemetry.observe(telemetry.LEASES, lambda: 4.0)
for ttft_s in (0.3, 0.4):
    telemetry.instruments().record(telemetry.RequestRecord(
        outcome="completed", model="m", variant="int8", prompt_tokens=7, completion_tokens=3,
        ttft_s=ttft_s, tpot_s=0.01, e2e_latency_s=1.0, energy_j=2.5, energy_method="model",
    ))
telemetry.instruments().record(telemetry.RequestRecord(outcome="rejected", error="overloaded"))
root.end(now + 9)
shutdown()
shutdown()
print(json.dumps(headers))
"""
REPLICA = """
import json, time
from cluster import telemetry

telemetry.configure("replica", variant="int8")
now = time.time_ns()
gateway = telemetry.extract(json.loads(input()))
for name in ("queue", "prefill", "decode"):
    telemetry.record_span(name, gateway, now, now + 7)
print(json.dumps({}))
"""
IDLE = """
import json, sys
from cluster import telemetry

headers = json.loads(input())
telemetry.configure("idle")()
span = telemetry.start_span("generate", telemetry.extract(headers), 1)
telemetry.record_span("admit", span, 1, 2)
telemetry.instruments().record(telemetry.RequestRecord(outcome="completed", ttft_s=1.0))
loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk"))
print(json.dumps({"headers": telemetry.inject(span), "sdk": loaded}))
"""
GONE = """
import json, logging, time
from cluster import telemetry

logging.disable()
telemetry.SHUTDOWN_S = 0.2
caller = telemetry.extract(json.loads(input()))
shutdown = telemetry.configure("gateway")
telemetry.record_span("admit", caller, 1, 2)
telemetry.instruments().record(telemetry.RequestRecord(outcome="completed"))
began = time.monotonic()
shutdown()
print(json.dumps(time.monotonic() - began))
"""
CALLER = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01"}


def run(program: str, headers: Mapping[str, str], **environ: str) -> Any:
    """Run a process of the story; its OTEL_* variables are these and no others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(headers),
        env=own | {"PYTHONPATH": str(ROOT)} | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "exporters complain there"
    return json.loads(done.stdout)


# ----------------------------------------------------------------------------------- collectors


@dataclass
class Received:
    """What a collector was sent, by service name."""

    spans: list[tuple[str, Any]] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, dict[str, str]] = field(default_factory=dict)

    def take_traces(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for each in request.resource_spans:
            service = self._resource(each.resource)
            self.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]
            assert {scope.scope.name for scope in each.scope_spans} == {"jouleserve.serve"}

    def take_metrics(self, request: metrics_service_pb2.ExportMetricsServiceRequest) -> None:
        for each in request.resource_metrics:
            self._resource(each.resource)
            for scope in each.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}

    def _resource(self, resource: Any) -> str:
        attributes = {each.key: each.value.string_value for each in resource.attributes}
        service: str = attributes["service.name"]
        self.resources[service] = attributes
        return service


@dataclass(frozen=True)
class Collector:
    environ: dict[str, str]
    received: Received


@pytest.fixture
def http_collector() -> Iterator[Collector]:
    received = Received()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                received.take_traces(trace_service_pb2.ExportTraceServiceRequest.FromString(body))
            else:
                received.take_metrics(
                    metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
                )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield Collector(
            {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_COMPRESSION": "none"},
            received,
        )
        server.shutdown()
        thread.join()


@pytest.fixture
def grpc_collector() -> Iterator[Collector]:
    received = Received()

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the wire's name)
            received.take_traces(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 (the wire's name)
            received.take_metrics(request)
            return metrics_service_pb2.ExportMetricsServiceResponse()

    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        register: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        register(Traces(), server)
        register = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        register(Metrics(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        }
        yield Collector(environ, received)
        server.stop(0).wait()


@pytest.fixture(params=["http", "grpc"])
def collector(request: pytest.FixtureRequest) -> Collector:
    found: Collector = request.getfixturevalue(f"{request.param}_collector")
    return found


# ---------------------------------------------------------------------------------- one story


def test_one_request_is_one_trace_over_processes(collector: Collector) -> None:
    headers = run(GATEWAY, CALLER, **collector.environ)
    run(REPLICA, headers, **collector.environ)
    received = collector.received

    spans = {span.name: (service, span) for service, span in received.spans}
    assert {name: service for name, (service, _) in spans.items()} == {
        "generate": "gateway", "admit": "gateway", "route": "gateway",
        "queue": "replica", "prefill": "replica", "decode": "replica",
    }  # fmt: skip
    assert {span.trace_id.hex() for _, span in received.spans} == {f"{0xABC:032x}"}
    root = spans.pop("generate")[1]
    assert root.parent_span_id.hex() == f"{0xDEF:016x}"
    assert root.kind == trace.SpanKind.SERVER.value + 1
    assert {span.parent_span_id for _, span in spans.values()} == {root.span_id}
    route = spans["route"][1]
    assert route.end_time_unix_nano - route.start_time_unix_nano == 3
    assert route.status.message == "full"
    assert route.attributes[0].key == "jouleserve.variant"
    assert received.resources["replica"]["jouleserve.variant"] == "int8"
    assert received.resources["replica"]["service.namespace"] == "jouleserve"

    check_metrics(received.metrics)


def check_metrics(metrics: Mapping[str, Any]) -> None:
    requests = {
        json.dumps({each.key: each.value.string_value for each in point.attributes}): point.as_int
        for point in metrics["jouleserve.requests"].sum.data_points
    }
    served = {
        telemetry.MODEL: "m", telemetry.VARIANT: "int8", telemetry.OUTCOME: "completed"
    }  # fmt: skip
    refused = {telemetry.OUTCOME: "rejected", telemetry.ERROR_TYPE: "overloaded"}
    assert requests == {json.dumps(served): 2, json.dumps(refused): 1}
    assert metrics["jouleserve.leases"].gauge.data_points[0].as_double == 4
    (ttft_s,) = metrics["jouleserve.ttft_s"].histogram.data_points
    assert (ttft_s.count, ttft_s.sum) == (2, pytest.approx(0.7))
    assert 0.5 in ttft_s.explicit_bounds
    (energy_j,) = metrics["jouleserve.energy_j"].histogram.data_points
    assert energy_j.sum == 5
    assert metrics["jouleserve.energy_j"].unit == "J"
    tokens = metrics["jouleserve.completion_tokens"].sum.data_points
    assert sum(point.as_int for point in tokens) == 6


def test_nothing_is_set_up_when_nothing_is_asked() -> None:
    said = run(IDLE, CALLER)
    assert said["sdk"] == []
    assert said["headers"] == CALLER, "a trace of others passes through"


def test_a_collector_that_is_gone_does_not_hold_a_process_up() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        assert run(GONE, CALLER, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) < 2


def test_the_operators_name_for_the_service_wins(http_collector: Collector) -> None:
    run(REPLICA, CALLER, OTEL_SERVICE_NAME="llm", **http_collector.environ)
    assert set(http_collector.received.resources) == {"llm"}


# ---------------------------------------------------------------------------------- variables


@pytest.mark.parametrize(
    ("environ", "traces", "metrics"),
    [
        ({}, None, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"}, "http/protobuf", "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, None, None),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c"}, "http/protobuf", None),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "http/protobuf", None),
        ({"OTEL_METRICS_EXPORTER": "otlp"}, None, "http/protobuf"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", "OTEL_TRACES_EXPORTER": "none"},
            None,
            "http/protobuf",
        ),
        (
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
            },
            "grpc",
            "http/protobuf",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None, None),
    ],
)
def test_standard_variables_decide(
    environ: dict[str, str], traces: str | None, metrics: str | None
) -> None:
    assert telemetry.wanted_export(environ) == telemetry.Export(traces, metrics)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin is not known; known are otlp, none"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "http/json is not known; known are http/protobuf, grpc",
        ),
    ],
)
def test_unknown_values_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        telemetry.wanted_export(environ)


# ----------------------------------------------------------------------------------- contexts


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 1))
def test_what_is_injected_is_extracted(trace_id: int, span_id: int, flags: int) -> None:
    span = trace.NonRecordingSpan(
        trace.SpanContext(trace_id, span_id, is_remote=False, trace_flags=trace.TraceFlags(flags))
    )
    headers = telemetry.inject(span)
    shouting = {name.upper(): value for name, value in headers.items()}
    for each in (headers, shouting):
        found = trace.get_current_span(telemetry.extract(each)).get_span_context()
        assert (found.trace_id, found.span_id) == (trace_id, span_id)
        assert found.trace_flags == flags


@given(st.dictionaries(st.sampled_from(["traceparent", "tracestate", "x"]), st.text()))
def test_malformed_headers_are_no_trace(headers: dict[str, str]) -> None:
    assert telemetry.inject(telemetry.extract(headers)) == {}


def test_monotonic_times_become_times_of_day() -> None:
    error_ns = telemetry.epoch_ns(time.monotonic() - 5) - (time.time_ns() - 5_000_000_000)
    assert abs(error_ns) < 50_000_000
