"""The profile of what was measured, and how well it tells it.

Its own module because it is pure: the same points make the same profile, wherever they are from.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from scheduler.profile_errors import Explained, HeldOut, explained, held_out
from scheduler.profiles import StepPoint, TableSteps, fit_prefill, fit_profile
from serve.profiling.errors import TooLittleError
from serve.step_profiles import MeasuredPoint, MeasuredPrompt, Measurement, StepProfile

if TYPE_CHECKING:
    from scheduler.steps import AffineSteps
    from serve.profiling.measured import Measured
    from serve.profiling.place import Place

# Decimal places that no measurement has.
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Fitted:
    """A step model with what it was fitted to.

    Attributes:
        steps: the model; its energies mean nothing where `energy` is false.
        points: that it was fitted to; the same holds for theirs.
        energy: whether energy was measured.
        explained: R² at the points.
        left_out: what a fit without every second batch says of those.

    """

    steps: AffineSteps | TableSteps
    points: tuple[StepPoint, ...]
    energy: bool
    explained: Explained
    left_out: tuple[HeldOut, ...]

    @property
    def form(self) -> str:
        """Say which of the two forms it has."""
        return "table" if isinstance(self.steps, TableSteps) else "line"

    @property
    def left_out_errors(self) -> tuple[float | None, float | None]:
        """Mean relative errors of time and energy at batches left out; None without any."""
        if not self.left_out:
            return None, None
        time = fmean(abs(each.error_s) for each in self.left_out)
        return time, fmean(abs(each.error_j) for each in self.left_out) if self.energy else None


def fitted(measured: Measured) -> Fitted:
    """Fit a profile.

    Raises:
        TooLittleError: there are not two batches and two lengths of prompts.

    """
    energy = measured.tells_energy
    # What nobody measured is fitted as if it were seconds, and left out of everything after.
    points = tuple(
        StepPoint(
            each.batch,
            each.step_s,
            each.step_j if energy and each.step_j is not None else each.step_s,
            each.context_tokens,
        )
        for each in measured.points
    )
    prompts = measured.prompts
    try:
        prefill = fit_prefill(
            [each.prompt_tokens for each in prompts],
            [each.prompt_s for each in prompts],
            [each.prompt_j if energy and each.prompt_j else each.prompt_s for each in prompts],
        )
        steps = fit_profile(points, prefill)
    except ValueError as error:
        raise TooLittleError(str(error)) from error
    if prefill.s_per_token <= 0:
        raise TooLittleError(
            "longer prompts did not take longer: prefill cannot be told; give longer --prompts"
        )
    told = explained(points, steps)
    return Fitted(
        steps,
        points,
        energy,
        told if energy else told._replace(energy=None),
        tuple(held_out(points)),
    )


def profile_of(
    fit: Fitted, measured: Measured, place: Place, source: Literal["cluster", "torch decoder"]
) -> StepProfile:
    """Write a fit down as the scheduler reads it, with everything that it was fitted to."""
    held_out_time, held_out_energy = fit.left_out_errors
    measurement = Measurement(
        source=source,
        at=place.at,
        machine=place.machine,
        driver=place.driver,
        engine=place.engine,
        energy_method=measured.energy_method if fit.energy else "model",
        energy_boundary=measured.energy_boundary if fit.energy else "",
        points=_points(measured, energy=fit.energy),
        prompts=_prompts(measured, energy=fit.energy),
        r2_time=_rounded(fit.explained.time),
        r2_energy=_rounded(fit.explained.energy),
        held_out_time=_rounded(held_out_time),
        held_out_energy=_rounded(held_out_energy),
        bare_w=measured.bare_w,
        awake_w=measured.awake_w,
        exited_w=measured.exited_w,
        load_s=measured.load_s,
        load_j=measured.load_j,
    )
    how = measured.energy_method if fit.energy else "the power model"
    decoder = "torch decoder, " if source == "torch decoder" else ""
    return StepProfile.of(
        fit.steps,
        f"{place}; {decoder}energy by {how}",
        energy=fit.energy,
        measurement=measurement,
    )


def _points(measured: Measured, *, energy: bool) -> tuple[MeasuredPoint, ...]:
    return tuple(
        MeasuredPoint(
            batch=each.batch,
            context_tokens=round(each.context_tokens, 1),
            step_s=each.step_s,
            step_j=each.step_j if energy else None,
            steps=round(each.steps, 1),
        )
        for each in measured.points
    )


def _prompts(measured: Measured, *, energy: bool) -> tuple[MeasuredPrompt, ...]:
    return tuple(
        MeasuredPrompt(
            prompt_tokens=each.prompt_tokens,
            prompt_s=each.prompt_s,
            prompt_j=each.prompt_j if energy else None,
            prompts=each.prompts,
        )
        for each in measured.prompts
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
