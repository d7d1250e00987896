"""What a gateway of a virtual cluster would say of it, on the wire.

Its own module because whoever shows a cluster asks for these messages, and need not know that
there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from protos.jouleserve.v1 import cluster_pb2 as pb
from protos.jouleserve.v1 import inference_pb2
from scheduler.fleet import ReplicaReport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.virtual.paced_cluster import PacedCluster
    from loadtest.virtual.simulated_nodes import SimulatedNode
    from loadtest.virtual.simulated_replica import SimulatedReplica
    from scheduler.plans import NodeGroupName
    from scheduler.requests import ReplicaId

SILENT = ReplicaReport(observed_at_s=0.0)
# Power is a mean over at least so long: between two reports there may be no step at all.
POWER_S = 1.0
GATEWAY = "virtual"


class _Metered(NamedTuple):
    """A reading of a replica's meter, with the mean power since the one before."""

    at_s: float
    energy_j: float
    power_w: float


class VirtualStatus:
    """Answers for a virtual cluster; call it with the cluster's lock held."""

    def __init__(self, paced: PacedCluster, carbon: pb.CarbonIntensity | None = None) -> None:
        """Know whom to answer for.

        Args:
            paced: the cluster.
            carbon: of its grid; None for none.

        """
        self._paced = paced
        self._carbon = carbon
        # Which accelerators of its node each replica holds: a virtual node counts them only.
        self._devices: dict[ReplicaId, tuple[SimulatedNode, tuple[int, ...]]] = {}
        self._metered: dict[ReplicaId, _Metered] = {}

    # ── status ──────────────────────────────────────────────────────────────

    def status(self, decisions: int) -> pb.GetStatusResponse:
        """Give what `GetStatus` gives."""
        paced, now_s = self._paced, self._paced.now_s()
        balance = paced.cluster.balance()
        accepted = balance.injected - balance.shed
        self._settle_devices()
        self._meter(now_s)
        return pb.GetStatusResponse(
            gateway=GATEWAY,
            policy=paced.policy,
            replicas=[self._replica(each, now_s) for each in paced.cluster.pool.replicas.values()],
            counters=pb.Counters(
                accepted=accepted,
                completed=balance.completed,
                failed=balance.failed,
                rejected=balance.shed,
                in_flight=accepted - balance.completed - balance.failed,
                leases=paced.cluster.leases(),
            ),
            service_classes=[
                pb.ServiceClassStatus(
                    service_class=name,
                    window_s=paced.outcomes.attainment.window_s,
                    **met._asdict(),
                )
                for name, met in paced.outcomes.attainment.within_window(now_s).items()
            ],
            accounts=self._accounts(),
            decisions=self._decisions(decisions, now_s),
            carbon=self._carbon,
            troubles=self._troubles(),
        )

    def _replica(self, replica: SimulatedReplica, now_s: float) -> pb.Replica:
        name, variant = replica.replica, replica.variant
        report = self._paced.watcher.reports.get(name, SILENT)
        node, devices = self._devices[name]
        energy = replica.energy(now_s)
        attributed_j = replica.settled_j + replica.unfinished_j(now_s)
        return pb.Replica(
            model=variant.model,
            variant=variant.name,
            replica=name,
            node=_node_name(node),
            accelerator=node.group.accelerator,
            state="draining" if replica.draining else "awake",
            age_s=max(0.0, now_s - report.observed_at_s),
            running_requests=report.running_requests,
            waiting_requests=report.waiting_requests,
            kv_cache_usage=report.kv_cache_usage,
            prefill_tokens_per_s=report.prefill_tokens_per_s,
            decode_tokens_per_s=report.decode_tokens_per_s,
            step_time_s=report.step_time_s,
            power_w=self._metered[name].power_w,
            energy_j=energy.total_j,
            leases=self._paced.cluster.held(name),
            energy_method="model",
            energy_boundary="gpu",
            idle_j=energy.idle_j,
            residual_j=energy.total_j - energy.idle_j - attributed_j,
            devices=[f"gpu{index}" for index in devices],
            max_batch=variant.max_batch,
        )

    def _meter(self, now_s: float) -> None:
        """Read all meters, if the last reading is long enough ago."""
        replicas = self._paced.cluster.pool.replicas
        for name in self._metered.keys() - replicas.keys():
            del self._metered[name]
        for name, replica in replicas.items():
            before = self._metered.get(name)
            if before is None:
                before = _Metered(replica.started_at_s, 0.0, replica.variant.context_power_w)
            passed_s = now_s - before.at_s
            if passed_s >= POWER_S:
                energy_j = replica.energy(now_s).total_j
                before = _Metered(now_s, energy_j, (energy_j - before.energy_j) / passed_s)
            self._metered[name] = before

    def _settle_devices(self) -> None:
        """Give each new replica the lowest free accelerators of its node."""
        pool = self._paced.cluster.pool
        for name in self._devices.keys() - pool.replicas.keys():
            del self._devices[name]
        for name in pool.replicas.keys() - self._devices.keys():
            node = pool.node_of(name)
            taken = {index for its, held in self._devices.values() if its is node for index in held}
            free = [i for i in range(node.group.accelerators_per_node) if i not in taken]
            self._devices[name] = node, tuple(free[: pool.accelerators_of(name)])

    def _accounts(self) -> Iterator[pb.EnergyAccount]:
        intensity = self._carbon
        per_j = intensity.gco2e_per_kwh * intensity.pue / 3.6e6 if intensity is not None else 0.0
        for (service_class, variant), account in sorted(self._paced.outcomes.accounts.items()):
            yield pb.EnergyAccount(
                service_class=service_class,
                variant=variant,
                requests=account.requests,
                prompt_tokens=account.prompt_tokens,
                completion_tokens=account.completion_tokens,
                energy_j=account.energy_j,
                gco2e=account.energy_j * per_j,
            )

    def _decisions(self, count: int, now_s: float) -> Iterator[pb.RecentDecision]:
        for decided in list(self._paced.watcher.decisions)[:count]:
            decision = decided.decision
            yield pb.RecentDecision(
                request_id=f"virtual-{decided.number}",
                age_s=now_s - decided.at_s,
                model=self._paced.description.model,
                service_class=decided.service_class,
                policy=decision.policy,
                variant=decision.variant,
                replica=decision.replica,
                reason=decision.reason,
                candidates=decision.considered,
                eligible=decision.eligible,
            )

    def _troubles(self) -> Iterator[pb.Trouble]:
        plans, names = self._paced.planner.plans, list(self._paced.planner.demands)
        for index, rate in plans[-1].unserved.items() if plans else ():
            if rate:
                yield pb.Trouble(
                    subject=self._paced.description.model,
                    reason=f"some of the {names[index]} requests that are expected find no replica",
                )

    # ── plan ────────────────────────────────────────────────────────────────

    def plan(self) -> pb.GetPlanResponse:
        """Give what `GetPlan` gives."""
        planner = self._paced.planner
        self._meter(self._paced.now_s())
        power_w = sum(each.power_w for each in self._metered.values())
        if not planner.plans:
            return pb.GetPlanResponse(planned=False, replicas_w=power_w)
        plan = planner.plans[-1]
        return pb.GetPlanResponse(
            planned=True,
            age_s=max(0.0, self._paced.now_s() - plan.made_at_s),
            solver=plan.solver,
            solve_s=planner.solve_s,
            gap=plan.gap,
            predicted_w=plan.predicted_w,
            bound_w=plan.bound_w,
            replicas_w=power_w,
            replicas=self._planned_replicas(),
            nodes=[
                pb.PlannedNodes(
                    group=group, wanted=wanted, ready=self._on(group), booting=self._booting(group)
                )
                for group, wanted in plan.nodes.items()
            ],
            actions=[
                pb.PlanAction(
                    kind=each.kind,
                    group=each.group,
                    variant=each.variant or "",
                    count=each.count,
                    reason=each.reason,
                )
                for each in plan.actions
            ],
            demands=self._demands(),
        )

    def _planned_replicas(self) -> Iterator[pb.PlannedReplicas]:
        wanted = self._paced.planner.plans[-1].replicas
        census = self._paced.cluster.pool.census()
        for slot in census.awake:
            yield pb.PlannedReplicas(
                variant=slot.variant,
                group=slot.group,
                wanted=wanted.get(slot, 0),
                awake=census.awake[slot],
                starting=census.starting.get(slot, 0),
                draining=census.draining.get(slot, 0),
            )

    def _demands(self) -> Iterator[pb.PlannedDemand]:
        planner = self._paced.planner
        unserved = planner.plans[-1].unserved
        for index, (name, demand) in enumerate(planner.demands.items()):
            yield pb.PlannedDemand(
                model=demand.model,
                service_class=name,
                requests_per_s=demand.requests_per_s,
                upper_requests_per_s=max(demand.requests_per_s, demand.upper_requests_per_s),
                prompt_tokens=demand.prompt_tokens,
                completion_tokens=demand.completion_tokens,
                cached_share=demand.cached_share,
                headroom=demand.risk,
                unserved_requests_per_s=unserved.get(index, 0.0),
            )

    def _on(self, group: NodeGroupName) -> int:
        return sum(node.state == "on" for node in self._paced.cluster.pool.nodes.nodes[group])

    def _booting(self, group: NodeGroupName) -> int:
        return sum(node.state == "booting" for node in self._paced.cluster.pool.nodes.nodes[group])

    # ── models ──────────────────────────────────────────────────────────────

    def models(self) -> inference_pb2.ListModelsResponse:
        """Give what `ListModels` gives."""
        description = self._paced.description
        awake = self._paced.cluster.pool.census().awake
        accelerators = {
            each.variant: description.groups[each.group].accelerator
            for each in description.placements
        }
        model = inference_pb2.Model(
            name=description.model,
            max_context_tokens=max(v.max_context_tokens for v in description.variants.values()),
            variants=[
                inference_pb2.Variant(
                    name=name,
                    accelerator=accelerators.get(name, ""),
                    quality=each.quality,
                    awake_replicas=sum(n for slot, n in awake.items() if slot.variant == name),
                )
                for name, each in description.variants.items()
            ],
            service_classes=[
                inference_pb2.ServiceClass(
                    name=name,
                    objective=inference_pb2.Objective(
                        ttft_s=each.objective.ttft_s,
                        tpot_s=each.objective.tpot_s,
                        min_quality=each.objective.min_quality,
                    ),
                )
                for name, each in description.classes.items()
            ],
            default_service_class=next(iter(description.classes)),
        )
        return inference_pb2.ListModelsResponse(models=[model])


def _node_name(node: SimulatedNode) -> str:
    return f"{node.group.name}-{node.number}"
