"""A gateway's line to the planner, on a clock that jumps to whatever happens next."""

from __future__ import annotations

import asyncio
import logging
import selectors
from typing import TYPE_CHECKING

import pytest

from serve import troubles
from serve.plan_link import PlanLink
from serve.plan_news import GatewayNews, PlanNews

if TYPE_CHECKING:
    from collections.abc import Mapping

NEVER_S = 1e9


class JumpingLoop(asyncio.SelectorEventLoop):
    """Waits for nothing: where it would, its clock jumps ahead."""

    def __init__(self) -> None:
        self.now_s = 0.0
        loop = self

        class Selector(selectors.SelectSelector):
            def select(
                self, timeout: float | None = None
            ) -> list[tuple[selectors.SelectorKey, int]]:
                loop.now_s += timeout or 0.0
                return super().select(0)

        super().__init__(Selector())

    def time(self) -> float:
        return self.now_s


class Line:
    """A link, and a planner that a test breaks by the number of the exchange.

    Attributes:
        said_at_s: when the planner was spoken to.
        heard: what it has answered with.

    """

    def __init__(
        self,
        broken: Mapping[int, Exception | float] | None = None,
        hurries_at_s: tuple[float, ...] = (),
    ) -> None:
        self.broken = broken or {}
        self.hurries_at_s = hurries_at_s
        self.said_at_s: list[float] = []
        self.heard: list[PlanNews] = []
        self.silences: list[tuple[float, tuple[troubles.Trouble, ...]]] = []
        self.link = PlanLink(self.exchange, lambda: GatewayNews("g"), self.hear)

    async def exchange(self, news: GatewayNews) -> PlanNews:
        number = len(self.said_at_s)
        self.said_at_s.append(round(asyncio.get_running_loop().time(), 2))
        match self.broken.get(number):
            case Exception() as error:
                raise error
            case float(takes_s):
                await asyncio.sleep(takes_s)
        return PlanNews(age_s=float(number))

    def hear(self, news: PlanNews) -> None:
        self.heard.append(news)

    def run(self, until_s: float) -> Line:
        """Let the link run; it is cancelled then."""
        with asyncio.Runner(loop_factory=JumpingLoop) as runner:
            runner.run(self._run(until_s))
        return self

    async def _run(self, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        for at_s in self.hurries_at_s:
            loop.call_at(at_s, self.link.hurry)
        running = asyncio.create_task(self.link.run())
        await asyncio.sleep(until_s)
        assert not running.done()
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()


def spoken(line: Line) -> list[float]:
    """Give what was answered, by the number of the exchange."""
    return [each.age_s for each in line.heard]


def test_news_are_exchanged_at_once_and_then_every_second() -> None:
    line = Line().run(3.5)
    assert line.said_at_s == [0.0, 1.0, 2.0, 3.0]
    assert spoken(line) == [0.0, 1.0, 2.0, 3.0]
    assert line.link.latest.age_s == 3.0


def test_who_is_in_a_hurry_is_heard_at_once() -> None:
    assert Line(hurries_at_s=(0.4,)).run(1.3).said_at_s == [0.0, 0.4]


def test_however_many_are_in_a_hurry_the_planner_hears_ten_a_second_at_most() -> None:
    line = Line(hurries_at_s=tuple(n / 100 for n in range(1, 100))).run(0.99)
    assert line.said_at_s == [n / 10 for n in range(10)]


def test_a_hurry_during_an_exchange_is_not_forgotten() -> None:
    line = Line({0: 0.5}, hurries_at_s=(0.2,)).run(1.0)
    assert line.said_at_s == [0.0, 0.6]


@pytest.mark.parametrize("failure", [ConnectionError("gone"), NEVER_S])
def test_a_planner_that_fails_is_spoken_to_again_and_then_heard(
    failure: Exception | float,
) -> None:
    line = Line({1: failure}).run(20.0)
    assert spoken(line)[:3] == [0.0, 2.0, 3.0]
    assert line.link.silence() == ()


@pytest.mark.parametrize("failure", [ConnectionError("gone"), NEVER_S])
def test_while_the_planner_is_away_what_it_said_last_holds_and_its_silence_is_told(
    failure: Exception | float,
) -> None:
    line = Line(dict.fromkeys(range(1, 100), failure)).run(20.0)
    assert spoken(line) == [0.0]
    assert line.link.latest.age_s == 0.0
    assert [each.subject for each in line.link.silence()] == [troubles.PLANNER]


def test_a_planner_that_hangs_is_given_up_after_a_while() -> None:
    assert Line({0: NEVER_S}).run(6.5).said_at_s == [0.0, 6.0]


def test_news_that_cannot_be_taken_do_not_end_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: PlanNews) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Line, "hear", broken)
    assert Line().run(2.5).said_at_s == [0.0, 1.0, 2.0]


def test_silence_is_logged_once_each_time_that_it_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gone = ConnectionError("gone")
    with caplog.at_level(logging.WARNING, logger="jouleserve.serve"):
        Line({1: gone, 2: gone, 3: gone, 5: gone, 6: gone}).run(8.5)
    assert len(caplog.records) == 2
    assert all("ConnectionError" in each.getMessage() for each in caplog.records)
