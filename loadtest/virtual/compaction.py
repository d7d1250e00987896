"""Which replicas move so that a node can be switched off.

Its own module because it is a small packing problem by itself: replicas that would fit fewer
nodes may be scattered over more, and no node goes while one of them serves there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loadtest.virtual.simulated_nodes import NodeState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from loadtest.virtual.simulated_nodes import SimulatedNode
    from scheduler.requests import ReplicaId


class Move(NamedTuple):
    """A replica that is to start anew elsewhere.

    Attributes:
        replica: that ends once the new one serves.
        node: where the new one starts.

    """

    replica: ReplicaId
    node: SimulatedNode


def moves_from(
    nodes: Sequence[SimulatedNode], held: Mapping[SimulatedNode, Mapping[ReplicaId, int]]
) -> tuple[Move, ...]:
    """Say where the replicas of the emptiest node go; nothing if the others have no room.

    Args:
        nodes: of one group.
        held: accelerators that serving replicas hold, by node.

    """
    on = [node for node in nodes if node.state is NodeState.ON]
    if len(on) < len([node for node in nodes if node.state is not NodeState.OFF]) or len(on) <= 1:
        return ()
    source = max(on, key=lambda node: (node.free, node.number))
    movers = held.get(source, {})
    if sum(movers.values()) != source.group.accelerators_per_node - source.free or not movers:
        return ()  # It is empty, or something starts or drains there: wait for that.
    free = {node: node.free for node in on if node is not source}
    moves = []
    for replica, accelerators in sorted(movers.items(), key=lambda each: -each[1]):
        fitting = [node for node, left in free.items() if left >= accelerators]
        if not fitting:
            return ()
        node = min(fitting, key=lambda each: (free[each], each.number))
        free[node] -= accelerators
        moves.append(Move(replica, node))
    return tuple(moves)
