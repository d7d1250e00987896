"""NVML with GPUs whose counters a test sets: two cards, one of them cut into slices.

Its own module because what reads energy imports it by name.
"""

from __future__ import annotations

from dataclasses import dataclass, field

GIB = 1 << 30


class NVMLError(Exception):
    """What NVML raises."""


@dataclass
class Card:
    energy_mj: int | None = 0
    power_mw: int = 100_000
    lost: bool = False


@dataclass
class Driver:
    loaded: bool = True
    cards: dict[str, Card] = field(default_factory=lambda: {"GPU-a": Card(), "GPU-b": Card()})
    slices: dict[str, tuple[str, int]] = field(
        default_factory=lambda: {"MIG-1": ("GPU-b", 10 * 1024), "MIG-2": ("GPU-b", 20 * 1024)}
    )


driver = Driver()


@dataclass
class Attributes:
    memorySizeMB: int  # noqa: N815 (NVML's name)


@dataclass
class Memory:
    total: int


def _card(handle: str) -> Card:
    card = driver.cards[handle]
    if card.lost:
        raise NVMLError("GPU is lost")
    return card


def nvmlInit() -> None:  # noqa: N802
    if not driver.loaded:
        raise NVMLError("Driver Not Loaded")


def nvmlDeviceGetHandleByUUID(name: str) -> str:  # noqa: N802
    if name not in driver.cards and name not in driver.slices:
        raise NVMLError("Not Found")
    return name


def nvmlDeviceGetHandleByIndex(index: int) -> str:  # noqa: N802
    return list(driver.cards)[index]


def nvmlDeviceGetUUID(handle: str) -> bytes:  # noqa: N802
    return handle.encode()


def nvmlDeviceGetPowerManagementLimitConstraints(handle: str) -> tuple[int, int]:  # noqa: N802
    return 200_000, 700_000


def nvmlDeviceGetTotalEnergyConsumption(handle: str) -> int:  # noqa: N802
    energy_mj = _card(handle).energy_mj
    if energy_mj is None:
        raise NVMLError("Not Supported")
    return energy_mj


def nvmlDeviceGetPowerUsage(handle: str) -> int:  # noqa: N802
    return _card(handle).power_mw


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle: str) -> str:  # noqa: N802
    return driver.slices[handle][0]


def nvmlDeviceGetAttributes(handle: str) -> Attributes:  # noqa: N802
    return Attributes(driver.slices[handle][1])


def nvmlDeviceGetMemoryInfo(handle: str) -> Memory:  # noqa: N802
    return Memory(80 * GIB)
