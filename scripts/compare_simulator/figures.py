"""What is compared: medians of times, and throughput.

Its own module because measured and simulated requests are weighed by the same lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence as Many

    from numpy.typing import NDArray

    from scripts.compare_simulator.runs import Served

    Floats = NDArray[np.float64]


class Figures(NamedTuple):
    """What is compared."""

    ttft_p50_s: float
    tpot_p50_s: float
    tokens_per_s: float


class Times(NamedTuple):
    """Of simulated requests, in their order; NaN for what was not served."""

    ttft_s: Floats
    e2e_s: Floats


def figures(
    at_s: NDArray[Any], completion_tokens: NDArray[Any], ttft_s: Floats, e2e_s: Floats
) -> Figures:
    """Take medians over requests, and tokens over the time from first arrival to last token."""
    gaps = completion_tokens - 1
    some = gaps > 0
    return Figures(
        float(np.median(ttft_s)),
        float(np.median((e2e_s - ttft_s)[some] / gaps[some])),
        float(completion_tokens.sum() / ((at_s + e2e_s).max() - at_s.min())),
    )


def figures_of(served: Many[Served], times: Times | None = None) -> Figures:
    """Give the figures of requests as they were served, or as they were simulated."""
    at_s = np.array([each.at_s for each in served])
    tokens = np.array([each.completion_tokens for each in served])
    if times is None:
        ttft_s, e2e_s = np.array([(each.ttft_s, each.e2e_s) for each in served]).T
        times = Times(ttft_s, e2e_s)
    return figures(at_s, tokens, times.ttft_s, times.e2e_s)


def errors_of(found: Figures, real: Figures) -> dict[str, float]:
    """Give simulated minus measured over measured, by figure."""
    return {
        name: got / want - 1.0 for name, got, want in zip(Figures._fields, found, real, strict=True)
    }
