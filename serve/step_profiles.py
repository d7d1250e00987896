"""A measured profile as a configuration and a manifest hold it, and as the scheduler reads it.

Its own module because whoever measures writes one, whoever serves reads one, and what is left
to the power model must stay marked on the way.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from scheduler.modelled_energy import with_modelled_energy
from scheduler.profiles import PrefillCost, StepPoint, TableSteps, fit_line
from scheduler.steps import AffineSteps
from serve.config_section import Fault, Section

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scheduler.steps import StepModel

NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
# Rows that a table interpolates between.
_LEAST_ROWS = 2
_ENERGIES = ("e0_j", "e1_j", "prefill_j_per_token")


class TableRow(Section):
    """Time and energy of a decode step at one batch."""

    batch: Positive
    """Sequences."""
    step_s: Positive
    """Seconds, less what the context costs."""
    step_j: NonNegative | None = None
    """Joules over all accelerators of the replica, less what the context costs."""


class MeasuredPoint(Section):
    """A decode step as it was measured."""

    batch: Positive
    """Sequences, all of which decoded."""
    context_tokens: NonNegative
    """Mean, of all sequences together."""
    step_s: Positive
    """Mean seconds of a step."""
    step_j: NonNegative | None = None
    """Mean joules of a step, by the counter; absent where no counter was."""
    steps: NonNegative
    """That the means are over."""


class MeasuredPrompt(Section):
    """Prompts of one length as they were measured, one at a time."""

    prompt_tokens: Positive
    """Computed for each, cached ones not counted."""
    prompt_s: Positive
    """Seconds to the first token, median."""
    prompt_j: NonNegative | None = None
    """Joules from one prompt to the next, mean; absent where no counter was."""
    prompts: Annotated[int, Field(ge=1)]
    """How many there were."""


class Measurement(Section):
    """How a profile came to be: the points, where they were taken, and how well they are told."""

    source: Literal["cluster", "torch decoder"]
    """A replica that served, or a decoder of the model's shape with random weights."""
    at: str
    """UTC, ISO 8601."""
    machine: str
    """Host, processor and accelerator."""
    driver: str = ""
    """Of the accelerator."""
    engine: str = ""
    """What computed the steps, with its version."""
    energy_method: str = ""
    """`nvml` or `rapl` for a counter; `model` where energy was not measured."""
    energy_boundary: str = ""
    """What the counter counts: gpu, cpu or node."""
    points: tuple[MeasuredPoint, ...] = ()
    """Decode steps."""
    prompts: tuple[MeasuredPrompt, ...] = ()
    """Prefills."""
    r2_time: float | None = None
    """Share of the points' variance in time that the profile explains; absent where all are
    alike."""
    r2_energy: float | None = None
    """The same of energy; absent where it was not measured, too."""
    held_out_time: float | None = None
    """Mean relative error of time at batches that were left out of a fit for it."""
    held_out_energy: float | None = None
    """The same of energy."""
    bare_w: NonNegative | None = None
    """Watts with no process on the accelerator."""
    awake_w: NonNegative | None = None
    """Watts with a replica that does nothing."""
    exited_w: NonNegative | None = None
    """Watts after its process has gone."""
    load_s: NonNegative | None = None
    """Seconds from nothing to a replica that serves."""
    load_j: NonNegative | None = None
    """Joules of that."""


