"""What gateways saw of one service class, and the demand that a plan is made for.

Its own module because the live planner and the virtual cluster's learn from the same counts:
how many requests will come, how long they are, and how much room they need besides the mean.

Room is learnt, not derived. Square-root staffing (`scheduler.capacity.headroom`) knows the
law by which it grows with the rate, but not its factor: requests come in bursts, prompts have
heavy tails, and where a few replicas serve, how they are shared out counts. So the factor z is
steered by the share of requests for which there was no room: for which no awake replica was
predicted to keep the objective though an idle one would have.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass
from operator import add, sub
from typing import TYPE_CHECKING

from scheduler.decisions import Decision, Latencies
from scheduler.forecast import Forecaster
from scheduler.plans import Demand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduler.decisions import NoReplica
    from scheduler.fleet import Variant
    from scheduler.requests import ModelName, Objective, Request

# Lengths and cached shares are averaged over about this time.
MEMORY_S = 600.0
# z: of standard deviations of a Poisson number of requests, at first and at most.
FIRST_RISK, MOST_RISK = 2.0, 12.0
# Share of requests that may find no room. What a replica cannot keep although that was
# predicted comes on top; the energy policy steers that to 0.5 %.
CROWDED_SHARE = 0.0025
# Standard deviations by which a count has to exceed what a rate would explain.
SURE = 3.0
# Time in which z falls by 1 while all find room, and by how much more than that it can rise.
RELAX_S = 1200.0
STEEPEST = 100.0


@dataclass(slots=True)
class Traffic:
    """Counts of one service class over some time; whoever counts adds to them.

    Attributes:
        requests: that came.
        prompt_tokens: of these.
        crowded: of these, requests for which there was no room (see `crowded`).
        completions: that ended.
        completion_tokens: of those.
        cached_tokens: of their prompts, found in prefix caches.
        completed_prompt_tokens: of their prompts.
        missed: of the completions, those that did not keep their objective.

    """

    requests: int = 0
    prompt_tokens: int = 0
    crowded: int = 0
    completions: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    completed_prompt_tokens: int = 0
    missed: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Add two counts of the same time."""
        return Traffic(*map(add, astuple(self), astuple(other)))

    def since(self, before: Traffic) -> Traffic:
        """Count what has come after an earlier total."""
        return Traffic(*map(sub, astuple(self), astuple(before)))


class Stream:
    """What is known of one service class of one model.

    Attributes:
        requests_per_s: of the last period.
        prompt_tokens: mean.
        completion_tokens: mean.
        cached_share: of prompt tokens.
        risk: z, in standard deviations.

    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.forecaster = Forecaster()
        self.requests_per_s = 0.0
        self.prompt_tokens = 0.0
        self.completion_tokens = 0.0
        self.cached_share = 0.0
        self.risk = FIRST_RISK
        self._sure_per_s = 0.0
        self._requests = 0.0
        self._completions = 0.0

    def observe(self, traffic: Traffic, now_s: float, period_s: float) -> None:
        """Learn a period's traffic.

        Args:
            traffic: since the observation before.
            now_s: end of that time; observations come in order.
            period_s: its length.

        """
        self.requests_per_s = traffic.requests / period_s
        self.forecaster.observe(now_s, self.requests_per_s)
        self._sure_per_s = sure_rate(traffic.requests, period_s)
        kept = math.exp(-period_s / MEMORY_S)
        self._requests *= kept
        self._completions *= kept
        self.lengths(traffic)
        if traffic.requests:
            self._steer(traffic.crowded / traffic.requests, period_s)

    def lengths(self, traffic: Traffic) -> None:
        """Learn how long requests are, and nothing of how many come."""
        self._requests += traffic.requests
        self._completions += traffic.completions
        if traffic.requests:
            mean = traffic.prompt_tokens / traffic.requests
            weight = traffic.requests / self._requests
            self.prompt_tokens += weight * (mean - self.prompt_tokens)
        if traffic.completions:
            weight = traffic.completions / self._completions
            mean = traffic.completion_tokens / traffic.completions
            self.completion_tokens += weight * (mean - self.completion_tokens)
            share = traffic.cached_tokens / max(1, traffic.completed_prompt_tokens)
            self.cached_share += weight * (share - self.cached_share)

    def demand(
        self, model: ModelName, objective: Objective, now_s: float, ahead_s: float
    ) -> Demand:
        """Say what will come from now until a horizon; of an unknown length, one token."""
        ahead = self.forecaster.predict(now_s, ahead_s)
        return Demand(
            model=model,
            objective=objective,
            requests_per_s=ahead.mean,
            prompt_tokens=max(1.0, self.prompt_tokens),
            completion_tokens=max(1.0, self.completion_tokens),
            cached_share=self.cached_share,
            upper_requests_per_s=max(ahead.upper, self._sure_per_s),
            risk=self.risk,
        )

    def _steer(self, crowded_share: float, period_s: float) -> None:
        """Keep more room when requests find none, a little less while all find some."""
        excess = min(STEEPEST, crowded_share / CROWDED_SHARE) - 1.0
        self.risk = min(MOST_RISK, max(0.0, self.risk + excess * period_s / RELAX_S))


def sure_rate(requests: int, period_s: float) -> float:
    """Requests/s that so many within a period show to be no accident.

    A rate that has multiplied is believed at once, where a smoothed forecast follows only by
    and by; the ordinary scatter of a Poisson number stays below the mean.
    """
    return max(0.0, requests - SURE * math.sqrt(requests)) / period_s


def crowded(request: Request, verdict: Decision | NoReplica, variants: Iterable[Variant]) -> bool:
    """Whether there was no room for a request that an idle replica would have had.

    Args:
        request: that was routed.
        verdict: on it; of a policy that predicts no latencies, only a refusal tells anything.
        variants: that may serve its model.

    """
    if isinstance(verdict, Decision) and (
        verdict.predicted is None or verdict.predicted.keep(request.objective)
    ):
        return False
    return any(
        variant.quality >= request.objective.min_quality
        and _alone(request, variant).keep(request.objective)
        for variant in variants
    )


def _alone(request: Request, variant: Variant) -> Latencies:
    """Predict what it would meet on an idle replica with nothing of it cached."""
    steps = variant.steps
    tpot_s = steps.decode_s(1.0, request.prompt_tokens + request.expected_completion_tokens / 2)
    return Latencies(steps.prefill_s(request.prompt_tokens) + tpot_s, tpot_s)
