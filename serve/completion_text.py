"""The text of a completion whose engine gives only token ids: detokenized and stopped as by vLLM.

Its own module because engines that are not vLLM share it: half characters, text that may yet
become a stop string, and the token that ends a completion are then the same everywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from serve.engine import FINISH_LENGTH, FINISH_STOP

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from vllm import SamplingParams
    from vllm.tokenizers import TokenizerLike

    from serve.engine import EngineRequest


class Piece(NamedTuple):
    """What some more tokens make of a completion.

    Attributes:
        token_ids: of those given, up to the one that ended it.
        text: that they add.
        reason: why it has ended; empty while it goes on.
        stop_reason: stop text or token id that ended it, if one did.

    """

    token_ids: list[int]
    text: str
    reason: str = ""
    stop_reason: int | str | None = None


class CompletionText:
    """One completion, from its first token or from where another replica was lost."""

    def __init__(
        self,
        tokenizer: TokenizerLike,
        request: EngineRequest,
        parameters: SamplingParams,
        end_token_ids: Collection[int],
    ) -> None:
        """Begin.

        Args:
            tokenizer: of the model.
            request: what is generated for; its replayed tokens count as given.
            parameters: stop texts and token ids, least number of tokens.
            end_token_ids: the model's own, which end a completion unless it ignores them.

        """
        self._detokenizer = IncrementalDetokenizer.from_new_request(
            tokenizer, _core_request(request, parameters)
        )
        self._ends = frozenset() if parameters.ignore_eos else frozenset(end_token_ids)
        self._stops = frozenset(parameters.stop_token_ids or ())
        self._least = parameters.min_tokens
        self._most = request.max_tokens
        self.tokens = len(request.replayed_token_ids)
        if request.replayed_token_ids:
            self._detokenizer.update(request.replayed_token_ids, stop_terminated=False)
            self._detokenizer.get_next_output_text(finished=False, delta=True)

    def add(self, token_ids: Sequence[int]) -> Piece:
        """Take tokens in their order; those after the end are dropped."""
        taken: list[int] = []
        for token in token_ids:
            taken.append(token)
            self.tokens += 1
            ended = self.tokens >= self._least and (token in self._ends or token in self._stops)
            text = self._detokenizer.update([token], stop_terminated=ended)
            if text is not None:
                return self._last(taken, FINISH_STOP, text)
            if ended:
                return self._last(taken, FINISH_STOP, None if token in self._ends else token)
            if self.tokens >= self._most:
                return self._last(taken, FINISH_LENGTH, None)
        return Piece(taken, self._detokenizer.get_next_output_text(finished=False, delta=True))

    def _last(self, taken: list[int], reason: str, stop_reason: int | str | None) -> Piece:
        text = self._detokenizer.get_next_output_text(finished=True, delta=True)
        return Piece(taken, text, reason, stop_reason)


def _core_request(request: EngineRequest, parameters: SamplingParams) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=request.request_id,
        prompt_token_ids=request.prompt_token_ids,
        mm_features=None,
        sampling_params=parameters,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
