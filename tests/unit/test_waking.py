"""When a decision advises to wake a further replica, and of which variant."""

from __future__ import annotations

import random
from dataclasses import replace

from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Sleeper, Variant
from scheduler.policies import make_policy
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Decision, NoReplica, route
from scheduler.steps import AffineSteps

BF16 = Variant(
    VariantName("bf16"),
    ModelName("m"),
    1.0,
    8192,
    256,
    400_000,
    AffineSteps(6.69e-3, 90e-6, 3.04, 0.071, 30e-6, 0.021),
    120.0,
)
FP8 = replace(
    BF16,
    name=VariantName("fp8"),
    quality=0.97,
    steps=AffineSteps(4e-3, 54e-6, 1.82, 0.043, 18e-6, 0.013),
)
SLEEPERS = (
    Sleeper(BF16.name, start_s=60.0, start_j=12_000.0),
    Sleeper(FP8.name, start_s=60.0, start_j=12_000.0),
)
REQUEST = Request(
    RequestId("r"), ModelName("m"), 1000, 500, 200.0, Objective(1.0, 0.02), arrived_at_s=0.0
)


def decide(
    *running: int,
    request: Request = REQUEST,
    sleepers: tuple[Sleeper, ...] = SLEEPERS,
    policy: str = "energy",
) -> Decision | NoReplica:
    views = tuple(
        ReplicaView(
            ReplicaId(f"r{number}"),
            BF16.name,
            ReplicaReport(0.0, running_requests=count, context_tokens=count * 1000),
        )
        for number, count in enumerate(running)
    )
    variants = {each.name: each for each in (BF16, FP8)}
    fleet = Fleet(0.0, variants, views, sleepers=sleepers)
    return route(request, fleet, make_policy(policy), random.Random(1))


def test_nothing_is_woken_while_somebody_awake_has_room() -> None:
    assert decide(250, 20).wake is None
    assert decide(0).wake is None


def test_when_all_are_at_their_limits_the_cheapest_sleeper_is_named() -> None:
    assert decide(250, 240).wake == "fp8"


def test_the_floor_and_a_pinned_variant_hold_for_sleepers_too() -> None:
    strict = replace(REQUEST, objective=Objective(1.0, 0.02, min_quality=1.0))
    assert decide(250, request=strict).wake == "bf16"
    assert decide(250, request=replace(REQUEST, variant=BF16.name)).wake == "bf16"


def test_a_dear_start_counts() -> None:
    dear = (SLEEPERS[0], replace(SLEEPERS[1], start_j=1e6))
    assert decide(250, sleepers=dear).wake == "bf16"


def test_with_nobody_awake_the_refusal_names_it() -> None:
    refusal = decide()
    assert isinstance(refusal, NoReplica)
    assert (refusal.kind, refusal.wake) == ("none_awake", "fp8")


def test_nothing_is_named_that_could_not_help_or_where_nobody_asks() -> None:
    hopeless = replace(REQUEST, objective=Objective(1.0, 0.001))
    assert decide(250, request=hopeless).wake is None
    assert decide(250, sleepers=()).wake is None
    assert decide(250, policy="least_loaded").wake is None
