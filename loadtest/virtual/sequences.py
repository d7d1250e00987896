"""One request inside a simulated engine, from acceptance to its last token.

Its own module because the gateway makes it, the replica moves it on, and the results read
it: each needs its fields and none owns the others.
"""

from __future__ import annotations

import math

from loadtest.virtual.kv_cache import KvHolding


class Sequence:
    """A request's state in an engine.

    Attributes:
        number: the lease it came with; unique within the cluster.
        gateway: index of the gateway that sent it.
        prompt_tokens: of the request.
        completion_tokens: that it will generate.
        kv: its part of the KV cache.
        generated: tokens so far, counted when the sequence joins or leaves the decoding ones.
        cached_tokens: of the prompt, found in the cache when it first entered the batch.
        expected_cached_tokens: what a gateway expects of that, until it is known.
        first_token_at_s: when its first token was there; NaN before.
        joined_step: decode step of the replica from which on it decodes.
        decode_mark_j: the replica's energy for each decoding sequence when it joined.
        decode_j: its part of decode steps, up to when it last left the decoding ones.
        prefill_j: for its prompt, computed twice after a preemption.
        preemptions: how often it had to begin anew.

    """

    __slots__ = (
        "cached_tokens",
        "completion_tokens",
        "decode_j",
        "decode_mark_j",
        "expected_cached_tokens",
        "first_token_at_s",
        "gateway",
        "generated",
        "joined_step",
        "kv",
        "number",
        "preemptions",
        "prefill_j",
        "prompt_tokens",
    )

    def __init__(
        self,
        number: int,
        prompt_tokens: int,
        completion_tokens: int,
        hash_ids: tuple[int, ...] = (),
        gateway: int = 0,
    ) -> None:
        self.number = number
        self.gateway = gateway
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.kv = KvHolding(hash_ids)
        self.generated = 0
        self.cached_tokens = -1
        self.expected_cached_tokens = 0
        self.first_token_at_s = math.nan
        self.joined_step = -1
        self.decode_mark_j = 0.0
        self.decode_j = 0.0
        self.prefill_j = 0.0
        self.preemptions = 0

    @property
    def context_tokens(self) -> int:
        """Prompt and completion so far: what must be computed before the next token."""
        return self.prompt_tokens + self.generated

    @property
    def energy_j(self) -> float:
        """What it has cost, up to when it last left the decoding ones."""
        return self.prefill_j + self.decode_j
