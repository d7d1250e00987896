"""RAPL: the energy counters of processors and their memory, as Linux shows them.

Its own module because it is one kind of counter: files that wrap, and that on most machines
only root may read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.energy_counters import CounterError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path("/sys/class/powercap")
# Sockets of a node, and the memory beside each: all of it is the processor's to use.
_PACKAGE = re.compile(r"intel-rapl:\d+")
_PART = re.compile(r"intel-rapl:\d+:\d+")
_COUNTED_PARTS = frozenset({"dram"})
# No socket draws so much; what rises faster is not energy.
_MOST_W = 2000.0
_NJ_PER_UJ = 1000
_PERMISSION = (
    "may be read by root only; let this user read it: chmod a+r {place}/*/energy_uj (a udev rule"
    " keeps that; docs/energy.md has one, and what a pod needs)"
)


@dataclass(frozen=True, slots=True)
class RaplCounter:
    """Implements `shared_counter.RawCounter` for one domain.

    Attributes:
        name: as the kernel has it, with the socket.
        file: that holds the counter, in microjoules.
        wrap_nj: value at which it begins at zero again.
        most_w: more than it can draw.

    """

    name: str
    file: Path
    wrap_nj: int
    most_w: float = _MOST_W

    def read_nj(self, now_s: float) -> int:
        """Read it.

        Raises:
            CounterError: it may not be read, is gone, or holds no number.

        """
        try:
            return int(self.file.read_text(encoding="ascii")) * _NJ_PER_UJ
        except PermissionError as error:
            raise CounterError(_PERMISSION.format(place=self.file.parent.parent)) from error
        except (OSError, ValueError) as error:
            raise CounterError(f"cannot be read: {error}") from error


def counters(root: Path = ROOT) -> tuple[RaplCounter, ...]:
    """Find the domains of all sockets, and of their memory; none where there is no RAPL.

    Raises:
        CounterError: one is there and cannot be used.

    """
    return tuple(_counter(place, name) for place, name in sorted(_domains(root)))


def _domains(root: Path) -> Iterator[tuple[Path, str]]:
    try:
        places = list(root.iterdir())
    except OSError:
        return
    names = {place.name: _read(place / "name") for place in places}
    for place in places:
        name = names[place.name]
        if _PACKAGE.fullmatch(place.name) and name.startswith("package"):
            yield place, name
        elif _PART.fullmatch(place.name) and name in _COUNTED_PARTS:
            package = names.get(place.name.rpartition(":")[0], "")
            yield place, f"{package}-{name}"


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _counter(place: Path, name: str) -> RaplCounter:
    found = _read(place / "max_energy_range_uj")
    if not found.isdigit() or not int(found):
        raise CounterError(f"{name} does not say where it wraps ({place}/max_energy_range_uj)")
    counter = RaplCounter(name, place / "energy_uj", int(found) * _NJ_PER_UJ)
    counter.read_nj(0.0)
    return counter
