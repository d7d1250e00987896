"""Time and energy predicted for a request on one replica, checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.fleet import ReplicaReport, ReplicaView, Variant
from scheduler.prospects import SHORT_SHARE, prospect
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.01, 1e-4, 3.0, 0.05, 1e-4, 0.02, context_s_per_token=1e-7)
VARIANT = Variant(VariantName("v"), ModelName("m"), 1.0, 8192, 64, 100_000, STEPS, 100.0)
REQUEST = Request(
    RequestId("r"), ModelName("m"), 1000, 500, 200.0, Objective(1.0, 0.05), arrived_at_s=0.0
)


def view(running: int = 0, **report: float) -> ReplicaView:
    told = ReplicaReport(0.0, running_requests=running, **report)  # type: ignore[arg-type]
    return ReplicaView(ReplicaId("a"), VARIANT.name, told)


def test_an_idle_replica() -> None:
    found = prospect(REQUEST, view(), VARIANT)
    assert found.ttft_s == pytest.approx(1000 * 1e-4 + 0.0101)
    assert found.tpot_s == pytest.approx(0.0101 + 1100e-7)
    assert found.prefill_j == pytest.approx(20.0)
    marginal_j = 0.05 - 3.0 / 0.01 * 1e-4
    assert found.decode_j == pytest.approx(200 * marginal_j, rel=1e-6)
    busy_s = 1000 * 1e-4 + 200 * 0.0101
    assert found.idle_j == pytest.approx((3.0 / 0.01 - 100.0) * busy_s, rel=1e-6)


def test_cached_tokens_are_neither_computed_nor_paid() -> None:
    whole, rest = prospect(REQUEST, view(), VARIANT), prospect(REQUEST, view(), VARIANT, 800.0)
    assert whole.ttft_s - rest.ttft_s == pytest.approx(0.08)
    assert whole.prefill_j - rest.prefill_j == pytest.approx(16.0)
    assert whole.tpot_s == rest.tpot_s


def test_a_prompt_delays_those_who_are_there_but_for_what_is_cached() -> None:
    alone, joined = (prospect(REQUEST, view(running), VARIANT) for running in (0, 4))
    assert alone.others_tpot_s == pytest.approx(alone.tpot_s)
    spread = SHORT_SHARE * REQUEST.expected_completion_tokens
    assert joined.others_tpot_s - joined.tpot_s == pytest.approx(1000 * 1e-4 / spread)
    cached = prospect(REQUEST, view(4), VARIANT, 800.0)
    assert cached.others_tpot_s - cached.tpot_s == pytest.approx(200 * 1e-4 / spread)


def test_the_more_run_there_the_less_does_one_more_keep_it_busy() -> None:
    idle = [prospect(REQUEST, view(running), VARIANT).idle_j for running in range(10)]
    assert idle == sorted(idle, reverse=True)
    assert idle[9] < idle[0] / 9


def test_a_backlog_comes_first_and_a_full_batch_waits() -> None:
    free = prospect(REQUEST, view(4), VARIANT)
    behind = prospect(REQUEST, view(4, pending_prefill_tokens=500), VARIANT)
    assert behind.ttft_s - free.ttft_s == pytest.approx(0.05)
    full = prospect(REQUEST, view(64), VARIANT)
    step_s = STEPS.decode_s(64)
    assert full.ttft_s == pytest.approx(0.1 + step_s + 200 * step_s / 64)


def test_whoever_decodes_waits_for_the_prompts_of_those_who_follow() -> None:
    calm = prospect(REQUEST, view(4), VARIANT)
    # Five prompt tokens for each decoded one, and fifty tokens/s that nobody reports.
    rates = {"prefill_tokens_per_s": 5 * 1000.0, "decode_tokens_per_s": 1000.0 - 50.0}
    mixed = prospect(REQUEST, view(4, **rates), VARIANT)
    assert mixed.tpot_s - calm.tpot_s == pytest.approx(5 * 5 * STEPS.prefill_s(1))


def test_a_backlog_of_prompts_delays_the_shortest_completions_most() -> None:
    calm = prospect(REQUEST, view(4), VARIANT)
    behind = prospect(REQUEST, view(4, pending_prefill_tokens=500), VARIANT)
    assert behind.tpot_s - calm.tpot_s == pytest.approx(500 * 1e-4 / (SHORT_SHARE * 200))


def test_a_replica_whose_steps_take_longer_is_predicted_slower() -> None:
    slow = view(4)._replace(pace=2.0)
    found, usual = prospect(REQUEST, slow, VARIANT), prospect(REQUEST, view(4), VARIANT)
    assert found.tpot_s == pytest.approx(2 * usual.tpot_s)
    assert found.ttft_s == pytest.approx(2 * usual.ttft_s)


def test_energy_is_clipped_to_the_power_cap() -> None:
    capped = replace(VARIANT, steps=replace(STEPS, cap_w=200.0))
    found = prospect(REQUEST, view(), capped)
    assert found.solo_j == pytest.approx(20.0 + 200 * 200.0 * 0.0101)
