"""The requests of one run: when each comes, how long it is, and of which service class.

Its own module because it joins what arrivals, lengths and traces give, and because every
policy that is compared must get the very same requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadtest.traces import PLAIN_BLOCK_TOKENS, TraceRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadtest.arrivals import Times
    from loadtest.lengths import LengthSource
    from loadtest.traces import Trace

# Copies of a request come within this time of it: a larger population with the same habits.
JITTER_S = 30.0
# Hash ids of one copy of a trace stay apart from those of another by this factor.
COPY_STRIDE = 1 << 32


@dataclass(frozen=True, slots=True)
class Workload:
    """What a cluster is given.

    Attributes:
        name: for reports.
        requests: in the order of their arrival.
        duration_s: over which they come.
        block_tokens: that a hash id stands for.

    """

    name: str
    requests: tuple[TraceRequest, ...]
    duration_s: float
    block_tokens: int = PLAIN_BLOCK_TOKENS

    @property
    def requests_per_s(self) -> float:
        """Mean rate."""
        return len(self.requests) / self.duration_s


def replay(
    trace: Trace,
    requests_per_s: float,
    duration_s: float,
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> Workload:
    """Replay a trace at another mean rate, with its bursts and lulls where they were.

    Time keeps its pace. Where more requests are wanted than recorded, each comes several
    times within `JITTER_S`, as from so many populations alike; where fewer, some are left
    out. Prefixes are shared within a population only. A trace that is too short starts again.

    Args:
        trace: to be replayed from its start.
        requests_per_s: mean rate.
        duration_s: for so long.
        shares: of service classes, by name, for requests without one.
        rng: source of chance.

    """
    source = _unrolled(trace, duration_s)
    factor = requests_per_s * duration_s / len(source)
    copies = np.floor(factor + rng.uniform(0.0, 1.0, len(source))).astype(int)
    origins = np.repeat(np.arange(len(source)), copies)
    firsts = np.cumsum(copies) - copies
    turns = np.arange(origins.size) - firsts[origins]
    at_s = np.array([request.at_s for request in source])[origins]
    jitter_s = rng.uniform(-JITTER_S, JITTER_S, origins.size)
    at_s = np.mod(np.where(turns > 0, at_s + jitter_s, at_s), duration_s)
    order = np.argsort(at_s, kind="stable")
    classes = _classes(shares, origins.size, rng)
    requests = tuple(
        _copy(source[origins[row]], float(at_s[row]), int(turns[row]), classes[row])
        for row in order.tolist()
    )
    return Workload(trace.name, requests, duration_s, trace.block_tokens)


def synthesize(  # noqa: PLR0913, PLR0917 (a workload has that many sides)
    name: str,
    times: Times,
    duration_s: float,
    lengths: LengthSource,
    shares: Mapping[str, float],
    rng: np.random.Generator,
    block_tokens: int = PLAIN_BLOCK_TOKENS,
) -> Workload:
    """Give each arrival its lengths and its service class."""
    classes = _classes(shares, times.size, rng)
    drawn = lengths.draw(times.size, rng)
    requests = tuple(
        TraceRequest(at_s, *each, service_class)
        for at_s, each, service_class in zip(times.tolist(), drawn, classes, strict=True)
    )
    return Workload(name, requests, duration_s, block_tokens)


def _unrolled(trace: Trace, duration_s: float) -> list[TraceRequest]:
    """The trace's requests over the duration; again from the start where it is too short."""
    requests, start_s = [], 0.0
    # The gap from the last request to the first of the next round is a mean one.
    round_s = trace.duration_s * (len(trace.requests) + 1) / len(trace.requests) or duration_s
    while start_s < duration_s:
        requests += [
            request._replace(at_s=start_s + request.at_s)
            for request in trace.requests
            if start_s + request.at_s < duration_s
        ]
        start_s += round_s
    return requests


def _copy(request: TraceRequest, at_s: float, turn: int, service_class: str) -> TraceRequest:
    hash_ids = request.hash_ids
    if turn and hash_ids:
        hash_ids = tuple(hash_id + turn * COPY_STRIDE for hash_id in hash_ids)
    return TraceRequest(
        at_s,
        request.prompt_tokens,
        request.completion_tokens,
        hash_ids,
        request.service_class or service_class,
    )


def _classes(shares: Mapping[str, float], count: int, rng: np.random.Generator) -> list[str]:
    names = list(shares)
    weights = np.array([shares[name] for name in names], dtype=np.float64)
    rows = rng.choice(len(names), count, p=weights / weights.sum())
    return [names[row] for row in rows.tolist()]
