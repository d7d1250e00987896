"""What the planner keeps, whatever gateways say, and however often they say it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.planner_fakes import BATCH, BIG, SMALL, STANDARD, Shell, config, echo

PERIOD_S = 10.0
KEYS = st.sampled_from([STANDARD, BATCH])
counts = st.dictionaries(KEYS, st.integers(0, 100_000))


@st.composite
def news(draw: st.DrawFn) -> dict[str, Any]:
    """Anything that one of two gateways may say."""
    return {
        "requests": draw(counts),
        "gateway": draw(st.sampled_from("ab")),
        "held": draw(st.dictionaries(KEYS, st.integers(1, 500))),
        "waiting": draw(st.dictionaries(st.sampled_from([BIG, SMALL]), st.integers(1, 500))),
        "strained": draw(st.booleans()),
    }


@st.composite
def bounded(draw: st.DrawFn) -> dict[str, tuple[int, int]]:
    """Least and most replicas of each variant, which all have room on the nodes there are."""
    return {
        name: (draw(st.integers(0, most)), most)
        for name in (BIG, SMALL)
        if (most := draw(st.integers(1, 4)))
    }


def named(counted: list[dict[Any, int]]) -> set[Any]:
    return {key for each in counted for key in each}


turns = st.lists(st.tuples(st.lists(news(), max_size=3), st.booleans()), min_size=1, max_size=4)


@settings(max_examples=25, derandomize=True)
@given(bounded(), turns)
def test_what_is_wanted_keeps_its_bounds_whatever_gateways_say(
    bounds: dict[str, tuple[int, int]], said: list[tuple[list[dict[str, Any]], bool]]
) -> None:
    (least, most), (small_least, small_most) = bounds[BIG], bounds[SMALL]
    shell = Shell(
        config(
            echo(BIG, "h100-sxm", min_replicas=least, max_replicas=most),
            echo(SMALL, "l4", quality=0.9, min_replicas=small_least, max_replicas=small_most),
        )
    )
    for each_turn, carried_out in said:
        for each in each_turn:
            shell.hear(**each)
        shell.turn()
        for name, wanted in shell.planner.targets().items():
            assert bounds[name][0] <= wanted <= bounds[name][1]
        if carried_out:
            shell.carry_out()


@settings(max_examples=60, derandomize=True)
@given(st.lists(counts, max_size=8), st.sets(st.integers(0, 8)))
def test_traffic_counts_once_into_however_many_exchanges_it_is_cut(
    came: list[dict[Any, int]], cuts: set[int]
) -> None:
    every, some = Shell(), Shell()
    ends = sorted({0, len(came), *(cut for cut in cuts if cut < len(came))})
    for shell in (every, some):
        shell.hear()
    for each in came:
        every.hear(each)
    for begin, end in pairwise(ends):
        part = came[begin:end]
        some.hear({key: sum(each.get(key, 0) for each in part) for key in named(part)})
    for shell in (every, some):
        shell.now_s += PERIOD_S
        shell.planner.observe(shell.observed())
    assert every.draft().demands == some.draft().demands


@settings(max_examples=60, derandomize=True)
@given(st.lists(news(), max_size=5), st.integers(1, 3))
def test_news_that_are_heard_again_change_nothing(said: list[dict[str, Any]], times: int) -> None:
    once, again = Shell(), Shell()
    for each in said:
        once.hear(**each)
        again.hear(**each)
        for _ in range(times):
            again.hear(**{**each, "requests": {}})
    for shell in (once, again):
        shell.now_s += PERIOD_S
        shell.planner.observe(shell.observed())
    assert once.draft() == again.draft()
    assert once.planner.urgent() == again.planner.urgent()


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.dictionaries(KEYS, st.integers(1, 500)), min_size=1, max_size=6))
def test_requests_that_gateways_hold_add_up_however_many_there_are(
    held: list[dict[Any, int]],
) -> None:
    many, one = Shell(), Shell()
    for number, each in enumerate(held):
        many.hear(gateway=f"g{number}", held=each)
    one.hear(held={key: sum(each.get(key, 0) for each in held) for key in named(held)})
    assert many.draft().demands == one.draft().demands
