"""The gRPC face of a gateway: messages in, values out, and back.

Its own module so that the wire can change without the dispatcher knowing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import grpc

from protos.jouleserve.v1 import inference_pb2 as pb
from serve.calls import OpeningDelta, Outcome, Wishes, checked_wishes
from serve.errors import BadRequestError, JouleserveError, PromptTooLargeError
from serve.resuming import Resume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.routing import Decision
    from serve.engine import EngineDelta
    from serve.frontends import Frontend

MAX_REQUEST_ID = 128
TRACE_HEADERS = ("traceparent", "tracestate")

SAMPLING_FIELDS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logprobs",
)


class StatusContext(Protocol):
    """The part of a gRPC servicer context that errors need."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """Set the status of the call."""

    def set_details(self, details: str) -> None:
        """Set the message beside it."""

    def set_trailing_metadata(self, trailing_metadata: list[tuple[str, str]]) -> None:
        """Set what travels with the status."""


def set_error(context: StatusContext, error: JouleserveError) -> None:
    """End the call with the error's status and message."""
    context.set_code(grpc.StatusCode[error.grpc_status])
    context.set_details(str(error))
    context.set_trailing_metadata([("jouleserve-error", error.kind)])


def set_cost(context: StatusContext, outcome: Outcome) -> None:
    """Say in the trailing metadata what a call has used, for those who read no messages."""
    energy = outcome.energy
    pairs = [
        ("jouleserve-energy-j", f"{energy.energy_j:.6f}"),
        ("jouleserve-energy-method", energy.method),
        ("jouleserve-energy-boundary", energy.boundary),
        ("jouleserve-energy-share", f"{energy.share:.6f}"),
        ("jouleserve-mean-power-w", f"{energy.mean_power_w:.3f}"),
    ]
    if outcome.gco2e is not None:
        pairs.append(("jouleserve-gco2e", f"{outcome.gco2e:.9f}"))
    context.set_trailing_metadata(pairs)


def check(request: pb.GenerateRequest, limit_bytes: int) -> None:
    """Refuse what no model has to be asked about.

    Raises:
        PromptTooLargeError: more bytes than a gateway reads.
        BadRequestError: an id too long for logs and traces.

    """
    size_bytes = request.ByteSize()
    if size_bytes > limit_bytes:
        message = (
            f"the request has {size_bytes} bytes, a gateway reads at most {limit_bytes}: "
            "shorten the prompt, or raise gateway.max_request_bytes"
        )
        raise PromptTooLargeError(message)
    if len(request.request_id) > MAX_REQUEST_ID:
        length = len(request.request_id)
        raise BadRequestError(f"request_id has {length} characters; at most {MAX_REQUEST_ID}")


async def rendered(request: pb.GenerateRequest, frontend: Frontend) -> list[int]:
    """Token ids of whichever input the client gave.

    Raises:
        BadRequestError: none, an empty one, or one that the template refuses.

    """
    match request.WhichOneof("input"):
        case "prompt" if request.prompt:
            return await frontend.tokenize(request.prompt)
        case "chat" if request.chat.messages:
            return await frontend.render_chat(
                [{"role": each.role, "content": each.content} for each in request.chat.messages]
            )
        case "prompt_token_ids" if request.prompt_token_ids.ids:
            return list(request.prompt_token_ids.ids)
        case _:
            raise BadRequestError(
                "the input is empty: give a prompt, chat messages or prompt_token_ids"
            )


def max_tokens(request: pb.GenerateRequest) -> int | None:
    """The client's bound, if it gave one."""
    return request.sampling.max_tokens if request.sampling.HasField("max_tokens") else None


def resume(request: pb.GenerateRequest) -> Resume | None:
    """What earlier calls have delivered, if the client says so."""
    if not request.HasField("resume"):
        return None
    given = request.resume
    return Resume(tuple(given.token_ids), given.variant, max(1, given.attempts))


def trace_headers(metadata: Mapping[str, str]) -> dict[str, str]:
    """The W3C trace context among a call's metadata."""
    return {name: metadata[name] for name in TRACE_HEADERS if name in metadata}


def wishes(request: pb.GenerateRequest) -> Wishes:
    """How the client wants to be served.

    Raises:
        BadRequestError: an objective that no time or quality can have.

    """
    objective = request.objective
    given = {
        name: getattr(objective, name) if objective.HasField(name) else None
        for name in ("ttft_s", "tpot_s", "min_quality")
    }
    return checked_wishes(
        Wishes(
            service_class=request.service_class,
            variant=request.variant,
            explain=request.explain,
            tenant=request.tenant,
            **given,
        )
    )


def sampling(request: pb.GenerateRequest) -> dict[str, Any]:
    """The sampling parameters that the client gave, by vLLM's names."""
    message = request.sampling
    given: dict[str, Any] = {
        field.name: value for field, value in message.ListFields() if field.name in SAMPLING_FIELDS
    }
    if message.stop:
        given["stop"] = list(message.stop)
    if message.stop_token_ids:
        given["stop_token_ids"] = list(message.stop_token_ids)
    if message.ignore_eos:
        given["ignore_eos"] = True
    return given


def tokens(delta: EngineDelta) -> pb.GenerateResponse:
    """The message that carries a delta."""
    ends = delta.finish is not None
    message = pb.Tokens(text=delta.text, token_ids=delta.token_ids, last=ends)
    if isinstance(delta, OpeningDelta):
        message.variant = delta.variant
    if delta.logprobs is not None:
        message.logprobs.extend(_logprobs(delta.token_ids, delta.logprobs))
    return pb.GenerateResponse(tokens=message)


def _logprobs(
    token_ids: Iterable[int], positions: Iterable[dict[int, Any]]
) -> Iterable[pb.TokenLogprobs]:
    for token_id, alternatives in zip(token_ids, positions, strict=True):
        yield pb.TokenLogprobs(
            logprob=alternatives[token_id].logprob,
            top=[
                pb.TopLogprob(token_id=other, text=entry.decoded_token or "", logprob=entry.logprob)
                for other, entry in alternatives.items()
            ],
        )


def finish(outcome: Outcome, *, explain: bool) -> pb.GenerateResponse:
    """The last message of a call."""
    record, energy, latency = outcome.finish, outcome.energy, outcome.latency
    return pb.GenerateResponse(
        finish=pb.Finish(
            request_id=outcome.request_id,
            finish_reason=record.reason,
            variant=outcome.variant,
            replica=outcome.replica,
            reason=outcome.reason,
            decision=_decision(outcome.decision) if explain else None,
            usage=pb.Usage(
                prompt_tokens=record.prompt_tokens,
                cached_tokens=record.cached_tokens,
                completion_tokens=record.completion_tokens,
                completion_crc32=record.completion_crc32,
                latency=pb.Latency(
                    ttft_s=latency.ttft_s, tpot_s=latency.tpot_s, e2e_s=latency.e2e_s
                ),
                energy=pb.Energy(energy_j=energy.energy_j, gco2e=outcome.gco2e, **energy._asdict()),
                resumes=outcome.resumes,
                replayed_tokens=outcome.replayed_tokens,
            ),
        )
    )


def _decision(decision: Decision) -> pb.Decision:
    return pb.Decision(
        policy=decision.policy,
        variant=decision.variant,
        replica=decision.replica,
        reason=decision.reason,
        candidates=[
            pb.Candidate(
                variant=candidate.variant,
                replica=candidate.replica,
                score=candidate.score,
                terms=dict(candidate.terms),
                excluded=candidate.excluded,
            )
            for candidate in decision.candidates
        ],
    )
