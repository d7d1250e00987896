"""The fewest KV blocks to compute and to hold: the Dynamo style baseline.

Its own module because every policy is. After NVIDIA Dynamo's KV router, in blocks:

    cost = prefill_scale·max(active prefill + incoming − overlap, 0) + active decode + incoming

and a draw with probabilities that fall exponentially with the cost, if a temperature is set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scheduler.blocks import BLOCK_TOKENS
from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, FloatArray, ModelColumns
    from scheduler.requests import Request


@dataclass(frozen=True, slots=True)
class KvOverlap:
    """Serves from the replica of least cost, or from a cheap one at random.

    Attributes:
        prefill_scale: weight of a block to compute against one to hold.
        temperature: of the softmax over costs, scaled to their range; 0 takes the least.

    """

    prefill_scale: float = 1.0
    temperature: float = 0.0

    @property
    def name(self) -> str:
        """As configuration spells it."""
        return "kv_overlap"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the cost in blocks; with a temperature, what was drawn comes first."""
        outlook = columns.outlook
        uncached = request.prompt_tokens - columns.cached
        prefill = np.maximum(outlook.backlog_tokens + uncached, 0.0)
        prefill *= self.prefill_scale / BLOCK_TOKENS
        decode = (outlook.kv_tokens + request.prompt_tokens) / BLOCK_TOKENS
        terms = {"prefill_blocks": prefill, "decode_blocks": decode}
        cost = prefill + decode
        if self.temperature > 0:
            terms["luck"] = self._luck(cost, eligible, rng)
            cost += terms["luck"]
        return Scores(cost, terms)

    def _luck(self, cost: FloatArray, eligible: BoolArray, rng: random.Random) -> FloatArray:
        """Noise whose least sum with the cost is drawn as by softmax (Gumbel's trick)."""
        costs = cost[eligible]
        scale = self.temperature * float(costs.max() - costs.min())
        noise = np.random.default_rng(rng.getrandbits(64)).gumbel(size=len(cost))
        return -scale * noise

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say what it has to compute and to hold."""
        compute, hold = (scores.terms[name][row] for name in ("prefill_blocks", "decode_blocks"))
        return f"{compute:.0f} blocks to compute and {hold:.0f} to hold, of {int(eligible.sum())}"
