"""How Ray Serve carries a plan out: the application's autoscaling policy repeats the planner.

Its own module, small and free of state, because Ray Serve imports it by path into its
controller, where nothing may take long: the plan is made elsewhere, in a replica of its own,
and arrives here as that replica's autoscaling statistics.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from serve.deployment import PLANNER, TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.serve._private.common import DeploymentID
    from ray.serve.config import AutoscalingContext


def carry_out(
    contexts: Mapping[DeploymentID, AutoscalingContext],
) -> tuple[dict[DeploymentID, int], dict[DeploymentID, dict[str, Any]]]:
    """Give every deployment the number of replicas that the planner wants.

    While the planner says nothing (it starts, or its node is gone) all stays as it is. So does a
    deployment that has the right number: where Ray Serve is told anything about one that has no
    replica while a call waits for it, it starts one by itself.
    """
    said = _said(contexts)
    targets = {
        deployment: int(said[TARGET + deployment.name])
        for deployment, context in contexts.items()
        if said.get(TARGET + deployment.name, context.target_num_replicas)
        != context.target_num_replicas
    }
    return targets, {}


def _said(contexts: Mapping[DeploymentID, AutoscalingContext]) -> dict[str, float]:
    """Give the newest statistics of the planner's replica; of two, those said last."""
    newest: dict[str, tuple[float, float]] = {}
    for deployment, context in contexts.items():
        if deployment.name != PLANNER:
            continue
        for name, by_replica in context.raw_metrics.items():
            for series in by_replica.values():
                for point in series:
                    if name not in newest or point.timestamp >= newest[name][0]:
                        newest[name] = (point.timestamp, point.value)
    return {name: value for name, (_, value) in newest.items()}
