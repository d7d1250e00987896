"""Gateways that know nothing of each other overbook a replica by a bound that can be stated."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from scheduler.board import FleetBoard
from scheduler.decisions import Decision, Limits
from scheduler.fleet import ReplicaReport
from scheduler.leases import Lease, LeaseBook
from scheduler.policies import make_policy
from scheduler.requests import Objective, ReplicaId, Request, RequestId
from scheduler.routing import route
from tests.gateway_fakes import LARGE, MODEL, VARIANTS

REPLICA = ReplicaId("r")
LIMITS = Limits(max_waiting=3, stale_after_s=1e9)
MOST = VARIANTS[LARGE].max_batch + LIMITS.max_waiting
LEASE_S = 50.0


@dataclass
class _Gateway:
    """One gateway's books, and what others have booked since its newest report."""

    leases: LeaseBook = field(default_factory=LeaseBook)
    unseen: int = 0

    def __post_init__(self) -> None:
        self.board = FleetBoard(VARIANTS, self.leases)
        self.board.report(REPLICA, LARGE, ReplicaReport(0.0))


class _Replica:
    """Accepts what it is sent, a moment later, and counts all of it in every report."""

    def __init__(self, gateways: int, rng: Random) -> None:
        self.gateways = [_Gateway() for _ in range(gateways)]
        self.rng, self.now_s, self.numbers = rng, 0.0, 0
        self.coming: list[dict[int, Lease]] = [{} for _ in range(gateways)]
        self.held: list[dict[int, Lease]] = [{} for _ in range(gateways)]

    @property
    def holds(self) -> int:
        """Requests that it has or that are on their way."""
        return sum(len(each) for each in (*self.coming, *self.held))

    def book(self, number: int) -> bool:
        """Let a gateway place a request if it sees room."""
        gateway = self.gateways[number]
        request = Request(
            request_id=RequestId("q"),
            model=MODEL,
            prompt_tokens=4,
            max_tokens=8,
            expected_completion_tokens=8.0,
            objective=Objective(10.0, 10.0),
            arrived_at_s=self.now_s,
            variant=LARGE,
        )
        fleet = gateway.board.snapshot(self.now_s)
        made = route(request, fleet, make_policy("least_loaded"), self.rng, limits=LIMITS)
        if not isinstance(made, Decision):
            return False
        self.numbers += 1
        expires_at_s = self.now_s + LEASE_S
        lease = Lease(self.numbers, RequestId("q"), REPLICA, 4, 8, expires_at_s=expires_at_s)
        gateway.leases.book(lease)
        self.coming[number][self.numbers] = lease
        for other in self.gateways:
            other.unseen += other is not gateway
        return True

    def report(self, number: int) -> None:
        """Accept what this gateway has sent, and tell it all that is held."""
        gateway = self.gateways[number]
        for lease_id in self.coming[number]:
            gateway.leases.acknowledge(lease_id)
        self.held[number] |= self.coming[number]
        self.coming[number] = {}
        held = sum(len(each) for each in self.held)
        gateway.board.report(REPLICA, LARGE, ReplicaReport(self.now_s, running_requests=held))
        # What others have sent and it has not accepted yet is in no report.
        gateway.unseen = sum(len(each) for each in self.coming)

    def finish(self, number: int) -> None:
        """End one of a gateway's requests."""
        if self.held[number]:
            lease_id = self.rng.choice(list(self.held[number]))
            del self.held[number][lease_id]
            self.gateways[number].leases.release(lease_id)


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_a_replica_is_overbooked_by_no_more_than_others_booked_since_a_report(
    gateways: int, seed: int
) -> None:
    replica = _Replica(gateways, Random(seed))
    for _ in range(150):
        replica.now_s += 0.01
        number = replica.rng.randrange(gateways)
        action = replica.rng.choice((replica.book, replica.book, replica.report, replica.finish))
        booked = action(number)
        if booked:
            assert replica.holds <= MOST + replica.gateways[number].unseen
        assert replica.holds <= gateways * MOST


@given(st.integers(2, 4), st.integers(0, 2**32))
def test_leases_of_a_gateway_that_has_died_are_free_once_they_expire(
    gateways: int, seed: int
) -> None:
    replica = _Replica(gateways, Random(seed))
    for number in range(gateways):
        while replica.book(number):
            replica.report(number)
    replica.now_s += LEASE_S
    for gateway in replica.gateways:
        gateway.leases.expire(replica.now_s)
        assert len(gateway.leases) == 0
        assert gateway.leases.booked(REPLICA).requests == 0
