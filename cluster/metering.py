"""Which meter a replica gets: the best that its machine has, or the one that was asked for.

Its own module because it is a decision, with a reason that operators get to read: counters
that are there and cannot be used are named, and never quietly replaced.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from cluster import rapl
from cluster.device_meter import DeviceMeter
from cluster.energy_counters import CounterError
from cluster.nvml import Nvml
from cluster.processor_share import ProcessorShare
from cluster.shared_counter import SharedCounter, shared_place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cluster.processor_share import CoreWeights
    from cluster.shared_counter import RawCounter

Wish: TypeAlias = Literal["auto", "model", "nvml", "rapl"]


class Holding(NamedTuple):
    """What a replica holds of its node.

    Attributes:
        boundary: "gpu" or "cpu".
        gpus: that it holds, by UUID or number; None where nobody could tell.
        cores: reserved for it.
        weights: of the processor's cores.

    """

    boundary: Literal["gpu", "cpu"]
    gpus: tuple[str, ...] | None
    cores: float
    weights: CoreWeights


class Metering(NamedTuple):
    """A choice.

    Attributes:
        meter: that counts, not started; None where energy is modelled.
        trouble: why it is not what was asked for, or not what the machine has; else empty.

    """

    meter: DeviceMeter | None
    trouble: str = ""


MODELLED = Metering(None)
"""Nothing is counted, and nothing is missed."""


class Hardware(NamedTuple):
    """Where counters are looked for.

    Attributes:
        rapl_root: where Linux shows them.
        nvml: module that speaks NVML.
        place: directory that replicas of this node share; None for the usual one.

    """

    rapl_root: Path = rapl.ROOT
    nvml: str = "pynvml"
    place: Path | None = None


def choose(wish: Wish, holding: Holding, hardware: Hardware | None = None) -> Metering:
    """Choose the meter of a replica.

    `auto` takes NVML for a replica on GPUs and RAPL for one on processors. Whatever cannot be
    had is modelled instead, and the trouble says why, unless there is simply no counter.
    """
    hardware = hardware or Hardware()
    if wish == "model":
        return MODELLED
    wanted = ("nvml" if holding.boundary == "gpu" else "rapl") if wish == "auto" else wish
    try:
        meter = _nvml(holding, hardware) if wanted == "nvml" else _rapl(holding, hardware)
    except CounterError as error:
        return Metering(None, f"{error}; energy is modelled")
    if meter is None and wish != "auto":
        return Metering(None, f"there is no {wish} counter here; energy is modelled")
    return Metering(meter)


def _rapl(holding: Holding, hardware: Hardware) -> DeviceMeter | None:
    if holding.boundary == "gpu":
        raise CounterError("rapl counts processors, and this replica computes on GPUs")
    found = rapl.counters(hardware.rapl_root)
    if not found:
        return None
    share = ProcessorShare(holding.cores, holding.weights)
    return DeviceMeter("rapl", "cpu", _shared(found, hardware), share)


def _nvml(holding: Holding, hardware: Hardware) -> DeviceMeter:
    if holding.boundary == "cpu":
        raise CounterError("nvml counts GPUs, and this replica computes on processors")
    if not holding.gpus:
        raise CounterError("which GPUs this replica holds is not known on its node")
    nvml = Nvml(hardware.nvml)
    gpus = nvml.gpus(holding.gpus)
    shares = {gpu.share for gpu in gpus}
    if len(shares) > 1:
        raise CounterError("this replica holds slices of different sizes")
    (share,) = shares
    cards = dict.fromkeys(gpu.card for gpu in gpus)
    if len(cards) < len(gpus):
        raise CounterError("this replica holds several slices of one GPU")
    counters = [nvml.counter(card) for card in cards]
    return DeviceMeter("nvml", "gpu", _shared(counters, hardware), share)


def _shared(counters: Sequence[RawCounter], hardware: Hardware) -> tuple[SharedCounter, ...]:
    place = hardware.place or shared_place(os.environ)
    return tuple(SharedCounter(counter, place) for counter in counters)
