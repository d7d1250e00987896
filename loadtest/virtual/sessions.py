"""Sessions and users on the virtual cluster: who waits for an answer before asking again.

Its own module because a workload is fixed before a run and these are not: the next turn comes
when the one before has been answered, which only the running cluster knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.schedule import drawn
from loadtest.traces import PLAIN_BLOCK_TOKENS, TraceRequest
from loadtest.virtual.outcomes import Outcomes, Status
from loadtest.workloads import COPY_STRIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Session, Turn
    from loadtest.virtual.cluster import VirtualCluster

# A user who was refused asks again no sooner: a refusal takes its way, too.
LEAST_PAUSE_S = 0.01
# Hash ids of common prefixes, and of what only one session has, stay apart by these.
_PREFIX_STRIDE = 1 << 20
_SESSION_STRIDE = 1 << 24
_SESSIONS_FROM = 1 << 44


class Asked(NamedTuple):
    """A request that has come.

    Attributes:
        request: as the cluster got it.
        session: that it belongs to.
        turn: of the session, from 0.

    """

    request: TraceRequest
    session: Session
    turn: int


class VirtualSessions(Outcomes):
    """Asks what a schedule says, and hears how each request ended.

    Attributes:
        asked: every request that has come, in no order.
        block_tokens: that a hash id stands for.

    """

    def __init__(
        self, scenario: Scenario, schedule: Schedule, class_names: Sequence[str], seed: int
    ) -> None:
        """Know what is to be asked.

        Args:
            scenario: whose sessions these are.
            schedule: of that scenario.
            class_names: of its kinds of requests, as the fleet spells them.
            seed: of the pauses of a closed loop's users.

        """
        super().__init__()
        self.asked: list[Asked] = []
        self._scenario = scenario
        self._schedule = schedule
        self._class_names = class_names
        self._rng = np.random.default_rng([seed, 2])
        self._waiting: dict[tuple[float, int], list[Asked]] = {}
        self._next_session = 0
        self._cluster: VirtualCluster | None = None
        traces = list(schedule.traces.values())
        self.block_tokens = traces[0].block_tokens if traces else PLAIN_BLOCK_TOKENS

    def attach(self, cluster: VirtualCluster) -> None:
        """Ask this cluster from now on."""
        self._cluster = cluster

    def first(self) -> tuple[TraceRequest, ...]:
        """Give the requests that wait for nobody, in order."""
        closed = self._scenario.arrivals.closed
        if closed is None:
            begin_s = self._schedule.begin_s.tolist()
        else:
            # Users come one after the other within the ramp.
            begin_s = (np.arange(closed.users) * self._scenario.ramp_s / closed.users).tolist()
        self._next_session = len(begin_s)
        return tuple(
            self._ask(self._schedule.session(number), 0, at_s, 0)
            for number, at_s in enumerate(begin_s)
        )

    def add(  # noqa: PLR0913, PLR0917 (as of its base)
        self,
        arrived_at_s: float,
        status: int,
        service_class: int,
        variant: int,
        prompt_tokens: int,
        cached_tokens: int,
        completion_tokens: int,
        ttft_s: float,
        e2e_latency_s: float,
        energy_j: float,
        preemptions: int,
    ) -> None:
        """Keep the outcome, and let what waited for it come."""
        super().add(
            arrived_at_s,
            status,
            service_class,
            variant,
            prompt_tokens,
            cached_tokens,
            completion_tokens,
            ttft_s,
            e2e_latency_s,
            energy_j,
            preemptions,
        )
        alike = self._waiting[arrived_at_s, prompt_tokens]
        ended = alike.pop()
        if not alike:
            del self._waiting[arrived_at_s, prompt_tokens]
        if status == Status.COMPLETED:
            self._go_on(ended, arrived_at_s + e2e_latency_s, completion_tokens)
        elif self._cluster is not None:
            self._begin_anew(self._cluster.events.now_s)

    def _go_on(self, ended: Asked, at_s: float, completion_tokens: int) -> None:
        """Ask the next turn of the session, or begin another one."""
        session, turn = ended.session, ended.turn + 1
        if turn < len(session.turns):
            said = ended.request.prompt_tokens + completion_tokens
            self._come(session, turn, at_s + session.turns[turn].think_s, said)
        else:
            self._begin_anew(at_s)

    def _begin_anew(self, at_s: float) -> None:
        """A user of a closed loop goes on with another session; an open loop has no users."""
        closed = self._scenario.arrivals.closed
        if closed is not None:
            pause_s = float(drawn(closed.think_time_s, 1, self._rng)[0])
            session = self._schedule.session(self._next_session)
            self._next_session += 1
            self._come(session, 0, at_s + max(pause_s, LEAST_PAUSE_S), 0)

    def _come(self, session: Session, turn: int, at_s: float, said_tokens: int) -> None:
        # What comes after the end of the schedule does not come any more.
        if self._cluster is not None and at_s < self._scenario.total_s:
            self._cluster.arrives(self._ask(session, turn, at_s, said_tokens))

    def _ask(self, session: Session, turn: int, at_s: float, said_tokens: int) -> TraceRequest:
        row, kind = session.turns[turn], self._scenario.requests[session.kind]
        before = said_tokens
        if not turn and kind.prompt is not None:
            before = kind.prompt.shared_prefix_tokens
        tokens = before + row.prompt_tokens
        request = TraceRequest(
            at_s,
            tokens,
            row.completion_tokens,
            self._hash_ids(session, row, tokens),
            self._class_names[session.kind],
        )
        asked = Asked(request, session, turn)
        self.asked.append(asked)
        self._waiting.setdefault((at_s, tokens), []).append(asked)
        return request

    def _hash_ids(self, session: Session, turn: Turn, tokens: int) -> tuple[int, ...]:
        """Name the prompt's full blocks: a trace's own, or what a session has said before.

        A conversation only grows, so its blocks keep their names; those of a common prefix
        are the same in every session of the kind.
        """
        trace = self._schedule.trace_of(session.kind)
        if trace is not None:
            rounds, row = divmod(turn.key, len(trace.requests))
            return tuple(each + rounds * COPY_STRIDE for each in trace.requests[row].hash_ids)
        prompt = self._scenario.requests[session.kind].prompt
        common = 0 if prompt is None else prompt.shared_prefix_tokens // self.block_tokens
        if not common and len(session.turns) == 1:
            return ()
        prefix = session.kind * _PREFIX_STRIDE
        own = _SESSIONS_FROM + session.number * _SESSION_STRIDE
        return tuple(
            prefix + block if block < common else own + block
            for block in range(tokens // self.block_tokens)
        )
