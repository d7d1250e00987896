"""What a stream of traffic teaches: lengths, and the room that it needs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.decisions import Decision, Latencies, NoReplica
from scheduler.fleet import Variant
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.steps import AffineSteps
from scheduler.traffic import FIRST_RISK, MOST_RISK, Stream, Traffic, crowded

MODEL = ModelName("m")
STEPS = AffineSteps(0.01, 1e-4, 3.0, 0.05, 1e-4, 0.02)
VARIANT = Variant(VariantName("v"), MODEL, 0.98, 8192, 64, 100_000, STEPS, 100.0)
REQUEST = Request(RequestId("r"), MODEL, 1000, 500, 200.0, Objective(1.0, 0.05), arrived_at_s=0.0)
FULL = NoReplica("each is full", "full")
PERIOD_S = 15.0


def decision(predicted: Latencies | None) -> Decision:
    return Decision(ReplicaId("a"), VARIANT.name, "energy", "", predicted=predicted)


def taught(*crowded_requests: int) -> Stream:
    """Let a stream see 100 requests a period, so many of which found no room."""
    stream = Stream()
    for period, count in enumerate(crowded_requests):
        stream.observe(Traffic(100, 100_000, count), PERIOD_S * (period + 1), PERIOD_S)
    return stream


def test_lengths_and_cached_share_are_those_of_the_traffic() -> None:
    stream = Stream()
    for period in range(1, 9):
        seen = Traffic(10, 12_000, 0, 5, 1000, 1500, 6000)
        stream.observe(seen, PERIOD_S * period, PERIOD_S)
    demand = stream.demand(MODEL, REQUEST.objective, PERIOD_S * 8, 300.0)
    assert demand.prompt_tokens == pytest.approx(1200.0)
    assert demand.completion_tokens == pytest.approx(200.0)
    assert demand.cached_share == pytest.approx(0.25)
    assert demand.requests_per_s == pytest.approx(10 / PERIOD_S)


def test_a_stream_that_saw_nothing_demands_nothing() -> None:
    stream = Stream()
    stream.observe(Traffic(), PERIOD_S, PERIOD_S)
    demand = stream.demand(MODEL, REQUEST.objective, PERIOD_S, 300.0)
    assert demand.requests_per_s == 0.0
    assert (demand.prompt_tokens, demand.completion_tokens, demand.risk) == (1.0, 1.0, FIRST_RISK)


def test_requests_without_room_ask_for_more_of_it_at_once_and_less_is_learnt_slowly() -> None:
    calm, short = taught(0), taught(20)
    assert calm.risk < FIRST_RISK < short.risk
    assert short.risk - FIRST_RISK > 50 * (FIRST_RISK - calm.risk)


@given(st.lists(st.integers(0, 100), max_size=200))
def test_room_stays_within_its_bounds(counts: list[int]) -> None:
    assert 0.0 <= taught(*counts).risk <= MOST_RISK


def test_counts_add_and_subtract_field_by_field() -> None:
    one, other = Traffic(1, 2, 3, 4, 5, 6, 7), Traffic(7, 6, 5, 4, 3, 2, 1)
    assert one.plus(other) == Traffic(*[8] * 7)
    assert one.plus(other).since(other) == one


def test_crowded_is_who_found_no_room_that_an_idle_replica_has() -> None:
    late, good = Latencies(2.0, 0.02), Latencies(0.5, 0.02)
    assert crowded(REQUEST, decision(late), [VARIANT])
    assert crowded(REQUEST, FULL, [VARIANT])
    assert not crowded(REQUEST, decision(good), [VARIANT])
    assert not crowded(REQUEST, decision(None), [VARIANT])


def test_what_no_idle_replica_can_keep_is_no_reason_to_wake_one() -> None:
    hasty = replace(REQUEST, objective=Objective(0.05, 0.05))
    choosy = replace(REQUEST, objective=Objective(1.0, 0.05, min_quality=1.0))
    assert not crowded(hasty, FULL, [VARIANT])
    assert not crowded(choosy, FULL, [VARIANT])
