"""Runs of load out of thin air, for whatever reads runs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import strategies as st

from loadtest.run import Ending, Requests, Run, RunClass, ServerSample
from scheduler.requests import Objective

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CLASSES = (
    RunClass("interactive", Objective(0.5, 0.05)),
    RunClass("batch", Objective(10.0, math.inf)),
    RunClass("unknown"),
)
DURATION_S = 100.0


def plain_requests(at_s: Floats, **columns: Any) -> Requests:
    """Requests of ten tokens that all complete: TTFT 0.1 s, TPOT 0.01 s, 2 J."""
    count = len(at_s)
    first_s = columns.pop("first_token_at_s", at_s + 0.1)
    plain: dict[str, NDArray[Any]] = {
        "scheduled_at_s": at_s,
        "sent_at_s": at_s,
        "first_token_at_s": first_s,
        "ended_at_s": first_s + 9 * 0.01,
        "ending": np.full(count, Ending.COMPLETED, np.int8),
        "error": np.full(count, -1, np.int16),
        "service_class": np.zeros(count, np.int16),
        "tenant": np.zeros(count, np.int16),
        "variant": np.zeros(count, np.int16),
        "session": np.full(count, -1, np.int32),
        "turn": np.zeros(count, np.int16),
        "prompt_tokens": np.full(count, 100, np.int32),
        "cached_tokens": np.full(count, 25, np.int32),
        "completion_tokens": np.full(count, 10, np.int32),
        "longest_gap_s": np.full(count, 0.02),
        "energy_j": np.full(count, 2.0),
        "gco2e": np.full(count, 2.0 * 400 / 3.6e6),
        "server_ttft_s": np.full(count, 0.08),
        "server_e2e_s": np.full(count, 0.17),
    }
    return Requests(**{**plain, **columns})


def plain_run(requests: Requests, **fields: Any) -> Run:
    """A live run that was measured from its start to its end."""
    run = Run(
        scenario="made-up",
        source="live",
        target="127.0.0.1:9000 (grpc, tokens)",
        model="m",
        seed=0,
        started_at="2026-11-28T12:00:00+00:00",
        steady_begin_s=0.0,
        steady_end_s=DURATION_S,
        ended_at_s=DURATION_S + 10.0,
        workers=2,
        closed_loop=False,
        classes=CLASSES,
        tenants=("a", "b"),
        variants=("bf16", "int8"),
        errors=("RESOURCE_EXHAUSTED: full", "UNAVAILABLE: <gone> & away"),
        requests=requests,
    )
    return replace(run, **fields)


def counters(power_w: float, period_s: float = 1.0) -> tuple[ServerSample, ...]:
    """Samples of a server that draws the same power all the time."""
    return tuple(
        ServerSample(at_s, 500.0 + power_w * at_s, power_w, 2, 3, 1)
        for at_s in np.arange(0.0, DURATION_S + 10.0, period_s).tolist()
    )


def one_at_a_time(at_s: Floats, service_s: Floats) -> Floats:
    """When requests end on a server that serves them in turn."""
    ends = np.empty(len(at_s))
    free_s = 0.0
    for row, (came_s, takes_s) in enumerate(zip(at_s, service_s, strict=True)):
        free_s = max(free_s, came_s) + takes_s
        ends[row] = free_s
    return ends


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Any run: every ending, gaps in every column, with and without counters."""
    count = draw(st.integers(0, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    at_s = np.sort(rng.uniform(0.0, DURATION_S, count))
    ending = rng.integers(0, len(Ending), count).astype(np.int8)
    completed, unsent = ending == Ending.COMPLETED, ending == Ending.UNSENT
    sent_s = np.where(unsent, np.nan, at_s + rng.exponential(0.002, count))
    started = completed | ((ending != Ending.SHED) & ~unsent & (rng.random(count) < 0.5))
    first_s = np.where(started, sent_s + rng.exponential(0.3, count), np.nan)
    tokens = np.where(started, rng.integers(1, 300, count), 0).astype(np.int32)
    stop_s = np.where(started, first_s, sent_s) + tokens * rng.uniform(0.0, 0.08, count)
    ended_s = np.where(unsent | (ending == Ending.CUT_OFF), np.nan, stop_s)
    told = rng.random(count) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    energy_j = np.where(told & started, tokens * 0.1, np.nan)
    requests = plain_requests(
        at_s,
        sent_at_s=sent_s,
        first_token_at_s=first_s,
        ended_at_s=ended_s,
        ending=ending,
        error=np.where(completed, -1, rng.integers(0, 2, count)).astype(np.int16),
        service_class=rng.integers(0, 3, count).astype(np.int16),
        tenant=rng.integers(0, 2, count).astype(np.int16),
        variant=np.where(completed, rng.integers(0, 2, count), -1).astype(np.int16),
        cached_tokens=np.where(completed, 10, -1).astype(np.int32),
        completion_tokens=tokens,
        longest_gap_s=np.where(tokens > 1, 0.05, np.nan),
        energy_j=energy_j,
        gco2e=energy_j * 400 / 3.6e6,
    )
    begin_s = draw(st.sampled_from([0.0, 20.0, DURATION_S]))
    return plain_run(
        requests,
        steady_begin_s=begin_s,
        samples=counters(50.0) if draw(st.booleans()) else (),
        source=draw(st.sampled_from(["live", "virtual"])),
        partial=draw(st.sampled_from(["", "the server is gone"])),
        closed_loop=draw(st.booleans()),
        ended_at_s=DURATION_S + 30.0,
    )
