"""The virtual cluster against a real one, on the same requests.

    jouleserve up --detach
    python scripts/compare_simulator.py --address 127.0.0.1:9000 --out comparison.json

A first trace is served for real and the step models are fitted to it, in a simulation in which
each request goes to the replica that really served it, so that routing is no part of the fit. A
second trace of another seed is served for real and then simulated: through the whole virtual
cluster, with its own routing, and once more with each request where it really was. The first is
the comparison that counts; the second tells what of an error is due to routing.

Recorded measurements can be analysed again without a cluster: `--from-json comparison.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import shlex
import statistics
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.optimize import least_squares, minimize

from loadtest.arrivals import poisson
from loadtest.lengths import LogNormalLengths
from loadtest.traces import TraceRequest
from loadtest.virtual.autoscalers import EverythingAwake
from loadtest.virtual.cluster import VirtualCluster
from loadtest.virtual.descriptions import ClusterDescription, GatewaySettings, ServiceClass
from loadtest.virtual.events import EventQueue
from loadtest.virtual.outcomes import Status
from loadtest.virtual.sequences import Sequence
from loadtest.virtual.simulated_replica import EngineSettings, SimulatedReplica
from loadtest.workloads import Workload
from protos.jouleserve.client import AsyncClient
from protos.jouleserve.errors import JouleserveClientError
from scheduler.fleet import Variant
from scheduler.plans import NodeGroup, NodeGroupName, Placement
from scheduler.requests import ModelName, Objective, ReplicaId, VariantName
from scheduler.steps import AffineSteps
from serve import catalogue, config_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from collections.abc import Sequence as Many

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

DEFAULT_CONFIG = Path(__file__).parents[1] / "serve" / "default.yaml"
PROMPTS = LogNormalLengths(prompt_tokens=120, completion_tokens=48, spread=0.6, most_tokens=400)
MOST_COMPLETION_TOKENS = 128
# Ids that are plain words in every vocabulary of some size.
TOKEN_IDS = (1000, 20_000)
# What vLLM computes in a step on a CPU, at most, when an asynchronous engine says nothing else.
MAX_BATCHED_TOKENS = 2048
# Requests that still run so long after the last arrival are given up.
DRAIN_S = 120.0
# A trace of which more than this was lost is not the trace that is simulated.
MOST_LOST = 0.05
# Simulated minus measured over measured, at most.
TARGETS = {"ttft_p50_s": 0.20, "tpot_p50_s": 0.20, "tokens_per_s": 0.10}
# Steps of the numerical derivative, in logarithms: requests that wait for a step to end make
# the cost jagged, and a wide step sees past that. What remains is searched without derivatives.
STEPS = (0.2, 0.05)
SIMPLEX = 0.1
# A slope begins as good as absent.
SLOPE_SIMPLEX = 3.0
MOST_TRIALS = 700
# Residual that counts as a disturbance rather than as noise.
DISTURBANCE = 0.1
# Pull towards the starting point, for parameters that the trace says nothing about.
RIDGE = 0.02
# A context slope stays in the model if it makes the cost this much smaller.
WORTH = 0.02
CLASS = "measured"


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


class Figures(NamedTuple):
    """What is compared."""

    ttft_p50_s: float
    tpot_p50_s: float
    tokens_per_s: float


class Times(NamedTuple):
    """Of simulated requests, in their order; NaN for what was not served."""

    ttft_s: Floats
    e2e_s: Floats


# ── the trace, for real ─────────────────────────────────────────────────────


def make_trace(seed: int, requests_per_s: float, duration_s: float) -> tuple[Planned, ...]:
    """Draw Poisson arrivals and log-normal lengths; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    times = poisson(requests_per_s, duration_s, rng)
    return tuple(
        Planned(at_s, each.prompt_tokens, min(each.completion_tokens, MOST_COMPLETION_TOKENS))
        for at_s, each in zip(times.tolist(), PROMPTS.draw(times.size, rng), strict=True)
    )


def prompt_ids(tokens: int, rng: np.random.Generator) -> list[int]:
    """Draw a prompt that shares its beginning with no other."""
    ids: list[int] = rng.integers(*TOKEN_IDS, tokens).tolist()
    return ids


