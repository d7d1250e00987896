"""The KV cache of a simulated replica: blocks, shared prefixes, eviction.

Its own module because its laws (never above capacity, nothing leaks, the least recently
used prefix goes first) hold whatever the replica does with it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class KvHolding:
    """What one sequence holds.

    Attributes:
        hash_ids: of the prompt's full blocks, in order; equal prefixes have equal ids.
        tokens: computed, or about to be within the present step.
        shared: those of its blocks that others may use too, by their ids.

    """

    __slots__ = ("hash_ids", "shared", "tokens")

    def __init__(self, hash_ids: tuple[int, ...] = ()) -> None:
        self.hash_ids = hash_ids
        self.tokens = 0
        self.shared: list[int] = []


class KvCache:
    """Counts blocks; those of known prefixes by name, all others by number.

    A block that nobody holds but that has a name stays until its space is needed.

    Attributes:
        block_tokens: tokens of a block.
        capacity_blocks: that there are.
        used_blocks: held by sequences.
        reserved_blocks: that are spoken for, and not free while prompts make room.
        decoding: sequences that grow by one token in every step.

    """

    def __init__(self, capacity_tokens: int, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.capacity_blocks = capacity_tokens // block_tokens
        self.used_blocks = 0
        self.reserved_blocks = 0
        self.decoding = 0
        self._holders: dict[int, int] = {}
        self._unheld: OrderedDict[int, None] = OrderedDict()
        # Decoding sequences by (tokens − steps) mod block: each needs a block every
        # `block_tokens` steps, and its place in this ring says in which.
        self._ring = [0] * block_tokens

    @property
    def free_blocks(self) -> int:
        """That can be taken, if need be by evicting prefixes that nobody holds."""
        return self.capacity_blocks - self.used_blocks - self.reserved_blocks

    @property
    def cached_blocks(self) -> int:
        """That hold a prefix which nobody uses now."""
        return len(self._unheld)

    def blocks(self, tokens: int) -> int:
        """Blocks that so many tokens fill, the last one perhaps in part."""
        return -(-tokens // self.block_tokens)

    # ── prompts ─────────────────────────────────────────────────────────────

    def admit(self, holding: KvHolding, total_tokens: int, most_tokens: int) -> int | None:
        """Find the prompt's prefix and make room for what is computed first.

        Args:
            holding: of a sequence that holds nothing yet.
            total_tokens: to be computed before the next token can be sampled.
            most_tokens: that the step can compute of them.

        Returns:
            tokens found; `holding.tokens` is then what is there after the step. None if
            there is no room, and nothing has changed.

        """
        hits = self._hits(holding.hash_ids, (total_tokens - 1) // self.block_tokens)
        found = hits * self.block_tokens
        after = min(total_tokens, found + most_tokens)
        revived = 0
        if self._unheld:
            revived = sum(1 for hash_id in holding.hash_ids[:hits] if hash_id in self._unheld)
        if self.blocks(after) - hits + revived > self.free_blocks:
            return None
        for hash_id in holding.hash_ids[:hits]:
            self._hold(hash_id)
        holding.shared.extend(holding.hash_ids[:hits])
        holding.tokens = found
        self.extend(holding, after)
        return found

    def extend(self, holding: KvHolding, tokens: int) -> bool:
        """Make room for a prompt up to so many tokens; False if there is none."""
        wanted = self.blocks(tokens) - self.blocks(holding.tokens)
        if wanted > self.free_blocks:
            return False
        self._take(wanted)
        if holding.hash_ids:
            block = self.block_tokens
            for hash_id in holding.hash_ids[holding.tokens // block : tokens // block]:
                # Where two compute the same block at once, the second one stays nameless.
                if hash_id not in self._holders:
                    self._holders[hash_id] = 1
                    holding.shared.append(hash_id)
        holding.tokens = tokens
        return True

    def release(self, holding: KvHolding) -> None:
        """Give everything back; blocks with names stay until their space is needed."""
        self.used_blocks -= self.blocks(holding.tokens) - len(holding.shared)
        # The end of a prefix is of use to fewer than its beginning: it goes first.
        for hash_id in reversed(holding.shared):
            self._holders[hash_id] -= 1
            if not self._holders[hash_id]:
                self._unheld[hash_id] = None
                self.used_blocks -= 1
        holding.shared.clear()
        holding.tokens = 0

    # ── decoding ────────────────────────────────────────────────────────────

    def join(self, holding: KvHolding, step: int) -> None:
        """Let a sequence grow by one token in every step from that one on."""
        self._ring[(holding.tokens - step) % self.block_tokens] += 1
        self.decoding += 1

    def leave(self, holding: KvHolding, tokens: int, step: int) -> None:
        """Let it grow no more; it has so many tokens before that step."""
        self._ring[(tokens - step) % self.block_tokens] -= 1
        self.decoding -= 1
        holding.tokens = tokens

    def growth(self, step: int, steps: int) -> int:
        """Blocks that decoding takes in so many steps from that one on."""
        block = self.block_tokens
        rounds, rest = divmod(steps, block)
        blocks = rounds * self.decoding
        if rest:
            low = -(step + rest - 1) % block
            blocks += sum(self._ring[low : low + rest])
            if low + rest > block:
                blocks += sum(self._ring[: low + rest - block])
        return blocks

    def affordable(self, step: int, steps: int) -> int:
        """How many of these steps the free blocks allow."""
        free = self.free_blocks
        if free >= self.decoding * (steps // self.block_tokens + 1):
            return steps
        low, high = 0, steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.growth(step, middle) <= free:
                low = middle
            else:
                high = middle - 1
        return low

    def grow(self, step: int, steps: int) -> None:
        """Take the blocks of so many decode steps, which must be free."""
        self._take(self.growth(step, steps))

    # ── blocks ──────────────────────────────────────────────────────────────

    def _hits(self, hash_ids: Sequence[int], most: int) -> int:
        if not hash_ids:
            return 0
        hits = 0
        for hash_id in hash_ids[:most]:
            if hash_id not in self._holders:
                break
            hits += 1
        return hits

    def _hold(self, hash_id: int) -> None:
        if not self._holders[hash_id]:
            del self._unheld[hash_id]
            self.used_blocks += 1
        self._holders[hash_id] += 1

    def _take(self, blocks: int) -> None:
        self.used_blocks += blocks
        while self.used_blocks + len(self._unheld) > self.capacity_blocks:
            hash_id, _ = self._unheld.popitem(last=False)
            del self._holders[hash_id]
