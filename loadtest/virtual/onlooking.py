"""What can be told of a virtual cluster that runs on and on: the newest of everything.

Its own module because a run that ends keeps every request for its report, and one that does
not may keep only what a gateway would: a window, the newest decisions, sums.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from loadtest.virtual.outcomes import Outcomes, Status
from scheduler.attainment import FAILED, Attainment, completed
from scheduler.decisions import Latencies

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadtest.traces import TraceRequest
    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.simulated_replica import SimulatedReplica
    from scheduler.decisions import Decision
    from scheduler.fleet import ReplicaReport
    from scheduler.requests import ReplicaId

# As of a live gateway.
KEPT_DECISIONS = 256


@dataclass(slots=True)
class Account:
    """Requests of one service class and variant that have completed, and what they cost."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    energy_j: float = 0.0


class Decided(NamedTuple):
    """A decision, with what it was about."""

    number: int
    at_s: float
    service_class: str
    decision: Decision


class RecentOutcomes(Outcomes):
    """Sums of what has become of requests; keeps none of them.

    Attributes:
        attainment: of objectives, over a window.
        accounts: by service class and variant.

    """

    def __init__(self, cluster: ClusterDescription, clock: Callable[[], float]) -> None:
        """Know the names behind the numbers of rows.

        Args:
            cluster: whose requests they are.
            clock: the cluster's, in seconds.

        """
        super().__init__()
        self.attainment = Attainment()
        self.accounts: dict[tuple[str, str], Account] = {}
        self._classes = tuple(cluster.classes.values())
        self._variants = tuple(cluster.variants)
        self._clock = clock

    def add(  # noqa: PLR0913, PLR0917 (as of its base)
        self,
        arrived_at_s: float,
        status: int,
        service_class: int,
        variant: int,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        ttft_s: float,
        e2e_latency_s: float,
        energy_j: float,
        preemptions: int,
    ) -> None:
        """Count a request that has ended."""
        its, now_s = self._classes[service_class], self._clock()
        if status != Status.COMPLETED or math.isnan(ttft_s):
            self.attainment.count(its.name, FAILED, now_s)
            return
        tpot_s = (e2e_latency_s - ttft_s) / max(1, completion_tokens - 1)
        self.attainment.count(its.name, completed(Latencies(ttft_s, tpot_s), its.objective), now_s)
        account = self.accounts.setdefault((its.name, self._variants[variant]), Account())
        account.requests += 1
        account.prompt_tokens += prompt_tokens
        account.completion_tokens += completion_tokens
        account.energy_j += energy_j


class Watcher:
    """Keeps the newest decisions, and what each replica has reported last.

    Attributes:
        decisions: newest first.
        reports: by replica.

    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.decisions: deque[Decided] = deque(maxlen=KEPT_DECISIONS)
        self.reports: dict[ReplicaId, ReplicaReport] = {}
        self._clock = clock
        self._count = 0

    def decided(self, gateway: int, source: TraceRequest, decision: Decision) -> None:
        """Note where a gateway sends a request."""
        self._count += 1
        self.decisions.appendleft(
            Decided(self._count, self._clock(), source.service_class, decision)
        )

    def reported(self, replica: SimulatedReplica, report: ReplicaReport) -> None:
        """Note what a replica has told a gateway."""
        self.reports[replica.replica] = report

    def forget(self, gone: set[ReplicaId]) -> None:
        """Drop the reports of replicas that are not there any more."""
        for replica in gone:
            del self.reports[replica]
