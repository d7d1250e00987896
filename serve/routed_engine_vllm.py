"""What vLLM's OpenAI layer takes for an engine: calls for the dispatcher, outputs for vLLM.

Its own module because it is the whole translation between the two: one request of vLLM
becomes one call for each choice, and their deltas become vLLM's outputs again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from vllm import RequestOutput, SamplingParams
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators

from serve.calls import Call, Outcome
from serve.engine import EngineDelta
from serve.errors import BadRequestError, JouleserveError
from serve.http_call import CURRENT, HttpCall
from serve.outbox import merge
from serve.sampling_vllm import encode

if TYPE_CHECKING:
    from serve.frontend_vllm import VllmFrontend

Dispatch: TypeAlias = Callable[[Call], AsyncGenerator[EngineDelta | Outcome, None]]


class RoutedEngine:
    """What vLLM's OpenAI layer takes for an engine: it dispatches instead of computing."""

    errored = False
    dead_error = RuntimeError("a gateway has no engine that could die")

    def __init__(self, frontend: VllmFrontend, dispatch: Dispatch) -> None:
        """Stand for the engine of one model."""
        self._model = frontend.model
        self._dispatch = dispatch
        self.vllm_config = frontend.config
        self.model_config = frontend.config.model_config
        self.renderer = frontend.renderer
        self.input_processor = frontend.input_processor

    def check_admission(self, n: int = 1, request_id: str | None = None) -> None:
        """Admit here; the dispatcher decides with the objectives in hand."""

    def generate(
        self,
        prompt: Mapping[str, Any],
        sampling_params: SamplingParams,
        request_id: str,
        **_: object,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Stream one prompt's outputs, as vLLM's engine would."""
        token_ids = prompt.get("prompt_token_ids")
        if not token_ids or prompt.get("type") not in (None, "token"):
            raise BadRequestError("only text prompts are served; leave images and audio out")
        if sampling_params.prompt_logprobs is not None:
            raise BadRequestError("prompt_logprobs (echo with logprobs) is not supported")
        generation = _Generation(
            CURRENT.get(), self._model, list(token_ids), sampling_params, request_id
        )
        return generation.outputs(self._dispatch)


class _Generation:
    """One prompt of one HTTP request: `n` choices, each a call of its own."""

    def __init__(
        self,
        http: HttpCall,
        model: str,
        token_ids: list[int],
        parameters: SamplingParams,
        request_id: str,
    ) -> None:
        self._http = http
        self._model = model
        self._token_ids = token_ids
        self._parameters = parameters
        self._request_id = request_id
        self._cached_tokens: int | None = None
        self._running = int(parameters.n)

    async def outputs(self, dispatch: Dispatch) -> AsyncGenerator[RequestOutput, None]:
        """Yield deltas as they come, or everything at the end, as the parameters say."""
        choices = [dispatch(self._call(index)) for index in range(self._parameters.n)]
        final_only = self._parameters.output_kind == RequestOutputKind.FINAL_ONLY
        collected: dict[int, EngineDelta] = {}
        last: dict[int, EngineDelta] = {}
        try:
            async with contextlib.aclosing(merge_async_iterators(*choices)) as items:
                async for index, item in items:
                    if isinstance(item, EngineDelta) and item.finish is not None:
                        # It waits for the outcome, so that the reply's last chunk can tell it.
                        last[index] = item
                        continue
                    delta = self._ended(item, last[index]) if isinstance(item, Outcome) else item
                    before = collected.pop(index, None)
                    collected[index] = delta if before is None else merge(before, delta)
                    if not final_only:
                        yield self._output(collected, finished=not self._running)
                        collected = {}
        except JouleserveError as error:
            self._http.error = error
            raise
        if final_only:
            yield self._output(collected, finished=True)

    def _ended(self, outcome: Outcome, last: EngineDelta) -> EngineDelta:
        self._http.outcomes.append(outcome)
        self._running -= 1
        self._cached_tokens = outcome.finish.cached_tokens
        return last

    def _call(self, index: int) -> Call:
        parameters = self._parameters.clone()
        parameters.n = 1
        parameters.output_kind = RequestOutputKind.DELTA
        if parameters.seed is not None:
            parameters.seed += index

        def sampling(max_tokens: int) -> bytes:
            parameters.max_tokens = max_tokens
            return encode(parameters)

        return Call(
            request_id=self._request_id if index == 0 else f"{self._request_id}-{index}",
            model=self._model,
            prompt_token_ids=self._token_ids,
            max_tokens=parameters.max_tokens,
            sampling=sampling,
            wishes=self._http.wishes,
            arrived_at_s=self._http.arrived_at_s,
            trace_headers=self._http.trace_headers,
            operation=self._http.operation,
        )

    def _output(self, deltas: Mapping[int, EngineDelta], *, finished: bool) -> RequestOutput:
        return RequestOutput(
            request_id=self._request_id,
            prompt=None,
            prompt_token_ids=self._token_ids,
            prompt_logprobs=None,
            outputs=[
                CompletionOutput(
                    index=index,
                    text=delta.text,
                    token_ids=delta.token_ids,
                    cumulative_logprob=None,
                    logprobs=delta.logprobs,
                    finish_reason=delta.finish.reason if delta.finish else None,
                    stop_reason=delta.finish.stop_reason if delta.finish else None,
                )
                for index, delta in sorted(deltas.items())
            ],
            finished=finished,
            num_cached_tokens=self._cached_tokens,
        )
