"""How busy a simulated replica is, as its reports say it.

Its own module because it mirrors the live replica's load meter figure by figure, over
leaps instead of single steps.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from scheduler.fleet import ReplicaReport, StepTotals

if TYPE_CHECKING:
    from loadtest.step_runs import Series, StepRun

# As of the live load meter: seconds over which rates are taken, weight of the newest step.
WINDOW_S = 5.0
STEP_WEIGHT = 0.1


class _Sample(NamedTuple):
    started_at_s: float
    ended_at_s: float
    prefill_tokens: int
    decode_tokens: int


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        run: that is under way, or has just ended.
        steps: of it that have ended.
        batch: its decoding sequences.
        context_tokens: of these when it began.

    """

    run: StepRun
    steps: int
    batch: int
    context_tokens: int


class ReplicaLoad:
    """Counts what is not yet computed, and watches the steps."""

    def __init__(self, started_at_s: float) -> None:
        self._started_at_s = started_at_s
        self._pending_tokens = 0
        self._step_time_s = 0.0
        self._recent: deque[_Sample] = deque()
        self._recent_prefill_tokens = 0
        self._recent_decode_tokens = 0
        self._metered_j = 0.0
        self._metered_at_s = started_at_s
        self._power_w = 0.0
        self._totals = StepTotals()

    def accepted(self, prompt_tokens: int) -> None:
        """Count a prompt that is to be computed."""
        self._pending_tokens += prompt_tokens

    def found(self, tokens: int) -> None:
        """Count a prefix that need not be computed."""
        self._pending_tokens -= tokens

    def computed(self, tokens: int) -> None:
        """Count prompt tokens that are computed."""
        self._pending_tokens -= tokens

    def preempted(self, tokens: int) -> None:
        """Count tokens that must be computed anew."""
        self._pending_tokens += tokens

    def ended(self, progress: Progress) -> None:
        """Fold in a run that has ended."""
        run, steps, batch, _ = progress
        self._totals = _added(self._totals, progress)
        self._step_time_s = _tracked(self._step_time_s, run.time, steps)
        ended_at_s = run.started_at_s + run.time.total(steps)
        prefilled, decoded = run.prefill_tokens, steps * batch
        self._recent.append(_Sample(run.started_at_s, ended_at_s, prefilled, decoded))
        self._recent_prefill_tokens += prefilled
        self._recent_decode_tokens += decoded
        if len(self._recent) > 1 and self._recent[0].ended_at_s <= ended_at_s - WINDOW_S:
            self._forget(ended_at_s)

    def report(  # noqa: PLR0913 (what of the replica is not counted here)
        self,
        now_s: float,
        seen_at_s: float,
        *,
        running: int,
        waiting: int,
        context_tokens: int,
        kv_cache_usage: float,
        progress: Progress | None,
        energy_j: float,
    ) -> ReplicaReport:
        """Give the totals at this instant.

        Args:
            now_s: the instant.
            seen_at_s: when the report will reach the gateway.
            running: sequences in the batch.
            waiting: sequences accepted and not in the batch.
            context_tokens: of decoding sequences.
            kv_cache_usage: share of KV blocks held, 0 to 1.
            progress: of the present run, if there is one.
            energy_j: since the replica started.

        """
        self._forget(now_s)
        step_time_s, decoded, totals = self._step_time_s, self._recent_decode_tokens, self._totals
        if progress is not None and progress.steps:
            totals = _added(totals, progress)
            step_time_s = _tracked(step_time_s, progress.run.time, progress.steps)
            decoded += progress.steps * progress.batch
        span_s = max(min(WINDOW_S, now_s - self._started_at_s), 1e-3)
        if now_s > self._metered_at_s:
            self._power_w = (energy_j - self._metered_j) / (now_s - self._metered_at_s)
            self._metered_j, self._metered_at_s = energy_j, now_s
        return ReplicaReport(
            seen_at_s,
            running,
            waiting,
            self._pending_tokens,
            context_tokens,
            kv_cache_usage,
            self._recent_prefill_tokens / span_s,
            decoded / span_s,
            step_time_s,
            self._power_w,
            energy_j,
            totals,
        )

    def _forget(self, now_s: float) -> None:
        recent, before_s = self._recent, now_s - WINDOW_S
        while recent and recent[0].ended_at_s <= before_s:
            oldest = recent.popleft()
            self._recent_prefill_tokens -= oldest.prefill_tokens
            self._recent_decode_tokens -= oldest.decode_tokens
        if recent and recent[0].started_at_s < before_s and recent[0].decode_tokens:
            self._trim(before_s)

    def _trim(self, before_s: float) -> None:
        """Forget the part of a leap that lies before the window, as if taken step by step."""
        oldest = self._recent.popleft()
        span_s = oldest.ended_at_s - oldest.started_at_s
        kept = round(oldest.decode_tokens * (oldest.ended_at_s - before_s) / span_s)
        self._recent_decode_tokens -= oldest.decode_tokens - kept
        self._recent.appendleft(_Sample(before_s, oldest.ended_at_s, oldest.prefill_tokens, kept))


def _added(totals: StepTotals, progress: Progress) -> StepTotals:
    """Add the first steps of a run, as if one by one."""
    run, steps, batch, context_tokens = progress
    return StepTotals(
        totals.steps + steps,
        totals.decode_steps + (steps if batch else 0),
        totals.sequences + steps * batch,
        totals.context_tokens + steps * context_tokens + batch * steps * (steps - 1) // 2,
        totals.prefill_tokens + run.prefill_tokens,
        totals.busy_s + run.time.total(steps),
        totals.busy_j + run.energy.total(steps) + run.prefill_j,
    )


def _tracked(mean_s: float, time: Series, steps: int) -> float:
    """Move a running mean through that many steps.

    With weight w the mean m of values f + s·i obeys m(i+1) = (1−w)·m(i) + w·(f + s·i);
    f + s·(i − 1/w) solves it, and the distance from that shrinks by 1 − w each time.
    """
    if not mean_s:
        mean_s = time.first  # The first step is taken at its word.
    lag_s = time.first - time.slope / STEP_WEIGHT
    distance_s = float((1.0 - STEP_WEIGHT) ** steps) * (mean_s - lag_s)
    return distance_s + lag_s + time.slope * steps
