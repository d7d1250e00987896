"""The least marginal energy that meets the request's objectives: the default.

Its own module because every policy is; the formula is this project's reason to be:

    cost = m·tokens + prefill of uncached tokens            marginal energy
         + (P0 − P_ctx)·T_request/(n + 1)                   keeping a replica of n requests busy
         + V·max(0, TTFT/SLO − 1, TPOT/SLO − 1)             objectives at risk
         + V·max(0, KV − 0.9)/0.1                           preemption at risk

Filling awake replicas up to their objectives, rather than spreading, is what saves
energy: marginal energy is a fraction of the average at partial load. The second line says
so: the first request on an idle replica pays for all of its time (n = 0), and a replica that
serves many is busy anyway. What no awake replica can take without risk is a case for waking
another (`scheduler.waking`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores
from scheduler.prospects import prospects

if TYPE_CHECKING:
    import random

    from scheduler.outlook import BoolArray, FloatArray, ModelColumns
    from scheduler.prospects import Prospects
    from scheduler.requests import Request

# A client may ask for less than anything can keep, even for 0; beyond this it is all the same.
SHORTEST_OBJECTIVE_S = 1e-3


@dataclass(frozen=True, slots=True)
class Energy:
    """Serves from the replica where the request costs least.

    Attributes:
        pressure: V, in multiples of what the request would cost alone on the leanest
            replica: an objective missed by half weighs as much as five such requests.
        slo_share: of each objective that a prediction may use up: it knows the requests
            that are there, and more will join them. On 8 virtual H100s with Azure's mean
            lengths at 20 % load, 0.9 keeps 92 % of the objectives, 0.75 98 % and 0.6 99 %.
        kv_share: of the KV cache that may fill before preemption is feared.
        fresh_s: age of a report that is taken at its word; each further second counts as
            a second of TTFT, for that much work may have come unseen.

    """

    pressure: float = 10.0
    slo_share: float = 0.6
    kv_share: float = 0.9
    fresh_s: float = 1.0

    @property
    def name(self) -> str:
        """As configuration spells it."""
        return "energy"

    def score(
        self,
        request: Request,
        columns: ModelColumns,
        eligible: BoolArray,
        now_s: float,
        rng: random.Random,
    ) -> Scores:
        """Give joules, real ones and those that stand for risk."""
        outlook, found = columns.outlook, prospects(request, columns)
        late = self._lateness(request, columns, found, now_s)
        needed = request.prompt_tokens + request.expected_completion_tokens
        filled = (outlook.kv_tokens + needed) / outlook.kv_capacity_tokens
        risk = np.maximum(filled - self.kv_share, 0.0)
        weight_j = self.pressure * float(found.solo_j[found.solo_j.argmin()])
        slo_j, kv_j = late * weight_j, risk * (weight_j / (1.0 - self.kv_share))
        expected_j = found.prefill_j + found.decode_j + found.idle_j
        return Scores(
            expected_j + slo_j + kv_j,
            {
                "prefill_j": found.prefill_j,
                "decode_j": found.decode_j,
                "idle_j": found.idle_j,
                "slo_j": slo_j,
                "kv_j": kv_j,
            },
            strains=("slo_j", "kv_j"),
            figures={"ttft_s": found.ttft_s, "expected_j": expected_j},
        )

    def _lateness(
        self, request: Request, columns: ModelColumns, found: Prospects, now_s: float
    ) -> FloatArray:
        """How far the worse of the two latencies is predicted beyond its objective."""
        objective, observed_at_s = request.objective, columns.outlook.observed_at_s
        ttft_s, fresh_since_s = found.ttft_s, now_s - self.fresh_s
        if observed_at_s[observed_at_s.argmin()] < fresh_since_s:
            ttft_s = ttft_s + np.maximum(fresh_since_s - observed_at_s, 0.0)
        ttft = ttft_s * (1.0 / self._allowed_s(objective.ttft_s))
        tpot = found.tpot_s * (1.0 / self._allowed_s(objective.tpot_s))
        late: FloatArray = np.maximum(np.maximum(ttft, tpot) - 1.0, 0.0)
        return late

    def _allowed_s(self, objective_s: float) -> float:
        """Time that a prediction may take; an objective of nothing means as fast as can be."""
        return self.slo_share * max(SHORTEST_OBJECTIVE_S, objective_s)

    def explain(
        self, request: Request, columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int
    ) -> str:
        """Compare it with the best replica of another variant, else with the next best one."""
        variant = columns.variant(row).name
        other = _runner_up(columns, eligible, scores, row)
        expected_j, ttft_s = scores.figures["expected_j"], scores.figures["ttft_s"]
        latency = f"TTFT {float(ttft_s[row]):.2g} s of {request.objective.ttft_s:.2g} s"
        if columns.cached_tokens is not None and (cached := int(columns.cached_tokens[row])):
            latency += f", {cached} of {request.prompt_tokens} prompt tokens cached"
        cost = f"{variant} is expected to cost {float(expected_j[row]):.2g} J"
        if other is None:
            return f"{cost}, the only choice; {latency}"
        second = columns.variant(other).name
        rival = second if second != variant else "the next replica"
        late = scores.terms["slo_j"]
        remark = " but later than it should" if late[other] > late[row] else ""
        return f"{cost}, {rival} {float(expected_j[other]):.2g} J{remark}; {latency}"


def _runner_up(columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int) -> int | None:
    """Find the best row of another variant, else the next best of the same; None if alone."""
    others = eligible & (columns.variant_rows != columns.variant_rows[row])
    if not np.count_nonzero(others):
        others = eligible.copy()
        others[row] = False
        if not np.count_nonzero(others):
            return None
    return int(np.where(others, scores.values, np.inf).argmin())
