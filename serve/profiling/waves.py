"""Waves of requests that decode together, and the time of their steps.

Its own module because it alone knows what of a wave counts: only while every one of its
requests decodes is the batch what it is said to be, and no step computes a prompt.
"""

from __future__ import annotations

import asyncio
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from protos.jouleserve.client import AsyncClient, AsyncStream, Usage

# No objective is to keep a request of a measurement waiting, or to refuse it.
PATIENT_S = 3600.0
# Steps of a window that tell its batch: fewer are as much of a wave's ends as of it.
LEAST_STEPS = 4


class Target(NamedTuple):
    """Where requests of a measurement go.

    Attributes:
        client: takes them.
        model: that they name.
        variant: that is to serve them.

    """

    client: AsyncClient
    model: str
    variant: str

    def ask(self, prompt: Sequence[int], tokens: int, limit_s: float) -> AsyncStream:
        """Ask for so many tokens after a prompt, whatever the model would say."""
        return self.client.generate(
            self.model,
            prompt_token_ids=list(prompt),
            max_tokens=tokens,
            ignore_eos=True,
            variant=self.variant,
            ttft_s=PATIENT_S,
            tpot_s=PATIENT_S,
            min_quality=0.0,
            timeout_s=limit_s,
        )


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When tokens of one stream came.

    Attributes:
        prompt_tokens: that they go on after.
        at_s: of each message.
        tokens: that had come with it and before it.

    """

    prompt_tokens: int
    at_s: array[float] = field(default_factory=lambda: array("d"))
    tokens: array[int] = field(default_factory=lambda: array("q"))

    def add(self, at_s: float, tokens: int) -> None:
        """Take note of a message."""
        self.at_s.append(at_s)
        self.tokens.append(tokens + (self.tokens[-1] if self.tokens else 0))


class Window(NamedTuple):
    """What a wave tells of its batch.

    Attributes:
        begin_s: all of the batch decode from then on.
        end_s: until then.
        batch: sequences.
        steps: that lie in it, mean over the sequences.
        step_s: mean time of a step.
        context_tokens: mean, of all sequences together.

    """

    begin_s: float
    end_s: float
    batch: int
    steps: float
    step_s: float
    context_tokens: float


def window_of(streams: Sequence[Arrivals]) -> Window | None:
    """Find the time in which all streams gave tokens; None if there is none worth the name.

    The time of a step is that between two tokens of a stream: as each stream begins and ends
    with a token of its own, nothing is lost at the window's edges.
    """
    if not all(stream.at_s for stream in streams):
        return None
    begin_s = max(stream.at_s[0] for stream in streams)
    end_s = min(stream.at_s[-1] for stream in streams)
    span_s = tokens = context = 0.0
    for stream in streams:
        inside = [row for row, at_s in enumerate(stream.at_s) if begin_s <= at_s <= end_s]
        if len(inside) < 2:  # noqa: PLR2004 (the ends of one gap)
            return None
        first, last = inside[0], inside[-1]
        span_s += stream.at_s[last] - stream.at_s[first]
        tokens += stream.tokens[last] - stream.tokens[first]
        context += stream.prompt_tokens + (stream.tokens[first] + stream.tokens[last]) / 2
    if tokens < LEAST_STEPS * len(streams):
        return None
    steps = tokens / len(streams)
    return Window(begin_s, end_s, len(streams), steps, span_s / tokens, context)


class Wave(NamedTuple):
    """Requests that were sent together, and have ended.

    Attributes:
        streams: when their tokens came.
        usages: what each was told at its end.
        replicas: that served them.

    """

    streams: tuple[Arrivals, ...]
    usages: tuple[Usage, ...]
    replicas: frozenset[str]


async def wave(
    target: Target, prompts: Sequence[Sequence[int]], tokens: int, limit_s: float
) -> Wave:
    """Send a request for each prompt, all at once, and wait for the end of the last.

    Args:
        target: where they go.
        prompts: token ids of each.
        tokens: that each asks for.
        limit_s: that a request may take.

    Raises:
        JouleserveClientError: one of them failed; the others are cancelled.

    """
    streams = tuple(Arrivals(len(prompt)) for prompt in prompts)
    calls = [target.ask(prompt, tokens, limit_s) for prompt in prompts]
    try:
        async with asyncio.TaskGroup() as group:
            for call, stream in zip(calls, streams, strict=True):
                group.create_task(_read(call, stream.add))
    except BaseExceptionGroup as several:
        raise _first(several) from None
    finishes = [call.finish for call in calls]
    return Wave(
        streams,
        tuple(finish.usage for finish in finishes),
        frozenset(finish.replica for finish in finishes),
    )


async def _read(call: AsyncStream, add: Callable[[float, int], None]) -> None:
    async with call:
        async for tokens in call:
            if tokens.token_ids:
                add(asyncio.get_running_loop().time(), len(tokens.token_ids))


def _first(several: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = several
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found
