"""What was served and by what: the values that a comparison hands from step to step.

Its own module because every step of it reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scheduler.fleet import Variant
    from scheduler.requests import Objective
    from scheduler.steps import AffineSteps

# A trace of which more than this was lost is not the trace that is simulated.
MOST_LOST = 0.05


class ComparisonError(Exception):
    """The comparison cannot be made; the message says why."""


class Planned(NamedTuple):
    """A request to be made: when, from the start of the run, and how long."""

    at_s: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Served:
    """A request as the client saw it.

    Attributes:
        at_s: when it was sent, from the start of the run.
        late_s: of that, how much after it was due.
        prompt_tokens: sent.
        completion_tokens: received.
        cached_tokens: of the prompt, found in a prefix cache.
        ttft_s: until its first token.
        e2e_s: until its last.
        variant: that served it.
        replica: that served it.

    """

    at_s: float
    late_s: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    ttft_s: float
    e2e_s: float
    variant: str
    replica: str

    @property
    def tpot_s(self) -> float:
        """Mean time per token after the first; NaN for completions of a single one."""
        if self.completion_tokens < 2:  # noqa: PLR2004 (there is no gap)
            return math.nan
        return (self.e2e_s - self.ttft_s) / (self.completion_tokens - 1)


@dataclass(frozen=True, slots=True)
class Run:
    """One trace, served.

    Attributes:
        seed: of the trace.
        requests_per_s: mean rate.
        duration_s: over which requests came.
        served: requests that were completed, as they were sent.
        errors: what the others ended with.

    """

    seed: int
    requests_per_s: float
    duration_s: float
    served: tuple[Served, ...]
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Setup:
    """What there is beside the step models; all that a simulation needs to know.

    Attributes:
        variants: by name; their step models are those before calibration.
        replicas: awake, by variant.
        policy: that routes.
        objective: of the requests.
        max_batched_tokens: of an engine step.
        report_period_s: longest silence of a replica towards the gateway.

    """

    variants: Mapping[str, Variant]
    replicas: Mapping[str, int]
    policy: str
    objective: Objective
    max_batched_tokens: int
    report_period_s: float = 0.5


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was fitted.

    Attributes:
        steps: by variant; joules are those of the configuration.
        network_s: between client and replica, one way, with all that the gateway does.
        ttft_error: median of |simulated − measured| / measured over the requests.
        tpot_error: the same.

    """

    steps: Mapping[str, AffineSteps]
    network_s: float
    ttft_error: float
    tpot_error: float


def check(run: Run) -> None:
    """Refuse a run that is not what was planned.

    Raises:
        ComparisonError: too much was lost, or nothing was served.

    """
    count = len(run.served) + len(run.errors)
    if not run.served or len(run.errors) > MOST_LOST * count:
        first = run.errors[0] if run.errors else "there were none"
        raise ComparisonError(f"seed {run.seed}: {len(run.errors)} of {count} lost; {first}")
