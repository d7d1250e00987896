"""Find and end exactly the processes that belong to one session of this machine.

Its own module because ending processes by name would hit other people's clusters; here
they are known by the kernel's session id and by a mark in their environment. Linux only.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MARK = "JOULESERVE_CLUSTER"
"""Environment variable that every process of a cluster inherits; its value names the cluster."""

_PROC = Path("/proc")
_POLL_S = 0.05


def members(session_id: int, mark: str) -> list[int]:
    """List the living processes of a session whose environment carries the mark.

    A process that overwrote some of its environment with a title (as Ray's do) is taken by its
    session alone; the kernel gives a session's id to nobody else while one of its processes lives.
    """
    found = (int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [pid for pid in found if _belongs(pid, session_id, f"{MARK}={mark}".encode())]


def end(session_id: int, mark: str, *, grace_s: float) -> int:
    """Ask every member to end, and kill those that have not after `grace_s`.

    Returns:
        how many had to be killed.

    """
    asked = members(session_id, mark)
    _signal(asked, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while members(session_id, mark) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    killed: set[int] = set()
    while left := members(session_id, mark):  # Again, for one may just have started another.
        killed.update(left)
        _signal(left, signal.SIGKILL)
        time.sleep(_POLL_S)
    return len(killed)


def _signal(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _belongs(pid: int, session_id: int, mark: bytes) -> bool:
    try:
        if os.getsid(pid) != session_id:
            return False
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        environment = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except (OSError, IndexError):
        return False
    if fields[0] in {"Z", "X"}:
        return False
    overwritten = b"" in environment[:-1]  # A title leaves zeros where variables were.
    return overwritten or mark in environment
