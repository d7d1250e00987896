"""From the Kubernetes API's JSON to the values of `objects`.

Its own module because it is pure and all that knows the shape of that JSON: tests need no API
server for it. Whatever is absent reads as not there, and numbers that are none as 0.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cluster.kubernetes.objects import (
    FLOORS,
    ContainerFault,
    GpuNode,
    HeldFloor,
    RayCluster,
    Refusal,
    Worker,
    WorkerGroup,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_GPU = "nvidia.com/gpu"
_MIG = "nvidia.com/mig-"
_CLUSTER_LABEL = "ray.io/cluster"
_GROUP_LABEL = "ray.io/group"
_FAILED_TO_CREATE = "FailedToCreateWorkerPod"
# Endings of quantities; of cores, the first is the usual one.
_SUFFIXES = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def node(item: Mapping[str, Any]) -> GpuNode:
    """Read a Node."""
    metadata, spec, status = _part(item, "metadata"), _part(item, "spec"), _part(item, "status")
    allocatable = _part(status, "allocatable")
    condition = _condition(status, "Ready")
    words = [condition.get("reason") or "", condition.get("message") or ""]
    return GpuNode(
        name=metadata.get("name", ""),
        version=metadata.get("resourceVersion", ""),
        labels=dict(_part(metadata, "labels")),
        annotations=dict(_part(metadata, "annotations")),
        accelerators={
            name: math.floor(quantity(amount))
            for name, amount in allocatable.items()
            if (name == _GPU or name.startswith(_MIG)) and quantity(amount) >= 1
        },
        cpu_cores=math.floor(quantity(allocatable.get("cpu"))),
        ready=condition.get("status") == "True",
        since_s=instant(
            condition.get("lastTransitionTime") or metadata.get("creationTimestamp"),
        ),
        why=one_line(": ".join(word for word in words if word)) or "its kubelet says nothing",
        cordoned=bool(spec.get("unschedulable")),
        cordon_manager=_manager_of_cordon(metadata.get("managedFields") or ()),
    )


def worker(item: Mapping[str, Any]) -> Worker:
    """Read a Pod of a worker group."""
    metadata, spec, status = _part(item, "metadata"), _part(item, "spec"), _part(item, "status")
    scheduled = _condition(status, "PodScheduled")
    return Worker(
        name=metadata.get("name", ""),
        group=_part(metadata, "labels").get(_GROUP_LABEL, ""),
        node=spec.get("nodeName") or "",
        ending=bool(metadata.get("deletionTimestamp"))
        or status.get("phase") in {"Succeeded", "Failed"},
        ready=_condition(status, "Ready").get("status") == "True",
        waits_since_s=instant(metadata.get("creationTimestamp")),
        waits_why=one_line(scheduled.get("message") or ""),
        gated=scheduled.get("reason") == "SchedulingGated",
        faults=tuple(_faults(status)),
    )


def raycluster(item: Mapping[str, Any]) -> RayCluster:
    """Read a RayCluster."""
    metadata, spec, status = _part(item, "metadata"), _part(item, "spec"), _part(item, "status")
    annotations = dict(_part(metadata, "annotations"))
    failed = _condition(status, "ReplicaFailure")
    # KubeRay up to 1.1 says it in status.reason, later ones in a condition.
    failure = failed.get("message") if failed.get("status") == "True" else status.get("reason")
    return RayCluster(
        name=metadata.get("name", ""),
        version=metadata.get("resourceVersion", ""),
        annotations=annotations,
        autoscaled=bool(spec.get("enableInTreeAutoscaling")),
        suspended=bool(spec.get("suspend")),
        groups=tuple(_worker_group(each) for each in spec.get("workerGroupSpecs") or ()),
        failure=one_line(failure or ""),
        held=_held(annotations.get(FLOORS, "")),
    )


def refusal(item: Mapping[str, Any]) -> Refusal | None:
    """Read an Event; None for one that refuses no worker."""
    if item.get("reason") != _FAILED_TO_CREATE:
        return None
    at = item.get("lastTimestamp") or item.get("eventTime") or item.get("firstTimestamp")
    return Refusal(instant(at), one_line(item.get("message") or ""))


def workers_of(raycluster: str) -> str:
    """Give the label selector of a RayCluster's pods."""
    return f"{_CLUSTER_LABEL}={raycluster}"


# ── words and numbers ───────────────────────────────────────────────────────


def quantity(text: object) -> float:
    """Read a quantity such as 8, "3920m" or "64Gi"; 0 for anything else."""
    for suffix, factor in (("", 1.0), *_SUFFIXES.items()):
        if str(text).endswith(suffix):
            try:
                amount = float(str(text).removesuffix(suffix)) * factor
            except ValueError:
                continue
            return amount if math.isfinite(amount) and amount > 0 else 0.0
    return 0.0


def instant(text: object) -> float:
    """Read a point in time as seconds since the epoch; 0 for anything else."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def one_line(text: str, limit: int = 300) -> str:
    """Make one line of a message, and not a long one."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


# ── parts of objects ────────────────────────────────────────────────────────


def _part(item: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    return item.get(key) or {}


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return {}


def _manager_of_cordon(entries: Iterable[Mapping[str, Any]]) -> str:
    """Name who owns spec.unschedulable; the API server moves that to whoever changes it."""
    for entry in entries:
        if "f:unschedulable" in _part(_part(entry, "fieldsV1"), "f:spec"):
            return str(entry.get("manager", ""))
    return ""


def _faults(status: Mapping[str, Any]) -> Iterable[ContainerFault]:
    containers = [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]
    for container in containers:
        restarts = int(container.get("restartCount") or 0)
        state, last = _part(container, "state"), _part(container, "lastState")
        waiting = _part(state, "waiting")
        ended = _part(state, "terminated") or _part(last, "terminated")
        exited = f"exit code {ended['exitCode']}" if ended.get("exitCode") else ""
        how = " ".join(word for word in (exited, ended.get("reason") or "") if word)
        reason = waiting.get("reason") or ""
        if not reason and not container.get("ready") and restarts:
            reason = ended.get("reason") or ""
        if reason:
            said = waiting.get("message") or ""
            message = one_line("; ".join(word for word in (how, said) if word))
            yield ContainerFault(reason, message, container.get("image") or "", restarts)


def _worker_group(item: Mapping[str, Any]) -> WorkerGroup:
    containers = _part(_part(item, "template"), "spec").get("containers") or ()
    limits = [_part(_part(container, "resources"), "limits") for container in containers]
    return WorkerGroup(
        name=item.get("groupName", ""),
        replicas=int(item.get("replicas") or 0),
        min_replicas=int(item.get("minReplicas") or 0),
        max_replicas=int(item.get("maxReplicas") or 0),
        hosts=max(1, int(item.get("numOfHosts") or 1)),
        accelerators=sum(
            math.floor(quantity(amount))
            for limit in limits
            for name, amount in limit.items()
            if name == _GPU or name.startswith(_MIG)
        ),
        suspended=bool(item.get("suspend")),
    )


def _held(text: str) -> dict[str, HeldFloor]:
    try:
        return {
            name: HeldFloor(int(entry["own"]), int(entry["asked"]))
            for name, entry in json.loads(text).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
