"""A replica that does exactly what a step model says, behind a client that asks it in process.

Its own module because what a measurement finds can only be judged against what is true, and
here everything is known: every step's time and energy, on a clock that no other process moves.
"""

from __future__ import annotations

import asyncio
import selectors
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from protos.jouleserve.client import (
    ClusterStatus,
    Counters,
    Energy,
    Finish,
    Latency,
    Replica,
    Tokens,
    Usage,
)
from serve.engine import EngineRequest
from serve.engine_echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from scheduler.steps import StepModel
    from serve.engine import EngineDelta

CHUNK_TOKENS = 2048
REPLICA = Replica(
    model="m",
    variant="v",
    replica="v#1",
    node="node",
    accelerator="h100-sxm",
    state="awake",
    age_s=0.0,
    running_requests=0,
    waiting_requests=0,
    kv_cache_usage=0.1,
    prefill_tokens_per_s=0.0,
    decode_tokens_per_s=0.0,
    step_time_s=0.0,
    power_w=0.0,
    energy_j=0.0,
    leases=0,
    energy_method="model",
    energy_boundary="gpu",
    max_batch=64,
)
COUNTERS = Counters(
    accepted=0, completed=0, cancelled=0, failed=0, rejected=0, in_flight=0, leases=0
)


class _Instant(selectors.DefaultSelector):
    """Passes the time that a loop would wait, without waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("everything waits for something that will never come")
        self.now_s += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as fast as its work is done."""

    def __init__(self) -> None:
        self._instant = _Instant()
        super().__init__(self._instant)

    def time(self) -> float:
        return self._instant.now_s


