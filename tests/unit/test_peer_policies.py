"""Baselines after other systems decide as those do, in situations that a reader can check."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
from scheduler.policies.kv_overlap import KvOverlap
from scheduler.policies.least_tokens import LeastTokens
from scheduler.policies.prefix_affinity import PrefixAffinity
from scheduler.policies.queue_kv import QueueKv
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Decision, Policy, route
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.01, 0.0, 1.0, 0.1, 1e-4, 0.01)
VARIANT = Variant(
    VariantName("v"), ModelName("m"), 1.0, 4096, 64, 10_000, STEPS, 10.0, prefix_block_tokens=16
)
SLOW = Variant(
    VariantName("slow"),
    ModelName("m"),
    1.0,
    4096,
    64,
    10_000,
    AffineSteps(0.03, 0.0, 1.0, 0.1, 1e-4, 0.01),
    10.0,
    prefix_block_tokens=0,
)
BLOCKS = tuple(range(1, 11))
REQUEST = Request(
    RequestId("r"),
    ModelName("m"),
    prompt_tokens=165,
    max_tokens=20,
    expected_completion_tokens=20.0,
    objective=Objective(1.0, 1.0),
    arrived_at_s=0.0,
    prefix_blocks=BLOCKS,
)


def report(running: int = 0, **figures: float) -> ReplicaReport:
    return ReplicaReport(0.0, running_requests=running, **figures)  # type: ignore[arg-type]


def fleet(cached: dict[str, int] | None = None, **reports: ReplicaReport) -> Fleet:
    prefixes = PrefixIndex()
    for name, blocks in (cached or {}).items():
        prefixes.join(ReplicaId(name), 100)
        prefixes.stored(ReplicaId(name), BLOCKS[:blocks])
    views = tuple(
        ReplicaView(ReplicaId(name), SLOW.name if name.startswith("slow") else VARIANT.name, told)
        for name, told in reports.items()
    )
    return Fleet(0.0, {each.name: each for each in (VARIANT, SLOW)}, views, prefixes=prefixes)


def choose(policy: Policy, of: Fleet, seed: int = 1) -> str:
    outcome = route(REQUEST, of, policy, random.Random(seed))
    assert isinstance(outcome, Decision)
    assert outcome.policy == policy.name
    assert outcome.reason
    return outcome.replica


def test_queue_kv_weighs_queue_cache_and_prefix() -> None:
    assert choose(QueueKv(), fleet(a=report(waiting_requests=5), b=report())) == "b"
    assert choose(QueueKv(), fleet(a=report(kv_cache_usage=0.5), b=report())) == "b"
    cached = fleet({"a": 10}, a=report(kv_cache_usage=0.5), b=report())
    assert choose(QueueKv(), cached) == "a"  # 3 × 160/165 outweighs 2 × 0.5.
    assert choose(QueueKv(prefix_weight=1.0), cached) == "b"


def test_least_tokens_counts_seconds_of_work() -> None:
    busy, free = report(2, context_tokens=900), report(30, context_tokens=300)
    assert choose(LeastTokens(), fleet(busy=busy, free=free)) == "free"
    # A third of the throughput: 400 tokens there are 1,200 here.
    slow = report(2, context_tokens=400)
    assert choose(LeastTokens(), fleet(busy=busy, slow=slow)) == "busy"
    full = report(2, kv_cache_usage=0.97)
    assert choose(LeastTokens(), fleet(busy=busy, full=full)) == "busy"


def test_kv_overlap_adds_blocks_to_compute_and_to_hold() -> None:
    loaded = report(2, kv_cache_usage=0.02)  # 200 tokens: more than the 160 that it spares.
    assert choose(KvOverlap(), fleet({"a": 10}, a=loaded, b=report())) == "b"
    assert choose(KvOverlap(prefill_scale=2.0), fleet({"a": 10}, a=loaded, b=report())) == "a"


def test_kv_overlap_with_a_temperature_prefers_and_does_not_insist() -> None:
    of = fleet(a=report(), b=report(4, kv_cache_usage=0.1))
    counts = Counter(choose(KvOverlap(temperature=1.0), of, seed) for seed in range(400))
    # Two costs, one apart in units of their range: 1 / (1 + 1/e).
    assert counts["a"] / 400 == pytest.approx(1 / (1 + np.exp(-1)), abs=0.07)


def test_prefix_affinity_follows_the_prefix_while_loads_are_even() -> None:
    assert choose(PrefixAffinity(), fleet({"a": 2}, a=report(8), b=report(1))) == "a"
    few = fleet({"a": 1}, a=report(8, context_tokens=800), b=report(1, context_tokens=100))
    assert choose(PrefixAffinity(), few) == "b"  # 16 of 165 tokens are less than a tenth.
    skewed = fleet({"a": 10}, a=report(12), b=report(1))
    assert choose(PrefixAffinity(), skewed) == "b"


def test_what_an_engine_without_a_cache_holds_is_nothing() -> None:
    of = fleet({"slow": 10, "a": 5}, slow=report(), a=report())
    outcome = route(REQUEST, of, PrefixAffinity(), random.Random(1))
    assert isinstance(outcome, Decision)
    assert (outcome.replica, outcome.cached_tokens) == ("a", 80)
