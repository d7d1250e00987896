"""What of a run is drawn, and how many points that takes.

Its own module because it turns rows into lines; how a line looks is of no interest here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from loadtest.reports.charts import Chart, Series
from loadtest.reports.measures import in_order, window_of, within
from loadtest.run import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from loadtest.reports.measures import Window
    from loadtest.run import Requests, Run

    Floats = NDArray[np.float64]

_MS = 1e3
# A time axis has so many bins, and none shorter than this.
_BINS = 60
_SHORTEST_BIN_S = 0.5
# A distribution is drawn by so many points, most of them near its top.
_CURVE_POINTS = 200
_SECONDS = "s from the start"


def charts_of(run: Run) -> tuple[Chart, ...]:
    """Lay out all charts of a run; those that nothing is known for are left out."""
    requests, window = in_order(run.requests), window_of(run)
    rows = within(requests, window)
    charts = (
        *_distributions(run, requests.select(rows)),
        percentiles_over_time("TTFT over time", "ms", requests, _MS * requests.ttft_s, window),
        percentiles_over_time("TPOT over time", "ms", requests, _MS * requests.tpot_s, window),
        _rates(requests, window),
        _in_flight(run, requests, window),
        *_lateness(run, requests, window),
        Chart("Power", _SECONDS, "W", tuple(power(run, requests)), shade=window),
        *_troubles(requests, window),
    )
    return tuple(chart for chart in charts if chart.series)


def _distributions(run: Run, steady: Requests) -> Iterator[Chart]:
    for title, values_s, limit in (
        ("TTFT", steady.ttft_s, "ttft_s"),
        ("TPOT", steady.tpot_s, "tpot_s"),
        ("End to end", steady.e2e_latency_s, ""),
    ):
        series, limits = [], []
        for index, each in enumerate(run.classes):
            mine = values_s[(steady.service_class == index) & np.isfinite(values_s)]
            if mine.size:
                series.append(distribution_curve(each.name, _MS * mine))
            if limit and each.objective is not None:
                limits.append((f"objective of {each.name}", _MS * getattr(each.objective, limit)))
        yield Chart(
            f"{title}: share of requests below",
            "ms",
            "share",
            tuple(series),
            log_x=True,
            nines=True,
            limits=tuple(limits),
        )


def distribution_curve(name: str, values: Floats) -> Series:
    """Draw a distribution function, with as many points in its last per cents as before."""
    shares: Floats = 1 - np.logspace(0, -math.log10(max(values.size, 2)), _CURVE_POINTS)
    return Series(name, np.asarray(np.quantile(values, shares), np.float64), shares)


def _bins(requests: Requests) -> Floats:
    """Edges of bins over the time in which anything happened."""
    times = [requests.scheduled_at_s, requests.ended_at_s]
    finite = np.concatenate([each[np.isfinite(each)] for each in times])
    last_s = float(finite.max()) if finite.size else 1.0
    count = int(min(_BINS, max(last_s / _SHORTEST_BIN_S, 1)))
    return np.linspace(0.0, max(last_s, _SHORTEST_BIN_S) * (1 + 1e-9), count + 1)


def percentiles_over_time(
    title: str, unit: str, requests: Requests, values: Floats, window: Window
) -> Chart:
    """Draw the median and the 99th percentile of what was scheduled in each bin."""
    edges = _bins(requests)
    there = np.isfinite(values) & np.isfinite(requests.scheduled_at_s)
    places = np.searchsorted(edges, requests.scheduled_at_s[there], side="right") - 1
    parts = np.split(values[there], np.searchsorted(places, np.arange(1, len(edges) - 1)))
    middles = (edges[1:] + edges[:-1]) / 2
    series = tuple(
        Series(
            name,
            middles,
            np.array([np.percentile(part, q) if part.size else math.nan for part in parts]),
        )
        for name, q in (("p50", 50), ("p99", 99))
        if there.any()
    )
    return Chart(title, _SECONDS, unit, series, shade=window)


def _counted(edges: Floats, at_s: Floats) -> Floats:
    """Per second, in each bin; the last repeats the one before, for steps end there."""
    counts = np.histogram(at_s[np.isfinite(at_s)], edges)[0] / np.diff(edges)
    return np.append(counts, counts[-1])


def _rates(requests: Requests, window: Window) -> Chart:
    edges = _bins(requests)
    completed = requests.ended_at_s[requests.ending == Ending.COMPLETED]
    return Chart(
        "Requests per second",
        _SECONDS,
        "requests/s",
        (
            Series("planned", edges, _counted(edges, requests.scheduled_at_s), steps=True),
            Series("sent", edges, _counted(edges, requests.sent_at_s), steps=True),
            Series("completed", edges, _counted(edges, completed), steps=True),
        ),
        shade=window,
    )


def _in_flight(run: Run, requests: Requests, window: Window) -> Chart:
    """As the client sees it, and as the server says."""
    edges = _bins(requests)
    sent = np.sort(requests.sent_at_s[np.isfinite(requests.sent_at_s)])
    ended = requests.ended_at_s[np.isfinite(requests.ended_at_s) & np.isfinite(requests.sent_at_s)]
    open_ = np.searchsorted(sent, edges, "right") - np.searchsorted(np.sort(ended), edges, "right")
    series = [Series("in flight", edges, open_.astype(np.float64))]
    if run.samples:
        at_s = np.array([each.at_s for each in run.samples])
        for name, values in (
            ("running (server)", [each.running_requests for each in run.samples]),
            ("waiting (server)", [each.waiting_requests for each in run.samples]),
            ("replicas awake", [each.awake_replicas for each in run.samples]),
        ):
            series.append(Series(name, at_s, np.array(values, np.float64), steps=True))
    return Chart("In flight", _SECONDS, "requests", tuple(series), shade=window)


def _lateness(run: Run, requests: Requests, window: Window) -> Iterator[Chart]:
    if run.source == "live":
        title = "Lateness of the sender"
        yield percentiles_over_time(title, "ms", requests, _MS * requests.lateness_s, window)


def power(run: Run, requests: Requests) -> list[Series]:
    """Draw what the server says of itself, and what it attributed to requests."""
    series = []
    drawn = [(each.at_s, each.power_w) for each in run.samples if math.isfinite(each.power_w)]
    if drawn:
        at_s, power_w = np.array(drawn).T
        series.append(Series("server", at_s, power_w))
    if np.isfinite(requests.energy_j).any():
        edges = _bins(requests)
        watts = _spread(requests, edges) / np.diff(edges)
        series.append(
            Series("attributed to requests", edges, np.append(watts, watts[-1]), steps=True)
        )
    return series


def _spread(requests: Requests, edges: Floats) -> Floats:
    """Each request's joules, evenly over its stream, added up in bins."""
    told = np.isfinite(requests.energy_j) & np.isfinite(requests.ended_at_s)
    stop = requests.ended_at_s[told]
    first = requests.first_token_at_s[told]
    start = np.where(np.isfinite(first), first, stop)
    # A stream of no length still has its joules.
    start = np.minimum(start, stop - 1e-9)
    density = requests.energy_j[told] / (stop - start)
    at = np.concatenate([start, stop])
    order = np.argsort(at)
    slopes = np.concatenate([density, -density])[order]
    at = at[order]
    # The integral of a step function is linear between its steps.
    level = np.cumsum(slopes)
    total = np.concatenate([[0.0], np.cumsum(level[:-1] * np.diff(at))])
    return np.diff(np.interp(edges, at, total, left=0.0)) if at.size else np.zeros(len(edges) - 1)


def _troubles(requests: Requests, window: Window) -> Iterator[Chart]:
    edges = _bins(requests)
    series = []
    for ending in (Ending.SHED, Ending.FAILED, Ending.CUT_OFF, Ending.UNSENT):
        rows = requests.ending == ending
        if rows.any():
            name = ending.name.lower().replace("_", " ")
            counts = _counted(edges, requests.scheduled_at_s[rows])
            series.append(Series(name, edges, counts, steps=True))
    yield Chart(
        "Requests that did not complete",
        _SECONDS,
        "by schedule, requests/s",
        tuple(series),
        shade=window,
    )
