"""What runs came to, as numbers and as a table.

Its own module because a soak and a comparison print the same figures.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.soak.runs import Run

TTFT_S, TPOT_S = 2.0, 0.1
NODE_W = 500.0
GPUS_PER_NODE = 4
BARE_W = 65.0


def figures(runs: Sequence[Run]) -> dict[str, Any]:
    """Sum runs up.

    Returns:
        counts of streams, failed, altered and resumed ones, of losses by kind and of what was
        left; percentiles in seconds; joules and SLO attainment by the power model.

    """
    streams = [stream for run in runs for stream in run.streams]
    gaps_s = [gap for run in runs for gap in run.gaps_s()]
    losses = [kind for run in runs for _, kind in run.losses_s]
    kept = [
        stream.ttft_s is not None
        and not stream.error
        and stream.ttft_s <= TTFT_S
        and stream.tpot_s <= TPOT_S
        for stream in streams
    ]
    energy_j = sum(_energy_j(run) for run in runs)
    tokens = sum(len(stream.arrivals_s) for stream in streams)
    return {
        "runs": len(runs),
        "streams": len(streams),
        "failed": sum(bool(stream.error) for stream in streams),
        "altered": sum(stream.altered for stream in streams),
        "resumed": sum(stream.resumes > 0 for stream in streams),
        "losses": {kind: losses.count(kind) for kind in sorted(set(losses))},
        "left": sum(sum(run.leftovers.values()) for run in runs),
        "loss_to_next_token_s": percentiles(gaps_s),
        "ttft_s": percentiles(s.ttft_s for s in streams if s.ttft_s is not None),
        "tpot_s": percentiles(s.tpot_s for s in streams if s.tpot_s),
        "slo_attainment": float(np.mean(kept)) if kept else 0.0,
        "energy_j": energy_j,
        "j_per_token": energy_j / max(1, tokens),
        "most_awake": max((s.awake for run in runs for s in run.samples), default=0),
        "least_awake": min((s.awake for run in runs for s in run.samples), default=0),
        "errors": sorted({stream.error for stream in streams if stream.error})[:5],
    }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Give p50, p90, p99 and the maximum; empty without values."""
    given = list(values)
    if not given:
        return {}
    named = {f"p{q}": float(np.percentile(given, q)) for q in (50, 90, 99)}
    return named | {"max": max(given), "count": float(len(given))}


def _energy_j(run: Run) -> float:
    """Integrate replicas and the nodes that hold them; an empty node counts as off."""
    total_j = 0.0
    for before, after in pairwise(run.samples):
        idle_gpus = max(0, GPUS_PER_NODE * before.nodes - before.awake)
        power_w = before.replicas_w + NODE_W * before.nodes + BARE_W * idle_gpus
        total_j += power_w * (after.at_s - before.at_s)
    return total_j
