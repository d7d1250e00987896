"""Which replicas may serve a request at all, and what keeps the others from it.

Its own module because these are limits and not preferences: they hold whichever policy orders
what is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scheduler.decisions import NoReplica

if TYPE_CHECKING:
    from scheduler.decisions import Limits
    from scheduler.fleet import Variant
    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import ReplicaId, Request


class Case(NamedTuple):
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


def unfit_for(request: Request, variant: Variant) -> str:
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


def eligible_rows(case: Case) -> BoolArray | NoReplica:
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


def _preferred(case: Case, roomy: BoolArray) -> BoolArray | None:
    """Narrow to replicas with a fresh report and KV headroom, as far as any are left.

    An engine without KV headroom queues the request, and a stale report may still be
    true: both are last resorts rather than refusals.
    """
    outlook = case.table.outlook
    fresh = roomy & (outlook.observed_at_s >= case.now_s - case.limits.stale_after_s)
    most = outlook.kv_capacity_tokens - needed_tokens(case.request)
    headroom = fresh & (outlook.kv_tokens <= most)
    for choice in (headroom, fresh, roomy):
        if np.count_nonzero(choice):
            return choice
    return None


def needed_tokens(request: Request) -> float:
    """Tokens of KV cache that the request is expected to take."""
    return request.prompt_tokens + request.expected_completion_tokens


def fault_of(case: Case, row: int) -> str:
    """Say what keeps a replica of a suitable variant from serving the request."""
    outlook, limits = case.table.outlook, case.limits
    requests, age_s = outlook.requests[row], case.now_s - outlook.observed_at_s[row]
    free = max(0.0, outlook.kv_capacity_tokens[row] - outlook.kv_tokens[row])
    if not outlook.awake[row]:
        return "it drains, or rests for the power budget"
    if case.table.replicas[row] in case.avoid:
        return "it has failed this request"
    if requests >= outlook.max_batch[row] + limits.max_waiting:
        return f"it holds {requests:.0f} requests, its bound"
    if age_s > limits.stale_after_s:
        return f"its report is {age_s:.1f} s old"
    return f"its KV cache has {free:.0f} tokens free, {needed_tokens(case.request):.0f} are needed"
