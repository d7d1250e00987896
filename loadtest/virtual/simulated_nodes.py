"""Nodes that boot, hold replicas and are switched off, with what they draw meanwhile.

Its own module because nodes cost power and time whatever runs on them: who decides about
them is an autoscaler, who lives on them are replicas, and neither is known here.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from loadtest.virtual.events import EventQueue
    from scheduler.plans import NodeGroup, NodeGroupName


class NodeState(StrEnum):
    """What a node does."""

    OFF = "off"
    BOOTING = "booting"
    ON = "on"


class NodeEnergy(NamedTuple):
    """Where a node's joules went, without those of serving replicas.

    Attributes:
        node_j: of nodes that are on, without accelerators.
        bare_j: of accelerators that hold no serving replica.
        boot_j: for booting.
        start_j: for bringing replicas up.

    """

    node_j: float = 0.0
    bare_j: float = 0.0
    boot_j: float = 0.0
    start_j: float = 0.0

    @property
    def total_j(self) -> float:
        """All of it."""
        return self.node_j + self.bare_j + self.boot_j + self.start_j

    def plus(self, other: NodeEnergy) -> NodeEnergy:
        """Add another's."""
        return NodeEnergy(*(mine + its for mine, its in zip(self, other, strict=True)))


class SimulatedNode:
    """One node.

    Attributes:
        group: its kind.
        number: within its group.
        state: what it does.
        free: accelerators that no replica holds, starting ones included.

    """

    def __init__(self, group: NodeGroup, number: int, now_s: float) -> None:
        self.group = group
        self.number = number
        self.state = NodeState.OFF
        self.free = group.accelerators_per_node
        self._serving = 0
        self._starting_w = 0.0
        self._energy = NodeEnergy()
        self._metered_j = 0.0
        self._since_s = now_s

    @property
    def empty(self) -> bool:
        """No replica is on it, starting or serving."""
        return self.free == self.group.accelerators_per_node

    @property
    def power_w(self) -> float:
        """Drawn now, without serving replicas."""
        group = self.group
        match self.state:
            case NodeState.OFF:
                return 0.0
            case NodeState.BOOTING:
                return group.boot_j / group.boot_s if group.boot_s else 0.0
            case NodeState.ON:
                bare = group.accelerators_per_node - self._serving
                return group.node_power_w + bare * group.bare_power_w + self._starting_w

    def energy(self, now_s: float) -> NodeEnergy:
        """Give its parts up to now."""
        self._pass(now_s)
        return self._energy

    def metered_j(self, now_s: float) -> float:
        """Give what a meter at the node shows, added up from its power alone."""
        self._pass(now_s)
        return self._metered_j

    def turn(self, state: NodeState, now_s: float) -> None:
        """Do something else from now on."""
        self._pass(now_s)
        self.state = state

    def start(self, accelerators: int, power_w: float, now_s: float) -> None:
        """Hold accelerators for a replica that starts and draws this on top."""
        self._pass(now_s)
        self.free -= accelerators
        self._starting_w += power_w

    def serve(self, accelerators: int, power_w: float, now_s: float) -> None:
        """Leave their power to the replica from now on: it has started."""
        self._pass(now_s)
        self._serving += accelerators
        self._starting_w -= power_w

    def abandon(self, accelerators: int, power_w: float, now_s: float) -> None:
        """Hold the accelerators of a replica no more that has not started."""
        self._pass(now_s)
        self.free += accelerators
        self._starting_w -= power_w

    def stop(self, accelerators: int, now_s: float) -> None:
        """Hold the accelerators of a serving replica no more."""
        self._pass(now_s)
        self.free += accelerators
        self._serving -= accelerators

    def _pass(self, now_s: float) -> None:
        span_s = now_s - self._since_s
        if span_s <= 0:
            return
        self._since_s = now_s
        power_w = self.power_w
        if not power_w:
            return
        self._metered_j += power_w * span_s
        node_j, bare_j, boot_j, start_j = self._energy
        if self.state is NodeState.BOOTING:
            boot_j += power_w * span_s
        else:
            bare = self.group.accelerators_per_node - self._serving
            node_j += self.group.node_power_w * span_s
            bare_j += bare * self.group.bare_power_w * span_s
            start_j += self._starting_w * span_s
        self._energy = NodeEnergy(node_j, bare_j, boot_j, start_j)


class SimulatedNodes:
    """All nodes of all groups.

    Attributes:
        nodes: by group.

    """

    def __init__(
        self,
        groups: Iterable[NodeGroup],
        events: EventQueue,
        booted: Callable[[SimulatedNode], None],
    ) -> None:
        self.nodes: dict[NodeGroupName, tuple[SimulatedNode, ...]] = {
            group.name: tuple(
                SimulatedNode(group, number, events.now_s) for number in range(group.max_nodes)
            )
            for group in groups
        }
        self._events = events
        self._booted = booted

    def on(self, group: NodeGroupName) -> int:
        """Count the nodes that are on or booting."""
        return sum(node.state is not NodeState.OFF for node in self.nodes[group])

    def place(self, group: NodeGroupName, accelerators: int) -> SimulatedNode | None:
        """Find the fullest node that is on and has so many accelerators free."""
        fitting = [
            node
            for node in self.nodes[group]
            if node.state is NodeState.ON and node.free >= accelerators
        ]
        return min(fitting, key=lambda node: (node.free, node.number), default=None)

    def boot(self, group: NodeGroupName, count: int, *, at_once: bool = False) -> None:
        """Switch on so many more, as far as there are any."""
        for node in self.nodes[group]:
            if count <= 0:
                return
            if node.state is not NodeState.OFF:
                continue
            count -= 1
            if at_once:
                node.turn(NodeState.ON, self._events.now_s)
            else:
                node.turn(NodeState.BOOTING, self._events.now_s)
                ready_s = self._events.now_s + node.group.boot_s
                self._events.at(ready_s, partial(self._ready, node))

    def halt(self, group: NodeGroupName, wanted: int) -> None:
        """Switch off empty nodes until no more than so many are left."""
        surplus = self.on(group) - wanted
        for node in reversed(self.nodes[group]):
            if surplus <= 0:
                return
            if node.state is NodeState.ON and node.empty:
                node.turn(NodeState.OFF, self._events.now_s)
                surplus -= 1

    def energy(self, now_s: float) -> NodeEnergy:
        """Give the parts of all nodes up to now."""
        total = NodeEnergy()
        for nodes in self.nodes.values():
            for node in nodes:
                total = total.plus(node.energy(now_s))
        return total

    def metered_j(self, now_s: float) -> float:
        """Give what all nodes' meters show."""
        return sum(node.metered_j(now_s) for nodes in self.nodes.values() for node in nodes)

    def _ready(self, node: SimulatedNode) -> None:
        node.turn(NodeState.ON, self._events.now_s)
        self._booted(node)
