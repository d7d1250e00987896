"""The shape of a run's file, field by field.

Its own module because it is the format and nothing else: `loadtest.run_file` moves values in
and out of it, and its JSON Schema is made from these classes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

FORMAT = "jouleserve-run/1"

# JSON has neither NaN nor infinity: `null` stands for a number that there is not, and for an
# objective that has no limit.
Number = float | None
Count = Annotated[int, Field(ge=0)]
# −1 stands for none.
Index = Annotated[int, Field(ge=-1)]


class Record(BaseModel):
    """A part of the file; unknown keys are refused, for they would be lost."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ObjectiveRecord(Record):
    """See `scheduler.requests.Objective`."""

    ttft_s: Number
    tpot_s: Number
    min_quality: float


class ClassRecord(Record):
    """See `loadtest.run.RunClass`."""

    name: str
    objective: ObjectiveRecord | None


class SampleRecord(Record):
    """See `loadtest.run.ServerSample`."""

    at_s: float
    energy_j: Number
    power_w: Number
    awake_replicas: Count
    running_requests: Count
    waiting_requests: Count


class ColumnsRecord(Record):
    """See `loadtest.run.Requests`; all lists are of one length."""

    scheduled_at_s: list[Number]
    sent_at_s: list[Number]
    first_token_at_s: list[Number]
    ended_at_s: list[Number]
    ending: list[Annotated[int, Field(ge=0, le=4)]]
    error: list[Index]
    service_class: list[Count]
    tenant: list[Count]
    variant: list[Index]
    session: list[Index]
    turn: list[Count]
    prompt_tokens: list[Count]
    cached_tokens: list[Index]
    completion_tokens: list[Count]
    longest_gap_s: list[Number]
    energy_j: list[Number]
    gco2e: list[Number]
    server_ttft_s: list[Number]
    server_e2e_s: list[Number]


class RunRecord(Record):
    """See `loadtest.run.Run`."""

    format: Literal["jouleserve-run/1"]
    scenario: str
    source: Literal["live", "virtual"]
    target: str
    model: str
    seed: int
    started_at: str
    steady_begin_s: float
    steady_end_s: float
    ended_at_s: float
    workers: Count
    closed_loop: bool
    classes: list[ClassRecord]
    tenants: list[str]
    variants: list[str]
    errors: list[str]
    requests: ColumnsRecord
    itl: dict[str, str]
    samples: list[SampleRecord]
    energy_method: str
    partial: str
    host: str
    note: str