class StepProfile(Section):
    """Measured time and energy of an engine step: t0 + t1·batch seconds, e0 + e1·batch joules.

    Energies are given all or none; none leaves them to the power model.
    """

    t0_s: Positive
    """Seconds of a decode step, whatever its batch."""
    t1_s: NonNegative
    """Seconds that each sequence adds to a decode step."""
    e0_j: NonNegative | None = None
    """Joules of a decode step, whatever its batch, over all accelerators of the replica; by
    default the measured time at the power that the model predicts."""
    e1_j: NonNegative | None = None
    """Joules that each sequence adds to a decode step."""
    prefill_s_per_token: Positive
    """Seconds to compute one prompt token."""
    prefill_j_per_token: NonNegative | None = None
    """Joules to compute one prompt token."""
    context_s_per_token: NonNegative = 0.0
    """Seconds that each token of context adds to a decode step; 0 where t1_s has it in it."""
    context_j_per_token: NonNegative | None = None
    """Joules that each token of context adds to a decode step; by default e1_j has them in it."""
    table: tuple[TableRow, ...] = ()
    """Where no line holds, steps by batch; goes before t0_s, t1_s, e0_j and e1_j."""
    measured_on: str
    """Machine, engine version and date of the measurement, for people."""
    measurement: Measurement | None = None
    """What was measured, for people."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield energies that are there in part, and tables that are none."""
        absent = [key for key in _ENERGIES if getattr(self, key) is None]
        if absent and len(absent) < len(_ENERGIES):
            yield Fault(absent[0], f"give all of {', '.join(_ENERGIES)}, or none")
        if not self.table:
            return
        batches = [row.batch for row in self.table]
        if len(batches) < _LEAST_ROWS or batches != sorted(set(batches)):
            yield Fault("table", "needs two rows at least, in the order of their batches")
        without = [row.step_j is None for row in self.table]
        if any(without) != all(without) or all(without) != bool(absent):
            yield Fault("table", "give step_j in every row where e0_j is given, else in none")

    @property
    def tells_energy(self) -> bool:
        """Whether it says what steps cost in joules."""
        return self.e0_j is not None

    @classmethod
    def of(
        cls,
        steps: AffineSteps | TableSteps,
        measured_on: str,
        *,
        energy: bool = True,
        measurement: Measurement | None = None,
    ) -> StepProfile:
        """Write a step model down.

        Args:
            steps: fitted.
            measured_on: for people.
            energy: whether its energies are to be believed; else they are left to the model.
            measurement: what it was fitted to.

        """
        rows = _rows(steps)
        line = steps if isinstance(steps, AffineSteps) else fit_line(rows, steps.prefill)
        return cls(
            t0_s=line.t0_s,
            t1_s=line.t1_s,
            e0_j=line.e0_j if energy else None,
            e1_j=line.e1_j if energy else None,
            prefill_s_per_token=line.prefill_s_per_token,
            prefill_j_per_token=line.prefill_j_per_token if energy else None,
            context_s_per_token=steps.context_s_per_token,
            context_j_per_token=steps.context_j_per_token if energy else None,
            table=tuple(
                TableRow(batch=row.batch, step_s=row.step_s, step_j=row.step_j if energy else None)
                for row in rows
            ),
            measured_on=measured_on,
            measurement=measurement,
        )

    def steps(
        self, predicted: Callable[[], StepModel], cap_w: float = math.inf
    ) -> AffineSteps | TableSteps:
        """Give the step model.

        Args:
            predicted: what the power model says of the same variant, where energy is left to it.
            cap_w: power that a decode step cannot exceed.

        """
        if self.table:
            table = self._table(cap_w)
            return table if self.tells_energy else with_modelled_energy(table, predicted())
        line = self._affine(cap_w)
        return line if self.tells_energy else with_modelled_energy(line, predicted())

    def _affine(self, cap_w: float) -> AffineSteps:
        return AffineSteps(
            t0_s=self.t0_s,
            t1_s=self.t1_s,
            e0_j=self.e0_j or 0.0,
            e1_j=self.e1_j or 0.0,
            prefill_s_per_token=self.prefill_s_per_token,
            prefill_j_per_token=self.prefill_j_per_token or 0.0,
            context_s_per_token=self.context_s_per_token,
            context_j_per_token=self.context_j_per_token or 0.0,
            cap_w=cap_w,
        )

    def _table(self, cap_w: float) -> TableSteps:
        return TableSteps(
            batches=tuple(row.batch for row in self.table),
            step_s=tuple(row.step_s for row in self.table),
            step_j=tuple(row.step_j or 0.0 for row in self.table),
            prefill=PrefillCost(self.prefill_s_per_token, self.prefill_j_per_token or 0.0),
            cap_w=cap_w,
            context_s_per_token=self.context_s_per_token,
            context_j_per_token=self.context_j_per_token or 0.0,
        )


def _rows(steps: AffineSteps | TableSteps) -> list[StepPoint]:
    if isinstance(steps, AffineSteps):
        return []
    rows = zip(steps.batches, steps.step_s, steps.step_j, strict=True)
    return [StepPoint(*row) for row in rows]
