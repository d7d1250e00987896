"""The images are built as the chart and the program expect them; nothing here builds one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from scripts import generate_chart

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VALUES = yaml.safe_load((ROOT / "helm" / "jouleserve" / "values.yaml").read_text())
CHART = yaml.safe_load((ROOT / "helm" / "jouleserve" / "Chart.yaml").read_text())
FILES = sorted((ROOT / "images").glob("*.Dockerfile"))
# Those that serve; compression is made of one of them.
SERVING = [file for file in FILES if file.stem != "compress"]
LOCKED = re.compile(r"requirements/[\w-]+\.txt")
WEIGHTS = re.compile(r"safetensors|\.gguf|demo-model|hf download|huggingface-cli|snapshot_download")


@dataclass(frozen=True)
class Stage:
    base: str
    name: str
    steps: tuple[tuple[str, str], ...]

    def last(self, instruction: str) -> str:
        return [text for name, text in self.steps if name == instruction][-1]

    @property
    def environment(self) -> dict[str, str]:
        given = " ".join(text for name, text in self.steps if name == "ENV")
        return dict(pair.split("=", 1) for pair in given.split())


def stages(file: Path) -> list[Stage]:
    """Read a Dockerfile; in bases, arguments stand for their defaults."""
    lines = [line for line in file.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in filter(None, joined.splitlines()):
        instruction, _, text = line.partition(" ")
        if instruction == "ARG" and not found:
            name, _, arguments[name] = text.partition("=")
        elif instruction == "FROM":
            base, _, name = text.partition(" AS ")
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], base)
            found.append(Stage(base, name, ()))
        else:
            before = found[-1]
            found[-1] = Stage(before.base, before.name, (*before.steps, (instruction, text)))
    return found


def test_the_linter_is_content() -> None:
    beside = Path(sys.executable).with_name("hadolint")
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: make setup")
    done = subprocess.run([program, *FILES], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_bases_have_a_version(file: Path) -> None:
    known: set[str] = set()
    for stage in stages(file):
        image, _, tag = stage.base.partition("@")[0].rpartition(":")
        assert stage.base in known or (image and re.search(r"\d", tag)), stage.base
        assert "latest" not in tag
        known.add(stage.name)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_who_it_runs_as_is_who_the_chart_says(file: Path) -> None:
    user, _, group = stages(file)[-1].last("USER").partition(":")
    assert int(user) == VALUES["podSecurityContext"]["runAsUser"] > 0
    assert int(group) == VALUES["podSecurityContext"]["runAsGroup"] > 0
    assert VALUES["podSecurityContext"]["fsGroup"] == int(group)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_weights_are_in_it(file: Path) -> None:
    for stage in stages(file):
        for _, text in stage.steps:
            assert not WEIGHTS.search(text), text


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_copied_is_there_and_is_used(file: Path) -> None:
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    for stage in stages(file):
        copied = [text for name, text in stage.steps if name == "COPY" and "--from" not in text]
        sources = [word for text in copied for word in text.split()[:-1] if word[0] != "-"]
        run = " ".join(text for name, text in stage.steps if name == "RUN")
        for source in sources:
            assert (ROOT / source).exists(), source
            places = {f"!{place}" for place in (source, source.split("/")[0])}
            assert source == "." or places & set(let_through), source
        assert set(LOCKED.findall(run)) == set(LOCKED.findall(" ".join(sources)))


@pytest.mark.parametrize("file", SERVING, ids=lambda file: file.stem)
def test_python_and_packages_are_those_of_the_lock(file: Path) -> None:
    build, final = stages(file)
    version = PYPROJECT["project"]["requires-python"].removeprefix(">=")
    assert f"--python-version {version}" in (ROOT / "Makefile").read_text()
    for stage in (build, final):
        assert re.match(rf"python:{re.escape(version)}\.\d+-", stage.base)
    run = " ".join(text for name, text in build.steps if name == "RUN")
    assert f"--constraints requirements/{file.stem}.txt" in run
    assert f"--extra {file.stem} " in run


@pytest.mark.parametrize("file", SERVING, ids=lambda file: file.stem)
def test_places_are_those_of_the_chart(file: Path) -> None:
    environment = stages(file)[-1].environment
    pod = (ROOT / "helm" / "jouleserve" / "templates" / "_pod.tpl").read_text()
    assert f"mountPath: {environment['JOULESERVE_CACHE']}}}" in pod
    told = dict(re.findall(r'"([A-Z_]+)" "(/\w+|)"', pod))
    assert told
    for name, place in told.items():
        assert environment[name] == environment["JOULESERVE_CACHE"] + place
    assert environment["PATH"].split(":")[0] == str(Path(generate_chart.PROGRAM).parent)


def test_names_and_versions_agree() -> None:
    version = PYPROJECT["project"]["version"]
    base = stages(ROOT / "images" / "compress.Dockerfile")[-1].base
    assert base == f"{VALUES['image']['repository']}:{version}-cpu"
    assert CHART["appVersion"] == version
    for file in SERVING:
        assert ("ARG", f"VERSION={version}") in stages(file)[-1].steps


def test_compression_sees_what_the_image_has_and_what_the_volume_keeps(tmp_path: Path) -> None:
    volume, program = tmp_path / "volume", tmp_path / "jouleserve"
    program.write_text('#!/bin/bash\necho "$@"; cd "$JOULESERVE_CACHE"; readlink -- *\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / "images" / "compress.sh", "build", "a recipe"],
        check=True,
        capture_output=True,
        text=True,
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "JOULESERVE_CACHE": str(volume),
            "TMPDIR": str(tmp_path),
        },
    )
    told, *links = done.stdout.splitlines()
    assert told == "variants build a recipe"
    place = "/opt/compression"
    final = stages(ROOT / "images" / "compress.Dockerfile")[-1]
    assert ("COPY", f"--from=build {place} {place}") in final.steps
    assert set(links) == {f"{place}/environments", f"{volume}/checkpoints", f"{volume}/variants"}
