"""From what is configured, deployed and expected to the planner's input.

Its own module because it is the whole translation between an operator's words and the
scheduler's, in one direction, from values to a value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cluster.accelerators import CATALOGUE
from cluster.nodes import GroupState
from scheduler.plans import (
    Census,
    Demand,
    NodeGroup,
    NodeGroupName,
    Placement,
    PlanInput,
    PlanSettings,
    Slot,
)
from scheduler.requests import VariantName
from serve.catalogue import context_power_w

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from serve.census import Deployed
    from serve.config import Config
    from serve.config_models import VariantConfig
    from serve.plan_news import StreamKey

# Beside the search a plan is compared with staying as it is, and looked at again.
SOLVE_LIMIT_S = 1.0
# Ten tenths of a core are a core.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Situation:
    """What there is at one instant.

    Attributes:
        now_s: seconds since the epoch.
        deployed: replicas.
        nodes: by group.
        start_s: measured times to start a replica, of variants of which one was seen.
        obstacles: variants that can have no more replicas than they have, and why.
        locked: candidates that are not admitted, and get no replica.

    """

    now_s: float
    deployed: Deployed
    nodes: Mapping[NodeGroupName, GroupState]
    start_s: Mapping[VariantName, float] = field(default_factory=dict)
    obstacles: Mapping[VariantName, str] = field(default_factory=dict)
    locked: frozenset[VariantName] = frozenset()


def problem(
    config: Config,
    variants: Mapping[VariantName, Variant],
    situation: Situation,
    demands: Mapping[StreamKey, Demand],
) -> PlanInput:
    """Write down what is to be planned.

    Args:
        config: of the whole cluster.
        variants: as they are believed now.
        situation: what there is.
        demands: what is expected, by stream; their order is that of the plan's demands.

    """
    return PlanInput(
        census=census(config, situation),
        variants=variants,
        groups=groups(config, situation.nodes),
        placements=tuple(_placement(config, entry, situation) for _, entry in config.variants()),
        demands=tuple(demands.values()),
        settings=PlanSettings(
            horizon_s=config.planner.horizon_s,
            power_budget_w=config.planner.power_budget_w,
            solve_limit_s=SOLVE_LIMIT_S,
        ),
    )


def slot_of(config: Config, entry: VariantConfig) -> Slot:
    """Say where replicas of a variant go."""
    return Slot(VariantName(entry.name), group_of(config, entry.accelerator))


def group_of(config: Config, accelerator: str) -> NodeGroupName:
    """Name the nodes with an accelerator: as configured, else like the accelerator itself."""
    for group in config.node_groups:
        if group.accelerator == accelerator:
            return NodeGroupName(group.name)
    return NodeGroupName(accelerator)


def census(config: Config, situation: Situation) -> Census:
    """Count replicas by where they are, and nodes."""
    slots = {VariantName(entry.name): slot_of(config, entry) for _, entry in config.variants()}

    def by_slot(counts: Mapping[VariantName, int]) -> dict[Slot, int]:
        return {slots[name]: count for name, count in counts.items() if name in slots}

    deployed = situation.deployed
    return Census(
        observed_at_s=situation.now_s,
        awake=by_slot(deployed.awake),
        starting=by_slot(deployed.starting),
        draining=by_slot(deployed.draining),
        nodes_on={name: state.ready + state.booting for name, state in situation.nodes.items()},
    )


def groups(
    config: Config, nodes: Mapping[NodeGroupName, GroupState]
) -> dict[NodeGroupName, NodeGroup]:
    """Describe the nodes that plans may count on."""
    configured = {
        NodeGroupName(each.name): NodeGroup(
            name=NodeGroupName(each.name),
            accelerator=each.accelerator,
            accelerators_per_node=_shares(config, each.accelerator, each.accelerators_per_node),
            max_nodes=each.max_nodes,
            node_power_w=each.node_power_w,
            bare_power_w=CATALOGUE[each.accelerator].idle_w * _unit(config, each.accelerator),
            boot_s=each.boot_s,
            boot_j=each.boot_j,
            carbon_g_per_kwh=each.carbon_g_per_kwh,
            price_per_h=each.price_per_h,
        )
        for each in config.node_groups
    }
    for _, entry in config.variants():
        name = group_of(config, entry.accelerator)
        if name not in configured:
            state = nodes.get(name, GroupState())
            configured[name] = _found(config, name, entry.accelerator, state)
    return configured


def _unit(config: Config, accelerator: str) -> float:
    """Give the share of an accelerator that plans count in: 1, but for parts of a CPU core."""
    units = (entry.units for _, entry in config.variants() if entry.accelerator == accelerator)
    return min(1.0, *units, 1.0)


def accelerators_of(config: Config, entry: VariantConfig) -> int:
    """Say how many accelerators, or parts of a CPU core, a replica takes."""
    return math.ceil(round(entry.units / _unit(config, entry.accelerator), 6))


def _shares(config: Config, accelerator: str, accelerators: int) -> int:
    return max(1, math.floor(accelerators / _unit(config, accelerator) + _ROUNDING))


def _found(config: Config, name: NodeGroupName, accelerator: str, state: GroupState) -> NodeGroup:
    """Describe nodes that are there and not ours to switch: nothing but what stands on them."""
    return NodeGroup(
        name=name,
        accelerator=accelerator,
        accelerators_per_node=_shares(config, accelerator, state.accelerators_per_node),
        max_nodes=state.ready,
        node_power_w=0.0,
        bare_power_w=CATALOGUE[accelerator].idle_w * _unit(config, accelerator),
        boot_s=0.0,
        boot_j=0.0,
    )


def _placement(config: Config, entry: VariantConfig, situation: Situation) -> Placement:
    name = VariantName(entry.name)
    slot = slot_of(config, entry)
    least, most = bounds(config, entry, situation.locked)
    if name in situation.obstacles:
        # What is there may stay; nothing is to be expected beyond that.
        most = min(most, situation.deployed.awake.get(name, 0))
    start_s = situation.start_s.get(name, entry.start_s)
    return Placement(
        variant=name,
        group=slot.group,
        accelerators=accelerators_of(config, entry),
        start_s=start_s,
        start_j=start_s * context_power_w(entry),
        min_replicas=min(least, most),
        max_replicas=most,
    )


def bounds(config: Config, entry: VariantConfig, locked: frozenset[VariantName]) -> tuple[int, int]:
    """Give the least and the most replicas that a plan may want; pins go before all else."""
    pinned = config.planner.pinned.get(entry.name)
    if pinned is not None:
        return pinned, pinned
    if VariantName(entry.name) in locked:
        return 0, 0
    return entry.min_replicas, entry.max_replicas or entry.min_replicas


def with_held(demand: Demand, held: int, horizon_s: float) -> Demand:
    """Expect at least what waits for a replica already."""
    rate = held / horizon_s
    if demand.requests_per_s >= rate:
        return demand
    upper = max(demand.upper_requests_per_s, rate)
    return replace(demand, requests_per_s=rate, upper_requests_per_s=upper)
