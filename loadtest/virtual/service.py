"""A virtual cluster behind the gRPC services that operators ask: status, plan, models.

Its own module because it alone listens; `jouleserve top` and `jouleserve dashboard` then see a
cluster like any other. It generates no text.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc

from loadtest.errors import LoadtestError
from loadtest.virtual.status import VirtualStatus
from protos.jouleserve.v1 import cluster_pb2, cluster_pb2_grpc, inference_pb2, inference_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.virtual.paced_cluster import PacedCluster

_THREADS = 4
_CLOSE_S = 1.0


class ClusterService(cluster_pb2_grpc.ClusterServicer):
    """Answers operators."""

    def __init__(self, paced: PacedCluster, answers: VirtualStatus) -> None:
        self._paced = paced
        self._answers = answers

    def GetStatus(
        self, request: cluster_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.GetStatusResponse:
        """Replicas, counts, objectives met, decisions, accounts."""
        with self._paced.lock:
            return self._answers.status(request.decisions)

    def GetPlan(
        self, request: cluster_pb2.GetPlanRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.GetPlanResponse:
        """The newest plan."""
        if request.dry_run:
            context.abort(
                grpc.StatusCode.UNIMPLEMENTED, "a virtual cluster plans on its own period only"
            )
        with self._paced.lock:
            return self._answers.plan()


class ModelService(inference_pb2_grpc.InferenceServicer):
    """Says what is served, and serves none of it."""

    def __init__(self, paced: PacedCluster, answers: VirtualStatus) -> None:
        self._paced = paced
        self._answers = answers

    def Generate(
        self, request: inference_pb2.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[inference_pb2.GenerateResponse]:
        """Refuse."""
        context.abort(
            grpc.StatusCode.UNIMPLEMENTED,
            "a virtual cluster has no engine; `jouleserve up` starts one that has",
        )

    def ListModels(
        self, request: inference_pb2.ListModelsRequest, context: grpc.ServicerContext
    ) -> inference_pb2.ListModelsResponse:
        """The fleet's model with its variants."""
        with self._paced.lock:
            return self._answers.models()


@contextmanager
def served(
    paced: PacedCluster, address: str, carbon: cluster_pb2.CarbonIntensity | None = None
) -> Iterator[int]:
    """Serve a cluster while inside; give the port.

    Args:
        paced: the cluster, that somebody runs.
        address: to listen on; port 0 takes a free one.
        carbon: of its grid; None for none.

    Raises:
        LoadtestError: the address is taken or is none.

    """
    answers = VirtualStatus(paced, carbon)
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, "virtual-service"), options=[("grpc.so_reuseport", 0)]
    )
    cluster_pb2_grpc.add_ClusterServicer_to_server(ClusterService(paced, answers), server)
    inference_pb2_grpc.add_InferenceServicer_to_server(ModelService(paced, answers), server)
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise LoadtestError(
            f"{address} cannot be listened on: give another --listen HOST:PORT"
        ) from error
    server.start()
    try:
        yield port
    finally:
        server.stop(_CLOSE_S).wait(_CLOSE_S)
