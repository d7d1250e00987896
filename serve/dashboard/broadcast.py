"""One snapshot a second for everybody who looks, and none while nobody does.

Its own module because it bounds what looking may cost: listeners are counted, each has its end,
a slow one skips to the newest instead of being queued for, and all share what was computed once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from serve.dashboard.merge_patch import difference
from serve.dashboard.snapshot import document
from serve.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable

    from serve.dashboard.snapshot import Json, Snapshot

logger = logging.getLogger("jouleserve.serve")

PERIOD_S = 1.0
# A snapshot that takes longer than this is not worth waiting for.
TAKE_LIMIT_S = 5.0
MAX_LISTENERS = 32
# Then a listener comes again, maybe to another gateway: none may keep this one from leaving.
LIFE_S = 60.0


class News(NamedTuple):
    """What a listener is told.

    Attributes:
        event: "snapshot" for a whole document, "patch" for its difference from the one before,
            "trouble" where none could be had, "again" when the listener is to come again.
        data: JSON.

    """

    event: str
    data: str


class _Frame(NamedTuple):
    """A document by its number, as its listeners get it."""

    number: int
    whole: dict[str, Json]
    patch: str
    trouble: str


class Broadcast:
    """Takes snapshots as long as somebody listens."""

    def __init__(
        self,
        take: Callable[[], Awaitable[Snapshot]],
        *,
        period_s: float = PERIOD_S,
        max_listeners: int = MAX_LISTENERS,
        life_s: float = LIFE_S,
    ) -> None:
        """Take none yet.

        Args:
            take: gives a snapshot; whatever it raises is told to the listeners.
            period_s: between two snapshots.
            max_listeners: at a time.
            life_s: longest that one listens before it has to come again.

        """
        self._take = take
        self._period_s = period_s
        self._max_listeners = max_listeners
        self._life_s = life_s
        self._listeners = 0
        self._frame = _Frame(0, {}, "", "")
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def listeners(self) -> int:
        """How many there are."""
        return self._listeners

    def admit(self) -> None:
        """Look whether one more may listen.

        Raises:
            OverloadedError: there are as many as there may be.

        """
        if self._listeners >= self._max_listeners:
            raise OverloadedError(
                f"{self._listeners} dashboards are open on this gateway, the most that it serves:"
                " close one"
            )

    async def listen(self) -> AsyncGenerator[News, None]:
        """Give the whole document first, then what changes; it ends by itself."""
        self.admit()
        self._listeners += 1
        ends_at_s = time.monotonic() + self._life_s
        try:
            self._start()
            told = held = 0  # The frame that it was told of last, and the one that it holds.
            while (left_s := ends_at_s - time.monotonic()) > 0:
                frame, news = self._frame, self._news
                if frame.number > told and (frame.whole or frame.trouble):
                    yield _told(frame, held)
                    told, held = frame.number, 0 if frame.trouble else frame.number
                    continue
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await news.wait()
            yield News("again", "{}")
        finally:
            self._listeners -= 1
            if not self._listeners:
                self._stop()

    def close(self) -> None:
        """Take no more snapshots."""
        self._stop()

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="dashboard snapshots")

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        # What the next listener gets is made for it.
        self._frame = _Frame(self._frame.number, {}, "", "")

    async def _run(self) -> None:
        due_s = time.monotonic()
        while True:
            await self._once()
            due_s = max(due_s + self._period_s, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())

    async def _once(self) -> None:
        before = self._frame
        try:
            async with asyncio.timeout(TAKE_LIMIT_S):
                snapshot = await self._take()
            # Written in a thread: it takes milliseconds, and tokens are waiting.
            self._frame = await asyncio.to_thread(_frame, before, snapshot)
        except Exception as error:  # noqa: BLE001 (a page that shows no cause is of no use)
            why = str(error) or type(error).__name__
            logger.warning("dashboard: no snapshot: %s", why)
            self._frame = _Frame(before.number + 1, before.whole, "", why)
        told, self._news = self._news, asyncio.Event()
        told.set()


def _frame(before: _Frame, snapshot: Snapshot) -> _Frame:
    whole = document(snapshot)
    patch = _json(difference(before.whole, whole)) if before.whole else ""
    return _Frame(before.number + 1, whole, patch, "")


def _told(frame: _Frame, held: int) -> News:
    """Give what brings a listener from the frame that it holds (0 for none) to this one."""
    if frame.trouble:
        return News("trouble", _json({"reason": frame.trouble}))
    if held and held == frame.number - 1 and frame.patch:
        return News("patch", frame.patch)
    return News("snapshot", _json(frame.whole))


def _json(value: Json) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
