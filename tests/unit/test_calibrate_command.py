"""`jouleserve calibrate` as people run it, against a server on a real socket."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
import yaml
from typer.testing import CliRunner

from protos.jouleserve import checksum
from protos.jouleserve.client import JouleserveClientError
from protos.jouleserve.v1 import cluster_pb2
from protos.jouleserve.v1 import inference_pb2 as pb
from serve import config_file
from serve.cli import whole_app
from serve.profiling import profile_file
from serve.profiling.errors import ProfilingError, SubjectError
from tests.client_fakes import Servicer, serving, tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


STEP_S, PREFILL_S = 0.004, 2e-5
POWER_W = 200.0
OPTIONS = ("--batches", "1,2,4", "--seconds", "1", "--prompts", "100,900")


class Replicas(Servicer):
    """Gives a token a step, after a time for the prompt; its counter rises at one power."""

    def __init__(self, *variants: str) -> None:
        super().__init__()
        self._variants = variants
        self._running = 0
        self._turn = threading.Lock()
        self.broken = False

    @contextmanager
    def _counted(self) -> Iterator[None]:
        with self._turn:
            self._running += 1
        try:
            yield
        finally:
            with self._turn:
                self._running -= 1

    def Generate(
        self, request: pb.GenerateRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.GenerateResponse]:
        self.requests.append(request)
        if self.broken:
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        count, prompt = request.sampling.max_tokens, len(request.prompt_token_ids.ids)
        with self._counted():
            time.sleep(STEP_S + PREFILL_S * prompt)
            due_s = time.monotonic()
            for token_id in range(count):
                yield tokens(token_id)
                due_s += STEP_S
                time.sleep(max(0.0, due_s - time.monotonic()))
        usage = pb.Usage(
            prompt_tokens=prompt,
            completion_tokens=count,
            completion_crc32=checksum.extend(0, range(count)),
        )
        yield pb.GenerateResponse(
            finish=pb.Finish(
                usage=usage, finish_reason="length", variant=request.variant, replica="a#0"
            )
        )

    def ListModels(
        self, request: pb.ListModelsRequest, context: grpc.ServicerContext
    ) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[pb.Model(name="m", max_context_tokens=1024)])

    def GetStatus(
        self, request: cluster_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.GetStatusResponse:
        replicas = [
            cluster_pb2.Replica(
                model="m",
                variant=variant,
                replica=f"{variant}#{place}",
                node="n",
                accelerator="l40s",
                state="awake",
                running_requests=self._running if place == 0 else 0,
                energy_j=POWER_W * time.monotonic(),
                energy_method="nvml",
                energy_boundary="gpu",
                max_batch=4,
            )
            for place, variant in enumerate(self._variants)
        ]
        return cluster_pb2.GetStatusResponse(gateway="g", replicas=replicas)


def calibrate(address: str, *options: str) -> str:
    done = CliRunner().invoke(
        whole_app(), ["calibrate", "--target", address, "--variant", "a", *options]
    )
    if done.exception is not None:
        raise done.exception
    return done.output


def test_a_profile_is_measured_and_a_configuration_takes_it(tmp_path: Path) -> None:
    servicer = Replicas("a")
    variant = {"name": "a", "engine": "echo", "accelerator": "l40s"}
    plain, file = tmp_path / "config.yaml", tmp_path / "a.yaml"
    plain.write_text(yaml.safe_dump({"models": [{"name": "m", "variants": [variant]}]}))
    with serving(servicer) as address:
        calibrate(address, *OPTIONS, "--config", str(plain), "--write", str(file))
    assert all(each.sampling.ignore_eos and each.variant == "a" for each in servicer.requests)
    profile = profile_file.load(file)
    measurement = profile.measurement
    assert measurement is not None
    assert {point.batch for point in measurement.points} == {1, 2, 4}
    # Sleeping is never shorter than asked for, however busy the machine is.
    assert all(point.step_s > 0.95 * STEP_S for point in measurement.points)
    assert (measurement.energy_method, measurement.energy_boundary) == ("nvml", "gpu")
    for point in measurement.points:
        assert point.step_j is not None
        assert 0.5 < point.step_j / point.step_s / POWER_W < 2.0
    assert "l40s" in measurement.machine
    variant["profile_file"] = "a.yaml"
    plain.write_text(yaml.safe_dump({"models": [{"name": "m", "variants": [variant]}]}))
    ((_, entry),) = config_file.load(plain).variants()
    assert entry.profile == profile
    checked = CliRunner().invoke(whole_app(), ["config", "check", str(plain)])
    assert checked.exit_code == 0


def test_no_run_sends_the_prompts_of_another() -> None:
    beginnings = []
    for _ in range(2):
        servicer = Replicas("a")
        servicer.broken = True
        with serving(servicer) as address, pytest.raises(JouleserveClientError):
            calibrate(address, *OPTIONS)
        beginnings += [tuple(each.prompt_token_ids.ids[:32]) for each in servicer.requests]
    assert len(set(beginnings)) == len(beginnings) > 1


@pytest.mark.parametrize(
    ("variants", "options", "words"),
    [
        (("a", "a"), (), "2 replicas of 'a'"),
        (("b",), (), "there are replicas of b"),
        ((), (), "no replica of 'a' is awake"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    variants: tuple[str, ...], options: tuple[str, ...], words: str
) -> None:
    with serving(Replicas(*variants)) as address, pytest.raises(SubjectError, match=words):
        calibrate(address, *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--batches", "1,8"), "decodes 4 sequences"),
        (("--prompts", "8,2000"), "1024 tokens"),
        (("--token-ids", "5"), "LOW:HIGH"),
        (("--write", "absent/a.yaml"), "cannot be written"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: tuple[str, ...], words: str) -> None:
    servicer = Replicas("a")
    with serving(servicer) as address, pytest.raises(ProfilingError, match=words):
        calibrate(address, *options)
    assert not servicer.requests


def test_a_configuration_without_the_variant_is_refused(tmp_path: Path) -> None:
    variant = {"name": "other", "engine": "echo", "accelerator": "cpu"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"models": [{"name": "m", "variants": [variant]}]}))
    with serving(Replicas("a")) as address, pytest.raises(ProfilingError, match="it has other"):
        calibrate(address, "--config", str(file))