async def serve_one(
    client: AsyncClient, model: str, planned: Planned, started_s: float, ids: list[int], **to: str
) -> Served:
    """Make a request when it is due and read it to its end."""
    await asyncio.sleep(max(0.0, started_s + planned.at_s - time.perf_counter()))
    sent_s = time.perf_counter()
    first_s = last_s = math.nan
    stream = client.generate(
        model,
        prompt_token_ids=ids,
        max_tokens=planned.completion_tokens,
        ignore_eos=True,
        temperature=0.0,
        **to,
    )
    async with stream:
        async for tokens in stream:
            if tokens.token_ids:
                last_s = time.perf_counter()
                first_s = last_s if math.isnan(first_s) else first_s
        finish = stream.finish
    return Served(
        at_s=sent_s - started_s,
        late_s=sent_s - started_s - planned.at_s,
        prompt_tokens=planned.prompt_tokens,
        completion_tokens=finish.usage.completion_tokens,
        cached_tokens=finish.usage.cached_tokens,
        ttft_s=first_s - sent_s,
        e2e_s=last_s - sent_s,
        variant=finish.variant,
        replica=finish.replica,
    )


async def warm_up(client: AsyncClient, model: str, variants: Iterable[str]) -> None:
    """Let every variant compute a short and a long prompt first."""
    rng = np.random.default_rng()
    for variant in variants:
        for tokens in (30, 300):
            ids = prompt_ids(tokens, rng)
            planned = Planned(0.0, tokens, 16)
            await serve_one(client, model, planned, time.perf_counter(), ids, variant=variant)


async def serve_trace(
    client: AsyncClient, model: str, seed: int, requests_per_s: float, duration_s: float
) -> Run:
    """Send a trace's requests when they are due, whatever became of those before."""
    planned = make_trace(seed, requests_per_s, duration_s)
    # Without a seed: a second run of a trace must not find the first one's prompts in a cache.
    rng = np.random.default_rng()
    prompts = [prompt_ids(each.prompt_tokens, rng) for each in planned]
    started_s = time.perf_counter()
    tasks = [
        asyncio.create_task(serve_one(client, model, each, started_s, ids))
        for each, ids in zip(planned, prompts, strict=True)
    ]
    if tasks:
        await asyncio.wait(tasks, timeout=duration_s + DRAIN_S)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    served, errors = [], []
    for result in results:
        if isinstance(result, Served):
            served.append(result)
        elif isinstance(result, (JouleserveClientError, asyncio.CancelledError)):
            errors.append(f"{type(result).__name__}: {result}")
        else:
            raise result
    return Run(seed, requests_per_s, duration_s, tuple(served), tuple(errors))


async def measure(options: argparse.Namespace) -> tuple[Setup, Run, Run]:
    """Serve both traces, and note what serves them."""
    async with AsyncClient(options.address) as client:
        status, models = await client.status(), await client.models()
        model = models[0]
        replicas = Counter(
            each.variant
            for each in status.replicas
            if each.state == "awake" and each.model == model.name
        )
        setup = read_setup(options.config, replicas, status.policy, options.max_batched_tokens)
        await warm_up(client, model.name, replicas)
        runs = []
        for name, seed, rate in (
            ("calibration", options.calibration_seed, options.rate),
            ("test", options.test_seed, options.test_rate or options.rate),
        ):
            run = await serve_trace(client, model.name, seed, rate, options.duration)
            print(f"{name}: {len(run.served)} served, {len(run.errors)} lost", flush=True)
            runs.append(run)
        after = Counter(
            each.variant
            for each in (await client.status()).replicas
            if each.state == "awake" and each.model == model.name
        )
    if after != replicas:
        print(f"replicas changed meanwhile: {dict(replicas)}, then {dict(after)}")
    return setup, runs[0], runs[1]


def read_setup(
    path: Path, replicas: Mapping[str, int], policy: str, max_batched_tokens: int | None
) -> Setup:
    """Read what a cluster is configured to be.

    Raises:
        ComparisonError: it serves variants that the configuration does not know.

    """
    config = config_file.load(path)
    entries = {entry.name: (model, entry) for model, entry in config.variants()}
    if not replicas or not set(replicas) <= set(entries):
        raise ComparisonError(f"{path} has {sorted(entries)}; awake are {sorted(replicas)}")
    model, entry = entries[next(iter(replicas))]
    objective = config.service_classes[model.default_service_class]
    given = entry.engine_options.get("max_num_batched_tokens", MAX_BATCHED_TOKENS)
    return Setup(
        {name: catalogue.variant(*entries[name]) for name in replicas},
        dict(replicas),
        policy,
        Objective(objective.ttft_s, objective.tpot_s, objective.min_quality),
        max_batched_tokens or int(given),
        config.scheduler.report_period_s,
    )


