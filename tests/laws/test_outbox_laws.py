"""Laws of the outbox: however slowly it is read, nothing is lost, repeated or reordered."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from serve.engine import EngineDelta, EngineFinish
from serve.outbox import Outbox, Taken, merge

if TYPE_CHECKING:
    from serve.frames import StreamFrame

FINISH = EngineFinish("stop", None, 1, 0, 0)
TAKE = None

logprobs = st.none() | st.lists(
    st.dictionaries(st.integers(0, 9), st.floats(-5, 0), min_size=1), max_size=3
)
deltas = st.builds(
    EngineDelta,
    st.lists(st.integers(0, 99), max_size=3),
    st.text(max_size=3),
    logprobs,
    st.none(),
)
# What each stream puts, in order.
contents = st.dictionaries(st.integers(0, 4), st.lists(deltas, max_size=5), max_size=5)


@st.composite
def schedules(draw: st.DrawFn) -> tuple[dict[int, list[EngineDelta]], list[int | None]]:
    """Draw streams and an interleaving of their puts with takes (None)."""
    streams = draw(contents)
    turns: list[int | None] = [stream for stream, puts in streams.items() for _ in puts]
    turns += [TAKE] * draw(st.integers(0, 6))
    return streams, draw(st.permutations(turns))


def finished(streams: dict[int, list[EngineDelta]]) -> dict[int, list[EngineDelta]]:
    """Give every stream an end: its last delta, or an empty one."""
    return {
        stream: [*puts[:-1], (puts[-1] if puts else EngineDelta([], ""))._replace(finish=FINISH)]
        for stream, puts in streams.items()
    }


def joined(puts: list[EngineDelta]) -> EngineDelta:
    whole = EngineDelta([], "")
    for delta in puts:
        whole = merge(whole, delta)
    return whole


async def replay(
    streams: dict[int, list[EngineDelta]], turns: list[int | None]
) -> tuple[list[Taken], Outbox]:
    outbox = Outbox()
    left = {stream: list(puts) for stream, puts in finished(streams).items()}
    for stream in left:
        outbox.accept(stream)
    frames = []
    for turn in turns:
        if turn is TAKE:
            frames.append(await outbox.take(0))
        elif left[turn]:
            outbox.put(turn, left[turn].pop(0))
    for stream, puts in left.items():
        for delta in puts:
            outbox.put(stream, delta)
    frames.append(await outbox.take(0))
    return frames, outbox


def by_stream(frames: list[Taken]) -> dict[int, list[StreamFrame]]:
    parts: dict[int, list[StreamFrame]] = defaultdict(list)
    for frame in frames:
        for part in frame.streams:
            parts[part.stream].append(part)
    return parts


@given(schedules())
def test_each_stream_comes_out_as_it_was_put(
    schedule: tuple[dict[int, list[EngineDelta]], list[int | None]],
) -> None:
    streams, turns = schedule
    frames, _ = asyncio.run(replay(streams, turns))
    parts = by_stream(frames)
    for stream, puts in finished(streams).items():
        taken = [part.delta for part in parts[stream] if part.delta is not None]
        assert joined(taken) == joined(puts)


@given(schedules())
def test_a_finish_comes_exactly_once_and_last(
    schedule: tuple[dict[int, list[EngineDelta]], list[int | None]],
) -> None:
    streams, turns = schedule
    frames, outbox = asyncio.run(replay(streams, turns))
    parts = by_stream(frames)
    for stream in streams:
        finishes = [part.delta is not None and part.delta.finish for part in parts[stream]]
        assert [bool(finish) for finish in finishes] == [False] * (len(finishes) - 1) + [True]
    assert outbox.open_streams == 0


@given(schedules())
def test_a_stream_is_announced_once_and_never_after_its_first_token(
    schedule: tuple[dict[int, list[EngineDelta]], list[int | None]],
) -> None:
    streams, turns = schedule
    frames, _ = asyncio.run(replay(streams, turns))
    announced: list[int] = []
    for frame in frames:
        announced += frame.accepted
        assert {part.stream for part in frame.streams} <= set(announced)
        assert len({part.stream for part in frame.streams}) == len(frame.streams)
    assert sorted(announced) == sorted(streams)


@given(
    st.lists(
        st.tuples(st.sampled_from(["accept", "put", "fail", "drop", "take"]), st.integers(0, 3)),
        max_size=40,
    )
)
def test_a_dropped_stream_leaves_nothing_behind(moves: list[tuple[str, int]]) -> None:
    async def play() -> None:
        outbox = Outbox()
        live: set[int] = set()
        for move, stream in moves:
            match move:
                case "accept" if stream not in live:
                    await outbox.take(0)
                    outbox.accept(stream)
                    live.add(stream)
                case "put" if stream in live:
                    outbox.put(stream, EngineDelta([1], "a"))
                case "fail" if stream in live:
                    outbox.fail(stream, ("EngineDeadError", "gone"))
                    live.discard(stream)
                case "drop":
                    outbox.drop(stream)
                    live.discard(stream)
                case "take":
                    await outbox.take(0)
            assert outbox.open_streams == len(live)
        for stream in live:
            outbox.drop(stream)
        last: Any = await outbox.take(0)
        assert last.accepted == [] or all(
            part.error is not None for part in last.streams if part.stream in last.accepted
        )

    asyncio.run(play())
