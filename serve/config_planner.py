"""What an operator decides about planning: who scales, how often, within which power, on what.

Its own module because requests know nothing of nodes, and these sections nothing of requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StringConstraints

from cluster.accelerators import CATALOGUE
from serve.config_section import Fault, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

GroupNameText = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
PositiveSeconds = Annotated[float, Field(gt=0)]


class AdaptConfig(Section):
    """How candidates, variants that are not trusted yet, come to serve."""

    mode: Literal["off", "propose", "carry_out"] = "propose"
    """`propose` says what each would save for the traffic as it is; `carry_out` tries the best
    besides, and withdraws what falls short."""
    accepted: tuple[str, ...] = ()
    """Candidates that may be tried once they are proposed, whatever the mode; `jouleserve plan
    --accept NAME` adds to them in a running cluster."""
    least_saving: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share of the power that a candidate has to promise; less is within what power models err."""
    watch_s: PositiveSeconds = 600.0
    """Time that traffic is looked at before anything is proposed."""
    probation_s: PositiveSeconds = 600.0
    """Time that a candidate serves for before it is kept or withdrawn."""
    retry_s: PositiveSeconds = 21_600.0
    """Time after which one that was withdrawn is looked at again."""


class PlannerConfig(Section):
    """What decides which replicas and nodes are awake."""

    autoscaler: Literal["planner", "queue_based"] = "planner"
    """`planner` counts watts, over all variants together; `queue_based` is Ray Serve's own, which
    adds replicas of a variant while each has more than `queue_target` requests."""
    queue_target: Annotated[float, Field(gt=0)] | None = None
    """Requests for each replica that `queue_based` aims at; by default the variant's
    `max_batch`. The planner does not read it."""
    period_s: PositiveSeconds = 10.0
    """Time between two plans; a start takes longer, and a solution at most a second."""
    horizon_s: PositiveSeconds = 300.0
    """Time that a plan is made for: waking has to pay within it."""
    asleep_after_s: PositiveSeconds = 600.0
    """Silence after which requests of a class are expected no more, so that variants with
    `min_replicas` 0 may all sleep; the next request waits for one to wake."""
    power_budget_w: Annotated[float, Field(gt=0)] | None = None
    """Watts that replicas and nodes stay within at their peak; by default no bound."""
    pinned: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    """Replicas of variants, by name, whatever the planner would have; the rest is planned around
    them. `jouleserve plan --pin bf16=2` sets them in a running cluster."""
    adapt: AdaptConfig = AdaptConfig()
    """How candidates come to serve."""
    nodes: Literal["ray", "kubernetes"] = "ray"
    """Who brings nodes: Ray's own autoscaler, or KubeRay's worker groups in Kubernetes."""
    no_capacity_s: PositiveSeconds = 30.0
    """Time for which a replica may look for a place before another kind of node is tried."""
    retry_s: PositiveSeconds = 300.0
    """Time after which a kind of node that brought nothing is tried again."""


class NodeGroupConfig(Section):
    """Nodes of one kind that can be switched on and off."""

    name: GroupNameText
    """Unique; in Kubernetes the worker group's name."""
    accelerator: str
    """Name in the accelerator catalogue; variants on it go to this group."""
    accelerators_per_node: Annotated[int, Field(ge=1)]
    """GPUs of a node; CPU cores where the accelerator is `cpu`."""
    max_nodes: Annotated[int, Field(ge=1)]
    """That can be on together."""
    workers_per_node: Annotated[int, Field(ge=1)] = 1
    """Ray workers that share a node evenly, in Kubernetes; where one takes the whole node, it is
    empty as soon as its worker is idle."""
    node_labels: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Labels that its nodes have in Kubernetes, each with the values that it may have; by default
    the accelerator's products, as NVIDIA's feature discovery names them."""
    node_power_w: Annotated[float, Field(ge=0)] = 0.0
    """Watts of a node that is on, without its accelerators; by default it is not counted."""
    boot_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds from switching a node on until a replica can start on it."""
    boot_j: Annotated[float, Field(ge=0)] = 0.0
    """Joules of that, without the accelerators' idle power afterwards."""
    carbon_g_per_kwh: Annotated[float, Field(ge=0)] = 0.0
    """Carbon intensity of its site; by default it does not count."""
    price_per_h: Annotated[float, Field(ge=0)] = 0.0
    """Price of a node that is on; by default it does not count."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield an accelerator that the catalogue does not have, and shares that are uneven."""
        if self.accelerators_per_node % self.workers_per_node:
            yield Fault(
                "workers_per_node",
                f"{self.workers_per_node} workers cannot share {self.accelerators_per_node}"
                " accelerators evenly",
            )
        if self.accelerator not in CATALOGUE:
            known = ", ".join(sorted(CATALOGUE))
            yield Fault("accelerator", f"no accelerator {self.accelerator!r}; known: {known}")
