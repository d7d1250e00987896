"""`jouleserve loadtest simulate`.

Its own module because it runs a scenario as `loadtest run` does, with no server to speak to.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import Annotated

import typer
from rich.console import Console

from loadtest.errors import LoadtestError

_PIPE_WIDTH = 120
_USAGE_ERROR = 2


def simulate(  # noqa: PLR0913 (one argument for each option)
    scenario: Annotated[str, typer.Argument(help="By name, or the path of a .yaml file.")],
    *,
    fleet: Annotated[Path, typer.Option(help="A virtual fleet, as in examples/fleets.")],
    rate: Annotated[float | None, typer.Option(min=1e-6, help="Requests/s.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="A closed loop of so many.")] = None,
    duration: Annotated[float | None, typer.Option(min=1.0, help="Seconds measured.")] = None,
    warmup: Annotated[float | None, typer.Option(min=0.0, help="Seconds before that.")] = None,
    policy: Annotated[str, typer.Option(help="Routing policy.")] = "energy",
    autoscaler: Annotated[
        str, typer.Option(help="As `jouleserve simulate` has them.")
    ] = "everything_awake",
    seed: Annotated[int, typer.Option(help="The same gives the same schedule as live.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run and its report in three forms.")
    ] = None,
) -> None:
    """Run a scenario on a virtual fleet: the schedule and the report of a live run."""
    from loadtest.reports.folder import save_with_report
    from loadtest.reports.measures import report_of
    from loadtest.reports.report_table import report_table
    from loadtest.scenario_file import adjusted, load
    from loadtest.virtual.fleets import read_fleet
    from loadtest.virtual.scenario import VirtualOptions, run_virtual

    try:
        asked = adjusted(
            load(scenario), rate_per_s=rate, users=users, duration_s=duration, warmup_s=warmup
        )
        note = "jouleserve loadtest simulate"
        run = run_virtual(asked, read_fleet(fleet), VirtualOptions(policy, autoscaler, seed, note))
    except LoadtestError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"error: {error}", style="red", markup=False
        )
        raise typer.Exit(_USAGE_ERROR) from error
    report = report_of(run) if out is None else save_with_report(run, out)
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, highlight=False).print(report_table(report))
