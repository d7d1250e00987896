"""One process reads a device, others read what it wrote, and when it dies the next one reads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.device_meter import DeviceMeter
from cluster.energy_counters import CounterError
from cluster.shared_counter import SharedCounter, shared_place

if TYPE_CHECKING:
    from collections.abc import Callable

WAIT_S = 20.0
PROJECT = Path(__file__).parents[2]


class FileCounter:
    """A device whose counter is a file, so that several processes see the same."""

    wrap_nj = None
    most_w = 1e6

    def __init__(self, file: Path) -> None:
        self.name = "device"
        self.file = file
        self.reads = 0

    def read_nj(self, now_s: float) -> int:
        self.reads += 1
        try:
            return int(self.file.read_text())
        except (OSError, ValueError) as error:
            raise CounterError("cannot be read") from error


def show(file: Path, energy_nj: int) -> None:
    """Let a device show something else, at once."""
    new = file.with_suffix(".new")
    new.write_text(str(energy_nj))
    new.replace(file)


@pytest.fixture
def device(tmp_path: Path) -> Path:
    file = tmp_path / "energy"
    file.write_text("7")
    return file


def test_one_reads_for_all_and_the_next_takes_over(device: Path, tmp_path: Path) -> None:
    first, second = FileCounter(device), FileCounter(device)
    reader, other = SharedCounter(first, tmp_path), SharedCounter(second, tmp_path)
    with other:
        with reader:
            assert reader.read(1.0) == (7, 1.0)
            assert other.read(2.0) == (7, 1.0)
            assert (reader.reads, other.reads, second.reads) == (True, False, 0)
        device.write_text("9")
        assert other.read(3.0) == (9, 3.0)
        assert other.reads


def test_who_follows_is_told_what_the_reader_cannot_read(device: Path, tmp_path: Path) -> None:
    with (
        SharedCounter(FileCounter(device), tmp_path) as reader,
        SharedCounter(FileCounter(device), tmp_path) as other,
    ):
        reader.read(1.0)
        device.unlink()
        for each in (reader, other):
            with pytest.raises(CounterError, match="cannot be read"):
                each.read(2.0)


@pytest.mark.parametrize("record", ["", "{", "[]", '{"at_s": 1}', "\x00"])
def test_a_record_that_is_broken_is_no_reading(device: Path, tmp_path: Path, record: str) -> None:
    with (
        SharedCounter(FileCounter(device), tmp_path) as reader,
        SharedCounter(FileCounter(device), tmp_path) as other,
    ):
        reader.read(1.0)
        (tmp_path / "device.json").write_text(record)
        with pytest.raises(CounterError, match="nothing yet"):
            other.read(2.0)


READS = """
import sys, time
from pathlib import Path
from cluster.shared_counter import SharedCounter
from tests.unit.test_shared_counter import FileCounter
place = Path(sys.argv[1])
counter = SharedCounter(FileCounter(place / "energy"), place)
while True:
    counter.read(time.monotonic())
    time.sleep(0.02)
"""


def eventually(check: Callable[[], bool]) -> bool:
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        if check():
            return True
        time.sleep(0.02)
    return False


def test_a_reader_that_is_killed_is_replaced_and_no_joule_is_lost(
    device: Path, tmp_path: Path
) -> None:
    reader = subprocess.Popen([sys.executable, "-c", READS, str(tmp_path)], cwd=PROJECT)
    try:
        assert eventually((tmp_path / "device.json").exists)
        counter = SharedCounter(FileCounter(device), tmp_path)
        meter = DeviceMeter("rapl", "cpu", [counter], period_s=0.02)
        meter.start()
        show(device, 1000)
        assert eventually(lambda: meter.read().energy_nj == 993)
        followed = not counter.reads
        os.kill(reader.pid, signal.SIGKILL)
        reader.wait()
        show(device, 2000)
        assert eventually(lambda: meter.read().energy_nj == 1993)
        assert followed
        assert counter.reads
        assert meter.read().gaps == 0
        meter.close()
    finally:
        reader.kill()
        reader.wait()


def test_the_place_is_this_users_alone(tmp_path: Path) -> None:
    place = shared_place({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert place.parent == tmp_path
    assert place == shared_place({}, tmp_path)
    place.chmod(0o755)
    with pytest.raises(CounterError, match="open to others"):
        shared_place({}, tmp_path)
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(CounterError, match="somebody else's"):
        shared_place({}, tmp_path)
