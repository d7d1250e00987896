"""Nodes by group: how many there are, what keeps others from coming, and how many to have.

Its own module because the planner counts nodes and must not know whether Ray alone, or
Kubernetes under it, brings them; each provider is a module of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.plans import NodeGroupName


@dataclass(frozen=True, slots=True)
class GroupState:
    """The nodes of one group at one instant.

    Attributes:
        ready: that replicas can start on.
        booting: asked for and not ready yet.
        trouble: why nodes that were asked for do not come; empty while nothing is wrong.
        accelerators_per_node: of the largest that is ready, CPU cores in a group without GPUs;
            0 where that is not known.

    """

    ready: int = 0
    booting: int = 0
    trouble: str = ""
    accelerators_per_node: int = 0


class NodeProvider(Protocol):
    """Whoever knows of nodes, and has them switched on and off."""

    def observe(self) -> Mapping[NodeGroupName, GroupState]:
        """Give the state of every group; blocks no longer than a deadline of its own.

        Raises:
            NodesUnknownError: whoever is asked does not answer; serving goes on without.

        """

    def ask(self, nodes: Mapping[NodeGroupName, int]) -> None:
        """Have at least that many nodes of each group on; the others may go once empty.

        Raises:
            NodesUnknownError: whoever is asked does not answer.

        """

    def close(self) -> None:
        """Withdraw what was asked for, and hold nothing any more."""


class NodesUnknownError(Exception):
    """Nodes can neither be seen nor asked for at the moment; says why."""
