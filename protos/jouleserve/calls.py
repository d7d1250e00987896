"""How both clients ask: the request, its metadata, and the options of a channel.

Its own module because it is the pure half of a client; the asyncio and the blocking
client differ only in how they wait.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, TypedDict

from protos.jouleserve.v1 import inference_pb2 as pb

try:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError:  # Optional: without it there is no span to hand on.
    TraceContextTextMapPropagator = None  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# A prompt of token ids, or the logprobs of a lagging reader, may pass gRPC's own 4 MiB.
MAX_REPLY_BYTES = 64 * 1024 * 1024
# Largest request that is kept for a retry; gRPC's own 256 KiB is less than a long prompt.
RETRY_BUFFER_BYTES = 4 * 1024 * 1024
# gRPC servers by default close a connection that is pinged more often than every 300 s.
KEEPALIVE_S = 320
KEEPALIVE_TIMEOUT_S = 20
# Until a lost connection is tried again, from then on longer each time; gRPC's own is a second,
# in which all calls fail at once that a stream could go on with.
RECONNECT_S = 0.1
# What shows the gateway whose call it is, where none is given.
API_KEY = "JOULESERVE_API_KEY"
# gRPC makes at most five attempts, whatever it is told.
MAX_RETRIES = 4


class GenerateOptions(TypedDict, total=False):
    """Everything about a request but its model and plain prompt; None is as if not given.

    Attributes:
        chat: instead of a prompt, messages with `role` and `content`.
        prompt_token_ids: instead of a prompt, token ids, used as they stand.
        max_tokens: most tokens to generate; by default what is left of the context.
        temperature: 0 is greedy. Sampling fields that are not given are the model's own.
        top_p: sample from the most likely tokens that together have this probability.
        top_k: sample from this many most likely tokens.
        min_p: least probability, as a share of the most likely token's.
        seed: for repeatable sampling.
        stop: a text, or several, before which generation ends.
        stop_token_ids: token ids at which generation ends.
        min_tokens: generate at least so many.
        presence_penalty: against tokens that have appeared.
        frequency_penalty: against tokens, by how often they have appeared.
        repetition_penalty: against repeating prompt or completion; 1 is none.
        logprobs: log probabilities of this many most likely tokens at each position.
        ignore_eos: go on to max_tokens (for benchmarks).
        service_class: a configured service class; by default the model's.
        ttft_s: longest acceptable time to the first token; overrides the service class.
        tpot_s: longest acceptable mean time per token after it; overrides the service class.
        min_quality: least quality of the variant, 1 being the unmodified model; overrides it too.
        variant: serve from this variant only.
        tenant: whose energy it is, in the books of `status`; letters, digits and `._-`.
        request_id: to find the request again; at most 128 characters.
        explain: return the decision with every candidate's score.
        timeout_s: for the whole reply, however many calls it takes, in place of the client's.

    """

    chat: Sequence[Mapping[str, str]] | None
    prompt_token_ids: Sequence[int] | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    stop_token_ids: Sequence[int] | None
    min_tokens: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    repetition_penalty: float | None
    logprobs: int | None
    ignore_eos: bool | None
    service_class: str | None
    ttft_s: float | None
    tpot_s: float | None
    min_quality: float | None
    variant: str | None
    tenant: str | None
    request_id: str | None
    explain: bool | None
    timeout_s: float | None


_SAMPLING = frozenset(pb.Sampling.DESCRIPTOR.fields_by_name)
_OBJECTIVE = frozenset(pb.Objective.DESCRIPTOR.fields_by_name)
_REQUEST = frozenset({"service_class", "variant", "tenant", "request_id", "explain"})


def request(model: str, prompt: str | None, options: GenerateOptions) -> pb.GenerateRequest:
    """Build the request.

    Raises:
        TypeError: not exactly one of prompt, chat and prompt_token_ids is given, or an option
            has a name or a type that does not exist.
        ValueError: a number does not fit the wire (a negative token id, say); whether a
            value makes sense is the server's to say.

    """
    _refuse_unknown(options)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    message = pb.GenerateRequest(model=model, **_input(prompt, given), **_only(given, _REQUEST))
    if sampling := _only(given, _SAMPLING):
        message.sampling.CopyFrom(pb.Sampling(**sampling))
    if objective := _only(given, _OBJECTIVE):
        message.objective.CopyFrom(pb.Objective(**objective))
    return message


def _refuse_unknown(options: GenerateOptions) -> None:
    if unknown := sorted(set(options) - set(GenerateOptions.__annotations__)):
        known = ", ".join(sorted(GenerateOptions.__annotations__))
        raise TypeError(f"unknown option {', '.join(unknown)}; known are {known}")


def _only(given: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name in names}


def _input(prompt: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the one field of the request's `input`."""
    inputs: dict[str, Any] = {}
    if prompt is not None:
        inputs["prompt"] = prompt
    if "chat" in given:
        messages = [pb.ChatMessage(**message) for message in given["chat"]]
        inputs["chat"] = pb.Chat(messages=messages)
    if "prompt_token_ids" in given:
        inputs["prompt_token_ids"] = pb.TokenIds(ids=given["prompt_token_ids"])
    if len(inputs) != 1:
        raise TypeError("give exactly one of prompt, chat and prompt_token_ids")
    return inputs


def timeout_s(options: GenerateOptions, default: float | None) -> float | None:
    """Give the time that a call may take, its own or the client's."""
    own = options.get("timeout_s")
    return default if own is None else own


def own_metadata(given: Mapping[str, str] | None, api_key: str | None) -> dict[str, str]:
    """Give what is sent with every call: the caller's own, and the key in it."""
    headers = dict(given or {})
    if key := api_key or os.environ.get(API_KEY):
        headers.setdefault("authorization", f"Bearer {key}")
    return headers


def metadata(own: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Give a call's metadata: the caller's own, and the trace context of the active span."""
    headers = dict(own)
    if TraceContextTextMapPropagator is not None:
        TraceContextTextMapPropagator().inject(headers)
    return tuple(headers.items())


def channel_options(*, retries: int) -> list[tuple[str, Any]]:
    """Give the options of a channel of its own connection.

    Args:
        retries: how often a call may be repeated that ended UNAVAILABLE before its first
            message, after 0.1 s, 0.2 s and so on (each ± 20 %), never past its deadline.

    Raises:
        ValueError: retries is not between 0 and 4.

    """
    if not 0 <= retries <= MAX_RETRIES:
        raise ValueError(f"retries must be from 0 to {MAX_RETRIES}, not {retries}")
    options: list[tuple[str, Any]] = [
        ("grpc.primary_user_agent", "jouleserve"),
        ("grpc.max_receive_message_length", MAX_REPLY_BYTES),
        ("grpc.keepalive_time_ms", KEEPALIVE_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.initial_reconnect_backoff_ms", round(RECONNECT_S * 1000)),
        # Channels with equal options would else share one connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if retries:
        options += [
            ("grpc.service_config", json.dumps(_service_config(retries))),
            ("grpc.per_rpc_retry_buffer_size", RETRY_BUFFER_BYTES),
        ]
    return options


def _service_config(retries: int) -> dict[str, Any]:
    policy = {
        "maxAttempts": retries + 1,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    services = [{"service": "jouleserve.v1.Inference"}, {"service": "jouleserve.v1.Cluster"}]
    return {"methodConfig": [{"name": services, "retryPolicy": policy}]}
