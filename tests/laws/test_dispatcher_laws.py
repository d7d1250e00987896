"""Laws of the request path: every call ends in one column of the tally, and leaves no lease."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.requests import ReplicaId, VariantName
from serve import link as link_module
from serve.engine import EngineDelta
from serve.errors import JouleserveError
from tests.gateway_fakes import (
    LARGE,
    SMALL,
    Desk,
    ending,
    failure,
    idle_report,
    settle,
    tokens,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.calls import Call, Outcome

REPLICAS = {"a": LARGE, "b": LARGE, "c": SMALL}
# Token ids tell which attempt sent them, and in which place.
ATTEMPT = 1000

# One thing that happens: what it is, and to which of those to whom it could.
moves = st.tuples(
    st.sampled_from(
        [
            *("call", "call", "call", "tokens", "tokens", "tokens", "tokens", "finish"),
            *("corrupt", "nonsense", "fail", "refuse", "lose", "revive", "leave", "cancel"),
        ]
    ),
    st.integers(0, 99),
)
# Hypothesis makes lists of a few moves unless asked for more, and it takes several to meet.
histories = st.lists(moves, min_size=15, max_size=60)


@pytest.fixture(autouse=True, scope="module")
def reconnect_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(link_module, "RECONNECT_S", (0.0,))
        yield


class Client:
    """Reads one call, until it ends or until the client has had enough."""

    def __init__(self, desk: Desk, number: int, model: str) -> None:
        self.token_ids: list[int] = []
        self.outcome: Outcome | None = None
        self.leaving = False
        call = desk.call(request_id=f"r{number}", model=model)
        self.task = asyncio.create_task(self._read(desk, call))

    async def _read(self, desk: Desk, call: Call) -> None:
        async with aclosing(desk.dispatcher.serve(call)) as items:
            async for item in items:
                if isinstance(item, EngineDelta):
                    self.token_ids += item.token_ids
                else:
                    self.outcome = item
                if self.leaving:
                    return


class Play:
    """Clients and replicas that do anything at any time."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.clients: list[Client] = []
        self.sent: dict[int, list[int]] = {}

    async def move(self, kind: str, pick: int) -> None:
        running, reading = self._running(), self._reading()
        match kind:
            case "call" | "nonsense":
                model = "m" if kind == "call" else "x"
                self.clients.append(Client(self.desk, len(self.clients), model))
            case "tokens" | "finish" | "corrupt" | "fail" | "refuse" if running:
                self._speak(kind, running[pick % len(running)])
            case "lose" | "revive":
                self._turn(kind, sorted(REPLICAS)[pick % len(REPLICAS)])
            case "leave" if reading:
                reading[pick % len(reading)].leaving = True
            case "cancel" if reading:
                reading[pick % len(reading)].task.cancel()
        await settle()

    def _running(self) -> list[int]:
        """Attempts that a replica may still say something of."""
        submissions = self.desk.submissions.items()
        return [number for number, each in submissions if not (each.cancelled or each.ended)]

    def _reading(self) -> list[Client]:
        return [client for client in self.clients if not client.task.done()]

    def _speak(self, kind: str, number: int) -> None:
        submission = self.desk.submissions[number]
        replica = submission.lease.replica
        sent = self.sent.setdefault(number, [])
        token = ATTEMPT * number + len(sent)
        match kind:
            case "tokens":
                part = tokens(number, token)
                sent.append(token)
            case "finish" | "corrupt":
                sent.append(token)
                whole = [*submission.request.replayed_token_ids, *sent]
                part = ending(number, [token], whole if kind == "finish" else [*whole, 1])
            case "fail":
                part = failure(number)
            case _:
                submission.fail(RuntimeError("out of reach"))
                return
        submission.ended = kind != "tokens"
        self.desk.send(REPLICAS[replica], replica, part, accepted=[number])

    def _turn(self, kind: str, replica: str) -> None:
        name: VariantName = REPLICAS[replica]
        if kind == "lose":
            self.desk.handles[name].break_connection(ReplicaId(replica))
        else:
            self.desk.send(name, replica, report=idle_report())

    async def finish(self) -> list[BaseException | None]:
        """Let every client go, and tell what each one's call has raised."""
        for client in self._reading():
            client.task.cancel()
        tasks = [client.task for client in self.clients]
        raised = await asyncio.gather(*tasks, return_exceptions=True)
        self.desk.close()
        return raised


async def played(history: list[tuple[str, int]]) -> Play:
    desk = Desk()
    await desk.wake({LARGE: ["a", "b"], SMALL: ["c"]})
    play = Play(desk)
    for move in history:
        await play.move(*move)
    return play


@given(histories)
def test_at_any_time_the_tally_adds_up_and_every_call_in_flight_holds_one_lease(
    history: list[tuple[str, int]],
) -> None:
    async def run() -> None:
        play = await played([])
        tally = play.desk.dispatcher.tally
        for move in history:
            await play.move(*move)
            ended = tally.completed + tally.cancelled + tally.failed
            assert tally.accepted == ended + tally.in_flight
            assert tally.in_flight == sum(not client.task.done() for client in play.clients)
            assert len(play.desk.engines.leases) == tally.in_flight
        await play.finish()

    asyncio.run(run())


@given(histories)
def test_in_the_end_every_call_is_in_one_column_and_observed_once(
    history: list[tuple[str, int]],
) -> None:
    async def run() -> None:
        play = await played(history)
        raised = await play.finish()
        tally = play.desk.dispatcher.tally
        assert tally.in_flight == 0
        assert len(play.desk.engines.leases) == 0
        assert tally.accepted + tally.rejected == len(play.clients)
        assert len(play.desk.journeys) == len(play.clients)
        faults = [error for error in raised if isinstance(error, Exception)]
        assert all(isinstance(error, JouleserveError) for error in faults)
        assert tally.failed + tally.rejected == len(faults)

    asyncio.run(run())


@given(histories)
def test_tokens_come_whole_and_in_order_from_one_attempt_after_the_other(
    history: list[tuple[str, int]],
) -> None:
    async def run() -> None:
        play = await played(history)
        await play.finish()
        for client in play.clients:
            before: list[int] = []
            for number, group in itertools.groupby(client.token_ids, lambda each: each // ATTEMPT):
                came = list(group)
                assert play.desk.submissions[number].request.replayed_token_ids == before
                assert came == play.sent[number][: len(came)]
                before += came
            if client.outcome is not None:
                assert len(client.token_ids) == client.outcome.finish.completion_tokens

    asyncio.run(run())


@given(histories)
def test_no_replica_works_for_a_call_that_has_ended(history: list[tuple[str, int]]) -> None:
    async def run() -> None:
        play = await played(history)
        await play.finish()
        for submission in play.desk.submissions.values():
            assert submission.cancelled or submission.ended

    asyncio.run(run())
