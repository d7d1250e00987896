"""What has a value at every moment and is read when metrics are exported, and never otherwise.

Its own module because names and units are one table, which dashboards and alert rules are checked
against; what is measured once a request is `cluster.telemetry_requests`'.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from opentelemetry import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from opentelemetry.metrics import CallbackOptions, Meter, Observation

Attributes: TypeAlias = "Mapping[str, str | bool | int | float]"
Reading: TypeAlias = "tuple[float, Attributes]"


class Gauge(NamedTuple):
    """Something that has a value at every moment."""

    name: str
    unit: str
    description: str


class Counter(NamedTuple):
    """Something that only grows, and that somebody else adds up."""

    name: str
    unit: str
    description: str


LEASES = Gauge("jouleserve.leases", "{lease}", "Leases held by a gateway")
RUNNING_REQUESTS = Gauge("jouleserve.running_requests", "{request}", "In the engine's batch")
WAITING_REQUESTS = Gauge("jouleserve.waiting_requests", "{request}", "Not yet in the batch")
KV_CACHE_USAGE = Gauge("jouleserve.kv_cache_usage", "{share}", "Share of KV blocks in use")
POWER_W = Gauge("jouleserve.power_w", "W", "Recent mean power of a replica")
REPLICA_ENERGY_J = Counter("jouleserve.replica_energy_j", "J", "Used by a replica, idle included")
IDLE_ENERGY_J = Counter("jouleserve.idle_energy_j", "J", "Of that, what belongs to no request")
ENERGY_RESIDUAL_J = Gauge(
    "jouleserve.energy_residual_j", "J", "What a replica's books and its meter differ by"
)
TENANT_ENERGY_J = Counter("jouleserve.tenant_energy_j", "J", "Used by a tenant's requests")
TENANT_EMISSIONS_G = Counter(
    "jouleserve.tenant_emissions_g", "g", "CO2 equivalent of that, where an intensity is known"
)
METER_LOST = Gauge("jouleserve.meter_lost", "{meter}", "1 while a replica's meter cannot be read")


@cache
def meter(package: str) -> Meter:
    """Give the meter `jouleserve.<package>`."""
    return metrics.get_meter(f"jouleserve.{package}")


def observe(
    what: Gauge | Counter, read: Callable[[], float], attributes: Attributes | None = None
) -> None:
    """Have one value read at every export, in the exporter's thread."""
    observe_all(what, lambda: [(read(), attributes or {})])


def observe_all(
    what: Gauge | Counter, read: Callable[[], Iterable[Reading]], package: str = "serve"
) -> None:
    """Have as many values read as there are things to tell apart just then."""

    def callback(_: CallbackOptions) -> Iterable[Observation]:
        return [metrics.Observation(value, attributes) for value, attributes in read()]

    source = meter(package)
    make = (
        source.create_observable_gauge
        if isinstance(what, Gauge)
        else source.create_observable_counter
    )
    make(what.name, [callback], unit=what.unit, description=what.description)
