"""A gateway's accounts: every joule has a tenant, cancelled ones too; and they are bounded."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from cluster.carbon import ConstantSource, Grid, GridSettings
from serve import http_call, status
from serve.calls import Outcome, Wishes
from serve.config_energy import EnergyConfig
from serve.energy_books import OTHER, Key
from serve.frames import RequestEnergy
from serve.http_call import HttpCall, take_wishes
from tests.gateway_fakes import ENERGY, LARGE, Desk, cluster_config, ending, settle, tokens

G_PER_J = 500.0 * 1.2 / 3.6e6


async def desk(max_tenants: int = 8) -> Desk:
    grid = Grid(ConstantSource(500.0), GridSettings(pue=1.2))
    await grid.refresh()
    config = cluster_config().model_copy(update={"energy": EnergyConfig(max_tenants=max_tenants)})
    desk = Desk(config, grid=grid)
    await desk.wake({LARGE: ["a"]})
    return desk


async def served(desk: Desk, number: int, tenant: str) -> Outcome:
    """Serve a call to its end; `number` is how many there were before it, and one."""

    async def read() -> Outcome:
        async with aclosing(desk.dispatcher.serve(desk.call(wishes=Wishes(tenant=tenant)))) as all_:
            items = [item async for item in all_]
        assert isinstance(items[-1], Outcome)
        return items[-1]

    task = asyncio.create_task(read())
    await settle()
    desk.send(LARGE, "a", ending(number, [6, 7], [6, 7]), accepted=[number])
    return await task


async def test_a_request_is_booked_on_its_tenant_class_and_variant() -> None:
    books = await desk()
    outcome = await served(books, 1, "lab")
    assert outcome.gco2e == pytest.approx(ENERGY.energy_j * G_PER_J)
    await served(books, 2, "lab")
    await served(books, 3, "")
    lab, nobody = dict(books.dispatcher.books).values()
    assert set(dict(books.dispatcher.books)) == {
        Key("lab", "standard", LARGE),
        Key("", "standard", LARGE),
    }
    assert (lab.requests, lab.prompt_tokens, lab.completion_tokens) == (2, 8, 4)
    assert (lab.energy_j, lab.gco2e) == pytest.approx((6.0, 6.0 * G_PER_J))
    assert (nobody.requests, nobody.energy_j) == (1, 3.0)
    told = {each.tenant: each.energy_j for each in status.accounts(books.dispatcher.books)}
    assert told == {"lab": 6.0, "": 3.0}


async def test_what_was_cancelled_is_booked_when_the_replica_says_what_it_used() -> None:
    books = await desk()
    call = books.call(wishes=Wishes(tenant="lab"))
    task = asyncio.create_task(anext(books.dispatcher.serve(call)))
    await settle()
    books.send(LARGE, "a", tokens(1, 5), accepted=[1])
    await settle()
    task.cancel()
    await asyncio.wait([task])
    assert not dict(books.dispatcher.books)
    used = RequestEnergy(0.5, 1.0, "model", "cpu")
    books.send(LARGE, "a", dropped=[(1, used), (1, used), (99, used)])
    await settle()
    (account,) = dict(books.dispatcher.books).values()
    assert (account.requests, account.completion_tokens, account.energy_j) == (1, 0, 1.5)


async def test_tenants_that_come_late_share_an_account() -> None:
    books = await desk(max_tenants=2)
    for number, tenant in enumerate(("a", "b", "c", "d", "a", ""), start=1):
        await served(books, number, tenant)
    requests = {key.tenant: account.requests for key, account in books.dispatcher.books}
    assert requests == {"a": 2, "b": 1, OTHER: 2, "": 1}


async def test_an_http_reply_says_it_too() -> None:
    books = await desk()
    outcome = await served(books, 1, "lab")
    http = HttpCall(take_wishes({"tenant": "lab", "model": "m"}), 0.0, {}, "chat", [outcome])
    assert http.wishes.tenant == "lab"
    told = http_call.extension(http)["energy"]
    assert told["energy_j"] == 3.0
    assert told["gco2e"] == pytest.approx(3.0 * G_PER_J)
    assert {"share", "mean_power_w", "method", "boundary"} <= set(told)
    both = http_call.extension(replace(http, outcomes=[outcome, outcome]))
    assert both["energy_j"] == 6.0
    assert both["gco2e"] == pytest.approx(6.0 * G_PER_J)
    unknown = replace(outcome, gco2e=None)
    assert "gco2e" not in http_call.extension(replace(http, outcomes=[unknown]))["energy"]
    assert "gco2e" not in http_call.extension(replace(http, outcomes=[outcome, unknown]))
