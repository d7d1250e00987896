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

How far replicas may be filled is steered by what requests meet: predictions know the mean, and
by how much requests scatter around it differs from one traffic to the next. Whenever a request
that was predicted to keep its objectives misses one, a little more room is left; whenever one
keeps them, a little less, so that in the long run the share that misses is the one allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scheduler.outlook import Scores
from scheduler.prospects import prospects

if TYPE_CHECKING:
    import random

    from scheduler.decisions import Latencies
    from scheduler.outlook import BoolArray, FloatArray, ModelColumns
    from scheduler.prospects import Prospects
    from scheduler.requests import ModelName, Request

# A client may ask for less than anything can keep, even for 0; beyond this it is all the same.
SHORTEST_OBJECTIVE_S = 1e-3


# Of the room that a TPOT is given, what a TTFT is given: prompts queue one behind the other and
# differ more in length than decode steps do.
TTFT_SHARE = 0.6
# What a request that misses an objective teaches, and how far that may lead.
LESSON = 0.001
SLO_SHARE_BOUNDS = (0.4, 1.0)


@dataclass(slots=True)
class Energy:
    """Serves from the replica where the request costs least.

    Attributes:
        pressure: V, in multiples of what the request would cost alone on the leanest
            replica: an objective missed by half weighs as much as five such requests.
        slo_share: of each objective that a prediction may use up at first; later as steered.
        missable: share of requests that may miss an objective they could have kept.
        kv_share: of the KV cache that may fill before preemption is feared.
        fresh_s: age of a report that is taken at its word; each further second counts as
            a second of TTFT, for that much work may have come unseen.

    """

    pressure: float = 10.0
    slo_share: float = 0.8
    missable: float = 0.005
    kv_share: float = 0.9
    fresh_s: float = 1.0
    _shares: dict[ModelName, float] = field(default_factory=dict)

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
            figures={
                "ttft_s": found.ttft_s,
                "tpot_s": found.others_tpot_s,
                "expected_j": expected_j,
            },
        )

    def learn(self, request: Request, predicted: Latencies | None, met: Latencies) -> None:
        """Leave more room after a missed objective, less after one that was kept.

        Requests of which no more was promised teach nothing: where load exceeds what is
        awake, or a client wants the impossible, room elsewhere would not have helped.
        """
        if predicted is None or not predicted.keep(request.objective):
            return
        low, high = SLO_SHARE_BOUNDS
        missed = not met.keep(request.objective)
        lesson = LESSON * (self.missable - missed)
        self._shares[request.model] = min(high, max(low, self.share(request.model) + lesson))

    def share(self, model: ModelName) -> float:
        """Share of each objective that a prediction may use up now."""
        return self._shares.get(model, self.slo_share)

    def _lateness(
        self, request: Request, columns: ModelColumns, found: Prospects, now_s: float
    ) -> FloatArray:
        """How far the worst is predicted beyond its objective: TTFT, TPOT, others' TPOT."""
        objective, observed_at_s = request.objective, columns.outlook.observed_at_s
        share = self.share(request.model)
        ttft_s, fresh_since_s = found.ttft_s, now_s - self.fresh_s
        if observed_at_s[observed_at_s.argmin()] < fresh_since_s:
            ttft_s = ttft_s + np.maximum(fresh_since_s - observed_at_s, 0.0)
        ttft = ttft_s * (1.0 / _allowed_s(objective.ttft_s, TTFT_SHARE * share))
        tpot = found.tpot_s * (1.0 / _allowed_s(objective.tpot_s, share))
        # What steering makes room for is prompts that come; one that is at hand is known.
        others = found.others_tpot_s * (1.0 / _allowed_s(objective.tpot_s, 1.0))
        late: FloatArray = np.maximum(np.maximum(np.maximum(ttft, tpot), others) - 1.0, 0.0)
        return late

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


def _allowed_s(objective_s: float, share: float) -> float:
    """Time that a prediction may take; an objective of nothing means as fast as can be."""
    return share * max(SHORTEST_OBJECTIVE_S, objective_s)


def _runner_up(columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int) -> int | None:
    """Find the best row of another variant, else the next best of the same; None if alone."""
    others = eligible & (columns.variant_rows != columns.variant_rows[row])
    if not np.count_nonzero(others):
        others = eligible.copy()
        others[row] = False
        if not np.count_nonzero(others):
            return None
    return int(np.where(others, scores.values, np.inf).argmin())
