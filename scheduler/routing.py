"""Choose the replica that serves a request: filter, score, pick.

Its own module because this is the one decision on the request path; policies are
plugged in by name and everything they may know arrives as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np

from scheduler.outlook import BoolArray, FloatArray, IndexArray, ModelColumns, Scores, tabulate
from scheduler.waking import wake

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from scheduler.fleet import Fleet, Variant
    from scheduler.requests import ReplicaId, Request, VariantName

# Scores closer than this, relative to the best, are a tie.
TIE = 1e-9


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
        reason: one line for people.
        ranking: further replicas of the same variant, best first, should the chosen one
            be gone or full; at most `Limits.max_fallbacks`.
        candidates: every replica of the model, best first, then the excluded ones; empty
            unless the caller asked to explain.
        cached_tokens: of the prompt, expected in that replica's prefix cache.
        wake: variant of which a further replica would be worth waking, for all that are
            awake are at their limits; None if not, or if none can be woken.

    """

    replica: ReplicaId
    variant: VariantName
    policy: str
    reason: str
    ranking: tuple[ReplicaId, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    cached_tokens: int = 0
    wake: VariantName | None = None


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


class Policy(Protocol):
    """Orders the replicas that can serve a request."""

    @property
    def name(self) -> str:
        """As configuration, metrics and replies spell it."""

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Score every row; only eligible ones are read, and at least one is."""

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say in one line why that row was picked."""


def route(  # noqa: PLR0913 (four inputs of the decision, three settings)
    request: Request,
    fleet: Fleet,
    policy: Policy,
    rng: random.Random,
    *,
    limits: Limits = DEFAULT_LIMITS,
    avoid: frozenset[ReplicaId] = frozenset(),
    explain: bool = False,
) -> Decision | NoReplica:
    """Choose a replica: filter, score, pick.

    Args:
        request: to be served.
        fleet: as the caller sees it now.
        policy: orders those that can serve it.
        rng: breaks what ties load leaves.
        limits: bounds on load and age.
        avoid: replicas that have failed this request already.
        explain: fill `candidates`; costs some microseconds for each replica.

    """
    table = (tabulate(fleet) if fleet.columns is None else fleet.columns).get(request.model)
    if table is None:
        known = ", ".join(sorted({variant.model for variant in fleet.variants.values()}))
        return NoReplica(f"no model {request.model!r} is served; known: {known}", "unattainable")
    table = _with_prefixes(request, table, fleet)
    unfit = tuple([_unfit(request, variant) for variant in table.variants])
    case = _Case(request, fleet.observed_at_s, table, limits, unfit, avoid)
    eligible = _eligible(case)
    if isinstance(eligible, NoReplica):
        return _refuse(eligible, case, fleet, explain=explain)
    scores = policy.score(request, table, eligible, case.now_s, rng)
    row = _pick(scores.values, eligible, table.outlook.requests, rng)
    return Decision(
        replica=table.replicas[row],
        variant=table.variant(row).name,
        policy=policy.name,
        reason=policy.explain(request, table, eligible, scores, row),
        ranking=_fallbacks(case, eligible, scores.values, row),
        candidates=_candidates(case, eligible, scores, row) if explain else (),
        cached_tokens=0 if table.cached_tokens is None else int(table.cached_tokens[row]),
        wake=_wake_further(case, fleet, eligible, scores),
    )


class _Case(NamedTuple):
    """What a decision is made of, besides the policy's scores.

    Attributes:
        request: to be served.
        now_s: instant of the fleet's snapshot.
        table: the replicas of its model.
        limits: bounds on load and age.
        unfit: for each variant why it can never serve the request; empty if it can.
        avoid: replicas that have failed the request already.

    """

    request: Request
    now_s: float
    table: ModelColumns
    limits: Limits
    unfit: tuple[str, ...]
    avoid: frozenset[ReplicaId]


# ── look up ─────────────────────────────────────────────────────────────────


def _with_prefixes(request: Request, table: ModelColumns, fleet: Fleet) -> ModelColumns:
    """Say how much of the prompt each replica holds in its prefix cache."""
    if not request.prefix_blocks or fleet.prefixes is None or table.prefix_rows is None:
        return table
    depths = fleet.prefixes.match(request.prefix_blocks)
    if depths is None:
        return table
    block_tokens = fleet.prefixes.block_tokens
    tokens = depths[table.prefix_rows] * block_tokens
    grains = [variant.prefix_block_tokens for variant in table.variants]
    if set(grains) != {block_tokens}:
        # What an engine without a cache, or with larger blocks, cannot use.
        rows = np.array([grain or np.inf for grain in grains])[table.variant_rows]
        tokens -= np.remainder(tokens, rows)
    # An engine computes one token at least, to have something to go on from.
    cached = np.minimum(tokens, request.prompt_tokens - 1.0)
    return table.with_cached(cached)


# ── wake ────────────────────────────────────────────────────────────────────


def _refuse(refusal: NoReplica, case: _Case, fleet: Fleet, *, explain: bool) -> NoReplica:
    """Add to a refusal what would help, and what excluded each replica."""
    if refusal.kind != "unattainable" and fleet.sleepers:
        refusal = replace(refusal, wake=wake(case.request, case.table.variants, fleet.sleepers))
    return replace(refusal, candidates=_excluded(case)) if explain else refusal


def _wake_further(
    case: _Case, fleet: Fleet, eligible: BoolArray, scores: Scores
) -> VariantName | None:
    """Name what to wake, when all that are awake are at their limits."""
    if not fleet.sleepers or scores.strains is None:
        return None
    strain = sum(scores.terms[name][eligible] for name in scores.strains)
    if not np.all(strain):
        return None
    return wake(case.request, case.table.variants, fleet.sleepers)


# ── filter ──────────────────────────────────────────────────────────────────


def _unfit(request: Request, variant: Variant) -> str:
    """Say why a variant can never serve a request; empty if it can."""
    if request.variant is not None and variant.name != request.variant:
        return f"the request is pinned to {request.variant}"
    if variant.quality < request.objective.min_quality:
        return f"quality {variant.quality:.3g} is below {request.objective.min_quality:.3g}"
    needed = request.prompt_tokens + request.max_tokens
    context = min(variant.max_context_tokens, variant.kv_capacity_tokens)
    if needed > context:
        return f"{needed} tokens do not fit a context of {context}"
    return ""


def _eligible(case: _Case) -> BoolArray | NoReplica:
    """Mark the replicas that may serve the request; at least one."""
    table, limits = case.table, case.limits
    verdicts = tuple(zip(table.variants, case.unfit, strict=True))
    if all(case.unfit):
        faults = "; ".join(f"{variant.name}: {fault}" for variant, fault in verdicts)
        return NoReplica(faults, "unattainable")
    awake = table.outlook.awake > 0
    if any(case.unfit):
        awake &= np.array([not fault for fault in case.unfit])[table.variant_rows]
    if case.avoid:
        awake &= np.array([replica not in case.avoid for replica in table.replicas], dtype=bool)
    roomy = awake & (table.outlook.requests < table.outlook.max_batch + limits.max_waiting)
    preferred = _preferred(case, roomy)
    if preferred is not None:
        return preferred
    if awake.any():
        many = f"each of {int(awake.sum())} replicas"
        return NoReplica(f"{many} holds its batch and {limits.max_waiting} waiting more", "full")
    names = ", ".join(variant.name for variant, fault in verdicts if not fault)
    return NoReplica(f"no replica of {names} is awake", "none_awake")


def _preferred(case: _Case, roomy: BoolArray) -> BoolArray | None:
    """Narrow to replicas with a fresh report and KV headroom, as far as any are left.

    An engine without KV headroom queues the request, and a stale report may still be
    true: both are last resorts rather than refusals.
    """
    outlook = case.table.outlook
    fresh = roomy & (outlook.observed_at_s >= case.now_s - case.limits.stale_after_s)
    headroom = fresh & (outlook.kv_tokens <= outlook.kv_capacity_tokens - _needed(case.request))
    for choice in (headroom, fresh, roomy):
        if np.count_nonzero(choice):
            return choice
    return None


def _needed(request: Request) -> float:
    """Tokens of KV cache that the request is expected to take."""
    return request.prompt_tokens + request.expected_completion_tokens


# ── pick ────────────────────────────────────────────────────────────────────


def _pick(values: FloatArray, eligible: BoolArray, requests: FloatArray, rng: random.Random) -> int:
    """Take the best score; among equals the least loaded; among those any."""
    masked = np.where(eligible, values, np.inf)
    best = int(masked.argmin())
    least = float(masked[best])
    ties = np.flatnonzero(masked <= least + TIE * abs(least))
    if len(ties) == 1:
        return best
    load = requests[ties]
    idlest = ties[load == load.min()]
    return int(idlest[rng.randrange(len(idlest))])


def _fallbacks(
    case: _Case, eligible: BoolArray, values: FloatArray, row: int
) -> tuple[ReplicaId, ...]:
    """Name the next best replicas of the same variant."""
    table, most = case.table, case.limits.max_fallbacks
    others = eligible & (table.variant_rows == table.variant_rows[row])
    others[row] = False
    rows = others.nonzero()[0]
    if len(rows) > most > 0:
        rows = rows[values[rows].argpartition(most - 1)[:most]]
    ranked = _ranked(rows, values, table.outlook.requests)
    return tuple([table.replicas[other] for other in ranked[:most]])


def _ranked(rows: IndexArray, values: FloatArray, requests: FloatArray) -> list[int]:
    """Order rows by score, then by load."""
    ranked: list[int] = rows[np.lexsort((requests[rows], values[rows]))].tolist()
    return ranked


# ── explain ─────────────────────────────────────────────────────────────────


def _candidates(
    case: _Case, eligible: BoolArray, scores: Scores, chosen: int
) -> tuple[Candidate, ...]:
    """Detail every replica: the chosen one, the other eligible ones by rank, the excluded."""
    table = case.table
    ranked = _ranked(np.flatnonzero(eligible), scores.values, table.outlook.requests)
    ranked.remove(chosen)
    best = tuple(
        Candidate(
            replica=table.replicas[row],
            variant=table.variant(row).name,
            score=float(scores.values[row]),
            terms={name: float(term[row]) for name, term in scores.terms.items()},
        )
        for row in (chosen, *ranked)
    )
    return best + _excluded(case, eligible)


def _excluded(case: _Case, eligible: BoolArray | None = None) -> tuple[Candidate, ...]:
    """Detail the replicas that may not serve."""
    table = case.table
    return tuple(
        Candidate(
            replica=replica,
            variant=table.variant(row).name,
            excluded=case.unfit[table.variant_rows[row]] or _fault(case, row),
        )
        for row, replica in enumerate(table.replicas)
        if eligible is None or not eligible[row]
    )


def _fault(case: _Case, row: int) -> str:
    """Say what keeps a replica of a suitable variant from serving the request."""
    outlook, limits = case.table.outlook, case.limits
    requests, age_s = outlook.requests[row], case.now_s - outlook.observed_at_s[row]
    free = max(0.0, outlook.kv_capacity_tokens[row] - outlook.kv_tokens[row])
    if not outlook.awake[row]:
        return "it drains"
    if case.table.replicas[row] in case.avoid:
        return "it has failed this request"
    if requests >= outlook.max_batch[row] + limits.max_waiting:
        return f"it holds {requests:.0f} requests, its bound"
    if age_s > limits.stale_after_s:
        return f"its report is {age_s:.1f} s old"
    return f"its KV cache has {free:.0f} tokens free, {_needed(case.request):.0f} are needed"
