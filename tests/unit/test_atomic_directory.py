"""A directory made once: complete or absent, whoever dies, however many want it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from serve.atomic_directory import CannotMakeError, made_once, sweep

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20.0


def _write(directory: Path) -> None:
    (directory / "a").write_text("1")
    (directory / "b").write_text("2")


def _contents(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(directory: Path) -> None:
        made.append(directory)
        _write(directory)

    target = tmp_path / "deep" / "target"
    for _ in range(3):
        assert made_once(target, make, deadline_s=DEADLINE_S) == target

    assert len(made) == 1
    assert _contents(target) == {"a": "1", "b": "2"}


def test_a_failure_leaves_nothing_and_the_next_try_succeeds(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        _write(directory)
        raise ValueError("half way")

    target = tmp_path / "target"
    with pytest.raises(ValueError, match="half way"):
        made_once(target, fail, deadline_s=DEADLINE_S)
    assert [entry for entry in tmp_path.iterdir() if entry.is_dir()] == []

    made_once(target, _write, deadline_s=DEADLINE_S)
    assert _contents(target) == {"a": "1", "b": "2"}


def test_many_at_once_make_it_once(tmp_path: Path) -> None:
    made: list[int] = []
    waited: list[int] = []

    def make(directory: Path) -> None:
        made.append(1)
        time.sleep(0.3)
        _write(directory)

    def want(_: int) -> dict[str, str]:
        target = made_once(
            tmp_path / "target", make, deadline_s=DEADLINE_S, on_wait=lambda: waited.append(1)
        )
        return _contents(target)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(want, range(8)))

    assert len(made) == 1
    assert 1 <= len(waited) <= 7
    assert results == [{"a": "1", "b": "2"}] * 8


def test_a_killed_process_leaves_no_target_and_no_lock(tmp_path: Path) -> None:
    target = tmp_path / "target"
    program = f"""
import pathlib, time
from serve.atomic_directory import made_once

def make(directory):
    (directory / "rest of the dead").write_text("half")
    print("half way", flush=True)
    time.sleep(60)

made_once(pathlib.Path({str(target)!r}), make, deadline_s=1)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half way\n"
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE_S)
    assert not target.exists()

    made_once(target, _write, deadline_s=1)
    assert _contents(target) == {"a": "1", "b": "2"}
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_dir()] == ["target"]


def test_waiting_ends_at_the_deadline(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()

    def hold(directory: Path) -> None:
        started.set()
        release.wait(DEADLINE_S)
        _write(directory)

    target = tmp_path / "target"
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(made_once, target, hold, deadline_s=DEADLINE_S)
        assert started.wait(DEADLINE_S)
        with pytest.raises(CannotMakeError, match=r"target\.lock.*end that process"):
            made_once(target, _write, deadline_s=0.1)
        release.set()
        assert other.result(DEADLINE_S) == target


def test_files_are_as_open_as_their_directory(tmp_path: Path) -> None:
    def make(directory: Path) -> None:
        _write(directory)
        (directory / "a").chmod(0o600)

    target = made_once(tmp_path / "target", make, deadline_s=DEADLINE_S)

    assert (target / "a").stat().st_mode & 0o666 == target.stat().st_mode & 0o666


def test_programs_stay_programs_and_what_links_lead_to_is_left_alone(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("#!/bin/sh\n")
    theirs.chmod(0o755)

    def make(workspace: Path) -> None:
        own = workspace / "own"
        own.write_text("#!/bin/sh\n")
        own.chmod(0o700)
        (workspace / "link").symlink_to(theirs)

    made = made_once(tmp_path / "target", make, deadline_s=1.0)
    assert theirs.stat().st_mode & 0o777 == 0o755
    assert (made / "own").stat().st_mode & 0o111
    assert (made / "link").is_symlink()


def test_what_dead_processes_were_making_is_swept_and_what_is_being_made_is_not(
    tmp_path: Path,
) -> None:
    (tmp_path / "dead.making").mkdir()
    (tmp_path / "dead.making" / "half").write_text("x")
    (tmp_path / "whole").mkdir()

    def make(workspace: Path) -> None:
        sweep(tmp_path)
        assert workspace.is_dir(), "its maker lives"
        (workspace / "file").write_text("x")

    made_once(tmp_path / "alive", make, deadline_s=1.0)
    assert {each.name for each in tmp_path.iterdir() if each.is_dir()} == {"alive", "whole"}
    sweep(tmp_path / "nowhere")
