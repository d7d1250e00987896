"""How long a plan takes, on one core: `pytest benchmarks/bench_plan.py`.

The bar is one second for 1,000 replicas. A fleet here is mixed: several models with four
precisions each on node groups of three kinds of accelerator, and three service classes for
each model. The state before is the plan for a demand a fifth lower.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from scheduler.bounds import lower_bounds
from scheduler.fleet import Variant
from scheduler.greedy import solve_greedily
from scheduler.instance import instance_of
from scheduler.planning import plan
from scheduler.plans import (
    Census,
    Demand,
    NodeGroup,
    NodeGroupName,
    Placement,
    Plan,
    PlanInput,
    PlanSettings,
)
from scheduler.requests import ModelName, Objective, VariantName
from scheduler.steps import AffineSteps
from scheduler.validation import validate

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

# Llama-3.1-8B on an H100 (ML.ENERGY v3, vLLM 0.11.1).
BF16 = AffineSteps(6.69e-3, 90e-6, 3.04, 0.071, 30e-6, 0.021, cap_w=700.0)
# Time and energy of a step and of a sequence, and quality, relative to bf16.
PRECISIONS = {
    "bf16": (1.0, 1.0, 1.0),
    "fp8": (0.65, 0.7, 0.995),
    "int8": (0.62, 0.75, 0.99),
    "int4": (0.45, 1.2, 0.96),
}
# Speed and power relative to an H100, watts bare and with a context, nodes per 100 accelerators.
ACCELERATORS = {
    "h100": (1.0, 1.0, 61.0, 119.7, 5),
    "a100": (0.6, 0.6, 55.0, 68.4, 4),
    "l40s": (0.3, 0.45, 35.0, 101.0, 4),
}
CLASSES = (Objective(0.5, 0.02, 0.99), Objective(2.0, 0.05, 0.95), Objective(30.0, 0.2))


def scaled(fixed: float, each: float, speed: float, power: float) -> AffineSteps:
    """Slow down or speed up the steps of bf16 on an H100."""
    return AffineSteps(
        t0_s=BF16.t0_s * fixed / speed,
        t1_s=BF16.t1_s * each / speed,
        e0_j=BF16.e0_j * fixed * power / speed,
        e1_j=BF16.e1_j * each * power / speed,
        prefill_s_per_token=BF16.prefill_s_per_token * each / speed,
        prefill_j_per_token=BF16.prefill_j_per_token * each * power / speed,
        cap_w=700.0 * power,
    )


def fleet(accelerators: int, models: int, load: float) -> PlanInput:
    """Make a mixed fleet at a share of about what bf16 on it could carry."""
    groups, variants, placements = {}, {}, []
    for kind, (speed, power, bare_w, context_w, nodes) in ACCELERATORS.items():
        name = NodeGroupName(kind)
        count = max(1, nodes * accelerators // 100)
        groups[name] = NodeGroup(name, kind, 8, count, 700.0, bare_w, 180.0, 200e3)
        for number in range(models):
            for precision, (fixed, each, quality) in PRECISIONS.items():
                variant = VariantName(f"m{number}-{precision}-{kind}")
                steps = scaled(fixed, each, speed, power)
                variants[variant] = Variant(
                    variant, ModelName(f"m{number}"), quality, 8192, 256, 400_000, steps, context_w
                )
                size = 1 if number % 2 == 0 else 2
                placements.append(Placement(variant, name, size, 60.0, 12_000.0))
    rate = load * accelerators * 7.5 / models / len(CLASSES)
    demands = tuple(
        Demand(ModelName(f"m{number}"), objective, rate * (1 + 0.1 * number), 1155.0, 211.0)
        for number in range(models)
        for objective in CLASSES
    )
    settings = PlanSettings()
    return PlanInput(Census(0.0, {}), variants, groups, tuple(placements), demands, settings)


def settled(accelerators: int, models: int, load: float) -> tuple[PlanInput, Plan]:
    """The same with what a plan for a lower demand left awake."""
    case = fleet(accelerators, models, load)
    before = plan(fleet(accelerators, models, load * 0.8))
    census = Census(60.0, before.replicas, nodes_on=before.nodes)
    return replace(case, census=census), before


@pytest.mark.parametrize("load", [0.1, 0.4, 0.9, 2.5])
@pytest.mark.parametrize(("accelerators", "models"), [(64, 1), (1024, 1), (1024, 4), (1024, 12)])
def test_plan(benchmark: BenchmarkFixture, accelerators: int, models: int, load: float) -> None:
    """Plan, with all that belongs to it: search, comparison with what is there, bound."""
    case, before = settled(accelerators, models, load)
    made = benchmark(plan, case, previous=before)
    benchmark.extra_info["replicas"] = sum(made.replicas.values())
    benchmark.extra_info["solver"] = made.solver
    benchmark.extra_info["gap"] = made.gap


@pytest.mark.parametrize("models", [1, 4])
def test_greedy(benchmark: BenchmarkFixture, models: int) -> None:
    """What is left when time runs out."""
    instance = instance_of(fleet(1024, models, 0.4))
    benchmark(solve_greedily, instance)


def test_validate(benchmark: BenchmarkFixture) -> None:
    """The look at a plan before it is carried out."""
    case, before = settled(1024, 1, 0.4)
    made = plan(case, previous=before)
    assert isinstance(benchmark(validate, made, case), Plan)


def test_bounds_of_a_window(benchmark: BenchmarkFixture) -> None:
    """One window's lower bounds."""
    case = fleet(1024, 1, 0.4)
    benchmark(lower_bounds, [(60.0, case)])
