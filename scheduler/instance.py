"""A planning problem as numbers: what every slot, node group and pair costs and carries.

Its own module because the exact solver, the greedy one, the bounds, hysteresis and
validation work on the same figures, and none of them should derive them again.

Replicas of a slot are alike, so the problem counts them: its size depends on the number of
slots and demands, not on the number of replicas. Accelerators that are on and unused draw
their bare power as part of the node; a replica's figures are what it adds to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from scheduler.capacity import Capability, capability, floor_of, headroom
from scheduler.plans import Slot
from scheduler.power import peak_w

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.plans import NodeGroup, Placement, PlanInput

JOULES_PER_KWH = 3.6e6
SECONDS_PER_HOUR = 3600.0
# Requests/s that are no demand: fewer than one in some hours.
NO_RATE = 1e-4
# Weight of headroom's energy: enough to prefer the leaner of two slots that could keep it. What
# is used of it, the mean rate contains already.
HEADROOM_SHARE = 0.1


class SlotTerms(NamedTuple):
    """Replicas of one variant on one node group.

    Attributes:
        slot: which.
        group: index of the node group.
        accelerators: of the group's capacity that a replica takes; more than its own number
            where a node has a remainder that no replica fits into.
        floor: replicas to be awake at least.
        ceiling: replicas that may be awake.
        awake: that are awake or starting.
        idle_w: that an idle replica adds to its accelerators' bare power.
        busy_w: that being busy adds to that.
        peak_w: that it adds to `idle_w` at the most, whatever it does.
        wake_j: energy to start one.

    """

    slot: Slot
    group: int
    accelerators: float
    floor: int
    ceiling: int
    awake: int
    idle_w: float
    busy_w: float
    peak_w: float
    wake_j: float


class GroupTerms(NamedTuple):
    """Nodes of one kind.

    Attributes:
        group: which, with all that is known of it.
        on: nodes that are on or booting.
        node_w: of a node that is on, its accelerators' bare power included.
        weight: cost of a watt: 1 and what carbon adds.
        price_w: cost of a node that is on, besides its watts.

    """

    group: NodeGroup
    on: int
    node_w: float
    weight: float
    price_w: float


class LoadTerms(NamedTuple):
    """One demand with a rate.

    Attributes:
        demand: its index in the plan's input.
        mean: expected requests/s.
        headroom: requests/s to be kept free above that.

    """

    demand: int
    mean: float
    headroom: float


class PairTerms(NamedTuple):
    """One demand on one slot.

    Attributes:
        slot: index.
        load: index.
        capacity: requests/s that a replica may be given.
        duty: requests/s below which a replica is idle part of the time.
        request_j: that a request adds while the replica is busy.
        spare_j: that a request/s of headroom counts as.

    """

    slot: int
    load: int
    capacity: float
    duty: float
    request_j: float
    spare_j: float


@dataclass(frozen=True, slots=True)
class Instance:
    """A planning problem.

    Attributes:
        slots: replicas that can be.
        groups: nodes that can be.
        loads: to be carried.
        pairs: of loads and slots that suit each other.
        horizon_s: over which the energy of waking and booting is spread.
        budget_w: not to be exceeded even with every awake replica at its peak; inf for none.

    """

    slots: tuple[SlotTerms, ...]
    groups: tuple[GroupTerms, ...]
    loads: tuple[LoadTerms, ...]
    pairs: tuple[PairTerms, ...]
    horizon_s: float
    budget_w: float

    def without_headroom(self) -> Instance:
        """Give the same for the mean rates alone."""
        return replace(self, loads=tuple(load._replace(headroom=0.0) for load in self.loads))

    def nodes_for(self, replicas: Sequence[float]) -> list[int]:
        """Count the nodes that hold so many replicas of each slot, group by group."""
        taken = [0.0] * len(self.groups)
        for terms, count in zip(self.slots, replicas, strict=True):
            taken[terms.group] += terms.accelerators * count
        return [
            math.ceil(used / terms.group.accelerators_per_node - 1e-9)
            for used, terms in zip(taken, self.groups, strict=True)
        ]

    def standing_w(self, replicas: Sequence[float], nodes: Sequence[float]) -> float:
        """Power of so many idle replicas on so many nodes."""
        return sum(
            terms.idle_w * count for terms, count in zip(self.slots, replicas, strict=True)
        ) + sum(terms.node_w * count for terms, count in zip(self.groups, nodes, strict=True))

    def reserved_w(self, replicas: Sequence[float], nodes: Sequence[float]) -> float:
        """Power of so many replicas on so many nodes, all at their peak."""
        return self.standing_w(replicas, nodes) + sum(
            terms.peak_w * count for terms, count in zip(self.slots, replicas, strict=True)
        )

    def waking_w(self, replicas: Sequence[float], nodes: Sequence[float]) -> float:
        """Energy of getting there from what is awake, spread over the horizon."""
        energy_j = sum(
            terms.wake_j * max(0.0, count - terms.awake)
            for terms, count in zip(self.slots, replicas, strict=True)
        ) + sum(
            terms.group.boot_j * max(0.0, count - terms.on)
            for terms, count in zip(self.groups, nodes, strict=True)
        )
        return energy_j / self.horizon_s

    def standing_cost(self, replicas: Sequence[float], nodes: Sequence[float]) -> float:
        """Weighted power of idle replicas and nodes, and of getting there."""
        return sum(
            self.groups[terms.group].weight
            * (terms.idle_w * count + terms.wake_j * max(0.0, count - terms.awake) / self.horizon_s)
            for terms, count in zip(self.slots, replicas, strict=True)
        ) + sum(
            (terms.weight * terms.node_w + terms.price_w) * count
            + terms.weight * terms.group.boot_j * max(0.0, count - terms.on) / self.horizon_s
            for terms, count in zip(self.groups, nodes, strict=True)
        )


def instance_of(plan_input: PlanInput) -> Instance:
    """Reckon what a plan is made of."""
    return _build(plan_input, cautious=True)


def relaxed_instance_of(plan_input: PlanInput) -> Instance:
    """Reckon the same for a bound: nothing is reserved, remembered, required or capped."""
    settings = replace(
        plan_input.settings,
        load_share=1.0,
        horizon_s=math.inf,
        power_budget_w=None,
        carbon_weight=0.0,
        price_weight=0.0,
    )
    return _build(
        replace(
            plan_input,
            settings=settings,
            placements=tuple(replace(p, min_replicas=0) for p in plan_input.placements),
            demands=tuple(
                replace(each, upper_requests_per_s=0.0, risk=0.0) for each in plan_input.demands
            ),
        ),
        cautious=False,
    )


def _build(plan_input: PlanInput, *, cautious: bool) -> Instance:
    settings = plan_input.settings
    names = tuple(plan_input.groups)
    groups = tuple(_group_terms(plan_input, plan_input.groups[name]) for name in names)
    able = _abilities(plan_input, cautious=cautious)
    loads = _load_terms(plan_input, able)
    rows = {terms.demand: row for row, terms in enumerate(loads)}
    slots = tuple(
        _slot_terms(
            plan_input,
            placement,
            names.index(placement.group),
            [ability.busy_w for (row, _), ability in able.items() if row == index],
        )
        for index, placement in enumerate(plan_input.placements)
    )
    pairs = tuple(
        _pair_terms(slot, rows[demand], ability, slots[slot], plan_input)
        for (slot, demand), ability in able.items()
        if demand in rows
    )
    budget_w = math.inf if settings.power_budget_w is None else settings.power_budget_w
    instance = Instance(slots, groups, loads, pairs, settings.horizon_s, budget_w)
    return replace(instance, slots=_attainable_floors(instance))


def _abilities(plan_input: PlanInput, *, cautious: bool) -> dict[tuple[int, int], Capability]:
    """Find what each placement can carry of each demand; pairs that do not suit are absent."""
    able: dict[tuple[int, int], Capability] = {}
    for row, placement in enumerate(plan_input.placements):
        variant = plan_input.variants[placement.variant]
        for column, demand in enumerate(plan_input.demands):
            ability = capability(variant, demand, cautious=cautious)
            if ability is not None:
                able[row, column] = ability if cautious else floor_of(ability)
    return able


def _load_terms(
    plan_input: PlanInput, able: dict[tuple[int, int], Capability]
) -> tuple[LoadTerms, ...]:
    """Give the demands that have a rate; one that nobody can carry keeps no headroom."""
    loads = []
    for column, demand in enumerate(plan_input.demands):
        residences = [
            ability.residence_s for (_, other), ability in able.items() if other == column
        ]
        # The shortest residence averages least and asks for the most headroom.
        spare = headroom(demand, min(residences)) if residences else 0.0
        if demand.requests_per_s > NO_RATE or spare > NO_RATE:
            loads.append(LoadTerms(column, demand.requests_per_s, spare))
    return tuple(loads)


def _group_terms(plan_input: PlanInput, group: NodeGroup) -> GroupTerms:
    settings = plan_input.settings
    return GroupTerms(
        group=group,
        on=plan_input.census.nodes_on.get(group.name, 0),
        node_w=group.node_power_w + group.accelerators_per_node * group.bare_power_w,
        weight=1.0 + settings.carbon_weight * group.carbon_g_per_kwh / JOULES_PER_KWH,
        price_w=settings.price_weight * group.price_per_h / SECONDS_PER_HOUR,
    )


def _slot_terms(
    plan_input: PlanInput, placement: Placement, group: int, busy_w: list[float]
) -> SlotTerms:
    variant, census = plan_input.variants[placement.variant], plan_input.census
    nodes = plan_input.groups[placement.group]
    slot = Slot(placement.variant, placement.group)
    per_node = nodes.accelerators_per_node // placement.accelerators
    fitting = per_node * nodes.max_nodes
    return SlotTerms(
        slot=slot,
        group=group,
        accelerators=nodes.accelerators_per_node / per_node if per_node else 1.0,
        floor=min(placement.min_replicas, fitting),
        ceiling=fitting if placement.max_replicas is None else min(placement.max_replicas, fitting),
        awake=census.awake.get(slot, 0) + census.starting.get(slot, 0),
        idle_w=max(0.0, variant.context_power_w - placement.accelerators * nodes.bare_power_w),
        busy_w=min(busy_w, default=variant.context_power_w) - variant.context_power_w,
        peak_w=peak_w(variant) - variant.context_power_w,
        wake_j=placement.start_j,
    )


def _pair_terms(
    slot: int, load: int, ability: Capability, terms: SlotTerms, plan_input: PlanInput
) -> PairTerms:
    # One busy power for the slot, the lowest; what is more at the highest rate counts as the
    # request's. For affine steps it is the same for every demand and nothing moves.
    more_w = ability.busy_w - ability.idle_w - terms.busy_w
    request_j = ability.request_j + more_w / ability.requests_per_s
    return PairTerms(
        slot=slot,
        load=load,
        capacity=ability.requests_per_s * plan_input.settings.load_share,
        duty=ability.duty_per_s,
        request_j=request_j,
        spare_j=HEADROOM_SHARE * (request_j + terms.busy_w / ability.requests_per_s),
    )


def _attainable_floors(instance: Instance) -> tuple[SlotTerms, ...]:
    """Lower minima that nodes or the power budget cannot hold, the last ones first."""
    slots = [terms._replace(floor=min(terms.floor, terms.ceiling)) for terms in instance.slots]
    for index in reversed(range(len(slots))):
        while slots[index].floor > 0 and not _holds(instance, [terms.floor for terms in slots]):
            slots[index] = slots[index]._replace(floor=slots[index].floor - 1)
    return tuple(slots)


def _holds(instance: Instance, replicas: list[int]) -> bool:
    nodes = instance.nodes_for(replicas)
    return instance.reserved_w(replicas, nodes) <= instance.budget_w and all(
        count <= terms.group.max_nodes for count, terms in zip(nodes, instance.groups, strict=True)
    )
