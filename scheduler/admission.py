"""Refuse at the door what nobody could serve, and settle how much may be generated.

Its own module because these refusals depend on the request and on what is configured,
never on which replicas happen to be awake: they are cheap, final and the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from scheduler.fleet import Variant
    from scheduler.requests import ModelName, VariantName


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What admission must know of a request.

    Attributes:
        prompt_tokens: length of the rendered prompt.
        max_tokens: most tokens that may be generated; None for what the context leaves.
        min_quality: least acceptable quality of the variant.
        variant: the only variant that may serve it, or None for any.

    """

    prompt_tokens: int
    max_tokens: int | None = None
    min_quality: float = 0.0
    variant: VariantName | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What admission must know of a model.

    Attributes:
        name: that clients use.
        variants: every configured one, awake or not.

    """

    name: ModelName
    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Occupancy:
    """How busy the gateway itself is.

    Attributes:
        in_flight: requests that it carries now.
        max_in_flight: most that it may carry.

    """

    in_flight: int
    max_in_flight: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request may be routed.

    Attributes:
        max_tokens: most tokens that may be generated.
        notice: empty, or one line on what was changed.

    """

    max_tokens: int
    notice: str = ""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The request is refused.

    Attributes:
        kind: "bad_request" or "prompt_too_long" when the request is at fault,
            "unattainable" when no variant is good enough, "overloaded" when it may be
            tried again later.
        message: what to change, with numbers.

    """

    kind: Literal["bad_request", "prompt_too_long", "unattainable", "overloaded"]
    message: str


def admit(
    request: RequestFacts, model: ModelFacts, occupancy: Occupancy | None = None
) -> Admitted | Rejected:
    """Admit a request, or say what to change.

    A prompt must leave room for one token at least. `max_tokens` beyond the room that
    the prompt leaves is lowered to it, as it is an upper bound and no promise.

    Args:
        request: to be served.
        model: that it names.
        occupancy: of this gateway; None when it has no bound.

    """
    suitable = _fault(request) or _suitable(request, model)
    if isinstance(suitable, Rejected):
        return suitable
    room = _context(suitable) - request.prompt_tokens
    if room < 1:
        return _too_long(request, model, suitable)
    if occupancy is not None and occupancy.in_flight >= occupancy.max_in_flight:
        most = occupancy.max_in_flight
        message = f"this gateway already carries {most} requests, its bound; try again later"
        return Rejected("overloaded", message)
    if request.max_tokens is None or request.max_tokens <= room:
        return Admitted(request.max_tokens or room)
    notice = (
        f"max_tokens lowered from {request.max_tokens} to {room}, which is what"
        f" {request.prompt_tokens} prompt tokens leave of a context of {_context(suitable)}"
    )
    return Admitted(room, notice)


def _fault(request: RequestFacts) -> Rejected | None:
    """Refuse what no model could serve."""
    if request.prompt_tokens < 1:
        return Rejected("bad_request", "the prompt is empty; give at least one token")
    if request.max_tokens is not None and request.max_tokens < 1:
        return Rejected("bad_request", f"max_tokens is {request.max_tokens}; give at least 1")
    return None


def _suitable(request: RequestFacts, model: ModelFacts) -> tuple[Variant, ...] | Rejected:
    """Keep the variants that the request would accept."""
    variants = model.variants
    if request.variant is not None:
        variants = tuple(variant for variant in variants if variant.name == request.variant)
        if not variants:
            known = ", ".join(sorted(variant.name for variant in model.variants))
            message = f"model {model.name} has no variant {request.variant!r}; known: {known}"
            return Rejected("bad_request", message)
    good = tuple(variant for variant in variants if variant.quality >= request.min_quality)
    if good:
        return good
    best = max(variants, key=lambda variant: variant.quality)
    return Rejected(
        "unattainable",
        f"min_quality {request.min_quality:.3g} is above the quality {best.quality:.3g} of"
        f" {best.name}, the best to choose from; ask for {best.quality:.3g} or less",
    )


def _too_long(request: RequestFacts, model: ModelFacts, suitable: tuple[Variant, ...]) -> Rejected:
    """Say by how much the prompt is too long, and whether another choice would take it."""
    context = _context(suitable)
    message = (
        f"the prompt has {request.prompt_tokens} tokens, and a context of {context} leaves no"
        f" room for a completion; shorten the prompt to {context - 1} tokens or less"
    )
    widest = _context(model.variants)
    if widest > max(context, request.prompt_tokens):
        message += f", or let another variant serve it: the largest context is {widest}"
    return Rejected("prompt_too_long", message)


def _context(variants: tuple[Variant, ...]) -> int:
    return max(min(each.max_context_tokens, each.kv_capacity_tokens) for each in variants)
