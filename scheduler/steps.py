"""Time and energy of an engine step, as a function of its batch.

Its own module because routing, planning, metering and the virtual cluster all use it.

Sources. The affine form and its fit (R² 0.970 to 1.000 for power against token rate) come
from the ML.ENERGY v3 table, vLLM 0.11.1 on H100 (arXiv 2505.06371). The first-principles
form counts bytes and operations:

    t_step = (W_bytes + ctx·kv_bytes)/(n·η·BW) + 2·N_active·B/(n·mfu·FLOPS) + t_overhead
    E_step = n·P_ctx·t_step + ε_B·(W_bytes + ctx·kv_bytes) + ε_F·2·N_active·B

where ctx is the number of context tokens of the whole batch. Memory and compute time are
added, not overlapped: they alternate layer by layer. The speeds below were fitted to the 67
rows of dense models on H100 in that table, whose steps also prefill; on models left out of
the fit they are off by 9 % in step time and 9 % in J/token (scripts/fit_mlenergy.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class StepModel(Protocol):
    """Predicts what a replica needs for a step; a value, equal to another of the same figures."""

    def __hash__(self) -> int:
        """Hash it by its figures."""

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        """Time of a step that decodes `batch` sequences holding `context_tokens` together."""

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        """Energy of that step."""

    def prefill_s(self, tokens: float) -> float:
        """Time to compute that many prompt tokens."""

    def prefill_j(self, tokens: float) -> float:
        """Energy to compute that many prompt tokens."""


@dataclass(frozen=True, slots=True)
class AffineSteps:
    """A step model that is affine in batch and context, under a power cap.

    Attributes:
        t0_s: seconds of a decode step, whatever its batch.
        t1_s: seconds that each sequence adds.
        e0_j: joules of a decode step, whatever its batch, over the whole replica.
        e1_j: joules that each sequence adds.
        prefill_s_per_token: seconds to compute one prompt token.
        prefill_j_per_token: joules to compute one prompt token.
        context_s_per_token: seconds that each token of context adds to a decode step; 0
            where a fit at typical context has put it into t1_s.
        context_j_per_token: joules that each token of context adds to a decode step.
        cap_w: power that a decode step cannot exceed; energy is clipped to it.

    """

    t0_s: float
    t1_s: float
    e0_j: float
    e1_j: float
    prefill_s_per_token: float
    prefill_j_per_token: float
    context_s_per_token: float = 0.0
    context_j_per_token: float = 0.0
    cap_w: float = math.inf

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        """Time of a decode step."""
        return self.t0_s + self.t1_s * batch + self.context_s_per_token * context_tokens

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        """Energy of a decode step."""
        energy_j = self.e0_j + self.e1_j * batch + self.context_j_per_token * context_tokens
        return min(energy_j, self.cap_w * self.decode_s(batch, context_tokens))

    def prefill_s(self, tokens: float) -> float:
        """Time to compute prompt tokens."""
        return self.prefill_s_per_token * tokens

    def prefill_j(self, tokens: float) -> float:
        """Energy to compute prompt tokens."""
        return self.prefill_j_per_token * tokens


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides the cost of a step.

    Attributes:
        weight_bytes: read in every decode step, over all accelerators.
        active_parameters: that take part in computing one token.
        kv_bytes_per_token: of the KV cache, over all layers.
        layers: each costs a fixed time for launches and, over several accelerators, for
            the reductions between them.

    """

    weight_bytes: float
    active_parameters: float
    kv_bytes_per_token: float
    layers: int


@dataclass(frozen=True, slots=True)
class AcceleratorFacts:
    """One accelerator at the precision it computes in.

    Attributes:
        bandwidth_bytes_per_s: of its memory, nominal.
        flops_per_s: dense, at that precision, nominal.
        tdp_w: power cap.
        context_w: drawn with a process that holds it and does nothing.
        byte_j: dynamic energy to read a byte (ε_B).
        flop_j: dynamic energy of an operation (ε_F).
        memory_efficiency: share of the bandwidth that decoding reaches (η).
        decode_mfu: share of flops_per_s that decoding reaches.
        prefill_mfu: share of flops_per_s that prefill reaches.
        layer_overhead_s: fixed time for each layer of a step.
        layer_reduction_s: further fixed time for each layer when several share it.

    """

    bandwidth_bytes_per_s: float
    flops_per_s: float
    tdp_w: float
    context_w: float
    byte_j: float
    flop_j: float
    memory_efficiency: float = 0.91
    decode_mfu: float = 0.54
    prefill_mfu: float = 0.54
    layer_overhead_s: float = 54e-6
    layer_reduction_s: float = 8.5e-6


def first_principles(shape: ModelShape, accelerator: AcceleratorFacts, n: float) -> AffineSteps:
    """Estimate the steps of a replica that nobody has measured yet.

    Args:
        shape: of the model at its precision.
        accelerator: one of those that the replica has.
        n: how many it has; a share of a core or several cores for a CPU.

    """
    layer_s = accelerator.layer_overhead_s + (accelerator.layer_reduction_s if n > 1 else 0.0)
    overhead_s = shape.layers * layer_s
    byte_s = 1.0 / (n * accelerator.memory_efficiency * accelerator.bandwidth_bytes_per_s)
    flops_per_token = 2.0 * shape.active_parameters
    t0_s = shape.weight_bytes * byte_s + overhead_s
    t1_s = flops_per_token / (n * accelerator.decode_mfu * accelerator.flops_per_s)
    context_s = shape.kv_bytes_per_token * byte_s
    prefill_s = flops_per_token / (n * accelerator.prefill_mfu * accelerator.flops_per_s)
    static_w, cap_w = n * accelerator.context_w, n * accelerator.tdp_w
    return AffineSteps(
        t0_s=t0_s,
        t1_s=t1_s,
        e0_j=static_w * t0_s + accelerator.byte_j * shape.weight_bytes,
        e1_j=static_w * t1_s + accelerator.flop_j * flops_per_token,
        prefill_s_per_token=prefill_s,
        # Prefill is compute-bound at about TDP: 0.021 J a token for 8B on an H100.
        prefill_j_per_token=cap_w * prefill_s,
        context_s_per_token=context_s,
        context_j_per_token=static_w * context_s + accelerator.byte_j * shape.kv_bytes_per_token,
        cap_w=cap_w,
    )


class PowerLine(NamedTuple):
    """Power of a busy replica against its token rate r: P(r) = P0 + m·r.

    Attributes:
        p0_w: power of being busy at all (P0).
        marginal_j: energy that one more token adds (m).

    """

    p0_w: float
    marginal_j: float


def power_line(steps: StepModel, batch: float, context_tokens: float = 0.0) -> PowerLine:
    """Draw the line through the operating points of `batch` and of one sequence more.

    For an affine model these are P0 = e0/t0 and m = e1 − e0·t1/t0 at every batch; for any
    other model it is the line's own neighbourhood that counts.
    """
    batch = max(batch, 1.0)
    low_s = steps.decode_s(batch, context_tokens)
    high_s = steps.decode_s(batch + 1, context_tokens)
    low_w = steps.decode_j(batch, context_tokens) / low_s
    high_w = steps.decode_j(batch + 1, context_tokens) / high_s
    rate_gain = (batch + 1) / high_s - batch / low_s
    if rate_gain <= 0:
        # Throughput has peaked: a further sequence only shares what there is.
        return PowerLine(low_w, low_w * low_s / batch)
    marginal_j = max(0.0, (high_w - low_w) / rate_gain)
    return PowerLine(low_w - marginal_j * batch / low_s, marginal_j)
