"""Choose the replica that serves a request: filter, score, pick.

Its own module because this is the one decision on the request path; policies are
plugged in by name and everything they may know arrives as arguments.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from scheduler.decisions import (
    DEFAULT_LIMITS,
    Candidate,
    Decision,
    Latencies,
    Limits,
    NoReplica,
)
from scheduler.eligibility import Case, eligible_rows, fault_of, unfit_for
from scheduler.outlook import tabulate
from scheduler.waking import wake

if TYPE_CHECKING:
    import random

    from scheduler.fleet import Fleet
    from scheduler.outlook import BoolArray, FloatArray, IndexArray, ModelColumns, Scores
    from scheduler.requests import ReplicaId, Request, VariantName

__all__ = [
    "DEFAULT_LIMITS",
    "Candidate",
    "Decision",
    "Latencies",
    "Learner",
    "Limits",
    "NoReplica",
    "Policy",
    "route",
]

# Scores closer than this, relative to the best, are a tie.
TIE = 1e-9


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


@runtime_checkable
class Learner(Protocol):
    """A policy that learns from what requests have met."""

    def learn(self, request: Request, predicted: Latencies | None, met: Latencies) -> None:
        """Compare what was predicted for a request with what it met."""


def route(  # noqa: PLR0913 (four inputs of the decision, three settings)
    request: Request,
    fleet: Fleet,
    policy: Policy,
    rng: random.Random,
    *,
    limits: Limits = DEFAULT_LIMITS,
    avoid: frozenset[ReplicaId] = frozenset(),
    explain: bool = False,
    most_explained: int | None = None,
    reasoned: bool = True,
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
        most_explained: give so many of the best alone; None for all, and who was excluded.
        reasoned: give a `reason`, which a simulation of a million requests can do without.

    """
    table = (tabulate(fleet) if fleet.columns is None else fleet.columns).get(request.model)
    if table is None:
        known = ", ".join(sorted({variant.model for variant in fleet.variants.values()}))
        return NoReplica(f"no model {request.model!r} is served; known: {known}", "unattainable")
    table = _with_prefixes(request, table, fleet)
    unfit = tuple([unfit_for(request, variant) for variant in table.variants])
    case = Case(request, fleet.observed_at_s, table, limits, unfit, avoid)
    eligible = eligible_rows(case)
    if isinstance(eligible, NoReplica):
        return _refuse(eligible, case, fleet, explain=explain)
    scores = policy.score(request, table, eligible, case.now_s, rng)
    values = np.where(eligible, scores.values, np.inf)
    row = _pick(values, table.outlook.requests, rng)
    return Decision(
        replica=table.replicas[row],
        variant=table.variant(row).name,
        policy=policy.name,
        reason=policy.explain(request, table, eligible, scores, row) if reasoned else "",
        ranking=_fallbacks(case, values, row),
        candidates=_candidates(case, eligible, scores, row, most_explained) if explain else (),
        cached_tokens=0 if table.cached_tokens is None else int(table.cached_tokens[row]),
        wake=_wake_further(case, fleet, eligible, scores),
        predicted=_predicted(scores, row),
        considered=len(table.replicas),
        eligible=int(np.count_nonzero(eligible)),
    )


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


def _refuse(refusal: NoReplica, case: Case, fleet: Fleet, *, explain: bool) -> NoReplica:
    """Add to a refusal what would help, and what excluded each replica."""
    if refusal.kind != "unattainable" and fleet.sleepers:
        refusal = replace(refusal, wake=wake(case.request, case.table.variants, fleet.sleepers))
    return replace(refusal, candidates=_excluded(case)) if explain else refusal


def _wake_further(
    case: Case, fleet: Fleet, eligible: BoolArray, scores: Scores
) -> VariantName | None:
    """Name what to wake, when all that are awake are at their limits."""
    if not fleet.sleepers or scores.strains is None:
        return None
    strain = sum(scores.terms[name][eligible] for name in scores.strains)
    if not np.all(strain):
        return None
    return wake(case.request, case.table.variants, fleet.sleepers)


# ── pick ────────────────────────────────────────────────────────────────────


def _pick(values: FloatArray, requests: FloatArray, rng: random.Random) -> int:
    """Take the best score; among equals the least loaded; among those any."""
    best = int(values.argmin())
    least = float(values[best])
    ties = np.flatnonzero(values <= least + TIE * abs(least))
    if len(ties) == 1:
        return best
    load = requests[ties]
    idlest = ties[load == load.min()]
    return int(idlest[rng.randrange(len(idlest))])


def _predicted(scores: Scores, row: int) -> Latencies | None:
    figures = scores.figures
    if "ttft_s" not in figures or "tpot_s" not in figures:
        return None
    return Latencies(float(figures["ttft_s"][row]), float(figures["tpot_s"][row]))


def _fallbacks(case: Case, values: FloatArray, row: int) -> tuple[ReplicaId, ...]:
    """Name the next best replicas of the same variant; what may not serve is at infinity."""
    table = case.table
    values = values.copy()
    if len(table.variants) > 1:
        values[table.variant_rows != table.variant_rows[row]] = np.inf
    names: list[ReplicaId] = []
    for _ in range(min(case.limits.max_fallbacks, len(values) - 1)):
        # Few are wanted: looking for the best again and again is quicker than any sorting.
        values[row] = np.inf
        row = int(values.argmin())
        if values[row] == np.inf:
            break
        names.append(table.replicas[row])
    return tuple(names)


def _ranked(rows: IndexArray, values: FloatArray, requests: FloatArray) -> list[int]:
    """Order rows by score, then by load."""
    ranked: list[int] = rows[np.lexsort((requests[rows], values[rows]))].tolist()
    return ranked


# ── explain ─────────────────────────────────────────────────────────────────


def _candidates(
    case: Case, eligible: BoolArray, scores: Scores, chosen: int, most: int | None
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
        for row in (chosen, *ranked)[:most]
    )
    return best if most is not None else best + _excluded(case, eligible)


def _excluded(case: Case, eligible: BoolArray | None = None) -> tuple[Candidate, ...]:
    """Detail the replicas that may not serve."""
    table = case.table
    return tuple(
        Candidate(
            replica=replica,
            variant=table.variant(row).name,
            excluded=case.unfit[table.variant_rows[row]] or fault_of(case, row),
        )
        for row, replica in enumerate(table.replicas)
        if eligible is None or not eligible[row]
    )
