"""Differences between runs, with how sure they are.

Its own module because measures of a comparison are chosen here, and each is resampled as what
it is: a mean, a share, a percentile, or joules of counters over tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from loadtest.reports import resampling
from loadtest.reports.comparison_values import Against, Comparison, Difference, RunFacts
from loadtest.reports.energy import counted, energy_in
from loadtest.reports.intervals import NOTHING
from loadtest.reports.measures import report_of
from loadtest.reports.pairing import pair
from loadtest.run import Ending

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from loadtest.reports.comparison_values import Better, Verdict
    from loadtest.reports.pairing import Pairing, View
    from loadtest.reports.resampling import Blocks
    from loadtest.run import Run

    Floats = NDArray[np.float64]

_MS = 1e3
# Percentiles that are compared.
_SHARES = (0.5, 0.99)
# A file of this name is called by the folder that it lies in.
RUN_STEM = "run.json"


class Sampled(NamedTuple):
    """A measure of one run.

    Attributes:
        value: of the run.
        resampled: of runs that might have been.

    """

    value: float
    resampled: Floats


class Measured(NamedTuple):
    """A measure by name.

    Attributes:
        name: with its unit.
        better: which values are.
        sampled: of one run.

    """

    name: str
    better: Better
    sampled: Sampled


def compare_runs(runs: Sequence[tuple[str, Run]], seed: int = 0) -> Comparison:
    """Compare runs with the first.

    Args:
        runs: two or more, each with a label.
        seed: of the resampling; the same gives the same intervals.

    """
    (base_label, base), *others = runs
    return Comparison(
        base=base_label,
        runs=tuple(_facts(label, run) for label, run in runs),
        against=tuple(_against(label, pair(base, run), seed) for label, run in others),
    )


def labelled(paths: Sequence[Path], runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Give each run a short label that no other has: its file's, or its folder's name."""
    names = [
        path.parent.name if path.name.startswith(RUN_STEM) and path.parent.name else path.name
        for path in paths
    ]
    names = [name.partition(".json")[0] for name in names]
    unique = len(set(names)) == len(names)
    labels = names if unique else [f"{turn}-{name}" for turn, name in enumerate(names, 1)]
    return list(zip(labels, runs, strict=True))


def _facts(label: str, run: Run) -> RunFacts:
    report = report_of(run)
    return RunFacts(
        label=label,
        scenario=run.scenario,
        source=run.source,
        target=run.target,
        model=run.model,
        seed=run.seed,
        started_at=run.started_at,
        requests=report.overall.requests,
        warnings=report.warnings,
    )


def _against(label: str, pairing: Pairing, seed: int) -> Against:
    base, other, paired, reasons = pairing
    rng = np.random.default_rng(seed)
    blocks = resampling.drawn(len(base.requests.ending), rng)
    others = blocks if paired else resampling.drawn(len(other.requests.ending), rng)
    sure = blocks.enough and others.enough
    notes = list(reasons)
    if not paired:
        notes.append("compared as wholes, not request by request")
    if not sure:
        notes.append("too few requests to say how sure a difference is")
    if base.run.source != other.run.source:
        notes.append("one ran live and one was simulated")
    return Against(
        label=label,
        paired=paired,
        requests=len(other.requests.ending),
        blocks=min(blocks.number, others.number),
        notes=tuple(notes),
        differences=tuple(
            _difference(one, two, sure=sure)
            for one, two in zip(_measures(base, blocks), _measures(other, others), strict=True)
        ),
    )


def _difference(base: Measured, other: Measured, *, sure: bool) -> Difference:
    one, two = base.sampled.value, other.sampled.value
    bounds = NOTHING
    if sure:
        bounds = resampling.interval(other.sampled.resampled - base.sampled.resampled)
    return Difference(
        measure=base.name,
        better=base.better,
        base=one,
        other=two,
        difference=two - one,
        interval=bounds,
        relative=(two - one) / one if one else math.nan,
        verdict=_verdict(bounds.low, bounds.high, base.better),
    )


