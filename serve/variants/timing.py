"""From measured steps to the coefficients that the scheduler counts with.

Its own module because it is pure, and because what is energy here comes from a power model.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from scheduler.modelled_energy import StepTime, modelled, modelled_prefill
from scheduler.profiles import fit_profile
from serve.step_profiles import StepProfile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scheduler.steps import StepModel

LEAST_BATCHES = 2


def profile(
    decode_step_s: Mapping[int, Sequence[float]],
    prefill_s_per_token: float,
    predicted: StepModel,
    measured_on: str,
) -> StepProfile:
    """Fit a profile to the medians of each batch.

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
    times = [StepTime(batch, median(each)) for batch, each in decode_step_s.items() if each]
    if len(times) < LEAST_BATCHES:
        raise ValueError(f"steps of {LEAST_BATCHES} batches at least are needed")
    points = modelled(times, predicted)
    prefill = modelled_prefill(prefill_s_per_token, predicted)
    return StepProfile.of(fit_profile(points, prefill), measured_on)
