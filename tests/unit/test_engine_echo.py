"""The echo engine batches as a real one does, and every token it gives is known beforehand."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tokenizers import Tokenizer, decoders, models

from serve.echo_text import token_texts
from serve.engine import EngineRequest, EngineStep
from serve.engine_echo import PREFILL_CHUNK_TOKENS, EchoEngine, echo_text
from serve.errors import EngineDeadError, EngineRejectedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from serve.engine import EngineDelta


def request(prompt: list[int], max_tokens: int) -> EngineRequest:
    return EngineRequest("r", prompt, max_tokens)


@asynccontextmanager
async def running(
    steps: list[EngineStep] | None = None,
    *,
    decode_step_s: float = 0.0,
    prefill_tokens_per_s: float = 1e9,
    max_batch: int = 8,
    max_context_tokens: int = 8192,
) -> AsyncGenerator[EchoEngine]:
    seen: list[EngineStep] = [] if steps is None else steps
    engine = EchoEngine(
        decode_step_s, prefill_tokens_per_s, max_batch, max_context_tokens, seen.append
    )
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def collect(engine: EchoEngine, prompt: list[int], max_tokens: int) -> list[EngineDelta]:
    return [delta async for delta in engine.generate(request(prompt, max_tokens))]


def token_ids(deltas: list[EngineDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


async def test_it_repeats_the_prompt() -> None:
    async with running() as engine:
        deltas = await collect(engine, [7, 8, 9], 5)
    assert token_ids(deltas) == [7, 8, 9, 7, 8]
    assert "".join(delta.text for delta in deltas) == "".join(map(echo_text, [7, 8, 9, 7, 8]))
    finishes = [delta.finish for delta in deltas]
    assert finishes[:-1] == [None] * 4
    last = finishes[-1]
    assert last is not None
    assert (last.reason, last.prompt_tokens, last.completion_tokens) == ("length", 3, 5)


async def test_it_goes_on_with_what_another_began() -> None:
    steps: list[EngineStep] = []
    async with running(steps) as engine:
        whole = await collect(engine, [7, 8, 9], 5)
        steps.clear()
        begun = EngineRequest("r", [7, 8, 9], 5, replayed_token_ids=[7, 8])
        rest = [delta async for delta in engine.generate(begun)]
    assert token_ids(rest) == token_ids(whole)[2:]
    finish = rest[-1].finish
    assert finish is not None
    assert (finish.prompt_tokens, finish.completion_tokens) == (3, 5)
    assert sum(step.prefill_tokens for step in steps) == 5


async def test_many_streams_decode_together() -> None:
    steps: list[EngineStep] = []
    async with running(steps, max_batch=8) as engine:
        answers = await asyncio.gather(*(collect(engine, [i, 100 + i], 20) for i in range(8)))
    assert [token_ids(answer) for answer in answers] == [[i, 100 + i] * 10 for i in range(8)]
    assert len(steps) == 20
    assert max(step.decode_sequences for step in steps) == 8


async def test_steps_add_up_to_the_tokens_of_the_requests() -> None:
    steps: list[EngineStep] = []
    async with running(steps, max_batch=3) as engine:
        await asyncio.gather(*(collect(engine, [1] * (i + 1), 5) for i in range(7)))
        assert engine.unfinished_requests() == 0
    assert sum(step.prefill_tokens for step in steps) == sum(range(1, 8))
    # The first token of each comes from its prefill.
    assert sum(step.decode_tokens for step in steps) == 7 * 4
    assert max(step.running_requests for step in steps) <= 3
    assert steps[0].waiting_requests == 4
    assert steps[-1].running_requests == steps[-1].waiting_requests == 0


async def test_a_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    steps: list[EngineStep] = []
    async with running(steps) as engine:
        short = asyncio.create_task(collect(engine, [1], 50))
        await asyncio.sleep(0)
        await collect(engine, [2] * (3 * PREFILL_CHUNK_TOKENS), 1)
        await short
    chunks = [step for step in steps if step.prefill_tokens == PREFILL_CHUNK_TOKENS]
    assert len(chunks) == 2 or len(chunks) == 3
    assert any(step.decode_tokens for step in chunks)


async def test_steps_take_their_time() -> None:
    steps: list[EngineStep] = []
    async with running(steps, decode_step_s=0.005, prefill_tokens_per_s=1000) as engine:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        deltas = await collect(engine, [1] * 50, 11)
        took_s = loop.time() - began_s
    finish = deltas[-1].finish
    assert finish is not None
    assert took_s >= 0.05 + 10 * 0.005 - 0.001
    assert finish.prefill_s >= 0.05 - 0.001
    assert finish.decode_s >= 10 * 0.005 - 0.006
    assert steps[0].duration_s >= 0.05 - 0.001


async def test_closing_the_iterator_aborts_at_once() -> None:
    async with running(decode_step_s=0.001, max_batch=1) as engine:
        async with aclosing(engine.generate(request([1, 2], 1000))) as deltas:
            await anext(deltas)
            waiting = asyncio.create_task(collect(engine, [3], 2))
            await asyncio.sleep(0.01)
            assert engine.unfinished_requests() == 2
        assert engine.unfinished_requests() == 1
        assert token_ids(await waiting) == [3, 3]
        assert engine.unfinished_requests() == 0


async def test_a_completion_ends_with_the_context() -> None:
    async with running(max_context_tokens=10) as engine:
        assert len(token_ids(await collect(engine, [1] * 6, 100))) == 4


@pytest.mark.parametrize(("prompt", "max_tokens"), [([], 1), ([1] * 10, 1), ([1], 0)])
async def test_bad_requests_are_refused(prompt: list[int], max_tokens: int) -> None:
    async with running(max_context_tokens=10) as engine:
        with pytest.raises(EngineRejectedError):
            await collect(engine, prompt, max_tokens)
        assert engine.unfinished_requests() == 0


async def test_stopping_ends_streams_with_an_error() -> None:
    async with running(decode_step_s=0.001) as engine:
        stream = asyncio.create_task(collect(engine, [1], 1000))
        await asyncio.sleep(0.01)
        await engine.stop()
        with pytest.raises(EngineDeadError):
            await stream
        with pytest.raises(EngineDeadError):
            await engine.check_health()


def test_with_a_tokenizer_the_tokens_of_a_text_write_that_text(tmp_path: Path) -> None:
    words = {"a": 0, "Ġcat": 1, "Ġsat": 2, "<|end|>": 3}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="a"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    text = token_texts(str(tmp_path))

    assert "".join(map(text, [0, 1, 2, 3])) == "a cat sat<|end|>"
