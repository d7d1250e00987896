"""Scattered replicas move so that a node can go; nothing moves where there is no room."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadtest.virtual.compaction import moves_from
from loadtest.virtual.simulated_nodes import NodeState, SimulatedNode
from scheduler.requests import ReplicaId
from tests.plan_fakes import group

if TYPE_CHECKING:
    from scheduler.plans import NodeGroup


def node(number: int, used: int, kind: NodeGroup, state: NodeState = NodeState.ON) -> SimulatedNode:
    made = SimulatedNode(kind, number, 0.0)
    made.turn(state, 0.0)
    made.start(used, 0.0, 0.0)
    return made


def held(*nodes: SimulatedNode) -> dict[SimulatedNode, dict[ReplicaId, int]]:
    return {
        each: {
            ReplicaId(f"{each.number}-{turn}"): 1
            for turn in range(each.group.accelerators_per_node - each.free)
        }
        for each in nodes
    }


def test_the_emptiest_node_gives_its_replicas_to_the_fullest_with_room() -> None:
    kind = group()
    full, fuller, emptiest = (node(n, used, kind) for n, used in enumerate((8, 6, 2)))
    moves = moves_from([full, fuller, emptiest], held(full, fuller, emptiest))
    assert {move.replica for move in moves} == {ReplicaId("2-0"), ReplicaId("2-1")}
    assert {move.node.number for move in moves} == {fuller.number}


def test_nothing_moves_without_room_for_all() -> None:
    kind = group()
    nodes = [node(n, used, kind) for n, used in enumerate((7, 2))]
    assert moves_from(nodes, held(*nodes)) == ()


def test_nothing_moves_while_a_node_boots_or_something_starts_there() -> None:
    kind = group()
    nodes = [node(n, used, kind) for n, used in enumerate((4, 2))]
    booting = node(2, 0, kind, NodeState.BOOTING)
    assert moves_from([*nodes, booting], held(*nodes)) == ()
    starting = held(*nodes)
    del starting[nodes[1]][ReplicaId("1-0")]
    assert moves_from(nodes, starting) == ()
