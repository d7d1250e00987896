"""Requests that come by a schedule, each watched token by token.

Its own module because what a client sees is measured here and judged elsewhere.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from protos.jouleserve.client import JouleserveClientError

if TYPE_CHECKING:
    from random import Random

    from protos.jouleserve.client import AsyncClient
    from tests.soak.schedules import Schedule

ECHO = "echo"
PROMPT_TOKENS = (2, 40)
COMPLETION_TOKENS = (20, 120)


@dataclass(slots=True)
class Watched:
    """One stream.

    Attributes:
        began_s: when it was asked for, monotonic.
        ttft_s: to its first token; None before one.
        tpot_s: mean after that.
        arrivals_s: when tokens came.
        resumes: how often it went on elsewhere.
        energy_j: of its last part, as the reply says.
        error: what ended it; empty if it ended well.
        altered: other tokens came than an echo gives.

    """

    began_s: float
    ttft_s: float | None = None
    tpot_s: float = 0.0
    arrivals_s: list[float] = field(default_factory=list)
    resumes: int = 0
    energy_j: float = 0.0
    error: str = ""
    altered: bool = False


async def offered(
    client: AsyncClient, schedule: Schedule, rng: Random, model: str = ECHO
) -> list[Watched]:
    """Ask as the schedule says (open loop, Poisson), and watch every stream to its end."""
    tasks: list[asyncio.Task[Watched]] = []
    start_s = at_s = time.monotonic()
    for phase in schedule.phases:
        while True:
            at_s += rng.expovariate(phase.requests_per_s)
            if at_s - start_s >= phase.until_s:
                at_s = start_s + phase.until_s
                break
            await asyncio.sleep(max(0.0, at_s - time.monotonic()))
            prompt = [rng.randrange(256) for _ in range(rng.randint(*PROMPT_TOKENS))]
            count = rng.randint(*COMPLETION_TOKENS)
            watch = watched(client, model, prompt, count, echoes=model == ECHO)
            tasks.append(asyncio.create_task(watch))
    return list(await asyncio.gather(*tasks))


async def watched(
    client: AsyncClient, model: str, prompt: list[int], count: int, *, echoes: bool
) -> Watched:
    """Make one request, and compare what comes with what an echo gives, where it is to be one.

    Of another engine nobody knows what it should give: there the client holds count and checksum
    of all tokens against the engine's own, and what differs is an error.
    """
    seen = Watched(time.monotonic())
    received: list[int] = []
    try:
        stream = client.generate(model, prompt_token_ids=prompt, max_tokens=count, ignore_eos=True)
        async for tokens in stream:
            received += tokens.token_ids
            seen.arrivals_s.append(time.monotonic())
        usage = stream.finish.usage
        seen.resumes, seen.energy_j = usage.resumes, usage.energy.energy_j
    except JouleserveClientError as error:
        seen.error = f"{type(error).__name__}: {error}"
    if seen.arrivals_s:
        seen.ttft_s = seen.arrivals_s[0] - seen.began_s
        spread_s = seen.arrivals_s[-1] - seen.arrivals_s[0]
        seen.tpot_s = spread_s / max(1, len(received) - 1)
    expected = [prompt[place % len(prompt)] for place in range(count)]
    if echoes:
        seen.altered = received != (expected if not seen.error else expected[: len(received)])
    return seen
