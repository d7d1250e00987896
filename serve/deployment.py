"""What Ray Serve is told: the declarative configuration, and the options of each deployment.

Its own module because `jouleserve up` and the Helm chart must ask for the same things;
everything here is a value made from a value, and nothing of Ray is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.accelerators import CATALOGUE
from serve import haproxy
from serve.config_models import CPU

if TYPE_CHECKING:
    from collections.abc import Mapping

    from serve.config import Config
    from serve.config_models import VariantConfig
    from serve.config_planner import PlannerConfig

APPLICATION = "jouleserve"
GATEWAY = "Gateway"
PLANNER = "Planner"
AUTOSCALING_POLICY = "serve.autoscaling:carry_out"
TARGET = "replicas:"
"""Before a variant's name: the planner's statistic that says how many replicas it wants."""
IMPORT_PATH = "serve.application:build"
REQUEST_ROUTER = "serve.request_router:LeaseRouter"
SERVICERS = (
    "protos.jouleserve.v1.inference_pb2_grpc.add_InferenceServicer_to_server",
    "protos.jouleserve.v1.cluster_pb2_grpc.add_ClusterServicer_to_server",
    "grpc_health.v1.health_pb2_grpc.add_HealthServicer_to_server",
)

RAY_ENVIRONMENT: Mapping[str, str] = {
    # Its Python proxy costs half a millisecond a token and does not pass cancellation on.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Handles over gRPC, one event loop, no per-request thread.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # The line above would else keep a thousand log lines back.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # The same HAProxy, which notices when clients leave.
    haproxy.BINARY_VARIABLE: haproxy.program(),
    # Streams on one client connection; beyond them requests wait where nobody sees them.
    "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS": "1024",
    # Old HAProxy processes live on after a reload for the streams they carry; Ray's 120 s would
    # cut those that last longer.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "3600",
    # A node that has vanished is gone after 3 s; Ray takes 15 s by itself, and tries to start
    # replicas there meanwhile.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    # Ray would keep a gateway's port unused for as long; with one application an old process
    # that still knows the port can only reach another gateway of ours.
    "RAY_SERVE_PORT_QUARANTINE_S": "60",
    # Replicas go to nodes that have some already, so that others can be empty.
    "RAY_SERVE_USE_PACK_SCHEDULING_STRATEGY": "1",
    # Those on a node whose replicas have room elsewhere move there together, once nothing has
    # changed for as long. Ray would wait five minutes, in which load that varies always changes.
    "RAY_SERVE_NODE_COMPACTION_DELAY_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Must be set in every Ray process before it starts, on every node."""

# Calls that a replica answers at once: one stream of frames for each gateway, and control calls.
_REPLICA_CALLS = 10_000
# Ray Serve builds a failing replica again; the second failure tells a fault from an accident.
_CONSTRUCTOR_RETRIES = 2
_HEALTH_CHECK_PERIOD_S = 5.0
# A prefill of a long prompt may hold the event loop of a CPU engine for this long.
_HEALTH_CHECK_TIMEOUT_S = 30.0
# The planner's wishes reach Ray Serve's controller this often; other replicas say nothing.
_WISHES_PERIOD_S = 0.5
PLANNER_SCALING: Mapping[str, float] = {
    "min_replicas": 1,
    "max_replicas": 1,
    "metrics_interval_s": _WISHES_PERIOD_S,
}
"""One is enough; only with bounds does Ray Serve ask its replica for statistics."""
DELAYS: Mapping[str, float] = {
    "upscale_delay_s": 0.0,
    "downscale_delay_s": 0.0,
    "downscale_to_zero_delay_s": 0.0,
}
"""The planner has its own patience, on the way up and down."""
# Ray only wants to see that the node is of this type; any positive share says so.
_RESOURCE_SHARE = 0.001


def serve_config(config: Config) -> dict[str, Any]:
    """Give Ray Serve's declarative configuration (ServeDeploySchema), ready for JSON or YAML."""
    gateway = config.gateway
    return {
        "proxy_location": "EveryNode" if gateway.ingress == "every_node" else "HeadOnly",
        "http_options": {"host": gateway.host, "port": gateway.http_port},
        "grpc_options": {
            "port": gateway.grpc_port,
            "grpc_servicer_functions": list(SERVICERS),
        },
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": "/",
                "import_path": IMPORT_PATH,
                "args": _without_counts(config),
                **(
                    {"autoscaling_policy": {"policy_function": AUTOSCALING_POLICY}}
                    if planned(config)
                    else {}
                ),
                "deployments": [
                    {"name": GATEWAY, "num_replicas": gateway.replicas},
                    *([_planner(config)] if planned(config) else []),
                    *(
                        {"name": v.name, **_replicas(v, config.planner)}
                        for _, v in config.variants()
                    ),
                ],
            }
        ],
    }


def planned(config: Config) -> bool:
    """Whether the planner decides what is awake."""
    return config.planner.autoscaler == "planner"


def _planner(config: Config) -> dict[str, Any]:
    """Give what of the planner may change while it runs: all that it knows."""
    return {
        "name": PLANNER,
        "user_config": config.model_dump(mode="json"),
        "autoscaling_config": dict(PLANNER_SCALING),
    }


