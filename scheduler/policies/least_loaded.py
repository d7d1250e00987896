"""The replica with the fewest requests: the baseline that balances.

Its own module because every policy is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import Request


class LeastLoaded:
    """Serves from the replica with the fewest running, waiting and booked requests."""

    name = "least_loaded"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the number of requests."""
        requests = columns.outlook.requests
        return Scores(requests, {"requests": requests})

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say how loaded it is."""
        count = int(eligible.sum())
        return f"{scores.values[row]:.0f} requests, the fewest of {count} replicas"
