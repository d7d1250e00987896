"""What the energy policy prefers, in situations that a reader can check by hand."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
from scheduler.policies import make_policy
from scheduler.policies.energy import Energy
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Candidate, Decision, Latencies, route
from scheduler.steps import AffineSteps

NOW_S = 10.0
# Llama-3.1-8B on an H100; int8 is made 40 % cheaper.
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
INT8 = replace(
    BF16,
    name=VariantName("int8"),
    quality=0.97,
    steps=AffineSteps(4e-3, 54e-6, 1.82, 0.043, 18e-6, 0.013),
)
REQUEST = Request(
    RequestId("r"),
    ModelName("m"),
    prompt_tokens=1000,
    max_tokens=500,
    expected_completion_tokens=200.0,
    objective=Objective(ttft_s=1.0, tpot_s=0.02),
    arrived_at_s=NOW_S,
)


def view(name: str, variant: Variant = BF16, *, running: int = 0, **report: float) -> ReplicaView:
    known = ReplicaReport(
        observed_at_s=NOW_S,
        running_requests=running,
        context_tokens=running * 1000,
        kv_cache_usage=running * 1000 / variant.kv_capacity_tokens,
    )
    return ReplicaView(ReplicaId(name), variant.name, known._replace(**report))  # type: ignore[arg-type]


def decide(*views: ReplicaView, request: Request = REQUEST) -> Decision:
    fleet = Fleet(NOW_S, {each.name: each for each in (BF16, INT8)}, views)
    outcome = route(request, fleet, make_policy("energy"), random.Random(1), explain=True)
    assert isinstance(outcome, Decision)
    return outcome


def candidate(decision: Decision, name: str) -> Candidate:
    return next(each for each in decision.candidates if each.replica == name)


def test_work_goes_to_the_busy_replica_rather_than_waking_an_idle_one() -> None:
    decision = decide(view("idle"), view("busy", running=20))
    assert decision.replica == "busy"
    # Of twenty-one that leave at random it is rarely the last; steps are longer there.
    busy, idle = (candidate(decision, name).terms["idle_j"] for name in ("busy", "idle"))
    assert 0 < busy < idle / 15


def test_busy_replicas_are_filled_rather_than_evened_out() -> None:
    decision = decide(view("few", running=5), view("some", running=15), view("many", running=30))
    assert decision.replica == "many"
    assert decision.ranking == ("some", "few")


def test_an_idle_replica_costs_all_that_it_draws_above_its_context_power() -> None:
    alone = candidate(decide(view("idle")), "idle")
    steps, tokens = BF16.steps, 200
    seconds = tokens * steps.decode_s(1) + steps.prefill_s(1000)
    # The prefill's own energy is counted whole; its time is idleness that ends.
    prefill_j = steps.prefill_j(1000) + (3.04 / 6.69e-3 - 120.0) * steps.prefill_s(1000)
    decode_j = tokens * steps.decode_j(1) - 120.0 * (seconds - steps.prefill_s(1000))
    assert alone.score == pytest.approx(prefill_j + decode_j, rel=1e-6)


def test_a_replica_at_its_objective_is_passed_over() -> None:
    crowded = view("crowded", running=150)  # 6.7 ms + 150 × 0.09 ms is above 90 % of 20 ms.
    assert decide(view("idle"), crowded).replica == "idle"
    relaxed = replace(REQUEST, objective=Objective(ttft_s=1.0, tpot_s=0.1))
    assert decide(view("idle"), crowded, request=relaxed).replica == "crowded"


def test_a_backlog_of_prompts_endangers_the_first_token() -> None:
    loaded = view("loaded", running=20, pending_prefill_tokens=60_000)  # 1.8 s of prefill.
    decision = decide(view("idle"), loaded)
    assert decision.replica == "idle"
    assert candidate(decision, "loaded").terms["slo_j"] > 0


def test_the_cheaper_precision_wins_where_quality_allows() -> None:
    views = view("a", BF16, running=20), view("b", INT8, running=20)
    decision = decide(*views)
    assert decision.variant == "int8"
    strict = replace(REQUEST, objective=Objective(ttft_s=1.0, tpot_s=0.02, min_quality=0.99))
    refused = decide(*views, request=strict)
    assert refused.variant == "bf16"
    assert "quality" in candidate(refused, "b").excluded


def test_a_replica_measured_slower_than_predicted_is_not_trusted_with_a_tight_objective() -> None:
    slow = view("slow", running=20)._replace(pace=3.5)
    assert decide(slow, view("true", running=19)).replica == "true"


def test_a_full_cache_is_feared_before_it_overflows() -> None:
    full = view("full", running=20, kv_cache_usage=0.99)
    assert decide(full, view("idle")).replica == "idle"


def test_an_old_report_counts_as_delay() -> None:
    old = view("old", running=20, observed_at_s=NOW_S - 4)
    assert decide(old, view("new", running=20)).replica == "new"


def test_work_booked_since_the_report_counts() -> None:
    booked = view("booked")._replace(booked_requests=3, booked_prompt_tokens=30)
    decision = decide(view("idle"), booked)
    assert decision.replica == "booked"


def test_a_batch_that_is_full_costs_the_average_and_a_wait() -> None:
    patient = replace(REQUEST, objective=Objective(ttft_s=60.0, tpot_s=1.0))
    full = view("full", running=256, kv_cache_usage=0.5)
    decision = decide(full, view("free", running=100), request=patient)
    assert decision.replica == "free"
    average_j = candidate(decision, "full").terms["decode_j"] / 200
    assert average_j == pytest.approx(3.04 / 256 + 0.071)


@pytest.mark.parametrize("objective_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_objective_that_nothing_can_keep_is_served_all_the_same(objective_s: float) -> None:
    odd = replace(REQUEST, objective=Objective(ttft_s=objective_s, tpot_s=objective_s))
    assert decide(view("a"), view("b", running=3), request=odd).replica in {"a", "b"}


def test_the_reason_compares_variants_in_joules() -> None:
    reason = decide(view("a", BF16, running=20), view("b", INT8, running=20)).reason
    assert reason.startswith("int8 is expected to cost ")
    assert ", bf16 " in reason
    assert " J; TTFT " in reason
    assert reason.endswith("of 1 s")
    assert "the only choice" in decide(view("a")).reason
    assert ", the next replica " in decide(view("a"), view("b", running=3)).reason
    late = replace(REQUEST, objective=Objective(ttft_s=1.0, tpot_s=0.0085))
    told = decide(view("a", BF16, running=60), view("b", INT8, running=20), request=late).reason
    assert "bf16" in told
    assert "J but later than it should; TTFT" in told


def test_a_cached_beginning_spares_energy_and_time() -> None:
    prefixes = PrefixIndex()
    variant = replace(BF16, prefix_block_tokens=16)
    blocks = tuple(range(1, 63))
    views = view("warm", variant, running=20), view("cold", variant, running=30)
    for each in views:
        prefixes.join(each.replica, 1000)
    prefixes.stored(ReplicaId("warm"), blocks[:50])
    fleet = Fleet(NOW_S, {variant.name: variant}, views, prefixes=prefixes)
    chat = replace(REQUEST, prefix_blocks=blocks)
    outcome = route(chat, fleet, make_policy("energy"), random.Random(1), explain=True)
    assert isinstance(outcome, Decision)
    assert (outcome.replica, outcome.cached_tokens) == ("warm", 800)
    assert "800 of 1000 prompt tokens cached" in outcome.reason
    warm, cold = (candidate(outcome, name).terms["prefill_j"] for name in ("warm", "cold"))
    assert cold - warm == pytest.approx(800 * 0.021)
    plain = route(REQUEST, fleet, make_policy("energy"), random.Random(1))
    assert isinstance(plain, Decision)
    assert (plain.replica, plain.cached_tokens) == ("cold", 0)


def test_a_prompt_that_is_cached_whole_still_computes_a_token() -> None:
    prefixes, variant = PrefixIndex(), replace(BF16, prefix_block_tokens=16)
    prefixes.join(ReplicaId("a"), 1000)
    prefixes.stored(ReplicaId("a"), tuple(range(62)))
    fleet = Fleet(NOW_S, {variant.name: variant}, (view("a", variant),), prefixes=prefixes)
    chat = replace(REQUEST, prompt_tokens=992, prefix_blocks=tuple(range(62)))
    outcome = route(chat, fleet, make_policy("energy"), random.Random(1))
    assert isinstance(outcome, Decision)
    assert outcome.cached_tokens == 991


def test_a_promise_that_was_missed_leaves_more_room_and_one_kept_a_little_less() -> None:
    policy, objective = Energy(), REQUEST.objective
    before = policy.share(REQUEST.model)
    promised = Latencies(objective.ttft_s / 2, objective.tpot_s)
    policy.learn(REQUEST, promised, Latencies(objective.ttft_s / 2, 1.1 * objective.tpot_s))
    after_a_miss = policy.share(REQUEST.model)
    assert after_a_miss < before
    policy.learn(REQUEST, promised, promised)
    assert after_a_miss < policy.share(REQUEST.model) < before


def test_what_was_never_promised_teaches_nothing() -> None:
    policy, objective = Energy(), REQUEST.objective
    late = Latencies(objective.ttft_s, 2 * objective.tpot_s)
    policy.learn(REQUEST, late, late)
    assert policy.share(REQUEST.model) == policy.slo_share


def test_in_the_long_run_the_share_that_misses_is_the_one_allowed() -> None:
    # TPOT scatters around what was predicted; the prediction is what room there is.
    policy, rng, missed = Energy(missable=0.05), random.Random(0), []
    objective = REQUEST.objective
    for _ in range(60_000):
        predicted = Latencies(0.0, policy.share(REQUEST.model) * objective.tpot_s)
        met = Latencies(0.0, predicted.tpot_s * rng.lognormvariate(0, 0.2))
        missed.append(met.tpot_s > objective.tpot_s)
        policy.learn(REQUEST, predicted, met)
    assert sum(missed[30_000:]) / 30_000 == pytest.approx(0.05, rel=0.1)
