"""What `nodes` has to be told: which cluster, which nodes, and how patient to be.

Its own module because the pure half (what objects mean) and the shell (who asks for them)
read the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.accelerators import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.plans import NodeGroupName

PRODUCT_LABEL = "nvidia.com/gpu.product"


@dataclass(frozen=True, slots=True)
class KubernetesGroup:
    """The nodes of a group; it has the name of a worker group of the RayCluster.

    Attributes:
        selector: values that a node's label may have, by label; a node that has one of them
            for every label is the group's.
        workers_per_node: Ray workers that fill a node; 1 where a worker takes a whole node.

    """

    selector: Mapping[str, tuple[str, ...]]
    workers_per_node: int = 1

    def __post_init__(self) -> None:
        """Refuse what would mean every node, or none."""
        if not self.selector or not all(self.selector.values()):
            raise ValueError("a group's selector needs a label, and each label a value")
        if self.workers_per_node < 1:
            raise ValueError(f"workers_per_node is {self.workers_per_node}; it must be at least 1")

    @classmethod
    def of(
        cls,
        accelerator: str,
        workers_per_node: int = 1,
        labels: Mapping[str, tuple[str, ...]] | None = None,
    ) -> KubernetesGroup:
        """Select by labels, or by the product that NVIDIA's feature discovery labels nodes with.

        Raises:
            ValueError: the catalogue knows no such label of that accelerator.

        """
        if labels:
            return cls(labels, workers_per_node)
        known = CATALOGUE.get(accelerator)
        if known is None or not known.kubernetes_products:
            raise ValueError(
                f"no product label is known of accelerator {accelerator!r}; give a selector"
            )
        return cls({PRODUCT_LABEL: known.kubernetes_products}, workers_per_node)


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Where the nodes are, and how patient to be.

    Attributes:
        namespace: of the RayCluster.
        raycluster: its name; a worker finds it in its environment as RAY_CLUSTER_NAME.
        groups: by name of the worker group.
        kubeconfig: file with the way into the cluster; empty for the pod's own service
            account, or what KUBECONFIG names where there is none.
        boot_deadline_s: after which a node that is not ready is trouble and no longer booting;
            clouds take up to ten minutes for a node with its GPU driver.
        no_capacity_after_s: that a worker may wait for a node before that is trouble; as long
            as the node autoscaler takes, where there is one.
        stale_after_s: age up to which the last known state is still given.
        watch_s: after which a watch is opened again, so that a silent one is known to live.
        request_timeout_s: of every call.
        ask_deadline_s: of `ask`, `cordon` and `uncordon`, conflicts and repetitions included.
        close_deadline_s: of `close`, for the watches to end.
        backoff_s: pause after a first failure; it doubles with each one up to `backoff_limit_s`.

    """

    namespace: str
    raycluster: str
    groups: Mapping[NodeGroupName, KubernetesGroup]
    kubeconfig: str = ""
    boot_deadline_s: float = 600.0
    no_capacity_after_s: float = 30.0
    stale_after_s: float = 180.0
    watch_s: float = 60.0
    request_timeout_s: float = 5.0
    ask_deadline_s: float = 8.0
    close_deadline_s: float = 5.0
    backoff_s: float = 0.2
    backoff_limit_s: float = 10.0

    def __post_init__(self) -> None:
        """Refuse patience that contradicts itself."""
        if self.stale_after_s <= self.watch_s + self.request_timeout_s:
            raise ValueError(
                f"stale_after_s is {self.stale_after_s:g}; it must be above watch_s +"
                f" request_timeout_s = {self.watch_s + self.request_timeout_s:g}, after which"
                " a silent watch is known to live"
            )

    @property
    def owner(self) -> str:
        """What marks as this cluster's."""
        return f"{self.namespace}/{self.raycluster}"
