"""What a search for a capacity says, as values.

Its own module for the reason that `loadtest.reports.values` is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Needed at run time: the JSON Schema is made from these annotations.
from loadtest.reports.values import Interval  # noqa: TC001

Outcome = Literal["found", "above the highest tried", "below the lowest tried", "not settled"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run at one rate.

    Attributes:
        rate_per_s: requests, or conversations, that begin in a second, as asked.
        seed: of chance.
        requests: scheduled within its window.
        requests_per_s: of them, as they came.
        slo_attainment: share that completed within every objective.
        slo_attainment_interval: where that share of such runs lies.
        independent: requests that would tell the share as well if none waited for another.
        ttft_p99_s: time to the first token.
        tpot_p99_s: mean time per token after it.
        joules_per_token: all energy where counters tell it, else what replies say.
        on_schedule: the sender kept its schedule; if not, the server was not put to the test.
        piles_up: more requests were in flight at its end than chance explains.
        kept: the objectives were kept.
        reason: why not; empty if they were.
        took_s: on a clock on the wall.

    """

    rate_per_s: float
    seed: int
    requests: int
    requests_per_s: float
    slo_attainment: float
    slo_attainment_interval: Interval
    independent: float
    ttft_p99_s: float
    tpot_p99_s: float
    joules_per_token: float
    on_schedule: bool
    piles_up: bool
    kept: bool
    reason: str
    took_s: float


@dataclass(frozen=True, slots=True)
class Level:
    """All trials at one rate.

    Attributes:
        rate_per_s: that they were asked for.
        trials: how many.
        kept: in how many of them the objectives were kept.
        slo_attainment: of all their requests.
        slo_attainment_interval: where that share lies.

    """

    rate_per_s: float
    trials: int
    kept: int
    slo_attainment: float
    slo_attainment_interval: Interval


@dataclass(frozen=True, slots=True)
class Capacity:
    """The highest rate that keeps the objectives, as far as trials tell.

    Attributes:
        scenario: by name.
        target: address and protocol, or the fleet with its policy and autoscaler.
        model: that was asked.
        goal: share of requests that must complete within every objective.
        outcome: how the search ended.
        rate_per_s: the highest rate that was kept; 0 if none was.
        missed_per_s: the lowest that was not; NaN if all were kept.
        resolution: the gap between the two, over the first; NaN without both.
        wanted_resolution: at which the search ends.
        kept: trials at the highest rate that was kept; None if none was.
        missed: trials at the lowest rate that was not; None if all were.
        limited_by_sender: that rate was missed because the load could not be made.
        sure: with 95 % confidence the share at the first rate is at or above the goal, and at
            the second below it, or requests piled up there.
        verdict: all of this in one or two sentences.
        trials: one by one, as they were made.
        took_s: on a clock on the wall.

    """

    scenario: str
    target: str
    model: str
    goal: float
    outcome: Outcome
    rate_per_s: float
    missed_per_s: float
    resolution: float
    wanted_resolution: float
    kept: Level | None
    missed: Level | None
    limited_by_sender: bool
    sure: bool
    verdict: str
    trials: tuple[Trial, ...]
    took_s: float
