"""Which replica holds the beginning of which prompt, as far as a gateway can know.

Its own module because it is the one part of a gateway's knowledge that grows with traffic:
here it is bounded, and here the cheapest prompt token, one that need not be computed, is found.

Prompts are chains of block hashes (`scheduler.blocks`). What was routed to a replica is taken
to be in its cache until the replica's capacity, or the index's own bound, pushes out what was
used least recently. An engine that publishes events of its KV cache is believed instead
(`apply`).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from scheduler.blocks import BLOCK_TOKENS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scheduler.requests import ReplicaId

DepthArray: TypeAlias = NDArray[np.float64]

MAX_ENTRIES = 2_000_000
"""Pairs of block and replica that an index keeps: some 400 MB, 32 million tokens of cache."""


class KvEvent(NamedTuple):
    """What an engine says of its prefix cache.

    Attributes:
        kind: blocks were "stored" or "removed", or all were "cleared".
        blocks: their hashes, as `block_hashes` gives them; empty for "cleared".

    """

    kind: Literal["stored", "removed", "cleared"]
    blocks: tuple[int, ...] = ()


class _Holding:
    """The blocks of one replica, least recently used first, each with when that was."""

    __slots__ = ("bit", "blocks", "capacity", "row")

    def __init__(self, row: int, capacity: int) -> None:
        self.row = row
        self.bit = 1 << row
        self.capacity = capacity
        self.blocks: OrderedDict[int, int] = OrderedDict()


class PrefixIndex:
    """Says how far each replica holds a prompt; bounded in entries, exact in what it forgets.

    A block's entry is the set of replicas that hold it, as bits by row. A look-up takes the
    rows of all replicas at once; what it costs depends on the length of the prompt and on
    how many different answers there are, not on the number of replicas.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES, block_tokens: int = BLOCK_TOKENS) -> None:
        """Know no replica.

        Args:
            max_entries: pairs of block and replica to keep.
            block_tokens: of a block, for whoever asks in tokens.

        """
        self.block_tokens = block_tokens
        self._max_entries = max_entries
        self._entries = 0
        self._masks: dict[int, int] = {}
        self._holdings: dict[ReplicaId, _Holding] = {}
        self._by_row: list[_Holding | None] = []
        self._free_rows: list[int] = []
        # A heap for the overall oldest use: for each row at most one item, no later than the
        # oldest use of its replica.
        self._oldest: list[tuple[int, int]] = []
        self._queued: set[int] = set()
        self._clock = 0
        # Replicas whose blocks may have gone from the middle of a chain.
        self._holed = 0

    def __len__(self) -> int:
        """Pairs of block and replica that are kept."""
        return self._entries

    def row(self, replica: ReplicaId) -> int:
        """Where `match` tells of a replica; for an unknown one, where it tells of none."""
        holding = self._holdings.get(replica)
        return -1 if holding is None else holding.row

    def join(self, replica: ReplicaId, capacity_blocks: int) -> int:
        """Know a replica from now on, and give its row; a known one keeps row and blocks.

        Args:
            replica: unique within the cluster.
            capacity_blocks: that its cache holds.

        """
        known = self._holdings.get(replica)
        if known is not None:
            return known.row
        if self._free_rows:
            row = self._free_rows.pop()
        else:
            row = len(self._by_row)
            self._by_row.append(None)
        holding = _Holding(row, capacity_blocks)
        self._holdings[replica] = self._by_row[row] = holding
        return row

    def forget(self, replica: ReplicaId) -> None:
        """Know a replica no more; nothing if it is unknown."""
        holding = self._holdings.pop(replica, None)
        if holding is not None:
            self._drop_all(holding)
            self._by_row[holding.row] = None
            self._free_rows.append(holding.row)

    def stored(self, replica: ReplicaId, blocks: Sequence[int]) -> None:
        """Note that a replica holds, and has just used, these blocks of one chain, in order.

        Nothing if the replica is unknown. Of a chain longer than the bounds, the beginning
        is kept.
        """
        holding = self._holdings.get(replica)
        if holding is None:
            return
        held, masks, bit = holding.blocks, self._masks, holding.bit
        if holding.row not in self._queued:
            self._queue(self._clock, holding.row)
        before = len(held)
        # Back to front: the beginning of a chain is always used later than what follows it, so
        # that chains are forgotten from their ends and none ever has a hole.
        for block in reversed(blocks[: min(holding.capacity, self._max_entries)]):
            self._clock += 1
            if block in held:
                held.move_to_end(block)
            else:
                masks[block] = masks.get(block, 0) | bit
            held[block] = self._clock
        self._entries += len(held) - before
        while len(held) > holding.capacity:
            self._drop(holding, next(iter(held)))
        while self._entries > self._max_entries:
            self._drop_oldest()

    def removed(self, replica: ReplicaId, blocks: Iterable[int]) -> None:
        """Note that a replica holds these blocks no more."""
        holding = self._holdings.get(replica)
        if holding is not None:
            self._holed |= holding.bit
            for block in blocks:
                if block in holding.blocks:
                    self._drop(holding, block)

    def cleared(self, replica: ReplicaId) -> None:
        """Note that a replica holds nothing any more."""
        holding = self._holdings.get(replica)
        if holding is not None:
            self._drop_all(holding)

    def apply(self, replica: ReplicaId, events: Iterable[KvEvent]) -> None:
        """Take what an engine says, in its order."""
        for event in events:
            match event.kind:
                case "stored":
                    # It may come without the blocks before it, which may have gone meanwhile.
                    self.removed(replica, ())
                    self.stored(replica, event.blocks)
                case "removed":
                    self.removed(replica, event.blocks)
                case "cleared":
                    self.cleared(replica)

    def match(self, blocks: Sequence[int]) -> DepthArray | None:
        """Count, for each row, the blocks at the beginning of a chain that it holds.

        One more element, the last, is always zero. None where nobody holds any.
        """
        found = self._depths(blocks) if blocks else []
        if not found:
            return None
        rows = len(self._by_row) + 1
        size = (rows + 7) // 8
        bits = np.frombuffer(
            b"".join([holders.to_bytes(size, "little") for _, holders in found]), dtype=np.uint8
        )
        held = np.unpackbits(bits.reshape(len(found), size), axis=1, count=rows, bitorder="little")
        # Every row ends at one depth, or at none.
        return np.array([depth for depth, _ in found], dtype=np.float64) @ held

    def _depths(self, blocks: Sequence[int]) -> list[tuple[int, int]]:
        """Give each depth above 0 at which replicas end, with these replicas' bits."""
        get = self._masks.get
        alive = get(blocks[0], 0)
        if alive & self._holed:
            return self._depths_step_by_step(blocks, alive)
        found: list[tuple[int, int]] = []
        depth, end = 1, len(blocks)
        # Those that hold a block hold all before it: bisect for the first that some do not.
        while alive:
            low, high = depth, end
            if get(blocks[-1], 0) & alive == alive:
                low = end
            while low < high:
                middle = (low + high) // 2
                if get(blocks[middle], 0) & alive == alive:
                    low = middle + 1
                else:
                    high = middle
            left = alive & get(blocks[low], 0) if low < end else 0
            found.append((low, alive ^ left))
            alive, depth = left, low + 1
        return found

    def _depths_step_by_step(self, blocks: Sequence[int], alive: int) -> list[tuple[int, int]]:
        get, found = self._masks.get, []
        for depth, block in enumerate(blocks):
            left = alive & get(block, 0)
            if left != alive:
                found.append((depth, alive ^ left))
                alive = left
                if not alive:
                    return found
        found.append((len(blocks), alive))
        return found

    def _drop(self, holding: _Holding, block: int) -> None:
        del holding.blocks[block]
        left = self._masks[block] & ~holding.bit
        if left:
            self._masks[block] = left
        else:
            del self._masks[block]
        self._entries -= 1

    def _drop_all(self, holding: _Holding) -> None:
        for block in list(holding.blocks):
            self._drop(holding, block)
        self._holed &= ~holding.bit

    def _queue(self, used: int, row: int) -> None:
        self._queued.add(row)
        heapq.heappush(self._oldest, (used, row))

    def _drop_oldest(self) -> None:
        """Forget what no replica has used for longest; there is something to forget."""
        while True:
            used, row = heapq.heappop(self._oldest)
            holding = self._by_row[row]
            if holding is None or not holding.blocks:
                self._queued.discard(row)
                continue
            block, last_used = next(iter(holding.blocks.items()))
            if last_used == used:
                self._drop(holding, block)
                heapq.heappush(self._oldest, (used + 1, row))
                return
            heapq.heappush(self._oldest, (last_used, row))
