"""Raw counters become joules, or a reason why not: wraps, resets, jumps, gaps, lost devices."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.counting_meter import FROZEN_S, TROUBLE_MEMORY_S, CountersMeter, FixedShare
from cluster.energy_counters import CounterError, CounterTotal, RawReading
from cluster.meters import NJ
from cluster.recorded_counter import Recorded, RecordedCounter

WRAP_NJ = 262_143 * NJ
MOST_W = 500.0


def total(*readings: tuple[float, float], wrap_nj: int | None = None) -> tuple[CounterTotal, str]:
    """Give what a counter has counted over readings of (s, J), and the newest fault."""
    counted = CounterTotal(wrap_nj, MOST_W)
    fault = None
    for at_s, energy_j in readings:
        fault = counted.take(RawReading(round(energy_j * NJ), at_s))
    return counted, "" if fault is None else fault.reason


@given(
    rises=st.lists(st.integers(0, 400 * NJ), min_size=1, max_size=50),
    start=st.integers(0, WRAP_NJ - 1),
    wraps=st.booleans(),
)
def test_what_rises_is_counted_to_the_nanojoule(
    rises: list[int], start: int, *, wraps: bool
) -> None:
    wrap_nj = WRAP_NJ if wraps else None
    counted = CounterTotal(wrap_nj, MOST_W)
    for at_s, true_nj in enumerate(accumulate(rises, initial=start)):
        shown_nj = true_nj % WRAP_NJ if wraps else true_nj
        assert counted.take(RawReading(shown_nj, float(at_s))) is None
    assert counted.total_nj == sum(rises)


def test_a_counter_that_falls_and_never_wraps_was_reset() -> None:
    counted, fault = total((0, 1000), (1, 1100), (2, 5))
    assert fault == "was reset"
    assert counted.total_nj == 100 * NJ
    assert counted.take(RawReading(25 * NJ, 3.0)) is None
    assert counted.total_nj == 120 * NJ


def test_a_counter_that_falls_far_from_where_it_wraps_was_reset_too() -> None:
    counted, fault = total((0, 1000), (1, 5), wrap_nj=WRAP_NJ)
    assert (counted.total_nj, fault) == (0, "was reset")


@pytest.mark.parametrize("at_s", [1.0, 0.0, -3600.0])
def test_a_rise_that_no_device_draws_is_no_energy(at_s: float) -> None:
    counted, fault = total((0, 0), (at_s, 5000))
    assert (counted.total_nj, fault) == (0, "jumped")


def test_a_clock_that_steps_changes_no_joule() -> None:
    counted, fault = total((100, 0), (5000, 50), (90, 100), (91, 150))
    assert (counted.total_nj, fault) == (150 * NJ, "")


def test_a_gap_in_which_it_may_have_wrapped_twice_is_unknown() -> None:
    counted, fault = total((0, 0), (1000, 10), wrap_nj=WRAP_NJ)
    assert (counted.total_nj, fault) == (0, "may have wrapped more than once")


def test_a_gap_without_a_wrap_is_counted() -> None:
    assert total((0, 0), (1000, 100_000))[0].total_nj == 100_000 * NJ


def test_a_recording_out_of_order_is_refused() -> None:
    with pytest.raises(ValueError, match="order of time"):
        RecordedCounter([Recorded(2.0, 0), Recorded(1.0, 0)])
    with pytest.raises(CounterError):
        RecordedCounter([Recorded(2.0, 0)]).read(1.0)


def meter_of(*recordings: list[tuple[float, int | None]]) -> CountersMeter:
    counters = [
        RecordedCounter([Recorded(*entry) for entry in recording], name=f"device-{place}")
        for place, recording in enumerate(recordings)
    ]
    return CountersMeter("nvml", "gpu", counters)


def test_devices_are_added_up() -> None:
    meter = meter_of([(0, 0), (1, 10)], [(0, 100), (1, 105)])
    for at_s in (0.0, 1.0):
        meter.sample(at_s)
    assert meter.devices == ("device-0", "device-1")
    assert meter.read() == (15, 1.0, 0, "")


def test_a_share_takes_its_part() -> None:
    counter = RecordedCounter([Recorded(0, 0), Recorded(1, 80)])
    meter = CountersMeter("nvml", "gpu", [counter], FixedShare(10, 80))
    for at_s in (0.0, 1.0):
        meter.sample(at_s)
    assert meter.read().energy_nj == 10


def test_a_counter_that_stands_still_counts_nothing() -> None:
    meter = meter_of([(0, 5), (FROZEN_S + 1, 6)])
    for at_s in (0.0, FROZEN_S - 1):
        meter.sample(at_s)
        assert meter.read().gaps == 0
    meter.sample(FROZEN_S)
    assert (meter.read().gaps, meter.read().trouble) == (1, "device-0 does not rise")
    meter.sample(FROZEN_S + 1)
    assert meter.read()[:3] == (1, FROZEN_S + 1, 1)


def test_a_lost_device_is_a_gap_with_its_name_and_comes_back_without_what_was_missed() -> None:
    meter = meter_of([(0, 0), (1, 10), (2, None), (3, 900), (4, 910), (64, 920)])
    for at_s in (0.0, 1.0, 2.0):
        meter.sample(at_s)
    lost = meter.read()
    assert (lost.energy_nj, lost.at_s, lost.gaps) == (10, 1.0, 1)
    assert lost.trouble.startswith("device-0")
    for at_s in (3.0, 4.0):
        meter.sample(at_s)
    back = meter.read()
    assert (back.energy_nj, back.gaps) == (20, 2)
    assert back.trouble
    meter.sample(4.0 + TROUBLE_MEMORY_S)
    assert meter.read().trouble == ""
