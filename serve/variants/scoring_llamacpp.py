"""llama.cpp as it serves, and what it thinks of given tokens.

Its own module because only it imports llama.cpp's engine for measuring.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from serve.engine_llamacpp import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

# Of the most probable tokens that are looked through for the given one, before all are.
_FEW, _ALL = 256, 1 << 20


class ScoringLlamaCpp(LlamaCppEngine):
    """The engine, asked for one token after each beginning of a text: it finds the rest cached."""

    async def score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        """Give each token but the first its log probability, and the most probable in its place."""
        return await asyncio.to_thread(self._score, token_ids)

    def _score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        thought = []
        for length in range(1, len(token_ids)):
            given = self._next(token_ids[:length], _FEW)
            if token_ids[length] not in given:
                given = self._next(token_ids[:length], _ALL)
            top = max(given, key=given.__getitem__)
            thought.append((given[token_ids[length]], top))
        return thought

    def _next(self, prompt: list[int], count: int) -> Mapping[int, float]:
        """Give log probabilities of what may come next, before any sampling."""
        answers: list[dict[str, Any]] = []
        asked = {
            "prompt": prompt,
            "n_predict": 1,
            "temperature": 0.0,
            "cache_prompt": True,
            "id_slot": 0,
            "n_probs": count,
        }
        self._server.handle_completions(asked, answers.append)
        (record,) = answers[-1]["choices"][0]["logprobs"]["content"]
        return {each["id"]: each["logprob"] for each in (record, *record["top_logprobs"])}
