"""What every policy must obey, on any fleet."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.board import FleetBoard
from scheduler.fleet import Fleet, ReplicaReport, ReplicaView, Variant
from scheduler.leases import Lease, LeaseBook, fleet_view
from scheduler.outlook import tabulate
from scheduler.policies import POLICIES, make_policy
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ModelName, Objective, ReplicaId, Request, RequestId, VariantName
from scheduler.routing import Decision, Limits, NoReplica, route
from scheduler.steps import AffineSteps

NOW_S = 100.0
LIMITS = Limits(max_waiting=4, stale_after_s=5.0, max_fallbacks=2)


def make_variant(name: str, model: str, scale: float, quality: float) -> Variant:
    steps = AffineSteps(0.0067 * scale, 9e-5 * scale, 3.0 * scale, 0.07 * scale, 3e-5, 0.02 * scale)
    return Variant(
        VariantName(name), ModelName(model), quality, 2048, 8, 16384, steps, 120.0 * scale
    )


VARIANTS = {
    variant.name: variant
    for variant in (
        make_variant("bf16", "m", 1.0, 1.0),
        make_variant("int8", "m", 0.6, 0.97),
        make_variant("other", "n", 1.0, 1.0),
    )
}

reports = st.builds(
    ReplicaReport,
    observed_at_s=st.floats(NOW_S - 20, NOW_S),
    running_requests=st.integers(0, 8),
    waiting_requests=st.integers(0, 8),
    pending_prefill_tokens=st.integers(0, 5000),
    context_tokens=st.integers(0, 16384),
    kv_cache_usage=st.floats(0, 1),
    prefill_tokens_per_s=st.floats(0, 1e4),
    step_time_s=st.floats(0, 0.1),
)
members = st.tuples(st.sampled_from(sorted(VARIANTS)), reports, st.integers(0, 4), st.booleans())
requests = st.builds(
    Request,
    request_id=st.just(RequestId("r")),
    model=st.sampled_from([ModelName("m"), ModelName("n"), ModelName("unknown")]),
    prompt_tokens=st.integers(1, 3000),
    max_tokens=st.integers(1, 1000),
    expected_completion_tokens=st.floats(1, 500),
    objective=st.builds(
        Objective,
        ttft_s=st.floats(0.01, 10),
        tpot_s=st.floats(0.001, 1),
        min_quality=st.sampled_from([0.0, 0.98, 2.0]),
    ),
    arrived_at_s=st.just(NOW_S),
    variant=st.sampled_from([None, None, VariantName("bf16"), VariantName("none")]),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    drawn = draw(st.lists(members, max_size=12))
    return Fleet(
        NOW_S,
        VARIANTS,
        tuple(
            ReplicaView(
                ReplicaId(f"r{number}"), variant, report, booked, booked * 100, booked * 50.0, drain
            )
            for number, (variant, report, booked, drain) in enumerate(drawn)
        ),
    )


def suits(view: ReplicaView, request: Request) -> bool:
    variant = VARIANTS[view.variant]
    return (
        variant.model == request.model
        and request.variant in {None, variant.name}
        and variant.quality >= request.objective.min_quality
        and request.prompt_tokens + request.max_tokens <= variant.max_context_tokens
    )


def takes(view: ReplicaView) -> bool:
    bound = VARIANTS[view.variant].max_batch + LIMITS.max_waiting
    return not view.draining and view.requests < bound


@given(st.sampled_from(sorted(POLICIES)), fleets(), requests, st.integers(0, 9))
def test_a_decision_names_a_replica_that_can_serve_if_there_is_one(
    policy: str, fleet: Fleet, request: Request, seed: int
) -> None:
    able = {view.replica: view for view in fleet.replicas if suits(view, request) and takes(view)}
    outcome = route(request, fleet, make_policy(policy), random.Random(seed), limits=LIMITS)
    if not able:
        assert isinstance(outcome, NoReplica)
        return
    assert isinstance(outcome, Decision)
    assert able[outcome.replica].variant == outcome.variant
    assert outcome.reason
    assert outcome.replica not in outcome.ranking
    assert len(outcome.ranking) <= LIMITS.max_fallbacks
    assert all(able[replica].variant == outcome.variant for replica in outcome.ranking)
    fresh = [v for v in able.values() if NOW_S - v.report.observed_at_s <= LIMITS.stale_after_s]
    assert not fresh or able[outcome.replica] in fresh


@given(fleets(), requests)
def test_a_refusal_says_which_kind_it_is(fleet: Fleet, request: Request) -> None:
    outcome = route(request, fleet, make_policy("energy"), random.Random(1), limits=LIMITS)
    if isinstance(outcome, Decision):
        return
    suited = [view for view in fleet.replicas if suits(view, request)]
    ever = [ReplicaView(ReplicaId("x"), name, ReplicaReport(NOW_S)) for name in VARIANTS]
    if not any(suits(view, request) for view in ever):
        assert outcome.kind == "unattainable"
    elif all(view.draining for view in suited):
        assert outcome.kind == "none_awake"
    else:
        assert outcome.kind == "full"
    assert outcome.reason


@given(st.sampled_from(sorted(POLICIES)), fleets(), requests, st.integers(0, 9))
def test_explaining_changes_nothing_and_names_every_replica_of_the_model(
    policy: str, fleet: Fleet, request: Request, seed: int
) -> None:
    plain = route(request, fleet, make_policy(policy), random.Random(seed), limits=LIMITS)
    full = route(
        request, fleet, make_policy(policy), random.Random(seed), limits=LIMITS, explain=True
    )
    assert replace(full, candidates=()) == plain
    known = any(variant.model == request.model for variant in VARIANTS.values())
    named = sorted(candidate.replica for candidate in full.candidates)
    if known and not (isinstance(full, NoReplica) and full.kind == "unattainable"):
        serving = [v.replica for v in fleet.replicas if VARIANTS[v.variant].model == request.model]
        assert named == sorted(serving)
    if isinstance(full, Decision):
        served = [candidate for candidate in full.candidates if not candidate.excluded]
        assert served[0].replica == full.replica
        assert [c.score for c in served[1:]] == sorted(c.score for c in served[1:])
        assert all(candidate.excluded for candidate in full.candidates[len(served) :])


@given(st.sampled_from(sorted(POLICIES)), fleets(), requests, st.data())
def test_a_replica_to_avoid_is_avoided(
    policy: str, fleet: Fleet, request: Request, data: st.DataObject
) -> None:
    names = [view.replica for view in fleet.replicas]
    avoid = frozenset(data.draw(st.lists(st.sampled_from(names)))) if names else frozenset()
    outcome = route(
        request, fleet, make_policy(policy), random.Random(1), limits=LIMITS, avoid=avoid
    )
    if isinstance(outcome, Decision):
        assert outcome.replica not in avoid
        assert avoid.isdisjoint(outcome.ranking)


@given(st.lists(members, max_size=10), st.data())
def test_the_board_shows_what_a_fresh_merge_would(
    drawn: list[tuple[VariantName, ReplicaReport, int, bool]], data: st.DataObject
) -> None:
    leases = LeaseBook()
    board = FleetBoard(VARIANTS, leases)
    known: dict[ReplicaId, tuple[VariantName, ReplicaReport]] = {}
    draining: set[ReplicaId] = set()
    for number, (wanted, report, booked, drain) in enumerate(drawn):
        replica = ReplicaId(f"r{data.draw(st.integers(0, 4))}")
        variant = known[replica][0] if replica in known else wanted
        known[replica] = (variant, report)
        board.report(replica, variant, report)
        for count in range(booked):
            leases.book(Lease(number * 10 + count, RequestId("r"), replica, 7, 5, 1e9))
        leases.acknowledge(number * 10 - 9)
        if drain:
            board.drain(replica)
            draining.add(replica)
        if data.draw(st.booleans()):
            gone = data.draw(st.sampled_from(sorted(known)))
            board.leave(gone)
            del known[gone]
            draining.discard(gone)
        fleet = board.snapshot(NOW_S)
        rows = [(name, *known[name]) for name in known]
        merged = fleet_view(NOW_S, VARIANTS, rows, leases, frozenset(draining))
        assert {v.replica: v for v in fleet.replicas} == {v.replica: v for v in merged.replicas}
        assert fleet.columns is not None
        for model, expected in tabulate(replace(fleet, columns=None)).items():
            shown = fleet.columns[model]
            assert shown.replicas == expected.replicas
            assert (shown.variant_rows == expected.variant_rows).all()
            for one, other in zip(shown.outlook, expected.outlook, strict=True):
                np.testing.assert_array_equal(one, other)


@given(st.integers(2, 12), st.integers(0, 99))
def test_equal_replicas_do_not_herd(count: int, seed: int) -> None:
    """Gateways that share one view and know nothing of each other spread over it."""
    views = tuple(
        ReplicaView(ReplicaId(f"r{n}"), VariantName("bf16"), ReplicaReport(NOW_S))
        for n in range(count)
    )
    request = Request(
        RequestId("r"), ModelName("m"), 10, 10, 10.0, Objective(ttft_s=1, tpot_s=1), NOW_S
    )
    rng = random.Random(seed)
    bare = Fleet(NOW_S, VARIANTS, views)
    fleet = replace(bare, columns=tabulate(bare))
    chosen = set()
    for _ in range(20 * count):
        outcome = route(request, fleet, make_policy("energy"), rng)
        assert isinstance(outcome, Decision)
        chosen.add(outcome.replica)
    assert len(chosen) > count // 2


@given(fleets(), requests, st.integers(1, 60), st.integers(0, 99))
def test_holding_more_of_the_prompt_never_loses_a_request(
    fleet: Fleet, request: Request, blocks: int, seed: int
) -> None:
    """The replica that is chosen without a cache is chosen with one, if it alone has it."""
    chain = tuple(range(1, blocks + 1))
    caching = {name: replace(each, prefix_block_tokens=16) for name, each in VARIANTS.items()}
    chat = replace(
        request, prompt_tokens=max(request.prompt_tokens, 16 * blocks), prefix_blocks=chain
    )
    index = PrefixIndex()
    cached = replace(fleet, variants=caching, prefixes=index)
    without = route(chat, cached, make_policy("energy"), random.Random(seed), limits=LIMITS)
    if isinstance(without, Decision):
        index.join(without.replica, 1000)
        index.stored(without.replica, chain)
        holding = route(chat, cached, make_policy("energy"), random.Random(seed), limits=LIMITS)
        assert isinstance(holding, Decision)
        assert holding.replica == without.replica
        assert holding.cached_tokens == min(16 * blocks, chat.prompt_tokens - 1)
