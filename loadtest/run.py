"""A run of load as every report sees it, against a live cluster or on the virtual one.

Its own module because it is the contract between whoever makes load and whoever reads what
came of it: live and virtual runs fill the same columns, so that they lie side by side.

All times are seconds from the start of the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scheduler.requests import Objective


class Ending(IntEnum):
    """How a request ended."""

    COMPLETED = 0
    SHED = 1  # Refused for want of room: RESOURCE_EXHAUSTED, or 429 and 503.
    FAILED = 2
    CUT_OFF = 3  # Still in flight when the run was over.
    UNSENT = 4  # The run was over before it could be sent.


@dataclass(frozen=True, slots=True)
class Requests:
    """One row for each request that was planned, in the order of their schedule.

    Attributes:
        scheduled_at_s: when it was to be sent; latencies count from here, so that a sender
            or a server that is late hides nothing. In a closed loop, when its turn came.
        sent_at_s: when it was; NaN if it never was.
        first_token_at_s: NaN without one.
        ended_at_s: when its last token, or its error, came; NaN before.
        ending: an `Ending`.
        error: index into `Run.errors`; −1 without one.
        service_class: index into `Run.classes`.
        tenant: index into `Run.tenants`.
        variant: that served it, index into `Run.variants`; −1 where nothing says.
        session: that it belongs to; −1 for none.
        turn: within its session, from 0.
        prompt_tokens: as the server counts them, else as planned.
        cached_tokens: of these, found in a prefix cache; −1 where nothing says.
        completion_tokens: generated.
        longest_gap_s: between two messages of its stream; NaN with fewer than two.
        energy_j: that the reply says; NaN where nothing says.
        gco2e: that the reply says; NaN where nothing says.
        server_ttft_s: as the server measured it; NaN where nothing says.
        server_e2e_s: the same, to the last token.

    """

    scheduled_at_s: NDArray[np.float64]
    sent_at_s: NDArray[np.float64]
    first_token_at_s: NDArray[np.float64]
    ended_at_s: NDArray[np.float64]
    ending: NDArray[np.int8]
    error: NDArray[np.int16]
    service_class: NDArray[np.int16]
    tenant: NDArray[np.int16]
    variant: NDArray[np.int16]
    session: NDArray[np.int32]
    turn: NDArray[np.int16]
    prompt_tokens: NDArray[np.int32]
    cached_tokens: NDArray[np.int32]
    completion_tokens: NDArray[np.int32]
    longest_gap_s: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    gco2e: NDArray[np.float64]
    server_ttft_s: NDArray[np.float64]
    server_e2e_s: NDArray[np.float64]

    @property
    def ttft_s(self) -> NDArray[np.float64]:
        """Time to the first token, from the schedule; NaN without one."""
        return self.first_token_at_s - self.scheduled_at_s

    @property
    def e2e_latency_s(self) -> NDArray[np.float64]:
        """Time to the last token of completed requests, from the schedule; NaN for others."""
        whole = self.ending == Ending.COMPLETED
        return np.where(whole, self.ended_at_s - self.scheduled_at_s, np.nan)

    @property
    def tpot_s(self) -> NDArray[np.float64]:
        """Mean time per token after the first; NaN for fewer than two tokens."""
        gaps = np.where(self.completion_tokens > 1, self.completion_tokens - 1, np.nan)
        whole = np.where(self.ending == Ending.COMPLETED, self.ended_at_s, np.nan)
        tpot_s: NDArray[np.float64] = (whole - self.first_token_at_s) / gaps
        return tpot_s

    @property
    def lateness_s(self) -> NDArray[np.float64]:
        """From the schedule to the sending; NaN for what was never sent."""
        return self.sent_at_s - self.scheduled_at_s

    def select(self, rows: NDArray[np.bool_]) -> Requests:
        """Keep some rows."""
        return Requests(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class RunClass:
    """A service class as this run knows it.

    Attributes:
        name: as the server spells it.
        objective: that its requests have; None where nobody says.

    """

    name: str
    objective: Objective | None = None


@dataclass(frozen=True, slots=True)
class ServerSample:
    """What the server said of itself at one instant.

    Attributes:
        at_s: when.
        energy_j: of all replicas that it has seen so far, counters added up; NaN if it tells none.
        power_w: of all replicas, recent mean.
        awake_replicas: that take requests.
        running_requests: in batches.
        waiting_requests: not yet in one.

    """

    at_s: float
    energy_j: float
    power_w: float
    awake_replicas: int
    running_requests: int
    waiting_requests: int


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a report needs.

    Attributes:
        scenario: by name.
        source: where it ran.
        target: address and protocol, or the fleet with its policy and autoscaler.
        model: that was asked.
        seed: of chance.
        started_at: UTC, ISO 8601; of a virtual run, when it was computed.
        steady_begin_s: measuring begins: warm-up and ramp are over.
        steady_end_s: measuring ends: what is scheduled later does not count.
        ended_at_s: the last reply had come, or nobody waited for it any more.
        workers: processes that sent; 0 for a virtual run.
        closed_loop: requests waited for their predecessors.
        classes: in the order of their index.
        tenants: the same.
        variants: the same.
        errors: one line for each kind, the same.
        requests: all that were planned.
        itl: gaps between the messages of a stream (seconds), of requests scheduled within the
            steady window: an encoded HDR histogram of microseconds for each class that had any.
        samples: of the server, in order; empty where it tells nothing.
        energy_method: how the server knows its joules; empty where it tells nothing.
        partial: why it did not run to its end; empty if it did.
        host: machine and processor that sent.
        note: command, version and whatever else helps to run it again.

    """

    scenario: str
    source: Literal["live", "virtual"]
    target: str
    model: str
    seed: int
    started_at: str
    steady_begin_s: float
    steady_end_s: float
    ended_at_s: float
    workers: int
    closed_loop: bool
    classes: tuple[RunClass, ...]
    tenants: tuple[str, ...]
    variants: tuple[str, ...]
    errors: tuple[str, ...]
    requests: Requests
    itl: Mapping[str, str] = field(default_factory=dict)
    samples: tuple[ServerSample, ...] = ()
    energy_method: str = ""
    partial: str = ""
    host: str = ""
    note: str = ""

    @property
    def steady(self) -> Requests:
        """Requests that were scheduled within the steady window."""
        at_s = self.requests.scheduled_at_s
        return self.requests.select((at_s >= self.steady_begin_s) & (at_s < self.steady_end_s))
