"""What runs inside vLLM so that a completion goes on where another replica has left it.

Its own module because vLLM imports it by name in its own processes, the scheduler's and the
workers', of which nothing else of this project is a part. A completion that goes on is to them
what a preempted request is: a prompt and the output so far, to be computed again.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.request import RequestStatus

from cluster.power_limit import PowerLimit, PowerLimitError, default_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm.config import VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.request import Request
    from vllm.v1.worker.gpu_input_batch import CachedRequestState

REPLAYED = "jouleserve_replayed_token_ids"
"""Under which SamplingParams.extra_args carries the output so far into vLLM's processes."""

ENGINE_ARGUMENTS = {
    "scheduler_cls": f"{__name__}.scheduler",
    "worker_extension_cls": f"{__name__}.ResumingWorker",
}
"""Arguments of AsyncEngineArgs that put this module to work."""


def replayed_token_ids(parameters: SamplingParams | None) -> list[int]:
    """Give the output so far; empty for a request that begins here."""
    if parameters is None or not parameters.extra_args:
        return []
    found: list[int] = parameters.extra_args.get(REPLAYED) or []
    return found


def scheduler(vllm_config: VllmConfig, **parts: Any) -> Scheduler:  # noqa: ANN401 (vLLM's own)
    """Make the scheduler that vLLM would have made, able to go on."""
    if vllm_config.scheduler_config.async_scheduling:
        return _ResumingAsyncScheduler(vllm_config=vllm_config, **parts)
    return _ResumingScheduler(vllm_config=vllm_config, **parts)


class _ResumingScheduler(Scheduler):
    """Takes requests that have output already: max_tokens and min_tokens count it."""

    def add_request(self, request: Request) -> None:
        """Put the output so far where it would be if it had been generated here."""
        replayed = replayed_token_ids(request.sampling_params)
        if replayed:
            request.append_output_token_ids(replayed)
            # More than the prompt may be cached, which vLLM's own account does not expect.
            request.prefill_stats = None
        super().add_request(request)

    def schedule(self, throttle_prefills: bool = False) -> SchedulerOutput:  # noqa: FBT001, FBT002 (vLLM's)
        """Schedule a step, and account for the prompts of requests that go on."""
        step = super().schedule(throttle_prefills)
        for new in step.scheduled_new_reqs:
            if replayed_token_ids(new.sampling_params):
                request = self.requests[new.req_id]
                prompt = request.num_prompt_tokens
                request.prefill_stats = PrefillStats()
                request.prefill_stats.set(prompt, min(prompt, new.num_computed_tokens), 0)
        return step

    def _handle_blocked_waiting_request(self, request: Request) -> bool:
        """Bring a grammar that has just been compiled to where the output is."""
        waited = request.status == RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        ready: bool = super()._handle_blocked_waiting_request(request)
        replayed = replayed_token_ids(request.sampling_params)
        structured = request.structured_output_request
        if not (ready and waited and replayed and structured):
            return ready
        if self.structured_output_manager.accept_tokens(request, replayed):
            return True
        # As with a grammar that does not compile, this request alone fails.
        structured.grammar = ValueError("the output so far does not fit the grammar")
        request.status = RequestStatus.WAITING_FOR_STRUCTURED_OUTPUT_GRAMMAR
        failed: bool = super()._handle_blocked_waiting_request(request)
        return failed


class _ResumingAsyncScheduler(_ResumingScheduler, AsyncScheduler):
    """The same where vLLM schedules a step ahead of its results."""


class ResumingWorker:
    """What vLLM's workers can do besides; vLLM makes it one of their base classes."""

    use_v2_model_runner: bool
    model_runner: Any

    def resume_exactly(self) -> None:
        """Let requests enter the batch with the output and the generator that they had.

        vLLM's second model runner needs no help: it learns of all tokens from the scheduler, and
        derives the noise of a seeded request from the position.
        """
        if self.use_v2_model_runner:
            return
        batch = self.model_runner.input_batch
        draws = Draws.of(
            self.model_runner.sampler.topk_topp_sampler, batch.vocab_size, self.model_runner.device
        )
        add_request: Callable[[CachedRequestState], int] = batch.add_request

        def add(request: CachedRequestState) -> int:
            _begin(request, draws)
            return add_request(request)

        batch.add_request = add

    def gpu(self) -> tuple[str, str]:
        """Give the node and the UUID of the GPU of this rank."""
        properties = torch.cuda.get_device_properties(self.model_runner.device)
        return socket.gethostname(), f"GPU-{properties.uuid}"

    def limit_power(self, limit_w: float) -> str:
        """Limit the GPU of this rank for as long as this process lives; say why not, if not."""
        properties = torch.cuda.get_device_properties(self.model_runner.device)
        try:
            self._power_limit = PowerLimit(
                f"GPU-{properties.uuid}", limit_w, default_records(os.environ)
            )
        except PowerLimitError as error:
            return str(error)
        return ""


def _begin(request: CachedRequestState, draws: Draws) -> None:
    """Give a request what it had elsewhere, when it comes for the first time."""
    generator = request.generator
    new = not request.output_token_ids
    if new:
        request.output_token_ids.extend(replayed_token_ids(request.sampling_params))
    if generator is None:
        return
    if generator.device.type == "cpu" and not isinstance(generator, _CpuGenerator):
        request.generator = _CpuGenerator(request, draws)
    elif new:
        draws.repeat(generator, len(request.output_token_ids))


@dataclass(frozen=True, slots=True)
class Draws:
    """What the engine's own sampler takes from a generator for a token.

    Attributes:
        sampler: called as vLLM calls it.
        width: of logits; a narrow row is as good as the vocabulary if it takes as much.

    """

    sampler: Callable[..., Any]
    width: int

    @classmethod
    def of(cls, sampler: Callable[..., Any], vocabulary: int, device: torch.device) -> Self:
        """Find the narrowest row."""
        wide, narrow = cls(sampler, vocabulary), cls(sampler, 1)
        generators = [torch.Generator(device).manual_seed(0) for _ in range(2)]
        for draws, generator in zip((wide, narrow), generators, strict=True):
            draws.once(generator)
        one, other = (generator.get_state() for generator in generators)
        return narrow if torch.equal(one, other) else wide

    def once(self, generator: torch.Generator) -> None:
        """Draw for a token."""
        logits = torch.zeros(1, self.width, device=generator.device)
        self.sampler(logits, {0: generator}, None, None)

    def repeat(self, generator: torch.Generator, times: int) -> None:
        """Draw for so many tokens."""
        if generator.device.type == "cpu":
            for _ in range(times):
                self.once(generator)
        elif times:
            # There every draw moves the generator by the same offset.
            before = generator.get_offset()
            self.once(generator)
            generator.set_offset(before + times * (generator.get_offset() - before))


class _CpuGenerator(torch.Generator):
    """A generator that stands where the output of its request says.

    vLLM takes back the draw of a step that computed a part of a prompt only, by moving an offset
    that generators of a CPU do not have.
    """

    _request: CachedRequestState
    _draws: Draws
    _seed: int

    def __new__(cls, request: CachedRequestState, draws: Draws) -> Self:
        made: Self = super().__new__(cls, device="cpu")
        made._request, made._draws = request, draws
        made._seed = request.generator.initial_seed()
        made.set_offset(0)
        return made

    def get_offset(self) -> int:
        """Give vLLM something to subtract from; `set_offset` knows where to stand."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Stand after the draws of all tokens that the request has."""
        self.manual_seed(self._seed)
        self._draws.repeat(self, len(self._request.output_token_ids))
