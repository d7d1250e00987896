"""The model meter adds up steps and the time between them."""

from __future__ import annotations

import pytest

from cluster.meters import ModelMeter
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.1, 0.0, 5.0, 1.0, 0.001, 0.02)


def test_a_step_costs_what_the_model_says_and_the_rest_is_idle() -> None:
    meter = ModelMeter(STEPS, 10.0, "cpu")
    meter.advance(0.0)
    used = meter.step(prefill_tokens=100, sequences=2, context_tokens=0, now_s=1.0)
    assert used == pytest.approx((2.0, 7.0))
    # Of one second, 0.1 s decoded and 0.1 s prefilled.
    assert meter.idle_j == pytest.approx(8.0)
    assert meter.energy_j == pytest.approx(17.0)
    assert meter.read_j(3.0) == pytest.approx(37.0)


def test_a_step_shorter_than_predicted_has_no_idle_part() -> None:
    meter = ModelMeter(STEPS, 10.0, "cpu")
    meter.advance(0.0)
    meter.step(prefill_tokens=0, sequences=1, context_tokens=0, now_s=0.01)
    assert meter.idle_j == 0.0
    assert meter.energy_j == pytest.approx(6.0)


def test_power_follows_load_and_falls_back_to_idle() -> None:
    meter = ModelMeter(STEPS, 10.0, "cpu")
    meter.advance(0.0)
    for step in range(1, 201):
        meter.step(prefill_tokens=0, sequences=1, context_tokens=0, now_s=step * 0.1)
    assert meter.power_w == pytest.approx(60.0, rel=0.05)
    meter.advance(60.0)
    assert meter.power_w == pytest.approx(10.0, rel=0.05)


def test_time_that_goes_backwards_costs_nothing() -> None:
    meter = ModelMeter(STEPS, 10.0, "cpu")
    meter.advance(5.0)
    meter.advance(4.0)
    meter.advance(5.0)
    assert meter.energy_j == 0.0


def test_a_step_of_several_rounds_uses_as_much_as_so_many_steps() -> None:
    one, other = ModelMeter(STEPS, 10.0, "cpu"), ModelMeter(STEPS, 10.0, "cpu")
    for step in range(3):
        one.step(prefill_tokens=0, sequences=2, context_tokens=5, now_s=step * 0.1)
    other.step(prefill_tokens=0, sequences=2, context_tokens=5, now_s=0.0)
    drafted = other.step(prefill_tokens=0, sequences=2, context_tokens=5, now_s=0.2, rounds=2.0)
    assert other.energy_j == pytest.approx(one.energy_j)
    assert drafted.decode_j == pytest.approx(2 * STEPS.decode_j(2, 5))
