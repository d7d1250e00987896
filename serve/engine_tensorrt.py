"""TensorRT-LLM behind the engine protocol, through its own LLM interface.

Its own module because it is the only one that imports TensorRT-LLM, which needs an NVIDIA GPU and
an environment of its own: vLLM is not imported here.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from tensorrt_llm import LLM, SamplingParams
from tensorrt_llm.llmapi import KvCacheConfig

from serve.engine import (
    FINISH_LENGTH,
    FINISH_STOP,
    EngineDelta,
    EngineFinish,
    EngineRequest,
    StepObserver,
)
from serve.errors import EngineDeadError, EngineFailedError, EngineRejectedError
from serve.step_estimate import StepEstimate

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from serve.config_models import VariantConfig

_GIB = 1 << 30
_REASONS = {"stop": FINISH_STOP, "length": FINISH_LENGTH}
# By vLLM's names; TensorRT-LLM has the same ones.
_KNOWN = frozenset(
    {
        "frequency_penalty", "ignore_eos", "include_stop_str_in_output", "max_tokens", "min_p",
        "min_tokens", "presence_penalty", "repetition_penalty", "seed", "skip_special_tokens",
        "spaces_between_special_tokens", "stop", "stop_token_ids", "temperature", "top_k", "top_p",
    }
)  # fmt: skip
# How a stream is given, not what is in it.
_IGNORED = frozenset({"output_kind", "skip_clone", "flat_logprobs", "detokenize", "n"})


@dataclass(frozen=True, slots=True)
class TensorRtOptions:
    """What an engine is made of.

    Attributes:
        checkpoint: directory of weights and tokenizer, or the id of a repository on the hub.
        arguments: of TensorRT-LLM's LLM.
        kv_cache_bytes: of one rank; None takes what is free.
        max_context_tokens: prompt and completion together.
        max_batch: most sequences that decode together.

    """

    checkpoint: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kv_cache_bytes: int | None = None
    kv_cache_dtype: str = "auto"
    max_context_tokens: int = 4096
    max_batch: int = 128


def tensorrt_options(variant: VariantConfig, checkpoint: str) -> TensorRtOptions:
    """Translate a variant; its checkpoint is what `checkpoints.materialize` made of it."""
    gib = variant.kv_cache_gib
    return TensorRtOptions(
        checkpoint=checkpoint,
        arguments={
            "dtype": variant.dtype,
            "tensor_parallel_size": variant.tensor_parallel_size,
            "pipeline_parallel_size": variant.pipeline_parallel_size,
            **variant.engine_options,
        },
        kv_cache_bytes=None if gib is None else int(gib * _GIB),
        kv_cache_dtype=variant.kv_cache_dtype,
        max_context_tokens=variant.max_context_tokens,
        max_batch=variant.max_batch,
    )


class TensorRtEngine:
    """Implements `engine.Engine` with TensorRT-LLM's LLM."""

    def __init__(self, options: TensorRtOptions, observe: StepObserver) -> None:
        """Configure; `start` loads.

        Args:
            options: what to load, and how.
            observe: called after every step, as far as arriving tokens tell steps apart.

        """
        self._options = options
        self._steps = StepEstimate(observe, options.max_batch * options.max_context_tokens)
        self._llm: Any = None

    async def start(self) -> None:
        """Load the weights; a minute or more."""
        self._llm = await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        """End TensorRT-LLM's processes."""
        llm, self._llm = self._llm, None
        if llm is not None:
            await asyncio.to_thread(llm.shutdown)

    async def check_health(self) -> None:
        """Raise EngineDeadError unless it is loaded."""
        if self._llm is None:
            raise EngineDeadError("TensorRT-LLM is not running")

    def unfinished_requests(self) -> int:
        """Count the requests that run."""
        return self._steps.requests

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        """Stream the deltas of one request; its batch and its queue are TensorRT-LLM's.

        Raises:
            EngineRejectedError: the request itself is at fault.
            EngineDeadError: the engine can serve no more.
            EngineFailedError: the engine failed on this request.

        """
        await self.check_health()
        began_s, first_s, given = time.monotonic(), 0.0, len(request.replayed_token_ids)
        output = self._submit(request)
        finished = False
        try:
            with self._steps.waiting(), self._steps.running(request.context_tokens) as pace:
                async for each in output:
                    part = each.outputs[0]
                    now_s = time.monotonic()
                    token_ids = list(part.token_ids_diff)
                    if token_ids:
                        first_s = first_s or now_s
                        pace.tokens(len(token_ids), now_s)
                    given += len(token_ids)
                    finish = None
                    if part.finish_reason is not None:
                        finished = True
                        times_s = (0.0, (first_s or now_s) - began_s, now_s - (first_s or now_s))
                        finish = _finish(request, part, given, times_s)
                    yield EngineDelta(token_ids, part.text_diff, None, finish)
        finally:
            if not finished:
                output.abort()

    def _submit(self, request: EngineRequest) -> Any:
        parameters = _sampling(request)
        try:
            return self._llm.generate_async(
                [*request.prompt_token_ids, *request.replayed_token_ids],
                sampling_params=parameters,
                streaming=True,
            )
        except ValueError as error:
            raise EngineRejectedError(f"TensorRT-LLM: {error}") from error

    def _load(self) -> Any:
        options = self._options
        cache: dict[str, Any] = {"dtype": options.kv_cache_dtype}
        if options.kv_cache_bytes is not None:
            cache["max_gpu_total_bytes"] = options.kv_cache_bytes
        return LLM(
            model=options.checkpoint,
            max_batch_size=options.max_batch,
            max_seq_len=options.max_context_tokens,
            kv_cache_config=KvCacheConfig(**cache),
            **options.arguments,
        )


def _sampling(request: EngineRequest) -> Any:
    """Translate vLLM's sampling parameters; refuse what TensorRT-LLM would not heed."""
    given: dict[str, Any] = msgspec.msgpack.decode(request.sampling) if request.sampling else {}
    chosen = {name: value for name, value in given.items() if name in _KNOWN}
    unknown = {
        name
        for name, value in given.items()
        if name not in _KNOWN | _IGNORED and not name.startswith("_") and value
    }
    if unknown:
        raise EngineRejectedError(
            f"the engine TensorRT-LLM does not know {', '.join(sorted(unknown))}; ask without,"
            " or ask a variant on vLLM"
        )
    # Only vLLM reads 0 as all.
    if chosen.get("top_k") == -1:
        del chosen["top_k"]
    chosen["max_tokens"] = request.max_tokens - len(request.replayed_token_ids)
    return SamplingParams(**chosen)


def _finish(
    request: EngineRequest, part: Any, tokens: int, times_s: tuple[float, float, float]
) -> EngineFinish:
    reason = _REASONS.get(part.finish_reason)
    if reason is None:
        raise EngineFailedError(f"TensorRT-LLM ended the request with {part.finish_reason!r}")
    queue_s, prefill_s, decode_s = times_s
    return EngineFinish(
        reason=reason,
        stop_reason=part.stop_reason,
        prompt_tokens=len(request.prompt_token_ids),
        cached_tokens=0,
        completion_tokens=tokens,
        queue_s=queue_s,
        prefill_s=prefill_s,
        decode_s=decode_s,
    )
