"""The replica that has seen the prompt's beginning, while loads are even: the Ray style baseline.

Its own module because every policy is. After Ray Serve LLM's PrefixCacheAffinityRouter: where
loads differ by more than a bound, power of two; else, if enough of the prompt is cached
somewhere, there; else where least is cached at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores
from scheduler.policies.power_of_two import PowerOfTwo

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import Request


@dataclass(frozen=True, slots=True)
class PrefixAffinity:
    """Serves where the longest beginning is cached, unless that would skew loads.

    Attributes:
        imbalance: requests by which loads may differ.
        match_share: of the prompt, from which a match counts.

    """

    imbalance: float = 10.0
    match_share: float = 0.1
    _fallback: PowerOfTwo = field(default_factory=PowerOfTwo, repr=False)

    @property
    def name(self) -> str:
        """As configuration spells it."""
        return "prefix_affinity"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the negative match, or what stands in for it."""
        outlook = columns.outlook
        requests = outlook.requests[eligible]
        if float(requests.max() - requests.min()) > self.imbalance:
            return self._fallback.score(request, columns, eligible, now_s, rng)
        cached = columns.cached
        if float(cached[eligible].max()) >= self.match_share * request.prompt_tokens:
            return Scores(-cached, {"uncached_tokens": request.prompt_tokens - cached})
        # Nobody knows the prompt: whoever holds least has most to gain from it.
        held = np.array(outlook.held_tokens)
        return Scores(held, {"held_tokens": held})

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say which of the three it was."""
        count = int(eligible.sum())
        if "uncached_tokens" in scores.terms:
            cached = columns.cached[row]
            return f"{cached:.0f} of {request.prompt_tokens} tokens cached, the most of {count}"
        if "held_tokens" in scores.terms:
            return f"a new prompt, to the least of {count} in tokens held"
        return f"loads differ: {self._fallback.explain(request, columns, eligible, scores, row)}"
