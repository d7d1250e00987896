"""The typed Python client: everything that a user of it imports.

    async with AsyncClient("127.0.0.1:9000") as client:
        async with client.generate("smollm2", "The capital of France is") as stream:
            async for tokens in stream:
                print(tokens.text, end="")
        print(stream.finish.usage.energy.energy_j)

Its own module so that there is one door; needs grpcio and protobuf, nothing else of Jouleserve.
"""

from __future__ import annotations

from protos.jouleserve.async_client import AsyncClient, AsyncStream
from protos.jouleserve.calls import GenerateOptions
from protos.jouleserve.errors import (
    BadRequestError,
    CallCancelledError,
    DeadlineExceededError,
    IncompleteStreamError,
    InternalError,
    JouleserveClientError,
    OverloadedError,
    Partial,
    RequestTooLargeError,
    UnattainableError,
    UnauthenticatedError,
    UnavailableError,
    UnknownModelError,
)
from protos.jouleserve.plans import (
    Plan,
    PlanAction,
    PlannedDemand,
    PlannedNodes,
    PlannedReplicas,
)
from protos.jouleserve.replies import (
    Candidate,
    Completion,
    Decision,
    Energy,
    Finish,
    Latency,
    TokenLogprobs,
    Tokens,
    TopLogprob,
    Usage,
)
from protos.jouleserve.served import Model, Objective, ServiceClass, Variant
from protos.jouleserve.statuses import (
    CarbonIntensity,
    ClusterStatus,
    Counters,
    EnergyAccount,
    RecentDecision,
    Replica,
    ServiceClassStatus,
)
from protos.jouleserve.sync_client import Client, Stream

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "BadRequestError",
    "CallCancelledError",
    "Candidate",
    "CarbonIntensity",
    "Client",
    "ClusterStatus",
    "Completion",
    "Counters",
    "DeadlineExceededError",
    "Decision",
    "Energy",
    "EnergyAccount",
    "Finish",
    "GenerateOptions",
    "IncompleteStreamError",
    "InternalError",
    "JouleserveClientError",
    "Latency",
    "Model",
    "Objective",
    "OverloadedError",
    "Partial",
    "Plan",
    "PlanAction",
    "PlannedDemand",
    "PlannedNodes",
    "PlannedReplicas",
    "RecentDecision",
    "Replica",
    "RequestTooLargeError",
    "ServiceClass",
    "ServiceClassStatus",
    "Stream",
    "TokenLogprobs",
    "Tokens",
    "TopLogprob",
    "UnattainableError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownModelError",
    "Usage",
    "Variant",
]
