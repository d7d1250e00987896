"""Try some settings of the engine: load it with them, and have it serve a small load.

Its own module because it is a job of the serving environment; an engine that does not take the
settings ends with its process.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from vllm import SamplingParams

from serve.engine import EngineRequest
from serve.engine_vllm import VllmEngine, VllmOptions
from serve.sampling_vllm import encode
from serve.variants.job import CONTEXT_TOKENS, Asked, passages, run, tell
from serve.variants.measure import KV_CACHE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

# Requests of a run, of which so many at a time; runs, of which the fastest counts.
REQUESTS, CONCURRENCY, RUNS = 16, 8, 2
COMPLETION_TOKENS = 48
_QUESTION = "Say in a few words what this is about, and quote its first sentence."


class _Served(NamedTuple):
    ttft_s: float
    tpot_s: float
    tokens: int


def attempt(asked: Asked) -> Mapping[str, object]:
    """Load `base` with `settings`, and serve questions about the passages of `texts`."""
    return asyncio.run(_attempted(asked))


async def _attempted(asked: Asked) -> Mapping[str, object]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    options = VllmOptions(
        checkpoint=asked["base"],
        on_cpu=asked["on_cpu"],
        kv_cache_bytes=KV_CACHE_BYTES,
        max_context_tokens=CONTEXT_TOKENS,
        max_batch=CONCURRENCY,
        extra=asked["settings"],
    )
    engine = VllmEngine(options, lambda _: None)
    tell(f"trying {asked['settings'] or 'the engine as it is'}")
    await engine.start()
    try:
        prompts = [
            _prompt(tokenizer, text)
            for text in passages(asked["texts"]["calibration"])[: REQUESTS + 1]
        ]
        await _serve(engine, prompts[-1])
        runs = [await _load(engine, prompts[:-1]) for _ in range(RUNS)]
    finally:
        await engine.stop()
    took_s, served = min(runs, key=lambda each: each[0])
    return {
        "s_per_token": took_s / sum(each.tokens for each in served),
        "ttft_s": median(each.ttft_s for each in served),
        "tpot_s": median(each.tpot_s for each in served),
    }


def _prompt(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(f"{_QUESTION}\n\n{text}\n\n")["input_ids"]
    return ids[: CONTEXT_TOKENS - COMPLETION_TOKENS]


async def _load(engine: VllmEngine, prompts: list[list[int]]) -> tuple[float, list[_Served]]:
    free = asyncio.Semaphore(CONCURRENCY)

    async def one(prompt: list[int]) -> _Served:
        async with free:
            return await _serve(engine, prompt)

    began_s = time.monotonic()
    served = await asyncio.gather(*(one(prompt) for prompt in prompts))
    return time.monotonic() - began_s, list(served)


async def _serve(engine: VllmEngine, prompt: list[int]) -> _Served:
    parameters = SamplingParams(max_tokens=COMPLETION_TOKENS, temperature=0.0, ignore_eos=True)
    request = EngineRequest(
        f"trial-{id(prompt)}", prompt, COMPLETION_TOKENS, sampling=encode(parameters)
    )
    began_s = first_s = time.monotonic()
    tokens = 0
    async for delta in engine.generate(request):
        if not tokens and delta.token_ids:
            first_s = time.monotonic()
        tokens += len(delta.token_ids)
    return _Served(first_s - began_s, (time.monotonic() - first_s) / max(1, tokens - 1), tokens)


if __name__ == "__main__":
    run(attempt)
