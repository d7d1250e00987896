"""Candidates as operators read them: over the wire, and in a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from protos.jouleserve import plans
from protos.jouleserve.v1 import cluster_pb2
from scheduler.adaptation import Case, Phase
from scheduler.plans import Plan
from scheduler.requests import VariantName
from serve import cli_tables, plan_status
from serve.plan_news import Planned, PlanNews

PLAN = Plan(100.0, {}, {}, {}, (), 5.0, 4.0, "milp", 0.0)
CASES = {
    VariantName("new"): Case(Phase.PROPOSED, 40.0, 0.2, 0.5, reason="would save 20.0%"),
    VariantName("good"): Case(Phase.KEPT, 60.0, 0.3, believed=0.25, metered=0.0, reason="saves"),
}


def told() -> plans.Plan:
    news = PlanNews(Planned(PLAN, {}, {}, {}, None, 0.01), age_s=3.0, candidates=CASES)
    wire = plan_status.response(news).SerializeToString()
    return plans.plan(cluster_pb2.GetPlanResponse.FromString(wire))


def test_every_candidate_comes_with_what_is_known_of_it() -> None:
    good, new = told().candidates
    assert (new.variant, new.phase, new.age_s) == ("new", "proposed", 63.0)
    assert (new.promised, new.carried_per_s) == (0.2, 0.5)
    assert (new.believed, new.metered) == (None, None)
    assert (good.believed, good.metered) == (0.25, 0.0)


def test_people_are_told_how_it_stands_with_each() -> None:
    out = io.StringIO()
    cli_tables.print_plan(Console(file=out, width=200), told())
    assert "candidate new is proposed: would save 20.0%" in out.getvalue()
    assert "candidate good is kept: saves" in out.getvalue()
