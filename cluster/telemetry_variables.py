"""What the standard OTEL_* variables ask to be exported.

Its own module because the environment is read in one place, and what it says is checked there,
before anything of OpenTelemetry is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_OTLP_PROTOCOLS = ("http/protobuf", "grpc")
_TRACE_EXPORTERS = ("otlp", "none")
_METRIC_EXPORTERS = ("otlp", "prometheus", "none")
# By OpenTelemetry's specification of the variables.
_SCRAPE_HOST, _SCRAPE_PORT = "localhost", 9464
_LARGEST_PORT = 65535


class ScrapePlace(NamedTuple):
    """Where Prometheus finds the metrics of a node."""

    host: str
    port: int


class Export(NamedTuple):
    """What is to leave the process.

    Attributes:
        traces: the OTLP protocol of spans; None for no spans.
        metrics: the OTLP protocol of metrics; None for not this way.
        scrape: where they wait to be fetched; None for not this way.

    """

    traces: str | None = None
    metrics: str | None = None
    scrape: ScrapePlace | None = None


def wanted_export(environ: Mapping[str, str]) -> Export:
    """Read from the standard OTEL_* variables what is to be exported.

    A signal is exported when its OTEL_<SIGNAL>_EXPORTER says so, or when that is not set and
    an OTLP endpoint is. OTEL_METRICS_EXPORTER may name both ways: "otlp,prometheus".

    Raises:
        ValueError: an exporter, a protocol or a port that does not exist here.

    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Export()
    spans = _exporters(environ, "TRACES", _TRACE_EXPORTERS)
    measures = _exporters(environ, "METRICS", _METRIC_EXPORTERS)
    return Export(
        _protocol(environ, "TRACES") if "otlp" in spans else None,
        _protocol(environ, "METRICS") if "otlp" in measures else None,
        _scrape_place(environ) if "prometheus" in measures else None,
    )


def first_given(environ: Mapping[str, str], *names: str) -> str:
    """Give the first of these variables that says something; empty without any."""
    return next((value for name in names if (value := environ.get(name, "").strip())), "")


def _exporters(environ: Mapping[str, str], signal: str, known: tuple[str, ...]) -> set[str]:
    endpoint = first_given(
        environ, f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    given = first_given(environ, f"OTEL_{signal}_EXPORTER") or ("otlp" if endpoint else "none")
    exporters = {name.strip() for name in given.split(",")}
    if unknown := sorted(exporters - set(known)):
        raise ValueError(
            f"OTEL_{signal}_EXPORTER={','.join(unknown)} is not known; known are {', '.join(known)}"
        )
    return exporters


def _protocol(environ: Mapping[str, str], signal: str) -> str:
    name = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    protocol = first_given(environ, name, "OTEL_EXPORTER_OTLP_PROTOCOL") or "http/protobuf"
    if protocol not in _OTLP_PROTOCOLS:
        known = ", ".join(_OTLP_PROTOCOLS)
        raise ValueError(f"OTLP protocol {protocol} is not known; known are {known}")
    return protocol


def _scrape_place(environ: Mapping[str, str]) -> ScrapePlace:
    host = first_given(environ, "OTEL_EXPORTER_PROMETHEUS_HOST") or _SCRAPE_HOST
    given = first_given(environ, "OTEL_EXPORTER_PROMETHEUS_PORT") or str(_SCRAPE_PORT)
    if not given.isdecimal() or not 0 < int(given) <= _LARGEST_PORT:
        raise ValueError(
            f"OTEL_EXPORTER_PROMETHEUS_PORT={given} is no port: give 1 to {_LARGEST_PORT}"
        )
    return ScrapePlace(host, int(given))
