"""What a replica reports of its load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.fleet import StepTotals
from serve.engine import EngineStep
from serve.load import LoadMeter

if TYPE_CHECKING:
    from scheduler.fleet import ReplicaReport


def step(
    prefill_tokens: int = 0, decode_tokens: int = 0, running: int = 0, duration_s: float = 0.1
) -> EngineStep:
    return EngineStep(duration_s, prefill_tokens, decode_tokens, decode_tokens, running, 0, 0.25)


def report(meter: LoadMeter, now_s: float = 1.0) -> ReplicaReport:
    return meter.report(now_s, power_w=5.0, energy_j=7.0)


def test_an_accepted_request_counts_at_once() -> None:
    meter = LoadMeter(0.0)
    meter.accepted("a", 10)
    meter.accepted("b", 20)
    told = report(meter)
    assert (told.running_requests, told.waiting_requests) == (0, 2)
    assert told.pending_prefill_tokens == 30
    assert (told.power_w, told.energy_j) == (5.0, 7.0)


def test_running_is_what_the_engine_said_but_never_more_than_there_are() -> None:
    meter = LoadMeter(0.0)
    meter.accepted("a", 10)
    meter.accepted("b", 10)
    meter.step(step(prefill_tokens=20, running=2), 0.5)
    meter.finished("a")
    told = report(meter)
    assert (told.running_requests, told.waiting_requests) == (1, 0)


def test_a_prompt_is_pending_until_it_is_computed() -> None:
    meter = LoadMeter(0.0)
    meter.accepted("a", 3000)
    meter.accepted("b", 100)
    meter.step(step(prefill_tokens=2048, running=1), 0.5)
    assert report(meter).pending_prefill_tokens == 1052
    meter.step(step(prefill_tokens=1052, running=2), 0.6)
    assert report(meter).pending_prefill_tokens == 0
    meter.produced("a", 1)
    meter.produced("b", 1)
    assert report(meter).pending_prefill_tokens == 0
    assert report(meter).context_tokens == 3102


def test_a_cached_prompt_is_not_pending_after_its_first_token() -> None:
    meter = LoadMeter(0.0)
    meter.accepted("a", 600)
    meter.step(step(prefill_tokens=24, running=1), 0.5)
    meter.produced("a", 1)
    assert report(meter).pending_prefill_tokens == 0


def test_rates_are_of_the_window() -> None:
    meter = LoadMeter(0.0, window_s=2.0)
    meter.step(step(prefill_tokens=100, decode_tokens=4), 1.0)
    meter.step(step(decode_tokens=4), 2.0)
    told = report(meter, 2.0)
    assert told.prefill_tokens_per_s == pytest.approx(50)
    assert told.decode_tokens_per_s == pytest.approx(4)
    assert report(meter, 10.0).decode_tokens_per_s == 0


def test_totals_are_sums_over_all_steps() -> None:
    meter = LoadMeter(0.0)
    meter.accepted("a", 30)
    meter.step(step(prefill_tokens=30, running=1), 0.1)
    meter.produced("a", 1)
    meter.step(step(decode_tokens=1, running=1), 0.2)
    meter.produced("a", 1)
    meter.step(step(decode_tokens=1, running=1), 0.3)
    totals = report(meter).totals
    assert (totals.steps, totals.decode_steps, totals.sequences) == (3, 2, 2)
    assert (totals.context_tokens, totals.prefill_tokens) == (31 + 32, 30)
    assert (totals.busy_s, totals.busy_j) == pytest.approx((0.3, 0.0))


def test_totals_of_a_counter_are_those_of_the_steps_that_it_has_seen() -> None:
    meter = LoadMeter(0.0, counted=True)
    meter.step(step(prefill_tokens=30, running=1), 0.1)
    assert report(meter).totals.steps == 0
    meter.measured(2.0)
    meter.step(step(decode_tokens=1, running=1), 0.2)
    seen = report(meter).totals
    assert (seen.steps, seen.prefill_tokens, seen.busy_j) == (1, 30, 2.0)
    meter.measured(3.0)
    both = report(meter).totals.since(seen)
    assert (both.steps, both.decode_steps, both.busy_j) == (1, 1, 3.0)


def test_step_time_follows_the_steps() -> None:
    meter = LoadMeter(0.0)
    assert report(meter).step_time_s == 0
    meter.step(step(duration_s=0.1), 0.1)
    assert report(meter).step_time_s == pytest.approx(0.1)
    for i in range(100):
        meter.step(step(duration_s=0.2), 0.2 + i)
    assert report(meter).step_time_s == pytest.approx(0.2, rel=0.01)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["accept", "produce", "finish", "step"]),
            st.integers(0, 5),
            st.integers(1, 50),
        )
    )
)
def test_nothing_is_left_when_all_requests_have_ended(moves: list[tuple[str, int, int]]) -> None:
    meter = LoadMeter(0.0)
    live: set[str] = set()
    for i, (move, number, tokens) in enumerate(moves):
        call = str(number)
        match move:
            case "accept" if call not in live:
                meter.accepted(call, tokens)
                live.add(call)
            case "produce" if call in live:
                meter.produced(call, tokens)
            case "finish":
                meter.finished(call)
                live.discard(call)
            case "step":
                meter.step(step(tokens, tokens, running=tokens), float(i))
        told = report(meter, float(i))
        assert told.running_requests + told.waiting_requests == len(live)
        assert told.pending_prefill_tokens >= 0
    for call in live:
        meter.finished(call)
    told = report(meter, float(len(moves)))
    assert told.running_requests == told.waiting_requests == 0
    assert told.pending_prefill_tokens == told.context_tokens == told.kv_cache_usage == 0


def test_a_step_of_several_tokens_counts_as_so_many() -> None:
    def totals(step: EngineStep) -> StepTotals:
        load = LoadMeter(0.0)
        load.accepted("a", 10)
        load.produced("a", 1)
        load.step(step, 1.0)
        return load.report(1.0, 0.0, 0.0).totals

    usual = EngineStep(0.1, 0, 4, 4, 4, 0, 0.0)
    drafted = EngineStep(0.1, 0, 4, 10, 4, 0, 0.0)
    assert totals(usual) == StepTotals(1, 1, 4, 11, 0, 0.1)
    assert totals(drafted) == StepTotals(1, 2.5, 10, 27.5, 0, 0.1)
    # One that gives nothing for a sequence that was dropped meanwhile is a step all the same.
    assert usual._replace(decode_tokens=3).decode_rounds == 1.0
    assert usual._replace(decode_sequences=0, decode_tokens=0).decode_rounds == 0.0
