"""A link: what state it is in, what it tells the keeper of the books, and that it comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.frames import Frame
from serve.link import Link, LinkState
from tests.gateway_fakes import LARGE, settle

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

REPLICA = ReplicaId("r1")
FRAME = Frame(REPLICA, [], [])
BREAK = RuntimeError("broken")


class Books:
    """Implements `link.LinkListener`."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.losses: list[tuple[LinkState, str]] = []

    def received(self, link: Link, frame: Frame) -> None:
        self.frames.append(frame)

    def lost(self, link: Link, why: str) -> None:
        self.losses.append((link.state, why))


class Line:
    """A link whose replica says, connection by connection, what it is told to."""

    def __init__(self) -> None:
        self.books = Books()
        self.said: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
        self.connections = 0
        self.link = Link(REPLICA, LARGE, "node", self._connect, self.books)

    def state(self) -> LinkState:
        return self.link.state

    async def _connect(self) -> AsyncIterator[Frame]:
        self.connections += 1
        while (said := await self.said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said

    async def say(self, *said: Frame | Exception | None) -> None:
        for each in said:
            self.said.put_nowait(each)
        await settle()


@pytest.fixture
async def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(link_module, "RECONNECT_S", (0.0,))
    line = Line()
    line.link.start()
    await settle()
    return line


@pytest.fixture
def slow_line(monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setattr(link_module, "RECONNECT_S", (10.0,))
    line = Line()
    yield line
    line.link.close()


async def test_it_is_awake_from_the_first_frame_on(line: Line) -> None:
    assert line.state() is LinkState.STARTING
    await line.say(FRAME)
    assert line.state() is LinkState.AWAKE
    assert line.books.losses == []
    line.link.close()


async def test_frames_come_in_order(line: Line) -> None:
    frames = [Frame(REPLICA, [number], []) for number in range(5)]
    await line.say(*frames)
    assert line.books.frames == frames
    line.link.close()


@pytest.mark.parametrize("end", [None, BREAK])
async def test_a_broken_connection_is_told_and_made_again(
    line: Line, end: Exception | None
) -> None:
    await line.say(FRAME, end)
    assert len(line.books.losses) == 1
    assert line.connections == 2
    await line.say(FRAME)
    assert line.state() is LinkState.AWAKE
    assert len(line.books.frames) == 2
    line.link.close()


async def test_while_it_is_broken_it_is_lost(slow_line: Line) -> None:
    slow_line.link.start()
    await slow_line.say(FRAME, None)
    assert slow_line.state() is LinkState.LOST
    assert slow_line.books.losses[0][0] is LinkState.LOST
    assert slow_line.connections == 1


async def test_a_replica_that_is_never_there_is_tried_again_and_again(line: Line) -> None:
    await line.say(BREAK, BREAK, BREAK)
    assert line.connections == 4
    assert line.state() is LinkState.LOST
    line.link.close()


async def test_a_draining_link_goes_on_reading_and_does_not_come_back(line: Line) -> None:
    await line.say(FRAME)
    line.link.drain()
    await line.say(FRAME)
    assert line.state() is LinkState.DRAINING
    assert len(line.books.frames) == 2
    await line.say(None)
    assert line.connections == 1
    assert len(line.books.losses) == 1


async def test_a_draining_link_that_resumes_is_awake_at_the_next_frame(line: Line) -> None:
    await line.say(FRAME)
    line.link.drain()
    line.link.resume()
    await line.say(FRAME)
    assert line.state() is LinkState.AWAKE
    assert line.connections == 1
    line.link.close()


async def test_a_drained_link_that_broke_connects_again_when_it_resumes(line: Line) -> None:
    await line.say(FRAME)
    line.link.drain()
    await line.say(None)
    line.link.resume()
    await line.say(FRAME)
    assert line.state() is LinkState.AWAKE
    assert line.connections == 2
    line.link.close()


async def test_closing_tells_that_nothing_more_will_come(line: Line) -> None:
    await line.say(FRAME)
    line.link.close()
    await settle()
    assert [why for _, why in line.books.losses] == ["its connection was closed"]


async def test_a_link_that_was_never_started_can_be_closed(slow_line: Line) -> None:
    slow_line.link.close()
    await settle()
    assert slow_line.books.losses == []
