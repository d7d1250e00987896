"""The worker processes of a run: started together, listened to, and ended whatever happens.

Its own module because processes are another matter than what they send.
"""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, NamedTuple

from loadtest.errors import LoadtestError
from loadtest.live.crew_words import Done, Ready, Refused, Start, Stop
from loadtest.live.sender import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection
    from types import TracebackType
    from typing import Self

    from loadtest.live.crew_words import Order

# Until a worker is ready; it imports, reads traces and draws its schedule.
READY_S = 120.0
# Between the last worker's being ready and the start, for the word to reach all.
LEAD_S = 0.25
# For what a worker has to say once it was told to stop.
STOP_S = 20.0
POLL_S = 0.25


class Yield(NamedTuple):
    """What came of a run.

    Attributes:
        done: of each worker that has said so.
        trouble: why it did not go on to its end; empty if it did.

    """

    done: tuple[Done, ...]
    trouble: str


class Crew:
    """Workers; as a context manager it leaves none behind."""

    def __init__(self, orders: Sequence[Order]) -> None:
        """Start a process for each order.

        Args:
            orders: one for each worker.

        """
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        self._progress: dict[Connection, Progress] = {}
        for order in orders:
            ours, theirs = Pipe()
            number = theirs.fileno()
            command = [sys.executable, "-m", "loadtest.live.worker", str(number)]
            self._processes.append(subprocess.Popen(command, pass_fds=[number]))  # noqa: S603
            theirs.close()
            self._connections.append(ours)
            ours.send(order)

    def wait_ready(self) -> None:
        """Wait until every worker could start.

        Raises:
            LoadtestError: one cannot, with its reason.

        """
        until_s = time.monotonic() + READY_S
        for connection in self._connections:
            if not connection.poll(max(0.0, until_s - time.monotonic())):
                raise LoadtestError(f"a worker was not ready within {READY_S:g} s")
            try:
                word = connection.recv()
            except EOFError as error:
                raise LoadtestError("a worker died before it was ready") from error
            if isinstance(word, Refused):
                raise LoadtestError(word.reason)
            if not isinstance(word, Ready):
                raise LoadtestError("a worker speaks another version")

    def run(
        self, limit_s: float, began: Callable[[float], None], tell: Callable[[Progress], None]
    ) -> Yield:
        """Let them send, and wait for all.

        Args:
            limit_s: from the start; then those that have not ended are stopped.
            began: called with the instant of the start.
            tell: called with the sum of their progress, some times a second.

        """
        start_s = time.monotonic() + LEAD_S
        for connection in self._connections:
            connection.send(Start(start_s))
        began(start_s)
        done: list[Done] = []
        trouble = ""
        open_ones = list(self._connections)
        until_s = start_s + limit_s
        while open_ones and time.monotonic() < until_s:
            try:
                ready = wait(open_ones, POLL_S)
                for connection in [each for each in open_ones if each in ready]:
                    fault = self._hear(connection, done, open_ones)
                    if fault and not trouble:
                        trouble = fault
                        until_s = self._stop(open_ones, trouble, until_s)
                tell(self.progress)
            except KeyboardInterrupt:
                if trouble:
                    break
                trouble = "interrupted"
                until_s = self._stop(open_ones, trouble, until_s)
        if open_ones:
            trouble = trouble or f"{len(open_ones)} workers did not end in time"
        return Yield(tuple(done), trouble)

    @property
    def progress(self) -> Progress:
        """All workers' together."""
        told = self._progress.values()
        return (
            Progress(*(sum(column) for column in zip(*told, strict=True))) if told else Progress()
        )

    def _hear(self, connection: Connection, done: list[Done], open_ones: list[Connection]) -> str:
        """Take one word; give what is wrong, or nothing."""
        try:
            word = connection.recv()
        except (EOFError, OSError):
            open_ones.remove(connection)
            return "a worker died"
        match word:
            case Progress():
                self._progress[connection] = word
            case Done():
                done.append(word)
                open_ones.remove(connection)
                return word.trouble
            case Refused():
                open_ones.remove(connection)
                return word.reason
        return ""

    @staticmethod
    def _stop(open_ones: Sequence[Connection], reason: str, until_s: float) -> float:
        for connection in open_ones:
            try:
                connection.send(Stop(reason))
            except OSError:
                continue  # It is about to be found dead.
        return min(until_s, time.monotonic() + STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
