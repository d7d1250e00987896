"""A comparison as people read it in a terminal.

Its own module for the reason that `loadtest.reports.report_table` is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group as Blocks
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from loadtest.reports import figures
from loadtest.reports.figures import number
from loadtest.reports.page import Cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

    from loadtest.reports.comparison_values import Against, Comparison, Difference, RunFacts

_SHORT = {"no difference shown": "none shown"}
_VERDICT_STYLES = {"better": "green", "worse": "red", "not known": "dim"}


def comparison_table(comparison: Comparison) -> RenderableType:
    """Lay out a whole comparison."""
    blocks: list[RenderableType] = []
    for each in comparison.runs:
        blocks.append(Text(run_line(each)))
        blocks += [Text(f"  ! {line}", style="yellow") for line in each.warnings]
    for against in comparison.against:
        blocks += ["", *_against(comparison.base, against)]
    return Blocks(*blocks)


def run_line(run: RunFacts) -> str:
    """Say which run it is."""
    return (
        f"{run.label}: {run.scenario} on {run.target}, {run.source}, {run.model or '–'},"
        f" seed {run.seed}, {run.requests:,} requests, {run.started_at}"
    )


def title(base: str, against: Against) -> str:
    """Say what is compared, and how."""
    how = "request by request" if against.paired else "as wholes"
    return (
        f"{against.label} against {base}: {against.requests:,} requests, {how},"
        f" {against.blocks} blocks"
    )


def difference_rows(against: Against) -> Cells:
    """Give headings, and a row for each measure that is known of either run."""
    headings = ("", "base", "other", "change", "lies in", "%", "verdict")
    return Cells(headings, [_row(each) for each in known(against)])


def known(against: Against) -> list[Difference]:
    """Leave out what is known of neither run."""
    return [
        each
        for each in against.differences
        if number(each.base) != figures.NOTHING or number(each.other) != figures.NOTHING
    ]


def _row(each: Difference) -> tuple[str, ...]:
    shares = each.measure.endswith("%")
    base, other = (
        figures.percent(value / 100) if shares else number(value)
        for value in (each.base, each.other)
    )
    return (
        each.measure,
        base,
        other,
        _signed(each.difference),
        figures.between(each.interval),
        _signed(100 * each.relative),
        _SHORT.get(each.verdict, each.verdict),
    )


def _signed(value: float) -> str:
    text = number(value)
    return f"+{text}" if value > 0 else text


def _against(base: str, against: Against) -> Iterator[RenderableType]:
    yield Text(title(base, against), style="bold")
    yield from (Text(f"! {line}", style="yellow") for line in against.notes)
    headings, rows = difference_rows(against)
    table = Table(box=SIMPLE_HEAD, padding=0, show_edge=False)
    for heading in headings:
        first = not heading or heading == "verdict"
        table.add_column(escape(heading), justify="left" if first else "right", overflow="ellipsis")
    for each, row in zip(known(against), rows, strict=True):
        *cells, verdict = row
        table.add_row(*map(escape, cells), Text(verdict, _VERDICT_STYLES.get(each.verdict, "")))
    yield table
