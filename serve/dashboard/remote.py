"""A dashboard of its own for any gateway that speaks gRPC, live or virtual.

Its own module because here the page is served beside the cluster: where its HTTP is not to be
reached, where nobody should look through a gateway, or where there is no cluster at all.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette
from starlette.responses import RedirectResponse
from starlette.routing import Route

from protos.jouleserve.client import AsyncClient, UnattainableError
from serve.cluster_record import ClusterError
from serve.dashboard.broadcast import Broadcast
from serve.dashboard.snapshot import DECISIONS, Snapshot
from serve.dashboard.web import INDEX, Dashboard

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from protos.jouleserve.client import Plan

ANSWER_LIMIT_S = 4.0
# A page that is open does not keep the command from ending.
_CLOSE_S = 1


class RemoteSource:
    """Takes snapshots by asking a gateway."""

    def __init__(self, client: AsyncClient, clock: Callable[[], float] = time.monotonic) -> None:
        """Ask nothing yet.

        Args:
            client: of the gateway.
            clock: monotonic seconds.

        """
        self._client = client
        self._clock = clock

    async def take(self) -> Snapshot:
        """Ask for everything at once; raises JouleserveClientError."""
        status, plan, models = await asyncio.gather(
            self._client.status(decisions=DECISIONS), self._plan(), self._client.models()
        )
        return Snapshot(self._clock(), status, plan, models)

    async def _plan(self) -> Plan | None:
        """Ask for the plan; None where the cluster has no planner."""
        try:
            return await self._client.plan()
        except UnattainableError:
            return None


def application(dashboard: Dashboard) -> Starlette:
    """Serve the page where a gateway has it, and lead there from the root."""

    async def index(request: Request) -> Response:
        return dashboard.file(INDEX, request.headers)

    async def events(_: Request) -> Response:
        return dashboard.events()

    async def file(request: Request) -> Response:
        return dashboard.file(request.path_params["name"], request.headers)

    async def root(_: Request) -> Response:
        return RedirectResponse("dashboard")

    return Starlette(
        routes=[
            Route("/", root),
            Route("/dashboard", index),
            Route("/dashboard/events", events),
            Route("/dashboard/{name}", file),
        ]
    )


def serve_for(address: str, host: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve a dashboard of a gateway until interrupted.

    Args:
        address: host and port of the gateway's gRPC.
        host: to listen on.
        port: to listen on; 0 takes a free one.
        ready: told the port once it listens.

    Raises:
        ClusterError: host and port cannot be listened on.

    """

    async def run() -> None:
        async with AsyncClient(address, timeout_s=ANSWER_LIMIT_S) as client:
            await _serve(client, host, port, ready)

    asyncio.run(run())


async def _serve(client: AsyncClient, host: str, port: int, ready: Callable[[int], None]) -> None:
    dashboard = Dashboard(Broadcast(RemoteSource(client).take))
    settings = uvicorn.Config(
        application(dashboard),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_CLOSE_S,
    )
    server = uvicorn.Server(settings)
    try:
        listener = settings.bind_socket()
    except SystemExit as error:  # It has logged why.
        raise ClusterError(
            f"{host}:{port} cannot be listened on: give another --port, or 0 for a free one"
        ) from error
    ready(listener.getsockname()[1])
    try:
        await server.serve([listener])
    finally:
        dashboard.close()
        listener.close()
