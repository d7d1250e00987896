"""One request's tokens inside the gateway, between the replica's link and the client.

Its own module because it decides how many tokens travel in a message: one while the
client keeps up, all that came meanwhile when it lags.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from serve import errors
from serve.outbox import merge

if TYPE_CHECKING:
    from serve.engine import EngineDelta, EngineFinish
    from serve.errors import JouleserveError
    from serve.frames import RequestEnergy, StreamFrame


class Stream:
    """A queue of deltas that merge while nobody takes them.

    Its size is bounded by the request's max_tokens.
    """

    def __init__(self) -> None:
        self._delta: EngineDelta | None = None
        self._error: JouleserveError | None = None
        self._ready = asyncio.Event()
        self.energy: RequestEnergy | None = None
        self.finish: EngineFinish | None = None

    def deliver(self, frame: StreamFrame) -> None:
        """Add what a frame brought."""
        if frame.delta is not None:
            self._delta = frame.delta if self._delta is None else merge(self._delta, frame.delta)
            self.finish = frame.delta.finish
        if frame.energy is not None:
            self.energy = frame.energy
        self._ready.set()
        if frame.error is not None:
            self.fail(errors.from_wire(*frame.error))

    def fail(self, error: JouleserveError) -> None:
        """End the stream with an error, after what has been pushed before."""
        if self._error is None and self.finish is None:
            self._error = error
            self._ready.set()

    async def take(self) -> EngineDelta:
        """Return all that was pushed since the last take; wait if there is nothing.

        Raises:
            JouleserveError: the stream failed and everything before has been taken.

        """
        await self._ready.wait()
        self._ready.clear()
        delta, self._delta = self._delta, None
        if delta is None:
            if self._error is None:
                message = "a stream was woken with nothing to take"
                raise RuntimeError(message)
            raise self._error
        if self._error is not None:
            self._ready.set()
        return delta
