"""Sampling parameters on their way from gateway to engine: vLLM's, as msgpack.

Its own module because every engine reads them, and only one of them is vLLM's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from vllm.exceptions import VLLMClientError
from vllm.sampling_params import RequestOutputKind, SamplingParams

from serve.errors import EngineRejectedError

if TYPE_CHECKING:
    from serve.engine import EngineRequest


def encode(parameters: SamplingParams) -> bytes:
    """Encode for EngineRequest.sampling."""
    return msgspec.msgpack.encode(parameters)


def decode(data: bytes) -> SamplingParams:
    """Decode EngineRequest.sampling.

    Raises:
        EngineRejectedError: it is not that, or a value is out of its range.

    """
    try:
        parameters: SamplingParams = msgspec.msgpack.decode(data, type=SamplingParams)
    except (msgspec.DecodeError, VLLMClientError, ValueError) as error:
        raise EngineRejectedError(f"sampling parameters: {error}") from error
    return parameters


def parameters_of(request: EngineRequest) -> SamplingParams:
    """Give the parameters of a request, for one stream of deltas.

    Raises:
        EngineRejectedError: they cannot be read, or ask for several streams.

    """
    parameters = decode(request.sampling) if request.sampling else SamplingParams()
    if parameters.n != 1:
        raise EngineRejectedError(f"n is {parameters.n}; one request is one stream, n must be 1")
    parameters.max_tokens = request.max_tokens
    parameters.output_kind = RequestOutputKind.DELTA
    parameters.flat_logprobs = False
    # Decoded for this request alone.
    parameters.skip_clone = True
    return parameters
