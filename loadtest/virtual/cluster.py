"""The virtual cluster: simulated replicas and nodes under the live scheduler's decisions.

Its own module because this is where the parts meet and where time passes; each part knows
only events and those it talks to. A run depends on its arguments and its seed alone.
"""

from __future__ import annotations

import gc
import itertools
import random
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from typing import TYPE_CHECKING

from loadtest.virtual.autoscalers import Observation
from loadtest.virtual.events import EventQueue
from loadtest.virtual.outcomes import Outcomes
from loadtest.virtual.records import Balance, EnergyParts, Loss, Mark, RunRecord, Sample
from loadtest.virtual.replica_pool import ReplicaPool
from loadtest.virtual.simulated_gateway import SimulatedGateway
from scheduler.policies import make_policy
from scheduler.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Sequence as Many

    from loadtest.traces import TraceRequest
    from loadtest.virtual.autoscalers import Autoscaler
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.sequences import Sequence
    from loadtest.virtual.simulated_gateway import Onlooker
    from loadtest.virtual.simulated_nodes import NodeEnergy
    from loadtest.virtual.simulated_replica import SimulatedReplica
    from loadtest.workloads import Workload
    from scheduler.fleet import Variant
    from scheduler.requests import ReplicaId, VariantName

# Streams that still run when no more requests come are given this long.
DRAIN_S = 1800.0
# Reports of replicas that start together are spread over the period by this irrational step.
GOLDEN = 0.6180339887498949
# Allocations between two looks for cyclic garbage while a run goes on, of which it makes little;
# with Python's own 700 the looks take 5 % of the time.
COLLECT_EVERY = 200_000


