"""What an operator says of energy: how joules are known, and what a kilowatt hour emits.

Its own module because both are about the site rather than about what is served on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from serve.config_section import Fault, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

Text = Annotated[str, Field(min_length=1)]


class EnergyConfig(Section):
    """How joules are known."""

    meter: Literal["auto", "model", "nvml", "rapl"] = "auto"
    """`nvml` reads the counters of NVIDIA GPUs, `rapl` those of processors, `model` predicts from
    each variant's profile and works on every machine. `auto` takes the counter of whatever a
    replica computes on where there is one, else the model. Replies and `status` say which."""
    max_tenants: Annotated[int, Field(ge=1, le=100_000)] = 256
    """Tenants that a gateway keeps books of; those that come later are one, named `other`."""


_NEEDS = {
    "none": (),
    "constant": ("gco2e_per_kwh",),
    "file": ("file",),
    "electricity_maps": ("region", "token_file"),
    "watttime": ("region", "token_file"),
}


class CarbonConfig(Section):
    """What a kilowatt hour from the grid emits; without it, replies say nothing of emissions."""

    provider: Literal["none", "constant", "file", "electricity_maps", "watttime"] = "none"
    """Where the figure comes from; the two services need the extra `carbon` and a token.
    Electricity Maps gives the average of a grid, WattTime what one kilowatt hour more emits."""
    gco2e_per_kwh: Annotated[float, Field(ge=0, le=5000)] | None = None
    """Grams, for `constant`; e.g. the yearly mean that the site's supplier states."""
    file: Text | None = None
    """CSV or JSON lines on the nodes of the gateways, for `file`: `gco2e_per_kwh`, and `time` (ISO
    8601 with a zone) or `region` or both. It is read again as it changes."""
    region: Text | None = None
    """Zone of Electricity Maps, region of WattTime, or of a file that has several."""
    token_file: Text | None = None
    """File on the nodes of the gateways: Electricity Maps' token, or WattTime's user name and
    password on a line each. Mount a Secret there."""
    pue: Annotated[float, Field(ge=1, le=5)] = 1.0
    """Facility power over IT power; by default nothing but the accelerators is counted."""
    refresh_s: Annotated[float, Field(ge=10)] = 300.0
    """How often the provider is asked; the services renew their figures every 5 to 60 minutes."""
    stale_after_s: Annotated[float, Field(gt=0)] = 7200.0
    """Age at which a figure is not used any more; the services are up to an hour behind."""
    fallback_gco2e_per_kwh: Annotated[float, Field(ge=0, le=5000)] | None = None
    """Used while there is no figure, and marked so; by default replies then say nothing."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield what the provider lacks, and what it does not read."""
        needs = _NEEDS[self.provider]
        for key in needs:
            if getattr(self, key) is None:
                yield Fault(key, f"must be given where provider is {self.provider}")
        for key in ("gco2e_per_kwh", "file", "region", "token_file"):
            read = key in needs or (key == "region" and self.provider == "file")
            if getattr(self, key) is not None and not read:
                yield Fault(key, f"the provider {self.provider} does not read it; remove it")
