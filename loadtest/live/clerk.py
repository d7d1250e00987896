"""Turns what a sender saw of a request into a row of its ledger.

Its own module because a request that was never sent gets its row too, from whoever knows that.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from loadtest.live.exchanges import NOTHING_SAID, Failure, Reply, Served
from loadtest.live.ledger import Row
from loadtest.run import Ending

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterable

    from loadtest.live.ledger import Ledger
    from loadtest.scenario import Scenario
    from loadtest.schedule import Schedule, Session


class Clerk:
    """Writes a ledger."""

    def __init__(self, scenario: Scenario, ledger: Ledger) -> None:
        """Prepare to write.

        Args:
            scenario: whose requests these are.
            ledger: to be written.

        """
        self._ledger = ledger
        self._class_of = [scenario.class_names.index(k.service_class) for k in scenario.requests]
        self._tenant_of = [scenario.tenants.index(k.tenant) for k in scenario.requests]
        self.start_s = 0.0
        """The instant 0 of the run, on the clock of replies."""

    def gaps(self, kind: int) -> array[float]:
        """Give where gaps between messages of a kind of request are collected."""
        return self._ledger.gaps[self._class_of[kind]]

    def unsent(self, session: Session, turn: int, due_s: float, why: str) -> None:
        """Write down a request that was not sent."""
        failure = Failure(Ending.UNSENT, why)
        self.ended(session, turn, due_s, Reply(_ignored, None, keep=False), math.nan, failure)

    def all_unsent(self, schedule: Schedule, numbers: Iterable[int], why: str) -> None:
        """Write down the first requests of sessions that were not sent."""
        for number in numbers:
            self.unsent(schedule.session(number), 0, float(schedule.begin_s[number]), why)

    def ended(  # noqa: PLR0913, PLR0917 (a row has that many sides)
        self,
        session: Session,
        turn: int,
        due_s: float,
        reply: Reply,
        at_s: float,
        failure: Failure | None,
        served: Served = NOTHING_SAID,
    ) -> None:
        """Write down a request that has ended.

        Args:
            session: to which it belongs.
            turn: of it.
            due_s: in the run.
            reply: as it was seen.
            at_s: of its end, in the run.
            failure: None if it was completed.
            served: what the server said.

        """
        planned, told = session.turns[turn], served.prompt_tokens >= 0
        if served.energy_method:
            self._ledger.energy_method = served.energy_method
        self._ledger.add(
            Row(
                scheduled_at_s=due_s,
                sent_at_s=reply.sent_at_s - self.start_s,
                first_token_at_s=reply.first_at_s - self.start_s,
                ended_at_s=at_s,
                ending=Ending.COMPLETED if failure is None else failure.ending,
                error="" if failure is None else failure.reason,
                service_class=self._class_of[session.kind],
                tenant=self._tenant_of[session.kind],
                variant=served.variant,
                session=session.number if len(session.turns) > 1 else -1,
                turn=turn,
                prompt_tokens=served.prompt_tokens if told else planned.prompt_tokens,
                cached_tokens=served.cached_tokens,
                completion_tokens=served.completion_tokens if told else reply.messages,
                longest_gap_s=reply.longest_gap_s,
                energy_j=served.energy_j,
                gco2e=served.gco2e,
                server_ttft_s=served.ttft_s,
                server_e2e_s=served.e2e_s,
            )
        )


def _ignored(reply: Reply, now_s: float, failure: Failure | None, served: Served) -> None:
    """Hear of a reply that nobody waits for."""
