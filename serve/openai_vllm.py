"""The OpenAI face of a gateway: vLLM's own OpenAI layer over the dispatcher.

Its own module because it stands where vLLM expects an engine: templates, tool calls,
log probabilities and the formats of replies are vLLM's, the tokens come from whichever
replica the scheduler chose.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from vllm import RequestOutput, SamplingParams
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind
from vllm.utils.async_utils import merge_async_iterators

from serve.calls import Call, Outcome, Wishes
from serve.engine import EngineDelta
from serve.errors import (
    BadRequestError,
    JouleserveError,
    PromptTooLargeError,
    known_model,
)
from serve.frontend_vllm import VllmFrontend, encode
from serve.grpc_api import checked_wishes
from serve.http_errors import error_response
from serve.outbox import merge

if TYPE_CHECKING:
    from fastapi import Request

Dispatch = Callable[[Call], AsyncGenerator[EngineDelta | Outcome, None]]
Serving: TypeAlias = OpenAIServingChat | OpenAIServingCompletion


class WishFields(BaseModel):
    """What a body may hold beside OpenAI's own fields."""

    model_config = ConfigDict(extra="forbid")

    service_class: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    min_quality: float | None = None
    variant: str = ""
    explain: bool = False


@dataclass(slots=True)
class HttpCall:
    """One HTTP request while it is served.

    Attributes:
        wishes: how the client wants to be served.
        arrived_at_s: on the gateway's monotonic clock.
        trace_headers: W3C trace context of the client.
        outcomes: of the generations that have ended, one for each prompt and choice.
        error: what ended one of them badly.

    """

    wishes: Wishes
    arrived_at_s: float
    trace_headers: dict[str, str]
    outcomes: list[Outcome] = field(default_factory=list)
    error: JouleserveError | None = None


ModelT = TypeVar("ModelT", bound=BaseModel)

CURRENT: ContextVar[HttpCall] = ContextVar("current_http_call")


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