# ── simulation ──────────────────────────────────────────────────────────────


class _Ends:
    """Notes when sequences end."""

    def __init__(self, events: EventQueue, ends_s: Floats) -> None:
        self._events = events
        self._ends_s = ends_s

    def finished(self, replica: SimulatedReplica, sequences: list[Sequence]) -> None:
        """Note the instant."""
        for sequence in sequences:
            self._ends_s[sequence.number] = self._events.now_s

    def emptied(self, replica: SimulatedReplica) -> None:
        """Nothing follows from that."""


def simulate_pinned(
    served: Many[Served], variants: Mapping[str, Variant], engine: EngineSettings, network_s: float
) -> Times:
    """Give each request to a simulated replica in place of the one that really served it.

    Args:
        served: the requests.
        variants: by name, with the step models to be tried.
        engine: how engines schedule.
        network_s: between client and replica, one way.

    """
    events, ends_s = EventQueue(), np.full(len(served), np.nan)
    ends = _Ends(events, ends_s)
    replicas = {
        each.replica: SimulatedReplica(
            ReplicaId(each.replica), variants[each.variant], engine, events, ends
        )
        for each in served
    }
    sequences = []
    for number, each in enumerate(served):
        sequence = Sequence(number, each.prompt_tokens, each.completion_tokens)
        sequences.append(sequence)
        replica = replicas[each.replica]
        events.at(each.at_s + network_s, partial(_submit, replica, sequence))
    while len(events):
        events.run_until(events.now_s + 10.0)
    at_s = np.array([each.at_s for each in served])
    first_s = np.array([sequence.first_token_at_s for sequence in sequences])
    return Times(first_s + network_s - at_s, ends_s + network_s - at_s)


def _submit(replica: SimulatedReplica, sequence: Sequence) -> None:
    if not replica.submit(sequence):
        raise ComparisonError(f"{replica.replica} has no room for {sequence.context_tokens} tokens")


def simulate_cluster(
    run: Run, setup: Setup, calibration: Calibration, expected_completion_tokens: float, seed: int
) -> tuple[Figures, dict[str, int]]:
    """Serve a run's requests by the virtual cluster with everything awake.

    Args:
        run: whose requests come, when they really came.
        setup: what there is.
        calibration: what it does, and what the scheduler believes that it does.
        expected_completion_tokens: what the gateway has learned by the calibration trace.
        seed: of routing.

    Returns:
        the figures, and how many requests each variant served.

    """
    variants = calibrated(setup, calibration.steps)
    group = NodeGroupName("here")
    count = sum(setup.replicas.values())
    cluster = ClusterDescription(
        name="compared",
        model=next(iter(variants.values())).model,
        variants={VariantName(name): each for name, each in variants.items()},
        groups={group: NodeGroup(group, "cpu", count, 1, 0.0, 0.0, 0.0, 0.0)},
        placements=tuple(
            Placement(VariantName(name), group, 1, 0.0, 0.0, 0, replicas)
            for name, replicas in setup.replicas.items()
        ),
        classes={CLASS: ServiceClass(CLASS, setup.objective)},
        gateway=GatewaySettings(
            report_period_s=setup.report_period_s,
            network_s=calibration.network_s,
            expected_completion_tokens=expected_completion_tokens,
            max_tokens=1,  # Clients ask for exactly what they get.
        ),
        engine=EngineSettings(max_batched_tokens=setup.max_batched_tokens),
    )
    requests = tuple(
        TraceRequest(each.at_s, each.prompt_tokens, each.completion_tokens, (), CLASS)
        for each in sorted(run.served, key=lambda each: each.at_s)
    )
    workload = Workload("compared", requests, run.duration_s + 1.0)
    record = VirtualCluster(cluster, setup.policy, EverythingAwake(cluster), seed).run(workload)
    table = record.outcomes
    done = table.select(table.status == Status.COMPLETED)
    if done.status.size < len(requests):
        raise ComparisonError(f"{len(requests) - done.status.size} simulated requests were lost")
    names = list(variants)
    counts = Counter(names[row] for row in done.variant.tolist())
    found = figures(done.arrived_at_s, done.completion_tokens, done.ttft_s, done.e2e_latency_s)
    return found, dict(counts)


def calibrated(setup: Setup, steps: Mapping[str, AffineSteps]) -> dict[str, Variant]:
    """Give the variants their fitted step models."""
    return {
        name: replace(variant, steps=steps.get(name, variant.steps))
        for name, variant in setup.variants.items()
    }


