"""One call of gRPC: its message, who hears of its reply, and how it ends.

Its own module because a call outlives its connection: one that its peer has not looked at goes
to another.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import grpc


class Listener(Protocol):
    """Hears of one reply."""

    def sent(self, now_s: float) -> None:
        """Hear that the request is on its way."""

    def message(self, now_s: float, message: bytes) -> None:
        """Hear of one message."""

    def done(self, now_s: float, code: grpc.StatusCode, details: str) -> None:
        """Hear of the end; UNAVAILABLE is also what no connection and a broken one come to."""


class Placer(Protocol):
    """Finds connections."""

    def place(self, call: Call) -> None:
        """Give a call to a connection that takes more."""


class Carrier(Protocol):
    """A connection, as its calls see it."""

    def reset(self, call: Call) -> None:
        """Tell the peer that nobody waits for the rest of a call."""

    def forget(self, call: Call) -> None:
        """Have nothing more to do with a call."""


class Call:
    """A request in flight; implements `exchanges.Call`.

    Attributes:
        head: its headers, encoded.
        message: its one message, with gRPC's prefix.
        sent_bytes: of the message.
        stream: its number on its connection; 0 before it has begun.
        window_bytes: that its peer would take now.
        http_status: of the reply; 0 before its headers have come.
        partial: what has come of a message that is not complete.

    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_listener",
        "_placed_again",
        "_placer",
        "head",
        "http_status",
        "message",
        "partial",
        "sent_bytes",
        "stream",
        "window_bytes",
    )

    def __init__(
        self, placer: Placer, head: bytes, body: bytes, deadline_s: float, listener: Listener
    ) -> None:
        """Start its deadline.

        Args:
            placer: finds another connection if this is to be tried again.
            head: its headers, encoded.
            body: its message.
            deadline_s: from now.
            listener: to hear of the reply.

        """
        self.head = head
        self.message = b"\0" + len(body).to_bytes(4) + body
        self.sent_bytes = 0
        self.stream = 0
        self.window_bytes = 0
        self.partial = bytearray()
        self.http_status = 0
        self._placer = placer
        self._listener: Listener | None = listener
        self._connection: Carrier | None = None
        self._placed_again = False
        self._deadline = asyncio.get_running_loop().call_later(deadline_s, self._too_late)

    def cancel(self) -> None:
        """Give up; the server is told."""
        if self._listener is not None:
            self._leave(reset=True)

    def placed(self, connection: Carrier) -> None:
        """Take note of the connection that carries it."""
        self._connection = connection

    def heard(self, now_s: float, message: bytes) -> None:
        """Hand on a message."""
        if self._listener is not None:
            self._listener.message(now_s, message)

    def end(self, code: grpc.StatusCode, details: str, *, reset: bool = False) -> None:
        """Hand on the end; only the first counts."""
        listener = self._listener
        if listener is not None:
            self._leave(reset=reset)
            listener.done(time.monotonic(), code, details)

    def refused(self, reason: str) -> None:
        """Try once more elsewhere: the server says that it has not looked at it."""
        if self._placed_again or self._listener is None:
            self.end(grpc.StatusCode.UNAVAILABLE, reason)
            return
        self._placed_again = True
        if self._connection is not None:
            self._connection.forget(self)
        self.stream = self.sent_bytes = 0
        self._placer.place(self)

    def _leave(self, *, reset: bool) -> None:
        self._listener = None
        self._deadline.cancel()
        if self._connection is not None:
            if reset:
                self._connection.reset(self)
            self._connection.forget(self)

    def _too_late(self) -> None:
        self.end(grpc.StatusCode.DEADLINE_EXCEEDED, "the reply was not complete", reset=True)
