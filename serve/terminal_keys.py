"""Keys that are pressed while a screen is shown, without waiting for Enter.

Its own module because a terminal has to be given back as it was, whatever happens meanwhile.
"""

from __future__ import annotations

import os
import select
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Keys(Protocol):
    """Tells which key was pressed."""

    def within(self, limit_s: float) -> str:
        """Give the next key, or nothing if none comes within so many seconds."""


class NoKeys:
    """There is no keyboard: a pipe, or a file."""

    def within(self, limit_s: float) -> str:
        """Wait."""
        time.sleep(limit_s)
        return ""


class TerminalKeys:
    """Keys of the terminal that standard input is."""

    def within(self, limit_s: float) -> str:
        """Give the next key, or nothing if none comes within so many seconds."""
        readable, _, _ = select.select([sys.stdin], [], [], limit_s)
        # Past Python's own buffer, which `select` knows nothing of.
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if readable else ""


@contextmanager
def keys() -> Iterator[Keys]:
    """Read single keys while inside, if there is a terminal to read from."""
    if not sys.stdin.isatty():
        yield NoKeys()
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield TerminalKeys()
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
