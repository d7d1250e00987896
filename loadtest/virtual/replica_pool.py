"""Which replicas there are: started, serving, draining, gone, as an autoscaler wants them.

Its own module because bringing a wish about takes time (nodes boot, replicas load, streams
finish) and the wish may change meanwhile: the difference is kept here.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol

from loadtest.virtual.compaction import moves_from
from loadtest.virtual.descriptions import slot_of
from loadtest.virtual.simulated_nodes import NodeState, SimulatedNode, SimulatedNodes
from loadtest.virtual.simulated_replica import ReplicaEnergy, SimulatedReplica
from scheduler.plans import Census, Slot
from scheduler.requests import ReplicaId

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.virtual.descriptions import ClusterDescription
    from loadtest.virtual.events import EventQueue
    from loadtest.virtual.sequences import Sequence
    from scheduler.plans import NodeGroupName, Placement


@dataclass(frozen=True, slots=True)
class Target:
    """What an autoscaler wants.

    Attributes:
        replicas: awake, by slot; slots not named are to have none.
        nodes: on, by group; None switches on what replicas need and nothing off.

    """

    replicas: Mapping[Slot, int]
    nodes: Mapping[NodeGroupName, int] | None = None


class PoolListener(Protocol):
    """Whoever is told of replicas that come, go and finish work."""

    def joined(self, replica: SimulatedReplica) -> None:
        """Note that a replica serves from now on."""

    def drains(self, replica: SimulatedReplica) -> None:
        """Note that a replica is to get no new work."""

    def left(self, replica: SimulatedReplica) -> None:
        """Note that a replica has ended with nothing left to do."""

    def lost(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Note that a replica has died, with what it was working on."""

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Take sequences that ended on a replica."""


@dataclass(slots=True, eq=False)
class _Start:
    """A replica that has been asked for and does not serve yet, maybe in another's place."""

    placement: Placement
    node: SimulatedNode
    power_w: float
    replaced: ReplicaId | None = None
    cancelled: bool = False


@dataclass(slots=True, eq=False)
class _Place:
    """A serving replica and where it is."""

    placement: Placement
    node: SimulatedNode


@dataclass(slots=True)
class _Slot:
    """What one slot has and lacks."""

    placement: Placement
    starting: list[_Start] = field(default_factory=list)
    serving: dict[ReplicaId, SimulatedReplica] = field(default_factory=dict)
    unplaced: int = 0


