"""The replica that is done soonest with the tokens it holds: the SMG style baseline.

Its own module because every policy is. After SMG's least_load: queued and in-flight tokens
over throughput, and a penalty k/(1 − k) that grows without bound as the KV cache fills.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import Request

# Of the KV cache in use, at which the penalty is as large as it gets.
FULLEST = 0.999


@dataclass(frozen=True, slots=True)
class LeastTokens:
    """Serves from the replica with the least work, in seconds.

    Attributes:
        kv_penalty_s: for a cache that is half full.

    """

    kv_penalty_s: float = 0.15

    @property
    def name(self) -> str:
        """As configuration spells it."""
        return "least_tokens"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give seconds of work, and the penalty."""
        outlook = columns.outlook
        work_s = outlook.held_tokens / outlook.tokens_per_s
        used = np.clip(outlook.kv_tokens / outlook.kv_capacity_tokens, 0.0, FULLEST)
        penalty_s = self.kv_penalty_s * used / (1.0 - used)
        return Scores(work_s + penalty_s, {"work_s": work_s, "penalty_s": penalty_s})

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say how much work it holds."""
        return f"{scores.terms['work_s'][row]:.2g} s of work, the least of {int(eligible.sum())}"
