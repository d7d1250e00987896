"""What a client gets back, as frozen values, and how they are read from the wire.

Its own module so that users of the clients touch no protobuf message: these values
compare, print, pickle and keep their meaning when the wire grows. Field names are those
of the .proto files, which also explain them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from protos.jouleserve.v1 import cluster_pb2, inference_pb2

T = TypeVar("T")


# ---------------------------------------------------------------------------------------- generate


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


# ---------------------------------------------------------------------------------- models, status


@dataclass(frozen=True, slots=True)
class Objective:
    """What a service class asks for; None where it asks for nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    min_quality: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A configured service class."""

    name: str
    objective: Objective


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a model is served.

    Attributes:
        name: to be given as `variant` when only this one may serve.
        dtype: of its weights.
        quantization: empty for an unquantized checkpoint.
        accelerator: that it runs on.
        quality: 1 is the unmodified model.
        awake_replicas: ready to serve.

    """

    name: str
    dtype: str
    quantization: str
    accelerator: str
    quality: float
    awake_replicas: int


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        name: to be given as `model`.
        max_context_tokens: prompt and completion together.
        variants: behind the name.
        service_classes: that a request may name.
        default_service_class: of a request that names none.

    """

    name: str
    max_context_tokens: int
    variants: tuple[Variant, ...]
    service_classes: tuple[ServiceClass, ...]
    default_service_class: str


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica, as the gateway that answered knows it.

    Attributes:
        model: that it serves.
        variant: that it serves.
        replica: its name.
        node: that it runs on.
        accelerator: that it runs on.
        state: starting, awake, draining or lost.
        age_s: of its newest report.
        running_requests: over all gateways.
        waiting_requests: over all gateways.
        kv_cache_usage: share of KV blocks in use, 0 to 1.
        prefill_tokens_per_s: recent rate.
        decode_tokens_per_s: recent rate.
        step_time_s: recent mean of an engine step.
        power_w: recent mean.
        energy_j: since it started.
        leases: held by this gateway.
        energy_method: how its energy is known: model, nvml or rapl.
        energy_boundary: what is counted: gpu, cpu or node.
        idle_j: of energy_j, what belongs to no request.
        residual_j: energy_j less everything that was attributed; 0 unless the books are wrong.
        devices: that its meter reads; empty where energy is modelled.
        max_batch: most sequences in its batch.
        meter_trouble: what is wrong with its meter; empty if nothing is.

    """

    model: str
    variant: str
    replica: str
    node: str
    accelerator: str
    state: str
    age_s: float
    running_requests: int
    waiting_requests: int
    kv_cache_usage: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    step_time_s: float
    power_w: float
    energy_j: float
    leases: int
    energy_method: str = "model"
    energy_boundary: str = ""
    idle_j: float = 0.0
    residual_j: float = 0.0
    devices: tuple[str, ...] = ()
    max_batch: int = 0
    meter_trouble: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests since the gateway started: accepted = completed + cancelled + failed + in flight."""

    accepted: int
    completed: int
    cancelled: int
    failed: int
    rejected: int
    in_flight: int
    leases: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong while serving goes on.

    Attributes:
        subject: a model, a variant, a group of nodes, or a part of Jouleserve.
        reason: one line.

    """

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServiceClassStatus:
    """What requests of one service class have met lately, as one gateway saw them.

    Attributes:
        service_class: its name.
        window_s: that the counts are of.
        requests: completed or failed, in number.
        within_ttft: of these, completed within their own objective of TTFT.
        within_tpot: the same for TPOT.
        within_both: the same for both at once.

    """

    service_class: str
    window_s: float
    requests: int
    within_ttft: int
    within_tpot: int
    within_both: int

    @property
    def attainment(self) -> float | None:
        """Share of requests that met both objectives, 0 to 1; None without requests."""
        return self.within_both / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class RecentDecision:
    """Where a request went, and why.

    Attributes:
        request_id: of the request.
        age_s: since it was made.
        model: that the request named.
        service_class: that it belongs to.
        policy: that decided.
        variant: chosen.
        replica: chosen.
        reason: one line.
        candidates: replicas that were considered.
        eligible: of these, that could have served it.

    """

    request_id: str
    age_s: float
    model: str
    service_class: str
    policy: str
    variant: str
    replica: str
    reason: str
    candidates: int
    eligible: int


