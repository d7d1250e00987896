"""A comparison as a page: differences, and the runs' curves over one another.

Its own module for the reason that `loadtest.reports.report_page` is one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from loadtest.reports import charts, page
from loadtest.reports.charts import Chart
from loadtest.reports.comparison_table import difference_rows, run_line, title
from loadtest.reports.measures import in_order, window_of, within
from loadtest.reports.run_charts import distribution_curve, percentiles_over_time, power

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from loadtest.reports.comparison_values import Comparison
    from loadtest.run import Run

_MS = 1e3
_EXPLANATION = (
    "“lies in” holds the difference of such runs with 95 % confidence, by a bootstrap of blocks"
    " of neighbouring requests; of twenty measures of equal runs one is expected to show a"
    " difference that is none."
)


def comparison_page(comparison: Comparison, runs: Sequence[tuple[str, Run]]) -> str:
    """Write the page of a comparison and the runs that it is of."""
    labels = ", ".join(each.label for each in comparison.runs)
    return page.page(f"Runs compared: {labels}", _blocks(comparison, runs))


def _blocks(comparison: Comparison, runs: Sequence[tuple[str, Run]]) -> Iterator[str]:
    for facts in comparison.runs:
        yield page.paragraph(run_line(facts))
        yield page.warnings([f"{facts.label}: {line}" for line in facts.warnings])
    for against in comparison.against:
        yield page.heading(title(comparison.base, against))
        yield page.warnings(against.notes)
        yield page.table(difference_rows(against), _EXPLANATION)
    yield page.heading("Curves")
    yield page.charts(map(charts.figure, _charts(runs)))


def _charts(runs: Sequence[tuple[str, Run]]) -> Iterator[Chart]:
    for name in ("ttft_s", "tpot_s", "e2e_latency_s"):
        series = []
        for label, run in runs:
            values = getattr(run.requests, name)[within(run.requests, window_of(run))]
            there = values[np.isfinite(values)]
            if there.size:
                series.append(distribution_curve(label, _MS * there))
        words = {"ttft_s": "TTFT", "tpot_s": "TPOT"}.get(name, "End to end")
        yield Chart(
            f"{words}: share of requests below",
            "ms",
            "share",
            tuple(series),
            log_x=True,
            nines=True,
        )
    yield _overlaid("TTFT p99 over time", "ms", runs)
    yield Chart(
        "Power",
        "s from the start",
        "W",
        tuple(
            replace(series, name=f"{label}: {series.name}")
            for label, run in runs
            for series in power(run, in_order(run.requests))
        ),
    )


def _overlaid(heading: str, unit: str, runs: Sequence[tuple[str, Run]]) -> Chart:
    lines = []
    for label, run in runs:
        requests = in_order(run.requests)
        drawn = percentiles_over_time(
            heading, unit, requests, _MS * requests.ttft_s, window_of(run)
        )
        lines += [replace(each, name=label) for each in drawn.series if each.name == "p99"]
    return Chart(heading, "s from the start", unit, tuple(lines))
