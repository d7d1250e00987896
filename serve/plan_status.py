"""The plan as operators read it: the planner's news as a message.

Its own module because neither the planner nor the gateway needs to know the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protos.jouleserve.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.plan_news import Planned, PlanNews


def response(news: PlanNews) -> pb.GetPlanResponse:
    """Say what is planned, with what it was made from."""
    planned = news.planned
    if planned is None:
        return pb.GetPlanResponse(planned=False, replicas_w=news.power_w)
    plan = planned.plan
    return pb.GetPlanResponse(
        planned=True,
        age_s=news.age_s,
        solver=plan.solver,
        solve_s=planned.solve_s,
        gap=plan.gap,
        predicted_w=plan.predicted_w,
        bound_w=plan.bound_w,
        replicas_w=news.power_w,
        power_budget_w=planned.power_budget_w,
        replicas=_replicas(planned),
        nodes=[
            pb.PlannedNodes(
                group=name,
                wanted=state.wanted,
                ready=state.ready,
                booting=state.booting,
                trouble=state.trouble,
            )
            for name, state in planned.groups.items()
        ],
        actions=[
            pb.PlanAction(
                kind=action.kind,
                group=action.group,
                variant=action.variant or "",
                count=action.count,
                reason=action.reason,
            )
            for action in plan.actions
        ],
        demands=_demands(planned),
        rejected=planned.rejected,
        candidates=_candidates(news, plan.made_at_s + news.age_s),
    )


def _candidates(news: PlanNews, now_s: float) -> Iterator[pb.CandidateVariant]:
    for name, case in sorted(news.candidates.items()):
        yield pb.CandidateVariant(
            variant=name,
            phase=case.phase.value,
            age_s=max(0.0, now_s - case.since_s),
            promised=case.promised,
            carried_per_s=case.carried_per_s,
            believed=case.believed,
            metered=case.metered,
            reason=case.reason,
        )


def _replicas(planned: Planned) -> Iterator[pb.PlannedReplicas]:
    for slot, state in planned.slots.items():
        yield pb.PlannedReplicas(
            variant=slot.variant,
            group=slot.group,
            wanted=state.wanted,
            awake=state.awake,
            starting=state.starting,
            draining=state.draining,
            pinned=state.pinned,
            trouble=state.trouble,
        )


def _demands(planned: Planned) -> Iterator[pb.PlannedDemand]:
    for index, (key, demand) in enumerate(planned.demands.items()):
        yield pb.PlannedDemand(
            model=key.model,
            service_class=key.service_class,
            requests_per_s=demand.requests_per_s,
            upper_requests_per_s=max(demand.requests_per_s, demand.upper_requests_per_s),
            prompt_tokens=demand.prompt_tokens,
            completion_tokens=demand.completion_tokens,
            cached_share=demand.cached_share,
            headroom=demand.risk,
            unserved_requests_per_s=planned.plan.unserved.get(index, 0.0),
            min_quality=key.min_quality,
            variant=key.variant,
        )
