"""Why the nodes of a group do not come, and what to change: one line each, for people.

Its own module because it is pure and all there is of diagnosis; whoever counts nodes, or asks
for them, needs none of it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cluster.kubernetes.objects import (
        ContainerFault,
        GpuNode,
        RayCluster,
        Refusal,
        Worker,
        WorkerGroup,
    )
    from cluster.kubernetes.settings import KubernetesSettings
    from scheduler.plans import NodeGroupName

_NO_IMAGE = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ErrImageInspect",
        "RegistryUnavailable",
        "ImageInspectError",
    }
)
_NO_START = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
_CRASH = "CrashLoopBackOff"
# Between two back-offs a looping container shows as started; this many restarts tell it apart.
_RESTARTS = 3
# KubeRay cuts the names of pods, and of no prefix shorter than this.
_LEAST_CUT = 40
_QUOTA = "exceeded quota"
_POD = re.compile(r'pods "([^"]+)-worker-[^"-]*" is forbidden')
_WHY = re.compile(r"exceeded quota.*")


class Kind(StrEnum):
    """What kind of trouble it is."""

    CONFIGURATION = "configuration"
    QUOTA = "quota"
    REFUSED = "refused"
    NO_CAPACITY = "no capacity"
    GATED = "gated"
    IMAGE = "image"
    CRASH = "crash"
    NODE = "node"
    CEILING = "ceiling"


class Trouble(NamedTuple):
    """One thing that is wrong with a group; `line` says what, and what to change."""

    kind: Kind
    line: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """Everything that was seen of one group.

    Attributes:
        name: of the group.
        nodes: that its selector takes.
        workers: its pods that are not ending.
        raycluster: None where there is none.
        worker_group: its entry in the RayCluster; None where there is none.
        refusals: of all groups.
        asked: nodes that were asked for.

    """

    name: NodeGroupName
    nodes: tuple[GpuNode, ...]
    workers: tuple[Worker, ...]
    raycluster: RayCluster | None
    worker_group: WorkerGroup | None
    refusals: tuple[Refusal, ...] = ()
    asked: int = 0

    @property
    def without_gpus(self) -> bool:
        """Whether it is there for its CPU cores."""
        return self.worker_group is not None and not self.worker_group.accelerators

    def size_of(self, node: GpuNode) -> int:
        """Give the accelerators of a node, or its cores in a group that is there for those."""
        return node.cpu_cores if self.without_gpus else node.accelerator_count


def troubles(view: GroupView, settings: KubernetesSettings, now_s: float) -> tuple[Trouble, ...]:
    """Name everything that is wrong, the gravest first.

    Args:
        view: what was seen.
        settings: deadlines, and the names to put into the lines.
        now_s: seconds since the epoch.

    """
    if view.raycluster is None or view.worker_group is None:
        return (Trouble(Kind.CONFIGURATION, _no_group(view, settings)),)
    if view.raycluster.suspended or view.worker_group.suspended:
        line = f"group {view.name!r}: is suspended; set suspend to false in {_object(settings)}"
        return (Trouble(Kind.CONFIGURATION, line),)
    return (
        *_refused(view, view.raycluster, view.worker_group, settings, now_s),
        *_waiting(view, settings, now_s),
        *_failing(view, settings),
        *_unready(view, settings, now_s),
        *_ceiling(view, view.worker_group, settings),
    )


def _object(settings: KubernetesSettings) -> str:
    return f"RayCluster {settings.owner}"


def _no_group(view: GroupView, settings: KubernetesSettings) -> str:
    if view.raycluster is None:
        return f"group {view.name!r}: there is no {_object(settings)}; create it, or name another"
    known = ", ".join(group.name for group in view.raycluster.groups) or "none"
    return (
        f"group {view.name!r}: {_object(settings)} has no worker group of that name (it has:"
        f" {known}); add one, or rename the group"
    )


def _refused(
    view: GroupView,
    raycluster: RayCluster,
    group: WorkerGroup,
    settings: KubernetesSettings,
    now_s: float,
) -> Iterator[Trouble]:
    """See what KubeRay says of pods that it could not make, while some are missing."""
    if len(view.workers) >= group.replicas * group.hosts:
        return
    recent = (each for each in view.refusals if now_s - each.at_s <= settings.boot_deadline_s)
    newest = max(
        (each for each in recent if _concerns(each.message, view, raycluster)), default=None
    )
    said = raycluster.failure if _concerns(raycluster.failure, view, raycluster) else ""
    said = said or (newest.message if newest else "")
    if _QUOTA in said:
        why = _WHY.findall(said)[0]
        yield Trouble(
            Kind.QUOTA,
            f"group {view.name!r}: namespace {settings.namespace!r} refuses another worker"
            f" ({why}); raise that ResourceQuota, or lower maxReplicas of the worker group",
        )
    elif said:
        yield Trouble(
            Kind.REFUSED,
            f"group {view.name!r}: KubeRay cannot make a worker ({said}); correct the worker"
            f" group's template in {_object(settings)}",
        )


def _concerns(said: str, view: GroupView, raycluster: RayCluster) -> bool:
    """Whether words about a pod that was not made are of this group, or of none in particular."""
    found = _POD.search(said)
    if found is None:
        return bool(said)
    prefix, name = found[1], f"{raycluster.name}-{view.name}".lower()
    return prefix == name or (len(prefix) >= _LEAST_CUT and name.startswith(prefix))


def _waiting(view: GroupView, settings: KubernetesSettings, now_s: float) -> Iterator[Trouble]:
    """See which workers have waited too long for a node."""
    late = [each for each in view.workers if waits_too_long(each, settings, now_s)]
    gated = [each for each in late if each.gated]
    if len(late) > len(gated):
        said = next((each.waits_why for each in late if not each.gated and each.waits_why), "")
        yield Trouble(
            Kind.NO_CAPACITY,
            f"group {view.name!r}: no node has room for {len(late) - len(gated)} of its workers"
            f" ({said or 'the scheduler has not said why'}); add nodes that its workers fit on,"
            " or lower what a worker asks for",
        )
    if gated:
        yield Trouble(
            Kind.GATED,
            f"group {view.name!r}: {len(gated)} of its workers wait behind a scheduling gate"
            " (Kueue, perhaps); have them admitted",
        )


def waits_too_long(worker: Worker, settings: KubernetesSettings, now_s: float) -> bool:
    """Whether a worker has no node, and is not to get one soon."""
    return not worker.node and now_s - worker.waits_since_s > settings.no_capacity_after_s


def _failing(view: GroupView, settings: KubernetesSettings) -> Iterator[Trouble]:
    """See which workers have a node and do not run on it."""
    faults = [(each, fault) for each in view.workers for fault in each.faults]
    image = next(((pod, each) for pod, each in faults if each.reason in _NO_IMAGE), None)
    if image is not None:
        pod, fault = image
        yield Trouble(
            Kind.IMAGE,
            f"group {view.name!r}: image {fault.image!r} of worker {pod.name} is not to be had"
            f" ({_said(fault)}); correct the image, or the imagePullSecrets, of the worker group"
            f" in {_object(settings)}",
        )
    crash = next(((pod, each) for pod, each in faults if _crashes(each)), None)
    if crash is not None:
        pod, fault = crash
        yield Trouble(
            Kind.CRASH,
            f"group {view.name!r}: worker {pod.name} does not stay up, {fault.restarts} restarts"
            f" so far ({_said(fault)}); see: kubectl logs -n {settings.namespace} {pod.name}"
            " --previous",
        )


def _crashes(fault: ContainerFault) -> bool:
    if fault.reason in _NO_IMAGE:
        return False
    return fault.reason in _NO_START or fault.reason == _CRASH or fault.restarts >= _RESTARTS


def _said(fault: ContainerFault) -> str:
    return f"{fault.reason}: {fault.message}" if fault.message else fault.reason


def _unready(view: GroupView, settings: KubernetesSettings, now_s: float) -> Iterator[Trouble]:
    """See which nodes should long be usable and are not."""
    for node in view.nodes:
        for_s = now_s - node.since_s
        if node.cordoned or for_s <= settings.boot_deadline_s:
            continue
        if not node.ready:
            yield Trouble(
                Kind.NODE,
                f"group {view.name!r}: node {node.name} has not been ready for {for_s:.0f} s"
                f" ({node.why}); repair its kubelet, or delete the node",
            )
        elif not view.size_of(node):
            yield Trouble(
                Kind.NODE,
                f"group {view.name!r}: node {node.name} is ready and offers no GPU; see whether"
                " NVIDIA's device plugin runs on it",
            )


def _ceiling(
    view: GroupView, group: WorkerGroup, settings: KubernetesSettings
) -> Iterator[Trouble]:
    """See whether more was asked for than the operator allows."""
    per_node = settings.groups[view.name].workers_per_node
    most = group.max_replicas * group.hosts // per_node
    if view.asked > most:
        yield Trouble(
            Kind.CEILING,
            f"group {view.name!r}: {view.asked} nodes are asked for and maxReplicas of"
            f" {group.max_replicas} allows {most}; raise it in {_object(settings)}, or lower"
            " max_nodes",
        )
