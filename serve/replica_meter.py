"""The meter of a replica: from what its variant says and its engine holds.

Its own module because it joins configuration, engine and hardware once, when a replica starts.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from cluster.accelerators import CATALOGUE
from cluster.metering import MODELLED, Hardware, Holding, Metering, choose
from cluster.processor_share import CoreWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cluster.metering import Wish
    from serve.config_models import VariantConfig
    from serve.engine import Engine

logger = logging.getLogger("jouleserve.serve")

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_MIG = "MIG-"


@runtime_checkable
class HoldsGpus(Protocol):
    """An engine that knows which GPUs its ranks hold."""

    async def gpus(self) -> list[tuple[str, str]]:
        """Give the node and the UUID of each."""


async def held_gpus(engine: Engine, environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Say which GPUs of this node a replica holds; none where nobody could tell, or on others.

    Slices are known by the environment only: to their processes, a slice is a GPU.
    """
    visible = tuple(name for name in environ.get(_VISIBLE, "").split(",") if name)
    if any(name.startswith(_MIG) for name in visible) or not isinstance(engine, HoldsGpus):
        return visible
    try:
        held = await engine.gpus()
    except Exception:
        # A replica that cannot be metered can still serve; its trouble says what is missing.
        logger.exception("the engine does not say which GPUs it holds")
        return ()
    here = socket.gethostname()
    return tuple(uuid for node, uuid in held) if all(node == here for node, _ in held) else ()


def choose_meter(
    wish: Wish, entry: VariantConfig, gpus: tuple[str, ...], hardware: Hardware | None = None
) -> Metering:
    """Choose the meter of a replica, and start it.

    The echo engine draws nothing of what it pretends to: it is modelled unless somebody insists.

    Args:
        wish: of the operator.
        entry: the variant.
        gpus: that the replica holds.
        hardware: where counters are looked for.

    """
    if entry.engine == "echo" and wish == "auto":
        return MODELLED
    processor = CATALOGUE["cpu"]
    holding = Holding(
        CATALOGUE[entry.accelerator].boundary,
        gpus,
        entry.ranks * entry.cpus_per_replica,
        CoreWeights(processor.tdp_w, processor.context_w),
    )
    metering = choose(wish, holding, hardware)
    if metering.trouble:
        logger.warning("energy meter: %s", metering.trouble)
    if metering.meter is not None:
        metering.meter.start()
        logger.info("energy of %s is counted by %s", entry.name, metering.meter.method)
    return metering
