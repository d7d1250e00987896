"""`jouleserve top` fits any terminal, says how old its figures are, and gives the terminal back."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from loadtest.virtual.fleets import read_fleet
from loadtest.virtual.paced_cluster import PacedCluster
from loadtest.virtual.service import served
from protos.jouleserve.client import Client
from protos.jouleserve.statuses import CarbonIntensity, Trouble
from serve.top import View, Watch, screen
from tests.unit.test_dashboard import PLAN, REPLICA, STATUS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CROWD = replace(
    STATUS,
    replicas=tuple(replace(REPLICA, replica=f"replica-{number}") for number in range(200)),
    troubles=tuple(Trouble(f"variant-{number}", "does not come up " * 9) for number in range(9)),
    carbon=CarbonIntensity(400.0, 1.2, "constant", 0.0, ""),
    decisions=STATUS.decisions * 8,
)
COMMAND = [sys.executable, "-m", "serve.cli", "top"]
LIMIT_S = 120


def drawn(view: View, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height or 100, color_system=None)
    with console.capture() as capture:
        console.print(screen(view, width, height))
    return capture.get().splitlines()


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (120, 40), (200, 60)])
def test_a_screen_is_no_larger_than_the_terminal(width: int, height: int) -> None:
    lines = drawn(View(CROWD, PLAN, 0.0), width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_at_80_by_24_what_matters_is_there() -> None:
    text = "\n".join(drawn(View(CROWD, PLAN, 0.0), 80, 24))
    for word in ("70 %", "per token", "bound", "variant-0", "interactive", "replica-", "more"):
        assert word in text


def test_without_a_height_everything_is_there() -> None:
    text = "\n".join(drawn(View(CROWD, PLAN, 0.0), 160, 0))
    assert text.count("replica-") == 200
    assert "cheapest" in text


def test_replicas_that_want_attention_come_first() -> None:
    lost = replace(REPLICA, replica="gone", state="lost", running_requests=0)
    crowded = replace(REPLICA, replica="crowded", waiting_requests=50)
    status = replace(CROWD, replicas=(*CROWD.replicas, crowded, lost))
    text = "\n".join(drawn(View(status, None, 0.0), 100, 24))
    assert text.index("gone") < text.index("crowded") < text.index("replica-0")


def test_old_figures_are_shown_as_old() -> None:
    text = "\n".join(drawn(View(STATUS, None, 12.0, "UNAVAILABLE: nobody listens"), 120, 24))
    assert "UNAVAILABLE" in text
    assert "12 s ago" in text


@contextmanager
def virtual() -> Iterator[str]:
    cluster = PacedCluster(read_fleet(ROOT / "examples/fleets/8xh100.yaml"), load=0.2)
    cluster.advance(60.0)
    with served(cluster, "127.0.0.1:0") as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with virtual() as address:
        yield address


def test_what_is_known_stays_when_the_gateway_is_gone() -> None:
    now_s = 0.0
    with virtual() as address:
        client = Client(address, timeout_s=LIMIT_S)
        watch = Watch(client, lambda: now_s)
        seen = watch.look()
    assert seen.trouble == ""
    now_s = 7.0
    later = watch.look()
    client.close()
    assert later.status is seen.status
    assert (later.age_s, bool(later.trouble)) == (7.0, True)


def test_in_a_pipe_it_prints_once(address: str) -> None:
    done = subprocess.run(
        [*COMMAND, "--address", address],
        check=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert "gateway" not in done.stderr
    assert "h100-0" in done.stdout
    assert "\x1b" not in done.stdout


def test_nobody_there_is_an_error_when_it_prints_once() -> None:
    done = subprocess.run(
        [*COMMAND, "--once", "--address", "127.0.0.1:1"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("leave", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_in_a_terminal_it_goes_on_until_told_to_leave(address: str, leave: bytes) -> None:
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.environ["TERM"] = "xterm-256color"
        os.execv(sys.executable, [*COMMAND, "--address", address, "--period", "0.2"])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(terminal)
    watchdog = threading.Timer(LIMIT_S, os.kill, (pid, signal.SIGKILL))
    watchdog.start()
    shown = b""
    while shown.count(b"promises") < 3:
        shown += os.read(terminal, 4096)
    os.write(terminal, leave)
    _, how = os.waitpid(pid, 0)
    watchdog.cancel()
    assert os.waitstatus_to_exitcode(how) == (0 if leave == b"q" else 130)
    assert termios.tcgetattr(terminal) == before
    os.close(terminal)
