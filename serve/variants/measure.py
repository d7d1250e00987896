"""Measure a checkpoint on the live engine: what it thinks of a text, what it answers, how fast.

Its own module because it is a job of the serving environment: it loads an engine, and its memory
goes with its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vllm import SamplingParams
from vllm.inputs import tokens_input

from serve.engine import Engine, EngineRequest
from serve.engine_vllm import VllmEngine, VllmOptions
from serve.sampling_vllm import encode
from serve.variants.job import CONTEXT_TOKENS, Asked, passages, run, tell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformers import PreTrainedTokenizerBase

    from serve.engine import EngineStep, StepObserver

KV_CACHE_BYTES = 1 << 30
BATCHES = (1, 2, 4, 8, 16)
DECODE_PROMPT_TOKENS, DECODE_TOKENS = 32, 14
# All batches in turn, so often: a machine that is slow for some seconds is slow for each of them.
ROUNDS = 6
# Between the beginnings of two prompts of the text.
STRIDE = 97
PREFILL_TOKENS, PREFILLS = 256, 4
ANSWER_TOKENS = 8


class _Scoring(Engine, Protocol):
    """An engine that also says what it thinks of given tokens."""

    async def score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        """Give each token but the first its log probability, and the most probable in its place."""


class _Vllm(VllmEngine):
    async def score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=1)
        outputs = self._live().generate(tokens_input(token_ids), parameters, "score")
        thought = [output.prompt_logprobs async for output in outputs][-1] or []
        return [
            (given[token].logprob, next(key for key, each in given.items() if each.rank == 1))
            for token, given in zip(token_ids[1:], thought[1:], strict=True)
            if given is not None
        ]


class _Timed:
    """An engine that is timed, and what its steps took.

    Attributes:
        engine: not started yet.
        prefills: seconds for each prompt token, by prompt; the first of a kind pays for what is
            made once, and is left out.
        decodes: seconds of steps, by batch.

    """

    def __init__(self, name: str, base: str, options: Mapping[str, object], asked: Asked) -> None:
        self._steps: list[EngineStep] = []
        self.engine = _engine(name, base, options, asked, self._steps.append)
        self.prefills: list[float] = []
        self.decodes: dict[str, list[float]] = {str(batch): [] for batch in BATCHES}

    async def prefill(self, turn: int) -> None:
        """Read a prompt that no other turn has."""
        self._steps.clear()
        await _run(self.engine, [[7 + turn] * PREFILL_TOKENS], 1)
        if turn:
            self.prefills.append(sum(step.duration_s for step in self._steps) / PREFILL_TOKENS)

    async def decode(self, prompts: Sequence[list[int]]) -> None:
        """Go on after all prompts at once."""
        self._steps.clear()
        await _run(self.engine, prompts, DECODE_TOKENS)
        self.decodes[str(len(prompts))] += [
            step.duration_s / step.decode_rounds
            for step in self._steps
            if step.decode_sequences == len(prompts) and not step.prefill_tokens
        ]

    def times(self) -> dict[str, object]:
        """Give what was measured."""
        return {
            "prefill_s_per_token": sorted(self.prefills)[PREFILLS // 2],
            "decode_step_s": self.decodes,
        }


def _engine(
    name: str, base: str, options: Mapping[str, object], asked: Asked, observe: StepObserver
) -> _Scoring:
    if name == "llamacpp":
        from serve.engine_llamacpp import LlamaCppOptions
        from serve.variants.scoring_llamacpp import ScoringLlamaCpp

        settings = LlamaCppOptions(
            directory=Path(base),
            threads=os.cpu_count() or 1,
            gpu=not asked["on_cpu"],
            max_context_tokens=CONTEXT_TOKENS,
            max_batch=max(BATCHES),
        )
        return ScoringLlamaCpp(settings, observe)
    return _Vllm(
        VllmOptions(
            checkpoint=base,
            on_cpu=asked["on_cpu"],
            kv_cache_bytes=KV_CACHE_BYTES,
            max_context_tokens=CONTEXT_TOKENS,
            max_batch=max(BATCHES),
            # Every token is computed when it is measured.
            extra={**options, "enable_prefix_caching": False},
        ),
        observe,
    )


def measure(asked: Asked) -> Mapping[str, object]:
    """Load `base`, measure it, and write `measurement.json` into `into`."""
    content = asyncio.run(_measured(asked))
    Path(asked["into"], "measurement.json").write_text(json.dumps(content), encoding="utf-8")
    return {"load_s": content["load_s"]}


async def _measured(asked: Asked) -> Mapping[str, object]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    variant = _Timed(asked["engine"], asked["base"], asked["engine_options"], asked)
    # What it is compared with is timed in turn with it: machines are not always equally fast.
    beside = _Timed("vllm", asked["beside"], {}, asked) if asked["beside"] else None
    engine = variant.engine
    async with AsyncExitStack() as running:
        tell("loading the engine")
        began_s = time.monotonic()
        await _start(engine, running)
        load_s = time.monotonic() - began_s
        memory_bytes = _memory_bytes(os.getpid())
        tell("reading the held-out text")
        # One at a time: what else is in the batch changes the last bits of bf16.
        texts = passages(asked["texts"]["heldout"])
        scores = [await engine.score(_tokens(tokenizer, text)) for text in texts]
        tell("answering the tasks")
        answers = [await _answer(engine, tokenizer, task) for task in _tasks(asked)]
        if beside:
            tell("loading its base beside it")
            await _start(beside.engine, running)
        tell("timing steps")
        text = [token for passage in texts for token in _tokens(tokenizer, passage)]
        await _time([variant, beside] if beside else [variant], text)
    return {
        "load_s": load_s,
        "memory_bytes": memory_bytes,
        "logprobs": [[each[0] for each in passage] for passage in scores],
        "top_token_ids": [[each[1] for each in passage] for passage in scores],
        "answers": answers,
        **variant.times(),
        "beside": beside.times() if beside else None,
    }


async def _start(engine: Engine, running: AsyncExitStack) -> None:
    running.push_async_callback(engine.stop)
    await engine.start()


def _memory_bytes(process: int) -> int:
    """Sum what a process and those below it hold, pages that they share counted once."""
    place = Path("/proc", str(process))
    try:
        held = re.search(r"^Pss:\s+(\d+) kB", (place / "smaps_rollup").read_text(), re.MULTILINE)
        children = " ".join(each.read_text() for each in place.glob("task/*/children")).split()
    except OSError:  # It has ended meanwhile.
        return 0
    below = sum(_memory_bytes(int(child)) for child in children)
    return below + (int(held[1]) * 1024 if held else 0)


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text)["input_ids"]
    # Where a tokenizer marks no beginning, the first token is only context.
    return ids[: CONTEXT_TOKENS - 1]


def _tasks(asked: Asked) -> list[str]:
    lines = Path(asked["texts"]["tasks"]).read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["prompt"] for line in lines if line.strip()]


async def _answer(engine: Engine, tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    text = ""
    parameters = SamplingParams(max_tokens=ANSWER_TOKENS, temperature=0.0)
    request = _request("task", _tokens(tokenizer, prompt), ANSWER_TOKENS, parameters)
    async for delta in engine.generate(request):
        text += delta.text
    return text


async def _time(engines: Sequence[_Timed], text: list[int]) -> None:
    """Take the times of steps: prefill by the token, decode by the batch; engines in turn.

    What is decoded goes on with natural text, as far as drafts of it are right it takes less.
    """
    for turn in range(PREFILLS + 1):
        for each in engines:
            await each.prefill(turn)
    for batch in BATCHES * ROUNDS:
        starts = [STRIDE * place % (len(text) - DECODE_PROMPT_TOKENS) for place in range(batch)]
        prompts = [text[start : start + DECODE_PROMPT_TOKENS] for start in starts]
        for each in engines:
            await each.decode(prompts)


async def _run(engine: Engine, prompts: Sequence[list[int]], tokens: int) -> None:
    parameters = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)

    async def one(place: int, prompt: list[int]) -> None:
        async for _ in engine.generate(_request(f"time-{place}", prompt, tokens, parameters)):
            pass

    await asyncio.gather(*(one(place, prompt) for place, prompt in enumerate(prompts)))


def _request(
    name: str, prompt: list[int], tokens: int, parameters: SamplingParams
) -> EngineRequest:
    return EngineRequest(name, prompt, tokens, sampling=encode(parameters))


if __name__ == "__main__":
    run(measure)
