"""Spans and metrics, in OpenTelemetry's terms.

Its own module because it is the one place that knows the SDK, the standard OTEL_* variables
and the names under which spans, metrics and attributes leave the process. Unless those
variables ask for export nothing is set up, and every call here ends in the API's no-op.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Meter, Observation
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

Attributes: TypeAlias = "Mapping[str, str | bool | int | float]"
Reading: TypeAlias = "tuple[float, Attributes]"
Outcome = Literal["completed", "cancelled", "failed", "rejected"]

# Attributes: GenAI semantic conventions where they have a name, ours elsewhere.
MODEL = "gen_ai.request.model"
OPERATION = "gen_ai.operation.name"
REQUEST_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ERROR_TYPE = "error.type"
VARIANT = "jouleserve.variant"
REPLICA = "jouleserve.replica"
SERVICE_CLASS = "jouleserve.service_class"
OUTCOME = "jouleserve.outcome"
REASON = "jouleserve.reason"
ENERGY_J = "jouleserve.energy_j"
ENERGY_METHOD = "jouleserve.energy.method"

ERROR = StatusCode.ERROR
"""Status of the span of a call that failed."""

_TRACE_CONTEXT = TraceContextTextMapPropagator()


# ------------------------------------------------------------------------------------------ set-up

_OTLP_PROTOCOLS = ("http/protobuf", "grpc")
_EXPORTERS = ("otlp", "none")
# A collector near by answers in milliseconds; one that is gone would hold a process up for 12 s
# and more (SDK 1.45, measured), which is time that a draining pod does not have.
SHUTDOWN_S = 3.0


class Export(NamedTuple):
    """The OTLP protocol of each signal that is to be exported; None for one that is not."""

    traces: str | None
    metrics: str | None


def wanted_export(environ: Mapping[str, str]) -> Export:
    """Read from the standard OTEL_* variables what is to be exported.

    A signal is exported when its OTEL_<SIGNAL>_EXPORTER says so, or when that is not set and
    an OTLP endpoint is.

    Raises:
        ValueError: an exporter or a protocol that does not exist here.

    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Export(None, None)
    return Export(_protocol(environ, "TRACES"), _protocol(environ, "METRICS"))


def _protocol(environ: Mapping[str, str], signal: str) -> str | None:
    def first(*names: str) -> str:
        return next((value for name in names if (value := environ.get(name, "").strip())), "")

    endpoint = first(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = first(f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    if exporter not in _EXPORTERS:
        known = ", ".join(_EXPORTERS)
        raise ValueError(f"OTEL_{signal}_EXPORTER={exporter} is not known; known are {known}")
    if exporter == "none":
        return None
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = first(name, "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol not in _OTLP_PROTOCOLS:
        known = ", ".join(_OTLP_PROTOCOLS)
        raise ValueError(f"OTLP protocol {protocol} is not known; known are {known}")
    return protocol


def configure(service_name: str, **resource: str) -> Callable[[], None]:
    """Set up export if the standard OTEL_* variables ask for it; else do nothing at all.

    To be called once in a process, before its first request. A provider that something else
    has already set (Ray's own tracing, a test) is left as it is and used.

    Args:
        service_name: `service.name` unless OTEL_SERVICE_NAME is set.
        **resource: what else this process is; `variant="x"` becomes `jouleserve.variant`.

    Returns:
        Sends what is still held and ends export, within SHUTDOWN_S; may be called twice. A
        process that exits normally calls it by itself, one that is killed does not.

    Raises:
        ValueError: as `wanted_export`.

    """
    export = wanted_export(os.environ)
    ends: list[Callable[[], None]] = []
    if export.traces and isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        ends.append(_export_traces(export.traces, _resource(service_name, resource)))
    if export.metrics and not _has_meter_provider():
        ends.append(_export_metrics(export.metrics, _resource(service_name, resource)))

    def shutdown() -> None:
        _run_all(ends)
        ends.clear()

    if ends:
        atexit.register(shutdown)
    return shutdown


def _run_all(ends: Iterable[Callable[[], None]]) -> None:
    """Run them side by side, and leave those behind that wait for a collector that is gone."""
    threads = [threading.Thread(target=end, daemon=True) for end in ends]
    deadline_s = time.monotonic() + SHUTDOWN_S
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline_s - time.monotonic()))


def _has_meter_provider() -> bool:
    from opentelemetry.sdk.metrics import MeterProvider

    return isinstance(metrics.get_meter_provider(), MeterProvider)


def _resource(service_name: str, others: Mapping[str, str]) -> Resource:
    from opentelemetry.sdk.resources import Resource

    attributes = {f"jouleserve.{name}": value for name, value in others.items()}
    name = os.environ.get("OTEL_SERVICE_NAME", "").strip() or service_name
    return Resource.create({"service.name": name, "service.namespace": "jouleserve", **attributes})


def _export_traces(protocol: str, resource: Resource) -> Callable[[], None]:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(_span_exporter(protocol)))
    trace.set_tracer_provider(provider)
    return provider.shutdown