def in_virtual_time(work: Coroutine[Any, Any, Any]) -> Any:
    """Run to the end on such a loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


@dataclass(slots=True, eq=False)
class _Sequence:
    prompt_tokens: int
    max_tokens: int
    computed: int = 0
    generated: int = 0
    news: asyncio.Queue[int] = field(default_factory=asyncio.Queue)

    @property
    def decoding(self) -> bool:
        return self.generated > 0


class ModelledCluster:
    """One replica of one variant, and whatever else a test puts beside it.

    It fills the part of `AsyncClient` that a measurement uses.
    """

    def __init__(
        self,
        steps: StepModel,
        *,
        max_batch: int = 64,
        idle_w: float = 100.0,
        method: str = "nvml",
        stretch: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.others: list[Replica] = []
        self.asked: list[dict[str, Any]] = []
        self._steps = steps
        self._max_batch = max_batch
        self._idle_w = idle_w
        self._method = method
        self._stretch = stretch
        self._waiting: list[_Sequence] = []
        self._running: list[_Sequence] = []
        self._work = asyncio.Event()
        self._busy_j = 0.0
        self._idle_s = 0.0
        self._step_s = 0.0
        self._since_s: float | None = 0.0
        self._current = (0.0, 1.0, 0.0)  # Of the step that runs: beginning, seconds, joules.

    async def serve(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the replica for as long as this work takes."""
        stepping = asyncio.create_task(self._step_on())
        try:
            return await work
        finally:
            stepping.cancel()

    @property
    def replica(self) -> Replica:
        now_s = asyncio.get_running_loop().time()
        idle_s = self._idle_s + (0.0 if self._since_s is None else now_s - self._since_s)
        began_s, step_s, step_j = self._current
        energy_j = self._busy_j + self._idle_w * idle_s + step_j * (now_s - began_s) / step_s
        return replace(
            REPLICA,
            running_requests=len(self._running),
            waiting_requests=len(self._waiting),
            step_time_s=self._step_s,
            energy_j=energy_j,
            leases=len(self._running) + len(self._waiting),
            energy_method=self._method,
            max_batch=self._max_batch,
        )

    async def status(self) -> ClusterStatus:
        return ClusterStatus("gateway", "energy", (self.replica, *self.others), COUNTERS, ())

    def generate(self, model: str, **options: Any) -> ModelledStream:
        self.asked.append({"model": model, **options})
        sequence = _Sequence(len(options["prompt_token_ids"]), options["max_tokens"])
        self._waiting.append(sequence)
        self._work.set()
        return ModelledStream(sequence)

    async def _step_on(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if not (self._waiting or self._running):
                self._work.clear()
                await self._work.wait()
            if self._since_s is not None:
                self._idle_s += loop.time() - self._since_s
                self._since_s = None
            await self._step()
            if not (self._waiting or self._running):
                self._since_s = loop.time()

    async def _step(self) -> None:
        while self._waiting and len(self._running) < self._max_batch:
            self._running.append(self._waiting.pop(0))
        decoding = [each for each in self._running if each.decoding]
        left = CHUNK_TOKENS
        started = []
        for each in self._running:
            chunk = min(left, each.prompt_tokens - each.computed)
            each.computed += chunk
            left -= chunk
            if not each.decoding and each.computed == each.prompt_tokens:
                started.append(each)
        context = float(sum(each.prompt_tokens + each.generated for each in decoding))
        steps, prefilled = self._steps, CHUNK_TOKENS - left
        step_s, step_j = steps.prefill_s(prefilled), steps.prefill_j(prefilled)
        if decoding:
            step_s += steps.decode_s(len(decoding), context)
            step_j += steps.decode_j(len(decoding), context)
        step_s *= self._stretch()
        self._current = (asyncio.get_running_loop().time(), step_s, step_j)
        await asyncio.sleep(step_s)
        self._current = (0.0, 1.0, 0.0)
        self._step_s = step_s
        self._busy_j += step_j
        for each in (*decoding, *started):
            each.generated += 1
            each.news.put_nowait(each.generated)
            if each.generated == each.max_tokens:
                self._running.remove(each)


class EchoCluster:
    """The echo engine itself, with nothing of a cluster around it."""

    def __init__(self, decode_step_s: float, prefill_tokens_per_s: float) -> None:
        self._engine = EchoEngine(decode_step_s, prefill_tokens_per_s, 64, 4096, lambda _: None)

    async def serve(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run the engine for as long as this work takes."""
        await self._engine.start()
        try:
            return await work
        finally:
            await self._engine.stop()

    async def status(self) -> ClusterStatus:
        return ClusterStatus("gateway", "energy", (REPLICA,), COUNTERS, ())

    def generate(self, model: str, **options: Any) -> EchoStream:
        prompt, tokens = options["prompt_token_ids"], options["max_tokens"]
        request = EngineRequest(str(id(options)), prompt, tokens)
        return EchoStream(self._engine.generate(request), len(prompt))


class _Stream:
    """What a stream is, whoever gives its tokens; it fills what of `AsyncStream` is used."""

    prompt_tokens: int

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    def __aiter__(self) -> Self:
        return self

    @property
    def finish(self) -> Finish:
        usage = Usage(
            prompt_tokens=self.prompt_tokens,
            cached_tokens=0,
            completion_tokens=1,
            completion_crc32=0,
            latency=Latency(0.0, 0.0, 0.0),
            energy=Energy(0.0, 0.0, 0.0, "model", "gpu"),
        )
        return Finish("r", "length", usage, "v", "v#1", "because", None)


class EchoStream(_Stream):
    """A stream of the echo engine."""

    def __init__(self, deltas: AsyncIterator[EngineDelta], prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self._deltas = deltas

    async def __anext__(self) -> Tokens:
        delta = await anext(self._deltas)
        return Tokens(delta.text, tuple(delta.token_ids))


class ModelledStream(_Stream):
    """A stream of the replica that does what a model says."""

    def __init__(self, sequence: _Sequence) -> None:
        self.prompt_tokens = sequence.prompt_tokens
        self._sequence = sequence
        self._read = 0

    async def __anext__(self) -> Tokens:
        if self._read == self._sequence.max_tokens:
            raise StopAsyncIteration
        self._read = await self._sequence.news.get()
        return Tokens("x", (self._read,))


def beside(replica: Replica, **changed: Any) -> Replica:
    """Give another replica like this one."""
    return replace(replica, **{"replica": "v#2", **changed})
