"""What goes wrong when, drawn from a seed, and how many requests come meanwhile.

Its own module because a schedule is a value: the same seed is the same trouble.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal, NamedTuple

Kind = Literal["kill_engine", "kill_gateway", "remove_node"]
KINDS: tuple[Kind, ...] = ("kill_engine", "kill_engine", "kill_gateway", "remove_node")


class Fault(NamedTuple):
    """Something that goes wrong.

    Attributes:
        at_s: after the load has begun.
        kind: of what is lost.
        pick: 0 to 1; which of those that there are.

    """

    at_s: float
    kind: Kind
    pick: float


class Phase(NamedTuple):
    """Attributes: until_s: after the load has begun; requests_per_s: that come until then."""

    until_s: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run.

    Attributes:
        seed: that it was drawn from.
        phases: of the load, in order.
        faults: in order.

    """

    seed: int
    phases: tuple[Phase, ...]
    faults: tuple[Fault, ...]

    @property
    def duration_s(self) -> float:
        """How long requests come."""
        return self.phases[-1].until_s


def tenfold(seed: int, *, low_per_s: float, scale_s: float, faults: int) -> Schedule:
    """Let the load rise tenfold and fall to nothing, while things go wrong.

    Args:
        seed: of the faults.
        low_per_s: requests/s before and after.
        scale_s: length of each of four phases: low, tenfold, low, nothing.
        faults: that happen while requests come.

    """
    rng = Random(seed)
    phases = (
        Phase(scale_s, low_per_s),
        Phase(2 * scale_s, 10 * low_per_s),
        Phase(3 * scale_s, low_per_s),
    )
    return Schedule(seed, phases, drawn(rng, faults, 3 * scale_s))


def steady(seed: int, *, requests_per_s: float, duration_s: float, faults: int) -> Schedule:
    """Let requests come at one rate, while things go wrong."""
    rng = Random(seed)
    return Schedule(seed, (Phase(duration_s, requests_per_s),), drawn(rng, faults, duration_s))


def drawn(rng: Random, faults: int, duration_s: float) -> tuple[Fault, ...]:
    """Draw faults at any time within a run."""
    times = sorted(rng.uniform(0.1, 0.95) * duration_s for _ in range(faults))
    return tuple(Fault(at_s, rng.choice(KINDS), rng.random()) for at_s in times)
