"""What `helm test` runs in its pod, run here against the cluster."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.chart.conftest import Helm, helm
from tests.cluster.live_cluster import PATIENCE_S, PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.live_cluster import LiveCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

__all__ = ["helm"]


def values(model: str) -> dict[str, Any]:
    variants = [{"name": "e", "engine": "echo", "accelerator": "cpu"}]
    nodes = {"name": "cpu", "accelerator": "cpu", "accelerators_per_node": 4, "max_nodes": 1}
    nodes |= {"node_labels": {"kubernetes.io/os": ["linux"]}}
    return {
        "config": {"models": [{"name": model, "variants": variants}], "node_groups": [nodes]},
        "tests": {"timeoutSeconds": round(PATIENCE_S)},
    }


@pytest.mark.parametrize("model", ["echo", "nobody"])
async def test_the_charts_test_asks_and_fails_if_it_is_not_answered(
    cluster: LiveCluster, helm: Helm, tmp_path: Path, model: str
) -> None:
    (container,) = helm.template(values(model)).one("Pod")["spec"]["containers"]
    (script,) = container["args"]
    program = tmp_path / "jouleserve"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m serve.cli "$@"\n')
    program.chmod(0o755)
    asking = await asyncio.create_subprocess_exec(
        *container["command"],
        script.replace("demo-jouleserve.default:9000", cluster.address),
        cwd=PROJECT,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(asking.communicate(), PATIENCE_S)
    assert (asking.returncode == 0) == (model == "echo"), said.decode()
