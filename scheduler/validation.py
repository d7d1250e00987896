"""Look at a plan again just before it is carried out: does it still hold?

Its own module because a plan is made from one census and carried out on another: replicas
die, nodes are lost, demand moves. A plan that still holds is given its actions anew, counted
from what is there now; one that does not is rejected with the reason, and made again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from scheduler.actions import actions_to
from scheduler.instance import instance_of
from scheduler.plans import Slot
from scheduler.search import serve_with
from scheduler.solver import solve

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.instance import Instance
    from scheduler.plans import NodeGroupName, Plan, PlanInput
    from scheduler.requests import VariantName

# Share of the demand by which what is not served may have grown.
TOLERATED = 0.01
# Share of a budget by which figures that were reckoned twice may differ.
ROUNDING = 1e-4


@dataclass(frozen=True, slots=True)
class Rejected:
    """A plan that must not be carried out.

    Attributes:
        reason: one line for people.

    """

    reason: str


def validate(plan: Plan, fresh: PlanInput) -> Plan | Rejected:
    """Check a plan against what is there and expected now.

    Args:
        plan: to be carried out.
        fresh: the same input as the planner's, observed again.

    Returns:
        The plan with its actions counted from the fresh census, or why it does not hold.

    """
    instance = instance_of(fresh)
    reason = (
        _outdated(plan, fresh)
        or _out_of_bounds(plan, instance)
        or _falls_short(plan, fresh, instance)
    )
    if reason:
        return Rejected(reason)
    reasons: dict[tuple[str, Slot | NodeGroupName], str] = {
        (action.kind, _target(action.group, action.variant)): action.reason
        for action in plan.actions
    }
    return replace(plan, actions=actions_to(fresh.census, plan.replicas, plan.nodes, reasons))


def _target(group: NodeGroupName, variant: VariantName | None) -> Slot | NodeGroupName:
    return group if variant is None else Slot(variant, group)


def _outdated(plan: Plan, fresh: PlanInput) -> str:
    age_s = fresh.census.observed_at_s - plan.made_at_s
    horizon_s = fresh.settings.horizon_s
    return (
        f"it is {age_s:.0f} s old and was made for {horizon_s:.0f} s" if age_s > horizon_s else ""
    )


def _out_of_bounds(plan: Plan, instance: Instance) -> str:
    """Say which bound on replicas or nodes the plan breaks now."""
    known = {terms.slot: terms for terms in instance.slots}
    for slot, count in plan.replicas.items():
        ceiling = known[slot].ceiling if slot in known else 0
        if count > ceiling:
            return f"{count} replicas of {slot.variant} on {slot.group}, {ceiling} can be"
    needed = instance.nodes_for([plan.replicas.get(terms.slot, 0) for terms in instance.slots])
    for nodes, terms in zip(needed, instance.groups, strict=True):
        given = min(plan.nodes.get(terms.group.name, 0), terms.group.max_nodes)
        if nodes > given:
            return f"its replicas take {nodes} nodes of {terms.group.name}, {given} would be on"
    return ""


def _falls_short(plan: Plan, fresh: PlanInput, instance: Instance) -> str:
    """Say what the plan would not serve, or which budget it would break, now."""
    if not instance.slots:
        return ""
    planned = [plan.replicas.get(terms.slot, 0) for terms in instance.slots]
    nodes = [plan.nodes.get(terms.group.name, 0) for terms in instance.groups]
    reserved_w = instance.reserved_w(planned, nodes)
    if reserved_w > instance.budget_w * (1 + ROUNDING):
        return f"it may draw {reserved_w:.0f} W, of a power budget of {instance.budget_w:.0f} W"
    carried = serve_with(instance, planned, nodes, fresh.settings.solve_limit_s / 3)
    if carried is None:
        return "the time was too short to look at it again"
    demand = sum(load.mean for load in instance.loads)
    said, after = sum(plan.unserved.values()), sum(carried.unserved)
    if after > said + TOLERATED * demand:
        return f"it would leave {after:.3g} of {demand:.3g} requests/s, not {said:.3g}"
    return _loses_what_serves(fresh, instance, planned)


def _loses_what_serves(fresh: PlanInput, instance: Instance, planned: Sequence[int]) -> str:
    """Say what the plan would drain although nothing else that is awake carries its load."""
    limit_s = fresh.settings.solve_limit_s / 3
    serving = [
        min(terms.ceiling, fresh.census.awake.get(terms.slot, 0)) for terms in instance.slots
    ]
    staying = [min(a, b) for a, b in zip(serving, planned, strict=True)]
    if staying == serving:
        return ""
    then = solve(instance, limit_s=limit_s, floors=[0] * len(serving), ceilings=staying)
    if then is None:
        return "the time was too short to look at what it drains"
    now = solve(instance, limit_s=limit_s, floors=staying, ceilings=serving)
    if now is None:
        # With what stays anyway, the power budget bears no more.
        return ""
    lost = sum(then.unserved) - sum(now.unserved)
    if lost > TOLERATED * sum(load.mean for load in instance.loads):
        return f"what it drains serves {lost:.3g} requests/s that nothing else awake carries"
    return ""
