"""Who serves a request, and why: what a routing decision says, and the limits it is given.

Its own module because gateways, telemetry, replies and the virtual cluster read decisions, and
only one of them makes any.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.requests import Objective, ReplicaId, VariantName


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a replica may be loaded, and how old its report may be.

    Attributes:
        max_waiting: requests beyond its batch before a replica is full.
        stale_after_s: age of the newest report that makes a replica a last resort.
        max_fallbacks: replicas named after the chosen one.

    """

    max_waiting: int = 64
    stale_after_s: float = 5.0
    max_fallbacks: int = 8


DEFAULT_LIMITS = Limits()


class Latencies(NamedTuple):
    """What a request meets, or is expected to.

    Attributes:
        ttft_s: time to the first token.
        tpot_s: mean time per output token after the first; 0 without any.

    """

    ttft_s: float
    tpot_s: float

    def keep(self, objective: Objective) -> bool:
        """Whether both stay within an objective."""
        return self.ttft_s <= objective.ttft_s and self.tpot_s <= objective.tpot_s


@dataclass(frozen=True, slots=True)
class Candidate:
    """One replica in a decision.

    Attributes:
        replica: that was considered.
        variant: that it serves.
        score: lower is better; 0 for an excluded one.
        terms: what the score adds up, by name.
        excluded: why it could not serve; empty for one that could.

    """

    replica: ReplicaId
    variant: VariantName
    score: float = 0.0
    terms: Mapping[str, float] = field(default_factory=dict)
    excluded: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who serves a request, and why.

    Attributes:
        replica: the chosen one.
        variant: that it serves.
        policy: name of the policy that chose.
        reason: one line for people; empty if nobody asked.
        ranking: further replicas of the same variant, best first, should the chosen one
            be gone or full; at most `Limits.max_fallbacks`.
        candidates: every replica of the model, best first, then the excluded ones; empty
            unless the caller asked to explain.
        cached_tokens: of the prompt, expected in that replica's prefix cache.
        wake: variant of which a further replica would be worth waking, for all that are
            awake are at their limits; None if not, or if none can be woken.
        predicted: latencies on that replica; None where the policy predicts none.
        considered: replicas of the model, in number.
        eligible: of these, that could serve it.

    """

    replica: ReplicaId
    variant: VariantName
    policy: str
    reason: str
    ranking: tuple[ReplicaId, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    cached_tokens: int = 0
    wake: VariantName | None = None
    predicted: Latencies | None = None
    considered: int = 0
    eligible: int = 0


@dataclass(frozen=True, slots=True)
class NoReplica:
    """Nobody can serve a request.

    Attributes:
        reason: one line for people.
        kind: "unattainable" when no variant ever can, "none_awake" when no replica of a
            suitable variant takes work now, "full" when all that do are at their bound.
        candidates: every replica of the model with what excluded it; empty unless the
            caller asked to explain.
        wake: variant of which a replica is worth waking; None if none can be.

    """

    reason: str
    kind: Literal["unattainable", "none_awake", "full"]
    candidates: tuple[Candidate, ...] = ()
    wake: VariantName | None = None
