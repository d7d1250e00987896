"""Cluster descriptions, read from YAML files.

Its own module because it is the edge: here a file is parsed and refused with its fault, and
behind it are frozen values only. examples/fleets/ has a file for each kind of cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loadtest.errors import DescriptionError
from loadtest.virtual.descriptions import ClusterDescription, GatewaySettings, ServiceClass
from loadtest.virtual.simulated_replica import EngineSettings
from scheduler.fleet import Variant
from scheduler.plans import NodeGroup, NodeGroupName, Placement
from scheduler.requests import ModelName, Objective, VariantName
from scheduler.routing import Limits
from scheduler.steps import AcceleratorFacts, AffineSteps, ModelShape, first_principles

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    """Refuses keys that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class StepsSection(_Section):
    """A measured profile: see `scheduler.steps.AffineSteps`."""

    t0_s: Positive
    t1_s: NotNegative
    e0_j: Positive
    e1_j: NotNegative
    prefill_s_per_token: Positive
    prefill_j_per_token: Positive
    context_s_per_token: NotNegative = 0.0
    context_j_per_token: NotNegative = 0.0
    cap_w: Positive = float("inf")


class AcceleratorSection(_Section):
    """An accelerator at one precision: see `scheduler.steps.AcceleratorFacts`."""

    bandwidth_tb_s: Positive
    tflops: Positive
    tdp_w: Positive
    context_w: NotNegative
    byte_pj: Positive
    flop_pj: Positive
    memory_efficiency: Share = 0.8
    decode_mfu: Share = 0.23
    prefill_mfu: Share = 0.54
    layer_overhead_s: NotNegative = 27e-6
    layer_reduction_s: NotNegative = 47e-6

    def facts(self) -> AcceleratorFacts:
        """The same in SI units."""
        return AcceleratorFacts(
            bandwidth_bytes_per_s=self.bandwidth_tb_s * 1e12,
            flops_per_s=self.tflops * 1e12,
            tdp_w=self.tdp_w,
            context_w=self.context_w,
            byte_j=self.byte_pj * 1e-12,
            flop_j=self.flop_pj * 1e-12,
            memory_efficiency=self.memory_efficiency,
            decode_mfu=self.decode_mfu,
            prefill_mfu=self.prefill_mfu,
            layer_overhead_s=self.layer_overhead_s,
            layer_reduction_s=self.layer_reduction_s,
        )


class ShapeSection(_Section):
    """A model at its precision: see `scheduler.steps.ModelShape`."""

    weight_bytes: Positive
    active_parameters: Positive
    kv_bytes_per_token: NotNegative
    layers: Count


class VariantSection(_Section):
    """A variant: either its measured steps, or its shape and an accelerator."""

    name: str
    quality: Share = 1.0
    max_context_tokens: Count = 16_384
    max_batch: Count = 256
    kv_capacity_tokens: Count
    context_power_w: NotNegative
    steps: StepsSection | None = None
    shape: ShapeSection | None = None
    accelerator: str | None = None
    accelerators: Positive = 1.0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.steps is None) == (self.shape is None):
            raise ValueError(f"variant {self.name!r}: give either steps, or shape and accelerator")
        if self.shape is not None and self.accelerator is None:
            raise ValueError(f"variant {self.name!r}: a shape needs an accelerator")
        return self


class GroupSection(_Section):
    """A node group: see `scheduler.plans.NodeGroup`."""

    name: str
    accelerator: str
    accelerators_per_node: Count
    max_nodes: Count
    node_power_w: NotNegative
    bare_power_w: NotNegative
    boot_s: NotNegative
    boot_j: NotNegative


class PlacementSection(_Section):
    """A variant on a node group: see `scheduler.plans.Placement`."""

    variant: str
    group: str
    accelerators: Count = 1
    start_s: NotNegative
    start_j: NotNegative
    min_replicas: Annotated[int, Field(ge=0)] = 0
    max_replicas: Count | None = None


class ClassSection(_Section):
    """A service class with its share of requests."""

    ttft_s: Positive
    tpot_s: Positive
    min_quality: Share = 0.0
    share: Positive = 1.0


class EngineSection(_Section):
    """How engines schedule."""

    max_batched_tokens: Count = 8192


