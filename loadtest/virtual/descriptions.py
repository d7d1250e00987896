"""A cluster as it could be: variants, nodes, service classes, and how it is run.

Its own module because the virtual cluster, the autoscalers and the reports work on these
values, wherever they come from; `loadtest.virtual.fleets` reads them from a file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loadtest.errors import LoadtestError
from loadtest.virtual.simulated_replica import EngineSettings
from scheduler.capacity import capability
from scheduler.plans import Demand, Slot
from scheduler.routing import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.fleet import Variant
    from scheduler.plans import NodeGroup, NodeGroupName, Placement
    from scheduler.requests import ModelName, Objective, VariantName


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """What requests of one kind need.

    Attributes:
        name: as traces spell it.
        objective: that they share.
        share: of requests whose class the trace does not tell.

    """

    name: str
    objective: Objective
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How gateways are run; the defaults are those of the live cluster.

    Attributes:
        gateways: that share the traffic.
        report_period_s: longest silence of a replica towards a gateway.
        network_s: between gateway and replica, one way.
        limits: of routing.
        expected_completion_tokens: assumed before any completion was seen.
        max_tokens: that clients ask for, unless they get more.
        max_in_flight: in one gateway; None for any number.
        calibrated: correct the step models by what replicas report.
        attempts: at serving a request whose replica is lost before its first token.

    """

    gateways: int = 1
    report_period_s: float = 0.5
    network_s: float = 0.001
    limits: Limits = field(default_factory=Limits)
    expected_completion_tokens: float = 128.0
    max_tokens: int = 1024
    max_in_flight: int | None = None
    calibrated: bool = True
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class ClusterDescription:
    """Everything about a cluster but its load.

    Attributes:
        name: for reports.
        model: that all its variants serve.
        variants: by name.
        groups: by name.
        placements: every allowed pair of the two.
        classes: by name.
        gateway: how gateways are run.
        engine: how engines schedule.

    """

    name: str
    model: ModelName
    variants: Mapping[VariantName, Variant]
    groups: Mapping[NodeGroupName, NodeGroup]
    placements: tuple[Placement, ...]
    classes: Mapping[str, ServiceClass]
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    engine: EngineSettings = field(default_factory=EngineSettings)

    @property
    def shares(self) -> dict[str, float]:
        """Of service classes, by name."""
        return {each.name: each.share for each in self.classes.values()}

    def placement(self, slot: Slot) -> Placement:
        """The placement of a slot."""
        return next(each for each in self.placements if slot_of(each) == slot)

    def ceiling(self, placement: Placement) -> int:
        """Replicas that a placement can have if it has its nodes for itself."""
        group = self.groups[placement.group]
        most = group.accelerators_per_node // placement.accelerators * group.max_nodes
        return most if placement.max_replicas is None else min(most, placement.max_replicas)

    def with_objectives(self, factor: float) -> ClusterDescription:
        """The same cluster with all latency objectives multiplied."""
        classes = {
            name: replace(
                each,
                objective=replace(
                    each.objective,
                    ttft_s=factor * each.objective.ttft_s,
                    tpot_s=factor * each.objective.tpot_s,
                ),
            )
            for name, each in self.classes.items()
        }
        return replace(self, classes=classes)

    def with_variants(self, names: Sequence[str]) -> ClusterDescription:
        """The same nodes with these variants alone.

        Raises:
            LoadtestError: no placement has one of them.

        """
        placed = {placement.variant for placement in self.placements}
        for name in names:
            if name not in placed:
                known = ", ".join(sorted(placed))
                raise LoadtestError(f"fleet {self.name} has no variant {name!r}; known: {known}")
        kept = tuple(each for each in self.placements if each.variant in names)
        return replace(self, placements=kept)

    def with_block_tokens(self, block_tokens: int) -> ClusterDescription:
        """The same cluster with KV blocks, and so prefixes, of another size."""
        variants = {
            name: replace(variant, prefix_block_tokens=block_tokens)
            for name, variant in self.variants.items()
        }
        engine = replace(self.engine, block_tokens=block_tokens)
        return replace(self, variants=variants, engine=engine)


def slot_of(placement: Placement) -> Slot:
    """Where a placement's replicas are counted."""
    return Slot(placement.variant, placement.group)


def everything(cluster: ClusterDescription) -> dict[Slot, int]:
    """Fill all nodes, in turns where placements share a group."""
    counts = {slot_of(placement): 0 for placement in cluster.placements}
    for name, group in cluster.groups.items():
        sharing = [each for each in cluster.placements if each.group == name]
        free = [group.accelerators_per_node] * group.max_nodes
        turn = 0
        while sharing:
            placement = sharing[turn % len(sharing)]
            slot = slot_of(placement)
            node = next((n for n, left in enumerate(free) if left >= placement.accelerators), None)
            if node is None or counts[slot] >= cluster.ceiling(placement):
                sharing.remove(placement)
                continue
            free[node] -= placement.accelerators
            counts[slot] += 1
            turn += 1
    return counts


def fluid_rate(
    cluster: ClusterDescription, prompt_tokens: float, completion_tokens: float
) -> float:
    """Requests/s that everything together carries within its objectives, chance aside.

    Service classes come in their shares, all requests of one are alike, and each replica is
    at the rate of `scheduler.capacity.capability`: the largest batch that keeps TTFT and
    TPOT. Real traffic, with long and short requests in irregular gaps, misses objectives
    well below that: see `loadtest.virtual.capacities`.
    """
    counts = everything(cluster)
    weight = sum(each.share for each in cluster.classes.values())
    seconds = 0.0
    for each in cluster.classes.values():
        demand = Demand(cluster.model, each.objective, 1.0, prompt_tokens, completion_tokens)
        able = {
            placement: capability(cluster.variants[placement.variant], demand)
            for placement in cluster.placements
        }
        rate = sum(
            counts[slot_of(placement)] * its.requests_per_s
            for placement, its in able.items()
            if its is not None
        )
        if rate <= 0:
            return 0.0
        seconds += each.share / weight / rate
    return 1.0 / seconds
