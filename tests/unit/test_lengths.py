"""The estimate starts at the prior, follows what is seen, and is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.lengths import MAX_KEYS, CompletionLengths
from scheduler.requests import ModelName

MODEL = ModelName("m")


def test_it_starts_at_the_prior_and_never_exceeds_max_tokens() -> None:
    lengths = CompletionLengths(128.0)
    assert lengths.expected(MODEL, "standard", 1000) == 128.0
    assert lengths.expected(MODEL, "standard", 16) == 16.0


def test_it_follows_what_it_sees_for_that_class_alone() -> None:
    lengths = CompletionLengths(128.0)
    for _ in range(100):
        lengths.observe(MODEL, "batch", 500)
    assert lengths.expected(MODEL, "batch", 1000) == pytest.approx(500, rel=0.1)
    assert lengths.expected(MODEL, "standard", 1000) == 128.0


def test_it_forgets() -> None:
    lengths = CompletionLengths(128.0)
    for _ in range(5000):
        lengths.observe(MODEL, "batch", 500)
    for _ in range(800):
        lengths.observe(MODEL, "batch", 20)
    assert lengths.expected(MODEL, "batch", 1000) == pytest.approx(40, abs=25)


def test_more_names_than_it_keeps_do_no_harm() -> None:
    lengths = CompletionLengths(128.0)
    for number in range(MAX_KEYS + 1):
        lengths.observe(MODEL, f"class-{number}", 900)
    assert lengths.expected(MODEL, "class-0", 1000) == 128.0
    assert lengths.expected(MODEL, f"class-{MAX_KEYS}", 1000) > 128.0


@given(st.floats(1, 1000), st.lists(st.integers(0, 4000)), st.integers(1, 4000))
def test_it_lies_among_what_it_knows(prior: float, seen: list[int], max_tokens: int) -> None:
    lengths = CompletionLengths(prior)
    for tokens in seen:
        lengths.observe(MODEL, "any", tokens)
    expected = lengths.expected(MODEL, "any", max_tokens)
    assert 1.0 <= expected <= max_tokens
    assert expected <= max(prior, *seen, 1) * (1 + 1e-9)
