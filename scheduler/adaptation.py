"""Which candidates are admitted to the variants that may be awake: watched, tried, kept or not.

A candidate is a variant that is known and not trusted yet: other weights, other engine settings,
another accelerator. What it would save is reckoned for the traffic as it is (`scheduler.mix`).
One that promises enough is proposed; if that is allowed, it is put on probation: it may be awake,
and what comes of it is held against what was promised, in three ways:

    believed   the same reckoning, with the step times that replicas have shown meanwhile
    metered    what meters say, against what serving the same traffic without it was reckoned
               to take, times how far meters and reckoning were apart before
    missed     the share of requests whose objectives were not kept, before and since

One that falls short is withdrawn, and looked at again much later. Only one is on probation at a
time: of two, nobody could say which has done it.

Its own module because it is all that remembers the past of a candidate; it knows neither how
mixes are reckoned nor who carries anything out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from scheduler.evidence import Evidence
from scheduler.search import SAME_RATE

if TYPE_CHECKING:
    from collections.abc import Collection

    from scheduler.evidence import Look
    from scheduler.requests import VariantName

# Of what was promised, what has to come true.
KEPT_SHARE = 0.5
# Share of requests by which more may miss their objectives than before, and the standard
# deviations by which a count has to exceed that.
MISSED_MORE, SURE = 0.01, 3.0
# Misses besides, with which a probation ends before its time.
SOON = 10.0
# Probations that a candidate may wait for work before it counts as not needed.
PATIENCE = 4.0
# Between two looks that belong together; beyond it nobody knows what has happened.
LONGEST_GAP_S = 120.0
# Of a probation, the time that its end is judged by: step times are learnt on the way.
JUDGED_SHARE = 0.5


class Phase(StrEnum):
    """How far a candidate has come."""

    WATCHED = "watched"
    PROPOSED = "proposed"
    PROBATION = "on probation"
    KEPT = "kept"
    WITHDRAWN = "withdrawn"


ADMITTED = frozenset({Phase.PROBATION, Phase.KEPT})


@dataclass(frozen=True, slots=True)
class Terms:
    """What an operator allows.

    Attributes:
        carry_out: whether every proposal is tried, not only those that are accepted.
        accepted: candidates that may be tried.
        watch_s: that a candidate is watched for before it is proposed.
        probation_s: that it serves for before it is judged.
        retry_s: after which one that was withdrawn is watched again.
        least_saving: share of the power that a proposal is worth making for.

    """

    carry_out: bool = False
    accepted: frozenset[VariantName] = frozenset()
    watch_s: float = 600.0
    probation_s: float = 600.0
    retry_s: float = 21600.0
    least_saving: float = 0.05


@dataclass(frozen=True, slots=True)
class Case:
    """How it stands with a candidate.

    Attributes:
        phase: how far it has come.
        since_s: when it came there.
        promised: share of the power that it would save, by the power model.
        carried_per_s: requests/s that nothing else can carry, and it would.
        believed: the share by the steps that were measured on probation; None before.
        metered: the share that meters show; None before, and where there are none.
        reason: one line.

    """

    phase: Phase
    since_s: float
    promised: float = 0.0
    carried_per_s: float = 0.0
    believed: float | None = None
    metered: float | None = None
    reason: str = ""


class Adaptation:
    """The cases of all candidates.

    Attributes:
        cases: by candidate.

    """

    def __init__(self, terms: Terms, candidates: Collection[VariantName], now_s: float) -> None:
        """Know the candidates, and nothing of what they would save."""
        self.cases: dict[VariantName, Case] = {}
        self._terms = terms
        self._last_s: float | None = None
        self._watch = Evidence(terms.watch_s)
        self._before = Evidence(terms.watch_s)
        self._probation = Evidence(terms.probation_s * JUDGED_SHARE)
        self.configure(terms, candidates, now_s)

    def configure(self, terms: Terms, candidates: Collection[VariantName], now_s: float) -> None:
        """Go on with other terms, and with what is known of candidates that stay."""
        fresh = Case(Phase.WATCHED, now_s)
        if self.cases.keys() != set(candidates):
            self._watch = Evidence(terms.watch_s)
        self.cases = {name: self.cases.get(name, fresh) for name in candidates}
        if (terms.watch_s, terms.probation_s) != (self._terms.watch_s, self._terms.probation_s):
            self._watch = Evidence(terms.watch_s)
            self._probation = Evidence(terms.probation_s * JUDGED_SHARE)
        self._terms = terms

    def admitted(self) -> frozenset[VariantName]:
        """Name the candidates that may be awake."""
        return frozenset(name for name, case in self.cases.items() if case.phase in ADMITTED)

    def observe(self, look: Look) -> None:
        """Learn from a look, and decide what follows from it."""
        gap_s = look.now_s - self._last_s if self._last_s is not None else 0.0
        self._last_s = look.now_s
        elapsed_s = gap_s if 0.0 < gap_s <= LONGEST_GAP_S else 0.0
        self._forgive(look.now_s)
        tried = self._on_probation()
        if tried is None:
            self._watch.add(look, elapsed_s)
            self._propose(look.now_s)
        else:
            self._follow(tried, look, elapsed_s)

    def _on_probation(self) -> VariantName | None:
        names = (name for name, case in self.cases.items() if case.phase is Phase.PROBATION)
        return next(names, None)

    def _forgive(self, now_s: float) -> None:
        """Look again at those that were withdrawn long ago."""
        for name, case in self.cases.items():
            if case.phase is Phase.WITHDRAWN and now_s - case.since_s >= self._terms.retry_s:
                self.cases[name] = Case(Phase.WATCHED, now_s)
                self._watch = Evidence(self._terms.watch_s)

    # ── before ──────────────────────────────────────────────────────────────

    def _propose(self, now_s: float) -> None:
        """Say what each would save; propose what is worth it, and try the best if allowed."""
        long_enough = self._watch.seconds >= self._terms.watch_s
        proposed = []
        for name, case in self.cases.items():
            if case.phase not in {Phase.WATCHED, Phase.PROPOSED}:
                continue
            saving, carried = self._watch.saving(name), self._watch.carried_per_s(name)
            worth = saving >= self._terms.least_saving or carried > SAME_RATE
            phase = Phase.PROPOSED if worth and long_enough else Phase.WATCHED
            self.cases[name] = Case(
                phase,
                case.since_s if phase is case.phase else now_s,
                saving,
                carried,
                reason=self._why(saving, carried, long_enough=long_enough),
            )
            if phase is Phase.PROPOSED and (self._terms.carry_out or name in self._terms.accepted):
                proposed.append(name)
        if proposed:
            best = max(
                proposed,
                key=lambda each: (self.cases[each].carried_per_s, self.cases[each].promised),
            )
            self._try(best, now_s)

    def _why(self, saving: float, carried: float, *, long_enough: bool) -> str:
        seen = "" if long_enough else f" so far; watched for {self._watch.seconds:.0f} s"
        if carried > SAME_RATE:
            return f"would carry {carried:.2g} requests/s that nothing else can{seen}"
        if saving >= self._terms.least_saving:
            return f"would save {_percent(saving)} of the power{seen}"
        least = self._terms.least_saving
        return f"would save {_percent(saving)}, and {_percent(least)} is worth a change{seen}"

    def _try(self, name: VariantName, now_s: float) -> None:
        case = self.cases[name]
        self.cases[name] = replace(case, phase=Phase.PROBATION, since_s=now_s, reason="to be woken")
        self._before, self._watch = self._watch, Evidence(self._terms.watch_s)
        self._probation = Evidence(self._terms.probation_s * JUDGED_SHARE)

    # ── on probation ────────────────────────────────────────────────────────

    def _follow(self, name: VariantName, look: Look, elapsed_s: float) -> None:
        case, terms = self.cases[name], self._terms
        if name in look.serving:
            self._probation.add(look, elapsed_s)
            case = self._measured(name, case)
        elif trouble := look.troubles.get(name):
            self._end(name, case, Phase.WITHDRAWN, look.now_s, f"it did not come up: {trouble}")
            return
        if missed := self._missed(beyond=SOON):
            # Nobody waits for the end of what clients suffer from.
            self._end(name, case, Phase.WITHDRAWN, look.now_s, missed)
        elif self._probation.seconds >= terms.probation_s:
            faults = self._missed() or self._shortfall(name, case)
            self._end(
                name,
                case,
                Phase.WITHDRAWN if faults else Phase.KEPT,
                look.now_s,
                faults or _kept(case),
            )
        elif look.now_s - case.since_s >= PATIENCE * terms.probation_s:
            self._end(name, case, Phase.WATCHED, look.now_s, "the traffic did not need it")
        else:
            served = f"has served for {self._probation.seconds:.0f} of {terms.probation_s:.0f} s"
            self.cases[name] = replace(case, reason=served)

    def _measured(self, name: VariantName, case: Case) -> Case:
        """Hold what has come against what was promised, up to now."""
        window = self._probation
        without_j = window.admitted_j - window.spared_j.get(name, 0.0)
        if without_j <= 0:
            return case
        believed = 1.0 - window.admitted_j / without_j
        metered = None
        if window.metered_j > 0:
            metered = 1.0 - window.metered_j / (without_j * self._before.bias())
        return replace(case, believed=believed, metered=metered)

    def _missed(self, beyond: float = 0.0) -> str:
        """Say that more requests miss their objectives than before; empty if that is not sure."""
        before, since = self._before, self._probation
        allowed = since.completions * (before.missed_share() + MISSED_MORE)
        if since.missed <= allowed + SURE * math.sqrt(allowed) + beyond:
            return ""
        return (
            f"{_percent(since.missed_share())} of requests missed their objectives,"
            f" {_percent(before.missed_share())} before"
        )

    def _shortfall(self, name: VariantName, case: Case) -> str:
        """Say how much less a candidate saves than it promised; empty if it does not."""
        since = self._probation
        if case.carried_per_s > SAME_RATE or since.carried_per_s(name) < -SAME_RATE:
            return ""
        shown = _shown(case)
        if shown and min(shown) < KEPT_SHARE * case.promised:
            how = "by its measured steps" if min(shown) == case.believed else "by the meters"
            promised = _percent(case.promised)
            return f"saves {_percent(min(shown))} {how}, where {promised} was promised"
        return ""

    def _end(self, name: VariantName, case: Case, phase: Phase, now_s: float, reason: str) -> None:
        self.cases[name] = replace(case, phase=phase, since_s=now_s, reason=reason)
        self._watch = Evidence(self._terms.watch_s)


def _kept(case: Case) -> str:
    if case.carried_per_s > SAME_RATE:
        return f"carries {case.carried_per_s:.2g} requests/s that nothing else can"
    saved = min(_shown(case), default=case.promised)
    return f"saves {_percent(saved)}, {_percent(case.promised)} was promised"


def _percent(share: float) -> str:
    return f"{round(share, 3) + 0.0:.1%}"


def _shown(case: Case) -> list[float]:
    return [each for each in (case.believed, case.metered) if each is not None]
