"""What an operator decides, as one tree of frozen values; parsed once, handed on by value.

Its own module because every other room reads this tree and none should know that it
came from a YAML file, a Helm value or a test.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from cluster.accelerators import CATALOGUE
from scheduler.policies import POLICIES
from serve.config_energy import CarbonConfig, EnergyConfig
from serve.config_models import ModelConfig, VariantConfig
from serve.config_planner import NodeGroupConfig, PlannerConfig
from serve.config_section import Fault, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

Port = Annotated[int, Field(ge=1, le=65535)]
PositiveSeconds = Annotated[float, Field(gt=0)]


class ServiceClassConfig(Section):
    """Objectives that requests of this class share unless they bring their own."""

    ttft_s: PositiveSeconds
    """Longest acceptable time to the first token."""
    tpot_s: PositiveSeconds
    """Longest acceptable mean time per output token after the first."""
    min_quality: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least acceptable quality of the variant; by default any that the operator configured."""


def _default_service_classes() -> dict[str, ServiceClassConfig]:
    return {
        "interactive": ServiceClassConfig(ttft_s=0.5, tpot_s=0.05),
        "standard": ServiceClassConfig(ttft_s=2.0, tpot_s=0.1),
        "batch": ServiceClassConfig(ttft_s=60.0, tpot_s=1.0),
    }


class SchedulerConfig(Section):
    """How gateways choose replicas."""

    policy: str = "energy"
    """Name of a routing policy; `energy` is what this project is for."""
    report_period_s: PositiveSeconds = 0.5
    """How often a replica reports when no answer carries a report; about ten steps."""
    stale_after_s: PositiveSeconds = 5.0
    """Age of its newest report that makes a replica a last resort; ten periods outlast jitter."""
    max_waiting_per_replica: Annotated[int, Field(ge=0)] = 64
    """Requests beyond a replica's batch before it is full; a minute's work for a small model."""
    expected_completion_tokens: Annotated[float, Field(gt=0)] = 128.0
    """Assumed length of a completion before any was seen; near the mean of public chat traces."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield an unknown policy, and periods that contradict each other."""
        if self.policy not in POLICIES:
            known = ", ".join(sorted(POLICIES))
            yield Fault("policy", f"no policy {self.policy!r}; known: {known}")
        if self.stale_after_s < 2 * self.report_period_s:
            yield Fault(
                "stale_after_s",
                f"{self.stale_after_s} would call every replica stale; at least twice"
                f" report_period_s, {2 * self.report_period_s}",
            )


class GatewayConfig(Section):
    """Where and how clients are received."""

    host: str = "127.0.0.1"
    """Address to listen on; by default this machine only, for it speaks plain text."""
    grpc_port: Port = 9000
    """gRPC; Ray Serve's own default."""
    http_port: Port = 8000
    """OpenAI API; Ray Serve's own default."""
    api_keys_file: Annotated[str, Field(min_length=1)] | None = None
    """File of keys, one a line, on the nodes of the gateways; a client has to show one of them
    (`authorization: Bearer KEY`). It is read again as it changes. By default nobody is asked."""
    ingress: Literal["every_node", "head_node"] = "every_node"
    """Where clients may connect: on each node that serves, or on Ray's head node only."""
    node_resource: str = "node:__internal_head__"
    """Ray resource of the nodes that gateways and planner run on, for GPU nodes that hold one are
    never empty; by default Ray's head node."""
    replicas: Annotated[int, Field(ge=1)] = 1
    """Gateways behind the ingress; one carries some thousands of tokens per second."""
    max_request_bytes: Annotated[int, Field(ge=1024)] = 1 << 20
    """Largest request; 1 MiB is a prompt of about 250,000 tokens."""
    max_concurrent_requests: Annotated[int, Field(ge=1)] = 1024
    """In flight in one gateway; more are refused at once instead of waiting unseen."""
    request_timeout_s: PositiveSeconds = 600.0
    """Longest that a request may take when its client sets no deadline."""
    drain_timeout_s: PositiveSeconds = 120.0
    """Longest that a gateway on its way down goes on with its streams."""
    max_resumes: Annotated[int, Field(ge=0)] = 3
    """Replicas and gateways that may be lost under one request before it fails."""
    hold_timeout_s: Annotated[float, Field(ge=0)] = 120.0
    """Longest that a request waits for a replica while none is awake; 0 refuses it at once."""
    max_held_requests: Annotated[int, Field(ge=0)] = 1024
    """That wait so in one gateway; more are refused at once."""

    def find_faults(self) -> Iterator[Fault]:
        """Yield two listeners on one port."""
        if self.grpc_port == self.http_port:
            yield Fault("http_port", f"{self.http_port} is also grpc_port; give them two ports")


