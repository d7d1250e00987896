"""A replica whose every step is known is measured, fitted, shown and written down."""

from __future__ import annotations

import asyncio
import io
import re
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console

from scheduler.profiles import PrefillCost, TableSteps
from scheduler.steps import AffineSteps
from serve import config_file
from serve.profiling import profile_file
from serve.profiling.cli import Wished, powers_up_to, settings_for
from serve.profiling.errors import ProfilingError, SubjectError, TooLittleError
from serve.profiling.experiment import Experiment, Settings
from serve.profiling.fitted import Fitted, fitted, profile_of
from serve.profiling.measured import DecodePoint, Measured, PromptPoint
from serve.profiling.numbers import numbers
from serve.profiling.place import Place, elsewhere, here, is_here
from serve.profiling.prompts import TokenRange
from serve.profiling.report import print_profile
from serve.profiling.subject import subject_of
from serve.profiling.watch import Glimpse, Watch, power_w
from serve.profiling.waves import Arrivals, window_of
from serve.section_file import ConfigFileError
from serve.step_profiles import StepProfile
from tests.profiling_fakes import EchoCluster, ModelledCluster, beside, in_virtual_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# An 8B model on an H100, by the table that first principles were fitted to.
TRUTH = AffineSteps(
    t0_s=6.7e-3,
    t1_s=5.0e-5,
    e0_j=3.04,
    e1_j=0.05,
    prefill_s_per_token=3.0e-5,
    prefill_j_per_token=0.02,
    context_s_per_token=4.0e-8,
    context_j_per_token=2.0e-5,
)
SETTINGS = Settings(
    batches=(1, 2, 4, 8, 16),
    seconds=2.0,
    prompt_tokens=32,
    long_prompt_tokens=2048,
    prefill_tokens=(512, 1024, 2048),
    context_tokens=4096,
    tokens=TokenRange(),
)
PREFILL = PrefillCost(3e-5, 0.02)
PLACE = Place("a machine", "580.1", "vllm 0.32.0", "2026-11-28T12:00:00+00:00")


def measure(cluster: ModelledCluster | EchoCluster, **changed: Any) -> Measured:
    async def work() -> Measured:
        subject = subject_of(await cluster.status(), "v")
        client: Any = cluster
        settings = replace(SETTINGS, **changed)
        return await Experiment(client, subject, settings, Random(3), lambda _: None).run()

    found: Measured = in_virtual_time(cluster.serve(work()))
    return found


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(ModelledCluster(TRUTH))


# ── the measurement ─────────────────────────────────────────────────────────


def test_the_fit_recovers_what_is_true(measured: Measured) -> None:
    fit = fitted(measured)
    assert isinstance(fit.steps, AffineSteps)
    found, true = fit.steps, TRUTH
    assert found.t0_s == pytest.approx(true.t0_s, rel=0.01)
    assert found.t1_s == pytest.approx(true.t1_s, rel=0.05)
    assert found.e0_j == pytest.approx(true.e0_j, rel=0.02)
    assert found.e1_j == pytest.approx(true.e1_j, rel=0.05)
    assert found.context_s_per_token == pytest.approx(true.context_s_per_token, rel=0.05)
    assert found.context_j_per_token == pytest.approx(true.context_j_per_token, rel=0.1)
    assert found.prefill_s_per_token == pytest.approx(true.prefill_s_per_token, rel=0.02)
    assert found.prefill_j_per_token == pytest.approx(true.prefill_j_per_token, rel=0.05)
    assert fit.explained.time is not None
    assert fit.explained.time > 0.99
    assert fit.explained.energy is not None
    assert fit.explained.energy > 0.99


def test_batches_that_were_left_out_are_predicted(measured: Measured) -> None:
    fit = fitted(measured)
    assert {each.point.batch for each in fit.left_out} == {2, 8}
    time, energy = fit.left_out_errors
    assert time is not None
    assert time < 0.01
    assert energy is not None
    assert energy < 0.02


