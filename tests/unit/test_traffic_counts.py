"""What a gateway counts of its requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.decisions import Decision, Latencies, NoReplica
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId
from scheduler.traffic import Traffic
from serve.calls import Call, Journey, Latency, Outcome, Wishes
from serve.engine import EngineFinish
from serve.plan_news import StreamKey
from serve.resuming import Resume
from serve.traffic_counts import TrafficCounts
from tests.gateway_fakes import ENERGY, LARGE, MODEL, VARIANTS

STANDARD, BATCH = StreamKey(MODEL, "standard"), StreamKey(MODEL, "batch")
EASY, HOPELESS = Objective(ttft_s=2.0, tpot_s=0.1), Objective(ttft_s=1e-6, tpot_s=1e-6)
CHOSEN = Decision(ReplicaId("r"), LARGE, "test", "", predicted=Latencies(0.1, 0.01))
LATE = Decision(ReplicaId("r"), LARGE, "test", "", predicted=Latencies(9.0, 0.01), wake=LARGE)
FULL = NoReplica("all are full", "full", wake=LARGE)


def journey(service_class: str = "standard", resume: Resume | None = None) -> Journey:
    made = Journey(
        Call("r", MODEL, [1] * 10, 8, lambda _: b"", Wishes(), arrived_at_s=0.0, resume=resume)
    )
    made.service_class = service_class
    return made


def served(**changes: Any) -> Journey:
    made = journey(**changes)
    made.stream = StreamKey(MODEL, made.service_class)
    finish = EngineFinish("length", None, prompt_tokens=10, cached_tokens=4, completion_tokens=8)
    latency = Latency(0.1, 0.01, 0.2)
    made.outcome = Outcome("r", LARGE, ReplicaId("r"), CHOSEN, "", finish, ENERGY, latency)
    return made


def request(objective: Objective = EASY, model: ModelName = MODEL) -> Request:
    return Request(RequestId("r"), model, 10, 8, 8.0, objective, 0.0)


@pytest.fixture
def counts() -> TrafficCounts:
    return TrafficCounts(VARIANTS)


def test_before_anything_has_come_there_is_nothing(counts: TrafficCounts) -> None:
    assert (counts.totals(), dict(counts.held), counts.strained()) == ({}, {}, False)


def test_requests_are_counted_as_they_come_by_class(counts: TrafficCounts) -> None:
    for service_class in ("standard", "batch", "standard"):
        counts.came(journey(service_class), request(), CHOSEN)
    assert counts.totals() == {
        STANDARD: Traffic(requests=2, prompt_tokens=20),
        BATCH: Traffic(requests=1, prompt_tokens=10),
    }


def test_a_floor_counts_as_the_quality_of_the_least_variant_that_meets_it(
    counts: TrafficCounts,
) -> None:
    qualities = sorted(each.quality for each in VARIANTS.values())
    for floor in (0.0, qualities[0], qualities[-1] - 1e-6, qualities[-1], 2.0):
        counts.came(journey(), request(replace(EASY, min_quality=floor)), CHOSEN)
    floors = {key.min_quality: each.requests for key, each in counts.totals().items()}
    assert floors == {0.0: 2, qualities[-1]: 2, 2.0: 1}


def test_requests_for_one_variant_are_counted_apart(counts: TrafficCounts) -> None:
    counts.came(journey(), replace(request(), variant=LARGE), CHOSEN)
    assert set(counts.totals()) == {StreamKey(MODEL, "standard", 0.0, LARGE)}


@pytest.mark.parametrize("verdict", [LATE, FULL])
def test_a_request_finds_no_room_where_an_idle_replica_would_have_had_some(
    counts: TrafficCounts, verdict: Decision | NoReplica
) -> None:
    counts.came(journey(), request(), verdict)
    counts.came(journey(), request(HOPELESS), verdict)
    assert counts.totals()[STANDARD].crowded == 1


def test_a_model_without_variants_has_no_room_to_miss(counts: TrafficCounts) -> None:
    counts.came(journey(), request(model=ModelName("another")), FULL)
    assert counts.totals()[StreamKey(ModelName("another"), "standard")].crowded == 0


def test_strain_is_told_once(counts: TrafficCounts) -> None:
    counts.came(journey(), request(), FULL)
    counts.came(journey(), request(), CHOSEN)
    assert [counts.strained(), counts.strained()] == [True, False]


def test_a_request_for_which_nothing_else_should_be_awake_is_no_strain(
    counts: TrafficCounts,
) -> None:
    counts.came(journey(), request(), CHOSEN)
    assert not counts.strained()


def test_what_was_served_counts_with_its_tokens(counts: TrafficCounts) -> None:
    counts.ended(served())
    assert counts.totals() == {
        STANDARD: Traffic(
            completions=1, completion_tokens=8, cached_tokens=4, completed_prompt_tokens=10
        )
    }


def test_what_was_not_served_to_its_end_does_not_count(counts: TrafficCounts) -> None:
    counts.ended(journey())
    assert counts.totals() == {}


def test_what_another_gateway_has_begun_does_not_count(counts: TrafficCounts) -> None:
    counts.ended(served(resume=Resume(token_ids=(1, 2), attempts=1)))
    assert counts.totals() == {}


def test_totals_that_were_given_do_not_change_any_more(counts: TrafficCounts) -> None:
    counts.came(journey(), request(), CHOSEN)
    before = counts.totals()
    counts.came(journey(), request(), CHOSEN)
    assert before[STANDARD].requests == 1


def test_requests_that_wait_count_while_they_do(counts: TrafficCounts) -> None:
    with counts.holding(journey(), request()):
        with counts.holding(journey(), request()), counts.holding(journey("batch"), request()):
            assert counts.held == {STANDARD: 2, BATCH: 1}
        assert dict(counts.held) == {STANDARD: 1}
    assert dict(counts.held) == {}


def test_a_request_that_is_given_up_waits_no_longer(counts: TrafficCounts) -> None:
    with pytest.raises(TimeoutError), counts.holding(journey(), request()):
        raise TimeoutError
    assert dict(counts.held) == {}