# ── calibration ─────────────────────────────────────────────────────────────


class _Start(NamedTuple):
    """Where the search begins; read off the data."""

    t0_s: float
    t1_s: float
    prefill_s_per_token: float
    context_s_per_token: float


def calibrate(run: Run, setup: Setup) -> Calibration:
    """Fit step models and the network time to a run.

    The residuals are the logarithms of simulated over measured TTFT and TPOT of each request;
    a soft absolute loss keeps single disturbances from mattering. A context slope is kept
    where the data ask for it.

    Raises:
        ComparisonError: too much was lost, or nothing was served.

    """
    check(run)
    served = run.served
    names = sorted({each.variant for each in served})
    engine = EngineSettings(max_batched_tokens=setup.max_batched_tokens)
    starts = {name: _start([each for each in served if each.variant == name]) for name in names}
    plain = _fit(served, setup, engine, starts)
    sloped = _fit(served, setup, engine, starts, plain)
    best = sloped if sloped.cost < (1.0 - WORTH) * plain.cost else plain
    times = simulate_pinned(served, calibrated(setup, best.steps), engine, best.network_s)
    ttft_s, tpot_s = _measured(served)
    return Calibration(
        best.steps,
        best.network_s,
        float(np.nanmedian(np.abs(times.ttft_s / ttft_s - 1.0))),
        float(np.nanmedian(np.abs(_tpot(served, times) / tpot_s - 1.0))),
    )


class _Fit(NamedTuple):
    x: Floats
    cost: float
    steps: dict[str, AffineSteps]
    network_s: float


def _fit(
    served: Many[Served],
    setup: Setup,
    engine: EngineSettings,
    starts: Mapping[str, _Start],
    plain: _Fit | None = None,
) -> _Fit:
    """Search for the parameters; with context slopes from a fit without them on."""
    ttft_s, tpot_s = _measured(served)
    paired = ~np.isnan(tpot_s)
    width = 3 if plain is None else 4

    def steps_of(x: Floats) -> dict[str, AffineSteps]:
        factors = np.exp(x)
        found = {}
        for row, (name, start) in enumerate(starts.items()):
            own = factors[1 + row * width : 1 + (row + 1) * width].tolist()
            nominal = setup.variants[name].steps
            energies = nominal if isinstance(nominal, AffineSteps) else _NO_ENERGY
            found[name] = replace(
                energies,
                t0_s=start.t0_s * own[0],
                t1_s=start.t1_s * own[1],
                prefill_s_per_token=start.prefill_s_per_token * own[2],
                context_s_per_token=start.context_s_per_token * own[3] if plain else 0.0,
            )
        return found

    def residuals(x: Floats) -> Floats:
        network_s = _NETWORK_S * math.exp(x[0])
        times = simulate_pinned(served, calibrated(setup, steps_of(x)), engine, network_s)
        of_ttft = np.log(times.ttft_s / ttft_s)
        of_tpot = np.log(_tpot(served, times)[paired] / tpot_s[paired])
        return np.concatenate([of_ttft, of_tpot, RIDGE * x])

    def jacobian(x: Floats, step: float) -> Floats:
        shifts = step * np.eye(x.size)
        columns = [residuals(x + shift) - residuals(x - shift) for shift in shifts]
        return np.stack(columns, axis=1) / (2 * step)

    def cost(x: Floats) -> float:
        return float(np.sum(np.sqrt(1.0 + (residuals(x) / DISTURBANCE) ** 2) - 1.0))

    x: Floats = np.zeros(1 + width * len(starts))
    if plain is not None:
        x = np.concatenate(
            [plain.x[:1], *(np.append(own, 0.0) for own in np.split(plain.x[1:], len(starts)))]
        )
    for step in STEPS if plain is None else ():
        x = least_squares(
            residuals,
            x,
            jac=partial(jacobian, step=step),
            bounds=(-5.0, 5.0),
            loss="soft_l1",
            f_scale=DISTURBANCE,
            max_nfev=10,
        ).x
    spans = np.full(x.size, SIMPLEX)
    if plain is not None:
        spans[width::width] = SLOPE_SIMPLEX
    simplex = np.vstack([x, x + np.diag(spans)])
    found = minimize(
        cost,
        x,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": MOST_TRIALS, "adaptive": True},
    )
    network_s = _NETWORK_S * math.exp(float(found.x[0]))
    return _Fit(found.x, float(found.fun), steps_of(found.x), network_s)


