"""What is wrong reaches people and dashboards in the same words, and goes away with its cause."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from rich.console import Console

from cluster import telemetry_metrics
from protos.jouleserve import statuses
from scheduler.adaptation import Case, Phase
from scheduler.plans import Demand, NodeGroupName, Plan, Slot
from scheduler.requests import ModelName, Objective, VariantName
from serve import cli_tables, status, troubles
from serve.plan_metrics import observe_plan
from serve.plan_news import GroupNodes, Planned, PlanNews, SlotState, StreamKey
from serve.troubles import Trouble
from tests.gateway_fakes import Desk, cluster_config

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import NumberDataPoint

M = ModelName("m")
BIG = Slot(VariantName("big"), NodeGroupName("h100"))
SMALL = Slot(VariantName("small"), NodeGroupName("l4"))
WELL = Planned(
    plan=Plan(
        made_at_s=0.0,
        replicas={BIG: 1, SMALL: 2},
        nodes={BIG.group: 1, SMALL.group: 1},
        shares={},
        actions=(),
        predicted_w=700.0,
        bound_w=600.0,
        solver="milp",
        gap=0.0,
    ),
    slots={
        BIG: SlotState(1, 1, 0, 0, pinned=False, trouble=""),
        SMALL: SlotState(2, 1, 1, 0, pinned=False, trouble=""),
    },
    groups={BIG.group: GroupNodes(1, 1, 0, ""), SMALL.group: GroupNodes(1, 1, 0, "")},
    demands={StreamKey(M, "chat"): Demand(M, Objective(1.0, 0.1), 1.0, 9.0, 9.0)},
    power_budget_w=None,
    solve_s=0.01,
)
QUOTA = "quota refused: 8 of 8 GPUs are used"
TROUBLED = replace(
    WELL,
    plan=replace(WELL.plan, unserved={0: 0.3}),
    slots={**WELL.slots, BIG: WELL.slots[BIG]._replace(trouble="image missing")},
    groups={**WELL.groups, SMALL.group: GroupNodes(2, 1, 0, QUOTA)},
    rejected="a node is gone",
)


def test_a_plan_that_all_goes_well_with_has_no_troubles() -> None:
    assert list(troubles.of_plan(WELL)) == []


def test_each_trouble_of_a_plan_names_what_it_concerns_and_why() -> None:
    found = list(troubles.of_plan(TROUBLED))
    assert [each.subject for each in found] == ["big", "l4", "m", "plan"]
    for each, part in zip(found, ("image missing", QUOTA, "chat", "a node is gone"), strict=True):
        assert part in each.reason


async def test_status_says_what_is_wrong_in_a_line_each() -> None:
    desk = Desk()
    found = [Trouble("h100", QUOTA), Trouble("planner", "[it] does not answer")]
    message = status.cluster(cluster_config(), desk.engines, desk.dispatcher.tally, found, 0.0)
    shown = statuses.status(message)
    assert [(each.subject, each.reason) for each in shown.troubles] == found
    printed = io.StringIO()
    cli_tables.print_status(Console(file=printed, width=200), shown)
    assert printed.getvalue().splitlines()[-2:] == [f"! {each[0]}: {each[1]}" for each in found]


# ── metrics ─────────────────────────────────────────────────────────────────


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    monkeypatch.setattr(telemetry_metrics, "meter", lambda _: meter)
    return reader


def exported(reader: InMemoryMetricReader) -> dict[str, list[NumberDataPoint]]:
    data = reader.get_metrics_data()
    return {
        metric.name: list(metric.data.data_points)  # type: ignore[arg-type]  # All are gauges.
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def test_a_trouble_is_exported_while_it_lasts(reader: InMemoryMetricReader) -> None:
    found = [Trouble("h100", QUOTA)]
    troubles.observe(lambda: found)
    (point,) = exported(reader)["jouleserve.trouble"]
    assert point.value == 1
    assert point.attributes == {"jouleserve.subject": "h100", "jouleserve.reason": QUOTA}
    found.clear()
    assert not exported(reader).get("jouleserve.trouble")


def test_a_plan_is_exported_by_variant_group_and_state(reader: InMemoryMetricReader) -> None:
    candidates = {VariantName("new"): Case(Phase.PROPOSED, 0.0, promised=0.2)}
    missing = (Trouble("big", "image missing"),)
    news = PlanNews(WELL, age_s=3.0, troubles=missing, candidates=candidates)
    observe_plan(lambda: news)
    points = exported(reader)
    assert [each.value for each in points["jouleserve.plan.predicted_w"]] == [700.0]
    assert [each.value for each in points["jouleserve.plan.bound_w"]] == [600.0]
    assert [each.value for each in points["jouleserve.plan.age_s"]] == [3.0]
    replicas = {
        (each.attributes["jouleserve.variant"], each.attributes["jouleserve.state"]): each.value
        for each in points["jouleserve.plan.replicas"]
        if each.attributes is not None
    }
    assert replicas["small", "wanted"] == 2
    assert (replicas["small", "awake"], replicas["small", "starting"]) == (1, 1)
    assert len(points["jouleserve.plan.nodes"]) == 2 * 3
    assert len(points["jouleserve.trouble"]) == 1
    (saving,) = points["jouleserve.plan.candidate_saving"]
    assert saving.value == 0.2
    assert saving.attributes == {"jouleserve.variant": "new", "jouleserve.state": "proposed"}


def test_before_the_first_plan_only_troubles_are_exported(reader: InMemoryMetricReader) -> None:
    observe_plan(lambda: PlanNews(troubles=(Trouble("plan", "none could be made"),)))
    assert set(exported(reader)) == {"jouleserve.trouble"}