def planner_options(config: Config) -> dict[str, Any]:
    """Give the options of the planner's deployment."""
    return {
        "name": PLANNER,
        "max_ongoing_requests": _REPLICA_CALLS,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": _HEALTH_CHECK_TIMEOUT_S,
        "max_constructor_retry_count": _CONSTRUCTOR_RETRIES,
        "ray_actor_options": _front(config),
    }


def gateway_options(config: Config) -> dict[str, Any]:
    """Give the options of the gateway's deployment."""
    gateway = config.gateway
    return {
        "name": GATEWAY,
        # The gateway itself refuses what is too much, with a status that says so.
        "max_ongoing_requests": 2 * gateway.max_concurrent_requests,
        "graceful_shutdown_timeout_s": gateway.drain_timeout_s,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": _HEALTH_CHECK_TIMEOUT_S,
        "max_constructor_retry_count": _CONSTRUCTOR_RETRIES,
        "ray_actor_options": _front(config),
    }


def _front(config: Config) -> dict[str, Any]:
    """Say where gateways and the planner run.

    They wait more than they work, and must fit beside the engines on a small machine.
    """
    return {"num_cpus": 0, "resources": {config.gateway.node_resource: _RESOURCE_SHARE}}


def variant_options(variant: VariantConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """Give the options of a variant's deployment, request router excepted.

    Args:
        variant: what to deploy; its name becomes the deployment's.
        environment: variables that its processes need.

    """
    return {
        "name": variant.name,
        "max_ongoing_requests": _REPLICA_CALLS,
        "graceful_shutdown_timeout_s": variant.drain_timeout_s,
        "health_check_period_s": _HEALTH_CHECK_PERIOD_S,
        "health_check_timeout_s": _HEALTH_CHECK_TIMEOUT_S,
        "max_constructor_retry_count": _CONSTRUCTOR_RETRIES,
        **_resources(variant, {"env_vars": dict(environment)}),
    }


def _without_counts(config: Config) -> dict[str, Any]:
    """Give the configuration as JSON, without the numbers of replicas.

    Ray Serve builds everything anew when an application's arguments change; numbers of
    replicas and what the planner knows stand beside them, so that scaling replaces nothing.
    """
    tree = config.model_dump(mode="json")
    del tree["gateway"]["replicas"], tree["planner"], tree["node_groups"]
    tree["planner"] = {"autoscaler": config.planner.autoscaler}
    for model in tree["models"]:
        for variant in model["variants"]:
            del variant["min_replicas"], variant["max_replicas"], variant["candidate"]
    return tree


def engine_arguments(config: Config, variant: VariantConfig) -> dict[str, Any]:
    """Give what a replica of a variant must know, as JSON, and no more.

    Ray Serve replaces a replica when its arguments change: other numbers of replicas, or
    anything about other parts of the cluster, must not do that.
    """
    counts = {"min_replicas", "max_replicas", "drain_timeout_s", "candidate"}
    return {
        "variant": variant.model_dump(mode="json", exclude=counts),
        "report_period_s": config.scheduler.report_period_s,
        "meter": config.energy.meter,
    }


def _replicas(variant: VariantConfig, planner: PlannerConfig) -> dict[str, Any]:
    if not variant.scalable:
        return {"num_replicas": variant.min_replicas}
    bounds = {"min_replicas": variant.min_replicas, "max_replicas": variant.max_replicas}
    if planner.autoscaler == "queue_based":
        target = planner.queue_target or variant.max_batch
        return {"autoscaling_config": {**bounds, "target_ongoing_requests": target}}
    return {"autoscaling_config": {**bounds, **DELAYS}}


def required_cpus(config: Config) -> float:
    """Count the CPU cores that Ray will be asked for when everything starts."""
    variants = (variant for _, variant in config.variants())
    return sum(each.min_replicas * each.ranks * each.cpus_per_replica for each in variants)


def required_gpus(config: Config) -> int:
    """Count the GPUs that Ray will be asked for when everything starts."""
    variants = (variant for _, variant in config.variants() if variant.accelerator != CPU)
    return sum(each.min_replicas * each.ranks for each in variants)


def _resources(variant: VariantConfig, runtime_env: dict[str, Any]) -> dict[str, Any]:
    if variant.accelerator == CPU:
        cpus = variant.cpus_per_replica
        return {"ray_actor_options": {"num_cpus": cpus, "runtime_env": runtime_env}}
    if variant.ranks == 1:
        return {"ray_actor_options": {**_one_gpu(variant), "runtime_env": runtime_env}}
    return {
        # The replica's own process uses no GPU; vLLM starts one worker in each bundle.
        "ray_actor_options": {"num_cpus": variant.cpus_per_replica, "runtime_env": runtime_env},
        "placement_group_bundles": [_bundle(variant) for _ in range(variant.ranks)],
        # Tensor parallelism talks at every layer and wants one node; a pipeline may span several.
        "placement_group_strategy": "STRICT_PACK"
        if variant.pipeline_parallel_size == 1
        else "PACK",
    }


def _one_gpu(variant: VariantConfig) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": variant.cpus_per_replica, "num_gpus": 1}
    if ray_type := CATALOGUE[variant.accelerator].ray_type:
        options["accelerator_type"] = ray_type
    return options


def _bundle(variant: VariantConfig) -> dict[str, float]:
    bundle = {"CPU": variant.cpus_per_replica, "GPU": 1.0}
    if ray_type := CATALOGUE[variant.accelerator].ray_type:
        bundle[f"accelerator_type:{ray_type}"] = _RESOURCE_SHARE
    return bundle
