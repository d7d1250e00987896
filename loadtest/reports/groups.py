"""Measures of a group of requests: all, or those of one class, tenant or variant.

Its own module because the same is measured of each, and nothing here knows of groups beside
this one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports import intervals
from loadtest.reports.gaps import NONE
from loadtest.reports.values import Distribution, Group
from loadtest.run import Ending

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadtest.reports.objectives import Judgement
    from loadtest.reports.values import GroupKind
    from loadtest.run import Requests

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


class GroupName(NamedTuple):
    """Which requests they are.

    Attributes:
        kind: of group.
        name: of the class, tenant or variant; empty for all.

    """

    kind: GroupKind
    name: str = ""


def group_of(
    group: GroupName,
    requests: Requests,
    judgement: Judgement,
    window_s: float,
    itl_s: Distribution = NONE,
) -> Group:
    """Take all measures of a group.

    Args:
        group: which it is.
        requests: of it, scheduled within the window, in that order.
        judgement: of these.
        window_s: its length.
        itl_s: of these.

    """
    count = {each: int((requests.ending == each).sum()) for each in Ending}
    completed = requests.ending == Ending.COMPLETED
    told = np.isfinite(requests.energy_j)
    told_gco2e = completed & np.isfinite(requests.gco2e)
    seen = completed & (requests.cached_tokens >= 0)
    judged = judgement.select(judgement.judged)
    attributed_j = float(requests.energy_j[told].sum()) if told.any() else math.nan
    return Group(
        kind=group.kind,
        name=group.name,
        requests=len(requests.ending),
        completed=count[Ending.COMPLETED],
        shed=count[Ending.SHED],
        failed=count[Ending.FAILED],
        cut_off=count[Ending.CUT_OFF],
        unsent=count[Ending.UNSENT],
        requests_per_s=ratio(len(requests.ending), window_s),
        completed_per_s=ratio(count[Ending.COMPLETED], window_s),
        prompt_tokens_per_s=ratio(_total(requests.prompt_tokens[completed]), window_s),
        completion_tokens_per_s=ratio(_total(requests.completion_tokens), window_s),
        prefix_cache_hit_ratio=ratio(
            _total(requests.cached_tokens[seen]), _total(requests.prompt_tokens[seen])
        ),
        judged=len(judged.judged),
        goodput=ratio(judged.good.sum(), window_s) if judged.judged.size else math.nan,
        slo_attainment=mean_of(judged.good),
        slo_attainment_interval=intervals.share_interval(judged.good),
        ttft_attainment=mean_of(judged.ttft_met),
        tpot_attainment=mean_of(judged.tpot_met),
        ttft_s=distribution(requests.ttft_s),
        tpot_s=distribution(requests.tpot_s),
        itl_s=itl_s,
        longest_gap_s=distribution(requests.longest_gap_s),
        e2e_latency_s=distribution(requests.e2e_latency_s),
        server_ttft_s=distribution(requests.server_ttft_s),
        server_e2e_s=distribution(requests.server_e2e_s),
        outside_ttft_s=distribution(
            requests.first_token_at_s - requests.sent_at_s - requests.server_ttft_s
        ),
        outside_e2e_s=distribution(
            requests.ended_at_s - requests.sent_at_s - requests.server_e2e_s
        ),
        attributed_j=attributed_j,
        joules_per_token=ratio(attributed_j, _total(requests.completion_tokens[told])),
        joules_per_request=mean_of(requests.energy_j[completed & told]),
        gco2e_per_request=mean_of(requests.gco2e[told_gco2e]),
    )


def distribution(values: NDArray[np.float64]) -> Distribution:
    """Describe the values that are there, in the order in which they arose."""
    there = values[np.isfinite(values)]
    if not there.size:
        return NONE
    p50, p90, p95, p99, p999 = np.percentile(there, PERCENTILES).tolist()
    return Distribution(
        count=there.size,
        mean_s=float(there.mean()),
        p50_s=p50,
        p90_s=p90,
        p95_s=p95,
        p99_s=p99,
        p999_s=p999,
        max_s=float(there.max()),
        p50_interval_s=intervals.quantile_interval(there, 0.5),
        p99_interval_s=intervals.quantile_interval(there, 0.99),
    )


def mean_of(values: NDArray[np.bool_] | NDArray[np.float64]) -> float:
    """Give the mean; NaN of nothing."""
    return float(values.mean()) if values.size else math.nan


def ratio(part: float, whole: float) -> float:
    """Divide; NaN by nothing."""
    return float(part / whole) if whole else math.nan


def _total(tokens: NDArray[np.int32]) -> int:
    return int(tokens.sum(dtype=np.int64))
