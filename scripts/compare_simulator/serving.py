"""A trace, served by a real cluster.

Its own module because it alone talks to one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from loadtest.arrivals import poisson
from loadtest.lengths import LogNormalLengths
from protos.jouleserve.client import AsyncClient
from protos.jouleserve.errors import JouleserveClientError
from scheduler.requests import Objective
from scripts.compare_simulator.runs import ComparisonError, Planned, Run, Served, Setup
from serve import catalogue, config_file

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from protos.jouleserve.async_client import AsyncStream

PROMPTS = LogNormalLengths(prompt_tokens=120, completion_tokens=48, spread=0.6, most_tokens=400)
MOST_COMPLETION_TOKENS = 128
# Ids that are plain words in every vocabulary of some size.
TOKEN_IDS = (1000, 20_000)
# What vLLM computes in a step on a CPU, at most, when an asynchronous engine says nothing else.
MAX_BATCHED_TOKENS = 2048
# Requests that still run so long after the last arrival are given up.
DRAIN_S = 120.0


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
    ask: Callable[..., AsyncStream], planned: Planned, started_s: float, ids: list[int]
) -> Served:
    """Make a request when it is due and read it to its end."""
    await asyncio.sleep(max(0.0, started_s + planned.at_s - time.perf_counter()))
    sent_s = time.perf_counter()
    first_s = last_s = math.nan
    stream = ask(
        prompt_token_ids=ids,
        max_tokens=planned.completion_tokens,
        ignore_eos=True,
        temperature=0.0,
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
        ask = partial(client.generate, model, variant=variant)
        for tokens in (30, 300):
            ids = prompt_ids(tokens, rng)
            planned = Planned(0.0, tokens, 16)
            await serve_one(ask, planned, time.perf_counter(), ids)


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
        asyncio.create_task(serve_one(partial(client.generate, model), each, started_s, ids))
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
    given = entry.engine_options.get("max_num_batched_tokens")
    return Setup(
        {name: catalogue.variant(*entries[name]) for name in replicas},
        dict(replicas),
        policy,
        Objective(objective.ttft_s, objective.tpot_s, objective.min_quality),
        max_batched_tokens or (given if isinstance(given, int) else MAX_BATCHED_TOKENS),
        config.scheduler.report_period_s,
    )
