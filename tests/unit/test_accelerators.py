"""The catalogue is complete and plausible, and its estimates agree with measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.accelerators import CATALOGUE
from scheduler.steps import ModelShape, first_principles

if TYPE_CHECKING:
    from cluster.accelerators import Precision

# Weights read and computed with (no input embeddings), KV bytes a token, layers.
LLAMA_8B = ModelShape(2 * 7.50e9, 7.50e9, 131_072, 32)
QWEN_14B = ModelShape(2 * 13.99e9, 13.99e9, 163_840, 40)
# Of the chat task in ML.ENERGY v3, with Llama-3.1-8B: tokens of context that a running
# sequence holds, and prompt tokens that come for each token generated.
CHAT_CONTEXT, CHAT_PROMPT_SHARE = 740, 459 / 388
SMOLLM2: dict[Precision, ModelShape] = {
    "bf16": ModelShape(269e6, 134.5e6, 23_040, 30),
    "int8": ModelShape(163.6e6, 134.5e6, 23_040, 30),
}


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_entry_is_plausible(name: str) -> None:
    entry = CATALOGUE[name]
    assert entry.name == name
    assert entry.source
    assert 0 < entry.idle_w <= entry.context_w < entry.tdp_w
    assert "bf16" in entry.tflops
    assert "bf16" in entry.byte_pj
    assert "bf16" in entry.flop_pj
    fields = set(type(entry).__dataclass_fields__)
    assert entry.unverified <= fields
    for precision in entry.tflops:
        facts = entry.facts(precision)
        assert facts.flops_per_s == entry.tflops[precision] * 1e12


def test_a_precision_without_units_is_computed_as_bf16() -> None:
    entry = CATALOGUE["a100-80"]
    assert entry.facts("fp8").flops_per_s == entry.facts("bf16").flops_per_s


@pytest.mark.parametrize(
    ("batch", "measured_s", "measured_j"),
    [(8, 7.46e-3, 0.4548), (64, 12.42e-3, 0.1186), (255, 28.32e-3, 0.0766)],
)
def test_llama_8b_on_an_h100_is_estimated_within_an_eighth(
    batch: int, measured_s: float, measured_j: float
) -> None:
    """Measured with vLLM 0.11.1 (ML.ENERGY v3); every step also prefills what arrives."""
    steps = first_principles(LLAMA_8B, CATALOGUE["h100-sxm"].facts("bf16"), 1)
    context, arriving = batch * CHAT_CONTEXT, batch * CHAT_PROMPT_SHARE
    step_s = steps.decode_s(batch, context) + steps.prefill_s(arriving)
    step_j = steps.decode_j(batch, context) + steps.prefill_j(arriving)
    assert step_s == pytest.approx(measured_s, rel=0.125)
    assert step_j / batch == pytest.approx(measured_j, rel=0.125)


def test_a_prompt_token_of_llama_8b_on_an_h100_costs_about_21_millijoules() -> None:
    steps = first_principles(LLAMA_8B, CATALOGUE["h100-sxm"].facts("bf16"), 1)
    assert steps.prefill_j(1) == pytest.approx(0.021, rel=0.1)


def test_a_larger_model_costs_more() -> None:
    facts = CATALOGUE["h100-sxm"].facts("bf16")
    small, large = (first_principles(shape, facts, 1) for shape in (LLAMA_8B, QWEN_14B))
    assert large.decode_j(8) > 1.5 * small.decode_j(8)


@pytest.mark.parametrize(
    ("precision", "tokens_per_s", "prefill_tokens_per_s"),
    [("bf16", {1: 27.6, 8: 147.0}, 649.0), ("int8", {1: 37.2, 8: 225.0}, 1750.0)],
)
def test_the_nominal_cpu_is_about_as_fast_as_two_real_cores(
    precision: Precision, tokens_per_s: dict[int, float], prefill_tokens_per_s: float
) -> None:
    steps = first_principles(SMOLLM2[precision], CATALOGUE["cpu"].facts(precision), 2)
    for batch, measured in tokens_per_s.items():
        assert batch / steps.decode_s(batch) == pytest.approx(measured, rel=0.1)
    assert 1 / steps.prefill_s(1) == pytest.approx(prefill_tokens_per_s, rel=0.1)


def test_int8_saves_energy_on_the_nominal_cpu() -> None:
    bf16, int8 = (
        first_principles(SMOLLM2[precision], CATALOGUE["cpu"].facts(precision), 1)
        for precision in ("bf16", "int8")
    )
    assert int8.decode_j(1) < 0.8 * bf16.decode_j(1)
    assert int8.decode_j(8) < 0.7 * bf16.decode_j(8)
    assert int8.prefill_j(100) < 0.5 * bf16.prefill_j(100)
