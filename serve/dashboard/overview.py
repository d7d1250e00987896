"""The few figures that say how a cluster does, made from its status and its plan.

Its own module because the page and `jouleserve top` show the same figures, and a figure that is
computed twice is two figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protos.jouleserve.client import ClusterStatus, Plan

SERVING = frozenset({"awake", "resting", "draining"})


@dataclass(frozen=True, slots=True)
class Overview:
    """A cluster in one line.

    Attributes:
        replicas: that the gateway knows, in whatever state.
        awake: of these, that take new work.
        running_requests: in batches.
        waiting_requests: accepted by replicas, and in no batch yet.
        tokens_per_s: generated now, by all replicas.
        prefill_tokens_per_s: of prompts, computed now.
        power_w: that all replicas draw, as they say themselves.
        joules_per_token: `power_w` over `tokens_per_s`; None while nothing is generated.
        planned_tokens_per_s: that the plan expects to be generated; None without a plan.
        predicted_j_per_token: predicted watts of the plan, nodes included, over its tokens/s.
        bound_j_per_token: the same of the least watts that could serve what is expected.
        requests: that have ended within the window of the service classes.
        attainment: share of them that met all their objectives, 0 to 1; None without any.

    """

    replicas: int
    awake: int
    running_requests: int
    waiting_requests: int
    tokens_per_s: float
    prefill_tokens_per_s: float
    power_w: float
    joules_per_token: float | None
    planned_tokens_per_s: float | None
    predicted_j_per_token: float | None
    bound_j_per_token: float | None
    requests: int
    attainment: float | None


def overview(status: ClusterStatus, plan: Plan | None) -> Overview:
    """Add up a cluster."""
    replicas, classes = status.replicas, status.service_classes
    tokens_per_s = sum(each.decode_tokens_per_s for each in replicas)
    power_w = sum(each.power_w for each in replicas)
    requests = sum(each.requests for each in classes)
    made = plan if plan is not None and plan.planned else None
    planned = None if made is None else _expected_tokens_per_s(made)
    return Overview(
        replicas=len(replicas),
        awake=sum(each.state == "awake" for each in replicas),
        running_requests=sum(each.running_requests for each in replicas),
        waiting_requests=sum(each.waiting_requests for each in replicas),
        tokens_per_s=tokens_per_s,
        prefill_tokens_per_s=sum(each.prefill_tokens_per_s for each in replicas),
        power_w=power_w,
        joules_per_token=_quotient(power_w, tokens_per_s),
        planned_tokens_per_s=planned,
        predicted_j_per_token=None if made is None else _quotient(made.predicted_w, planned),
        bound_j_per_token=None if made is None else _quotient(made.bound_w, planned),
        requests=requests,
        attainment=_quotient(sum(each.within_both for each in classes), requests),
    )


def _expected_tokens_per_s(plan: Plan) -> float:
    """Tokens/s of the demands that the plan and its bound were made for."""
    return sum(each.requests_per_s * each.completion_tokens for each in plan.demands)


def _quotient(amount: float, of: float | None) -> float | None:
    return amount / of if of and of > 0 else None
