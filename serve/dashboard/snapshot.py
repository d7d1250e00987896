"""What the dashboard shows at one instant, and how it is written as JSON.

Its own module because it is the contract between whoever knows a cluster (a gateway, or whoever
asks one by gRPC) and the page; the values are those that every client of the status gets.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, TypeAlias

from serve.dashboard.overview import overview

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import DataclassInstance

    from protos.jouleserve.client import ClusterStatus, Model, Plan, RecentDecision

# Newest routing decisions that the page lists.
DECISIONS = 40
# Figures are shown with four digits at most.
DIGITS = 7

Json: TypeAlias = "Mapping[str, Json] | list[Json] | str | float | bool | None"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A cluster at one instant, as one gateway sees it.

    Attributes:
        taken_at_s: when, on the monotonic clock of whoever took it.
        status: replicas, counts, objectives met, decisions, accounts, troubles.
        plan: what is to be awake; None where nothing plans.
        models: that are served, with their variants and service classes.

    """

    taken_at_s: float
    status: ClusterStatus
    plan: Plan | None
    models: tuple[Model, ...]


def document(snapshot: Snapshot) -> dict[str, Json]:
    """Write a snapshot as JSON values.

    Nothing is null: what is not known is not there, so that a difference of two documents can
    say with a null what has gone. Replicas and service classes lie under their names; decisions
    have the instant at which they were made instead of an age, so that they stay as they are.
    """
    status, plan = snapshot.status, snapshot.plan
    written: dict[str, Json] = {
        "taken_at_s": round(snapshot.taken_at_s, 3),
        "overview": _object(overview(status, plan)),
        "gateway": status.gateway,
        "policy": status.policy,
        "counters": _object(status.counters),
        "replicas": {each.replica: _object(each) for each in status.replicas},
        "troubles": _value(status.troubles),
        "service_classes": {each.service_class: _object(each) for each in status.service_classes},
        "accounts": _value(status.accounts),
        "decisions": [_decision(each, snapshot.taken_at_s) for each in status.decisions],
        "models": {each.name: _object(each) for each in snapshot.models},
    }
    if status.carbon is not None:
        written["carbon"] = _object(status.carbon)
    if plan is not None:
        written["plan"] = _object(plan)
    return written


def _decision(decision: RecentDecision, taken_at_s: float) -> Json:
    written = _object(decision)
    del written["age_s"]
    return {**written, "made_at_s": round(taken_at_s - decision.age_s, 1)}


def _object(value: DataclassInstance) -> dict[str, Json]:
    """Write the fields of a frozen value; those that are None are left out."""
    written: dict[str, Json] = {}
    for field in fields(value):
        content = getattr(value, field.name)
        if content is not None:
            written[field.name] = _value(content)
    return written


def _value(value: object) -> Json:
    match value:
        case float():
            return float(f"{value:.{DIGITS}g}")
        case bool() | int() | str():
            return value
        case tuple():
            return [_value(each) for each in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return _object(value)
        case _:
            raise TypeError(f"a snapshot holds no {type(value).__name__}")
