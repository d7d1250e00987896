"""From measured steps to the coefficients that the scheduler counts with.

Its own module because it is pure, and because what is energy here comes from a power model.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import lsq_linear

from serve.config_models import StepProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.steps import AffineSteps

LEAST_BATCHES = 2
# Of the shortest step, what does not depend on the batch.
LEAST_SHARE = 0.01


def profile(
    decode_step_s: Mapping[int, Sequence[float]],
    prefill_s_per_token: float,
    predicted: AffineSteps,
    measured_on: str,
) -> StepProfile:
    """Fit t0 + t1·batch and e0 + e1·batch, each batch weighed alike.

    Times are measured. Energy is the time that was measured at the power that the model predicts
    for such a step: where no meter is, that is the best there is.

    Args:
        decode_step_s: durations, by batch.
        prefill_s_per_token: measured.
        predicted: the model's step times and energies.
        measured_on: machine, engine and date.

    Raises:
        ValueError: less than two batches were measured.

    """
    times_s = {batch: median(times) for batch, times in decode_step_s.items() if times}
    if len(times_s) < LEAST_BATCHES:
        raise ValueError(f"steps of {LEAST_BATCHES} batches at least are needed")
    energies_j = {
        batch: time_s * predicted.decode_j(batch) / predicted.decode_s(batch)
        for batch, time_s in times_s.items()
    }
    t0_s, t1_s = _line(times_s)
    e0_j, e1_j = _line(energies_j)
    prefill_w = predicted.prefill_j_per_token / predicted.prefill_s_per_token
    return StepProfile(
        t0_s=t0_s,
        t1_s=t1_s,
        e0_j=e0_j,
        e1_j=e1_j,
        prefill_s_per_token=prefill_s_per_token,
        prefill_j_per_token=prefill_s_per_token * prefill_w,
        measured_on=measured_on,
    )


def _line(values: Mapping[int, float]) -> tuple[float, float]:
    """Fit a line that begins above zero, for every step does something, and never falls."""
    batches = np.array(list(values), dtype=float)
    columns = np.column_stack([np.ones_like(batches), batches])
    least = LEAST_SHARE * min(values.values())
    fit = lsq_linear(columns, np.array(list(values.values())), ([least, 0.0], np.inf))
    return float(fit.x[0]), float(fit.x[1])
