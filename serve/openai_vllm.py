"""The OpenAI face of a gateway: vLLM's own OpenAI layer over the dispatcher.

Its own module because templates, tool calls, log probabilities and the formats of
replies are vLLM's; here is only what makes them answers to HTTP requests.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ValidationError
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMClientError

from serve.errors import (
    BadRequestError,
    JouleserveError,
    PromptTooLargeError,
    known_model,
)
from serve.http_call import CURRENT, HttpCall, extension, first_fault, take_wishes
from serve.http_errors import error_response
from serve.routed_engine_vllm import RoutedEngine

if TYPE_CHECKING:
    from fastapi import Request

    from serve.calls import Operation
    from serve.frontend_vllm import VllmFrontend
    from serve.routed_engine_vllm import Dispatch

Serving: TypeAlias = OpenAIServingChat | OpenAIServingCompletion


ModelT = TypeVar("ModelT", bound=BaseModel)


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
            operation: Operation = "chat" if kind is ChatCompletionRequest else "text_completion"
            http = HttpCall(take_wishes(body), arrived_at_s, _trace_headers(raw), operation)
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


def _parsed(kind: type[ModelT], body: dict[str, Any]) -> ModelT:
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise BadRequestError(first_fault(error)) from error


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