_NETWORK_S = 0.003
_NO_ENERGY = AffineSteps(1.0, 0.0, 1.0, 0.0, 1.0, 1.0)


def _start(served: Many[Served]) -> _Start:
    tpots = [each.tpot_s for each in served if not math.isnan(each.tpot_s)]
    if not tpots:
        raise ComparisonError("no completion of two tokens on a variant that served")
    step_s = float(np.quantile(tpots, 0.1))
    prefill_s = float(np.quantile([each.ttft_s / each.prompt_tokens for each in served], 0.1))
    return _Start(0.9 * step_s, 0.05 * step_s, 0.8 * prefill_s, 1e-5 * step_s)


def _measured(served: Many[Served]) -> tuple[Floats, Floats]:
    ttft_s = np.array([each.ttft_s for each in served])
    return ttft_s, np.array([each.tpot_s for each in served])


def _tpot(served: Many[Served], times: Times) -> Floats:
    gaps = np.array([each.completion_tokens - 1 for each in served], dtype=np.float64)
    gaps[gaps == 0] = np.nan
    tpot_s: Floats = (times.e2e_s - times.ttft_s) / gaps
    return tpot_s


# ── comparison ──────────────────────────────────────────────────────────────


def check(run: Run) -> None:
    """Refuse a run that is not what was planned.

    Raises:
        ComparisonError: too much was lost, or nothing was served.

    """
    count = len(run.served) + len(run.errors)
    if not run.served or len(run.errors) > MOST_LOST * count:
        first = run.errors[0] if run.errors else "there were none"
        raise ComparisonError(f"seed {run.seed}: {len(run.errors)} of {count} lost; {first}")


def figures(
    at_s: NDArray[Any], completion_tokens: NDArray[Any], ttft_s: Floats, e2e_s: Floats
) -> Figures:
    """Take medians over requests, and tokens over the time from first arrival to last token."""
    gaps = completion_tokens - 1
    some = gaps > 0
    return Figures(
        float(np.median(ttft_s)),
        float(np.median((e2e_s - ttft_s)[some] / gaps[some])),
        float(completion_tokens.sum() / ((at_s + e2e_s).max() - at_s.min())),
    )


def figures_of(served: Many[Served], times: Times | None = None) -> Figures:
    """Give the figures of requests as they were served, or as they were simulated."""
    at_s = np.array([each.at_s for each in served])
    tokens = np.array([each.completion_tokens for each in served])
    if times is None:
        ttft_s, e2e_s = np.array([(each.ttft_s, each.e2e_s) for each in served]).T
        times = Times(ttft_s, e2e_s)
    return figures(at_s, tokens, times.ttft_s, times.e2e_s)


def errors_of(found: Figures, real: Figures) -> dict[str, float]:
    """Give simulated minus measured over measured, by figure."""
    return {
        name: got / want - 1.0 for name, got, want in zip(Figures._fields, found, real, strict=True)
    }


def analyse(setup: Setup, calibration_run: Run, test_run: Run) -> dict[str, Any]:
    """Fit to one run and compare on the other; gives what the JSON file says of it.

    Raises:
        ComparisonError: a run cannot be used.

    """
    check(test_run)
    fitted = calibrate(calibration_run, setup)
    missing = {each.variant for each in test_run.served} - set(fitted.steps)
    if missing:
        raise ComparisonError(f"the calibration trace never reached {sorted(missing)}")
    engine = EngineSettings(max_batched_tokens=setup.max_batched_tokens)
    variants = calibrated(setup, fitted.steps)
    pinned_times = simulate_pinned(test_run.served, variants, engine, fitted.network_s)
    expected = statistics.fmean(each.completion_tokens for each in calibration_run.served)
    routed, counts = simulate_cluster(test_run, setup, fitted, expected, test_run.seed)
    real, pinned = figures_of(test_run.served), figures_of(test_run.served, pinned_times)
    errors = errors_of(routed, real)
    return {
        "calibration": asdict(fitted),
        "measured": real._asdict(),
        "simulated": routed._asdict(),
        "simulated_pinned": pinned._asdict(),
        "errors": errors,
        "errors_pinned": errors_of(pinned, real),
        "targets": TARGETS,
        "met": {name: abs(errors[name]) <= most for name, most in TARGETS.items()},
        "served_by": dict(Counter(each.variant for each in test_run.served)),
        "simulated_served_by": counts,
        "largest_lateness_s": max(each.late_s for each in test_run.served),
        "cached_tokens": sum(each.cached_tokens for each in test_run.served),
    }


