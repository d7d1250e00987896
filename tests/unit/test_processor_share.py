"""Sockets count everybody's energy; time on their cores says whose it was."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.processor_share import CoreTime, CoreWeights, ProcessorShare, core_time, family, share

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = CoreWeights(5.0, 1.5)
seconds = st.floats(0, 1e6)


@given(own=st.lists(seconds, min_size=1, max_size=8), others_s=seconds, resting_s=seconds)
def test_all_shares_together_are_never_more_than_all(
    own: list[float], others_s: float, resting_s: float
) -> None:
    computing_s = sum(own) + others_s
    shares = [share(CoreTime(each, computing_s, resting_s), 1 / len(own), WEIGHTS) for each in own]
    assert all(0 <= each <= 1 for each in shares)
    assert sum(shares) <= 1 + 1e-9


def test_who_computes_more_bears_more_and_idle_cores_are_borne_by_who_reserved_them() -> None:
    assert share(CoreTime(1.0, 2.0, 0.0), 0.5, WEIGHTS) == 0.5
    assert share(CoreTime(0.0, 0.0, 2.0), 0.25, WEIGHTS) == 0.25
    busy, rests = (share(CoreTime(own, 1.0, 1.0), 0.5, WEIGHTS) for own in (1.0, 0.0))
    assert busy == pytest.approx((5.0 + 0.75) / 6.5)
    assert busy + rests == pytest.approx(1.0)


def write_process(proc: Path, pid: int, ticks: tuple[int, int, int, int], children: str) -> None:
    place = proc / str(pid)
    (place / "task" / str(pid)).mkdir(parents=True)
    fields = " ".join(["S", *["0"] * 10, *map(str, ticks), "0"])
    (place / "stat").write_text(f"{pid} (a (b) c) {fields}\n")
    (place / "task" / str(pid) / "children").write_text(children)


def test_a_process_is_counted_with_all_that_it_has_started(tmp_path: Path) -> None:
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    write_process(tmp_path, 1, (1, 2, 3, 4), "2 3 ")
    write_process(tmp_path, 2, (10, 0, 0, 0), "")
    (tmp_path / "stat").write_text("cpu  5 0 5 80 20 0 0 0 7 0\ncpu0 1 1 1\n")
    assert family(1, tmp_path) == (1, 3, 2)
    found = core_time((1, 2, 3), tmp_path)  # Process 3 has ended since it was listed.
    assert found.own_s == pytest.approx(20 * tick_s)
    assert found.computing_s == pytest.approx(10 * tick_s)
    assert found.resting_s == pytest.approx(100 * tick_s)


def test_energy_waits_until_the_counter_is_renewed(tmp_path: Path) -> None:
    write_process(tmp_path, 1, (0, 0, 0, 0), "")
    (tmp_path / "stat").write_text("cpu 0 0 0 0 0 0 0 0\n")
    part = ProcessorShare(1.0, WEIGHTS, 1, tmp_path)
    assert part.of(0) == 0
    (tmp_path / "1" / "stat").write_text("1 (x) S " + "0 " * 10 + "30 0 0 0\n")
    (tmp_path / "stat").write_text("cpu 60 0 0 0 0 0 0 0\n")
    assert part.of(0) == 0
    assert part.of(1000) == 500


def test_the_time_of_a_real_child_is_its_parents() -> None:
    before = core_time(family(os.getpid()))
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    spent = core_time(family(os.getpid())).since(before)
    assert spent.own_s >= 0.25
    assert spent.computing_s >= spent.own_s
