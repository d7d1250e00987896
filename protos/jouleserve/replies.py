"""What a client gets back for a prompt, as frozen values, and how they are read from the wire.

Its own module so that users of the clients touch no protobuf message: these values
compare, print, pickle and keep their meaning when the wire grows. Field names are those
of the .proto files, which also explain them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.jouleserve.wire_fields import read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protos.jouleserve.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class TopLogprob:
    """One of the most likely tokens at a position."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The log probability of a generated token, and of the most likely ones in its place."""

    logprob: float
    top: tuple[TopLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Tokens:
    """What was generated since the previous value: one token, or several when the reader lags.

    Attributes:
        text: what the tokens add to the text; empty while a character is incomplete.
        token_ids: in order.
        logprobs: one for each token id when the request asked for them, else empty.

    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Latency:
    """As the gateway saw it, from the arrival of the request.

    Attributes:
        ttft_s: time to the first token.
        tpot_s: mean time per output token after the first; 0 for fewer than two tokens.
        e2e_s: until the last token.

    """

    ttft_s: float
    tpot_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Energy:
    """What the request cost.

    Attributes:
        energy_j: all of it.
        prefill_j: of that, for computing the prompt.
        decode_j: of that, for its share of the decode steps.
        method: how it was measured: model, nvml or rapl.
        boundary: what is counted: gpu, cpu or node.
        share: of what the replica used between the request's arrival there and its end, idle
            included; 0 to 1.
        mean_power_w: `energy_j` over the time that the request spent in the replica.
        gco2e: emissions of it, in grams; None where no carbon intensity is known.

    """

    energy_j: float
    prefill_j: float
    decode_j: float
    method: str
    boundary: str
    share: float = 0.0
    mean_power_w: float = 0.0
    gco2e: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What a request used.

    Attributes:
        prompt_tokens: length of the prompt.
        cached_tokens: of these, found in the replica's prefix cache.
        completion_tokens: generated.
        completion_crc32: of their ids, as the engine gave them (`checksum.extend`).
        latency: seen by the gateway.
        energy: attributed to the request, by the replica that finished it.
        resumes: how often the request went on elsewhere, for its replica or gateway was lost.
        replayed_tokens: of prompt and completion, that were computed again for that.

    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    completion_crc32: int
    latency: Latency
    energy: Energy
    resumes: int = 0
    replayed_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A replica that the scheduler looked at.

    Attributes:
        variant: what it serves.
        replica: which it is.
        score: lower is better.
        terms: what the score adds up, by name.
        excluded: empty for a candidate that could serve; else why it could not.

    """

    variant: str
    replica: str
    score: float
    terms: Mapping[str, float]
    excluded: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Why a request went where it went.

    Attributes:
        policy: that decided.
        variant: chosen.
        replica: chosen.
        reason: in one line.
        candidates: best first, then those that were filtered out.

    """

    policy: str
    variant: str
    replica: str
    reason: str
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """How a reply ended, who gave it, and what it cost.

    Attributes:
        request_id: finds the request again in logs and traces.
        finish_reason: stop (end of text or a stop text) or length (max_tokens or context).
        usage: tokens, seconds and joules.
        variant: that served it.
        replica: that served it.
        reason: why that one, in one line.
        decision: every candidate with its score, when the request asked to explain.

    """

    request_id: str
    finish_reason: str
    usage: Usage
    variant: str
    replica: str
    reason: str
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole reply.

    Attributes:
        text: all of it.
        token_ids: all of them, in order.
        finish: how it ended.
        logprobs: one for each token id when the request asked for them, else empty.

    """

    text: str
    token_ids: tuple[int, ...]
    finish: Finish
    logprobs: tuple[TokenLogprobs, ...] = ()


# ----------------------------------------------------------------------------------- from the wire


def tokens(message: inference_pb2.Tokens) -> Tokens:
    """Read what was generated."""
    return Tokens(
        message.text,
        tuple(message.token_ids),
        tuple(_token_logprobs(position) for position in message.logprobs),
    )


def _token_logprobs(message: inference_pb2.TokenLogprobs) -> TokenLogprobs:
    top = tuple(read(TopLogprob, entry) for entry in message.top)
    return TokenLogprobs(message.logprob, top)


def finish(message: inference_pb2.Finish) -> Finish:
    """Read how a reply ended."""
    usage = read(
        Usage,
        message.usage,
        latency=read(Latency, message.usage.latency),
        energy=_energy(message.usage.energy),
    )
    decision = _decision(message.decision) if message.HasField("decision") else None
    return read(Finish, message, usage=usage, decision=decision)


def _energy(message: inference_pb2.Energy) -> Energy:
    gco2e = message.gco2e if message.HasField("gco2e") else None
    return read(Energy, message, gco2e=gco2e)


def _decision(message: inference_pb2.Decision) -> Decision:
    candidates = (
        read(Candidate, candidate, terms=dict(candidate.terms)) for candidate in message.candidates
    )
    return read(Decision, message, candidates=tuple(candidates))