@pytest.mark.parametrize(("decode_step_s", "per_s"), [(0.02, 10_000.0), (0.004, 100_000.0)])
def test_of_the_echo_engine_the_configured_speed_is_found(
    decode_step_s: float, per_s: float
) -> None:
    found = measure(EchoCluster(decode_step_s, per_s), batches=(1, 2, 8), seconds=1.0)
    steps = fitted(found).steps
    for batch in (1, 5, 8):
        assert steps.decode_s(batch, 100.0 * batch) == pytest.approx(decode_step_s, rel=0.01)
    assert steps.prefill_s(1) == pytest.approx(1.0 / per_s, rel=0.02)


def test_every_batch_is_measured_for_as_long_as_asked(measured: Measured) -> None:
    for point in measured.points:
        assert point.steps * point.step_s >= SETTINGS.seconds * 0.99
        assert point.own_step_s == pytest.approx(point.step_s, rel=0.05)
    assert {point.batch for point in measured.points} == set(SETTINGS.batches)
    assert measured.awake_w == pytest.approx(100.0)


def test_no_prompt_begins_as_another_and_every_token_is_generated() -> None:
    cluster = ModelledCluster(TRUTH)
    measure(cluster, batches=(1, 4), seconds=1.0)
    beginnings = [tuple(each["prompt_token_ids"][:16]) for each in cluster.asked]
    assert len(set(beginnings)) == len(beginnings)
    assert all(each["ignore_eos"] and each["variant"] == "v" for each in cluster.asked)
    ids = {token for each in cluster.asked for token in each["prompt_token_ids"]}
    assert min(ids) >= TokenRange().low
    assert max(ids) < TokenRange().high


def test_scatter_is_no_reason_for_a_table() -> None:
    rng = Random(5)
    noisy = ModelledCluster(TRUTH, stretch=lambda: rng.lognormvariate(0.0, 0.2))
    fit = fitted(measure(noisy))
    assert isinstance(fit.steps, AffineSteps)
    assert fit.steps.t0_s == pytest.approx(TRUTH.t0_s, rel=0.05)


def test_where_no_line_holds_the_profile_is_a_table() -> None:
    batches = tuple(float(1 << place) for place in range(5))
    bent = TableSteps(
        batches,
        tuple(5e-3 + 4e-5 * batch**1.7 for batch in batches),
        tuple(3.0 + 0.02 * batch**1.7 for batch in batches),
        PREFILL,
    )
    fit = fitted(measure(ModelledCluster(bent), long_prompt_tokens=0))
    assert fit.form == "table"
    for batch in batches:
        assert fit.steps.decode_s(batch) == pytest.approx(bent.decode_s(batch), rel=0.02)
        assert fit.steps.decode_j(batch) == pytest.approx(bent.decode_j(batch), rel=0.02)


def test_a_batch_that_does_not_fit_is_left_out_and_said() -> None:
    found = measure(ModelledCluster(TRUTH, max_batch=8), batches=(1, 2, 8, 16, 32), seconds=2.0)
    assert {point.batch for point in found.points} == {1, 2, 8}
    assert any("batch 16" in remark for remark in found.remarks)


def test_one_batch_alone_is_too_little() -> None:
    with pytest.raises(TooLittleError, match="two batches"):
        measure(ModelledCluster(TRUTH, max_batch=1), batches=(1, 2), seconds=2.0)


def test_energy_by_a_model_is_left_to_the_model() -> None:
    found = measure(ModelledCluster(TRUTH, method="model"), seconds=2.0)
    assert not found.tells_energy
    assert found.awake_w is None
    profile = profile_of(fitted(found), found, PLACE, "cluster")
    assert not profile.tells_energy
    assert profile.measurement is not None
    assert profile.measurement.energy_method == "model"
    assert all(point.step_j is None for point in profile.measurement.points)
    assert "the power model" in profile.measured_on
    predicted = replace(TRUTH, e0_j=TRUTH.t0_s * 200, e1_j=TRUTH.t1_s * 200)
    predicted = replace(predicted, context_j_per_token=TRUTH.context_s_per_token * 200)
    steps = profile.steps(lambda: predicted)
    assert steps.decode_j(8, 100) == pytest.approx(200 * steps.decode_s(8, 100))