def _export_metrics(protocol: str, resource: Resource) -> Callable[[], None]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    reader = PeriodicExportingMetricReader(_metric_exporter(protocol))
    provider = MeterProvider([reader], resource=resource, shutdown_on_exit=False)
    metrics.set_meter_provider(provider)
    return provider.shutdown


def _span_exporter(protocol: str) -> SpanExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as Grpc

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as Http

    return Http()


def _metric_exporter(protocol: str) -> MetricExporter:
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
            OTLPMetricExporter as Grpc,
        )

        return Grpc()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as Http

    return Http()


# ------------------------------------------------------------------------------------------- spans


@cache
def tracer(package: str) -> Tracer:
    """Give the tracer `jouleserve.<package>`."""
    return trace.get_tracer(f"jouleserve.{package}")


def extract(headers: Mapping[str, str]) -> Context:
    """Read the caller's trace context from W3C headers or gRPC metadata; else an empty one."""
    carrier = {name.lower(): value for name, value in headers.items()}
    return _TRACE_CONTEXT.extract(carrier, Context())


def inject(parent: Context | Span) -> dict[str, str]:
    """Give the W3C headers that make whoever reads them a child of this span."""
    carrier: dict[str, str] = {}
    _TRACE_CONTEXT.inject(carrier, _context(parent))
    return carrier


def _context(parent: Context | Span) -> Context:
    return trace.set_span_in_context(parent, Context()) if isinstance(parent, Span) else parent


def epoch_ns(monotonic_s: float) -> int:
    """Convert a time of this process's monotonic clock to what spans are stamped with."""
    return time.time_ns() - round((time.monotonic() - monotonic_s) * 1e9)


def start_span(  # noqa: PLR0913 (a span's parts)
    name: str,
    parent: Context | Span,
    start_ns: int,
    attributes: Attributes | None = None,
    *,
    package: str = "serve",
    server: bool = False,
) -> Span:
    """Start a span whose context must be handed on before it ends; whoever starts it ends it.

    Args:
        name: of the span.
        parent: span or extracted context; an empty context starts a trace.
        start_ns: since the epoch.
        attributes: known at the start.
        package: whose tracer records it.
        server: it answers a call from outside.

    """
    kind = trace.SpanKind.SERVER if server else trace.SpanKind.INTERNAL
    return tracer(package).start_span(
        name, _context(parent), kind, attributes=attributes, start_time=start_ns
    )


def record_span(  # noqa: PLR0913 (a span's parts)
    name: str,
    parent: Context | Span,
    start_ns: int,
    end_ns: int,
    attributes: Attributes | None = None,
    *,
    package: str = "serve",
    error: str | None = None,
) -> Span:
    """Record, once it is over, what lasted from one moment to another; gives the ended span.

    So the path of a token pays nothing for the phases of its request.

    Args:
        name: of the span.
        parent: span or extracted context.
        start_ns: since the epoch.
        end_ns: since the epoch.
        attributes: of the span.
        package: whose tracer records it.
        error: what went wrong, if anything did.

    """
    span = start_span(name, parent, start_ns, attributes, package=package)
    if error is not None:
        span.set_status(Status(StatusCode.ERROR, error))
    span.end(end_ns)
    return span


# ----------------------------------------------------------------------------------------- metrics


