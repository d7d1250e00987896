"""llama.cpp behind the engine protocol: a GGUF file, served by llama.cpp's own batching server.

Its own module because it is the only one that imports llama.cpp's binding. llama.cpp generates
token ids; the text, stop strings and the end are made as for vLLM (`completion_text`).
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xllamacpp
from transformers import AutoTokenizer
from vllm.logprobs import Logprob
from vllm.tokenizers import get_tokenizer

from serve.completion_text import CompletionText
from serve.engine import (
    FINISH_STOP,
    EngineDelta,
    EngineFinish,
    EngineRequest,
    StepObserver,
)
from serve.errors import EngineDeadError, EngineRejectedError
from serve.sampling_vllm import parameters_of
from serve.step_estimate import StepEstimate
from serve.unseen_tokens import Vocabulary

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from vllm import SamplingParams
    from vllm.tokenizers import TokenizerLike

    from serve.config_models import VariantConfig

# Streams in llama.cpp's hands end within this when the engine stops.
STOP_S = 10.0
# In vLLM's order: the temperature before what cuts the tail off.
_SAMPLERS = ["penalties", "temperature", "top_k", "top_p", "min_p"]
_UNSUPPORTED = ("structured_outputs", "bad_words", "allowed_token_ids", "prompt_logprobs")


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """What an engine is made of.

    Attributes:
        directory: with one GGUF file, its tokenizer and config.json.
        threads: of one step.
        gpu: whether the layers go to a GPU; the binding must have been built for it.
        max_context_tokens: prompt and completion together.
        max_batch: most sequences that decode together; each has a context of its own.

    """

    directory: Path
    threads: int
    gpu: bool = False
    max_context_tokens: int = 4096
    max_batch: int = 8


def llamacpp_options(variant: VariantConfig, checkpoint: str) -> LlamaCppOptions:
    """Translate a variant; its checkpoint is what `checkpoints.materialize` made of it."""
    return LlamaCppOptions(
        directory=Path(checkpoint),
        threads=max(1, int(variant.cpus_per_replica)),
        gpu=variant.accelerator != "cpu",
        max_context_tokens=variant.max_context_tokens,
        max_batch=variant.max_batch,
    )


@dataclass(slots=True, eq=False)
class _Stream:
    """A request in llama.cpp's hands; its callback runs in a thread of llama.cpp's."""

    loop: asyncio.AbstractEventLoop
    chunks: asyncio.Queue[Mapping[str, Any] | None] = field(default_factory=asyncio.Queue)
    left: bool = False

    def take(self, chunk: Mapping[str, Any]) -> bool:
        """Pass a chunk on; True has llama.cpp end the request."""
        self._put(chunk)
        return self.left

    def end(self) -> None:
        """Say that no chunk comes any more."""
        self._put(None)

    def _put(self, chunk: Mapping[str, Any] | None) -> None:
        try:
            self.loop.call_soon_threadsafe(self.chunks.put_nowait, chunk)
        except RuntimeError:  # The loop is closed: nobody listens.
            self.left = True


class LlamaCppEngine:
    """Implements `engine.Engine` with llama.cpp's server, in threads of this process."""

    def __init__(self, options: LlamaCppOptions, observe: StepObserver) -> None:
        """Configure; `start` loads.

        Args:
            options: what to load, and how.
            observe: called after every step, as far as arriving tokens tell steps apart.

        """
        self._options = options
        self._steps = StepEstimate(observe, options.max_batch * options.max_context_tokens)
        self._server: Any = None
        self._tokenizer: TokenizerLike | None = None
        self._vocabulary: Vocabulary | None = None
        self._ends: frozenset[int] = frozenset()
        self._end = -1
        self._threads = ThreadPoolExecutor(options.max_batch, "llama.cpp")
        self._free = asyncio.Semaphore(options.max_batch)
        self._streams: set[_Stream] = set()

    async def start(self) -> None:
        """Load the weights; seconds."""
        await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        """End llama.cpp's threads; streams in flight end with EngineDeadError."""
        server, self._server = self._server, None
        for stream in tuple(self._streams):
            stream.left = True
            stream.end()
        if server is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await asyncio.to_thread(self._threads.shutdown)
            # With its last reference goes llama.cpp's main loop.
            del server

    async def check_health(self) -> None:
        """Raise EngineDeadError unless it is loaded; llama.cpp dies with this process only."""
        if self._server is None:
            raise EngineDeadError("llama.cpp is not running")

    def unfinished_requests(self) -> int:
        """Count the requests that wait or run."""
        return self._steps.requests

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        """Stream the deltas of one request.

        Raises:
            EngineRejectedError: the request itself is at fault.
            EngineDeadError: the engine can serve no more.

        """
        await self.check_health()
        parameters = parameters_of(request)
        asked = self._asked(request, parameters)
        arrived_s = time.monotonic()
        with self._steps.waiting():
            async with self._free:
                await self.check_health()
                scheduled_s = time.monotonic()
                async for delta in self._stream(request, parameters, asked, arrived_s, scheduled_s):
                    yield delta

    async def _stream(
        self,
        request: EngineRequest,
        parameters: SamplingParams,
        asked: Mapping[str, Any],
        arrived_s: float,
        scheduled_s: float,
    ) -> AsyncGenerator[EngineDelta, None]:
        loop = asyncio.get_running_loop()
        stream = _Stream(loop)
        text = CompletionText(self._known_tokenizer(), request, parameters, self._ends)
        first_s, cached, seen = 0.0, 0, 0
        self._streams.add(stream)
        done = loop.run_in_executor(self._threads, self._complete, dict(asked), stream)
        try:
            with self._steps.running(request.context_tokens) as pace:
                while True:
                    chunk = await stream.chunks.get()
                    if chunk is None or self._server is None:
                        raise EngineDeadError("llama.cpp ended the request")
                    _refuse(chunk)
                    token_ids, seen = self._token_ids(chunk, seen)
                    cached = max(cached, _timing(chunk, "cache_n"))
                    now_s = time.monotonic()
                    if token_ids:
                        first_s = first_s or now_s
                        pace.tokens(len(token_ids), now_s)
                    piece = text.add(token_ids)
                    reason = piece.reason or _finish_reason(chunk)
                    finish = None
                    if reason:
                        finish = EngineFinish(
                            reason=reason,
                            stop_reason=piece.stop_reason,
                            prompt_tokens=len(request.prompt_token_ids),
                            cached_tokens=cached,
                            completion_tokens=text.tokens,
                            queue_s=scheduled_s - arrived_s,
                            prefill_s=(first_s or now_s) - scheduled_s,
                            decode_s=now_s - (first_s or now_s),
                        )
                    logprobs = _logprobs(chunk, token_ids) if parameters.logprobs else None
                    yield EngineDelta(piece.token_ids, piece.text, logprobs, finish)
                    if finish is not None:
                        return
        finally:
            stream.left = True
            self._streams.discard(stream)
            # The slot is free only when llama.cpp has let go of it.
            await asyncio.shield(asyncio.wait([done]))

    def _complete(self, asked: dict[str, Any], stream: _Stream) -> None:
        """Run one request to its end, in a thread of its own."""
        server = self._server
        try:
            if server is not None:
                server.handle_completions(asked, stream.take)
        finally:
            stream.end()

    def _asked(self, request: EngineRequest, parameters: SamplingParams) -> Mapping[str, Any]:
        """Put a request into llama.cpp's words.

        Raises:
            EngineRejectedError: llama.cpp cannot do what is asked.

        """
        unsupported = [name for name in _UNSUPPORTED if getattr(parameters, name)]
        if unsupported:
            raise EngineRejectedError(
                f"the engine llama.cpp does not know {', '.join(unsupported)}; ask without, or"
                " ask a variant on vLLM"
            )
        if not request.prompt_token_ids:
            raise EngineRejectedError("the prompt is empty")
        room = self._options.max_context_tokens - request.context_tokens
        if room < 1:
            raise EngineRejectedError(
                f"the prompt has {request.context_tokens} tokens and leaves no room for a"
                f" completion in a context of {self._options.max_context_tokens}"
            )
        most = request.max_tokens - len(request.replayed_token_ids)
        return {
            "prompt": [*request.prompt_token_ids, *request.replayed_token_ids],
            # The last token may be one of those that are held back: a character has four bytes.
            "n_predict": min(most + 3, room),
            "stream": True,
            "cache_prompt": True,
            "timings_per_token": True,
            "n_probs": max(1, parameters.logprobs or 0),
            # What ends a completion is found here, as for every engine.
            "ignore_eos": parameters.ignore_eos,
            "samplers": _SAMPLERS,
            "temperature": parameters.temperature,
            "top_k": max(0, parameters.top_k),
            "top_p": parameters.top_p,
            "min_p": parameters.min_p,
            "seed": -1 if parameters.seed is None else parameters.seed % (1 << 32),
            "repeat_penalty": parameters.repetition_penalty,
            "presence_penalty": parameters.presence_penalty,
            "frequency_penalty": parameters.frequency_penalty,
            "repeat_last_n": self._options.max_context_tokens,
            "logit_bias": [[int(k), v] for k, v in (parameters.logit_bias or {}).items()],
        }

    def _token_ids(self, chunk: Mapping[str, Any], seen: int) -> tuple[list[int], int]:
        """Give the ids that a chunk stands for, and how many have come with it in all.

        llama.cpp holds tokens back that are half a character and gives only the last one's id.
        """
        records = _records(chunk)
        if not records or self._vocabulary is None:
            # The token that ends a completion comes without a record.
            ended = _finish_reason(chunk) == FINISH_STOP
            return ([self._end] if ended else []), seen
        count = _timing(chunk, "predicted_n")
        held = max(0, count - seen - len(records))
        first = records[0]
        before = self._vocabulary.before(first["id"], bytes(first["bytes"]), held) if held else []
        return [*before, *(record["id"] for record in records)], count

    def _load(self) -> None:
        options = self._options
        files = sorted(options.directory.glob("*.gguf"))
        if len(files) != 1:
            raise EngineDeadError(f"{options.directory} holds {len(files)} GGUF files, not one")
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(files[0])
        parameters.n_parallel = options.max_batch
        parameters.n_ctx = options.max_batch * options.max_context_tokens
        parameters.n_gpu_layers = -1 if options.gpu else 0
        parameters.cpuparams.n_threads = options.threads
        parameters.cpuparams_batch.n_threads = options.threads
        # The binding opens a port on loopback that nobody uses: it takes a key that nobody has.
        parameters.api_keys = [secrets.token_hex()]
        self._tokenizer = get_tokenizer(str(options.directory))
        self._vocabulary = Vocabulary(AutoTokenizer.from_pretrained(options.directory).get_vocab())
        self._end = int(self._tokenizer.eos_token_id)
        self._ends = _end_token_ids(options.directory) | {self._end}
        self._server = xllamacpp.Server(parameters)

    def _known_tokenizer(self) -> TokenizerLike:
        if self._tokenizer is None:
            raise EngineDeadError("llama.cpp is not running")
        return self._tokenizer

    def _known_vocabulary(self) -> Vocabulary:
        if self._vocabulary is None:
            raise EngineDeadError("llama.cpp is not running")
        return self._vocabulary