# ── whom it measures ────────────────────────────────────────────────────────


def refused(change: Any) -> str:
    cluster = ModelledCluster(TRUTH)

    async def work() -> None:
        subject_of(change(cluster, await cluster.status()), "v")

    with pytest.raises(SubjectError) as error:
        in_virtual_time(cluster.serve(work()))
    return str(error.value)


def test_one_idle_awake_replica_alone_is_measured() -> None:
    def having(*replicas: Any) -> Any:
        return lambda _, status: replace(status, replicas=replicas)

    def one(**changed: Any) -> Any:
        return lambda _, status: replace(status, replicas=(replace(status.replicas[0], **changed),))

    def two(**changed: Any) -> Any:
        return lambda _, status: replace(
            status, replicas=(*status.replicas, beside(status.replicas[0], **changed))
        )

    assert "jouleserve plan --pin v=1" in refused(having())
    assert "there are replicas of other" in refused(one(variant="other"))
    assert "2 replicas of 'v'" in refused(two())
    assert "2 replicas of 'v'" in refused(two(state="starting"))
    assert "is resting" in refused(one(state="resting"))
    assert "has 3 requests" in refused(one(running_requests=3))
    assert "has 2 requests" in refused(one(leases=2))
    assert "same node" in refused(two(variant="other", running_requests=1))


def test_what_comes_in_between_ends_it() -> None:
    cluster = ModelledCluster(TRUTH)

    async def work() -> None:
        subject = subject_of(await cluster.status(), "v")
        client: Any = cluster
        experiment = Experiment(client, subject, SETTINGS, Random(3), lambda _: None)
        measuring = asyncio.create_task(experiment.run())
        await asyncio.sleep(12.0)
        cluster.others.append(beside(subject))
        await measuring

    with pytest.raises(SubjectError, match="changed from v#1 to v#1, v#2"):
        in_virtual_time(cluster.serve(work()))


def test_what_is_seen_once_is_not_believed_yet() -> None:
    cluster = ModelledCluster(TRUTH)

    async def work() -> None:
        subject = subject_of(await cluster.status(), "v")
        async with Watch(cluster, subject, 0) as watch:
            for last_s in (0.1, 0.6):
                await asyncio.sleep(1.1)
                cluster.others.append(beside(subject, variant="other", running_requests=1))
                await asyncio.sleep(last_s)
                cluster.others.clear()
                await asyncio.sleep(0.5)
                watch.check()

    with pytest.raises(SubjectError, match="same node"):
        in_virtual_time(cluster.serve(work()))


# ── windows ─────────────────────────────────────────────────────────────────


def arrivals(prompt_tokens: int, times_s: Sequence[float], tokens: int = 1) -> Arrivals:
    stream = Arrivals(prompt_tokens)
    for at_s in times_s:
        stream.add(at_s, tokens)
    return stream


def test_a_window_is_where_all_decode() -> None:
    early = arrivals(10, [0.1 * step for step in range(1, 31)])
    late = arrivals(20, [0.1 * step for step in range(11, 41)])
    window = window_of([early, late])
    assert window is not None
    assert (window.begin_s, window.end_s) == pytest.approx((1.1, 3.0))
    assert window.step_s == pytest.approx(0.1)
    # From the eleventh to the thirtieth token of one, from the first to the twentieth of another.
    assert window.context_tokens == pytest.approx(10 + 20.5 + 20 + 10.5)


def test_tokens_that_come_together_are_counted_one_by_one() -> None:
    window = window_of([arrivals(1, [0.4 * step for step in range(9)], tokens=4)])
    assert window is not None
    assert window.step_s == pytest.approx(0.1)


