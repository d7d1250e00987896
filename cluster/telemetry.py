"""Whether spans and metrics leave this process, and which way.

Its own module because it is the one place that knows the SDK's pipelines. Unless the standard
OTEL_* variables ask for export nothing is set up, and the SDK is not even loaded.
"""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace

from cluster.telemetry_variables import Export, first_given, wanted_export

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader, MetricsData
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace.export import SpanExporter

    from cluster.telemetry_spans import Spans
    from cluster.telemetry_variables import ScrapePlace

# A collector near by answers in milliseconds; one that is gone would hold a process up for 12 s
# and more (SDK 1.45, measured), which is time that a draining pod does not have.
SHUTDOWN_S = 3.0
# Tells the time series of a node's processes apart that are otherwise alike.
_SCRAPE_LABELS = frozenset({"service.name", "service.instance.id"})


class Exports:
    """What leaves a process, and the end of it.

    Attributes:
        spans: writes them; None where none are exported.
        measures: requests are to be counted.

    """

    def __init__(self) -> None:
        self.spans: Spans | None = None
        self.measures = False
        self._ends: list[Callable[[], None]] = []

    def shutdown(self) -> None:
        """Send what is still held and end export, within SHUTDOWN_S; may be called twice.

        A process that exits normally does it by itself, one that is killed does not.
        """
        _run_all(self._ends)
        self._ends.clear()

    def export_traces(self, protocol: str, resource: Resource) -> None:
        """Write spans, and let those of instrumented libraries go the same way."""
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from cluster.telemetry_spans import Spans

        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(_span_exporter(protocol))
        provider.add_span_processor(processor)
        if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
            trace.set_tracer_provider(provider)
        self.spans = Spans(provider, processor)
        self._ends.append(provider.shutdown)

    def export_metrics(self, export: Export, resource: Resource) -> None:
        """Have them pushed, fetched, or both."""
        from opentelemetry.sdk.metrics import MeterProvider

        readers: list[MetricReader] = []
        if export.metrics is not None:
            readers.append(_pushing(export.metrics))
        if export.scrape is not None:
            reader, end = _fetched(export.scrape)
            readers.append(reader)
            self._ends.append(end)
        provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        metrics.set_meter_provider(provider)
        self.measures = True
        self._ends.append(provider.shutdown)


def configure(service_name: str, **resource: str) -> Exports:
    """Set up export if the standard OTEL_* variables ask for it; else do nothing at all.

    To be called once in a process, before its first request. A meter provider that something
    else has already set (Ray, a test) is left as it is.

    Args:
        service_name: `service.name` unless OTEL_SERVICE_NAME is set.
        **resource: what else this process is; `variant="x"` becomes `jouleserve.variant`.

    Raises:
        ValueError: as `wanted_export`.
        ScrapeError: the processes of this node cannot meet.

    """
    export = wanted_export(os.environ)
    exports = Exports()
    if export == Export():
        return exports
    about = _resource(service_name, resource)
    if export.traces is not None:
        exports.export_traces(export.traces, about)
    if (export.metrics or export.scrape) and not _has_meter_provider():
        exports.export_metrics(export, about)
    atexit.register(exports.shutdown)
    return exports


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

    return Resource.create(
        {
            "service.name": first_given(os.environ, "OTEL_SERVICE_NAME") or service_name,
            "service.namespace": "jouleserve",
            "service.instance.id": str(uuid.uuid4()),
            **{f"jouleserve.{name}": value for name, value in others.items()},
        }
    )


def _pushing(protocol: str) -> MetricReader:
    """Make a reader that sends metrics periodically."""
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    class Reader(PeriodicExportingMetricReader):
        def _receive_metrics(
            self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
        ) -> None:
            super()._receive_metrics(with_requests(metrics_data), timeout_millis, **kwargs)

    return Reader(_metric_exporter(protocol))


def _fetched(place: ScrapePlace) -> tuple[MetricReader, Callable[[], None]]:
    """Make a reader that tells metrics to whoever asks at the node's port; and its end."""
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, generate_latest

    from cluster.telemetry_scrape import Scrape

    class Reader(PrometheusMetricReader):
        def _receive_metrics(
            self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object
        ) -> None:
            super()._receive_metrics(with_requests(metrics_data), timeout_millis, **kwargs)

    registry = CollectorRegistry()
    reader = Reader(
        scope_info_enabled=False,
        resource_attribute_filter=_SCRAPE_LABELS.__contains__,
        registry=registry,
    )
    directory = Path(tempfile.gettempdir(), f"jouleserve-metrics-{os.getuid()}-{place.port}")
    turn = threading.Lock()

    def tell() -> bytes:
        with turn:  # The reader keeps what it has collected until it is told.
            return generate_latest(registry)

    scrape = Scrape(tell, *place, directory)
    return reader, scrape.close


def with_requests(data: MetricsData) -> MetricsData:
    """Add what was counted of requests to what instruments have given."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from cluster.telemetry_requests import requests

    added = requests().metrics()
    if not added:
        return data
    scope = ScopeMetrics(InstrumentationScope("jouleserve.serve"), added, "")
    (only,) = data.resource_metrics
    return MetricsData(
        [ResourceMetrics(only.resource, [*only.scope_metrics, scope], only.schema_url)]
    )


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


def current_ids() -> tuple[str, str] | None:
    """Give trace id and span id of what the task is doing, as headers spell them; None without."""
    own = trace.get_current_span().get_span_context()
    if not own.is_valid:
        return None
    return f"{own.trace_id:032x}", f"{own.span_id:016x}"
