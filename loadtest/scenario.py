"""A scenario: what is sent, how often, and for how long; frozen values, as a file gives them.

Its own module because the generator, the virtual cluster and whoever looks for a capacity read
the same scenario; where it stands in a file is `loadtest.scenario_file`'s matter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scheduler.requests import Objective

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Tokens = Annotated[int, Field(ge=1, le=1_000_000)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$", max_length=64)]


class Section(BaseModel):
    """Refuses keys that it does not know, and infinite numbers."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _only_one(section: BaseModel) -> None:
    given = [name for name in type(section).model_fields if getattr(section, name) is not None]
    if len(given) != 1:
        known = ", ".join(type(section).model_fields)
        raise ValueError(f"give exactly one of {known}")


# ---------------------------------------------------------------------------------- numbers


class LogNormal(Section):
    """Many small values and few large ones."""

    mean: Positive
    spread: NotNegative = 1.0
    """Standard deviation of the logarithms."""
    most: Positive = 1e9
    """Beyond which a value is cut."""


class Uniform(Section):
    """Every value alike."""

    least: NotNegative
    most: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError("least must not exceed most")
        return self


class Exponential(Section):
    """Without memory."""

    mean: Positive
    most: Positive = 1e9


class Distribution(Section):
    """Where numbers are drawn from; a plain number in its place is always the same."""

    fixed: NotNegative | None = None
    log_normal: LogNormal | None = None
    uniform: Uniform | None = None
    exponential: Exponential | None = None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: object) -> object:
        return {"fixed": given} if isinstance(given, int | float) else given

    @model_validator(mode="after")
    def _one(self) -> Self:
        _only_one(self)
        return self


# --------------------------------------------------------------------------------- arrivals


class RampShape(Section):
    """From one rate to another, in a straight line over the whole run."""

    from_factor: NotNegative = 0.0
    to_factor: Positive = 1.0


class Step(Section):
    """A rate that holds from here on."""

    after_s: NotNegative
    factor: NotNegative


class DiurnalShape(Section):
    """As the day goes: lowest at the start, highest after half a period."""

    swing: Share = 0.6
    period_s: Positive = 86_400.0


class FlashCrowdShape(Section):
    """Many more for a while."""

    factor: Positive
    after_s: NotNegative
    """Of the measured time, when they begin to come."""
    length_s: Positive
    """From then until all have left."""
    ramp_s: Positive = 5.0
    """That their coming and their leaving take."""


class Shape(Section):
    """How the rate changes, in factors of `rate_per_s`; times count from the end of the ramp."""

    ramp: RampShape | None = None
    steps: tuple[Step, ...] | None = None
    diurnal: DiurnalShape | None = None
    flash_crowd: FlashCrowdShape | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _only_one(self)
        if self.steps is not None:
            after_s = [step.after_s for step in self.steps]
            if not after_s or after_s[0] != 0 or after_s != sorted(set(after_s)):
                raise ValueError("steps must begin with after_s: 0, each later than the one before")
        return self


class OpenLoop(Section):
    """Requests come whether or not others have been answered."""

    process: Literal["poisson", "constant", "gamma"] = "poisson"
    """How gaps vary: as by chance, not at all, or in bursts."""
    rate_per_s: Positive
    """Requests, or conversations, that begin in a second."""
    burstiness: Positive = 2.0
    """Of gamma: coefficient of variation of the gaps; 1 is Poisson."""
    shape: Shape | None = None
    """None is the same rate all the time."""


class ClosedLoop(Section):
    """So many users, each of whom waits for an answer before it asks again."""

    users: Annotated[int, Field(ge=1, le=100_000)]
    think_time_s: Distribution = Distribution(fixed=0.0)
    """Between an answer and the next request or conversation."""


