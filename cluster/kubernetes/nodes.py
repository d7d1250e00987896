"""Nodes as Kubernetes knows them, and the worker groups of a RayCluster to ask for more.

Its own module because it is the provider that the planner holds: what it says is computed by
the pure modules beside it, out of what the mirrors saw, and it writes what they decide.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cluster.kubernetes import consolidation, cordons, reading
from cluster.kubernetes.api import KubernetesApi
from cluster.kubernetes.errors import ApiMissingError, NotManagedError
from cluster.kubernetes.mirror import Mirror
from cluster.kubernetes.states import Sight, states
from cluster.kubernetes.writer import Writer
from cluster.nodes import GroupState, NodesUnknownError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.kubernetes.objects import GpuNode, RayCluster, Refusal, Worker
    from cluster.kubernetes.settings import KubernetesSettings
    from scheduler.plans import NodeGroupName

logger = logging.getLogger("jouleserve.cluster")


def connect(settings: KubernetesSettings) -> KubernetesNodes:
    """Begin to watch a cluster; takes a second or two, for the client library is large.

    Raises:
        NodesUnknownError: nothing says where the cluster is.

    """
    nodes = KubernetesNodes(settings, KubernetesApi(settings))
    nodes.start()
    return nodes


class KubernetesNodes:
    """Implements `nodes.NodeProvider` over Kubernetes nodes and one RayCluster of KubeRay."""

    def __init__(
        self,
        settings: KubernetesSettings,
        api: KubernetesApi,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Know nothing yet; nothing is asked for.

        Args:
            settings: which cluster, which nodes, how patient to be.
            api: to be called; closed with this.
            clock: seconds since the epoch, as the API server's clock has it.

        """
        self._settings = settings
        self._api = api
        self._clock = clock
        self._asked: dict[NodeGroupName, int] = {}
        self._writer = Writer(settings, api)
        self._writing = threading.RLock()
        self._cordoned: set[str] = set()
        self._closed = False
        self._nodes: Mirror[GpuNode] = Mirror("nodes", api.nodes(), reading.node, settings)
        self._workers: Mirror[Worker] = Mirror("pods", api.workers(), reading.worker, settings)
        self._events: Mirror[Refusal | None] = Mirror(
            "events", api.events(), reading.refusal, settings
        )
        self._rayclusters: Mirror[RayCluster] = Mirror(
            "rayclusters", api.rayclusters(), reading.raycluster, settings
        )

    def start(self) -> None:
        """Begin to watch."""
        for mirror in self._mirrors():
            mirror.start()

    # ── see ─────────────────────────────────────────────────────────────────

    def observe(self) -> Mapping[NodeGroupName, GroupState]:
        """Give the state of every group, from memory; only the very first call may wait.

        Raises:
            NodesUnknownError: what is known is too old.

        """
        self._wait_for_the_first()
        clusters = self._rayclusters.objects()
        sight = Sight(
            observed_at_s=self._clock(),
            nodes=self._nodes.objects(),
            workers=self._workers.objects(),
            raycluster=clusters[0] if clusters else None,
            refusals=tuple(each for each in self._events.objects() if each is not None),
        )
        return states(sight, self._settings, self._asked)

    def nodes(self) -> tuple[GpuNode, ...]:
        """Give the nodes of all groups, with zone, price and carbon region.

        Raises:
            NodesUnknownError: what is known is too old.

        """
        self._wait_for_the_first()
        selectors = [group.selector for group in self._settings.groups.values()]
        return tuple(
            node
            for node in self._nodes.objects()
            if any(node.matches(selector) for selector in selectors)
        )

    def workers_on(self, node: str) -> tuple[str, ...]:
        """Name the workers that are on a node; it is empty when there is none.

        Raises:
            NodesUnknownError: what is known is too old.

        """
        self._wait_for_the_first()
        return tuple(
            each.name for each in self._workers.objects() if each.node == node and not each.ending
        )

    def age_s(self) -> float:
        """Give the age of the oldest of what is known; infinite before the first answer."""
        return max(mirror.age_s() for mirror in self._mirrors())

    def _wait_for_the_first(self) -> None:
        deadline_s = time.monotonic() + self._settings.request_timeout_s
        for mirror in self._mirrors():
            mirror.wait(max(0.0, deadline_s - time.monotonic()))

    def _mirrors(self) -> tuple[Mirror[Any], ...]:
        return (self._nodes, self._workers, self._events, self._rayclusters)

    # ── ask ─────────────────────────────────────────────────────────────────

    def ask(self, nodes: Mapping[NodeGroupName, int]) -> None:
        """Have the worker groups keep at least as many workers as fill that many nodes.

        Nodes beyond those are closed once they are empty, and opened again when they are wanted.
        A group that is not named goes back to the operator's own floor.

        Raises:
            NotManagedError: the RayCluster is not marked as ours.
            NodesUnknownError: the API server does not answer, or refuses.

        """
        wanted = {name: nodes[name] for name in self._settings.groups if name in nodes}
        with self._writing:
            if self._closed:
                return
            self._writer.floors(wanted)
            self._asked = wanted
            self._consolidate(wanted)

    def cordon(self, node: str) -> bool:
        """Close a node to new pods; what runs there stays.

        Returns:
            whether it is closed by us; False where somebody else has closed it before.

        Raises:
            NotManagedError: the node is not marked as ours.
            NodesUnknownError: the API server does not answer, or refuses.

        """
        with self._writing:
            closed = self._writer.node(node, cordons.cordon)
            if closed:
                self._cordoned.add(node)
            return closed

    def uncordon(self, node: str) -> None:
        """Open a node that we have closed; one that somebody else has closed stays closed.

        Raises:
            NotManagedError: the node is not marked as ours.
            NodesUnknownError: the API server does not answer, or refuses.

        """
        with self._writing:
            self._writer.node(node, cordons.uncordon)
            self._cordoned.discard(node)

    def close(self) -> None:
        """Give back the operator's floors, open what we closed, and stop watching."""
        with self._writing:
            if self._closed:
                return
            self._closed = True
            try:
                self._withdraw()
            except NodesUnknownError as error:
                logger.warning("what was asked of Kubernetes could not be withdrawn: %s", error)
        for mirror in self._mirrors():
            mirror.end()
        deadline_s = time.monotonic() + self._settings.close_deadline_s
        for mirror in self._mirrors():
            if not mirror.join(max(0.0, deadline_s - time.monotonic())):
                logger.warning("a watch goes on for longer than its deadline; it is left alone")
        self._api.close()

    def _withdraw(self) -> None:
        owner = self._settings.owner
        with suppress(NotManagedError):
            self._writer.floors({})
        seen = {each.name for each in self._nodes.objects() if cordons.is_ours(each, owner)}
        for name in sorted(seen | self._cordoned):
            with suppress(NotManagedError, ApiMissingError):
                self._writer.node(name, cordons.uncordon)

    def _consolidate(self, wanted: Mapping[NodeGroupName, int]) -> None:
        """Close and open nodes as far as is known; what has changed since is for the next turn."""
        self._wait_for_the_first()
        clusters = self._rayclusters.objects()
        groups = {group.name: group for group in clusters[0].groups} if clusters else {}
        workers = [worker for worker in self._workers.objects() if worker.node]
        for name, count in wanted.items():
            settings, group = self._settings.groups[name], groups.get(name)
            if group is None:
                continue
            chosen = consolidation.turn(
                [node for node in self._nodes.objects() if node.matches(settings.selector)],
                workers,
                consolidation.needed(group, count, settings.workers_per_node),
                self._settings.owner,
            )
            with suppress(NotManagedError, ApiMissingError):
                for node in chosen.opening:
                    self.uncordon(node)
                for node in chosen.closing:
                    self.cordon(node)
