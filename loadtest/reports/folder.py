"""The files that runs, comparisons and searches leave behind, each in three forms.

Its own module because live and virtual runs leave the same, under the same names.
"""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console

from loadtest.reports.capacity_table import capacity_page, capacity_table
from loadtest.reports.comparison_page import comparison_page
from loadtest.reports.comparison_table import comparison_table
from loadtest.reports.json_form import written
from loadtest.reports.measures import report_of
from loadtest.reports.report_page import report_page
from loadtest.reports.report_table import report_table
from loadtest.run_file import save_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from loadtest.reports.capacity_values import Capacity
    from loadtest.reports.comparison_values import Comparison
    from loadtest.reports.values import Report
    from loadtest.run import Run

REPORT_FORM = "jouleserve-report/1"
COMPARISON_FORM = "jouleserve-comparison/1"
CAPACITY_FORM = "jouleserve-capacity/1"
RUN_FILE = "run.json.gz"
# Of tables in files.
_WIDTH = 110


def save_with_report(run: Run, folder: Path) -> Report:
    """Write a run (`run.json.gz`) with its report (`report.json`, `.html` and `.txt`).

    Args:
        run: to be kept.
        folder: that is made if need be; files of these names are replaced.

    Returns:
        the report.

    """
    save_run(run, folder / RUN_FILE)
    return save_report(run, folder)


def save_report(run: Run, folder: Path) -> Report:
    """Write the report alone."""
    report = report_of(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(written(report, REPORT_FORM), encoding="utf-8")
    (folder / "report.html").write_text(report_page(run, report), encoding="utf-8")
    (folder / "report.txt").write_text(as_text(report_table(report)), encoding="utf-8")
    return report


def save_comparison(comparison: Comparison, runs: Sequence[tuple[str, Run]], folder: Path) -> None:
    """Write a comparison (`comparison.json`, `.html` and `.txt`) of runs with their labels."""
    folder.mkdir(parents=True, exist_ok=True)
    document = written(comparison, COMPARISON_FORM)
    (folder / "comparison.json").write_text(document, encoding="utf-8")
    html = comparison_page(comparison, runs)
    (folder / "comparison.html").write_text(html, encoding="utf-8")
    text = as_text(comparison_table(comparison))
    (folder / "comparison.txt").write_text(text, encoding="utf-8")


def save_capacity(capacity: Capacity, folder: Path) -> None:
    """Write a search for a capacity (`capacity.json`, `.html` and `.txt`)."""
    folder.mkdir(parents=True, exist_ok=True)
    document = written(capacity, CAPACITY_FORM)
    (folder / "capacity.json").write_text(document, encoding="utf-8")
    (folder / "capacity.html").write_text(capacity_page(capacity), encoding="utf-8")
    text = as_text(capacity_table(capacity))
    (folder / "capacity.txt").write_text(text, encoding="utf-8")


def as_text(table: RenderableType) -> str:
    """Lay out a table for a file: no colours, and as wide as it needs."""
    text = StringIO()
    Console(file=text, width=_WIDTH, color_system=None).print(table)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())
