"""The gateway's books about replicas: examples of each thing that can happen to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from scheduler.fleet import ReplicaReport, ReplicaView
from scheduler.requests import ReplicaId
from serve import link as link_module
from serve.errors import DeadlineError, ReplicaLostError
from serve.link import LinkState
from tests.gateway_fakes import (
    LARGE,
    SMALL,
    Rig,
    delta,
    ending,
    lease,
    request,
    settle,
    tokens,
)

if TYPE_CHECKING:
    from serve.engines import Attempt

A, B, C = ReplicaId("a"), ReplicaId("b"), ReplicaId("c")


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    monkeypatch.setattr(link_module, "RECONNECT_S", (0.0,))
    rig = Rig()
    await rig.wake({LARGE: [A, B], SMALL: [C]})
    return rig


def begin(rig: Rig, number: int = 1, replica: ReplicaId = A, expires_at_s: float = 1e9) -> Attempt:
    booked = lease(number, replica, expires_at_s=expires_at_s)
    return rig.engines.begin(booked, LARGE, request(number), [B])


def view(rig: Rig, replica: ReplicaId) -> ReplicaView | None:
    return next((each for each in rig.engines.fleet().replicas if each.replica == replica), None)


# ── membership ──────────────────────────────────────────────────────────────


async def test_every_running_replica_is_linked_and_awake(rig: Rig) -> None:
    assert rig.engines.awake() == {LARGE: 2, SMALL: 1}
    assert {(each.replica, each.variant) for each in rig.engines.fleet().replicas} == {
        (A, LARGE),
        (B, LARGE),
        (C, SMALL),
    }


async def test_a_replica_that_has_not_reported_is_not_routed_to() -> None:
    rig = Rig()
    rig.membership.publish(LARGE, {A: "node"})
    await settle()
    assert rig.engines.links[A].state is LinkState.STARTING
    assert not list(rig.engines.fleet().replicas)
    rig.close()


async def test_deployments_of_others_are_left_alone(rig: Rig) -> None:
    rig.membership.publish("stranger", {"x": "node"})
    await settle()
    assert set(rig.engines.links) == {A, B, C}


async def test_an_idle_replica_that_no_longer_runs_is_left(rig: Rig) -> None:
    rig.membership.publish(LARGE, {B: "node"})
    await settle()
    assert set(rig.engines.links) == {B, C}
    assert view(rig, A) is None
    assert A not in rig.engines.reports


async def test_a_replica_with_streams_drains_until_the_last_one_ends(rig: Rig) -> None:
    attempt = begin(rig)
    rig.send(LARGE, A, accepted=[1], report=ReplicaReport(0.0, running_requests=1))
    rig.membership.publish(LARGE, {B: "node"})
    await settle()
    draining = view(rig, A)
    assert rig.engines.links[A].state is LinkState.DRAINING
    assert draining is not None
    assert draining.draining
    assert rig.engines.awake() == {LARGE: 1, SMALL: 1}
    rig.send(LARGE, A, ending(1, [5], [5]))
    await settle()
    assert (await attempt.stream.take()).token_ids == [5]
    rig.engines.end(attempt)
    await settle()
    assert A not in rig.engines.links
    assert view(rig, A) is None


# ── reports and leases ──────────────────────────────────────────────────────


async def test_a_lease_counts_from_the_booking_on(rig: Rig) -> None:
    begin(rig)
    booked = view(rig, A)
    assert booked is not None
    assert (booked.requests, booked.booked_requests) == (1, 1)
    assert booked.booked_prompt_tokens == 4


async def test_an_accepted_lease_counts_in_the_report_alone(rig: Rig) -> None:
    begin(rig)
    rig.send(LARGE, A, accepted=[1], report=ReplicaReport(0.0, running_requests=1))
    await settle()
    counted = view(rig, A)
    assert counted is not None
    assert (counted.requests, counted.booked_requests) == (1, 0)
    assert rig.engines.leases.held(A) == 1


async def test_a_report_is_stamped_with_the_gateways_own_clock(rig: Rig) -> None:
    rig.clock.now_s += 5
    rig.send(LARGE, A, report=ReplicaReport(observed_at_s=-1.0, running_requests=3))
    await settle()
    assert rig.engines.reports[A].observed_at_s == rig.clock.now_s
    assert rig.engines.reports[A].running_requests == 3


async def test_a_fallback_that_accepts_serves_the_attempt(rig: Rig) -> None:
    attempt = begin(rig)
    rig.send(LARGE, B, accepted=[1], report=ReplicaReport(0.0, running_requests=1))
    await settle()
    chosen, taken = view(rig, A), view(rig, B)
    assert attempt.replica == B
    assert chosen is not None
    assert taken is not None
    assert (chosen.requests, taken.requests) == (0, 1)
    rig.handles[LARGE].break_connection(A)
    await settle()
    rig.send(LARGE, B, tokens(1, 5))
    await settle()
    assert await attempt.stream.take() == delta(5)


# ── the ends of an attempt ──────────────────────────────────────────────────


async def test_a_finished_attempt_is_not_cancelled(rig: Rig) -> None:
    attempt = begin(rig)
    rig.send(LARGE, A, ending(1, [5], [5]), accepted=[1])
    await settle()
    rig.engines.end(attempt)
    assert not rig.submissions[1].cancelled
    assert len(rig.engines.leases) == 0


async def test_an_unfinished_attempt_is_cancelled(rig: Rig) -> None:
    attempt = begin(rig)
    rig.engines.end(attempt)
    assert rig.submissions[1].cancelled
    assert len(rig.engines.leases) == 0
    assert rig.engines.leases.held(A) == 0


async def test_ending_twice_does_nothing(rig: Rig) -> None:
    first = begin(rig)
    rig.engines.end(first)
    second = begin(rig, 2)
    rig.engines.end(first)
    assert len(rig.engines.leases) == 1
    rig.engines.end(second)
    assert len(rig.engines.leases) == 0


async def test_what_comes_after_the_end_is_ignored(rig: Rig) -> None:
    attempt = begin(rig)
    rig.engines.end(attempt)
    rig.send(LARGE, A, ending(1, [5], [5]), accepted=[1])
    await settle()
    assert attempt.stream.finish is None
    assert rig.engines.leases.held(A) == 0


async def test_a_lost_link_fails_its_streams_and_no_others(rig: Rig) -> None:
    lost, kept = begin(rig), begin(rig, 2, B)
    rig.send(LARGE, A, tokens(1, 5), accepted=[1])
    rig.send(LARGE, B, accepted=[2])
    await settle()
    rig.handles[LARGE].break_connection(A)
    rig.send(LARGE, B, tokens(2, 6))
    await settle()
    assert await lost.stream.take() == delta(5)
    with pytest.raises(ReplicaLostError, match="replica a was lost"):
        await lost.stream.take()
    assert await kept.stream.take() == delta(6)
    assert view(rig, A) is None


async def test_a_request_that_was_on_its_way_to_a_lost_replica_fails_too(rig: Rig) -> None:
    attempt = begin(rig)
    rig.handles[LARGE].break_connection(A)
    await settle()
    with pytest.raises(ReplicaLostError):
        await attempt.stream.take()


async def test_a_lost_replica_is_routed_to_again_once_it_reports(rig: Rig) -> None:
    rig.handles[LARGE].break_connection(A)
    await settle()
    assert rig.engines.awake() == {LARGE: 1, SMALL: 1}
    rig.send(LARGE, A, report=ReplicaReport(0.0))
    await settle()
    assert rig.engines.awake() == {LARGE: 2, SMALL: 1}
    assert view(rig, A) is not None


async def test_a_submission_that_fails_fails_the_stream(rig: Rig) -> None:
    attempt = begin(rig)
    rig.submissions[1].fail(RuntimeError("out of reach"))
    with pytest.raises(ReplicaLostError, match="RuntimeError"):
        await attempt.stream.take()


async def test_a_replica_that_ray_lists_again_takes_new_work(rig: Rig) -> None:
    attempt = begin(rig)
    rig.membership.publish(LARGE, {})
    await settle()
    drained = view(rig, A)
    assert drained is not None
    assert drained.draining
    rig.membership.publish(LARGE, {"a": "node"})
    await settle()
    resumed = view(rig, A)
    assert resumed is not None
    assert not resumed.draining
    rig.engines.end(attempt)
    assert A in rig.engines.links


# ── leases that were forgotten ──────────────────────────────────────────────


async def test_a_lease_that_runs_out_ends_its_attempt(rig: Rig) -> None:
    attempt = begin(rig, expires_at_s=rig.clock.now_s + 10)
    kept = begin(rig, 2, expires_at_s=rig.clock.now_s + 20)
    rig.engines.expire()
    assert len(rig.engines.leases) == 2
    rig.clock.now_s += 10
    rig.engines.expire()
    with pytest.raises(DeadlineError, match="r1 outlived its lease"):
        await attempt.stream.take()
    assert rig.submissions[1].cancelled
    assert not rig.submissions[2].cancelled
    assert len(rig.engines.leases) == 1
    rig.engines.end(attempt)
    rig.engines.end(kept)
    assert len(rig.engines.leases) == 0


async def test_closing_breaks_every_link(rig: Rig) -> None:
    attempt = begin(rig)
    rig.close()
    with pytest.raises(ReplicaLostError, match="closed"):
        await attempt.stream.take()
    rig.engines.end(attempt)
    assert len(rig.engines.leases) == 0
