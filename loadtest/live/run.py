"""A run of load against a live server, from a scenario to everything that a report needs.

Its own module because it is the door: the command line, the search for a capacity and programs
call `run_live`, and nothing behind it.
"""

from __future__ import annotations

import os
import platform
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hdrh.histogram import HdrHistogram

from loadtest.errors import LoadtestError
from loadtest.live.clerk import Clerk
from loadtest.live.crew import Crew, Yield
from loadtest.live.crew_words import Order
from loadtest.live.ledger import Ledger, Pages, merged
from loadtest.live.preflight import Greeting, client_of, greet
from loadtest.live.sender import Limits, Progress, Share
from loadtest.live.server_watch import ServerWatch
from loadtest.run import Run, RunClass
from loadtest.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadtest.live.targets import TargetSettings
    from loadtest.scenario import Scenario

# Gaps between messages: from a microsecond to an hour, to three digits.
ITL_LOWEST_US = 1
ITL_HIGHEST_US = 3_600_000_000
ITL_DIGITS = 3


def _silent(progress: Progress) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """How a load is made.

    Attributes:
        seed: of chance; the same gives the same schedule.
        workers: processes that send; 0 is one for each processor core, four at most.
        max_in_flight: requests at a time, of all workers together; what is due beyond it is
            recorded as unsent.
        deadline_s: of each request.
        drain_s: for which replies are waited for after the last request was due.
        give_up_after_s: without any success, while the target cannot be reached.
        salt: of prompts; None draws one, so that no run finds its prompts in a server's cache.
        note: whatever helps to run it again.

    """

    seed: int = 0
    workers: int = 0
    max_in_flight: int = 4096
    deadline_s: float = 120.0
    drain_s: float = 30.0
    give_up_after_s: float = 10.0
    salt: int | None = None
    note: str = ""


def run_live(
    scenario: Scenario,
    target: TargetSettings,
    options: LiveOptions,
    tell: Callable[[Progress], None] = _silent,
) -> Run:
    """Send a scenario's requests to a server, and wait for the replies.

    Ctrl-C, a server that is gone and a wrong key end the run early; what there is is returned,
    and `Run.partial` says why it is not all.

    Args:
        scenario: to be sent.
        target: to be asked.
        options: how.
        tell: called with the progress, some times a second.

    Raises:
        LoadtestError: nothing could be sent: a trace that cannot be read, a model that is not
            served, options that contradict each other.

    """
    workers = options.workers or max(1, min(4, os.cpu_count() or 1))
    closed = scenario.arrivals.closed
    if closed is not None:
        workers = min(workers, closed.users)
    limits = _limits(options, workers)
    # What is wrong with its files is told before all else.
    if Schedule(scenario, options.seed).text_lines and target.form == "tokens":
        raise LoadtestError("a text file has words, no token ids: send it as chat or as text")
    started_at = datetime.now(UTC)
    greeting = greet(target)
    scenario = _with_classes(scenario, greeting)
    salt = secrets.randbits(63) if options.salt is None else options.salt
    note = f"{options.note}; salt {salt}".removeprefix("; ")
    draft = _Draft(scenario, greeting, options.seed, note, workers, started_at)
    if greeting.trouble:
        return draft.run(Yield((), greeting.trouble), None)
    orders = [
        Order(scenario, options.seed, salt, greeting.target, Share(index, workers), limits)
        for index in range(workers)
    ]
    asked = greeting.target.status_address
    client = client_of(greeting.target, asked) if asked else None
    starts: list[float] = []
    with Crew(orders) as crew, ServerWatch(client, greeting.target.model) as watch:
        crew.wait_ready()
        limit_s = scenario.total_s + options.drain_s + 30.0
        came = crew.run(limit_s, starts.append, tell)
        ended_at_s = time.monotonic() - starts[0]
    return draft.run(came, watch, starts[0], ended_at_s)


