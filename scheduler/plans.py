"""What a plan is made from and what it says: which replicas and nodes are to be awake.

Its own module because the planner, its lower bounds, the virtual cluster and the live
autoscaler exchange these values, and none of them needs to know how another works.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, NewType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from scheduler.requests import ModelName, Objective, VariantName

NodeGroupName = NewType("NodeGroupName", str)


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind that can be switched on and off.

    Attributes:
        name: unique within the cluster.
        accelerator: as the catalogue names it.
        accelerators_per_node: GPUs of a node.
        max_nodes: that can be on together.
        node_power_w: of a node that is on, without its accelerators.
        bare_power_w: of an accelerator that is on and holds no replica.
        boot_s: from switching on until a replica can start.
        boot_j: energy of that, without the accelerators' bare power afterwards.
        carbon_g_per_kwh: of its site; 0 where carbon does not count.
        price_per_h: of a node that is on; 0 where price does not count.

    """

    name: NodeGroupName
    accelerator: str
    accelerators_per_node: int
    max_nodes: int
    node_power_w: float
    bare_power_w: float
    boot_s: float
    boot_j: float
    carbon_g_per_kwh: float = 0.0
    price_per_h: float = 0.0


@dataclass(frozen=True, slots=True)
class Placement:
    """A variant on a node group: where replicas can be, and what bringing one up costs.

    Attributes:
        variant: to be placed.
        group: where.
        accelerators: of a node that one replica takes.
        start_s: from the decision until it serves, on a node that is on.
        start_j: energy of that.
        min_replicas: to be kept awake whatever the load.
        max_replicas: that may be awake; None for what the nodes hold.

    """

    variant: VariantName
    group: NodeGroupName
    accelerators: int
    start_s: float
    start_j: float
    min_replicas: int = 0
    max_replicas: int | None = None


class Slot(NamedTuple):
    """Replicas of one variant on one node group are alike; a plan counts them."""

    variant: VariantName
    group: NodeGroupName


@dataclass(frozen=True, slots=True)
class Census:
    """The replicas and nodes that there are at one instant.

    Attributes:
        observed_at_s: the instant.
        awake: replicas that serve.
        starting: replicas that were asked for and do not serve yet.
        draining: replicas that finish their streams and take no new work.
        nodes_on: nodes that are on or booting.

    """

    observed_at_s: float
    awake: Mapping[Slot, int]
    starting: Mapping[Slot, int] = field(default_factory=dict)
    draining: Mapping[Slot, int] = field(default_factory=dict)
    nodes_on: Mapping[NodeGroupName, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests that are alike, expected over a plan's horizon.

    Attributes:
        model: that they name.
        objective: that they share.
        requests_per_s: expected mean rate.
        prompt_tokens: mean, of which the prefix cache gives `cached_share`.
        completion_tokens: mean.
        cached_share: of prompt tokens found in prefix caches, 0 to 1.
        upper_requests_per_s: rate that a forecast will hardly exceed; capacity is kept for
            it where it is above the mean, while energy is reckoned at the mean.
        risk: z, of standard deviations of a Poisson number of requests that are kept free.
        variant: the only one that may carry it; None for any.

    """

    model: ModelName
    objective: Objective
    requests_per_s: float
    prompt_tokens: float
    completion_tokens: float
    cached_share: float = 0.0
    upper_requests_per_s: float = 0.0
    risk: float = 2.0
    variant: VariantName | None = None


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """How a planner weighs what it knows.

    Attributes:
        horizon_s: that a plan is made for.
        load_share: ρ, of a replica's highest SLO-keeping rate that a plan may use.
        power_budget_w: that a plan must stay within; None for none.
        carbon_weight: joules that a gram of CO2 counts as.
        price_weight: joules that a unit of price counts as.
        solve_limit_s: after which the greedy plan is taken.

    """

    horizon_s: float = 300.0
    load_share: float = 1.0
    power_budget_w: float | None = None
    carbon_weight: float = 0.0
    price_weight: float = 0.0
    solve_limit_s: float = 1.0


@dataclass(frozen=True, slots=True)
class PlanInput:
    """Everything that a plan may depend on.

    Attributes:
        census: what is there.
        variants: by name.
        groups: by name.
        placements: every allowed pair of variant and group.
        demands: expected over the horizon.
        settings: weights and bounds.

    """

    census: Census
    variants: Mapping[VariantName, Variant]
    groups: Mapping[NodeGroupName, NodeGroup]
    placements: tuple[Placement, ...]
    demands: tuple[Demand, ...]
    settings: PlanSettings = field(default_factory=PlanSettings)


@dataclass(frozen=True, slots=True)
class Action:
    """One change that a plan asks for.

    Attributes:
        kind: "wake" and "drain" count replicas, "boot" and "halt" count nodes.
        group: where.
        variant: of the replicas; None for nodes.
        count: how many; at least 1.
        reason: one line for people.

    """

    kind: Literal["wake", "drain", "boot", "halt"]
    group: NodeGroupName
    variant: VariantName | None
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be awake from now on, and why.

    Attributes:
        made_at_s: instant of the census it was made from.
        replicas: wanted awake, starting ones included.
        nodes: wanted on.
        shares: of each demand's rate (by its index) on each slot, as planned.
        actions: from the census to this plan.
        predicted_w: mean power while it holds, everything counted.
        bound_w: no plan for these demands can draw less; 0 where it was not computed.
        solver: "milp", "greedy" or "held" (hysteresis kept the present state).
        gap: relative distance of `predicted_w` from the solver's own bound.
        unserved: of each demand's rate (by its index), what capacity cannot carry.
        surplus_since_s: for each awake replica that is kept without being needed, since
            when it is not, oldest first; the next plan's hysteresis goes on from there.
        spare_since_s: the same for nodes.

    """

    made_at_s: float
    replicas: Mapping[Slot, int]
    nodes: Mapping[NodeGroupName, int]
    shares: Mapping[tuple[int, Slot], float]
    actions: tuple[Action, ...]
    predicted_w: float
    bound_w: float
    solver: Literal["milp", "greedy", "held"]
    gap: float
    unserved: Mapping[int, float] = field(default_factory=dict)
    surplus_since_s: Mapping[Slot, tuple[float, ...]] = field(default_factory=dict)
    spare_since_s: Mapping[NodeGroupName, tuple[float, ...]] = field(default_factory=dict)
