"""Variants that no other one beats in everything: the Pareto front, pure.

Its own module because a search makes points, and tables, plots and configurations read fronts.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduler.steps import StepModel
    from serve.step_profiles import StepProfile
    from serve.variants.manifest import Manifest

BASE = "base"
# Relative difference of two measurements of the same steps.
NOISE = 0.05


@dataclass(frozen=True, slots=True)
class Point:
    """A variant, by what people choose it for.

    Attributes:
        name: of the variant; `base` is what all are made of.
        quality: perplexity of the base in that of the variant; 1 at most.
        j_per_token: of a decode step at the batch that the search is for, by the power model.
        tpot_s: time of that step.
        weight_bytes: of the checkpoint.
        refusals: why its gate refuses it; empty if it does not.
        quality_margin: half the interval that the quality lies in with 95 % confidence.
        make_s: time that its steps took, on the machine of the search; 0 of the base.

    """

    name: str
    quality: float
    j_per_token: float
    tpot_s: float
    weight_bytes: int
    refusals: tuple[str, ...] = ()
    quality_margin: float = 0.0
    make_s: float = 0.0

    def beats(self, other: Point) -> bool:
        """Whether it is at least as good in everything, and in something so that one can tell."""
        mine, theirs = self._costs(), other._costs()
        return self._tells(other) and all(a <= b for a, b in zip(mine, theirs, strict=True))

    def _tells(self, other: Point) -> bool:
        """Whether something differs by more than two measurements of the same do."""
        margin = max(self.quality_margin, other.quality_margin)
        return (
            abs(self.quality - other.quality) > margin
            or self.weight_bytes != other.weight_bytes
            or self._make_min != other._make_min
            or not isclose(self.j_per_token, other.j_per_token, rel_tol=NOISE)
            or not isclose(self.tpot_s, other.tpot_s, rel_tol=NOISE)
        )

    @property
    def _make_min(self) -> int:
        """Whole minutes: what is made in seconds is made at once."""
        return int(self.make_s // 60)

    def _costs(self) -> tuple[float, ...]:
        serving = (-self.quality, self.j_per_token, self.tpot_s, float(self.weight_bytes))
        return (*serving, self._make_min)


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a variant has to keep to be chosen; None for whatever it takes."""

    min_quality: float = 0.0
    max_tpot_s: float | None = None
    max_weight_bytes: int | None = None

    def met_by(self, point: Point) -> bool:
        """Whether a variant keeps all of them, and its gate."""
        return (
            not point.refusals
            and point.quality >= self.min_quality
            and (self.max_tpot_s is None or point.tpot_s <= self.max_tpot_s)
            and (self.max_weight_bytes is None or point.weight_bytes <= self.max_weight_bytes)
        )


def points_of(made: Sequence[Manifest], batch: int) -> list[Point]:
    """Give the points of the base that variants share, and of each.

    Each variant was timed beside the base, at different times of a machine that is not always
    equally fast. So times and joules are taken in those of the base, and all bases are one: the
    one in the middle.
    """
    if not made:
        return []
    bases = sorted(decoding(each.base_profile, batch) for each in made)
    base_s, base_j = bases[len(bases) // 2]
    base = Point(BASE, 1.0, base_j, base_s, made[0].base_weight_bytes)
    return [base, *(_point(each, batch, base) for each in made)]


def _point(made: Manifest, batch: int, base: Point) -> Point:
    ratio = made.quality.perplexity_ratio
    tpot_s, token_j = decoding(made.profile, batch)
    beside_s, beside_j = decoding(made.base_profile, batch)
    return Point(
        made.name,
        min(1.0, 1.0 / ratio.value),
        token_j / beside_j * base.j_per_token,
        tpot_s / beside_s * base.tpot_s,
        made.weight_bytes,
        tuple(made.refusals()),
        (1.0 / ratio.low - 1.0 / ratio.high) / 2,
        sum(stage.took_s for stage in made.stages),
    )


def front(points: Iterable[Point]) -> list[Point]:
    """Give the points that none beats, the least energy first."""
    known = list(points)
    best = [each for each in known if not any(other.beats(each) for other in known)]
    return sorted(best, key=lambda each: each.j_per_token)


def choice(points: Iterable[Point], objectives: Objectives) -> Point | None:
    """Choose among those that meet the objectives; None if none does.

    It is the least energy that counts, and where that cannot be told apart, the best quality.
    """
    fitting = [each for each in points if objectives.met_by(each)]
    least_j = min((each.j_per_token for each in fitting), default=0.0)
    cheap = [each for each in fitting if each.j_per_token <= least_j * (1.0 + NOISE)]
    return max(cheap, key=lambda each: each.quality, default=None)


def decoding(profile: StepProfile, batch: int) -> tuple[float, float]:
    """Give seconds of a decode step, and joules of each token in it.

    Raises:
        ValueError: the profile leaves energy to the power model, which is not known here.

    """
    if not profile.tells_energy:
        raise ValueError(f"the profile measured on {profile.measured_on} says nothing of energy")
    steps = profile.steps(predicted=_nothing)
    return steps.decode_s(batch), steps.decode_j(batch) / batch


def _nothing() -> StepModel:
    raise AssertionError("a profile that tells energy asks for no other")
