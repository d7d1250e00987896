"""What is wrong with the cluster at the moment, in words for operators.

Its own module because a trouble is found in many places (a replica's start, a group of nodes,
the plan, the line to the planner) and shown in as many (status, plan, metrics).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cluster.telemetry_attributes import REASON, SUBJECT
from cluster.telemetry_metrics import Gauge, observe_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from cluster.carbon import Grid
    from scheduler.requests import VariantName
    from serve.plan_news import Planned


TROUBLE = Gauge("jouleserve.trouble", "{trouble}", "1 while something is wrong")

# Parts of Jouleserve that a trouble may concern.
PLAN = "plan"
PLANNER = "planner"
NODES = "nodes"
POWER = "power"
CARBON = "carbon"


class Trouble(NamedTuple):
    """Something that is wrong while serving goes on.

    Attributes:
        subject: a model, a variant, a group of nodes, or the part of Jouleserve that it concerns.
        reason: one line; what is done about it, where that is not plain.

    """

    subject: str
    reason: str


def of_plan(planned: Planned) -> Iterator[Trouble]:
    """Name what keeps a plan from being as good as it could be."""
    for slot, state in planned.slots.items():
        if state.trouble:
            yield Trouble(slot.variant, f"no more replicas came up: {state.trouble}")
    for group, nodes in planned.groups.items():
        if nodes.trouble:
            yield Trouble(group, nodes.trouble)
    for index, key in enumerate(planned.demands):
        if planned.plan.unserved.get(index, 0.0):
            # How many is the plan's to say: a reason that changes all the time is none.
            yield Trouble(
                key.model,
                f"some of the {key.service_class} requests that are expected find no replica:"
                " raise max_replicas, add nodes, or loosen the objectives",
            )
    if planned.rejected:
        yield Trouble(PLAN, f"the newest was not carried out: {planned.rejected}")


def of_energy(meters: Mapping[VariantName, str], grid: Grid | None) -> Iterator[Trouble]:
    """Name what keeps joules from being counted, and emissions from being known."""
    for variant, trouble in meters.items():
        yield Trouble(variant, f"energy meter: {trouble}")
    if grid is not None and grid.trouble:
        yield Trouble(CARBON, grid.trouble)


RESTING = Trouble(
    POWER, "the budget bears fewer replicas at their peak than are awake: some take no new work"
)


def observe(read: Callable[[], Iterable[Trouble]]) -> None:
    """Export each trouble as a one with its reason; one that is over is not there any more."""
    observe_all(
        TROUBLE,
        lambda: [(1, {SUBJECT: each.subject, REASON: each.reason}) for each in read()],
    )
