"""The plan as metrics: watts, replicas and nodes wanted and there, and what is wrong.

Its own module because dashboards and alerts read a plan by other names than people do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.telemetry_attributes import GROUP, STATE, VARIANT
from cluster.telemetry_metrics import Gauge, observe_all
from serve import troubles

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cluster.telemetry_metrics import Reading
    from serve.plan_news import Planned, PlanNews

PREDICTED_W = Gauge("jouleserve.plan.predicted_w", "W", "Mean power of the plan, by the model")
BOUND_W = Gauge("jouleserve.plan.bound_w", "W", "No plan for the same demands can draw less")
AGE_S = Gauge("jouleserve.plan.age_s", "s", "Since the plan was made")
REPLICAS = Gauge("jouleserve.plan.replicas", "{replica}", "Replicas by variant and state")
NODES = Gauge("jouleserve.plan.nodes", "{node}", "Nodes by group and state")
SAVING = Gauge(
    "jouleserve.plan.candidate_saving",
    "{share}",
    "Share of power that a candidate promises, by phase",
)


def observe_plan(read: Callable[[], PlanNews]) -> None:
    """Have the plan read at every export."""

    def planned(show: Callable[[Planned], Iterator[Reading]]) -> Callable[[], Iterator[Reading]]:
        def readings() -> Iterator[Reading]:
            plan = read().planned
            if plan is not None:
                yield from show(plan)

        return readings

    observe_all(PREDICTED_W, planned(lambda each: iter([(each.plan.predicted_w, {})])))
    observe_all(BOUND_W, planned(lambda each: iter([(each.plan.bound_w, {})])))
    observe_all(REPLICAS, planned(_replicas))
    observe_all(NODES, planned(_nodes))
    observe_all(SAVING, lambda: _savings(read()))
    observe_all(AGE_S, lambda: _age(read()))
    troubles.observe(lambda: read().troubles)


def _age(news: PlanNews) -> Iterator[Reading]:
    if news.planned is not None:
        yield news.age_s, {}


def _savings(news: PlanNews) -> Iterator[Reading]:
    for name, case in news.candidates.items():
        yield case.promised, {VARIANT: name, STATE: case.phase.value}


def _replicas(planned: Planned) -> Iterator[Reading]:
    for slot, state in planned.slots.items():
        where = {VARIANT: slot.variant, GROUP: slot.group}
        for name in ("wanted", "awake", "starting", "draining"):
            yield getattr(state, name), {**where, STATE: name}


def _nodes(planned: Planned) -> Iterator[Reading]:
    for group, state in planned.groups.items():
        for name in ("wanted", "ready", "booting"):
            yield getattr(state, name), {GROUP: group, STATE: name}