@cache
def meter(package: str) -> Meter:
    """Give the meter `jouleserve.<package>`."""
    return metrics.get_meter(f"jouleserve.{package}")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that has ended, as metrics count it.

    Attributes:
        outcome: completed, cancelled, failed or rejected.
        model: served model; empty if the client named none (names of clients' own making would
            each begin a time series).
        variant: that served it; empty if it came to none.
        service_class: that it belonged to; empty if it came to none.
        error: kind of the fault, if it failed or was rejected.
        prompt_tokens: length of the prompt.
        cached_tokens: of these, found in the prefix cache.
        completion_tokens: generated.
        ttft_s: time to the first token; None before one.
        tpot_s: mean time per token after it; None for fewer than two tokens.
        e2e_latency_s: from arrival to end.
        energy_j: attributed to it; None where unknown.
        energy_method: model, nvml or rapl.

    """

    outcome: Outcome
    model: str = ""
    variant: str = ""
    service_class: str = ""
    error: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_latency_s: float | None = None
    energy_j: float | None = None
    energy_method: str = ""

    def attributes(self) -> dict[str, str]:
        """Give the attributes that all its metrics share; empty ones are left out."""
        pairs = {MODEL: self.model, VARIANT: self.variant, SERVICE_CLASS: self.service_class}
        return {name: value for name, value in pairs.items() if value}


@dataclass(frozen=True, slots=True)
class Instruments:
    """What is counted and measured of requests.

    Attributes:
        requests: ended, by outcome.
        prompt_tokens: read.
        cached_tokens: of these, found in a prefix cache.
        completion_tokens: generated.
        ttft_s: time to the first token.
        tpot_s: mean time per output token after it.
        e2e_latency_s: from arrival to end, of completed requests.
        energy_j: attributed to a request; its sum is the energy of all of them.

    """

    requests: Counter
    prompt_tokens: Counter
    cached_tokens: Counter
    completion_tokens: Counter
    ttft_s: Histogram
    tpot_s: Histogram
    e2e_latency_s: Histogram
    energy_j: Histogram

    def record(self, request: RequestRecord) -> None:
        """Count a request that has ended."""
        shared = request.attributes()
        outcome = {OUTCOME: request.outcome} | (
            {ERROR_TYPE: request.error} if request.error else {}
        )
        self.requests.add(1, shared | outcome)
        self.prompt_tokens.add(request.prompt_tokens, shared)
        self.cached_tokens.add(request.cached_tokens, shared)
        self.completion_tokens.add(request.completion_tokens, shared)
        _measure(self.ttft_s, request.ttft_s, shared)
        _measure(self.tpot_s, request.tpot_s, shared)
        if request.outcome == "completed":
            _measure(self.e2e_latency_s, request.e2e_latency_s, shared)
        _measure(self.energy_j, request.energy_j, shared | {ENERGY_METHOD: request.energy_method})


def _measure(histogram: Histogram, value: float | None, attributes: dict[str, str]) -> None:
    if value is not None:
        histogram.record(value, attributes)


def _decades(least: int, most: int) -> list[float]:
    """Give the bucket bounds 1, 2 and 5 times each power of ten."""
    return [digit * 10.0**power for power in range(least, most) for digit in (1, 2, 5)]


@cache
def instruments(package: str = "serve") -> Instruments:
    """Give the instruments of `jouleserve.<package>`, made once in a process."""
    source = meter(package)

    def histogram(name: str, unit: str, description: str, bounds: list[float]) -> Histogram:
        return source.create_histogram(
            f"jouleserve.{name}", unit, description, explicit_bucket_boundaries_advisory=bounds
        )

    def counter(name: str, unit: str, description: str) -> Counter:
        return source.create_counter(f"jouleserve.{name}", unit, description)

    return Instruments(
        requests=counter("requests", "{request}", "Requests that have ended"),
        prompt_tokens=counter("prompt_tokens", "{token}", "Prompt tokens"),
        cached_tokens=counter("cached_tokens", "{token}", "Prompt tokens found in a prefix cache"),
        completion_tokens=counter("completion_tokens", "{token}", "Generated tokens"),
        ttft_s=histogram("ttft_s", "s", "Time to the first token", _decades(-3, 2)),
        tpot_s=histogram("tpot_s", "s", "Mean time per token after the first", _decades(-4, 1)),
        e2e_latency_s=histogram("e2e_latency_s", "s", "From arrival to end", _decades(-2, 4)),
        energy_j=histogram("energy_j", "J", "Energy of a request", _decades(-2, 6)),
    )


class Gauge(NamedTuple):
    """Something that has a value at every moment."""

    name: str
    unit: str
    description: str


LEASES = Gauge("jouleserve.leases", "{lease}", "Leases held by this gateway")
RUNNING_REQUESTS = Gauge("jouleserve.running_requests", "{request}", "In the engine's batch")
WAITING_REQUESTS = Gauge("jouleserve.waiting_requests", "{request}", "Not yet in the batch")
KV_CACHE_USAGE = Gauge("jouleserve.kv_cache_usage", "1", "Share of KV blocks in use")
POWER_W = Gauge("jouleserve.power_w", "W", "Recent mean power")


def observe(
    gauge: Gauge,
    read: Callable[[], float],
    attributes: Attributes | None = None,
    *,
    package: str = "serve",
) -> None:
    """Have a gauge read at every export, in the exporter's thread, and never otherwise."""
    observe_all(gauge, lambda: [(read(), attributes or {})], package=package)


def observe_all(
    gauge: Gauge, read: Callable[[], Iterable[Reading]], *, package: str = "serve"
) -> None:
    """Have a gauge read that has as many values as there are things to tell apart just then."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [metrics.Observation(value, attributes) for value, attributes in read()]

    meter(package).create_observable_gauge(
        gauge.name, [callback], unit=gauge.unit, description=gauge.description
    )
