"""The dashboard's page in a browser: what it shows, where it fits, and how it bears losses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from protos.jouleserve.client import EnergyAccount
from protos.jouleserve.statuses import CarbonIntensity, Trouble
from serve.api_keys import ApiKeys
from serve.dashboard.broadcast import Broadcast
from serve.dashboard.remote import application
from serve.dashboard.snapshot import Snapshot
from serve.dashboard.web import Dashboard
from serve.errors import UnauthenticatedError
from serve.http_errors import error_response
from tests import chromium
from tests.chromium import Server, becomes, opened, shows
from tests.cluster.live_cluster import eventually
from tests.unit.test_dashboard import PLAN, REPLICA, STATUS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from playwright.async_api import Browser
    from starlette.requests import Request
    from starlette.responses import Response

# One loop for all, so that one browser can serve them all.
pytestmark = [
    chromium.NEEDED,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]

PERIOD_S = 0.2
LARGE = 200


class Fleet:
    """A cluster of so many replicas whose figures change each time it is looked at."""

    def __init__(self, replicas: int) -> None:
        self.replicas = replicas
        self.turns = itertools.count()
        self.troubles: tuple[Trouble, ...] = ()

    async def take(self) -> Snapshot:
        turn = next(self.turns)
        replicas = tuple(
            replace(
                REPLICA,
                replica=f"r{number}",
                node=f"node-{number // 8}",
                devices=(f"gpu{number % 8}",),
                running_requests=(number + turn) % 9,
                power_w=100.0 + (number + turn) % 50,
            )
            for number in range(self.replicas)
        )
        return Snapshot(
            100.0 + turn,
            replace(
                STATUS,
                replicas=replicas,
                troubles=self.troubles,
                accounts=(EnergyAccount("alice", "batch", "v", 3, 30, 60, 120.0, 0.01),),
                carbon=CarbonIntensity(400.0, 1.2, "constant", 0.0, ""),
            ),
            PLAN,
            (),
        )


@pytest.fixture
def fleet() -> Fleet:
    return Fleet(4)


@pytest_asyncio.fixture(loop_scope="module")
async def server(fleet: Fleet) -> AsyncIterator[Server]:
    server = Server(application(Dashboard(Broadcast(fleet.take, period_s=PERIOD_S))))
    await server.start()
    yield server
    await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium.chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def closed(browser: Browser) -> AsyncIterator[None]:
    """Close every page after its test: one that is open asks for events for ever."""
    yield
    for context in browser.contexts:
        await context.close()


async def test_the_page_shows_the_cluster(browser: Browser, server: Server) -> None:
    faults: list[str] = []
    page = await opened(browser, "about:blank")
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text))
    await page.goto(server.url)
    await shows(page, "#connection", "live")
    await shows(page, "#fleet-count", "4 awake of 4 replicas on 1 nodes")
    for selector, text in (
        ("#tile-promises", "70.0 %"),
        ("#tile-tokens", "160 /s"),
        ("#tile-joules", "bound 1.50 J"),
        ("#promises", "interactive50.0 %"),
        ("#counters", "accepted9"),
        ("#accounts", "alice"),
        ("#carbon", "400 g/kWh"),
        ("#decisions", "cheapest"),
        ("#plan-made", "milp"),
    ):
        await shows(page, selector, text)
    assert faults == []


@pytest.mark.parametrize("width", [400, 700, 1150, 1440])
async def test_the_page_fits(browser: Browser, server: Server, width: int, fleet: Fleet) -> None:
    fleet.replicas = 16
    fleet.troubles = (Trouble("planner", "it-does-not-answer-and-this-is-one-long-word" * 3),)
    page = await opened(browser, server.url, viewport={"width": width, "height": 800})
    await shows(page, "#connection", "live")
    await shows(page, "#troubles", "planner")
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


async def test_colours_are_the_systems_until_somebody_chooses(
    browser: Browser, server: Server
) -> None:
    async def background() -> Any:
        return await page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = await opened(browser, server.url, color_scheme="light")
    light = await background()
    await page.emulate_media(color_scheme="dark")
    dark = await background()
    assert light != dark
    await page.check('#theme input[value="light"]', force=True)
    assert await background() == light
    await page.reload()
    assert await background() == light
    await page.check('#theme input[value="auto"]', force=True)
    assert await background() == dark


async def test_text_can_be_told_from_its_ground(browser: Browser, server: Server) -> None:
    """Keep WCAG's contrast for small text, 4.5 to 1, in both colours."""
    measure = """() => {
        const parsed = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
            .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
            .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
        const ground = (node) => {
            for (; node; node = node.parentElement) {
                const colour = parsed(getComputedStyle(node).backgroundColor);
                if (colour.length < 4 || colour[3] === 1) return colour;
            }
            return [255, 255, 255];
        };
        const poor = [];
        for (const node of document.querySelectorAll("main *, header *")) {
            const texts = [...node.childNodes].filter((each) => each.nodeType === 3);
            const own = texts.some((each) => each.data.trim());
            if (!own || !node.checkVisibility()) continue;
            const pair = [parsed(getComputedStyle(node).color), ground(node)].map(light);
            const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
            if (ratio < 4.5) poor.push(`${node.className} ${node.textContent}: ${ratio}`);
        }
        return poor;
    }"""
    for scheme in ("light", "dark"):
        page = await opened(browser, server.url, color_scheme=scheme)
        await shows(page, "#connection", "live")
        await shows(page, "#fleet-count", "4 awake")
        assert await page.evaluate(measure) == [], scheme


