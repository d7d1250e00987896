"""What a replica carries: batch, objectives, prefill, KV cache."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.capacity import capability, floor_of, headroom, unfit
from scheduler.requests import ModelName, Objective
from scheduler.steps import power_line
from tests.plan_fakes import DECODE_ONLY, STEPS, demand, demands, variant, variants

if TYPE_CHECKING:
    from scheduler.fleet import Variant
    from scheduler.plans import Demand


def test_without_prefill_the_batch_is_that_of_the_fluid_model() -> None:
    able = capability(variant(steps=DECODE_ONLY), demand(1.0))
    assert able is not None
    assert able.batch == pytest.approx((20.0 - 6.69) / 0.09)
    assert able.requests_per_s * 211 == pytest.approx(able.batch / 0.02)
    line = power_line(DECODE_ONLY, able.batch)
    assert able.busy_w == pytest.approx(line.p0_w)
    assert able.request_j == pytest.approx(line.marginal_j * 211)


def test_prefill_takes_time_from_decoding_and_adds_its_energy() -> None:
    able = capability(variant(), demand(1.0))
    assert able is not None
    prefill_s, line = 1155 * 30e-6, power_line(STEPS, 1.0)
    assert able.requests_per_s == pytest.approx((1 - 6.69 / 20) / (prefill_s + 211 * 90e-6))
    expected_j = 1155 * 0.021 + 211 * line.marginal_j - prefill_s * line.p0_w
    assert able.request_j == pytest.approx(expected_j)


def test_prefix_hits_are_credited() -> None:
    cold, warm = (
        capability(variant(), replace(demand(1.0), cached_share=share)) for share in (0.0, 0.5)
    )
    assert cold is not None
    assert warm is not None
    assert warm.requests_per_s > 1.3 * cold.requests_per_s
    assert warm.joules_per_request() < 0.8 * cold.joules_per_request()


def test_kv_cache_bounds_the_batch() -> None:
    small = replace(variant(steps=DECODE_ONLY), kv_capacity_tokens=10 * (1155 + 211))
    able = capability(small, demand(1.0))
    assert able is not None
    assert able.batch == pytest.approx(small.kv_capacity_tokens / (1155 + 211 / 2))


def test_waiting_prompts_bound_the_rate_where_the_objective_is_short() -> None:
    long = replace(demand(1.0, Objective(0.4, 0.2)), prompt_tokens=6000.0)
    cautious, lucky = (capability(variant(), long, cautious=flag) for flag in (True, False))
    assert cautious is not None
    assert lucky is not None
    assert cautious.requests_per_s < 0.8 * lucky.requests_per_s
    patient = capability(variant(), replace(long, objective=Objective(30.0, 0.2)))
    assert patient is not None
    assert patient.requests_per_s > cautious.requests_per_s


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model": ModelName("other")}, "serves"),
        ({"objective": Objective(2.0, 0.02, 1.1)}, "quality"),
        ({"objective": Objective(2.0, 0.005)}, "TPOT"),
        ({"objective": Objective(0.01, 0.02)}, "TTFT"),
        ({"prompt_tokens": 8100.0}, "context"),
    ],
)
def test_what_cannot_be_carried_is_said(change: dict[str, object], word: str) -> None:
    impossible = replace(demand(1.0), **change)  # type: ignore[arg-type]
    assert word in unfit(variant(), impossible)
    assert capability(variant(), impossible) is None


@given(variants("v"), demands(), st.floats(0.0, 1.0))
def test_the_floor_is_below_the_power_and_meets_it_at_both_ends(
    each: Variant, wanted: Demand, share: float
) -> None:
    able = capability(each, wanted)
    if able is None:
        return
    floor, rate = floor_of(able), share * able.requests_per_s
    assert floor.power_w(rate) <= able.power_w(rate) * (1 + 1e-9)
    assert floor.power_w(0.0) == pytest.approx(able.power_w(0.0))
    if able.requests_per_s > 5 * able.duty_per_s:
        full = able.requests_per_s
        assert floor.power_w(full) == pytest.approx(able.power_w(full))


@given(variants("v"), demands())
def test_looser_objectives_never_carry_less(each: Variant, wanted: Demand) -> None:
    objective = wanted.objective
    looser = replace(objective, ttft_s=objective.ttft_s * 2, tpot_s=objective.tpot_s * 2)
    tight, loose = capability(each, wanted), capability(each, replace(wanted, objective=looser))
    if tight is not None:
        assert loose is not None
        assert loose.requests_per_s >= tight.requests_per_s * (1 - 1e-6)


def test_headroom_shrinks_relative_to_the_load() -> None:
    few, many = (headroom(demand(rate, risk=2.0), 4.0) / rate for rate in (1.0, 100.0))
    assert few == pytest.approx(1.0)
    assert many == pytest.approx(0.1)
    missed = headroom(replace(demand(10.0, risk=2.0), upper_requests_per_s=16.0), 4.0)
    assert missed == pytest.approx(math.hypot(6.0, 4.0))
