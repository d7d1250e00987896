"""Ray Serve's handles, as the gateway calls engine replicas through them.

Its own module because it is all that the gateway's books know of Ray, and none of
them has to import it.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serve.errors import NoReplicaError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ray.serve.handle import DeploymentHandle, DeploymentResponse

    from scheduler.leases import Lease
    from scheduler.requests import ReplicaId
    from serve.engine import EngineRequest
    from serve.frames import Frame
    from serve.plan_news import GatewayNews, Planned, PlanNews

# A proposal waits for the plan that is being made, and takes as long again.
PROPOSE_LIMIT_S = 10.0


class RayEngineHandle:
    """Implements `engines.EngineHandle` over the handle of one variant's deployment."""

    def __init__(self, handle: DeploymentHandle) -> None:
        """Call the deployment of this handle, by value: nothing goes through the object store."""
        self._unary = handle.options(_by_reference=False)
        self._streaming = handle.options(stream=True, _by_reference=False)

    async def frames(self, gateway: str, replica: ReplicaId) -> AsyncIterator[Frame]:
        """Stream the frames of one replica; closing the iterator tells the replica."""
        frames = self._streaming.frames
        response = _detached(frames.remote, gateway, target=replica, strict=True)
        try:
            async for frame in response:
                yield frame
        finally:
            response.cancel()

    def generate(
        self, request: EngineRequest, lease: Lease, gateway: str, fallback: list[ReplicaId]
    ) -> DeploymentResponse:
        """Submit a request to the lease's replica, else to the first fallback that can."""
        return _detached(
            self._unary.generate.remote,
            request,
            lease.lease_id,
            gateway,
            target=lease.replica,
            fallback=fallback,
        )


class RayPlannerHandle:
    """The planner, as gateways call it."""

    def __init__(self, handle: DeploymentHandle) -> None:
        """Call the planner's deployment by value."""
        self._handle = handle.options(_by_reference=False)

    async def exchange(self, news: GatewayNews) -> PlanNews:
        """Tell what was seen, and hear what is planned."""
        answer: PlanNews = await _detached(self._handle.exchange.remote, news)
        return answer

    async def propose(self) -> Planned:
        """Have a plan made that nobody carries out.

        Raises:
            NoReplicaError: the planner does not answer.

        """
        try:
            async with asyncio.timeout(PROPOSE_LIMIT_S):
                proposed: Planned = await _detached(self._handle.propose.remote)
        except (RayError, RayServeException, TimeoutError) as error:
            raise NoReplicaError("the planner does not answer; try again later") from error
        return proposed


def _detached(remote: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: ANN401
    """Make a call of a handle outside the request that it is made for.

    Inside, Ray gives every call the identity of that request; when two of them wait for
    a replica at the same time, its router takes the one for the other and spins.
    """
    return Context().run(partial(remote, *args, **kwargs))
