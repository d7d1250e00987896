"""Only what belongs to a session and carries its mark is found and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from serve import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); time.sleep(60)"
)


def spawn(code: str, mark: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, processes.MARK: mark},
        start_new_session=True,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def stubborn() -> Iterator[subprocess.Popen[bytes]]:
    with spawn(STUBBORN, "mine") as process:
        yield process
        process.kill()


def test_another_mark_or_session_is_left_alone(stubborn: subprocess.Popen[bytes]) -> None:
    assert processes.members(stubborn.pid, "mine") == [stubborn.pid]
    assert processes.members(stubborn.pid, "other") == []
    assert stubborn.pid not in processes.members(os.getsid(0), "mine")
    assert processes.end(stubborn.pid, "other", grace_s=0) == 0
    assert stubborn.poll() is None


def test_who_does_not_listen_is_killed_after_the_grace(stubborn: subprocess.Popen[bytes]) -> None:
    began = time.monotonic()
    assert processes.end(stubborn.pid, "mine", grace_s=0.3) == 1
    assert time.monotonic() - began >= 0.3
    assert processes.members(stubborn.pid, "mine") == []


def test_who_listens_is_not_killed() -> None:
    with spawn("import time; print(); time.sleep(60)", "polite") as process:
        assert processes.end(process.pid, "polite", grace_s=10) == 0
