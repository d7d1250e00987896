"""What of a machine's processors a replica uses: by the time that its processes compute.

Its own module because sockets count the energy of everybody on the machine, and time on
their cores is the one thing that tells who used it.

A core that computes weighs what the catalogue says that one draws, a core that rests what
that draws. Of the resting ones a replica bears the part that it has reserved:

    share = (b·own_s + i·resting_s·reserved/cores) / (b·computing_s + i·resting_s)

so that the shares of all replicas and of everybody else add up to one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

PROC = Path("/proc")
_PARTS = 1_000_000
# Engines seldom start processes; it costs more to look for them than to read their times.
KNOWN_SAMPLES = 10
# Fields of /proc/PID/stat after the name in brackets: utime, stime, cutime, cstime.
_TIMES = slice(11, 15)
# Fields of a line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal.
_RESTING = (3, 4)
_COUNTED = 8


class CoreTime(NamedTuple):
    """Seconds of cores.

    Attributes:
        own_s: in which the replica's processes computed.
        computing_s: in which anybody did.
        resting_s: in which nobody did.

    """

    own_s: float
    computing_s: float
    resting_s: float

    def since(self, earlier: CoreTime) -> CoreTime:
        """What has come since; nothing is less than zero, though processes end."""
        own_s = max(0.0, self.own_s - earlier.own_s)
        computing_s = max(own_s, self.computing_s - earlier.computing_s)
        return CoreTime(own_s, computing_s, max(0.0, self.resting_s - earlier.resting_s))


class CoreWeights(NamedTuple):
    """What a core draws.

    Attributes:
        computing_w: when it computes.
        resting_w: when it rests.

    """

    computing_w: float
    resting_w: float


class ProcessorShare:
    """Implements `counting_meter.Share` for a process and all that it has started."""

    def __init__(
        self, reserved_cores: float, weights: CoreWeights, pid: int | None = None, proc: Path = PROC
    ) -> None:
        """Begin to count now.

        Args:
            reserved_cores: that the replica has.
            weights: of cores.
            pid: of its first process; None for this one.
            proc: where Linux tells of processes.

        """
        self._reserved_cores = reserved_cores
        self._weights = weights
        self._pid = os.getpid() if pid is None else pid
        self._proc = proc
        self._cores = max(1, os.cpu_count() or 1)
        self._samples = 0
        self._family = family(self._pid, proc)
        self._last = core_time(self._family, proc)

    def of(self, energy_nj: int) -> int:
        """Take the share of energy that was counted since the previous call."""
        if not energy_nj:
            return 0  # The counter was not renewed: the times go on adding up until it is.
        self._samples += 1
        if self._samples % KNOWN_SAMPLES == 0:
            self._family = family(self._pid, self._proc)
        now = core_time(self._family, self._proc)
        spent, self._last = now.since(self._last), now
        reserved = min(1.0, self._reserved_cores / self._cores)
        return energy_nj * round(_PARTS * share(spent, reserved, self._weights)) // _PARTS


def share(spent: CoreTime, reserved: float, weights: CoreWeights) -> float:
    """Give the replica's part of what the processors used, 0 to 1.

    Args:
        spent: time of cores.
        reserved: of all cores, that the replica has; 0 to 1.
        weights: of cores.

    """
    whole = weights.computing_w * spent.computing_s + weights.resting_w * spent.resting_s
    if whole <= 0.0:
        return reserved
    own = weights.computing_w * spent.own_s + weights.resting_w * spent.resting_s * reserved
    return min(1.0, own / whole)


def core_time(pids: Iterable[int], proc: Path = PROC) -> CoreTime:
    """Read how long cores computed: for these processes, and for all."""
    tick_s = 1.0 / os.sysconf("SC_CLK_TCK")
    own = sum(_process_ticks(proc / str(pid)) for pid in pids)
    try:
        line = (proc / "stat").read_text(encoding="ascii").partition("\n")[0]
        ticks = [int(field) for field in line.split()[1 : 1 + _COUNTED]]
    except (OSError, ValueError):
        ticks = []
    resting = sum(ticks[place] for place in _RESTING) if ticks else 0
    return CoreTime(own * tick_s, (sum(ticks) - resting) * tick_s, resting * tick_s)


def family(pid: int, proc: Path = PROC) -> tuple[int, ...]:
    """Give a process and its descendants that run; reads a file for each of their threads."""
    waiting, found = [pid], []
    while waiting:
        current = waiting.pop()
        found.append(current)
        for tasks in (proc / str(current) / "task").glob("*/children"):
            try:
                waiting += [int(child) for child in tasks.read_text(encoding="ascii").split()]
            except (OSError, ValueError):
                continue  # It has ended meanwhile; its time is its parent's now.
    return tuple(found)


def _process_ticks(place: Path) -> int:
    try:
        text = (place / "stat").read_text(encoding="utf-8", errors="replace")
        return sum(int(field) for field in text.rpartition(")")[2].split()[_TIMES])
    except (OSError, ValueError):
        return 0
