"""One request and its reply, as the sender saw them.

Its own module because it is the seam between who sends on time and who knows a protocol: a
target tells a `Reply` what comes, and when.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable

    from loadtest.run import Ending


class Served(NamedTuple):
    """What the server says at the end of a reply; −1, NaN or empty where it says nothing.

    Attributes:
        prompt_tokens: of the request.
        cached_tokens: of these, found in a prefix cache.
        completion_tokens: generated.
        variant: that served it.
        energy_j: attributed to it.
        gco2e: emissions of that.
        energy_method: how the energy is known.
        ttft_s: as the server measured it.
        e2e_s: the same, to the last token.

    """

    prompt_tokens: int = -1
    cached_tokens: int = -1
    completion_tokens: int = -1
    variant: str = ""
    energy_j: float = math.nan
    gco2e: float = math.nan
    energy_method: str = ""
    ttft_s: float = math.nan
    e2e_s: float = math.nan


NOTHING_SAID = Served()


class Failure(NamedTuple):
    """Why a request was not completed.

    Attributes:
        ending: SHED or FAILED.
        reason: one line; the same for all that failed alike.
        gone: the target could not be reached, or its connection broke.
        hopeless: no request like it will ever be served: a wrong key, no such model.

    """

    ending: Ending
    reason: str
    gone: bool = False
    hopeless: bool = False


class Reply:
    """A reply on its way; instants are those of the monotonic clock, NaN before they come.

    Attributes:
        sent_at_s: the request was handed to the network.
        first_at_s: its first token came.
        last_at_s: its newest token came.
        longest_gap_s: between two messages.
        messages: with tokens, so far.
        raw: the messages themselves, where they are wanted.

    """

    __slots__ = (
        "_gaps",
        "_on_end",
        "ended",
        "first_at_s",
        "last_at_s",
        "longest_gap_s",
        "messages",
        "raw",
        "sent_at_s",
    )

    def __init__(
        self,
        on_end: Callable[[Reply, float, Failure | None, Served], None],
        gaps: array[float] | None,
        *,
        keep: bool,
    ) -> None:
        """Expect a reply.

        Args:
            on_end: called once with the instant of the end, why it failed, and what was said.
            gaps: to which gaps between messages are added (s); None drops them.
            keep: the messages, for the next turn carries them.

        """
        self.sent_at_s = math.nan
        self.first_at_s = math.nan
        self.last_at_s = math.nan
        self.longest_gap_s = math.nan
        self.messages = 0
        self.raw: list[bytes] | None = [] if keep else None
        self.ended = False
        self._gaps = gaps
        self._on_end = on_end

    def tokens(self, now_s: float, message: bytes) -> None:
        """Take note of a message with tokens."""
        if self.messages:
            gap_s = now_s - self.last_at_s
            if not gap_s <= self.longest_gap_s:  # The first of them is compared with NaN.
                self.longest_gap_s = gap_s
            if self._gaps is not None:
                self._gaps.append(gap_s)
        else:
            self.first_at_s = now_s
        self.last_at_s = now_s
        self.messages += 1
        if self.raw is not None:
            self.raw.append(message)

    def end(self, now_s: float, failure: Failure | None, served: Served = NOTHING_SAID) -> None:
        """Take note of the end; only the first counts."""
        if not self.ended:
            self.ended = True
            self._on_end(self, now_s, failure, served)


class Call(Protocol):
    """A request in flight."""

    def cancel(self) -> object:
        """Give up; its reply hears of nothing any more."""


class Target(Protocol):
    """A server that is asked."""

    def send(self, body: bytes, kind: int, deadline_s: float, reply: Reply) -> Call:
        """Send a request now; tell the reply what comes.

        Args:
            body: as the target's `Bodies` made it.
            kind: of request.
            deadline_s: from now; then the reply ends with a failure.
            reply: to be told.

        """

    def answer(self, reply: Reply) -> bytes | str:
        """Give what a kept reply said, in the form in which the next turn carries it."""

    async def close(self) -> None:
        """Close all connections."""
