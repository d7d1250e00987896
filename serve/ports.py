"""The ports of one local cluster: a block of neighbours that nobody else uses.

Its own module because two clusters on one machine must never meet: Ray's gateways listen
with SO_REUSEPORT, so a second cluster on the same ports would silently answer half of
the first one's calls.
"""

from __future__ import annotations

import secrets
import socket
from typing import NamedTuple

# Below the ports that Linux gives to outgoing connections: a free one there stays free.
_LOWEST, _HIGHEST = 18_000, 32_000
_TRIES = 50
# Of each kind, HTTP and gRPC: one for each gateway on this machine, old and new ones of a rollout.
_GATEWAYS = 50


class NoFreePortsError(Exception):
    """No block of neighbouring ports is free."""


class Span(NamedTuple):
    """Neighbouring ports, both ends included."""

    first: int
    last: int


class Ports(NamedTuple):
    """What a local cluster listens on, beside the two ports of its configuration."""

    ray: int
    dashboard: int
    ray_client: int
    fallback_http: int
    fallback_grpc: int
    haproxy_stats: int
    haproxy_metrics: int
    gateways_http: Span
    gateways_grpc: Span


_SINGLE = 7
_BLOCK = _SINGLE + 2 * _GATEWAYS


def reserve() -> Ports:
    """Find a block of free ports; they are not held, only found.

    Raises:
        NoFreePortsError: none was found.

    """
    for _ in range(_TRIES):
        first = _LOWEST + secrets.randbelow(_HIGHEST - _LOWEST - _BLOCK)
        if all(map(is_free, range(first, first + _BLOCK))):
            http = first + _SINGLE
            grpc = http + _GATEWAYS
            spans = (Span(http, grpc - 1), Span(grpc, grpc + _GATEWAYS - 1))
            return Ports._make((*range(first, http), *spans))
    raise NoFreePortsError(f"no {_BLOCK} neighbouring ports between {_LOWEST} and {_HIGHEST}")


def is_free(port: int) -> bool:
    """Tell whether nobody listens on a port, on any interface."""
    with socket.socket() as listener:
        try:
            listener.bind(("0.0.0.0", port))  # noqa: S104 (it is closed at once)
        except OSError:
            return False
        return True
