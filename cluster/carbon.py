"""What a kilowatt hour from the grid emits, kept up to date, and what a request emits by it.

Its own module because where the figure comes from (a constant, a file, a service) matters to
nobody who multiplies by it; they must only know how old it is, and what stands in when it is
not to be had.

    gCO2e = E · PUE · CI / 3.6e6          E in joules, CI in g/kWh
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("jouleserve.cluster")

J_PER_KWH = 3.6e6
# No grid emits so much; what says so is in another unit.
MOST_G_PER_KWH = 5000.0
# A figure for a time to come is a clock that is wrong, or a file of another year.
AHEAD_S = 3600.0
FETCH_S = 30.0


class CarbonError(Exception):
    """An intensity cannot be had; the message says what to change."""


class Figure(NamedTuple):
    """What a source says.

    Attributes:
        gco2e_per_kwh: grams.
        at_s: since when it holds, in seconds of the epoch; None for one that holds always.

    """

    gco2e_per_kwh: float
    at_s: float | None


class IntensitySource(Protocol):
    """Whoever knows the grid."""

    @property
    def name(self) -> str:
        """As status shows it."""

    async def figure(self, now_s: float) -> Figure:
        """Ask for the figure of this instant, in seconds of the epoch.

        Raises:
            CarbonError: it cannot be had.

        """


class Intensity(NamedTuple):
    """What is taken for the grid's intensity just now.

    Attributes:
        gco2e_per_kwh: grams.
        pue: facility power over IT power.
        source: its name, or "fallback".
        age_s: of the figure.
        trouble: why a fallback stands in; empty if nothing is wrong.

    """

    gco2e_per_kwh: float
    pue: float
    source: str
    age_s: float
    trouble: str = ""

    def gco2e(self, energy_j: float) -> float:
        """Give the grams that an energy emits."""
        return energy_j * self.pue * self.gco2e_per_kwh / J_PER_KWH


class GridSettings(NamedTuple):
    """How a grid is kept up to date.

    Attributes:
        pue: facility power over IT power.
        refresh_s: from one question to the next.
        stale_after_s: age of a figure that is not used any more.
        fallback_g_per_kwh: used then, and before the first; None uses nothing.

    """

    pue: float = 1.0
    refresh_s: float = 300.0
    stale_after_s: float = 7200.0
    fallback_g_per_kwh: float | None = None


class Grid:
    """The grid's intensity as it is known now."""

    def __init__(
        self,
        source: IntensitySource,
        settings: GridSettings,
        wall_clock: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Know nothing yet.

        Args:
            source: that is asked.
            settings: of keeping it up to date.
            wall_clock: seconds of the epoch.
            clock: monotonic seconds, by which figures age whatever the wall clock does.

        """
        self._source = source
        self._settings = settings
        self._wall_clock = wall_clock
        self._clock = clock
        self._figure: Figure | None = None
        self._born_s = 0.0
        self._fault = "no figure yet"

    @property
    def trouble(self) -> str:
        """Why the intensity is not the source's; empty if it is."""
        if self._figure is None:
            return f"{self._source.name}: {self._fault}"
        limit_s = self._settings.stale_after_s
        if self._age_s(self._figure) <= limit_s:
            return ""
        why = f": {self._fault}" if self._fault else ""
        return f"{self._source.name}: the newest figure is older than {limit_s / 60:g} minutes{why}"

    def now(self) -> Intensity | None:
        """What to multiply by; None where nothing is known and nothing stands in."""
        pue, trouble = self._settings.pue, self.trouble
        if self._figure is not None and not trouble:
            grams = self._figure.gco2e_per_kwh
            return Intensity(grams, pue, self._source.name, self._age_s(self._figure))
        fallback = self._settings.fallback_g_per_kwh
        return None if fallback is None else Intensity(fallback, pue, "fallback", 0.0, trouble)

    async def refresh(self) -> None:
        """Ask the source once; what it said before stays good until it is stale."""
        now_s = self._wall_clock()
        try:
            async with asyncio.timeout(FETCH_S):
                figure = _checked(await self._source.figure(now_s), now_s)
        except (CarbonError, TimeoutError) as error:
            fault = str(error) or f"no answer within {FETCH_S:g} s"
            if fault != self._fault:
                logger.warning("carbon intensity: %s: %s", self._source.name, fault)
            self._fault = fault
            return
        self._fault = ""
        self._figure = figure
        age_s = 0.0 if figure.at_s is None else max(0.0, now_s - figure.at_s)
        self._born_s = self._clock() - age_s

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(self._settings.refresh_s)

    def _age_s(self, figure: Figure) -> float:
        return 0.0 if figure.at_s is None else max(0.0, self._clock() - self._born_s)


class ConstantSource:
    """Says the same at all times."""

    name = "constant"

    def __init__(self, gco2e_per_kwh: float) -> None:
        """Take the figure."""
        self._figure = Figure(gco2e_per_kwh, None)

    async def figure(self, now_s: float) -> Figure:
        """Say it."""
        return self._figure


def _checked(figure: Figure, now_s: float) -> Figure:
    """Refuse what no grid can be."""
    grams, at_s = figure
    if not (math.isfinite(grams) and 0 <= grams <= MOST_G_PER_KWH):
        raise CarbonError(f"{grams} is no intensity: 0 to {MOST_G_PER_KWH:g} g/kWh are")
    if at_s is not None and at_s > now_s + AHEAD_S:
        raise CarbonError("its figure is for a time to come; is a clock wrong?")
    return figure
