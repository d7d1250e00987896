"""What people see of reports: pages need nothing but themselves, tables fit a terminal."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from rich.console import Console
from typer.testing import CliRunner

from loadtest.commands.loadtest import app
from loadtest.reports import charts, figures, folder
from loadtest.reports.charts import Chart, Series
from loadtest.reports.differences import compare_runs
from loadtest.reports.measures import report_of
from loadtest.reports.report_page import report_page
from loadtest.reports.report_table import report_table
from loadtest.run_file import save_run
from tests.run_fakes import DURATION_S, counters, plain_requests, plain_run, runs

if TYPE_CHECKING:
    from pathlib import Path

    from loadtest.run import Run

_VOID = {"meta", "rect", "line", "path"}


class Page(HTMLParser):
    """Reads a page strictly: what is opened is closed, in order.

    Attributes:
        text: all of it that people see.
        links: values of attributes that would fetch something.
        tags: how often each was opened.

    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self.links: list[str] = []
        self.tags: dict[str, int] = {}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.links += [
            value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}
        ]
        for name, value in attrs:
            assert value != "nan"
            assert not (name == "d" and "nan" in (value or ""))
        # The limits of a chart are lines with a name inside them.
        named = tag == "line" and ("class", "limit") in attrs
        if tag not in _VOID or named:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def a_run() -> Run:
    at_s = np.arange(0.05, DURATION_S, 0.1, dtype=np.float64)
    classes = (np.arange(at_s.size) % 3).astype(np.int16)
    ending = np.where(np.arange(at_s.size) % 20 == 0, 2, 0).astype(np.int8)
    return plain_run(
        plain_requests(
            at_s,
            service_class=classes,
            tenant=(np.arange(at_s.size) % 2).astype(np.int16),
            ending=ending,
            error=np.where(ending == 2, 1, -1).astype(np.int16),
        ),
        samples=counters(50.0),
        tenants=("<script>alert(1)</script>", "b"),
    )


@given(runs())
@settings(deadline=None, max_examples=15)
def test_every_page_is_whole_and_fetches_nothing(run: Run) -> None:
    html = report_page(run, report_of(run))
    page = Page(html)
    assert page.links == []
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "script" not in page.tags


def test_a_page_shows_the_figures_of_its_report() -> None:
    run = a_run()
    report = report_of(run)
    page = Page(report_page(run, report))
    assert figures.number(report.overall.goodput) in page.text
    assert figures.number(report.energy.joules_per_token) in page.text
    assert "UNAVAILABLE: <gone> & away" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert page.tags["figure"] == 10
    for title in ("TTFT over time", "Requests per second", "Lateness", "Power", "In flight"):
        assert title in page.text


def test_pages_of_comparisons_are_whole_too(tmp_path: Path) -> None:
    pair = [("one", a_run()), ("two", a_run())]
    folder.save_comparison(compare_runs(pair), pair, tmp_path)
    page = Page((tmp_path / "comparison.html").read_text())
    assert page.links == []
    assert "two against one" in page.text
    assert "request by request" in (tmp_path / "comparison.txt").read_text()


def test_tables_fit_eighty_columns() -> None:
    text = StringIO()
    Console(file=text, width=80).print(report_table(report_of(a_run())))
    shown = text.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "J/token*" in shown
    assert "…" not in shown


def test_charts_draw_what_is_there_and_leave_gaps() -> None:
    x = np.arange(6, dtype=np.float64)
    gap = np.array([1.0, 2.0, np.nan, 3.0, np.inf, 4.0])
    drawn = charts.figure(Chart("Gaps", "s", "ms", (Series("<one>", x, gap),)))
    path, _ = re.findall(r'class="line c0" d="(M[^"]+)"', drawn)  # The second is the legend's.
    assert path.count("M") == 3
    assert "&lt;one&gt;" in drawn
    empty = charts.figure(Chart("None", "s", "ms", (Series("one", x, x * np.nan),)))
    assert "nothing to show" in empty
    Page(drawn)
    same = charts.figure(
        Chart("Same", "ms", "share", (Series("one", x * 0 + 5, x / 6),), log_x=True, nines=True)
    )
    Page(same)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "–"),
        (0.0, "0"),
        (1234.5, "1,234"),
        (99.95, "100.0"),
        (12.34, "12.3"),
        (0.01234, "0.0123"),
        (-3.21, "-3.21"),
        (1.5e-5, "1.50e-05"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert figures.number(value) == text


def test_shares_near_their_ends_keep_their_digits() -> None:
    assert [figures.percent(each) for each in (1.0, 0.9995, 0.5, 0.001, 0.0)] == [
        "100",
        "99.95",
        "50.0",
        "0.10",
        "0",
    ]


def test_a_report_is_made_from_the_command_line(tmp_path: Path) -> None:
    save_run(a_run(), tmp_path / "run.json.gz")
    outcome = CliRunner().invoke(app, ["report", str(tmp_path), "--out", str(tmp_path / "out")])
    assert outcome.exit_code == 0, outcome.output
    assert "TTFT" in outcome.output
    assert sorted(each.name for each in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.json",
        "report.txt",
    ]
    printed = CliRunner().invoke(app, ["report", str(tmp_path), "--json"])
    assert json.loads(printed.output) == json.loads((tmp_path / "out/report.json").read_text())
    schema = CliRunner().invoke(app, ["schema", "report"])
    assert json.loads(schema.output)["title"] == "jouleserve-report/1"
    for arguments, fault in (
        (["report", str(tmp_path / "out")], "has no run.json.gz"),
        (["report", str(tmp_path / "none.json")], "cannot be read"),
        (["compare", str(tmp_path)], "two runs or more"),
        (["schema", "nothing"], "known: run, report, comparison, capacity"),
    ):
        refused = CliRunner().invoke(app, arguments)
        assert refused.exit_code == 2
        assert fault in refused.output
