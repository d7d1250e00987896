"""Read a configuration file, and say of every mistake in it on which line it is.

Its own module because YAML, line numbers and spelling suggestions concern the file and
not the values: tests, Helm and `serve.application` make the same values without one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from serve import engine_options
from serve.checkpoints import CheckpointError, check
from serve.config import Config
from serve.config_models import CheckpointConfig
from serve.profiling import profile_file
from serve.section_file import (
    ConfigFileError,
    Mistake,
    line_of,
    mistakes,
    parsed,
    read,
    spell,
)
from serve.variants import expansion

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from serve.yaml_lines import Location

# Of weights that are not GGUF.
_LOADED_BY_VLLM = frozenset({".safetensors", ".bin"})
_PROFILE_FILE = "profile_file"


def load(path: Path, *, force: bool = False) -> Config:
    """Read a configuration file and check everything that can be checked before anything starts.

    Relative checkpoint paths are taken from the file's own directory.

    Args:
        path: of the file.
        force: accept variants that their gate has refused.

    Raises:
        ConfigFileError: the file cannot be read, or holds mistakes.

    """
    text = read(path)
    return parse_config(text, file=str(path), directory=path.parent, force=force)


def parse_config(text: str, *, file: str, directory: Path, force: bool = False) -> Config:
    """Do what `load` does with a text that was read already.

    Args:
        text: YAML.
        file: what to call it in messages.
        directory: relative checkpoint paths start here.
        force: accept variants that their gate has refused.

    Raises:
        ConfigFileError: the text holds mistakes.

    """
    value, lines = parsed(text, file)
    _resolve_paths(value, directory)
    # What a file says goes before what a manifest does.
    outside = list(_profile_mistakes(value, lines))
    outside += _manifest_mistakes(value, lines, force=force)
    outside += _outside_mistakes(value, lines)
    try:
        config = Config.model_validate(value)
    except ValidationError as error:
        raise ConfigFileError(file, [*mistakes(Config, error, lines), *outside]) from error
    if outside:
        raise ConfigFileError(file, outside)
    return config


def schema() -> dict[str, Any]:
    """Give the JSON schema of a configuration file, for editors."""
    return Config.model_json_schema()


def dump(config: Config) -> str:
    """Write a configuration as YAML, every default spelt out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


# ------------------------------------------------------------------------------- what is on disk


def _resolve_paths(value: object, directory: Path) -> None:
    """Make relative paths absolute, wherever the value has the expected shape."""
    for _, variant in _variants(value):
        for checkpoint in _dicts([variant.get("checkpoint")]):
            _resolve(checkpoint, "path", directory)
        _resolve(variant, _PROFILE_FILE, directory)
    for gateway in _dicts([value.get("gateway")] if isinstance(value, dict) else []):
        _resolve(gateway, "api_keys_file", directory)


def _resolve(section: dict[str, Any], key: str, directory: Path) -> None:
    path = section.get(key)
    if isinstance(path, str) and path:
        section[key] = str((directory / Path(path).expanduser()).absolute())


def _profile_mistakes(value: object, lines: Mapping[Location, int]) -> Iterator[Mistake]:
    """Take over what files of profiles say, wherever a variant names one."""
    for location, variant in _variants(value):
        if not isinstance(variant.get(_PROFILE_FILE), str):
            continue
        path = variant.pop(_PROFILE_FILE)
        at = (*location, _PROFILE_FILE)
        if variant.get("profile") is not None:
            message = "give profile or profile_file, not both"
            yield Mistake(line_of(lines, at), spell(at), message)
            continue
        try:
            variant["profile"] = profile_file.load(Path(path)).model_dump(mode="json")
        except ConfigFileError as error:
            yield Mistake(line_of(lines, at), spell(at), str(error))


def _manifest_mistakes(
    value: object, lines: Mapping[Location, int], *, force: bool
) -> Iterator[Mistake]:
    """Take over what manifests say, wherever a variant names one."""
    for location, variant in _variants(value):
        at = (*location, expansion.KEY)
        for message in expansion.expand(variant, force=force):
            yield Mistake(line_of(lines, at), spell(at), message)


def _outside_mistakes(value: object, lines: Mapping[Location, int]) -> Iterator[Mistake]:
    """Find what refers to something that is not installed: checkpoints, engine arguments."""
    for location, variant in _variants(value):
        for key, message in (*_checkpoint_faults(variant), *_option_faults(variant)):
            at = (*location, *key)
            yield Mistake(line_of(lines, at), spell(at), message)


def _checkpoint_faults(variant: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    try:
        checkpoint = CheckpointConfig.model_validate(variant.get("checkpoint"))
        check(checkpoint.source)
        yield from _format_faults(variant.get("engine", "vllm"), checkpoint)
    except ValidationError:
        return  # It is absent, or reported with the line of its own key.
    except CheckpointError as error:
        yield ("checkpoint",), str(error)


def _format_faults(engine: object, checkpoint: CheckpointConfig) -> Iterator[tuple[Location, str]]:
    """Find engines that cannot load what a checkpoint's files hold."""
    gguf, exact = False, True
    if checkpoint.path is not None:
        directory = Path(checkpoint.path)
        gguf = any(directory.glob("*.gguf"))
        exact = any(file for file in directory.iterdir() if file.suffix in _LOADED_BY_VLLM)
    if engine == "llamacpp" and not gguf:
        yield (
            ("engine",),
            "llamacpp serves a directory with a GGUF file; a recipe that ends in export makes one",
        )
    if engine in {"vllm", "tensorrt"} and gguf and not exact:
        yield ("engine",), f"{checkpoint.path} holds a GGUF file: engine llamacpp serves it"


def _option_faults(variant: dict[str, Any]) -> Iterator[tuple[Location, str]]:
    if variant.get("engine", "vllm") != "vllm":
        return
    for options in _dicts([variant.get("engine_options")]):
        for option in options:
            if fault := engine_options.find_fault(option):
                yield ("engine_options", option), fault


def _variants(value: object) -> Iterator[tuple[Location, dict[str, Any]]]:
    """Every variant in a value that was not validated yet, with its location."""
    models = value.get("models") if isinstance(value, dict) else None
    for i, model in _numbered_dicts(models):
        for j, variant in _numbered_dicts(model.get("variants")):
            yield ("models", i, "variants", j), variant


def _numbered_dicts(value: object) -> Iterator[tuple[int, dict[str, Any]]]:
    items = value if isinstance(value, list) else []
    return ((i, item) for i, item in enumerate(items) if isinstance(item, dict))


def _dicts(value: object) -> Iterator[dict[str, Any]]:
    return (item for _, item in _numbered_dicts(value))
