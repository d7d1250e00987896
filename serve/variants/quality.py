"""How good a variant is beside its base, from what both think of the same text.

Its own module because it is pure: two measurements in, figures with their intervals out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from serve.variants.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

# Resamples of the bootstrap, and the share of them that an interval holds.
RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
# Of a token; beyond it the exponent overflows.
_MOST_LOSS = 700.0


class Interval(NamedTuple):
    """A figure, and between what it would lie with other passages of the kind (95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model thinks of the held-out text.

    Attributes:
        logprobs: natural, of every token but a passage's first, by passage.
        top_token_ids: the most probable in its place.
        answers: to the tasks.

    """

    logprobs: Sequence[Sequence[float]]
    top_token_ids: Sequence[Sequence[int]]
    answers: Sequence[str]


@dataclass(frozen=True, slots=True)
class Quality:
    """A variant beside its base.

    Attributes:
        perplexity: of the variant.
        base_perplexity: of the base.
        perplexity_ratio: of the two.
        agreement: share of positions at which both think the same token the most probable.
        tasks: share of tasks that the variant answers right.
        base_tasks: that the base does.
        positions: tokens that all this is from.

    """

    perplexity: float
    base_perplexity: float
    perplexity_ratio: Interval
    agreement: Interval
    tasks: float
    base_tasks: float
    positions: int


def compared(variant: Reading, base: Reading, solutions: Sequence[str]) -> Quality:
    """Compare two readings of the same text.

    Raises:
        BuildError: the readings are of different tokens.

    """
    lengths = [len(passage) for passage in base.logprobs]
    if [len(passage) for passage in variant.logprobs] != lengths:
        raise BuildError("variant and base read different tokens: their tokenizers differ")
    for whose, reading in (("variant", variant), ("base", base)):
        if not all(_is_sound(each) for passage in reading.logprobs for each in passage):
            raise BuildError(f"the {whose} gives no probabilities: it is broken")
    counts = np.array(lengths, dtype=float)
    losses = np.array([-sum(passage) for passage in variant.logprobs])
    base_losses = np.array([-sum(passage) for passage in base.logprobs])
    same = np.array(
        [
            sum(a == b for a, b in zip(*pair, strict=True))
            for pair in zip(variant.top_token_ids, base.top_token_ids, strict=True)
        ],
        dtype=float,
    )
    log_ratio = _interval(losses - base_losses, counts)
    return Quality(
        perplexity=math.exp(losses.sum() / counts.sum()),
        base_perplexity=math.exp(base_losses.sum() / counts.sum()),
        perplexity_ratio=Interval(*(math.exp(each) for each in log_ratio)),
        agreement=_interval(same, counts),
        tasks=_right(variant.answers, solutions),
        base_tasks=_right(base.answers, solutions),
        positions=int(counts.sum()),
    )


def _is_sound(logprob: float) -> bool:
    """Whether a model that computes can have said it: NaN is none, nor is what cannot be told."""
    return -_MOST_LOSS <= logprob < math.inf


def _interval(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> Interval:
    """Give a mean over tokens; passages are drawn again, for tokens of one are alike."""
    rng = np.random.default_rng(SEED)
    chosen = rng.integers(len(counts), size=(RESAMPLES, len(counts)))
    means = sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(means, [tail, 1.0 - tail])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _right(answers: Sequence[str], solutions: Sequence[str]) -> float:
    """Count answers that begin with the solution, whatever the case, and end the word there."""
    return sum(map(_is_right, answers, solutions)) / max(1, len(solutions))


def _is_right(answer: str, solution: str) -> bool:
    said, meant = answer.strip().lower(), solution.strip().lower()
    return said.startswith(meant) and not said[len(meant) : len(meant) + 1].isalnum()
