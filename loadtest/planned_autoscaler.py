"""The live planner as an autoscaler of the virtual cluster.

Its own module because it is the one that is put to the test: forecast, plan, target, with
the scheduler's own code, on what gateways can know.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadtest.autoscalers import EverythingAwake
from loadtest.replica_pool import Target
from scheduler.forecast import Forecaster
from scheduler.planning import plan
from scheduler.plans import Demand, PlanInput, PlanSettings

if TYPE_CHECKING:
    from loadtest.autoscalers import Observation, Traffic
    from loadtest.descriptions import ClusterDescription
    from scheduler.plans import Plan

# Lengths and cached shares are averaged over about this time.
MEMORY_S = 600.0
# A plan is late by a period and by a start; both are short against its horizon.
PERIOD_S = 15.0
# Long enough that no solution depends on how fast this machine is.
SOLVE_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class PlannerOptions:
    """How the planner is run; what is left out shows what it is worth.

    Attributes:
        name: for reports.
        settings: of the planner.
        period_s: between plans.
        halts_nodes: switch nodes off; without it, only processes exit.
        forecasts: look ahead; without it, the rate of the last period is what comes.

    """

    name: str = "planner"
    settings: PlanSettings = field(
        default_factory=lambda: PlanSettings(solve_limit_s=SOLVE_LIMIT_S)
    )
    period_s: float = PERIOD_S
    halts_nodes: bool = True
    forecasts: bool = True


class _Stream:
    """What is known of one service class."""

    def __init__(self) -> None:
        self.forecaster = Forecaster()
        self.requests_per_s = 0.0
        self.prompt_tokens = 0.0
        self.completion_tokens = 0.0
        self.cached_share = 0.0
        self._requests = 0.0
        self._completions = 0.0

    def observe(self, traffic: Traffic, now_s: float, period_s: float) -> None:
        """Learn a period's traffic."""
        self.requests_per_s = traffic.requests / period_s
        self.forecaster.observe(now_s, self.requests_per_s)
        kept = math.exp(-period_s / MEMORY_S)
        self._requests = kept * self._requests + traffic.requests
        self._completions = kept * self._completions + traffic.completions
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


class Planned:
    """Wakes and drains what the planner says.

    Attributes:
        name: for reports.
        period_s: between plans.
        plans: all that were made.

    """

    def __init__(
        self,
        cluster: ClusterDescription,
        options: PlannerOptions | None = None,
    ) -> None:
        """Know the cluster, and nothing of its traffic.

        Args:
            cluster: to be scaled; everything is awake at first.
            options: of this autoscaler.

        """
        options = options or PlannerOptions()
        self.name = options.name
        self.period_s = options.period_s
        self.plans: list[Plan] = []
        self._cluster = cluster
        self._options = options
        self._settings = options.settings
        self._streams = {name: _Stream() for name in cluster.classes}

    def initial(self) -> Target:
        """Everything: what is not needed is let go as soon as that is known."""
        return EverythingAwake(self._cluster).initial()

    def decide(self, seen: Observation) -> Target:
        """Forecast, and plan for it."""
        for traffic in seen.traffic:
            self._streams[traffic.service_class].observe(traffic, seen.now_s, seen.period_s)
        previous = self.plans[-1] if self.plans else None
        made = plan(
            PlanInput(
                census=seen.census,
                variants=seen.variants,
                groups=self._cluster.groups,
                placements=self._cluster.placements,
                demands=self._demands(seen.now_s),
                settings=self._settings,
            ),
            previous=previous,
        )
        self.plans.append(made)
        return Target(made.replicas, made.nodes if self._options.halts_nodes else None)

    def _demands(self, now_s: float) -> tuple[Demand, ...]:
        demands = []
        for name, stream in self._streams.items():
            mean, upper = self._rates(stream, now_s)
            demands.append(
                Demand(
                    model=self._cluster.model,
                    objective=self._cluster.classes[name].objective,
                    requests_per_s=mean,
                    prompt_tokens=max(1.0, stream.prompt_tokens),
                    completion_tokens=max(1.0, stream.completion_tokens),
                    cached_share=stream.cached_share,
                    upper_requests_per_s=upper,
                )
            )
        return tuple(demands)

    def _rates(self, stream: _Stream, now_s: float) -> tuple[float, float]:
        if not self._options.forecasts:
            return stream.requests_per_s, stream.requests_per_s
        ahead = stream.forecaster.predict(now_s, self._settings.horizon_s)
        return ahead.mean, ahead.upper
