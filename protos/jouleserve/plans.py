"""The cluster's plan as a Python value: what is to be awake, and why.

Its own module because only operators read plans; whoever generates text never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.jouleserve.wire_fields import read

if TYPE_CHECKING:
    from protos.jouleserve.v1 import cluster_pb2


@dataclass(frozen=True, slots=True)
class PlannedReplicas:
    """Replicas of one variant on one group of nodes.

    Attributes:
        variant: of the replicas.
        group: of nodes.
        wanted: to be awake.
        awake: that serve.
        starting: asked for, and not serving yet.
        draining: that finish their streams.
        pinned: an operator has said how many there are to be.
        trouble: why there can be no more of them now; empty if nothing is wrong.

    """

    variant: str
    group: str
    wanted: int
    awake: int
    starting: int
    draining: int
    pinned: bool
    trouble: str


@dataclass(frozen=True, slots=True)
class PlannedNodes:
    """Nodes of one group: wanted on, ready, booting, and what keeps others from coming."""

    group: str
    wanted: int
    ready: int
    booting: int
    trouble: str


@dataclass(frozen=True, slots=True)
class PlanAction:
    """A change that the plan asks for.

    Attributes:
        kind: wake or drain replicas, boot or halt nodes.
        group: of nodes.
        variant: of the replicas; empty for nodes.
        count: how many.
        reason: one line.

    """

    kind: str
    group: str
    variant: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class PlannedDemand:
    """What is expected of requests that ask for the same of one model.

    Attributes:
        model: that requests name.
        service_class: of the requests.
        requests_per_s: expected mean.
        upper_requests_per_s: that will hardly be exceeded.
        prompt_tokens: mean.
        completion_tokens: mean.
        cached_share: of prompt tokens, found in prefix caches.
        headroom: standard deviations of a Poisson number of requests that are kept free.
        unserved_requests_per_s: that nothing will carry.
        min_quality: least that they accept beyond their service class; 0 for none.
        variant: the only one that may serve them; empty for any.

    """

    model: str
    service_class: str
    requests_per_s: float
    upper_requests_per_s: float
    prompt_tokens: float
    completion_tokens: float
    cached_share: float
    headroom: float
    unserved_requests_per_s: float
    min_quality: float
    variant: str


@dataclass(frozen=True, slots=True)
class CandidateVariant:
    """A variant that serves only once it has shown that it saves energy.

    Attributes:
        variant: its name.
        phase: watched, proposed, on probation, kept or withdrawn.
        age_s: since it came there.
        promised: share of the power that it would save, by the power model.
        carried_per_s: requests/s that nothing else can carry, and it would.
        believed: share that it saves by the step times that it has shown; None before.
        metered: share that meters show; None before, and where there are none.
        reason: one line.

    """

    variant: str
    phase: str
    age_s: float
    promised: float
    carried_per_s: float
    believed: float | None
    metered: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be awake, and why.

    Attributes:
        planned: False until the first plan has been made; all else is empty then.
        age_s: since it was made.
        solver: milp, greedy or held.
        solve_s: time that it took.
        gap: relative distance from the solver's own bound.
        predicted_w: mean power while it holds, by the power model.
        bound_w: no plan for these demands can draw less.
        replicas_w: what replicas say they draw now; None before any has.
        power_budget_w: that plans stay within; None without a bound.
        replicas: by variant and group.
        nodes: by group.
        actions: from what is there to the plan.
        demands: that it was made for.
        rejected: why the newest plan was not carried out, and this one stays.
        candidates: variants that are not trusted yet.

    """

    planned: bool
    age_s: float
    solver: str
    solve_s: float
    gap: float
    predicted_w: float
    bound_w: float
    replicas_w: float | None
    power_budget_w: float | None
    replicas: tuple[PlannedReplicas, ...]
    nodes: tuple[PlannedNodes, ...]
    actions: tuple[PlanAction, ...]
    demands: tuple[PlannedDemand, ...]
    rejected: str
    candidates: tuple[CandidateVariant, ...]


def plan(message: cluster_pb2.GetPlanResponse) -> Plan:
    """Read a plan from the wire."""
    return read(
        Plan,
        message,
        replicas_w=message.replicas_w if message.HasField("replicas_w") else None,
        power_budget_w=message.power_budget_w if message.HasField("power_budget_w") else None,
        replicas=tuple(read(PlannedReplicas, each) for each in message.replicas),
        nodes=tuple(read(PlannedNodes, each) for each in message.nodes),
        actions=tuple(read(PlanAction, each) for each in message.actions),
        demands=tuple(read(PlannedDemand, each) for each in message.demands),
        candidates=tuple(_candidate(each) for each in message.candidates),
    )


def _candidate(message: cluster_pb2.CandidateVariant) -> CandidateVariant:
    return read(
        CandidateVariant,
        message,
        believed=message.believed if message.HasField("believed") else None,
        metered=message.metered if message.HasField("metered") else None,
    )
