"""What the dashboard's page is told: documents, their differences, and when they are made."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protos.jouleserve.client import (
    ClusterStatus,
    Counters,
    Plan,
    PlannedDemand,
    RecentDecision,
    Replica,
    ServiceClassStatus,
)
from serve.dashboard.broadcast import Broadcast, News
from serve.dashboard.merge_patch import difference
from serve.dashboard.overview import overview
from serve.dashboard.snapshot import Snapshot, document
from serve.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

REPLICA = Replica(
    model="m",
    variant="v",
    replica="a",
    node="n",
    accelerator="cpu",
    state="awake",
    age_s=0.25,
    running_requests=3,
    waiting_requests=1,
    kv_cache_usage=0.5,
    prefill_tokens_per_s=100.0,
    decode_tokens_per_s=40.0,
    step_time_s=0.02,
    power_w=20.0,
    energy_j=1234.5,
    leases=4,
    devices=("gpu0",),
    max_batch=8,
)
STATUS = ClusterStatus(
    gateway="g",
    policy="energy",
    replicas=(REPLICA, replace(REPLICA, replica="b", state="draining", power_w=10.0)),
    counters=Counters(9, 5, 1, 1, 0, 2, 2),
    troubles=(),
    service_classes=(
        ServiceClassStatus("batch", 300.0, 4, 4, 4, 4),
        ServiceClassStatus("interactive", 300.0, 6, 5, 4, 3),
    ),
    decisions=(RecentDecision("r", 2.5, "m", "batch", "energy", "v", "a", "cheapest", 2, 1),),
)
PLAN = Plan(
    planned=True,
    age_s=1.0,
    solver="milp",
    solve_s=0.1,
    gap=0.0,
    predicted_w=60.0,
    bound_w=45.0,
    replicas_w=None,
    power_budget_w=None,
    replicas=(),
    nodes=(),
    actions=(),
    demands=(PlannedDemand("m", "batch", 0.5, 1.0, 10.0, 60.0, 0.0, 2.0, 0.0, 0.0, ""),),
    rejected="",
    candidates=(),
)


def snapshot(**changes: Any) -> Snapshot:
    return Snapshot(100.0, replace(STATUS, **changes), PLAN, ())


# ---------------------------------------------------------------------------------------- overview


def test_the_overview_adds_up_the_replicas() -> None:
    sums = overview(STATUS, PLAN)
    assert (sums.replicas, sums.awake) == (2, 1)
    assert (sums.running_requests, sums.waiting_requests) == (6, 2)
    assert (sums.tokens_per_s, sums.power_w) == (80.0, 30.0)
    assert sums.joules_per_token == 30.0 / 80.0


def test_the_bound_is_that_of_the_tokens_it_was_made_for() -> None:
    sums = overview(STATUS, PLAN)
    assert sums.planned_tokens_per_s == 30.0
    assert sums.bound_j_per_token == 1.5
    assert sums.predicted_j_per_token == 2.0


def test_attainment_is_of_all_requests_whatever_their_class() -> None:
    sums = overview(STATUS, None)
    assert sums.requests == 10
    assert sums.attainment == 0.7


def test_what_is_not_known_is_none_and_never_zero() -> None:
    idle = replace(REPLICA, decode_tokens_per_s=0.0)
    sums = overview(replace(STATUS, replicas=(idle,), service_classes=()), None)
    assert sums.joules_per_token is None
    assert sums.attainment is None
    assert sums.bound_j_per_token is None
    unbounded = overview(STATUS, replace(PLAN, planned=False))
    assert unbounded.bound_j_per_token is None


# ---------------------------------------------------------------------------------------- document


def test_a_document_has_the_figures_of_the_status() -> None:
    written: Any = json.loads(json.dumps(document(snapshot())))
    shown = {**asdict(REPLICA), "devices": ["gpu0"]}
    assert written["replicas"]["a"] == shown
    assert written["counters"] == asdict(STATUS.counters)
    assert written["plan"]["bound_w"] == 45.0


def test_nothing_in_a_document_is_null() -> None:
    assert "null" not in json.dumps(document(snapshot()))


def test_a_decision_stays_as_it_is_while_time_passes() -> None:
    before = document(snapshot())
    later = replace(STATUS.decisions[0], age_s=3.5)
    after = document(replace(snapshot(decisions=(later,)), taken_at_s=101.0))
    assert after["decisions"] == before["decisions"]


# -------------------------------------------------------------------------------------- differences

JSON: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.text(max_size=2) | st.floats(0, 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=2), JSON, max_size=4)


def merged(target: Any, patch: Any) -> Any:
    """Apply a patch as RFC 7396 says in section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


