"""How busy a replica is, folded from its engine's steps and its own requests.

Its own module because requests are known at once and steps only when they have ended:
the report must count both consistently, whichever engine runs underneath.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from scheduler.fleet import ReplicaReport, StepTotals

if TYPE_CHECKING:
    from serve.engine import EngineStep

# Long enough to hold several prefills, short enough to follow a burst.
WINDOW_S = 5.0
# Weight of the newest step: the mean follows a change of batch within about ten steps.
STEP_WEIGHT = 0.1


@dataclass(slots=True)
class _Call:
    prompt_tokens: int
    uncached_tokens: int
    completion_tokens: int = 0


class _Sample(NamedTuple):
    ended_at_s: float
    prefill_tokens: int
    decode_tokens: int


class LoadMeter:
    """Counts requests from acceptance to end, and watches the engine's steps."""

    def __init__(
        self, started_at_s: float, window_s: float = WINDOW_S, *, counted: bool = False
    ) -> None:
        """Start with nothing accepted.

        Args:
            started_at_s: now, on the clock of all later arguments `now_s`.
            window_s: over which rates are taken.
            counted: a counter measures what steps use, and `measured` will tell it: reports
                then give totals as they were the last time, so that whoever compares two of
                them has the energy of just the steps between.

        """
        self._started_at_s = started_at_s
        self._window_s = window_s
        self._calls: dict[str, _Call] = {}
        self._unstarted_tokens = 0  # Prompts that have produced no token yet.
        self._computed_tokens = 0  # Of these prompts, what steps have computed.
        self._context_tokens = 0  # Prompts and completions of calls that have produced one.
        self._running = 0
        self._kv_cache_usage = 0.0
        self._step_time_s = 0.0
        self._totals = StepTotals()
        self._measured_totals = StepTotals() if counted else None
        self._recent: deque[_Sample] = deque()
        self._recent_prefill_tokens = 0
        self._recent_decode_tokens = 0

    @property
    def requests(self) -> int:
        """Accepted and not finished."""
        return len(self._calls)

    def accepted(self, call: str, prompt_tokens: int, cached_tokens: int = 0) -> None:
        """Count a request from now on.

        Args:
            call: unique among those not finished.
            prompt_tokens: of the request.
            cached_tokens: of these, expected in the prefix cache.

        """
        uncached_tokens = prompt_tokens - cached_tokens
        self._calls[call] = _Call(prompt_tokens, uncached_tokens)
        self._unstarted_tokens += uncached_tokens

    def produced(self, call: str, tokens: int) -> None:
        """Take note of new tokens of a request."""
        if tokens == 0:
            return
        record = self._calls[call]
        if record.completion_tokens == 0:
            self._leave_prefill(record.uncached_tokens)
            self._context_tokens += record.prompt_tokens
        record.completion_tokens += tokens
        self._context_tokens += tokens

    def finished(self, call: str) -> None:
        """Count a request no more, however it ended; does nothing the second time."""
        record = self._calls.pop(call, None)
        if record is None:
            return
        if record.completion_tokens:
            self._context_tokens -= record.prompt_tokens + record.completion_tokens
        else:
            self._leave_prefill(record.uncached_tokens)

    def step(self, step: EngineStep, now_s: float) -> None:
        """Fold in a step that has ended."""
        self._computed_tokens += step.prefill_tokens
        self._running = step.running_requests
        self._kv_cache_usage = step.kv_cache_usage
        if step.duration_s > 0:
            weight = STEP_WEIGHT if self._step_time_s else 1.0
            self._step_time_s += weight * (step.duration_s - self._step_time_s)
        self._add_up(step)
        produced = step.decode_tokens
        self._recent.append(_Sample(now_s, step.prefill_tokens, produced))
        self._recent_prefill_tokens += step.prefill_tokens
        self._recent_decode_tokens += produced
        self._forget(now_s)

    def measured(self, energy_j: float) -> None:
        """Take what a counter has seen all steps use that have ended since the last time."""
        self._totals = self._totals._replace(busy_j=self._totals.busy_j + energy_j)
        self._measured_totals = self._totals

    def report(self, now_s: float, power_w: float, energy_j: float) -> ReplicaReport:
        """Give the totals at this instant.

        Args:
            now_s: the instant; a gateway replaces it by its own when the report arrives.
            power_w: drawn now.
            energy_j: used since the replica started.

        """
        self._forget(now_s)
        span_s = max(min(self._window_s, now_s - self._started_at_s), 1e-3)
        running = min(self._running, self.requests)
        return ReplicaReport(
            observed_at_s=now_s,
            running_requests=running,
            waiting_requests=self.requests - running,
            pending_prefill_tokens=max(0, self._unstarted_tokens - self._computed_tokens),
            context_tokens=self._context_tokens,
            kv_cache_usage=self._kv_cache_usage if self.requests else 0.0,
            prefill_tokens_per_s=self._recent_prefill_tokens / span_s,
            decode_tokens_per_s=self._recent_decode_tokens / span_s,
            step_time_s=self._step_time_s,
            power_w=power_w,
            energy_j=energy_j,
            totals=self._totals if self._measured_totals is None else self._measured_totals,
        )

    def _add_up(self, step: EngineStep) -> None:
        rounds = step.decode_rounds
        self._totals = StepTotals(
            self._totals.steps + 1,
            self._totals.decode_steps + rounds,
            self._totals.sequences + rounds * step.decode_sequences,
            # What the step produced is not counted yet, nor has it read it.
            self._totals.context_tokens + rounds * self._context_tokens,
            self._totals.prefill_tokens + step.prefill_tokens,
            self._totals.busy_s + max(step.duration_s, 0.0),
            self._totals.busy_j,
        )

    def _leave_prefill(self, uncached_tokens: int) -> None:
        # Steps do not say whose prompt they computed. A prompt of which more was cached than
        # expected leaves with less computed; what is taken too much from the others makes them
        # look longer until the last of them has started.
        self._unstarted_tokens -= uncached_tokens
        self._computed_tokens = max(0, self._computed_tokens - uncached_tokens)
        if self._unstarted_tokens == 0:
            self._computed_tokens = 0

    def _forget(self, now_s: float) -> None:
        while self._recent and self._recent[0].ended_at_s <= now_s - self._window_s:
            oldest = self._recent.popleft()
            self._recent_prefill_tokens -= oldest.prefill_tokens
            self._recent_decode_tokens -= oldest.decode_tokens
