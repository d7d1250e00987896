"""`jouleserve loadtest report`, `compare` and `schema`.

Its own module because it alone turns options and exit codes of a terminal into reports; what
a command needs is imported when it is called.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from loadtest.errors import LoadtestError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import RenderableType

# Tables in a pipe or a file are as wide as they need, up to this many characters.
_PIPE_WIDTH = 120
_USAGE_ERROR = 2
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def report(
    run: Annotated[Path, typer.Argument(help="A run's file, or the folder with its run.json.gz.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.json, report.html and report.txt.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what came of a run: latencies, objectives, joules, and how far to believe them."""
    from loadtest.reports import folder, json_form
    from loadtest.reports.measures import report_of
    from loadtest.reports.report_table import report_table
    from loadtest.run_file import load_run

    with _told():
        found = load_run(run_file(run))
        made = report_of(found) if out is None else folder.save_report(found, out)
        if json:
            typer.echo(json_form.written(made, folder.REPORT_FORM), nl=False)
        else:
            _print(report_table(made))


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Two runs or more, files or folders; all are compared with the first."),
    ],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for comparison.json, comparison.html and comparison.txt."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Compare runs with the first, request by request where they had the same schedule."""
    from loadtest.reports import folder, json_form
    from loadtest.reports.comparison_table import comparison_table
    from loadtest.reports.differences import compare_runs, labelled
    from loadtest.run_file import load_run

    with _told():
        if len(runs) < 2:  # noqa: PLR2004 (a comparison is of two)
            raise LoadtestError("a comparison needs two runs or more")
        files = [run_file(path) for path in runs]
        found = labelled(files, [load_run(path) for path in files])
        made = compare_runs(found)
        if out is not None:
            folder.save_comparison(made, found, out)
        if json:
            typer.echo(json_form.written(made, folder.COMPARISON_FORM), nl=False)
        else:
            _print(comparison_table(made))


def schema(
    form: Annotated[str, typer.Argument(help="run, report, comparison or capacity.")],
) -> None:
    """Print the JSON Schema of a document that load tests leave."""
    from loadtest.reports import forms

    with _told():
        if form not in forms.schemas():
            raise LoadtestError(f"no document {form!r}; known: {', '.join(forms.schemas())}")
        typer.echo(forms.shipped(form), nl=False)


def run_file(path: Path) -> Path:
    """Find the run that a path names: a file, or a folder that has one.

    Raises:
        LoadtestError: there is none.

    """
    from loadtest.reports.folder import RUN_FILE

    if not path.is_dir():
        return path
    for name in (RUN_FILE, RUN_FILE.removesuffix(".gz")):
        if (path / name).exists():
            return path / name
    raise LoadtestError(f"{path} has no {RUN_FILE}: name a file, or a folder of one run")


def _print(table: RenderableType) -> None:
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False).print(table)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code."""
    try:
        yield
    except LoadtestError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        raise typer.Exit(_USAGE_ERROR) from error
