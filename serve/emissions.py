"""A gateway's knowledge of the grid, from what the operator configured.

Its own module because it joins configuration and carbon sources once, when a gateway starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.carbon import ConstantSource, Grid, GridSettings
from cluster.carbon_file import FileSource
from cluster.carbon_services import ElectricityMapsSource, WattTimeSource

if TYPE_CHECKING:
    from cluster.carbon import IntensitySource
    from serve.config_energy import CarbonConfig


def grid(config: CarbonConfig) -> Grid | None:
    """Make what keeps the intensity up to date; None where none is configured.

    Raises:
        CarbonError: a file is wrong, a token is missing, or the extra is not installed.

    """
    source = _source(config)
    if source is None:
        return None
    settings = GridSettings(
        config.pue, config.refresh_s, config.stale_after_s, config.fallback_gco2e_per_kwh
    )
    return Grid(source, settings)


def _source(config: CarbonConfig) -> IntensitySource | None:
    """Make the source; the configuration has seen to it that it has what it needs."""
    match config.provider:
        case "none":
            return None
        case "constant":
            return ConstantSource(config.gco2e_per_kwh or 0.0)
        case "file":
            return FileSource(Path(config.file or ""), config.region or "")
        case "electricity_maps":
            return ElectricityMapsSource(config.region or "", Path(config.token_file or ""))
        case "watttime":
            return WattTimeSource(config.region or "", Path(config.token_file or ""))
