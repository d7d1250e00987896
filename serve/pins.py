"""Numbers of replicas that an operator sets by hand in a running cluster.

Its own module because a pin is configuration: it travels as the planner's own, so that Ray
Serve keeps it through every restart, and replaces nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serve import local_cluster
from serve.cluster_record import ClusterError
from serve.config import Config
from serve.deployment import APPLICATION, PLANNER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.cluster_record import ClusterRecord


def pin(record: ClusterRecord, pinned: Mapping[str, int]) -> None:
    """Set how many replicas of these variants there are to be; of others the planner decides.

    Args:
        record: of the cluster.
        pinned: by variant; empty gives everything back to the planner.

    Raises:
        ClusterError: nothing of ours runs there, or no such number can be.

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
                    "applications": [with_pins(application["deployed_app_config"], pinned)],
                }
            )
        )


def with_pins(application: Mapping[str, Any], pinned: Mapping[str, int]) -> dict[str, Any]:
    """Change an application as Ray Serve knows it; see `pin`.

    Raises:
        ClusterError: it has no planner, or no such number can be.

    """
    deployments = [dict(each) for each in application["deployments"]]
    for deployment in deployments:
        if deployment["name"] == PLANNER:
            config = dict(deployment["user_config"])
            config["planner"] = {**config["planner"], "pinned": dict(pinned)}
            try:
                Config.model_validate(config)
            except ValueError as error:
                raise ClusterError(f"cannot pin: {_telling(error)}") from error
            deployment["user_config"] = config
            return {**application, "deployments": deployments}
    raise ClusterError("this cluster is not planned: planner.autoscaler is queue_based")


def _telling(error: ValueError) -> str:
    """Give the lines of a validation error that name a pin."""
    lines = [line.strip() for line in str(error).splitlines() if "planner.pinned" in line]
    return "; ".join(lines) or str(error)
