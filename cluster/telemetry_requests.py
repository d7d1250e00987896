"""What is counted and measured once for each request, and added up until somebody asks.

Its own module because it is on the way of every request: the SDK's histograms take 20 µs for a
measurement with three attributes, of which a request has seven; here all of them together take
a few. What is handed to the SDK's exporters, when they export, is the SDK's own values.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal, NamedTuple

from cluster import telemetry_attributes as names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from opentelemetry.sdk.metrics.export import HistogramDataPoint, Metric, NumberDataPoint

Outcome = Literal["completed", "cancelled", "failed", "rejected"]
Objectives = Literal["", "met", "missed"]


@dataclass(frozen=True, slots=True, eq=False)  # Looked up by identity, with every request.
class Measure:
    """Something that is counted, or sorted into buckets where it has bounds."""

    name: str
    unit: str
    description: str
    bounds: tuple[float, ...] = ()


# The bounds are those of the conventions, and further ones where their ends are too near: a
# small model's tokens take less than 10 ms, a batch may wait minutes for its first.
# https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/
# fmt: off
REQUESTS = Measure("jouleserve.requests", "{request}", "Requests that have ended")
CACHED_TOKENS = Measure(
    "jouleserve.cached_tokens", "{token}", "Prompt tokens that a prefix cache had"
)
TOKENS = Measure(
    "gen_ai.client.token.usage", "{token}", "Tokens of a request",
    (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864),
)
TTFT = Measure(
    "gen_ai.server.time_to_first_token", "s", "Time to the first token",
    (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
     30.0, 60.0, 120.0),
)
TPOT = Measure(
    "gen_ai.server.time_per_output_token", "s", "Mean time per token after the first",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0,
     2.5),
)
DURATION = Measure(
    "gen_ai.server.request.duration", "s", "From a request's arrival to its end",
    (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
     163.84, 327.68, 655.36),
)
ENERGY = Measure(
    "jouleserve.energy_j", "J", "Energy of a request",
    tuple(digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5)),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """A request that has ended, as metrics count it.

    Attributes:
        outcome: completed, cancelled, failed or rejected.
        model: served model; empty if the client named none (names of clients' own making would
            each begin a time series).
        variant: that served it; empty if it came to none.
        service_class: that it belonged to; empty if it came to none.
        operation: the conventions' name of what was asked.
        error: kind of the fault, if it failed or was rejected.
        objectives: met or missed; empty if it says nothing about the service.
        prompt_tokens: length of the prompt.
        cached_tokens: of these, found in the prefix cache.
        completion_tokens: generated.
        ttft_s: time to the first token; None before one.
        tpot_s: mean time per token after it; None for fewer than two tokens.
        e2e_latency_s: from arrival to end; None unless it was completed.
        energy_j: attributed to it; None where unknown.
        energy_method: model, nvml or rapl.

    """

    outcome: Outcome
    model: str = ""
    variant: str = ""
    service_class: str = ""
    operation: str = ""
    error: str = ""
    objectives: Objectives = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_latency_s: float | None = None
    energy_j: float | None = None
    energy_method: str = ""


class _Kind(NamedTuple):
    """What tells the time series of requests apart, all metrics alike."""

    model: str
    variant: str
    service_class: str
    operation: str

    def attributes(self) -> dict[str, str]:
        pairs = {
            names.MODEL: self.model,
            names.VARIANT: self.variant,
            names.SERVICE_CLASS: self.service_class,
            names.OPERATION: self.operation,
            names.PROVIDER: names.PROVIDER_NAME,
        }
        return {name: value for name, value in pairs.items() if value}


class _End(NamedTuple):
    outcome: str
    error: str
    objectives: str

    def attributes(self) -> dict[str, str]:
        pairs = {
            names.OUTCOME: self.outcome,
            names.ERROR_TYPE: self.error,
            names.OBJECTIVES: self.objectives,
        }
        return {name: value for name, value in pairs.items() if value}


class _Distribution:
    """Values of one time series, in buckets."""

    __slots__ = ("_bounds", "_counts", "_least", "_most", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._least, self._most = float("inf"), float("-inf")

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value
        self._least, self._most = min(self._least, value), max(self._most, value)

    def point(
        self, attributes: Mapping[str, str], began_ns: int, now_ns: int
    ) -> HistogramDataPoint:
        from opentelemetry.sdk.metrics.export import HistogramDataPoint

        return HistogramDataPoint(
            attributes=attributes,
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            count=sum(self._counts),
            sum=self._sum,
            bucket_counts=tuple(self._counts),
            explicit_bounds=self._bounds,
            min=self._least,
            max=self._most,
        )


class _Series:
    """Everything of one kind of request."""

    __slots__ = ("cached_tokens", "ends", "measured")

    def __init__(self) -> None:
        self.ends: dict[_End, int] = {}
        self.cached_tokens = 0
        # By what is measured, and what tells it apart beyond the kind of request.
        self.measured: dict[tuple[Measure, str, str], _Distribution] = {}

    def add(self, measure: Measure, value: float, name: str = "", own: str = "") -> None:
        key = (measure, name, own)
        found = self.measured.get(key)
        if found is None:
            found = self.measured[key] = _Distribution(measure.bounds)
        found.add(value)


class Requests:
    """Counts and measures the requests of a process; any thread may read."""

    def __init__(self) -> None:
        self._series: dict[_Kind, _Series] = {}
        self._lock = threading.Lock()
        self._began_ns = time.time_ns()

    def record(self, request: RequestRecord) -> None:
        """Count a request that has ended."""
        kind = _Kind(request.model, request.variant, request.service_class, request.operation)
        end = _End(request.outcome, request.error, request.objectives)
        with self._lock:
            series = self._series.get(kind)
            if series is None:
                series = self._series[kind] = _Series()
            series.ends[end] = series.ends.get(end, 0) + 1
            if request.variant:
                series.cached_tokens += request.cached_tokens
                series.add(TOKENS, request.prompt_tokens, names.TOKEN_TYPE, "input")
                series.add(TOKENS, request.completion_tokens, names.TOKEN_TYPE, "output")
            if request.ttft_s is not None:
                series.add(TTFT, request.ttft_s)
            if request.tpot_s is not None:
                series.add(TPOT, request.tpot_s)
            if request.e2e_latency_s is not None:
                series.add(DURATION, request.e2e_latency_s)
            if request.energy_j is not None:
                series.add(ENERGY, request.energy_j, names.ENERGY_METHOD, request.energy_method)

    def metrics(self) -> list[Metric]:
        """Give all of it as exporters take it, since this was made; empty before a request."""
        from opentelemetry.sdk.metrics.export import AggregationTemporality, Histogram, Metric, Sum

        now_ns = time.time_ns()
        with self._lock:
            counts = {
                REQUESTS: list(self._ends(now_ns)),
                CACHED_TOKENS: list(self._cached(now_ns)),
            }
            points = self._points(now_ns)
        total = AggregationTemporality.CUMULATIVE
        measured = [
            (measure, Sum(each, total, is_monotonic=True)) for measure, each in counts.items()
        ] + [(measure, Histogram(each, total)) for measure, each in points.items()]
        return [
            Metric(measure.name, measure.description, measure.unit, data)
            for measure, data in measured
            if data.data_points
        ]

    def _ends(self, now_ns: int) -> Iterable[NumberDataPoint]:
        for kind, series in self._series.items():
            for end, count in series.ends.items():
                yield self._count(kind.attributes() | end.attributes(), count, now_ns)

    def _cached(self, now_ns: int) -> Iterable[NumberDataPoint]:
        for kind, series in self._series.items():
            yield self._count(kind.attributes(), series.cached_tokens, now_ns)

    def _count(self, attributes: dict[str, str], count: int, now_ns: int) -> NumberDataPoint:
        from opentelemetry.sdk.metrics.export import NumberDataPoint

        return NumberDataPoint(attributes, self._began_ns, now_ns, count)

    def _points(self, now_ns: int) -> dict[Measure, list[HistogramDataPoint]]:
        points: dict[Measure, list[HistogramDataPoint]] = {}
        for kind, series in self._series.items():
            shared = kind.attributes()
            for (measure, name, own), values in series.measured.items():
                attributes = shared | {name: own} if name else shared
                point = values.point(attributes, self._began_ns, now_ns)
                points.setdefault(measure, []).append(point)
        return points


@cache
def requests() -> Requests:
    """Give those of this process."""
    return Requests()
