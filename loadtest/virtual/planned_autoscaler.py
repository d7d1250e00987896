"""The live planner as an autoscaler of the virtual cluster.

Its own module because it is the one that is put to the test: forecast, plan, target, with
the scheduler's own code, on what gateways can know.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.replica_pool import Target
from scheduler.planning import plan
from scheduler.plans import PlanInput, PlanSettings
from scheduler.traffic import Stream

if TYPE_CHECKING:
    from loadtest.virtual.autoscalers import Observation
    from loadtest.virtual.descriptions import ClusterDescription
    from scheduler.plans import Demand, Plan

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


class Planned:
    """Wakes and drains what the planner says.

    Attributes:
        name: for reports.
        period_s: between plans.
        plans: all that were made.
        demands: that the newest was made for.

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
        self.demands: dict[str, Demand] = {}
        self._cluster = cluster
        self._options = options
        self._settings = options.settings
        self._streams = {name: Stream() for name in cluster.classes}

    def initial(self) -> Target:
        """Everything: what is not needed is let go as soon as that is known."""
        return EverythingAwake(self._cluster).initial()

    def decide(self, seen: Observation) -> Target:
        """Forecast, and plan for it."""
        for name, traffic in seen.traffic.items():
            self._streams[name].observe(traffic, seen.now_s, seen.period_s)
        self.demands = dict(zip(self._streams, self._demands(seen.now_s), strict=True))
        previous = self.plans[-1] if self.plans else None
        made = plan(
            PlanInput(
                census=seen.census,
                variants=seen.variants,
                groups=self._cluster.groups,
                placements=self._cluster.placements,
                demands=tuple(self.demands.values()),
                settings=self._settings,
            ),
            previous=previous,
        )
        self.plans.append(made)
        return Target(made.replicas, made.nodes if self._options.halts_nodes else None)

    def _demands(self, now_s: float) -> tuple[Demand, ...]:
        classes, ahead_s = self._cluster.classes, self._settings.horizon_s
        demands = [
            stream.demand(self._cluster.model, classes[name].objective, now_s, ahead_s)
            for name, stream in self._streams.items()
        ]
        if self._options.forecasts:
            return tuple(demands)
        rates = [stream.requests_per_s for stream in self._streams.values()]
        return tuple(
            replace(demand, requests_per_s=rate, upper_requests_per_s=rate)
            for demand, rate in zip(demands, rates, strict=True)
        )