async def test_figures_go_on_and_losses_are_said_and_got_over(
    browser: Browser, server: Server
) -> None:
    page = await opened(browser, server.url)
    await shows(page, "#connection", "live")
    await server.stop()
    await shows(page, "#connection", "disconnected")
    await shows(page, "#age", "ago")
    assert await page.get_attribute("body", "data-connection") == "lost"
    await server.start()
    await shows(page, "#connection", "live")


async def test_what_is_wrong_appears_and_goes(
    browser: Browser, server: Server, fleet: Fleet
) -> None:
    page = await opened(browser, server.url)
    await shows(page, "#connection", "live")
    fleet.troubles = (Trouble("planner", "it does not answer"),)
    await shows(page, "#troubles", "it does not answer")
    assert await page.title() == "(1) Jouleserve"
    fleet.troubles = ()
    await page.wait_for_selector("#troubles p", state="detached")
    await becomes(page, "() => document.title === 'Jouleserve'")


async def test_the_keyboard_reaches_a_replicas_details(browser: Browser, server: Server) -> None:
    page = await opened(browser, server.url)
    await shows(page, "#fleet-count", "4 awake")
    await page.focus('#fleet-map [tabindex="0"]')
    await page.keyboard.press("ArrowRight")
    chosen = await page.evaluate("document.activeElement.dataset.replica")
    assert chosen == "r1"
    await page.keyboard.press("Enter")
    await shows(page, "#details-title", "r1")
    await shows(page, "#details", "gpu1")
    await page.keyboard.press("Escape")
    assert await page.is_hidden("#details")
    assert await page.evaluate("document.activeElement.dataset.replica") == "r1"


async def test_two_hundred_replicas_are_shown_and_can_be_filtered(
    browser: Browser, server: Server, fleet: Fleet
) -> None:
    fleet.replicas = LARGE
    page = await opened(browser, server.url)
    await shows(page, "#fleet-count", f"{LARGE} awake of {LARGE} replicas on 25 nodes")
    await becomes(page, f"() => document.querySelectorAll('.replica').length === {LARGE}")
    first = await page.inner_text('[data-replica="r0"] .watts')
    await becomes(
        page,
        "(first) => document.querySelector('[data-replica=\"r0\"] .watts').textContent !== first",
        first,
    )
    await page.fill("#fleet-filter", "node-24")
    await becomes(page, "() => document.querySelectorAll('.replica').length === 8")
    await page.fill("#fleet-filter", "")
    await page.check('#fleet-view input[value="table"]', force=True)
    await becomes(
        page, f"() => document.querySelectorAll('#fleet-table tbody tr').length === {LARGE}"
    )


async def test_where_keys_are_asked_for_the_page_asks_and_sends_it_in_a_header_only(
    browser: Browser, fleet: Fleet, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("a-secret-key\n")
    keys = ApiKeys(file)
    dashboard = Dashboard(Broadcast(fleet.take, period_s=PERIOD_S))

    async def events(request: Request) -> Response:
        try:
            keys.check(request.headers.get("authorization"))
        except UnauthenticatedError as error:
            return error_response(error)
        return dashboard.events()

    guarded = [Route("/dashboard/events", events), Mount("/", application(dashboard))]
    server = Server(Starlette(routes=guarded))
    await server.start()
    page = await opened(browser, "about:blank")
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await page.goto(server.url)
    await page.wait_for_selector("#key", state="visible")
    await page.fill("#key-field", "wrong")
    await page.keyboard.press("Enter")
    await shows(page, "#key-reason", "not known here")
    await page.fill("#key-field", "a-secret-key")
    await page.keyboard.press("Enter")
    await shows(page, "#connection", "live")
    await page.wait_for_selector("#key", state="hidden")
    assert not any("secret" in url for url in urls)
    assert await page.evaluate("Object.values(sessionStorage)") == ["a-secret-key"]
    assert await page.evaluate("Object.values(localStorage)") == []
    await page.reload()
    await shows(page, "#connection", "live")
    await server.stop()


async def test_pages_that_are_closed_are_listened_to_no_more(browser: Browser) -> None:
    broadcast = Broadcast(Fleet(4).take, period_s=PERIOD_S)
    server = Server(application(Dashboard(broadcast)))
    await server.start()
    page = await opened(browser, server.url)
    await shows(page, "#connection", "live")
    assert broadcast.listeners == 1
    await page.close()

    async def nobody() -> bool:
        return broadcast.listeners == 0

    assert await eventually(nobody)
    await server.stop()
