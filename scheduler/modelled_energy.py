"""Energy of measured steps where no counter was: their time, at the power that a model predicts.

Its own module because what is measured and what is believed must be told apart: whoever puts
the two together says so by calling this.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from scheduler.profiles import PrefillCost, StepPoint, TableSteps, fit_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduler.steps import AffineSteps, StepModel

# Tokens of context of a sequence at which the energy of context is asked.
PROBE_CONTEXTS = (64, 1024)
# Batches at which the energy of a line is asked; a replica's own are among them.
PROBE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class StepTime(NamedTuple):
    """A measured step of which nobody knows the energy; see `StepPoint`."""

    batch: float
    step_s: float
    context_tokens: float = 0.0


def modelled(times: Iterable[StepTime], predicted: StepModel) -> list[StepPoint]:
    """Give measured steps the energy of their time at the predicted power of such a step."""
    return [
        StepPoint(
            time.batch,
            time.step_s,
            time.step_s * _power_w(predicted, time.batch, time.context_tokens),
            time.context_tokens,
        )
        for time in times
    ]


def modelled_prefill(s_per_token: float, predicted: StepModel) -> PrefillCost:
    """Give the time of a prompt token its energy at the predicted power of prefill."""
    power_w = predicted.prefill_j(1) / predicted.prefill_s(1)
    return PrefillCost(s_per_token, s_per_token * power_w)


@overload
def with_modelled_energy(steps: AffineSteps, predicted: StepModel) -> AffineSteps: ...
@overload
def with_modelled_energy(steps: TableSteps, predicted: StepModel) -> TableSteps: ...
def with_modelled_energy(
    steps: AffineSteps | TableSteps, predicted: StepModel
) -> AffineSteps | TableSteps:
    """Put the predicted power in the place of a model's energy; its times stay.

    Args:
        steps: whose times were measured.
        predicted: for the same variant.

    """
    prefill = modelled_prefill(steps.prefill_s(1), predicted)
    if isinstance(steps, TableSteps):
        return _table(steps, predicted, prefill)
    line = fit_line(modelled(_probes(steps, PROBE_BATCHES), predicted), prefill)
    return replace(
        steps,
        e0_j=line.e0_j,
        e1_j=line.e1_j,
        context_j_per_token=line.context_j_per_token,
        prefill_j_per_token=prefill.j_per_token,
    )


def _table(steps: TableSteps, predicted: StepModel, prefill: PrefillCost) -> TableSteps:
    bare = modelled([StepTime(each, steps.decode_s(each)) for each in steps.batches], predicted)
    probes = modelled(_probes(steps, steps.batches), predicted)
    # Two for each batch, of little context and of much.
    per_token_j = [
        (much.step_j - little.step_j) / (much.context_tokens - little.context_tokens)
        for little, much in zip(probes[::2], probes[1::2], strict=True)
        if steps.context_s_per_token
    ]
    return replace(
        steps,
        step_j=tuple(np.maximum.accumulate([point.step_j for point in bare]).tolist()),
        prefill=prefill,
        context_j_per_token=max(0.0, float(np.mean(per_token_j))) if per_token_j else 0.0,
    )


def _probes(steps: StepModel, batches: Sequence[float]) -> list[StepTime]:
    """Ask for times with little context and with much; without any where it costs nothing."""
    held = [(batch, batch * context) for batch in batches for context in PROBE_CONTEXTS]
    times = [StepTime(batch, steps.decode_s(batch, context), context) for batch, context in held]
    if any(time.step_s != steps.decode_s(time.batch) for time in times):
        return times
    # Its cost is part of the sequences', in time and energy.
    return [time._replace(context_tokens=0.0) for time in times]


def _power_w(predicted: StepModel, batch: float, context_tokens: float) -> float:
    return predicted.decode_j(batch, context_tokens) / predicted.decode_s(batch, context_tokens)