class VirtualCluster:
    """A cluster that exists as arithmetic.

    Attributes:
        events: its clock.
        pool: its replicas and nodes.

    """

    def __init__(  # noqa: PLR0913 (what a run depends on)
        self,
        cluster: ClusterDescription,
        policy: str,
        autoscaler: Autoscaler,
        seed: int,
        *,
        beliefs: Mapping[VariantName, Variant] | None = None,
        losses: Many[Loss] = (),
        sample_s: float = 10.0,
        outcomes: Outcomes | None = None,
        onlooker: Onlooker | None = None,
    ) -> None:
        """Bring it up with what the autoscaler wants at first.

        Args:
            cluster: what there is.
            policy: name of the routing policy.
            autoscaler: scales it; made for this run.
            seed: of everything that is left to chance.
            beliefs: what the scheduler thinks of the variants, where it errs.
            losses: what breaks, and when.
            sample_s: between samples; infinite for none.
            outcomes: told what becomes of requests; by default they are kept for the record.
            onlooker: told of decisions and reports; None spares their reasons.

        """
        if cluster.gateway.calibrated:
            cluster = replace(cluster, engine=replace(cluster.engine, totals=True))
        self.events = EventQueue()
        self.pool = ReplicaPool(cluster, self.events, self)
        self._cluster = cluster
        self._policy = policy
        self._autoscaler = autoscaler
        self._seed = seed
        self._rng = random.Random(seed)
        self._outcomes = Outcomes() if outcomes is None else outcomes
        self._completed = 0
        numbers = itertools.count(1)
        self._gateways = [
            SimulatedGateway(
                index,
                cluster,
                beliefs or cluster.variants,
                make_policy(policy),
                random.Random(self._rng.getrandbits(64)),
                self.events,
                self,
                numbers,
                self._outcomes,
                onlooker,
            )
            for index in range(cluster.gateway.gateways)
        ]
        self._traffic_before = {name: Traffic() for name in cluster.classes}
        self._sample_s = sample_s
        self._samples: list[Sample] = []
        self._sampled = (0.0, 0)
        self._decided_at_s = 0.0
        self._arrivals: Iterator[TraceRequest] = iter(())
        self.pool.apply(autoscaler.initial(), at_once=True)
        self.events.at(autoscaler.period_s, self._scale)
        self.events.at(sample_s, self._sample)
        for loss in losses:
            self.events.at(loss.at_s, partial(self._lose, loss))

    # ── running ─────────────────────────────────────────────────────────────

    def run(self, workload: Workload, warmup_s: float = 0.0) -> RunRecord:
        """Serve a workload to its end; measure energy from `warmup_s` to its duration."""
        with _seldom_collected():
            return self._run(workload, warmup_s)

    def _run(self, workload: Workload, warmup_s: float) -> RunRecord:
        self.begin(workload)
        self.events.run_until(warmup_s)
        begin = self.mark()
        self.events.run_until(workload.duration_s)
        end = self.mark()
        limit_s = workload.duration_s + DRAIN_S
        while self._open() and self.events.now_s < limit_s:
            self.events.run_until(self.events.now_s + 1.0)
        return RunRecord(
            policy=self._policy,
            autoscaler=self._autoscaler.name,
            seed=self._seed,
            workload=workload.name,
            outcomes=self._outcomes.table(),
            begin=begin,
            end=end,
            samples=tuple(self._samples),
            balance=self.balance(),
            replicas_started=self.pool.started,
        )

    def begin(self, workload: Workload) -> None:
        """Let a workload's requests come, from now on."""
        self._arrivals = iter(workload.requests)
        self._next_arrival()

    def arrives(self, request: TraceRequest) -> None:
        """Let one request come at its instant, beside those of the workload."""
        self.events.at(request.at_s, partial(self._serve, request))

    # ── books ───────────────────────────────────────────────────────────────

    def balance(self) -> Balance:
        """Count every request where it is now, each part by whoever holds it."""
        replicas = self.pool.replicas.values()
        gateways = self._gateways
        return Balance(
            injected=sum(gateway.injected for gateway in gateways),
            completed=self._completed,
            running=sum(replica.running for replica in replicas),
            queued=sum(replica.waiting for replica in replicas)
            + sum(gateway.in_transit for gateway in gateways),
            shed=sum(gateway.shed for gateway in gateways),
            failed=sum(gateway.failed for gateway in gateways),
        )

    def energy(self) -> EnergyParts:
        """Give the parts up to now."""
        now_s = self.events.now_s
        replicas, nodes = self.pool.energy(now_s), self.pool.nodes.energy(now_s)
        return _parts(replicas.prefill_j, replicas.decode_j, replicas.idle_j, nodes)

    def metered_j(self) -> float:
        """Add up what the meters of all replicas and nodes show."""
        now_s = self.events.now_s
        return self.pool.energy(now_s).total_j + self.pool.nodes.metered_j(now_s)

    def attributed_j(self) -> float:
        """Add up the accounts of all requests, ended and present."""
        return self.pool.attributed_j(self.events.now_s)

    def leases(self) -> int:
        """Count the leases that gateways hold."""
        return sum(gateway.leases for gateway in self._gateways)

    def held(self, replica: ReplicaId) -> int:
        """Count the leases that gateways hold on a replica."""
        return sum(gateway.held(replica) for gateway in self._gateways)

    def mark(self) -> Mark:
        """Give the totals at this instant."""
        now_s = self.events.now_s
        return Mark(now_s, self.energy(), self.pool.completion_tokens(now_s))

    # ── replicas tell (PoolListener, Fabric) ────────────────────────────────

    def find(self, replica: ReplicaId) -> SimulatedReplica | None:
        """Give a replica that takes work; None if it drains or is gone."""
        found = self.pool.replicas.get(replica)
        return None if found is None or found.draining else found

    def joined(self, replica: SimulatedReplica) -> None:
        """Let gateways know a new replica by its first report; later ones follow."""
        settings, now_s = self._cluster.gateway, self.events.now_s
        for gateway in self._gateways:
            gateway.reported(replica, replica.report(now_s))
            phase = (self.pool.started * GOLDEN + gateway.index / settings.gateways) % 1.0
            due_s = now_s + settings.report_period_s * phase
            self.events.at(due_s, partial(self._report, replica, gateway))
        replica.reported_at_s = [now_s] * settings.gateways

    def drains(self, replica: SimulatedReplica) -> None:
        """Let gateways give it no more work."""
        for gateway in self._gateways:
            gateway.drains(replica)

    def left(self, replica: SimulatedReplica) -> None:
        """Let gateways forget it."""
        for gateway in self._gateways:
            gateway.left(replica)

    def lost(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Let gateways forget it, and see to what it was working on."""
        for gateway in self._gateways:
            gateway.lost(replica, [each for each in sequences if each.gateway == gateway.index])

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Send each gateway a frame with what has ended for it, and a report."""
        self._completed += len(sequences)
        seen_at_s = self.events.now_s + self._cluster.gateway.network_s
        report = replica.report(seen_at_s)
        for gateway in self._gateways:
            mine = sequences
            if len(self._gateways) > 1:
                mine = [each for each in sequences if each.gateway == gateway.index]
            if not mine:
                continue
            for sequence in mine:
                gateway.record(replica, sequence)
            replica.reported_at_s[gateway.index] = seen_at_s
            self.events.at(seen_at_s, partial(gateway.finished, replica, mine, report))

    def _report(self, replica: SimulatedReplica, gateway: SimulatedGateway) -> None:
        """Report unless a frame has carried one within the period."""
        if replica.ended:
            return
        now_s, settings = self.events.now_s, self._cluster.gateway
        due_s = replica.reported_at_s[gateway.index] + settings.report_period_s
        if due_s <= now_s:
            # Nothing else is on the way: this one may be made as it arrives.
            gateway.reported(replica, replica.report(now_s))
            replica.reported_at_s[gateway.index] = now_s
            due_s = now_s + settings.report_period_s
        self.events.at(due_s, partial(self._report, replica, gateway))

    # ── what happens by itself ──────────────────────────────────────────────

    def _next_arrival(self) -> None:
        request = next(self._arrivals, None)
        if request is not None:
            self.events.at(request.at_s, partial(self._arrive, request))

    def _arrive(self, request: TraceRequest) -> None:
        self._serve(request)
        self._next_arrival()

    def _serve(self, request: TraceRequest) -> None:
        gateways = self._gateways
        turn = sum(gateway.injected for gateway in gateways) if len(gateways) > 1 else 0
        gateways[turn % len(gateways)].arrive(request)

    def _scale(self) -> None:
        now_s = self.events.now_s
        traffic, before = {}, self._traffic_before
        for name in self._cluster.classes:
            counts = (gateway.traffic[name] for gateway in self._gateways)
            total = reduce(Traffic.plus, counts, Traffic())
            traffic[name] = total.since(before[name])
            before[name] = total
        seen = Observation(
            now_s,
            now_s - self._decided_at_s,
            self.pool.census(),
            self.pool.requests(),
            traffic,
            self._gateways[0].variants,
        )
        self._decided_at_s = now_s
        self.pool.apply(self._autoscaler.decide(seen))
        self.events.at(now_s + self._autoscaler.period_s, self._scale)

    def _sample(self) -> None:
        now_s, balance, census = self.events.now_s, self.balance(), self.pool.census()
        energy_j = self.energy().total_j
        self._samples.append(
            Sample(
                at_s=now_s,
                power_w=(energy_j - self._sampled[0]) / self._sample_s,
                awake=census.awake,
                nodes_on=census.nodes_on,
                running=balance.running,
                queued=balance.queued,
                arrived=balance.injected - self._sampled[1],
            )
        )
        self._sampled = (energy_j, balance.injected)
        self.events.at(now_s + self._sample_s, self._sample)

    def _lose(self, loss: Loss) -> None:
        names = list(self.pool.replicas)
        if not names:
            return
        name = names[self._rng.randrange(len(names))]
        if loss.node:
            self.pool.fail_node(name)
        else:
            self.pool.fail(name)

    def _open(self) -> int:
        return sum(gateway.in_flight for gateway in self._gateways)


def _parts(prefill_j: float, decode_j: float, idle_j: float, nodes: NodeEnergy) -> EnergyParts:
    return EnergyParts(
        prefill_j, decode_j, idle_j, nodes.start_j, nodes.node_j, nodes.bare_j, nodes.boot_j
    )


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """Spare what is there already from the garbage collector, and call it seldom."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
