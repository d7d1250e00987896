"""A gateway's line to the planner: what it saw goes out, what is planned comes back.

Its own module because a gateway serves as well without a planner: whatever happens on this
line, nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from serve.plan_news import PlanNews
from serve.troubles import PLANNER, Trouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from serve.plan_news import GatewayNews

logger = logging.getLogger("jouleserve.serve")

# As often as this the planner hears of a gateway.
PERIOD_S = 1.0
# Requests that wait for a replica let it hear at once, but not more often than this.
HURRY_S = 0.1
# An answer takes a millisecond; the planner's replica may be on its way to another node.
LIMIT_S = 5.0
SILENT = "it does not answer; serving goes on, and replicas and nodes stay as they are"


class PlanLink:
    """Exchanges news with the planner, again and again.

    Attributes:
        latest: what the planner has said last.

    """

    def __init__(
        self,
        exchange: Callable[[GatewayNews], Awaitable[PlanNews]],
        tell: Callable[[], GatewayNews],
        hear: Callable[[PlanNews], None],
    ) -> None:
        """Exchange nothing yet.

        Args:
            exchange: the planner.
            tell: gives what there is to say.
            hear: takes what comes back.

        """
        self.latest = PlanNews()
        self._exchange = exchange
        self._tell = tell
        self._hear = hear
        self._hurry = asyncio.Event()
        self._silent = False

    def silence(self) -> tuple[Trouble, ...]:
        """Say that the planner cannot be heard, if so."""
        return (Trouble(PLANNER, SILENT),) if self._silent else ()

    def hurry(self) -> None:
        """Let the planner hear at once."""
        self._hurry.set()

    async def run(self) -> None:
        """Exchange until cancelled."""
        while True:
            await self._once()
            await asyncio.sleep(HURRY_S)
            try:
                async with asyncio.timeout(PERIOD_S - HURRY_S):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    async def _once(self) -> None:
        self._hurry.clear()
        try:
            async with asyncio.timeout(LIMIT_S):
                self.latest = await self._exchange(self._tell())
            self._hear(self.latest)
        except Exception as error:  # noqa: BLE001 (whatever Ray raises, the planner is out of reach)
            if not self._silent:
                kind = type(error).__name__
                logger.warning("planner: %s (%s)", SILENT, kind)
            self._silent = True
        else:
            self._silent = False
