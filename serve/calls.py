"""A client's call inside the gateway, before and after: what it wants, what it got.

Its own module because it is where gRPC and OpenAI HTTP become one thing; nothing
behind it knows which of the two a client spoke.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from protos.jouleserve import checksum
from serve.engine import EngineDelta
from serve.errors import BadRequestError
from serve.tracing import UNTRACED

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.requests import Objective, ReplicaId, VariantName
    from scheduler.routing import Decision
    from serve.engine import EngineFinish
    from serve.frames import RequestEnergy
    from serve.plan_news import StreamKey
    from serve.resuming import Resume
    from serve.tracing import CallTrace


Operation: TypeAlias = Literal["chat", "text_completion"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client says about how it wants to be served; None and "" leave it to us.

    Attributes:
        service_class: name of a configured class.
        ttft_s: overrides the class's objective.
        tpot_s: overrides the class's objective.
        min_quality: overrides the class's floor.
        variant: the only variant that may serve it.
        explain: give every candidate's score with the outcome.
        tenant: whose energy it is; empty is nobody's in particular.

    """

    service_class: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    min_quality: float | None = None
    variant: str = ""
    explain: bool = False
    tenant: str = ""


_TENANT = re.compile(r"[A-Za-z0-9._-]{0,64}")


def checked_wishes(given: Wishes) -> Wishes:
    """Return the wishes if they can be meant.

    Raises:
        BadRequestError: an objective that no time or quality can have, or no tenant's name.

    """
    if not _TENANT.fullmatch(given.tenant):
        raise BadRequestError(
            f"tenant is {given.tenant[:80]!r}; give at most 64 letters, digits and ._-"
        )
    for name in ("ttft_s", "tpot_s"):
        value = getattr(given, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise BadRequestError(f"objective.{name} is {value}; give seconds above 0")
    quality = given.min_quality
    if quality is not None and not 0 <= quality <= 1:
        raise BadRequestError(f"objective.min_quality is {quality}; give 0 to 1")
    return given


@dataclass(frozen=True, slots=True)
class Call:
    """A rendered request of a client.

    Attributes:
        request_id: unique within the cluster.
        model: the name that the client used.
        prompt_token_ids: the whole prompt.
        max_tokens: as the client gave it; None for what the context leaves.
        sampling: encodes the engine's sampling parameters once max_tokens is known.
        wishes: how it wants to be served.
        arrived_at_s: on the gateway's monotonic clock.
        trace_headers: W3C trace context of the client, if it sent one.
        resume: what earlier calls have delivered whose gateways were lost; None for a new one.
        operation: what was asked, by OpenTelemetry's name.

    """

    request_id: str
    model: str
    prompt_token_ids: list[int]
    max_tokens: int | None
    sampling: Callable[[int], bytes]
    wishes: Wishes
    arrived_at_s: float
    trace_headers: dict[str, str] = field(default_factory=dict)
    resume: Resume | None = None
    operation: Operation = "text_completion"


class OpeningDelta(EngineDelta):
    """The first delta of a stream, and of every variant that goes on with it.

    Attributes:
        variant: that writes from here on.

    """

    variant: VariantName

    @classmethod
    def of(cls, delta: EngineDelta, variant: VariantName) -> OpeningDelta:
        """Say of a delta who writes from here on."""
        opening = cls(*delta)
        opening.variant = variant
        return opening


@dataclass(frozen=True, slots=True)
class Latency:
    """What the gateway measured, from the arrival of the call, of the tokens since then.

    Attributes:
        ttft_s: to the first token.
        tpot_s: mean per token after the first; 0 with fewer than two tokens.
        e2e_s: to the last token.

    """

    ttft_s: float
    tpot_s: float
    e2e_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended well.

    Attributes:
        request_id: of the call.
        variant: that served it.
        replica: that served it.
        decision: why that one.
        reason: in one line, with what admission changed.
        finish: the engine's own record.
        energy: attributed to it.
        latency: as the gateway measured it.
        resumes: gateways and replicas that were lost under it after its first token.
        replayed_tokens: that were computed again for it.
        gco2e: grams that its energy emits; None where no intensity is known.

    """

    request_id: str
    variant: VariantName
    replica: ReplicaId
    decision: Decision
    reason: str
    finish: EngineFinish
    energy: RequestEnergy
    latency: Latency
    resumes: int = 0
    replayed_tokens: int = 0
    gco2e: float | None = None


class Journey:
    """A call on its way: who serves it, and when what happened to it.

    Times are on the gateway's monotonic clock; 0 before they come. A call that goes on after
    its gateway was lost begins where it was, as if its replica had been lost.

    Attributes:
        call: what the client wants.
        trace: is told of its stages.
        service_class: that it belongs to.
        stream: that it was counted in; None before that.
        decision: the newest one, be it a lost gateway's; None before the first.
        notice: what admission changed of the call; empty if nothing.
        failed: replicas that were lost under it.
        gateways_lost: gateways that were.
        losses: how often either happened.
        misses: how often a replica was gone already when the call came there.
        resumes: how often after its first token.
        replayed_tokens: prompt and completion tokens that had to be computed again for that.
        admitted_s: it was found servable.
        routed_s: its replica was chosen, the last time.
        first_token_s: the first token came from the replica.
        last_token_s: the newest token came from the replica.
        token_ids: that have come, under a lost gateway too.
        crc32: checksum of their ids.
        outcome: how it ended well; None before that.
        error: what ended it otherwise.

    """

    __slots__ = (
        "admitted_s",
        "call",
        "crc32",
        "decision",
        "error",
        "failed",
        "first_token_s",
        "gateways_lost",
        "last_token_s",
        "losses",
        "misses",
        "notice",
        "objective",
        "outcome",
        "replayed_tokens",
        "resumes",
        "routed_s",
        "service_class",
        "stream",
        "token_ids",
        "trace",
    )

    def __init__(self, call: Call, trace: CallTrace = UNTRACED) -> None:
        self.call = call
        self.trace = trace
        self.service_class = ""
        self.stream: StreamKey | None = None
        self.objective: Objective | None = None
        self.notice = ""
        self.decision: Decision | None = None
        self.failed: frozenset[ReplicaId] = frozenset()
        before = call.resume
        self.token_ids: list[int] = [] if before is None else list(before.token_ids)
        self.crc32 = checksum.extend(0, self.token_ids)
        self.gateways_lost = self.losses = self.resumes = 0 if before is None else before.attempts
        self.misses = 0
        self.replayed_tokens = self._to_replay()
        self.admitted_s = 0.0
        self.routed_s = 0.0
        self.first_token_s = 0.0
        self.last_token_s = 0.0
        self.outcome: Outcome | None = None
        self.error: BaseException | None = None

    @property
    def tokens(self) -> int:
        """How many have come, under a lost gateway too."""
        return len(self.token_ids)

    @property
    def new_tokens(self) -> int:
        """How many have come since the call has arrived here."""
        before = self.call.resume
        return self.tokens - (0 if before is None else len(before.token_ids))

    @property
    def replicas_lost(self) -> int:
        """How many were lost under it, that this gateway knows of."""
        return self.losses - self.gateways_lost

    def lost(self, *replicas: ReplicaId, accepted: bool) -> None:
        """Note that whoever served it is gone, or was so already when it came there."""
        self.failed |= set(replicas)
        if not accepted:
            self.misses += 1
            return
        self.losses += 1
        if self.token_ids:
            self.resumes += 1
            self.replayed_tokens += self._to_replay()

    def _to_replay(self) -> int:
        """How many tokens whoever goes on has to compute again."""
        return len(self.call.prompt_token_ids) + self.tokens if self.tokens else 0

    def chosen(self) -> Decision:
        """The newest decision; there is one once the call was routed."""
        if self.decision is None:
            raise RuntimeError("the call was not routed yet")
        return self.decision

    def saw(self, token_ids: list[int], now_s: float) -> None:
        """Note that tokens have come."""
        if not token_ids:
            return
        if not self.new_tokens:
            self.first_token_s = now_s
        self.last_token_s = now_s
        self.token_ids += token_ids
        self.crc32 = checksum.extend(self.crc32, token_ids)

    def latency(self) -> Latency:
        """What a client could have measured at the gateway's door; zeros if nothing came."""
        tokens = self.new_tokens
        if not tokens:
            return Latency(0.0, 0.0, 0.0)
        arrived_s = self.call.arrived_at_s
        decoding_s = self.last_token_s - self.first_token_s
        return Latency(
            ttft_s=self.first_token_s - arrived_s,
            tpot_s=decoding_s / (tokens - 1) if tokens > 1 else 0.0,
            e2e_s=self.last_token_s - arrived_s,
        )
