"""Examples of the outbox: one engine step is one frame, and nobody waits in vain."""

from __future__ import annotations

import asyncio

import pytest

from serve.engine import EngineDelta, EngineFinish
from serve.frames import RequestEnergy, StreamFrame
from serve.outbox import Outbox

STREAMS = 32


async def test_what_one_step_woke_travels_in_one_frame() -> None:
    outbox = Outbox()
    step = asyncio.Event()

    async def consume(stream: int) -> None:
        await step.wait()
        outbox.put(stream, EngineDelta([stream], ""))

    for stream in range(STREAMS):
        outbox.accept(stream)
    consumers = [asyncio.create_task(consume(stream)) for stream in range(STREAMS)]
    assert (await outbox.take(1)).accepted == list(range(STREAMS))
    reader = asyncio.create_task(outbox.take(1))
    await asyncio.sleep(0)
    step.set()
    assert [part.stream for part in (await reader).streams] == list(range(STREAMS))
    await asyncio.gather(*consumers)


async def test_take_gives_up_when_its_time_is_over() -> None:
    taken = await Outbox().take(0.01)
    assert not taken.accepted
    assert not taken.streams


async def test_take_waits_for_what_comes() -> None:
    outbox = Outbox()
    outbox.accept(1)
    await outbox.take(0)
    reader = asyncio.create_task(outbox.take(10))
    await asyncio.sleep(0)
    outbox.put(1, EngineDelta([5], " five"))
    assert (await reader).streams == [StreamFrame(1, EngineDelta([5], " five"))]


async def test_a_later_take_takes_over_and_gets_everything() -> None:
    outbox = Outbox()
    first = asyncio.create_task(outbox.take(10))
    await asyncio.sleep(0)
    second = asyncio.create_task(outbox.take(10))
    await asyncio.sleep(0)
    outbox.accept(1)
    assert (await first).accepted == []
    assert (await second).accepted == [1]


async def test_a_failure_follows_the_tokens_before_it() -> None:
    outbox = Outbox()
    outbox.accept(1)
    outbox.put(1, EngineDelta([5], "a"))
    outbox.fail(1, ("EngineDeadError", "gone"))
    (part,) = (await outbox.take(0)).streams
    assert part == StreamFrame(1, EngineDelta([5], "a"), error=("EngineDeadError", "gone"))


async def test_energy_comes_with_the_last_delta() -> None:
    outbox = Outbox()
    outbox.accept(1)
    outbox.put(1, EngineDelta([5], "a"))
    energy = RequestEnergy(1.0, 2.0, "model", "cpu")
    outbox.put(1, EngineDelta([6], "b", None, EngineFinish("stop", None, 3, 0, 2)), energy)
    (part,) = (await outbox.take(0)).streams
    assert part.energy == energy
    assert part.delta is not None
    assert part.delta.token_ids == [5, 6]


async def test_what_a_dropped_stream_has_used_travels_once_with_what_comes_next() -> None:
    outbox = Outbox()
    for stream in (1, 2):
        outbox.accept(stream)
    energy = RequestEnergy(1.0, 2.0, "model", "cpu")
    outbox.drop(1)
    outbox.spent(1, energy)
    assert (await outbox.take(0)).dropped == ((1, energy),)
    outbox.put(2, EngineDelta([5], "a"))
    assert (await outbox.take(0)).dropped == ()


async def test_a_stream_that_ended_takes_no_more() -> None:
    outbox = Outbox()
    outbox.accept(1)
    outbox.put(1, EngineDelta([5], "a", None, EngineFinish("stop", None, 3, 0, 1)))
    with pytest.raises(KeyError):
        outbox.put(1, EngineDelta([6], "b"))
    with pytest.raises(ValueError, match="stream 1 is in use"):
        outbox.accept(1)
