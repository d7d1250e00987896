"""The baselines do what their names say; an unknown name is refused with those there are."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
from scheduler.policies import POLICIES, make_policy
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Candidate, Decision, NoReplica, Policy, route
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.01, 0.001, 1.0, 0.1, 1e-4, 0.01)
VARIANT = Variant(VariantName("v"), ModelName("m"), 1.0, 100, 4, 1000, STEPS, 10.0)
REQUEST = Request(RequestId("r"), ModelName("m"), 10, 10, 10.0, Objective(1.0, 1.0), 0.0)


def fleet(**running: int) -> Fleet:
    return Fleet(
        0.0,
        {VARIANT.name: VARIANT},
        tuple(
            ReplicaView(ReplicaId(name), VARIANT.name, ReplicaReport(0.0, running_requests=count))
            for name, count in running.items()
        ),
    )


def choose(policy: Policy, of: Fleet, rng: random.Random | None = None) -> ReplicaId:
    outcome = route(REQUEST, of, policy, rng or random.Random(1))
    assert isinstance(outcome, Decision)
    assert outcome.policy == policy.name
    return outcome.replica


def test_round_robin_takes_turns_and_goes_on_where_it_was_when_replicas_change() -> None:
    policy = make_policy("round_robin")
    assert [choose(policy, fleet(a=3, b=0, c=9)) for _ in range(4)] == ["a", "b", "c", "a"]
    assert choose(policy, fleet(z=0, a=0, b=0, c=0)) == "b"
    assert choose(policy, fleet(z=0, a=0, c=0)) == "c"
    assert choose(policy, fleet(z=0, a=0)) == "z"


def test_round_robin_keeps_a_turn_for_each_gateway_alone() -> None:
    first, second = make_policy("round_robin"), make_policy("round_robin")
    choose(first, fleet(a=0, b=0))
    assert choose(second, fleet(a=0, b=0)) == "a"


def test_least_loaded_takes_the_fewest_requests_and_ranks_the_others() -> None:
    of = fleet(a=3, b=1, c=2, d=4)
    outcome = route(REQUEST, of, make_policy("least_loaded"), random.Random(1))
    assert isinstance(outcome, Decision)
    assert outcome.replica == "b"
    assert outcome.ranking == ("c", "a", "d")


def test_power_of_two_prefers_the_lesser_load_without_herding() -> None:
    policy, rng = make_policy("power_of_two"), random.Random(3)
    counts = Counter[str](choose(policy, fleet(a=0, b=1, c=2, d=3), rng) for _ in range(600))
    # Of six pairs, a wins three, b two, c one.
    assert counts["d"] == 0
    assert 240 < counts["a"] < 360
    assert 140 < counts["b"] < 260
    assert 60 < counts["c"] < 140


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_knows_its_name_and_serves_from_one_replica(name: str) -> None:
    assert make_policy(name).name == name
    assert choose(make_policy(name), fleet(only=2)) == "only"


def test_an_unknown_policy_is_refused_with_the_known_names() -> None:
    with pytest.raises(
        ValueError, match="energy, kv_overlap, least_loaded, least_tokens, power_of_two"
    ):
        make_policy("fastest")


def test_refusals_say_why() -> None:
    policy, rng = make_policy("energy"), random.Random(1)
    none = route(REQUEST, fleet(), policy, rng)
    assert none == NoReplica("no replica of v is awake", "none_awake")
    full = route(REQUEST, fleet(a=100, b=100), policy, rng, explain=True)
    assert isinstance(full, NoReplica)
    assert full.kind == "full"
    assert "64 waiting" in full.reason
    assert "100 requests" in full.candidates[0].excluded


def test_of_many_candidates_the_best_can_be_told_alone() -> None:
    policy, waiting = make_policy("least_loaded"), {f"r{load}": load for load in (100, *range(9))}

    def told(most: int | None) -> tuple[Candidate, ...]:
        decision = route(
            REQUEST, fleet(**waiting), policy, random.Random(1), explain=True, most_explained=most
        )
        assert isinstance(decision, Decision)
        return decision.candidates

    assert len(told(None)) == len(waiting)
    assert told(4) == told(None)[:4]
    assert told(100) == tuple(each for each in told(None) if not each.excluded)
