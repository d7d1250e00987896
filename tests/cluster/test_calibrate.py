"""`jouleserve calibrate` against a live cluster of echo engines, whose speed is configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from serve.profiling import profile_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

OPTIONS = ("--batches", "1,2,4,8", "--seconds", "1", "--prompts", "100,400,900")


async def test_the_configured_speed_is_found(cluster: LiveCluster, tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    await cluster.assert_released()
    printed = await cluster.command(
        "calibrate", "--target", cluster.address, "--variant", "large", *OPTIONS,
        "--write", str(file), "--machine", "a test",
    )  # fmt: skip
    assert "leaves joules to the power model" in printed
    profile = profile_file.load(file)
    # The engine waits out every step: a machine that is busy makes none of them shorter.
    assert profile.measurement is not None
    assert all(point.step_s > 0.0039 for point in profile.measurement.points)
    assert all(
        prompt.prompt_s > prompt.prompt_tokens / 110_000 for prompt in profile.measurement.prompts
    )
    assert {point.batch for point in profile.measurement.points} == {1, 2, 4, 8}
    assert profile.measurement.machine == "a test"
    assert not profile.tells_energy
    await cluster.assert_released()


async def test_several_replicas_are_refused_with_what_to_do(cluster: LiveCluster) -> None:
    with pytest.raises(RuntimeError, match="2 replicas of 'small' are there"):
        await cluster.command("calibrate", "--target", cluster.address, "--variant", "small")


async def test_a_variant_that_is_not_there_is_refused(cluster: LiveCluster) -> None:
    with pytest.raises(RuntimeError, match="no replica of 'medium' is awake") as error:
        await cluster.command("calibrate", "--target", cluster.address, "--variant", "medium")
    assert "large" in str(error.value)
    assert "plan --pin medium=1" in str(error.value)
