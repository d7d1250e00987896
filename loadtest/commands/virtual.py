"""The command `jouleserve virtual`: a fleet that exists as arithmetic, for people to look at.

Its own module because it alone speaks to people; what it needs is imported when it is called.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path  # noqa: TC003 (typer reads annotations)
from typing import Annotated

import typer
from rich.console import Console

from loadtest.errors import LoadtestError

_USAGE_ERROR = 2


def virtual(  # noqa: PLR0913 (one argument for each option)
    *,
    fleet: Annotated[Path, typer.Option(help="YAML description; see examples/fleets.")],
    listen: Annotated[
        str, typer.Option(help="Host and port for gRPC; port 0 takes a free one.")
    ] = "127.0.0.1:9100",
    policy: Annotated[str, typer.Option(help="Routing policy.")] = "energy",
    load: Annotated[
        float,
        typer.Option(min=0.001, max=2.0, help="Mean rate, as a share of what all together carry."),
    ] = 0.4,
    swing: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Of the rate, up and down over a day.")
    ] = 0.5,
    day: Annotated[float, typer.Option(min=60.0, help="Its length in virtual seconds.")] = 1800.0,
    speed: Annotated[
        float, typer.Option(min=0.1, max=100.0, help="Virtual seconds in a second.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of everything that is left to chance.")] = 0,
    intensity: Annotated[
        float | None, typer.Option(min=0.0, help="Of its grid, in grams of CO2e a kWh.")
    ] = None,
    attached: Annotated[
        bool, typer.Option("--attached", help="End when standard input does, too.")
    ] = False,
) -> None:
    """Run a virtual cluster in real time, for `top` and `dashboard` to look at; Ctrl-C ends it."""
    from loadtest.virtual.fleets import read_fleet
    from loadtest.virtual.paced_cluster import PacedCluster
    from loadtest.virtual.service import served
    from protos.jouleserve.v1.cluster_pb2 import CarbonIntensity
    from scheduler.policies import make_policy

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    if attached:
        threading.Thread(target=_until_input_ends, args=(stopped,), daemon=True).start()
    try:
        make_policy(policy)
        paced = PacedCluster(
            read_fleet(fleet),
            policy=policy,
            load=load,
            swing=swing,
            day_s=day,
            speed=speed,
            seed=seed,
        )
        carbon = None
        if intensity is not None:
            carbon = CarbonIntensity(gco2e_per_kwh=intensity, pue=1.0, source="constant")
        with served(paced, listen, carbon) as port:
            host = listen.rpartition(":")[0]
            # Whoever has started this waits for the line, be it in a pipe.
            print(f"virtual cluster {paced.description.name} on {host}:{port}", flush=True)  # noqa: T201
            paced.run(stopped.is_set)
    except (LoadtestError, ValueError) as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(_USAGE_ERROR) from error


def _until_input_ends(stopped: threading.Event) -> None:
    """Stop when whoever holds the other end of standard input is gone, however it went."""
    while os.read(0, 1024):
        pass
    stopped.set()


app = typer.Typer(pretty_exceptions_enable=False)
app.command()(virtual)


if __name__ == "__main__":
    app()
