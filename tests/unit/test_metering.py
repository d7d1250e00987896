"""Which meter a replica gets on which machine, and what it is told where it gets none."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from cluster.energy_counters import CounterError
from cluster.metering import Hardware, Holding, choose
from cluster.meters import NJ
from cluster.nvml import Nvml
from cluster.processor_share import CoreWeights
from scheduler.steps import AffineSteps
from serve.attribution import Ledger
from serve.config_models import EchoConfig, VariantConfig
from serve.engine import EngineRequest
from serve.engine_echo import EchoEngine
from serve.load import LoadMeter
from serve.replica import Replica, Telemetry
from serve.replica_meter import choose_meter, held_gpus
from tests import nvml_energy_fake as fake
from tests.unit.test_rapl import domain
from tests.unit.test_shared_counter import eventually, show

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.metering import Wish

NVML = fake.__name__
WEIGHTS = CoreWeights(5.0, 1.5)
STEPS = AffineSteps(0.002, 0.0, 0.01, 0.0, 1e-6, 1e-6)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> fake.Driver:
    """Give GPUs that nobody has used yet."""
    monkeypatch.setattr(fake, "driver", fake.Driver())
    return fake.driver


@pytest.fixture
def hardware(tmp_path: Path) -> Hardware:
    """Give a machine with those GPUs and no counter of its processors."""
    (tmp_path / "rapl").mkdir()
    (tmp_path / "shared").mkdir()
    return Hardware(tmp_path / "rapl", NVML, tmp_path / "shared")


def gpu(*names: str) -> Holding:
    return Holding("gpu", names, 1.0, WEIGHTS)


CPU = Holding("cpu", (), 1.0, WEIGHTS)


def test_auto_counts_the_gpus_of_a_replica(driver: fake.Driver, hardware: Hardware) -> None:
    meter, trouble = choose("auto", gpu("GPU-a", "GPU-b"), hardware)
    assert meter is not None
    assert (meter.method, meter.boundary, meter.devices) == ("nvml", "gpu", ("GPU-a", "GPU-b"))
    assert trouble == ""
    meter.start()
    driver.cards["GPU-a"].energy_mj = 30
    driver.cards["GPU-b"].energy_mj = 12
    assert eventually(lambda: meter.read().energy_nj == 42_000_000)
    meter.close()
    again, _ = choose("auto", gpu("0"), hardware)
    assert again is not None
    assert again.devices == ("GPU-a",)
    again.close()


def test_a_slice_bears_its_part_of_the_card(driver: fake.Driver, hardware: Hardware) -> None:
    (found,) = Nvml(NVML).gpus(["MIG-1"])
    assert found.card == "GPU-b"
    assert found.share is not None
    assert found.share.of(8 * NJ) == NJ
    meter, _ = choose("nvml", gpu("MIG-1"), hardware)
    assert meter is not None
    assert meter.devices == ("GPU-b",)
    meter.close()


def test_a_card_without_a_counter_has_its_power_added_up(driver: fake.Driver) -> None:
    driver.cards["GPU-a"].energy_mj = None
    counter = Nvml(NVML).counter("GPU-a")
    begin_nj = counter.read_nj(10.0)
    driver.cards["GPU-a"].power_mw = 300_000
    assert counter.read_nj(12.0) - begin_nj == pytest.approx(400 * NJ)


def test_a_card_that_is_lost_says_so(driver: fake.Driver) -> None:
    counter = Nvml(NVML).counter("GPU-a")
    driver.cards["GPU-a"].lost = True
    with pytest.raises(CounterError, match="GPU is lost"):
        counter.read_nj(0.0)


@pytest.mark.parametrize(
    ("wish", "holding", "told"),
    [
        ("auto", CPU, ""),
        ("model", gpu("GPU-a"), ""),
        ("rapl", CPU, "there is no rapl counter"),
        ("nvml", CPU, "computes on processors"),
        ("rapl", gpu("GPU-a"), "computes on GPUs"),
        ("auto", gpu(), "not known on its node"),
        ("auto", gpu("GPU-z"), "Not Found"),
        ("auto", gpu("MIG-1", "MIG-2"), "different sizes"),
    ],
)
def test_what_cannot_be_counted_is_modelled_and_says_why(
    wish: Wish, holding: Holding, told: str, driver: fake.Driver, hardware: Hardware
) -> None:
    meter, trouble = choose(wish, holding, hardware)
    assert meter is None
    assert told in trouble
    assert bool(trouble) == bool(told)


def test_no_driver_is_told(driver: fake.Driver, hardware: Hardware) -> None:
    driver.loaded = False
    assert "Driver Not Loaded" in choose("auto", gpu("GPU-a"), hardware).trouble
    missing = hardware._replace(nvml="tests.no_such_module")
    assert "no_such_module" in choose("auto", gpu("GPU-a"), missing).trouble


def test_auto_counts_processors_where_they_can_be(hardware: Hardware) -> None:
    domain(hardware.rapl_root, "intel-rapl:0", "package-0")
    meter, trouble = choose("auto", CPU, hardware)
    assert meter is not None
    assert (meter.method, meter.boundary, meter.devices) == ("rapl", "cpu", ("package-0",))
    assert trouble == ""
    meter.close()


ECHO = VariantConfig(name="v", engine="echo", accelerator="cpu", echo=EchoConfig())


def test_the_echo_engine_is_counted_only_where_somebody_insists(hardware: Hardware) -> None:
    domain(hardware.rapl_root, "intel-rapl:0", "package-0")
    assert choose_meter("auto", ECHO, (), hardware).meter is None
    meter, _ = choose_meter("rapl", ECHO, (), hardware)
    assert meter is not None
    assert meter.read().gaps == 0
    meter.close()


class Ranks:
    """An engine that knows where its ranks are."""

    def __init__(self, *held: tuple[str, str]) -> None:
        self.held = list(held)

    async def gpus(self) -> list[tuple[str, str]]:
        if not self.held:
            raise RuntimeError("no such method")
        return self.held


async def test_gpus_are_what_the_ranks_hold_on_this_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "here")
    here = Ranks(("here", "GPU-a"), ("here", "GPU-b"))
    assert await held_gpus(here, {}) == ("GPU-a", "GPU-b")  # type: ignore[arg-type]
    there = Ranks(("here", "GPU-a"), ("there", "GPU-b"))
    assert await held_gpus(there, {}) == ()  # type: ignore[arg-type]
    assert await held_gpus(Ranks(), {}) == ()  # type: ignore[arg-type]
    sliced = {"CUDA_VISIBLE_DEVICES": "MIG-1"}
    assert await held_gpus(here, sliced) == ("MIG-1",)  # type: ignore[arg-type]
    assert await held_gpus(object(), {"CUDA_VISIBLE_DEVICES": "0,1"}) == ("0", "1")  # type: ignore[arg-type]


async def test_a_replica_is_counted_while_it_serves(hardware: Hardware) -> None:
    """Counter, thread, share, window and books together: no joule is on no account."""
    place = domain(hardware.rapl_root, "intel-rapl:0", "package-0", "0")
    meter, _ = choose_meter("rapl", ECHO, (), hardware)
    assert meter is not None
    ledger = Ledger(STEPS, 1.0, "model", "cpu", meter, window_s=0.1)
    books = Telemetry(LoadMeter(time.monotonic(), counted=True), ledger, time.monotonic)
    engine = EchoEngine(0.002, 1e6, 64, 4096, books.observe)
    await engine.start()
    replica = Replica("r", engine, books, 0.05)
    frames = asyncio.create_task(anext(replica.frames("g")))
    calls = [
        asyncio.create_task(replica.generate(EngineRequest(str(n), [1, 2], 100), n, "g"))
        for n in range(8)
    ]
    for used_uj in range(1, 15):
        await asyncio.sleep(0.05)
        show(place / "energy_uj", used_uj * 1_000_000)
        calls[7].cancel()
        assert books.report().residual_j == 0.0
    await asyncio.wait([*calls, frames])
    report = books.report()
    assert (report.energy_method, report.meter_trouble) == ("rapl", "")
    assert 0 < report.energy_j <= 14.0
    assert report.totals.busy_j > 0
    await replica.stop()
    meter.close()
