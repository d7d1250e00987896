"""What Ray Serve has awake, starting and draining, and what keeps the rest from coming.

Its own module because the planner counts replicas by state, and only here is it known how Ray
Serve spells states, places and failures.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from serve.deployment import APPLICATION
from serve.rollout import last_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from scheduler.requests import VariantName

_AWAKE = frozenset({"RUNNING", "PENDING_MIGRATION"})
_STARTING = frozenset({"STARTING", "UPDATING", "RECOVERING"})
_FAILED = frozenset({"UNHEALTHY", "DEPLOY_FAILED"})
_NEVER_CAME_UP = "failed to start"
# Its process or its node is gone, which says nothing of the next one.
_DIED = "ActorDiedError"


@dataclass(frozen=True, slots=True)
class Started:
    """A replica that has come up.

    Attributes:
        replica: who.
        variant: what it serves.
        asked_at_s: seconds since the epoch.

    """

    replica: str
    variant: VariantName
    asked_at_s: float


@dataclass(frozen=True, slots=True)
class Deployed:
    """The replicas of every variant at one instant.

    Attributes:
        awake: that serve.
        starting: asked for, and not serving yet.
        draining: that finish their streams.
        seekers: of those that start, those that have no node yet, with the seconds since the
            oldest one was asked for.
        failures: what keeps replicas of a variant from coming up.
        deaths: variants of which a replica died while it started, and how.
        running: those that serve, each with when it was asked for.
        nodes: that hold a replica, by variant.
        zombies: of those that Ray Serve takes for running, those that nobody reaches; they
            are not awake.

    """

    awake: Mapping[VariantName, int] = field(default_factory=dict)
    starting: Mapping[VariantName, int] = field(default_factory=dict)
    draining: Mapping[VariantName, int] = field(default_factory=dict)
    seekers: Mapping[VariantName, float] = field(default_factory=dict)
    failures: Mapping[VariantName, str] = field(default_factory=dict)
    deaths: Mapping[VariantName, str] = field(default_factory=dict)
    running: tuple[Started, ...] = ()
    nodes: Mapping[VariantName, frozenset[str]] = field(default_factory=dict)
    zombies: Mapping[VariantName, int] = field(default_factory=dict)

    def without(self, lost: frozenset[str]) -> Deployed:
        """Count replicas out that nobody reaches: Ray Serve may take half a minute to see it."""
        gone = Counter(each.variant for each in self.running if each.replica in lost)
        return replace(
            self,
            awake={name: count - gone[name] for name, count in self.awake.items()},
            running=tuple(each for each in self.running if each.replica not in lost),
            zombies=dict(gone),
        )


def deployed(details: Mapping[str, Any], variants: Iterable[VariantName], now_s: float) -> Deployed:
    """Read Ray Serve's own account of the application.

    Args:
        details: as its REST API and its controller give it (ServeInstanceDetails).
        variants: that are configured.
        now_s: seconds since the epoch.

    """
    application = details.get("applications", {}).get(APPLICATION) or {}
    deployments = application.get("deployments", {})
    awake: Counter[VariantName] = Counter()
    starting: Counter[VariantName] = Counter()
    draining: Counter[VariantName] = Counter()
    seekers: dict[VariantName, float] = {}
    failures: dict[VariantName, str] = {}
    deaths: dict[VariantName, str] = {}
    running: list[Started] = []
    nodes: dict[VariantName, frozenset[str]] = {}
    for name in variants:
        deployment = deployments.get(name)
        if deployment is None:
            continue
        replicas = deployment["replicas"]
        for replica in replicas:
            state = _word(replica["state"])
            if state in _AWAKE:
                awake[name] += 1
                running.append(Started(replica["replica_id"], name, replica["start_time_s"]))
            elif state in _STARTING:
                starting[name] += 1
                if not replica.get("node_id"):
                    waited_s = max(0.0, now_s - replica["start_time_s"])
                    seekers[name] = max(waited_s, seekers.get(name, 0.0))
            else:
                draining[name] += 1
        nodes[name] = frozenset(each["node_id"] for each in replicas if each.get("node_id"))
        message = deployment.get("message") or ""
        # A replica that has died makes it unhealthy too, and is replaced; that is no obstacle.
        if _word(deployment["status"]) in _FAILED and _NEVER_CAME_UP in message:
            (deaths if _DIED in message else failures)[name] = last_line(message)
    return Deployed(awake, starting, draining, seekers, failures, deaths, tuple(running), nodes)


def _word(state: object) -> str:
    return str(getattr(state, "value", state)).upper()
