"""A GPU's power limit is put back whatever ends whoever wanted it; on a GPU that is a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from cluster.power_limit import PowerLimit, PowerLimitError
from tests import nvml_fake
from tests.nvml_fake import DEFAULT_MW, GPU

if TYPE_CHECKING:
    from pathlib import Path

NVML = "tests.nvml_fake"
WAIT_S = 20.0


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file that says what the GPU's limit is."""
    file = tmp_path / "gpu"
    file.write_text(str(DEFAULT_MW))
    monkeypatch.setenv(nvml_fake.PLACE, str(file))
    return file


def eventually(gpu: Path, limit_mw: int) -> bool:
    deadline_s = time.monotonic() + WAIT_S
    while time.monotonic() < deadline_s:
        if gpu.read_text() == str(limit_mw):
            return True
        time.sleep(0.02)
    return False


def test_it_holds_until_it_is_closed(gpu: Path, tmp_path: Path) -> None:
    with PowerLimit(GPU, 300.0, tmp_path / "records", NVML):
        assert gpu.read_text() == "300000"
    assert gpu.read_text() == str(DEFAULT_MW)
    assert not any((tmp_path / "records").iterdir())


def test_an_error_puts_it_back(gpu: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), PowerLimit(GPU, 300.0, tmp_path / "records", NVML):
        _ = 1 / 0
    assert gpu.read_text() == str(DEFAULT_MW)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_limit(gpu: Path, tmp_path: Path, number: int) -> None:
    wants = (
        "import sys, time; from pathlib import Path; from cluster.power_limit import PowerLimit;"
        f"limit = PowerLimit({GPU!r}, 300.0, Path(sys.argv[1]), {NVML!r}); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", wants, str(tmp_path / "records")])
    try:
        assert eventually(gpu, 300_000)
        os.kill(process.pid, number)
        assert eventually(gpu, DEFAULT_MW)
    finally:
        process.kill()
        process.wait()


def test_what_a_killed_keeper_left_is_put_back_after_the_next(gpu: Path, tmp_path: Path) -> None:
    records = tmp_path / "records"
    first = PowerLimit(GPU, 300.0, records, NVML)
    os.kill(first.keeper, signal.SIGKILL)
    first.close()
    assert gpu.read_text() == "300000"
    with PowerLimit(GPU, 400.0, records, NVML):
        assert gpu.read_text() == "400000"
    assert gpu.read_text() == str(DEFAULT_MW)


def test_a_limit_that_the_gpu_cannot_have_is_refused(gpu: Path, tmp_path: Path) -> None:
    with pytest.raises(PowerLimitError, match="give 200 to 700 W"):
        PowerLimit(GPU, 100.0, tmp_path / "records", NVML)
    assert gpu.read_text() == str(DEFAULT_MW)


def test_who_may_not_set_it_is_told_so(
    gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_NVML_USER", "nobody")
    with pytest.raises(PowerLimitError, match="root only"):
        PowerLimit(GPU, 300.0, tmp_path / "records", NVML)
    assert gpu.read_text() == str(DEFAULT_MW)


@pytest.mark.parametrize(
    ("name", "nvml", "told"),
    [("GPU-2", NVML, "Not Found"), (GPU, "tests.no_such_module", "no_such_module")],
)
def test_no_such_gpu_or_no_driver_is_told(
    gpu: Path, tmp_path: Path, name: str, nvml: str, told: str
) -> None:
    with pytest.raises(PowerLimitError, match=told):
        PowerLimit(name, 300.0, tmp_path / "records", nvml)
