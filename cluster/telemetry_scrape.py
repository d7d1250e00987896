"""One port a node at which Prometheus finds the metrics of all our processes there.

Its own module because it is a small protocol between processes: each tells its metrics to
whoever connects to a Unix socket of its own, and one of them, the holder of a lock, keeps the
node's HTTP port and asks all others when it is asked. When that one dies the kernel gives the
lock to another. So a node has one target, however many replicas and gateways come and go on it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingUnixStreamServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

logger = logging.getLogger("jouleserve.cluster")

PATH = "/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Prometheus gives a target 10 s by default.
ANSWER_S = 4.0
RETRY_S = 5.0
ASKED_AT_A_TIME = 16
_LOCK, _SOCKETS = "door.lock", "*.sock"
_OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CHUNK_BYTES = 1 << 16


class ScrapeError(RuntimeError):
    """The processes of this node cannot meet; says what to change."""


class Scrape:
    """This process's part: it tells its own metrics, and keeps the node's port when it may."""

    def __init__(self, tell: Callable[[], bytes], host: str, port: int, directory: Path) -> None:
        """Begin at once.

        Args:
            tell: gives this process's metrics in Prometheus' text format; from any thread.
            host: where the node's port listens.
            port: of the node.
            directory: where its processes meet; made if it is not there.

        Raises:
            ScrapeError: others could write there.

        """
        self._directory = _own(directory)
        self._teller = _Teller(directory / f"{os.getpid()}.sock", tell)
        self._place = (host, port)
        self._door: _Door | None = None
        self._closed = threading.Event()
        for work in (self._teller.serve_forever, self._keep):
            threading.Thread(target=work, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Tell no more, and leave the port to another process."""
        self._closed.set()
        self._teller.shutdown()
        self._teller.server_close()
        door, self._door = self._door, None
        if door is not None:
            door.shutdown()
            door.server_close()

    def _keep(self) -> None:
        """Wait until no other process keeps the port, then keep it until this one ends."""
        with (self._directory / _LOCK).open("w") as lock:
            # Of the process, not of the file: children that it forks have no part in it.
            fcntl.lockf(lock, fcntl.LOCK_EX)
            while not self._closed.is_set():
                try:
                    door = _Door(self._place, self._directory)
                except OSError as error:
                    host, port = self._place
                    logger.error(  # noqa: TRY400 (its traceback tells nothing more)
                        "metrics cannot be served at %s:%d (%s): free it, or choose another with"
                        " OTEL_EXPORTER_PROMETHEUS_PORT",
                        host,
                        port,
                        error.strerror or error,
                    )
                    self._closed.wait(RETRY_S)
                    continue
                self._door = door
                door.serve_forever()
                return


def gather(directory: Path) -> bytes:
    """Ask every process of the node; give what those say that answer in time, as one text."""
    sockets = sorted(directory.glob(_SOCKETS))
    deadline_s = time.monotonic() + ANSWER_S
    with ThreadPoolExecutor(ASKED_AT_A_TIME) as pool:
        answers = list(pool.map(lambda each: _ask(each, deadline_s), sockets))
    told = [answer for answer in answers if answer]
    silent = sum(answer is None for answer in answers)
    return merged([*told, _own_metrics(len(told), silent)])


def merged(texts: Iterable[bytes]) -> bytes:
    """Join texts of several processes: all of one metric's lines must come together."""
    families: dict[bytes, tuple[bytes, list[bytes]]] = {}
    for text in texts:
        for name, head, body in _families(text):
            families.setdefault(name, (head, []))[1].append(body)
    return b"".join(head + b"".join(bodies) for head, bodies in families.values())


def _families(text: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Cut a text into its metrics: name, lines about it, lines of values."""
    for part in text.split(b"# HELP ")[1:]:
        about, _, rest = part.partition(b"\n")
        kind, _, body = rest.partition(b"\n")
        yield about.partition(b" ")[0], b"# HELP " + about + b"\n" + kind + b"\n", body


def _own_metrics(answered: int, silent: int) -> bytes:
    name = "jouleserve_scraped_processes"
    return (
        f"# HELP {name} Processes of the node that were asked for their metrics\n"
        f"# TYPE {name} gauge\n"
        f'{name}{{jouleserve_state="answered"}} {answered}\n'
        f'{name}{{jouleserve_state="silent"}} {silent}\n'
    ).encode()


def _ask(path: Path, deadline_s: float) -> bytes | None:
    """Give what a process says; empty if it is gone, None if it is silent."""
    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.settimeout(max(0.01, deadline_s - time.monotonic()))
            line.connect(str(path))
            chunks = []
            while chunk := line.recv(_CHUNK_BYTES):
                chunks.append(chunk)
                line.settimeout(max(0.01, deadline_s - time.monotonic()))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)  # It was killed.
            return b""
        except OSError:
            return None
    return b"".join(chunks)


def _own(directory: Path) -> Path:
    """Make a directory that only this user writes to."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if (
        not stat.S_ISDIR(found.st_mode)
        or found.st_uid != os.getuid()
        or (found.st_mode & _OPEN_TO_OTHERS)
    ):
        raise ScrapeError(
            f"{directory} is not a directory of this user alone, and processes would meet there"
            " to be scraped: remove it"
        )
    return directory


class _Teller(ThreadingUnixStreamServer):
    """Gives this process's metrics to whoever connects."""

    daemon_threads = True

    def __init__(self, path: Path, tell: Callable[[], bytes]) -> None:
        self.tell = tell
        self._path = path
        unborn = path.with_suffix(".new")
        unborn.unlink(missing_ok=True)
        super().__init__(str(unborn), _Telling)
        # By its name it is found only now that it listens: who does not is taken for dead.
        unborn.rename(path)

    def server_close(self) -> None:
        super().server_close()
        self._path.unlink(missing_ok=True)


class _Telling(StreamRequestHandler):
    timeout = ANSWER_S
    server: _Teller

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # Whoever asked may be gone.
            self.wfile.write(self.server.tell())


class _Door(ThreadingHTTPServer):
    """The node's port."""

    daemon_threads = True

    def __init__(self, place: tuple[str, int], directory: Path) -> None:
        self.directory = directory
        super().__init__(place, _Answering)


class _Answering(BaseHTTPRequestHandler):
    timeout = ANSWER_S
    server: _Door

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != PATH:
            self.send_error(404, f"only {PATH} is here")
            return
        text = gather(self.server.directory)
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        with contextlib.suppress(OSError):  # Whoever asked may be gone.
            self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Say nothing: a scrape is no event."""