class GatewaySection(_Section):
    """How gateways are run; the defaults are the live cluster's."""

    gateways: Count = 1
    report_period_s: Positive = 0.5
    network_s: NotNegative = 0.001
    max_waiting: Annotated[int, Field(ge=0)] = 64
    stale_after_s: Positive = 5.0
    max_tokens: Count = 1024
    max_in_flight: Count | None = None
    calibrated: bool = True


class FleetFile(_Section):
    """A whole file."""

    name: str
    model: str
    service_classes: dict[str, ClassSection] = Field(min_length=1)
    accelerators: dict[str, AcceleratorSection] = Field(default_factory=dict)
    variants: list[VariantSection] = Field(min_length=1)
    node_groups: list[GroupSection] = Field(min_length=1)
    placements: list[PlacementSection] = Field(min_length=1)
    engine: EngineSection = EngineSection()
    gateway: GatewaySection = GatewaySection()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        variants = {each.name for each in self.variants}
        groups = {each.name: each for each in self.node_groups}
        for variant in self.variants:
            if variant.accelerator is not None:
                _known(variant.accelerator, set(self.accelerators), "accelerator")
        pairs = [(each.variant, each.group) for each in self.placements]
        for placement in self.placements:
            _known(placement.variant, variants, "variant")
            _known(placement.group, set(groups), "node group")
            if placement.accelerators > groups[placement.group].accelerators_per_node:
                raise ValueError(f"a replica of {placement.variant} needs more than a node has")
        if len(set(pairs)) < len(pairs):
            raise ValueError("a pair of variant and group is placed twice")
        return self


def read_fleet(path: Path) -> ClusterDescription:
    """Read a fleet description.

    Raises:
        DescriptionError: it cannot be read or contradicts itself.

    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DescriptionError(path, error.strerror or "cannot be read") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DescriptionError(path, f"is no YAML: {error}") from error
    if isinstance(content, dict):
        # Keys that begin with a dot hold anchors for the rest of the file.
        content = {key: part for key, part in content.items() if not str(key).startswith(".")}
    try:
        file = FleetFile.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(_fault(each["loc"], each["msg"]) for each in error.errors())
        raise DescriptionError(path, faults) from error
    return _description(file)


def _description(file: FleetFile) -> ClusterDescription:
    gateway = file.gateway
    return ClusterDescription(
        name=file.name,
        model=ModelName(file.model),
        variants={
            VariantName(each.name): _variant(each, file.accelerators, file.model)
            for each in file.variants
        },
        groups={
            NodeGroupName(each.name): NodeGroup(
                **each.model_dump(exclude={"name"}), name=NodeGroupName(each.name)
            )
            for each in file.node_groups
        },
        placements=tuple(
            Placement(
                **each.model_dump(exclude={"variant", "group"}),
                variant=VariantName(each.variant),
                group=NodeGroupName(each.group),
            )
            for each in file.placements
        ),
        classes={
            name: ServiceClass(
                name, Objective(each.ttft_s, each.tpot_s, each.min_quality), each.share
            )
            for name, each in file.service_classes.items()
        },
        gateway=GatewaySettings(
            **gateway.model_dump(exclude={"max_waiting", "stale_after_s"}),
            limits=Limits(max_waiting=gateway.max_waiting, stale_after_s=gateway.stale_after_s),
        ),
        engine=EngineSettings(max_batched_tokens=file.engine.max_batched_tokens),
    )


def _variant(
    section: VariantSection, accelerators: Mapping[str, AcceleratorSection], model: str
) -> Variant:
    steps = AffineSteps(**section.steps.model_dump()) if section.steps is not None else None
    if section.shape is not None and section.accelerator is not None:
        shape = ModelShape(**section.shape.model_dump())
        facts = accelerators[section.accelerator].facts()
        steps = first_principles(shape, facts, section.accelerators)
    if steps is None:  # The section's validator has refused this.
        raise ValueError(section.name)
    return Variant(
        name=VariantName(section.name),
        model=ModelName(model),
        quality=section.quality,
        max_context_tokens=section.max_context_tokens,
        max_batch=section.max_batch,
        kv_capacity_tokens=section.kv_capacity_tokens,
        steps=steps,
        context_power_w=section.context_power_w,
    )


def _known(name: str, names: set[str], kind: str) -> None:
    if name not in names:
        raise ValueError(f"no {kind} {name!r}; known: {', '.join(sorted(names))}")


def _fault(place: tuple[int | str, ...], message: str) -> str:
    where = ".".join(map(str, place))
    return f"{where}: {message}" if where else message
