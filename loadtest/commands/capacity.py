"""`jouleserve loadtest capacity`.

Its own module because its options are many; what they mean is told by the modules it joins.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from loadtest.errors import LoadtestError

if TYPE_CHECKING:
    from loadtest.capacity_search import RunMaker
    from loadtest.reports.capacity_values import Trial
    from loadtest.scenario import Scenario

_PIPE_WIDTH = 120
_USAGE_ERROR = 2
_NOT_FOUND = 1


def capacity(  # noqa: PLR0913 (one argument for each option)
    scenario: Annotated[str, typer.Argument(help="By name, or the path of a .yaml file.")],
    *,
    fleet: Annotated[
        Path | None, typer.Option(help="A virtual fleet, as in examples/fleets; or --target.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="host:port (gRPC) or http://host:port (OpenAI).")
    ] = None,
    model: Annotated[str, typer.Option(help="To be asked; with --target.")] = "",
    api_key_file: Annotated[
        Path | None, typer.Option(help="By default what JOULESERVE_API_KEY says.")
    ] = None,
    goal: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share within every objective.")
    ] = 0.99,
    start: Annotated[
        float | None, typer.Option(min=1e-3, help="First rate; by default the scenario's.")
    ] = None,
    highest: Annotated[float, typer.Option(min=1e-3, help="No higher rate is tried.")] = 1e6,
    resolution: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Of the answer, as a share of it.")
    ] = 0.05,
    repeats: Annotated[
        int, typer.Option(min=1, max=99, help="Trials at a rate at most; the majority decides.")
    ] = 3,
    most_trials: Annotated[int, typer.Option(min=1, help="In all.")] = 40,
    time_limit: Annotated[
        float, typer.Option(min=1.0, help="Seconds after which no trial begins.")
    ] = 1800.0,
    duration: Annotated[
        float | None, typer.Option(min=1.0, help="Seconds that a trial measures.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(min=0.0, help="Seconds before that.")] = None,
    policy: Annotated[str, typer.Option(help="Of a virtual fleet.")] = "energy",
    autoscaler: Annotated[str, typer.Option(help="Of a virtual fleet.")] = "everything_awake",
    seed: Annotated[int, typer.Option(help="Of the first trial at each rate.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for capacity.json, capacity.html, capacity.txt.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Find the highest rate that keeps the objectives, by trials: live, or on a virtual fleet."""
    from loadtest.capacity_search import CapacitySearch, SearchSettings
    from loadtest.reports import folder, json_form
    from loadtest.reports.capacity_table import capacity_table, trial_line
    from loadtest.scenario_file import adjusted, load

    progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def tell(trial: Trial) -> None:
        progress.print(trial_line(trial), markup=False)

    try:
        asked = adjusted(load(scenario), duration_s=duration, warmup_s=warmup)
        found = CapacitySearch(
            _trials(asked, fleet, target, model, api_key_file, (policy, autoscaler)),
            SearchSettings(
                start_per_s=start or asked.rate_per_s or 1.0,
                goal=goal,
                resolution=resolution,
                repeats=repeats,
                most_trials=most_trials,
                time_limit_s=time_limit,
                highest_per_s=highest,
                seed=seed,
            ),
            time.monotonic,
            tell,
        ).run()
        if out is not None:
            folder.save_capacity(found, out)
    except LoadtestError as error:
        progress.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(_USAGE_ERROR) from error
    if json:
        typer.echo(json_form.written(found, folder.CAPACITY_FORM), nl=False)
    else:
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        Console(width=width, highlight=False).print(capacity_table(found))
    if found.outcome != "found":
        raise typer.Exit(_NOT_FOUND)


def _trials(  # noqa: PLR0913, PLR0917 (what a server or a fleet is told by)
    scenario: Scenario,
    fleet: Path | None,
    target: str | None,
    model: str,
    api_key_file: Path | None,
    virtual: tuple[str, str],
) -> RunMaker:
    from loadtest.capacity_trials import live_trials, virtual_trials
    from loadtest.live.run import LiveOptions
    from loadtest.live.targets import key_in, target_of
    from loadtest.virtual.fleets import read_fleet
    from loadtest.virtual.scenario import VirtualOptions

    if fleet is not None and target is None:
        return virtual_trials(scenario, read_fleet(fleet), VirtualOptions(*virtual))
    if target is not None and fleet is None:
        key = None if api_key_file is None else key_in(api_key_file)
        settings = target_of(target, model, api_key=key)
        return live_trials(scenario, settings, LiveOptions(note="jouleserve loadtest capacity"))
    raise LoadtestError("give either --fleet (a virtual one) or --target (a server)")
