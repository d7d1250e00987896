"""The tally: every call is in exactly one column, whatever ends it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from serve.errors import BadRequestError, EngineFailedError
from serve.tally import Tally


def columns(tally: Tally) -> tuple[int, int, int, int, int, int]:
    return (
        tally.accepted,
        tally.completed,
        tally.cancelled,
        tally.failed,
        tally.rejected,
        tally.in_flight,
    )


def test_a_call_is_in_flight_until_it_completes() -> None:
    tally = Tally()
    with tally.refusing():
        pass
    assert columns(tally) == (0, 0, 0, 0, 0, 0)
    with tally.counting():
        assert columns(tally) == (1, 0, 0, 0, 0, 1)
    assert columns(tally) == (1, 1, 0, 0, 0, 0)


def test_a_refused_call_was_never_accepted() -> None:
    tally = Tally()
    with pytest.raises(BadRequestError), tally.refusing():
        raise BadRequestError("no")
    assert columns(tally) == (0, 0, 0, 0, 1, 0)


def test_an_error_after_acceptance_is_a_failure() -> None:
    tally = Tally()
    with pytest.raises(EngineFailedError), tally.counting():
        raise EngineFailedError("broken")
    assert columns(tally) == (1, 0, 0, 1, 0, 0)


@pytest.mark.parametrize("ending", [GeneratorExit, asyncio.CancelledError, KeyboardInterrupt])
def test_a_client_that_goes_has_cancelled(ending: type[BaseException]) -> None:
    tally = Tally()
    with suppress(ending), tally.counting():
        raise ending
    assert columns(tally) == (1, 0, 1, 0, 0, 0)


def test_calls_side_by_side_are_counted_each() -> None:
    tally = Tally()
    with tally.counting():
        with suppress(EngineFailedError), tally.counting():
            assert tally.in_flight == 2
            raise EngineFailedError("broken")
        assert tally.in_flight == 1
    assert columns(tally) == (2, 1, 0, 1, 0, 0)
