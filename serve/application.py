"""The application that Ray Serve builds: one gateway over one deployment for each variant.

Its own module because Ray Serve imports it by path in a process of its own, where the
configuration arrives as plain JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray import serve as ray_serve
from ray.serve.config import RequestRouterConfig

from serve.config import Config
from serve.deployment import (
    REQUEST_ROUTER,
    engine_arguments,
    gateway_options,
    planned,
    planner_options,
    variant_options,
)
from serve.engine_environment import environment
from serve.gateway import Gateway, api
from serve.planner_deployment import PlannerDeployment
from serve.replica_deployment import ReplicaDeployment

if TYPE_CHECKING:
    from serve.config_models import VariantConfig


def build(args: dict[str, Any]) -> ray_serve.Application:
    """Bind the whole application.

    Args:
        args: a configuration as `serve.deployment.serve_config` wrote it.

    """
    config = Config.model_validate(args)
    engines = {variant.name: _engine(config, variant) for _, variant in config.variants()}
    planner = _planner(config) if planned(config) else None
    gateway = ray_serve.deployment(**gateway_options(config))(ray_serve.ingress(api)(Gateway))
    return gateway.bind(config.model_dump(mode="json"), engines, planner)


def _planner(config: Config) -> ray_serve.Application:
    """Bind the planner; what it knows comes as its user_config, which may change as it runs."""
    return ray_serve.deployment(**planner_options(config))(PlannerDeployment).bind()


def _engine(config: Config, variant: VariantConfig) -> ray_serve.Application:
    options = variant_options(variant, environment(variant))
    router = RequestRouterConfig(request_router_class=REQUEST_ROUTER)
    deployment = ray_serve.deployment(**options, request_router_config=router)(ReplicaDeployment)
    return deployment.bind(**engine_arguments(config, variant))
