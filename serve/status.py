"""What a gateway says about the cluster: its models, its replicas, its counts.

Its own module because operators' questions have nothing to do with serving a call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from protos.jouleserve.v1 import cluster_pb2, inference_pb2
from scheduler.fleet import ReplicaReport
from scheduler.requests import VariantName
from serve.link import LinkState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from cluster.carbon import Grid
    from scheduler.attainment import Attainment
    from serve.config import Config
    from serve.config_models import ModelConfig, VariantConfig
    from serve.energy_books import EnergyBooks
    from serve.engines import Engines
    from serve.link import Link
    from serve.recent_decisions import RecentDecision
    from serve.tally import Tally
    from serve.troubles import Trouble

SILENT = ReplicaReport(observed_at_s=0.0)


def models(config: Config, awake: Mapping[VariantName, int]) -> inference_pb2.ListModelsResponse:
    """Every model with its variants, objectives and awake replicas."""
    classes = [
        inference_pb2.ServiceClass(
            name=name,
            objective=inference_pb2.Objective(
                ttft_s=each.ttft_s, tpot_s=each.tpot_s, min_quality=each.min_quality
            ),
        )
        for name, each in config.service_classes.items()
    ]
    return inference_pb2.ListModelsResponse(
        models=[_model(model, awake, classes) for model in config.models]
    )


def _model(
    model: ModelConfig,
    awake: Mapping[VariantName, int],
    classes: list[inference_pb2.ServiceClass],
) -> inference_pb2.Model:
    return inference_pb2.Model(
        name=model.name,
        max_context_tokens=max(variant.max_context_tokens for variant in model.variants),
        variants=[
            _variant(variant, awake.get(VariantName(variant.name), 0)) for variant in model.variants
        ],
        service_classes=classes,
        default_service_class=model.default_service_class,
    )


def _variant(variant: VariantConfig, awake_replicas: int) -> inference_pb2.Variant:
    derived = variant.checkpoint.quantize if variant.checkpoint is not None else None
    return inference_pb2.Variant(
        name=variant.name,
        dtype=variant.dtype,
        quantization=derived or variant.quantization or "",
        accelerator=variant.accelerator,
        quality=variant.quality,
        awake_replicas=awake_replicas,
    )


def cluster(
    config: Config, engines: Engines, tally: Tally, troubles: Iterable[Trouble], now_s: float
) -> cluster_pb2.GetStatusResponse:
    """Replicas, leases and counts as one gateway knows them, and what is wrong."""
    return cluster_pb2.GetStatusResponse(
        gateway=engines.gateway,
        policy=config.scheduler.policy,
        replicas=[_replica(config, engines, link, now_s) for link in engines.links.values()],
        counters=cluster_pb2.Counters(
            accepted=tally.accepted,
            completed=tally.completed,
            cancelled=tally.cancelled,
            failed=tally.failed,
            rejected=tally.rejected,
            in_flight=tally.in_flight,
            leases=len(engines.leases),
        ),
        troubles=[
            cluster_pb2.Trouble(subject=each.subject, reason=each.reason) for each in troubles
        ],
    )


def _replica(config: Config, engines: Engines, link: Link, now_s: float) -> cluster_pb2.Replica:
    model, variant = config.variant(link.variant)
    report = engines.reports.get(link.replica, SILENT)
    return cluster_pb2.Replica(
        model=model.name,
        variant=variant.name,
        replica=link.replica,
        node=link.node,
        accelerator=variant.accelerator,
        state=_state(engines, link),
        age_s=now_s - report.observed_at_s,
        running_requests=report.running_requests,
        waiting_requests=report.waiting_requests,
        kv_cache_usage=report.kv_cache_usage,
        prefill_tokens_per_s=report.prefill_tokens_per_s,
        decode_tokens_per_s=report.decode_tokens_per_s,
        step_time_s=report.step_time_s,
        power_w=report.power_w,
        energy_j=report.energy_j,
        leases=engines.leases.held(link.replica),
        energy_method=report.energy_method,
        energy_boundary=report.energy_boundary,
        idle_j=report.idle_j,
        residual_j=report.residual_j,
        devices=report.devices,
        max_batch=variant.max_batch,
        meter_trouble=report.meter_trouble,
    )


def accounts(books: EnergyBooks) -> Iterator[cluster_pb2.EnergyAccount]:
    """Say whose joules they were."""
    for key, account in books:
        yield cluster_pb2.EnergyAccount(
            tenant=key.tenant,
            service_class=key.service_class,
            variant=key.variant,
            requests=account.requests,
            prompt_tokens=account.prompt_tokens,
            completion_tokens=account.completion_tokens,
            energy_j=account.energy_j,
            gco2e=account.gco2e,
        )


def carbon(grid: Grid | None) -> cluster_pb2.CarbonIntensity | None:
    """Say what a kilowatt hour emits; None where nobody knows."""
    intensity = None if grid is None else grid.now()
    return None if intensity is None else cluster_pb2.CarbonIntensity(**intensity._asdict())


def service_classes(met: Attainment, now_s: float) -> Iterator[cluster_pb2.ServiceClassStatus]:
    """Say what requests have met lately, class by class."""
    for name, counts in met.within_window(now_s).items():
        yield cluster_pb2.ServiceClassStatus(
            service_class=name, window_s=met.window_s, **counts._asdict()
        )


def decisions(
    newest: Iterable[RecentDecision], now_s: float
) -> Iterator[cluster_pb2.RecentDecision]:
    """Say what was decided, and how long ago."""
    for each in newest:
        fields = each._asdict()
        made_at_s = fields.pop("made_at_s")
        yield cluster_pb2.RecentDecision(**fields, age_s=max(0.0, now_s - made_at_s))


def _state(engines: Engines, link: Link) -> str:
    rests = link.state is LinkState.AWAKE and engines.rests(link.replica)
    return "resting" if rests else link.state
