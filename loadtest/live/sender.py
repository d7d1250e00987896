"""Sends a schedule on time, and writes down what comes.

Its own module because it is the one place where requests start: nothing that a reply does can
hold back a request of an open loop, and what cannot be sent is written down as such.
"""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from loadtest.live.clerk import Clerk
from loadtest.live.exchanges import Failure, Reply
from loadtest.live.precise_timer import PreciseTimer
from loadtest.run import Ending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.live.exchanges import Call, Served, Target
    from loadtest.live.ledger import Ledger
    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Session

# Sent in one go before replies are looked at again.
BURST = 64
# After a failure a user of a closed loop waits, lest a server that refuses at once is hammered.
USER_PATIENCE_S = 1.0
# So many failures in a row, at least, before a target is given up.
FEW_FAILURES = 3
CONDENSE_S = 2.0
FULL = "max_in_flight was reached"
# What a timer gives too early is due all the same.
_EARLY_S = 20e-6
# After a long sleep a processor wakes slowly, and making a request takes some 0.1 ms: who sleeps
# longer than the one gets up earlier by the other, makes the request, and stays up until then.
_LONG_S = 5e-3
_LEAD_S = 0.5e-3


class Bodies(Protocol):
    """Makes requests."""

    def body(self, session: Session, turn: int, answers: Sequence[bytes | str]) -> bytes:
        """Make one."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sender may do.

    Attributes:
        max_in_flight: at a time; what is due beyond it is not sent.
        deadline_s: of a request.
        drain_s: for which replies are waited for after the last request was due.
        give_up_after_s: without any success, while the target cannot be reached.

    """

    max_in_flight: int
    deadline_s: float
    drain_s: float
    give_up_after_s: float


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a schedule a sender has.

    Attributes:
        index: of it, from 0.
        senders: in all; sessions and users go round.

    """

    index: int
    senders: int


class Progress(NamedTuple):
    """Counts so far.

    Attributes:
        sent: requests.
        completed: of these.
        failed: of these, refusals included.
        unsent: for want of room.
        in_flight: now.

    """

    sent: int = 0
    completed: int = 0
    failed: int = 0
    unsent: int = 0
    in_flight: int = 0


class _Pending(NamedTuple):
    """A request that waits for its turn; ordered by when that is."""

    due_s: float
    order: int
    session: Session
    turn: int
    answers: tuple[bytes | str, ...]


class Sender:
    """Sends one share of a schedule."""

    def __init__(  # noqa: PLR0913, PLR0917 (each from another hand)
        self,
        scenario: Scenario,
        schedule: Schedule,
        share: Share,
        target: Target,
        bodies: Bodies,
        ledger: Ledger,
        limits: Limits,
    ) -> None:
        self._scenario = scenario
        self._schedule = schedule
        self._share = share
        self._target = target
        self._bodies = bodies
        self._ledger = ledger
        self._limits = limits
        self._clerk = Clerk(scenario, ledger)
        closed = scenario.arrivals.closed
        self._users = 0 if closed is None else closed.users
        self._own = range(share.index, len(schedule.begin_s), share.senders)
        self._next = 0
        self._made: tuple[Session, bytes] | None = None
        self._up_early = False
        self._pending: list[_Pending] = []
        self._pushed = 0
        self._calls: dict[Reply, Call] = {}
        self._counts = [0, 0, 0, 0]
        self._start_s = 0.0
        self._failures = 0
        self._good_at_s = 0.0
        self._over = asyncio.Event()
        self._stopped = False
        self.trouble = ""
        """Why it did not go on to its end; empty if it did."""

    # ── from outside ────────────────────────────────────────────────────────

    @property
    def progress(self) -> Progress:
        """Counts so far."""
        sent, completed, failed, unsent = self._counts
        return Progress(sent, completed, failed, unsent, len(self._calls))

    def stop(self, reason: str) -> None:
        """Send no more, and wait for nothing; what is in flight is cut off."""
        self.trouble = self.trouble or reason
        self._stopped = True
        self._over.set()

    async def run(self, start_s: float) -> None:
        """Send everything, and wait for the replies as long as the limits say.

        Args:
            start_s: the instant 0 of the schedule, on the monotonic clock.

        """
        self._start_s = self._good_at_s = self._clerk.start_s = start_s
        self._begin_users()
        timer = PreciseTimer(lambda: self._due(timer))
        tidying = asyncio.create_task(self._tidy())
        try:
            self._rest(timer)
            total_s = self._scenario.total_s
            await self._wait(start_s + total_s)
            timer.close()
            await self._wait(start_s + total_s + self._limits.drain_s, idle=True)
        finally:
            tidying.cancel()
            timer.close()
            self._cut_off()

    # ── sending ─────────────────────────────────────────────────────────────

    def _begin_users(self) -> None:
        """Let the users of a closed loop come one after the other within the ramp."""
        for user in range(self._share.index, self._users, self._share.senders):
            session = self._schedule.session(user)
            at_s = self._scenario.ramp_s * user / self._users + session.pause_s
            self._push(at_s, session, 0, ())

    def _push(
        self, due_s: float, session: Session, turn: int, answers: tuple[bytes | str, ...]
    ) -> None:
        self._pushed += 1
        heapq.heappush(self._pending, _Pending(due_s, self._pushed, session, turn, answers))

    def _next_due_s(self) -> float:
        scheduled_s = pending_s = math.inf
        if self._next < len(self._own):
            scheduled_s = float(self._schedule.begin_s[self._own[self._next]])
        if self._pending:
            pending_s = self._pending[0].due_s
        return min(scheduled_s, pending_s)

    def _due(self, timer: PreciseTimer) -> None:
        """Send what is due, then sleep until the next is."""
        total_s = self._scenario.total_s
        for _ in range(BURST):
            due_s = self._next_due_s()
            passed_s = time.monotonic() - self._start_s + _EARLY_S
            if due_s > passed_s or due_s >= total_s or self._stopped:
                break
            self._up_early = False
            if self._pending and self._pending[0].due_s <= due_s:
                self._send(heapq.heappop(self._pending), timer)
            else:
                session, body = self._made or self._make()
                self._made = None
                self._next += 1
                self._send(_Pending(due_s, 0, session, 0, ()), timer, body)
        self._rest(timer)

    def _make(self) -> tuple[Session, bytes]:
        """Make the first request of the session that comes next."""
        session = self._schedule.session(self._own[self._next])
        return session, self._bodies.body(session, 0, ())

    def _rest(self, timer: PreciseTimer) -> None:
        """Sleep until the next request is due; once up early, look at replies until then."""
        due_s = self._next_due_s()
        if due_s >= self._scenario.total_s or self._stopped:
            return  # A follow-up may still become due earlier; whoever makes it sets the timer.
        at_s = self._start_s + due_s
        if at_s - time.monotonic() > _LONG_S:
            self._up_early = True
            timer.wake_at(at_s - _LEAD_S)
        elif self._up_early:
            if self._made is None and self._next < len(self._own):
                self._made = self._make()
            asyncio.get_running_loop().call_soon(self._due, timer)
        else:
            timer.wake_at(at_s)

    def _send(self, pending: _Pending, timer: PreciseTimer, body: bytes | None = None) -> None:
        session, turn = pending.session, pending.turn
        if len(self._calls) >= self._limits.max_in_flight:
            self._counts[3] += 1
            self._clerk.unsent(session, turn, pending.due_s, FULL)
            self._user_goes_on(session, pending.due_s + USER_PATIENCE_S, timer)
            return
        gaps = None
        steady_s = self._scenario.steady_begin_s
        if steady_s <= pending.due_s:
            gaps = self._clerk.gaps(session.kind)
        keep = turn + 1 < len(session.turns)
        reply = Reply(partial(self._ended, pending, timer), gaps, keep=keep)
        if body is None:
            body = self._bodies.body(session, turn, pending.answers)
        self._counts[0] += 1
        call = self._target.send(body, session.kind, self._limits.deadline_s, reply)
        if not reply.ended:
            self._calls[reply] = call

    # ── what comes of it ────────────────────────────────────────────────────

    def _ended(  # noqa: PLR0913, PLR0917 (what a reply tells, and whose it is)
        self,
        pending: _Pending,
        timer: PreciseTimer,
        reply: Reply,
        now_s: float,
        failure: Failure | None,
        served: Served,
    ) -> None:
        self._calls.pop(reply, None)
        session, turn, at_s = pending.session, pending.turn, now_s - self._start_s
        if failure is not None:
            self._counts[2] += 1
            self._clerk.ended(session, turn, pending.due_s, reply, at_s, failure, served)
            self._judge(failure, now_s)
            self._user_goes_on(session, at_s + USER_PATIENCE_S, timer)
            return
        self._counts[1] += 1
        self._failures = 0
        self._good_at_s = now_s
        self._clerk.ended(session, turn, pending.due_s, reply, at_s, None, served)
        if turn + 1 < len(session.turns):
            answers = (*pending.answers, self._target.answer(reply))
            self._push(at_s + session.turns[turn + 1].think_s, session, turn + 1, answers)
            self._wake(timer)
        else:
            self._user_goes_on(session, at_s, timer)

    def _user_goes_on(self, session: Session, at_s: float, timer: PreciseTimer) -> None:
        """Let the user of a closed loop begin its next session."""
        if self._users and not self._stopped:
            following = self._schedule.session(session.number + self._users)
            self._push(at_s + following.pause_s, following, 0, ())
            self._wake(timer)

    def _wake(self, timer: PreciseTimer) -> None:
        self._up_early = False
        self._rest(timer)

    def _judge(self, failure: Failure, now_s: float) -> None:
        """Give a target up that has long been gone, or that will never serve."""
        if not (failure.gone or failure.hopeless):
            return
        self._failures += 1
        if self._failures < FEW_FAILURES:
            return
        silent_s = now_s - self._good_at_s
        if failure.hopeless:
            self.stop(f"the target refuses: {failure.reason}")
        elif silent_s > self._limits.give_up_after_s:
            at_s = self._good_at_s - self._start_s
            self.stop(f"the target is gone since {at_s:.1f} s: {failure.reason}")

    # ── waiting and ending ──────────────────────────────────────────────────

    async def _wait(self, until_s: float, *, idle: bool = False) -> None:
        """Wait until an instant, or until it is over; with `idle` also until nothing is left."""
        while not self._over.is_set() and (left_s := until_s - time.monotonic()) > 0:
            if idle and not self._calls:
                return
            try:
                async with asyncio.timeout(min(left_s, 0.05) if idle else left_s):
                    await self._over.wait()
            except TimeoutError:
                continue

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(CONDENSE_S)
            self._ledger.condense()

    def _cut_off(self) -> None:
        """Write down what is still open, and what an open loop could not send any more."""
        self._stopped = True
        calls, self._calls = self._calls, {}
        for reply, call in calls.items():
            call.cancel()
            reply.end(time.monotonic(), Failure(Ending.CUT_OFF, ""))
        self._clerk.all_unsent(self._schedule, self._own[self._next :], "")
