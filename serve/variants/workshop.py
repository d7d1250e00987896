"""The compression environment, and the jobs that are done in it.

Its own module because the libraries that make variants want other versions of what serving
needs: they get an environment of their own, made when it is first needed and never served from.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serve.atomic_directory import CannotMakeError, full_disk, made_once
from serve.lifeline import Lifeline
from serve.variants.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROJECT = Path(__file__).resolve().parents[2]
# What jobs import; a job finds these, and nothing else of where they are installed.
_PACKAGES = ("cluster", "protos", "scheduler", "serve")
# In a wheel both lie in the package itself.
_INSTALLED = Path(__file__).parent / "environment"
LOCK = (_INSTALLED if _INSTALLED.is_dir() else PROJECT / "requirements") / "compress.txt"
SCRIPT = (_INSTALLED if _INSTALLED.is_dir() else PROJECT / "scripts") / "compression_environment.sh"
ROOM_BYTES = 1.5e9
"""That the environment takes."""
# A gigabyte of libraries over a slow line.
INSTALL_S = 1800.0
# Somebody else installs them.
WAIT_S = 2400.0
_LAST_LINES = 5
# Where a log says what was wrong, and where vLLM only says that something was.
_CAUSE = re.compile(r"^[\w.]*(Error|Exception): .")
_EFFECTS = ("Engine core initialization failed", "EngineDeadError")


class WorkshopError(Exception):
    """The environment cannot be made, or a job in it failed; the message says why."""


def identity() -> str:
    """Say which libraries the environment has, by the content of the lock."""
    return hashlib.sha256(LOCK.read_bytes()).hexdigest()[:12]


def is_made(cache: Path) -> bool:
    """Say whether the environment is there already."""
    return _place(cache).is_dir()


def _place(cache: Path) -> Path:
    return cache / "environments" / f"compress-{identity()}"


def python(cache: Path, report: Callable[[str], None]) -> Path:
    """Give the interpreter of the environment; makes it first where it is not there.

    Raises:
        WorkshopError: the libraries are not to be had, or the cache cannot be written.

    """
    target = _place(cache)

    def make(workspace: Path) -> None:
        report("making the compression environment (once, about 1 GB)")
        # Whoever is killed is to leave nobody behind who goes on writing.
        lifeline = Lifeline()
        try:
            subprocess.run(  # noqa: S603 (our own script)
                ["/bin/bash", SCRIPT, workspace, LOCK],
                check=True,
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                env={**os.environ, "PYTHON": sys.executable},
                close_fds=False,
            )
        finally:
            lifeline.cut()

    try:
        made_once(target, make, deadline_s=WAIT_S, on_wait=lambda: report("waiting for it"))
    except subprocess.CalledProcessError as error:
        why = full_disk(target.parent, error.stderr) or _end_of(error.stderr)
        raise WorkshopError(f"the compression environment: {why}") from error
    except (subprocess.TimeoutExpired, CannotMakeError) as error:
        raise WorkshopError(f"the compression environment: {error}") from error
    return target / "bin" / "python"


def work(
    interpreter: Path,
    module: str,
    asked: Mapping[str, Any],
    log: Path,
    report: Callable[[str], None],
) -> Mapping[str, Any]:
    """Do a job; it ends when this process does.

    Until it has ended, it holds the locks that this process holds: nobody begins the same again
    while one whose asker was killed may still write.

    Args:
        interpreter: whose libraries do it.
        module: the program that does it.
        asked: what it is told.
        log: for what libraries print.
        report: told, in a line, how far it is.

    Returns:
        what the job says of its result.

    Raises:
        WorkshopError: it failed.
        BuildError: the disk is full.

    """
    with (
        _project(log.with_suffix(".packages")) as project,
        log.open("w", encoding="utf-8") as errors,
        subprocess.Popen(  # noqa: S603 (our own program)
            [interpreter, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(project),
            close_fds=False,
        ) as job,
    ):
        try:
            outcome, error = _conversation(job, asked, report)
        finally:
            job.kill()
    if outcome is None:
        name, said = module.rpartition(".")[2], log.read_text(encoding="utf-8", errors="replace")
        why = error or _killed(job.returncode) or f"{_end_of(said)}; more in {log}"
        if full := full_disk(log.parent, why):
            raise BuildError(f"{name}: {full}")
        raise WorkshopError(f"{name}: {why}")
    return outcome


def _conversation(
    job: subprocess.Popen[str], asked: Mapping[str, Any], report: Callable[[str], None]
) -> tuple[Mapping[str, Any] | None, str]:
    """Ask, and listen to the end; gives the outcome, or None and what the job says is wrong."""
    if job.stdin is None or job.stdout is None:
        raise ValueError("a job needs pipes")
    outcome, error = None, ""
    # One that has died says why in its log.
    with suppress(BrokenPipeError):
        job.stdin.write(json.dumps(asked) + "\n")
        job.stdin.flush()
    for line in job.stdout:
        try:
            message = json.loads(line)
        except ValueError:
            continue  # Libraries print where they like.
        match message:
            case {"progress": text}:
                report(text)
            case {"error": error}:
                pass
            case {"outcome": outcome}:
                pass
    job.wait()
    return outcome, error


def _killed(code: int) -> str:
    """Say that a job was killed, by the code that it ended with; empty if it was not."""
    if code >= 0:
        return ""
    reason = "; the machine may be short of memory" if code == -signal.SIGKILL else ""
    return f"it was ended by {signal.Signals(-code).name}{reason}"


@contextmanager
def _project(directory: Path) -> Iterator[Path]:
    """Give a directory with our packages alone: they may lie among those that serving needs."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        for name in _PACKAGES:
            (directory / name).symlink_to(PROJECT / name)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _environment(project: Path) -> dict[str, str]:
    """Give a job's environment: this project, its own libraries, no network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return kept | {
        "PYTHONPATH": str(project),
        "HF_HUB_OFFLINE": "1",
        # More threads make GPTQ's small matrices twenty times slower.
        "OMP_NUM_THREADS": "1",
    }


def _end_of(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if _CAUSE.match(line) and not any(words in line for words in _EFFECTS):
            return line
    return " | ".join(lines[-_LAST_LINES:]) or "it ended without a word"
