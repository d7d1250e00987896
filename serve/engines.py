"""Every engine replica, as one gateway knows it: links, reports, leases, open streams.

Its own module because these four change together: what a replica reports decides what
a lease still adds to it, and the loss of a link ends the streams behind it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from scheduler.board import FleetBoard
from scheduler.leases import Lease, LeaseBook
from scheduler.prefixes import PrefixIndex
from scheduler.requests import ReplicaId, VariantName
from serve.errors import DeadlineError, EngineDeadError, ReplicaLostError
from serve.link import Link, LinkState
from serve.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping

    from scheduler.fleet import Fleet, ReplicaReport, Sleeper, Variant
    from serve.engine import EngineRequest
    from serve.frames import Frame, RequestEnergy
    from serve.membership import Membership

logger = logging.getLogger("jouleserve.serve")


class Submission(Protocol):
    """A request on its way through a replica."""

    def __await__(self) -> Generator[object, None, object]:
        """Wait until the replica is done with it."""

    def cancel(self) -> None:
        """Tell the replica to abort it."""


class EngineHandle(Protocol):
    """One variant's deployment, as a gateway calls it."""

    def frames(self, gateway: str, replica: ReplicaId) -> AsyncIterator[Frame]:
        """Open the stream of frames of one replica."""

    def generate(
        self, request: EngineRequest, lease: Lease, gateway: str, fallback: list[ReplicaId]
    ) -> Submission:
        """Submit a request to the lease's replica, else to the first fallback that can."""


@dataclass(slots=True)
class Attempt:
    """A lease with everything that hangs on it.

    Attributes:
        lease: what was booked.
        stream: where the tokens arrive.
        replica: who serves it; another than the lease's after a fallback.
        submission: the call that the replica is working on.
        accepted: whether a replica has said that it has the request.

    """

    lease: Lease
    stream: Stream
    replica: ReplicaId
    submission: Submission | None = None
    accepted: bool = False


def _nobody_asks(_number: int, _energy: RequestEnergy) -> None:
    """Nobody keeps books of energy."""


