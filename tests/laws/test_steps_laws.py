"""What every step model must obey, and what the affine one is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.steps import AcceleratorFacts, AffineSteps, ModelShape, first_principles, power_line

positive = st.floats(1e-4, 1e2)
batches = st.integers(1, 512)


@st.composite
def affine(draw: st.DrawFn) -> AffineSteps:
    return AffineSteps(*(draw(positive) for _ in range(6)))


@st.composite
def estimates(draw: st.DrawFn) -> AffineSteps:
    parameters = draw(st.floats(1e8, 1e12))
    shape = ModelShape(
        weight_bytes=parameters * draw(st.sampled_from([0.5, 1.0, 2.0])),
        active_parameters=parameters * draw(st.floats(0.05, 1.0)),
        kv_bytes_per_token=draw(st.floats(1e4, 1e6)),
        layers=draw(st.integers(1, 128)),
    )
    tdp_w = draw(st.floats(50, 1000))
    facts = AcceleratorFacts(
        bandwidth_bytes_per_s=draw(st.floats(1e11, 1e13)),
        flops_per_s=draw(st.floats(1e13, 1e16)),
        tdp_w=tdp_w,
        context_w=tdp_w * draw(st.floats(0.05, 0.5)),
        byte_j=draw(st.floats(1e-11, 1e-9)),
        flop_j=draw(st.floats(1e-13, 1e-11)),
    )
    return first_principles(shape, facts, draw(st.sampled_from([1, 2, 4, 8])))


@given(affine(), batches, st.floats(0, 1e5))
def test_power_is_a_line_in_the_token_rate(
    steps: AffineSteps, batch: int, context_tokens: float
) -> None:
    line = power_line(steps, batch, context_tokens)
    seconds = steps.decode_s(batch, context_tokens)
    power_w = steps.decode_j(batch, context_tokens) / seconds
    assert line.p0_w + line.marginal_j * batch / seconds == pytest.approx(power_w, rel=1e-6)


@given(st.floats(0.001, 0.1), st.floats(0, 0.001), positive, st.floats(0.2, 1), batches)
def test_the_line_of_an_affine_model_is_the_same_at_every_batch(
    t0_s: float, t1_s: float, e0_j: float, share: float, batch: int
) -> None:
    e1_j = e0_j * t1_s / t0_s + share * e0_j
    line = power_line(AffineSteps(t0_s, t1_s, e0_j, e1_j, 1.0, 1.0), batch)
    assert line.p0_w == pytest.approx(e0_j / t0_s, rel=1e-6)
    assert line.marginal_j == pytest.approx(share * e0_j, rel=1e-6)


@given(estimates(), batches, st.floats(0, 1e6))
def test_more_work_takes_longer_and_never_less_energy(
    steps: AffineSteps, batch: int, context_tokens: float
) -> None:
    assert steps.decode_s(batch + 1, context_tokens) > steps.decode_s(batch, context_tokens)
    assert steps.decode_j(batch + 1, context_tokens) >= steps.decode_j(batch, context_tokens)
    assert steps.decode_s(batch, context_tokens + 1) >= steps.decode_s(batch, context_tokens)
    assert steps.decode_j(batch, context_tokens + 1) >= steps.decode_j(batch, context_tokens)


@given(estimates(), batches, st.floats(0, 1e4))
def test_a_token_costs_less_in_a_larger_batch(
    steps: AffineSteps, batch: int, context_each: float
) -> None:
    alone_j = steps.decode_j(batch, batch * context_each) / batch
    shared_j = steps.decode_j(batch + 1, (batch + 1) * context_each) / (batch + 1)
    assert shared_j <= alone_j * (1 + 1e-9)


@given(estimates(), batches, st.floats(0, 1e6), st.floats(1, 1e5))
def test_no_step_draws_more_than_the_cap(
    steps: AffineSteps, batch: int, context_tokens: float, prompt_tokens: float
) -> None:
    seconds = steps.decode_s(batch, context_tokens)
    assert steps.decode_j(batch, context_tokens) <= steps.cap_w * seconds * (1 + 1e-9)
    prefill_s = steps.prefill_s(prompt_tokens)
    assert steps.prefill_j(prompt_tokens) <= steps.cap_w * prefill_s * (1 + 1e-9)
