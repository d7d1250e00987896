"""Line charts as SVG that lies within a page.

Its own module because it knows how to draw and nothing of runs. A page that must need nothing
but itself, follow light and dark, and be read on a phone gets its colours and fonts from the
page's style sheet: so charts are plain SVG with classes, not pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from loadtest.reports.figures import number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

WIDTH, HEIGHT = 420, 236
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 12, 10, 38
_MOST_POINTS = 400
_FEW_TICKS = 5
# Colours of the page; a further series repeats them with dashes.
COLOURS = 6


@dataclass(frozen=True, slots=True)
class Series:
    """A line.

    Attributes:
        name: in the legend.
        x: of its points, rising.
        y: the same; NaN makes a gap.
        steps: hold each value until the next.

    """

    name: str
    x: Floats
    y: Floats
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn.

    Attributes:
        title: above it.
        x_label: with its unit.
        y_label: the same.
        series: that it shows.
        log_x: by factors rather than differences.
        nines: y is a share, and its top is stretched: 90 %, 99 % and 99.9 % are equally far.
        limits: vertical lines with their names, such as objectives.
        shade: from here to there on the x axis it counts.

    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    log_x: bool = False
    nines: bool = False
    limits: tuple[tuple[str, float], ...] = ()
    shade: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to pixels.

    Attributes:
        low: value at the first pixel.
        high: value at the last.
        first: pixel.
        last: pixel.
        log: by factors.

    """

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def at(self, values: Floats) -> Floats:
        """Place values."""
        low, high = self.low, self.high
        if self.log:
            values, low, high = np.log10(values), math.log10(low), math.log10(high)
        share: Floats = (values - low) / (high - low)
        return self.first + share * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Choose round values."""
        spread = MaxNLocator(_FEW_TICKS).tick_values(self.low, self.high)
        for found in (self._factors() if self.log else [], spread):
            within = [float(each) for each in found if self.low <= each <= self.high]
            if len(within) > 1:
                return within
        return [self.low, self.high]

    def _factors(self) -> list[float]:
        """Powers of ten, with 2 and 5 between them where these are few."""
        low, high = (math.floor(math.log10(each)) for each in (self.low, self.high))
        powers = [10.0**power for power in range(low, high + 1)]
        return powers if high - low > 2 else [m * each for each in powers for m in (1, 2, 5)]  # noqa: PLR2004


# Shares that the stretched axis names.
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999)


def figure(chart: Chart) -> str:
    """Draw a chart with its title and legend; say so where there is nothing to draw."""
    series = [each for each in chart.series if _drawable(each, log_x=chart.log_x).any()]
    title = f"<figcaption>{escape(chart.title)}</figcaption>"
    if not series:
        return f'<figure>{title}<p class="none">nothing to show</p></figure>'
    return f"<figure>{title}{''.join(_svg(chart, series))}{_legend(series)}</figure>"


def _drawable(series: Series, *, log_x: bool) -> NDArray[np.bool_]:
    there: NDArray[np.bool_] = np.isfinite(series.x) & np.isfinite(series.y)
    return np.logical_and(there, series.x > 0) if log_x else there


def _svg(chart: Chart, series: Sequence[Series]) -> Iterator[str]:
    x, y = _axes(chart, series)
    about = escape(f"{chart.title}: {chart.y_label} by {chart.x_label}", quote=True)
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{about}">'
    if chart.shade is not None:
        begin, end = x.at(np.clip(np.array(chart.shade), x.low, x.high))
        yield (
            f'<rect class="shade" x="{begin:.1f}" y="{_TOP}" width="{max(end - begin, 0):.1f}"'
            f' height="{HEIGHT - _TOP - _BOTTOM}"/>'
        )
    yield from _grid(chart, x, y)
    for row, each in enumerate(series):
        yield _line(each, row, x, y, chart)
    for name, value in chart.limits:
        if x.low <= value <= x.high:
            at = float(x.at(np.array([value]))[0])
            yield (
                f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}"'
                f' y2="{HEIGHT - _BOTTOM}"><title>{escape(name)}: {number(value)}</title></line>'
            )
    yield "</svg>"


def _axes(chart: Chart, series: Sequence[Series]) -> tuple[Axis, Axis]:
    marks = [_drawable(each, log_x=chart.log_x) for each in series]
    xs = np.concatenate([each.x[rows] for each, rows in zip(series, marks, strict=True)])
    ys = np.concatenate([each.y[rows] for each, rows in zip(series, marks, strict=True)])
    low, high = float(xs.min()), float(xs.max())
    if chart.log_x:
        high = high * 1.05 if high > low else low * 10
    else:
        low, high = min(low, 0.0), max(high, low + 1)
    x = Axis(low, high, _LEFT, WIDTH - _RIGHT, chart.log_x)
    bottom, top = HEIGHT - _BOTTOM, _TOP
    if chart.nines:
        return x, Axis(0.0, _nines(_NINES[-1]), bottom, top)
    lowest, highest = min(0.0, float(ys.min())), max(0.0, float(ys.max()))
    return x, Axis(lowest, highest * 1.05 if highest > lowest else lowest + 1, bottom, top)


def _grid(chart: Chart, x: Axis, y: Axis) -> Iterator[str]:
    if chart.nines:
        heights = [(_nines(share), f"{100 * share:g} %") for share in _NINES]
    else:
        heights = [(value, _tick(value)) for value in y.ticks()]
    for value, name in heights:
        at = float(y.at(np.array([value]))[0])
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield f'<text class="tick" text-anchor="end" x="{_LEFT - 5}" y="{at + 4:.1f}">{name}</text>'
    for value in x.ticks():
        at = float(x.at(np.array([value]))[0])
        yield (
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
        )
        yield (
            f'<text class="tick" text-anchor="middle" x="{at:.1f}"'
            f' y="{HEIGHT - _BOTTOM + 14}">{_tick(value)}</text>'
        )
    label = escape(f"{chart.x_label}  ·  {chart.y_label} upwards")
    yield (
        f'<text class="label" text-anchor="middle" x="{(_LEFT + WIDTH - _RIGHT) / 2}"'
        f' y="{HEIGHT - 6}">{label}</text>'
    )


def _nines(share: float) -> float:
    """Count the nines of a share below 1: 0.9 has one, 0.99 two."""
    return -math.log10(1 - share)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"  # noqa: PLR2004


def _line(series: Series, row: int, x: Axis, y: Axis, chart: Chart) -> str:
    there = _drawable(series, log_x=chart.log_x)
    values = np.where(there, series.y, np.nan)
    if chart.nines:
        # What lies beyond the last of them is drawn there.
        with np.errstate(divide="ignore"):
            values = np.minimum(-np.log10(1 - values), y.high)
    keep = _some(len(values))
    across, up = x.at(np.where(there, series.x, x.low))[keep], y.at(values)[keep]
    points: list[str] = []
    pen_down, before = False, 0.0
    for right, height in zip(across.tolist(), up.tolist(), strict=True):
        if math.isnan(height):
            pen_down = False
            continue
        if pen_down and series.steps:
            points.append(f"L{right:.1f} {before:.1f}")
        points.append(f"{'L' if pen_down else 'M'}{right:.1f} {height:.1f}")
        pen_down, before = True, height
    return f'<path class="line {_style(row)}" d="{"".join(points)}"/>'


def _some(count: int) -> NDArray[np.intp]:
    """Rows to draw: all, or evenly spread ones with both ends."""
    if count <= _MOST_POINTS:
        return np.arange(count)
    return np.unique(np.linspace(0, count - 1, _MOST_POINTS).astype(np.intp))


def _style(row: int) -> str:
    return f"c{row % COLOURS}{' dashed' if row >= COLOURS else ''}"


def _legend(series: Sequence[Series]) -> str:
    entries = "".join(
        f'<li><svg class="key" viewBox="0 0 18 6"><path class="line {_style(row)}"'
        f' d="M0 3L18 3"/></svg>{escape(each.name)}</li>'
        for row, each in enumerate(series)
    )
    return f'<ul class="legend">{entries}</ul>'