class Engines:
    """Keeps the books about replicas; implements `link.LinkListener`.

    Attributes:
        on_dropped: told what attempts have used that did not finish.

    """

    def __init__(
        self,
        gateway: str,
        variants: Mapping[VariantName, Variant],
        handles: Mapping[VariantName, EngineHandle],
        clock: Callable[[], float],
    ) -> None:
        """Know the variants, and no replica yet.

        Args:
            gateway: this gateway's own name.
            variants: that are configured.
            handles: the deployment of each variant.
            clock: monotonic seconds.

        """
        self.gateway = gateway
        self.leases = LeaseBook()
        self.links: dict[ReplicaId, Link] = {}
        self.reports: dict[ReplicaId, ReplicaReport] = {}
        self.workers: frozenset[ReplicaId] | None = None
        self.coming: frozenset[VariantName] = frozenset()
        self.prefixes = PrefixIndex()
        self._board = FleetBoard(variants, self.leases, prefixes=self.prefixes, calibrated=True)
        self.on_dropped: Callable[[int, RequestEnergy], None] = _nobody_asks
        self._handles = handles
        self._clock = clock
        self._attempts: dict[int, Attempt] = {}
        self._dead: dict[ReplicaId, VariantName] = {}
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()

    # ── which replicas there are ────────────────────────────────────────────

    def follow(self, membership: Membership, deployments: Mapping[str, VariantName]) -> None:
        """Link to every replica that runs, now and later; leave those that no longer do."""
        loop = asyncio.get_running_loop()

        def changed(deployment: str, replicas: Mapping[str, str]) -> None:
            if deployment in deployments:
                loop.call_soon_threadsafe(self._members, deployments[deployment], replicas)

        membership.subscribe(changed)

    def _members(self, variant: VariantName, replicas: Mapping[str, str]) -> None:
        for replica in [each for each, name in self._dead.items() if name == variant]:
            if replica not in replicas:
                del self._dead[replica]
        for name, node in replicas.items():
            replica = ReplicaId(name)
            known = self.links.get(replica)
            if replica in self._dead:
                continue
            if known is None:
                self._link(replica, variant, node)
            elif known.state is LinkState.DRAINING:  # Ray listed it no more, and does again
                known.resume()
                self._set_working(replica)
        for replica, link in list(self.links.items()):
            if link.variant == variant and replica not in replicas:
                link.drain()
                self._board.drain(replica)
                self._close_if_drained(replica)

    def _link(self, replica: ReplicaId, variant: VariantName, node: str) -> None:
        handle = self._handles[variant]

        def connect() -> AsyncIterator[Frame]:
            return handle.frames(self.gateway, replica)

        link = Link(replica, variant, node, connect, self)
        self.links[replica] = link
        link.start()

    def _close_if_drained(self, replica: ReplicaId) -> None:
        link = self.links.get(replica)
        if link is None or link.state is not LinkState.DRAINING:
            return
        if all(attempt.replica != replica for attempt in self._attempts.values()):
            link.close()
            del self.links[replica]
            self._forget(replica)

    # ── what replicas say ───────────────────────────────────────────────────

    def received(self, link: Link, frame: Frame) -> None:
        """Take a frame: acceptance first, then the report that counts it, then tokens."""
        for number in frame.accepted:
            self.leases.acknowledge(number)
            attempt = self._attempts.get(number)
            if attempt is not None:
                attempt.replica = link.replica
                attempt.accepted = True
        if frame.report is not None:
            report = frame.report._replace(observed_at_s=self._clock())
            self.reports[link.replica] = report
            self._board.report(link.replica, link.variant, report)
            if self.rests(link.replica):
                self._set_working(link.replica)
            self._tell()
        for number, energy in frame.dropped:
            self.on_dropped(number, energy)
        for part in frame.streams:
            attempt = self._attempts.get(part.stream)
            if part.error is not None and part.error[0] == EngineDeadError.__name__:
                self._bury(link)
            if attempt is not None:
                attempt.stream.deliver(part)

    def lost(self, link: Link, why: str) -> None:
        """End every stream of that replica, and route nothing to it until it reports again."""
        self._forget(link.replica)
        for attempt in self._attempts.values():
            if attempt.replica == link.replica:
                attempt.stream.fail(ReplicaLostError(f"replica {link.replica} was lost: {why}"))

    async def news(self) -> None:
        """Wait until a replica reports: there may be one more, or room."""
        await self._news.wait()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _bury(self, link: Link) -> None:
        """Route nothing more to a replica without an engine; Ray will notice, and replace it."""
        self._dead[link.replica] = link.variant
        link.drain()
        self._board.drain(link.replica)

    def fleet(self) -> Fleet:
        """The fleet at this instant: newest reports, and what was booked since."""
        return self._board.snapshot(self._clock())

    def believed(self) -> Mapping[VariantName, Variant]:
        """The variants, with step models as replicas' reports have corrected them."""
        return self._board.variants

    def power_w(self) -> float | None:
        """What all replicas draw that have reported; None before any has."""
        if not self.reports:
            return None
        return sum(report.power_w for report in self.reports.values())

    def meter_troubles(self) -> dict[VariantName, str]:
        """What is wrong with the energy meters of replicas, one for each variant."""
        return {
            link.variant: report.meter_trouble
            for replica, report in self.reports.items()
            if report.meter_trouble and (link := self.links.get(replica))
        }

    def waiting(self) -> dict[VariantName, int]:
        """Requests that replicas have accepted and no place in their batch for."""
        waiting: Counter[VariantName] = Counter()
        for replica, report in self.reports.items():
            if link := self.links.get(replica):
                waiting[link.variant] += report.waiting_requests
        return dict(waiting)

    def out_of_reach(self) -> frozenset[str]:
        """Replicas that Ray still lists and that serve no more, as far as is known here."""
        lost = (name for name, link in self.links.items() if link.state is LinkState.LOST)
        return frozenset((*lost, *self._dead))

    def know_sleepers(self, sleepers: tuple[Sleeper, ...]) -> None:
        """Take what could be woken: decisions advise it from now on."""
        if sleepers != self._board.sleepers:
            self._board.sleepers = sleepers
            self._tell()

    def permit(self, workers: frozenset[ReplicaId] | None) -> None:
        """Give new work to these alone; None for all."""
        if workers == self.workers:
            return
        self.workers = workers
        for replica in self.links:
            self._set_working(replica)
        self._tell()

    def rests(self, replica: ReplicaId) -> bool:
        """Whether it takes no new work, for the power budget's sake."""
        return self.workers is not None and replica not in self.workers

    def _set_working(self, replica: ReplicaId) -> None:
        """Let a replica take work or not, as its line and the power budget are."""
        if self.links[replica].state is LinkState.DRAINING or self.rests(replica):
            self._board.drain(replica)
        else:
            self._board.resume(replica)

    def members(self) -> dict[ReplicaId, VariantName]:
        """Replicas that serve, by name."""
        return {
            replica: link.variant
            for replica, link in self.links.items()
            if link.state is LinkState.AWAKE
        }

    def busy(self) -> frozenset[ReplicaId]:
        """Replicas that have work, of this gateway or of others."""
        reported = (
            replica
            for replica, report in self.reports.items()
            if report.running_requests + report.waiting_requests
        )
        return frozenset((*reported, *(each.replica for each in self._attempts.values())))

    def sleeping(self) -> frozenset[VariantName]:
        """Variants of which a replica could be woken."""
        return frozenset(sleeper.variant for sleeper in self._board.sleepers)

    def awake(self) -> dict[VariantName, int]:
        """How many replicas of each variant take work."""
        awake = (link.variant for link in self.links.values() if link.state is LinkState.AWAKE)
        return dict(Counter(awake))

    def _forget(self, replica: ReplicaId) -> None:
        self.reports.pop(replica, None)
        self._board.leave(replica)

    # ── one attempt at serving a request ────────────────────────────────────

    def begin(
        self,
        lease: Lease,
        variant: VariantName,
        request: EngineRequest,
        fallback: list[ReplicaId],
    ) -> Attempt:
        """Book the lease and submit the request; `end` must follow, whatever happens."""
        attempt = Attempt(lease, Stream(), lease.replica)
        self.leases.book(lease)
        self._attempts[lease.lease_id] = attempt
        attempt.submission = self._handles[variant].generate(request, lease, self.gateway, fallback)
        self._own(self._watch(attempt))
        return attempt

    def end(self, attempt: Attempt) -> None:
        """Release the lease; abort the request if its stream has not finished.

        The one path on which a lease is released: for success, cancellation and
        failure alike. A second call does nothing.
        """
        number = attempt.lease.lease_id
        if self._attempts.pop(number, None) is None:
            return
        self.leases.release(number)
        if attempt.stream.finish is None and attempt.submission is not None:
            attempt.submission.cancel()
        self._close_if_drained(attempt.replica)

    def expire(self) -> None:
        """End the attempts whose lease has run out."""
        for lease in self.leases.expire(self._clock()):
            attempt = self._attempts.get(lease.lease_id)
            if attempt is not None:
                message = f"request {lease.request_id} outlived its lease"
                attempt.stream.fail(DeadlineError(message))
                self.end(attempt)

    def close(self) -> None:
        """Drop every link and every task."""
        for link in self.links.values():
            link.close()
        for task in self._tasks:
            task.cancel()

    async def _watch(self, attempt: Attempt) -> None:
        """Fail the stream if the replica's call fails; frames tell of everything else."""
        if attempt.submission is None:
            return
        try:
            await attempt.submission
        except Exception as error:  # noqa: BLE001 (whatever Ray raises, the replica is out of reach)
            kind = type(error).__name__
            attempt.stream.fail(ReplicaLostError(f"replica {attempt.replica} failed: {kind}"))

    def _own(self, work: Awaitable[object]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
