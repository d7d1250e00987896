"""What is reckoned of engines that tell less than vLLM: steps, and tokens that they hold back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.step_estimate import StepEstimate
from serve.unseen_tokens import Vocabulary, _bytes_of_characters

if TYPE_CHECKING:
    from serve.engine import EngineStep

SPELLING = {byte: character for character, byte in _bytes_of_characters().items()}


def spelled(content: bytes) -> str:
    return "".join(SPELLING[byte] for byte in content)


PIECES = [bytes([byte]) for byte in range(256)] + ["例"[:1].encode()[:2], "ま".encode(), b"ab"]
VOCABULARY = Vocabulary({spelled(piece): number for number, piece in enumerate(PIECES)})


def test_every_byte_has_a_character_of_its_own() -> None:
    assert sorted(_bytes_of_characters().values()) == list(range(256))


@given(st.text(min_size=1, max_size=2))
def test_bytes_are_found_one_by_one(text: str) -> None:
    content = text.encode()
    assert VOCABULARY.before(content[-1], content, len(content) - 1) == list(content[:-1])


def test_of_two_ways_that_with_as_many_tokens_is_found() -> None:
    content = "例".encode()
    assert VOCABULARY.before(content[2], content, 1) == [256]
    assert VOCABULARY.before(content[2], content, 2) == list(content[:2])


@pytest.mark.parametrize(("last", "content", "count"), [(1, b"abc", 1), (ord("c"), b"abc", 3)])
def test_what_cannot_be_is_said(last: int, content: bytes, count: int) -> None:
    with pytest.raises(ValueError, match=r"generated|held back"):
        VOCABULARY.before(last, content, count)


def test_whole_characters_are_text() -> None:
    assert VOCABULARY.is_text(ord("a"))
    assert VOCABULARY.is_text(257)
    assert not VOCABULARY.is_text(256)
    assert not VOCABULARY.is_text(10_000)
    assert VOCABULARY.is_text(VOCABULARY.text())
    with pytest.raises(ValueError, match="a character or more"):
        Vocabulary({"not spelt so ": 3}).text()


def test_a_sequence_s_next_token_begins_the_next_step() -> None:
    steps: list[EngineStep] = []
    estimate = StepEstimate(steps.append, kv_tokens=100)
    with estimate.waiting(), estimate.waiting():
        assert estimate.requests == 2
        with estimate.running(10) as one, estimate.running(20) as two:
            assert estimate.requests == 2
            for at_s in (1e9 + 1.0, 1e9 + 2.0, 1e9 + 4.0):
                one.tokens(1, at_s)
                two.tokens(1, at_s)
    assert estimate.requests == 0
    assert [step.prefill_tokens for step in steps] == [30, 0, 0]
    assert [step.decode_sequences for step in steps] == [0, 2, 2]
    assert [step.decode_tokens for step in steps] == [0, 2, 2]
    assert [step.duration_s for step in steps[1:]] == [1.0, 2.0]
    assert steps[1].running_requests == 2
