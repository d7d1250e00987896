"""The real helm, or none of these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART = Path(__file__).parents[2] / "helm" / "jouleserve"
# What the cluster of an example has.
APIS = ("ray.io/v1", "monitoring.coreos.com/v1", "gateway.networking.k8s.io/v1")
LIMIT_S = 30.0


@dataclass(frozen=True)
class Rendered:
    """What helm has made of values.

    Attributes:
        objects: in the order in which they stand.
        refusal: what it says instead; empty if it has rendered.

    """

    objects: tuple[dict[str, Any], ...]
    refusal: str = ""

    def one(self, kind: str) -> dict[str, Any]:
        (found,) = (each for each in self.objects if each["kind"] == kind)
        return found


class Helm:
    """The binary."""

    def __init__(self, program: str, place: Path) -> None:
        self._program = program
        self._place = place

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._program, *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env={**os.environ, "HELM_CACHE_HOME": str(self._place)},
        )

    def template(
        self, values: Mapping[str, Any] | Path, *, apis: tuple[str, ...] = APIS, name: str = "demo"
    ) -> Rendered:
        """Render the chart with values over its defaults."""
        if isinstance(values, Path):
            file = values
        else:
            file = self._place / "values.yaml"
            file.write_text(yaml.safe_dump(dict(values)), encoding="utf-8")
        given = [option for api in apis for option in ("--api-versions", api)]
        done = self.run("template", name, str(CHART), "-f", str(file), *given)
        if done.returncode:
            return Rendered((), done.stderr.strip())
        return Rendered(tuple(each for each in yaml.safe_load_all(done.stdout) if each))


def helm_program() -> str:
    """Find the binary that HELM names, of the machine, or beside this Python; skip without."""
    beside = Path(sys.executable).with_name("helm")
    program = os.environ.get("HELM") or shutil.which("helm")
    if program is None and not beside.is_file():
        pytest.skip("helm is not installed; HELM names its binary")
    return program or str(beside)


@pytest.fixture
def helm(tmp_path: Path) -> Helm:
    return Helm(helm_program(), tmp_path)
