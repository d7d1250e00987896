"""vLLM behind the engine protocol: one AsyncLLM, its streams, its steps, its end.

Its own module because it is the only one of the serving path that imports vLLM's engine;
its version is pinned, and what another version calls differently changes here only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
from vllm.v1.engine.exceptions import EngineGenerateError
from vllm.v1.metrics.loggers import StatLoggerBase

from cluster.processor import processor
from serve.engine import (
    FINISH_LENGTH,
    FINISH_STOP,
    EngineDelta,
    EngineFinish,
    EngineRequest,
    EngineStep,
    StepObserver,
)
from serve.engine_vllm_resume import ENGINE_ARGUMENTS
from serve.errors import (
    EngineDeadError,
    EngineFailedError,
    EngineRejectedError,
    JouleserveError,
    OverloadedError,
)
from serve.lifeline import Lifeline
from serve.replay_vllm import hand_over, replay_into
from serve.sampling_vllm import parameters_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from vllm.config import VllmConfig
    from vllm.outputs import RequestOutput
    from vllm.v1.metrics.stats import IterationStats, SchedulerStats

    from serve.config_models import VariantConfig

logger = logging.getLogger("jouleserve.serve")

_GIB = 1 << 30
# "repetition" is vLLM's own guard against endless loops.
_FINISH_REASONS = {"stop": FINISH_STOP, "repetition": FINISH_STOP, "length": FINISH_LENGTH}


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """What an engine is made of.

    Attributes:
        checkpoint: directory of weights and tokenizer, or the id of a repository on the hub.
        on_cpu: no GPU is used.
        revision: of a repository on the hub.
        dtype: of unquantized weights and activations; "auto" is the checkpoint's own, or float32
            on a processor that imitates bf16.
        quantization: vLLM's name of the method; None reads it from the checkpoint.
        kv_cache_dtype: of the KV cache.
        kv_cache_bytes: of one rank; None takes a GPU's free memory.
        max_context_tokens: prompt and completion together.
        max_batch: most sequences that decode together.
        tensor_parallel_size: ranks that share every layer.
        pipeline_parallel_size: groups of layers.
        gpu_power_limit_w: of each GPU while the engine has it; None leaves it as it is.
        extra: further arguments by their names in AsyncEngineArgs; they win.

    """

    checkpoint: str
    on_cpu: bool
    revision: str | None = None
    dtype: str = "auto"
    quantization: str | None = None
    kv_cache_dtype: str = "auto"
    kv_cache_bytes: int | None = None
    max_context_tokens: int = 4096
    max_batch: int = 128
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    gpu_power_limit_w: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def vllm_options(variant: VariantConfig, checkpoint: str) -> VllmOptions:
    """Translate a variant; its checkpoint is what `checkpoints.materialize` made of it."""
    gib = variant.kv_cache_gib
    return VllmOptions(
        checkpoint=checkpoint,
        on_cpu=variant.accelerator == "cpu",
        revision=variant.checkpoint.revision if variant.checkpoint is not None else None,
        dtype=variant.dtype,
        quantization=variant.quantization,
        kv_cache_dtype=variant.kv_cache_dtype,
        kv_cache_bytes=None if gib is None else int(gib * _GIB),
        max_context_tokens=variant.max_context_tokens,
        max_batch=variant.max_batch,
        tensor_parallel_size=variant.tensor_parallel_size,
        pipeline_parallel_size=variant.pipeline_parallel_size,
        gpu_power_limit_w=variant.gpu_power_limit_w,
        extra=variant.engine_options,
    )


def engine_arguments(options: VllmOptions) -> dict[str, Any]:
    """Give the arguments of AsyncEngineArgs."""
    ranks = options.tensor_parallel_size * options.pipeline_parallel_size
    imitated = options.on_cpu and options.dtype == "auto" and processor().imitates_bf16
    return {
        "model": options.checkpoint,
        "revision": options.revision,
        "dtype": "float32" if imitated else options.dtype,
        "quantization": options.quantization,
        "kv_cache_dtype": options.kv_cache_dtype,
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "max_model_len": options.max_context_tokens,
        "max_num_seqs": options.max_batch,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        # Inside a Ray Serve replica, Ray workers take the bundles of its placement group.
        "distributed_executor_backend": "ray" if ranks > 1 and not options.on_cpu else None,
        # Compiling for a CPU takes minutes and gains little.
        "enforce_eager": options.on_cpu,
        # vLLM's own statistics loggers; the one given below is not affected.
        "disable_log_stats": True,
        # Exact tokens and time of each step, in what that logger is given; logs nothing.
        "enable_logging_iteration_details": True,
        **ENGINE_ARGUMENTS,
        **options.extra,
    }


class VllmEngine:
    """Implements `engine.Engine` with vLLM's AsyncLLM."""

    def __init__(self, options: VllmOptions, observe: StepObserver) -> None:
        """Configure; `start` loads.

        Args:
            options: what to load, and how.
            observe: called after every step, in the event loop of `generate`.

        """
        self._options = options
        self._steps = _StepRecord(observe)
        self._llm: AsyncLLM | None = None
        self._lifeline: Lifeline | None = None
        # Requests on their way into vLLM that another replica has begun.
        self._replays: dict[str, EngineRequest] = {}

    async def start(self) -> None:
        """Load the weights in processes of vLLM's own, tens of seconds to minutes."""
        llm = await asyncio.to_thread(self._load)
        self._llm = llm
        await llm.collective_rpc("resume_exactly")
        if self._options.gpu_power_limit_w is not None:
            told = await llm.collective_rpc("limit_power", args=(self._options.gpu_power_limit_w,))
            for trouble in filter(None, told):
                logger.warning("a GPU keeps its power limit: %s", trouble)

    async def stop(self) -> None:
        """End vLLM's processes; streams in flight end with EngineDeadError."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.output_processor.propagate_error(VllmDeadError())
            if llm.output_handler is not None:
                llm.output_handler.cancel()  # It would log the end of the process as a fault.
            await asyncio.to_thread(llm.shutdown)
        lifeline, self._lifeline = self._lifeline, None
        if lifeline is not None:
            await asyncio.to_thread(lifeline.cut)

    async def check_health(self) -> None:
        """Raise EngineDeadError when vLLM's processes are gone."""
        try:
            await self._live().check_health()
        except VllmDeadError as error:
            raise EngineDeadError("vLLM's engine process has died") from error

    async def gpus(self) -> list[tuple[str, str]]:
        """Give the node and the UUID of the GPU of each rank; none on processors."""
        if self._options.on_cpu:
            return []
        held: list[tuple[str, str]] = await self._live().collective_rpc("gpu")
        return [(node, uuid) for node, uuid in held]

    def unfinished_requests(self) -> int:
        """Count what either side of vLLM holds: its front end, or its scheduler's last step."""
        if self._llm is None:
            return 0
        unfinished: int = self._llm.get_num_unfinished_requests()
        return max(unfinished, self._steps.requests)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineDelta, None]:
        """Stream the deltas of one request.

        Raises:
            EngineRejectedError: the request itself is at fault.
            OverloadedError: a queue limit among the engine's options is reached.
            EngineDeadError: the engine can serve no more.
            EngineFailedError: the engine failed on this request.

        """
        llm = self._live()
        parameters = parameters_of(request)
        hand_over(request, parameters, llm.model_config)
        emitted = len(request.replayed_token_ids)
        if emitted:
            self._replays[request.request_id] = request
        outputs = llm.generate(
            tokens_input(request.prompt_token_ids),
            parameters,
            request.request_id,
            trace_headers=request.trace_headers or None,
        )
        try:
            async for output in outputs:
                emitted += len(output.outputs[0].token_ids)
                yield _delta(output, emitted)
        except (VllmDeadError, VLLMClientError, GracefulHTTPError, EngineGenerateError) as error:
            raise _translate(error) from error
        finally:
            self._replays.pop(request.request_id, None)
            await outputs.aclose()

    def _load(self) -> AsyncLLM:
        self._lifeline = Lifeline()
        llm = AsyncLLM.from_engine_args(
            AsyncEngineArgs(**engine_arguments(self._options)), stat_loggers=[self._steps.logger]
        )
        replay_into(llm.output_processor, self._replays)
        return llm

    def _live(self) -> AsyncLLM:
        if self._llm is None:
            raise EngineDeadError("the engine is not running")
        return self._llm


