"""Laws of the gateway's books: nothing is counted twice, and nothing stays when all has ended."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from scheduler.fleet import ReplicaReport
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.errors import JouleserveError
from tests.gateway_fakes import LARGE, Rig, ending, failure, lease, request, settle, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.engines import Attempt
    from serve.stream import Stream

REPLICAS = ("a", "b", "c")
LEASE_S = 10.0

replicas = st.sampled_from(REPLICAS)
picks = st.integers(0, 99)
# One thing that happens: what it is, to which replica, to which of the attempts that could.
moves = st.tuples(
    st.sampled_from(
        [
            *("begin", "accept", "tokens", "finish", "fail", "report", "end"),
            *("lose", "late", "wait", "expire", "refuse", "leave", "join"),
        ]
    ),
    replicas,
    picks,
)
# Hypothesis makes lists of a few moves unless asked for more, and it takes several to meet.
histories = st.lists(moves, min_size=15, max_size=60)


@pytest.fixture(autouse=True, scope="module")
def reconnect_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "RECONNECT_S", (0.0,))
        yield


class Play:
    """Replicas that keep their contract: each report counts what was accepted and has not ended."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.engines = rig.engines
        self.members = set(REPLICAS)
        self.on_their_way: dict[int, str] = {}
        self.running: dict[str, set[int]] = defaultdict(set)
        self.attempts: dict[int, Attempt] = {}
        self.ended: list[int] = []

    async def move(self, kind: str, replica: str, pick: int) -> None:  # noqa: C901 (a table)
        match kind:
            case "begin" if replica in self._routable():
                self._begin(replica)
            case "accept" if self.on_their_way and replica in self.members:
                self._accept(replica, self._choose(list(self.on_their_way), pick))
            case "tokens" if self.running[replica]:
                self.rig.send(LARGE, replica, tokens(self._running(replica, pick), 1))
            case "finish" | "fail" if self.running[replica]:
                self._finish(kind, replica, self._running(replica, pick))
            case "report" if replica in self.members:
                self.rig.send(LARGE, replica, report=self._report(replica))
            case "end" if self.attempts:
                self._end(self._choose(list(self.attempts), pick))
            case "late" if self.ended:
                number = self._choose(self.ended, pick)
                self.rig.send(LARGE, replica, tokens(number, 1), accepted=[number])
            case "refuse" if self.on_their_way:
                number = self._choose(list(self.on_their_way), pick)
                self.rig.submissions[number].fail(RuntimeError("out of reach"))
            case "lose":
                self.running[replica].clear()
                self.rig.handles[LARGE].break_connection(ReplicaId(replica))
            case "wait":
                self.rig.clock.now_s += LEASE_S / 2
            case "expire":
                self._expire()
            case "leave" | "join":
                (self.members.discard if kind == "leave" else self.members.add)(replica)
                self.rig.membership.publish(LARGE, dict.fromkeys(self.members, "node"))
        await settle()

    def _routable(self) -> set[str]:
        return {each.replica for each in self.engines.fleet().replicas if not each.draining}

    def _begin(self, replica: str) -> None:
        number = len(self.attempts) + len(self.ended) + 1
        booked = lease(number, replica, expires_at_s=self.rig.clock.now_s + LEASE_S)
        self.attempts[number] = self.engines.begin(booked, LARGE, request(number), [])
        self.on_their_way[number] = replica

    def _accept(self, replica: str, number: int) -> None:
        """The chosen replica accepts, or another one as a fallback."""
        del self.on_their_way[number]
        self.running[replica].add(number)
        self.rig.send(LARGE, replica, accepted=[number], report=self._report(replica))

    def _finish(self, kind: str, replica: str, number: int) -> None:
        self.running[replica].remove(number)
        part = ending(number, [1], [1]) if kind == "finish" else failure(number)
        self.rig.send(LARGE, replica, part, report=self._report(replica))

    def _expire(self) -> None:
        """Leases run out; their owners have yet to notice."""
        self.engines.expire()
        for number, attempt in self.attempts.items():
            if attempt.lease.expires_at_s <= self.rig.clock.now_s:
                self.on_their_way.pop(number, None)

    def _end(self, number: int) -> None:
        self.engines.end(self.attempts.pop(number))
        self.ended.append(number)
        self.on_their_way.pop(number, None)

    def _report(self, replica: str) -> ReplicaReport:
        return ReplicaReport(0.0, running_requests=len(self.running[replica]))

    def _running(self, replica: str, pick: int) -> int:
        return self._choose(sorted(self.running[replica]), pick)

    @staticmethod
    def _choose(among: list[int], pick: int) -> int:
        return among[pick % len(among)]


RETURN = ["leave", "lose", "join", "accept"]


async def read_to_failure(stream: Stream) -> None:
    """Read on until the stream raises what it should; anything else is not caught."""
    try:
        while True:
            await stream.take()
    except JouleserveError:
        return


async def played(history: list[tuple[str, str, int]]) -> Play:
    rig = Rig()
    await rig.wake({LARGE: REPLICAS})
    play = Play(rig)
    for move in history:
        await play.move(*move)
    return play


@given(histories)
def test_when_every_attempt_has_ended_no_lease_is_left(
    history: list[tuple[str, str, int]],
) -> None:
    async def run() -> None:
        play = await played(history)
        while play.attempts:
            await play.move("end", "a", 0)
        engines = play.engines
        assert len(engines.leases) == 0
        assert all(not engines.leases.held(ReplicaId(replica)) for replica in REPLICAS)
        assert all(each.booked_requests == 0 for each in engines.fleet().replicas)
        # No attempt holds a link that its replica has left.
        play.rig.membership.publish(LARGE, {})
        await settle()
        assert engines.links == {}
        assert not list(engines.fleet().replicas)
        play.rig.close()

    asyncio.run(run())


# A replica that broke while it drained, and is listed again, reports again.
@example([("begin", "a", 0), ("begin", "b", 0)] + [(move, "b", 0) for move in RETURN])
@given(histories)
def test_a_request_counts_in_the_book_until_a_report_counts_it_and_never_in_both(
    history: list[tuple[str, str, int]],
) -> None:
    async def run() -> None:
        rig = Rig()
        await rig.wake({LARGE: REPLICAS})
        play = Play(rig)
        for move in history:
            await play.move(*move)
            promised = Counter(play.on_their_way.values())
            for each in play.engines.fleet().replicas:
                assert each.booked_requests == promised[each.replica]
        play.rig.close()

    asyncio.run(run())


@given(histories)
def test_every_unfinished_attempt_that_ends_is_cancelled_at_its_replica(
    history: list[tuple[str, str, int]],
) -> None:
    async def run() -> None:
        play = await played(history)
        streams = {number: attempt.stream for number, attempt in play.attempts.items()}
        while play.attempts:
            await play.move("end", "a", 0)
        for number, stream in streams.items():
            assert play.rig.submissions[number].cancelled == (stream.finish is None)
        play.rig.close()

    asyncio.run(run())


@given(histories)
def test_a_lost_replica_leaves_no_stream_waiting(history: list[tuple[str, str, int]]) -> None:
    async def run() -> None:
        play = await played(history)
        waiting = [each for each in play.attempts.values() if each.stream.finish is None]
        for replica in REPLICAS:
            await play.move("lose", replica, 0)
        play.rig.close()
        await settle()
        readers = [asyncio.create_task(read_to_failure(attempt.stream)) for attempt in waiting]
        await settle()
        assert all(reader.done() for reader in readers)
        await asyncio.gather(*readers)

    asyncio.run(run())
