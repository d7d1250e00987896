"""What a run of the virtual cluster leaves behind.

Its own module because whoever measures, tabulates or draws a run needs these values and
not the cluster that made them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.virtual.outcomes import OutcomeTable
    from scheduler.plans import NodeGroupName, Slot


class Loss(NamedTuple):
    """Something breaks.

    Attributes:
        at_s: when.
        node: a whole node rather than a single replica; one of those that serve, by chance.

    """

    at_s: float
    node: bool = False


class EnergyParts(NamedTuple):
    """Where the joules of a cluster went.

    Attributes:
        prefill_j: of requests.
        decode_j: of requests.
        idle_j: of replicas that were awake with nothing to do.
        start_j: for bringing replicas up.
        node_j: of nodes that were on, without accelerators.
        bare_j: of accelerators without a replica on nodes that were on.
        boot_j: for booting nodes.

    """

    prefill_j: float = 0.0
    decode_j: float = 0.0
    idle_j: float = 0.0
    start_j: float = 0.0
    node_j: float = 0.0
    bare_j: float = 0.0
    boot_j: float = 0.0

    @property
    def total_j(self) -> float:
        """All of it."""
        return sum(self)

    def minus(self, before: EnergyParts) -> EnergyParts:
        """What came since then."""
        return EnergyParts(*(now - then for now, then in zip(self, before, strict=True)))


class Balance(NamedTuple):
    """Where the requests are that have come: the first is the sum of the others, always."""

    injected: int
    completed: int
    running: int
    queued: int
    shed: int
    failed: int


class Sample(NamedTuple):
    """The cluster at one instant.

    Attributes:
        at_s: the instant.
        power_w: mean since the sample before.
        awake: replicas that serve, by slot.
        nodes_on: by group, booting ones included.
        running: requests in batches.
        queued: requests that wait.
        arrived: requests since the sample before.

    """

    at_s: float
    power_w: float
    awake: Mapping[Slot, int]
    nodes_on: Mapping[NodeGroupName, int]
    running: int
    queued: int
    arrived: int


class Mark(NamedTuple):
    """Totals at one instant.

    Attributes:
        at_s: the instant.
        energy: used so far.
        completion_tokens: generated so far.

    """

    at_s: float
    energy: EnergyParts
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class RunRecord:
    """Everything that a run has left.

    Attributes:
        policy: that routed.
        autoscaler: that scaled.
        seed: of chance.
        workload: its name.
        outcomes: of all requests.
        begin: totals when measuring began.
        end: totals when the last request had come.
        samples: on a period, of the whole run.
        balance: when all was over.
        replicas_started: those of the beginning included.

    """

    policy: str
    autoscaler: str
    seed: int
    workload: str
    outcomes: OutcomeTable
    begin: Mark
    end: Mark
    samples: tuple[Sample, ...]
    balance: Balance
    replicas_started: int
