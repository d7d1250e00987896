"""How many calls a gateway has taken, and how they ended.

Its own module because it is the account that tests and operators audit: what was
accepted is completed, cancelled, failed or still in flight, and nothing else.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Tally:
    """Counts since the gateway started: accepted = completed + cancelled + failed + in flight.

    Attributes:
        accepted: admitted and routed at least once.
        completed: streamed to their end.
        cancelled: given up by the client.
        failed: ended by an error after they were accepted.
        rejected: refused before.

    """

    accepted: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    rejected: int = 0

    @property
    def in_flight(self) -> int:
        """Accepted and not ended."""
        return self.accepted - self.completed - self.cancelled - self.failed

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Count the call that is examined inside as rejected, if an error ends that."""
        try:
            yield
        except Exception:
            self.rejected += 1
            raise

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the accepted call that is served inside, by the way it ends."""
        self.accepted += 1
        try:
            yield
        except Exception:
            self.failed += 1
            raise
        except BaseException:
            # Cancelled, or closed between two tokens: the client is gone.
            self.cancelled += 1
            raise
        self.completed += 1
