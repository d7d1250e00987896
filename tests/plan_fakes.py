"""Fleets to plan for: Llama-3.1-8B on H100s as measured, and arbitrary small ones."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from scheduler.fleet import Variant
from scheduler.plans import (
    Census,
    Demand,
    NodeGroup,
    NodeGroupName,
    Placement,
    Plan,
    PlanInput,
    PlanSettings,
    Slot,
)
from scheduler.requests import ModelName, Objective, VariantName
from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from collections.abc import Mapping

LLAMA = ModelName("llama-8b")
BF16, FP8 = VariantName("bf16"), VariantName("fp8")
H100 = NodeGroupName("h100")
# Mean lengths of the Azure chat trace.
PROMPT_TOKENS, COMPLETION_TOKENS = 1155.0, 211.0
TPOT_20_MS = Objective(ttft_s=2.0, tpot_s=0.02)
# Llama-3.1-8B on an H100 (ML.ENERGY v3, vLLM 0.11.1); prefill at about TDP.
STEPS = AffineSteps(6.69e-3, 90e-6, 3.04, 0.071, 30e-6, 0.021, cap_w=700.0)
DECODE_ONLY = replace(STEPS, prefill_s_per_token=0.0, prefill_j_per_token=0.0)
CHEAPER = AffineSteps(4.4e-3, 60e-6, 1.9, 0.045, 16e-6, 0.012, cap_w=700.0)


def variant(
    name: VariantName = BF16,
    steps: AffineSteps = STEPS,
    *,
    quality: float = 1.0,
    idle_w: float = 119.7,
) -> Variant:
    return Variant(name, LLAMA, quality, 8192, 256, 400_000, steps, idle_w)


def group(
    *,
    size: int = 8,
    max_nodes: int = 8,
    node_w: float = 700.0,
    bare_w: float = 61.0,
    boot_j: float = 200_000.0,
) -> NodeGroup:
    return NodeGroup(H100, "h100-sxm", size, max_nodes, node_w, bare_w, 180.0, boot_j)


def demand(rate: float, objective: Objective = TPOT_20_MS, *, risk: float = 2.0) -> Demand:
    """Azure chat at a rate."""
    return Demand(LLAMA, objective, rate, PROMPT_TOKENS, COMPLETION_TOKENS, risk=risk)


def plan_input(
    *demands: Demand,
    variants: tuple[Variant, ...] = (),
    nodes: NodeGroup | None = None,
    awake: Mapping[VariantName, int] | None = None,
    nodes_on: int = 0,
    now_s: float = 0.0,
    start_j: float = 12_000.0,
    settings: PlanSettings | None = None,
) -> PlanInput:
    chosen = variants or (variant(),)
    where = nodes or group()
    slots = {Slot(name, where.name): count for name, count in (awake or {}).items()}
    return PlanInput(
        census=Census(now_s, slots, nodes_on={where.name: nodes_on} if nodes_on else {}),
        variants={v.name: v for v in chosen},
        groups={where.name: where},
        placements=tuple(Placement(v.name, where.name, 1, 60.0, start_j) for v in chosen),
        demands=demands,
        settings=settings or PlanSettings(solve_limit_s=30.0),
    )


def applied(plan: Plan, before: PlanInput, now_s: float | None = None) -> PlanInput:
    """The same input once a plan is carried out: all that it wants awake serves."""
    census = Census(
        observed_at_s=before.census.observed_at_s if now_s is None else now_s,
        awake={slot: count for slot, count in plan.replicas.items() if count},
        nodes_on={name: count for name, count in plan.nodes.items() if count},
    )
    return replace(before, census=census)


# ── anything that can be ────────────────────────────────────────────────────

_MODELS = (ModelName("a"), ModelName("b"))


@st.composite
def steps(draw: st.DrawFn) -> AffineSteps:
    t0_s = draw(st.floats(2e-3, 30e-3))
    t1_s = draw(st.floats(20e-6, 500e-6))
    p0_w = draw(st.floats(150.0, 500.0))
    marginal_j = draw(st.floats(0.005, 0.2))
    prefill_s = draw(st.floats(0.0, 50e-6))
    return AffineSteps(
        t0_s=t0_s,
        t1_s=t1_s,
        e0_j=p0_w * t0_s,
        e1_j=p0_w * t1_s + marginal_j,
        prefill_s_per_token=prefill_s,
        prefill_j_per_token=prefill_s * draw(st.floats(500.0, 700.0)),
        context_s_per_token=draw(st.sampled_from([0.0, 1e-8])),
        context_j_per_token=draw(st.sampled_from([0.0, 5e-6])),
    )


@st.composite
def variants(draw: st.DrawFn, name: str) -> Variant:
    return Variant(
        name=VariantName(name),
        model=draw(st.sampled_from(_MODELS)),
        quality=draw(st.sampled_from([0.9, 0.97, 1.0])),
        max_context_tokens=8192,
        max_batch=draw(st.sampled_from([8, 64, 256])),
        kv_capacity_tokens=draw(st.sampled_from([20_000, 400_000])),
        steps=draw(steps()),
        context_power_w=draw(st.floats(70.0, 140.0)),
    )


@st.composite
def groups(draw: st.DrawFn, name: str) -> NodeGroup:
    return NodeGroup(
        name=NodeGroupName(name),
        accelerator="h100-sxm",
        accelerators_per_node=draw(st.sampled_from([1, 4, 8])),
        max_nodes=draw(st.integers(1, 4)),
        node_power_w=draw(st.sampled_from([0.0, 100.0, 800.0])),
        bare_power_w=draw(st.sampled_from([0.0, 60.0])),
        boot_s=120.0,
        boot_j=draw(st.sampled_from([0.0, 100_000.0])),
        carbon_g_per_kwh=draw(st.sampled_from([0.0, 400.0])),
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    rate = draw(st.floats(0.0, 60.0))
    return Demand(
        model=draw(st.sampled_from(_MODELS)),
        objective=Objective(
            ttft_s=draw(st.sampled_from([0.3, 2.0])),
            tpot_s=draw(st.sampled_from([0.015, 0.03, 0.1])),
            min_quality=draw(st.sampled_from([0.0, 0.95, 1.0])),
        ),
        requests_per_s=rate,
        prompt_tokens=draw(st.floats(10.0, 4000.0)),
        completion_tokens=draw(st.floats(1.0, 1000.0)),
        cached_share=draw(st.sampled_from([0.0, 0.5])),
        upper_requests_per_s=rate * draw(st.sampled_from([0.0, 1.3])),
    )


def _nodes_held(nodes: NodeGroup, free: Mapping[NodeGroupName, int]) -> int:
    return nodes.max_nodes - free[nodes.name] // nodes.accelerators_per_node


@st.composite
def plan_inputs(draw: st.DrawFn, *, budgets: bool = True) -> PlanInput:
    """Any fleet of up to three variants on up to two node groups, in any state."""
    chosen = [draw(variants(f"v{number}")) for number in range(draw(st.integers(1, 3)))]
    nodes = [draw(groups(f"g{number}")) for number in range(draw(st.integers(1, 2)))]
    placements, awake = [], {}
    free = {n.name: n.accelerators_per_node * n.max_nodes for n in nodes}
    for each in chosen:
        for where in nodes:
            size = draw(st.sampled_from([1, 1, 2, 4]))
            # A share of a node that no replica of this size fits into stays empty.
            room = where.accelerators_per_node / max(1, where.accelerators_per_node // size)
            most = int(free[where.name] / room) if size <= where.accelerators_per_node else 0
            placement = Placement(
                each.name,
                where.name,
                size,
                60.0,
                draw(st.sampled_from([0.0, 12_000.0])),
                min_replicas=draw(st.sampled_from([0, 0, 0, 1])),
                max_replicas=draw(st.sampled_from([None, None, 2])),
            )
            placements.append(placement)
            count = draw(st.integers(0, min(most, 3)))
            free[where.name] -= math.ceil(count * room)
            awake[Slot(each.name, where.name)] = count
    on = {n.name: draw(st.integers(_nodes_held(n, free), n.max_nodes)) for n in nodes}
    census = Census(0.0, awake, nodes_on=on)
    budget_w = draw(st.sampled_from([None, None, 2000.0, 8000.0])) if budgets else None
    return PlanInput(
        census=census,
        variants={each.name: each for each in chosen},
        groups={where.name: where for where in nodes},
        placements=tuple(placements),
        demands=tuple(draw(st.lists(demands(), min_size=0, max_size=4))),
        settings=PlanSettings(
            power_budget_w=budget_w,
            carbon_weight=draw(st.sampled_from([0.0, 1000.0])),
            solve_limit_s=30.0,
        ),
    )
