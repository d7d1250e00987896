"""Whatever happens to leases, the totals are those of the leases that are left."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from scheduler.leases import Booked, Lease, LeaseBook
from scheduler.requests import ReplicaId, RequestId

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

REPLICAS = [ReplicaId(name) for name in "abc"]
numbers: SearchStrategy[int] = st.integers(0, 20)


class Books(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.book = LeaseBook()
        self.live: dict[int, Lease] = {}
        self.acknowledged: set[int] = set()
        self.now_s = 0.0

    @rule(
        number=numbers,
        replica=st.sampled_from(REPLICAS),
        prompt=st.integers(1, 10**9),
        completion=st.integers(1, 10**9),
        term_s=st.floats(0.5, 10),
    )
    def take(
        self, number: int, replica: ReplicaId, prompt: int, completion: int, term_s: float
    ) -> None:
        lease = Lease(number, RequestId("r"), replica, prompt, completion, self.now_s + term_s)
        if number in self.live:
            try:
                self.book.book(lease)
            except ValueError:
                return
            raise AssertionError("a number was given twice")
        self.book.book(lease)
        self.live[number] = lease

    @rule(number=numbers)
    def acknowledge(self, number: int) -> None:
        self.book.acknowledge(number)
        if number in self.live:
            self.acknowledged.add(number)

    @rule(number=numbers)
    def release(self, number: int) -> None:
        assert self.book.release(number) == self.live.pop(number, None)
        assert self.book.release(number) is None
        self.acknowledged.discard(number)

    @rule(passed_s=st.floats(0, 5))
    def expire(self, passed_s: float) -> None:
        self.now_s += passed_s
        due = {number for number, lease in self.live.items() if lease.expires_at_s <= self.now_s}
        assert {lease.lease_id for lease in self.book.expire(self.now_s)} == due
        assert self.book.expire(self.now_s) == ()
        for number in due:
            del self.live[number]
            self.acknowledged.discard(number)

    @invariant()
    def totals_are_those_of_live_leases(self) -> None:
        assert len(self.book) == len(self.live)
        for replica in REPLICAS:
            held = [lease for lease in self.live.values() if lease.replica == replica]
            new = [lease for lease in held if lease.lease_id not in self.acknowledged]
            assert self.book.held(replica) == len(held)
            assert self.book.booked(replica) == Booked(
                len(new),
                sum(lease.prompt_tokens for lease in new),
                sum(lease.completion_tokens for lease in new),
            )

    def teardown(self) -> None:
        for number in list(self.live):
            self.book.release(number)
        assert len(self.book) == 0
        assert all(self.book.booked(replica) == Booked() for replica in REPLICAS)
        assert all(self.book.held(replica) == 0 for replica in REPLICAS)


TestBooks = Books.TestCase
