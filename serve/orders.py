"""What an operator tells the planner of a running cluster: numbers of replicas, and permissions.

Its own module because an order is configuration: it travels as the planner's own, so that Ray
Serve keeps it through every restart, and replaces nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from serve import local_cluster
from serve.cluster_record import ClusterError
from serve.config import Config
from serve.deployment import APPLICATION, PLANNER

if TYPE_CHECKING:
    from collections.abc import Collection

    from serve.cluster_record import ClusterRecord

Change: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Of the planner's section of a configuration."""


def pin(pinned: Mapping[str, int]) -> Change:
    """Set how many replicas of these variants there are to be; of others the planner decides."""
    return lambda planner: {**planner, "pinned": dict(pinned)}


def accept(candidates: Collection[str]) -> Change:
    """Let these candidates be tried, beside those that were accepted before."""

    def accepting(planner: Mapping[str, Any]) -> Mapping[str, Any]:
        adapt = planner.get("adapt", {})
        accepted = dict.fromkeys([*adapt.get("accepted", ()), *candidates])
        return {**planner, "adapt": {**adapt, "accepted": list(accepted)}}

    return accepting


def give(record: ClusterRecord, change: Change) -> None:
    """Change what the planner of a cluster was told.

    Raises:
        ClusterError: nothing of ours runs there, or that cannot be.

    """
    with local_cluster.serving(record) as client:
        details = client.get_serve_details()
        application = details["applications"].get(APPLICATION)
        if application is None:
            raise ClusterError(f"nothing of ours runs at {record.ray_address}")
        from ray.serve.schema import ServeDeploySchema

        client.deploy_apps(
            ServeDeploySchema.model_validate(
                {
                    "proxy_location": details["proxy_location"],
                    "http_options": details["http_options"],
                    "grpc_options": details["grpc_options"],
                    "applications": [changed(application["deployed_app_config"], change)],
                }
            )
        )


def changed(application: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Change an application as Ray Serve knows it; see `give`.

    Raises:
        ClusterError: it has no planner, or that cannot be.

    """
    deployments = [dict(each) for each in application["deployments"]]
    for deployment in deployments:
        if deployment["name"] == PLANNER:
            config = dict(deployment["user_config"])
            config["planner"] = dict(change(config["planner"]))
            try:
                Config.model_validate(config)
            except ValueError as error:
                raise ClusterError(f"that cannot be: {_telling(error)}") from error
            deployment["user_config"] = config
            return {**application, "deployments": deployments}
    raise ClusterError("this cluster is not planned: planner.autoscaler is queue_based")


def _telling(error: ValueError) -> str:
    """Give the lines of a validation error that name what was ordered."""
    lines = [line.strip() for line in str(error).splitlines() if "planner." in line]
    return "; ".join(lines) or str(error)
