"""What operators and tools ask of a gateway: health, reflection, models, status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.cluster.live_cluster import PATIENCE_S, eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

# A replica reports at least twice a second; one that does not for this long is stale.
FRESH_S = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("service", ["", "jouleserve.v1.Inference", "jouleserve.v1.Cluster"])
async def test_each_service_is_healthy(cluster: LiveCluster, service: str) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        assert (await stub.Check(request, timeout=PATIENCE_S)).status == SERVING


async def test_of_other_services_nothing_is_known(cluster: LiveCluster) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(aio.AioRpcError) as raised:
            await stub.Check(health_pb2.HealthCheckRequest(service="x"), timeout=PATIENCE_S)
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_can_be_watched(cluster: LiveCluster) -> None:
    async with aio.insecure_channel(cluster.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_S)
        assert (await watch.read()).status == SERVING
        watch.cancel()


def test_reflection_lists_the_services(cluster: LiveCluster) -> None:
    with grpc.insecure_channel(cluster.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        services = set(database.get_services())
        assert {
            "jouleserve.v1.Inference",
            "jouleserve.v1.Cluster",
            "grpc.health.v1.Health",
        } <= services
        file = database.FindFileContainingSymbol("jouleserve.v1.Inference")
        assert file.package == "jouleserve.v1"


async def test_models_are_listed_with_their_variants(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        echo, slow = await client.models()
    assert (echo.name, slow.name) == ("echo", "slow")
    assert echo.max_context_tokens == 1024
    assert [(each.name, each.quality, each.awake_replicas) for each in echo.variants] == [
        ("large", 1.0, 1),
        ("small", 0.9, 2),
    ]
    assert echo.default_service_class == "standard"
    assert {each.name for each in echo.service_classes} == {"interactive", "standard", "batch"}


def all_fresh(cluster: LiveCluster) -> Callable[[], Awaitable[bool]]:
    """Ask whether every replica has reported since it came up, and lately."""

    async def ask() -> bool:
        replicas = (await cluster.status()).replicas
        return all(each.energy_j > 0 and each.age_s < FRESH_S for each in replicas)

    return ask


async def test_status_shows_every_replica_awake_and_fresh(cluster: LiveCluster) -> None:
    await eventually(all_fresh(cluster))
    status = await cluster.status()
    assert status.policy == "energy"
    assert sorted(each.variant for each in status.replicas) == [
        *("large", "slow", "slow", "small", "small")
    ]
    known = {each["replica"] for each in await cluster.probe.replicas()}
    for replica in status.replicas:
        assert replica.state == "awake"
        assert replica.replica in known
        assert replica.node
        assert replica.age_s < FRESH_S
        assert replica.power_w > 0
        assert replica.energy_j > 0
