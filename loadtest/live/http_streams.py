"""HTTP/1.1 requests whose replies are streams of events, as cheaply as Python can.

A connection serves one request at a time and is kept for the next. Replies are parsed by
httptools (the parser of Node.js) straight from the transport: no task, no queue and no copy for
each message, which is what a general client spends most of its time on.

Its own module because it knows HTTP and server-sent events, and nothing of models.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast
from urllib.parse import urlsplit

import httptools

if TYPE_CHECKING:
    from collections.abc import Callable

# A server may close a connection that rests; one that has rested longer is not used again.
REST_S = 2.0
_OK = 200
# Of a reply that is no stream: an error, with what it says.
_MOST_BODY_BYTES = 65_536
# Of an event that has not ended; a server that sends none must not fill the memory.
_MOST_EVENT_BYTES = 16 * 1024 * 1024


class Listener(Protocol):
    """Hears of one reply."""

    def sent(self, now_s: float) -> None:
        """Hear that the request is on its way."""

    def event(self, now_s: float, data: bytes) -> None:
        """Hear of one server-sent event."""

    def done(self, now_s: float, status: int, body: bytes) -> None:
        """Hear of the end of the reply; `body` holds what was no event."""

    def lost(self, now_s: float, reason: str) -> None:
        """Hear that there will be no end: no connection, or a broken one."""


class Endpoint(NamedTuple):
    """Where requests go.

    Attributes:
        host: to connect to.
        port: the same.
        tls: None is plain text.
        head: of every request, up to the number of bytes that follow.

    """

    host: str
    port: int
    tls: ssl.SSLContext | None
    head: bytes


def endpoint(url: str, headers: dict[str, str]) -> Endpoint:
    """Prepare requests to a URL."""
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    lines = [
        f"POST {parts.path or '/'} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        *(f"{name}: {value}" for name, value in headers.items()),
        "Content-Length: ",
    ]
    return Endpoint(
        parts.hostname or "",
        parts.port or (443 if secure else 80),
        ssl.create_default_context() if secure else None,
        "\r\n".join(lines).encode(),
    )


class Connections:
    """Connections to one endpoint, as many as there are requests in flight."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._resting: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, body: bytes, deadline_s: float, listener: Listener) -> Callable[[], None]:
        """Send a request now; give what cancels it, after which its listener hears nothing."""
        request = b"%s%d\r\n\r\n%s" % (self._endpoint.head, len(body), body)
        now_s = time.monotonic()
        while self._resting:
            connection = self._resting.pop()
            if connection.usable and now_s - connection.rests_since_s < REST_S:
                connection.begin(request, deadline_s, listener)
                return connection.cancel
            connection.drop()
        attempt = _Attempt(listener)
        task = asyncio.create_task(self._connect(attempt, request, deadline_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return attempt.cancel

    async def close(self) -> None:
        """Close all of them."""
        for connection in tuple(self._open):
            connection.drop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connect(self, attempt: _Attempt, request: bytes, deadline_s: float) -> None:
        loop, place = asyncio.get_running_loop(), self._endpoint
        attempt.listener.sent(time.monotonic())
        try:
            async with asyncio.timeout(deadline_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), place.host, place.port, ssl=place.tls
                )
        except TimeoutError:
            attempt.fail("no connection within the deadline")
            return
        except OSError as error:
            attempt.fail(f"no connection: {error.strerror or error}")
            return
        if attempt.cancelled:
            connection.drop()
            return
        attempt.connection = connection
        connection.begin(request, deadline_s, attempt.listener, first=False)

    def opened(self, connection: _Connection) -> None:
        """Take note of a connection."""
        self._open.add(connection)

    def closed(self, connection: _Connection) -> None:
        """Forget a connection."""
        self._open.discard(connection)

    def rests(self, connection: _Connection) -> None:
        """Keep a connection for the next request."""
        self._resting.append(connection)


class _Attempt:
    """A request whose connection is not there yet."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.connection: _Connection | None = None
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.connection is not None:
            self.connection.cancel()

    def fail(self, reason: str) -> None:
        if not self.cancelled:
            self.listener.lost(time.monotonic(), reason)


class _Connection(asyncio.Protocol):
    """One connection; httptools calls its `on_` methods."""

    def __init__(self, owner: Connections) -> None:
        self.rests_since_s = 0.0
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._listener: Listener | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._now_s = 0.0
        self._partial = b""
        self._stray = b""
        self._streams = False

    # ── of its owner ────────────────────────────────────────────────────────

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def begin(
        self, request: bytes, deadline_s: float, listener: Listener, *, first: bool = True
    ) -> None:
        self._listener = listener
        self._partial = self._stray = b""
        self._parser = httptools.HttpResponseParser(self)
        if self._transport is not None:
            self._transport.write(request)
        if first:
            listener.sent(time.monotonic())
        self._deadline = self._loop.call_later(deadline_s, self._too_late)

    def cancel(self) -> None:
        self._listener = None
        self.drop()

    def drop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self._transport is not None:
            self._transport.abort()

    # ── of the transport ────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        self._owner.opened(self)

    def data_received(self, data: bytes) -> None:
        self._now_s = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(f"no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.closed(self)
        self._lose("the connection broke")

    # ── of the parser ───────────────────────────────────────────────────────

    def on_headers_complete(self) -> None:
        self._streams = self._parser.get_status_code() == _OK

    def on_body(self, body: bytes) -> None:
        listener = self._listener
        if listener is None:
            return
        if not self._streams:
            self._stray = (self._stray + body)[:_MOST_BODY_BYTES]
            return
        if self._partial:
            body = self._partial + body
        *events, self._partial = body.replace(b"\r\n", b"\n").split(b"\n\n")
        for event in events:
            if event.startswith(b"data:"):
                listener.event(self._now_s, event[5:].strip())
        if len(self._partial) > _MOST_EVENT_BYTES:
            self._lose("an event without an end")

    def on_message_complete(self) -> None:
        listener, self._listener = self._listener, None
        if self._deadline is not None:
            self._deadline.cancel()
        if listener is not None:
            rest = self._stray or self._partial
            listener.done(self._now_s, self._parser.get_status_code(), rest)
        if self._parser.should_keep_alive() and self.usable:
            self.rests_since_s = self._now_s
            self._owner.rests(self)
        else:
            self.drop()

    # ── ends before the end ─────────────────────────────────────────────────

    def _too_late(self) -> None:
        self._lose("DEADLINE: the reply was not complete")

    def _lose(self, reason: str) -> None:
        listener, self._listener = self._listener, None
        self.drop()
        if listener is not None:
            listener.lost(time.monotonic(), reason)