class OpenAIRoutes:
    """Serves /v1/chat/completions and /v1/completions for every model of a gateway."""

    def __init__(
        self, frontends: Mapping[str, VllmFrontend], dispatch: Dispatch, max_request_bytes: int
    ) -> None:
        """Build vLLM's OpenAI layer for each model.

        Args:
            frontends: by model name.
            dispatch: serves a call.
            max_request_bytes: larger bodies are refused unread.

        """
        self._max_request_bytes = max_request_bytes
        self._layers = {
            model: frontend.openai(RoutedEngine(frontend, dispatch))
            for model, frontend in frontends.items()
        }

    async def chat(self, raw: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._respond(raw, ChatCompletionRequest, 0)

    async def completion(self, raw: Request) -> Response:
        """POST /v1/completions."""
        return await self._respond(raw, CompletionRequest, 1)

    async def _respond(
        self, raw: Request, kind: type[ChatCompletionRequest | CompletionRequest], layer: int
    ) -> Response:
        arrived_at_s = time.monotonic()
        try:
            body = await _body(raw, self._max_request_bytes)
            http = HttpCall(_wishes(body), arrived_at_s, _trace_headers(raw))
            request = _parsed(kind, body)
            serving = known_model(request.model, self._layers)[layer]
            CURRENT.set(http)
            return await _until_disconnect(raw, _serve(serving, request, raw, http))
        except JouleserveError as error:
            return error_response(error)
        except (ValueError, TypeError, VLLMClientError) as error:
            return error_response(BadRequestError(str(error)))


async def _serve(
    serving: Serving,
    request: ChatCompletionRequest | CompletionRequest,
    raw: Request,
    http: HttpCall,
) -> Response:
    create: Callable[..., Any] = (
        serving.create_chat_completion
        if isinstance(serving, OpenAIServingChat)
        else serving.create_completion
    )
    result = await create(request, raw)
    if isinstance(result, ErrorResponse):
        if http.error is not None:
            return error_response(http.error)
        return JSONResponse(result.model_dump(), status_code=result.error.code)
    if isinstance(result, AsyncGenerator):
        return await _streaming(result, http)
    return JSONResponse({**result.model_dump(), "jouleserve": extension(http)})


async def _streaming(chunks: AsyncGenerator[str, None], http: HttpCall) -> Response:
    """Start the reply only when the first chunk is there, so that a refusal has its status."""
    first = await anext(chunks)
    if http.error is not None and not http.outcomes:
        await chunks.aclose()
        return error_response(http.error)

    async def body() -> AsyncIterator[str]:
        async with contextlib.aclosing(chunks):
            yield _extended(first, http)
            async for chunk in chunks:
                yield _extended(chunk, http)

    return StreamingResponse(body(), media_type="text/event-stream")


def _extended(chunk: str, http: HttpCall) -> str:
    """Add what it cost to the chunks that follow the last token."""
    if not http.outcomes or not chunk.startswith("data: {"):
        return chunk
    event = json.loads(chunk.removeprefix("data: "))
    event["jouleserve"] = extension(http)
    return f"data: {json.dumps(event)}\n\n"


def extension(http: HttpCall) -> dict[str, Any]:
    """What a reply says beside OpenAI's own fields; energies add up over all choices."""
    parts = [_part(outcome, explain=http.wishes.explain) for outcome in http.outcomes]
    if len(parts) == 1:
        return parts[0]
    return {"energy_j": sum(part["energy"]["energy_j"] for part in parts), "parts": parts}


def _part(outcome: Outcome, *, explain: bool) -> dict[str, Any]:
    energy = outcome.energy
    part = {
        "request_id": outcome.request_id,
        "variant": outcome.variant,
        "replica": outcome.replica,
        "reason": outcome.decision.reason,
        "energy": {"energy_j": energy.prefill_j + energy.decode_j, **energy._asdict()},
        "latency": asdict(outcome.latency),
    }
    if explain:
        part["decision"] = {
            "policy": outcome.decision.policy,
            "candidates": [
                {**asdict(candidate), "terms": dict(candidate.terms)}
                for candidate in outcome.decision.candidates
            ],
        }
    return part


async def _body(raw: Request, limit_bytes: int) -> dict[str, Any]:
    data = bytearray()
    async for piece in raw.stream():
        data += piece
        if len(data) > limit_bytes:
            message = (
                f"the body has more than {limit_bytes} bytes: shorten the prompt, "
                "or raise gateway.max_request_bytes"
            )
            raise PromptTooLargeError(message)
    try:
        body = json.loads(data)
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise BadRequestError(f"the body is a JSON {type(body).__name__}; give an object")
    return body


def _wishes(body: dict[str, Any]) -> Wishes:
    """Take our own fields out of the body."""
    given = {name: body.pop(name) for name in WishFields.model_fields if name in body}
    try:
        fields = WishFields.model_validate(given)
    except ValidationError as error:
        raise BadRequestError(_first_fault(error)) from error
    return checked_wishes(Wishes(**fields.model_dump()))


def _parsed(kind: type[ModelT], body: dict[str, Any]) -> ModelT:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise BadRequestError(_first_fault(error)) from error


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def _trace_headers(raw: Request) -> dict[str, str]:
    names = ("traceparent", "tracestate")
    return {name: raw.headers[name] for name in names if name in raw.headers}


async def _until_disconnect(raw: Request, work: Awaitable[Response]) -> Response:
    """Serve, unless the client goes away first: then cancel, so that the engine stops."""
    serving = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(raw))
    try:
        await asyncio.wait((serving, leaving), return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            return serving.result()
        return Response(status_code=499)
    finally:
        for task in (serving, leaving):
            task.cancel()
        await asyncio.gather(serving, leaving, return_exceptions=True)


async def _disconnected(raw: Request) -> None:
    while (await raw.receive())["type"] != "http.disconnect":
        pass
