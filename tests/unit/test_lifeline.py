"""Processes that were started under a lifeline end with the process that holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Starts a child that starts a child; each writes its number. Both outlive their parent.
HOLDER = """
import subprocess, sys, time
from serve.lifeline import Lifeline
line = Lifeline()
child = "import subprocess, sys, time, os; " \\
    "grandchild = subprocess.Popen(['sleep', '60'], start_new_session=True); " \\
    "print(os.getpid(), grandchild.pid, flush=True); time.sleep(60)"
process = subprocess.Popen([sys.executable, "-c", child])
time.sleep(60) if len(sys.argv) == 1 else (time.sleep(1), line.cut())
"""

# A process that is spawned under a lifeline, and one after it is cut.
SPAWNER = """
import multiprocessing
from serve.lifeline import Lifeline

def spawn():
    process = multiprocessing.get_context("spawn").Process(target=print, args=("hello",))
    process.start()
    process.join()

if __name__ == "__main__":
    line = Lifeline()
    spawn()
    line.cut()
    spawn()
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: list[int], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(map(alive, pids)):
        assert time.monotonic() < deadline, f"still alive: {[pid for pid in pids if alive(pid)]}"
        time.sleep(0.02)


def hold(*arguments: str) -> tuple[subprocess.Popen[str], list[int]]:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert holder.stdout is not None
    pids = [int(word) for word in holder.stdout.readline().split()]
    assert len(pids) == 2
    return holder, pids


def test_children_end_when_the_holder_is_killed() -> None:
    holder, pids = hold()
    assert all(map(alive, pids))
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    wait_until_gone(pids)


def test_cutting_ends_the_children_and_not_the_holder() -> None:
    holder, pids = hold("cut")
    wait_until_gone(pids)
    assert holder.wait(timeout=10) == 0


def test_others_are_left_alone() -> None:
    bystander = subprocess.Popen(["sleep", "60"])
    holder, pids = hold()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    wait_until_gone(pids)
    assert bystander.poll() is None
    bystander.kill()
    bystander.wait()


def test_processes_can_be_spawned_after_a_cut(tmp_path: Path) -> None:
    script = tmp_path / "spawner.py"
    script.write_text(SPAWNER)
    ended = subprocess.run(
        [sys.executable, "-W", "error", script],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert ended.stdout.split() == ["hello", "hello"]
    assert not ended.stderr
