"""What requests are: lengths of prompts and completions, with the prefix they share.

Its own module because a load is two independent things, when requests come and what they
are; this is the second, and `loadtest.arrivals` the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadtest.traces import Trace


class Lengths(NamedTuple):
    """One request's.

    Attributes:
        prompt_tokens: at least 1.
        completion_tokens: at least 1.
        hash_ids: of its prompt's blocks; equal prefixes have equal ids.

    """

    prompt_tokens: int
    completion_tokens: int
    hash_ids: tuple[int, ...] = ()


class LengthSource(Protocol):
    """Draws lengths."""

    def draw(self, count: int, rng: np.random.Generator) -> Sequence[Lengths]:
        """Draw that many."""


@dataclass(frozen=True, slots=True)
class FixedLengths:
    """All requests are alike.

    Attributes:
        prompt_tokens: of each.
        completion_tokens: of each.

    """

    prompt_tokens: int
    completion_tokens: int

    def draw(self, count: int, rng: np.random.Generator) -> Sequence[Lengths]:
        """Draw that many."""
        return [Lengths(self.prompt_tokens, self.completion_tokens)] * count


@dataclass(frozen=True, slots=True)
class LogNormalLengths:
    """Independent prompts and completions, many short and few long ones.

    The defaults have the means of Azure's chat trace of 2023.

    Attributes:
        prompt_tokens: mean.
        completion_tokens: mean.
        spread: standard deviation of the logarithms.
        most_tokens: beyond which a length is cut.

    """

    prompt_tokens: float = 1155.0
    completion_tokens: float = 211.0
    spread: float = 1.0
    most_tokens: int = 8192

    def draw(self, count: int, rng: np.random.Generator) -> Sequence[Lengths]:
        """Draw that many."""
        prompts = self._draw(self.prompt_tokens, count, rng)
        completions = self._draw(self.completion_tokens, count, rng)
        return [Lengths(*pair) for pair in zip(prompts, completions, strict=True)]

    def _draw(self, mean: float, count: int, rng: np.random.Generator) -> list[int]:
        # The mean of exp(N(μ, σ²)) is exp(μ + σ²/2).
        drawn = rng.lognormal(math.log(mean) - self.spread**2 / 2, self.spread, count)
        tokens: list[int] = np.clip(np.rint(drawn), 1, self.most_tokens).astype(int).tolist()
        return tokens


@dataclass(frozen=True, slots=True)
class TraceLengths:
    """Those of a trace, one after the other: neighbours in it stay neighbours.

    Attributes:
        trace: to be read from a random place on, and again from its start.

    """

    trace: Trace

    def draw(self, count: int, rng: np.random.Generator) -> Sequence[Lengths]:
        """Draw that many."""
        requests = self.trace.requests
        start = int(rng.integers(len(requests)))
        return [
            Lengths(*requests[(start + number) % len(requests)][1:4]) for number in range(count)
        ]
