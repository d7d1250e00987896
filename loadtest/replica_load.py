"""How busy a simulated replica is, as its reports say it.

Its own module because it mirrors the live replica's load meter figure by figure, over
leaps instead of single steps.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from scheduler.fleet import ReplicaReport, StepTotals

if TYPE_CHECKING:
    from loadtest.step_runs import StepRun

# As of the live load meter: seconds over which rates are taken, weight of the newest step.
WINDOW_S = 5.0
STEP_WEIGHT = 0.1


class ReplicaLoad:
    """Counts what is not yet computed, and watches the steps.

    Attributes:
        pending_tokens: of accepted prompts, that are to be computed; found in the prefix
            cache, they are not.

    """

    __slots__ = (
        "_decoded",
        "_metered_at_s",
        "_metered_j",
        "_power_w",
        "_prefilled",
        "_started_at_s",
        "_step_time_s",
        "_totals",
        "_window",
        "_window_tokens",
        "pending_tokens",
    )

    def __init__(self, started_at_s: float) -> None:
        self.pending_tokens = 0
        self._started_at_s = started_at_s
        self._step_time_s = 0.0
        self._totals = StepTotals()
        # Prefills within the window: when each ended, its tokens.
        self._window: deque[tuple[float, int]] = deque()
        self._window_tokens = 0
        # Tokens decoded at each report, for the rate since the one before the window.
        self._decoded: deque[tuple[float, int]] = deque([(started_at_s, 0)])
        self._metered_j = 0.0
        self._metered_at_s = started_at_s
        self._power_w = 0.0

    def ended(self, run: StepRun, batch: int, context_tokens: int) -> None:
        """Fold in a run that has ended.

        Args:
            run: all of it.
            batch: its decoding sequences.
            context_tokens: of these when it began.

        """
        self._totals = _added(self._totals, run, run.steps, batch, context_tokens)
        self._step_time_s = _tracked(self._step_time_s, run, run.steps)
        if run.prefill_tokens:
            self._window.append((run.started_at_s + run.first_s, run.prefill_tokens))
            self._window_tokens += run.prefill_tokens

    def report(  # noqa: PLR0913 (what of the replica is not counted here)
        self,
        now_s: float,
        seen_at_s: float,
        *,
        running: int,
        waiting: int,
        kv_cache_usage: float,
        energy_j: float,
        run: StepRun | None,
        steps: int,
        batch: int,
        context_tokens: int,
    ) -> ReplicaReport:
        """Give the totals at this instant.

        Args:
            now_s: the instant.
            seen_at_s: when the report will reach the gateway.
            running: sequences in the batch.
            waiting: sequences accepted and not in the batch.
            kv_cache_usage: share of KV blocks held, 0 to 1.
            energy_j: since the replica started.
            run: that is under way; None without one.
            steps: of it that have ended.
            batch: its decoding sequences.
            context_tokens: of these when it began.

        """
        window, before_s = self._window, now_s - WINDOW_S
        while window and window[0][0] <= before_s:
            self._window_tokens -= window.popleft()[1]
        step_time_s, totals = self._step_time_s, self._totals
        if run is not None and steps:
            totals = _added(totals, run, steps, batch, context_tokens)
            step_time_s = _tracked(step_time_s, run, steps)
        if now_s > self._metered_at_s:
            self._power_w = (energy_j - self._metered_j) / (now_s - self._metered_at_s)
            self._metered_j, self._metered_at_s = energy_j, now_s
        return ReplicaReport(
            seen_at_s,
            running,
            waiting,
            self.pending_tokens,
            context_tokens + steps * batch,
            kv_cache_usage,
            self._window_tokens / max(min(WINDOW_S, now_s - self._started_at_s), 1e-3),
            self._decode_rate(now_s, totals.sequences),
            step_time_s,
            self._power_w,
            energy_j,
            totals,
        )

    def _decode_rate(self, now_s: float, decoded: int) -> float:
        """Tokens/s since the last report that is at least a window old."""
        past = self._decoded
        while len(past) > 1 and past[1][0] <= now_s - WINDOW_S:
            past.popleft()
        then_s, before = past[0]
        past.append((now_s, decoded))
        return (decoded - before) / max(now_s - then_s, 1e-3)


def _added(
    totals: StepTotals, run: StepRun, steps: int, batch: int, context_tokens: int
) -> StepTotals:
    """Add the first steps of a run, as if one by one."""
    count, decode_steps, sequences, context, prefill_tokens, busy_s, busy_j = totals
    return StepTotals(
        count + steps,
        decode_steps + (steps if batch else 0),
        sequences + steps * batch,
        context + steps * context_tokens + batch * (steps * (steps - 1) // 2),
        prefill_tokens + run.prefill_tokens,
        busy_s + run.time_s(steps),
        busy_j + run.decode_j(steps) + run.prefill_j,
    )


def _tracked(mean_s: float, run: StepRun, steps: int) -> float:
    """Move a running mean of step times through that many steps.

    With weight w the mean m of values f + s·i obeys m(i+1) = (1−w)·m(i) + w·(f + s·i);
    f + s·(i − 1/w) solves it, and the distance from that shrinks by 1 − w each time.
    """
    if not mean_s:
        mean_s = run.first_s  # The first step is taken at its word.
    lag_s = run.first_s - run.slope_s / STEP_WEIGHT
    distance_s: float = (1.0 - STEP_WEIGHT) ** steps * (mean_s - lag_s)
    return distance_s + lag_s + run.slope_s * steps
