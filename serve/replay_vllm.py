"""Lets vLLM go on with a completion that another replica began.

Its own module because it is the one place that reaches into vLLM's output processor: text of
half a character, text that may yet become a stop string and the count of tokens must be as if
the stream had never broken. What the engine's own processes do is in `engine_vllm_resume`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from serve.engine_vllm_resume import REPLAYED
from serve.errors import EngineRejectedError

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from vllm.config import ModelConfig
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
    from vllm.v1.engine.parallel_sampling import ParentRequest

    from serve.engine import EngineRequest


def hand_over(request: EngineRequest, parameters: SamplingParams, model: ModelConfig) -> None:
    """Put the replayed tokens into the parameters, checked as vLLM checks a prompt.

    Raises:
        EngineRejectedError: no engine with this model can have generated them.

    """
    # Nobody else may say what was generated.
    extra = {k: v for k, v in (parameters.extra_args or {}).items() if k != REPLAYED}
    replayed = request.replayed_token_ids
    if replayed:
        vocabulary = model.get_vocab_size()
        if not all(0 <= token < vocabulary for token in replayed):
            raise EngineRejectedError(
                f"tokens to go on after are out of the vocabulary, which ends at {vocabulary - 1}"
            )
        if request.context_tokens >= model.max_model_len:
            raise EngineRejectedError(
                f"prompt and tokens to go on after are {request.context_tokens} tokens, and the"
                f" model's context ends at {model.max_model_len}"
            )
        extra[REPLAYED] = replayed
        parameters.prompt_logprobs = None  # They went with the first tokens.
    parameters.extra_args = extra or None


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
    detokenizer = IncrementalDetokenizer.from_new_request(processor.tokenizer, request)
    detokenizer.update(replayed.replayed_token_ids, stop_terminated=False)
    detokenizer.get_next_output_text(finished=False, delta=True)
    return detokenizer
