"""NVML: the energy counters of NVIDIA GPUs, and what of one a MIG slice is.

Its own module because it alone speaks NVML to measure; a GPU that keeps no counter has its
power added up instead.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.counting_meter import FixedShare
from cluster.energy_counters import CounterError

if TYPE_CHECKING:
    from collections.abc import Iterable

_NJ_PER_MJ = 1_000_000
_MW = 1000.0
_MIB = 1 << 20
# Power limits are held over a second or so; for shorter a GPU draws more.
_PEAK_OVER_LIMIT = 2.0
_MIG = "MIG-"


class Gpu(NamedTuple):
    """A GPU, or a slice of one, that a replica holds.

    Attributes:
        name: its UUID, as NVML names it.
        card: UUID of the GPU that it is, or is a slice of.
        share: of the card's energy; None for all.

    """

    name: str
    card: str
    share: FixedShare | None = None


class Nvml:
    """NVML, initialised."""

    def __init__(self, module: str = "pynvml") -> None:
        """Initialise it.

        Args:
            module: that speaks NVML.

        Raises:
            CounterError: there is no driver.

        """
        try:
            self._nvml: Any = importlib.import_module(module)
            self._nvml.nvmlInit()
        except ImportError as error:
            raise CounterError(f"NVML needs {module}: {error}") from error
        except self._nvml.NVMLError as error:
            raise CounterError(f"NVML cannot be used: {error}") from error

    def gpus(self, names: Iterable[str]) -> tuple[Gpu, ...]:
        """Find GPUs and slices by UUID, or by number as CUDA_VISIBLE_DEVICES has them.

        Raises:
            CounterError: one is not there, or its share is not known.

        """
        return tuple(self._gpu(name.strip()) for name in names if name.strip())

    def counter(self, card: str) -> NvmlCounter | NvmlPower:
        """Give the counter of a GPU, or what stands in for it.

        Raises:
            CounterError: the GPU is not there, or says nothing of its energy.

        """
        nvml = self._nvml
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(card)
            most_w = nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle)[1] / _MW
        except nvml.NVMLError as error:
            raise CounterError(f"{card}: {error}") from error
        counter = NvmlCounter(nvml, card, _PEAK_OVER_LIMIT * most_w)
        try:
            counter.read_nj(0.0)
        except CounterError:
            power = NvmlPower(nvml, card, _PEAK_OVER_LIMIT * most_w)
            power.read_nj(0.0)
            return power
        return counter

    def _gpu(self, name: str) -> Gpu:
        nvml = self._nvml
        try:
            if name.isdigit():
                name = _text(nvml.nvmlDeviceGetUUID(nvml.nvmlDeviceGetHandleByIndex(int(name))))
            handle = nvml.nvmlDeviceGetHandleByUUID(name)
            if not name.startswith(_MIG):
                return Gpu(name, name)
            card = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            part = int(nvml.nvmlDeviceGetAttributes(handle).memorySizeMB)
            whole = int(nvml.nvmlDeviceGetMemoryInfo(card).total) // _MIB
            return Gpu(name, _text(nvml.nvmlDeviceGetUUID(card)), FixedShare(part, whole))
        except nvml.NVMLError as error:
            raise CounterError(f"GPU {name}: {error}") from error


class NvmlCounter:
    """Implements `shared_counter.RawCounter` with the counter that GPUs keep since Volta."""

    wrap_nj = None

    def __init__(self, nvml: Any, card: str, most_w: float) -> None:  # noqa: ANN401 (a module)
        """Name the GPU.

        Args:
            nvml: what speaks NVML.
            card: UUID.
            most_w: more than it can draw.

        """
        self.name = card
        self.most_w = most_w
        self._nvml = nvml

    def read_nj(self, now_s: float) -> int:
        """Read it.

        Raises:
            CounterError: the driver does not answer, or the GPU is gone.

        """
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(self.name)
            return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) * _NJ_PER_MJ
        except self._nvml.NVMLError as error:
            raise CounterError(f"cannot be read: {error}") from error


class NvmlPower:
    """Implements `shared_counter.RawCounter` by adding up power, for GPUs without a counter."""

    wrap_nj = None

    def __init__(self, nvml: Any, card: str, most_w: float) -> None:  # noqa: ANN401 (a module)
        """Begin at zero.

        Args:
            nvml: what speaks NVML.
            card: UUID.
            most_w: more than it can draw.

        """
        self.name = card
        self.most_w = most_w
        self._nvml = nvml
        self._energy_nj = 0
        self._last: tuple[float, float] | None = None

    def read_nj(self, now_s: float) -> int:
        """Read its power, and add what it has used since the last time.

        Raises:
            CounterError: the driver does not answer, or the GPU is gone.

        """
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(self.name)
            power_w = self._nvml.nvmlDeviceGetPowerUsage(handle) / _MW
        except self._nvml.NVMLError as error:
            raise CounterError(f"cannot be read: {error}") from error
        if self._last is not None:
            at_s, before_w = self._last
            mean_w = (before_w + power_w) / 2
            self._energy_nj += round(mean_w * max(0.0, now_s - at_s) * 1e9)
        self._last = (now_s, power_w)
        return self._energy_nj


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
