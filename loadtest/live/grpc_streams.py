"""gRPC calls whose replies are streams of messages, as cheaply as Python can.

A general client hands each message from thread to thread, and encodes each request's headers
anew. Here both ends of a call are in the event loop, and what all calls have in common is
encoded once.

Its own module because it spreads calls over connections; what goes over one is a matter of
`loadtest.live.grpc_connection`.
"""

from __future__ import annotations

import asyncio
import math
import os
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from hpack import Encoder, NeverIndexedHeaderTuple

from loadtest.live.grpc_call import Call
from loadtest.live.grpc_connection import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.live.grpc_call import Listener

CONNECT_S = 20.0
# Names the certificates that gRPC trusts in place of its own; whoever asks the status heeds it too.
ROOTS = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"
# A deadline has eight digits at most.
_LONGEST_MS = 99_999_999


class Endpoint(NamedTuple):
    """What calls have in common.

    Attributes:
        host: to connect to.
        port: the same.
        tls: None is plain text.
        headers: of every call but its deadline, in order.

    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    headers: tuple[tuple[str, str], ...]


def endpoint(address: str, method: str, metadata: Mapping[str, str], *, tls: bool) -> Endpoint:
    """Prepare calls of one method.

    Args:
        address: host and port.
        method: with its service, as `/package.Service/Method`.
        metadata: of every call.
        tls: whether the server wants it.

    """
    parts = urlsplit(f"//{address}")
    headers = {
        ":method": "POST",
        ":scheme": "https" if tls else "http",
        ":path": method,
        ":authority": address,
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "jouleserve-loadtest",
        **metadata,
    }
    context = None
    if tls:
        context = ssl.create_default_context(cafile=os.environ.get(ROOTS))
        context.set_alpn_protocols(["h2"])
    return Endpoint(parts.hostname or "", parts.port or 443, context, tuple(headers.items()))


class Connections:
    """Connections to one endpoint, as many as its streams need."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._open: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deadline_s = math.nan
        self._head = b""

    def send(self, body: bytes, deadline_s: float, listener: Listener) -> Call:
        """Send a request now.

        Args:
            body: its message.
            deadline_s: from now; the server is told.
            listener: to hear of the reply.

        Returns:
            what cancels it, after which its listener hears nothing.

        """
        if deadline_s != self._deadline_s:
            self._deadline_s, self._head = deadline_s, self._encoded(deadline_s)
        call = Call(self, self._head, body, deadline_s, listener)
        self.place(call)
        listener.sent(time.monotonic())
        return call

    async def close(self) -> None:
        """Close all of them."""
        for connection in tuple(self._open):
            connection.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def place(self, call: Call) -> None:
        """Give a call to the connection with the fewest streams; open another if all are full."""
        roomy = (each for each in self._open if each.has_room)
        connection = min(roomy, key=lambda each: each.streams, default=None)
        if connection is None:
            connection = Connection(self)
            self._open.add(connection)
            task = asyncio.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection.begin(call)

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)

    async def _connect(self, connection: Connection) -> None:
        loop, place = asyncio.get_running_loop(), self._endpoint
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.create_connection(
                    lambda: connection, place.host, place.port, ssl=place.tls
                )
        except TimeoutError:
            connection.fail(f"no connection within {CONNECT_S:g} s")
        except OSError as error:
            connection.fail(f"no connection: {error.strerror or error}")

    def _encoded(self, deadline_s: float) -> bytes:
        """Encode the headers so that they leave no trace in the peer's table of headers."""
        milliseconds = min(_LONGEST_MS, math.ceil(deadline_s * 1000))
        headers = (*self._endpoint.headers, ("grpc-timeout", f"{milliseconds}m"))
        each = [NeverIndexedHeaderTuple(*header) for header in headers]
        return Encoder().encode(each, huffman=False)
