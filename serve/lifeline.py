"""Ends the processes that an engine has started when this process is gone, however it went.

Its own module because vLLM's engine process outlives a parent that was killed and keeps
its memory, and the next replica on that node would find none. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import uuid

MARK = "JOULESERVE_LIFELINE"
"""Environment variable that marks the processes to end."""

# Waits until the pipe from the process that it watches breaks, then kills whatever carries the
# mark. Twice, for a process may have been starting another one.
_GUARD = """
read -r _
for _ in 1 2; do
    for process in $(grep -lasF "$1" /proc/[0-9]*/environ); do
        process=${process#/proc/}
        kill -KILL "${process%/environ}" 2>/dev/null
    done
    sleep 0.2
done
"""


class Lifeline:
    """Marks all processes started from now on, and kills them when this one has ended.

    A process is marked by its environment: this works for children that are executed
    (multiprocessing's `spawn`, as in a Ray actor) and for their own children, and not
    for plain forks.
    """

    def __init__(self) -> None:
        """Start the guard, one idle shell."""
        self.mark = f"{MARK}={uuid.uuid4()}"
        unmarked = {name: value for name, value in os.environ.items() if name != MARK}
        self._guard = subprocess.Popen(  # noqa: S603 (a constant script)
            ["/bin/sh", "-c", _GUARD, "lifeline", self.mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # A signal to this process's group must not end the guard first.
            start_new_session=True,
            env=unmarked,
        )
        os.environ[MARK] = self.mark.partition("=")[2]
        # vLLM names its processes with setproctitle, which else writes over their environment.
        os.environ["SPT_NOENV"] = "1"

    def cut(self) -> None:
        """Kill the marked processes that are left, and end the guard; blocks for half a second."""
        os.environ.pop(MARK, None)
        self._guard.communicate()
