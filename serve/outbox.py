"""What a replica still has to send to one gateway: merged per stream, emptied frame by frame.

Its own module because its laws (nothing lost, repeated or reordered, however slowly the
gateway reads) hold for any engine and any transport, and are tested without either.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import NamedTuple

from serve.engine import EngineDelta
from serve.frames import RequestEnergy, StreamFrame


class Taken(NamedTuple):
    """Everything that an outbox held at one moment.

    Attributes:
        accepted: streams accepted since the previous one.
        streams: in the order in which each first had something.
        dropped: what streams have used that did not finish.

    """

    accepted: list[int]
    streams: list[StreamFrame]
    dropped: tuple[tuple[int, RequestEnergy], ...] = ()


class Outbox:
    """Buffers the streams of one gateway until its frames are taken.

    A stream is open from `accept` until its last delta, its failure or its drop. While
    the reader lags, deltas of a stream merge into one, so that memory is bounded by
    the tokens that it has not read.
    """

    def __init__(self) -> None:
        self._open: set[int] = set()
        self._accepted: dict[int, None] = {}  # A set that keeps its order.
        self._pending: dict[int, StreamFrame] = {}
        self._dropped: list[tuple[int, RequestEnergy]] = []
        self._filled = asyncio.Event()
        self._turn = 0

    @property
    def open_streams(self) -> int:
        """Streams that may still put something."""
        return len(self._open)

    def accept(self, stream: int) -> None:
        """Open a stream and announce it with the next frame.

        Raises:
            ValueError: the stream is open, or its end has not been taken yet.

        """
        if stream in self._open or stream in self._pending:
            raise ValueError(f"stream {stream} is in use; give every request its own number")
        self._open.add(stream)
        self._accepted[stream] = None
        self._filled.set()

    def put(self, stream: int, delta: EngineDelta, energy: RequestEnergy | None = None) -> None:
        """Append to an open stream; a delta that finishes it closes it.

        Raises:
            KeyError: the stream is not open.

        """
        if stream not in self._open:
            raise KeyError(stream)
        if delta.finish is not None:
            self._open.remove(stream)
        self._append(stream, delta, energy, None)

    def fail(self, stream: int, error: tuple[str, str]) -> None:
        """Close an open stream with an error, after what it has put so far.

        Raises:
            KeyError: the stream is not open.

        """
        self._open.remove(stream)
        self._append(stream, None, None, error)

    def drop(self, stream: int) -> None:
        """Forget an open stream with all that was not taken; does nothing for others."""
        if stream in self._open:
            self._open.remove(stream)
            self._accepted.pop(stream, None)
            self._pending.pop(stream, None)

    def spent(self, stream: int, energy: RequestEnergy) -> None:
        """Say what a stream has used that did not finish; it travels with whatever comes next."""
        self._dropped.append((stream, energy))

    async def take(self, timeout_s: float) -> Taken:
        """Wait until there is something, or until the time is over, and empty the outbox.

        Between the moment that decides what is taken and the return to the caller no
        other task runs: a caller that reads a counter next reads it at that moment.
        A later call takes over; an earlier one that still waits returns with nothing.
        """
        self._turn += 1
        turn = self._turn
        if not self._filled.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._filled.wait()
        # Let all other tasks run that the same engine step has woken: one step, one frame.
        await asyncio.sleep(0)
        if turn != self._turn:
            return Taken([], [])
        taken = Taken(list(self._accepted), list(self._pending.values()), tuple(self._dropped))
        self._dropped.clear()
        self._accepted.clear()
        self._pending.clear()
        self._filled.clear()
        return taken

    def _append(
        self,
        stream: int,
        delta: EngineDelta | None,
        energy: RequestEnergy | None,
        error: tuple[str, str] | None,
    ) -> None:
        waiting = self._pending.get(stream)
        if waiting is not None and waiting.delta is not None:
            delta = waiting.delta if delta is None else merge(waiting.delta, delta)
        self._pending[stream] = StreamFrame(stream, delta, energy, error)
        self._filled.set()


def merge(first: EngineDelta, second: EngineDelta) -> EngineDelta:
    """Join two consecutive deltas of one stream into one."""
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return EngineDelta(
        [*first.token_ids, *second.token_ids],
        first.text + second.text,
        logprobs,
        second.finish,
    )
