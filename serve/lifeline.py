"""Ends the processes that an engine has started when this process is gone, however it went.

Its own module because vLLM's engine process outlives a parent that was killed and keeps
its memory, and the next replica on that node would find none. Linux only.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from multiprocessing import resource_tracker

MARK = "JOULESERVE_LIFELINE"
"""Environment variable that marks the processes to end."""

# Waits until the pipe from the process that it watches breaks, then kills whatever carries the
# mark until nothing does: one may just have been starting another, and a large one takes its time.
_GUARD = """
read -r _
quiet=0
for _ in $(seq 100); do
    marked=$(grep -lasF "$1" /proc/[0-9]*/environ)
    if [ -z "$marked" ]; then
        quiet=$((quiet + 1))
        [ $quiet -lt 2 ] || break
    else
        quiet=0
    fi
    for process in $marked; do
        process=${process#/proc/}
        kill -KILL "${process%/environ}"
    done
    sleep 0.1
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
        # multiprocessing starts one at its first `spawn` and counts on it from then on; started
        # here it bears no mark. It ends by itself, and frees the shared memory that is left.
        resource_tracker.ensure_running()
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
        """Kill the marked processes that are left, and the guard; blocks until they are gone."""
        os.environ.pop(MARK, None)
        self._guard.communicate()
