"""Ray Serve's handles, as the gateway calls engine replicas through them.

Its own module because it is all that the gateway's books know of Ray, and none of
them has to import it.
"""

from __future__ import annotations

from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any

from ray.serve.exceptions import RayServeException

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ray.serve.handle import DeploymentHandle, DeploymentResponse

    from scheduler.leases import Lease
    from scheduler.requests import ReplicaId
    from serve.engine import EngineRequest
    from serve.frames import Frame


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

    async def wake(self) -> None:
        """Return once a replica has answered; from then on Ray tells of every change."""
        try:
            await _detached(self._unary.ready.remote)
        except RayServeException:
            # The answer does not matter: asking is what makes Ray's router follow the deployment.
            return


def _detached(remote: Callable[..., Any], *args: object, **kwargs: object) -> Any:  # noqa: ANN401
    """Make a call of a handle outside the request that it is made for.

    Inside, Ray gives every call the identity of that request; when two of them wait for
    a replica at the same time, its router takes the one for the other and spins.
    """
    return Context().run(partial(remote, *args, **kwargs))
