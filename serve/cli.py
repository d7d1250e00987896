"""The command line: one function for each command, and each only joins what others do.

Its own module because it alone knows options, exit codes and the terminal.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console

from protos.jouleserve.client import Client, JouleserveClientError
from serve import cli_tables, cluster_record, config_file, orders, session
from serve.checkpoints import CheckpointError
from serve.cluster_record import ClusterError
from serve.config import Config
from serve.default_config import load_default
from serve.deployment import serve_config
from serve.live_view import open_view, print_endpoints
from serve.profiling import cli as profiling_cli
from serve.profiling import decoder_cli
from serve.profiling.errors import ProfilingError
from serve.section_file import ConfigFileError
from serve.variants import cli as variants_cli

if TYPE_CHECKING:
    from protos.jouleserve.client import GenerateOptions, Stream

# Tables in a pipe or a file are as wide as they need, up to this many characters.
_PIPE_WIDTH = 160
OUT = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
ERR = Console(stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)
COMMANDS = "jouleserve.commands"
# What says in one line what to change.
KNOWN = (ConfigFileError, ClusterError, CheckpointError, JouleserveClientError, ProfilingError)
_USUAL_ADDRESS = "127.0.0.1:9000"
_STATUS_TIMEOUT_S = 10.0
# A proposal waits for the plan that is being made.
_PLAN_TIMEOUT_S = 20.0

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve language models at the least energy that meets each request's objectives.",
)
config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")
app.add_typer(config_app, name="config")
app.add_typer(variants_cli.app, name="variants")
app.command("calibrate")(profiling_cli.calibrate)
app.command("calibrate-decoder")(decoder_cli.calibrate_decoder)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration file; by default the embedded one."),
]
AddressOption = Annotated[
    str, typer.Option(help="Host and port of a gateway; by default the one that `up` started.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Serve variants that their gate has refused.")
]
PortOption = Annotated[
    int | None, typer.Option(min=1, max=65535, help="Instead of the configuration's.")
]


def main() -> None:
    """Run the command line; what can go wrong becomes one line and exit code 1."""
    try:
        whole_app()()
    except KNOWN as error:
        ERR.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(130)


@cache
def whole_app() -> typer.Typer:
    """Add what other rooms announce, commands and groups of them: this one may not import those."""
    for entry in entry_points(group=COMMANDS):
        loaded = entry.load()
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=entry.name)
        else:
            app.command(entry.name)(loaded)
    return app


@app.command()
def up(  # noqa: PLR0913 (options of a command)
    config: ConfigOption = None,
    *,
    detach: Annotated[bool, typer.Option(help="Leave it running in the background.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            help="Deploy to this Ray cluster instead of starting one; its processes need"
            " RAY_SERVE_ENABLE_HA_PROXY=1 in their environment."
        ),
    ] = None,
    grpc_port: PortOption = None,
    http_port: PortOption = None,
    force: ForceOption = False,
) -> None:
    """Serve the configured models; Ctrl-C stops everything."""
    chosen = _with_ports(_load(config, force=force), grpc_port, http_port)
    with session.terminable():
        with open_view(OUT) as view:
            record = session.bring_up(chosen, view, ray_address=address)
        print_endpoints(OUT, record)
        if detach:
            OUT.print("stop it with: jouleserve down", highlight=False)
            return
        OUT.print("Ctrl-C stops it", highlight=False)
        try:
            session.hold(record)
        finally:
            OUT.print("stopping", highlight=False)
            session.bring_down(record)


@app.command()
def down() -> None:
    """Stop what `up` started."""
    record = cluster_record.read()
    if record is None:
        OUT.print("nothing runs", highlight=False)
        return
    session.bring_down(record)
    OUT.print(f"stopped {record.grpc_address}", highlight=False)


@app.command()
def status(
    address: AddressOption = "",
    *,
    decisions: Annotated[
        int, typer.Option(min=0, help="Show so many of the newest routing decisions, and why.")
    ] = 0,
    as_json: JsonOption = False,
) -> None:
    """Show every replica with its load, power and energy, and what requests have met."""
    with Client(_address(address), timeout_s=_STATUS_TIMEOUT_S) as client:
        answer = client.status(decisions=decisions)
    if as_json:
        OUT.print_json(json.dumps(asdict(answer)))
    else:
        cli_tables.print_status(OUT, answer)


@app.command()
def plan(  # noqa: PLR0913 (options of a command)
    address: AddressOption = "",
    *,
    dry_run: Annotated[bool, typer.Option(help="Plan for this instant; change nothing.")] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIANT=COUNT",
            help="Have so many replicas of a variant, whatever the planner would; may be repeated"
            " and replaces all pins before. Needs the cluster that `up` started.",
        ),
    ] = None,
    unpin: Annotated[bool, typer.Option(help="Give every variant back to the planner.")] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CANDIDATE",
            help="Let a candidate be tried once it is proposed; may be repeated. Needs the cluster"
            " that `up` started.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is planned to be awake, why, what it draws, and the least that could serve."""
    if pin or unpin or accept:
        if bool(unpin) + bool(pin) + bool(accept) > 1:
            raise typer.BadParameter("give one of --pin, --unpin and --accept at a time")
        record = cluster_record.read()
        if record is None:
            raise ClusterError("no cluster is known here; orders are given where `up` ran")
        orders.give(record, orders.accept(accept) if accept else orders.pin(_pins(pin or [])))
    with Client(_address(address), timeout_s=_PLAN_TIMEOUT_S) as client:
        answer = client.plan(dry_run=dry_run)
    if as_json:
        OUT.print_json(json.dumps(asdict(answer)))
    else:
        cli_tables.print_plan(OUT, answer)