def _with_classes(scenario: Scenario, greeting: Greeting) -> Scenario:
    """Name the class of requests that leave it to the server, as far as that tells."""
    kinds = []
    for kind in scenario.requests:
        name = kind.service_class or greeting.default_class
        if greeting.classes and name not in greeting.classes:
            known = ", ".join(greeting.classes)
            raise LoadtestError(f"the server has no service class {name!r}; it has {known}")
        kinds.append(kind.model_copy(update={"service_class": name}))
    return scenario.model_copy(update={"requests": tuple(kinds)})


def _limits(options: LiveOptions, workers: int) -> Limits:
    if options.max_in_flight < workers:
        raise LoadtestError(f"{workers} workers need max_in_flight of {workers} at least")
    if min(options.deadline_s, options.give_up_after_s) <= 0 or options.drain_s < 0:
        raise LoadtestError("deadlines must be above 0")
    return Limits(
        max_in_flight=options.max_in_flight // workers,
        deadline_s=options.deadline_s,
        drain_s=options.drain_s,
        give_up_after_s=options.give_up_after_s,
    )


@dataclass(frozen=True, slots=True)
class _Draft:
    """All of a run but what came of it."""

    scenario: Scenario
    greeting: Greeting
    seed: int
    note: str
    workers: int
    started_at: datetime

    def run(
        self,
        came: Yield,
        watch: ServerWatch | None,
        start_s: float = 0.0,
        ended_at_s: float = 0.0,
    ) -> Run:
        scenario, target = self.scenario, self.greeting.target
        pages = [*(done.pages for done in came.done), self._unsent(came)]
        requests, errors, variants = merged(pages)
        methods = [page.energy_method for page in pages if page.energy_method]
        return Run(
            scenario=scenario.name,
            source="live",
            target=target.label,
            model=target.model,
            seed=self.seed,
            started_at=self.started_at.isoformat(timespec="seconds"),
            steady_begin_s=scenario.steady_begin_s,
            steady_end_s=scenario.total_s,
            ended_at_s=ended_at_s,
            workers=self.workers,
            closed_loop=scenario.arrivals.closed is not None,
            classes=self._classes(),
            tenants=scenario.tenants,
            variants=variants,
            errors=errors,
            requests=requests,
            itl=_histograms(self._classes(), [page.gaps for page in pages]),
            samples=() if watch is None else watch.samples(start_s),
            energy_method=(watch.method if watch is not None else "") or "".join(methods[:1]),
            partial=came.trouble,
            host=_host(),
            note=self.note,
        )

    def _unsent(self, came: Yield) -> Pages:
        """Write down what nobody has told of: the shares of workers that never ended."""
        ledger = Ledger(len(self.scenario.class_names))
        schedule = Schedule(self.scenario, self.seed)
        for index in set(range(self.workers)) - {done.number for done in came.done}:
            numbers = range(index, len(schedule.begin_s), self.workers)
            Clerk(self.scenario, ledger).all_unsent(schedule, numbers, came.trouble)
        return ledger.close()

    def _classes(self) -> tuple[RunClass, ...]:
        promised = {name: each.objective() for name, each in self.scenario.objectives.items()}
        known = {**promised, **self.greeting.objectives}
        names = self.scenario.class_names
        return tuple(RunClass(name or "default", known.get(name)) for name in names)


def _histograms(
    classes: Sequence[RunClass], gaps: Sequence[Sequence[Mapping[int, int]]]
) -> dict[str, str]:
    """Merge what the workers counted; give encoded histograms by class."""
    merged_ones: dict[str, HdrHistogram] = {}
    for counts in gaps:
        for each, by_micros in zip(classes, counts, strict=True):
            if not by_micros:
                continue
            fresh = HdrHistogram(ITL_LOWEST_US, ITL_HIGHEST_US, ITL_DIGITS)
            histogram = merged_ones.setdefault(each.name, fresh)
            for micros, count in by_micros.items():
                histogram.record_value(min(micros, ITL_HIGHEST_US), count)
    return {name: each.encode().decode() for name, each in merged_ones.items()}


def _host() -> str:
    """Name this machine's processor."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 (a device of sorts)
            names = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{os.cpu_count()} × {name}, {platform.system()}"
