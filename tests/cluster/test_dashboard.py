"""The dashboard of a live gateway: the figures of the status, in a browser, second by second."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import chromium
from tests.chromium import opened, shows
from tests.cluster.live_cluster import PATIENCE_S, eventually

if TYPE_CHECKING:
    from protos.jouleserve.client import ClusterStatus
    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


async def told(cluster: LiveCluster) -> dict[str, Any]:
    """Give the first document that the gateway sends to a page."""
    async with (
        httpx.AsyncClient(timeout=PATIENCE_S) as client,
        client.stream("GET", f"{cluster.http_url}/dashboard/events") as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                document: dict[str, Any] = json.loads(line.removeprefix("data:"))
                return document
    raise AssertionError("the stream has ended")


def settled(before: ClusterStatus, after: ClusterStatus) -> dict[tuple[str, str], Any]:
    """Give the figures of replicas that have not changed meanwhile."""
    first = {each.replica: asdict(each) for each in before.replicas}
    second = {each.replica: asdict(each) for each in after.replicas}
    return {
        (replica, name): value
        for replica in first.keys() & second.keys()
        for name, value in first[replica].items()
        if second[replica][name] == value and value is not None
    }


async def test_the_page_has_the_figures_of_the_status(cluster: LiveCluster) -> None:
    await cluster.assert_serves("echo")
    before = await cluster.status()
    document = await told(cluster)
    after = await cluster.status()
    assert document["gateway"] == after.gateway
    assert document["counters"] == asdict(after.counters)
    figures = settled(before, after)
    assert {"state", "variant", "running_requests", "max_batch"} <= {name for _, name in figures}
    for (replica, name), value in figures.items():
        shown = document["replicas"][replica][name]
        # Floats are written with seven digits, tuples as lists.
        expected = json.loads(json.dumps(value))
        assert shown == (pytest.approx(value, 1e-6) if isinstance(value, float) else expected)


async def test_what_requests_have_met_and_why_they_went_where_is_told(cluster: LiveCluster) -> None:
    async with cluster.client() as client:
        await client.complete(
            "echo", prompt_token_ids=[1, 2], max_tokens=3, request_id="why", service_class="batch"
        )
        status = await client.status(decisions=8)
    (decision,) = (each for each in status.decisions if each.request_id == "why")
    assert (decision.model, decision.service_class) == ("echo", "batch")
    assert decision.reason
    assert decision.eligible == decision.candidates >= 2
    met = {each.service_class: each for each in status.service_classes}["batch"]
    assert met.requests >= met.within_both >= 1


async def test_who_looks_no_more_leaves_nothing_behind(cluster: LiveCluster) -> None:
    for _ in range(3):
        await told(cluster)
    await cluster.assert_released(PATIENCE_S)


@chromium.NEEDED
async def test_a_request_shows_up_in_an_open_page(cluster: LiveCluster) -> None:
    async with chromium.chromium() as browser:
        url = f"{cluster.http_url}/dashboard"
        page = await opened(browser, url, viewport={"width": 400, "height": 800})
        await shows(page, "#connection", "live")
        completed = (await cluster.status()).counters.completed
        async with cluster.client() as client:
            await client.complete(
                "echo", prompt_token_ids=[1, 2], max_tokens=3, request_id="shown-in-the-page"
            )
        await shows(page, "#decisions", "shown-in-the-page")

        async def counted() -> bool:
            text = await page.inner_text("#counters div:nth-child(2) dd")
            return int(text.replace(",", "")) > completed

        assert await eventually(counted)
        status = await cluster.status()
        tiles = await page.locator(".replica").evaluate_all(
            "tiles => tiles.map((each) => each.dataset.replica)"
        )
        assert set(tiles) == {each.replica for each in status.replicas}
        assert await page.evaluate("document.documentElement.scrollWidth") <= 400
