"""How Ray Serve's handles choose a replica: they honour the choice that was made already.

Its own module, small and free of state, because Ray pickles the class by value into
every process that holds a handle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

if TYPE_CHECKING:
    from collections.abc import Sequence


class LeaseRouter(RequestRouter):
    """Sends a call to the replica named by its `target` keyword argument.

    With `strict` it goes there or nowhere. Else, where that replica is gone or full, the
    ones named by `fallback` follow in their order, then any other. Calls without a
    target may go anywhere.
    """

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Rank the candidates: the target, its fallbacks in order, all others."""
        kwargs = {}
        if pending_request is not None:
            kwargs = pending_request.kwargs
            # All ranks are given at once: if none can take it, Ray is to wait before it asks again.
            pending_request.routing_context.should_backoff = True
        wanted = (kwargs.get("target"), *kwargs.get("fallback", ()))
        known = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        ranked = [[known.pop(name)] for name in wanted if name in known]
        if kwargs.get("strict"):
            return ranked
        return [*ranked, list(known.values())]

    def update_replicas(self, replicas: Sequence[RunningReplica]) -> None:
        """Take the new set of running replicas, and tell the gateway in this process."""
        from serve.membership import MEMBERSHIP

        super().update_replicas(list(replicas))
        MEMBERSHIP.publish(
            self._deployment_id.name,
            {replica.replica_id.unique_id: replica.node_id for replica in replicas},
        )
