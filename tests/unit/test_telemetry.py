"""Spans and metrics of real processes, as a collector receives them, and nothing when not asked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from cluster import telemetry_attributes as names
from cluster.telemetry_variables import Export, wanted_export

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ROOT = Path(__file__).parents[2]

# The SDK's providers can be set once in a process, so each process of the story is one.
GATEWAY = """
import json, time
from cluster import telemetry, telemetry_attributes as names, telemetry_metrics as metrics
from cluster.telemetry_requests import RequestRecord, requests

exports = telemetry.configure("gateway", replica="g1")
metrics.observe(metrics.LEASES, lambda: 4.0, {names.GATEWAY: "g1"})
headers = json.loads(input())
if exports.spans is not None:
    from cluster.telemetry_spans import Fault, headers_of
    now = time.time_ns()
    root = exports.spans.begin("chat m", headers)
    exports.spans.part(root, "admit", now + 1, now + 2)
    exports.spans.write(
        exports.spans.child(root), "route", now + 2, now + 5,
        {names.VARIANT: "int8", names.CANDIDATE_SCORES: [1.0, 2.5]}, fault=Fault("full", "all are"),
    )
    exports.spans.write(
        root, "chat m", now, now + 9, {names.MODEL: "m"}, kind="server",
        fault=Fault("invalid", "of the client's", ours=False),
    )
    headers = headers_of(root)
for ttft_s in (0.3, 0.4):
    requests().record(RequestRecord(
        outcome="completed", model="m", variant="int8", prompt_tokens=7, completion_tokens=3,
        ttft_s=ttft_s, tpot_s=0.01, e2e_latency_s=1.0, energy_j=2.5, energy_method="model",
    ))
requests().record(RequestRecord(outcome="rejected", error="overloaded", objectives="missed"))
if exports.measures and not exports.spans:
    print(json.dumps(None), flush=True)
    input()
exports.shutdown()
exports.shutdown()
print(json.dumps(headers))
"""
REPLICA = """
import json, time
from cluster import telemetry

exports = telemetry.configure("replica", variant="int8")
now = time.time_ns()
engine = exports.spans.join(json.loads(input()))
for name in ("queue", "prefill", "decode"):
    exports.spans.part(engine, name, now, now + 7)
exports.spans.write(engine, "engine int8", now, now + 21, {}, kind="server")
print(json.dumps({}))
"""
SAMPLING = """
import json
from cluster import telemetry
from cluster.telemetry_spans import headers_of

exports = telemetry.configure("gateway")
headers = json.loads(input())
begun = exports.spans.begin("chat m", headers)
print(json.dumps([begun is not None, exports.spans.join(headers) is not None]))
"""
IDLE = """
import json, sys
from cluster import telemetry, telemetry_metrics as metrics
from serve.observation import engine_tracer, observer, tracer
from serve.tracing import nobody, nobody_here

json.loads(input())
exports = telemetry.configure("idle")
metrics.observe(metrics.LEASES, lambda: 1 / 0)
exports.shutdown()
loaded = sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk"))
print(json.dumps({
    "observer": observer(exports, frozenset()) is None,
    "nobody": tracer(exports, frozenset()) is nobody,
    "nobody here": engine_tracer(exports, "v") is nobody_here,
    "sdk": loaded,
}))
"""
GONE = """
import json, logging, time
from cluster import telemetry
from cluster.telemetry_requests import RequestRecord, requests

