"""The gateway's end of its one connection to one engine replica.

Its own module because everything that a replica tells a gateway (tokens of all
streams, acceptance, load reports) arrives here, in order, and because the death of
this connection is the death of every stream on it.
"""

from __future__ import annotations

import asyncio
import logging
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from scheduler.requests import ReplicaId, VariantName
    from serve.frames import Frame

logger = logging.getLogger("jouleserve.serve")

RECONNECT_S = (0.1, 0.3, 1.0)


class LinkState(StrEnum):
    """What a gateway may do with a replica."""

    STARTING = "starting"
    AWAKE = "awake"
    DRAINING = "draining"
    LOST = "lost"


class LinkListener(Protocol):
    """Whoever keeps the books about replicas."""

    def received(self, link: Link, frame: Frame) -> None:
        """Take a frame; called in the order in which the replica sent them."""

    def lost(self, link: Link, why: str) -> None:
        """End every stream of that replica: no more frames will come for them."""


class Link:
    """Reads the frames of one replica; connects again whenever the connection breaks."""

    def __init__(
        self,
        replica: ReplicaId,
        variant: VariantName,
        node: str,
        connect: Callable[[], AsyncIterator[Frame]],
        listener: LinkListener,
    ) -> None:
        """Make a link that is not connected yet.

        Args:
            replica: the other end.
            variant: what it serves.
            node: where it runs.
            connect: opens a new stream of frames from it.
            listener: told of every frame and of every loss.

        """
        self.replica = replica
        self.variant = variant
        self.node = node
        self.state = LinkState.STARTING
        self._connect = connect
        self._listener = listener
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Connect, and go on reading until closed."""
        self._task = asyncio.create_task(self._run(), name=f"link {self.replica}")

    def drain(self) -> None:
        """Take no new streams; whoever keeps the books closes the link after the last one."""
        self.state = LinkState.DRAINING

    def resume(self) -> None:
        """Take new streams again, from the next frame on; connect anew if it had broken."""
        self.state = LinkState.STARTING
        if self._task is None or self._task.done():
            self.start()

    def close(self) -> None:
        """Disconnect."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        attempt = 0
        try:
            while True:
                attempt = 0 if await self._read() else attempt + 1
                if self.state is LinkState.DRAINING:
                    return
                self.state = LinkState.LOST
                self._listener.lost(self, "its connection broke")
                await asyncio.sleep(RECONNECT_S[min(attempt, len(RECONNECT_S) - 1)])
        finally:
            self._listener.lost(self, "its connection was closed")

    async def _read(self) -> bool:
        """Read until the connection breaks; tell whether anything came."""
        came = False
        try:
            async for frame in self._connect():
                came = True
                if self.state in (LinkState.STARTING, LinkState.LOST):
                    self.state = LinkState.AWAKE
                self._listener.received(self, frame)
        except Exception as error:  # noqa: BLE001 (whatever broke it, it is broken)
            logger.warning("replica %s: connection broke: %s", self.replica, type(error).__name__)
        return came