class Config(Section):
    """Everything that an operator decides."""

    models: Annotated[tuple[ModelConfig, ...], Field(min_length=1)]
    """What is served."""
    service_classes: dict[str, ServiceClassConfig] = Field(default_factory=_default_service_classes)
    """By name; the defaults suit models of about 10B parameters on data-centre GPUs."""
    scheduler: SchedulerConfig = SchedulerConfig()
    """How gateways choose replicas."""
    planner: PlannerConfig = PlannerConfig()
    """What decides which replicas and nodes are awake."""
    node_groups: tuple[NodeGroupConfig, ...] = ()
    """Nodes that can be switched on and off, one group for each accelerator; by default the
    nodes that Ray has, which are always on."""
    energy: EnergyConfig = EnergyConfig()
    """How joules are known."""
    carbon: CarbonConfig = CarbonConfig()
    """What a kilowatt hour from the grid emits."""
    gateway: GatewayConfig = GatewayConfig()
    """Where and how clients are received."""

    def variants(self) -> Iterator[tuple[ModelConfig, VariantConfig]]:
        """Every variant with the model it belongs to, in the order of the configuration."""
        return ((model, variant) for model in self.models for variant in model.variants)

    def variant(self, name: str) -> tuple[ModelConfig, VariantConfig]:
        """Find a variant and its model.

        Raises:
            KeyError: there is none of that name.

        """
        for model, variant in self.variants():
            if variant.name == name:
                return model, variant
        raise KeyError(name)

    def find_faults(self) -> Iterator[Fault]:
        """Yield what sections contradict in each other."""
        yield from self._name_faults()
        yield from self._service_class_faults()
        yield from self._node_group_faults()
        yield from self._sleep_faults()
        yield from self._pin_faults()
        yield from self._candidate_faults()

    def _candidate_faults(self) -> Iterator[Fault]:
        """Yield models that nothing trusted serves, and permissions for what is no candidate."""
        for i, model in enumerate(self.models):
            if all(variant.candidate for variant in model.variants):
                yield Fault(
                    f"models.{i}.variants", "all are candidates; one has to serve meanwhile"
                )
        known = [variant.name for _, variant in self.variants() if variant.candidate]
        for i, name in enumerate(self.planner.adapt.accepted):
            if name not in known:
                names = ", ".join(known) or "none"
                yield Fault(f"planner.adapt.accepted.{i}", f"no candidate {name!r}; known: {names}")

    def _sleep_faults(self) -> Iterator[Fault]:
        """Yield variants that nobody would wake."""
        if self.planner.autoscaler == "planner":
            return
        for i, model in enumerate(self.models):
            for j, variant in enumerate(model.variants):
                if not variant.min_replicas:
                    yield Fault(
                        f"models.{i}.variants.{j}.min_replicas",
                        "only the planner wakes what sleeps: make it at least 1, or set"
                        " planner.autoscaler to planner",
                    )

    def _pin_faults(self) -> Iterator[Fault]:
        """Yield pins of what is not there or cannot be scaled so far."""
        known = {variant.name: variant for _, variant in self.variants()}
        for name, count in self.planner.pinned.items():
            key, variant = f"planner.pinned.{name}", known.get(name)
            if variant is None:
                yield Fault(key, f"no variant {name!r}; known: {', '.join(known)}")
                continue
            most = variant.max_replicas or variant.min_replicas
            if not variant.min_replicas <= count <= most:
                yield Fault(
                    key, f"{count} is not between its bounds {variant.min_replicas} and {most}"
                )

    def _node_group_faults(self) -> Iterator[Fault]:
        """Yield groups that a variant could not be told apart by, or that are missing."""
        if self.planner.nodes == "kubernetes" and not self.node_groups:
            yield Fault(
                "node_groups",
                "must be given where planner.nodes is kubernetes: one for each worker group",
            )
        if self.planner.nodes == "kubernetes":
            yield from self._node_label_faults()
        names = Counter(group.name for group in self.node_groups)
        accelerators = Counter(group.accelerator for group in self.node_groups)
        for i, group in enumerate(self.node_groups):
            if names[group.name] > 1:
                yield Fault(f"node_groups.{i}.name", f"{group.name!r} names two groups")
            if accelerators[group.accelerator] > 1:
                yield Fault(
                    f"node_groups.{i}.accelerator",
                    f"{group.accelerator!r} is in two groups; Ray could not tell which one a"
                    " replica is meant for: make it one group",
                )
            for _, variant in self.variants():
                if variant.accelerator == group.accelerator and variant.pipeline_parallel_size == 1:
                    yield from _too_large(f"node_groups.{i}", group, variant)

    def _node_label_faults(self) -> Iterator[Fault]:
        """Yield groups whose nodes nothing tells apart."""
        for i, group in enumerate(self.node_groups):
            known = CATALOGUE.get(group.accelerator)
            if known is not None and not known.kubernetes_products and not group.node_labels:
                yield Fault(
                    f"node_groups.{i}.node_labels",
                    f"must be given, for nodes with {group.accelerator!r} have no label of their"
                    " own in Kubernetes, e.g. {kubernetes.io/arch: [amd64]}",
                )

    def _name_faults(self) -> Iterator[Fault]:
        models = Counter(model.name for model in self.models)
        variants = Counter(variant.name for _, variant in self.variants())
        for i, model in enumerate(self.models):
            if models[model.name] > 1:
                yield Fault(f"models.{i}.name", f"{model.name!r} is used by two models")
            for j, variant in enumerate(model.variants):
                if variants[variant.name] > 1:
                    yield Fault(
                        f"models.{i}.variants.{j}.name",
                        f"{variant.name!r} is used by two variants, of whatever model; rename one",
                    )

    def _service_class_faults(self) -> Iterator[Fault]:
        for i, model in enumerate(self.models):
            key = f"models.{i}.default_service_class"
            chosen = self.service_classes.get(model.default_service_class)
            if chosen is None:
                known = ", ".join(sorted(self.service_classes)) or "none"
                name = model.default_service_class
                yield Fault(key, f"no service class {name!r}; known: {known}")
            elif all(variant.quality < chosen.min_quality for variant in model.variants):
                yield Fault(
                    key,
                    f"no variant has the quality {chosen.min_quality} that"
                    f" {model.default_service_class!r} asks for",
                )


def _too_large(key: str, group: NodeGroupConfig, variant: VariantConfig) -> Iterator[Fault]:
    units = variant.units
    share = group.accelerators_per_node // group.workers_per_node
    if units > share:
        shared = f", shared by {group.workers_per_node} workers," * (group.workers_per_node > 1)
        yield Fault(
            f"{key}.accelerators_per_node",
            f"{group.accelerators_per_node}{shared} cannot hold a replica of {variant.name!r},"
            f" which takes {units:g}",
        )