# ── JSON ────────────────────────────────────────────────────────────────────


def to_json(setup: Setup, calibration_run: Run, test_run: Run) -> dict[str, Any]:
    """Give the measurements, and all that a later analysis of them needs."""
    return {
        "setup": asdict(setup),
        "calibration_run": asdict(calibration_run),
        "test_run": asdict(test_run),
    }


def from_json(content: Mapping[str, Any]) -> tuple[Setup, Run, Run]:
    """Read what `to_json` wrote.

    Raises:
        ComparisonError: something is missing in it.

    """
    try:
        setup = content["setup"]
        variants = {name: _variant(each) for name, each in setup["variants"].items()}
        objective = Objective(**setup["objective"])
        calibration_run, test_run = (
            Run(
                **{
                    **content[name],
                    "served": tuple(Served(**each) for each in content[name]["served"]),
                    "errors": tuple(content[name]["errors"]),
                }
            )
            for name in ("calibration_run", "test_run")
        )
        return (
            Setup(**{**setup, "variants": variants, "objective": objective}),
            calibration_run,
            test_run,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ComparisonError(f"no recorded measurements: {error!r}") from error


def _variant(content: Mapping[str, Any]) -> Variant:
    return Variant(
        **{
            **content,
            "name": VariantName(content["name"]),
            "model": ModelName(content["model"]),
            "steps": AffineSteps(**content["steps"]),
        }
    )


# ── command ─────────────────────────────────────────────────────────────────


def show(result: Mapping[str, Any]) -> None:
    """Print the table."""
    fitted = result["calibration"]
    for name, steps in fitted["steps"].items():
        print(
            f"{name}: step {1e3 * steps['t0_s']:.2f} ms + {1e3 * steps['t1_s']:.3f} ms/sequence"
            f" + {1e6 * steps['context_s_per_token']:.3f} µs/token of context,"
            f" prefill {1e3 * steps['prefill_s_per_token']:.3f} ms/token"
        )
    print(
        f"network {1e3 * fitted['network_s']:.1f} ms one way; the fit's median error per request:"
        f" TTFT {fitted['ttft_error']:.1%}, TPOT {fitted['tpot_error']:.1%}"
    )
    print(f"served by {result['served_by']}, simulated {result['simulated_served_by']}")
    print(f"{'':14}{'measured':>10}{'simulated':>11}{'error':>9}{'target':>8}{'pinned':>10}")
    for name, most in result["targets"].items():
        print(
            f"{name:14}{result['measured'][name]:10.4f}{result['simulated'][name]:11.4f}"
            f"{result['errors'][name]:+9.1%}{most:8.0%}{result['errors_pinned'][name]:+10.1%}"
            f"  {'met' if result['met'][name] else 'MISSED'}"
        )


def arguments(given: Many[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="The virtual cluster against a real one.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--address", help="host and port of a gateway's gRPC")
    source.add_argument("--from-json", type=Path, help="analyse these measurements again")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="what `up` was given")
    parser.add_argument("--calibration-seed", type=int, default=1)
    parser.add_argument("--test-seed", type=int, default=2)
    parser.add_argument("--rate", type=float, default=2.0, help="requests/s")
    parser.add_argument("--test-rate", type=float, help="of the test trace, if another")
    parser.add_argument("--duration", type=float, default=90.0, help="seconds of each trace")
    parser.add_argument("--max-batched-tokens", type=int, help="of an engine step")
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args(given)


def main(given: Many[str] | None = None) -> None:
    """Measure or read, analyse, print and write."""
    options = arguments(given)
    try:
        if options.from_json is None:
            setup, calibration_run, test_run = asyncio.run(measure(options))
            about = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
                "command": shlex.join(sys.argv),
            }
        else:
            content = json.loads(options.from_json.read_text(encoding="utf-8"))
            setup, calibration_run, test_run = from_json(content)
            about = {name: content.get(name) for name in ("date", "machine", "command")}
        recorded = {**about, **to_json(setup, calibration_run, test_run)}
        _write(options.out, recorded)  # Whatever the analysis says, measurements are kept.
        result = analyse(setup, calibration_run, test_run)
    except (ComparisonError, JouleserveClientError, config_file.ConfigFileError) as error:
        sys.exit(f"error: {error}")
    show(result)
    _write(options.out, {**recorded, "result": result})


def _write(path: Path | None, content: Mapping[str, Any]) -> None:
    if path is not None:
        # JSON has no infinity; Python reads its own spelling back.
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