def _delta(output: RequestOutput, emitted: int) -> EngineDelta:
    part = output.outputs[0]
    finish = _finish(output, emitted) if output.finished else None
    logprobs = None if part.logprobs is None else list(part.logprobs)
    return EngineDelta(list(part.token_ids), part.text, logprobs, finish)


def _finish(output: RequestOutput, emitted: int) -> EngineFinish:
    part = output.outputs[0]
    reason = _FINISH_REASONS.get(part.finish_reason or "")
    if reason is None:
        raise EngineFailedError(f"vLLM ended the request with {part.finish_reason!r}")
    times = output.metrics
    return EngineFinish(
        reason=reason,
        stop_reason=part.stop_reason,
        prompt_tokens=len(output.prompt_token_ids or ()),
        cached_tokens=output.num_cached_tokens or 0,
        completion_tokens=emitted,
        queue_s=max(0.0, times.scheduled_ts - times.queued_ts),
        prefill_s=max(0.0, times.first_token_ts - times.scheduled_ts),
        decode_s=max(0.0, times.last_token_ts - times.first_token_ts),
    )


def _translate(error: Exception) -> JouleserveError:
    match error:
        case VllmDeadError():
            return EngineDeadError("vLLM's engine process has died")
        case VLLMClientError():
            return EngineRejectedError(str(error))
        case GracefulHTTPError():
            return OverloadedError(str(error))
        case EngineGenerateError(__cause__=ValueError() as cause):
            return EngineRejectedError(str(cause))
        case _:
            return EngineFailedError(f"vLLM failed: {error.__cause__ or error!r}")


