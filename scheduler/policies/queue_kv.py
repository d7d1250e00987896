"""Short queue, free cache, common prefix, weighed against each other: the llm-d style baseline.

Its own module because every policy is. After the endpoint picker of the Gateway API inference
extension: each scorer gives 0 to 1, where 1 is best, and the weighted sum decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, FloatArray, ModelColumns
    from scheduler.requests import Request


@dataclass(frozen=True, slots=True)
class QueueKv:
    """Serves from the replica with the highest weighted score.

    Attributes:
        queue_weight: of a short queue, relative to the shortest and longest.
        kv_weight: of a free KV cache.
        prefix_weight: of the share of the prompt that is cached.

    """

    queue_weight: float = 2.0
    kv_weight: float = 2.0
    prefix_weight: float = 3.0

    @property
    def name(self) -> str:
        """As configuration spells it."""
        return "queue_kv"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the negative sum, for lower is better."""
        outlook = columns.outlook
        queue = -self.queue_weight * _shortness(outlook.waiting, eligible)
        used = np.minimum(outlook.kv_tokens / outlook.kv_capacity_tokens, 1.0)
        kv = -self.kv_weight * (1.0 - used)
        prefix = columns.cached * (-self.prefix_weight / request.prompt_tokens)
        return Scores(queue + kv + prefix, {"queue": queue, "kv": kv, "prefix": prefix})

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say what it scored."""
        terms = ", ".join(f"{name} {-each[row]:.2g}" for name, each in scores.terms.items())
        return f"score {-scores.values[row]:.2g} ({terms}), the best of {int(eligible.sum())}"


def _shortness(waiting: FloatArray, eligible: BoolArray) -> FloatArray:
    """1 for the shortest queue, 0 for the longest; 1 for all when they are equal."""
    queues = waiting[eligible]
    longest, shortest = float(queues.max()), float(queues.min())
    if longest == shortest:
        return np.ones(len(waiting))
    return (longest - waiting) / (longest - shortest)
