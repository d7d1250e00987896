"""Each replica in its turn: the baseline that looks at nothing.

Its own module because every policy is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, ModelColumns
    from scheduler.requests import ModelName, ReplicaId, Request


class RoundRobin:
    """Serves from the first eligible replica after the previous one of the same model."""

    name = "round_robin"

    def __init__(self) -> None:
        self._previous: dict[ModelName, tuple[ReplicaId, int]] = {}

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give the number of rows to go from the previous one."""
        rows = len(columns.replicas)
        start = self._start(request.model, columns)
        ahead = np.remainder(np.arange(rows) - start, rows).astype(np.float64)
        chosen = int(np.where(eligible, ahead, np.inf).argmin())
        self._previous[request.model] = (columns.replicas[chosen], chosen)
        return Scores(ahead, {"rows_ahead": ahead})

    def _start(self, model: ModelName, columns: ModelColumns) -> int:
        """Find the row after the previous one, wherever that replica stands now."""
        if model not in self._previous:
            return 0
        replica, row = self._previous[model]
        if row < len(columns.replicas) and columns.replicas[row] == replica:
            return row + 1
        try:
            return columns.replicas.index(replica) + 1
        except ValueError:
            return row

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Say whose turn it is."""
        return f"its turn among {int(eligible.sum())} replicas"