class ReplicaPool:
    """Carries out targets.

    Attributes:
        replicas: every one that serves or drains, by name.
        nodes: where they are.
        started: replicas that began to serve, ever.

    """

    def __init__(
        self, cluster: ClusterDescription, events: EventQueue, listener: PoolListener
    ) -> None:
        self.replicas: dict[ReplicaId, SimulatedReplica] = {}
        self.nodes = SimulatedNodes(cluster.groups.values(), events, self._booted)
        self.started = 0
        self._cluster = cluster
        self._events = events
        self._listener = listener
        self._slots = {slot_of(each): _Slot(each) for each in cluster.placements}
        self._places: dict[ReplicaId, _Place] = {}
        # Starts that replace a replica elsewhere; nobody but the pool needs to know of them.
        self._moving: list[_Start] = []
        self._wanted_nodes: Mapping[NodeGroupName, int] | None = None
        self._gone = ReplicaEnergy(0.0, 0.0, 0.0)
        self._gone_settled_j = 0.0
        self._gone_tokens = 0

    # ── what is asked of it ─────────────────────────────────────────────────

    def apply(self, target: Target, *, at_once: bool = False) -> None:
        """Set out for a target; `at_once` is there already, as before a run begins."""
        self._wanted_nodes = target.nodes
        for slot, state in self._slots.items():
            missing = target.replicas.get(slot, 0) - len(state.starting) - len(state.serving)
            state.unplaced = max(0, missing)
            for _ in range(max(0, -missing)):
                self._shrink(state)
        self._boot(at_once=at_once)
        for state in self._slots.values():
            self._place(state, at_once=at_once)
        self._halt()
        self._compact()

    def fail(self, replica: ReplicaId) -> None:
        """Let a replica die; nothing if it is not there."""
        simulated = self.replicas.get(replica)
        if simulated is not None:
            sequences = simulated.fail()
            self._remove(simulated)
            self._listener.lost(simulated, sequences)

    def fail_node(self, replica: ReplicaId) -> None:
        """Let the node break that a replica is on, with all on it; nothing if it is not there."""
        place = self._places.get(replica)
        if place is None:
            return
        for state in self._slots.values():
            for start in [each for each in state.starting if each.node is place.node]:
                state.starting.remove(start)
                self._abandon(start)
        for start in [each for each in self._moving if each.node is place.node]:
            self._moving.remove(start)
            self._abandon(start)
        for name in [name for name, other in self._places.items() if other.node is place.node]:
            self.fail(name)
        place.node.turn(NodeState.OFF, self._events.now_s)

    # ── what there is ───────────────────────────────────────────────────────

    def census(self) -> Census:
        """Count replicas and nodes."""
        draining: Counter[Slot] = Counter()
        for name, replica in self.replicas.items():
            if replica.draining:
                draining[slot_of(self._places[name].placement)] += 1
        return Census(
            observed_at_s=self._events.now_s,
            awake={slot: len(state.serving) for slot, state in self._slots.items()},
            starting={
                slot: len(state.starting) + state.unplaced for slot, state in self._slots.items()
            },
            draining=dict(draining),
            nodes_on={group: self.nodes.on(group) for group in self.nodes.nodes},
        )

    def node_of(self, replica: ReplicaId) -> SimulatedNode:
        """Give the node that a replica is on."""
        return self._places[replica].node

    def accelerators_of(self, replica: ReplicaId) -> int:
        """Count the accelerators that a replica holds."""
        return self._places[replica].placement.accelerators

    def requests(self) -> dict[Slot, int]:
        """Count the requests on serving replicas, by slot."""
        return {
            slot: sum(replica.requests for replica in state.serving.values())
            for slot, state in self._slots.items()
        }

    def energy(self, now_s: float) -> ReplicaEnergy:
        """Give the parts of all replicas, those that are gone included."""
        prefill_j, decode_j, idle_j = self._gone
        for replica in self.replicas.values():
            energy = replica.energy(now_s)
            prefill_j += energy.prefill_j
            decode_j += energy.decode_j
            idle_j += energy.idle_j
        return ReplicaEnergy(prefill_j, decode_j, idle_j)

    def attributed_j(self, now_s: float) -> float:
        """Add up what requests have cost, ended and present ones, account by account."""
        return self._gone_settled_j + sum(
            replica.settled_j + replica.unfinished_j(now_s) for replica in self.replicas.values()
        )

    def completion_tokens(self, now_s: float) -> int:
        """Tokens generated by all replicas, those that are gone included."""
        return self._gone_tokens + sum(
            replica.completion_tokens(now_s) for replica in self.replicas.values()
        )

    # ── replicas tell ───────────────────────────────────────────────────────

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Pass on what a replica has finished."""
        self._listener.finished(replica, sequences)

    def emptied(self, replica: SimulatedReplica) -> None:
        """End a draining replica that has nothing left to do."""
        if replica.draining and replica.replica in self.replicas:
            self._remove(replica)
            self._listener.left(replica)

    # ── growing ─────────────────────────────────────────────────────────────

    def _boot(self, *, at_once: bool = False) -> None:
        for group, spec in self._cluster.groups.items():
            on = self.nodes.on(group)
            wanted = self._needed(group) if self._wanted_nodes is None else 0
            if self._wanted_nodes is not None:
                wanted = self._wanted_nodes.get(group, 0)
            self.nodes.boot(group, min(wanted, spec.max_nodes) - on, at_once=at_once)

    def _needed(self, group: NodeGroupName) -> int:
        """Nodes that hold what serves, starts, drains and waits for a place, packed."""
        held = sum(
            spec.accelerators_per_node - node.free
            for spec, nodes in ((self._cluster.groups[group], self.nodes.nodes[group]),)
            for node in nodes
        )
        held += sum(
            state.unplaced * state.placement.accelerators
            for state in self._slots.values()
            if state.placement.group == group
        )
        return -(-held // self._cluster.groups[group].accelerators_per_node)

    def _place(self, state: _Slot, *, at_once: bool = False) -> None:
        """Start what waits for a place, as far as nodes have any."""
        placement, now_s = state.placement, self._events.now_s
        while state.unplaced:
            node = self.nodes.place(placement.group, placement.accelerators)
            if node is None:
                return
            state.unplaced -= 1
            start = self._start(placement, node)
            state.starting.append(start)
            if at_once:
                self._started(state, start)
            else:
                self._events.at(now_s + placement.start_s, partial(self._started, state, start))

    def _start(
        self, placement: Placement, node: SimulatedNode, replaced: ReplicaId | None = None
    ) -> _Start:
        power_w = placement.start_j / placement.start_s if placement.start_s else 0.0
        node.start(placement.accelerators, power_w, self._events.now_s)
        return _Start(placement, node, power_w, replaced)

    def _started(self, state: _Slot, start: _Start) -> None:
        if start.cancelled:
            return
        if start.replaced is None:
            state.starting.remove(start)
        else:
            self._moving.remove(start)
        placement = start.placement
        start.node.serve(placement.accelerators, start.power_w, self._events.now_s)
        self.started += 1
        name = ReplicaId(f"{placement.variant}-{self.started}")
        replica = SimulatedReplica(
            name,
            self._cluster.variants[placement.variant],
            self._cluster.engine,
            self._events,
            self,
        )
        self.replicas[name] = state.serving[name] = replica
        self._places[name] = _Place(placement, start.node)
        self._listener.joined(replica)
        if start.replaced in state.serving:
            self._drain(state, state.serving[start.replaced])

    def _booted(self, node: SimulatedNode) -> None:
        for state in self._slots.values():
            if state.placement.group == node.group.name:
                self._place(state)
        self._halt()

    # ── shrinking ───────────────────────────────────────────────────────────

    def _shrink(self, state: _Slot) -> None:
        """Want one replica less: best one that has not begun, else one on the emptiest node."""
        if state.starting:
            self._abandon(state.starting.pop())
            return
        self._drain(state, max(state.serving.values(), key=self._dispensable))

    def _drain(self, state: _Slot, replica: SimulatedReplica) -> None:
        del state.serving[replica.replica]
        replica.draining = True
        self._listener.drains(replica)
        if not replica.requests:
            self.emptied(replica)

    def _abandon(self, start: _Start) -> None:
        start.cancelled = True
        start.node.abandon(start.placement.accelerators, start.power_w, self._events.now_s)

    def _dispensable(self, replica: SimulatedReplica) -> tuple[int, int, int]:
        place = self._places[replica.replica]
        return (place.node.free, place.node.number, -replica.requests)

    def _remove(self, replica: SimulatedReplica) -> None:
        """Take a replica off its node; what it drew and did stays counted."""
        name, now_s = replica.replica, self._events.now_s
        place = self._places.pop(name)
        del self.replicas[name]
        replica.ended = True
        slot = self._slots[slot_of(place.placement)]
        slot.serving.pop(name, None)
        place.node.stop(place.placement.accelerators, now_s)
        energy = replica.energy(now_s)
        self._gone = ReplicaEnergy(*(a + b for a, b in zip(self._gone, energy, strict=True)))
        self._gone_settled_j += replica.settled_j + replica.unfinished_j(now_s)
        self._gone_tokens += replica.completion_tokens(now_s)
        for state in self._slots.values():
            if state.unplaced:
                self._place(state)
        self._halt()

    def _halt(self) -> None:
        """Switch off empty nodes beyond those wanted, while nothing waits for a place there."""
        if self._wanted_nodes is None:
            return
        for group in self._cluster.groups:
            self.nodes.halt(group, self._wanted_nodes.get(group, 0))

    def _compact(self) -> None:
        """Empty a node of each group that has more on than are wanted, one at a time."""
        if self._wanted_nodes is None:
            return
        moving = {start.placement.group for start in self._moving}
        for group, nodes in self.nodes.nodes.items():
            if group in moving or self.nodes.on(group) <= self._wanted_nodes.get(group, 0):
                continue
            for replica, node in moves_from(nodes, self._held()):
                placement = self._places[replica].placement
                start = self._start(placement, node, replica)
                self._moving.append(start)
                due_s = self._events.now_s + placement.start_s
                state = self._slots[slot_of(placement)]
                self._events.at(due_s, partial(self._started, state, start))

    def _held(self) -> dict[SimulatedNode, dict[ReplicaId, int]]:
        held: dict[SimulatedNode, dict[ReplicaId, int]] = {}
        for state in self._slots.values():
            for name in state.serving:
                node = self._places[name].node
                held.setdefault(node, {})[name] = state.placement.accelerators
        return held


def nodes_on(pool: ReplicaPool) -> int:
    """Count the nodes of all groups that are on."""
    return sum(node.state is NodeState.ON for nodes in pool.nodes.nodes.values() for node in nodes)
