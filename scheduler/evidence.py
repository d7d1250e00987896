"""What speaks for a candidate and against it, gathered over time from looks at the cluster.

Its own module because gathering is arithmetic, and what is made of it is a judgement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from scheduler.mix import Mixes
    from scheduler.requests import VariantName


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the cluster tells.

    Attributes:
        now_s: of the look.
        mixes: what serving takes with and without each candidate, now.
        metered_w: that replicas and nodes draw; None where nobody says.
        completions: requests that ended since the look before.
        missed: of these, those whose objectives were not kept.
        serving: variants of which a replica is awake.
        troubles: why variants cannot have a replica.

    """

    now_s: float
    mixes: Mixes
    metered_w: float | None = None
    completions: int = 0
    missed: int = 0
    serving: Collection[VariantName] = frozenset()
    troubles: Mapping[VariantName, str] = field(default_factory=dict)


class Evidence:
    """Joules and requests of the time up to now; what is older weighs less.

    Attributes:
        seconds: looked at, all weighing alike.
        metered_j: by meters.
        metered_over_j: as reckoned, for the time of which meters have told.
        admitted_j: as reckoned for what is admitted.
        spared_j: by candidate, less than that with it more, or without it.
        completions: of requests.
        missed: of these.

    """

    def __init__(self, memory_s: float) -> None:
        """Know nothing yet; what is this much older weighs e times less."""
        self.seconds = 0.0
        self.metered_j = self.metered_over_j = self.admitted_j = 0.0
        self.spared_j: dict[VariantName, float] = {}
        self.completions = self.missed = 0.0
        self._memory_s = memory_s
        self._weight_s = 0.0
        self._carried: dict[VariantName, float] = {}

    def add(self, look: Look, elapsed_s: float) -> None:
        """Take a look that stands for so much time."""
        kept = math.exp(-elapsed_s / self._memory_s)
        mixes = look.mixes
        self.seconds += elapsed_s
        self._weight_s = self._weight_s * kept + elapsed_s
        self.admitted_j = self.admitted_j * kept + mixes.admitted.power_w * elapsed_s
        metered_s = 0.0 if look.metered_w is None else elapsed_s
        self.metered_j = self.metered_j * kept + (look.metered_w or 0.0) * metered_s
        self.metered_over_j = self.metered_over_j * kept + mixes.admitted.power_w * metered_s
        self.completions = self.completions * kept + look.completions
        self.missed = self.missed * kept + look.missed
        for name, mix in mixes.other.items():
            spared_j = (mixes.admitted.power_w - mix.power_w) * elapsed_s
            self.spared_j[name] = self.spared_j.get(name, 0.0) * kept + spared_j
            less = mixes.admitted.missing_per_s - mix.missing_per_s
            self._carried[name] = self._carried.get(name, 0.0) * kept + less * elapsed_s

    def saving(self, name: VariantName) -> float:
        """Share of what is admitted that one candidate more, or less, would spare."""
        return self.spared_j.get(name, 0.0) / self.admitted_j if self.admitted_j > 0 else 0.0

    def carried_per_s(self, name: VariantName) -> float:
        """Requests/s that are missing as it is, and would not be."""
        return self._carried.get(name, 0.0) / self._weight_s if self._weight_s > 0 else 0.0

    def bias(self) -> float:
        """How many times what was reckoned meters have shown; 1 where they showed nothing."""
        if self.metered_over_j <= 0 or self.metered_j <= 0:
            return 1.0
        return self.metered_j / self.metered_over_j

    def missed_share(self) -> float:
        """Share of completions whose objectives were not kept."""
        return self.missed / self.completions if self.completions else 0.0
