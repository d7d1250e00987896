"""A GPU's power limit: set while somebody wants it, and put back whatever ends them.

Its own module because it is a process of its own: whoever is killed puts nothing back. The
keeper sets the limit, says so, and waits until the pipe from whoever started it closes, which
it does however they end. What was there before stands in a file until it is back, for the next
keeper to find if this one is killed itself.
"""

from __future__ import annotations

import argparse
import importlib
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The driver answers in milliseconds; the keeper has to start first.
ANSWER_S = 20.0
_SET = "set"
_MW = 1000


class PowerLimitError(Exception):
    """The limit is not set; the message says why. Nothing was changed."""


class PowerLimit:
    """A limit that holds until it is closed, or until this process is gone.

    Attributes:
        keeper: process that puts back what was there before.

    """

    def __init__(self, gpu: str, limit_w: float, records: Path, nvml: str = "pynvml") -> None:
        """Set it.

        Args:
            gpu: its UUID, as NVML names it.
            limit_w: for this GPU.
            records: directory for what was there before; outlives this process.
            nvml: module that speaks NVML.

        Raises:
            PowerLimitError: it may not be set, or not to this value.

        """
        self._keeper = subprocess.Popen(  # noqa: S603 (our own module)
            [
                *(sys.executable, "-m", __name__, gpu, str(limit_w)),
                *("--records", str(records), "--nvml", nvml),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Signals to this process's group are not for the keeper.
            start_new_session=True,
        )
        self.keeper = self._keeper.pid
        answer = self._answer()
        if answer != _SET:
            self.close()
            raise PowerLimitError(answer or f"the driver did not answer within {ANSWER_S:g} s")

    def _answer(self) -> str:
        stdout = _open(self._keeper.stdout)
        ready, _, _ = select.select([stdout], [], [], ANSWER_S)
        return stdout.readline().strip() if ready else ""

    def close(self) -> None:
        """Have what was there before put back, and wait for that."""
        _open(self._keeper.stdin).close()
        try:
            self._keeper.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            self._keeper.kill()
            self._keeper.wait()
        _open(self._keeper.stdout).close()

    def __enter__(self) -> Self:
        """Hold the limit."""
        return self

    def __exit__(self, *_: object) -> None:
        """Put back what was there before."""
        self.close()


def default_records(environ: Mapping[str, str]) -> Path:
    """Give the directory where this user's programs keep what outlives them."""
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME", "~"), ".local", "state")
    return Path(state).expanduser() / "jouleserve" / "power-limits"


def _open(pipe: IO[str] | None) -> IO[str]:
    if pipe is None:
        raise RuntimeError("the keeper was started without pipes")
    return pipe


# ── the keeper ──────────────────────────────────────────────────────────────


def keep(nvml: Any, gpu: str, limit_w: float, records: Path, hold: Callable[[], None]) -> None:  # noqa: ANN401 (a module)
    """Set a limit, hold it, and put back what was there before.

    Args:
        nvml: what speaks NVML.
        gpu: its UUID.
        limit_w: for it.
        records: directory for what was there before.
        hold: returns when the limit is no longer wanted.

    Raises:
        PowerLimitError: it may not be set, or not to this value.

    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise PowerLimitError(f"NVML cannot be used: {error}") from error
    record = records / gpu
    try:
        handle = nvml.nvmlDeviceGetHandleByUUID(gpu)
        least, most = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)
        limit_mw = round(limit_w * _MW)
        if not least <= limit_mw <= most:
            raise PowerLimitError(
                f"{limit_w:g} W is no power limit for {gpu}: give {least / _MW:g} to"
                f" {most / _MW:g} W"
            )
        before = _before(record) or nvml.nvmlDeviceGetPowerManagementLimit(handle)
        records.mkdir(parents=True, exist_ok=True)
        record.write_text(str(before))
        try:
            nvml.nvmlDeviceSetPowerManagementLimit(handle, limit_mw)
            hold()
        finally:
            nvml.nvmlDeviceSetPowerManagementLimit(handle, before)
            record.unlink()
    except nvml.NVMLError_NoPermission as error:
        record.unlink(missing_ok=True)
        raise PowerLimitError(
            f"the power limit of {gpu} may be set by root only; without it serving goes on"
        ) from error
    except nvml.NVMLError as error:
        raise PowerLimitError(f"the power limit of {gpu} cannot be set: {error}") from error
    finally:
        nvml.nvmlShutdown()


def _before(record: Path) -> int | None:
    """Read what a keeper that was killed has left."""
    try:
        return int(record.read_text())
    except (FileNotFoundError, ValueError):
        return None


def main() -> None:
    """Keep a limit until standard input closes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gpu")
    parser.add_argument("limit_w", type=float)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--nvml", default="pynvml")
    given = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # The pipe alone says when it is over.
        signal.signal(number, signal.SIG_IGN)

    def hold() -> None:
        sys.stdout.write(_SET + "\n")
        sys.stdout.flush()
        sys.stdin.read()

    try:
        keep(importlib.import_module(given.nvml), given.gpu, given.limit_w, given.records, hold)
    except (PowerLimitError, ImportError) as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main()
