"""Which of the replicas and nodes that a plan can do without are kept for now.

Its own module because when to let go is a question of its own: what to wake is decided by
need, at once, but what is drained today may be woken again tomorrow. Ski rental: keep what
has become superfluous until keeping it has cost as much as waking it again would,

    τ* = E_wake/(P_ctx − P_off)     for a replica      τ* = E_boot/(P_node + P_bare)   for a node

which never costs more than twice what clairvoyance would. Each superfluous replica has its
own clock, which starts when the plan could do without it and stops when it is needed again.
Two things go before: as long as a woken replica does not serve, those that carry its load
stay; and a replica that is needed at once takes the room of one that is not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scheduler.instance import GroupTerms, Instance
    from scheduler.plans import Census, Plan
    from scheduler.solution import Solution


@dataclass(frozen=True, slots=True)
class Settled:
    """What is to be awake after all; sequences follow the instance's order.

    Attributes:
        replicas: awake, by slot.
        nodes: on, by group.
        surplus_since_s: of each slot's replicas that are kept without being needed.
        spare_since_s: of each group's nodes that are.
        patience_s: τ* of a replica, by slot.

    """

    replicas: tuple[int, ...]
    nodes: tuple[int, ...]
    surplus_since_s: tuple[tuple[float, ...], ...]
    spare_since_s: tuple[tuple[float, ...], ...]
    patience_s: tuple[float, ...]


def settle(
    instance: Instance,
    wanted: Solution,
    bridge: Sequence[int],
    census: Census,
    previous: Plan | None,
) -> Settled:
    """Keep what it does not pay to let go yet.

    Args:
        instance: of the plan.
        wanted: the best there is to have awake.
        bridge: replicas of each slot that must go on serving until woken ones do; they may
            exceed what is wanted.
        census: what there is.
        previous: the plan before; its clocks go on.

    """
    now_s = census.observed_at_s
    patience_s = tuple(
        replica_patience_s(instance, wanted, index) for index in range(len(instance.slots))
    )
    clocks = [
        _clock(
            () if previous is None else previous.surplus_since_s.get(terms.slot, ()),
            terms.awake - wanted.replicas[index],
            now_s,
        )
        for index, terms in enumerate(instance.slots)
    ]
    kept = [
        sum(now_s - since_s < patience for since_s in clock)
        for clock, patience in zip(clocks, patience_s, strict=True)
    ]
    bridged = [
        max(0, min(terms.awake, bridge[i]) - wanted.replicas[i])
        for i, terms in enumerate(instance.slots)
    ]
    replicas = _fitted(instance, wanted, kept, bridged, census)
    surplus = [
        max(0, min(count, terms.awake) - wanted.replicas[i])
        for i, (count, terms) in enumerate(zip(replicas, instance.slots, strict=True))
    ]
    nodes, spare_since_s = _nodes(instance, wanted, replicas, census, previous)
    return Settled(
        replicas=tuple(replicas),
        nodes=nodes,
        # Those that have been superfluous the longest go first.
        surplus_since_s=tuple(
            clock[len(clock) - count :] for clock, count in zip(clocks, surplus, strict=True)
        ),
        spare_since_s=spare_since_s,
        patience_s=patience_s,
    )


def replica_patience_s(instance: Instance, wanted: Solution, index: int) -> float:
    """How long a superfluous replica of a slot is kept (τ*); infinite if it costs nothing.

    Where its node can go too, its share of the node's power counts.
    """
    terms = instance.slots[index]
    group = instance.groups[terms.group]
    saved_w = terms.idle_w
    if wanted.nodes[terms.group] < group.on:
        saved_w += group.node_w * terms.accelerators / group.group.accelerators_per_node
    return _patience_s(terms.wake_j, saved_w)


def node_patience_s(terms: GroupTerms) -> float:
    """How long a superfluous node is kept (τ*); infinite if it costs nothing."""
    return _patience_s(terms.group.boot_j, terms.node_w)


def _patience_s(cost_j: float, saved_w: float) -> float:
    if cost_j <= 0:
        return 0.0
    return cost_j / saved_w if saved_w > 0 else math.inf


def _clock(before: tuple[float, ...], surplus: int, now_s: float) -> tuple[float, ...]:
    """Carry on the clocks of what is still superfluous, and start those of what has become so."""
    going = before[: max(0, surplus)]
    return going + (now_s,) * (max(0, surplus) - len(going))


def _fitted(
    instance: Instance,
    wanted: Solution,
    kept: Sequence[int],
    bridged: Sequence[int],
    census: Census,
) -> list[int]:
    """Add what is kept to what is wanted, as far as nodes and the power budget have room.

    What is only kept for its price gives way first, for no node is switched on to keep it; then
    what would be woken.
    """
    replicas = [
        min(terms.ceiling, want + max(keep, stay))
        for terms, want, keep, stay in zip(
            instance.slots, wanted.replicas, kept, bridged, strict=True
        )
    ]
    firm = [want + stay for want, stay in zip(wanted.replicas, bridged, strict=True)]
    present = [min(count, terms.awake) for count, terms in zip(firm, instance.slots, strict=True)]
    on = [max(a.on, b) for a, b in zip(instance.groups, wanted.nodes, strict=True)]
    most = [terms.group.max_nodes for terms in instance.groups]
    for floor, nodes in ((firm, on), (present, most)):
        _make_room(instance, replicas, floor, _draining(instance, census), nodes)
        _save_power(instance, replicas, floor)
    return replicas


def _make_room(
    instance: Instance,
    replicas: list[int],
    floor: Sequence[int],
    draining: Sequence[int],
    nodes: Sequence[int],
) -> None:
    """Lower counts toward a floor until so many nodes hold them and those that drain."""
    for index, terms in enumerate(instance.slots):
        while replicas[index] > floor[index]:
            held = [count + leaving for count, leaving in zip(replicas, draining, strict=True)]
            if instance.nodes_for(held)[terms.group] <= nodes[terms.group]:
                break
            replicas[index] -= 1


def _save_power(instance: Instance, replicas: list[int], floor: Sequence[int]) -> None:
    """Lower counts toward a floor until the power budget bears them."""
    for index in range(len(replicas)):
        while replicas[index] > floor[index]:
            if instance.reserved_w(replicas, instance.nodes_for(replicas)) <= instance.budget_w:
                return
            replicas[index] -= 1


def _draining(instance: Instance, census: Census) -> list[int]:
    return [census.draining.get(terms.slot, 0) for terms in instance.slots]


def _nodes(
    instance: Instance,
    wanted: Solution,
    replicas: Sequence[int],
    census: Census,
    previous: Plan | None,
) -> tuple[tuple[int, ...], tuple[tuple[float, ...], ...]]:
    """Count the nodes that hold everything, and those that are kept on without that."""
    draining = _draining(instance, census)
    needed = instance.nodes_for([a + b for a, b in zip(replicas, draining, strict=True)])
    clocks = [
        _node_clock(
            () if previous is None else previous.spare_since_s.get(terms.group.name, ()),
            terms.on - wanted.nodes[index],
            census.observed_at_s,
        )
        for index, terms in enumerate(instance.groups)
    ]
    nodes = [
        min(terms.group.max_nodes, max(least, wanted.nodes[index] + _young(clock, terms, census)))
        for index, (least, clock, terms) in enumerate(
            zip(needed, clocks, instance.groups, strict=True)
        )
    ]
    if instance.reserved_w(replicas, nodes) > instance.budget_w:
        nodes = needed
    return tuple(nodes), tuple(clocks)


def _young(clock: tuple[float, ...], terms: GroupTerms, census: Census) -> int:
    """Nodes that have not been superfluous for long enough."""
    patience_s = node_patience_s(terms)
    return sum(census.observed_at_s - since_s < patience_s for since_s in clock)


def _node_clock(before: tuple[float, ...], surplus: int, now_s: float) -> tuple[float, ...]:
    """Carry on the clocks of superfluous nodes: the oldest is the first to go, or to be of use.

    A node that was told to go may be on for a while, until it is empty; its clock goes on.
    """
    going = before[max(0, len(before) - max(0, surplus)) :]
    return going + (now_s,) * (max(0, surplus) - len(going))
