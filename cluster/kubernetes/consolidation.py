"""Which nodes of a group to close and which to open, so that those beyond the plan stay empty.

Its own module because it is pure. A node is closed only once none of the RayCluster's workers is
on it: Ray Serve moves replicas together, Ray's autoscaler ends the workers that are left without
any, and a closed node keeps whatever else is pending from filling it before the node autoscaler
has taken it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cluster.kubernetes.cordons import is_ours

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from cluster.kubernetes.objects import GpuNode, Worker, WorkerGroup


class Turn(NamedTuple):
    """Nodes to be closed, and nodes to be opened again, by name."""

    closing: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()


def needed(group: WorkerGroup, asked: int, workers_per_node: int) -> int:
    """Give the nodes that are to be open: those asked for, and those for workers that are due.

    The RayCluster may want more workers than we have asked for, by the operator's own floor or
    by Ray's autoscaler; they are to find a place.
    """
    return max(asked, -(-group.replicas * group.hosts // workers_per_node))


def turn(nodes: Iterable[GpuNode], workers: Iterable[Worker], needed: int, owner: str) -> Turn:
    """Choose nodes of one group.

    Args:
        nodes: of the group.
        workers: of the RayCluster.
        needed: how many are to be open.
        owner: whose cordons are ours.

    """
    occupied = {worker.node for worker in workers}
    candidates = sorted(nodes, key=lambda node: node.name)
    opened = [node for node in candidates if node.ready and not node.cordoned]
    ours = [node.name for node in candidates if node.ready and is_ours(node, owner)]
    missing = needed - len(opened)
    if missing > 0:
        return Turn(opening=tuple(_first(ours, occupied, missing)))
    empty = [node.name for node in opened if node.managed and node.name not in occupied]
    return Turn(closing=tuple(empty[: len(opened) - needed]))


def _first(names: Iterable[str], occupied: Collection[str], count: int) -> list[str]:
    """Prefer nodes on which workers are still running."""
    return sorted(names, key=lambda name: name not in occupied)[:count]
