"""`jouleserve top`: the dashboard in a terminal.

Its own module because what fits a terminal is chosen here; the figures are those of the page.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from protos.jouleserve.client import JouleserveClientError, UnattainableError
from serve.dashboard.overview import overview
from serve.terminal_keys import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console, RenderableType

    from protos.jouleserve.client import Client, ClusterStatus, Plan, Replica

DECISIONS = 8
# Lines of the terminal that are kept for replicas, and for what is around them.
_LEAST_REPLICAS = 3
_TABLE_FRAME = 2
_MOST_DECISIONS = 5
_MOST_TROUBLES = 3
_GOOD = 0.99
_FAIR = 0.95
# Columns of the terminal below which the less urgent ones are left out.
_WIDE = 110
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"))


class View(NamedTuple):
    """What there is to show.

    Attributes:
        status: newest that has come; None before the first.
        plan: the same; None where nothing plans.
        age_s: of both.
        trouble: why there is nothing newer; empty if nothing is wrong.

    """

    status: ClusterStatus | None
    plan: Plan | None
    age_s: float
    trouble: str = ""


class Watch:
    """Asks a gateway again and again; what it knows gets old when there is no answer."""

    def __init__(self, client: Client, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet.

        Args:
            client: of the gateway.
            clock: monotonic seconds.

        """
        self._client = client
        self._clock = clock
        self._status: ClusterStatus | None = None
        self._plan: Plan | None = None
        self._taken_at_s = clock()

    def look(self, *, tolerant: bool = True) -> View:
        """Ask once.

        Args:
            tolerant: what goes wrong is part of the answer, instead of a JouleserveClientError.

        """
        trouble = ""
        try:
            self._status = self._client.status(decisions=DECISIONS)
            self._plan = self._planned()
            self._taken_at_s = self._clock()
        except JouleserveClientError as error:
            if not tolerant:
                raise
            trouble = str(error)
        return View(self._status, self._plan, self._clock() - self._taken_at_s, trouble)

    def _planned(self) -> Plan | None:
        try:
            plan = self._client.plan()
        except UnattainableError:
            return None  # Nothing plans there.
        return plan if plan.planned else None


def show_once(console: Console, client: Client) -> None:
    """Print a whole view; raises JouleserveClientError."""
    watch = Watch(client)
    view = watch.look(tolerant=False)
    console.print(screen(view, console.width, 0), highlight=False)


def show(console: Console, client: Client, period_s: float) -> None:
    """Show the cluster until q is pressed; as large as the terminal is at the moment."""
    watch = Watch(client)
    live = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    with keys() as pressed, live:
        while True:
            view = watch.look()
            live.update(screen(view, console.width, console.height), refresh=True)
            if pressed.within(period_s) == "q":
                return


def screen(view: View, width: int, height: int) -> RenderableType:
    """Lay a view out so that it fits.

    Args:
        view: to be shown.
        width: columns of the terminal.
        height: its lines; 0 for as many as it takes.

    """
    status = view.status
    if status is None:
        return Text(f"no answer yet: {view.trouble}" if view.trouble else "connecting", "yellow")
    head = [*_head(view, status), *_troubles(status), *_promises(status)]
    actions = list(_actions(view.plan))
    decisions = list(_decisions(status))
    if not height:
        return Group(*head, *actions, _replicas(status, width, None), *decisions)
    head = head[: max(1, height - _LEAST_REPLICAS - _TABLE_FRAME)]
    left = height - len(head) - _TABLE_FRAME
    actions = actions[: max(0, left - _LEAST_REPLICAS)]
    left -= len(actions)
    decisions = decisions[: max(0, min(_MOST_DECISIONS, left - _LEAST_REPLICAS))]
    return Group(*head, *actions, _replicas(status, width, left - len(decisions)), *decisions)


def _head(view: View, status: ClusterStatus) -> Iterator[Text]:
    sums = overview(status, view.plan)
    age = f"{view.trouble}; figures of {view.age_s:.0f} s ago" if view.trouble else "live"
    yield _line(
        (f"jouleserve {status.gateway}", "bold"),
        (f"  policy {status.policy}  ", "dim"),
        (age, "bold red" if view.trouble else "green"),
    )
    kept = _share(sums.attainment)
    yield _line(
        ("promises ", "dim"),
        (kept, _tone(sums.attainment)),
        (f" of {sums.requests}  tokens/s ", "dim"),
        (f"{sums.tokens_per_s:.0f}", "bold"),
        ("  power ", "dim"),
        (_si(sums.power_w, "W"), "bold"),
        ("  per token ", "dim"),
        (_si(sums.joules_per_token, "J"), "bold"),
        (f" (bound {_si(sums.bound_j_per_token, 'J')})", "dim"),
    )
    counters = status.counters
    yield _line(
        (f"{sums.awake}/{sums.replicas} replicas awake, {sums.running_requests} running,", ""),
        (f" {sums.waiting_requests} waiting; {counters.completed} completed,", ""),
        (f" {counters.failed} failed, {counters.rejected} rejected,", ""),
        (f" {counters.in_flight} in flight", ""),
    )
    if view.plan is not None:
        plan = view.plan
        yield _line(
            (f"plan {plan.solver}, {plan.age_s:.0f} s ago: {_si(plan.predicted_w, 'W')}", ""),
            (f" predicted, {_si(plan.bound_w, 'W')} at least", ""),
        )
    if status.carbon is not None:
        carbon = status.carbon
        grams = sums.power_w * carbon.pue * carbon.gco2e_per_kwh / 1e3
        yield _line(
            (f"carbon {carbon.gco2e_per_kwh:.0f} g/kWh ({carbon.source}):", ""),
            (f" {_si(grams, 'g')} CO2e an hour", ""),
            (f"  {carbon.trouble}", "yellow"),
        )