@pytest.mark.parametrize(
    "streams",
    [
        [arrivals(1, [])],
        [arrivals(1, [1.0, 1.1, 1.2])],
        # One had ended before the other began.
        [arrivals(1, [0.1 * n for n in range(20)]), arrivals(1, [5 + 0.1 * n for n in range(20)])],
    ],
)
def test_there_is_none_where_too_little_decodes_together(streams: list[Arrivals]) -> None:
    assert window_of(streams) is None


def test_power_is_that_between_reports_within_a_window() -> None:
    seen = [Glimpse(0.5 * n, 100.0 * n, 0.0, 1, 0, 0.0) for n in range(20)]
    assert power_w(seen, 2.2, 7.9) == pytest.approx(200.0)
    assert power_w(seen, 2.2, 2.6) is None
    assert power_w(seen, 100.0, 101.0) is None


# ── what is written ─────────────────────────────────────────────────────────


def test_a_configuration_takes_the_file(measured: Measured, tmp_path: Path) -> None:
    fit = fitted(measured)
    profile = profile_of(fit, measured, PLACE, "cluster")
    profile_file.write(profile, tmp_path / "v.yaml", "v")
    assert profile_file.load(tmp_path / "v.yaml") == profile
    variant = {"name": "v", "engine": "echo", "accelerator": "h100-sxm"}
    content = {"models": [{"name": "m", "variants": [{**variant, "profile_file": "v.yaml"}]}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    config = config_file.load(tmp_path / "config.yaml")
    ((_, entry),) = config.variants()
    assert entry.profile == profile
    # What is shown with every default spelt out is a configuration as well.
    shown = config_file.parse_config(config_file.dump(config), file="shown", directory=tmp_path)
    assert shown == config
    steps = entry.profile.steps(predicted=lambda: TRUTH)
    assert steps.decode_s(8, 100) == pytest.approx(fit.steps.decode_s(8, 100))
    assert steps.decode_j(8, 100) == pytest.approx(fit.steps.decode_j(8, 100))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("t0_s: 0.01\nt1_s: fast\n", "t1_s"),
        ("t0_s: 0.01\nt1_s: 0.1\nprefill_s_per_token: 0.1\nmeasured_on: x\ne0_j: 1\n", "e1_j"),
        ("[1, 2]\n", "section"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(text: str | None, words: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "v.yaml").write_text(text)
    variant = {"name": "v", "engine": "echo", "accelerator": "cpu", "profile_file": "v.yaml"}
    content = {"models": [{"name": "m", "variants": [variant]}]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigFileError, match=words) as error:
        config_file.load(tmp_path / "config.yaml")
    assert "models[0].variants[0].profile_file" in str(error.value)


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    profile_file.check_place(tmp_path / "v.yaml")
    for place in (tmp_path, tmp_path / "absent" / "v.yaml"):
        with pytest.raises(ProfilingError, match="cannot be written"):
            profile_file.check_place(place)


def test_a_table_and_an_energy_that_is_missing_survive_the_file(tmp_path: Path) -> None:
    steps = TableSteps((1, 4, 8), (0.01, 0.02, 0.05), (1.0, 2.0, 4.0), PREFILL)
    for energy in (True, False):
        profile = StepProfile.of(steps, "here", energy=energy)
        profile_file.write(profile, tmp_path / "v.yaml", "v")
        read = profile_file.load(tmp_path / "v.yaml").steps(predicted=lambda: TRUTH)
        assert read.decode_s(6) == pytest.approx(steps.decode_s(6))
        assert (read.decode_j(6) == pytest.approx(steps.decode_j(6))) is energy


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(1, 0.1, 1.0)], "two rows"),
        ([(2, 0.1, 1.0), (1, 0.2, 2.0)], "order"),
        ([(1, 0.1, 1.0), (2, 0.2, None)], "every row"),
        ([(1, 0.1, None), (2, 0.2, None)], "every row"),
    ],
)
def test_a_table_that_is_none_is_refused(rows: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        StepProfile.model_validate(
            {
                "t0_s": 0.1,
                "t1_s": 0.1,
                "e0_j": 1,
                "e1_j": 1,
                "prefill_s_per_token": 0.1,
                "prefill_j_per_token": 0.1,
                "measured_on": "here",
                "table": [
                    {"batch": batch, "step_s": step_s, "step_j": step_j}
                    for batch, step_s, step_j in rows
                ],
            }
        )


# ── what people see ─────────────────────────────────────────────────────────


def shown(measured: Measured, fit: Fitted, in_force: AffineSteps | None = None) -> str:
    console = Console(file=io.StringIO(), width=200)
    print_profile(console, measured, fit, in_force)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_people_see_points_fit_errors_and_what_changes(measured: Measured) -> None:
    slower = replace(TRUTH, t0_s=2 * TRUTH.t0_s)
    text = shown(measured, fitted(measured), slower)
    assert "R²" in text
    assert re.search(r"batches left out are missed by 0\.\d% in time and \d\.\d% in energy", text)
    assert "100.0 W awake and idle" in text
    assert re.search(r"step of 1, context \d+, ms +13\.\d+ +6\.\d+ +0\.5\d", text)


def test_nothing_about_joules_is_shown_that_was_not_measured() -> None:
    points = tuple(DecodePoint(b, 40.0 * b, 0.01, None, 100.0) for b in (1, 2, 4))
    prompts = tuple(PromptPoint(n, 0.001 * n, None, 5) for n in (10, 100))
    found = Measured(points, prompts, "model", "cpu", remarks=("a remark",))
    text = shown(found, fitted(found), TRUTH)
    assert "J" not in text
    assert "leaves joules to the power model" in text
    assert "nothing for R² to explain" in text
    assert "! a remark" in text


# ── options ─────────────────────────────────────────────────────────────────


def test_lists_of_numbers_are_read_or_refused() -> None:
    assert numbers("", "--batches") == ()
    assert numbers("8, 1,2", "--batches") == (1, 2, 8)
    for text in ("1", "1,1", "1;2", "0,1", "a,b"):
        with pytest.raises(ProfilingError, match="--batches"):
            numbers(text, "--batches")


def test_batches_go_to_the_largest() -> None:
    assert powers_up_to(1) == (1,)
    assert powers_up_to(8) == (1, 2, 4, 8)
    assert powers_up_to(24) == (1, 2, 4, 8, 16, 24)


def test_settings_stay_within_the_replica() -> None:
    async def subject() -> Any:
        return ModelledCluster(TRUTH, max_batch=24).replica

    replica = in_virtual_time(subject())
    from protos.jouleserve.client import Model

    models = (Model("m", 1024, (), (), "standard"),)
    wished = Wished((), 1.0, (), TokenRange())
    found = settings_for(replica, models, None, wished)
    assert found.batches == (1, 2, 4, 8, 16, 24)
    assert max(found.prefill_tokens) < found.context_tokens == 1024
    with pytest.raises(ProfilingError, match="24 sequences"):
        settings_for(replica, models, None, wished._replace(batches=(1, 32)))
    with pytest.raises(ProfilingError, match="1024 tokens"):
        settings_for(replica, models, None, wished._replace(prompts=(8, 1024)))


@pytest.mark.parametrize("text", ["", "5", "5:", "a:b", "10:20", "20:10"])
def test_token_ids_are_a_range(text: str) -> None:
    with pytest.raises(ProfilingError, match="LOW:HIGH"):
        TokenRange.parse(text)


def test_a_place_says_what_is_known_of_it() -> None:
    assert is_here("127.0.0.1:9000")
    assert is_here("localhost:9000")
    assert is_here("[::1]:9000")
    assert not is_here("gateway.example:9000")
    assert not is_here("10.0.0.1:9000")
    assert "h100-sxm" in here("h100-sxm", "echo").machine
    assert elsewhere("n1", "l4", "", "").machine == "node n1, l4"
    assert elsewhere("n1", "l4", "a rack", "vllm").machine == "a rack"
