"""The distribution: its top-level names are its own, its locks say what pyproject.toml asks for."""

from __future__ import annotations

import tomllib
from importlib import metadata, util
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES: list[str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


def _lock(accelerator: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / f"{accelerator}.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in requirements}


def _asked_for(accelerator: str) -> list[Requirement]:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    lines = project["dependencies"] + extras["gguf"] + extras[accelerator]
    requirements = [Requirement(line) for line in lines + PYPROJECT["dependency-groups"]["dev"]]
    return [requirement for requirement in requirements if requirement.name != "jouleserve"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_other_distribution_claims_our_names(package: str) -> None:
    """The names are plain words; two owners would overwrite each other's files."""
    owners = set(metadata.packages_distributions().get(package, []))
    assert owners <= {"jouleserve"}


@pytest.mark.parametrize("package", PACKAGES)
def test_our_names_lead_to_this_project(package: str) -> None:
    spec = util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == ROOT / package


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_the_lock_is_what_the_project_asks_for(accelerator: str) -> None:
    lock = _lock(accelerator)
    for requirement in _asked_for(accelerator):
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not locked; run: make lock"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} is locked at {version}; run: make lock"
        )


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_the_lock_names_versions_and_no_places(accelerator: str) -> None:
    """A host or a folder in it would tie the project to one network or one machine."""
    for line in (ROOT / "requirements" / f"{accelerator}.txt").read_text().splitlines():
        assert "/" not in line
        assert line.startswith("#") or line.count("==") == 1 or not line.strip()
