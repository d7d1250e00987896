"""A prompt as a chain of block hashes: equal hashes mean equal beginnings.

Its own module because gateways, traces and engines' events must all hash alike, and none of
them needs the index that the hashes are for.
"""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK_TOKENS = 16
"""Tokens of a block: vLLM's default."""

# Odd multipliers of a token's place in its block, and of a block's place in its chain.
_PLACES = np.random.default_rng(0x6A6F756C65).integers(0, 1 << 63, 4096, dtype=np.uint64) * 2 + 1
_LINK = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def block_hashes(
    token_ids: Sequence[int], block_tokens: int = BLOCK_TOKENS, parent: int = 0
) -> tuple[int, ...]:
    """Hash a prompt's full blocks, each chained to those before it.

    The same in every process. Hashes of 64 bits collide by chance once in some 10^9 pairs of
    a million blocks each; what a collision costs is one badly placed request.

    Args:
        token_ids: from 0 to 2^32 - 1; what does not fill the last block is left out.
        block_tokens: of a block, at most 4096.
        parent: hash of the block before the first; 0 at the beginning of a prompt.

    """
    count = len(token_ids) // block_tokens
    if count == 0:
        return ()
    tokens = np.frombuffer(array("I", token_ids[: count * block_tokens]), dtype=np.uint32)
    blocks = tokens.reshape(count, block_tokens).astype(np.uint64)
    # Vectorised chain: h_i = h_{i-1}·K + b_i, as K^i·(h_0 + Σ b_j·K^-j); all modulo 2^64.
    powers, inverses = (each[:count] for each in _powers(1 << (count - 1).bit_length()))
    mixed = _mix((blocks + np.uint64(1)) @ _PLACES[:block_tokens])
    chained = powers * (np.uint64(parent) + np.cumsum(mixed * inverses, dtype=np.uint64))
    hashes: list[int] = chained.tolist()
    return tuple(hashes)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all bits (the finalizer of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


@lru_cache(maxsize=32)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """K^1 … K^count and their inverses modulo 2^64."""
    inverse, power, back = pow(_LINK, -1, 1 << 64), 1, 1
    powers, inverses = np.empty(count, dtype=np.uint64), np.empty(count, dtype=np.uint64)
    for place in range(count):
        power, back = power * _LINK & _MASK, back * inverse & _MASK
        powers[place], inverses[place] = power, back
    return powers, inverses
