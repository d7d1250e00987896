"""From what was seen of nodes, workers and the RayCluster to the state of every group.

Its own module because it is pure: which nodes are a group's, and which of them count as ready
or booting, is decided here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.kubernetes.trouble import GroupView, troubles, waits_too_long
from cluster.nodes import GroupState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.kubernetes.objects import GpuNode, RayCluster, Refusal, Worker
    from cluster.kubernetes.settings import KubernetesSettings
    from scheduler.plans import NodeGroupName


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen at one instant.

    Attributes:
        observed_at_s: the instant; what is seen may be older, but not by more than is allowed.
        nodes: of the whole cluster.
        workers: pods of the RayCluster.
        raycluster: None where there is none of that name.
        refusals: events about pods that could not be made.

    """

    observed_at_s: float
    nodes: tuple[GpuNode, ...] = ()
    workers: tuple[Worker, ...] = ()
    raycluster: RayCluster | None = None
    refusals: tuple[Refusal, ...] = ()


def states(
    sight: Sight, settings: KubernetesSettings, asked: Mapping[NodeGroupName, int]
) -> dict[NodeGroupName, GroupState]:
    """Count the nodes of each group, and say what is in the way of more.

    Args:
        sight: what was seen.
        settings: which groups there are, and deadlines.
        asked: nodes, by group.

    """
    return {
        name: _state(_view(name, sight, settings, asked.get(name, 0)), settings, sight)
        for name in settings.groups
    }


def _view(name: NodeGroupName, sight: Sight, settings: KubernetesSettings, asked: int) -> GroupView:
    entries = sight.raycluster.groups if sight.raycluster else ()
    selector = settings.groups[name].selector
    return GroupView(
        name=name,
        nodes=tuple(node for node in sight.nodes if node.matches(selector)),
        workers=tuple(each for each in sight.workers if each.group == name and not each.ending),
        raycluster=sight.raycluster,
        worker_group=next((entry for entry in entries if entry.name == name), None),
        refusals=sight.refusals,
        asked=asked,
    )


def _state(view: GroupView, settings: KubernetesSettings, sight: Sight) -> GroupState:
    now_s = sight.observed_at_s
    usable = [view.size_of(node) for node in view.nodes if is_usable(view, node)]
    booting = sum(
        not is_usable(view, node)
        and not node.cordoned
        and now_s - node.since_s <= settings.boot_deadline_s
        for node in view.nodes
    )
    waiting = sum(
        not each.node and not waits_too_long(each, settings, now_s) for each in view.workers
    )
    coming = -(-waiting // settings.groups[view.name].workers_per_node)
    return GroupState(
        ready=len(usable),
        # A worker that waits may be waiting for the very node that boots.
        booting=max(booting, coming),
        trouble="; ".join(each.line for each in troubles(view, settings, now_s)),
        accelerators_per_node=max(usable, default=0),
    )


def is_usable(view: GroupView, node: GpuNode) -> bool:
    """Whether replicas can start on a node."""
    return node.ready and not node.cordoned and view.size_of(node) > 0
