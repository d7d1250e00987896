"""Pictures of a comparison.

Its own module because it alone knows matplotlib, and nothing needs it but whoever looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from loadtest.virtual.comparisons import CaseRun

_WIDE = (9.0, 4.5)
_MS = 1e3
_KW = 1e-3
_MINUTE_S = 60.0


def save_plots(runs: Sequence[CaseRun], folder: Path, kind: str = "svg") -> list[Path]:
    """Draw everything; time series and latencies for each load, at its first seed.

    Args:
        runs: of one experiment.
        folder: that exists.
        kind: "svg" or "png".

    Returns:
        the files.

    """
    figures: list[tuple[str, Figure]] = []
    loads = sorted({run.case.load for run in runs})
    for load in loads:
        seed = min(run.case.seed for run in runs if run.case.load == load)
        shown = [run for run in runs if run.case.load == load and run.case.seed == seed]
        percent = f"{load:.0%}".replace("%", "")
        figures += [
            (f"power-{percent}", _power(shown, load)),
            (f"replicas-{percent}", _replicas(shown, load)),
            (f"latency-{percent}", _latency(shown, load)),
            (f"energy-{percent}", _parts(shown, load)),
        ]
    if len(loads) > 1:
        figures.append(("joules-per-token", _joules(runs)))
    paths = []
    for name, figure in figures:
        path = folder / f"{name}.{kind}"
        figure.savefig(path, format=kind)
        paths.append(path)
    return paths


def _power(runs: Sequence[CaseRun], load: float) -> Figure:
    figure, axes = _figure(f"Power at {load:.0%} load", "minutes", "kW")
    for run in runs:
        minutes = [each.at_s / _MINUTE_S for each in run.curves.samples]
        axes.plot(
            minutes, [each.power_w * _KW for each in run.curves.samples], label=run.case.label
        )
    return _finished(figure, axes)


def _replicas(runs: Sequence[CaseRun], load: float) -> Figure:
    figure, axes = _figure(f"Replicas awake at {load:.0%} load", "minutes", "replicas")
    for run in runs:
        minutes = [each.at_s / _MINUTE_S for each in run.curves.samples]
        counts = [sum(each.awake.values()) for each in run.curves.samples]
        axes.step(minutes, counts, where="post", label=run.case.label)
    return _finished(figure, axes)


def _latency(runs: Sequence[CaseRun], load: float) -> Figure:
    figure = Figure(figsize=_WIDE, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, name in ((left, "TTFT"), (right, "TPOT")):
        for run in runs:
            values = run.curves.ttft_s if name == "TTFT" else run.curves.tpot_s
            shares = np.linspace(0, 1, len(values))
            axes.plot([value * _MS for value in values], shares, label=run.case.label)
        axes.set_xscale("log")
        axes.set_xlabel(f"{name}, ms")
        axes.grid(alpha=0.3)
    left.set_ylabel("share of requests")
    figure.suptitle(f"Latency at {load:.0%} load")
    right.legend(fontsize="x-small")
    return figure


def _parts(runs: Sequence[CaseRun], load: float) -> Figure:
    figure, axes = _figure(f"Energy by part at {load:.0%} load", "", "J per output token")
    bottoms = np.zeros(len(runs))
    labels = [run.case.label.replace(" + ", "\n") for run in runs]
    for name in runs[0].result.energy._fields:
        shares = [
            getattr(run.result.energy, name)
            / run.result.energy.total_j
            * run.result.joules_per_token
            for run in runs
        ]
        axes.bar(labels, shares, bottom=bottoms, label=name.removesuffix("_j"))
        bottoms += np.array(shares)
    axes.tick_params(axis="x", labelsize="x-small")
    return _finished(figure, axes)


def _joules(runs: Sequence[CaseRun]) -> Figure:
    figure, axes = _figure("Energy against load", "load", "J per output token")
    for label in dict.fromkeys(run.case.label for run in runs):
        points = _means(run for run in runs if run.case.label == label)
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    bounds = [
        (run.case.load, run.result.joules_per_token / run.result.e_over_milp)
        for run in runs
        if run.result.e_over_milp > 0
    ]
    if bounds:
        loads = sorted({load for load, _ in bounds})
        lowest = [float(np.mean([j for at, j in bounds if at == load])) for load in loads]
        axes.plot(loads, lowest, "k--", label="MILP bound")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return _finished(figure, axes)


def _means(runs: Iterator[CaseRun]) -> list[tuple[float, float]]:
    by_load: dict[float, list[float]] = {}
    for run in runs:
        by_load.setdefault(run.case.load, []).append(run.result.joules_per_token)
    return [(load, float(np.mean(values))) for load, values in sorted(by_load.items())]


def _figure(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_WIDE, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    return figure, axes


def _finished(figure: Figure, axes: Axes) -> Figure:
    axes.legend(fontsize="x-small")
    return figure
