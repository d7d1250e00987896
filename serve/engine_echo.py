"""An engine without a model: it repeats the prompt, at a configured speed.

Its own module because tests of everything above an engine, and the weighing of the
gateway, need real continuous batching and known tokens, but neither vLLM nor weights.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serve.engine import (
    FINISH_LENGTH,
    EngineDelta,
    EngineFinish,
    EngineRequest,
    EngineStep,
    StepObserver,
)
from serve.errors import EngineDeadError, EngineRejectedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

# Most prompt tokens of one step, as in vLLM: a long prompt must not stop all decoding.
PREFILL_CHUNK_TOKENS = 2048


def echo_token(prompt_token_ids: list[int], position: int) -> int:
    """Give the token that the engine generates at this position: the prompt, over and over."""
    return prompt_token_ids[position % len(prompt_token_ids)]


def echo_text(token_id: int) -> str:
    """Give the text of a token: a blank and its number."""
    return f" {token_id}"


@dataclass(slots=True, eq=False)
class _Sequence:
    request: EngineRequest
    max_tokens: int
    arrived_at_s: float
    deltas: asyncio.Queue[EngineDelta | None] = field(default_factory=asyncio.Queue)
    computed_tokens: int = 0
    completion_tokens: int = 0
    scheduled_at_s: float = 0.0
    first_token_at_s: float = 0.0

    @property
    def context_tokens(self) -> int:
        return self.request.context_tokens

    @property
    def decoding(self) -> bool:
        return self.computed_tokens == self.context_tokens


class EchoEngine:
    """Implements `engine.Engine`: token i of an answer is `prompt[i % len(prompt)]`.

    Every step computes a chunk of the prompts that are not yet computed and gives one
    token to every sequence whose prompt is; it takes the time of both. It reads
    nothing of a request but its prompt and `max_tokens`, and always ends by length.
    """

    def __init__(  # noqa: PLR0913 (settings, each by its name)
        self,
        decode_step_s: float,
        prefill_tokens_per_s: float,
        max_batch: int,
        max_context_tokens: int,
        observe: StepObserver,
        *,
        text: Callable[[int], str] = echo_text,
    ) -> None:
        """Configure the speed; `start` makes it run.

        Args:
            decode_step_s: time of a decode step; 0 is as fast as the event loop allows.
            prefill_tokens_per_s: prompt tokens computed per second.
            max_batch: most sequences in a step; others wait, first come first served.
            max_context_tokens: prompt and completion together, of one sequence.
            observe: called after every step.
            text: of a token; by default its number.

        """
        self._decode_step_s = decode_step_s
        self._prefill_tokens_per_s = prefill_tokens_per_s
        self._max_batch = max_batch
        self._max_context_tokens = max_context_tokens
        self._observe = observe
        self._text = text
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._work = asyncio.Event()
        self._steps: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start stepping."""
        self._steps = asyncio.create_task(self._run(), name="echo engine")

    async def stop(self) -> None:
        """Stop stepping; streams in flight end with EngineDeadError."""
        if self._steps is not None:
            self._steps.cancel()
            await asyncio.wait([self._steps])
            self._steps = None
        for sequence in (*self._waiting, *self._running):
            sequence.deltas.put_nowait(None)
        self._waiting.clear()
        self._running.clear()

    async def check_health(self) -> None:
        """Raise EngineDeadError unless the engine runs."""
        if self._steps is None or self._steps.done():
            raise EngineDeadError("the echo engine does not run")

    def unfinished_requests(self) -> int:
        """Count waiting and running sequences."""
        return len(self._waiting) + len(self._running)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        """Stream the prompt, over and over, up to `max_tokens`."""
        await self.check_health()
        sequence = self._admit(request)
        try:
            while True:
                delta = await sequence.deltas.get()
                if delta is None:
                    raise EngineDeadError("the echo engine was stopped")
                yield delta
                if delta.finish is not None:
                    return
        finally:
            self._remove(sequence)

    def _admit(self, request: EngineRequest) -> _Sequence:
        prompt_tokens = len(request.prompt_token_ids)
        if prompt_tokens == 0:
            raise EngineRejectedError("the prompt is empty")
        if prompt_tokens >= self._max_context_tokens:
            raise EngineRejectedError(
                f"the prompt has {prompt_tokens} tokens and leaves no room for a completion"
                f" in a context of {self._max_context_tokens}"
            )
        if request.max_tokens < 1:
            raise EngineRejectedError(f"max_tokens is {request.max_tokens}; it must be at least 1")
        max_tokens = min(request.max_tokens, self._max_context_tokens - prompt_tokens)
        sequence = _Sequence(request, max_tokens, asyncio.get_running_loop().time())
        sequence.completion_tokens = len(request.replayed_token_ids)
        self._waiting.append(sequence)
        self._work.set()
        return sequence

    def _remove(self, sequence: _Sequence) -> None:
        if sequence in self._running:
            self._running.remove(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time()
        while True:
            if not self.unfinished_requests():
                self._work.clear()
                await self._work.wait()
                due_s = loop.time()
            began_s = loop.time()
            prefilled, decoding = self._schedule(began_s)
            prefill_tokens = sum(tokens for _, tokens in prefilled)
            # Steps follow each other on a fixed grid, so that late wake-ups do not add up.
            length_s = self._length_s(prefill_tokens, len(decoding))
            due_s = max(due_s, began_s - length_s) + length_s
            await asyncio.sleep(due_s - loop.time())
            self._finish_step(prefilled, decoding, began_s, loop.time())

    def _length_s(self, prefill_tokens: int, decoding: int) -> float:
        prefill_s = prefill_tokens / self._prefill_tokens_per_s
        return prefill_s + (self._decode_step_s if decoding else 0.0)

    def _schedule(self, now_s: float) -> tuple[list[tuple[_Sequence, int]], list[_Sequence]]:
        while self._waiting and len(self._running) < self._max_batch:
            sequence = self._waiting.popleft()
            sequence.scheduled_at_s = now_s
            self._running.append(sequence)
        budget = PREFILL_CHUNK_TOKENS
        prefilled = []
        for sequence in self._running:
            tokens = min(budget, sequence.context_tokens - sequence.computed_tokens)
            if tokens:
                prefilled.append((sequence, tokens))
                budget -= tokens
        return prefilled, [sequence for sequence in self._running if sequence.decoding]

    def _finish_step(
        self,
        prefilled: list[tuple[_Sequence, int]],
        decoding: list[_Sequence],
        began_s: float,
        now_s: float,
    ) -> None:
        for sequence, tokens in prefilled:
            sequence.computed_tokens += tokens
        started = [sequence for sequence, _ in prefilled if sequence.decoding]
        alive = set(self._running)
        for sequence in (*decoding, *started):
            if sequence in alive:
                self._emit(sequence, now_s)
        self._observe(
            EngineStep(
                duration_s=now_s - began_s,
                prefill_tokens=sum(tokens for _, tokens in prefilled),
                decode_sequences=len(decoding),
                decode_tokens=sum(sequence in alive for sequence in decoding),
                running_requests=len(self._running),
                waiting_requests=len(self._waiting),
                kv_cache_usage=self._kv_cache_usage(),
            )
        )

    def _kv_cache_usage(self) -> float:
        # What was replayed counts among what is computed and among what was generated.
        used = sum(
            each.computed_tokens + each.completion_tokens - len(each.request.replayed_token_ids)
            for each in self._running
        )
        return used / (self._max_batch * self._max_context_tokens)

    def _emit(self, sequence: _Sequence, now_s: float) -> None:
        token_id = echo_token(sequence.request.prompt_token_ids, sequence.completion_tokens)
        if not sequence.first_token_at_s:
            sequence.first_token_at_s = now_s
        sequence.completion_tokens += 1
        finish = None
        if sequence.completion_tokens >= sequence.max_tokens:
            finish = _finish(sequence, now_s)
            self._running.remove(sequence)
        sequence.deltas.put_nowait(EngineDelta([token_id], self._text(token_id), None, finish))


def _finish(sequence: _Sequence, now_s: float) -> EngineFinish:
    return EngineFinish(
        reason=FINISH_LENGTH,
        stop_reason=None,
        prompt_tokens=len(sequence.request.prompt_token_ids),
        cached_tokens=0,
        completion_tokens=sequence.completion_tokens,
        queue_s=sequence.scheduled_at_s - sequence.arrived_at_s,
        prefill_s=sequence.first_token_at_s - sequence.scheduled_at_s,
        decode_s=now_s - sequence.first_token_at_s,
    )
