"""Writes on the RayCluster and on nodes, repeated while others write in between.

Its own module because every write follows the same steps (read, see whose the object is, patch
that version of it) under one deadline, whatever is written.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from cluster.kubernetes import cordons, floors, reading
from cluster.kubernetes.errors import ApiConflictError, ApiUnreachableError, NotManagedError
from cluster.kubernetes.mirror import backoff
from cluster.kubernetes.objects import MANAGED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.kubernetes.api import KubernetesApi
    from cluster.kubernetes.floors import Operation
    from cluster.kubernetes.objects import GpuNode, RayCluster
    from cluster.kubernetes.settings import KubernetesSettings
    from scheduler.plans import NodeGroupName

logger = logging.getLogger("jouleserve.cluster")

T = TypeVar("T")
Limit: TypeAlias = "Callable[[], float]"
"""Says how long a call may take, the deadline of the whole considered."""
Decision: TypeAlias = "Callable[[GpuNode, str], tuple[Operation, ...]]"

# That a call is given even when the deadline is upon us.
_LEAST_LIMIT_S = 0.1


class Writer:
    """Changes what is marked as ours; one thread at a time."""

    def __init__(self, settings: KubernetesSettings, api: KubernetesApi) -> None:
        """Write nothing yet.

        Args:
            settings: which RayCluster, and how patient to be.
            api: to be called.

        """
        self._settings = settings
        self._api = api
        self._warned = False

    def floors(self, wanted: Mapping[NodeGroupName, int]) -> None:
        """Put floors under the worker groups.

        Args:
            wanted: nodes by group; one that is not named goes back to the operator's own floor.

        Raises:
            NotManagedError: the RayCluster is not marked as ours.
            NodesUnknownError: the API server does not answer, or refuses.

        """
        settings = self._settings

        def write(limit: Limit) -> None:
            found = reading.raycluster(self._api.raycluster(limit()))
            if not found.managed:
                raise NotManagedError(
                    f"RayCluster {settings.owner} is not ours to change; to let it scale: kubectl"
                    f" annotate raycluster -n {settings.namespace} {settings.raycluster}"
                    f" {MANAGED}=true"
                )
            self._warn_of_no_autoscaler(found, wanted)
            operations = floors.patch(found, settings.groups, wanted)
            if operations:
                self._api.patch_raycluster(operations, limit())
                logger.info("floors of RayCluster %s: %s", settings.owner, dict(wanted))

        self._again(write)

    def _warn_of_no_autoscaler(
        self, found: RayCluster, wanted: Mapping[NodeGroupName, int]
    ) -> None:
        if not found.autoscaled and any(wanted.values()) and not self._warned:
            self._warned = True
            logger.warning(
                "RayCluster %s has enableInTreeAutoscaling off: workers that are asked for come,"
                " and nobody takes them away again",
                self._settings.owner,
            )

    def node(self, name: str, decide: Decision) -> bool:
        """Write on a node what `cordons.cordon` or `cordons.uncordon` makes of it.

        Returns:
            whether it is closed by us afterwards.

        Raises:
            NotManagedError: the node is not marked as ours.
            NodesUnknownError: the API server does not answer, or refuses.

        """

        def write(limit: Limit) -> bool:
            found = reading.node(self._api.node(name, limit()))
            if not found.managed:
                raise NotManagedError(
                    f"node {name} is not ours to change; to let it be emptied:"
                    f" kubectl annotate node {name} {MANAGED}=true"
                )
            operations = decide(found, self._settings.owner)
            if operations:
                self._api.patch_node(name, operations, limit())
                logger.info("node %s: %s", name, decide.__name__)
                return decide is cordons.cordon
            return cordons.is_ours(found, self._settings.owner)

        return self._again(write)

    def _again(self, write: Callable[[Limit], T]) -> T:
        """Read and write again while others write in between, up to a deadline."""
        deadline_s = time.monotonic() + self._settings.ask_deadline_s

        def limit() -> float:
            left_s = deadline_s - time.monotonic()
            return max(_LEAST_LIMIT_S, min(left_s, self._settings.request_timeout_s))

        pauses = backoff(self._settings.backoff_s, self._settings.backoff_limit_s)
        while True:
            try:
                return write(limit)
            except (ApiConflictError, ApiUnreachableError) as error:
                pause_s = next(pauses)
                if time.monotonic() + pause_s >= deadline_s:
                    raise
                logger.debug("once more in %.1f s: %s", pause_s, error)
                time.sleep(pause_s)