logging.disable()
telemetry.SHUTDOWN_S = 0.2
exports = telemetry.configure("gateway")
exports.spans.part(exports.spans.begin("chat m", json.loads(input())), "admit", 1, 2)
requests().record(RequestRecord(outcome="completed"))
began = time.monotonic()
exports.shutdown()
print(json.dumps(time.monotonic() - began))
"""
CALLER = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-01"}
UNSAMPLED = {"traceparent": f"00-{0xABC:032x}-{0xDEF:016x}-00"}


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
        "chat m": "gateway", "admit": "gateway", "route": "gateway",
        "engine int8": "replica", "queue": "replica", "prefill": "replica", "decode": "replica",
    }  # fmt: skip
    assert {span.trace_id.hex() for _, span in received.spans} == {f"{0xABC:032x}"}
    root = spans["chat m"][1]
    engine = spans["engine int8"][1]
    assert root.parent_span_id.hex() == f"{0xDEF:016x}"
    assert root.kind == engine.kind == trace.SpanKind.SERVER.value + 1
    assert {spans[name][1].parent_span_id for name in ("admit", "route", "engine int8")} == {
        root.span_id
    }
    assert {spans[name][1].parent_span_id for name in ("queue", "prefill", "decode")} == {
        engine.span_id
    }
    assert len({span.span_id for _, span in received.spans}) == len(spans)
    check_faults(spans["route"][1], root)
    assert received.resources["replica"]["jouleserve.variant"] == "int8"
    assert received.resources["replica"]["service.namespace"] == "jouleserve"
    assert len({each["service.instance.id"] for each in received.resources.values()}) == 2

    check_metrics(received.metrics)


def check_faults(route: Any, root: Any) -> None:
    assert route.end_time_unix_nano - route.start_time_unix_nano == 3
    assert (route.status.code, route.status.message) == (trace.StatusCode.ERROR.value, "all are")
    assert root.status.code == trace.StatusCode.UNSET.value, "the client's fault is not ours"
    assert [event.name for event in root.events] == ["exception"]
    attributes = {each.key: each.value for each in route.attributes}
    assert attributes["jouleserve.variant"].string_value == "int8"
    scores = attributes["jouleserve.candidates.score"].array_value.values
    assert [each.double_value for each in scores] == [1.0, 2.5]


def check_metrics(metrics: Mapping[str, Any]) -> None:
    requests = {
        frozenset((each.key, each.value.string_value) for each in point.attributes): point.as_int
        for point in metrics["jouleserve.requests"].sum.data_points
    }
    provider = {(names.PROVIDER, "jouleserve")}
    served = {(names.MODEL, "m"), (names.VARIANT, "int8"), (names.OUTCOME, "completed")}
    refused = {
        (names.OUTCOME, "rejected"), (names.ERROR_TYPE, "overloaded"), (names.OBJECTIVES, "missed")
    }  # fmt: skip
    assert requests == {frozenset(served | provider): 2, frozenset(refused | provider): 1}
    assert metrics["jouleserve.requests"].sum.is_monotonic
    assert metrics["jouleserve.leases"].gauge.data_points[0].as_double == 4
    (ttft_s,) = metrics["gen_ai.server.time_to_first_token"].histogram.data_points
    assert (ttft_s.count, ttft_s.sum, ttft_s.min, ttft_s.max) == (2, pytest.approx(0.7), 0.3, 0.4)
    assert ttft_s.bucket_counts[list(ttft_s.explicit_bounds).index(0.5)] == 2
    (energy_j,) = metrics["jouleserve.energy_j"].histogram.data_points
    assert energy_j.sum == 5
    assert metrics["jouleserve.energy_j"].unit == "J"
    tokens = {
        attribute.value.string_value: point.sum
        for point in metrics["gen_ai.client.token.usage"].histogram.data_points
        for attribute in point.attributes
        if attribute.key == names.TOKEN_TYPE
    }
    assert tokens == {"input": 14, "output": 6}


def test_nothing_is_set_up_when_nothing_is_asked() -> None:
    assert run(IDLE, CALLER) == {
        "observer": True, "nobody": True, "nobody here": True, "sdk": []
    }  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "sampler", "begun", "joined"),
    [
        (CALLER, "", True, True),
        (UNSAMPLED, "", False, False),
        ({}, "", True, False),
        ({"traceparent": "00-nonsense"}, "", True, False),
        ({}, "always_off", False, False),
        (CALLER, "parentbased_always_off", True, True),
        ({}, "parentbased_always_off", False, False),
        (UNSAMPLED, "always_on", True, False),
    ],
)
def test_the_standard_sampler_decides_what_a_gateway_begins_and_that_what_a_replica_joins(
    headers: dict[str, str],
    sampler: str,
    begun: bool,  # noqa: FBT001 (an expectation)
    joined: bool,  # noqa: FBT001 (an expectation)
    http_collector: Collector,
) -> None:
    asked = {"OTEL_TRACES_SAMPLER": sampler} if sampler else {}
    assert run(SAMPLING, headers, **http_collector.environ, **asked) == [begun, joined]


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
    assert wanted_export(environ) == Export(traces, metrics)


@pytest.mark.parametrize(
    ("environ", "metrics", "scrape"),
    [
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, None, ("localhost", 9464)),
        ({"OTEL_METRICS_EXPORTER": "otlp, prometheus"}, "http/protobuf", ("localhost", 9464)),
        (
            {
                "OTEL_METRICS_EXPORTER": "prometheus",
                "OTEL_EXPORTER_PROMETHEUS_HOST": "0.0.0.0",
                "OTEL_EXPORTER_PROMETHEUS_PORT": "9000",
            },
            None,
            ("0.0.0.0", 9000),
        ),
        ({"OTEL_EXPORTER_PROMETHEUS_PORT": "9000"}, None, None),
    ],
)
def test_metrics_are_fetched_pushed_or_both(
    environ: dict[str, str], metrics: str | None, scrape: tuple[str, int] | None
) -> None:
    export = wanted_export(environ)
    assert (export.metrics, export.scrape) == (metrics, scrape)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "zipkin is not known; known are otlp, none"),
        ({"OTEL_TRACES_EXPORTER": "prometheus"}, "prometheus is not known"),
        (
            {"OTEL_METRICS_EXPORTER": "otlp,statsd"},
            "OTEL_METRICS_EXPORTER=statsd is not known; known are otlp, prometheus, none",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
            "http/json is not known; known are http/protobuf, grpc",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "99999"},
            "OTEL_EXPORTER_PROMETHEUS_PORT=99999 is no port",
        ),
    ],
)
def test_unknown_values_are_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        wanted_export(environ)
