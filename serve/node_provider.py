"""Choose who knows of nodes: Ray alone, or Kubernetes under it.

Its own module because the planner must know neither, and each is told what it needs here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.nodes import NodesUnknownError
from cluster.ray_nodes import RayGroup, RayNodes
from scheduler.plans import NodeGroupName
from serve.plan_problem import group_of

if TYPE_CHECKING:
    from cluster.kubernetes.settings import KubernetesSettings
    from cluster.nodes import NodeProvider
    from serve.config import Config

# What KubeRay and Kubernetes put into every pod.
_RAYCLUSTER = "RAY_CLUSTER_NAME"
_NAMESPACE = "RAY_CLUSTER_NAMESPACE"
_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def node_provider(config: Config) -> NodeProvider:
    """Make whoever the configuration names; begins to watch where there is something to watch.

    Raises:
        NodesUnknownError: Kubernetes is asked for, and nothing says where it is.

    """
    if config.planner.nodes == "kubernetes":
        from cluster.kubernetes.nodes import connect

        return connect(kubernetes_settings(config, namespace=_namespace()))
    asked = {group.accelerator: group.accelerators_per_node for group in config.node_groups}
    used = {entry.accelerator for _, entry in config.variants()}
    return RayNodes(
        RayGroup(group_of(config, accelerator), accelerator, asked.get(accelerator, 0))
        for accelerator in sorted(used)
    )


def kubernetes_settings(config: Config, *, namespace: str) -> KubernetesSettings:
    """Say which RayCluster's worker groups are the configuration's node groups.

    Raises:
        NodesUnknownError: this process is no pod of a RayCluster.

    """
    from cluster.kubernetes.settings import KubernetesGroup, KubernetesSettings

    raycluster = os.environ.get(_RAYCLUSTER, "")
    if not raycluster:
        raise NodesUnknownError(
            f"{_RAYCLUSTER} is not set: planner.nodes is kubernetes, and this is no pod of a"
            " RayCluster"
        )
    return KubernetesSettings(
        namespace=namespace,
        raycluster=raycluster,
        groups={
            NodeGroupName(group.name): KubernetesGroup.of(
                group.accelerator, group.workers_per_node, group.node_labels
            )
            for group in config.node_groups
        },
    )


def _namespace() -> str:
    """Find the namespace that this pod is in."""
    given = os.environ.get(_NAMESPACE, "")
    if given or not _NAMESPACE_FILE.exists():
        return given or "default"
    return _NAMESPACE_FILE.read_text("utf-8").strip()
