"""RAPL as Linux shows it, on a tree of files that a test writes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from cluster import rapl
from cluster.energy_counters import CounterError

if TYPE_CHECKING:
    from pathlib import Path


def domain(root: Path, place: str, name: str, energy_uj: str = "1000") -> Path:
    directory = root / place
    directory.mkdir()
    (directory / "name").write_text(name + "\n")
    (directory / "energy_uj").write_text(energy_uj + "\n")
    (directory / "max_energy_range_uj").write_text("262143328850\n")
    return directory


def test_packages_and_their_memory_are_counted_and_nothing_twice(tmp_path: Path) -> None:
    for place, name in (
        *(("intel-rapl:0", "package-0"), ("intel-rapl:1", "package-1")),
        *(("intel-rapl:0:0", "core"), ("intel-rapl:0:1", "dram"), ("intel-rapl:1:0", "dram")),
        *(("intel-rapl:2", "psys"), ("intel-rapl-mmio:0", "package-0")),
    ):
        domain(tmp_path, place, name)
    found = rapl.counters(tmp_path)
    assert [each.name for each in found] == [
        *("package-0", "package-0-dram", "package-1", "package-1-dram")
    ]
    assert {each.read_nj(0.0) for each in found} == {1_000_000}
    assert {each.wrap_nj for each in found} == {262_143_328_850_000}


def test_where_there_is_none_there_is_none(tmp_path: Path) -> None:
    assert rapl.counters(tmp_path) == ()
    assert rapl.counters(tmp_path / "powercap") == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_who_may_not_read_is_told_what_to_do(tmp_path: Path) -> None:
    (domain(tmp_path, "intel-rapl:0", "package-0") / "energy_uj").chmod(0)
    with pytest.raises(CounterError, match="chmod a\\+r"):
        rapl.counters(tmp_path)


class Forbidden:
    """A file that may not be read, for tests that root runs."""

    def __init__(self, file: Path) -> None:
        self.parent = file.parent

    def read_text(self, encoding: str) -> str:
        raise PermissionError(13, "Permission denied")


def test_permission_is_told_from_other_faults(tmp_path: Path) -> None:
    place = domain(tmp_path, "intel-rapl:0", "package-0")
    (counter,) = rapl.counters(tmp_path)
    (place / "energy_uj").write_text("no number")
    with pytest.raises(CounterError, match="cannot be read"):
        counter.read_nj(0.0)
    (place / "energy_uj").unlink()
    with pytest.raises(CounterError, match="cannot be read"):
        counter.read_nj(0.0)
    forbidden = rapl.RaplCounter("package-0", Forbidden(place / "energy_uj"), 1)  # type: ignore[arg-type]
    with pytest.raises(CounterError, match="root only"):
        forbidden.read_nj(0.0)


def test_a_domain_that_does_not_say_where_it_wraps_is_not_used(tmp_path: Path) -> None:
    (domain(tmp_path, "intel-rapl:0", "package-0") / "max_energy_range_uj").unlink()
    with pytest.raises(CounterError, match="max_energy_range_uj"):
        rapl.counters(tmp_path)