def _verdict(low: float, high: float, better: Better) -> Verdict:
    if math.isnan(low) or math.isnan(high):
        return "not known"
    if low <= 0 <= high:
        return "no difference shown"
    return "better" if (high < 0) == (better == "lower") else "worse"


def _measures(view: View, blocks: Blocks) -> Iterator[Measured]:
    requests = view.requests
    for name, values_s in (
        ("TTFT", requests.ttft_s),
        ("TPOT", requests.tpot_s),
        ("e2e", requests.e2e_latency_s),
    ):
        values = _MS * values_s
        yield Measured(f"{name} mean, ms", "lower", _mean(values, blocks))
        for share, quantile in zip(_SHARES, _quantiles(values, blocks), strict=True):
            yield Measured(f"{name} p{100 * share:.0f}, ms", "lower", quantile)
    good = np.where(view.judgement.judged, view.judgement.good.astype(np.float64), np.nan)
    completed = (requests.ending == Ending.COMPLETED).astype(np.float64)
    yield Measured("SLO met, %", "higher", _mean(100 * good, blocks))
    yield Measured("goodput, /s", "higher", _rate(good, view, blocks))
    yield Measured("completed, %", "higher", _mean(100 * completed, blocks))
    yield Measured("J/token, replies", "lower", _per_token(view, blocks))
    yield Measured("J/token, all", "lower", _per_token_counted(view, blocks))


def _mean(values: Floats, blocks: Blocks) -> Sampled:
    there = np.isfinite(values)
    value = float(values[there].mean()) if there.any() else math.nan
    counts = blocks.sums(there.astype(np.float64))
    return Sampled(value, resampling.ratios(blocks, blocks.sums(values), counts))


def _rate(marks: Floats, view: View, blocks: Blocks) -> Sampled:
    """Marked requests each second: their share of all, times the rate of all."""
    length_s = view.window.length_s
    rate = len(marks) / length_s if length_s else math.nan
    if not np.isfinite(marks).any():
        rate = math.nan
    ones = np.ones(len(marks))
    resampled = resampling.ratios(blocks, blocks.sums(marks), blocks.sums(ones))
    return Sampled(_ratio(float(np.nansum(marks)), len(marks)) * rate, rate * resampled)


def _quantiles(values: Floats, blocks: Blocks) -> list[Sampled]:
    there = values[np.isfinite(values)]
    resampled = resampling.quantiles(blocks, values, _SHARES)
    return [
        Sampled(float(np.quantile(there, share)) if there.size else math.nan, drawn)
        for share, drawn in zip(_SHARES, resampled, strict=True)
    ]


def _per_token(view: View, blocks: Blocks) -> Sampled:
    """Joules that replies say, over the tokens of the same replies."""
    told = np.isfinite(view.requests.energy_j)
    joules = np.where(told, view.requests.energy_j, 0.0)
    tokens = np.where(told, view.requests.completion_tokens, 0.0)
    value = _ratio(float(joules.sum()), float(tokens.sum()))
    return Sampled(value, resampling.ratios(blocks, blocks.sums(joules), blocks.sums(tokens)))


def _per_token_counted(view: View, blocks: Blocks) -> Sampled:
    """Joules of the server's counters over tokens, both of the seconds between blocks."""
    nothing = Sampled(math.nan, np.full(len(blocks.weights), math.nan))
    counts = counted(view.run, *view.window)
    if not math.isfinite(counts.energy_j) or not blocks.number:
        return nothing
    firsts = np.searchsorted(blocks.of_row, np.arange(1, blocks.number))
    edges = view.requests.scheduled_at_s[firsts]
    edges = np.concatenate([[counts.begin_s], edges, [counts.end_s]])
    # Turns of sessions follow another run's order, in which instants may go back and forth.
    edges = np.maximum.accumulate(np.clip(edges, counts.begin_s, counts.end_s))
    joules, tokens = energy_in(view.run, edges)
    value = _ratio(float(joules.sum()), float(tokens.sum()))
    return Sampled(value, resampling.ratios(blocks, joules, tokens))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
