"""Chromium for tests of the dashboard's page, and a server that they may stop and start.

Its own module because a page on a virtual fleet and the page of a live gateway are tested alike.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from playwright.async_api import async_playwright

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Browser, Page

BINARY = shutil.which("chromium") or ""
NEEDED = pytest.mark.skipif(not BINARY, reason="there is no chromium; Debian's package has it")
# It opens local pages only: no sandbox to set up, nothing to fetch in the background.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
# The machine may be busy with other things.
PATIENCE_MS = 90_000
POLL_S = 0.05


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Give a browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=BINARY, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


async def opened(browser: Browser, url: str, **context: Any) -> Page:
    """Open a page; what goes wrong in its scripts fails whoever looks at `page.faults`."""
    page = await (await browser.new_context(**context)).new_page()
    page.set_default_timeout(PATIENCE_MS)
    await page.goto(url)
    return page


async def becomes(page: Page, condition: str, argument: Any = None) -> None:
    """Wait until a JavaScript function of `argument` is true in the page.

    Playwright's own waiting evaluates its condition inside the page, where the page's content
    security policy forbids that; what the browser is asked from outside it never refuses.
    """
    give_up_at = time.monotonic() + PATIENCE_MS / 1_000
    while not await page.evaluate(condition, argument):
        if time.monotonic() > give_up_at:
            pytest.fail(f"the page never came to {condition} with {argument!r}")
        await asyncio.sleep(POLL_S)


async def shows(page: Page, selector: str, text: str) -> None:
    """Wait until an element has a text in it."""
    await becomes(
        page,
        "([selector, text]) => !!document.querySelector(selector)?.textContent.includes(text)",
        [selector, text],
    )


class Server:
    """An ASGI application on a port of its own."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self.port}/dashboard"

    async def start(self) -> None:
        """Listen, on the port that it had before if it had one."""
        settings = uvicorn.Config(
            self._application,
            port=self.port,
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=0,
        )
        listener = settings.bind_socket()
        self.port = listener.getsockname()[1]
        self._server = uvicorn.Server(settings)
        self._task = asyncio.create_task(self._server.serve([listener]))

    async def stop(self) -> None:
        """Close every connection."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
            self._server = None
