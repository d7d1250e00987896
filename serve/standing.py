"""How the cluster stands as one gateway sees it: status, health, troubles, the dashboard's news.

Its own module because the gateway answers calls, and this is what it answers when it is asked
about the cluster rather than for tokens.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.jouleserve import plans, served, statuses
from scheduler.requests import VariantName
from serve import plan_status, status, troubles
from serve.dashboard.snapshot import DECISIONS, Snapshot
from serve.troubles import Trouble

if TYPE_CHECKING:
    from cluster.carbon import Grid
    from protos.jouleserve.v1 import cluster_pb2, inference_pb2
    from serve.config import Config
    from serve.dispatcher import Dispatcher
    from serve.engines import Engines
    from serve.objectives_met import ObjectivesMet
    from serve.plan_link import PlanLink


@dataclass(frozen=True, slots=True)
class Standing:
    """Reads the parts of a gateway, and changes none.

    Attributes:
        config: of the whole cluster.
        engines: links to its replicas.
        dispatcher: that serves its requests.
        met: objectives kept of late.
        grid: carbon intensity; None where nobody asked for it.
        plan: link to the planner; None where another autoscaler scales.

    """

    config: Config
    engines: Engines
    dispatcher: Dispatcher
    met: ObjectivesMet
    grid: Grid | None
    plan: PlanLink | None

    def models(self) -> inference_pb2.ListModelsResponse:
        """Give the models with their variants, objectives and awake replicas."""
        return status.models(self.config, self.engines.awake())

    def status(self, decisions: int) -> cluster_pb2.GetStatusResponse:
        """Give replicas, leases, counts and the newest decisions."""
        now_s = time.monotonic()
        answer = status.cluster(
            self.config, self.engines, self.dispatcher.tally, self.troubles(), now_s
        )
        answer.service_classes.extend(status.service_classes(self.met, now_s))
        answer.accounts.extend(status.accounts(self.dispatcher.books))
        if (intensity := status.carbon(self.grid)) is not None:
            answer.carbon.CopyFrom(intensity)
        newest = self.dispatcher.decisions.newest(decisions)
        answer.decisions.extend(status.decisions(newest, now_s))
        return answer

    async def snapshot(self) -> Snapshot:
        """Give what the dashboard shows."""
        plan = None if self.plan is None else plan_status.response(self.plan.latest)
        return Snapshot(
            taken_at_s=time.monotonic(),
            status=statuses.status(self.status(DECISIONS)),
            plan=None if plan is None else plans.plan(plan),
            models=served.models(self.models()),
        )

    def unserved(self) -> tuple[Trouble, ...]:
        """Name the models for which a request would find nothing, now or within its wait."""
        awake = self.engines.awake()
        ready = {name for name, count in awake.items() if count}
        if self.config.gateway.hold_timeout_s:
            ready |= self.engines.sleeping() | self.engines.coming
        return tuple(
            Trouble(model.name, "no replica is awake, and none can be woken")
            for model in self.config.models
            if not any(VariantName(variant.name) in ready for variant in model.variants)
        )

    def own_troubles(self) -> tuple[Trouble, ...]:
        """Give what this gateway has found itself."""
        silence = () if self.plan is None else self.plan.silence()
        unmetered = troubles.of_energy(self.engines.meter_troubles(), self.grid)
        return (*self.unserved(), *silence, *unmetered)

    def troubles(self) -> tuple[Trouble, ...]:
        """Give these, and what the planner tells of."""
        planned = () if self.plan is None else self.plan.latest.troubles
        return (*self.own_troubles(), *planned)