class _StepRecord:
    """Turns vLLM's statistics into steps, and keeps the newest count of requests."""

    def __init__(self, observe: StepObserver) -> None:
        self.requests = 0
        self._observe = observe
        self._overlapping = False
        self._drafts = 0
        self._ended_at_s: float | None = None

    def logger(self, config: VllmConfig, engine_index: int = 0) -> _StepLogger:
        """Make what vLLM calls after every step."""
        # With asynchronous scheduling or a pipeline the time that vLLM gives for a step is only
        # how long it waited for it.
        parallel = config.parallel_config
        self._overlapping = (
            config.scheduler_config.async_scheduling or parallel.pipeline_parallel_size > 1
        )
        speculation = config.speculative_config
        self._drafts = speculation.num_speculative_tokens if speculation is not None else 0
        return _StepLogger(self)

    def record(self, scheduler: SchedulerStats, iteration: IterationStats | None) -> None:
        """Take the statistics of a step; an empty one only updates the count of requests."""
        waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
        busy_before, self.requests = self.requests > 0, scheduler.num_running_reqs + waiting
        details = scheduler.iteration_details
        if details is None or details.is_dummy:
            return
        now_s = time.monotonic()
        duration_s = details.elapsed_ms / 1e3
        if self._overlapping and busy_before and self._ended_at_s is not None:
            duration_s = now_s - self._ended_at_s
        self._ended_at_s = now_s
        sequences = details.num_generation_requests
        # A sequence that was preempted computes its tokens again, which is a prefill.
        again = max(0, details.num_generation_tokens - sequences * (1 + self._drafts))
        produced = started = 0
        if iteration is not None:
            produced = iteration.num_generation_tokens
            started = len(iteration.time_to_first_tokens_iter)
        self._observe(
            EngineStep(
                duration_s=duration_s,
                prefill_tokens=details.num_ctx_tokens + again,
                decode_sequences=sequences,
                decode_tokens=max(0, produced - started),
                running_requests=scheduler.num_running_reqs,
                waiting_requests=waiting,
                kv_cache_usage=scheduler.kv_cache_usage,
            )
        )


class _StepLogger(StatLoggerBase):
    """What vLLM calls with the statistics of every step."""

    def __init__(self, record: _StepRecord) -> None:
        self._record = record

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: object = None,
        engine_idx: int = 0,
    ) -> None:
        """Pass on what a step says."""
        if scheduler_stats is not None:
            self._record.record(scheduler_stats, iteration_stats)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
