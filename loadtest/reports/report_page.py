"""A report as a page.

Its own module because it chooses what stands where; what a page or a chart looks like is
settled elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest.reports import charts, figures, page
from loadtest.reports.figures import milliseconds, number, percent
from loadtest.reports.report_table import (
    circumstances,
    facts,
    group_rows,
    heading,
    latency_rows,
)
from loadtest.reports.run_charts import charts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.reports.values import Report
    from loadtest.run import Run


def report_page(run: Run, report: Report) -> str:
    """Write the page of a run and its report."""
    return page.page(heading(report), _blocks(run, report))


def _blocks(run: Run, report: Report) -> Iterator[str]:
    yield from map(page.paragraph, circumstances(report))
    yield page.warnings(report.warnings)
    yield page.tiles(_tiles(report))
    yield page.heading("Latency, ms")
    yield page.table(_latencies(report))
    yield page.heading("Objectives and energy")
    yield page.table(group_rows(report), "* that replies say, per output token; latencies in ms")
    yield page.heading("Traffic, sender, energy")
    yield page.pairs(facts(report))
    if report.errors:
        yield page.heading("Errors")
        yield page.table(_errors(report), words=True)
    yield page.heading("Over time and by share")
    yield page.paragraph(
        "Shaded: the window that is measured. Dotted: objectives."
        " Latencies count from the schedule."
    )
    yield page.charts(map(charts.figure, charts_of(run)))


def _tiles(report: Report) -> Iterator[tuple[str, str]]:
    overall, energy = report.overall, report.energy
    yield "requests/s completed", number(overall.completed_per_s)
    if overall.judged:
        yield "good requests/s", number(overall.goodput)
        yield "within objectives", f"{percent(overall.slo_attainment)} %"
    yield "TTFT p99", f"{milliseconds(overall.ttft_s.p99_s)} ms"
    yield "TPOT p99", f"{milliseconds(overall.tpot_s.p99_s)} ms"
    if energy.source != "none":
        idle = "all energy" if energy.source == "counter" else "without idle"
        yield f"J/output token, {idle}", number(energy.joules_per_token)
        if overall.judged:
            yield "J/token within objectives", number(energy.joules_per_good_token)


def _latencies(report: Report) -> page.Cells:
    headings = ("", "requests", "mean", "p50", "lies in", "p90", "p95", "p99", "lies in", "p99.9")
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{each.count:,}",
            milliseconds(each.mean_s),
            milliseconds(each.p50_s),
            figures.between_ms(each.p50_interval_s),
            milliseconds(each.p90_s),
            milliseconds(each.p95_s),
            milliseconds(each.p99_s),
            figures.between_ms(each.p99_interval_s),
            milliseconds(each.p999_s),
            milliseconds(each.max_s),
        )
        for name, each in latency_rows(report.overall)
    ]
    return page.Cells((*headings, "longest"), rows)


def _errors(report: Report) -> page.Cells:
    return page.Cells(
        ("ended", "requests", "first at s", "why"),
        [
            (
                each.ending.replace("_", " "),
                f"{each.count:,}",
                number(each.first_at_s),
                each.error,
            )
            for each in report.errors
        ],
    )
