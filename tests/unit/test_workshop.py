"""Jobs and the environment that they run in: who is killed leaves nobody who goes on writing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serve.atomic_directory import LEAST_FREE_BYTES, made_once
from serve.variants import workshop
from serve.variants.errors import BuildError

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0

# Makes a directory through a job that does not hear that its asker is gone: it holds the
# interpreter, as a large write does. It writes where the next one will make the same.
BUILD = """
import pathlib, sys
from serve.atomic_directory import made_once
from serve.variants import workshop

def make(directory):
    asked = {"into": str(directory)}
    python, log = pathlib.Path(sys.argv[2]), directory.with_suffix(".log")
    workshop.work(python, "deaf", asked, log, lambda text: print(text, flush=True))

made_once(pathlib.Path(sys.argv[1]), make, deadline_s=1)
"""
DEAF = """
import ctypes, pathlib
from serve.variants.job import run, tell

def work(asked):
    tell("deaf from now on")
    ctypes.PyDLL(None).usleep(1_500_000)
    pathlib.Path(asked["into"], "of the dead").write_text("late")
    return {}

run(work)
"""
# Stands in for the script that installs: it starts another that goes on for long.
INSTALL = """
sleep 60 &
echo $! > "$1/../installing"
wait
"""


def interpreter(tmp_path: Path, module: str, content: str) -> Path:
    """Give a Python to which a module of this content is known."""
    (tmp_path / f"{module}.py").write_text(content)
    runner = tmp_path / "python"
    path = f'PYTHONPATH="{tmp_path}:$PYTHONPATH"'
    runner.write_text(f'#!/bin/sh\n{path} exec "{sys.executable}" "$@"\n')
    runner.chmod(0o755)
    return runner


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_nobody_begins_again_while_the_job_of_a_killed_one_may_still_write(tmp_path: Path) -> None:
    runner = interpreter(tmp_path, "deaf", DEAF)
    target = tmp_path / "cache" / "target"
    with subprocess.Popen(
        [sys.executable, "-c", BUILD, str(target), str(runner)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as asker:  # fmt: skip
        assert asker.stdout is not None
        assert asker.stdout.readline() == "deaf from now on\n"
        asker.send_signal(signal.SIGKILL)
        asker.wait(DEADLINE_S)
    waited: list[bool] = []

    def make(directory: Path) -> None:
        time.sleep(2)
        (directory / "of the living").write_text("whole")

    made_once(target, make, deadline_s=DEADLINE_S, on_wait=lambda: waited.append(True))
    assert waited
    assert [file.name for file in target.iterdir()] == ["of the living"]


def test_a_killed_installation_leaves_nobody_who_installs(tmp_path: Path) -> None:
    script = tmp_path / "install.sh"
    script.write_text(INSTALL)
    program = (
        "import pathlib; from serve.variants import workshop as shop;"
        f"shop.SCRIPT = {str(script)!r}; shop.python(pathlib.Path({str(tmp_path)!r}), print)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment) as asker:
        note = tmp_path / "environments" / "installing"
        deadline = time.monotonic() + DEADLINE_S
        while not (note.is_file() and note.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        asker.kill()
    installing = int(note.read_text())
    while alive(installing):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def failing(tmp_path: Path, body: str) -> str:
    """Run a job of this body; gives what is said of its end."""
    content = f"from serve.variants.job import run\ndef work(asked):\n    {body}\nrun(work)\n"
    runner = interpreter(tmp_path, "failing", content)
    with pytest.raises((workshop.WorkshopError, BuildError)) as caught:
        workshop.work(runner, "failing", {}, tmp_path / "job.log", lambda _: None)
    assert not [*tmp_path.glob("*.packages")]
    return str(caught.value)


def test_a_killed_job_is_told_as_such(tmp_path: Path) -> None:
    told = failing(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert told == "failing: it was ended by SIGKILL; the machine may be short of memory"


def test_the_cause_is_told_and_not_what_came_of_it(tmp_path: Path) -> None:
    told = failing(
        tmp_path,
        "import sys; sys.exit('''Traceback:\\n    x\\nValueError: heads are odd\\n"
        "RuntimeError: Engine core initialization failed. See root cause above.''')",
    )
    assert re.match(r"failing: ValueError: heads are odd; more in .*job\.log$", told)


@pytest.mark.parametrize(
    ("body", "free"),
    [
        ("raise OSError(28, 'No space left on device')", LEAST_FREE_BYTES),
        ("raise RuntimeError('unexpected pos 64 vs 0')", LEAST_FREE_BYTES - 1),
    ],
)
def test_a_full_disk_is_told_by_whoever_meets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, free: int
) -> None:
    monkeypatch.setattr("serve.atomic_directory.free_bytes", lambda _: free)
    told = failing(tmp_path, body)
    assert told == (
        f"failing: the disk of {tmp_path} is full: free some space, or set JOULESERVE_CACHE to"
        " another"
    )
