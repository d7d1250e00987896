"""What is refused at the door, and that each message says what to change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.admission import Admitted, ModelFacts, Occupancy, Rejected, RequestFacts, admit
from scheduler.fleet import Variant
from scheduler.requests import ModelName, VariantName
from scheduler.steps import AffineSteps

STEPS = AffineSteps(0.01, 0.001, 1.0, 0.1, 1e-4, 0.01)
WIDE = Variant(VariantName("bf16"), ModelName("m"), 1.0, 100, 4, 1000, STEPS, 10.0)
NARROW = replace(WIDE, name=VariantName("int8"), quality=0.9, max_context_tokens=50)
MODEL = ModelFacts(ModelName("m"), (WIDE, NARROW))


def test_a_request_that_fits_is_admitted_as_it_is() -> None:
    assert admit(RequestFacts(40, 60), MODEL) == Admitted(60)


def test_without_max_tokens_the_context_is_the_bound() -> None:
    assert admit(RequestFacts(40), MODEL) == Admitted(60)


def test_max_tokens_is_lowered_to_the_room_with_a_notice() -> None:
    outcome = admit(RequestFacts(40, 500), MODEL)
    assert isinstance(outcome, Admitted)
    assert outcome.max_tokens == 60
    assert "from 500 to 60" in outcome.notice


@pytest.mark.parametrize(
    ("request_", "kind", "words"),
    [
        (RequestFacts(0), "bad_request", "the prompt is empty"),
        (RequestFacts(5, 0), "bad_request", "max_tokens is 0; give at least 1"),
        (RequestFacts(5, -3), "bad_request", "max_tokens is -3"),
        (RequestFacts(100), "prompt_too_long", "99 tokens or less"),
        (RequestFacts(5, min_quality=1.1), "unattainable", "ask for 1 or less"),
        (RequestFacts(5, variant=VariantName("fp8")), "bad_request", "known: bf16, int8"),
        (
            RequestFacts(5, min_quality=0.95, variant=VariantName("int8")),
            "unattainable",
            "quality 0.9 of int8",
        ),
        (
            RequestFacts(70, variant=VariantName("int8")),
            "prompt_too_long",
            "the largest context is 100",
        ),
    ],
)
def test_what_nobody_could_serve_is_refused(request_: RequestFacts, kind: str, words: str) -> None:
    outcome = admit(request_, MODEL)
    assert isinstance(outcome, Rejected)
    assert outcome.kind == kind
    assert words in outcome.message


def test_a_prompt_that_leaves_room_for_one_token_is_admitted() -> None:
    assert admit(RequestFacts(99, 1), MODEL) == Admitted(1)


def test_a_kv_cache_smaller_than_the_context_is_the_bound() -> None:
    tiny = ModelFacts(ModelName("m"), (replace(WIDE, kv_capacity_tokens=30),))
    assert admit(RequestFacts(20), tiny) == Admitted(10)


def test_a_gateway_at_its_bound_refuses_at_once() -> None:
    outcome = admit(RequestFacts(5), MODEL, Occupancy(8, 8))
    assert isinstance(outcome, Rejected)
    assert outcome.kind == "overloaded"
    assert "8 requests" in outcome.message
    assert admit(RequestFacts(5), MODEL, Occupancy(7, 8)) == Admitted(95)