def _pins(given: list[str]) -> dict[str, int]:
    """Read VARIANT=COUNT."""
    pinned = {}
    for text in given:
        name, _, count = text.partition("=")
        if not name or not count.isdecimal():
            raise typer.BadParameter(f"{text!r} is not VARIANT=COUNT, e.g. bf16=2")
        pinned[name] = int(count)
    return pinned


@app.command()
def models(address: AddressOption = "", *, as_json: JsonOption = False) -> None:
    """List the served models with their variants and service classes."""
    with Client(_address(address), timeout_s=_STATUS_TIMEOUT_S) as client:
        answer = client.models()
    if as_json:
        OUT.print_json(json.dumps([asdict(model) for model in answer]))
    else:
        cli_tables.print_models(OUT, answer)


@app.command()
def generate(  # noqa: PLR0913 (options of a command)
    model: Annotated[str, typer.Argument(help="Name of a served model.")],
    prompt: Annotated[str, typer.Argument(help="What to say; - reads standard input.")],
    address: AddressOption = "",
    *,
    service_class: Annotated[str | None, typer.Option("--class", help="Service class.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="For repeatable sampling.")] = None,
    min_quality: Annotated[float | None, typer.Option(help="Least quality, 0 to 1.")] = None,
    variant: Annotated[str | None, typer.Option(help="Serve from this variant only.")] = None,
    timeout_s: Annotated[float | None, typer.Option("--timeout", help="Seconds.")] = None,
    plain: Annotated[bool, typer.Option(help="Continue the text; no chat template.")] = False,
    explain: Annotated[bool, typer.Option(help="Show every candidate's score.")] = False,
    stream: Annotated[bool, typer.Option(help="Print tokens as they come.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Generate text; the text goes to standard output, what it cost to standard error."""
    text = sys.stdin.read() if prompt == "-" else prompt
    options: GenerateOptions = {
        "chat": None if plain else [{"role": "user", "content": text}],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
        "service_class": service_class,
        "min_quality": min_quality,
        "variant": variant,
        "timeout_s": timeout_s,
        "explain": explain,
    }
    with (
        Client(_address(address)) as client,
        client.generate(model, text if plain else None, **options) as reply,
    ):
        _print_reply(reply, live=stream, as_json=as_json)


@app.command()
def top(
    address: AddressOption = "",
    *,
    once: Annotated[bool, typer.Option("--once", help="Print it once and end.")] = False,
    period: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 1.0,
) -> None:
    """Watch the cluster in the terminal, second by second; q leaves."""
    from serve.top import show, show_once

    with Client(_address(address), timeout_s=_STATUS_TIMEOUT_S) as client:
        if once or not OUT.is_terminal:
            show_once(OUT, client)
        else:
            show(OUT, client, period)


@app.command()
def dashboard(  # noqa: PLR0913 (options of a command)
    address: AddressOption = "",
    *,
    fleet: Annotated[
        Path | None, typer.Option(help="Show a virtual cluster of this description instead.")
    ] = None,
    load: Annotated[
        float, typer.Option(min=0.001, max=2.0, help="Of the virtual cluster; see `virtual`.")
    ] = 0.4,
    speed: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Of the virtual cluster's clock.")
    ] = 1.0,
    host: Annotated[str, typer.Option(help="To serve the page on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8090,
) -> None:
    """Serve the dashboard beside a cluster, or for a virtual one; Ctrl-C ends it."""
    from serve.dashboard.remote import serve_for
    from serve.dashboard.virtual_process import virtual_cluster

    def ready(port: int) -> None:
        OUT.print(f"http://{host}:{port}/dashboard", highlight=False)

    if fleet is None:
        serve_for(_address(address), host, port, ready)
        return
    options = ["--load", str(load), "--speed", str(speed)]
    with session.terminable(), virtual_cluster(fleet, options) as target:
        serve_for(target, host, port, ready)


@app.command()
def demo(config: ConfigOption = None) -> None:
    """Bring the models up, ask them a few things, show what each answer cost, and stop."""
    from serve.demo import run

    if not run(_load(config), OUT):
        raise typer.Exit(1)


@config_app.command("check")
def config_check(
    file: Annotated[Path, typer.Argument(help="Configuration file.")],
    *,
    show: Annotated[bool, typer.Option(help="Print it with every default spelt out.")] = False,
    force: ForceOption = False,
) -> None:
    """Say what is wrong with a configuration, with lines; start nothing."""
    config = config_file.load(file, force=force)
    if show:
        sys.stdout.write(config_file.dump(config))
    else:
        variants = [variant.name for _, variant in config.variants()]
        names = ", ".join(variants)
        OUT.print(f"{file}: models {len(config.models)}, variants {len(variants)} ({names}); good")


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of configuration files, for editors."""
    sys.stdout.write(json.dumps(config_file.schema(), indent=2) + "\n")


@config_app.command("ray")
def config_ray(config: ConfigOption = None) -> None:
    """Print what `up` hands to Ray Serve, for `serve deploy` or a RayService's serveConfigV2."""
    sys.stdout.write(yaml.safe_dump(serve_config(_load(config)), sort_keys=False))


# ----------------------------------------------------------------------------------------- support


def _load(file: Path | None, *, force: bool = False) -> Config:
    return load_default() if file is None else config_file.load(file, force=force)


def _with_ports(config: Config, grpc_port: int | None, http_port: int | None) -> Config:
    gateway = config.gateway
    changed = {
        **config.model_dump(),
        "gateway": {
            **gateway.model_dump(),
            "grpc_port": grpc_port or gateway.grpc_port,
            "http_port": http_port or gateway.http_port,
        },
    }
    try:
        return Config.model_validate(changed)
    except ValueError as error:
        raise typer.BadParameter("--grpc-port and --http-port must differ") from error


def _address(given: str) -> str:
    if given:
        return given
    record = cluster_record.read()
    return record.grpc_address if record else _USUAL_ADDRESS


def _print_reply(reply: Stream, *, live: bool, as_json: bool) -> None:
    if as_json:
        OUT.print_json(json.dumps(asdict(reply.complete())))
        return
    for tokens in reply if live else ():
        sys.stdout.write(tokens.text)
        sys.stdout.flush()
    completion = reply.complete()
    sys.stdout.write("\n" if live else completion.text + "\n")
    sys.stdout.flush()
    cli_tables.print_finish(ERR, completion.finish)


if __name__ == "__main__":
    main()