def _end_token_ids(directory: Path) -> frozenset[int]:
    """Give what ends a completion, by the model's own files."""
    ends: set[int | None] = set()
    for name in ("generation_config.json", "config.json"):
        file = directory / name
        if file.is_file():
            said = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ends |= set(said) if isinstance(said, list) else {said}
    return frozenset(each for each in ends if each is not None)


def _finish_reason(chunk: Mapping[str, Any]) -> str:
    choice = (chunk.get("choices") or [{}])[0]
    return choice.get("finish_reason") or ""


def _records(chunk: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    choice = (chunk.get("choices") or [{}])[0]
    return list((choice.get("logprobs") or {}).get("content") or ())


def _timing(chunk: Mapping[str, Any], name: str) -> int:
    return int((chunk.get("timings") or {}).get(name, 0))


def _refuse(chunk: Mapping[str, Any]) -> None:
    """Raise what llama.cpp says is wrong."""
    if error := chunk.get("error"):
        raise EngineRejectedError(f"llama.cpp: {error.get('message', error)}")


def _logprobs(chunk: Mapping[str, Any], token_ids: list[int]) -> list[dict[int, Logprob]]:
    """Give a record a token; of tokens whose id was held back nothing is known."""
    records = _records(chunk)
    known = [
        {
            each["id"]: Logprob(each["logprob"], rank, each["token"])
            for rank, each in reversed([*enumerate(_ranked(record), 1)])
        }
        for record in records
    ]
    return [{}] * (len(token_ids) - len(known)) + known


def _ranked(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    top = list(record.get("top_logprobs") or ())
    return top if any(each["id"] == record["id"] for each in top) else [*top, record]
