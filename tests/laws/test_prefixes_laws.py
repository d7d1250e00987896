"""The prefix index agrees with a naive one that keeps a list for each replica."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scheduler.blocks import block_hashes
from scheduler.prefixes import KvEvent, PrefixIndex
from scheduler.requests import ReplicaId

REPLICAS = tuple(ReplicaId(name) for name in "abcd")
CAPACITY = 6
MAX_ENTRIES = 12

# Prompts over two tokens share beginnings all the time.
prompts = st.lists(st.integers(0, 1), max_size=9)
replicas = st.sampled_from(REPLICAS)
routing = st.tuples(
    st.sampled_from(["route", "route", "route", "forget", "clear"]), replicas, prompts
)
events = st.tuples(
    st.sampled_from(["route", "stored", "removed", "cleared", "forget"]), replicas, prompts
)


class Naive:
    """Pairs of replica and block, least recently used first."""

    def __init__(self) -> None:
        self.known: set[ReplicaId] = set()
        self.uses: list[tuple[ReplicaId, int]] = []

    def of(self, replica: ReplicaId) -> list[int]:
        return [block for owner, block in self.uses if owner == replica]

    def stored(self, replica: ReplicaId, blocks: tuple[int, ...]) -> None:
        if replica not in self.known:
            return
        for block in reversed(blocks[: min(CAPACITY, MAX_ENTRIES)]):
            self.removed(replica, (block,))
            self.uses.append((replica, block))
        while len(self.of(replica)) > CAPACITY:
            self.removed(replica, (self.of(replica)[0],))
        del self.uses[: max(0, len(self.uses) - MAX_ENTRIES)]

    def removed(self, replica: ReplicaId, blocks: tuple[int, ...]) -> None:
        self.uses = [use for use in self.uses if use[0] != replica or use[1] not in blocks]

    def cleared(self, replica: ReplicaId) -> None:
        self.removed(replica, tuple(self.of(replica)))

    def depth(self, replica: ReplicaId, blocks: tuple[int, ...]) -> int:
        held, depth = self.of(replica), 0
        while depth < len(blocks) and blocks[depth] in held:
            depth += 1
        return depth


def chain(prompt: list[int]) -> tuple[int, ...]:
    return block_hashes(prompt, 1)


def play(
    index: PrefixIndex, naive: Naive, kind: str, replica: ReplicaId, prompt: list[int]
) -> None:
    blocks = chain(prompt)
    match kind:
        case "route":
            index.join(replica, CAPACITY)
            naive.known.add(replica)
            index.stored(replica, blocks)
            naive.stored(replica, blocks)
        case "forget":
            index.forget(replica)
            naive.cleared(replica)
            naive.known.discard(replica)
        case "clear":
            index.cleared(replica)
            naive.cleared(replica)
        case "stored":
            # An engine may tell of the end of a chain alone.
            index.apply(replica, [KvEvent("stored", blocks[2:])])
            naive.stored(replica, blocks[2:])
        case "removed":
            index.apply(replica, [KvEvent("removed", blocks[1:3])])
            naive.removed(replica, blocks[1:3])
        case "cleared":
            index.apply(replica, [KvEvent("cleared")])
            naive.cleared(replica)


def agree(index: PrefixIndex, naive: Naive, prompt: list[int]) -> None:
    blocks = chain(prompt)
    assert len(index) == len(naive.uses) <= MAX_ENTRIES
    depths = index.match(blocks)
    expected = {replica: naive.depth(replica, blocks) for replica in REPLICAS}
    if depths is None:
        assert not any(expected.values())
        return
    assert depths[-1] == 0
    assert {replica: depths[index.row(replica)] for replica in REPLICAS} == expected


@given(st.lists(routing, max_size=40), prompts)
def test_what_was_routed_is_found_until_it_is_the_least_recently_used(
    moves: list[tuple[str, ReplicaId, list[int]]], prompt: list[int]
) -> None:
    index, naive = PrefixIndex(MAX_ENTRIES, block_tokens=1), Naive()
    for move in moves:
        play(index, naive, *move)
        agree(index, naive, move[2])
    agree(index, naive, prompt)


@given(st.lists(events, max_size=40), prompts)
def test_events_of_an_engine_are_followed_exactly(
    moves: list[tuple[str, ReplicaId, list[int]]], prompt: list[int]
) -> None:
    index, naive = PrefixIndex(MAX_ENTRIES, block_tokens=1), Naive()
    for move in moves:
        play(index, naive, *move)
        agree(index, naive, move[2])
    agree(index, naive, prompt)


@given(st.lists(st.tuples(replicas, prompts), max_size=30))
def test_nothing_is_left_of_forgotten_replicas(routed: list[tuple[ReplicaId, list[int]]]) -> None:
    index = PrefixIndex(MAX_ENTRIES)
    for replica, prompt in routed:
        index.join(replica, CAPACITY)
        index.stored(replica, chain(prompt))
    for replica in REPLICAS:
        index.forget(replica)
        assert index.row(replica) == -1
    assert len(index) == 0
    assert all(index.match(chain(prompt)) is None for _, prompt in routed)


@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=80), st.integers(1, 20), st.integers(0, 5))
def test_a_chain_can_be_cut_and_gone_on_with(tokens: list[int], block: int, cut: int) -> None:
    whole = block_hashes(tokens, block)
    assert len(whole) == len(tokens) // block
    first = block_hashes(tokens[: cut * block], block)
    assert whole[: len(first)] == first
    parent = first[-1] if first else 0
    assert first + block_hashes(tokens[len(first) * block :], block, parent) == whole


@given(st.lists(st.integers(0, 200_000), min_size=32, max_size=64), st.data())
def test_a_changed_token_changes_its_block_and_all_behind(
    tokens: list[int], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(tokens) - 1))
    changed = [*tokens[:place], tokens[place] + 1, *tokens[place + 1 :]]
    before, after = np.array(block_hashes(tokens, 8)), np.array(block_hashes(changed, 8))
    same = np.arange(len(before)) < place // 8
    np.testing.assert_array_equal(before == after, same)
