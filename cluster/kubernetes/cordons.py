"""Cordons on nodes: which writes close one to new pods, and which cordons are ours to lift.

Its own module because it is pure. The annotation says for whom a node is closed; that the API
server still knows us as the last writer of the field says that nobody has opened it, and
perhaps closed it again, since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.kubernetes.floors import Operation, annotate, on_version
from cluster.kubernetes.objects import CORDONED_BY, FIELD_MANAGER

if TYPE_CHECKING:
    from cluster.kubernetes.objects import GpuNode


def is_ours(node: GpuNode, owner: str) -> bool:
    """Whether the node is closed, and by us."""
    return (
        node.cordoned
        and node.annotations.get(CORDONED_BY) == owner
        and node.cordon_manager == FIELD_MANAGER
    )


def cordon(node: GpuNode, owner: str) -> tuple[Operation, ...]:
    """Close a node; empty where it is closed, by whomever."""
    if node.cordoned:
        return ()
    return (
        on_version(node.version),
        Operation("add", "/spec/unschedulable", value=True),
        *annotate(node.annotations, CORDONED_BY, owner),
    )


def uncordon(node: GpuNode, owner: str) -> tuple[Operation, ...]:
    """Open a node that we have closed; empty where somebody else has."""
    operations = list[Operation]()
    if is_ours(node, owner):
        operations.append(Operation("remove", "/spec/unschedulable"))
    if node.annotations.get(CORDONED_BY) == owner:
        operations.extend(annotate(node.annotations, CORDONED_BY, ""))
    return (on_version(node.version), *operations) if operations else ()
