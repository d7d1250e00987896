"""A comparison as people read it in a terminal.

Its own module because columns are chosen once; files carry everything.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table
from scipy.stats import t

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadtest.virtual.comparisons import CaseRun
    from loadtest.virtual.results import Result

_MS = 1e3
_KW = 1e-3
_HEADINGS = (
    "SLO %",
    "TTFT p50 ms",
    "p99",
    "TPOT p50 ms",
    "p99",
    "J/token",
    "saved %",
    "kW",
    "replicas",
    "E/E_LP",
    "E/E_MILP",
    "cached %",
    "shed",
)


def comparison_table(runs: Sequence[CaseRun]) -> Table:
    """Give a row for each load, policy and autoscaler.

    Of several seeds it is the mean and half a 95 % interval. Savings are against the first row of
    the same load, seed by seed.
    """
    table = Table(title=f"{runs[0].result.fleet}, {runs[0].result.workload}", title_justify="left")
    for heading in ("load", "policy", "autoscaler"):
        table.add_column(heading)
    for heading in _HEADINGS:
        table.add_column(heading, justify="right")
    for rows in _rows(runs):
        for row in rows:
            table.add_row(*row)
        table.add_section()
    return table


def markdown_table(runs: Sequence[CaseRun]) -> str:
    """Give the same rows in Markdown."""
    headings = ("load", "policy", "autoscaler", *_HEADINGS)
    aligned = ["---"] * 3 + ["---:"] * len(_HEADINGS)
    lines = [headings, aligned, *(row for rows in _rows(runs) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _rows(runs: Sequence[CaseRun]) -> list[list[tuple[str, ...]]]:
    """Give the cells of each row, load by load."""
    sections = []
    for load in dict.fromkeys(run.case.load for run in runs):
        at_load = [run for run in runs if run.case.load == load]
        base = {
            run.case.seed: run.result.joules_per_token
            for run in at_load
            if run.case.label == at_load[0].case.label
        }
        labels = dict.fromkeys(run.case.label for run in at_load)
        sections.append(
            [_row([run for run in at_load if run.case.label == label], base) for label in labels]
        )
    return sections


def _row(runs: Sequence[CaseRun], base: dict[int, float]) -> tuple[str, ...]:
    case, results = runs[0].case, [run.result for run in runs]
    saved = [
        100 * (1 - run.result.joules_per_token / base[run.case.seed])
        for run in runs
        if run.case.seed in base
    ]
    return (
        f"{case.load:.0%}",
        case.policy,
        f"{case.autoscaler} ({', '.join(case.only)})" if case.only else case.autoscaler,
        _over(results, lambda each: 100 * each.slo_attainment, 2),
        _over(results, lambda each: _MS * _weighted(each, "ttft_s", "p50"), 0),
        _over(results, lambda each: _MS * _weighted(each, "ttft_s", "p99"), 0),
        _over(results, lambda each: _MS * _weighted(each, "tpot_s", "p50"), 1),
        _over(results, lambda each: _MS * _weighted(each, "tpot_s", "p99"), 1),
        _over(results, lambda each: each.joules_per_token, 3),
        _interval(saved, 1),
        _over(results, lambda each: _KW * each.mean_power_w, 2),
        _over(results, lambda each: each.mean_replicas, 1),
        _over(results, lambda each: each.e_over_lp, 3),
        _over(results, lambda each: each.e_over_milp, 3),
        _over(results, lambda each: 100 * each.prefix_hit_ratio, 1),
        _over(results, lambda each: each.shed, 0),
    )


def _weighted(result: Result, measure: str, percentile: str) -> float:
    """A percentile of each class, averaged by its requests."""
    classes = [each for each in result.classes if each.requests]
    values = [getattr(getattr(each, measure), percentile) for each in classes]
    weights = [each.requests for each in classes]
    return float(np.average(values, weights=weights)) if classes else float("nan")


def _over(results: Sequence[Result], measure: Callable[[Result], float], digits: int) -> str:
    return _interval([measure(each) for each in results], digits)


def half_interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of a mean, by Student's t; at least two values."""
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    half: float = t.ppf(0.975, len(values) - 1) * error
    return half


def _interval(values: Sequence[float], digits: int) -> str:
    if not values or np.isnan(values).all():
        return "–"
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    half = half_interval(values)
    return f"{mean} ± {half:.{digits}f}"
