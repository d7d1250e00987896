"""The less loaded of two replicas drawn at random: the baseline that does not herd.

Its own module because every policy is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import Request

CHOICES = 2


class PowerOfTwo:
    """Serves from the less loaded of two random replicas (Mitzenmacher, 2001)."""

    name = "power_of_two"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the number of requests; those not drawn follow behind."""
        rows = np.flatnonzero(eligible)
        drawn = rng.sample(range(len(rows)), min(CHOICES, len(rows)))
        requests = columns.outlook.requests
        not_drawn = np.full(len(requests), float(requests.max()) + 1.0)
        not_drawn[rows[drawn]] = 0.0
        return Scores(requests + not_drawn, {"requests": requests, "not_drawn": not_drawn})

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say how loaded it is."""
        drawn = min(CHOICES, int(eligible.sum()))
        return f"{scores.values[row]:.0f} requests, the fewest of {drawn} drawn at random"
