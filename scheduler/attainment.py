"""How many requests have lately met their objectives, by service class.

Its own module because a promise is kept request by request, each measured by the objectives
that it came with; averages of latencies over requests cannot tell that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from scheduler.decisions import Latencies
    from scheduler.requests import Objective

WINDOW_S = 300.0
# What is older than the window leaves it in steps of this.
STEP_S = 5.0


class Met(NamedTuple):
    """Requests that have ended.

    Attributes:
        requests: completed or failed, in number.
        within_ttft: of these, completed within their own objective of TTFT.
        within_tpot: the same for TPOT.
        within_both: the same for both at once.

    """

    requests: int = 0
    within_ttft: int = 0
    within_tpot: int = 0
    within_both: int = 0

    def plus(self, other: Met) -> Met:
        """Add another's."""
        return Met(*(mine + its for mine, its in zip(self, other, strict=True)))


FAILED = Met(requests=1)


def completed(latencies: Latencies, objective: Objective) -> Met:
    """Measure a completed request by its objectives."""
    ttft = latencies.ttft_s <= objective.ttft_s
    tpot = latencies.tpot_s <= objective.tpot_s
    return Met(1, int(ttft), int(tpot), int(ttft and tpot))


class Attainment:
    """Counts over a sliding window, in bounded memory.

    Attributes:
        window_s: that the counts are of.

    """

    def __init__(self, window_s: float = WINDOW_S) -> None:
        self.window_s = window_s
        # Newest last: the step that each belongs to, with its counts by class.
        self._steps: deque[tuple[int, dict[str, Met]]] = deque()

    def count(self, service_class: str, met: Met, now_s: float) -> None:
        """Add what has ended just now."""
        step = int(now_s // STEP_S)
        if not self._steps or self._steps[-1][0] != step:
            self._steps.append((step, {}))
            self._forget(now_s)
        counts = self._steps[-1][1]
        counts[service_class] = counts.get(service_class, Met()).plus(met)

    def within_window(self, now_s: float) -> dict[str, Met]:
        """Give the counts of every class that had any, by its name."""
        self._forget(now_s)
        total: dict[str, Met] = {}
        for _, counts in self._steps:
            for name, met in counts.items():
                total[name] = total.get(name, Met()).plus(met)
        return dict(sorted(total.items()))

    def _forget(self, now_s: float) -> None:
        """Drop the steps that have ended before the window begins."""
        while self._steps and (self._steps[0][0] + 1) * STEP_S <= now_s - self.window_s:
            self._steps.popleft()
