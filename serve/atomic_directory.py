"""A directory that appears complete or not at all, made once however many processes want it.

Its own module because the promise, that a killed process leaves nothing that could be taken for a
result, is the same whatever is being made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LOCK_POLL_S = 0.2
"""How soon a waiting process notices that the other is done; small beside the seconds it takes."""


_MAKING = ".making"
# With less than this free, what could not be written could not for want of room.
LEAST_FREE_BYTES = 4 << 20
# What whoever writes says of it, in whatever words around.
_FULL = ("No space left on device", "Disk quota exceeded", "os error 28")


class CannotMakeError(Exception):
    """The directory cannot be had; the message says what to change."""


def free_bytes(directory: Path) -> int:
    """Say how much may be written below a directory, which need not be there yet."""
    there = next(parent for parent in (directory, *directory.parents) if parent.exists())
    return shutil.disk_usage(there).free


def full_disk(directory: Path, told: str = "") -> str:
    """Say that the disk of a directory is full, and what to do; empty while it is not.

    Args:
        directory: that something could not be written below.
        told: by whoever could not; some make room again before one can look.

    """
    if free_bytes(directory) >= LEAST_FREE_BYTES and not any(words in told for words in _FULL):
        return ""
    return f"the disk of {directory} is full: free some space, or set JOULESERVE_CACHE to another"


def made_once(
    target: Path,
    make: Callable[[Path], None],
    *,
    deadline_s: float,
    on_wait: Callable[[], None] = lambda: None,
) -> Path:
    """Return `target`, calling `make` on an empty directory that becomes it if it is not there.

    Args:
        target: the directory; its parents are made.
        make: fills the directory that it is given; what it raises passes through.
        deadline_s: how long to wait for another process that makes the same target.
        on_wait: called once when there is such a process.

    Raises:
        CannotMakeError: it cannot be written, or the other process did not end in time.

    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(target.with_name(f"{target.name}.lock"), deadline_s, on_wait):
            if not target.is_dir():
                _make(target, make)
    except TimeoutError as error:
        raise CannotMakeError(f"{error}; end that process, then try again") from error
    except OSError as error:
        if full := full_disk(target.parent, str(error)):
            raise CannotMakeError(full) from error
        raise CannotMakeError(
            f"cannot make {target}: {error}; JOULESERVE_CACHE must name a directory that may be"
            " written and has the space"
        ) from error
    return target


def sweep(directory: Path) -> None:
    """Take away what processes that are dead were making in a directory, and nobody else's."""
    for workspace in directory.glob(f"*{_MAKING}"):
        lock = workspace.with_name(f"{workspace.name.removesuffix(_MAKING)}.lock")
        with suppress(TimeoutError, OSError), _exclusive(lock, 0.0, lambda: None):
            shutil.rmtree(workspace, ignore_errors=True)


def _make(target: Path, make: Callable[[Path], None]) -> None:
    """Fill a workspace and rename it; under the lock, one that exists is a dead process's."""
    workspace = target.with_name(f"{target.name}{_MAKING}")
    shutil.rmtree(workspace, ignore_errors=True)
    workspace.mkdir()
    try:
        make(workspace)
        _settle(workspace)
        workspace.rename(target)
    except BaseException:
        shutil.rmtree(workspace, ignore_errors=True)
        raise


def _settle(directory: Path) -> None:
    """Put the files on disk before the directory gets its name: a power failure hollows none.

    Some writers leave files for their owner only; the directory's mode, the umask's, rules. Links
    are left alone: what they lead to is somebody else's.
    """
    mode = directory.stat().st_mode & 0o666
    for file in directory.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode | file.stat().st_mode & 0o111)
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def _exclusive(lock: Path, deadline_s: float, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold `lock` against other processes and threads; the system frees it when its holder dies.

    A child that is given our descriptors (close_fds=False) holds it too, and beyond our death.
    """
    deadline = time.monotonic() + deadline_s
    with lock.open("w") as handle:
        os.set_inheritable(handle.fileno(), True)  # noqa: FBT003 (it takes no names)
        if not _try_lock(handle.fileno()):
            on_wait()
            while not _try_lock(handle.fileno()):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process has held {lock} for {deadline_s:.0f} s")
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.flock(handle, fcntl.LOCK_UN)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
