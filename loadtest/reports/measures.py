"""From a run to its report.

Its own module because here the parts are put together and doubts are said: whoever reads a
figure must know whether the sender, the server and the window deserve it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports import gaps
from loadtest.reports.energy import counted, energy_of
from loadtest.reports.groups import GroupName, distribution, group_of
from loadtest.reports.objectives import judge
from loadtest.reports.values import Backlog, ClassObjective, ErrorCount, Report, Sender
from loadtest.run import Ending, Requests

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from loadtest.reports.energy import Counted
    from loadtest.reports.objectives import Judgement
    from loadtest.reports.values import Energy, Group, GroupKind
    from loadtest.run import Run

# A sender that is later than this at its 99th percentile does not make the traffic it plans.
LATENESS_LIMIT_S = 0.010
# In flight at the end more than at the beginning, by this share of what came: it piles up.
_BACKLOG_SHARE = 0.05
# And by so many standard deviations of two independent counts: it is not chance.
_BACKLOG_SIGMAS = 4.0
_SMALLEST_BACKLOG = 10
# With fewer, a 99th percentile is nearly the longest.
_ENOUGH_FOR_P99 = 100
_ENOUGH_COMPLETED = 0.99
# Attributed energy may exceed the counters' by this share, for streams are cut at the ends.
_DISAGREEMENT = 0.05


class Window(NamedTuple):
    """The seconds that are measured, from the start of the run."""

    begin_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        """Of it; never negative."""
        return max(self.end_s - self.begin_s, 0.0)


def window_of(run: Run) -> Window:
    """Give the steady window; of a run that was broken off, what there was of it."""
    end_s = min(run.steady_end_s, run.ended_at_s) if run.partial else run.steady_end_s
    return Window(min(run.steady_begin_s, end_s), end_s)


def in_order(requests: Requests) -> Requests:
    """Sort by schedule."""
    rows = np.argsort(requests.scheduled_at_s, kind="stable")
    return Requests(*(getattr(requests, name)[rows] for name in Requests.__slots__))


def within(requests: Requests, window: Window) -> NDArray[np.bool_]:
    """Mark what was scheduled within a window."""
    at_s = requests.scheduled_at_s
    return (at_s >= window.begin_s) & (at_s < window.end_s)


def report_of(run: Run) -> Report:
    """Take all measures of a run.

    Raises:
        loadtest.reports.gaps.GapsError: a histogram of the run cannot be read.

    """
    requests, window = in_order(run.requests), window_of(run)
    judgement, rows = judge(run, requests), within(requests, window)
    steady, judged = requests.select(rows), judgement.select(rows)
    counts = counted(run, *window)
    energy = energy_of(run, requests, judgement.good, counts)
    itl_s = gaps.distribution(run.itl.values())
    overall = group_of(GroupName("all"), steady, judged, window.length_s, itl_s)
    sender, backlog = _sender(run, requests, window), _backlog(run, requests, window)
    return Report(
        scenario=run.scenario,
        source=run.source,
        target=run.target,
        model=run.model,
        seed=run.seed,
        closed_loop=run.closed_loop,
        started_at=run.started_at,
        host=run.host,
        note=run.note,
        partial=run.partial,
        begin_s=window.begin_s,
        end_s=window.end_s,
        planned=len(requests.ending),
        objectives=_objectives(run),
        overall=overall,
        classes=_groups("class", run, steady, judged, window),
        tenants=_groups("tenant", run, steady, judged, window) if len(run.tenants) > 1 else (),
        variants=_groups("variant", run, steady, judged, window),
        energy=energy,
        sender=sender,
        backlog=backlog,
        errors=_errors(run, requests),
        warnings=tuple(_warnings(run, overall, energy, counts, sender, backlog)),
    )


def _groups(
    kind: GroupKind, run: Run, requests: Requests, judgement: Judgement, window: Window
) -> tuple[Group, ...]:
    """Measure the groups of a kind that had any requests."""
    names: Sequence[str]
    match kind:
        case "class":
            names, column = [each.name for each in run.classes], requests.service_class
        case "tenant":
            names, column = run.tenants, requests.tenant
        case _:
            names, column = run.variants, requests.variant
    groups = []
    for index, name in enumerate(names):
        rows = column == index
        if rows.any():
            mine = [run.itl[name]] if kind == "class" and name in run.itl else []
            groups.append(
                group_of(
                    GroupName(kind, name),
                    requests.select(rows),
                    judgement.select(rows),
                    window.length_s,
                    gaps.distribution(mine),
                )
            )
    return tuple(groups)


def _objectives(run: Run) -> tuple[ClassObjective, ...]:
    return tuple(
        ClassObjective(each.name, _limit(each.objective.ttft_s), _limit(each.objective.tpot_s))
        for each in run.classes
        if each.objective is not None
    )


def _limit(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _sender(run: Run, requests: Requests, window: Window) -> Sender:
    lateness_s = distribution(requests.lateness_s[within(requests, window)])
    unsent = requests.ending == Ending.UNSENT
    if run.partial:
        unsent &= requests.scheduled_at_s < run.ended_at_s
    missed = int(unsent.sum())
    late = lateness_s.p99_s > LATENESS_LIMIT_S
    if run.source == "virtual":
        verdict = "a virtual run has no sender that could be late"
    elif not lateness_s.count:
        verdict = "nothing was sent within the window"
    else:
        half = f"p99 lateness is {lateness_s.p99_s * 1e3:.3g} ms"
        kept = f"{half}, up to {LATENESS_LIMIT_S * 1e3:.0f} ms is on schedule"
        verdict = f"the sender did not keep its schedule: {half}" if late else kept
    if missed:
        verdict = f"{missed} requests were not sent; {verdict}"
    kept_schedule = not late and not missed and (run.source == "virtual" or lateness_s.count > 0)
    return Sender(run.workers, lateness_s, missed, kept_schedule, verdict)


def _backlog(run: Run, requests: Requests, window: Window) -> Backlog:
    def in_flight(at_s: float) -> int:
        open_s = np.where(np.isnan(requests.ended_at_s), math.inf, requests.ended_at_s)
        return int(((requests.sent_at_s <= at_s) & (open_s > at_s)).sum())

    def came_in(part: Window) -> int:
        return int(within(requests, part).sum())

    begin, end = in_flight(window.begin_s), in_flight(window.end_s)
    came = came_in(window)
    # Where more comes at the end (conversations have begun, a crowd has gathered), a server that
    # keeps up has more in flight by as much: Little's law, at latencies that stay what they were.
    quarter_s = window.length_s / 4
    first = came_in(Window(window.begin_s, window.begin_s + quarter_s))
    last = came_in(Window(window.end_s - quarter_s, window.end_s))
    due = begin * max(1.0, last / first) if first else math.inf
    chance = max(_BACKLOG_SHARE * came, _BACKLOG_SIGMAS * math.sqrt(begin + end))
    chance = max(chance, _SMALLEST_BACKLOG)
    # A closed loop holds back by itself what the server has no room for.
    return Backlog(begin, end, grows=not run.closed_loop and end - due > chance)


def _errors(run: Run, requests: Requests) -> tuple[ErrorCount, ...]:
    """Count by kind and ending; what ended badly without a word is counted as that."""
    found: list[ErrorCount] = []
    for ending in Ending:
        rows = requests.ending == ending
        if ending == Ending.COMPLETED:
            rows &= requests.error >= 0
        for index in np.unique(requests.error[rows]).tolist():
            mine = rows & (requests.error == index)
            words = run.errors[index] if index >= 0 else "no error was told"
            first_at_s = float(np.nanmin(requests.scheduled_at_s[mine], initial=math.inf))
            found.append(
                ErrorCount(words, ending.name.lower(), int(mine.sum()), _limit(first_at_s))
            )
    return tuple(sorted(found, key=lambda each: -each.count))


def _warnings(  # noqa: PLR0913, PLR0917 (whatever may be doubtful)
    run: Run, overall: Group, energy: Energy, counts: Counted, sender: Sender, backlog: Backlog
) -> Iterator[str]:
    if run.partial:
        yield f"the run was broken off: {run.partial}"
    if not overall.requests:
        yield "no request was scheduled within the steady window: there is nothing to measure"
        return
    if not sender.kept_schedule:
        yield sender.verdict
    if backlog.grows:
        yield (
            f"requests in flight grew from {backlog.at_begin} to {backlog.at_end} within the"
            " window: the server does not keep up, and latencies depend on how long this went on"
        )
    if overall.completed < _ENOUGH_COMPLETED * overall.requests:
        yield (
            f"{overall.requests - overall.completed:,} of {overall.requests:,} requests did not"
            " complete: their latencies are missing from the percentiles, not from the attainment"
        )
    if overall.completed < _ENOUGH_FOR_P99:
        yield f"{overall.completed} requests completed: a p99 of these is nearly the longest"
    yield from _unknowns(run, overall, energy, counts)


def _unknowns(run: Run, overall: Group, energy: Energy, counts: Counted) -> Iterator[str]:
    without = [each.name for each in run.classes if each.objective is None]
    if not overall.judged:
        yield "no objectives are known: there is neither goodput nor attainment"
    elif without:
        yield f"no objectives are known of {', '.join(without)}: goodput leaves them out"
    if energy.source == "attributed":
        yield f"energy is what replies say, without idle replicas: {counts.fault}"
    elif energy.source == "none":
        yield f"energy is not known: replies say none, and {counts.fault}"
    elif energy.unattributed_share < -_DISAGREEMENT:
        yield (
            f"replies account for {1 - energy.unattributed_share:.0%} of what the server's"
            " counters show: attributed and counted joules disagree"
        )
