"""Steps of an engine that does not tell them, as arriving tokens show them.

Every sequence that decodes gets one token a step: a sequence's next token begins the next step.

Its own module because it is pure but for the observer, and engines that tell nothing share it.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from serve.engine import EngineStep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from serve.engine import StepObserver


class Pace:
    """One running sequence."""

    def __init__(self, steps: StepEstimate, prompt_tokens: int) -> None:
        """Begin with a prompt that is yet to be computed."""
        self.prompt_tokens = prompt_tokens
        self.generated = 0
        self._steps = steps

    def tokens(self, count: int, now_s: float) -> None:
        """Note that tokens have come."""
        self._steps.arrived(self, count, now_s)
        self.generated += count


class StepEstimate:
    """Counts requests, and tells an observer of steps."""

    def __init__(self, observe: StepObserver, kv_tokens: int) -> None:
        """Begin idle.

        Args:
            observe: told of every step.
            kv_tokens: that the KV cache has room for.

        """
        self._observe = observe
        self._kv_tokens = kv_tokens
        self._waiting = 0
        self._running: set[Pace] = set()
        self._seen: dict[Pace, int] = {}
        self._prefilled = 0
        self._began_s = 0.0
        self._latest_s = 0.0

    @property
    def requests(self) -> int:
        """Count those that wait or run."""
        return self._waiting + len(self._running)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a request from its arrival; once it runs it counts as running."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    @contextmanager
    def running(self, prompt_tokens: int) -> Iterator[Pace]:
        """Count a request as running."""
        pace = Pace(self, prompt_tokens)
        self._waiting -= 1
        if not self._running:
            self._began_s = time.monotonic()
        self._running.add(pace)
        try:
            yield pace
        finally:
            self._waiting += 1
            self._running.discard(pace)
            if not self._running:
                self._close()

    def arrived(self, pace: Pace, count: int, now_s: float) -> None:
        """Take tokens of a sequence: a second one of the same sequence is of the next step."""
        if pace in self._seen:
            self._close()
        self._seen[pace] = count
        self._latest_s = now_s
        if not pace.generated:
            self._prefilled += pace.prompt_tokens

    def _close(self) -> None:
        if not self._seen:
            return
        decoded = [count for pace, count in self._seen.items() if pace.generated > count]
        used = sum(pace.prompt_tokens + pace.generated for pace in self._running)
        self._observe(
            EngineStep(
                duration_s=max(0.0, self._latest_s - self._began_s),
                prefill_tokens=self._prefilled,
                decode_sequences=len(decoded),
                decode_tokens=sum(decoded),
                running_requests=len(self._running),
                waiting_requests=self._waiting,
                kv_cache_usage=min(1.0, used / self._kv_tokens),
            )
        )
        self._began_s = self._latest_s
        self._seen.clear()
        self._prefilled = 0
