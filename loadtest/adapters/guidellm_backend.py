"""A GuideLLM back end that speaks gRPC: its requests, our wire, its timings.

Its own module because it is imported again in each of GuideLLM's worker processes, and because
nothing but GuideLLM, grpcio and protobuf is needed in GuideLLM's environment.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any, Literal

from guidellm.backends import Backend
from guidellm.schemas import GenerationResponse, UsageMetrics
from guidellm.schemas.backends import BackendArgs
from pydantic import Field, SecretStr

from protos.jouleserve.client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from guidellm.schemas import GenerationRequest, RequestInfo

    from protos.jouleserve.calls import GenerateOptions
    from protos.jouleserve.replies import Finish, Tokens

KIND = "jouleserve_grpc"
TEXT_COLUMNS = frozenset({"prefix_column", "text_column"})
# Columns that describe a request and are no part of what is sent.
COUNT_COLUMNS = frozenset({"prompt_tokens_count_column", "output_tokens_count_column"})


@BackendArgs.register(KIND)
class JouleserveGrpcArgs(BackendArgs):
    """What `--backend kind=jouleserve_grpc,...` may say."""

    kind: Literal["jouleserve_grpc"] = Field(
        default="jouleserve_grpc", description="This back end."
    )
    target: str = Field(
        default="127.0.0.1:9000", description="Host and port of a gateway's gRPC ingress."
    )
    model: str = Field(default="", description="A served model; by default the first.")
    request_format: Literal["chat", "prompt"] = Field(
        default="chat", description="Render the model's chat template, or send plain text."
    )
    api_key: SecretStr | None = Field(
        default=None, description="Shown to the gateway; by default JOULESERVE_API_KEY."
    )
    service_class: str | None = Field(default=None, description="A configured service class.")
    variant: str | None = Field(default=None, description="Serve from this variant only.")
    tenant: str | None = Field(default=None, description="Whose energy it is.")
    ttft_s: float | None = Field(default=None, description="Objective: time to first token.")
    tpot_s: float | None = Field(default=None, description="Objective: mean time per token.")
    min_quality: float | None = Field(default=None, description="Objective: least quality.")
    max_tokens: int | None = Field(
        default=None, description="Most tokens of a reply whose request fixes no number."
    )
    temperature: float | None = Field(default=None, description="By default the model's own.")
    timeout: float | None = Field(default=None, description="Seconds for a whole reply.")
    connections: int = Field(
        default=4, ge=1, description="For each worker; HAProxy holds back more than 100 streams."
    )


@Backend.register(KIND)
class JouleserveGrpcBackend(Backend):
    """Generates through `jouleserve.v1.Inference`, one connected client for each worker."""

    def __init__(self, arguments: JouleserveGrpcArgs) -> None:
        """Keep the arguments; GuideLLM pickles this into its workers before they connect."""
        super().__init__(arguments)
        self._settings = arguments
        self._client: AsyncClient | None = None

    async def process_startup(self) -> None:
        """Open the connections of this process."""
        key = self._settings.api_key
        # A stream that goes on elsewhere by itself would hide from the load test what was lost.
        self._client = AsyncClient(
            self._settings.target,
            timeout_s=self._settings.timeout,
            resumes=0,
            connections=self._settings.connections,
            api_key=None if key is None else key.get_secret_value(),
        )

    async def process_shutdown(self) -> None:
        """Close them."""
        client, self._client = self._connected(), None
        await client.close()

    async def validate(self) -> None:
        """Ask for the models.

        Raises:
            JouleserveClientError: no gateway is reached, or it refuses the key.
            ValueError: the model is not among them.

        """
        served = await self.available_models()
        if self._settings.model and self._settings.model not in served:
            known = ", ".join(served)
            raise ValueError(
                f"no model {self._settings.model!r} at this gateway; it serves {known}"
            )

    async def available_models(self) -> list[str]:
        """List the names of the served models."""
        return [model.name for model in await self._connected().models()]

    async def default_model(self) -> str:
        """Give the model that was asked for, else the first that is served."""
        if not self._settings.model and self._client is not None:
            self._settings.model = next(iter(await self.available_models()), "")
        return self._settings.model

    async def resolve(
        self,
        request: GenerationRequest,
        request_info: RequestInfo,
        history: list[tuple[GenerationRequest, GenerationResponse | None]] | None = None,
    ) -> AsyncGenerator[tuple[GenerationResponse | None, RequestInfo], None]:
        """Stream one reply; yield at its first token and at its end.

        Args:
            request: what GuideLLM's data made.
            request_info: its timings are filled in as tokens come.
            history: earlier turns of the conversation.

        Yields:
            None with the first token, then the whole reply, or what there is of it when cancelled.

        Raises:
            JouleserveClientError: the request failed; GuideLLM counts it as an error.
            ValueError: the request is more than text.

        """
        client, model = self._connected(), await self.default_model()
        prompt, chat = _input(self._settings, request, history or ())
        options: GenerateOptions = {**_options(self._settings, request), **chat}
        sent = json.dumps({"model": model, "prompt": prompt, **options})
        reply = _Reply(request, request_info, sent)
        request_info.timings.request_start = time.time()
        try:
            async with client.generate(model, prompt, **options) as stream:
                async for tokens in stream:
                    if reply.add(tokens):
                        yield None, request_info
            request_info.timings.request_end = time.time()
            yield reply.response(stream.finish), request_info
        except asyncio.CancelledError:
            yield reply.response(None), request_info
            raise

    def _connected(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("the back end is not started in this process")
        return self._client


class _Reply:
    """What has come of one reply, and when."""

    def __init__(self, request: GenerationRequest, info: RequestInfo, sent: str) -> None:
        self._request = request
        self._timings = info.timings
        self._sent = sent
        self._texts: list[str] = []

    def add(self, tokens: Tokens) -> bool:
        """Take in a message; tell whether it holds the first token."""
        now_s, timings = time.time(), self._timings
        if timings.first_request_iteration is None:
            timings.first_request_iteration = now_s
        timings.last_request_iteration = now_s
        timings.request_iterations += 1
        self._texts.append(tokens.text)
        if not tokens.token_ids:
            return False
        first = timings.first_token_iteration is None
        if first:
            timings.first_token_iteration = timings.first_output_token_iteration = now_s
        timings.last_token_iteration = now_s
        timings.token_iterations += len(tokens.token_ids)
        return first

    def response(self, finish: Finish | None) -> GenerationResponse:
        """Give the reply; without a finish, what there is of it."""
        text = "".join(self._texts)
        if finish is None:
            return GenerationResponse(
                request_id=self._request.request_id, request_args=self._sent, text=text
            )
        usage = finish.usage
        return GenerationResponse(
            request_id=self._request.request_id,
            response_id=finish.request_id,
            request_args=self._sent,
            text=text,
            input_metrics=UsageMetrics(
                text_tokens=usage.prompt_tokens, cached_tokens=usage.cached_tokens
            ),
            output_metrics=UsageMetrics(text_tokens=usage.completion_tokens),
            response_metrics=_metrics(finish),
        )


def _metrics(finish: Finish) -> dict[str, Any]:
    """Give what only this server says; GuideLLM writes it into its report beside each request."""
    usage = finish.usage
    return {
        "variant": finish.variant,
        "replica": finish.replica,
        "energy_j": usage.energy.energy_j,
        "energy_method": usage.energy.method,
        "gco2e": usage.energy.gco2e,
        "ttft_s": usage.latency.ttft_s,
        "tpot_s": usage.latency.tpot_s,
        "e2e_s": usage.latency.e2e_s,
    }


def _input(
    settings: JouleserveGrpcArgs,
    request: GenerationRequest,
    history: Sequence[tuple[GenerationRequest, GenerationResponse | None]],
) -> tuple[str | None, GenerateOptions]:
    """Give the conversation so far, as a plain prompt or as an option."""
    turns = [*history, (request, None)]
    messages = [message for turn in turns for message in _messages(*turn)]
    if settings.request_format == "chat":
        return None, {"chat": messages}
    return " ".join(message["content"] for message in messages), {}


def _messages(request: GenerationRequest, reply: GenerationResponse | None) -> list[dict[str, str]]:
    """Give one turn of a conversation; its reply is there once it is history."""
    columns = {name for name, values in request.columns.items() if values}
    if other := columns - TEXT_COLUMNS - COUNT_COLUMNS:
        raise ValueError(f"only text is sent over gRPC; leave out {', '.join(sorted(other))}")
    parts = [
        ("system", " ".join(request.columns.get("prefix_column", []))),
        ("user", "".join(request.columns.get("text_column", []))),
        ("assistant", (reply.text or "") if reply else ""),
    ]
    return [{"role": role, "content": content} for role, content in parts if content]


def _options(settings: JouleserveGrpcArgs, request: GenerationRequest) -> GenerateOptions:
    """Say on our wire what GuideLLM asks for; a number of tokens that it fixes is kept."""
    fixed_tokens: int | None = request.output_metrics.text_tokens
    return {
        "max_tokens": fixed_tokens or settings.max_tokens,
        "ignore_eos": True if fixed_tokens else None,
        "temperature": settings.temperature,
        "service_class": settings.service_class,
        "variant": settings.variant,
        "tenant": settings.tenant,
        "ttft_s": settings.ttft_s,
        "tpot_s": settings.tpot_s,
        "min_quality": settings.min_quality,
        "request_id": request.request_id,
    }
