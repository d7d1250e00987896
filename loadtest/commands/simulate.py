"""The commands `jouleserve simulate` and `study`.

Its own module because it alone speaks to people. What it needs is imported when it is
called, so that the command line it is a part of starts quickly.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import track

from loadtest.errors import LoadtestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.virtual.comparisons import ArrivalKind, Case, CaseRun, Experiment
    from loadtest.virtual.study import Part

# Tables in a pipe or a file are as wide as they need, up to this many characters.
_PIPE_WIDTH = 200
_USAGE_ERROR = 2


def simulate(  # noqa: PLR0913 (one argument for each option)
    *,
    fleet: Annotated[Path, typer.Option(help="YAML description; see examples/fleets.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, JSON and plots.")],
    trace: Annotated[
        Path | None,
        typer.Option(help="Azure's .csv or Mooncake's .jsonl; else log-normal lengths."),
    ] = None,
    policy: Annotated[list[str] | None, typer.Option(help="Routing policy; repeatable.")] = None,
    autoscaler: Annotated[
        list[str] | None,
        typer.Option(
            help="everything_awake, static_peak, queue_based, planner, planner_keeps_nodes or"
            " planner_without_forecast; repeatable. queue_based:0.25 scales for a quarter of"
            " the largest batch that keeps objectives (else 0.7)."
        ),
    ] = None,
    load: Annotated[
        list[float] | None,
        typer.Option(help="Mean rate as a share of the fleet's highest that keeps objectives."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; runs are paired.")] = None,
    arrivals: Annotated[
        str | None,
        typer.Option(help="trace, constant, poisson, gamma, diurnal or flash_crowd."),
    ] = None,
    prompt_tokens: Annotated[float, typer.Option(min=1, help="Mean, without a trace.")] = 1155,
    completion_tokens: Annotated[float, typer.Option(min=1, help="Mean, without a trace.")] = 211,
    burstiness: Annotated[float, typer.Option(min=0.05, help="Of gamma: 1 is Poisson.")] = 2.0,
    duration: Annotated[
        float, typer.Option(min=1.0, help="Seconds in which requests come.")
    ] = 3600,
    warmup: Annotated[float, typer.Option(min=0.0, help="Of these, not measured.")] = 600,
    belief_error: Annotated[
        float, typer.Option(min=0.0, max=0.9, help="The scheduler's profiles err by ± this share.")
    ] = 0.0,
    lose_node: Annotated[
        list[float] | None, typer.Option(help="A node breaks after so many seconds; repeatable.")
    ] = None,
    full_rate: Annotated[
        float | None,
        typer.Option(min=1e-6, help="Requests/s that a load of 1 is; by default found by trial."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this variant is there; repeatable.")
    ] = None,
    bound: Annotated[bool, typer.Option(help="Compute the lower bounds.")] = True,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    png: Annotated[bool, typer.Option("--png", help="Plots as PNG instead of SVG.")] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Folder in which each run leaves its requests and its report, as a live run"
            " does: for `loadtest report` and `loadtest compare`."
        ),
    ] = None,
) -> None:
    """Compare policies and autoscalers on a virtual cluster with the live scheduler."""
    from loadtest.lengths import LogNormalLengths
    from loadtest.traces import read_trace
    from loadtest.virtual.comparisons import Experiment, cases_of
    from loadtest.virtual.fleets import read_fleet
    from loadtest.virtual.records import Loss

    try:
        experiment = Experiment(
            cluster=read_fleet(fleet),
            trace=None if trace is None else read_trace(trace),
            arrivals=_arrival_kind(arrivals, trace),
            burstiness=burstiness,
            lengths=LogNormalLengths(prompt_tokens, completion_tokens),
            duration_s=duration,
            warmup_s=min(warmup, duration / 2),
            belief_error=belief_error,
            losses=tuple(Loss(at_s, node=True) for at_s in lose_node or ()),
            bounded=bound,
            rate_at_full_load=full_rate,
            keeps_requests=report is not None,
        )
        cases = cases_of(
            load or [0.2],
            seed or [0],
            _known_policies(policy or ["power_of_two", "energy"]),
            _known_autoscalers(autoscaler or ["everything_awake", "planner"]),
            only or (),
        )
        _run(experiment, cases, out, jobs, "png" if png else "svg", report)
    except LoadtestError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(_USAGE_ERROR) from error


def study(  # noqa: PLR0913 (one argument for each option)
    *,
    traces: Annotated[Path, typer.Option(help="Folder of trace files.")],
    out: Annotated[Path, typer.Option(help="Folder for tables and JSON.")],
    fleets: Annotated[Path, typer.Option(help="Folder of descriptions.")] = Path("examples/fleets"),
    part: Annotated[list[str] | None, typer.Option(help="Repeatable; by default all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each case, paired.")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same study stopped.")
    ] = False,
) -> None:
    """Make all comparisons of the study again; hours on a few cores."""
    from loadtest.virtual.comparisons import with_rate
    from loadtest.virtual.study import parts_named

    console = Console()
    out.mkdir(parents=True, exist_ok=True)
    try:
        for each in parts_named(part or ()):
            if resume and (out / f"{each.name}.json").exists():
                console.print(f"{each.name}: is there", highlight=False)
            elif each.trace is not None and not (traces / each.trace).exists():
                console.print(f"{each.name}: skipped, {traces} has no {each.trace}", style="yellow")
            else:
                experiment = with_rate(each.experiment(fleets, traces))
                keep = out / "runs" / each.name
                if not resume:
                    shutil.rmtree(keep, ignore_errors=True)
                _answer(each, experiment, each.cases(seeds), out, jobs)
    except LoadtestError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(_USAGE_ERROR) from error


def _answer(
    part: Part, experiment: Experiment, cases: Sequence[Case], out: Path, jobs: int
) -> None:
    """Run a part of the study; its files appear when it is done."""
    import json

    from loadtest.virtual.comparisons import compare
    from loadtest.virtual.results import as_json
    from loadtest.virtual.tables import comparison_table, markdown_table

    progress = Console(stderr=True)
    runs = list(
        track(
            compare(experiment, cases, jobs, out / "runs" / part.name),
            part.name,
            total=len(cases),
            console=progress,
        )
    )
    content = {
        "question": part.question,
        "rate_at_full_load": experiment.rate_at_full_load,
        "runs": [{"only": run.case.only, **as_json(run.result)} for run in runs],
    }
    text = (
        f"{part.question}\n\n100 % load is {experiment.rate_at_full_load:.4g} requests/s;"
        f" {len({case.seed for case in cases})} seeds.\n\n{markdown_table(runs)}"
    )
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{part.name}.md").write_text(text, encoding="utf-8")
    (out / f"{part.name}.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH).print(comparison_table(runs))


def _run(  # noqa: PLR0913, PLR0917 (what a comparison is made and kept by)
    experiment: Experiment,
    cases: Sequence[Case],
    out: Path,
    jobs: int,
    kind: str,
    report: Path | None,
) -> None:
    from loadtest.reports.folder import save_with_report
    from loadtest.virtual.comparisons import compare, with_rate
    from loadtest.virtual.plots import save_plots
    from loadtest.virtual.tables import comparison_table

    out.mkdir(parents=True, exist_ok=True)
    experiment = with_rate(experiment)
    runs: list[CaseRun] = []
    progress = Console(stderr=True)
    for run in track(
        compare(experiment, cases, jobs), "simulating", total=len(cases), console=progress
    ):
        if report is not None and run.run is not None:
            save_with_report(run.run, report / _folder_name(run.case))
        runs.append(run._replace(run=None))  # A run may have a million requests.
        _write(runs, out)  # What is done stays, should the rest be interrupted.
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    table = comparison_table(runs)
    console.print(table)
    console.print(f"100 % load is {experiment.rate_at_full_load:.4g} requests/s", highlight=False)
    with (out / "comparison.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=_PIPE_WIDTH).print(table)
    save_plots(runs, out, kind)
    console.print(f"JSON, table and plots are in {out}", highlight=False)


def _folder_name(case: Case) -> str:
    """Name a case so that a folder may have the name."""
    policy, autoscaler = (name.replace(":", "-") for name in (case.policy, case.autoscaler))
    only = f"-{'-'.join(case.only)}" if case.only else ""
    return f"load-{case.load:g}-seed-{case.seed}-{policy}-{autoscaler}{only}"


def _write(runs: list[CaseRun], out: Path) -> None:
    import json

    from loadtest.virtual.results import as_json

    results = [as_json(run.result) for run in runs]
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def _arrival_kind(name: str | None, trace: Path | None) -> ArrivalKind:
    match name:
        case None:
            return "poisson" if trace is None else "trace"
        case "trace" | "constant" | "poisson" | "gamma" | "diurnal" | "flash_crowd":
            return name
        case _:
            known = "trace, constant, poisson, gamma, diurnal, flash_crowd"
            raise LoadtestError(f"no arrivals {name!r}; known: {known}")


def _known_policies(names: list[str]) -> list[str]:
    from scheduler.policies import make_policy

    for name in names:
        try:
            make_policy(name)
        except ValueError as error:
            raise LoadtestError(str(error)) from error
    return names


def _known_autoscalers(names: list[str]) -> list[str]:
    from loadtest.virtual.comparisons import check_autoscaler

    for name in names:
        check_autoscaler(name)
    return names


app = typer.Typer(pretty_exceptions_enable=False, no_args_is_help=True)
app.command()(simulate)
app.command()(study)


if __name__ == "__main__":
    app()
