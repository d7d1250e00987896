"""A replica as Ray Serve starts it: engine, books and meters of one variant, put together.

Its own module because it is all of a replica that knows Ray, configuration and engines.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from ray import serve as ray_serve

from cluster import telemetry
from cluster import telemetry_metrics as measures
from cluster.telemetry_attributes import REPLICA, VARIANT
from serve import catalogue
from serve.config_models import VariantConfig
from serve.load import LoadMeter
from serve.logs import join_serve_log
from serve.observation import engine_tracer
from serve.replica import Replica, Telemetry
from serve.replica_meter import choose_meter, held_gpus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cluster.metering import Metering, Wish
    from serve.config_models import CheckpointConfig
    from serve.engine import Engine, StepObserver


class ReplicaDeployment(Replica):
    """A replica as Ray Serve starts it; the deployment's options live in `serve.application`."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors.
        self, variant: dict[str, Any], report_period_s: float, meter: Wish
    ) -> None:
        """Load the engine of a variant; returns when it can serve.

        Args:
            variant: its configuration, as JSON values.
            report_period_s: longest silence towards a gateway.
            meter: how energy is to be known.

        """
        join_serve_log()
        config = VariantConfig.model_validate(variant)
        ledger = await asyncio.to_thread(catalogue.ledger, config)
        books = Telemetry(LoadMeter(time.monotonic()), ledger, time.monotonic)
        engine = await asyncio.to_thread(make_engine, config, books.observe)
        await engine.start()
        self._metering = await _count(books, meter, config, engine)
        name = ray_serve.get_replica_context().replica_id.unique_id
        self._exports = telemetry.configure("jouleserve-replica", variant=config.name, replica=name)
        trace = engine_tracer(self._exports, config.name)
        super().__init__(name, engine, books, report_period_s, trace)
        _observe(books, {VARIANT: config.name, REPLICA: name})

    async def __del__(self) -> None:
        """End the engine; Ray Serve awaits this when the replica has drained."""
        await self.stop()
        if self._metering.meter is not None:
            await asyncio.to_thread(self._metering.meter.close)
        await asyncio.to_thread(self._exports.shutdown)


async def _count(books: Telemetry, wish: Wish, config: VariantConfig, engine: Engine) -> Metering:
    """Begin the books of energy anew, by a counter if there is one; what was loaded is nobody's."""
    gpus = await held_gpus(engine)
    metering = await asyncio.to_thread(choose_meter, wish, config, gpus)
    ledger = await asyncio.to_thread(catalogue.ledger, config, metering)
    books.begin(LoadMeter(time.monotonic(), counted=metering.meter is not None), ledger)
    return metering


def _observe(books: Telemetry, whose: Mapping[str, str]) -> None:
    """Have the newest report read whenever metrics are exported, in the exporter's thread."""
    measures.observe(measures.RUNNING_REQUESTS, lambda: books.latest.running_requests, whose)
    measures.observe(measures.WAITING_REQUESTS, lambda: books.latest.waiting_requests, whose)
    measures.observe(measures.KV_CACHE_USAGE, lambda: books.latest.kv_cache_usage, whose)
    measures.observe(measures.POWER_W, lambda: books.latest.power_w, whose)
    measures.observe(measures.REPLICA_ENERGY_J, lambda: books.latest.energy_j, whose)
    measures.observe(measures.IDLE_ENERGY_J, lambda: books.latest.idle_j, whose)
    measures.observe(measures.ENERGY_RESIDUAL_J, lambda: books.latest.residual_j, whose)
    measures.observe(measures.METER_LOST, lambda: bool(books.latest.meter_trouble), whose)


def _token_texts(checkpoint: CheckpointConfig) -> Callable[[int], str]:
    from serve.checkpoints import materialize
    from serve.echo_text import token_texts

    return token_texts(materialize(checkpoint.source), checkpoint.revision)


def make_engine(variant: VariantConfig, observe: StepObserver) -> Engine:
    """Make the engine that a variant asks for, not started; blocks while weights are fetched."""
    if variant.engine == "echo":
        from serve.engine_echo import EchoEngine, echo_text

        return EchoEngine(
            variant.echo.decode_step_s,
            variant.echo.prefill_tokens_per_s,
            variant.max_batch,
            variant.max_context_tokens,
            observe,
            text=echo_text if variant.checkpoint is None else _token_texts(variant.checkpoint),
        )
    from serve.checkpoints import materialize

    if variant.checkpoint is None:
        raise ValueError(f"variant {variant.name!r} has no checkpoint")
    checkpoint = materialize(variant.checkpoint.source)
    match variant.engine:
        case "llamacpp":
            from serve.engine_llamacpp import LlamaCppEngine, llamacpp_options

            return LlamaCppEngine(llamacpp_options(variant, checkpoint), observe)
        case "tensorrt":
            from serve.engine_tensorrt import TensorRtEngine, tensorrt_options

            return TensorRtEngine(tensorrt_options(variant, checkpoint), observe)
        case _:
            from serve.engine_vllm import VllmEngine, vllm_options

            return VllmEngine(vllm_options(variant, checkpoint), observe)
