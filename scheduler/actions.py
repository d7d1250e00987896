"""The changes that lead from what is there to what a plan wants, each with its reason.

Its own module because a plan and its validation on a later census both derive them, and
because the words that people read should be in one place. Boots and wakes come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.hysteresis import node_patience_s
from scheduler.plans import Action

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.hysteresis import Settled
    from scheduler.instance import Instance
    from scheduler.plans import Census, NodeGroupName, Slot
    from scheduler.solution import Solution


def actions_to(
    census: Census,
    replicas: Mapping[Slot, int],
    nodes: Mapping[NodeGroupName, int],
    reasons: Mapping[tuple[str, Slot | NodeGroupName], str],
) -> tuple[Action, ...]:
    """List what is to change.

    Args:
        census: what there is; what starts counts as there, what drains does not.
        replicas: wanted awake.
        nodes: wanted on.
        reasons: by kind of action and what it is done to.

    """
    boots, wakes, drains, halts = [], [], [], []
    for slot in {**replicas, **census.awake, **census.starting}:
        here = census.awake.get(slot, 0) + census.starting.get(slot, 0)
        more = replicas.get(slot, 0) - here
        if more > 0:
            reason = reasons.get(("wake", slot), "the plan wants it awake")
            wakes.append(Action("wake", slot.group, slot.variant, more, reason))
        elif more < 0:
            reason = reasons.get(("drain", slot), "the plan has no place for it")
            drains.append(Action("drain", slot.group, slot.variant, -more, reason))
    for group in {**nodes, **census.nodes_on}:
        more = nodes.get(group, 0) - census.nodes_on.get(group, 0)
        if more > 0:
            reason = reasons.get(("boot", group), "the plan wants it on")
            boots.append(Action("boot", group, None, more, reason))
        elif more < 0:
            reason = reasons.get(("halt", group), "the plan has no use for it")
            halts.append(Action("halt", group, None, -more, reason))
    return (*boots, *wakes, *drains, *halts)


def reasons_for(
    instance: Instance, wanted: Solution, settled: Settled
) -> dict[tuple[str, Slot | NodeGroupName], str]:
    """Say why each slot and group would be changed."""
    reasons: dict[tuple[str, Slot | NodeGroupName], str] = {}
    for index, terms in enumerate(instance.slots):
        reasons["wake", terms.slot] = _wake_reason(instance, wanted, index)
        reasons["drain", terms.slot] = _drain_reason(instance, wanted, settled, index)
    for index, group in enumerate(instance.groups):
        taken = sum(
            slot.accelerators * settled.replicas[row]
            for row, slot in enumerate(instance.slots)
            if slot.group == index
        )
        need = f"{taken:.0f} accelerators are wanted on {settled.nodes[index]} nodes"
        reasons["boot", group.group.name] = f"{need}, {group.on} are on"
        patience_s = node_patience_s(group)
        reasons["halt", group.group.name] = (
            f"{need}, {group.on} are on; each would cost {group.node_w:.0f} W, "
            f"to boot it again {_kilo(group.group.boot_j)}, worth {_time(patience_s)}"
        )
    return reasons


def _wake_reason(instance: Instance, wanted: Solution, index: int) -> str:
    terms = instance.slots[index]
    pairs = [(row, pair) for row, pair in enumerate(instance.pairs) if pair.slot == index]
    rate = sum(wanted.rates[row] for row, _ in pairs)
    spare = sum(wanted.spare[row] for row, _ in pairs)
    if rate + spare <= 0:
        return f"at least {terms.floor} are to be awake, {terms.awake} are"
    taken = sum((wanted.rates[row] + wanted.spare[row]) / pair.capacity for row, pair in pairs)
    return (
        f"{rate:.3g} requests/s and {spare:.3g} of headroom take {taken:.1f} replicas at "
        f"{(rate + spare) / taken:.3g} requests/s each, {terms.awake} are awake; "
        f"{_kilo(terms.wake_j)} each"
    )


def _drain_reason(instance: Instance, wanted: Solution, settled: Settled, index: int) -> str:
    terms, want = instance.slots[index], wanted.replicas[index]
    rate = sum(wanted.rates[row] for row, pair in enumerate(instance.pairs) if pair.slot == index)
    return (
        f"{want} of {terms.awake} carry the planned {rate:.3g} requests/s; each further one "
        f"idles at {terms.idle_w:.0f} W above bare, to wake it again takes "
        f"{_kilo(terms.wake_j)}, worth {_time(settled.patience_s[index])}"
    )


def _kilo(energy_j: float) -> str:
    return f"{energy_j / 1000:.3g} kJ"


def _time(patience_s: float) -> str:
    return f"{patience_s:.0f} s of that"