class TraceReplay(Section):
    """As they once came: instants and lengths, and which prefixes they share."""

    file: Path
    """Azure's .csv or Mooncake's .jsonl."""
    speed: Positive | None = None
    """Times its own pace; 1 unless `rate_per_s` is given."""
    rate_per_s: Positive | None = None
    """Mean rate to which its time is stretched."""

    @model_validator(mode="after")
    def _one_pace(self) -> Self:
        if self.speed is not None and self.rate_per_s is not None:
            raise ValueError("give a speed or rate_per_s, not both")
        return self


class Arrivals(Section):
    """When requests come."""

    open: OpenLoop | None = None
    closed: ClosedLoop | None = None
    trace: TraceReplay | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        _only_one(self)
        return self


# --------------------------------------------------------------------------------- requests


class Prompts(Section):
    """What is asked."""

    tokens: Distribution | None = None
    """Made up, of so many tokens."""
    text_file: Path | None = None
    """One prompt in each line."""
    trace: Path | None = None
    """Lengths of prompts and completions, and shared prefixes, as in a trace file."""
    shared_prefix_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """That every request of this kind begins with, as a system prompt."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [self.tokens, self.text_file, self.trace]
        if sum(each is not None for each in given) != 1:
            raise ValueError("give exactly one of tokens, text_file, trace")
        if self.trace is not None and self.shared_prefix_tokens:
            raise ValueError("a trace has its own prefixes: leave out shared_prefix_tokens")
        return self


class RequestKind(Section):
    """Requests that are alike."""

    share: Positive = 1.0
    """Of all requests or conversations, against the shares of the other kinds."""
    service_class: Name = ""
    """Empty is the model's default."""
    tenant: Name = ""
    """Whose energy it is."""
    prompt: Prompts | None = None
    """May be left out where arrivals are those of a trace."""
    completion_tokens: Distribution | None = None
    """May be left out where prompts are those of a trace."""
    ignore_eos: bool = True
    """Write exactly as many tokens as that; else it is the most."""
    turns: Distribution = Distribution(fixed=1.0)
    """Requests of a conversation; each carries all that was said before."""
    think_time_s: Distribution = Distribution(fixed=0.0)
    """Between an answer and the next turn."""


class Promise(Section):
    """What a service class is held to where the server does not say."""

    ttft_s: Positive
    tpot_s: Positive
    min_quality: Share = 0.0

    def objective(self) -> Objective:
        """The same, as the scheduler has it."""
        return Objective(self.ttft_s, self.tpot_s, self.min_quality)


class Scenario(Section):
    """All of it."""

    name: str = ""
    """By default that of its file."""
    description: str = ""
    arrivals: Arrivals
    duration_s: Positive = 60.0
    """Measured."""
    warmup_s: NotNegative = 0.0
    """Before that, at the full rate."""
    ramp_s: NotNegative = 0.0
    """Before that, from nothing to the full rate."""
    requests: Annotated[tuple[RequestKind, ...], Field(min_length=1)]
    objectives: dict[str, Promise] = {}
    """By service class."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        traced = self.arrivals.trace is not None
        for number, kind in enumerate(self.requests):
            if kind.prompt is None and not traced:
                raise ValueError(f"requests[{number}] needs a prompt")
            own_lengths = traced if kind.prompt is None else kind.prompt.trace is not None
            if kind.completion_tokens is None and not own_lengths:
                raise ValueError(f"requests[{number}] needs completion_tokens")
        return self

    @property
    def total_s(self) -> float:
        """From the first request to the last, at most."""
        return self.ramp_s + self.warmup_s + self.duration_s

    @property
    def steady_begin_s(self) -> float:
        """Measuring begins."""
        return self.ramp_s + self.warmup_s

    @property
    def rate_per_s(self) -> float | None:
        """Of its open loop, before its shape; None where nobody has given one."""
        given = self.arrivals.open or self.arrivals.trace
        return None if given is None else given.rate_per_s

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of its requests, in the order of the file; empty for the model's default."""
        return tuple(dict.fromkeys(kind.service_class for kind in self.requests))

    @property
    def tenants(self) -> tuple[str, ...]:
        """The same of tenants."""
        return tuple(dict.fromkeys(kind.tenant for kind in self.requests))
