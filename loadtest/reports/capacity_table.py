"""A capacity and the trials that it rests on, as text and as a page.

Its own module because both show the same rows, and there is little more to either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group as Blocks
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.reports import charts, figures, page
from loadtest.reports.charts import Chart, Series
from loadtest.reports.figures import milliseconds, number, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from loadtest.reports.capacity_values import Capacity, Trial

_HEADINGS = (
    "rate/s",
    "seed",
    "requests",
    "SLO %",
    "lies in",
    "TTFT p99 ms",
    "TPOT p99 ms",
    "J/token",
    "kept",
)
_RATE = "rate, /s"


def trial_line(trial: Trial) -> str:
    """Say in one line how a trial ended, while the next is being made."""
    ending = "kept" if trial.kept else f"missed: {trial.reason}"
    return (
        f"{number(trial.rate_per_s)}/s, seed {trial.seed}: {percent(trial.slo_attainment)} %"
        f" of {trial.requests:,} requests within objectives, {ending} ({trial.took_s:.1f} s)"
    )


def capacity_table(capacity: Capacity) -> RenderableType:
    """Lay out a search, its trials by rate."""
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in _HEADINGS:
        last = heading == "kept"
        table.add_column(heading, justify="left" if last else "right", no_wrap=not last)
    for row in _rows(capacity):
        table.add_row(*map(escape, row))
    return Blocks(
        Text(_title(capacity), style="bold"),
        Text(capacity.verdict, style="green" if capacity.outcome == "found" else "yellow"),
        Text(_resolution(capacity), style="dim"),
        "",
        table,
    )


def capacity_page(capacity: Capacity) -> str:
    """Write the page of a search."""
    return page.page(_title(capacity), _blocks(capacity))


def _title(capacity: Capacity) -> str:
    return f"Capacity for {capacity.scenario} on {capacity.target}"


def _resolution(capacity: Capacity) -> str:
    sure = "sure" if capacity.sure else "not sure"
    return (
        f"{capacity.outcome}; resolution {percent(capacity.resolution)} %"
        f" (wanted {percent(capacity.wanted_resolution)} %), {sure} at 95 % confidence;"
        f" {len(capacity.trials)} trials in {capacity.took_s:.0f} s"
    )


def _rows(capacity: Capacity) -> list[tuple[str, ...]]:
    return [
        (
            number(each.rate_per_s),
            str(each.seed),
            f"{each.requests:,}",
            percent(each.slo_attainment),
            figures.between(each.slo_attainment_interval, 100),
            milliseconds(each.ttft_p99_s),
            milliseconds(each.tpot_p99_s),
            number(each.joules_per_token),
            "yes" if each.kept else f"no: {each.reason}",
        )
        for each in _by_rate(capacity)
    ]


def _by_rate(capacity: Capacity) -> list[Trial]:
    return sorted(capacity.trials, key=lambda each: (each.rate_per_s, each.seed))


def _blocks(capacity: Capacity) -> Iterator[str]:
    yield page.paragraph(capacity.verdict)
    yield page.paragraph(_resolution(capacity))
    yield page.tiles(
        [
            ("requests/s kept", number(capacity.rate_per_s)),
            ("requests/s missed", number(capacity.missed_per_s)),
            ("resolution", f"{percent(capacity.resolution)} %"),
            ("trials", str(len(capacity.trials))),
        ]
    )
    yield page.charts(map(charts.figure, _charts(capacity)))
    yield page.heading("Trials")
    yield page.table(page.Cells(_HEADINGS, _rows(capacity)))


def _charts(capacity: Capacity) -> Iterator[Chart]:
    trials = _by_rate(capacity)
    rates = np.array([each.rate_per_s for each in trials])
    for title, label, values in (
        ("Within objectives", "%", [100 * each.slo_attainment for each in trials]),
        ("TTFT p99", "ms", [1e3 * each.ttft_p99_s for each in trials]),
        ("TPOT p99", "ms", [1e3 * each.tpot_p99_s for each in trials]),
        ("Energy", "J/token", [each.joules_per_token for each in trials]),
    ):
        series = Series("trials", rates, np.array(values))
        limits = (("capacity", capacity.rate_per_s),) if capacity.rate_per_s else ()
        yield Chart(title, _RATE, label, (series,), log_x=True, limits=limits)
