"""A gateway of the virtual cluster: the live one's decisions, without its sockets.

Its own module because it is the counterpart of the live dispatcher and its books: it
admits, routes, books and releases with the very same functions, in the same order, on
reports that arrive as late as they do there.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

from loadtest.virtual.outcomes import Outcomes, Status
from loadtest.virtual.sequences import Sequence
from scheduler.admission import ModelFacts, Occupancy, Rejected, RequestFacts, admit
from scheduler.board import FleetBoard
from scheduler.leases import Lease, LeaseBook
from scheduler.lengths import CompletionLengths
from scheduler.prefixes import PrefixIndex
from scheduler.requests import Request, RequestId
from scheduler.routing import Latencies, Learner, NoReplica, route
from scheduler.traffic import Traffic, crowded

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator, Mapping

    from loadtest.traces import TraceRequest
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.events import EventQueue
    from loadtest.virtual.simulated_replica import SimulatedReplica
    from scheduler.fleet import ReplicaReport, Variant
    from scheduler.requests import ReplicaId, VariantName
    from scheduler.routing import Decision, Policy

# As live: a lease outlives the longest request.
LEASE_TTL_S = 900.0


class Fabric(Protocol):
    """What connects gateways and replicas."""

    def find(self, replica: ReplicaId) -> SimulatedReplica | None:
        """Give a replica that takes work; None if it drains or is gone."""


class Onlooker(Protocol):
    """Whoever watches a gateway while it works."""

    def decided(self, gateway: int, source: TraceRequest, decision: Decision) -> None:
        """Note where a gateway sends a request."""

    def reported(self, replica: SimulatedReplica, report: ReplicaReport) -> None:
        """Note what a replica has told a gateway."""


class Call:
    """A request on its way, as one gateway knows it.

    Attributes:
        request: as it is routed.
        source: as it is in the workload.
        service_class: index of its class.
        attempts_left: how often it may still be tried.
        decision: where it is now.
        lease: that it holds now.

    """

    __slots__ = ("attempts_left", "decision", "lease", "request", "service_class", "source")

    def __init__(
        self, request: Request, source: TraceRequest, service_class: int, attempts: int
    ) -> None:
        self.request = request
        self.source = source
        self.service_class = service_class
        self.attempts_left = attempts
        self.decision: Decision | None = None
        self.lease = 0


class SimulatedGateway:
    """Serves its part of the traffic.

    Attributes:
        index: among the gateways.
        in_transit: requests on their way to a replica.
        injected: requests that came.
        shed: refused.
        failed: that broke off.
        traffic: totals by service class.

    """

    def __init__(  # noqa: PLR0913, PLR0917 (the parts of a gateway meet here)
        self,
        index: int,
        cluster: ClusterDescription,
        beliefs: Mapping[VariantName, Variant],
        policy: Policy,
        rng: random.Random,
        events: EventQueue,
        fabric: Fabric,
        numbers: Iterator[int],
        outcomes: Outcomes,
        onlooker: Onlooker | None = None,
    ) -> None:
        self.index = index
        self._onlooker = onlooker
        self.in_transit = 0
        self.injected = 0
        self.shed = 0
        self.failed = 0
        self.traffic = {name: Traffic() for name in cluster.classes}
        self._settings = cluster.gateway
        self._model = cluster.model
        self._facts = ModelFacts(cluster.model, tuple(beliefs.values()))
        self._classes = cluster.classes
        self._class_rows = {name: row for row, name in enumerate(cluster.classes)}
        self._variant_rows = {name: row for row, name in enumerate(cluster.variants)}
        self._policy = policy
        self._learner = policy if isinstance(policy, Learner) else None
        self._rng = rng
        self._events = events
        self._fabric = fabric
        self._numbers = numbers
        self._outcomes = outcomes
        self._lengths = CompletionLengths(cluster.gateway.expected_completion_tokens)
        self._leases = LeaseBook()
        self._prefixes = PrefixIndex(block_tokens=cluster.engine.block_tokens)
        self._board = FleetBoard(
            beliefs,
            self._leases,
            prefixes=self._prefixes,
            calibrated=cluster.gateway.calibrated,
        )
        self._calls: dict[int, Call] = {}

    @property
    def in_flight(self) -> int:
        """Requests that it carries."""
        return len(self._calls)

    @property
    def variants(self) -> Mapping[VariantName, Variant]:
        """As it believes them to be, corrected by what replicas have reported."""
        return self._board.variants

    @property
    def leases(self) -> int:
        """Leases that it holds."""
        return len(self._leases)

    def held(self, replica: ReplicaId) -> int:
        """Leases that it holds on a replica."""
        return self._leases.held(replica)

    # ── requests ────────────────────────────────────────────────────────────

    def arrive(self, source: TraceRequest) -> None:
        """Admit a request, or shed it; route it."""
        self.injected += 1
        traffic = self.traffic[source.service_class]
        traffic.requests += 1
        traffic.prompt_tokens += source.prompt_tokens
        service_class = self._classes[source.service_class]
        objective = service_class.objective
        settings = self._settings
        facts = RequestFacts(
            source.prompt_tokens,
            max(settings.max_tokens, source.completion_tokens),
            objective.min_quality,
        )
        occupancy = None
        if settings.max_in_flight is not None:
            occupancy = Occupancy(len(self._calls), settings.max_in_flight)
        row = self._class_rows[source.service_class]
        verdict = admit(facts, self._facts, occupancy)
        if isinstance(verdict, Rejected):
            self._shed(source, row)
            return
        expected = self._lengths.expected(self._model, source.service_class, verdict.max_tokens)
        request = Request(
            RequestId(""),
            self._model,
            source.prompt_tokens,
            verdict.max_tokens,
            expected,
            objective,
            source.at_s,
            None,
            source.hash_ids[: source.prompt_tokens // self._prefixes.block_tokens],
        )
        self._route(Call(request, source, row, settings.attempts))

    def _route(self, call: Call) -> None:
        """Choose a replica on the fleet as it is now, book a lease and submit."""
        now_s = self._events.now_s
        verdict = route(
            call.request,
            self._board.snapshot(now_s),
            self._policy,
            self._rng,
            limits=self._settings.limits,
            reasoned=self._onlooker is not None,
        )
        if crowded(call.request, verdict, self._facts.variants):
            self.traffic[call.source.service_class].crowded += 1
        if isinstance(verdict, NoReplica):
            self._shed(call.source, call.service_class)
            return
        call.attempts_left -= 1
        call.decision = verdict
        if self._onlooker is not None:
            self._onlooker.decided(self.index, call.source, verdict)
        call.lease = number = next(self._numbers)
        request = call.request
        completion_tokens = math.ceil(request.expected_completion_tokens)
        self._leases.book(
            Lease(
                number,
                request.request_id,
                verdict.replica,
                request.prompt_tokens,
                completion_tokens,
                request.arrived_at_s + LEASE_TTL_S,
                verdict.cached_tokens,
            )
        )
        if request.prefix_blocks:
            self._prefixes.stored(verdict.replica, request.prefix_blocks)
        self._calls[number] = call
        self.in_transit += 1
        self._events.at(now_s + self._settings.network_s, partial(self._submit, call, verdict))

    def _submit(self, call: Call, decision: Decision) -> None:
        """Reach the chosen replica, else the next in rank that takes work."""
        self.in_transit -= 1
        source = call.source
        sequence = Sequence(
            call.lease,
            source.prompt_tokens,
            min(source.completion_tokens, call.request.max_tokens),
            source.hash_ids,
            self.index,
        )
        sequence.expected_cached_tokens = decision.cached_tokens
        for name in (decision.replica, *decision.ranking):
            replica = self._fabric.find(name)
            if replica is None:
                continue
            if replica.submit(sequence):
                seen_at_s = self._events.now_s + self._settings.network_s
                report = replica.report(seen_at_s)
                replica.reported_at_s[self.index] = seen_at_s
                accept = partial(self._accepted, call.lease, replica, report)
                self._events.at(seen_at_s, accept)
                return
        self._retry(call)

    def _retry(self, call: Call) -> None:
        """Try another replica, if the request may be tried again."""
        self._release(call.lease)
        if call.attempts_left:
            self._route(call)
        else:
            self._record_failure(call, None)

    def _release(self, number: int) -> None:
        del self._calls[number]
        self._leases.release(number)

    # ── replicas ────────────────────────────────────────────────────────────

    def _accepted(self, lease: int, replica: SimulatedReplica, report: ReplicaReport) -> None:
        self._leases.acknowledge(lease)
        self.reported(replica, report)

    def reported(self, replica: SimulatedReplica, report: ReplicaReport) -> None:
        """Take a report; nothing if the replica has left meanwhile."""
        if not replica.ended:
            self._board.report(replica.replica, replica.variant.name, report)
            if self._onlooker is not None:
                self._onlooker.reported(replica, report)

    def finished(
        self, replica: SimulatedReplica, sequences: list[Sequence], report: ReplicaReport
    ) -> None:
        """Release the leases of sequences that have ended."""
        for sequence in sequences:
            call = self._calls[sequence.number]
            self._release(sequence.number)
            source = call.source
            self._learn(call, sequence)
            traffic = self.traffic[source.service_class]
            traffic.completions += 1
            traffic.completion_tokens += sequence.generated
            traffic.cached_tokens += sequence.cached_tokens
            traffic.completed_prompt_tokens += sequence.prompt_tokens
        self.reported(replica, report)

    def _learn(self, call: Call, sequence: Sequence) -> None:
        source, tokens = call.source, sequence.generated
        self._lengths.observe(self._model, source.service_class, tokens)
        if self._learner is not None and call.decision is not None:
            first_s = sequence.first_token_at_s + self._settings.network_s
            tpot_s = (self._events.now_s - first_s) / (tokens - 1) if tokens > 1 else 0.0
            met = Latencies(first_s - source.at_s, tpot_s)
            self._learner.learn(call.request, call.decision.predicted, met)

    def record(self, replica: SimulatedReplica, sequence: Sequence) -> None:
        """Note a completion, at the moment at which it ends on the replica."""
        call = self._calls[sequence.number]
        arrived_s, network_s = call.source.at_s, self._settings.network_s
        self._outcomes.add(
            arrived_s,
            Status.COMPLETED,
            call.service_class,
            self._variant_rows[replica.variant.name],
            sequence.prompt_tokens,
            sequence.cached_tokens,
            sequence.generated,
            sequence.first_token_at_s + network_s - arrived_s,
            self._events.now_s + network_s - arrived_s,
            sequence.energy_j,
            sequence.preemptions,
        )

    def drains(self, replica: SimulatedReplica) -> None:
        """Give a replica no new work from now on."""
        self._board.drain(replica.replica)

    def left(self, replica: SimulatedReplica) -> None:
        """Forget a replica."""
        self._board.leave(replica.replica)

    def lost(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Try what has not begun elsewhere; the rest has failed."""
        self._board.leave(replica.replica)
        for sequence in sequences:
            call = self._calls[sequence.number]
            if sequence.generated:
                self._release(sequence.number)
                self._record_failure(call, sequence)
            else:
                self._retry(call)

    # ── ends ────────────────────────────────────────────────────────────────

    def _shed(self, source: TraceRequest, service_class: int) -> None:
        self.shed += 1
        self._outcomes.add(
            source.at_s,
            Status.SHED,
            service_class,
            -1,
            source.prompt_tokens,
            0,
            0,
            math.nan,
            math.nan,
            0.0,
            0,
        )

    def _record_failure(self, call: Call, sequence: Sequence | None) -> None:
        self.failed += 1
        source = call.source
        self._outcomes.add(
            source.at_s,
            Status.FAILED,
            call.service_class,
            -1,
            source.prompt_tokens,
            0,
            0 if sequence is None else sequence.generated,
            math.nan,
            math.nan,
            0.0 if sequence is None else sequence.energy_j,
            0 if sequence is None else sequence.preemptions,
        )