def _troubles(status: ClusterStatus) -> Iterator[Text]:
    for trouble in status.troubles[:_MOST_TROUBLES]:
        yield _line((f"! {trouble.subject}: ", "bold red"), (trouble.reason, "red"))
    if len(status.troubles) > _MOST_TROUBLES:
        yield _line((f"! {len(status.troubles) - _MOST_TROUBLES} more", "red"))


def _promises(status: ClusterStatus) -> Iterator[Text]:
    for each in status.service_classes:
        yield _line(
            (f"{each.service_class:<12}", ""),
            (f"{_share(each.attainment):>7}", _tone(each.attainment)),
            (f"  of {each.requests}", "dim"),
            (f"  TTFT {_share(each.within_ttft / max(1, each.requests))}", "dim"),
            (f"  TPOT {_share(each.within_tpot / max(1, each.requests))}", "dim"),
        )


def _actions(plan: Plan | None) -> Iterator[Text]:
    for each in () if plan is None else plan.actions[:2]:
        what = f"{each.kind} {each.count} {each.variant or 'nodes'} on {each.group}: "
        yield _line((what, "bold"), (each.reason, "dim"))


def _decisions(status: ClusterStatus) -> Iterator[Text]:
    for each in status.decisions:
        yield _line(
            (f"{each.age_s:5.1f} s ", "dim"),
            (f"{each.service_class} → {each.replica}: ", ""),
            (each.reason, "dim"),
        )


def _replicas(status: ClusterStatus, width: int, most: int | None) -> Table:
    """Show the busiest, as many as there is room for."""
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, width=width, header_style="dim")
    table.add_column("replica", no_wrap=True, overflow="ellipsis", ratio=2)
    if wide:
        table.add_column("node", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("state", no_wrap=True)
    for heading in ("batch", "wait", "KV", "tok/s", "power"):
        table.add_column(heading, justify="right", no_wrap=True)
    if wide:
        for heading in ("step", "energy", "report"):
            table.add_column(heading, justify="right", no_wrap=True)
    ranked = sorted(status.replicas, key=_urgency)
    shown = ranked if most is None or len(ranked) <= most else ranked[: max(0, most - 1)]
    for each in shown:
        table.add_row(*_cells(each, wide=wide))
    if len(shown) < len(ranked):
        table.add_row(f"… {len(ranked) - len(shown)} more replicas", style="dim")
    return table


def _urgency(replica: Replica) -> tuple[bool, int, int, str]:
    requests = replica.running_requests + replica.waiting_requests
    return (replica.state == "awake", -replica.waiting_requests, -requests, replica.replica)


def _cells(each: Replica, *, wide: bool) -> list[str | Text]:
    state = Text(each.state, "" if each.state == "awake" else "bold yellow")
    batch = f"{each.running_requests}/{each.max_batch}" if each.max_batch else ""
    cells: list[str | Text] = [
        each.replica,
        *([each.node] if wide else []),
        state,
        batch or str(each.running_requests),
        str(each.waiting_requests),
        f"{each.kv_cache_usage:.0%}",
        f"{each.decode_tokens_per_s:.0f}",
        _si(each.power_w, "W"),
    ]
    if wide:
        cells += [
            f"{each.step_time_s * 1e3:.1f} ms",
            _si(each.energy_j, "J"),
            f"{each.age_s:.1f} s",
        ]
    return cells


def _line(*parts: tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _tone(attainment: float | None) -> str:
    if attainment is None:
        return "dim"
    return "green" if attainment >= _GOOD else "yellow" if attainment >= _FAIR else "bold red"


def _share(value: float | None) -> str:
    """Round down: not every promise was kept unless every one was."""
    return "–" if value is None else f"{int(value * 1000 + 1e-9) / 10:g} %"


def _si(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    factor, prefix = next((each for each in _PREFIXES if abs(value) >= each[0]), _PREFIXES[-1])
    return f"{value / factor:.3g} {prefix}{unit}" if value else f"0 {unit}"
