"""The least marginal energy that meets the request's objectives: the default.

Its own module because every policy is; the formula is this project's reason to be:

    cost = m·tokens + prefill                               marginal energy
         + [idle]·(P0 − P_ctx)·T_request                    the first request on an idle replica
         + V·max(0, TTFT/SLO − 1, TPOT/SLO − 1)             objectives at risk
         + V·max(0, KV − 0.9)/0.1                           preemption at risk

Filling awake replicas up to their objectives, rather than spreading, is what saves
energy: marginal energy is a fraction of the average at partial load.
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

# A client may ask for less than anything can keep, even for 0; beyond this it is all the same.
SHORTEST_OBJECTIVE_S = 1e-3


@dataclass(frozen=True, slots=True)
class Energy:
    """Serves from the replica where the request costs least.

    Attributes:
        pressure: V, in multiples of what the request would cost alone on the leanest
            replica: an objective missed by half weighs as much as five such requests.
        slo_share: of each objective that a prediction may use up, for predictions err.
        kv_share: of the KV cache that may fill before preemption is feared.
        fresh_s: age of a report that is taken at its word; each further second counts as
            a second of TTFT, for that much work may have come unseen.

    """

    pressure: float = 10.0
    slo_share: float = 0.9
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
        outlook = columns.outlook
        prompt, completion = request.prompt_tokens, request.expected_completion_tokens
        context = prompt + completion / 2
        prefill_j = outlook.prefill_j * prompt
        decode_j = (outlook.decode_j + outlook.context_j * context) * completion
        idle_j = outlook.idle_prompt_j * prompt + outlook.idle_completion_j * completion
        late = self._lateness(request, columns, now_s)
        filled = (outlook.kv_tokens + (prompt + completion)) / outlook.kv_capacity_tokens
        risk = np.maximum(filled - self.kv_share, 0.0) / (1.0 - self.kv_share)
        leanest_j = float((prefill_j + outlook.solo_j * completion).min())
        slo_j, kv_j = late * (self.pressure * leanest_j), risk * (self.pressure * leanest_j)
        return Scores(
            prefill_j + decode_j + idle_j + slo_j + kv_j,
            {
                "prefill_j": prefill_j,
                "decode_j": decode_j,
                "idle_j": idle_j,
                "slo_j": slo_j,
                "kv_j": kv_j,
            },
        )

    def _lateness(self, request: Request, columns: ModelColumns, now_s: float) -> FloatArray:
        """How far the worse of the two latencies is predicted beyond its objective."""
        objective, outlook = request.objective, columns.outlook
        age_s = np.maximum(now_s - self.fresh_s - outlook.observed_at_s, 0.0)
        ttft = (predicted_ttft_s(request, columns) + age_s) / self._allowed_s(objective.ttft_s)
        tpot = predicted_tpot_s(request, columns) / self._allowed_s(objective.tpot_s)
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
        ttft_s = float(predicted_ttft_s(request, columns, row))
        latency = f"TTFT {ttft_s:.2g} s of {request.objective.ttft_s:.2g} s"
        cost = f"{variant} costs {_real_j(scores, row):.2g} J"
        if other is None:
            return f"{cost}, the only choice; {latency}"
        rival = columns.variant(other).name
        where = f"on {rival}" if rival != variant else "on the next replica"
        text = f"{cost} against {_real_j(scores, other):.2g} J {where}; {latency}"
        if scores.terms["slo_j"][other] > scores.terms["slo_j"][row]:
            return f"{text}; {where[3:]} would be later"
        return text


def predicted_ttft_s(
    request: Request, columns: ModelColumns, row: int | slice = slice(None)
) -> FloatArray:
    """Predict the time to the first token: queue, backlog, own prefill, one step."""
    outlook = columns.outlook
    return np.asarray(
        outlook.ttft_s[row]
        + outlook.prefill_s[row] * request.prompt_tokens
        + outlook.queue_s[row] * request.expected_completion_tokens
    )


def predicted_tpot_s(
    request: Request, columns: ModelColumns, row: int | slice = slice(None)
) -> FloatArray:
    """Predict the mean time per output token, once the request has joined the batch."""
    outlook = columns.outlook
    context = request.prompt_tokens + request.expected_completion_tokens / 2
    return np.asarray(outlook.tpot_s[row] + outlook.context_s[row] * context)


def _real_j(scores: Scores, row: int) -> float:
    """Joules that will really be drawn, without those that stand for risk."""
    terms = scores.terms
    return float(terms["prefill_j"][row] + terms["decode_j"][row] + terms["idle_j"][row])


def _runner_up(columns: ModelColumns, eligible: BoolArray, scores: Scores, row: int) -> int | None:
    others = eligible & (columns.variant_rows != columns.variant_rows[row])
    if not others.any():
        others = eligible.copy()
        others[row] = False
        if not others.any():
            return None
    return int(np.where(others, scores.values, np.inf).argmin())
