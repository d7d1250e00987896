"""A counter's faults in the books: what was not counted is modelled, marked, and never lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cluster.counting_meter import CountersMeter
from cluster.meters import NJ
from cluster.recorded_counter import Recorded, RecordedCounter
from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.engine import EngineStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serve.frames import RequestEnergy

# A decode step is 5 J in half a second; idle is 2 W.
STEPS = AffineSteps(0.5, 0.0, 5.0, 0.0, 0.001, 0.0)
IDLE_W = 2.0


class Bench:
    """A ledger over a recording, and a request alone on its replica, a step each half second."""

    def __init__(self, recording: Sequence[tuple[float, float | None]]) -> None:
        entries = [
            Recorded(at_s, None if energy_j is None else round(energy_j * NJ))
            for at_s, energy_j in recording
        ]
        self.meter = CountersMeter("nvml", "gpu", [RecordedCounter(entries)])
        self.meter.sample(0.0)
        self.ledger = Ledger(STEPS, IDLE_W, "model", "gpu", self.meter, window_s=1.0)
        self.ledger.advance(0.0)

    def rest(self, from_s: int, to_s: int, *, read: bool = True) -> None:
        for now_s in range(from_s + 1, to_s + 1):
            if read:
                self.meter.sample(float(now_s))
            self.ledger.advance(float(now_s))

    def serve(self, from_s: int, to_s: int, *, read: bool = True) -> RequestEnergy:
        self.ledger.admit("a", 10, float(from_s))
        self.ledger.first_token("a")
        for now_s in range(from_s + 1, to_s + 1):
            for part_s in (now_s - 0.5, float(now_s)):
                self.ledger.step(EngineStep(0.5, 0, 1, 1, 1, 0, 0.0), part_s)
            if read:
                self.meter.sample(float(now_s))
            self.ledger.advance(float(now_s))
        return self.ledger.settle("a", 0, 2, float(to_s))


def test_what_is_counted_goes_to_the_request_and_idle_time_to_nobody() -> None:
    bench = Bench([(second, 23.0 * second) for second in range(5)] + [(5.0, 92 + 2.0)])
    energy = bench.serve(0, 4)
    bench.rest(4, 5)
    assert energy[:5] == (0.0, 92.0, "nvml", "gpu", 1.0)
    assert energy.mean_power_w == pytest.approx(23.0)
    parts = bench.ledger.parts()
    assert (parts.idle_nj, parts.pending_nj, parts.residual_nj) == (2 * NJ, 0, 0)
    assert bench.ledger.power_w < 23.0
    assert bench.ledger.devices == ("recorded",)


@pytest.mark.parametrize(
    "recording",
    [
        pytest.param([(0, 1000), (1, 1020), (2, 7), (3, 27), (4, 47)], id="reset"),
        pytest.param([(0, 0), (1, 20), (2, 90_000), (3, 90_020), (4, 90_040)], id="jump"),
        pytest.param([(0, 0), (1, 20), (2, None), (3, 900), (4, 920)], id="lost"),
        pytest.param([(0, 1000), (1, 1020), (2, 900), (3, 920), (4, 940)], id="negative"),
    ],
)
def test_a_window_with_a_fault_is_modelled_and_marked(
    recording: list[tuple[float, float | None]],
) -> None:
    bench = Bench(recording)
    energy = bench.serve(0, 4)
    assert energy.method == "model"
    # Two windows of 20 J were counted, or three; the others are 10 J by the model.
    assert 60.0 <= energy.decode_j <= 70.0
    assert bench.ledger.trouble
    parts = bench.ledger.parts()
    assert parts.residual_nj == parts.pending_nj == 0
    assert parts.energy_nj == round(energy.decode_j * NJ)


def test_a_request_after_the_fault_is_counted_again() -> None:
    bench = Bench([(0, 1000), (1, 5), (2, 25), (3, 45)])
    assert bench.serve(0, 1).method == "model"
    assert bench.serve(1, 3)[1:3] == (40.0, "nvml")


def test_a_counter_that_nobody_reads_any_more_is_modelled_meanwhile() -> None:
    bench = Bench([(0, 0), (1, 20), (60, 9999), (61, 10_019), (62, 10_039)])
    assert bench.serve(0, 1).method == "nvml"
    energy = bench.serve(1, 20, read=False)
    assert energy.method == "model"
    assert energy.decode_j == pytest.approx(19 * 10.0, rel=0.3)
    assert "no reading" in bench.ledger.trouble
    before_j = bench.ledger.energy_j
    bench.meter.sample(60.0)
    bench.ledger.advance(60.0)
    assert bench.ledger.energy_j - before_j == pytest.approx(40 * IDLE_W)
    assert bench.ledger.trouble == ""
    assert bench.serve(60, 62)[1:3] == (40.0, "nvml")
    assert bench.ledger.parts().residual_nj == 0


def test_work_is_measured_window_by_window() -> None:
    bench = Bench([(0, 0), (1, 23.0)])
    bench.serve(0, 1)
    assert bench.ledger.take_measured_j() == 23.0
    assert bench.ledger.take_measured_j() is None
    assert Ledger(STEPS, IDLE_W, "model", "gpu").take_measured_j() is None


def test_who_ends_within_a_window_is_charged_what_such_work_has_lately_come_to() -> None:
    bench = Bench([(second, 23.0 * second) for second in range(10)])
    bench.serve(0, 4)
    bench.ledger.admit("b", 10, 4.0)
    bench.ledger.first_token("b")
    bench.ledger.step(EngineStep(0.5, 0, 1, 1, 1, 0, 0.0), 4.5)
    assert bench.ledger.settle("b", 0, 2, 4.5).decode_j == pytest.approx(11.5)
    assert bench.ledger.parts().residual_nj == 0
    bench.rest(4, 6)
    parts = bench.ledger.parts()
    assert parts.pending_nj == 0
    assert parts.energy_nj == 6 * 23 * NJ
