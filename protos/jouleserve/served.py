"""What a cluster serves: models, their variants, and the classes that requests may name.

Its own module because it is asked for once, by whoever wants to know what may be asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from protos.jouleserve.wire_fields import read

if TYPE_CHECKING:
    from protos.jouleserve.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class Objective:
    """What a service class asks for; None where it asks for nothing."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    min_quality: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A configured service class."""

    name: str
    objective: Objective


@dataclass(frozen=True, slots=True)
class Variant:
    """One way in which a model is served.

    Attributes:
        name: to be given as `variant` when only this one may serve.
        dtype: of its weights.
        quantization: empty for an unquantized checkpoint.
        accelerator: that it runs on.
        quality: 1 is the unmodified model.
        awake_replicas: ready to serve.

    """

    name: str
    dtype: str
    quantization: str
    accelerator: str
    quality: float
    awake_replicas: int


@dataclass(frozen=True, slots=True)
class Model:
    """A served model.

    Attributes:
        name: to be given as `model`.
        max_context_tokens: prompt and completion together.
        variants: behind the name.
        service_classes: that a request may name.
        default_service_class: of a request that names none.

    """

    name: str
    max_context_tokens: int
    variants: tuple[Variant, ...]
    service_classes: tuple[ServiceClass, ...]
    default_service_class: str


def models(message: inference_pb2.ListModelsResponse) -> tuple[Model, ...]:
    """Read the served models."""
    return tuple(
        read(
            Model,
            model,
            variants=tuple(read(Variant, variant) for variant in model.variants),
            service_classes=tuple(_service_class(each) for each in model.service_classes),
        )
        for model in message.models
    )


def _service_class(message: inference_pb2.ServiceClass) -> ServiceClass:
    given = {field.name: value for field, value in message.objective.ListFields()}
    return ServiceClass(message.name, Objective(**given))
