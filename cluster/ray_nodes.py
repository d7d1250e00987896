"""Nodes as Ray knows them, and Ray's own autoscaler to ask for more.

Its own module because it is all that this room knows of Ray.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.accelerators import CATALOGUE
from cluster.nodes import GroupState, NodesUnknownError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.plans import NodeGroupName

logger = logging.getLogger("jouleserve.cluster")

_TYPE = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class RayGroup:
    """How the nodes of a group are told from others.

    Attributes:
        name: of the group.
        accelerator: in the catalogue; nodes belong to the group whose accelerator they have.
        accelerators_per_node: asked for at once to have a node; 0 where it is not ours to ask.

    """

    name: NodeGroupName
    accelerator: str
    accelerators_per_node: int = 0


class RayNodes:
    """Implements `nodes.NodeProvider` over the Ray cluster that this process belongs to."""

    def __init__(self, groups: Iterable[RayGroup]) -> None:
        """Know the groups; nothing is asked for yet."""
        self._groups = tuple(groups)
        self._asked: dict[NodeGroupName, int] = {}

    def observe(self) -> Mapping[NodeGroupName, GroupState]:
        """Give the state of every group.

        Raises:
            NodesUnknownError: Ray does not answer.

        """
        import ray

        try:
            nodes = ray.nodes()
        except Exception as error:
            raise NodesUnknownError(f"Ray does not say which nodes it has: {error}") from error
        return states(nodes, self._groups)

    def ask(self, nodes: Mapping[NodeGroupName, int]) -> None:
        """Have at least that many nodes on; a Ray cluster that does not scale ignores it."""
        from ray.autoscaler.sdk import request_resources

        ours = {group.name for group in self._groups if group.accelerators_per_node}
        wanted = {name: count for name, count in nodes.items() if name in ours}
        if wanted == self._asked:
            return
        bundles = [
            _bundle(group) for group in self._groups for _ in range(wanted.get(group.name, 0))
        ]
        try:
            request_resources(bundles=bundles)
        except Exception as error:
            raise NodesUnknownError(f"Ray's autoscaler cannot be asked: {error}") from error
        self._asked = wanted

    def close(self) -> None:
        """Withdraw what was asked for."""
        if self._asked:
            self.ask({})


def states(
    nodes: Iterable[Mapping[str, Any]], groups: Iterable[RayGroup]
) -> dict[NodeGroupName, GroupState]:
    """Count the nodes of each group.

    Args:
        nodes: as `ray.nodes()` gives them.
        groups: to count.

    """
    ready: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    for node in nodes:
        if not node["Alive"]:
            continue
        for accelerator, size in _accelerators(node["Resources"]).items():
            ready[accelerator] += 1
            sizes[accelerator] = max(size, sizes.get(accelerator, 0))
    return {
        group.name: GroupState(
            ready=ready[group.accelerator],
            accelerators_per_node=sizes.get(group.accelerator, 0),
        )
        for group in groups
    }


def _accelerators(resources: Mapping[str, float]) -> dict[str, int]:
    """Name what replicas of a node can run on, with how much of it there is."""
    gpus = int(resources.get("GPU", 0))
    if not gpus:
        cores = int(resources.get("CPU", 0))
        return {name: cores for name in CATALOGUE if cores and _is_cpu(name)}
    types = {key.removeprefix(_TYPE) for key in resources if key.startswith(_TYPE)}
    # Where Ray does not know the type of a GPU, or of an accelerator, the two may be the same.
    return {
        name: gpus
        for name, each in CATALOGUE.items()
        if not _is_cpu(name) and (not types or not each.ray_type or each.ray_type in types)
    }


def _is_cpu(accelerator: str) -> bool:
    return CATALOGUE[accelerator].boundary == "cpu"


def _bundle(group: RayGroup) -> dict[str, float]:
    """Ask for all accelerators of a node at once, so that each bundle takes one."""
    ray_type = CATALOGUE[group.accelerator].ray_type
    kind = "CPU" if _is_cpu(group.accelerator) else "GPU"
    bundle = {kind: float(group.accelerators_per_node)}
    return bundle | ({f"{_TYPE}{ray_type}": 0.001} if ray_type else {})
