"""Lets vLLM go on with a completion that another replica began.

Its own module because it is the one place that reaches into vLLM's output processor. To the
engine, what was generated before is prompt; to whoever turns tokens into text it is
completion: text of half a character, text that may yet become a stop string and the count of
tokens must be as if the stream had never broken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from vllm.v1.engine.detokenizer import BaseIncrementalDetokenizer, IncrementalDetokenizer

from serve.errors import EngineFailedError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest

    from serve.engine import EngineRequest


def left_to_do(request: EngineRequest, parameters: SamplingParams) -> None:
    """Lower what the parameters ask for by what was generated before.

    A seed would begin its sequence again and repeat the same draws, so that it is moved. The
    engine counts replayed tokens as prompt where penalties tell prompt and completion apart.

    Raises:
        EngineFailedError: the output has a structure, which would begin anew.

    """
    if parameters.structured_outputs is not None:
        raise EngineFailedError(
            "the replica was lost, and a completion with a structure cannot go on elsewhere:"
            " send the request again"
        )
    done = len(request.replayed_token_ids)
    parameters.max_tokens = request.max_tokens - done
    parameters.min_tokens = max(0, parameters.min_tokens - done)
    if parameters.seed is not None:
        parameters.seed += done


def replay_into(processor: OutputProcessor, replays: MutableMapping[str, EngineRequest]) -> None:
    """Let an output processor treat replayed tokens as its own.

    Args:
        processor: of one engine.
        replays: requests by the id that they are given to vLLM with; taken out when they come.

    """
    add_request = processor.add_request

    def add(
        request: EngineCoreRequest,
        prompt: str | None,
        parent_req: ParentRequest | None = None,
        request_index: int = 0,
        queue: RequestOutputCollector | None = None,
    ) -> None:
        add_request(request, prompt, parent_req, request_index, queue)
        replayed = replays.pop(request.external_req_id or request.request_id, None)
        if replayed is not None:
            state = processor.request_states[request.request_id]
            state.detokenizer = _primed(processor, request, replayed)
            state.sent_tokens_offset = len(replayed.replayed_token_ids)

    processor.add_request = add


def _primed(
    processor: OutputProcessor, request: EngineCoreRequest, replayed: EngineRequest
) -> IncrementalDetokenizer:
    """Make a detokenizer that has given the replayed tokens already."""
    begun = msgspec.structs.replace(request, prompt_token_ids=replayed.prompt_token_ids)
    detokenizer = IncrementalDetokenizer.from_new_request(processor.tokenizer, begun)
    if isinstance(detokenizer, BaseIncrementalDetokenizer):
        detokenizer.min_tokens += len(replayed.replayed_token_ids)
    detokenizer.update(replayed.replayed_token_ids, stop_terminated=False)
    detokenizer.get_next_output_text(finished=False, delta=True)
    return detokenizer
