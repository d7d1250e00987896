"""Nodes, workers and RayClusters as values, and the marks that we read and write on them.

Its own module because everything else about Kubernetes is told in these words: who reads them
from JSON, who says what is wrong, who decides what to write.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

MANAGED = "jouleserve.dev/managed"
"""Annotation or label, "true" on a RayCluster or node that we may change."""
CORDONED_BY = "jouleserve.dev/cordoned-by"
"""Annotation: which cluster has cordoned the node."""
FLOORS = "jouleserve.dev/floors"
"""Annotation on the RayCluster: the floors that were asked for, and the operator's own."""
PRICE = "jouleserve.dev/price-per-hour"
"""Annotation or label on a node."""
CARBON_REGION = "jouleserve.dev/carbon-region"
"""Annotation or label on a node; by default its region."""
FIELD_MANAGER = "jouleserve"
"""As whom we write, so that the API server remembers which fields are ours."""

_REGION = "topology.kubernetes.io/region"
_ZONE = "topology.kubernetes.io/zone"


@dataclass(frozen=True, slots=True)
class GpuNode:
    """A node of Kubernetes.

    Attributes:
        name: of the node.
        version: of the object, to write on nothing newer.
        labels: all of them.
        annotations: all of them.
        accelerators: allocatable NVIDIA resources (whole GPUs, MIG slices), by resource name.
        cpu_cores: allocatable, whole ones.
        ready: by its Ready condition.
        since_s: instant from which it is ready, or not.
        why: it is not ready, in the kubelet's words.
        cordoned: takes no new pods.
        cordon_manager: who has last written that it takes none, as the API server knows.

    """

    name: str
    version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    accelerators: Mapping[str, int]
    cpu_cores: int
    ready: bool
    since_s: float
    why: str
    cordoned: bool
    cordon_manager: str

    @property
    def managed(self) -> bool:
        """Whether we may cordon it."""
        return self._mark(MANAGED) == "true"

    @property
    def accelerator_count(self) -> int:
        """GPUs and MIG slices."""
        return sum(self.accelerators.values())

    @property
    def zone(self) -> str:
        """Its failure domain; empty where nobody has said."""
        return self.labels.get(_ZONE, "")

    @property
    def carbon_region(self) -> str:
        """Where its electricity comes from; empty where nobody has said."""
        return self._mark(CARBON_REGION) or self.labels.get(_REGION, "")

    @property
    def price_per_h(self) -> float | None:
        """What it costs while it is on; None where nobody has said, or no number."""
        try:
            price_per_h = float(self._mark(PRICE))
        except ValueError:
            return None
        return price_per_h if math.isfinite(price_per_h) and price_per_h >= 0 else None

    def matches(self, selector: Mapping[str, tuple[str, ...]]) -> bool:
        """Whether every label of a selector has one of its values here."""
        return all(self.labels.get(label) in values for label, values in selector.items())

    def _mark(self, key: str) -> str:
        return self.annotations.get(key) or self.labels.get(key, "")


class ContainerFault(NamedTuple):
    """Why a container does not run: the kubelet's reason and message, and how often it tried."""

    reason: str
    message: str
    image: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A pod of a worker group.

    Attributes:
        name: of the pod.
        group: its worker group.
        node: that it was put on; empty while it waits for one.
        ending: it is being deleted, or has run to its end.
        ready: by its Ready condition.
        waits_since_s: instant from which it waits for a node.
        waits_why: in the scheduler's words.
        gated: it waits for somebody's permission, not for a node.
        faults: of its containers.

    """

    name: str
    group: str
    node: str = ""
    ending: bool = False
    ready: bool = False
    waits_since_s: float = 0.0
    waits_why: str = ""
    gated: bool = False
    faults: tuple[ContainerFault, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldFloor:
    """A floor of ours: `own` is what the operator had written, `asked` what we wrote."""

    own: int
    asked: int


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """An entry of a RayCluster's workerGroupSpecs.

    Attributes:
        name: its groupName.
        replicas: wanted now.
        min_replicas: floor that Ray's autoscaler keeps.
        max_replicas: ceiling.
        hosts: pods of one replica.
        accelerators: that one pod asks for.
        suspended: by the operator.

    """

    name: str
    replicas: int
    min_replicas: int
    max_replicas: int
    hosts: int
    accelerators: int
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A RayCluster of KubeRay.

    Attributes:
        name: of the object.
        version: of the object, to write on nothing newer.
        annotations: all of them.
        autoscaled: Ray's own autoscaler adds workers, and takes idle ones away.
        suspended: by the operator.
        groups: in the order of the object.
        failure: why KubeRay could not make a pod, in its words.
        held: our floors, by group.

    """

    name: str
    version: str
    annotations: Mapping[str, str]
    autoscaled: bool
    suspended: bool
    groups: tuple[WorkerGroup, ...]
    failure: str
    held: Mapping[str, HeldFloor] = field(default_factory=dict)

    @property
    def managed(self) -> bool:
        """Whether we may change it."""
        return self.annotations.get(MANAGED) == "true"


class Refusal(NamedTuple):
    """An event that says why KubeRay could not make a worker's pod."""

    at_s: float
    message: str
