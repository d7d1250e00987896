"""A RayCluster in a namespace of its own, with a stand-in for the operator that makes its pods.

Its own module because KubeRay's operator is not to be had as a program here: what this does of
it (labels of pods, the condition and the event of a pod that could not be made) is KubeRay's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.kubernetes.objects import MANAGED
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup, KubernetesSettings
from scheduler.plans import NodeGroupName
from tests.kube.control_plane import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.kube.control_plane import ControlPlane

GROUP = NodeGroupName("h100")
GPUS = 8
HOLLOW_NODES = 3
NAME = "demo"

_numbers = itertools.count()


@dataclass
class OperatedCluster:
    """A RayCluster named "demo" with one worker group "h100" of whole nodes."""

    plane: ControlPlane
    namespace: str
    made: list[str] = field(default_factory=list)

    @classmethod
    def start(cls, plane: ControlPlane, **group: int) -> OperatedCluster:
        """Make namespace and RayCluster; `group` overrides fields of the worker group."""
        here = cls(plane, f"t{next(_numbers)}")
        plane.create("/api/v1/namespaces", {"metadata": {"name": here.namespace}})
        plane.create(f"{here.path.rpartition('/')[0]}", _raycluster(group))
        return here

    def settings(self, **overrides: Any) -> KubernetesSettings:
        """Give settings that are quick to notice what goes wrong."""
        quick: dict[str, Any] = {
            "namespace": self.namespace,
            "raycluster": NAME,
            "groups": {GROUP: KubernetesGroup.of("h100-sxm")},
            "kubeconfig": self.plane.kubeconfig,
            "no_capacity_after_s": 1.0,
            "watch_s": 2.0,
            "request_timeout_s": 3.0,
            "stale_after_s": 6.0,
            "backoff_limit_s": 1.0,
        }
        return KubernetesSettings(**(quick | overrides))

    @property
    def path(self) -> str:
        """Of the RayCluster."""
        return f"/apis/ray.io/v1/namespaces/{self.namespace}/rayclusters/{NAME}"

    @property
    def pods(self) -> str:
        """Of its pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def group(self) -> dict[str, Any]:
        """Read the worker group."""
        found: dict[str, Any] = self.raycluster()["spec"]["workerGroupSpecs"][0]
        return found

    def floor(self) -> tuple[int, int]:
        """Read minReplicas and replicas."""
        group = self.group()
        return group["minReplicas"], group["replicas"]

    def raycluster(self) -> dict[str, Any]:
        """Read the RayCluster."""
        found: dict[str, Any] = self.plane.get(self.path)
        return found

    # ── as KubeRay ──────────────────────────────────────────────────────────

    def reconcile(self, told_by: str = "condition", **pod: object) -> list[str]:
        """Make the pods that are missing, or say in KubeRay's words why not.

        Args:
            told_by: "condition" or "event": where a pod that could not be made is told.
            pod: fields of the pods' spec to override.

        """
        group = self.group()
        for _ in range(group["replicas"] - len(self.made)):
            name = f"{NAME}-{GROUP}-worker-{len(self.made):05d}"
            labels = {"ray.io/cluster": NAME, "ray.io/group": GROUP, "ray.io/node-type": "worker"}
            spec = group["template"]["spec"] | pod
            body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
            try:
                self.plane.create(self.pods, body)
            except RefusedError as refused:
                self._tell(told_by, str(refused))
                break
            self.made.append(name)
        return self.made

    def put_on_paper(self, container: Mapping[str, object]) -> str:
        """Make a worker on a node without a kubelet, and write its container's status."""
        group = self.group() | {"replicas": 1}
        self.plane.merge(self.path, {"spec": {"workerGroupSpecs": [group]}})
        (name,) = self.reconcile(nodeName=paper_node(self.plane, "paper"))
        self.write_container(name, container)
        return name

    def write_container(self, worker: str, container: Mapping[str, object]) -> None:
        """Write the status of a worker's container as its kubelet would."""
        unstarted = {
            "name": "ray-worker",
            "image": "registry.example/ray:2.60",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
        }
        status = {"phase": "Pending", "containerStatuses": [unstarted | dict(container)]}
        self.plane.merge(f"{self.pods}/{worker}/status", {"status": status})

    def _tell(self, told_by: str, why: str) -> None:
        if told_by == "condition":
            condition = {
                "type": "ReplicaFailure",
                "status": "True",
                "reason": "FailedCreateWorkerPod",
                "message": f"failed to create worker pod\n{why}",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
            self.plane.merge(f"{self.path}/status", {"status": {"conditions": [condition]}})
            return
        metadata = self.raycluster()["metadata"]
        event = {
            "metadata": {"generateName": f"{NAME}.", "namespace": self.namespace},
            "involvedObject": {
                "apiVersion": "ray.io/v1",
                "kind": "RayCluster",
                "name": NAME,
                "namespace": self.namespace,
                "uid": metadata["uid"],
            },
            "type": "Warning",
            "reason": "FailedToCreateWorkerPod",
            "message": f"Failed to create worker Pod {self.namespace}/, {why}",
            "lastTimestamp": metadata["creationTimestamp"],
        }
        self.plane.create(f"/api/v1/namespaces/{self.namespace}/events", event)

    def end(self) -> None:
        """Free the nodes for the next test."""
        for name in self.made:
            self.plane.delete(f"{self.pods}/{name}")
        self.made.clear()


def paper_node(plane: ControlPlane, label: str, **more: object) -> str:
    """Make a node without a kubelet, of a product of its own; give its name."""
    name = f"paper-{next(_numbers)}"
    metadata = {"name": name, "labels": {PRODUCT_LABEL: label}} | more
    plane.create("/api/v1/nodes", {"metadata": metadata})
    return name


def ready_status(
    *, ready: bool, since: str, allocatable: Mapping[str, str] | None = None
) -> dict[str, object]:
    """Give a node's status as its kubelet would write it."""
    condition = {
        "type": "Ready",
        "status": "True" if ready else "False",
        "reason": "KubeletReady" if ready else "KubeletNotReady",
        "message": "" if ready else "container runtime network not ready",
        "lastTransitionTime": since,
        "lastHeartbeatTime": since,
    }
    resources = dict(allocatable or {})
    return {"status": {"conditions": [condition], "allocatable": resources, "capacity": resources}}


def _raycluster(group: Mapping[str, int]) -> dict[str, object]:
    container = {
        "name": "ray-worker",
        "image": "registry.example/ray:2.60",
        "resources": {"limits": {"nvidia.com/gpu": str(GPUS)}},
    }
    worker_group = {
        "groupName": GROUP,
        "replicas": 0,
        "minReplicas": 0,
        "maxReplicas": 8,
        "rayStartParams": {},
        "template": {"spec": {"containers": [container]}},
    } | dict(group)
    head = {"template": {"spec": {"containers": [{"name": "ray-head", "image": "ray"}]}}}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": NAME, "annotations": {MANAGED: "true"}},
        "spec": {
            "enableInTreeAutoscaling": True,
            "headGroupSpec": head | {"rayStartParams": {}},
            "workerGroupSpecs": [worker_group],
        },
    }
