"""Laws of a stream: whatever the reader's pace, it takes what was delivered, in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from serve.errors import JouleserveError, ReplicaLostError
from serve.stream import Stream
from tests.gateway_fakes import ending, tokens

if TYPE_CHECKING:
    from serve.engine import EngineDelta

TAKE = "take"


class Script(NamedTuple):
    """Deliveries and takes in some order, and how it ends: None finishes, else the error."""

    moves: list[list[int] | str]
    last: list[int]
    fails: bool


token_lists = st.lists(st.integers(0, 99), min_size=1, max_size=3)
scripts = st.builds(
    Script, st.lists(token_lists | st.just(TAKE), max_size=20), token_lists, st.booleans()
)


def delivered(script: Script) -> list[int]:
    sent = [token for move in script.moves if isinstance(move, list) for token in move]
    return sent if script.fails else [*sent, *script.last]


async def play(script: Script) -> tuple[list[EngineDelta], JouleserveError | None]:
    """Move a stream as the script says; then read it to its end."""
    stream, taken, waiting = Stream(), [], False
    for move in script.moves:
        if isinstance(move, list):
            stream.deliver(tokens(1, *move))
            waiting = True
        elif waiting:
            taken.append(await stream.take())
            waiting = False
    if script.fails:
        stream.fail(ReplicaLostError("gone"))
    else:
        stream.deliver(ending(1, script.last, delivered(script)))
    try:
        while not taken or taken[-1].finish is None:
            taken.append(await stream.take())
    except ReplicaLostError as error:
        return taken, error
    return taken, None


@given(scripts)
def test_nothing_is_lost_repeated_or_reordered(script: Script) -> None:
    taken, _ = asyncio.run(play(script))
    token_ids = [token for delta in taken for token in delta.token_ids]
    assert token_ids == delivered(script)
    assert "".join(delta.text for delta in taken) == "".join(f" {t}" for t in token_ids)


@given(scripts)
def test_it_ends_once_as_it_was_told(script: Script) -> None:
    taken, error = asyncio.run(play(script))
    finishes = [delta.finish is not None for delta in taken]
    if script.fails:
        assert error is not None
        assert not any(finishes)
    else:
        assert error is None
        assert finishes == [False] * (len(taken) - 1) + [True]


@given(scripts)
def test_no_take_is_empty(script: Script) -> None:
    taken, _ = asyncio.run(play(script))
    assert all(delta.token_ids for delta in taken)


@given(st.lists(token_lists, min_size=1, max_size=30))
def test_a_concurrent_reader_gets_the_same(deltas: list[list[int]]) -> None:
    async def read() -> list[int]:
        stream, got = Stream(), []

        async def reader() -> None:
            while True:
                delta = await stream.take()
                got.extend(delta.token_ids)
                if delta.finish is not None:
                    return

        task = asyncio.create_task(reader())
        for number, token_ids in enumerate(deltas):
            stream.deliver(tokens(1, *token_ids))
            if number % 3:
                await asyncio.sleep(0)
        stream.deliver(ending(1, [7], [7]))
        await task
        return got

    assert asyncio.run(read()) == [*(token for each in deltas for token in each), 7]
