"""A timer that an event loop can wait for, to some ten microseconds.

Event loops round what they wait to whole milliseconds, which at 2,000 requests a second is two
requests. Linux's timerfd does not; elsewhere the loop's own timer has to do.

Its own module because it alone speaks to the operating system.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_CLOCK_MONOTONIC = 1
_ABSOLUTE = 1
_NANOS = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Setting(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class PreciseTimer:
    """Calls back at instants of the monotonic clock; one at a time, a new one replaces it."""

    def __init__(self, on_due: Callable[[], None]) -> None:
        """Make one in the running event loop.

        Args:
            on_due: called when an instant has come.

        """
        self._on_due = on_due
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._file = -1
        self._closed = False
        if sys.platform == "linux":
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._fired)

    def wake_at(self, at_s: float) -> None:
        """Call back then; at once if it has passed."""
        if self._closed:
            return
        if self._file < 0:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(0.0, at_s - time.monotonic()), self._on_due)
            return
        seconds, nanoseconds = divmod(max(1, int(at_s * _NANOS)), _NANOS)
        setting = _Setting(value=_Timespec(seconds, nanoseconds))
        self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(setting), None)

    def close(self) -> None:
        """Call back no more."""
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _fired(self) -> None:
        try:
            os.read(self._file, 8)
        except BlockingIOError:
            return  # It was set anew in between.
        self._on_due()
