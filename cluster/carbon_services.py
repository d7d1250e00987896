"""Carbon intensities from services that watch grids: Electricity Maps and WattTime.

Its own module because it alone speaks to them, through clients of the extra `carbon`; tokens
are read from files when they are needed, and go nowhere else.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import threading
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cluster.carbon import CarbonError, Figure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MISSING = "needs the extra `carbon`: pip install 'jouleserve[carbon]'"
# WattTime counts pounds of CO2 in a megawatt hour.
_G_PER_KWH = 0.45359237
_WATTTIME_SIGNAL = "co2_moer"


class ElectricityMapsSource:
    """Asks Electricity Maps for the average intensity of a zone, life cycle included."""

    name = "electricity_maps"

    def __init__(self, zone: str, token_file: Path) -> None:
        """Name the zone.

        Args:
            zone: as the service names it, e.g. DE.
            token_file: that holds the token.

        Raises:
            CarbonError: the client is not installed, or there is no token.

        """
        try:
            import aioelectricitymaps as client
        except ImportError as error:
            raise CarbonError(f"{self.name} {_MISSING}") from error
        self._client: Any = client
        self._zone = zone
        self._token_file = token_file
        secret(token_file)

    async def figure(self, now_s: float) -> Figure:
        """Ask for the newest figure.

        Raises:
            CarbonError: the service does not answer, refuses, or says something else.

        """
        (token,) = secret(self._token_file)
        try:
            async with self._client.ElectricityMaps(token=token) as service:
                zone = self._client.ZoneRequest(self._zone)
                found = await service.latest_carbon_intensity(zone)
            return Figure(float(found.carbon_intensity), found.timestamp.timestamp())
        except self._client.ElectricityMapsError as error:
            raise CarbonError(f"{error} (zone {self._zone})") from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CarbonError(f"an answer that is no intensity: {type(error).__name__}") from error


class WattTimeSource:
    """Asks WattTime for the marginal intensity of a region as it is now."""

    name = "watttime"

    def __init__(self, region: str, token_file: Path) -> None:
        """Name the region.

        Args:
            region: as the service names it, e.g. CAISO_NORTH.
            token_file: that holds user name and password, one a line.

        Raises:
            CarbonError: the client is not installed, or there is no password.

        """
        try:
            with _own_logging():
                client = importlib.import_module("watttime.api")
        except ImportError as error:
            raise CarbonError(f"{self.name} {_MISSING}") from error
        self._client: Any = client
        self._region = region
        self._token_file = token_file
        secret(token_file, lines=2)

    async def figure(self, now_s: float) -> Figure:
        """Ask for the newest figure.

        Raises:
            CarbonError: the service does not answer, refuses, or says something else.

        """
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> Figure:
        user, password = secret(self._token_file, lines=2)
        try:
            with _named(user, password):
                service = self._client.WattTimeForecast()
                answer = service.get_forecast_json(
                    region=self._region, signal_type=_WATTTIME_SIGNAL, horizon_hours=0
                )
            point = answer["data"][0]
            if answer["meta"]["units"] != "lbs_co2_per_mwh":
                raise CarbonError(f"answers in {answer['meta']['units']}, not in lbs_co2_per_mwh")
            at_s = datetime.fromisoformat(point["point_time"]).timestamp()
            return Figure(float(point["value"]) * _G_PER_KWH, at_s)
        except (LookupError, ValueError, TypeError) as error:
            raise CarbonError(f"an answer that is no intensity: {type(error).__name__}") from error
        except (OSError, RuntimeError) as error:
            # Its message may hold what was sent.
            message = f"does not answer, or refuses: {type(error).__name__}"
            raise CarbonError(f"{message} (region {self._region})") from error


def secret(file: Path, lines: int = 1) -> tuple[str, ...]:
    """Read what shows a service who asks.

    Raises:
        CarbonError: the file cannot be read, or has another number of lines.

    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CarbonError(f"carbon.token_file: {file} cannot be read: {error}") from error
    found = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(found) != lines:
        wanted = "the token alone" if lines == 1 else "user name and password, one a line"
        raise CarbonError(f"carbon.token_file: {file} has {len(found)} lines; write {wanted}")
    return found


_ENVIRONMENT = threading.Lock()


@contextmanager
def _named(user: str, password: str) -> Iterator[None]:
    """Have them where WattTime's client looks for them, no longer than it does."""
    names = {"WATTTIME_USER": user, "WATTTIME_PASSWORD": password}
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(names)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextmanager
def _own_logging() -> Iterator[None]:
    """Keep WattTime's client from setting up logging for the whole process."""
    root, quiet = logging.getLogger(), logging.NullHandler()
    root.addHandler(quiet)
    try:
        yield
    finally:
        root.removeHandler(quiet)