@dataclass(frozen=True, slots=True)
class EnergyAccount:
    """Whose joules they were, of requests that ended since the gateway started.

    Attributes:
        tenant: that the requests named; empty is nobody in particular.
        service_class: that they belonged to.
        variant: that served them.
        requests: in number.
        prompt_tokens: read.
        completion_tokens: generated.
        energy_j: attributed to them.
        gco2e: emissions, of requests for which an intensity was known.

    """

    tenant: str
    service_class: str
    variant: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    energy_j: float
    gco2e: float


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """What a kilowatt hour from the grid emits just now.

    Attributes:
        gco2e_per_kwh: grams.
        pue: facility power over IT power.
        source: constant, file, electricity_maps, watttime, or the fallback that stands in.
        age_s: of the figure.
        trouble: why a fallback stands in; empty if nothing is wrong.

    """

    gco2e_per_kwh: float
    pue: float
    source: str
    age_s: float
    trouble: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What the cluster is doing, as one gateway sees it.

    Attributes:
        gateway: that answered.
        policy: that routes.
        replicas: every one it knows.
        counters: of this gateway.
        troubles: what is wrong while serving goes on.
        accounts: whose joules they were, as this gateway's books say.
        carbon: of the grid; None where none is configured.
        service_classes: what this gateway's requests have met lately.
        decisions: newest first, as many as were asked for.

    """

    gateway: str
    policy: str
    replicas: tuple[Replica, ...]
    counters: Counters
    troubles: tuple[Trouble, ...]
    accounts: tuple[EnergyAccount, ...] = ()
    carbon: CarbonIntensity | None = None
    service_classes: tuple[ServiceClassStatus, ...] = ()
    decisions: tuple[RecentDecision, ...] = ()


# ----------------------------------------------------------------------------------- from the wire


def _read(kind: type[T], message: Message, **nested: Any) -> T:  # noqa: ANN401 (each field has its own type)
    """Fill a value with the message's fields of the same names; `nested` are already read."""
    names = (field.name for field in fields(kind))  # type: ignore[arg-type]
    return kind(
        **{name: nested[name] if name in nested else getattr(message, name) for name in names}
    )


def tokens(message: inference_pb2.Tokens) -> Tokens:
    """Read what was generated."""
    return Tokens(
        message.text,
        tuple(message.token_ids),
        tuple(_token_logprobs(position) for position in message.logprobs),
    )


def _token_logprobs(message: inference_pb2.TokenLogprobs) -> TokenLogprobs:
    top = tuple(_read(TopLogprob, entry) for entry in message.top)
    return TokenLogprobs(message.logprob, top)


def finish(message: inference_pb2.Finish) -> Finish:
    """Read how a reply ended."""
    usage = _read(
        Usage,
        message.usage,
        latency=_read(Latency, message.usage.latency),
        energy=_energy(message.usage.energy),
    )
    decision = _decision(message.decision) if message.HasField("decision") else None
    return _read(Finish, message, usage=usage, decision=decision)


def _energy(message: inference_pb2.Energy) -> Energy:
    gco2e = message.gco2e if message.HasField("gco2e") else None
    return _read(Energy, message, gco2e=gco2e)


def _decision(message: inference_pb2.Decision) -> Decision:
    candidates = (
        _read(Candidate, candidate, terms=dict(candidate.terms)) for candidate in message.candidates
    )
    return _read(Decision, message, candidates=tuple(candidates))


def models(message: inference_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """Read the served models."""
    return tuple(
        _read(
            Model,
            model,
            variants=tuple(_read(Variant, variant) for variant in model.variants),
            service_classes=tuple(_service_class(each) for each in model.service_classes),
        )
        for model in message.models
    )


def _service_class(message: inference_pb2.ServiceClass) -> ServiceClass:
    given = {field.name: value for field, value in message.objective.ListFields()}
    return ServiceClass(message.name, Objective(**given))


def status(message: cluster_pb2.GetStatusResponse) -> ClusterStatus:
    """Read what the cluster is doing."""
    return _read(
        ClusterStatus,
        message,
        replicas=tuple(
            _read(Replica, replica, devices=tuple(replica.devices)) for replica in message.replicas
        ),
        counters=_read(Counters, message.counters),
        troubles=tuple(_read(Trouble, trouble) for trouble in message.troubles),
        accounts=tuple(_read(EnergyAccount, account) for account in message.accounts),
        carbon=_read(CarbonIntensity, message.carbon) if message.HasField("carbon") else None,
        service_classes=tuple(_read(ServiceClassStatus, each) for each in message.service_classes),
        decisions=tuple(_read(RecentDecision, each) for each in message.decisions),
    )
