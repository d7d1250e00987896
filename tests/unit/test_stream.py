"""Examples of a stream inside the gateway: order, failure after what came, and no lost wake-up."""

from __future__ import annotations

import asyncio

import pytest

from serve.engine import EngineFinish
from serve.errors import EngineFailedError, EngineRejectedError, ReplicaLostError
from serve.frames import StreamFrame
from serve.stream import Stream
from tests.gateway_fakes import ENERGY, delta, ending, failure, tokens

FINISH = EngineFinish("stop", None, 1, 0, 1)


async def test_a_reader_that_keeps_up_gets_each_delta_alone() -> None:
    stream = Stream()
    for token in range(3):
        stream.deliver(tokens(1, token))
        assert await stream.take() == delta(token)


async def test_a_reader_that_lags_gets_everything_in_one() -> None:
    stream = Stream()
    for token in range(3):
        stream.deliver(tokens(1, token))
    assert await stream.take() == delta(0, 1, 2)


async def test_take_waits_for_what_comes() -> None:
    stream = Stream()
    reader = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    assert not reader.done()
    stream.deliver(tokens(1, 5))
    assert await reader == delta(5)


async def test_the_last_delta_brings_finish_and_energy() -> None:
    stream = Stream()
    stream.deliver(tokens(1, 5))
    stream.deliver(ending(1, [6], [5, 6]))
    taken = await stream.take()
    assert taken.token_ids == [5, 6]
    assert taken.finish is not None
    assert stream.finish == taken.finish
    assert stream.energy == ENERGY


async def test_a_failure_comes_after_the_tokens_before_it() -> None:
    stream = Stream()
    stream.deliver(tokens(1, 5))
    stream.fail(ReplicaLostError("gone"))
    assert await stream.take() == delta(5)
    with pytest.raises(ReplicaLostError, match="gone"):
        await stream.take()


async def test_tokens_and_failure_of_one_frame_come_in_this_order() -> None:
    stream = Stream()
    stream.deliver(StreamFrame(1, delta(5), error=("EngineRejectedError", "too long")))
    assert await stream.take() == delta(5)
    with pytest.raises(EngineRejectedError, match="too long"):
        await stream.take()


async def test_a_failure_wakes_a_reader() -> None:
    stream = Stream()
    reader = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    stream.deliver(failure(1))
    with pytest.raises(EngineFailedError, match="broken"):
        await reader


async def test_the_first_failure_stays() -> None:
    stream = Stream()
    stream.fail(EngineFailedError("first"))
    stream.fail(ReplicaLostError("second"))
    with pytest.raises(EngineFailedError, match="first"):
        await stream.take()


async def test_a_finished_stream_cannot_fail_any_more() -> None:
    stream = Stream()
    stream.deliver(StreamFrame(1, delta(5, finish=FINISH), ENERGY))
    stream.fail(ReplicaLostError("the link broke after the last token"))
    assert (await stream.take()).finish == FINISH


async def test_an_error_of_an_unknown_name_is_the_engines_fault() -> None:
    stream = Stream()
    stream.deliver(StreamFrame(1, None, error=("SystemExit", "odd")))
    with pytest.raises(EngineFailedError, match="odd"):
        await stream.take()


async def test_a_cancelled_reader_loses_nothing() -> None:
    stream = Stream()
    reader = asyncio.create_task(stream.take())
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.wait([reader])
    stream.deliver(tokens(1, 5))
    assert await stream.take() == delta(5)
