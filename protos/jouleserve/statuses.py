"""What a cluster is doing, as a gateway knows it: replicas, promises, joules, decisions.

Its own module because only operators ask for it; whoever generates text never does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.jouleserve.wire_fields import read

if TYPE_CHECKING:
    from protos.jouleserve.v1 import cluster_pb2


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica, as the gateway that answered knows it.

    Attributes:
        model: that it serves.
        variant: that it serves.
        replica: its name.
        node: that it runs on.
        accelerator: that it runs on.
        state: starting, awake, draining or lost.
        age_s: of its newest report.
        running_requests: over all gateways.
        waiting_requests: over all gateways.
        kv_cache_usage: share of KV blocks in use, 0 to 1.
        prefill_tokens_per_s: recent rate.
        decode_tokens_per_s: recent rate.
        step_time_s: recent mean of an engine step.
        power_w: recent mean.
        energy_j: since it started.
        leases: held by this gateway.
        energy_method: how its energy is known: model, nvml or rapl.
        energy_boundary: what is counted: gpu, cpu or node.
        idle_j: of energy_j, what belongs to no request.
        residual_j: energy_j less everything that was attributed; 0 unless the books are wrong.
        devices: that its meter reads; empty where energy is modelled.
        max_batch: most sequences in its batch.
        meter_trouble: what is wrong with its meter; empty if nothing is.

    """

    model: str
    variant: str
    replica: str
    node: str
    accelerator: str
    state: str
    age_s: float
    running_requests: int
    waiting_requests: int
    kv_cache_usage: float
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    step_time_s: float
    power_w: float
    energy_j: float
    leases: int
    energy_method: str = "model"
    energy_boundary: str = ""
    idle_j: float = 0.0
    residual_j: float = 0.0
    devices: tuple[str, ...] = ()
    max_batch: int = 0
    meter_trouble: str = ""


@dataclass(frozen=True, slots=True)
class Counters:
    """Requests since the gateway started: accepted = completed + cancelled + failed + in flight."""

    accepted: int
    completed: int
    cancelled: int
    failed: int
    rejected: int
    in_flight: int
    leases: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something that is wrong while serving goes on.

    Attributes:
        subject: a model, a variant, a group of nodes, or a part of Jouleserve.
        reason: one line.

    """

    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServiceClassStatus:
    """What requests of one service class have met lately, as one gateway saw them.

    Attributes:
        service_class: its name.
        window_s: that the counts are of.
        requests: completed or failed, in number.
        within_ttft: of these, completed within their own objective of TTFT.
        within_tpot: the same for TPOT.
        within_both: the same for both at once.

    """

    service_class: str
    window_s: float
    requests: int
    within_ttft: int
    within_tpot: int
    within_both: int

    @property
    def attainment(self) -> float | None:
        """Share of requests that met both objectives, 0 to 1; None without requests."""
        return self.within_both / self.requests if self.requests else None


@dataclass(frozen=True, slots=True)
class RecentDecision:
    """Where a request went, and why.

    Attributes:
        request_id: of the request.
        age_s: since it was made.
        model: that the request named.
        service_class: that it belongs to.
        policy: that decided.
        variant: chosen.
        replica: chosen.
        reason: one line.
        candidates: replicas that were considered.
        eligible: of these, that could have served it.

    """

    request_id: str
    age_s: float
    model: str
    service_class: str
    policy: str
    variant: str
    replica: str
    reason: str
    candidates: int
    eligible: int


@dataclass(frozen=True, slots=True)
class EnergyAccount:
    """Whose joules they were, of requests that ended since the gateway started.

    Attributes:
        tenant: that the requests named; empty is nobody in particular.
        service_class: that they belonged to.
        variant: that served them.
        requests: in number.
        prompt_tokens: read.
        completion_tokens: generated.
        energy_j: attributed to them.
        gco2e: emissions, of requests for which an intensity was known.

    """

    tenant: str
    service_class: str
    variant: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    energy_j: float
    gco2e: float


@dataclass(frozen=True, slots=True)
class CarbonIntensity:
    """What a kilowatt hour from the grid emits just now.

    Attributes:
        gco2e_per_kwh: grams.
        pue: facility power over IT power.
        source: constant, file, electricity_maps, watttime, or the fallback that stands in.
        age_s: of the figure.
        trouble: why a fallback stands in; empty if nothing is wrong.

    """

    gco2e_per_kwh: float
    pue: float
    source: str
    age_s: float
    trouble: str


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What the cluster is doing, as one gateway sees it.

    Attributes:
        gateway: that answered.
        policy: that routes.
        replicas: every one it knows.
        counters: of this gateway.
        troubles: what is wrong while serving goes on.
        accounts: whose joules they were, as this gateway's books say.
        carbon: of the grid; None where none is configured.
        service_classes: what this gateway's requests have met lately.
        decisions: newest first, as many as were asked for.

    """

    gateway: str
    policy: str
    replicas: tuple[Replica, ...]
    counters: Counters
    troubles: tuple[Trouble, ...]
    accounts: tuple[EnergyAccount, ...] = ()
    carbon: CarbonIntensity | None = None
    service_classes: tuple[ServiceClassStatus, ...] = ()
    decisions: tuple[RecentDecision, ...] = ()


def status(message: cluster_pb2.GetStatusResponse) -> ClusterStatus:
    """Read what the cluster is doing."""
    return read(
        ClusterStatus,
        message,
        replicas=tuple(
            read(Replica, replica, devices=tuple(replica.devices)) for replica in message.replicas
        ),
        counters=read(Counters, message.counters),
        troubles=tuple(read(Trouble, trouble) for trouble in message.troubles),
        accounts=tuple(read(EnergyAccount, account) for account in message.accounts),
        carbon=read(CarbonIntensity, message.carbon) if message.HasField("carbon") else None,
        service_classes=tuple(read(ServiceClassStatus, each) for each in message.service_classes),
        decisions=tuple(read(RecentDecision, each) for each in message.decisions),
    )
