"""A report as people read it in a terminal, 80 columns wide if need be.

Its own module because what is worth a line is chosen here; files carry everything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group as Blocks
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.reports import figures
from loadtest.reports.figures import milliseconds, number, percent
from loadtest.reports.page import Cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from loadtest.reports.values import Distribution, Energy, Group, Report

_ERRORS_SHOWN = 10
ENERGY_SOURCES = {
    "counter": "by the server's counters, idle included",
    "attributed": "by what replies say, without idle",
    "none": "not known",
}


def report_table(report: Report) -> RenderableType:
    """Lay out a whole report."""
    return Blocks(
        Text(heading(report), style="bold"),
        *(Text(line, style="dim") for line in circumstances(report)),
        *(Text(f"! {each}", style="yellow") for each in report.warnings),
        "",
        _latencies(report.overall),
        "",
        _groups(report),
        "",
        _facts(report),
        *_errors(report),
    )


def heading(report: Report) -> str:
    """Say what was run, where."""
    return f"{report.scenario} on {report.target}"


def circumstances(report: Report) -> Iterator[str]:
    """Say under which circumstances."""
    loop = "closed loop" if report.closed_loop else "open loop"
    yield (
        f"{report.source}, {loop}, model {report.model or '–'}, seed {report.seed};"
        f" {report.overall.requests:,} of {report.planned:,} requests, scheduled"
        f" {report.begin_s:g} to {report.end_s:g} s"
    )
    about = ", ".join(each for each in (report.started_at, report.host, report.note) if each)
    if about:
        yield about


def latency_rows(group: Group) -> list[tuple[str, Distribution]]:
    """Name the latencies that anything is known of."""
    rows = [
        ("TTFT", group.ttft_s),
        ("TPOT", group.tpot_s),
        ("ITL", group.itl_s),
        ("longest gap", group.longest_gap_s),
        ("end to end", group.e2e_latency_s),
        ("server TTFT", group.server_ttft_s),
        ("outside TTFT", group.outside_ttft_s),
        ("server e2e", group.server_e2e_s),
        ("outside e2e", group.outside_e2e_s),
    ]
    return [(name, each) for name, each in rows if each.count]


def facts(report: Report) -> list[tuple[str, str]]:
    """Name what is neither a latency nor of a group."""
    overall, sender, backlog = report.overall, report.sender, report.backlog
    rows = [
        (
            "traffic",
            (
                f"{number(overall.requests_per_s)} requests/s came,"
                f" {number(overall.completed_per_s)} completed;"
                f" {number(overall.prompt_tokens_per_s)} tokens/s in,"
                f" {number(overall.completion_tokens_per_s)} out"
            ),
        ),
        ("sender", sender.verdict),
    ]
    if sender.lateness_s.count and report.source == "live":
        late = sender.lateness_s
        rows.append(
            (
                "lateness",
                (
                    f"p50 {milliseconds(late.p50_s)}, p99 {milliseconds(late.p99_s)},"
                    f" longest {milliseconds(late.max_s)} ms; {sender.workers} worker processes"
                ),
            )
        )
    rows.append(("in flight", f"{backlog.at_begin} at the beginning, {backlog.at_end} at the end"))
    return [*rows, *_energy_facts(report.energy)]


def _energy_facts(energy: Energy) -> Iterator[tuple[str, str]]:
    if energy.source == "none":
        return
    method = f" ({energy.method})" if energy.method else ""
    yield "energy", f"{ENERGY_SOURCES[energy.source]}{method}"
    yield (
        "",
        (
            f"{number(energy.joules_per_token)} J/output token,"
            f" {number(energy.joules_per_good_token)} J/token within objectives,"
            f" {number(energy.joules_per_request)} J/request"
        ),
    )
    idle = ""
    if energy.source == "counter":
        idle = f"; replies account for {percent(1 - energy.unattributed_share)} %"
    yield "", f"{number(energy.mean_power_w)} W mean, {number(energy.energy_j)} J{idle}"
    if math.isfinite(energy.gco2e):
        yield (
            "carbon",
            f"{number(energy.gco2e)} g, {number(1e3 * energy.gco2e_per_request)} mg/request",
        )


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)


def _latencies(group: Group) -> Table:
    table = _table("Latency, ms")
    table.add_column("", min_width=12, overflow="fold")
    for heading_ in ("p50", "p90", "p95", "p99", "p99 lies in", "p99.9", "longest"):
        table.add_column(heading_, justify="right", no_wrap=True)
    for name, each in latency_rows(group):
        cells = (each.p50_s, each.p90_s, each.p95_s, each.p99_s)
        table.add_row(
            name,
            *map(milliseconds, cells),
            figures.between_ms(each.p99_interval_s),
            milliseconds(each.p999_s),
            milliseconds(each.max_s),
        )
    return table


def groups_of(report: Report) -> list[Group]:
    """All, then classes, tenants and variants; a single one says the same as all."""
    several = [report.classes, report.tenants, report.variants]
    return [report.overall, *(each for kind in several if len(kind) > 1 for each in kind)]


def group_rows(report: Report) -> Cells:
    """Give headings, and a row for each group."""
    headings = (
        "",
        "/s",
        "done %",
        "good/s",
        "SLO %",
        "lies in",
        "TTFT p99",
        "TPOT p99",
        "J/token*",
    )
    rows: list[tuple[str, ...]] = [
        (
            group.name or group.kind,
            number(group.requests_per_s),
            percent(group.completed / group.requests) if group.requests else figures.NOTHING,
            number(group.goodput),
            percent(group.slo_attainment),
            figures.between(group.slo_attainment_interval, 100),
            milliseconds(group.ttft_s.p99_s),
            milliseconds(group.tpot_s.p99_s),
            number(group.joules_per_token),
        )
        for group in groups_of(report)
    ]
    return Cells(headings, rows)


def _groups(report: Report) -> Table:
    headings, rows = group_rows(report)
    table = _table("Objectives and energy")
    table.add_column("", min_width=12, overflow="fold")
    for each in headings[1:]:
        table.add_column(each, justify="right", no_wrap=True)
    before = "all"
    for group, (name, *cells) in zip(groups_of(report), rows, strict=True):
        if group.kind != before:
            table.add_section()
            before = group.kind
        table.add_row(escape(name), *cells)
    table.caption = "* that replies say, per output token; latencies in ms"
    table.caption_justify = "left"
    return table


def _facts(report: Report) -> Table:
    table = Table.grid(padding=(0, 1))
    for name, text in facts(report):
        table.add_row(Text(name, style="dim"), Text(text))
    return table


def _errors(report: Report) -> Iterator[RenderableType]:
    if not report.errors:
        return
    yield ""
    table = _table("Errors")
    table.add_column("requests", justify="right")
    table.add_column("ended")
    table.add_column("why", overflow="fold")
    table.add_column("first at s", justify="right")
    for each in report.errors[:_ERRORS_SHOWN]:
        ending = each.ending.replace("_", " ")
        table.add_row(f"{each.count:,}", ending, escape(each.error), number(each.first_at_s))
    more = len(report.errors) - _ERRORS_SHOWN
    if more > 0:
        table.caption = f"and {more} more kinds"
    yield table
