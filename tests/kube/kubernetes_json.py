"""Kubernetes objects in JSON for tests that need no API server, and what one does with patches.

Its own module because tests of what is read, counted, said and written share them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from cluster.kubernetes import reading
from cluster.kubernetes.objects import CORDONED_BY, MANAGED
from cluster.kubernetes.settings import PRODUCT_LABEL, KubernetesGroup, KubernetesSettings
from scheduler.plans import NodeGroupName

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cluster.kubernetes.floors import Operation

GROUP, OTHER = NodeGroupName("h100"), NodeGroupName("l4")
OWNER = "default/demo"
NOW_S = reading.instant("2026-06-01T12:00:00Z")
OLD, NEW = "2026-06-01T11:00:00Z", "2026-06-01T11:59:59Z"


def settings(**overrides: Any) -> KubernetesSettings:
    groups = {GROUP: KubernetesGroup.of("h100-sxm"), OTHER: KubernetesGroup.of("l4")}
    return KubernetesSettings("default", "demo", **({"groups": groups} | overrides))


def node_json(name: str = "gpu-0", *, ready: str = "True", **more: Any) -> dict[str, Any]:
    condition = {"type": "Ready", "status": ready, "reason": "R", "lastTransitionTime": OLD}
    labels = {PRODUCT_LABEL: "NVIDIA-H100-80GB-HBM3", "topology.kubernetes.io/region": "eu"}
    return {
        "metadata": {"name": name, "resourceVersion": "1", "labels": labels, "annotations": {}},
        "spec": {},
        "status": {
            "allocatable": {"cpu": "63500m", "memory": "1Ti", "nvidia.com/gpu": "8"},
            "conditions": [{"type": "MemoryPressure", "status": "False"}, condition],
        },
    } | more


def pod_json(name: str = "demo-h100-worker-1", node: str = "", since: str = OLD) -> dict[str, Any]:
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    return {
        "metadata": {
            "name": name,
            "creationTimestamp": since,
            "labels": {"ray.io/cluster": "demo", "ray.io/group": "h100"},
        },
        "spec": {"nodeName": node},
        "status": {
            "phase": "Pending",
            "conditions": [unscheduled | {"message": "0/3 nodes are available:\n no room."}],
            "containerStatuses": [
                {"name": "ray", "image": "i", "restartCount": 0, "state": {"running": {}}}
            ],
        },
    }


def raycluster_json(*groups: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": "8"}
    template = {"spec": {"containers": [{"resources": {"limits": limits}}]}}
    defaults = {"minReplicas": 0, "maxReplicas": 8, "replicas": 0, "template": template}
    both = groups or ({"groupName": GROUP}, {"groupName": OTHER})
    return {
        "metadata": {
            "name": "demo",
            "resourceVersion": "1",
            "annotations": {MANAGED: "true"},
        },
        "spec": {"workerGroupSpecs": [defaults | dict(group) for group in both]} | spec,
        "status": {"conditions": []},
    }


def applied(item: dict[str, Any], operations: Iterable[Operation]) -> dict[str, Any]:
    """Do what an API server does with a JSON patch (RFC 6902)."""
    result = copy.deepcopy(item)
    for operation in operations:
        *way, last = operation.path.split("/")[1:]
        at: Any = result
        for step in way:
            at = at[int(step)] if isinstance(at, list) else at[step]
        key = last.replace("~1", "/").replace("~0", "~")
        if operation.op == "remove":
            del at[key]
        else:
            at[key] = operation.value
    return result


def closed_by(manager: str, owner: str = "") -> dict[str, Any]:
    item = node_json(spec={"unschedulable": True})
    fields: dict[str, Any] = {"f:spec": {"f:unschedulable": {}}}
    item["metadata"]["managedFields"] = [{"manager": manager, "fieldsV1": fields}]
    item["metadata"]["annotations"] = {CORDONED_BY: owner} if owner else {}
    return item
