"""One cluster of echo engines for all tests here, started when the first one asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.live_cluster import free_ports, running
from tests.cluster.otlp_collector import OtlpCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.live_cluster import LiveCluster

CONFIG = """
models:
  - name: echo
    variants:
      - name: large
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_context_tokens: 1024
        echo: {decode_step_s: 0.004, prefill_tokens_per_s: 100000}
      - name: small
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        max_context_tokens: 1024
        min_replicas: 2
        quality: 0.9
        echo: {decode_step_s: 0.002, prefill_tokens_per_s: 100000}
  # Slow enough that nothing ends by itself while a test looks on; a prompt of some thousand
  # tokens has no first token for seconds.
  - name: slow
    variants:
      - name: slow
        engine: echo
        accelerator: cpu
        cpus_per_replica: 0.1
        min_replicas: 2
        quality: 0.8
        echo: {decode_step_s: 0.05, prefill_tokens_per_s: 1000}
carbon: {provider: constant, gco2e_per_kwh: 400, pue: 1.25}
"""


@pytest.fixture(scope="session")
def collector() -> Iterator[OtlpCollector]:
    """Give a collector of spans that the cluster sends to."""
    with OtlpCollector() as collector:
        yield collector


@pytest.fixture(scope="session")
def metrics_port() -> int:
    """Give the port at which the cluster's metrics wait to be fetched."""
    return free_ports(1)[0]


@pytest.fixture(scope="session")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, collector: OtlpCollector, metrics_port: int
) -> Iterator[LiveCluster]:
    """Give the cluster."""
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_METRICS_EXPORTER": "prometheus",
        "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
        "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics_port),
        "OTEL_BSP_SCHEDULE_DELAY": "200",
        "JOULESERVE_LOG_FORMAT": "json",
    }
    with running(tmp_path_factory.mktemp("cluster"), CONFIG, environment) as cluster:
        yield cluster
