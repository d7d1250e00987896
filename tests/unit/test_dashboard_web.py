"""The dashboard over HTTP: files with their safeguards, events, and what is refused."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import httpx
import pytest

from serve.dashboard.broadcast import Broadcast
from serve.dashboard.remote import application
from serve.dashboard.web import INDEX, Dashboard
from tests.unit.test_dashboard import Source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

# A listener ends by itself soon, so that whole answers can be read.
LIFE_S = 0.1


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    dashboard = Dashboard(Broadcast(Source().take, period_s=0.01, life_s=LIFE_S))
    transport = httpx.ASGITransport(application(dashboard))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client
    dashboard.close()


async def test_the_root_leads_to_the_page(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    assert (answer.status_code, answer.headers["location"]) == (307, "dashboard")


async def test_the_page_allows_no_code_but_its_own_files(client: httpx.AsyncClient) -> None:
    answer = await client.get("/dashboard")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|\son\w+=", answer.text)


async def test_everything_that_the_page_names_is_there(client: httpx.AsyncClient) -> None:
    page = (await client.get("/dashboard")).text
    names = set(re.findall(r'(?:href|src)="dashboard/([^"]+)"', page))
    assert {"dashboard.js", "dashboard.css"} <= names
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        answer = await client.get(f"/dashboard/{name}")
        assert answer.status_code == 200, name
        assert answer.headers["x-content-type-options"] == "nosniff"
        imported = set(re.findall(r'from "\./([^"]+)"', answer.text)) - names
        names |= imported
        waiting += imported


async def test_the_page_fetches_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    for name in ("dashboard", "dashboard/dashboard.js", "dashboard/dashboard.css"):
        addresses = re.findall(r"https?://[^\s\"')]+", (await client.get(f"/{name}")).text)
        assert [each for each in addresses if "w3.org" not in each] == []


async def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/dashboard/dashboard.css")
    tag = first.headers["etag"]
    second = await client.get("/dashboard/dashboard.css", headers={"if-none-match": tag})
    assert (second.status_code, second.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2Fweb.py", "%2e%2e%2fweb.py", "__init__.py"])
async def test_there_is_nothing_beside_the_page(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/dashboard/{name}")).status_code == 404


async def test_events_are_a_snapshot_then_patches_until_the_listener_comes_again(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.get("/dashboard/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    events = re.findall(r"^event: (\w+)\ndata: (.*)$", answer.text, re.MULTILINE)
    assert events[0][0] == "snapshot"
    assert json.loads(events[0][1])["gateway"] == "g"
    assert {kind for kind, _ in events[1:-1]} == {"patch"}
    assert events[-1][0] == "again"


async def test_one_page_too_many_is_told_what_to_do() -> None:
    broadcast = Broadcast(Source().take, max_listeners=0)
    transport = httpx.ASGITransport(application(Dashboard(broadcast)))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/dashboard/events")
    assert answer.status_code == 429
    assert "close one" in answer.json()["error"]["message"]


def test_the_page_is_part_of_the_package() -> None:
    assert Dashboard(Broadcast(Source().take)).file(INDEX, {}).status_code == 200
