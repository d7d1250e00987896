"""A power budget, kept by reservation: who may take work counts at the most it can draw.

Its own module because planning and admission reserve in the same way: a plan holds no more
replicas awake than the budget bears with all of them at their peak, and while more than that
are (the budget has fallen, or others drain), those that it does not bear rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scheduler.fleet import Variant
    from scheduler.requests import ReplicaId, VariantName


def peak_w(variant: Variant) -> float:
    """Give the most that a replica draws, by its step model: in whatever step draws most.

    Power of a decode step is a quotient of functions that are linear in batch and context, and
    so at its most in a corner of what they can be.
    """
    steps = variant.steps
    corners = [
        (steps.decode_j(batch, context), steps.decode_s(batch, context))
        for batch in (1.0, float(variant.max_batch))
        for context in (1.0, float(variant.kv_capacity_tokens))
    ]
    corners.append((steps.prefill_j(1.0), steps.prefill_s(1.0)))
    # A step that takes no time, as one of a made-up engine may, draws nothing either.
    return max(variant.context_power_w, *(joules / s for joules, s in corners if s > 0))


class Draw(NamedTuple):
    """What a replica that is there counts as.

    Attributes:
        replica: who.
        variant: that it serves.
        idle_w: that it draws whether it works or not.
        peak_w: that it draws at most.
        busy: it has work.
        rests: it was told to take none, or nothing yet.
        heard: so long ago that everybody knows, and nobody gives it any.

    """

    replica: ReplicaId
    variant: VariantName
    idle_w: float
    peak_w: float
    busy: bool
    rests: bool = False
    heard: bool = False

    @property
    def step_w(self) -> float:
        """What it adds by working."""
        return self.peak_w - self.idle_w

    @property
    def counts(self) -> bool:
        """Whether it may be working, whatever is decided now."""
        return self.busy or not (self.rests and self.heard)


def workers(draws: Iterable[Draw], budget_w: float, others_w: float = 0.0) -> frozenset[ReplicaId]:
    """Name the replicas that may take new work, so that all stay within the budget.

    Of each variant the first replica comes before the second of any, those with work before
    those without. A replica is borne if it fits at its peak beside those before it, while the
    rest idle. One that is borne and rests waits besides until those that are not borne have
    finished their work: nothing in flight is cut, and nothing new is begun on top of it.

    Args:
        draws: of every replica that is awake.
        budget_w: of the cluster.
        others_w: drawn by everything else: nodes, and replicas that drain, at their peak.

    """
    order = _ordered(draws)
    left_w = budget_w - others_w - sum(each.idle_w for each in order)
    borne = _fitting(order, left_w)
    # Those that are told to rest only now may be given work for a moment yet, as may those kept.
    free_w = left_w - sum(each.step_w for each in order if each.counts)
    kept = [each for each in borne if each.counts and (not each.rests or free_w >= 0)]
    begun = _fitting([each for each in borne if not each.counts], free_w)
    return frozenset(each.replica for each in (*kept, *begun))


def _fitting(order: Iterable[Draw], left_w: float) -> list[Draw]:
    """Take one after another that still fits."""
    fitting = []
    for each in order:
        if each.step_w <= left_w:
            left_w -= each.step_w
            fitting.append(each)
    return fitting


def _ordered(draws: Iterable[Draw]) -> list[Draw]:
    """Rank within each variant, then take rank by rank."""
    seen: dict[VariantName, int] = {}
    ranked = []
    for each in sorted(draws, key=lambda draw: (not draw.busy, draw.replica)):
        rank = seen[each.variant] = seen.get(each.variant, 0) + 1
        ranked.append((rank, each.variant, each))
    return [each for _, _, each in sorted(ranked, key=lambda item: item[:2])]
