"""What will happen in the virtual cluster, in order of time.

Its own module because every simulated part schedules events and none of them needs to
know who else does; the order of simultaneous events is settled here, so that a run is the
same every time.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# Of simultaneous events, those of a lower rank come first.
FIRST = 0
LAST = 1


class EventQueue:
    """A clock that jumps from event to event.

    Attributes:
        now_s: instant of the latest event.

    """

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def __len__(self) -> int:
        return len(self._heap)

    def at(self, at_s: float, act: Callable[[], None], rank: int = FIRST) -> None:
        """Let something happen at an instant that is not in the past.

        Simultaneous events of one rank happen in the order of these calls.
        """
        heapq.heappush(self._heap, (at_s, rank, next(self._numbers), act))

    def run_until(self, end_s: float) -> None:
        """Let everything happen up to and including that instant, and stand there."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= end_s:
            self.now_s, _, _, act = pop(heap)
            act()
        self.now_s = max(self.now_s, end_s)
