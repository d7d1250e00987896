"""How far a deployment has come: every replica with its state, as Ray Serve tells it.

Its own module because whoever shows it and whoever waits for it share these values and
nothing of Ray.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serve.deployment import APPLICATION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_FAILED = frozenset({"DEPLOY_FAILED", "UNHEALTHY"})


# Loading weights takes longer than the half minute after which Ray Serve remarks on it.
_ROUTINE = "to initialize"


@dataclass(frozen=True, slots=True)
class ReplicaProgress:
    """One replica on its way up or down.

    Attributes:
        deployment: the variant's name, or the gateway's.
        replica: unique in the cluster.
        state: starting, running, stopping and so on, as Ray Serve calls it.
        age_s: since it was asked for.
        log_file: relative to the log directory; empty when unknown.

    """

    deployment: str
    replica: str
    state: str
    age_s: float
    log_file: str = ""


@dataclass(frozen=True, slots=True)
class Rollout:
    """The application at one instant.

    Attributes:
        status: not_started, deploying, running, deploy_failed, unhealthy or deleting.
        wanted: replicas asked for, by deployment.
        replicas: those that exist.
        message: what Ray Serve has to say, when something is slow or wrong.

    """

    status: str
    wanted: Mapping[str, int]
    replicas: tuple[ReplicaProgress, ...]
    message: str = ""

    @property
    def running(self) -> bool:
        """All that was asked for serves."""
        return self.status == "running"

    @property
    def failed(self) -> bool:
        """It will not come up without a change."""
        return self.status.upper() in _FAILED


def read(details: Mapping[str, Any], *, now_s: float) -> Rollout:
    """Read Ray Serve's own account of the application.

    Args:
        details: as its REST API and its controller give it (ServeInstanceDetails).
        now_s: seconds since the epoch.

    """
    application = details.get("applications", {}).get(APPLICATION)
    if application is None:
        return Rollout("not_started", {}, ())
    deployments = application["deployments"]
    said = [application["message"], *(each["message"] for each in deployments.values())]
    messages = [message for message in said if _ROUTINE not in message]
    return Rollout(
        status=_word(application["status"]),
        wanted={name: each["target_num_replicas"] for name, each in deployments.items()},
        replicas=tuple(_replicas(deployments, now_s)),
        message=next((message for message in messages if message), ""),
    )


def _replicas(deployments: Mapping[str, Any], now_s: float) -> Iterator[ReplicaProgress]:
    for name, deployment in deployments.items():
        for replica in sorted(deployment["replicas"], key=lambda each: each["start_time_s"]):
            yield ReplicaProgress(
                deployment=name,
                replica=replica["replica_id"],
                state=_word(replica["state"]),
                age_s=max(0.0, now_s - replica["start_time_s"]),
                log_file=(replica.get("log_file_path") or "").lstrip("/"),
            )


def _word(state: object) -> str:
    return str(getattr(state, "value", state)).lower()


def last_line(message: str) -> str:
    """Give the line of a message or traceback that says what happened."""
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    telling = [line for line in lines if "Error" in line.split(":")[0]]
    return (telling or lines or [""])[-1]
