"""What a kilowatt hour emits: from a constant, a file, a service; and what stands in for it."""

from __future__ import annotations

import asyncio
import csv
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

import pytest

from cluster.carbon import CarbonError, ConstantSource, Figure, Grid, GridSettings
from cluster.carbon_file import FileSource, parsed
from cluster.carbon_services import ElectricityMapsSource, WattTimeSource, secret
from serve.config_energy import CarbonConfig
from serve.emissions import grid

if TYPE_CHECKING:
    from collections.abc import Callable

NOON_S = 1_795_867_200.0  # 2026-11-28T12:00:00Z
YEARLY = Path(__file__).parents[3] / "shared" / "data" / "carbon" / "codecarbon_cloud_impact.csv"


class Clock:
    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Source:
    """Says what a test tells it to, or fails with it."""

    name = "watttime"

    def __init__(self, said: Figure | Exception) -> None:
        self.said = said

    async def figure(self, now_s: float) -> Figure:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said


def kept(source: Source, **settings: Any) -> tuple[Grid, Clock, Clock]:
    wall, clock = Clock(NOON_S), Clock()
    return Grid(source, GridSettings(**settings), wall, clock), wall, clock


async def test_emissions_are_energy_times_pue_times_intensity() -> None:
    grid_ = Grid(ConstantSource(400.0), GridSettings(pue=1.25))
    assert grid_.now() is None
    await grid_.refresh()
    now = grid_.now()
    assert now is not None
    assert now.gco2e(3.6e6) == pytest.approx(500.0)
    assert (now.source, now.age_s, now.trouble) == ("constant", 0.0, "")


async def test_a_figure_ages_and_is_not_used_when_it_is_stale() -> None:
    grid_, wall, clock = kept(Source(Figure(300.0, NOON_S - 600)), stale_after_s=3600.0)
    await grid_.refresh()
    now = grid_.now()
    assert now is not None
    assert (now.gco2e_per_kwh, now.age_s, now.source) == (300.0, 600.0, "watttime")
    clock.now_s += 2999
    wall.now_s -= 86_400  # A clock that steps makes no figure younger.
    assert grid_.now() is not None
    clock.now_s += 2
    assert grid_.now() is None
    assert "older than 60 minutes" in grid_.trouble


async def test_a_fallback_stands_in_by_name_and_with_the_reason() -> None:
    source = Source(CarbonError("does not answer"))
    grid_, _, clock = kept(source, stale_after_s=60.0, fallback_g_per_kwh=480.0)
    await grid_.refresh()
    now = grid_.now()
    assert now is not None
    assert (now.gco2e_per_kwh, now.source) == (480.0, "fallback")
    assert now.trouble == "watttime: does not answer"
    source.said = Figure(300.0, NOON_S)
    await grid_.refresh()
    assert grid_.trouble == ""
    source.said = CarbonError("does not answer")
    await grid_.refresh()
    assert grid_.trouble == ""  # What it said before is still good.
    clock.now_s += 61
    assert grid_.trouble.endswith("does not answer")


@pytest.mark.parametrize(
    ("figure", "told"),
    [
        (Figure(-1.0, NOON_S), "no intensity"),
        (Figure(float("nan"), NOON_S), "no intensity"),
        (Figure(480_000.0, NOON_S), "no intensity"),
        (Figure(300.0, NOON_S + 86_400), "is a clock wrong"),
    ],
)
async def test_what_no_grid_can_be_is_not_believed(figure: Figure, told: str) -> None:
    grid_, _, _ = kept(Source(figure))
    await grid_.refresh()
    assert grid_.now() is None
    assert told in grid_.trouble


async def test_it_asks_again_and_again_until_it_is_cancelled() -> None:
    source = Source(CarbonError("down"))
    grid_, _, _ = kept(source, refresh_s=0.01)
    task = asyncio.create_task(grid_.run())
    await asyncio.sleep(0.02)
    source.said = Figure(300.0, NOON_S)
    for _ in range(500):
        await asyncio.sleep(0.01)
        if grid_.now() is not None:
            break
    task.cancel()
    assert grid_.now() is not None


# ── files ───────────────────────────────────────────────────────────────────

HOURS = """gco2e_per_kwh,time
100,2026-11-28T10:00:00Z
200,2026-11-28T13:00:00+01:00
300,2026-11-28T14:00:00Z
"""


