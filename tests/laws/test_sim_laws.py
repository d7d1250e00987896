"""Laws of the virtual cluster."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.traces import TraceRequest
from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.descriptions import ClusterDescription, GatewaySettings, ServiceClass
from loadtest.virtual.events import EventQueue
from loadtest.virtual.kv_cache import KvCache, KvHolding
from loadtest.virtual.records import Loss
from loadtest.virtual.replica_pool import Target
from loadtest.virtual.sequences import Sequence
from loadtest.virtual.simulated_replica import EngineSettings, SimulatedReplica
from loadtest.virtual.step_runs import StepRun, decode_run
from loadtest.workloads import Workload
from scheduler.fleet import Variant
from scheduler.plans import NodeGroup, NodeGroupName, Placement, Slot
from scheduler.requests import ModelName, Objective, ReplicaId, VariantName
from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from loadtest.virtual.autoscalers import Observation
    from loadtest.virtual.outcomes import OutcomeTable

MODEL = ModelName("m")
BF16 = AffineSteps(6.69e-3, 90e-6, 3.04, 0.071, 30e-6, 0.021, 20e-9, 3e-6, 600)
FP8 = AffineSteps(4.4e-3, 60e-6, 1.9, 0.045, 16e-6, 0.012)


class Bent:
    """A step model that is not linear in the context: reading overlaps with computing."""

    def decode_s(self, batch: float, context_tokens: float = 0.0) -> float:
        return max(5e-3 + 50e-6 * batch, 4e-3 + 1e-6 * context_tokens)

    def decode_j(self, batch: float, context_tokens: float = 0.0) -> float:
        return min(2.0 + 1e-4 * context_tokens, 500 * self.decode_s(batch, context_tokens))

    def prefill_s(self, tokens: float) -> float:
        return 30e-6 * tokens

    def prefill_j(self, tokens: float) -> float:
        return 0.02 * tokens


def variant(name: str = "bf16", kv_tokens: int = 40_000, max_batch: int = 8) -> Variant:
    steps = FP8 if name == "fp8" else BF16
    return Variant(VariantName(name), MODEL, 1.0, 8000, max_batch, kv_tokens, steps, 120.0)


# ── steps ───────────────────────────────────────────────────────────────────


@given(
    first=st.floats(1e-3, 0.1),
    slope=st.floats(0, 1e-4),
    steps=st.integers(1, 500),
    start=st.floats(0, 1e4),
    when=st.floats(-0.1, 1.1),
)
def test_a_leap_is_its_steps(
    first: float, slope: float, steps: int, start: float, when: float
) -> None:
    run = StepRun(start, steps, first, 1.0, slope)
    ends = [start]
    for number in range(steps):
        ends.append(ends[-1] + first + slope * number)
    assert run.ends_at_s == pytest.approx(ends[-1], rel=1e-9)
    now = start + when * (ends[-1] - start)
    done = sum(end <= now for end in ends[1:])
    assert run.completed(now) in {done, *(n for n in (done - 1, done + 1) if near(ends, n, now))}
    whole = run.steps
    run.cut(now)
    # The step under way is the last one, or all of them are over.
    assert run.steps == whole or run.ends_at_s >= now - 1e-9
    assert run.steps == whole or run.completed(now) >= run.steps - 1


def near(ends: list[float], number: int, now: float) -> bool:
    return 0 <= number < len(ends) and any(abs(end - now) < 1e-8 for end in ends)


@given(batch=st.integers(1, 64), context=st.integers(0, 50_000), most=st.integers(1, 400))
def test_leaps_over_a_bent_model_stay_exact(batch: int, context: int, most: int) -> None:
    model = Bent()
    run = decode_run(model, 0.0, batch, context, most)
    assert 1 <= run.steps <= most
    contexts = [context + batch * number for number in range(run.steps)]
    assert run.time_s(run.steps) == pytest.approx(
        sum(model.decode_s(batch, each) for each in contexts), rel=1e-7
    )
    assert run.decode_j(run.steps) == pytest.approx(
        sum(model.decode_j(batch, each) for each in contexts), rel=1e-7
    )


# ── KV cache ────────────────────────────────────────────────────────────────


@settings(max_examples=60)
@given(st.data())
def test_kv_blocks_are_never_more_than_there_are_and_none_leaks(data: st.DataObject) -> None:
    block = data.draw(st.sampled_from([1, 4, 16]))
    cache = KvCache(data.draw(st.integers(4, 40)) * block, block)
    prompts: list[KvHolding] = []
    decoding: list[KvHolding] = []
    tokens: dict[int, int] = {}
    step = 0
    for _ in range(data.draw(st.integers(1, 40))):
        action = data.draw(st.sampled_from(["admit", "join", "grow", "release"]))
        if action == "admit":
            total = data.draw(st.integers(1, 12 * block))
            family = data.draw(st.integers(0, 3))
            holding = KvHolding(tuple(100 * family + n for n in range(total // block)))
            found = cache.admit(holding, total, total)
            if found is not None:
                assert found < total
                assert holding.tokens == total
                prompts.append(holding)
        elif action == "join" and prompts:
            holding = prompts.pop()
            tokens[id(holding)] = holding.tokens - step
            cache.join(holding, step)
            decoding.append(holding)
        elif action == "grow" and decoding:
            steps = min(data.draw(st.integers(1, 50)), cache.affordable(step, 50))
            before = cache.used_blocks
            expected = sum(
                cache.blocks(tokens[id(each)] + step + steps)
                - cache.blocks(tokens[id(each)] + step)
                for each in decoding
            )
            assert cache.growth(step, steps) == expected
            cache.grow(step, steps)
            assert cache.used_blocks - before == expected
            step += steps
        elif action == "release" and decoding:
            holding = decoding.pop(data.draw(st.integers(0, len(decoding) - 1)))
            cache.leave(holding, tokens[id(holding)] + step, step)
            cache.release(holding)
        assert cache.used_blocks + cache.cached_blocks <= cache.capacity_blocks
        assert cache.free_blocks >= 0
    for holding in decoding:
        cache.leave(holding, tokens[id(holding)] + step, step)
        cache.release(holding)
    for holding in prompts:
        cache.release(holding)
    assert cache.used_blocks == 0
    assert cache.decoding == 0


def test_a_prefix_is_found_until_its_space_is_needed() -> None:
    cache = KvCache(10 * 16, 16)
    first, again, other = (
        KvHolding((1, 2, 3)),
        KvHolding((1, 2, 9)),
        KvHolding(tuple(range(50, 59))),
    )
    assert cache.admit(first, 48, 100) == 0
    cache.release(first)
    assert cache.admit(again, 48, 100) == 32
    cache.release(again)
    assert cache.admit(other, 144, 1000) == 0
    cache.release(other)
    # One block was left to what came before: the beginning, which is of use to most.
    assert cache.admit(KvHolding((1, 2, 3)), 48, 100) == 16


# ── one replica ─────────────────────────────────────────────────────────────


class Ends:
    """Notes when sequences end."""

    def __init__(self, events: EventQueue) -> None:
        self.events = events
        self.at_s: dict[int, float] = {}

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self.at_s[sequence.number] = self.events.now_s

    def emptied(self, replica: SimulatedReplica) -> None:
        assert replica.requests == 0


def serve(
    requests: list[tuple[float, int, int, tuple[int, ...]]], spec: Variant, engine: EngineSettings
) -> tuple[list[Sequence], Ends, SimulatedReplica]:
    events = EventQueue()
    ends = Ends(events)
    replica = SimulatedReplica(ReplicaId("r"), spec, engine, events, ends)
    sequences = []

    def submit(sequence: Sequence) -> None:
        assert replica.submit(sequence)
        report = replica.report(events.now_s)
        assert report.kv_cache_usage <= 1.0
        assert report.pending_prefill_tokens >= 0

    for number, (at_s, prompt, completion, hash_ids) in enumerate(requests):
        sequence = Sequence(number, prompt, completion, hash_ids)
        sequences.append(sequence)
        events.at(at_s, partial(submit, sequence))
    events.run_until(1e6)
    return sequences, ends, replica


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kv_tokens=st.sampled_from([2_000, 5_000, 40_000]),
    block=st.sampled_from([16, 64, 512]),
    rate=st.sampled_from([2.0, 10.0, 60.0]),
    bent=st.booleans(),
)
def test_leaping_changes_nothing(
    *, seed: int, kv_tokens: int, block: int, rate: float, bent: bool
) -> None:
    rng, at_s, requests = random.Random(seed), 0.0, []
    for number in range(60):
        at_s += rng.expovariate(rate)
        prompt = rng.randrange(1, 1200)
        shared = rng.randrange(4)
        hash_ids = tuple(
            1000 * shared + n if n < 2 else 10**6 * number + n for n in range(prompt // block)
        )
        requests.append((at_s, prompt, rng.randrange(1, 300), hash_ids))
    spec = variant(kv_tokens=kv_tokens)
    if bent:
        spec = replace(spec, steps=Bent())
    engine = EngineSettings(max_batched_tokens=512, block_tokens=block)
    leaping, ends, replica = serve(requests, spec, engine)
    stepping, other_ends, other = serve(requests, spec, replace(engine, leap=False))
    for one, two in zip(leaping, stepping, strict=True):
        assert one.first_token_at_s == pytest.approx(two.first_token_at_s, abs=1e-6)
        assert ends.at_s[one.number] == pytest.approx(other_ends.at_s[two.number], abs=1e-6)
        assert one.energy_j == pytest.approx(two.energy_j, rel=1e-6)
        assert one.preemptions == two.preemptions
    now_s = replica_end(ends)
    assert replica.energy(1e6).total_j == pytest.approx(other.energy(1e6).total_j, rel=1e-9)
    assert replica.completion_tokens(now_s) == sum(each[2] for each in requests)
    assert replica.kv.used_blocks == 0


def replica_end(ends: Ends) -> float:
    return max(ends.at_s.values())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), budget=st.sampled_from([64, 512, 8192]))
def test_no_token_before_its_prefill(*, seed: int, budget: int) -> None:
    rng, at_s, requests = random.Random(seed), 0.0, []
    for _ in range(40):
        at_s += rng.expovariate(20.0)
        prompt = rng.randrange(1, 3000)
        requests.append((at_s, prompt, rng.randrange(1, 50), tuple(range(prompt // 16))))
    engine = EngineSettings(max_batched_tokens=budget)
    sequences, ends, _ = serve(requests, variant(), engine)
    for (arrived_s, prompt, completion, _), sequence in zip(requests, sequences, strict=True):
        least_s = BF16.prefill_s(prompt - sequence.cached_tokens)
        assert sequence.first_token_at_s >= arrived_s + least_s - 1e-9
        decoding_s = ends.at_s[sequence.number] - sequence.first_token_at_s
        assert decoding_s >= (completion - 1) * BF16.decode_s(1) - 1e-9
        assert sequence.generated == completion
        assert 0 <= sequence.cached_tokens < prompt


# ── the cluster ─────────────────────────────────────────────────────────────


class Whims:
    """Scales at random, as badly as it can."""

    name = "whims"

    def __init__(self, seed: int, slots: tuple[Slot, ...], most: int) -> None:
        self.period_s = 3.0
        self._rng = random.Random(seed)
        self._slots = slots
        self._most = most

    def initial(self) -> Target:
        return Target(dict.fromkeys(self._slots, 2))

    def decide(self, seen: Observation) -> Target:
        wanted = {slot: self._rng.randint(0, self._most) for slot in self._slots}
        nodes = {slot.group: self._rng.randint(0, 3) for slot in self._slots}
        return Target(wanted, nodes if self._rng.random() < 0.7 else None)


def cluster_of(gateways: int = 1, kv_tokens: int = 20_000) -> ClusterDescription:
    group = NodeGroup(NodeGroupName("n"), "gpu", 2, 3, 500.0, 60.0, 7.0, 4000.0)
    variants = [variant(name, kv_tokens) for name in ("bf16", "fp8")]
    return ClusterDescription(
        name="small",
        model=MODEL,
        variants={each.name: each for each in variants},
        groups={group.name: group},
        placements=tuple(Placement(each.name, group.name, 1, 4.0, 900.0) for each in variants),
        classes={"chat": ServiceClass("chat", Objective(1.0, 0.03))},
        gateway=GatewaySettings(gateways=gateways),
    )


def workload_of(seed: int, rate: float = 15.0, count: int = 300) -> Workload:
    rng, at_s, requests = random.Random(seed), 0.0, []
    for _ in range(count):
        at_s += rng.expovariate(rate)
        prompt, family = rng.randrange(1, 4000), rng.randrange(5)
        hash_ids = tuple(family * 1000 + n for n in range(prompt // 16))
        requests.append(TraceRequest(at_s, prompt, rng.randrange(1, 300), hash_ids, "chat"))
    return Workload("random", tuple(requests), at_s + 1.0, 16)


def check(cluster: VirtualCluster) -> None:
    balance = cluster.balance()
    assert balance.injected == sum(balance[1:])
    parts = cluster.energy()
    assert cluster.attributed_j() == pytest.approx(parts.prefill_j + parts.decode_j, abs=1e-4)
    assert cluster.metered_j() == pytest.approx(parts.total_j, rel=1e-9)
    for replica in cluster.pool.replicas.values():
        assert replica.kv.used_blocks + replica.kv.cached_blocks <= replica.kv.capacity_blocks
        assert replica.running <= replica.variant.max_batch
    for nodes in cluster.pool.nodes.nodes.values():
        for node in nodes:
            assert 0 <= node.free <= node.group.accelerators_per_node


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(["energy", "power_of_two", "round_robin", "least_loaded"]),
    gateways=st.integers(1, 3),
    kv_tokens=st.sampled_from([6_000, 20_000]),
    losses=st.lists(st.tuples(st.floats(0.5, 15), st.booleans()), max_size=3),
)
def test_requests_and_joules_are_conserved_at_any_instant(
    *, seed: int, policy: str, gateways: int, kv_tokens: int, losses: list[tuple[float, bool]]
) -> None:
    description = cluster_of(gateways, kv_tokens)
    slots = tuple(Slot(each.variant, each.group) for each in description.placements)
    cluster = VirtualCluster(
        description,
        policy,
        Whims(seed, slots, 4),
        seed,
        losses=[Loss(*each) for each in losses],
    )
    workload = workload_of(seed)
    cluster.begin(workload)
    rng = random.Random(seed)
    instants = sorted(rng.uniform(0, workload.duration_s) for _ in range(20))
    before = cluster.mark()
    for at_s in instants:
        cluster.events.run_until(at_s)
        check(cluster)
        mark = cluster.mark()
        assert mark.completion_tokens >= before.completion_tokens
        assert all(b >= a - 1e-6 for a, b in pairwise((before.energy.total_j, mark.energy.total_j)))
        before = mark
    cluster.events.run_until(workload.duration_s + 300.0)
    check(cluster)
    balance = cluster.balance()
    assert balance.injected == len(workload.requests)
    assert balance.running == balance.queued == 0
    assert cluster.leases() == 0


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), policy=st.sampled_from(["energy", "power_of_two"]))
def test_a_run_depends_on_its_seed_alone(*, seed: int, policy: str) -> None:
    description, workload = cluster_of(2), workload_of(seed)

    def run() -> list[float]:
        record = VirtualCluster(description, policy, EverythingAwake(description), seed).run(
            workload
        )
        return [
            *record.outcomes.e2e_latency_s,
            *record.outcomes.energy_j,
            record.end.energy.total_j,
        ]

    one, two = run(), run()
    assert all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, two, strict=True))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), policy=st.sampled_from(["energy", "power_of_two"]))
def test_leaping_changes_no_decision(*, seed: int, policy: str) -> None:
    description, workload = cluster_of(), workload_of(seed, rate=8.0, count=150)
    single = replace(description, engine=replace(description.engine, leap=False))
    runs = [
        VirtualCluster(each, policy, EverythingAwake(each), seed).run(workload)
        for each in (description, single)
    ]
    for name in ("ttft_s", "e2e_latency_s", "energy_j"):
        one, two = (by_arrival(record.outcomes, name) for record in runs)
        assert one == pytest.approx(two, rel=1e-6, abs=1e-6, nan_ok=True)
    assert runs[0].end.energy.total_j == pytest.approx(runs[1].end.energy.total_j, rel=1e-6)


def by_arrival(table: OutcomeTable, column: str) -> list[float]:
    order = np.argsort(table.arrived_at_s)
    values: list[float] = getattr(table, column)[order].tolist()
    return values
