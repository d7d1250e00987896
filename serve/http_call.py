"""One HTTP request beside OpenAI's own fields: what it asks of us, and what it is told.

Its own module because these extensions are ours, whatever writes OpenAI's formats.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from serve.calls import Operation, Outcome, Wishes, checked_wishes
from serve.errors import BadRequestError, JouleserveError


class WishFields(BaseModel):
    """What a body may hold beside OpenAI's own fields."""

    model_config = ConfigDict(extra="forbid")

    service_class: str = ""
    ttft_s: float | None = None
    tpot_s: float | None = None
    min_quality: float | None = None
    variant: str = ""
    explain: bool = False
    tenant: str = ""


@dataclass(slots=True)
class HttpCall:
    """One HTTP request while it is served.

    Attributes:
        wishes: how the client wants to be served.
        arrived_at_s: on the gateway's monotonic clock.
        trace_headers: W3C trace context of the client.
        operation: what was asked, by OpenTelemetry's name.
        outcomes: of the generations that have ended, one for each prompt and choice.
        error: what ended one of them badly.

    """

    wishes: Wishes
    arrived_at_s: float
    trace_headers: dict[str, str]
    operation: Operation
    outcomes: list[Outcome] = field(default_factory=list)
    error: JouleserveError | None = None


CURRENT: ContextVar[HttpCall] = ContextVar("current_http_call")


def take_wishes(body: dict[str, Any]) -> Wishes:
    """Take our own fields out of a body.

    Raises:
        BadRequestError: one of them cannot be meant.

    """
    given = {name: body.pop(name) for name in WishFields.model_fields if name in body}
    try:
        fields = WishFields.model_validate(given)
    except ValidationError as error:
        raise BadRequestError(first_fault(error)) from error
    return checked_wishes(Wishes(**fields.model_dump()))


def first_fault(error: ValidationError) -> str:
    """Name the first field that is wrong, and why."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def extension(http: HttpCall) -> dict[str, Any]:
    """What a reply says beside OpenAI's own fields; energies add up over all choices."""
    parts = [_part(outcome, explain=http.wishes.explain) for outcome in http.outcomes]
    if len(parts) == 1:
        return parts[0]
    grams = [outcome.gco2e for outcome in http.outcomes]
    known = [each for each in grams if each is not None]
    return {
        "energy_j": sum(part["energy"]["energy_j"] for part in parts),
        **_emissions(sum(known) if len(known) == len(grams) else None),
        "parts": parts,
    }


def _emissions(gco2e: float | None) -> dict[str, float]:
    """Give them where they are known; a null would be taken for a number."""
    return {} if gco2e is None else {"gco2e": gco2e}


def _part(outcome: Outcome, *, explain: bool) -> dict[str, Any]:
    energy = outcome.energy
    part = {
        "request_id": outcome.request_id,
        "variant": outcome.variant,
        "replica": outcome.replica,
        "reason": outcome.reason,
        "energy": {"energy_j": energy.energy_j, **energy._asdict(), **_emissions(outcome.gco2e)},
        "latency": asdict(outcome.latency),
    }
    if explain:
        part["decision"] = {
            "policy": outcome.decision.policy,
            "candidates": [
                {**asdict(candidate), "terms": dict(candidate.terms)}
                for candidate in outcome.decision.candidates
            ],
        }
    return part
