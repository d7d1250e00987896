"""`jouleserve loadtest run` and `scenarios`.

Its own module because it alone turns options and signals of a terminal into a run of load.
"""

from __future__ import annotations

import typer


def run() -> None:
    """Send a scenario's requests to a server, and keep what came of each."""
    raise typer.Exit(2)


def scenarios() -> None:
    """List the scenarios that can be run by name."""
    raise typer.Exit(2)
