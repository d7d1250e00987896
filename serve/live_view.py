"""Show a person what is going on while checkpoints are made and replicas come up.

Its own module because the same events become a table that moves on a terminal, and
plain lines in a log.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from serve.rollout import last_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.cluster_record import ClusterRecord
    from serve.rollout import Rollout

_STYLES = {"running": "green", "starting": "yellow", "updating": "yellow", "stopping": "red"}
_WAITING = "waiting for resources"


class View(Protocol):
    """Whoever shows the events of a start."""

    def note(self, text: str) -> None:
        """A step has begun."""

    def show(self, rollout: Rollout) -> None:
        """The state of the replicas, as often as it is known."""

    def __enter__(self) -> Self:
        """Begin to show."""

    def __exit__(self, *_: object) -> None:
        """Leave the last state on the screen."""


def open_view(console: Console) -> View:
    """Make the view that suits where the console writes to."""
    return _TerminalView(console) if console.is_terminal else _LineView(console)


def print_endpoints(console: Console, record: ClusterRecord) -> None:
    """Say where clients find the cluster."""
    console.print(f"gRPC         {record.grpc_address}", highlight=False)
    console.print(f"OpenAI HTTP  {record.openai_url}", highlight=False)
    console.print(f"dashboard    {record.http_url}/dashboard", highlight=False)
    if record.log_directory:
        console.print(f"logs         {record.log_directory}", highlight=False, soft_wrap=True)


class _LineView:
    """One line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._last: dict[str, str] = {}

    def note(self, text: str) -> None:
        self._line(text)

    def show(self, rollout: Rollout) -> None:
        for deployment, replica, state, age_s in _rows(rollout):
            if self._last.get(replica or deployment) != state:
                self._last[replica or deployment] = state
                after = f" after {age_s:.1f} s" if state == "running" else ""
                self._line(f"{deployment} {replica} {state}{after}".replace("  ", " "))
        if rollout.message and self._last.get("") != rollout.message:
            self._last[""] = rollout.message
            self._line(last_line(rollout.message))

    def _line(self, text: str) -> None:
        elapsed_s = time.monotonic() - self._began
        self._console.print(
            f"[{elapsed_s:6.1f} s] {text}", markup=False, highlight=False, soft_wrap=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class _TerminalView:
    """The current step, and a table of replicas that is drawn anew."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=8, transient=False)
        self._step = ""
        self._began = time.monotonic()
        self._table: Table | None = None
        self._done = False

    def note(self, text: str) -> None:
        self._finish_step()
        self._step, self._began = text, time.monotonic()
        self._draw()

    def show(self, rollout: Rollout) -> None:
        self._table = _table(rollout)
        self._done = rollout.running
        self._draw()

    def _finish_step(self) -> None:
        if self._step:
            took_s = time.monotonic() - self._began
            self._console.print(Text(f"✓ {self._step} ({took_s:.1f} s)", style="dim"))
            self._step = ""

    def _draw(self) -> None:
        step = [] if self._done or not self._step else [Spinner("dots", text=self._step)]
        table = [self._table] if self._table else []
        self._live.update(Group(*step, *table))

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._step = ""
        self._draw()
        self._live.stop()


def _rows(rollout: Rollout) -> Iterator[tuple[str, str, str, float]]:
    for deployment, wanted in rollout.wanted.items():
        replicas = [each for each in rollout.replicas if each.deployment == deployment]
        for replica in replicas:
            yield deployment, replica.replica, replica.state, replica.age_s
        if len(replicas) < wanted:
            yield deployment, "", _WAITING, 0.0


def _table(rollout: Rollout) -> Table:
    table = Table("deployment", "replica", "state", "seconds", box=None, pad_edge=False)
    table.columns[-1].justify = "right"
    for deployment, replica, state, age_s in _rows(rollout):
        style = _STYLES.get(state, "yellow")
        table.add_row(deployment, replica, Text(state, style=style), f"{age_s:.1f}")
    if rollout.message:
        table.caption = last_line(rollout.message)
    return table
