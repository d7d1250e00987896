"""Who decides how many replicas and nodes are awake: everything, a peak, a queue, a plan.

Its own module because the virtual cluster asks only one question of an autoscaler, and
the planner that runs live is one answer among the baselines it is compared with.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from loadtest.virtual.descriptions import everything, slot_of
from loadtest.virtual.replica_pool import Target
from scheduler.capacity import capability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.virtual.descriptions import ClusterDescription
    from scheduler.fleet import Variant
    from scheduler.plans import Census, Demand, NodeGroupName, Placement, Slot
    from scheduler.requests import VariantName
    from scheduler.traffic import Traffic


class Observation(NamedTuple):
    """What an autoscaler may know.

    Attributes:
        now_s: the instant.
        period_s: since the observation before.
        census: replicas and nodes.
        requests: on serving replicas, by slot.
        traffic: by service class.
        variants: as gateways believe them to be.

    """

    now_s: float
    period_s: float
    census: Census
    requests: Mapping[Slot, int]
    traffic: Mapping[str, Traffic]
    variants: Mapping[VariantName, Variant]


class Autoscaler(Protocol):
    """Decides on a period."""

    @property
    def name(self) -> str:
        """For reports."""

    @property
    def period_s(self) -> float:
        """Between two decisions."""

    def initial(self) -> Target:
        """What is there when the run begins."""

    def decide(self, seen: Observation) -> Target:
        """What is wanted from now on."""


class EverythingAwake:
    """All nodes on, all accelerators serving; where variants share nodes, half and half."""

    name = "everything_awake"
    period_s = 60.0

    def __init__(self, cluster: ClusterDescription) -> None:
        self._target = Target(everything(cluster))

    def initial(self) -> Target:
        """The same as ever."""
        return self._target

    def decide(self, seen: Observation) -> Target:
        """The same as ever: what was lost comes back."""
        return self._target


class StaticPeak:
    """As many replicas as a known peak needs, all the time; other nodes are off."""

    name = "static_peak"
    period_s = 60.0

    def __init__(self, cluster: ClusterDescription, peak_share: float) -> None:
        """Size for a peak.

        Args:
            cluster: to be scaled.
            peak_share: of the cluster's highest rate, 0 to 1.

        """
        most = everything(cluster)
        share = min(1.0, peak_share)
        replicas = {slot: math.ceil(count * share) for slot, count in most.items()}
        self._target = Target(replicas, _nodes_for(cluster, replicas))

    def initial(self) -> Target:
        """The same as ever."""
        return self._target

    def decide(self, seen: Observation) -> Target:
        """The same as ever."""
        return self._target


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How Ray Serve scales a deployment; the defaults are its own, but for the target.

    Attributes:
        target_requests: ongoing ones that each replica should have; None for `target_share`.
        target_share: of the largest batch that keeps the objectives (see `capability`).
        look_back_s: over which ongoing requests are averaged.
        up_delay_s: for which more replicas must be wanted before they come.
        down_delay_s: for which fewer must be wanted before they go.
        node_idle_s: for which a node must be empty before it goes, as KubeRay's.
        min_replicas: of each deployment.
        period_s: between decisions.

    """

    target_requests: float | None = None
    target_share: float = 0.7
    look_back_s: float = 30.0
    up_delay_s: float = 30.0
    down_delay_s: float = 600.0
    node_idle_s: float = 60.0
    min_replicas: int = 1
    period_s: float = 5.0


class _Deployment:
    """One slot, scaled by its own queue."""

    def __init__(self, target_requests: float, floor: int, ceiling: int) -> None:
        self.target_requests = target_requests
        self.floor = floor
        self.ceiling = ceiling
        self.replicas = ceiling
        self._seen: deque[tuple[float, int]] = deque()
        self._wants_since_s: tuple[int, float] = (0, 0.0)

    def decide(self, now_s: float, requests: int, settings: QueueSettings) -> int:
        self._seen.append((now_s, requests))
        while self._seen[0][0] <= now_s - settings.look_back_s:
            self._seen.popleft()
        mean = sum(count for _, count in self._seen) / len(self._seen)
        wanted = math.ceil(mean / self.target_requests - 1e-9)
        wanted = min(self.ceiling, max(self.floor, wanted))
        direction = (wanted > self.replicas) - (wanted < self.replicas)
        if direction != self._wants_since_s[0]:
            self._wants_since_s = (direction, now_s)
        delay_s = settings.up_delay_s if direction > 0 else settings.down_delay_s
        if direction and now_s - self._wants_since_s[1] >= delay_s:
            self.replicas = wanted
            self._wants_since_s = (0, now_s)
        return self.replicas


class QueueBased:
    """As many replicas as ongoing requests ask for, with delays: Ray Serve's autoscaler."""

    name = "queue_based"

    def __init__(
        self, cluster: ClusterDescription, demands: tuple[Demand, ...], settings: QueueSettings
    ) -> None:
        """Scale every placement as a deployment of its own.

        Args:
            cluster: to be scaled; everything is awake at first.
            demands: whose lengths and objectives set the target of ongoing requests.
            settings: delays and target.

        """
        self.period_s = settings.period_s
        self._cluster = cluster
        self._settings = settings
        self._deployments = {}
        most = everything(cluster)
        for placement in cluster.placements:
            slot = slot_of(placement)
            ceiling = most[slot]
            floor = min(ceiling, max(placement.min_replicas, settings.min_replicas))
            target = self._target_requests(placement, demands)
            self._deployments[slot] = _Deployment(target, floor, ceiling)
        self._nodes_seen: deque[tuple[float, Mapping[NodeGroupName, int]]] = deque()

    def initial(self) -> Target:
        """Everything."""
        return Target({slot: each.replicas for slot, each in self._deployments.items()})

    def decide(self, seen: Observation) -> Target:
        """Scale each deployment; let nodes go that were not needed for a while."""
        replicas = {
            slot: each.decide(seen.now_s, seen.requests.get(slot, 0), self._settings)
            for slot, each in self._deployments.items()
        }
        needed = _nodes_for(self._cluster, _with_draining(replicas, seen.census))
        self._nodes_seen.append((seen.now_s, needed))
        while self._nodes_seen[0][0] < seen.now_s - self._settings.node_idle_s:
            self._nodes_seen.popleft()
        nodes = {
            group: max(counts[group] for _, counts in self._nodes_seen)
            for group in self._cluster.groups
        }
        return Target(replicas, nodes)

    def _target_requests(self, placement: Placement, demands: tuple[Demand, ...]) -> float:
        if self._settings.target_requests is not None:
            return self._settings.target_requests
        variant = self._cluster.variants[placement.variant]
        able = [capability(variant, demand) for demand in demands]
        batches = [each.batch for each in able if each is not None]
        return max(1.0, self._settings.target_share * min(batches, default=1.0))


def _nodes_for(
    cluster: ClusterDescription, replicas: Mapping[Slot, int]
) -> dict[NodeGroupName, int]:
    """Nodes that hold so many replicas, packed."""
    needed = {}
    for name, group in cluster.groups.items():
        held = sum(
            replicas.get(slot_of(each), 0) * each.accelerators
            for each in cluster.placements
            if each.group == name
        )
        needed[name] = min(group.max_nodes, -(-held // group.accelerators_per_node))
    return needed


def _with_draining(replicas: Mapping[Slot, int], census: Census) -> dict[Slot, int]:
    return {slot: count + census.draining.get(slot, 0) for slot, count in replicas.items()}
