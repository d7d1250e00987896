"""`jouleserve loadtest run` and `scenarios`.

Its own module because it alone turns options and signals of a terminal into a run of load. What
it needs is imported when it is called, so that the command line it is a part of starts quickly.
"""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from loadtest.live.sender import Progress
    from loadtest.run import Run
    from loadtest.scenario import Scenario

    Tell: TypeAlias = Callable[[Progress], None]

USUAL_TARGET = "127.0.0.1:9000"
_PIPE_WIDTH = 120
_USAGE_ERROR = 2


def run(  # noqa: PLR0913 (one argument for each option)
    scenario: Annotated[str, typer.Argument(help="By name (`loadtest scenarios`), or a file.")],
    *,
    target: Annotated[
        str, typer.Option(help="host:port speaks gRPC, http://host:port OpenAI.")
    ] = USUAL_TARGET,
    model: Annotated[str, typer.Option(help="By default the only one that is served.")] = "",
    rate: Annotated[
        float | None, typer.Option(min=1e-6, help="Requests/s of its open loop.")
    ] = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="A closed loop of so many users instead.")
    ] = None,
    speed: Annotated[float | None, typer.Option(min=1e-6, help="Of its trace.")] = None,
    duration: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds that are measured.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds before that at the full rate.")
    ] = None,
    ramp: Annotated[
        float | None, typer.Option(min=0.0, help="Seconds before that, from nothing to it.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same gives the same schedule.")] = 0,
    form: Annotated[
        Literal["tokens", "text", "chat"] | None,
        typer.Option("--as", help="Prompts; by default token ids (gRPC) or chat (OpenAI)."),
    ] = None,
    variant: Annotated[str, typer.Option(help="Have this variant serve.")] = "",
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 chooses.")] = 0,
    max_in_flight: Annotated[
        int, typer.Option(min=1, help="Requests at a time; what is due beyond it is not sent.")
    ] = 4096,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds, of each request.")] = 120.0,
    drain: Annotated[
        float, typer.Option(min=0.0, help="Seconds to wait for replies after the last request.")
    ] = 30.0,
    give_up: Annotated[
        float, typer.Option(min=0.1, help="Seconds without a reply from a target that is gone.")
    ] = 10.0,
    status: Annotated[
        str, typer.Option(help="gRPC address of the cluster behind an OpenAI target.")
    ] = "",
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="Else what JOULESERVE_API_KEY or OPENAI_API_KEY says."),
    ] = None,
    salt: Annotated[
        int | None,
        typer.Option(min=0, help="Of prompts; drawn anew by default, so that no cache has them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the run, and its report as JSON and HTML.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Send a scenario's requests to a server, and say what came of them."""
    from loadtest import scenario_file
    from loadtest.live.run import LiveOptions, run_live
    from loadtest.live.targets import key_in, target_of

    with _told():
        chosen = scenario_file.adjusted(
            scenario_file.load(scenario),
            rate_per_s=rate,
            users=users,
            duration_s=duration,
            warmup_s=warmup,
            ramp_s=ramp,
            speed=speed,
        )
        asked = target_of(
            target,
            model,
            form=form or ("chat" if _has_texts(chosen) else None),
            api_key=None if api_key_file is None else key_in(api_key_file),
            status_address=status,
            variant=variant,
        )
        options = LiveOptions(
            seed=seed,
            workers=workers,
            max_in_flight=max_in_flight,
            deadline_s=deadline,
            drain_s=drain,
            give_up_after_s=give_up,
            salt=salt,
            note=_command(),
        )
        with _terminable(), _progress() as tell:
            made = run_live(chosen, asked, options, tell)
        _report(made, out, as_json=json)
    if made.partial:
        _complain(f"partial: {made.partial}")
        raise typer.Exit(1)


def scenarios() -> None:
    """List the scenarios that can be run by name."""
    from loadtest import scenario_file

    with _told():
        for name, path in scenario_file.named().items():
            typer.echo(f"{name:16} {scenario_file.read(path).description}")


def _report(made: Run, out: Path | None, *, as_json: bool) -> None:
    from loadtest.reports import folder, json_form
    from loadtest.reports.measures import report_of
    from loadtest.reports.report_table import report_table

    report = report_of(made) if out is None else folder.save_with_report(made, out)
    if as_json:
        typer.echo(json_form.written(report, folder.REPORT_FORM), nl=False)
        return
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    console.print(report_table(report))


def _has_texts(scenario: Scenario) -> bool:
    return any(kind.prompt is not None and kind.prompt.text_file for kind in scenario.requests)


def _command() -> str:
    from importlib.metadata import version

    return f"jouleserve {' '.join(sys.argv[1:])} (version {version('jouleserve')})"


def _complain(line: str) -> None:
    Console(stderr=True).print(line, style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _told() -> Iterator[None]:
    """Turn what can go wrong into one line and an exit code."""
    from loadtest.errors import LoadtestError

    try:
        yield
    except LoadtestError as error:
        _complain(f"error: {error}")
        raise typer.Exit(_USAGE_ERROR) from error


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a termination be an interruption: what there is by then is kept."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress() -> Iterator[Tell]:
    """Show the progress on a terminal; say nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _progress: None
        return
    with console.status("starting") as line:
        yield lambda progress: line.update(_words(progress))


def _words(progress: Progress) -> str:
    unsent = f", {progress.unsent} not sent" if progress.unsent else ""
    return (
        f"{progress.sent} sent, {progress.completed} completed, {progress.failed} failed"
        f"{unsent}, {progress.in_flight} in flight"
    )
