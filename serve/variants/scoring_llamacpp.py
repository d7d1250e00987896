"""llama.cpp as it serves, and what it thinks of given tokens.

Its own module because only it imports llama.cpp's engine for measuring.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from serve.engine_llamacpp import LlamaCppEngine

if TYPE_CHECKING:
    from collections.abc import Mapping

# More than any vocabulary has.
_ALL = 1 << 20
# No logit comes near.
_CERTAIN = 1e4


class ScoringLlamaCpp(LlamaCppEngine):
    """The engine, asked for one token after each beginning of a text: it finds the rest cached."""

    async def score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        """Give each token but the first its log probability, and the most probable in its place."""
        return await asyncio.to_thread(self._score, token_ids)

    def _score(self, token_ids: list[int]) -> list[tuple[float, int]]:
        vocabulary = self._known_vocabulary()
        thought = []
        for length in range(1, len(token_ids)):
            given = token_ids[length]
            # Nothing is told where what comes is no text by itself: an end, part of a character.
            # So what comes is forced; what is told is from before that, and has the forced one.
            forced, count = (given, 1) if vocabulary.is_text(given) else (vocabulary.text(), _ALL)
            told = self._next(token_ids[:length], forced, count)
            thought.append((told[given], max(told, key=told.__getitem__)))
        return thought

    def _next(self, prompt: list[int], forced: int, count: int) -> Mapping[int, float]:
        """Give log probabilities of the forced token and of the most probable ones."""
        answers: list[dict[str, Any]] = []
        asked = {
            "prompt": prompt,
            "n_predict": 1,
            "temperature": 0.0,
            "logit_bias": [[forced, _CERTAIN]],
            "cache_prompt": True,
            "id_slot": 0,
            "n_probs": count,
        }
        self._server.handle_completions(asked, answers.append)
        (record,) = answers[-1]["choices"][0]["logprobs"]["content"]
        return {each["id"]: each["logprob"] for each in (record, *record["top_logprobs"])}
