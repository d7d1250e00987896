"""What a comparison of runs says, as values.

Its own module for the reason that `loadtest.reports.values` is one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Needed at run time: the JSON Schema is made from these annotations.
from loadtest.reports.values import Interval  # noqa: TC001

Better = Literal["lower", "higher"]
Verdict = Literal["better", "worse", "no difference shown", "not known"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """Which run it is.

    Attributes:
        label: short and unique in this comparison.
        scenario: by name.
        source: where it ran.
        target: address and protocol, or the fleet with its policy and autoscaler.
        model: that was asked.
        seed: of chance.
        started_at: UTC, ISO 8601.
        requests: scheduled within its window.
        warnings: of its own report.

    """

    label: str
    scenario: str
    source: Literal["live", "virtual"]
    target: str
    model: str
    seed: int
    started_at: str
    requests: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of two runs.

    Attributes:
        measure: its name, with its unit.
        better: which values are.
        base: of the run that is compared with.
        other: of the run that is compared.
        difference: other less base.
        interval: where that difference of such runs lies, with 95 % confidence.
        relative: difference over base.
        verdict: on the other run; "no difference shown" if the interval holds 0.

    """

    measure: str
    better: Better
    base: float
    other: float
    difference: float
    interval: Interval
    relative: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Against:
    """A run compared with the base.

    Attributes:
        label: of the run.
        paired: differences are between the same requests.
        requests: that were compared, of the other run.
        blocks: of neighbouring requests, which intervals take for independent.
        notes: why not paired, and what else to know.
        differences: one by one.

    """

    label: str
    paired: bool
    requests: int
    blocks: int
    notes: tuple[str, ...]
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs compared with the first of them.

    Attributes:
        base: label of the first.
        runs: all, the first included.
        against: all others, one by one.

    """

    base: str
    runs: tuple[RunFacts, ...]
    against: tuple[Against, ...]
