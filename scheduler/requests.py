"""What a client asks for, reduced to what a scheduling decision needs.

Its own module because admission, routing, planning and the virtual cluster all
speak of requests and of nothing that lies behind them (text, sockets, Ray).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NewType

RequestId = NewType("RequestId", str)
ModelName = NewType("ModelName", str)
VariantName = NewType("VariantName", str)
ReplicaId = NewType("ReplicaId", str)


@dataclass(frozen=True, slots=True)
class Objective:
    """What a request needs of whoever serves it.

    Attributes:
        ttft_s: longest acceptable time to the first token.
        tpot_s: longest acceptable mean time per output token after the first.
        min_quality: least acceptable quality of the variant; 1 is the unmodified model.

    """

    ttft_s: float
    tpot_s: float
    min_quality: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the scheduler sees it.

    Attributes:
        request_id: unique within the cluster.
        model: the model name that the client used.
        prompt_tokens: length of the rendered prompt.
        max_tokens: most tokens that may be generated.
        expected_completion_tokens: estimate of the tokens that will be generated.
        objective: latency and quality that it needs.
        arrived_at_s: time of arrival on the gateway's monotonic clock.
        variant: the only variant that may serve it, or None for any.
        prefix_blocks: chained hashes of the prompt's full blocks (`scheduler.prefixes`);
            empty where nobody looks for common prefixes.

    """

    request_id: RequestId
    model: ModelName
    prompt_tokens: int
    max_tokens: int
    expected_completion_tokens: float
    objective: Objective
    arrived_at_s: float
    variant: VariantName | None = None
    prefix_blocks: tuple[int, ...] = ()
