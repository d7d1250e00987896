"""A text side without a tokenizer: one token is one byte of UTF-8.

Its own module because models that have no checkpoint (echo engines, for tests and for
weighing the gateway) need prompts too, and no vLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class BytesFrontend:
    """Renders prompts as bytes; sampling parameters do not exist."""

    def warm_up(self) -> None:
        """Nothing to prepare."""

    async def tokenize(self, text: str) -> list[int]:
        """The bytes of the text."""
        return list(text.encode())

    async def render_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The bytes of one line a message."""
        lines = (f"{message['role']}: {message['content']}\n" for message in messages)
        return list("".join(lines).encode())

    def encode_sampling(self, given: Mapping[str, Any], max_tokens: int) -> bytes:
        """Nothing: an echo engine only reads max_tokens."""
        del given, max_tokens
        return b""
