"""What the planner expects of traffic that gateways have counted."""

from __future__ import annotations

import pytest

from scheduler.requests import ModelName
from serve.expectations import Expectations
from serve.plan_news import StreamKey
from tests.planner_fakes import (
    BATCH,
    COMPLETION_TOKENS,
    EPOCH_S,
    MODEL,
    PROMPT_TOKENS,
    STANDARD,
    config,
    traffic,
)

CONFIG = config()
PERIOD_S = 10.0


@pytest.fixture
def expected() -> Expectations:
    """One period with 100 requests of the standard class is over."""
    known = Expectations(EPOCH_S)
    known.count(STANDARD, traffic(100))
    known.observe(EPOCH_S + PERIOD_S)
    return known


def test_nothing_is_expected_before_anything_has_come() -> None:
    assert Expectations(EPOCH_S).demands(CONFIG, EPOCH_S, {}, {}) == {}


def test_requests_are_expected_as_they_came(expected: Expectations) -> None:
    demand = expected.demands(CONFIG, EPOCH_S + PERIOD_S, {}, {})[STANDARD]
    assert demand.requests_per_s == pytest.approx(10.0)
    assert demand.upper_requests_per_s >= demand.requests_per_s
    assert (demand.prompt_tokens, demand.completion_tokens) == (PROMPT_TOKENS, COMPLETION_TOKENS)


def test_each_class_has_the_objective_that_is_configured(expected: Expectations) -> None:
    expected.count(BATCH, traffic(10))
    expected.observe(EPOCH_S + 2 * PERIOD_S)
    demands = expected.demands(CONFIG, EPOCH_S + 2 * PERIOD_S, {}, {})
    for key in (STANDARD, BATCH):
        given = CONFIG.service_classes[key.service_class]
        objective = demands[key].objective
        assert (objective.ttft_s, objective.tpot_s) == (given.ttft_s, given.tpot_s)


def test_a_class_that_is_not_configured_any_more_is_not_expected(expected: Expectations) -> None:
    gone = StreamKey(MODEL, "gone")
    expected.count(gone, traffic(100))
    expected.observe(EPOCH_S + 2 * PERIOD_S)
    demands = expected.demands(CONFIG, EPOCH_S + 2 * PERIOD_S, {gone: 5}, {})
    assert list(demands) == [STANDARD]


def test_what_is_counted_in_parts_is_learnt_as_one(expected: Expectations) -> None:
    parts = Expectations(EPOCH_S)
    for requests in (1, 59, 40):
        parts.count(STANDARD, traffic(requests))
    parts.observe(EPOCH_S + PERIOD_S)
    now_s = EPOCH_S + PERIOD_S
    assert parts.demands(CONFIG, now_s, {}, {}) == expected.demands(CONFIG, now_s, {}, {})


def test_what_was_learnt_once_is_not_learnt_again(expected: Expectations) -> None:
    expected.observe(EPOCH_S + 2 * PERIOD_S)
    demand = expected.demands(CONFIG, EPOCH_S + 2 * PERIOD_S, {}, {})[STANDARD]
    assert demand.requests_per_s < 10.0


@pytest.mark.parametrize(("silent_s", "expects"), [(599.0, True), (601.0, False)])
def test_after_long_silence_a_class_is_expected_no_more(
    expected: Expectations, silent_s: float, *, expects: bool
) -> None:
    now_s = EPOCH_S + PERIOD_S + silent_s
    demand = expected.demands(CONFIG, now_s, {}, {})[STANDARD]
    assert (demand.requests_per_s > 0, demand.upper_requests_per_s > 0) == (expects, expects)


def test_one_request_ends_the_silence(expected: Expectations) -> None:
    now_s = EPOCH_S + PERIOD_S + 700.0
    expected.count(STANDARD, traffic(1))
    expected.observe(now_s)
    assert expected.demands(CONFIG, now_s, {}, {})[STANDARD].requests_per_s > 0


def test_what_waits_for_a_replica_is_expected_of_an_unknown_class_too() -> None:
    known = Expectations(EPOCH_S)
    demand = known.demands(CONFIG, EPOCH_S, {STANDARD: 30}, {})[STANDARD]
    within_horizon = demand.requests_per_s * CONFIG.planner.horizon_s
    assert within_horizon == pytest.approx(30)


def test_what_waits_for_a_replica_wakes_one_after_long_silence(expected: Expectations) -> None:
    now_s = EPOCH_S + PERIOD_S + 700.0
    assert expected.demands(CONFIG, now_s, {STANDARD: 1}, {})[STANDARD].requests_per_s > 0


def test_a_burst_counts_before_its_period_is_over(expected: Expectations) -> None:
    now_s = EPOCH_S + PERIOD_S + 2.0
    before = expected.demands(CONFIG, now_s, {}, {})[STANDARD]
    expected.count(STANDARD, traffic(400))
    burst = expected.demands(CONFIG, now_s, {}, {})[STANDARD]
    assert burst.upper_requests_per_s > 10 * before.requests_per_s
    assert burst.requests_per_s == before.requests_per_s


def test_the_first_instant_of_a_period_is_not_taken_for_a_burst(expected: Expectations) -> None:
    before = expected.demands(CONFIG, EPOCH_S + PERIOD_S, {}, {})
    expected.count(STANDARD, traffic(10))
    assert expected.demands(CONFIG, EPOCH_S + PERIOD_S + 1e-3, {}, {}) == pytest.approx(before)


def test_a_backlog_is_shared_out_by_what_comes(expected: Expectations) -> None:
    expected.count(STANDARD, traffic(300))
    expected.count(BATCH, traffic(100))
    now_s = EPOCH_S + 2 * PERIOD_S
    expected.observe(now_s)
    without = expected.demands(CONFIG, now_s, {}, {})
    with_it = expected.demands(CONFIG, now_s, {}, {MODEL: 8.0, ModelName("another"): 99.0})
    more = {
        key: with_it[key].upper_requests_per_s - without[key].upper_requests_per_s
        for key in without
    }
    assert more == pytest.approx({STANDARD: 6.0, BATCH: 2.0})


def test_the_first_burst_of_a_class_counts_before_its_period_is_over() -> None:
    known = Expectations(EPOCH_S)
    known.count(STANDARD, traffic(400))
    demands = known.demands(CONFIG, EPOCH_S + 2.0, {}, {})
    assert demands[STANDARD].upper_requests_per_s > 100.0


def test_a_backlog_counts_when_nothing_comes_any_more(expected: Expectations) -> None:
    now_s = EPOCH_S + 2 * PERIOD_S
    expected.observe(now_s)
    without = expected.demands(CONFIG, now_s, {}, {})[STANDARD]
    with_it = expected.demands(CONFIG, now_s, {}, {MODEL: 8.0})[STANDARD]
    assert with_it.upper_requests_per_s > without.upper_requests_per_s
