"""The file: every mistake with its line, its key and the known names."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.config_file import dump, load, parse_config, schema
from serve.default_config import CPU_FILE, CUDA_FILE
from serve.section_file import ConfigFileError, Mistake

if TYPE_CHECKING:
    from serve.config import Config

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
models:
  - name: m
    variants:
      - name: a
        engine: echo
        accelerator: cpu
"""


def parse(text: str) -> Config:
    return parse_config(text, file="f.yaml", directory=Path("/nowhere"))


def mistakes(text: str) -> tuple[Mistake, ...]:
    with pytest.raises(ConfigFileError) as caught:
        parse(dedent(text))
    return caught.value.mistakes


@settings(deadline=None)
@given(st.integers(0, 5), st.text(alphabet="abcdefgh", min_size=4, max_size=8))
def test_the_line_is_that_of_the_key_however_many_lines_precede_it(above: int, key: str) -> None:
    text = "# comment\n" * above + GOOD + f"{key}: 1\n"
    (mistake,) = mistakes(text)
    assert (mistake.line, mistake.key) == (above + GOOD.count("\n") + 1, key)
    assert "Known: models, service_classes, scheduler, planner, node_groups" in mistake.message


def test_what_is_dumped_is_read_back() -> None:
    config = parse(GOOD)
    assert parse(dump(config)) == config


def test_an_unknown_key_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigFileError) as caught:
        parse(GOOD + "        dtyp: bfloat16\n")
    assert str(caught.value).startswith(
        "f.yaml:7: models[0].variants[0].dtyp: unknown key; did you mean 'dtype'? Known: name, "
    )


def test_every_mistake_is_reported_at_once_in_the_order_of_lines() -> None:
    found = mistakes(
        """\
        models:
          - name: m
            variants:
              - name: a
                engine: echo
                accelerator: abacus
              - name: b
                engine: echo
                accelerator: cpu
                max_batch: many
              - name: c
                accelerator: cpu
                kv_cache_gib: 1
                checkpoint: {path: missing}
                engine_options: {no_such_option: 1, max_model_len: 5, scheduler_cls: a.B}
        gateway: {grpc_port: 8000}
        service_classes:
          fast: {ttft_s: 1}
        """
    )
    assert [(mistake.line, mistake.key) for mistake in found] == [
        (6, "models[0].variants[0].accelerator"),
        (10, "models[0].variants[1].max_batch"),
        (14, "models[0].variants[2].checkpoint"),
        *[
            (15, f"models[0].variants[2].engine_options.{name}")
            for name in ("max_model_len", "no_such_option", "scheduler_cls")
        ],
        (16, "gateway.http_port"),
        (18, "service_classes.fast.tpot_s"),
    ]
    assert "/nowhere/missing" in found[2].message
    assert "max_context_tokens" in found[3].message


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    (mistake,) = mistakes("models: 1\ngateway:\n  host: a\n  host: b\n")
    assert (mistake.line, mistake.key) == (4, "gateway.host")
    assert "first on line 3" in mistake.message


@pytest.mark.parametrize(
    ("text", "line"),
    [("models: [}", 1), ("a: 1\nb: *none\n", 2), ("- 1\n", 1), ("just words", 1), ("", 0)],
)
def test_what_is_no_configuration_at_all_is_refused_with_a_line(text: str, line: int) -> None:
    assert mistakes(text)[0].line == line


def test_an_alias_that_contains_itself_is_refused() -> None:
    assert "contains itself" in mistakes("models: &m\n  - variants: *m\n")[0].message


def test_a_missing_package_is_refused() -> None:
    text = GOOD.replace(
        "engine: echo", "kv_cache_gib: 1\n        checkpoint: {package: no-such-one}"
    )
    (mistake,) = mistakes(text)
    assert mistake.line == 6
    assert "no-such-one" in mistake.message


def test_relative_checkpoints_start_at_the_file(tmp_path: Path) -> None:
    checkpoint = tmp_path / "weights"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text("{}")
    (checkpoint / "model.safetensors").touch()
    text = GOOD.replace("engine: echo", "kv_cache_gib: 1\n        checkpoint: {path: weights}")
    file = tmp_path / "c.yaml"
    file.write_text(text)
    given_path = load(file).models[0].variants[0].checkpoint
    assert given_path is not None
    assert given_path.path == str(checkpoint)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"absent\.yaml: cannot be read"):
        load(tmp_path / "absent.yaml")


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda p: p.name)
def test_examples_are_good(file: Path) -> None:
    load(file)


@pytest.mark.parametrize("name", [CPU_FILE, CUDA_FILE])
def test_embedded_configurations_are_good(name: str) -> None:
    try:
        load(ROOT / "serve" / name)
    except ConfigFileError as error:
        # Only what is not installed on this machine may be missing.
        assert all("is installed" in mistake.message for mistake in error.mistakes)  # noqa: PT017


def test_the_schema_explains_every_key() -> None:
    for section in schema()["$defs"].values():
        for key, field in section.get("properties", {}).items():
            assert field.get("description"), key


@pytest.mark.parametrize(
    ("engine", "file", "telling"),
    [
        ("vllm", "model.gguf", "holds a GGUF file: engine llamacpp serves it"),
        ("llamacpp", "model.safetensors", "a recipe that ends in export makes one"),
        ("vllm", "model.safetensors", ""),
        ("llamacpp", "model.gguf", ""),
    ],
)
def test_an_engine_is_given_files_that_it_loads(
    tmp_path: Path, engine: str, file: str, telling: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).touch()
    cache = "kv_cache_gib: 1" if engine == "vllm" else "max_batch: 4"
    lines = f"engine: {engine}\n        {cache}\n        checkpoint: {{path: {tmp_path}}}"
    text = GOOD.replace("engine: echo", lines)
    if not telling:
        assert parse_config(text, file="c.yaml", directory=tmp_path).models
        return
    (mistake,) = mistakes(text)
    assert mistake.key == "models[0].variants[0].engine"
    assert telling in mistake.message
