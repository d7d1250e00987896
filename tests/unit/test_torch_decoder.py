"""A decoder of a model's shape: what it is, and that its steps are timed and written down."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from serve.cli import whole_app
from serve.profiling import profile_file
from serve.profiling.decoder_measurement import DecoderSettings, measure
from serve.profiling.decoder_shape import DecoderShape, shape_in
from serve.profiling.errors import ProfilingError

if TYPE_CHECKING:
    from pathlib import Path

    from serve.profiling.torch_decoder import Precision

CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 320,
}
SHAPE = DecoderShape.of(CONFIG, "config.json")


def test_a_shape_is_read_from_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert shape_in(tmp_path) == shape_in(tmp_path / "config.json") == SHAPE
    assert SHAPE.head == 16
    # q, o: 64 × 64 each; k, v: 64 × 32 each; three of the feed-forward; and the head.
    assert SHAPE.parameters == 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96) + 320 * 64
    assert DecoderShape.of({"text_config": CONFIG}, "config.json") == SHAPE


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_local_experts": 8}, "dense decoder"),
        ({"kv_lora_rank": 512}, "dense decoder"),
        ({"hidden_size": None}, "hidden_size must be a positive number"),
        ({"vocab_size": "many"}, "vocab_size"),
        ({"num_key_value_heads": 3}, "cannot share"),
    ],
)
def test_what_is_no_dense_decoder_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ProfilingError, match=words):
        DecoderShape.of({**CONFIG, **changed}, "config.json")


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_what_is_no_config_is_refused(text: str | None, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ProfilingError, match="give a config"):
        shape_in(file)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch wait for nobody where matrices are tiny and cores are busy."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.engine
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("precision", ["bf16", "int8", "fp8"])
def test_a_decoder_is_measured_in_every_precision(precision: Precision) -> None:
    settings = DecoderSettings(
        shape=SHAPE,
        precision=precision,
        device="cpu",
        batches=(1, 2, 4),
        contexts=(8, 64),
        prefill_tokens=(8, 32),
        seconds=0.05,
    )
    found = measure(settings)
    assert [(point.batch, point.context_tokens) for point in found.points] == [
        (1, 8),
        (2, 16),
        (4, 32),
        (4, 256),
    ]
    assert all(point.step_s > 0 and point.step_j is None for point in found.points)
    assert [prompt.prompt_tokens for prompt in found.prompts] == [8, 32]
    assert found.energy_method == "model"
    assert found.load_s is not None
    assert found.bare_w is None


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_the_decoder_attends_to_what_came_before() -> None:
    import torch

    from serve.profiling.torch_decoder import TorchDecoder

    class Watched(TorchDecoder):
        """Gives what it computes."""

        def continued(self, ids: list[int]) -> list[int]:
            """Compute a prompt at once, and again token by token; give the next of both."""
            with torch.inference_mode():
                whole = self._forward(torch.tensor(ids), self._cache(1, len(ids)), 0)
                cache = self._cache(1, len(ids))
                for place, each in enumerate(ids):
                    last = self._forward(torch.tensor([each]), cache, place)
            return [int(whole[0]), int(last[0])]

    torch.set_num_threads(1)
    torch.manual_seed(0)
    decoder = Watched(SHAPE, "fp32", "cpu", 64)
    answers = [decoder.continued([start, 5, 9, 200, 31]) for start in range(20)]
    # What was computed step by step is what was computed at once.
    assert all(first == second for first, second in answers)
    assert len({first for first, _ in answers}) > 1


@pytest.mark.engine
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("one_thread")
def test_the_command_writes_a_profile_for_each_precision(tmp_path: Path) -> None:
    wide = {**CONFIG, "hidden_size": 256, "intermediate_size": 1024, "vocab_size": 8192}
    (tmp_path / "config.json").write_text(json.dumps(wide))
    options = "--precision bf16 --batches 1,2,4 --context 128 --prompts 8,1024 --seconds 0.2"
    done = CliRunner().invoke(
        whole_app(),
        ["calibrate-decoder", str(tmp_path), *options.split(), "--write", str(tmp_path / "out")],
    )
    assert done.exit_code == 0, done.output
    profile = profile_file.load(tmp_path / "out" / "bf16.yaml")
    assert profile.measurement is not None
    assert profile.measurement.source == "torch decoder"
    assert "torch decoder" in profile.measured_on
    assert not profile.tells_energy
    assert {point.batch for point in profile.measurement.points} == {1, 2, 4}


@pytest.mark.engine
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("one_thread")
def test_a_process_that_dies_is_told_as_what_to_change() -> None:
    settings = DecoderSettings(SHAPE, "bf16", "no device", (1, 2), (8, 64), (8, 32), 0.05)
    with pytest.raises(ProfilingError, match="without an answer"):
        measure(settings)


def test_unknown_names_are_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for option, value in (("--precision", "int3"), ("--device", "tpu"), ("--batches", "one")):
        done = CliRunner().invoke(whole_app(), ["calibrate-decoder", str(tmp_path), option, value])
        assert isinstance(done.exception, ProfilingError)
        assert option in str(done.exception)