@given(OBJECTS, OBJECTS)
def test_a_difference_leads_from_one_document_to_the_other(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    assert json.dumps(merged(before, difference(before, after)), sort_keys=True) == json.dumps(
        after, sort_keys=True
    )


@given(OBJECTS)
def test_equal_documents_differ_in_nothing(same: dict[str, Any]) -> None:
    assert difference(same, same) == {}


def test_only_what_has_changed_is_told() -> None:
    before: Any = {"a": {"x": 1, "y": 2}, "b": 3, "c": 4}
    after: Any = {"a": {"x": 1, "y": 5}, "c": 4}
    assert difference(before, after) == {"a": {"y": 5}, "b": None}


# ---------------------------------------------------------------------------------------- broadcast


class Source:
    """Gives snapshots that differ, and counts how many."""

    def __init__(self) -> None:
        self.taken = 0
        self.fault = ""

    async def take(self) -> Snapshot:
        self.taken += 1
        if self.fault:
            raise OSError(self.fault)
        return snapshot(replicas=(replace(REPLICA, energy_j=float(self.taken)),))


async def heard(listening: AsyncGenerator[News, None], count: int) -> list[News]:
    return [await anext(listening) for _ in range(count)]


async def test_the_whole_comes_first_and_then_what_changes() -> None:
    source = Source()
    broadcast = Broadcast(source.take, period_s=0.01)
    listening = broadcast.listen()
    first, second, third = await heard(listening, 3)
    assert [each.event for each in (first, second, third)] == ["snapshot", "patch", "patch"]
    doc = merged(merged(json.loads(first.data), json.loads(second.data)), json.loads(third.data))
    assert doc["replicas"]["a"]["energy_j"] == 3.0
    assert len(second.data) < len(first.data) / 4
    await listening.aclose()


async def test_nothing_is_taken_while_nobody_listens() -> None:
    source = Source()
    broadcast = Broadcast(source.take, period_s=0.01)
    await asyncio.sleep(0.05)
    assert source.taken == 0
    listening = broadcast.listen()
    await anext(listening)
    await listening.aclose()
    taken = source.taken
    await asyncio.sleep(0.05)
    assert source.taken == taken
    assert broadcast.listeners == 0


async def test_all_listeners_share_what_was_taken_once() -> None:
    source = Source()
    broadcast = Broadcast(source.take, period_s=0.05)
    listeners = [broadcast.listen() for _ in range(5)]
    told = await asyncio.gather(*(heard(each, 2) for each in listeners))
    assert len({second.data for _, second in told}) == 1
    assert source.taken <= 3
    for each in listeners:
        await each.aclose()


async def test_a_slow_listener_skips_to_the_newest() -> None:
    source = Source()
    broadcast = Broadcast(source.take, period_s=0.01)
    slow, quick = broadcast.listen(), broadcast.listen()
    await anext(slow)
    await heard(quick, 5)
    late = await anext(slow)
    assert late.event == "snapshot"
    assert json.loads(late.data)["replicas"]["a"]["energy_j"] >= 5.0
    await slow.aclose()
    await quick.aclose()


async def test_one_listener_too_many_is_refused() -> None:
    broadcast = Broadcast(Source().take, period_s=0.01, max_listeners=1)
    listening = broadcast.listen()
    await anext(listening)
    with pytest.raises(OverloadedError, match="close one"):
        broadcast.admit()
    await listening.aclose()
    broadcast.admit()


async def test_a_listener_has_to_come_again_after_a_while() -> None:
    broadcast = Broadcast(Source().take, period_s=0.01, life_s=0.05)
    events = [news.event async for news in broadcast.listen()]
    assert events[0] == "snapshot"
    assert events[-1] == "again"


async def test_what_goes_wrong_is_told_and_then_everything_anew() -> None:
    source = Source()
    source.fault = "no answer"
    broadcast = Broadcast(source.take, period_s=0.01)
    listening = broadcast.listen()
    first = await anext(listening)
    assert (first.event, json.loads(first.data)) == ("trouble", {"reason": "no answer"})
    source.fault = ""
    while (news := await anext(listening)).event == "trouble":
        pass
    assert news.event == "snapshot"
    await listening.aclose()
