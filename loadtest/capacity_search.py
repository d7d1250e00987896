"""The highest rate that keeps the objectives: bracket, then halve, by trials.

Its own module because the search asks for runs and does not know who makes them: a live
cluster or a virtual one. Every trial is told; their number and time are bounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from loadtest.errors import LoadtestError
from loadtest.reports import intervals
from loadtest.reports.capacity_values import Capacity, Level, Trial
from loadtest.reports.figures import number, percent
from loadtest.reports.measures import in_order, report_of, window_of, within
from loadtest.reports.objectives import judge

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.reports.capacity_values import Outcome
    from loadtest.run import Run

_FACTOR = 2.0


class RunMaker(Protocol):
    """Makes a run at a rate."""

    def __call__(self, rate_per_s: float, seed: int) -> Run:
        """Make it."""


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """How a capacity is looked for.

    Attributes:
        start_per_s: rate of the first trial.
        goal: share of requests that must complete within every objective.
        resolution: stop when the lowest rate missed is within this share of the highest kept.
        repeats: trials at one rate, each with another seed; the majority decides, so that
            fewer are made where that is settled.
        most_trials: in all.
        time_limit_s: on a clock on the wall; no trial begins after it.
        lowest_per_s: below it nothing is tried.
        highest_per_s: above it nothing is tried.
        seed: of the first trial at each rate.

    """

    start_per_s: float
    goal: float = 0.99
    resolution: float = 0.05
    repeats: int = 3
    most_trials: int = 40
    time_limit_s: float = 1800.0
    lowest_per_s: float = 1e-3
    highest_per_s: float = 1e6
    seed: int = 0


class _StoppedError(Exception):
    """Trials or time have run out, or the load cannot be made any more."""


class CapacitySearch:
    """One search."""

    def __init__(
        self,
        make: RunMaker,
        settings: SearchSettings,
        clock: Callable[[], float],
        tell: Callable[[Trial], None] = lambda _: None,
    ) -> None:
        """Prepare it.

        Args:
            make: runs the load.
            settings: of the search.
            clock: seconds on the wall.
            tell: hears of each trial when it is over.

        """
        self._make = make
        self._settings = settings
        self._clock = clock
        self._tell = tell
        self._began_s = clock()
        self._trials: list[Trial] = []
        self._levels: dict[float, bool] = {}
        self._last: Run | None = None

    def run(self) -> Capacity:
        """Look for it.

        Raises:
            LoadtestError: no objectives are known, so that none could be kept.

        """
        stopped = ""
        try:
            self._bracket()
            self._halve()
        except _StoppedError as error:
            stopped = str(error)
        return self._capacity(stopped)

    # ── looking ─────────────────────────────────────────────────────────────

    def _bracket(self) -> None:
        """Double or halve until one rate is kept and one is missed, or the limits are reached."""
        settings = self._settings
        rate = min(max(settings.start_per_s, settings.lowest_per_s), settings.highest_per_s)
        up = self._keeps(rate)
        while math.isnan(self._low) or math.isnan(self._high):
            following = rate * _FACTOR if up else rate / _FACTOR
            following = min(max(following, settings.lowest_per_s), settings.highest_per_s)
            if following == rate:
                return
            rate = following
            self._keeps(rate)

    def _halve(self) -> None:
        if math.isnan(self._low) or math.isnan(self._high):
            return
        while self._high > self._low * (1 + self._settings.resolution):
            # Rates differ by factors: the middle is that of their logarithms.
            self._keeps(math.sqrt(self._low * self._high))

    @property
    def _low(self) -> float:
        """The highest rate kept below every rate missed; NaN if there is none."""
        kept = [rate for rate, keeps in self._levels.items() if keeps]
        return max(kept, default=math.nan)

    @property
    def _high(self) -> float:
        return min((rate for rate, keeps in self._levels.items() if not keeps), default=math.nan)

    def _keeps(self, rate: float) -> bool:
        """Try a rate until the majority of its trials is known."""
        needed = self._settings.repeats // 2 + 1
        kept = missed = 0
        while kept < needed and missed < needed:
            trial = self._try(rate, self._settings.seed + kept + missed)
            kept, missed = kept + trial.kept, missed + (not trial.kept)
        self._levels[rate] = kept >= needed
        return kept >= needed

    def _try(self, rate: float, seed: int) -> Trial:
        settings, began_s = self._settings, self._clock()
        if len(self._trials) >= settings.most_trials:
            raise _StoppedError(f"{settings.most_trials} trials were made")
        if began_s - self._began_s >= settings.time_limit_s:
            raise _StoppedError(f"{settings.time_limit_s:g} s have passed")
        self._last = run = self._make(rate, seed)
        trial = trial_of(run, rate, settings.goal, self._clock() - began_s)
        self._trials.append(trial)
        self._tell(trial)
        if run.partial:
            raise _StoppedError(f"a run was broken off: {run.partial}")
        return trial

    # ── telling ─────────────────────────────────────────────────────────────

    def _capacity(self, stopped: str) -> Capacity:
        settings, run = self._settings, self._last
        low, high = self._low, self._high
        kept, missed = self._level(low), self._level(high)
        resolution = (high - low) / low if low else math.nan
        outcome = self._outcome(resolution)
        goal = settings.goal
        at_high = [each for each in self._trials if each.rate_per_s == high]
        by_sender = any(not each.on_schedule for each in at_high)
        sure = (
            kept is not None
            and missed is not None
            and not by_sender
            and kept.slo_attainment_interval.low >= goal
            and (
                missed.slo_attainment_interval.high < goal or any(each.piles_up for each in at_high)
            )
        )
        found = Capacity(
            scenario="" if run is None else run.scenario,
            target="" if run is None else run.target,
            model="" if run is None else run.model,
            goal=goal,
            outcome=outcome,
            rate_per_s=0.0 if math.isnan(low) else low,
            missed_per_s=high,
            resolution=resolution,
            wanted_resolution=settings.resolution,
            kept=kept,
            missed=missed,
            limited_by_sender=by_sender,
            sure=sure,
            verdict="",
            trials=tuple(self._trials),
            took_s=self._clock() - self._began_s,
        )
        return replace(found, verdict=_verdict(found, stopped))

    def _outcome(self, resolution: float) -> Outcome:
        settings = self._settings
        if resolution <= settings.resolution + 1e-9:
            return "found"
        if self._low >= settings.highest_per_s:
            return "above the highest tried"
        if self._high <= settings.lowest_per_s:
            return "below the lowest tried"
        return "not settled"

    def _level(self, rate: float) -> Level | None:
        mine = [each for each in self._trials if each.rate_per_s == rate]
        if not mine:
            return None
        weight = sum(each.independent for each in mine)
        share, interval = math.nan, intervals.NOTHING
        if weight:
            share = sum(each.slo_attainment * each.independent for each in mine) / weight
            interval = intervals.wilson(share, weight)
        return Level(
            rate_per_s=rate,
            trials=len(mine),
            kept=sum(each.kept for each in mine),
            slo_attainment=share,
            slo_attainment_interval=interval,
        )


def trial_of(run: Run, rate_per_s: float, goal: float, took_s: float) -> Trial:
    """Judge a run.

    Raises:
        LoadtestError: no objectives are known of any of its requests.

    """
    report = report_of(run)
    overall = report.overall
    reason = ""
    if not report.sender.kept_schedule:
        reason = report.sender.verdict
    elif report.backlog.grows:
        reason = "requests pile up"
    elif not overall.slo_attainment >= goal:
        reason = f"{percent(overall.slo_attainment)} % within objectives"
    if not overall.judged and not run.partial:
        raise LoadtestError(
            "no objectives are known, so none can be kept: give the scenario `objectives` for its"
            " service classes"
            if overall.requests
            else f"no request falls into the steady window at {rate_per_s:g}/s: raise the duration"
        )
    requests = in_order(run.requests)
    judgement = judge(run, requests).select(within(requests, window_of(run)))
    good = judgement.good[judgement.judged]
    return Trial(
        rate_per_s=rate_per_s,
        seed=run.seed,
        requests=overall.requests,
        requests_per_s=overall.requests_per_s,
        slo_attainment=overall.slo_attainment,
        slo_attainment_interval=overall.slo_attainment_interval,
        independent=intervals.worth(good) if good.size else 0.0,
        ttft_p99_s=overall.ttft_s.p99_s,
        tpot_p99_s=overall.tpot_s.p99_s,
        joules_per_token=report.energy.joules_per_token,
        on_schedule=report.sender.kept_schedule,
        piles_up=report.backlog.grows,
        kept=not reason and not run.partial,
        reason=f"broken off: {run.partial}" if run.partial else reason,
        took_s=took_s,
    )


def _verdict(found: Capacity, stopped: str) -> str:
    """Say all of it in words."""
    aim, kept, missed = f"{percent(found.goal)} % within objectives", found.kept, found.missed
    if kept is None:
        lowest = "no rate" if missed is None else f"not even {number(missed.rate_per_s)}/s"
        text = f"{lowest} kept {aim}"
    else:
        text = f"{number(kept.rate_per_s)}/s kept {aim} ({kept.kept} of {kept.trials} trials)"
    if kept is not None and missed is not None:
        lost = missed.trials - missed.kept
        text += f", {number(missed.rate_per_s)}/s did not ({lost} of {missed.trials})"
        if not found.sure and not found.limited_by_sender:
            text += "; attainment lies near the goal, longer trials would be surer"
    elif kept is not None:
        text += ", and nothing higher was missed"
    if found.limited_by_sender:
        text += "; there the sender was the limit, the server may carry more"
    if found.outcome == "not settled":
        text += f"; the search stopped before its resolution: {stopped}"
    return text