async def test_a_file_says_what_holds_now_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "grid.csv"
    file.write_text(HOURS)
    source = FileSource(file)
    assert await source.figure(NOON_S) == (200.0, NOON_S)
    assert (await source.figure(NOON_S + 7200)).gco2e_per_kwh == 300.0
    with pytest.raises(CarbonError, match="begins later"):
        await source.figure(NOON_S - 86_400)
    file.write_text("gco2e_per_kwh\n42\n")
    os.utime(file, (1, 1))
    assert await source.figure(NOON_S) == (42.0, None)


async def test_a_file_of_regions_is_asked_for_one(tmp_path: Path) -> None:
    file = tmp_path / "grid.jsonl"
    file.write_text(
        '{"region": "north", "gco2e_per_kwh": 20}\n\n{"region": "south", "gco2e_per_kwh": 700}\n'
    )
    assert (await FileSource(file, "south").figure(NOON_S)).gco2e_per_kwh == 700.0
    with pytest.raises(CarbonError, match="north, south"):
        FileSource(file)
    with pytest.raises(CarbonError, match="'west'; it has north, south"):
        FileSource(file, "west")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.csv", "", "a.csv:1: is no header"),
        ("a.csv", "carbon\n1\n", "a.csv:1: is no header"),
        ("a.csv", "gco2e_per_kwh\n", "no figure"),
        ("a.csv", "gco2e_per_kwh\n1\nmuch\n", "a.csv:3: gco2e_per_kwh is 'much'"),
        ("a.csv", "gco2e_per_kwh\n-1\n", "a.csv:2: gco2e_per_kwh is '-1'"),
        ("a.csv", "gco2e_per_kwh\ninf\n", "a.csv:2:"),
        ("a.csv", "gco2e_per_kwh,time\n1\n", "a.csv:2: lacks a value"),
        ("a.csv", "gco2e_per_kwh,time\n1,2026-11-28\n", "a.csv:2: time is '2026-11-28'"),
        ("a.csv", "gco2e_per_kwh,time\n1,noon\n", "a.csv:2: time is 'noon'"),
        ("a.csv", "gco2e_per_kwh\n1,2\n", "a.csv:2: has more fields"),
        ("a.csv", 'gco2e_per_kwh\n"1\n', "no CSV"),
        ("a.csv", "gco2e_per_kwh\n1\n2\n", "a.csv:3: is not later"),
        (
            "a.csv",
            "gco2e_per_kwh,time\n1,2026-11-28T12:00Z\n1,2026-11-28T11:00Z\n",
            "a.csv:3: is not later",
        ),
        ("a.json", '{"gco2e_per_kwh": 1}\n{', "a.json:2: is no JSON"),
        ("a.json", "[1]\n", "a.json:1: is no JSON object"),
        ("a.json", '{"gco2e_per_kwh": true}', "a.json:1: gco2e_per_kwh is True"),
        ("a.json", '{"gco2e_per_kwh": 1, "zone": "x"}', "a.json:1: has 'zone'"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(name: str, text: str, told: str) -> None:
    with pytest.raises(CarbonError) as refused:
        parsed(name, text)
    assert told in str(refused.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CarbonError, match="cannot be read"):
        FileSource(tmp_path / "none.csv")
    (tmp_path / "grid.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(CarbonError, match="cannot be read"):
        FileSource(tmp_path / "grid.csv")


@pytest.mark.skipif(not YEARLY.exists(), reason="needs the yearly means of cloud regions")
async def test_yearly_means_of_cloud_regions_can_be_given(tmp_path: Path) -> None:
    with YEARLY.open(encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row["provider"] == "gcp" and row["impact"]]
    file = tmp_path / "regions.csv"
    lines = [f"{row['region']},{row['impact']}" for row in rows]
    file.write_text("\n".join(["region,gco2e_per_kwh", *lines]))
    for row in rows:
        figure = await FileSource(file, row["region"]).figure(NOON_S)
        assert figure == (float(row["impact"]), None)


# ── services ────────────────────────────────────────────────────────────────


class MapsError(Exception):
    """What the client of Electricity Maps raises."""


def electricity_maps(answer: Callable[[str, str], Any]) -> SimpleNamespace:
    """Give a client library that answers by itself."""

    class Service:
        def __init__(self, *, token: str) -> None:
            self.token = token

        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def latest_carbon_intensity(self, zone: str) -> Any:
            return answer(self.token, zone)

    return SimpleNamespace(ElectricityMaps=Service, ZoneRequest=str, ElectricityMapsError=MapsError)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text("secret-token\n")
    return file


async def test_electricity_maps_is_asked_for_the_zone(
    token: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(token: str, zone: str) -> Any:
        asked.append((token, zone))
        when = SimpleNamespace(timestamp=lambda: NOON_S)
        return SimpleNamespace(carbon_intensity=321, timestamp=when)

    monkeypatch.setitem(sys.modules, "aioelectricitymaps", electricity_maps(answer))
    source = ElectricityMapsSource("DE", token)
    assert await source.figure(NOON_S) == (321.0, NOON_S)
    assert asked == [("secret-token", "DE")]


@pytest.mark.parametrize(
    ("fault", "told"),
    [(MapsError("The given token is invalid"), "invalid"), (KeyError("x"), "no intensity")],
)
async def test_electricity_maps_that_refuses_is_told_without_the_token(
    token: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception, told: str
) -> None:
    def answer(token: str, zone: str) -> Any:
        raise fault

    monkeypatch.setitem(sys.modules, "aioelectricitymaps", electricity_maps(answer))
    with pytest.raises(CarbonError, match=told) as refused:
        await ElectricityMapsSource("DE", token).figure(NOON_S)
    assert "secret-token" not in str(refused.value)


@pytest.fixture
def password(tmp_path: Path) -> Path:
    file = tmp_path / "password"
    file.write_text("somebody\nsecret-word\n")
    return file


@pytest.fixture
def watttime(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give what WattTime's client answers, and what it was asked."""
    state: dict[str, Any] = {
        "answer": {
            "data": [{"point_time": "2026-11-28T12:00:00+00:00", "value": 1000.0}],
            "meta": {"units": "lbs_co2_per_mwh"},
        }
    }

    class Forecast:
        def get_forecast_json(self, **asked: Any) -> Any:
            state["asked"] = asked
            state["user"] = os.environ["WATTTIME_USER"], os.environ["WATTTIME_PASSWORD"]
            if isinstance(state["answer"], Exception):
                raise state["answer"]
            return state["answer"]

    module = SimpleNamespace(WattTimeForecast=Forecast)
    monkeypatch.setitem(sys.modules, "watttime.api", module)
    return state


async def test_watttime_counts_pounds_and_keeps_no_password_in_the_environment(
    password: Path, watttime: dict[str, Any]
) -> None:
    figure = await WattTimeSource("CAISO_NORTH", password).figure(NOON_S)
    assert figure.gco2e_per_kwh == pytest.approx(453.6, abs=0.1)
    assert figure.at_s == NOON_S
    assert watttime["user"] == ("somebody", "secret-word")
    assert watttime["asked"]["region"] == "CAISO_NORTH"
    assert "WATTTIME_PASSWORD" not in os.environ


@pytest.mark.parametrize(
    "answer",
    [
        {"data": [], "meta": {"units": "lbs_co2_per_mwh"}},
        {
            "data": [{"point_time": "2026-11-28T12:00:00+00:00", "value": 1}],
            "meta": {"units": "kg"},
        },
        RuntimeError("refused for secret-word"),
        ConnectionError("nobody there, secret-word"),
    ],
)
async def test_watttime_that_fails_is_told_without_the_password(
    password: Path, watttime: dict[str, Any], answer: object
) -> None:
    watttime["answer"] = answer
    with pytest.raises(CarbonError) as refused:
        await WattTimeSource("CAISO_NORTH", password).figure(NOON_S)
    assert "secret-word" not in str(refused.value)


def test_a_token_file_that_is_none_is_refused_without_its_text(tmp_path: Path) -> None:
    with pytest.raises(CarbonError, match=r"carbon\.token_file"):
        secret(tmp_path / "none")
    (tmp_path / "token").write_text("hidden\nhidden too\n")
    with pytest.raises(CarbonError, match="has 2 lines") as refused:
        secret(tmp_path / "token")
    assert "hidden" not in str(refused.value)


# ── configuration ───────────────────────────────────────────────────────────


def test_each_provider_is_made_with_what_it_needs(tmp_path: Path) -> None:
    assert grid(CarbonConfig()) is None
    assert grid(CarbonConfig(provider="constant", gco2e_per_kwh=30.0)) is not None
    (tmp_path / "grid.csv").write_text(HOURS)
    assert grid(CarbonConfig(provider="file", file=str(tmp_path / "grid.csv"))) is not None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"provider": "constant"}, "gco2e_per_kwh: must be given"),
        ({"provider": "watttime", "region": "X"}, "token_file: must be given"),
        ({"file": "a.csv"}, "file: the provider none does not read it"),
    ],
)
def test_what_a_provider_lacks_or_does_not_read_is_a_fault(
    given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        CarbonConfig.model_validate(given)
