"""Floors under worker groups: which writes make a RayCluster keep as many workers as asked.

Its own module because it is pure: from a RayCluster and what is asked to operations on the
object. The operator's own floors lie beside ours in an annotation, written together with them,
so that they can be restored by whoever comes after a crash.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from cluster.kubernetes.objects import FLOORS, HeldFloor
from scheduler.plans import NodeGroupName

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from cluster.kubernetes.objects import RayCluster, WorkerGroup
    from cluster.kubernetes.settings import KubernetesGroup

Written: TypeAlias = "str | int | bool | dict[str, str] | None"


class Operation(NamedTuple):
    """One of a JSON patch; `value` is not looked at where `op` is "remove"."""

    op: Literal["add", "replace", "remove"]
    path: str
    value: Written = None


def on_version(version: str) -> Operation:
    """Have the rest of a patch refused when the object is no longer of that version."""
    return Operation("replace", "/metadata/resourceVersion", version)


def annotate(annotations: Mapping[str, str], key: str, value: str) -> Iterator[Operation]:
    """Set an annotation, or take it away with an empty value; nothing where it is so already."""
    if annotations.get(key, "") == value:
        return
    path = "/metadata/annotations/" + key.replace("~", "~0").replace("/", "~1")
    if not value:
        yield Operation("remove", path)
    elif annotations:
        yield Operation("add", path, value)
    else:
        yield Operation("add", "/metadata/annotations", {key: value})


def floor_of(group: WorkerGroup, own: int, nodes: int, workers_per_node: int) -> int:
    """Give the replicas that fill so many nodes, between the operator's floor and ceiling."""
    filling = -(-nodes * workers_per_node // group.hosts)
    return max(own, min(filling, group.max_replicas))


def own_floor(raycluster: RayCluster, group: WorkerGroup) -> int:
    """Give what the operator wants at least: a floor that is not the one we wrote is theirs."""
    held = raycluster.held.get(group.name)
    if held is not None and held.asked == group.min_replicas:
        return held.own
    return group.min_replicas


def patch(
    raycluster: RayCluster,
    groups: Mapping[NodeGroupName, KubernetesGroup],
    nodes: Mapping[NodeGroupName, int],
) -> tuple[Operation, ...]:
    """Write floors for so many nodes of each group; empty when nothing changes.

    Args:
        raycluster: as it was read.
        groups: that are ours.
        nodes: asked for; the floor of a group that is not named goes back to the operator's.

    """
    operations: list[Operation] = []
    held: dict[str, HeldFloor] = {}
    for index, group in enumerate(raycluster.groups):
        name = NodeGroupName(group.name)
        ours = groups.get(name)
        if ours is None:
            continue
        own = own_floor(raycluster, group)
        floor = floor_of(group, own, nodes.get(name, 0), ours.workers_per_node)
        if floor != own:
            held[group.name] = HeldFloor(own, floor)
        path = f"/spec/workerGroupSpecs/{index}"
        if floor != group.min_replicas:
            operations.append(Operation("add", f"{path}/minReplicas", floor))
        if floor > group.replicas:
            operations.append(Operation("add", f"{path}/replicas", floor))
    operations.extend(annotate(raycluster.annotations, FLOORS, _written(held)))
    return (on_version(raycluster.version), *operations) if operations else ()


def _written(held: Mapping[str, HeldFloor]) -> str:
    if not held:
        return ""
    entries = {name: {"own": each.own, "asked": each.asked} for name, each in held.items()}
    return json.dumps(entries, sort_keys=True)
