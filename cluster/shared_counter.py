"""A device's counter, read by one process of a node and known to all who use the device.

Its own module because several replicas share a processor, or the slices of a GPU: whoever
holds the device's lock reads it and writes down what it read, and everybody else reads that.
The kernel gives the lock back when its holder ends, however it ends, and the next one to
look takes it. So there is nothing to start, to find or to clean up.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cluster.energy_counters import CounterError, RawReading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

logger = logging.getLogger("jouleserve.cluster")

_OWN = 0o700


class RawCounter(Protocol):
    """A counter as the hardware keeps it."""

    @property
    def name(self) -> str:
        """The device's own."""

    @property
    def wrap_nj(self) -> int | None:
        """Value at which it begins at zero again; None for one that never does."""

    @property
    def most_w(self) -> float:
        """More than the device can draw."""

    def read_nj(self, now_s: float) -> int:
        """Read it.

        Raises:
            CounterError: it cannot be read; the message says what to change.

        """


class SharedCounter:
    """Implements `energy_counters.EnergyCounter` over a counter that is read once a node.

    Attributes:
        name: of the device.
        wrap_nj: value at which it begins at zero again, if it does.
        most_w: more than the device can draw.
        reads: whether this one reads the device, for itself and for others.

    """

    def __init__(self, counter: RawCounter, place: Path) -> None:
        """Take part in reading a device.

        Args:
            counter: of the device.
            place: directory that all who use the device share.

        """
        self.name = counter.name
        self.wrap_nj = counter.wrap_nj
        self.most_w = counter.most_w
        self.reads = False
        self._counter = counter
        self._record = place / f"{counter.name}.json"
        self._draft = place / f"{counter.name}.{os.getpid()}.{id(self)}.new"
        self._lock = os.open(place / f"{counter.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)

    def read(self, now_s: float) -> RawReading:
        """Read the device, or what its reader has written down.

        Raises:
            CounterError: it cannot be read, or nobody has done it yet.

        """
        if not self.reads:
            self.reads = self._take_lock()
            if self.reads:
                logger.info("this process reads the energy counter of %s", self.name)
        return self._read_device(now_s) if self.reads else self._read_record()

    def close(self) -> None:
        """Let another one read the device."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
            self.reads = False
            self._draft.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """Take part."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave."""
        self.close()

    def _take_lock(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _read_device(self, now_s: float) -> RawReading:
        try:
            energy_nj = self._counter.read_nj(now_s)
        except CounterError as error:
            self._write({"at_s": now_s, "trouble": str(error)})
            raise
        self._write({"at_s": now_s, "energy_nj": energy_nj})
        return RawReading(energy_nj, now_s)

    def _write(self, record: Mapping[str, float | str]) -> None:
        """Replace the record whole, so that nobody reads half of it."""
        try:
            self._draft.write_text(json.dumps(record), encoding="utf-8")
            self._draft.replace(self._record)
        except OSError as error:
            # Who reads it only notices that it is not renewed; the reader itself goes on.
            logger.warning("%s cannot be written: %s", self._record, error)

    def _read_record(self) -> RawReading:
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            if trouble := record.get("trouble"):
                raise CounterError(str(trouble))
            return RawReading(int(record["energy_nj"]), float(record["at_s"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CounterError("has a reader that has written nothing yet") from error


def shared_place(environ: Mapping[str, str], runtime: Path = Path("/dev/shm")) -> Path:  # noqa: S108 (checked below)
    """Give the directory that this user's processes on this node share; it is this user's alone.

    Args:
        environ: of this process.
        runtime: where memory is that all processes see, unless XDG_RUNTIME_DIR names it.

    Raises:
        CounterError: somebody else has it.

    """
    named = environ.get("XDG_RUNTIME_DIR")
    base = Path(named) if named and Path(named).is_dir() else runtime
    if not base.is_dir():
        base = Path(tempfile.gettempdir())
    place = base / f"jouleserve-meters-{os.getuid()}"
    try:
        place.mkdir(mode=_OWN, exist_ok=True)
        found = place.lstat()
    except OSError as error:
        raise CounterError(f"{place} cannot be made: {error}; set XDG_RUNTIME_DIR") from error
    if place.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise CounterError(f"{place} is somebody else's or open to others: remove it")
    return place
