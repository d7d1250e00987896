"""Leases: work that was given to a replica and is not over yet.

Its own module because a lease must be given back exactly once, whatever ends the
request, and because what a replica does not report yet is known from here alone.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scheduler.fleet import Fleet, ReplicaView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.fleet import ReplicaReport, Variant
    from scheduler.requests import ReplicaId, RequestId, VariantName


@dataclass(frozen=True, slots=True)
class Lease:
    """A request's place on a replica.

    Attributes:
        lease_id: unique within the gateway that books it.
        request_id: of the request; several leases follow each other when it is retried.
        replica: that was chosen.
        prompt_tokens: of the request.
        completion_tokens: expected, rounded up, so that totals are exact.
        expires_at_s: when it counts as forgotten, on the gateway's monotonic clock.
        cached_tokens: of the prompt, expected in the replica's prefix cache.

    """

    lease_id: int
    request_id: RequestId
    replica: ReplicaId
    prompt_tokens: int
    completion_tokens: int
    expires_at_s: float
    cached_tokens: int = 0


class Booked(NamedTuple):
    """Totals over leases.

    Attributes:
        requests: how many leases.
        prompt_tokens: of them.
        completion_tokens: expected of them.
        cached_tokens: of their prompts.

    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, lease: Lease, sign: int = 1) -> Booked:
        """Add a lease, or take it away."""
        return Booked(
            self.requests + sign,
            self.prompt_tokens + sign * lease.prompt_tokens,
            self.completion_tokens + sign * lease.completion_tokens,
            self.cached_tokens + sign * lease.cached_tokens,
        )


NOTHING = Booked()


class LeaseBook:
    """The leases that one gateway holds.

    Every operation but `expire` takes constant time. A lease is booked, may be
    acknowledged, and is released or expires; operations on a lease that is no longer
    held do nothing.
    """

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._unacknowledged: set[int] = set()
        self._booked: dict[ReplicaId, Booked] = {}
        self._held: dict[ReplicaId, int] = {}
        self._expiries: list[tuple[float, int]] = []
        self._changed: set[ReplicaId] = set()

    def __len__(self) -> int:
        return len(self._leases)

    def book(self, lease: Lease) -> None:
        """Hold a lease.

        Raises:
            ValueError: one of that number is held already.

        """
        if lease.lease_id in self._leases:
            raise ValueError(f"lease {lease.lease_id} is held already; number leases uniquely")
        self._leases[lease.lease_id] = lease
        self._unacknowledged.add(lease.lease_id)
        self._held[lease.replica] = self._held.get(lease.replica, 0) + 1
        self._count(lease, 1)
        heapq.heappush(self._expiries, (lease.expires_at_s, lease.lease_id))

    def acknowledge(self, lease_id: int) -> None:
        """Note that the replica's reports count the lease from now on."""
        if lease_id in self._unacknowledged:
            self._unacknowledged.remove(lease_id)
            self._count(self._leases[lease_id], -1)

    def release(self, lease_id: int) -> Lease | None:
        """Give a lease back; None if it is not held (any more)."""
        lease = self._leases.get(lease_id)
        if lease is None:
            return None
        self.acknowledge(lease_id)
        del self._leases[lease_id]
        self._held[lease.replica] -= 1
        if not self._held[lease.replica]:
            del self._held[lease.replica]
        self._forget_expiries()
        return lease

    def expire(self, now_s: float) -> tuple[Lease, ...]:
        """Release every lease whose time is up, and return them."""
        expired = []
        while self._expiries and self._expiries[0][0] <= now_s:
            _, lease_id = heapq.heappop(self._expiries)
            lease = self._leases.get(lease_id)
            # A number that was released and booked anew has its own, later entry.
            if lease is not None and lease.expires_at_s <= now_s:
                self.release(lease_id)
                expired.append(lease)
        return tuple(expired)

    def booked(self, replica: ReplicaId) -> Booked:
        """Total the leases that a replica's report does not count yet."""
        return self._booked.get(replica, NOTHING)

    def held(self, replica: ReplicaId) -> int:
        """Count the leases on a replica, acknowledged or not."""
        return self._held.get(replica, 0)

    def take_changed(self) -> frozenset[ReplicaId]:
        """Name the replicas whose `booked` has changed since the last call."""
        changed = frozenset(self._changed)
        self._changed.clear()
        return changed

    def _count(self, lease: Lease, sign: int) -> None:
        total = self.booked(lease.replica).plus(lease, sign)
        if total == NOTHING:
            self._booked.pop(lease.replica, None)
        else:
            self._booked[lease.replica] = total
        self._changed.add(lease.replica)

    def _forget_expiries(self) -> None:
        """Drop the expiries of released leases once they outnumber the held ones."""
        if len(self._expiries) > 2 * len(self._leases) + 64:
            self._expiries = [
                (lease.expires_at_s, lease.lease_id) for lease in self._leases.values()
            ]
            heapq.heapify(self._expiries)


def replica_view(  # noqa: PLR0913 (a view has that many sides)
    replica: ReplicaId,
    variant: VariantName,
    report: ReplicaReport,
    leases: LeaseBook,
    *,
    draining: bool = False,
    pace: float = 1.0,
) -> ReplicaView:
    """Merge a replica's newest report with what was booked since."""
    booked = leases.booked(replica)
    return ReplicaView(
        replica,
        variant,
        report,
        booked.requests,
        booked.prompt_tokens,
        booked.completion_tokens,
        booked.cached_tokens,
        draining,
        pace,
    )


def fleet_view(
    now_s: float,
    variants: Mapping[VariantName, Variant],
    replicas: Iterable[tuple[ReplicaId, VariantName, ReplicaReport]],
    leases: LeaseBook,
    draining: frozenset[ReplicaId] = frozenset(),
) -> Fleet:
    """Merge all reports with the book; `scheduler.board` does the same bit by bit."""
    return Fleet(
        observed_at_s=now_s,
        variants=variants,
        replicas=tuple(
            replica_view(replica, variant, report, leases, draining=replica in draining)
            for replica, variant, report in replicas
        ),
    )
