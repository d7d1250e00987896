"""What gateways and the planner tell each other.

Its own module because these values travel between processes: whoever imports them needs
nothing of either side.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.adaptation import Case
    from scheduler.fleet import Sleeper
    from scheduler.plans import Demand, NodeGroupName, Plan, Slot
    from scheduler.requests import ModelName, ReplicaId, VariantName
    from scheduler.steps import StepModel
    from scheduler.traffic import Traffic
    from serve.troubles import Trouble


class StreamKey(NamedTuple):
    """Requests that the planner forecasts together.

    Attributes:
        model: that they name.
        service_class: that they belong to.
        min_quality: least quality of a variant that they accept; 0 where every variant of the
            model will do. It is a variant's, so there are few.
        variant: the only one that may serve them; empty for any.

    """

    model: ModelName
    service_class: str
    min_quality: float = 0.0
    variant: str = ""


@dataclass(frozen=True, slots=True)
class GatewayNews:
    """What a gateway has seen.

    Attributes:
        gateway: who says so.
        number: of these news among those of the gateway, in the order in which it made them.
        traffic: totals since it started.
        held: requests that wait for a replica now.
        waiting: requests that replicas have accepted and have no place in their batch for.
        steps: step models of variants, corrected by what replicas have reported.
        power_w: that all replicas together have reported; None before any has.
        lost: replicas that it had a line to and cannot reach any more.
        strained: whether requests have come for which another replica should be awake.
        awake: replicas that it has a line to.
        busy: of these, those that have work; empty where no power budget asks for it.

    """

    gateway: str
    number: int = 0
    traffic: Mapping[StreamKey, Traffic] = field(default_factory=dict)
    held: Mapping[StreamKey, int] = field(default_factory=dict)
    waiting: Mapping[VariantName, int] = field(default_factory=dict)
    steps: Mapping[VariantName, StepModel] = field(default_factory=dict)
    power_w: float | None = None
    lost: frozenset[str] = frozenset()
    strained: bool = False
    awake: Mapping[ReplicaId, VariantName] = field(default_factory=dict)
    busy: frozenset[ReplicaId] = frozenset()


class SlotState(NamedTuple):
    """Replicas of a variant on a group of nodes, wanted and there."""

    wanted: int
    awake: int
    starting: int
    draining: int
    pinned: bool
    trouble: str


class GroupNodes(NamedTuple):
    """Nodes of a group, wanted and there."""

    wanted: int
    ready: int
    booting: int
    trouble: str


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with what it was made from.

    Attributes:
        plan: itself.
        slots: every allowed pair of variant and group.
        groups: of nodes.
        demands: by stream, in the plan's order.
        power_budget_w: that it stays within; None for none.
        solve_s: time that it took.
        rejected: why an attempt after it was not carried out; empty if there was none.

    """

    plan: Plan
    slots: Mapping[Slot, SlotState]
    groups: Mapping[NodeGroupName, GroupNodes]
    demands: Mapping[StreamKey, Demand]
    power_budget_w: float | None
    solve_s: float
    rejected: str = ""


@dataclass(frozen=True, slots=True)
class PlanNews:
    """What the planner has decided.

    Attributes:
        planned: that is carried out now; None before the first one.
        age_s: since it was made.
        sleepers: of which one more replica could be woken.
        power_w: that replicas draw now, as gateways have it from their reports.
        troubles: that keep the plan from being made, carried out, or as good as it could be.
        workers: replicas that may take new work; None for all of them.
        candidates: how it stands with variants that are not trusted yet.

    """

    planned: Planned | None = None
    age_s: float = 0.0
    sleepers: tuple[Sleeper, ...] = ()
    power_w: float | None = None
    troubles: tuple[Trouble, ...] = ()
    workers: frozenset[ReplicaId] | None = None
    candidates: Mapping[VariantName, Case] = field(default_factory=dict)

    def coming(self) -> frozenset[VariantName]:
        """Name the variants of which a replica starts."""
        slots = {} if self.planned is None else self.planned.slots
        return frozenset(slot.variant for slot, state in slots.items() if state.starting)
