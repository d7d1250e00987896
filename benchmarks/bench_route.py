"""How long a routing decision takes, on one core: `pytest benchmarks/bench_route.py`.

The bar is a median below 50 µs with 100 replicas and 150 µs with 1,000, for a prompt of 4,000
tokens with its look-up in the prefix index (`test_route_with_prefixes`). Hashing the prompt is
done once, before the decision (`test_hash_prompt`), and so is noting what was routed where
(`test_note_routed`), after it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from scheduler.blocks import block_hashes
from scheduler.board import FleetBoard
from scheduler.fleet import ReplicaReport, Variant
from scheduler.leases import Lease, LeaseBook
from scheduler.policies import POLICIES, make_policy
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Decision, route
from scheduler.steps import AffineSteps

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

MODEL = ModelName("llama-8b")
# Llama-3.1-8B on an H100, and the same with everything 40 % cheaper.
BF16 = AffineSteps(6.69e-3, 90e-6, 3.04, 0.071, 30e-6, 0.021)
FP8 = AffineSteps(4.4e-3, 60e-6, 1.9, 0.045, 16e-6, 0.012)
REQUEST = Request(
    request_id=RequestId("r"),
    model=MODEL,
    prompt_tokens=1155,
    max_tokens=512,
    expected_completion_tokens=211.0,
    objective=Objective(ttft_s=1.0, tpot_s=0.02),
    arrived_at_s=0.0,
)


def variant(name: str, steps: AffineSteps, quality: float) -> Variant:
    """Make a variant with the usual limits."""
    return Variant(VariantName(name), MODEL, quality, 8192, 256, 400_000, steps, 120.0, 16)


def board_of(replicas: int, prefixes: PrefixIndex | None = None) -> tuple[FleetBoard, LeaseBook]:
    """Make a fleet at all kinds of load, a tenth of it idle."""
    rng = random.Random(1)
    variants = {v.name: v for v in (variant("bf16", BF16, 1.0), variant("fp8", FP8, 0.99))}
    leases = LeaseBook()
    board = FleetBoard(variants, leases, prefixes=prefixes)
    for number in range(replicas):
        running = 0 if number % 10 == 0 else rng.randrange(1, 200)
        report = ReplicaReport(
            observed_at_s=rng.uniform(9.0, 10.0),
            running_requests=running,
            pending_prefill_tokens=rng.randrange(5000),
            context_tokens=running * 1200,
            kv_cache_usage=running * 1200 / 400_000,
            step_time_s=0.01,
        )
        board.report(ReplicaId(f"r{number}"), VariantName(("bf16", "fp8")[number % 2]), report)
    return board, leases


def prompt_of(seed: int) -> list[int]:
    """Make a prompt of 4,000 tokens."""
    rng = random.Random(seed)
    return [rng.randrange(128_000) for _ in range(4000)]


def filled_index(board: FleetBoard, prefixes: PrefixIndex) -> None:
    """Let all replicas hold a system prompt, some a part of the prompt, one nearly all of it.

    Each also holds sixteen other prompts.
    """
    blocks = block_hashes(prompt_of(0))
    others = [block_hashes(prompt_of(seed)) for seed in range(1, 65)]
    for number, view in enumerate(board.snapshot(10.0).replicas):
        for other in range(16):
            prefixes.stored(view.replica, others[(number + other) % len(others)])
        prefixes.stored(view.replica, blocks[:30])
        if number % 7 == 0:
            prefixes.stored(view.replica, blocks[:120])
        if number % 50 == 5:
            prefixes.stored(view.replica, blocks[:240])


@pytest.mark.parametrize("replicas", [2, 100, 1000])
@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_route(benchmark: BenchmarkFixture, policy: str, replicas: int) -> None:
    """The decision alone, on a snapshot at hand."""
    fleet = board_of(replicas)[0].snapshot(10.0)
    chooser, rng = make_policy(policy), random.Random(1)
    assert isinstance(benchmark(route, REQUEST, fleet, chooser, rng), Decision)


@pytest.mark.parametrize("replicas", [2, 100, 1000])
@pytest.mark.parametrize("policy", ["energy", "kv_overlap", "prefix_affinity", "queue_kv"])
def test_route_with_prefixes(benchmark: BenchmarkFixture, policy: str, replicas: int) -> None:
    """The decision for a prompt of 4,000 tokens, with its look-up in the prefix index."""
    prefixes = PrefixIndex()
    board, _ = board_of(replicas, prefixes)
    filled_index(board, prefixes)
    request = replace(REQUEST, prompt_tokens=4000, prefix_blocks=block_hashes(prompt_of(0)))
    fleet, chooser, rng = board.snapshot(10.0), make_policy(policy), random.Random(1)
    decision = benchmark(route, request, fleet, chooser, rng)
    assert isinstance(decision, Decision)


def test_hash_prompt(benchmark: BenchmarkFixture) -> None:
    """The hashes of a prompt of 4,000 tokens, once for each request."""
    assert len(benchmark(block_hashes, prompt_of(0))) == 250


def test_note_routed(benchmark: BenchmarkFixture) -> None:
    """A prompt of 4,000 tokens noted in a full index, which forgets as much."""
    prefixes = PrefixIndex(max_entries=100_000)
    board, _ = board_of(1000, prefixes)
    filled_index(board, prefixes)
    names = itertools.cycle([view.replica for view in board.snapshot(10.0).replicas])
    prompts = itertools.cycle([block_hashes(prompt_of(seed)) for seed in range(100, 200)])
    benchmark(lambda: prefixes.stored(next(names), next(prompts)))


@pytest.mark.parametrize("replicas", [2, 100, 1000])
def test_book_and_route(benchmark: BenchmarkFixture, replicas: int) -> None:
    """All that a gateway does for a request: snapshot, decision, lease, later its release."""
    board, leases = board_of(replicas)
    chooser, rng, numbers = make_policy("energy"), random.Random(1), itertools.count()

    def serve() -> None:
        decision = route(REQUEST, board.snapshot(10.0), chooser, rng)
        assert isinstance(decision, Decision)
        number = next(numbers)
        leases.book(Lease(number, REQUEST.request_id, decision.replica, 1155, 211, 1e9))
        leases.release(number - 16)

    benchmark(serve)


def test_explain(benchmark: BenchmarkFixture) -> None:
    """The same with every candidate's score spelt out."""
    fleet = board_of(100)[0].snapshot(10.0)
    chooser, rng = make_policy("energy"), random.Random(1)
    decision = benchmark(route, REQUEST, fleet, chooser, rng, explain=True)
    assert len(decision.candidates) == 100


def test_tabulate(benchmark: BenchmarkFixture) -> None:
    """What a decision costs on a fleet whose columns nobody keeps: the board's saving."""
    bare = replace(board_of(100)[0].snapshot(10.0), columns=None)
    benchmark(route, REQUEST, bare, make_policy("energy"), random.Random(1))
